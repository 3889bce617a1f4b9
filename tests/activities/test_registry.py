"""Activities on the registry, on a real Postgres: each one done twice leaves what doing it once leaves.

A worker may die between an activity's commit and its answer: Temporal then runs it again.
"""

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from activities.cards import CardActivities
from activities.interface.cards import (
    CardInput,
    CommitLoadInput,
    MarkLostInput,
    PlanLoadInput,
    PlanUnloadInput,
    UnloadPlanInput,
)
from activities.interface.operations import FinishInput, RunInput, TakeOverInput
from activities.interface.versions import (
    BeginPublishInput,
    FailVersionInput,
    RegisterInput,
    ReserveInput,
)
from activities.operations import OperationActivities
from activities.versions import VersionActivities
from loradock.core.models import Failure, OperationState, RunRef, StepReport, StepState, VersionRef
from loradock.core.requests import (
    LoadPlan,
    LoadPolicy,
    LoadRequest,
    PublishRequest,
    UnloadItem,
    UnloadPlan,
    UnloadRequest,
)
from loradock.core.signatures import SignaturePolicy, SignatureRule, SignatureRules
from loradock.registry import targets
from loradock.registry.database import Database
from loradock.registry.versions import get_version
from tests.activities.parts import Bench, refused, rows
from tests.registry.world import (
    BASE,
    SOURCE,
    World,
    manifest,
    new_placement,
    new_publish,
    report,
    run_of,
    traits,
)

Activity = Callable[[Any], Awaitable[Any]]
NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
FAILURE = Failure(code="engine_error", message="it broke")


@pytest.fixture
def versions(database: Database) -> VersionActivities:
    return VersionActivities(database)


@pytest.fixture
def cards(database: Database) -> CardActivities:
    return CardActivities(database)


@pytest.fixture
def operations(database: Database) -> OperationActivities:
    return OperationActivities(database)


@pytest.fixture
def twice(database_address: str) -> Callable[[Activity, Any], Awaitable[Any]]:
    """Runs an activity twice; the second run must say the same and change no row."""

    async def run(activity: Activity, given: Any) -> Any:
        first = await Bench().run(activity, given)
        before = rows(database_address)
        assert await Bench(attempt=2).run(activity, given) == first
        assert rows(database_address) == before
        return first

    return run


Twice = Callable[[Activity, Any], Awaitable[Any]]


def step(name: str, engine: str = "") -> StepReport:
    return StepReport(
        name=name, engine=engine, state=StepState.SUCCEEDED, attempt=1, started_at=NOW, ended_at=NOW
    )


def reserve_of(run: RunRef, seed: str = "one") -> ReserveInput:
    return ReserveInput(
        run=run,
        actor="alice",
        adapter="greeter",
        uri=SOURCE,
        base_model=BASE,
        labels={},
        manifest=manifest(seed),
        traits=traits(),
        steps=(step("fetch"),),
    )


async def publishing(registry: World, seed: str = "one") -> RunRef:
    return run_of(await registry.submit(new_publish(seed=seed)))


async def test_a_publish_whose_every_activity_runs_twice(
    registry: World, versions: VersionActivities, twice: Twice
) -> None:
    run = await publishing(registry)
    request = PublishRequest(adapter="greeter", uri=SOURCE)
    await twice(versions.begin_publish, BeginPublishInput(run=run, request=request))
    reserved = await twice(versions.reserve, reserve_of(run))
    register = RegisterInput(
        run=run,
        ref=reserved.ref,
        artifact_uri="s3://store/one",
        already_published=False,
        steps=(step("upload"),),
    )
    result = await twice(versions.register, register)
    assert (reserved.ref.version, result.version, result.digest) == (1, 1, manifest("one").digest)
    operation = await registry.operation(run.operation)
    assert (operation.state, operation.version) == ("succeeded", 1)
    assert [(one.name, one.state) for one in operation.steps] == [
        ("fetch", "succeeded"),
        ("upload", "succeeded"),
    ]
    assert (await registry.actions()).count("version.published") == 1


