"""Orchestrators come and go: evicted from the cache at every task, stopped in the middle, and started again."""

import asyncio

import pytest
from temporalio.client import WorkflowExecutionStatus, WorkflowFailureError

from loradock.core.models import OperationKind, OperationState
from tests.workflows.conftest import Bench
from tests.workflows.world import World


async def test_a_load_replays_from_its_history_at_every_task(bench: Bench) -> None:
    world = World()
    async with bench.workers(world, cached=0):
        result = await (await bench.start(OperationKind.LOAD)).result()
    assert result["engines"] == ["engine-1", "engine-2"]
    assert world.calls.count("commit_load") == 1


async def test_putting_back_replays_from_its_history_at_every_task(bench: Bench) -> None:
    world = World()
    before = world.snapshot()
    world.fail("load_adapter", engine="engine-2", code="rank_too_high")
    async with bench.workers(world, cached=0):
        with pytest.raises(WorkflowFailureError):
            await (await bench.start(OperationKind.LOAD)).result()
    assert world.state == before
    assert [end.state for end in world.ended] == [OperationState.FAILED]


async def test_a_cancel_replays_from_its_history_at_every_task(bench: Bench) -> None:
    world = World()
    before = world.snapshot()
    there = world.hang("load_adapter", engine="engine-2", times=1)
    async with bench.workers(world, cached=0):
        handle = await bench.start(OperationKind.LOAD)
        async with asyncio.timeout(30):
            await there.wait()
            await handle.cancel()
            with pytest.raises(WorkflowFailureError):
                await handle.result()
    assert world.state == before
    assert [end.state for end in world.ended] == [OperationState.ABORTED]


async def test_eviction_of_a_waiting_run_undoes_nothing(bench: Bench) -> None:
    world = World()
    there = world.hang("load_adapter", engine="engine-2", times=1)
    async with bench.workers(world, cached=1):
        handle = await bench.start(OperationKind.LOAD)
        await there.wait()
        for _ in range(3):  # three more runs push the waiting one out of the cache
            await (await bench.start(OperationKind.PUBLISH)).result()
        assert world.ended == []
        assert not [call for call in world.calls if call.startswith(("unload", "retract", "release", "mark"))]
        world.released.set()
        await handle.result()
    assert set(world.state.cards.values()) == {"serving"}


async def test_a_load_goes_on_with_the_next_orchestrator(bench: Bench) -> None:
    world = World()
    there = world.hang("load_adapter", engine="engine-2", times=1, swallow_cancel=True)
    async with bench.workers(world):
        handle = await bench.start(OperationKind.LOAD)
        await there.wait()
    assert (await handle.describe()).status is WorkflowExecutionStatus.RUNNING
    world.released.set()
    async with bench.workers(world):
        result = await asyncio.wait_for(handle.result(), 60)
    assert result["engines"] == ["engine-1", "engine-2"]
    assert set(world.state.cards.values()) == {"serving"}
