"""Reports on steps arrive twice, late and out of order; what is shown stays true."""

import itertools

import pytest

from loradock.core.errors import LoradockError
from loradock.core.models import Failure, RunRef, StepReport, StepState
from loradock.core.requests import LoadRequest
from loradock.registry import operation_steps, runs
from tests.registry.world import World, new_placement, new_publish, report

ENDED = (StepState.SUCCEEDED, StepState.FAILED, StepState.UNDONE, StepState.SKIPPED)


async def _record(world: World, run: RunRef, *reports: StepReport) -> StepReport:
    async with world.database.transaction() as tx:
        await operation_steps.record_steps(tx, run.operation, reports)
    return (await world.operation(run.operation)).steps[0]


def _step(state: StepState, attempt: int = 1, **facts: object) -> StepReport:
    return StepReport.model_validate({"name": "load", "state": state, "attempt": attempt, **facts})


@pytest.mark.parametrize(
    ("over", "late"), [*itertools.product(ENDED, (StepState.RUNNING, StepState.PENDING))]
)
async def test_an_ended_step_never_goes_back(world: World, over: StepState, late: StepState) -> None:
    run = await world.start(new_publish())
    before = await _record(world, run, _step(over))
    assert before.state is over
    assert await _record(world, run, _step(late, attempt=2)) == before


async def test_a_step_goes_its_way_with_its_first_start_and_all_its_details(world: World) -> None:
    run = await world.start(new_publish())
    begun = await _record(world, run, _step(StepState.RUNNING, detail={"bytes": 1, "file": "a"}))
    failure = Failure(code="engine_error", message="oops")
    failed = await _record(world, run, _step(StepState.FAILED, error=failure, detail={"bytes": 2}))
    assert (failed.error, failed.started_at, failed.detail) == (
        failure,
        begun.started_at,
        {"bytes": 2, "file": "a"},
    )
    done = await _record(world, run, _step(StepState.SUCCEEDED, attempt=2))
    assert (done.state, done.attempt, done.error) == ("succeeded", 2, None)
    undone = await _record(world, run, _step(StepState.UNDONE, attempt=1))
    assert (undone.state, undone.attempt) == ("undone", 2)


async def test_an_earlier_attempt_says_nothing_of_a_later_one(world: World) -> None:
    run = await world.start(new_publish())
    await _record(world, run, _step(StepState.RUNNING, attempt=2))
    assert (await _record(world, run, _step(StepState.FAILED, attempt=1))).state is StepState.RUNNING


async def test_one_call_may_say_several_things_of_one_step(world: World) -> None:
    run = await world.start(new_publish())
    shown = await _record(world, run, _step(StepState.RUNNING), _step(StepState.SUCCEEDED))
    assert shown.state is StepState.SUCCEEDED


async def _load(world: World) -> RunRef:
    ref = await world.publish()
    await world.engines("e1")
    await world.renew(report("e9"), agent="host-9", pool="other")
    return await world.start(
        new_placement(LoadRequest(adapter=ref.adapter, version=ref.version, pool="default"))
    )


async def _progress(
    world: World, run: RunRef, agent: str, engine: str, state: StepState = StepState.RUNNING
) -> None:
    async with world.database.transaction() as tx:
        said = StepReport(name="load", engine=engine, state=state, attempt=1)
        await operation_steps.record_progress(tx, agent, run.operation, said)


async def test_an_agents_progress_is_shown_and_never_changes_an_end(world: World) -> None:
    run = await _load(world)
    await _progress(world, run, "host-1", "e1")
    assert (await world.operation(run.operation)).steps[0].state is StepState.RUNNING
    async with world.database.transaction() as tx:
        failed = StepReport(name="load", engine="e1", state=StepState.FAILED, attempt=1)
        await operation_steps.record_steps(tx, run.operation, [failed])
    await _progress(world, run, "host-1", "e1", StepState.SUCCEEDED)
    assert (await world.operation(run.operation)).steps[0].state is StepState.FAILED


@pytest.mark.parametrize(
    ("agent", "engine", "code"),
    [
        ("host-9", "e1", "forbidden"),
        ("host-9", "e9", "forbidden"),
        ("host-1", "nowhere", "engine_not_found"),
        ("host-1", "", "engine_not_found"),
    ],
)
async def test_an_agent_speaks_only_of_its_own_engines_in_their_pools_operations(
    world: World, agent: str, engine: str, code: str
) -> None:
    run = await _load(world)
    with pytest.raises(LoradockError) as caught:
        await _progress(world, run, agent, engine)
    assert caught.value.code == code
    assert (await world.operation(run.operation)).steps == ()


async def test_progress_after_the_end_is_refused(world: World) -> None:
    run = await _load(world)
    await world.finish(run)
    with pytest.raises(LoradockError, match="operation_ended"):
        await _progress(world, run, "host-1", "e1")


async def test_progress_of_an_unknown_operation_is_refused(world: World) -> None:
    with pytest.raises(LoradockError, match="operation_not_found"):
        await _progress(world, RunRef(operation="op-x", run_id="r", epoch=1), "host-1", "e1")


async def test_begin_does_not_reset_steps_that_were_reported(world: World) -> None:
    run = await world.start(new_publish())
    await _record(world, run, _step(StepState.SUCCEEDED))
    async with world.database.transaction() as tx:
        await runs.begin(tx, run, [("load", "")])
    assert (await world.operation(run.operation)).steps[0].state is StepState.SUCCEEDED
