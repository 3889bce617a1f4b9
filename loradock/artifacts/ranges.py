"""What of a file on its way is there, and which ranges of it are still to come."""

import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from loradock.artifacts.disk import create_file

RESUME_ALIGNMENT: Final = 1024 * 1024


@dataclass(slots=True)
class Range:
    """A part of a file: bytes before `at` are written.

    Attributes:
        last: reads to the end of the stream, which may lie elsewhere than announced.
    """

    at: int
    end: int
    last: bool = False


def ranges_between(start: int, size: int, *, parts: int, part_bytes: int) -> list[Range]:
    """What is to be fetched from `start` on, in order; one range when there is no use for several at once."""
    if start == size > 0:
        return []
    if parts == 1 or size - start <= part_bytes:
        return [Range(start, size, last=True)]
    begins = range(start, size, part_bytes)
    return [Range(begin, min(begin + part_bytes, size)) for begin in begins]


def reopen(path: Path, size: int) -> tuple[int, int]:
    """A file, open to be filled, and how much of its beginning an earlier try wrote."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o644)
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1 or not 0 < status.st_size <= size:
        os.close(descriptor)
        path.unlink()
        return create_file(path), 0
    try:
        # Ranges are written side by side: up to the first hole all was. Its block may be half full.
        written = os.lseek(descriptor, 0, os.SEEK_HOLE)
    except OSError:
        written = 0
    start = written if written == size else max(0, written - 1) // RESUME_ALIGNMENT * RESUME_ALIGNMENT
    os.ftruncate(descriptor, start)
    return descriptor, start
