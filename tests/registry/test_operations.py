"""Submitting, claiming, ending: one operation per request, one run per operation."""

import asyncio

import pytest
from sqlalchemy import text

from loradock.core.errors import LoradockError
from loradock.core.models import Failure, OperationKind, OperationState, RunRef, StepReport, StepState
from loradock.core.requests import LoadRequest, OperationResult
from loradock.registry import adapters, operation_steps, operations, runs, takeover
from loradock.registry.database import Database
from tests.registry.world import World, digest, new_placement, new_publish, run_of

LOAD = LoadRequest(adapter="greeter", version=1, pool="default")


async def _claim(database: Database, run: RunRef) -> str:
    async with database.transaction() as tx:
        return (await runs.claim(tx, run)).state


async def test_a_submitted_operation_is_pending_and_its_adapter_is_there(world: World) -> None:
    made = await world.submit(new_publish())
    assert made == await world.operation(made.id)
    assert (made.state, made.kind, made.run_id, made.steps) == ("pending", "publish", None, ())
    assert made.workflow_id == f"op/{made.id}"
    async with world.database.read() as tx:
        assert (await adapters.get_adapter(tx, "greeter")).base_model is None
    assert await world.actions() == ["adapter.created", "operation.requested"]


async def test_identical_requests_at_once_become_one_operation(world: World) -> None:
    async def submit() -> operations.Submitted:
        async with world.database.transaction() as tx:
            return await operations.submit(tx, new_publish())

    answers = await asyncio.gather(*(submit() for _ in range(12)))
    assert len({answer.operation.id for answer in answers}) == 1
    assert [answer.created for answer in answers].count(True) == 1
    assert (await world.actions()).count("operation.requested") == 1


async def test_of_different_requests_at_once_one_wins_and_the_others_are_told_which(world: World) -> None:
    async def submit(number: int) -> operations.Submitted | LoradockError:
        try:
            async with world.database.transaction() as tx:
                return await operations.submit(tx, new_publish(number=number))
        except LoradockError as error:
            return error

    answers = await asyncio.gather(*(submit(number) for number in range(8)))
    (won,) = [answer for answer in answers if isinstance(answer, operations.Submitted)]
    lost = [answer for answer in answers if isinstance(answer, LoradockError)]
    assert {(error.code, error.details["operation"]) for error in lost} == {
        ("adapter_busy", won.operation.id)
    }


async def test_a_publish_is_joined_until_it_begins_to_read_and_not_after(world: World) -> None:
    first = await world.submit(new_publish(key="k"))
    assert (await world.submit(new_publish())).id == first.id
    async with world.database.transaction() as tx:
        await runs.begin(tx, run_of(first), [("fetch", "")])
    with pytest.raises(LoradockError) as caught:
        await world.submit(new_publish())
    assert (caught.value.code, caught.value.details) == ("adapter_busy", {"operation": first.id})
    # The same key is the same request, whenever it comes.
    assert (await world.submit(new_publish(key="k"))).id == first.id
    await world.finish(run_of(first))
    assert (await world.submit(new_publish())).id != first.id


async def test_a_publish_whose_digest_is_given_is_joined_also_while_it_reads(world: World) -> None:
    run = await world.start(new_publish(expect_digest=digest("one")))
    assert (await world.submit(new_publish(expect_digest=digest("one")))).id == run.operation
    with pytest.raises(LoradockError, match="adapter_busy"):
        await world.submit(new_publish(expect_digest=digest("other")))


async def test_a_load_is_joined_also_while_it_runs(world: World) -> None:
    run = await world.start(new_placement(LOAD))
    assert (await world.submit(new_placement(LOAD))).id == run.operation


async def test_who_joins_a_publish_holds_its_begin_back_until_the_join_is_kept(world: World) -> None:
    first = await world.submit(new_publish())

    async def begin() -> None:
        async with world.database.transaction() as tx:
            await runs.begin(tx, run_of(first), [("fetch", "")])

    async with world.database.transaction() as joining:
        assert (await operations.submit(joining, new_publish())).operation.id == first.id
        beginning = asyncio.create_task(begin())
        await someone_waits(world)
        assert (await world.operation(first.id)).state == "pending"
    await beginning
    assert (await world.operation(first.id)).state == "running"


async def test_who_comes_while_a_publish_begins_does_not_join_it(world: World) -> None:
    first = await world.submit(new_publish())
    async with world.database.transaction() as beginning:
        await runs.begin(beginning, run_of(first), [("fetch", "")])
        coming = asyncio.create_task(world.submit(new_publish()))
        await someone_waits(world)
    with pytest.raises(LoradockError, match="adapter_busy"):
        await coming


