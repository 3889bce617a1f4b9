"""Room that is promised to a download while it goes on, so that two which fit alone do not overfill the disk together.

A promise is a file with a number of bytes, locked by who downloads: it ends with its process, whatever ends that.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def promise(path: Path, size: int) -> Iterator[None]:
    """Hold a promise of `size` bytes in all. Of one path's promises only one is held at a time: the caller sees to it.

    Raises:
        OSError: the file cannot be written.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o644)
    try:
        # Shared among processes that only look, for a moment.
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        os.write(descriptor, str(size).encode())
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(descriptor)


def promised(path: Path) -> int:
    """The bytes that are promised here now: 0 without a promise, and when its process is dead."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError:
        return 0
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _number(os.read(descriptor, 32))
    else:
        return 0
    finally:
        os.close(descriptor)


def _number(text: bytes) -> int:
    return int(text) if text.isdigit() else 0
