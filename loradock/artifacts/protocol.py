"""What a source of adapters and an object store must do. Every implementation passes one contract test-suite.

All calls block: activities run them in threads. A transfer is cancelled through its `Progress`, which is called for
every chunk and may raise; what it raises passes through untouched.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol, runtime_checkable

UPLOADS: Final = "uploads/"
"""Where uploads lie in an object store: unfinished ones there belong to their sessions, not to killed writers."""


OnRetry = Callable[[str], None]
"""Told the code of each read that broke off and is tried again, within one transfer."""


class Progress(Protocol):
    """Told of every chunk that was moved or hashed; the place to heartbeat and to cancel."""

    def advance(self, size: int) -> None:
        """Count `size` more bytes (0 while waiting for a lock).

        What this raises ends the transfer; no OSError, which would be taken for the disk's.
        """


@runtime_checkable
class KnowsTotal(Protocol):
    """A progress that likes to know how many bytes there will be in all."""

    def expect(self, total: int) -> None:
        """Note how many bytes all will be; the last word counts."""


def expect_total(progress: Progress, total: int) -> None:
    """Tell a progress how many bytes there will be, if it likes to know."""
    if isinstance(progress, KnowsTotal):
        progress.expect(total)


class NoProgress:
    """Nobody listens."""

    def advance(self, size: int) -> None:
        """Do nothing."""


class Reader(Protocol):
    """A stream of bytes that fills the caller's buffer, so that no copy is made."""

    def readinto(self, buffer: memoryview, /) -> int:
        """Fill `buffer` from its start and return how many bytes were written into it; 0 only at the end.

        Raises:
            LoradockError: the stream broke off, ended early, or its content changed meanwhile.
        """


@dataclass(frozen=True, slots=True)
class SourceFile:
    """One file of a source as it was when it was listed.

    Attributes:
        path: relative to the source's address, forward slashes, already checked by `check_relative_path`.
        size: bytes.
        identity: changes when the content changes (ETag; inode and times). Opaque: only compared.
    """

    path: str
    size: int
    identity: str


class Source(Protocol):
    """A kind of place that adapters are published from. One instance serves all addresses of its scheme.

    An address names a folder. Each call checks the address and the service's permission for it: a source is never
    reached that policy does not allow.

    Raises (every method):
        LoradockError: `invalid_source_uri`, `source_not_allowed`, `source_not_found`, `source_denied`,
            `source_unavailable` (worth trying again). Messages never repeat credentials.
    """

    def exists(self, uri: str) -> bool:
        """Whether there is something to list; False instead of `source_not_found`."""

    def list(self, uri: str, progress: Progress | None = None) -> list[SourceFile]:
        """All files below the address, sorted by path; nothing is read yet where that can be avoided.

        Args:
            progress: asked (with 0) several times a second while the source waits, so that it can be cancelled; a
                source that never waits long need not.

        Raises:
            LoradockError: also `source_too_large` (more files than allowed), and `source_not_allowed` for a file
                that leads out of the folder or is no plain file.
        """

    def fetch(
        self, uri: str, file: SourceFile, progress: Progress | None = None
    ) -> AbstractContextManager[Reader]:
        """Open one listed file.

        The reader gives exactly `file.size` bytes of the content that `file.identity` names. What can heal (a body
        that stalls or breaks off) is tried again inside, from where it was.

        Args:
            progress: as for `list`; bytes are counted by the caller, not here.

        Raises:
            LoradockError: also `source_changed`, at opening or while reading.
        """


@runtime_checkable
class KeepsCopies(Protocol):
    """A source that has to copy a whole address before it can give one file of it (an archive)."""

    def forget(self, uri: str) -> None:
        """The caller is done with this address; what was copied for it may go. Fine when there is nothing."""


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """What a store knows of an object without reading it.

    Attributes:
        size: bytes.
        sha256: 64 hex digits as noted when it was put, None when the store keeps no such note.
    """

    key: str
    size: int
    sha256: str | None = None


class ObjectStore(Protocol):
    """Named blobs. Keys are relative paths; an object is seen whole or not at all.

    Raises (every method):
        LoradockError: `store_unavailable` (worth trying again), `store_denied`.
    """

    def put_if_absent(self, key: str, data: bytes) -> bool:
        """Write a small object, checksummed, only when there is none: of many writers at once exactly one wins.

        Returns:
            False when an object was there already; it is untouched.
        """

    def put_file(self, key: str, path: Path, *, size: int, sha256: str, progress: Progress) -> None:
        """Write an object of any size from a local file, replacing what was there; memory stays bounded.

        The bytes are hashed on their way and nothing becomes visible unless they have this size and hash.

        Raises:
            LoradockError: also `artifact_corrupt` when the local file is not what was announced.
        """

    def open(self, key: str, *, start: int = 0, length: int | None = None) -> AbstractContextManager[Reader]:
        """Read an object as it is now, or a range of it.

        A reader may have a method `cancel()`, which another thread calls to break off a read that waits.

        Args:
            start: first byte; below the object's size unless both are 0.
            length: bytes at most; None is to the end.

        Raises:
            LoradockError: also `artifact_missing`.
        """

    def head(self, key: str) -> ObjectInfo | None:
        """What is known of the object, None when there is none."""

    def delete(self, key: str) -> None:
        """Remove the object; fine when there is none."""

    def sweep(self, older_than_seconds: float) -> "list[str]":
        """Remove what killed writers left unfinished for so long, except uploads'; returns a name for each."""

    def unfinished(self, prefix: str) -> Iterator[str]:
        """Keys below `prefix` of which something unfinished is there, be it in the middle of being written."""

    def abandon(self, prefix: str) -> None:
        """Remove all that is unfinished below `prefix`; who writes there fails."""

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """All objects whose key begins with `prefix`, by key; `prefix` is empty or ends with a slash."""