async def someone_waits(world: World) -> None:
    """Return when a transaction on the test's database waits for another one's lock."""
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    async with asyncio.timeout(8):
        while True:
            async with world.database.read() as tx:
                if await tx.session.scalar(text(waiting)):
                    return
            await asyncio.sleep(0.01)


async def test_an_idempotency_key_gives_the_same_operation_also_after_its_end(world: World) -> None:
    first = await world.submit(new_publish(key="k"))
    await world.finish(run_of(first))
    async with world.database.transaction() as tx:
        again = await operations.submit(tx, new_publish(key="k"))
    assert (again.operation.id, again.created, again.operation.state) == (first.id, False, "failed")


async def test_a_request_that_joins_an_operation_keeps_its_key_also_after_the_end(world: World) -> None:
    first = await world.submit(new_publish(key="k"))
    assert (await world.submit(new_publish(key="other"))).id == first.id
    assert (await world.submit(new_publish(actor="bob", key="k"))).id == first.id
    await world.finish(run_of(first))
    for actor, key in (("alice", "k"), ("alice", "other"), ("bob", "k")):
        assert (await world.submit(new_publish(actor=actor, key=key))).id == first.id
    assert (await world.submit(new_publish(key="new"))).id != first.id


async def test_a_key_that_was_refused_is_free_again(world: World) -> None:
    first = await world.submit(new_publish(key="k"))
    with pytest.raises(LoradockError, match="adapter_busy"):
        await world.submit(new_publish(key="later", other=True))
    await world.finish(run_of(first))
    assert (await world.submit(new_publish(key="later"))).id != first.id


async def test_a_key_that_comes_many_times_at_once_is_one_operation(world: World) -> None:
    async def submit(number: int) -> str:
        try:
            return (await world.submit(new_publish(f"adapter-{number % 2}", key="k"))).id
        except LoradockError as error:
            return error.code

    answers = await asyncio.gather(*(submit(number) for number in range(10)))
    assert len(set(answers)) == 2
    assert answers.count("idempotency_key_reused") == 5


async def test_an_idempotency_key_for_another_request_is_refused(world: World) -> None:
    await world.submit(new_publish(key="k"))
    with pytest.raises(LoradockError, match="idempotency_key_reused"):
        await world.submit(new_publish(key="k", other=True))


async def test_an_idempotency_key_belongs_to_its_actor(world: World) -> None:
    first = await world.submit(new_publish(key="k"))
    other = await world.submit(new_publish("other", actor="bob", key="k"))
    assert first.id != other.id


async def test_pools_and_publish_have_locks_of_their_own(world: World) -> None:
    await world.submit(new_publish())
    await world.submit(new_placement(LOAD))
    await world.submit(new_placement(LOAD.model_copy(update={"pool": "other"})))
    with pytest.raises(LoradockError, match="adapter_busy"):
        await world.submit(new_placement(LOAD.model_copy(update={"version": 2})))


async def test_the_first_run_holds_the_operation_and_comes_again(world: World) -> None:
    run = run_of(await world.submit(new_publish()))
    assert [await _claim(world.database, run) for _ in range(2)] == ["pending", "pending"]
    assert (await world.operation(run.operation)).run_id == "run-1"


async def test_of_runs_that_claim_at_once_the_last_to_come_stays(world: World) -> None:
    made = await world.submit(new_publish())

    async def claim(number: int) -> str:
        try:
            return await _claim(world.database, run_of(made, f"run-{number}"))
        except LoradockError as error:
            return error.code

    await asyncio.gather(*(claim(number) for number in range(6)))
    holder = (await world.operation(made.id)).run_id
    again = {f"run-{number}": await claim(number) for number in range(6)}
    assert {run: answer for run, answer in again.items() if answer != "operation_superseded"} == {
        holder: "pending"
    }


async def test_another_epoch_is_refused(world: World) -> None:
    run = run_of(await world.submit(new_publish()))
    for epoch in (run.epoch - 1, run.epoch + 1):
        with pytest.raises(LoradockError, match="operation_superseded"):
            await _claim(world.database, run.model_copy(update={"epoch": epoch}))


