"""ReconcileEngine: each repair by itself, another look whenever asked for, and nothing half done by a cancel."""

import asyncio

import pytest
from temporalio.client import WorkflowExecutionStatus, WorkflowFailureError

from loradock.core.models import VersionRef
from tests.workflows.conftest import Bench
from tests.workflows.histories import waits_for_its_repair
from tests.workflows.world import DIGEST, REF, World

ENGINE = "engine-1"


def _also_wanted(world: World, adapter: str, int_id: int) -> VersionRef:
    ref = VersionRef(adapter=adapter, version=1, digest=DIGEST, int_id=int_id)
    world.wanted[ref.served_name] = ref
    return ref


async def test_what_is_missing_comes_and_what_nobody_wants_goes(bench: Bench) -> None:
    world = World()
    _also_wanted(world, "poet", 8)
    world.state.engines[ENGINE]["leftover@1"] = "op-earlier"
    async with bench.workers(world):
        result = await (await bench.reconcile(ENGINE)).result()
    assert (result["as_wanted"], result["repaired"], result["failed"]) == (True, 3, 0)
    assert set(world.state.engines[ENGINE]) == {"greeter@1", "poet@1"}
    assert set(world.state.cards) == {(ENGINE, "greeter@1"), (ENGINE, "poet@1")}
    assert world.state.engines["engine-2"] == {}


async def test_an_adapter_that_fails_is_taken_back_and_noted_and_blocks_no_other(bench: Bench) -> None:
    world = World()
    _also_wanted(world, "poet", 8)
    world.fail("load_adapter", served_name="poet@1", code="adapter_corrupt", after_effect=True)
    async with bench.workers(world):
        result = await (await bench.reconcile(ENGINE)).result()
    assert (result["as_wanted"], result["repaired"], result["failed"]) == (False, 1, 1)
    assert set(world.state.engines[ENGINE]) == {"greeter@1"}
    assert world.state.pins == {(ENGINE, "greeter@1")}
    (failed,) = world.failed_repairs
    assert (failed.repair.served_name, failed.failure.code) == ("poet@1", "adapter_corrupt")


async def test_a_signal_has_it_look_again_while_a_repair_still_runs(bench: Bench) -> None:
    world = World()
    there = world.hang("download_adapter", served_name="greeter@1", times=1)
    async with bench.workers(world):
        handle = await bench.reconcile(ENGINE)
        await there.wait()
        poet = _also_wanted(world, "poet", 8)
        await handle.signal("look_again")
        async with asyncio.timeout(30):
            while world.state.cards.get((ENGINE, poet.served_name)) != "serving":
                await asyncio.sleep(0.05)
        assert (ENGINE, "greeter@1") not in world.state.cards
        world.released.set()
        result = await handle.result()
    assert (result["as_wanted"], result["looks"], result["repaired"]) == (True, 2, 2)
    assert len(world.ended_looks) == 1


@pytest.mark.parametrize("cached", [100, 0])
async def test_when_its_history_is_long_it_looks_no_more_and_ends_with_the_repairs_that_run(
    impatient_bench: Bench, cached: int
) -> None:
    world = World()
    there = world.hang("download_adapter", served_name="greeter@1", times=1)
    async with impatient_bench.workers(world, cached=cached):
        handle = await impatient_bench.reconcile(ENGINE)
        await there.wait()
        looks = []
        for _ in range(20):
            await handle.signal("look_again")
            await waits_for_its_repair(handle)
            looks.append(world.calls.count(f"begin_look:{ENGINE}"))
        assert 1 < looks[-1] == looks[10], looks
        poet = _also_wanted(world, "poet", 8)
        world.released.set()
        result = await handle.result()
        assert (result["looks"], result["repaired"]) == (looks[-1], 1)
        assert len(world.ended_looks) == 1
        # What came meanwhile is the next run's.
        assert (ENGINE, poet.served_name) not in world.state.cards
        assert (await (await impatient_bench.reconcile(ENGINE)).result())["as_wanted"]
        assert world.state.cards[ENGINE, poet.served_name] == "serving"


async def test_what_is_wanted_no_more_when_it_is_there_is_taken_back(bench: Bench) -> None:
    world = World()
    there = world.hang("load_adapter", times=1)
    async with bench.workers(world):
        handle = await bench.reconcile(ENGINE)
        await there.wait()
        world.wanted.clear()
        world.released.set()
        await handle.result()
    assert (world.state.engines[ENGINE], world.state.cards, world.state.pins) == ({}, {}, set())


async def test_a_cancel_ends_it_and_leaves_nothing_half_done(bench: Bench) -> None:
    world = World()
    there = world.hang("load_adapter", times=1)
    async with bench.workers(world):
        handle = await bench.reconcile(ENGINE)
        await there.wait()
        await handle.cancel()
        with pytest.raises(WorkflowFailureError):
            await handle.result()
        assert (await handle.describe()).status is WorkflowExecutionStatus.CANCELED
        assert (world.state.engines[ENGINE], world.state.cards, world.state.pins) == ({}, {}, set())
        assert [one.failure.code for one in world.failed_repairs] == ["operation_cancelled"]
        result = await (await bench.reconcile(ENGINE)).result()
    assert result["as_wanted"]
    assert world.state.cards == {(ENGINE, REF.served_name): "serving"}


async def test_an_engine_whose_agent_takes_no_work_is_left_to_the_next_look(skipping_bench: Bench) -> None:
    world = World()
    async with skipping_bench.workers(world, hosts=False):
        result = await (await skipping_bench.reconcile(ENGINE)).result()
    assert (result["as_wanted"], result["repaired"]) == (False, 0)
    (ended,) = world.ended_looks
    assert ended.failure is not None
    assert ended.failure.code == "agent_unreachable"


async def test_the_scan_goes_through_all_engines(bench: Bench) -> None:
    world = World(("engine-1", "engine-2", "engine-3"))
    async with bench.workers(world):
        result = await bench.client.execute_workflow(
            "ScanFleet", id=f"scan-{id(world)}", task_queue="lifecycle"
        )
    assert result == {"engines": 3, "differing": 3}
    assert world.calls == ["scan_fleet"] * 3
