"""Operations that are too wide for a child per engine: batches keep every promise that the narrow ones keep."""

import asyncio
import uuid
from typing import Any

import pytest
from temporalio.client import WorkflowFailureError, WorkflowHandle
from temporalio.exceptions import ApplicationError, CancelledError

from loradock.core.models import OperationKind, OperationState, StepState
from tests.workflows.conftest import Bench
from tests.workflows.test_recover import recover
from tests.workflows.world import REF, World

LOAD = OperationKind.LOAD
UNLOAD = OperationKind.UNLOAD
ENGINES = tuple(f"engine-{number:02}" for number in range(12))
AWKWARD = "engine-07"
"""In the second of three batches."""


def wide(kind: OperationKind = LOAD) -> World:
    world = World(ENGINES, batch_size=5, agents=3)
    world.kind = kind
    if kind is UNLOAD:
        world.serve()
    return world


async def ends_badly(handle: WorkflowHandle[Any, Any]) -> BaseException | None:
    with pytest.raises(WorkflowFailureError) as caught:
        await asyncio.wait_for(handle.result(), 40)
    return caught.value.cause


def held(world: World) -> set[str]:
    return {engine for engine, names in world.state.engines.items() if REF.served_name in names}


async def test_a_wide_load_reaches_every_engine_and_routes_them_together(bench: Bench) -> None:
    world = wide()
    async with bench.workers(world):
        handle = await bench.start(LOAD)
        result = await handle.result()
    assert result["engines"] == list(ENGINES)
    assert set(world.state.cards.values()) == {"serving"}
    assert held(world) == set(ENGINES)
    assert world.calls.count("stage_cards") == 3
    assert world.calls[-1] == "commit_load"
    told = {(step.name, step.engine): step.state for step in world.noted}
    assert told == {
        (name, engine): StepState.SUCCEEDED for name in ("download", "load", "verify") for engine in ENGINES
    }


async def test_a_wide_unload_withdraws_first_and_leaves_nothing(bench: Bench) -> None:
    world = wide(UNLOAD)
    async with bench.workers(world):
        await (await bench.start(UNLOAD)).result()
    assert world.calls[:2] == ["plan_unload", "withdraw_cards"]
    assert world.calls[-1] == "commit_unload"
    assert (held(world), world.state.cards, world.state.pins) == (set(), {}, set())


@pytest.mark.parametrize(
    ("kind", "step", "after_effect"),
    [
        (LOAD, "take_batch", True),
        (LOAD, "download_adapter", False),
        (LOAD, "load_adapter", False),
        (LOAD, "load_adapter", True),
        (LOAD, "stage_cards", True),
        (LOAD, "commit_load", False),
        (UNLOAD, "unload_adapter", False),
        (UNLOAD, "unload_adapter", True),
        (UNLOAD, "commit_unload", False),
    ],
    ids=str,
)
async def test_a_failure_at_any_step_of_a_wide_operation_puts_everything_back(
    bench: Bench, kind: OperationKind, step: str, after_effect: bool
) -> None:
    world = wide(kind)
    before = world.snapshot()
    times = (
        1 if step in {"take_batch", "note_steps"} else 10_000
    )  # the undo takes a batch and notes steps as well
    engine = AWKWARD if step.endswith("_adapter") else None
    world.fail(step, engine=engine, after_effect=after_effect, times=times)
    async with bench.workers(world):
        cause = await ends_badly(await bench.start(kind))
    assert isinstance(cause, ApplicationError)
    assert cause.type == "engine_error"
    assert [(end.state, end.failure.code) for end in world.ended] == [(OperationState.FAILED, "engine_error")]
    assert not world.ended[0].repairs_pending
    assert (held(world), world.state.cards) == (held_before(before), before.cards)
    assert (world.state.draining, world.state.pins) == (set(), before.pins)
    if engine is not None:
        assert AWKWARD in world.ended[0].failure.message
        failed = [one for one in world.noted if one.state is StepState.FAILED]
        assert [(one.engine, one.error and one.error.code) for one in failed] == [(AWKWARD, "engine_error")]


def held_before(before: Any) -> set[str]:
    return {engine for engine, names in before.engines.items() if names}


@pytest.mark.parametrize(
    ("kind", "step", "swallowed"),
    [
        (LOAD, "take_batch", False),
        (LOAD, "load_adapter", False),
        (LOAD, "load_adapter", True),
        (LOAD, "stage_cards", True),
        (UNLOAD, "unload_adapter", False),
        (UNLOAD, "release_adapter", True),
    ],
    ids=str,
)
async def test_a_cancel_in_a_wide_operation_puts_everything_back(
    bench: Bench, kind: OperationKind, step: str, swallowed: bool
) -> None:
    world = wide(kind)
    before = world.snapshot()
    engine = AWKWARD if step.endswith("_adapter") else None
    there = world.hang(step, engine=engine, swallow_cancel=swallowed, after_effect=True, times=1)
    async with bench.workers(world):
        handle = await bench.start(kind)
        async with asyncio.timeout(40):
            await there.wait()
            await handle.cancel()
        assert isinstance(await ends_badly(handle), CancelledError)
    assert [(end.state, end.repairs_pending) for end in world.ended] == [(OperationState.ABORTED, False)]
    assert (held(world), world.state.cards) == (held_before(before), before.cards)
    assert (world.state.draining, world.state.pins) == (set(), before.pins)


