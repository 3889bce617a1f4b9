"""Durable writes, locks that die with their holder, and temporary folders that can be told from living ones."""

import errno
import fcntl
import os
import secrets
import shutil
import stat
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Final

from loradock.artifacts.protocol import NoProgress, Progress
from loradock.core.errors import LoradockError

LOCK_POLL_SECONDS: Final = 0.02
TEMPORARY_PREFIX: Final = ".tmp-"

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_DENIED = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})


@contextmanager
def disk_errors(what: str, *, denied: str = "disk_error", other: str = "disk_error") -> Iterator[None]:
    """Turn what the local disk says into our errors: `disk_full`, or the codes given.

    Args:
        denied: the code for missing permission.
        other: the code for everything else.

    Raises:
        LoradockError: see above.
    """
    try:
        yield
    except OSError as error:
        code = "disk_full" if error.errno in _FULL else denied if error.errno in _DENIED else other
        raise LoradockError(code, f"{what}: {error.strerror or type(error).__name__}") from error


def sync_folder(path: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(path: Path) -> None:
    """Make the names in a folder and in all folders below it durable."""
    for folder, _, _ in os.walk(path):
        sync_folder(Path(folder))


def create_file(path: Path) -> int:
    """Open a new file to write and read back, making its folders; the descriptor is the caller's to close."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o644)


def open_plain(path: Path) -> BinaryIO:
    """Open a plain file for reading, following no link and waiting for nobody.

    Raises:
        OSError: it cannot be opened or is something else.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a plain file")
    return os.fdopen(descriptor, "rb")


def write_durably(path: Path, data: bytes) -> None:
    """Write a file whole or not at all, replacing what was there. Its writers hold a lock among themselves."""
    new = unwritten(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with new.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)
    sync_folder(path.parent)


def write_whole(path: Path, data: bytes) -> None:
    """As `write_durably`, but a power cut may lose or spoil it."""
    new = unwritten(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    new.write_bytes(data)
    new.replace(path)


def remove_written(path: Path) -> None:
    """Remove what `write_durably` wrote, and what a killed one left; fine when there is nothing."""
    path.unlink(missing_ok=True)
    unwritten(path).unlink(missing_ok=True)


def unwritten(path: Path) -> Path:
    """Where `write_durably` writes before it replaces."""
    # One name, not a random one: what a kill leaves is overwritten by the next write.
    return path.with_name(f"{path.name}.new")


@contextmanager
def file_lock(path: Path, *, shared: bool = False, progress: Progress | None = None) -> Iterator[None]:
    """Hold the lock that `path` stands for, among threads and processes; a killed holder frees it.

    The file may be unlinked by whoever holds the lock exclusively.

    Args:
        progress: asked while waiting, so that a wait can be cancelled.
    """
    descriptor = _locked(path, fcntl.LOCK_SH if shared else fcntl.LOCK_EX, progress or NoProgress())
    try:
        yield
    finally:
        os.close(descriptor)


@contextmanager
def passing_file_lock(path: Path, *, progress: Progress | None = None) -> Iterator[None]:
    """As `file_lock`, and its file is there only as long as somebody holds it; a killed holder's stays until the next."""
    with file_lock(path, progress=progress):
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def sweep_locks(paths: Iterable[Path]) -> None:
    """Remove the files of `passing_file_lock` that killed holders left."""
    for path in paths:
        with suppress(OSError), try_file_lock(path) as held:
            if held:
                path.unlink(missing_ok=True)


@contextmanager
def try_file_lock(path: Path) -> Iterator[bool]:
    """Hold the lock if nobody else does; yields whether it is held."""
    descriptor = _open_lock(path)
    try:
        yield _try_lock(descriptor, fcntl.LOCK_EX) and _is_at(descriptor, path)
    finally:
        os.close(descriptor)


def _locked(path: Path, mode: int, progress: Progress) -> int:
    while True:
        descriptor = _open_lock(path)
        try:
            while not _try_lock(descriptor, mode):
                progress.advance(0)
                time.sleep(LOCK_POLL_SECONDS)
            if _is_at(descriptor, path):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # its last holder removed it: everybody meets at the new file


def _open_lock(path: Path) -> int:
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError):  # the folder was removed just now
            return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)


def _try_lock(descriptor: int, mode: int) -> bool:
    try:
        fcntl.flock(descriptor, mode | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat(follow_symlinks=False))
    except FileNotFoundError:
        return False


@contextmanager
def temporary_folder(parent: Path) -> Iterator[Path]:
    """A folder of our own, locked while we live, removed at the end unless it was moved away."""
    parent.mkdir(parents=True, exist_ok=True)
    while True:
        path = parent / f"{TEMPORARY_PREFIX}{secrets.token_hex(8)}"
        path.mkdir()
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:  # swept between the two lines
            continue
        if _try_lock(descriptor, fcntl.LOCK_EX) and _is_at(descriptor, path):
            break
        os.close(descriptor)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
        os.close(descriptor)


def sweep_temporary(parent: Path) -> list[Path]:
    """Remove the temporary folders whose process is dead.

    Returns:
        What was removed.
    """
    swept = []
    for path in sorted(parent.glob(f"{TEMPORARY_PREFIX}*")):
        with suppress(OSError):
            if _remove_unlocked(path):
                swept.append(path)
    return swept


def _remove_unlocked(path: Path) -> bool:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        free = _try_lock(descriptor, fcntl.LOCK_EX)
        if free:
            shutil.rmtree(path)
        return free
    finally:
        os.close(descriptor)
