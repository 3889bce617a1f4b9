"""Publish, load and unload as stories: what they do, and that a failure at any step leaves everything as it was."""

from contextlib import nullcontext

import pytest
from temporalio.client import WorkflowFailureError
from temporalio.exceptions import ApplicationError

from loradock.core.models import OperationKind, OperationState, StepState
from tests.workflows.conftest import Bench
from tests.workflows.world import REF, World

PUBLISH = OperationKind.PUBLISH
LOAD = OperationKind.LOAD
UNLOAD = OperationKind.UNLOAD


async def test_a_publish_stages_reserves_uploads_and_registers(bench: Bench) -> None:
    world = World()
    async with bench.workers(world):
        result = await (await bench.start(PUBLISH)).result()
    assert result["version"] == 1
    assert world.calls == [
        "begin_publish",
        "stage_source",
        "reserve_version",
        "upload_artifact",
        "register_version",
    ]
    assert world.state.versions == {1: "ready"}


@pytest.mark.parametrize("ending", ["succeeds", "fails", "is cancelled"])
async def test_an_upload_is_removed_when_its_publish_has_ended_however_that_was(
    bench: Bench, ending: str
) -> None:
    world = World()
    session = "up-" + "0" * 32
    there = world.hang("upload_artifact", times=1) if ending == "is cancelled" else None
    if ending == "fails":
        world.fail("upload_artifact")
    world.fail("remove_upload", times=1, retryable=True)
    async with bench.workers(world):
        handle = await bench.start(PUBLISH, uri=f"upload://{session}")
        if there is not None:
            await there.wait()
            await handle.cancel()
        with nullcontext() if ending == "succeeds" else pytest.raises(WorkflowFailureError):
            await handle.result()
    assert world.removed_uploads == [session]
    assert world.calls[-1] == "remove_upload"


async def test_an_upload_that_cannot_be_removed_spoils_nothing(bench: Bench) -> None:
    world = World()
    world.fail("remove_upload", code="store_denied")
    async with bench.workers(world):
        handle = await bench.start(PUBLISH, uri=f"upload://up-{'0' * 32}/sha256-{'0' * 64}")
        assert (await handle.result())["version"] == 1


async def test_a_load_reaches_every_engine_and_routes_them_together(bench: Bench) -> None:
    world = World()
    async with bench.workers(world):
        result = await (await bench.start(LOAD)).result()
    assert result["engines"] == ["engine-1", "engine-2"]
    assert set(world.state.cards.values()) == {"serving"}
    assert all(REF.served_name in held for held in world.state.engines.values())
    assert world.calls[0] == "plan_load"
    assert world.calls[-1] == "commit_load"
    assert world.ended == []


async def test_an_unload_withdraws_before_it_drains_and_forgets_last(bench: Bench) -> None:
    world = World()
    world.serve()
    async with bench.workers(world):
        await (await bench.start(UNLOAD)).result()
    assert world.calls[:2] == ["plan_unload", "withdraw_cards"]
    assert world.calls[-1] == "commit_unload"
    assert world.state.cards == {}
    assert world.state.pins == set()
    assert all(not held for held in world.state.engines.values())


FAILING_STEPS = [
    (PUBLISH, step) for step in ("begin_publish", "stage_source", "reserve_version", "upload_artifact", "register_version")
] + [
    (LOAD, step) for step in ("plan_load", "download_adapter", "load_adapter", "stage_card", "commit_load")
] + [
    (UNLOAD, step) for step in ("plan_unload", "withdraw_cards", "unload_adapter", "commit_unload")
]  # fmt: skip


NAMED_STEPS = {
    "stage_source": ("fetch", ""),
    "upload_artifact": ("upload", ""),
    "download_adapter": ("download", "engine-2"),
    "load_adapter": ("load", "engine-2"),
    "unload_adapter": ("remove", "engine-2"),
}
"""The step of the operation's row that fails with each activity."""


@pytest.mark.parametrize(
    ("kind", "step", "after_effect"),
    [(kind, step, False) for kind, step in FAILING_STEPS]
    # The last transaction either commits or it does not: it cannot fail after its effect.
    + [(kind, step, True) for kind, step in FAILING_STEPS if not step.startswith(("register", "commit"))],
    ids=str,
)
async def test_a_failure_at_any_step_puts_everything_back(
    bench: Bench, kind: OperationKind, step: str, after_effect: bool
) -> None:
    world = World()
    if kind is UNLOAD:
        world.serve()
    before = world.snapshot()
    world.fail(
        step, engine="engine-2" if step.endswith(("_adapter", "_card")) else None, after_effect=after_effect
    )
    async with bench.workers(world):
        handle = await bench.start(kind)
        with pytest.raises(WorkflowFailureError) as caught:
            await handle.result()
    cause = caught.value.cause
    assert isinstance(cause, ApplicationError)
    assert cause.type == "engine_error"
    assert [end.state for end in world.ended] == [OperationState.FAILED]
    assert world.ended[0].failure.code == "engine_error"
    told = {(one.name, one.engine): one for one in world.ended[0].steps}
    if step in NAMED_STEPS:
        failed = told[NAMED_STEPS[step]]
        assert failed.state is StepState.FAILED
        assert failed.error is not None
        assert failed.error.code == "engine_error"
    if kind is PUBLISH:
        assert world.state.versions.get(1) in {None, "failed"}
        return
    assert world.state.engines.keys() == before.engines.keys()
    assert {e: set(held) for e, held in world.state.engines.items()} == {
        e: set(held) for e, held in before.engines.items()
    }
    assert world.state.cards == before.cards
    assert world.state.draining == set()
    assert world.state.pins == before.pins


