"""Temporal in a namespace of its own for each test, and the service around it."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from google.protobuf.duration_pb2 import Duration
from pydantic import SecretStr
from temporalio.api.workflowservice.v1 import RegisterNamespaceRequest
from temporalio.client import Client
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.service import RPCError

from api.server import ApiServer, open_dependencies
from loradock.core.errors import LoradockError
from loradock.engines import VllmEngine
from loradock.engines.simulated import SimulatedEngine, create_app, serving
from loradock.registry.database import Database
from loradock_vllm.settings import ExtensionSettings
from tests.activities.conftest import (  # noqa: F401  (fixtures)
    ENGINE_TOKEN,
    Running,
    activities_template,
    database,
    database_address,
    folder,
    folder_objects,
    registry,
)
from tests.activities.parts import SlowObjects
from tests.api.conftest import serving as serving_api
from tests.api.conftest import settings_for
from tests.registry.world import World
from tests.worker.service import Service
from worker import search_attributes


async def new_namespace(address: str) -> str:
    """A namespace that nobody else uses: no workflow of another test is ever met."""
    client = await Client.connect(address)
    name = f"test-{uuid.uuid4().hex[:8]}"
    await client.workflow_service.register_namespace(
        RegisterNamespaceRequest(namespace=name, workflow_execution_retention_period=Duration(seconds=86400))
    )
    return name


async def client_of(address: str, namespace: str) -> Client:
    """A client of a namespace that is ready for our workflows."""
    client = await Client.connect(address, namespace=namespace, data_converter=pydantic_data_converter)
    async with asyncio.timeout(20):
        while not await _is_ready(client):
            await asyncio.sleep(0.05)
    return client


async def _is_ready(client: Client) -> bool:
    """Whether every part of the server has heard of the namespace."""
    try:
        await search_attributes.register(client)
        return [found async for found in client.list_workflows("LoradockKind = 'x'")] == []
    except (RPCError, LoradockError):
        return False


@pytest.fixture
async def client(temporal_dev_server: str) -> Client:
    return await client_of(temporal_dev_server, await new_namespace(temporal_dev_server))


@pytest.fixture
def service(
    client: Client,
    database: Database,  # noqa: F811
    registry: World,  # noqa: F811
    folder_objects: SlowObjects,  # noqa: F811
    tmp_path: Path,
) -> Service:
    return Service(client, database, registry, folder_objects, tmp_path)  # type: ignore[arg-type]


@pytest.fixture
async def engines() -> AsyncIterator[dict[str, Running]]:
    """Two simulated engines in this loop: `e1` and `e2`."""
    async with AsyncExitStack() as stack:
        running: dict[str, Running] = {}
        for name in ("e1", "e2"):
            inside = SimulatedEngine(base_model="tiny-base", max_loras=3, max_lora_rank=16)
            app = create_app(inside, settings=ExtensionSettings(token=ENGINE_TOKEN))
            url = await stack.enter_async_context(serving(app))
            driver = VllmEngine(url, SecretStr(ENGINE_TOKEN))
            stack.push_async_callback(driver.aclose)
            running[name] = Running(url, inside, driver, None)  # type: ignore[arg-type]
        yield running


AGENT_TOKEN = "agent-token-of-the-tests"
"""As `tests.api.conftest.settings_for` sets it."""


@pytest.fixture
async def api(database_address: str, temporal_dev_server: str) -> AsyncIterator[ApiServer]:  # noqa: F811
    """The real API, listening in this loop, on the test's database."""
    async with (
        open_dependencies(settings_for(database_address, temporal_dev_server)) as parts,
        serving_api(parts) as server,
    ):
        yield server


@pytest.fixture
def world(registry: World) -> World:  # noqa: F811
    """The same under the name that the registry's tests use."""
    return registry
