"""Upload sessions: what the API needs of the place where uploaded bytes wait for their publish.

The API imports no artifacts and no store: its process is given an `UploadPlace` (`loradock.artifacts.build`).
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from enum import StrEnum
from typing import Final, Protocol

from pydantic import Field

from loradock.core.models import Digest, ManifestFile, Model

MAX_UPLOAD_FILES: Final = 100
"""Files that one session may declare: an adapter needs far fewer."""
MOST_PARTS_AT_ONCE: Final = 100
"""Addresses that one call may ask for."""


class UploadState(StrEnum):
    """Where an upload session stands."""

    OPEN = "open"
    """Bytes may come in."""
    COMPLETE = "complete"
    """All are there; nothing can be changed any more."""
    PUBLISHING = "publishing"
    """A publish reads it, or has read it."""
    ENDED = "ended"
    """Its bytes are removed."""


class UploadTransfer(StrEnum):
    """How the bytes of a session travel."""

    PARTS = "parts"
    """Straight to the object store, part by part, by addresses that the API signs."""
    STREAM = "stream"
    """To the API, file by file, from any offset on that is there already."""


class FileParts(Model):
    """How a file is cut into parts: all of `part_bytes` but the last.

    Attributes:
        part_bytes: of every part but the last.
    """

    size: int = Field(ge=0)
    part_bytes: int = Field(ge=1)

    @property
    def count(self) -> int:
        """How many there are; none of an empty file."""
        return -(-self.size // self.part_bytes)

    def size_of(self, number: int) -> int:
        """Bytes of one part, counted from 1."""
        return min(self.part_bytes, self.size - (number - 1) * self.part_bytes)


class DeclaredUpload(Model):
    """What declared files are.

    Attributes:
        digest: of the artifact.
        beside: paths that are no part of the artifact and travel with it: its signature.
    """

    digest: Digest
    beside: tuple[str, ...] = ()


class ReceivedFile(Model):
    """How much of a file is there.

    Attributes:
        received: bytes; with `parts`, of all of them together.
        complete: the file is there as a whole.
        part_bytes: of every part but the last; 0 where there are none.
        parts: numbers of those that are there, from 1.
    """

    received: int = Field(ge=0)
    complete: bool
    part_bytes: int = 0
    parts: tuple[int, ...] = ()


class PartAddress(Model):
    """Where one part is sent, by PUT and without any token.

    Attributes:
        url: holds a signature: whoever has it may send these bytes, until it expires. Never logged, never kept.
        size: bytes that must be sent, neither more nor less.
    """

    number: int
    url: str = Field(repr=False)
    size: int


class UploadWriter(Protocol):
    """Takes the rest of one file, hashing it."""

    def write(self, data: bytes) -> None:
        """Take the next bytes.

        Raises:
            LoradockError: `upload_mismatch` for more bytes than declared; `store_unavailable`, `disk_full`.
        """

    def finish(self) -> int:
        """Say that no more comes now. With the last byte the file is there, if it has the declared hash.

        Returns:
            Bytes that are there.

        Raises:
            LoradockError: `upload_mismatch`: nothing is kept of it then.
        """


class UploadPlace(Protocol):
    """Where uploaded bytes wait for their publish. All calls block.

    Raises (every method but `check`):
        LoradockError: `store_unavailable`, `store_denied`.
    """

    @property
    def transfer(self) -> UploadTransfer:
        """How bytes come here."""

    def check(self, files: Sequence[ManifestFile]) -> DeclaredUpload:
        """What the declared files are.

        Raises:
            LoradockError: `upload_not_taken`, `source_too_large`, `weights_missing`, `config_missing`.
        """

    def begin(self, session: str, files: Sequence[ManifestFile]) -> dict[str, str]:
        """Prepare for the files; what is given back is kept with the session, and given to the other calls."""

    def forget(self, session: str, begun: Mapping[str, str]) -> None:
        """Take back a `begin` that another one came before."""

    def received(
        self, session: str, files: Sequence[ManifestFile], begun: Mapping[str, str]
    ) -> list[ReceivedFile]:
        """How much of each file is there."""

    def part_addresses(
        self, session: str, file: ManifestFile, begun: Mapping[str, str], numbers: Sequence[int]
    ) -> list[PartAddress]:
        """Addresses for some parts of a file, valid for minutes. No request is made for it.

        Raises:
            LoradockError: `invalid_request` for parts that the file does not have, or where nothing goes by parts.
        """

    def writer(self, session: str, file: ManifestFile, offset: int) -> AbstractContextManager[UploadWriter]:
        """Take a file from an offset on.

        Raises:
            LoradockError: `upload_busy` when that is not where what is there ends, or somebody else sends it now;
                `invalid_request` where nothing is streamed.
        """

    def complete(self, session: str, files: Sequence[ManifestFile], begun: Mapping[str, str]) -> None:
        """Make whole files of what came. Repeatable. Sizes are checked here; hashes by the publish, for every byte.

        Raises:
            LoradockError: `upload_incomplete`.
        """
