"""Size and sha256 of what is read."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from loradock.artifacts.protocol import Progress, Reader

CHUNK: Final = 1024 * 1024
"""Bytes per read. Smaller ones cost more in switches between threads than they save in the processor's cache."""


@dataclass(frozen=True, slots=True)
class Copied:
    """What really went through."""

    size: int
    sha256: str


def hash_stream(reader: Reader, progress: Progress, *, limit: int) -> Copied:
    """Read to the end and hash.

    Args:
        limit: stop after the chunk that exceeds so many bytes; the caller sees the size and refuses.

    Raises:
        LoradockError: what the reader raises.
    """
    digest, size = hashlib.sha256(), 0
    buffer = memoryview(bytearray(CHUNK))
    while size <= limit and (count := reader.readinto(buffer)):
        digest.update(buffer[:count])
        size += count
        progress.advance(count)
    return Copied(size, digest.hexdigest())


def hash_file(path: Path, progress: Progress, *, limit: int) -> Copied:
    """Hash a local file of our own.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb", buffering=0) as file:
        return hash_stream(file, progress, limit=limit)
