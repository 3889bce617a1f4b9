"""The one loop that every byte goes through: read, hash beside, write."""

import hashlib
import os
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Final

from loradock.artifacts.disk import create_file, disk_errors
from loradock.artifacts.protocol import Progress, Reader

CHUNK: Final = 1024 * 1024
"""Bytes per read: large enough for speed, small enough that a slow stream is still asked to stop every second."""


@dataclass(frozen=True, slots=True)
class Copied:
    """What really went through."""

    size: int
    sha256: str


def hash_stream(reader: Reader, progress: Progress, *, limit: int, descriptor: int | None = None) -> Copied:
    """Read to the end, hashing in a second thread while the next chunk arrives.

    Args:
        limit: stop after the chunk that exceeds so many bytes; the caller sees the size and refuses.
        descriptor: where the bytes are written, nowhere when None.

    Raises:
        LoradockError: `disk_full`, `disk_error`, or what the reader raises.
    """
    digest = hashlib.sha256()
    size = 0
    pending: Future[None] | None = None
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="sha256") as hasher:
        for buffer in cycle((memoryview(bytearray(CHUNK)), memoryview(bytearray(CHUNK)))):
            count = reader.readinto(buffer)
            if pending is not None:
                pending.result()
            if count == 0 or size > limit:
                break
            chunk = buffer[:count]
            pending = hasher.submit(digest.update, chunk)
            if descriptor is not None:
                _write(descriptor, chunk)
            size += count
            progress.advance(count)
    return Copied(size, digest.hexdigest())


def download(reader: Reader, path: Path, progress: Progress, *, limit: int) -> Copied:
    """Write a stream to a new file and make it durable; an incomplete file is left to the caller.

    Raises:
        LoradockError: `disk_full`, `disk_error`, or what the reader raises.
    """
    with disk_errors("writing an adapter's file"):
        descriptor = create_file(path)
    try:
        copied = hash_stream(reader, progress, limit=limit, descriptor=descriptor)
        with disk_errors("writing an adapter's file"):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
    return copied


def hash_file(path: Path, progress: Progress, *, limit: int) -> Copied:
    """Hash a local file of our own.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb", buffering=0) as file:
        return hash_stream(file, progress, limit=limit)


def _write(descriptor: int, data: memoryview) -> None:
    with disk_errors("writing an adapter's file"):
        while data:
            data = data[os.write(descriptor, data) :]