async def test_an_operation_that_ended_before_any_run_is_not_taken_up(world: World) -> None:
    made = await world.submit(new_publish())
    async with world.database.transaction() as tx:
        row = await runs.lock_operation(tx, made.id)
        await runs.end(tx, row, OperationState.ABORTED)
    with pytest.raises(LoradockError, match="operation_ended"):
        await _claim(world.database, run_of(made))


async def test_a_reset_supersedes_the_old_run_and_lays_unfinished_steps_before_the_new_one(
    world: World,
) -> None:
    run = run_of(await world.submit(new_publish()))
    async with world.database.transaction() as tx:
        await runs.begin(tx, run, [("fetch", ""), ("upload", "")])
        reports = [
            StepReport(name="fetch", state=StepState.SUCCEEDED, attempt=1),
            StepReport(name="upload", state=StepState.FAILED, attempt=3),
        ]
        await operation_steps.record_steps(tx, run.operation, reports)
        await runs.mark_compensating(tx, run)
    reset = run.model_copy(update={"run_id": "run-2"})
    assert await _claim(world.database, reset) == "running"
    with pytest.raises(LoradockError, match="operation_superseded"):
        await _claim(world.database, run)
    steps = {step.name: (step.state, step.attempt) for step in (await world.operation(run.operation)).steps}
    assert steps == {"fetch": ("succeeded", 1), "upload": ("pending", 0)}
    assert "operation.adopted" in await world.actions()


async def test_a_reset_after_the_end_takes_the_lock_again(world: World) -> None:
    run = await world.start(new_publish())
    async with world.database.transaction() as tx:
        await runs.finish(
            tx, run, OperationState.FAILED, Failure(code="internal_error", message="x"), repairs_pending=True
        )
    assert await _claim(world.database, run) == "failed"
    assert await _claim(world.database, run.model_copy(update={"run_id": "run-2"})) == "running"
    shown = await world.operation(run.operation)
    assert (shown.ended_at, shown.error, shown.repairs_pending, shown.run_id) == (None, None, False, "run-2")


async def test_a_reset_after_the_end_fails_when_the_lock_is_taken(world: World) -> None:
    run = await world.start(new_publish())
    await world.finish(run)
    other = await world.submit(new_publish(other=True))
    with pytest.raises(LoradockError) as caught:
        await _claim(world.database, run.model_copy(update={"run_id": "run-2"}))
    assert (caught.value.code, caught.value.details) == ("adapter_busy", {"operation": other.id})
    assert (await world.operation(run.operation)).run_id == "run-1"


async def test_begin_can_be_repeated_and_keeps_its_first_time(world: World) -> None:
    run = run_of(await world.submit(new_publish()))
    for _ in range(2):
        async with world.database.transaction() as tx:
            await runs.begin(tx, run, [("fetch", ""), ("load", "e1"), ("load", "e2")])
    shown = await world.operation(run.operation)
    assert [(step.name, step.engine, step.state) for step in shown.steps] == [
        ("fetch", "", "pending"),
        ("load", "e1", "pending"),
        ("load", "e2", "pending"),
    ]
    assert shown.state == "running"
    async with world.database.transaction() as tx:
        await runs.begin(tx, run, [("more", "")])
    again = await world.operation(run.operation)
    assert (again.started_at, [step.name for step in again.steps][-1]) == (shown.started_at, "more")


async def test_the_first_end_stands(world: World) -> None:
    run = await world.start(new_publish())
    failure = Failure(code="source_not_found", message="gone", details={"path": "x"})
    async with world.database.transaction() as tx:
        first = await runs.finish(tx, run, OperationState.FAILED, failure)
    async with world.database.transaction() as tx:
        second = await runs.finish(tx, run, OperationState.SUCCEEDED, result=OperationResult(version=1))
    assert first == second
    assert (second.state, second.error, second.result) == ("failed", failure, None)
    assert (await world.actions()).count("publish.failed") == 1


async def test_the_end_skips_what_had_not_begun_and_calls_undone_what_was_cut_off(world: World) -> None:
    run = run_of(await world.submit(new_publish()))
    async with world.database.transaction() as tx:
        await runs.begin(tx, run, [("a", ""), ("b", ""), ("c", "")])
        reports = [
            StepReport(name="a", state=StepState.SUCCEEDED, attempt=1),
            StepReport(name="b", state=StepState.RUNNING, attempt=1),
        ]
        await operation_steps.record_steps(tx, run.operation, reports)
    await world.finish(run, OperationState.ABORTED)
    shown = await world.operation(run.operation)
    assert [step.state for step in shown.steps] == ["succeeded", "undone", "skipped"]
    assert all(step.ended_at for step in shown.steps)


