"""What staging needs to know of signatures: the file they lie in, and who judges it. Needs no package of the extra."""

import hashlib
from dataclasses import dataclass
from typing import Final, Protocol

from loradock.artifacts.manifest import Selection
from loradock.artifacts.protocol import Progress, Source
from loradock.core.errors import LoradockError
from loradock.core.models import Manifest
from loradock.core.signatures import SignatureVerdict

MAX_BUNDLE_BYTES: Final = 1024 * 1024


@dataclass(frozen=True, slots=True)
class SignatureFile:
    """The bundle that lies beside an adapter's files.

    Attributes:
        size: bytes.
        data: all of them; empty when they are more than `MAX_BUNDLE_BYTES`.
    """

    size: int
    data: bytes

    @property
    def fingerprint(self) -> str | None:
        """`sha256:…` of its bytes, None when they were not read."""
        return f"sha256:{hashlib.sha256(self.data).hexdigest()}" if self.data else None


class SignatureCheck(Protocol):
    """Judges the signature of one adapter; the same instance may be asked by many threads."""

    def __call__(self, found: SignatureFile | None, manifest: Manifest) -> SignatureVerdict:
        """Judge whether the signature covers exactly these files.

        Args:
            found: None when there is none.

        Raises:
            LoradockError: the policy refuses what was found.
        """


def fetch_signature(
    source: Source, uri: str, selection: Selection, progress: Progress | None = None
) -> SignatureFile | None:
    """Read the signature that lies beside an adapter; one that is too large is not read.

    Returns:
        None when there is none.

    Raises:
        LoradockError: what the source raises; `source_changed`.
    """
    file = selection.signature
    if file is None or file.size > MAX_BUNDLE_BYTES:
        return None if file is None else SignatureFile(file.size, b"")
    data = bytearray(file.size)
    rest = memoryview(data)
    with source.fetch(uri, file, progress) as reader:
        while rest and (count := reader.readinto(rest)):
            rest = rest[count:]
    if rest:
        raise LoradockError("source_changed", f"{file.path!r} has another size than a moment ago")
    return SignatureFile(file.size, bytes(data))
