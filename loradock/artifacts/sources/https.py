"""`https://host/folder/` with an `index.json`, or `https://host/adapter.tar.zst` (or `.tar.gz`).

The index is `{"files": [{"path": …, "size": …, "sha256": …}, …]}`, further fields are ignored: a manifest of Loradock's
object store is one. A file's identity is its hash, which is compared at its end.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Annotated, Any, Final
from urllib.parse import quote

from pydantic import BaseModel, ConfigDict, Field, SecretStr, StringConstraints, ValidationError

from loradock.artifacts.protocol import NoProgress, Progress, Reader, SourceFile
from loradock.artifacts.sources.address import invalid, parse_address
from loradock.artifacts.sources.archive import ArchiveLimits, is_archive, unpack
from loradock.artifacts.sources.file import check_source_path
from loradock.artifacts.sources.spool import Copy, Spool
from loradock.artifacts.sources.steady import Patience, steady_reader
from loradock.artifacts.sources.web import WebBody, WebClient
from loradock.core.errors import LoradockError
from loradock.core.uris import parse_source_uri

INDEX_FILE: Final = "index.json"
MAX_INDEX_BYTES: Final = 4 * 1024 * 1024

TokenFor = Callable[[str], SecretStr | None]


class _IndexFile(BaseModel):
    model_config = ConfigDict(hide_input_in_errors=True)

    path: str
    size: int = Field(ge=0, le=2**48, strict=True)
    sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class _Index(BaseModel):
    model_config = ConfigDict(hide_input_in_errors=True)

    files: list[_IndexFile]


class HttpsSource:
    """Reads folders and archives of web servers.

    Args:
        web: decides which hosts may be reached.
        spool: where archives are unpacked.
        limits: of one address.
        token_for: the bearer token of an address.
    """

    def __init__(
        self,
        web: WebClient,
        spool: Spool,
        limits: ArchiveLimits,
        *,
        token_for: TokenFor = lambda _: None,
        patience: Patience | None = None,
    ) -> None:
        self._web, self._spool, self._limits = web, spool, limits
        self._token_for = token_for
        self._patience = patience or Patience()

    def exists(self, uri: str) -> bool:
        """As `Source.exists`."""
        url = _url(uri)
        if not is_archive(url):
            url = _below(url, INDEX_FILE)
        try:
            self._patience.call(lambda: self._touch(url, uri), url)
        except LoradockError as error:
            if error.code == "source_not_found":
                return False
            raise
        return True

    def list(self, uri: str, progress: Progress | None = None) -> list[SourceFile]:
        """As `Source.list`; an archive is unpacked beside."""
        url = _url(uri)
        if is_archive(url):
            return [*self._spool.refill(uri, lambda folder: self._unpack(url, uri, folder, progress)).files]
        index = _below(url, INDEX_FILE)
        data = self._patience.call(lambda: self._read(index, uri), index, progress)
        return [*self._listed(data)]

    def fetch(
        self, uri: str, file: SourceFile, progress: Progress | None = None
    ) -> AbstractContextManager[Reader]:
        """As `Source.fetch`."""
        url = _url(uri)
        if is_archive(url):
            return self._spool.open(uri, file, lambda folder: self._unpack(url, uri, folder, progress))
        return self._fetched(_below(url, check_source_path(file.path)), uri, file, progress)

    def forget(self, uri: str) -> None:
        """As `KeepsCopies.forget`."""
        self._spool.forget(uri)

    @contextmanager
    def _fetched(self, url: str, uri: str, file: SourceFile, progress: Progress | None) -> Iterator[Reader]:
        def open_at(offset: int) -> AbstractContextManager[Reader]:
            return ranged(self._web, url, offset, token=self._token_for(uri), size=file.size)

        with _vanished(), steady_reader(open_at, file.size, url, self._patience, progress) as reader:
            yield HashedReader(reader, hashlib.sha256(), file.identity.removeprefix("sha256:"), file.path)

    def _unpack(self, url: str, uri: str, folder: Path, progress: Progress | None) -> Copy:
        told = progress or NoProgress()
        state: dict[str, str] = {}

        def open_at(offset: int) -> AbstractContextManager[Reader]:
            return self._archive_at(url, uri, offset, state)

        with steady_reader(open_at, None, url, self._patience, told) as packed:
            return Copy(folder, tuple(unpack(packed, url, folder, self._limits, told)))

    @contextmanager
    def _archive_at(self, url: str, uri: str, offset: int, state: dict[str, str]) -> Iterator[Reader]:
        """The archive from an offset on; only when the server can tell that it is still the same one."""
        if offset and "etag" not in state:
            raise LoradockError("source_changed", f"{url}: it broke off, and the server cannot go on")
        headers = {"Range": f"bytes={offset}-", "If-Match": state["etag"]} if offset else {}
        with self._web.get(url, headers=headers, token=self._token_for(uri)) as body:
            if body.size is not None and body.size + offset > self._limits.max_bytes:
                raise LoradockError("source_too_large", f"{url}: {body.size} bytes, packed")
            if offset and body.headers.get("ETag") != state["etag"]:
                raise LoradockError("source_changed", f"{url}: it is another archive by now")
            if (etag := body.headers.get("ETag", "")).startswith('"'):
                state["etag"] = etag
            if offset and body.status == 200:
                body.skip(offset)
            yield _Announced(body, url)

    def _listed(self, data: bytes) -> Sequence[SourceFile]:
        try:
            index = _Index.model_validate_json(data)
        except ValidationError as error:
            fields = ", ".join(".".join(map(str, part["loc"])) for part in error.errors()[:3])
            raise LoradockError(
                "source_index_invalid", f"{INDEX_FILE} is malformed: {fields or 'no JSON'}"
            ) from None
        if len(index.files) > self._limits.max_files:
            raise LoradockError("source_too_large", f"more than {self._limits.max_files} files")
        files = [
            SourceFile(check_source_path(file.path), file.size, f"sha256:{file.sha256}")
            for file in index.files
        ]
        if len({file.path for file in files}) != len(files):
            raise LoradockError("source_index_invalid", f"{INDEX_FILE} names a file twice")
        return sorted(files, key=lambda file: file.path)

    def _read(self, url: str, uri: str) -> bytes:
        with self._web.get(url, token=self._token_for(uri)) as body:
            return body.read_all(MAX_INDEX_BYTES)

    def _touch(self, url: str, uri: str) -> None:
        with self._web.get(url, token=self._token_for(uri), method="HEAD"):
            pass


class HashedReader:
    """Compares the hash at the end, so that no other bytes pass for what was listed.

    Args:
        digest: a `hashlib` object, fed already with what comes before the content.
        expected: hex digits.
    """

    def __init__(self, reader: Reader, digest: Any, expected: str, path: str) -> None:
        self._reader, self._digest, self._expected, self._path = reader, digest, expected, path

    def readinto(self, buffer: memoryview, /) -> int:
        """As `Reader.readinto`."""
        count = self._reader.readinto(buffer)
        self._digest.update(buffer[:count])
        if count == 0 and self._digest.hexdigest() != self._expected:
            raise LoradockError("source_changed", f"{self._path!r} has another hash than listed")
        return count

    def cancel(self) -> None:
        """Break off a read that waits in another thread."""
        cancel_reader(self._reader)


def cancel_reader(reader: Reader) -> None:
    """Pass a cancel on to a reader that knows it."""
    cancel = getattr(reader, "cancel", None)
    if cancel is not None:
        cancel()


class _Announced:
    """A body that must have the size that its server announced."""

    def __init__(self, body: WebBody, url: str) -> None:
        self._body, self._url = body, url
        self._left = body.size

    def readinto(self, buffer: memoryview, /) -> int:
        count = self._body.readinto(buffer)
        if self._left is not None:
            self._left -= count
            if count == 0 and self._left > 0:
                raise LoradockError("source_unavailable", f"{self._url}: the body broke off")
        return count


@contextmanager
def ranged(web: WebClient, url: str, offset: int, *, token: SecretStr | None, size: int) -> Iterator[Reader]:
    """A file's bytes from an offset on, whether or not the server knows ranges.

    Raises:
        LoradockError: see `WebClient.get`; `source_changed` when the announced size is not the listed one.
    """
    headers = {"Range": f"bytes={offset}-"} if offset else {}
    with web.get(url, headers=headers, token=token) as body:
        skipped = offset if body.status == 200 else 0
        if body.size is not None and body.size != size - offset + skipped:
            raise LoradockError("source_changed", f"{url}: it has another size than listed")
        if skipped:
            body.skip(skipped)
        yield body


@contextmanager
def _vanished() -> Iterator[None]:
    """What was listed a moment ago and is not there now was changed, not mistyped."""
    try:
        yield
    except LoradockError as error:
        if error.code == "source_not_found":
            raise LoradockError("source_changed", error.message) from None
        raise


def _url(uri: str) -> str:
    parsed = parse_source_uri(uri)
    address = parse_address(uri)
    if parsed.scheme != "https":
        raise invalid("is not https://")
    return f"https://{address.authority}{address.path.rstrip('/')}"


def _below(url: str, path: str) -> str:
    return f"{url}/{quote(path)}"
