"""An object store in a local folder: no server, the same rules."""

import os
import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from io import FileIO
from pathlib import Path
from typing import Final

from loradock.artifacts.disk import (
    TEMPORARY_PREFIX,
    disk_errors,
    sweep_temporary,
    sync_folder,
    temporary_folder,
)
from loradock.artifacts.paths import check_relative_path
from loradock.artifacts.protocol import ObjectInfo, Progress, Reader
from loradock.artifacts.transfer import download
from loradock.core.errors import LoradockError

_TEMPORARY: Final = ".incoming"
_PARTIAL: Final = f"{_TEMPORARY}/partial"
"""Files that come in several tries, by their keys."""


class FolderStore:
    """Objects as files below a folder.

    Args:
        root: made at the first write.
    """

    def __init__(self, root: Path) -> None:
        self._root = root

    def put_if_absent(self, key: str, data: bytes) -> bool:
        """As `ObjectStore.put_if_absent`: a hard link fails when the name is taken."""
        target = self._path(key)
        with _store_errors("writing to the folder store"), self._temporary() as folder:
            temporary = folder / "object"
            with temporary.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            self._make_folders(target.parent)
            try:
                target.hardlink_to(temporary)
            except FileExistsError:
                return False
            sync_folder(target.parent)
            return True

    def put_file(self, key: str, path: Path, *, size: int, sha256: str, progress: Progress) -> None:
        """As `ObjectStore.put_file`."""
        target = self._path(key)
        with disk_errors("reading a staged file"):
            file = path.open("rb", buffering=0)
        with file, _store_errors("writing to the folder store"), self._temporary() as folder:
            temporary = folder / "object"
            copied = download(file, temporary, progress, limit=size)
            if (copied.size, copied.sha256) != (size, sha256):
                raise LoradockError("artifact_corrupt", f"{path.name} is not what was announced")
            self._make_folders(target.parent)
            temporary.replace(target)
            sync_folder(target.parent)

    @contextmanager
    def open(self, key: str, *, start: int = 0, length: int | None = None) -> Iterator[Reader]:
        """As `ObjectStore.open`."""
        target = self._path(key)
        with _store_errors("reading the folder store"):
            try:
                file = target.open("rb", buffering=0)
            except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
                raise LoradockError("artifact_missing", f"{key} is not in the folder store") from None
        with file:
            file.seek(start)
            yield _FileReader(file, length)

    def head(self, key: str) -> ObjectInfo | None:
        """As `ObjectStore.head`; a folder keeps no hashes."""
        target = self._path(key)
        with _store_errors("reading the folder store"):
            try:
                status = target.stat()
            except (FileNotFoundError, NotADirectoryError):
                return None
            return ObjectInfo(key, status.st_size) if target.is_file() else None

    def local_path(self, key: str) -> Path:
        """Where an object lies on the disk."""
        return self._path(key)

    def delete(self, key: str) -> None:
        """As `ObjectStore.delete`; folders that become empty go too."""
        target = self._path(key)
        with _store_errors("deleting from the folder store"):
            try:
                target.unlink()
            except (FileNotFoundError, NotADirectoryError):
                return
            for folder in target.parents:
                if folder == self._root:
                    return
                try:
                    folder.rmdir()
                except OSError:  # not empty
                    return

    def sweep(self, older_than_seconds: float) -> "list[str]":
        """As `ObjectStore.sweep`: a dead writer is known by its lock, so nothing need be old."""
        del older_than_seconds
        return [path.name for path in sweep_temporary(self._root / _TEMPORARY)]

    def unfinished(self, prefix: str) -> Iterator[str]:
        """As `ObjectStore.unfinished`."""
        root = self._root / _PARTIAL
        with _store_errors("reading the folder store"):
            for path in sorted((root / _checked(prefix.rstrip("/"))).rglob("*")):
                if path.is_file():
                    yield path.relative_to(root).as_posix()

    def abandon(self, prefix: str) -> None:
        """As `ObjectStore.abandon`."""
        with _store_errors("deleting from the folder store"):
            folder = self._root / _PARTIAL / _checked(prefix.rstrip("/"))
            if folder.is_dir():
                shutil.rmtree(folder)

    def partial_path(self, key: str) -> Path:
        """Where an object lies that comes in several tries, until `adopt_partial`."""
        return self._root / _PARTIAL / _checked(key)

    def adopt_partial(self, key: str) -> None:
        """Make an object of what came in several tries; it is on the disk already.

        Raises:
            LoradockError: `store_unavailable`.
        """
        target = self._path(key)
        with _store_errors("writing to the folder store"):
            self._make_folders(target.parent)
            self.partial_path(key).replace(target)
            sync_folder(target.parent)

    @contextmanager
    def _temporary(self) -> Iterator[Path]:
        with temporary_folder(self._root / _TEMPORARY) as folder:
            yield folder

    def _path(self, key: str) -> Path:
        return self._root / _checked(key)

    def _make_folders(self, folder: Path) -> None:
        missing = [folder, *folder.parents][: len(folder.relative_to(self._root).parts)]
        folder.mkdir(parents=True, exist_ok=True)
        for made in missing:
            sync_folder(made.parent)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """As `ObjectStore.list`."""
        folder = self._root / _checked(prefix.rstrip("/")) if prefix else self._root
        with _store_errors("reading the folder store"):
            for path in sorted(folder.rglob("*"), key=lambda one: one.relative_to(self._root).as_posix()):
                key = path.relative_to(self._root).as_posix()
                if path.is_file() and not key.startswith(f"{_TEMPORARY}/"):
                    yield ObjectInfo(key, path.stat().st_size)


class _FileReader:
    def __init__(self, file: FileIO, length: int | None) -> None:
        self._file = file
        self._left = length

    def readinto(self, buffer: memoryview, /) -> int:
        """As `Reader.readinto`."""
        with _store_errors("reading the folder store"):
            count = self._file.readinto(buffer if self._left is None else buffer[: self._left])
        if self._left is not None:
            self._left -= count
        return count


def _store_errors(what: str) -> AbstractContextManager[None]:
    return disk_errors(what, denied="store_denied", other="store_unavailable")


def _checked(key: str) -> str:
    try:
        check_relative_path(key)
    except ValueError as error:
        raise LoradockError("artifact_missing", f"no object can have this key: {error}") from None
    if key.partition("/")[0].startswith((_TEMPORARY, TEMPORARY_PREFIX)):
        raise LoradockError("artifact_missing", "no object can have this key: it is the store's own folder")
    return key