async def test_ending_in_an_active_state_is_a_mistake(world: World) -> None:
    run = await world.start(new_publish())
    with pytest.raises(ValueError, match="not an end"):
        await world.finish(run, OperationState.RUNNING)


async def test_after_mark_compensating_nothing_forward_is_accepted(world: World) -> None:
    run = await world.start(new_publish())
    async with world.database.transaction() as tx:
        await runs.mark_compensating(tx, run)
    async with world.database.transaction() as tx:
        assert (await runs.claim_active(tx, run)).state == "compensating"
    with pytest.raises(LoradockError, match="operation_ended"):
        async with world.database.transaction() as tx:
            await runs.claim_active(tx, run, forward=True)


async def test_the_relay_sees_what_is_pending_and_old_enough(world: World) -> None:
    first = await world.submit(new_publish("one"))
    await world.start(new_publish("two"))
    async with world.database.read() as tx:
        assert [found.id for found in await operations.pending(tx, 0, 10)] == [first.id]
        assert await operations.pending(tx, 60, 10) == []


async def test_the_sweeper_sees_what_runs_and_can_go_on_from_there(world: World) -> None:
    await world.submit(new_publish("pending"))
    started = [(await world.start(new_publish(name))).operation for name in ("one", "two", "three")]
    await world.finish(await world.start(new_publish("ended")))
    async with world.database.read() as tx:
        first = await operations.active_started(tx, 2)
        rest = await operations.active_started(tx, 2, after=first[-1].id)
    assert [found.id for found in (*first, *rest)] == started


async def test_taking_over_fences_the_old_run_and_can_end_the_operation(world: World) -> None:
    run = await world.start(new_publish())
    async with world.database.transaction() as tx:
        taken = await takeover.take_over(tx, run.operation, expected_epoch=run.epoch)
    assert (taken.run.run_id, taken.kind, taken.touched) == ("", OperationKind.PUBLISH, ())
    assert taken.run.epoch > run.epoch
    for late in (run, run.model_copy(update={"run_id": "reset"})):
        with pytest.raises(LoradockError, match="operation_superseded"):
            await _claim(world.database, late)
    await world.finish(taken.run)
    shown = await world.operation(run.operation)
    assert (shown.state, shown.run_id) == ("failed", "run-1")
    with pytest.raises(LoradockError, match="operation_ended"):
        async with world.database.transaction() as tx:
            await takeover.take_over(tx, run.operation)


async def test_who_took_over_may_go_on_as_a_run_of_its_own(world: World) -> None:
    run = await world.start(new_publish())
    async with world.database.transaction() as tx:
        taken = (await takeover.take_over(tx, run.operation)).run
    recovery = taken.model_copy(update={"run_id": "recovery"})
    assert await _claim(world.database, recovery) == "compensating"
    assert (await world.operation(run.operation)).run_id == "recovery"
    assert "operation.adopted" not in await world.actions()


async def test_of_two_sweepers_the_second_finds_another_epoch(world: World) -> None:
    run = await world.start(new_publish())

    async def take() -> str:
        try:
            async with world.database.transaction() as tx:
                await takeover.take_over(tx, run.operation, expected_epoch=run.epoch)
        except LoradockError as error:
            return error.code
        return "taken"

    assert sorted(await asyncio.gather(*(take() for _ in range(4)))) == ["operation_superseded"] * 3 + [
        "taken"
    ]


async def test_operations_are_listed_newest_first_by_pages_and_filters(world: World) -> None:
    made = [(await world.submit(new_publish(f"adapter-{number}"))).id for number in range(5)]
    seen: list[str] = []
    cursor = None
    async with world.database.read() as tx:
        while True:
            page = await operations.list_operations(tx, limit=2, cursor=cursor)
            seen += [item.id for item in page.items]
            cursor = page.next
            if cursor is None:
                break
        only = await operations.list_operations(
            tx, adapter="adapter-3", state=OperationState.PENDING, kind=OperationKind.PUBLISH
        )
        none = await operations.list_operations(tx, kind=OperationKind.LOAD)
    assert seen == made[::-1]
    assert ([item.id for item in only.items], none.items) == ([made[3]], ())


async def test_a_missing_operation_has_its_code(world: World) -> None:
    with pytest.raises(LoradockError, match="operation_not_found"):
        await world.operation("op-none")
    with pytest.raises(LoradockError, match="operation_not_found"):
        await _claim(world.database, RunRef(operation="op-none", run_id="r", epoch=1))
