"""The kinds of source and store that share a contract, each over the real thing."""

import posixpath
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from loradock.artifacts.protocol import ObjectStore, Source
from loradock.artifacts.s3 import s3_client
from loradock.artifacts.sources.file import FileSource
from loradock.artifacts.sources.s3 import S3Source
from loradock.artifacts.store import ArtifactStore
from loradock.artifacts.stores.folder import FolderStore
from loradock.artifacts.stores.s3 import S3Store
from tests.fixtures.infra import ObjectStoreServer

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client


@pytest.fixture(scope="session")
def session_s3(object_store_server: ObjectStoreServer) -> "Iterator[S3Client]":
    """One client for the session: making one takes long."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in object_store_server.environment.items():
            patch.setenv(name, value)
        client = s3_client(endpoint=object_store_server.endpoint, region=object_store_server.region)
        client.list_buckets()
        yield client


@pytest.fixture
def s3(
    session_s3: "S3Client", object_store_server: ObjectStoreServer, monkeypatch: pytest.MonkeyPatch
) -> "S3Client":
    for name, value in object_store_server.environment.items():
        monkeypatch.setenv(name, value)
    return session_s3


@dataclass
class SourcePlace:
    """A source with a folder that tests can write to."""

    source: Source
    uri: str
    write: Callable[[str, bytes], None]
    remove: Callable[[str], None]
    limited: Callable[[int], Source]
    missing_uri: str
    forbidden_uri: str


@pytest.fixture(params=["file", "s3"])
def source_place(request: pytest.FixtureRequest, tmp_path: Path) -> SourcePlace:
    return _file_place(tmp_path) if request.param == "file" else _s3_place(request)


def _file_place(tmp_path: Path) -> SourcePlace:
    root = tmp_path / "root"
    folder = root / "my adapter"
    folder.mkdir(parents=True)

    def write(path: str, data: bytes) -> None:
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)

    return SourcePlace(
        source=FileSource([root]),
        uri=folder.as_uri(),
        write=write,
        remove=lambda path: (folder / path).unlink(),
        limited=lambda most: FileSource([root], max_files=most),
        missing_uri=(root / "nothing").as_uri(),
        forbidden_uri=(tmp_path / "elsewhere").as_uri(),
    )


def _s3_place(request: pytest.FixtureRequest) -> SourcePlace:
    client: S3Client = request.getfixturevalue("s3")
    server: ObjectStoreServer = request.getfixturevalue("object_store_server")
    bucket = server.bucket()

    def key(path: str) -> str:
        return posixpath.normpath(f"team/my adapter/{path}")

    def write(path: str, data: bytes) -> None:
        client.put_object(Bucket=bucket, Key=key(path), Body=data)

    def remove(path: str) -> None:
        client.delete_object(Bucket=bucket, Key=key(path))

    return SourcePlace(
        source=S3Source(client, [bucket]),
        uri=f"s3://{bucket}/team/my adapter",
        write=write,
        remove=remove,
        limited=lambda most: S3Source(client, [bucket], max_files=most),
        missing_uri=f"s3://{bucket}/team/nothing",
        forbidden_uri="s3://another-bucket/team/my adapter",
    )


@pytest.fixture(params=["folder", "s3"])
def objects(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectStore:
    if request.param == "folder":
        return FolderStore(tmp_path / "object store")
    client: S3Client = request.getfixturevalue("s3")
    server: ObjectStoreServer = request.getfixturevalue("object_store_server")
    return S3Store(client, server.bucket(), f"prefix-{uuid.uuid4().hex[:6]}/", part_bytes=5 * 1024 * 1024)


@pytest.fixture
def folder_store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(FolderStore(tmp_path / "objects"))
