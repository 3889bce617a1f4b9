"""RecoverOperation: what the sweeper has done for an operation whose workflow is gone."""

import uuid
from datetime import timedelta

import pytest

from loradock.core.ids import LIFECYCLE_QUEUE
from loradock.core.models import OperationKind, OperationState
from tests.workflows.conftest import Bench
from tests.workflows.world import REF, World
from workflows.inputs import RecoverInput


async def recover(bench: Bench, operation: str) -> None:
    await bench.client.execute_workflow(
        "RecoverOperation",
        RecoverInput(operation=operation, actor="tester"),
        id=f"op/{operation}/recover",
        task_queue=LIFECYCLE_QUEUE,
        execution_timeout=timedelta(minutes=1),
    )


@pytest.mark.parametrize("step", ["download_adapter", "load_adapter", "stage_card"])
async def test_a_terminated_load_is_put_back_under_a_new_epoch(bench: Bench, step: str) -> None:
    world = World()
    there = world.hang(step, engine="engine-2", after_effect=True, times=1)
    async with bench.workers(world):
        handle = await bench.start(OperationKind.LOAD)
        await there.wait()
        await handle.terminate("by hand")
        world.released.set()
        await recover(bench, handle.id.removeprefix("op/"))
    assert world.state.engines == {"engine-1": {}, "engine-2": {}}
    assert world.state.cards == {}
    assert world.state.pins == set()
    assert [(end.state, end.failure.code, end.run.epoch) for end in world.ended] == [
        (OperationState.FAILED, "workflow_terminated", 99)
    ]


async def test_a_terminated_unload_serves_again_where_it_served(bench: Bench) -> None:
    world = World()
    world.serve()
    world.kind = OperationKind.UNLOAD
    there = world.hang("unload_adapter", engine="engine-2", times=1)
    async with bench.workers(world):
        handle = await bench.start(OperationKind.UNLOAD)
        await there.wait()
        await handle.terminate("by hand")
        world.released.set()
        await recover(bench, f"op-{uuid.uuid4().hex}")
    assert all(REF.served_name in held for held in world.state.engines.values())
    assert set(world.state.cards.values()) == {"serving"}
    assert world.state.draining == set()
    assert not world.ended[0].repairs_pending


async def test_an_engine_that_cannot_be_put_back_is_told_and_loses_its_card(bench: Bench) -> None:
    world = World()
    world.serve()
    world.state.engines["engine-1"] = {}
    world.state.cards = dict.fromkeys(world.state.cards, "draining")
    world.kind = OperationKind.UNLOAD
    world.fail("load_adapter", engine="engine-1", code="no_free_slot")
    async with bench.workers(world):
        await recover(bench, f"op-{uuid.uuid4().hex}")
    assert world.state.cards[("engine-1", REF.served_name)] == "lost"
    assert world.ended[0].repairs_pending
