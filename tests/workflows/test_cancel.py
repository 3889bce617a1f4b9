"""A cancel at any moment: everything is put back, the operation ends as aborted, the run as cancelled."""

import asyncio
from typing import Any

import pytest
from temporalio.api.enums.v1 import EventType
from temporalio.client import WorkflowExecutionStatus, WorkflowFailureError, WorkflowHandle
from temporalio.exceptions import CancelledError

from loradock.core.models import OperationKind, OperationState
from tests.workflows.conftest import Bench
from tests.workflows.world import REF, World

LOAD = OperationKind.LOAD
UNLOAD = OperationKind.UNLOAD
PUBLISH = OperationKind.PUBLISH

AWAITS = [
    (PUBLISH, "begin_publish"),
    (PUBLISH, "stage_source"),
    (PUBLISH, "reserve_version"),
    (PUBLISH, "upload_artifact"),
    (LOAD, "plan_load"),
    (LOAD, "download_adapter"),
    (LOAD, "load_adapter"),
    (LOAD, "stage_card"),
    (UNLOAD, "plan_unload"),
    (UNLOAD, "withdraw_cards"),
    (UNLOAD, "unload_adapter"),
    (UNLOAD, "release_adapter"),
]


@pytest.mark.parametrize("swallowed", [False, True], ids=["step obeys", "step swallows the cancel"])
@pytest.mark.parametrize(("kind", "step"), AWAITS, ids=str)
async def test_a_cancel_at_any_await_puts_everything_back(
    bench: Bench, kind: OperationKind, step: str, swallowed: bool
) -> None:
    world = World()
    if kind is UNLOAD:
        world.serve()
    before = world.snapshot()
    engine = "engine-2" if step.endswith(("_adapter", "_card")) else None
    there = world.hang(step, engine=engine, swallow_cancel=swallowed, after_effect=True, times=1)
    async with bench.workers(world):
        handle = await bench.start(kind)
        async with asyncio.timeout(20):
            await there.wait()
            await handle.cancel()
            with pytest.raises(WorkflowFailureError) as caught:
                await handle.result()
    assert isinstance(caught.value.cause, CancelledError)
    assert [end.state for end in world.ended] == [OperationState.ABORTED]
    assert world.ended[0].failure.code == "operation_cancelled"
    assert not world.ended[0].repairs_pending
    assert {e: set(held) for e, held in world.state.engines.items()} == {
        e: set(held) for e, held in before.engines.items()
    }
    assert world.state.cards == before.cards
    assert world.state.draining == set()
    assert world.state.pins == before.pins
    assert world.state.versions.get(1) in {None, "failed"}


async def test_further_cancels_do_not_cut_the_putting_back(bench: Bench) -> None:
    world = World()
    world.fail("commit_load", code="engine_restarted")
    undoing = world.hang("unload_adapter", engine="engine-1", times=1)
    async with bench.workers(world):
        handle = await bench.start(LOAD)
        async with asyncio.timeout(20):
            await undoing.wait()
            await handle.cancel()
            await handle.cancel()
            await _cancels_seen(handle)
            world.released.set()
            with pytest.raises(WorkflowFailureError):
                await handle.result()
    assert world.state.engines == {"engine-1": {}, "engine-2": {}}
    assert world.state.cards == {}
    assert world.state.pins == set()
    assert len(world.ended) == 1


async def _cancels_seen(handle: WorkflowHandle[Any, Any]) -> None:
    """Wait until the workflow has worked on the cancel: a task completed after it in the history."""
    while True:
        types = [event.event_type async for event in handle.fetch_history_events()]
        cancel = EventType.EVENT_TYPE_WORKFLOW_EXECUTION_CANCEL_REQUESTED
        done = EventType.EVENT_TYPE_WORKFLOW_TASK_COMPLETED
        if cancel in types and done in types[types.index(cancel) :]:
            return
        await asyncio.sleep(0.02)


async def test_a_cancel_in_the_last_transaction_comes_too_late(bench: Bench) -> None:
    world = World()
    there = world.hang("commit_load", times=1, swallow_cancel=True)
    async with bench.workers(world):
        handle = await bench.start(LOAD)
        async with asyncio.timeout(20):
            await there.wait()
            await handle.cancel()
            world.released.set()
            result = await handle.result()
    assert result["engines"] == ["engine-1", "engine-2"]
    assert (await handle.describe()).status is WorkflowExecutionStatus.COMPLETED
    assert set(world.state.cards.values()) == {"serving"}
    assert world.ended == []


async def test_a_cancel_while_the_others_still_load_undoes_those_that_had_finished(bench: Bench) -> None:
    world = World(("engine-1", "engine-2", "engine-3"))
    there = world.hang("load_adapter", engine="engine-3", times=1)
    async with bench.workers(world):
        handle = await bench.start(LOAD)
        async with asyncio.timeout(20):
            await there.wait()
            while REF.served_name not in world.state.engines["engine-1"]:
                await asyncio.sleep(0.01)
            await handle.cancel()
            with pytest.raises(WorkflowFailureError):
                await handle.result()
    assert all(not held for held in world.state.engines.values())
    assert world.state.cards == {}
    assert world.state.pins == set()
