"""Operations on very many engines are shown by what matters; all of their steps are in a list of their own."""

from collections.abc import Mapping

import pytest
from sqlalchemy import update

from loradock.core.errors import LoradockError
from loradock.core.models import Failure, OperationState, RunRef, StepReport, StepState
from loradock.registry import operation_steps, operations, runs
from loradock.registry.operation_views import FAILED_SHOWN, STEPS_SHOWN
from loradock.registry.tables import OperationRow
from loradock.registry.views import OperationView, Page
from tests.registry.test_indexes import statements
from tests.registry.world import World, new_publish

FAILURE = Failure(code="no_free_slot", message="full")


async def wide(world: World, adapter: str, engines: int, states: Mapping[int, StepState]) -> RunRef:
    """An operation with a step on each engine, all of which went well but for some."""
    run = await world.start(new_publish(adapter))
    names = [f"e{number:05}" for number in range(engines)]
    async with world.database.transaction() as tx:
        await runs.begin(tx, run, [("load", name) for name in names])
        reports = [
            StepReport(
                name="load",
                engine=name,
                state=(state := states.get(number, StepState.SUCCEEDED)),
                attempt=1,
                error=FAILURE if state is StepState.FAILED else None,
            )
            for number, name in enumerate(names)
        ]
        await operation_steps.record_steps(tx, run.operation, reports)
    return run


async def listed(world: World) -> dict[str, OperationView]:
    async with world.database.read() as tx:
        page = await operations.list_operations(tx, limit=100)
    return {one.adapter: one for one in page.items}


async def steps(world: World, operation: str, **wanted: object) -> Page[StepReport]:
    async with world.database.read() as tx:
        return await operation_steps.list_steps(tx, operation, **wanted)  # type: ignore[arg-type]


async def test_of_very_many_steps_those_are_shown_that_matter_in_their_order(world: World) -> None:
    states = {700: StepState.FAILED, 1150: StepState.FAILED, 1199: StepState.RUNNING, 3: StepState.SKIPPED}
    run = await wide(world, "greeter", 1200, states)
    found = await world.operation(run.operation)
    assert len(found.steps) == STEPS_SHOWN
    engines = [step.engine for step in found.steps]
    assert engines == sorted(engines)
    assert {"e00700", "e01150", "e01199"} <= set(engines)
    assert "e00003" not in engines
    assert found.step_counts == {"failed": 2, "running": 1, "skipped": 1, "succeeded": 1196}
    assert found.steps[engines.index("e00700")].error == FAILURE


async def test_an_operation_of_fewer_steps_shows_all_of_them(world: World) -> None:
    run = await wide(world, "greeter", 30, {})
    found = await world.operation(run.operation)
    assert (len(found.steps), found.step_counts) == (30, {"succeeded": 30})


async def test_a_list_counts_steps_and_shows_the_first_that_failed(world: World) -> None:
    await wide(world, "good", 40, {})
    await wide(world, "bad", 40, dict.fromkeys(range(5, 30), StepState.FAILED))
    await wide(world, "once", 3, {1: StepState.FAILED})
    await world.submit(new_publish("new"))
    found = await listed(world)
    assert (found["good"].steps, found["good"].step_counts) == ((), {"succeeded": 40})
    assert [step.engine for step in found["bad"].steps] == [f"e{n:05}" for n in range(5, 5 + FAILED_SHOWN)]
    assert found["bad"].step_counts == {"failed": 25, "succeeded": 15}
    assert [(step.engine, step.error) for step in found["once"].steps] == [("e00001", FAILURE)]
    assert (found["new"].steps, found["new"].step_counts) == ((), {})


async def test_a_list_takes_the_same_few_queries_however_many_operations_it_has(world: World) -> None:
    await wide(world, "a0", 3, {1: StepState.FAILED})
    async with statements(world.database) as seen:
        await listed(world)
    few = len(seen)
    for number in range(1, 6):
        await wide(world, f"a{number}", 3, {1: StepState.FAILED})
    async with statements(world.database) as seen:
        assert len(await listed(world)) == 6
    assert len(seen) == few <= 3


async def test_all_steps_are_read_page_by_page(world: World) -> None:
    run = await wide(world, "greeter", 250, {20: StepState.FAILED, 200: StepState.FAILED})
    seen: list[str] = []
    cursor: str | None = None
    for _ in range(3):
        page = await steps(world, run.operation, limit=100, cursor=cursor)
        seen += [step.engine for step in page.items]
        cursor = page.next
    assert (seen, cursor) == ([f"e{number:05}" for number in range(250)], None)
    failed = await steps(world, run.operation, state=StepState.FAILED)
    assert [step.engine for step in failed.items] == ["e00020", "e00200"]
    one = await steps(world, run.operation, engine="e00200", limit=1)
    assert ([step.engine for step in one.items], one.next) == (["e00200"], None)


async def test_steps_of_no_operation_and_after_no_cursor_of_ours_are_refused(world: World) -> None:
    for operation, cursor, code in (
        ("op-none", None, "operation_not_found"),
        ((await wide(world, "greeter", 1, {})).operation, "x", "invalid_request"),
    ):
        with pytest.raises(LoradockError) as caught:
            await steps(world, operation, cursor=cursor)
        assert caught.value.code == code


async def test_the_counts_of_an_ended_operation_are_kept_and_a_reset_begins_them_anew(world: World) -> None:
    run = await wide(world, "greeter", 30, {7: StepState.FAILED, 8: StepState.RUNNING})
    await world.finish(run)
    async with statements(world.database) as seen:
        ended = (await listed(world))["greeter"]
    assert not [one for one, _ in seen if "count(" in one]
    assert ended.step_counts == (await world.operation(run.operation)).step_counts
    assert ended.step_counts == {"undone": 29, "failed": 1}
    again = run.model_copy(update={"run_id": "run-2"})
    async with world.database.transaction() as tx:
        await runs.claim(tx, again)
    assert (await listed(world))["greeter"].step_counts == {"pending": 30}


async def test_an_operation_that_ended_before_counts_were_kept_is_counted_when_it_is_listed(
    world: World,
) -> None:
    run = await wide(world, "greeter", 3, {})
    await world.finish(run, OperationState.SUCCEEDED)
    async with world.database.transaction() as tx:
        await tx.session.execute(update(OperationRow).values(step_counts=None))
    assert (await listed(world))["greeter"].step_counts == {"succeeded": 3}
