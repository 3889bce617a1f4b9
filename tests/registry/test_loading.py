"""A load's way through the registry: planned, staged, and routable in one moment or not at all."""

import asyncio
from typing import Any

import pytest

from loradock.core.errors import LoradockError
from loradock.core.models import OperationState, RunRef
from loradock.core.requests import EngineTarget, LoadPlan, LoadPolicy, LoadRequest, OperationResult
from loradock.registry import cards, deployments, loading, placement, runs, takeover, versions
from loradock.registry.views import DeploymentView
from tests.registry.reconcile_world import Looks
from tests.registry.world import BASE, SOURCE, World, manifest, new_publish, report, traits


def _request(version: int = 1, **facts: Any) -> LoadRequest:
    return LoadRequest(adapter="greeter", version=version, pool="default", **facts)


async def _refused(world: World, request: LoadRequest) -> str:
    with pytest.raises(LoradockError) as caught:
        async with world.database.read() as tx:
            await placement.check_load(tx, request)
    return caught.value.code


async def _commit(
    world: World, run: RunRef, plan: LoadPlan, ready: tuple[EngineTarget, ...] | None = None, **failed: str
) -> OperationResult:
    async with world.database.transaction() as tx:
        return await loading.commit_load(tx, run, plan, plan.targets if ready is None else ready, failed)


async def _deployment(world: World) -> DeploymentView:
    async with world.database.read() as tx:
        found = await deployments.get_deployment(tx, "greeter", "default")
    assert found is not None
    return found


async def test_a_plan_takes_every_engine_that_is_alive(world: World) -> None:
    ref = await world.publish()
    await world.engines("e2", "e1")
    await world.renew(report("e3"), agent="host-2", seconds=-1)
    await world.renew(report("e4", reachable=False), agent="host-3")
    run, plan = await world.plan_load(_request())
    assert (plan.ref, plan.pool, plan.base_model) == (ref, "default", BASE)
    assert plan.targets == tuple(
        EngineTarget(engine=name, agent="host-1", incarnation="life-1") for name in ("e1", "e2")
    )
    async with world.database.read() as tx:
        assert await placement.check_load(tx, _request()) == plan
    assert (await world.operation(run.operation)).state == "running"


async def test_what_cannot_be_loaded_is_told_before_anything_happens(world: World) -> None:
    assert await _refused(world, _request()) == "adapter_not_found"
    await world.publish()
    assert await _refused(world, _request(2)) == "version_not_found"
    assert await _refused(world, _request()) == "pool_not_found"
    await world.renew(report("e1"), seconds=-1)
    assert await _refused(world, _request()) == "no_engine_alive"
    assert await _refused(world, _request(engines=("e1",))) == "engine_lost"
    await world.renew(report("e2", base_model="other"), agent="host-2")
    assert await _refused(world, _request()) == "base_model_mismatch"
    assert await _refused(world, _request(engines=("nowhere",))) == "engine_not_found"
    await world.renew(report("f1"), agent="host-3", pool="second")
    assert await _refused(world, _request(engines=("f1",))) == "engine_not_found"


async def test_a_version_that_is_not_ready_is_not_loaded(world: World) -> None:
    await world.engines("e1")
    run = await world.start(new_publish())
    async with world.database.transaction() as tx:
        facts: dict[str, Any] = {"source_uri": SOURCE, "base_model": BASE, "labels": {}, "actor": "alice"}
        await versions.reserve(tx, run, adapter="greeter", manifest=manifest("x"), traits=traits(), **facts)
    assert await _refused(world, _request()) == "version_not_ready"


async def test_a_rank_above_an_engines_limit_is_refused_or_the_engine_skipped(world: World) -> None:
    await world.publish(rank=32)
    await world.renew(report("e1", max_lora_rank=64), report("e2", max_lora_rank=16))
    assert await _refused(world, _request()) == "rank_too_high"
    _, plan = await world.plan_load(_request(policy=LoadPolicy.BEST_EFFORT))
    assert [target.engine for target in plan.targets] == ["e1"]
    enough = {"policy": LoadPolicy.BEST_EFFORT, "min_ready": 2}
    assert await _refused(world, _request(**enough)) == "not_enough_engines"
    await world.renew(report("e1", max_lora_rank=16), report("e2", max_lora_rank=16))
    assert await _refused(world, _request(policy=LoadPolicy.BEST_EFFORT)) == "rank_too_high"