async def test_what_an_earlier_operation_loaded_stays_when_a_load_of_the_same_version_fails(
    bench: Bench,
) -> None:
    world = World()
    world.serve("engine-1")
    before = world.snapshot()
    world.fail("load_adapter", engine="engine-2", code="no_free_slot")
    async with bench.workers(world):
        with pytest.raises(WorkflowFailureError):
            await (await bench.start(LOAD)).result()
    assert world.state == before
    assert world.ended[0].failure.code == "no_free_slot"
    assert "engine-2" in world.ended[0].failure.message


async def test_best_effort_serves_where_it_could_and_names_where_it_could_not(bench: Bench) -> None:
    world = World(("engine-1", "engine-2", "engine-3"))
    world.fail("load_adapter", engine="engine-2", code="rank_too_high")
    async with bench.workers(world):
        result = await (await bench.start(LOAD, policy="best_effort", min_ready=2)).result()
    assert result["engines"] == ["engine-1", "engine-3"]
    assert result["failed_engines"] == {"engine-2": "rank_too_high"}
    assert world.state.engines["engine-2"] == {}
    assert world.state.pins == {("engine-1", REF.served_name), ("engine-3", REF.served_name)}


async def test_best_effort_with_too_few_engines_puts_everything_back(bench: Bench) -> None:
    world = World()
    before = world.snapshot()
    world.fail("load_adapter", engine="engine-2", code="rank_too_high")
    async with bench.workers(world):
        with pytest.raises(WorkflowFailureError):
            await (await bench.start(LOAD, policy="best_effort", min_ready=2)).result()
    assert world.state == before
    assert world.ended[0].failure.code == "not_enough_engines"


async def test_a_cache_that_is_not_released_does_not_fail_an_unload_that_freed_the_slot(bench: Bench) -> None:
    world = World()
    world.serve()
    world.fail("release_adapter", engine="engine-2", code="disk_error")
    async with bench.workers(world):
        await (await bench.start(UNLOAD)).result()
    assert world.state.cards == {}
    assert world.state.pins == {("engine-2", REF.served_name)}


async def test_a_step_that_heals_is_tried_again(bench: Bench) -> None:
    world = World()
    world.fail("load_adapter", engine="engine-1", code="engine_unreachable", retryable=True, times=2)
    async with bench.workers(world):
        result = await (await bench.start(LOAD)).result()
    assert result["engines"] == ["engine-1", "engine-2"]
    assert world.calls.count("load_adapter:engine-1") == 3


async def test_an_undo_that_fails_is_told_and_does_not_keep_the_others_from_running(bench: Bench) -> None:
    world = World()
    world.fail("commit_load", code="engine_restarted")
    world.faults["unload_adapter"] = type(world.faults["commit_load"])(
        engine="engine-1", code="unload_failed"
    )
    async with bench.workers(world):
        with pytest.raises(WorkflowFailureError) as caught:
            await (await bench.start(LOAD)).result()
    assert world.ended[0].failure.code == "engine_restarted", "the first error is the one that counts"
    assert world.ended[0].repairs_pending
    assert world.state.engines["engine-2"] == {}
    assert world.state.cards == {}
    assert isinstance(caught.value.cause, ApplicationError)
    assert "engine-1" in str(caught.value.cause.details)


@pytest.mark.slow
async def test_a_host_without_agent_fails_the_load_by_name_of_its_queue(skipping_bench: Bench) -> None:
    world = World()
    async with skipping_bench.workers(world, hosts=False):
        with pytest.raises(WorkflowFailureError):
            await (await skipping_bench.start(LOAD)).result()
    assert world.ended[0].failure.code == "agent_unreachable"
    assert world.state.cards == {}


async def test_an_unload_that_cannot_be_put_back_loses_the_card_instead_of_serving_it(bench: Bench) -> None:
    world = World()
    world.serve()
    world.fail("unload_adapter", engine="engine-2", code="drain_timeout")
    world.faults["load_adapter"] = type(world.faults["unload_adapter"])(
        engine="engine-1", code="no_free_slot"
    )
    async with bench.workers(world):
        with pytest.raises(WorkflowFailureError):
            await (await bench.start(UNLOAD)).result()
    assert world.state.cards[("engine-1", REF.served_name)] == "lost"
    assert world.state.cards[("engine-2", REF.served_name)] == "serving"
    assert world.ended[0].failure.code == "drain_timeout"
    assert world.ended[0].repairs_pending
