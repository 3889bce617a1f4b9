"""Uploads to a local folder: the API writes what comes, hashed on its way, and a file is seen whole or not at all."""

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from io import FileIO
from typing import Final

from loradock.artifacts.disk import disk_errors, try_file_lock
from loradock.artifacts.stores.folder import FolderStore
from loradock.artifacts.uploads.area import check_declared, file_key
from loradock.core.errors import LoradockError
from loradock.core.models import ManifestFile
from loradock.core.uploads import DeclaredUpload, PartAddress, ReceivedFile, UploadTransfer, UploadWriter

_CHUNK: Final = 1024 * 1024


class FolderUploads:
    """As `UploadPlace`. Many processes may share the folder.

    Args:
        store: the object store in the folder.
        max_bytes: of one session.
    """

    transfer = UploadTransfer.STREAM

    def __init__(self, store: FolderStore, *, max_bytes: int) -> None:
        self._store = store
        self._max_bytes = max_bytes

    def check(self, files: Sequence[ManifestFile]) -> DeclaredUpload:
        """As `UploadPlace.check`."""
        return check_declared(files, max_bytes=self._max_bytes)

    def begin(self, session: str, files: Sequence[ManifestFile]) -> dict[str, str]:
        """As `UploadPlace.begin`: nothing is needed."""
        del session, files
        return {}

    def forget(self, session: str, begun: Mapping[str, str]) -> None:
        """As `UploadPlace.forget`."""

    def received(
        self, session: str, files: Sequence[ManifestFile], begun: Mapping[str, str]
    ) -> list[ReceivedFile]:
        """As `UploadPlace.received`."""
        del begun
        return [self._received(session, file) for file in files]

    def part_addresses(
        self, session: str, file: ManifestFile, begun: Mapping[str, str], numbers: Sequence[int]
    ) -> list[PartAddress]:
        """As `UploadPlace.part_addresses`: never."""
        raise LoradockError("invalid_request", "this service takes each file as a stream: there are no parts")

    @contextmanager
    def writer(self, session: str, file: ManifestFile, offset: int) -> Iterator[UploadWriter]:
        """As `UploadPlace.writer`; what came stays also when the caller breaks off."""
        key = file_key(session, file.path)
        partial = self._store.partial_path(key)
        with _errors(), try_file_lock(partial.with_name(f"{partial.name}.lock")) as held:
            if not held:
                raise LoradockError("upload_busy", f"somebody else sends {file.path} now")
            there = self._received(session, file)
            if there.received != offset or there.complete:
                raise LoradockError(
                    "upload_busy",
                    f"{there.received} bytes of {file.path} are there, not {offset}",
                    received=there.received,
                )
            descriptor = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
            with FileIO(descriptor, "r+") as opened:
                yield _Writer(self._store, key, file, opened, offset)

    def complete(self, session: str, files: Sequence[ManifestFile], begun: Mapping[str, str]) -> None:
        """As `UploadPlace.complete`; what is there was hashed when it came."""
        del begun
        for file in files:
            if not file.size:
                self._store.put_if_absent(file_key(session, file.path), b"")
            elif not self._received(session, file).complete:
                raise LoradockError("upload_incomplete", f"bytes of {file.path} are missing", path=file.path)

    def _received(self, session: str, file: ManifestFile) -> ReceivedFile:
        key = file_key(session, file.path)
        whole = self._store.head(key)
        if whole is not None and whole.size == file.size:
            return ReceivedFile(received=file.size, complete=True)
        size = 0
        with _errors(), suppress(FileNotFoundError):
            size = self._store.partial_path(key).stat(follow_symlinks=False).st_size
        return ReceivedFile(received=size, complete=False)


class _Writer:
    """Appends to the partial file, which the caller has locked."""

    def __init__(self, store: FolderStore, key: str, file: ManifestFile, opened: FileIO, offset: int) -> None:
        self._store = store
        self._key = key
        self._file = file
        self._opened = opened
        self._size = 0
        self._digest = hashlib.sha256()
        with _errors():
            while self._size < offset and (data := opened.read(min(_CHUNK, offset - self._size))):
                self._digest.update(data)
                self._size += len(data)

    def write(self, data: bytes) -> None:
        """As `UploadWriter.write`."""
        if self._size + len(data) > self._file.size:
            raise LoradockError("upload_mismatch", f"more comes of {self._file.path} than was declared")
        with _errors():
            left = memoryview(data)
            while left:
                left = left[self._opened.write(left) or 0 :]
        self._digest.update(data)
        self._size += len(data)

    def finish(self) -> int:
        """As `UploadWriter.finish`."""
        if self._size < self._file.size:
            return self._size
        partial = self._store.partial_path(self._key)
        if self._digest.hexdigest() != self._file.sha256:
            with _errors():
                partial.unlink(missing_ok=True)
            raise LoradockError("upload_mismatch", f"{self._file.path} does not have the declared sha256")
        with _errors():
            os.fsync(self._opened.fileno())
        self._store.adopt_partial(self._key)
        return self._size


@contextmanager
def _errors() -> Iterator[None]:
    with disk_errors("writing an upload", denied="store_denied", other="store_unavailable"):
        yield
