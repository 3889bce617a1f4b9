"""Operations whose workflow was ended by hand: found, put back, and their lock freed; nobody else is touched."""

import asyncio
from datetime import timedelta
from pathlib import Path

import httpx
import pytest

from loradock.core.ids import workflow_id
from loradock.core.models import OperationState, StepState, VersionRef
from loradock.engines import AdapterState
from loradock.engines.simulated import Faults
from loradock.registry import runs
from loradock.registry.views import OperationView
from tests.activities.conftest import Running
from tests.registry.world import BASE, new_publish, run_of
from tests.worker.service import Service
from worker import sweeper as sweeper_module
from worker.sweeper import Sweeper


@pytest.fixture
def sweeper(service: Service, monkeypatch: pytest.MonkeyPatch) -> Sweeper:
    """A sweeper without a grace."""
    monkeypatch.setattr(sweeper_module, "GRACE", timedelta(0))
    return Sweeper(service.database, service.client)


def drivers_of(engines: dict[str, Running]) -> dict[str, object]:
    return {name: running.driver for name, running in engines.items()}


async def holding(engines: dict[str, Running], ref: VersionRef) -> dict[str, AdapterState | None]:
    """On which engines the version is, and whether they let requests in."""
    states = {
        name: (await running.driver.state()).adapter(ref.served_name) for name, running in engines.items()
    }
    return {name: found.state if found else None for name, found in states.items()}


async def reached(service: Service, engines: dict[str, Running], ref: VersionRef, engine: str) -> None:
    """Wait until the version is on an engine."""
    async with asyncio.timeout(20):
        while (await holding(engines, ref))[engine] is None:
            await asyncio.sleep(0.02)


async def terminate(service: Service, operation: OperationView) -> None:
    await service.client.get_workflow_handle(workflow_id(operation.id)).terminate("by hand")


async def test_a_load_terminated_in_the_middle_is_put_back_and_its_lock_is_free(
    service: Service, sweeper: Sweeper, engines: dict[str, Running], folder: Path
) -> None:
    drivers = drivers_of(engines)
    async with service.orchestrating(), service.hosting(drivers):  # type: ignore[arg-type]
        await service.join(drivers)  # type: ignore[arg-type]
        ref = await service.publish(folder)
        engines["e2"].inside.faults = Faults(load_seconds=1.5)
        operation = await service.submit_load(ref)
        await service.start(operation)
        await reached(service, engines, ref, "e1")
        await terminate(service, operation)

        assert await sweeper.run_once() == 1
        ended = await service.recovered(operation)
        assert (ended.state, ended.error and ended.error.code) == (
            OperationState.FAILED,
            "workflow_terminated",
        )
        assert not ended.repairs_pending
        assert ended.epoch > operation.epoch
        await asyncio.sleep(1.6)  # the load that was under way would be done by now
        assert await holding(engines, ref) == {"e1": None, "e2": None}
        assert await service.registry.states() == {}
        assert await sweeper.run_once() == 0

        engines["e2"].inside.faults = Faults()
        await service.load(ref)
        assert await holding(engines, ref) == {"e1": AdapterState.SERVING, "e2": AdapterState.SERVING}


async def test_an_unload_terminated_in_its_drain_serves_again(
    service: Service, sweeper: Sweeper, engines: dict[str, Running], folder: Path
) -> None:
    drivers = drivers_of(engines)
    async with service.orchestrating(), service.hosting(drivers):  # type: ignore[arg-type]
        await service.join(drivers)  # type: ignore[arg-type]
        ref = await service.publish(folder)
        await service.load(ref)
        async with _request(engines["e1"], ref):
            operation = await service.submit_unload(ref, drain_seconds=60)
            await service.start(operation)
            async with asyncio.timeout(20):
                while await holding(engines, ref) != {"e1": AdapterState.DRAINING, "e2": None}:
                    await asyncio.sleep(0.02)
            await terminate(service, operation)
            assert await sweeper.run_once() == 1
            ended = await service.recovered(operation)
        assert (ended.state, ended.repairs_pending) == (OperationState.FAILED, False)
        assert await holding(engines, ref) == {"e1": AdapterState.SERVING, "e2": AdapterState.SERVING}
        assert set((await service.registry.states()).values()) == {"serving"}


class _request:
    """A request that runs until the end of the block."""

    def __init__(self, engine: Running, ref: VersionRef) -> None:
        self._engine = engine
        self._body = {
            "model": ref.served_name, "prompt": "x", "stream": True, "max_tokens": 100, "ignore_eos": True,
        }  # fmt: skip

    async def __aenter__(self) -> None:
        self._engine.inside.faults = Faults(token_seconds=0.5)
        self._client = httpx.AsyncClient(base_url=self._engine.url, trust_env=False, timeout=30)
        self._stream = self._client.stream("POST", "/v1/completions", json=self._body)
        answer = await self._stream.__aenter__()
        self._lines = answer.aiter_lines()
        await anext(self._lines)

    async def __aexit__(self, *_: object) -> None:
        await self._lines.aclose()  # type: ignore[attr-defined]
        await self._stream.__aexit__(None, None, None)
        await self._client.aclose()


async def test_a_publish_terminated_in_the_middle_leaves_a_version_that_can_be_published_again(
    service: Service, sweeper: Sweeper, folder: Path
) -> None:
    operation = await service.registry.submit(new_publish(uri=folder.as_uri(), base_model=BASE))
    async with service.orchestrating():
        await service.start(operation)
        async with asyncio.timeout(20):
            while (await service.registry.operation(operation.id)).state is OperationState.PENDING:
                await asyncio.sleep(0.005)
        await terminate(service, operation)
        await sweeper.run_once()
        ended = await service.recovered(operation)
        assert ended.state is OperationState.FAILED
        assert (await service.publish(folder)).version == 1


async def test_running_operations_are_left_alone(
    service: Service, sweeper: Sweeper, engines: dict[str, Running], folder: Path
) -> None:
    drivers = drivers_of(engines)
    async with service.orchestrating(), service.hosting(drivers):  # type: ignore[arg-type]
        await service.join(drivers)  # type: ignore[arg-type]
        ref = await service.publish(folder)
        engines["e1"].inside.faults = Faults(load_seconds=1)
        operation = await service.submit_load(ref)
        run = await service.start(operation)
        await reached(service, engines, ref, "e2")
        assert await sweeper.run_once() == 0
        ended = await service.ended(operation, run)
    assert ended.state is OperationState.SUCCEEDED
    assert ended.epoch == operation.epoch
    assert {step.state for step in ended.steps} == {StepState.SUCCEEDED}


async def test_a_workflow_that_closed_just_now_gets_its_grace(service: Service) -> None:
    operation = await service.registry.submit(new_publish())
    run = await service.start(operation)
    async with service.database.transaction() as tx:
        await runs.begin(tx, run_of(operation, run), ())
    await terminate(service, operation)
    sweeper = Sweeper(service.database, service.client)
    assert await sweeper.run_once() == 0
    assert (await service.registry.operation(operation.id)).state is OperationState.RUNNING


async def test_two_sweepers_start_one_recovery(service: Service, sweeper: Sweeper) -> None:
    operation = await service.registry.submit(new_publish())
    run = await service.start(operation)
    async with service.database.transaction() as tx:
        await runs.begin(tx, run_of(operation, run), ())
    await terminate(service, operation)
    await asyncio.gather(*(Sweeper(service.database, service.client).run_once() for _ in range(2)))
    async with service.orchestrating():
        assert (await service.recovered(operation)).state is OperationState.FAILED
    actions = await service.registry.actions()
    assert actions.count("operation.taken_over") == 1
