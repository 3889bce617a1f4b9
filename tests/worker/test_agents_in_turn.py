"""Two agents one after the other on one host's queues, in this loop: what one leaves, the next one takes up."""

import asyncio
from datetime import timedelta
from pathlib import Path

import pytest

from loradock.core.ids import workflow_id
from loradock.core.models import OperationState
from loradock.engines.protocol import Engine
from loradock.registry.views import OperationView
from tests.activities.conftest import Running
from tests.activities.parts import SlowObjects
from tests.artifacts.samples import make_adapter
from tests.worker.service import Service
from worker import agent as agent_module


async def downloading(service: Service, operation: OperationView) -> None:
    """Wait until bytes of the adapter lie in the host's cache."""
    async with asyncio.timeout(20):
        while not [path for path in service.root.glob("cache/*/*.partial/*") if path.stat().st_size]:
            await asyncio.sleep(0.01)
    assert (await service.registry.operation(operation.id)).state is OperationState.RUNNING


async def test_a_download_that_outlasts_the_grace_is_done_by_the_next_agent(
    service: Service,
    engines: dict[str, Running],
    folder: Path,
    folder_objects: SlowObjects,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(agent_module, "GRACEFUL_SHUTDOWN", timedelta(milliseconds=200))
    drivers: dict[str, Engine] = {"e1": engines["e1"].driver}
    async with service.orchestrating():
        await service.join(drivers)
        ref = await service.publish(folder)
        operation = await service.submit_load(ref)
        folder_objects.slow = True
        async with service.hosting(drivers):
            run = await service.start(operation)
            await downloading(service, operation)
        folder_objects.slow = False
        async with service.hosting(drivers):
            ended = await service.ended(operation, run)
    assert ended.state is OperationState.SUCCEEDED, ended.error
    assert {step.name: step.attempt for step in ended.steps} == {"download": 2, "load": 1, "verify": 1}


async def test_a_download_is_cancelled_with_its_operation_within_seconds(
    service: Service, engines: dict[str, Running], folder: Path, folder_objects: SlowObjects
) -> None:
    drivers: dict[str, Engine] = {"e1": engines["e1"].driver}
    async with service.orchestrating(), service.hosting(drivers):
        await service.join(drivers)
        ref = await service.publish(folder)
        operation = await service.submit_load(ref)
        folder_objects.slow, folder_objects.chunk = True, 100  # half a minute for all of it
        run = await service.start(operation)
        await downloading(service, operation)
        await service.client.get_workflow_handle(workflow_id(operation.id)).cancel()
        async with asyncio.timeout(10):  # by the SDK's own throttle it would be 16
            ended = await service.ended(operation, run)
        folder_objects.slow = False
        assert ended.state is OperationState.ABORTED
        assert not ended.repairs_pending
        await service.load(ref)


async def test_a_release_waits_behind_no_download(
    service: Service, engines: dict[str, Running], folder: Path, folder_objects: SlowObjects
) -> None:
    drivers: dict[str, Engine] = {"e1": engines["e1"].driver}
    async with service.orchestrating(), service.hosting(drivers):
        await service.join(drivers)
        served = await service.publish(folder)
        await service.load(served)
        others = [
            # Other weights each: the same would be copied from what lies in the cache.
            await service.publish(make_adapter(folder.parent / name, rank=16, seed=seed), name)
            for seed, name in enumerate([f"other-{number}" for number in range(6)], start=10)
        ]
        folder_objects.slow, folder_objects.chunk = True, 100
        # More than may download at once: the others wait for their turn, and are known to be in living hands.
        loads = [await service.submit_load(other) for other in others]
        for load in loads:
            await service.start(load)
        await downloading(service, loads[0])
        unload = await service.submit_unload(served, drain_seconds=0)
        async with asyncio.timeout(15):
            ended = await service.ended(unload, await service.start(unload))
        assert ended.state is OperationState.SUCCEEDED, ended.error
        for load in loads:
            await service.client.get_workflow_handle(workflow_id(load.id)).terminate("the test is over")