async def test_the_same_weights_again_are_the_same_version(
    registry: World, versions: VersionActivities, twice: Twice
) -> None:
    ref = await registry.publish(seed="one")
    reserved = await twice(versions.reserve, reserve_of(await publishing(registry)))
    assert (reserved.ref, reserved.already_published) == (ref, True)


async def test_a_publish_that_fails_twice_is_failed_once(
    registry: World, versions: VersionActivities, operations: OperationActivities, twice: Twice
) -> None:
    run = await publishing(registry)
    await Bench().run(versions.reserve, reserve_of(run))
    await twice(operations.mark_compensating, RunInput(run=run))
    await twice(versions.fail, FailVersionInput(run=run, adapter="greeter"))
    end = FinishInput(run=run, state=OperationState.FAILED, failure=FAILURE, steps=(step("fetch"),))
    await twice(operations.finish, end)
    operation = await registry.operation(run.operation)
    assert (operation.state, operation.error) == ("failed", FAILURE)
    # The failed version is revived by the same weights, under the same number.
    again = await Bench().run(versions.reserve, reserve_of(await publishing(registry)))
    assert again.ref.version == 1


async def test_failing_leaves_a_version_that_was_ready(
    registry: World, versions: VersionActivities, twice: Twice
) -> None:
    ref = await registry.publish(seed="one")
    run = await publishing(registry)
    await Bench().run(versions.reserve, reserve_of(run))
    await twice(versions.fail, FailVersionInput(run=run, adapter="greeter"))
    async with registry.database.read() as tx:
        assert (await get_version(tx, "greeter", ref.version)).state == "ready"


async def test_a_late_reserve_redoes_nothing_that_was_put_back(
    registry: World, versions: VersionActivities, operations: OperationActivities
) -> None:
    run = await publishing(registry)
    await Bench().run(
        versions.begin_publish,
        BeginPublishInput(run=run, request=PublishRequest(adapter="greeter", uri=SOURCE)),
    )
    await Bench().run(operations.mark_compensating, RunInput(run=run))
    with refused("operation_ended"):
        await Bench().run(versions.reserve, reserve_of(run))


async def loading(registry: World) -> tuple[RunRef, LoadRequest]:
    ref = await registry.publish()
    await registry.engines("e1", "e2")
    request = LoadRequest(adapter=ref.adapter, version=ref.version, pool="default")
    return run_of(await registry.submit(new_placement(request))), request


async def staged(registry: World, cards: CardActivities) -> tuple[RunRef, LoadPlan]:
    run, request = await loading(registry)
    plan = await Bench().run(cards.plan_load, PlanLoadInput(run=run, request=request))
    for target in plan.targets:
        card = CardInput(run=run, ref=plan.ref, target=target, pool=plan.pool)
        await Bench().run(cards.stage, card)
    return run, plan


async def test_a_load_whose_every_activity_runs_twice(
    registry: World, cards: CardActivities, twice: Twice
) -> None:
    run, request = await loading(registry)
    plan = await twice(cards.plan_load, PlanLoadInput(run=run, request=request))
    assert [target.engine for target in plan.targets] == ["e1", "e2"]
    steps = [(one.name, one.engine) for one in (await registry.operation(run.operation)).steps]
    assert steps == [(name, engine) for engine in ("e1", "e2") for name in ("download", "load", "verify")]
    for target in plan.targets:
        done = (step("download", target.engine), step("load", target.engine))
        await twice(cards.stage, CardInput(run=run, ref=plan.ref, target=target, pool=plan.pool, steps=done))
    assert set((await registry.states()).values()) == {"staged"}
    commit = CommitLoadInput(run=run, plan=plan, ready=plan.targets, steps=(step("verify", "e1"),))
    result = await twice(cards.commit_load, commit)
    assert result.engines == ("e1", "e2")
    assert await registry.states() == {"greeter@1 on e1": "serving", "greeter@1 on e2": "serving"}
    assert (await registry.actions()).count("adapter.loaded") == 1


