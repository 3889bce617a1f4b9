"""The sources that pass the contract, each over the real thing."""

import contextlib
import gzip
import hashlib
import io
import json
import posixpath
import sys
import tarfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from loradock.artifacts.sources.archive import ArchiveLimits
from loradock.artifacts.sources.custom import DownloadingSource
from loradock.artifacts.sources.file import FileSource
from loradock.artifacts.sources.https import HttpsSource
from loradock.artifacts.sources.hub import HubSource, hub_client
from loradock.artifacts.sources.places import AllowedPlaces
from loradock.artifacts.sources.s3 import S3Source
from loradock.artifacts.sources.spool import Spool
from loradock.artifacts.sources.steady import Patience
from loradock.artifacts.sources.web import WebClient, WebRules
from loradock.testing.source_contract import SourcePlace
from tests.artifacts.hub_server import hub_server
from tests.artifacts.web_server import Authority, WebServer, make_authority, web_server

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client

KINDS: Final = ("file", "s3", "https-folder", "https-tar.gz", "https-tar.zst", "hf", "download")
HASTY: Final = Patience(stall_seconds=1.0, base_seconds=0.01)
LIMITS: Final = ArchiveLimits(max_files=1000, max_bytes=100_000_000)


@contextlib.contextmanager
def open_place(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[SourcePlace]:
    if kind == "file":
        yield file_place(tmp_path)
    elif kind == "s3":
        yield s3_place(request)
    elif kind == "download":
        yield download_place(tmp_path)
    elif kind == "hf":
        with hub_place() as place:
            yield place
    else:
        with https_place(kind.removeprefix("https-"), tmp_path) as place:
            yield place


def file_place(tmp_path: Path) -> SourcePlace:
    root = tmp_path / "root"
    folder = root / "my adapter"
    folder.mkdir(parents=True)
    return SourcePlace(
        source=FileSource([root]),
        uri=folder.as_uri(),
        write=lambda path, data: write_file(folder / path, data),
        remove=lambda path: (folder / path).unlink(),
        limited=lambda most: FileSource([root], max_files=most),
        missing_uri=(root / "nothing").as_uri(),
        forbidden_uri=(tmp_path / "elsewhere").as_uri(),
    )


def s3_place(request: pytest.FixtureRequest) -> SourcePlace:
    client: S3Client = request.getfixturevalue("s3")
    bucket: str = request.getfixturevalue("shared_bucket")
    team = f"team-{uuid.uuid4().hex[:8]}"

    def key(path: str) -> str:
        return posixpath.normpath(f"{team}/my adapter/{path}")

    def write(path: str, data: bytes) -> None:
        client.put_object(Bucket=bucket, Key=key(path), Body=data)

    def remove(path: str) -> None:
        client.delete_object(Bucket=bucket, Key=key(path))

    return SourcePlace(
        source=S3Source(client, [f"{bucket}/{team}"]),
        uri=f"s3://{bucket}/{team}/my adapter",
        write=write,
        remove=remove,
        limited=lambda most: S3Source(client, [bucket], max_files=most),
        missing_uri=f"s3://{bucket}/{team}/nothing",
        forbidden_uri=f"s3://{bucket}/{team}s/my adapter",
    )


@contextlib.contextmanager
def https_place(kind: str, tmp_path: Path) -> Iterator[SourcePlace]:
    authority = make_authority(tmp_path)
    with web_server(authority) as server:
        files: dict[str, bytes] = {}

        def serve() -> None:
            if kind == "folder":
                server.files = {f"/pub/greeter/{path}": data for path, data in files.items()}
                server.files["/pub/greeter/index.json"] = index_of(files)
            else:
                server.files = {f"/pub/greeter.{kind}": packed(files, kind)}

        def write(path: str, data: bytes) -> None:
            files[path] = data
            serve()

        def remove(path: str) -> None:
            del files[path]
            serve()

        def source(most: int) -> HttpsSource:
            return https_source(server, authority, tmp_path, ArchiveLimits(most, LIMITS.max_bytes))

        suffix = "" if kind == "folder" else f".{kind}"
        yield SourcePlace(
            source=source(1000),
            uri=f"{server.origin}/pub/greeter{suffix}",
            write=write,
            remove=remove,
            limited=source,
            missing_uri=f"{server.origin}/pub/nothing{suffix}",
            forbidden_uri=f"{server.origin}/private/greeter{suffix}",
        )


def https_source(
    server: WebServer, authority: Authority, tmp_path: Path, limits: ArchiveLimits = LIMITS
) -> HttpsSource:
    """Reads below `/pub` of the server."""
    places = AllowedPlaces([f"localhost:{server.port}/pub"])
    rules = WebRules(lambda url: places.allows(f"{url.netloc}{url.path}"), private_hosts=["localhost"])
    web = WebClient(rules, tls=authority.client(), stall_seconds=2.0)
    return HttpsSource(web, Spool(tmp_path / "spool"), limits, patience=HASTY)


@contextlib.contextmanager
def hub_place() -> Iterator[SourcePlace]:
    with hub_server() as hub:
        repository = hub.repository("acme/greeter")

        def write(path: str, data: bytes) -> None:
            repository.commit(repository.head | {f"weights/{path}": data, "README.md": b"#"})

        def remove(path: str) -> None:
            files = repository.head
            del files[f"weights/{path}"]
            repository.commit(files)

        def source(most: int) -> HubSource:
            return HubSource(
                AllowedPlaces(["acme"]),
                hub_client(hub.endpoint),
                endpoint=hub.endpoint,
                max_files=most,
                patience=HASTY,
            )

        yield SourcePlace(
            source=source(1000),
            uri="hf://acme/greeter/weights",
            write=write,
            remove=remove,
            limited=source,
            missing_uri="hf://acme/nothing",
            forbidden_uri="hf://other/greeter",
        )


class FolderDownload:
    """A source in the seed's form: two coroutines."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.downloads = 0

    async def exists(self, lora_uri: str) -> bool:
        return (self.folder / lora_uri.partition("://")[2].strip("/")).is_dir()

    async def download(self, lora_uri: str, dest_path: Path) -> Path:
        self.downloads += 1
        source = self.folder / lora_uri.partition("://")[2].strip("/")
        for path in source.rglob("*"):
            if path.is_file():
                write_file(dest_path / path.relative_to(source), path.read_bytes())
        return dest_path


def download_place(tmp_path: Path) -> SourcePlace:
    folder = tmp_path / "there" / "greeter"
    folder.mkdir(parents=True)
    given, spool = FolderDownload(tmp_path / "there"), Spool(tmp_path / "spool")
    return SourcePlace(
        source=DownloadingSource(given, spool),
        uri="mine://greeter",
        write=lambda path, data: write_file(folder / path, data),
        remove=lambda path: (folder / path).unlink(),
        limited=lambda most: DownloadingSource(given, spool, max_files=most),
        missing_uri="mine://nothing",
    )


def write_file(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def index_of(files: dict[str, bytes]) -> bytes:
    entries = [
        {"path": path, "size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        for path, data in files.items()
    ]
    return json.dumps({"files": entries}).encode()


def packed(files: dict[str, bytes], kind: str) -> bytes:
    """A plain archive of these files."""

    def fill(archive: tarfile.TarFile) -> None:
        for path, data in files.items():
            member = tarfile.TarInfo(path)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))

    return compressed(tar_of(fill), kind)


def tar_of(fill: Callable[[tarfile.TarFile], None]) -> bytes:
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w") as archive:
        fill(archive)
    return plain.getvalue()


def compressed(data: bytes, kind: str) -> bytes:
    if kind.endswith("zst"):
        return zstd.compress(data)
    # Without a time stamp: the same files give the same archive.
    return gzip.compress(data, mtime=0)