async def test_an_engine_that_refuses_does_not_hold_the_others(bench: Bench) -> None:
    world = wide()
    world.fail("load_adapter", engine=AWKWARD, code="no_free_slot")
    async with bench.workers(world):
        result = await (await bench.start(LOAD, policy="best_effort", min_ready=11)).result()
    others = set(ENGINES) - {AWKWARD}
    assert (set(result["engines"]), set(result["failed_engines"])) == (others, {AWKWARD})
    assert held(world) == others
    assert {engine for engine, _ in world.state.pins} == others
    assert {engine for engine, _ in world.state.cards} == others


async def test_best_effort_on_too_few_of_many_engines_puts_everything_back(bench: Bench) -> None:
    world = wide()
    before = world.snapshot()
    world.fail("load_adapter", engine=AWKWARD, code="no_free_slot")
    async with bench.workers(world):
        await ends_badly(await bench.start(LOAD, policy="best_effort", min_ready=12))
    assert world.state == before
    assert world.ended[0].failure.code == "not_enough_engines"
    assert world.ended[0].failure.details["engines"] == {f"{AWKWARD}@1": "no_free_slot"}


async def test_a_batch_that_fails_as_a_whole_leaves_nothing_beside_those_that_are_served(
    bench: Bench,
) -> None:
    world = wide()
    world.fail("stage_cards", times=1)
    async with bench.workers(world):
        result = await (await bench.start(LOAD, policy="best_effort")).result()
    served = set(result["engines"])
    assert len(served) in {7, 10}  # two of the batches of 5, 5 and 2
    assert held(world) == served
    assert {engine for engine, _ in world.state.pins} == served


async def test_an_undo_that_fails_on_one_engine_is_told_and_the_others_are_put_back(bench: Bench) -> None:
    world = wide()
    world.fail("commit_load", code="engine_restarted")
    world.fail("unload_adapter", engine=AWKWARD, code="unload_failed")
    async with bench.workers(world):
        cause = await ends_badly(await bench.start(LOAD))
    assert held(world) == {AWKWARD}
    assert world.state.cards == {}
    assert (world.ended[0].failure.code, world.ended[0].repairs_pending) == ("engine_restarted", True)
    assert isinstance(cause, ApplicationError)
    assert AWKWARD in str(cause.details)


async def test_a_wide_unload_that_cannot_be_put_back_everywhere_loses_those_cards_alone(bench: Bench) -> None:
    world = wide(UNLOAD)
    world.fail("unload_adapter", engine=AWKWARD, code="drain_timeout")
    world.fail("load_adapter", engine="engine-01", code="no_free_slot")
    async with bench.workers(world):
        await ends_badly(await bench.start(UNLOAD))
    lost = {engine for (engine, _), state in world.state.cards.items() if state == "lost"}
    serving = {engine for (engine, _), state in world.state.cards.items() if state == "serving"}
    assert (lost, serving) == ({"engine-01"}, set(ENGINES) - {"engine-01"})
    assert (world.ended[0].failure.code, world.ended[0].repairs_pending) == ("drain_timeout", True)


async def test_a_wide_load_goes_on_with_the_next_orchestrator_and_replays_at_every_task(bench: Bench) -> None:
    world = wide()
    there = world.hang("load_adapter", engine=AWKWARD, times=1, swallow_cancel=True)
    async with bench.workers(world):
        handle = await bench.start(LOAD)
        await there.wait()
    world.released.set()
    async with bench.workers(world, cached=0):
        result = await asyncio.wait_for(handle.result(), 60)
    assert result["engines"] == list(ENGINES)
    assert set(world.state.cards.values()) == {"serving"}


async def test_putting_back_a_wide_load_replays_at_every_task(bench: Bench) -> None:
    world = wide()
    before = world.snapshot()
    world.fail("commit_load", code="engine_restarted")
    async with bench.workers(world, cached=0):
        await ends_badly(await bench.start(LOAD))
    assert world.state == before


@pytest.mark.parametrize("kind", [LOAD, UNLOAD], ids=str)
async def test_a_wide_operation_that_was_terminated_is_put_back(bench: Bench, kind: OperationKind) -> None:
    world = wide(kind)
    before = world.snapshot()
    step = "load_adapter" if kind is LOAD else "unload_adapter"
    there = world.hang(step, engine=AWKWARD, after_effect=True, times=1)
    async with bench.workers(world):
        handle = await bench.start(kind)
        await there.wait()
        await handle.terminate("by hand")
        world.released.set()
        await recover(bench, f"op-{uuid.uuid4().hex}" if kind is UNLOAD else handle.id.removeprefix("op/"))
    assert (held(world), world.state.cards) == (held_before(before), before.cards)
    assert (world.ended[0].failure.code, world.ended[0].repairs_pending) == ("workflow_terminated", False)