async def test_a_wide_load_of_best_effort_ends_without_the_engine_that_restarted_at_its_end(
    registry: World, cards: CardActivities, twice: Twice
) -> None:
    ref = await registry.publish()
    await registry.engines("e1", "e2")
    run, plan = await registry.staged(ref, policy=LoadPolicy.BEST_EFFORT)
    async with registry.database.transaction() as tx:
        await targets.keep(tx, run, [UnloadItem(target=target, ref=ref) for target in plan.targets])
        await targets.note(tx, run, 0, ("e1", "e2"), {})
    await registry.renew(report("e1", "life-2"), report("e2"))
    wide = plan.model_copy(update={"targets": (), "batches": 1, "engines": 2})
    result = await twice(cards.commit_load, CommitLoadInput(run=run, plan=wide, ready=()))
    assert (result.engines, result.failed_engines) == (("e2",), {"e1": "engine_restarted"})
    assert await registry.states() == {"greeter@1 on e2": "serving"}


async def test_a_staged_card_taken_back_twice_is_gone_once(
    registry: World, cards: CardActivities, twice: Twice
) -> None:
    run, plan = await staged(registry, cards)
    card = CardInput(run=run, ref=plan.ref, target=plan.targets[0], pool=plan.pool)
    await twice(cards.retract, card)
    assert await registry.states() == {"greeter@1 on e2": "staged"}


async def test_a_card_that_was_never_staged_can_be_taken_back(
    registry: World, cards: CardActivities, twice: Twice
) -> None:
    run, request = await loading(registry)
    plan = await Bench().run(cards.plan_load, PlanLoadInput(run=run, request=request))
    await twice(cards.retract, CardInput(run=run, ref=plan.ref, target=plan.targets[0], pool=plan.pool))


async def unloading(registry: World, cards: CardActivities) -> tuple[RunRef, UnloadPlan, VersionRef]:
    ref = await registry.publish()
    await registry.engines("e1", "e2")
    await registry.load(ref)
    request = UnloadRequest(adapter=ref.adapter, pool="default", version=ref.version)
    run = run_of(await registry.submit(new_placement(request)))
    return run, await Bench().run(cards.plan_unload, PlanUnloadInput(run=run, request=request)), ref


async def test_an_unload_whose_every_activity_runs_twice(
    registry: World, cards: CardActivities, twice: Twice
) -> None:
    ref = await registry.publish()
    await registry.engines("e1", "e2")
    await registry.load(ref)
    request = UnloadRequest(adapter=ref.adapter, pool="default", version=ref.version)
    run = run_of(await registry.submit(new_placement(request)))
    plan = await twice(cards.plan_unload, PlanUnloadInput(run=run, request=request))
    await twice(cards.withdraw, UnloadPlanInput(run=run, plan=plan))
    assert set((await registry.states()).values()) == {"draining"}
    commit = UnloadPlanInput(run=run, plan=plan, steps=(step("remove", "e1"),))
    result = await twice(cards.commit_unload, commit)
    assert (result.version, result.engines) == (1, ("e1", "e2"))
    assert await registry.states() == {}
    assert (await registry.actions()).count("adapter.unloaded") == 1


async def test_withdrawn_cards_put_back_twice_serve_once(
    registry: World, cards: CardActivities, twice: Twice
) -> None:
    run, plan, _ = await unloading(registry, cards)
    await Bench().run(cards.withdraw, UnloadPlanInput(run=run, plan=plan))
    await twice(cards.restore, UnloadPlanInput(run=run, plan=plan))
    assert set((await registry.states()).values()) == {"serving"}


async def test_cards_that_were_never_withdrawn_can_be_put_back(
    registry: World, cards: CardActivities, twice: Twice
) -> None:
    run, plan, _ = await unloading(registry, cards)
    await twice(cards.restore, UnloadPlanInput(run=run, plan=plan))
    assert set((await registry.states()).values()) == {"serving"}


async def test_a_card_lost_twice_is_lost_once(registry: World, cards: CardActivities, twice: Twice) -> None:
    run, plan, ref = await unloading(registry, cards)
    lost = MarkLostInput(run=run, target=plan.items[0].target, ref=ref, reason="engine_error")
    await twice(cards.mark_lost, lost)
    assert await registry.states() == {"greeter@1 on e1": "lost", "greeter@1 on e2": "serving"}
    assert (await registry.actions()).count("card.lost") == 1