async def test_cards_become_routable_together_with_the_operations_end(world: World) -> None:
    ref = await world.publish()
    await world.engines("e1", "e2")
    run, plan = await world.staged(ref)
    assert set((await world.states()).values()) == {"staged"}
    assert await world.cards(staged=False) == []
    result = await _commit(world, run, plan)
    assert (result.engines, result.version, result.digest) == (("e1", "e2"), 1, ref.digest)
    shown = await world.cards(staged=False)
    assert {card.state for card in shown} == {"serving"}
    assert len({card.since for card in shown}) == 1
    assert {card.served_name for card in shown} == {"greeter@1"}
    deployment = await _deployment(world)
    assert (deployment.generation, deployment.revision) == (1, 1)
    assert [(item.version, item.weight, item.engines) for item in deployment.versions] == [(1, 100, None)]
    operation = await world.operation(run.operation)
    assert (operation.state, operation.result) == ("succeeded", result.model_dump(mode="json"))
    assert (await world.actions())[-2:] == ["adapter.loaded", "load.succeeded"]


async def test_committing_again_gives_the_same_result_and_changes_nothing(world: World) -> None:
    ref = await world.publish()
    await world.engines("e1")
    run, plan = await world.staged(ref)
    results = await asyncio.gather(*(_commit(world, run, plan) for _ in range(4)))
    assert len({result.model_dump_json() for result in results}) == 1
    assert (await _deployment(world)).revision == 1
    assert (await world.actions()).count("adapter.loaded") == 1


async def test_a_second_version_gets_no_weight(world: World) -> None:
    first, second = await world.publish(seed="one"), await world.publish(seed="two")
    await world.engines("e1", "e2")
    await world.load(first)
    await world.load(second, engines=("e2",))
    deployment = await _deployment(world)
    assert [(item.version, item.weight, item.engines) for item in deployment.versions] == [
        (1, 100, None),
        (2, 0, ("e2",)),
    ]
    await world.load(second, engines=("e1",))
    assert (await _deployment(world)).versions[1].engines == ("e1", "e2")
    await world.load(second)
    assert ((await _deployment(world)).versions[1].engines, (await _deployment(world)).revision) == (None, 4)


async def test_an_engine_that_restarted_is_not_made_routable(world: World) -> None:
    ref = await world.publish()
    await world.engines("e1", "e2")
    run, plan = await world.staged(ref)
    await world.renew(report("e1", "life-2"), report("e2"))
    with pytest.raises(LoradockError, match="engine_restarted"):
        await _commit(world, run, plan)
    assert (await world.states())["greeter@1 on e2"] == "staged"
    assert (await world.operation(run.operation)).state == "running"
    result = await _commit(world, run, plan, plan.targets[1:], e1="engine_restarted")
    assert (result.engines, result.failed_engines) == (("e2",), {"e1": "engine_restarted"})
    assert await world.states() == {"greeter@1 on e2": "serving"}


async def test_an_engine_that_was_lost_or_never_staged_is_not_made_routable(world: World) -> None:
    ref = await world.publish()
    await world.engines("e1", "e2")
    run, plan = await world.plan_load(_request())
    await world.stage(run, plan, plan.targets[0])
    with pytest.raises(LoradockError, match="engine_restarted"):
        await _commit(world, run, plan)
    await world.stage(run, plan, plan.targets[1])
    await world.renew(report("e1", reachable=False), report("e2"))
    with pytest.raises(LoradockError, match="engine_lost"):
        await _commit(world, run, plan)
    with pytest.raises(LoradockError, match="not_enough_engines"):
        await _commit(world, run, plan, ())
    assert ref.version == 1


