"""The real things that activities touch: a migrated Postgres, object stores, simulated engines."""

import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import httpx
import psycopg
import pytest
from psycopg import sql
from pydantic import SecretStr

from activities.progress import TransferSlots
from loradock.artifacts.protocol import ObjectStore
from loradock.artifacts.s3 import s3_client
from loradock.artifacts.store import ArtifactStore
from loradock.artifacts.stores.folder import FolderStore
from loradock.artifacts.stores.s3 import S3Store
from loradock.dev.postgres import EmbeddedPostgres
from loradock.engines import VllmEngine
from loradock.engines.simulated import SimulatedEngine, create_app, serving
from loradock.registry.database import Database
from loradock_vllm.settings import ExtensionSettings
from migrations import runner
from tests.activities.parts import Reports, SlowObjects
from tests.artifacts.helpers import manifest_of
from tests.artifacts.samples import make_adapter
from tests.fixtures.infra import ObjectStoreServer
from tests.registry.world import World

ENGINE_TOKEN = "token-of-the-engines"


@pytest.fixture(scope="session")
def activities_template(embedded_postgres: EmbeddedPostgres) -> str:
    """A migrated database to copy: quicker than migrating one for each test."""
    name = f"template_{uuid.uuid4().hex[:8]}"
    runner.upgrade(embedded_postgres.create_database(name))
    return name


@pytest.fixture
def database_address(embedded_postgres: EmbeddedPostgres, activities_template: str) -> Iterator[str]:
    """A migrated, empty database."""
    name = f"activities_{uuid.uuid4().hex[:8]}"
    with psycopg.connect(embedded_postgres.url(), autocommit=True) as connection:
        copy = sql.SQL("CREATE DATABASE {} TEMPLATE {}")
        connection.execute(copy.format(sql.Identifier(name), sql.Identifier(activities_template)))
    yield embedded_postgres.url(name)
    embedded_postgres.drop_database(name)


@pytest.fixture
async def database(database_address: str) -> AsyncIterator[Database]:
    database = Database(database_address)
    yield database
    await database.dispose()


@pytest.fixture
def registry(database: Database) -> World:
    """Short ways to the states that tests begin with."""
    return World(database)


@pytest.fixture
def reports() -> Reports:
    return Reports()


@pytest.fixture
def slots() -> TransferSlots:
    return TransferSlots(4)


@pytest.fixture(params=["folder", "s3"])
def objects(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectStore:
    """Each kind of object store, empty."""
    if request.param == "folder":
        return FolderStore(tmp_path / "objects")
    server: ObjectStoreServer = request.getfixturevalue("object_store_server")
    patch: pytest.MonkeyPatch = request.getfixturevalue("monkeypatch")
    for name, value in server.environment.items():
        patch.setenv(name, value)
    return S3Store(s3_client(endpoint=server.endpoint, region=server.region), server.bucket(), "prefix/")


@pytest.fixture
def folder_objects(tmp_path: Path) -> SlowObjects:
    """A folder store that can be made slow."""
    slow = SlowObjects(FolderStore(tmp_path / "slow objects"))
    slow.slow = False
    return slow


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An adapter to publish."""
    return make_adapter(tmp_path / "source" / "greeter", rank=16)


@dataclass
class Running:
    """A simulated engine that listens.

    Attributes:
        inside: to order faults from.
        driver: the way the service talks to it.
    """

    url: str
    inside: SimulatedEngine
    driver: VllmEngine
    http: httpx.AsyncClient

    async def life(self) -> str:
        return (await self.driver.state()).incarnation


@pytest.fixture
async def engine() -> AsyncIterator[Running]:
    """A simulated engine in this loop."""
    inside = SimulatedEngine(base_model="tiny-llama", max_loras=3, max_lora_rank=16)
    async with AsyncExitStack() as stack:
        settings = ExtensionSettings(token=ENGINE_TOKEN)
        url = await stack.enter_async_context(serving(create_app(inside, settings=settings)))
        driver = VllmEngine(url, SecretStr(ENGINE_TOKEN))
        stack.push_async_callback(driver.aclose)
        http = await stack.enter_async_context(httpx.AsyncClient(base_url=url, trust_env=False, timeout=30))
        yield Running(url, inside, driver, http)


def stored(objects: ObjectStore, folder: Path) -> tuple[ArtifactStore, str]:
    """The adapter in an artifact store, and its digest."""
    store = ArtifactStore(objects)
    manifest = manifest_of(folder)
    store.upload(folder, manifest)
    return store, manifest.digest