async def test_taking_over_refuses_every_late_call_of_the_old_run(
    registry: World, cards: CardActivities, operations: OperationActivities
) -> None:
    run, plan = await staged(registry, cards)
    taken = await Bench().run(operations.take_over, TakeOverInput(operation=run.operation, run_id="run-2"))
    assert taken.still_active
    assert taken.run.epoch > run.epoch
    assert [touched.target.engine for touched in taken.touched] == ["e1", "e2"]
    with refused("operation_superseded"):
        await Bench().run(cards.commit_load, CommitLoadInput(run=run, plan=plan, ready=plan.targets))
    end = FinishInput(run=taken.run, state=OperationState.FAILED, failure=FAILURE)
    await Bench().run(operations.finish, end)
    assert (await registry.operation(run.operation)).state == "failed"
    assert await registry.states() == {}


async def test_taking_over_again_after_a_lost_answer_gives_the_same_to_put_back(
    registry: World, cards: CardActivities, operations: OperationActivities
) -> None:
    run, _ = await staged(registry, cards)
    given = TakeOverInput(operation=run.operation, run_id="run-2")
    first = await Bench().run(operations.take_over, given)
    second = await Bench(attempt=2).run(operations.take_over, given)
    assert second.touched == first.touched
    assert second.run.epoch > first.run.epoch
    end = FinishInput(run=second.run, state=OperationState.FAILED, failure=FAILURE)
    await Bench().run(operations.finish, end)
    assert (await registry.operation(run.operation)).state == "failed"


async def test_an_operation_that_has_ended_is_not_taken_over(
    registry: World, operations: OperationActivities, twice: Twice
) -> None:
    run = await publishing(registry)
    await registry.finish(run)
    taken = await twice(operations.take_over, TakeOverInput(operation=run.operation, run_id="run-2"))
    assert not taken.still_active


async def test_the_first_end_of_an_operation_stands(
    registry: World, operations: OperationActivities, database_address: str
) -> None:
    run = await publishing(registry)
    await Bench().run(operations.finish, FinishInput(run=run, state=OperationState.ABORTED, failure=FAILURE))
    before = rows(database_address)
    other = Failure(code="internal_error", message="later")
    await Bench().run(operations.finish, FinishInput(run=run, state=OperationState.FAILED, failure=other))
    assert rows(database_address) == before


async def test_where_a_signature_is_required_a_load_without_one_is_refused_before_it_begins(
    registry: World, database: Database
) -> None:
    ref = await registry.publish()
    await registry.engines("engine-1")
    rule = SignatureRule(adapters="greeter", policy=SignaturePolicy.REQUIRE)
    cards = CardActivities(database, SignatureRules(rules=(rule,)))
    request = LoadRequest(adapter="greeter", version=ref.version, pool="default")
    operation = await registry.submit(new_placement(request))
    with refused("signature_required") as caught:
        await cards.plan_load(PlanLoadInput(run=run_of(operation), request=request))
    assert "was never checked" in caught.value.message
    assert (await registry.operation(operation.id)).steps == ()
    # Without the rule it is planned.
    assert await CardActivities(database).plan_load(PlanLoadInput(run=run_of(operation), request=request))


async def test_the_end_of_a_load_that_is_told_twice_leaves_its_steps_undone(
    registry: World, cards: CardActivities, operations: OperationActivities, twice: Twice
) -> None:
    await registry.engines("e1")
    ref = await registry.publish()
    request = LoadRequest(adapter="greeter", version=ref.version, pool="default")
    run = run_of(await registry.submit(new_placement(request)))
    await Bench().run(cards.plan_load, PlanLoadInput(run=run, request=request))
    end = FinishInput(run=run, state=OperationState.FAILED, failure=FAILURE, steps=(step("load", "e1"),))
    await twice(operations.finish, end)
    found = await registry.operation(run.operation)
    assert {(one.name, one.state) for one in found.steps} == {
        ("download", "skipped"), ("load", "undone"), ("verify", "skipped"),
    }  # fmt: skip