async def test_of_best_effort_an_engine_that_is_gone_at_the_last_moment_is_left_to_the_reconciler(
    world: World,
) -> None:
    ref = await world.publish()
    await world.engines("e1", "e2", "e3", "e4")
    run, plan = await world.staged(ref, policy=LoadPolicy.BEST_EFFORT, min_ready=2)
    await world.renew(report("e1", "life-2"), report("e2"), report("e3", reachable=False), report("e4"))
    result = await _commit(world, run, plan)
    assert (result.engines, result.failed_engines) == (
        ("e2", "e4"),
        {"e1": "engine_restarted", "e3": "engine_lost"},
    )
    assert await world.states() == {"greeter@1 on e2": "serving", "greeter@1 on e4": "serving"}
    (wanted,) = (await _deployment(world)).versions
    assert (wanted.weight, wanted.engines) == (100, None)
    assert "e1" in await Looks(world).due()
    assert await _commit(world, run, plan) == result


async def test_of_best_effort_too_few_engines_at_the_last_moment_fail_the_load(world: World) -> None:
    ref = await world.publish()
    await world.engines("e1", "e2")
    run, plan = await world.staged(ref, policy=LoadPolicy.BEST_EFFORT, min_ready=2)
    await world.renew(report("e1", "life-2"), report("e2"))
    with pytest.raises(LoradockError, match="not_enough_engines") as caught:
        await _commit(world, run, plan)
    assert caught.value.details["engines"] == {"e1": "engine_restarted"}
    assert (await world.states())["greeter@1 on e2"] == "staged"
    await world.renew(report("e1", "life-2"), report("e2", "life-2"))
    with pytest.raises(LoradockError, match="not_enough_engines"):
        await _commit(world, run, plan)


async def test_staging_checks_the_engine_as_it_is_now(world: World) -> None:
    await world.publish()
    await world.engines("e1")
    run, plan = await world.plan_load(_request())
    await world.renew(report("e1", "life-2"))
    with pytest.raises(LoradockError, match="engine_restarted"):
        await world.stage(run, plan)
    await world.renew(report("e1", "life-2"), seconds=-1)
    target = plan.targets[0].model_copy(update={"incarnation": "life-2"})
    with pytest.raises(LoradockError, match="engine_lost"):
        await world.stage(run, plan, target)
    with pytest.raises(LoradockError, match="engine_not_found"):
        await world.stage(run, plan, target.model_copy(update={"engine": "nowhere"}))
    assert await world.cards() == []


async def test_staging_what_serves_already_leaves_it_alone(world: World) -> None:
    ref = await world.publish()
    await world.engines("e1")
    first = await world.load(ref)
    before = await world.cards()
    run, plan = await world.plan_load(_request())
    async with world.database.transaction() as tx:
        assert await cards.stage(tx, run, plan.ref, plan.targets[0], "default") == "serving"
    async with world.database.transaction() as tx:
        await cards.retract_staged(tx, run, plan.ref, "e1")
    assert await world.cards() == before
    assert before[0].operation == first.operation
    assert (await _commit(world, run, plan)).engines == ("e1",)
    assert await world.cards() == before


async def test_a_lost_card_is_staged_anew(world: World) -> None:
    ref = await world.publish()
    await world.engines("e1")
    await world.load(ref)
    await world.renew(report("e1", "life-2"))
    await world.load(ref)
    (card,) = await world.cards()
    assert (card.state, card.incarnation) == ("serving", "life-2")


async def test_retracting_takes_only_what_the_operation_staged(world: World) -> None:
    ref = await world.publish()
    await world.engines("e1", "e2")
    run, plan = await world.staged(ref)
    async with world.database.transaction() as tx:
        await runs.mark_compensating(tx, run)
    for engine in ("e1", "e1", "e2", "e3"):
        async with world.database.transaction() as tx:
            await cards.retract_staged(tx, run, plan.ref, engine)
    assert await world.cards() == []


