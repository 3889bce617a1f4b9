"""The real S3, and the kinds of store that share a contract."""

import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from loradock.artifacts.protocol import ObjectStore
from loradock.artifacts.s3 import s3_client
from loradock.artifacts.store import ArtifactStore
from loradock.artifacts.stores.folder import FolderStore
from loradock.artifacts.stores.s3 import S3Store
from loradock.testing.source_contract import SourcePlace
from tests.artifacts.source_places import KINDS, open_place
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


@pytest.fixture(scope="session")
def shared_bucket(object_store_server: ObjectStoreServer) -> str:
    """One for all who bring a prefix of their own: the server has room for so many buckets only."""
    return object_store_server.bucket()


@pytest.fixture(params=KINDS)
def source_place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[SourcePlace]:
    """Every kind of source, with a folder to write to."""
    with open_place(request.param, request, tmp_path) as place:
        yield place


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
