"""Temporal for workflow tests: the time-skipping server, and the real dev server, each with one worker set per test."""

import sys
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from temporalio.client import Client, WorkflowHandle
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.testing import WorkflowEnvironment
from temporalio.worker import Worker

from loradock.core.ids import LIFECYCLE_QUEUE, TRANSFER_QUEUE, host_engine_queue, host_io_queue
from loradock.core.models import OperationKind
from loradock.core.requests import LoadRequest, PublishRequest, UnloadRequest
from tests.workflows.world import World
from worker import search_attributes
from worker.temporal import STICKY_TIMEOUT, workflow_runner
from workflows.inputs import LoadInput, OperationStart, PublishInput, ReconcileInput, UnloadInput
from workflows.registered import WORKFLOWS


def request_of(kind: OperationKind, **changes: Any) -> Any:
    """A plain input of each operation's workflow."""
    start = OperationStart(operation=f"op-{uuid.uuid4().hex}", epoch=5, actor="tester")
    match kind:
        case OperationKind.PUBLISH:
            return PublishInput(
                start=start, request=PublishRequest(**{"adapter": "greeter", "uri": "file:///a", **changes})
            )
        case OperationKind.LOAD:
            given = {"adapter": "greeter", "version": 1, "pool": "default", **changes}
            return LoadInput(start=start, request=LoadRequest(**given))
        case OperationKind.UNLOAD:
            given = {"adapter": "greeter", "version": 1, "pool": "default", "drain_seconds": 1, **changes}
            return UnloadInput(start=start, request=UnloadRequest(**given))


WORKFLOW_NAME = {
    OperationKind.PUBLISH: "PublishVersion",
    OperationKind.LOAD: "LoadAdapter",
    OperationKind.UNLOAD: "UnloadAdapter",
}


@dataclass
class Bench:
    """A Temporal, and a way to run operations on it over a `World`."""

    client: Client

    @asynccontextmanager
    async def workers(self, world: World, *, hosts: bool = True, cached: int = 100) -> AsyncIterator[None]:
        """An orchestrator, and an agent for each engine of the world."""
        common: dict[str, Any] = {"graceful_shutdown_timeout": timedelta(seconds=1)}
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(
                Worker(
                    self.client,
                    task_queue=LIFECYCLE_QUEUE,
                    workflows=WORKFLOWS,
                    activities=world.lifecycle_activities(),
                    workflow_runner=workflow_runner(),
                    max_cached_workflows=cached,
                    sticky_queue_schedule_to_start_timeout=STICKY_TIMEOUT,
                    max_heartbeat_throttle_interval=timedelta(milliseconds=100),
                    default_heartbeat_throttle_interval=timedelta(milliseconds=100),
                    **common,
                )
            )
            await stack.enter_async_context(
                Worker(
                    self.client,
                    task_queue=TRANSFER_QUEUE,
                    activities=world.transfer_activities(),
                    max_heartbeat_throttle_interval=timedelta(milliseconds=100),
                    default_heartbeat_throttle_interval=timedelta(milliseconds=100),
                    **common,
                )
            )
            agents = dict.fromkeys(target.agent for target in world.targets()) if hosts else {}
            for agent in agents:
                for queue, activities in (
                    (host_io_queue(agent), world.io_activities()),
                    (host_engine_queue(agent), world.engine_activities()),
                ):
                    await stack.enter_async_context(
                        Worker(
                            self.client,
                            task_queue=queue,
                            activities=activities,
                            max_heartbeat_throttle_interval=timedelta(milliseconds=100),
                            default_heartbeat_throttle_interval=timedelta(milliseconds=100),
                            **common,
                        )
                    )
            yield

    async def start(self, kind: OperationKind, **changes: Any) -> WorkflowHandle[Any, Any]:
        """Start an operation."""
        given = request_of(kind, **changes)
        return await self.client.start_workflow(
            WORKFLOW_NAME[kind],
            given,
            id=f"op/{given.start.operation}",
            task_queue=LIFECYCLE_QUEUE,
            execution_timeout=timedelta(hours=3),
        )

    async def reconcile(self, engine: str) -> WorkflowHandle[Any, Any]:
        """Have an engine reconciled, under an id of the test's own."""
        return await self.client.start_workflow(
            "ReconcileEngine",
            ReconcileInput(engine=engine),
            id=f"reconcile/{engine}/{uuid.uuid4().hex[:8]}",
            task_queue=LIFECYCLE_QUEUE,
            execution_timeout=timedelta(hours=3),
        )


def _binary(name: str) -> str:
    return str(Path(sys.executable).parent / name)


@pytest.fixture
async def bench(temporal_dev_server: str) -> Bench:
    """The real dev server."""
    client = await Client.connect(temporal_dev_server, data_converter=pydantic_data_converter)
    await search_attributes.register(client)
    return Bench(client)


@pytest.fixture
async def impatient_bench(impatient_temporal: str) -> Bench:
    """A server that asks for a new run early."""
    client = await Client.connect(impatient_temporal, data_converter=pydantic_data_converter)
    await search_attributes.register(client)
    return Bench(client)


@pytest.fixture
async def skipping_bench() -> AsyncIterator[Bench]:
    """The time-skipping server: timeouts of hours pass at once."""
    environment = await WorkflowEnvironment.start_time_skipping(
        test_server_existing_path=_binary("temporal-test-server"), data_converter=pydantic_data_converter
    )
    async with environment:
        await search_attributes.register(environment.client)
        yield Bench(environment.client)