async def test_a_staged_card_of_an_engine_that_restarted_can_be_retracted(world: World) -> None:
    ref = await world.publish()
    await world.engines("e1")
    run, plan = await world.staged(ref)
    await world.renew(report("e1", "life-2"))
    async with world.database.transaction() as tx:
        await cards.retract_staged(tx, run, plan.ref, "e1")
    assert await world.cards() == []


async def test_a_late_attempt_stages_and_commits_nothing_while_the_load_is_put_back(world: World) -> None:
    ref = await world.publish()
    await world.engines("e1", "e2")
    run, plan = await world.staged(ref)
    async with world.database.transaction() as tx:
        await runs.mark_compensating(tx, run)
        await cards.retract_staged(tx, run, plan.ref, "e1")
    for late in (world.stage(run, plan, plan.targets[0]), _commit(world, run, plan)):
        with pytest.raises(LoradockError, match="operation_ended"):
            await late
    assert await world.states() == {"greeter@1 on e2": "staged"}


async def test_after_the_end_nothing_is_staged_or_committed(world: World) -> None:
    ref = await world.publish()
    await world.engines("e1")
    run, plan = await world.staged(ref)
    await world.finish(run, OperationState.ABORTED)
    for late in (world.stage(run, plan), _commit(world, run, plan)):
        with pytest.raises(LoradockError, match="operation_ended"):
            await late


async def test_the_end_of_a_failed_load_leaves_no_staged_card(world: World) -> None:
    first, second = await world.publish(seed="one"), await world.publish(seed="two")
    await world.engines("e1")
    await world.load(first)
    run, _ = await world.staged(second)
    await world.finish(run)
    assert await world.states() == {"greeter@1 on e1": "serving"}


async def test_a_sweeper_is_told_every_engine_that_may_hold_something(world: World) -> None:
    ref = await world.publish()
    await world.engines("e1", "e2", "e3")
    run, plan = await world.plan_load(_request())
    async with world.database.transaction() as tx:
        await runs.begin(tx, run, [("load", "e1"), ("load", "e2")])
    await world.stage(run, plan, plan.targets[0])
    await world.renew(report("e1", "life-2"), report("e2"), report("e3"))
    async with world.database.transaction() as tx:
        taken = await takeover.take_over(tx, run.operation)
    assert [(target.engine, target.incarnation, found) for target, found in taken.touched] == [
        ("e1", "life-1", ref),
        ("e2", "life-1", ref),
    ]
    with pytest.raises(LoradockError, match="operation_superseded"):
        await world.stage(run, plan)
    async with world.database.transaction() as tx:
        await cards.retract_staged(tx, taken.run, ref, "e1")
    await world.finish(taken.run)
    assert await world.cards() == []


async def test_a_load_and_restarts_of_its_engine_at_once_never_leave_a_routable_card_of_a_past_life(
    world: World,
) -> None:
    ref = await world.publish()
    await world.engines("e1")
    for number in range(2, 12):
        run, plan = await world.staged(ref)
        await asyncio.gather(
            _commit(world, run, plan), world.renew(report("e1", f"life-{number}")), return_exceptions=True
        )
        (card,) = await world.cards()
        assert card.state in {"lost"}
        operation = await world.operation(run.operation)
        if operation.state == "running":
            await world.finish(run)


async def test_cards_are_listed_by_pages_and_filters(world: World) -> None:
    ref = await world.publish()
    await world.engines("e1", "e2", "e3")
    await world.load(ref)
    async with world.database.read() as tx:
        first = await cards.list_cards(tx, adapter="greeter", limit=2)
        rest = await cards.list_cards(tx, adapter="greeter", limit=2, cursor=first.next)
        one = await cards.list_cards(tx, engine="e2", pool="default")
        none = await cards.list_cards(tx, pool="other")
    assert [card.engine for card in (*first.items, *rest.items)] == ["e1", "e2", "e3"]
    assert rest.next is None
    assert ([card.engine for card in one.items], none.items) == (["e2"], ())
