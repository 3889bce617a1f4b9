"""`upload://<session>`: what a caller has uploaded, or the published bytes that stand for it. Of the service's own making.

Whose upload it is was checked where the operation was taken in: a source knows nobody.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Final

from loradock.artifacts.manifest import MANIFEST_FILE, belongs
from loradock.artifacts.protocol import ObjectStore, Progress, Reader, SourceFile
from loradock.artifacts.sources.steady import Patience, steady_reader
from loradock.artifacts.store import artifact_key
from loradock.artifacts.uploads.area import session_prefix
from loradock.core.errors import LoradockError
from loradock.core.uris import UploadUri, parse_upload_uri

_CODES: Final = {
    "store_unavailable": "source_unavailable",
    "store_denied": "source_denied",
    "artifact_missing": "source_changed",
}


class UploadSource:
    """Reads uploads from the object store. Sizes and names are the store's, hashes are the publish's own.

    Args:
        objects: the store.
    """

    def __init__(self, objects: ObjectStore, patience: Patience | None = None) -> None:
        self._objects = objects
        self._patience = patience or Patience()

    def exists(self, uri: str) -> bool:
        """As `Source.exists`."""
        address = _parsed(uri)
        return bool(
            self._below(artifact_key(address.stored) if address.stored else session_prefix(address.session))
        )

    def list(self, uri: str, progress: Progress | None = None) -> list[SourceFile]:
        """As `Source.list`."""
        del progress
        address = _parsed(uri)
        sent = self._below(session_prefix(address.session))
        if address.stored is None:
            if not sent:
                raise LoradockError("source_not_found", f"nothing lies of {address}: its time was over")
            return [*sent]
        stored = self._below(artifact_key(address.stored))
        if not stored:
            raise LoradockError(
                "upload_mismatch", f"the stored copy of {address.stored} is gone: send the bytes"
            )
        return sorted(
            [*stored, *(file for file in sent if not belongs(file.path))], key=lambda file: file.path
        )

    def fetch(
        self, uri: str, file: SourceFile, progress: Progress | None = None
    ) -> AbstractContextManager[Reader]:
        """As `Source.fetch`."""
        address = _parsed(uri)
        stored = address.stored if belongs(file.path) else None
        key = (artifact_key(stored) if stored else session_prefix(address.session)) + file.path

        def open_at(offset: int) -> AbstractContextManager[Reader]:
            return self._opened(key, offset)

        return steady_reader(open_at, file.size, f"{address}/{file.path}", self._patience, progress)

    def _below(self, prefix: str) -> "Sequence[SourceFile]":
        with _source_errors():
            infos = [*self._objects.list(prefix)]
        paths = [(info.key.removeprefix(prefix), info.size) for info in infos]
        return [SourceFile(path, size, str(size)) for path, size in sorted(paths) if path != MANIFEST_FILE]

    @contextmanager
    def _opened(self, key: str, offset: int) -> Iterator[Reader]:
        with _source_errors(), self._objects.open(key, start=offset) as reader:
            yield _Reader(reader)


class _Reader:
    def __init__(self, reader: Reader) -> None:
        self._reader = reader

    def readinto(self, buffer: memoryview, /) -> int:
        """As `Reader.readinto`."""
        with _source_errors():
            return self._reader.readinto(buffer)


@contextmanager
def _source_errors() -> Iterator[None]:
    try:
        yield
    except LoradockError as error:
        if error.code not in _CODES:
            raise
        raise LoradockError(_CODES[error.code], error.message) from None


def _parsed(uri: str) -> UploadUri:
    address = parse_upload_uri(uri)
    if address is None:
        raise LoradockError("invalid_source_uri", "an upload's address is upload:// and the session's id")
    return address
