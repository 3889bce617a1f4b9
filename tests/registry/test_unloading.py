"""An unload's way through the registry: out of routing in one moment, back into it, or gone."""

from typing import Any

import pytest

from loradock.core.errors import LoradockError
from loradock.core.models import RunRef, VersionRef
from loradock.core.promises import EnginePromise
from loradock.core.requests import OperationResult, UnloadPlan, UnloadRequest
from loradock.registry import cards, deployments, runs, takeover, unloading
from loradock.registry.views import DeploymentView
from tests.registry.world import World, report


async def _refused(world: World, **facts: Any) -> str:
    request = UnloadRequest(**{"adapter": "greeter", "pool": "default", **facts})
    with pytest.raises(LoradockError) as caught:
        async with world.database.read() as tx:
            await unloading.check_unload(tx, request)
    return caught.value.code


async def _withdraw(world: World, run: RunRef, plan: UnloadPlan) -> None:
    async with world.database.transaction() as tx:
        await unloading.withdraw(tx, run, plan)


async def _restore(world: World, run: RunRef, plan: UnloadPlan) -> None:
    async with world.database.transaction() as tx:
        await unloading.restore(tx, run, plan)


async def _commit(world: World, run: RunRef, plan: UnloadPlan) -> OperationResult:
    async with world.database.transaction() as tx:
        return await unloading.commit_unload(tx, run, plan)


async def _deployment(world: World) -> DeploymentView:
    async with world.database.read() as tx:
        found = await deployments.get_deployment(tx, "greeter", "default")
    assert found is not None
    return found


async def _both_loaded(world: World) -> tuple[VersionRef, VersionRef]:
    first, second = await world.publish(seed="one"), await world.publish(seed="two")
    await world.engines("e1", "e2")
    await world.load(first)
    await world.load(second)
    return first, second


async def test_what_cannot_be_unloaded_is_told_before_anything_happens(world: World) -> None:
    assert await _refused(world) == "adapter_not_found"
    await world.publish(seed="one")
    assert await _refused(world, version=9) == "version_not_found"
    assert await _refused(world) == "pool_not_found"
    await world.engines("e1", "e2")
    assert await _refused(world, version=1) == "version_not_loaded"
    await _both_loaded(world)
    assert await _refused(world, version=1) == "version_has_weight"
    assert await _refused(world, version=2, engines=("nowhere",)) == "engine_not_found"
    assert await _refused(world, version=2, pool="other") == "pool_not_found"


async def test_a_staged_card_is_nothing_that_can_be_unloaded(world: World) -> None:
    ref = await world.publish()
    await world.engines("e1")
    await world.staged(ref)
    assert await _refused(world) == "version_not_loaded"


async def test_the_whole_way_leaves_no_card_and_no_wish(world: World) -> None:
    ref = await world.publish()
    await world.engines("e1", "e2")
    await world.load(ref)
    run, plan = await world.plan_unload(version=1)
    assert [(item.target.engine, item.target.agent, item.ref) for item in plan.items] == [
        ("e1", "host-1", ref),
        ("e2", "host-1", ref),
    ]
    for _ in range(2):
        await _withdraw(world, run, plan)
    assert set((await world.states()).values()) == {"draining"}
    assert ((await _deployment(world)).generation, (await _deployment(world)).revision) == (1, 2)
    result = await _commit(world, run, plan)
    assert await _commit(world, run, plan) == result
    assert (result.version, result.engines, result.details) == (1, ("e1", "e2"), {"versions": [1]})
    assert await world.cards() == []
    deployment = await _deployment(world)
    assert (deployment.versions, deployment.generation, deployment.revision) == ((), 2, 3)
    assert (await world.operation(run.operation)).state == "succeeded"
    assert (await world.actions())[-2:] == ["adapter.unloaded", "unload.succeeded"]


async def test_force_unloads_a_version_that_has_weight(world: World) -> None:
    await _both_loaded(world)
    run, plan = await world.plan_unload(version=1, force=True)
    await _withdraw(world, run, plan)
    await _commit(world, run, plan)
    assert await world.states() == {"greeter@2 on e1": "serving", "greeter@2 on e2": "serving"}
    assert [item.version for item in (await _deployment(world)).versions] == [2]


async def test_without_a_version_all_go_whatever_their_weight(world: World) -> None:
    await _both_loaded(world)
    run, plan = await world.plan_unload()
    assert plan.versions == (1, 2)
    await _withdraw(world, run, plan)
    assert (await _commit(world, run, plan)).version is None
    assert (await _deployment(world)).versions == ()


async def test_an_unload_from_some_engines_keeps_the_wish_for_the_others(world: World) -> None:
    ref = await world.publish()
    await world.engines("e1", "e2")
    await world.load(ref)
    run, plan = await world.plan_unload(version=1, engines=("e1",))
    await _withdraw(world, run, plan)
    assert await world.states() == {"greeter@1 on e1": "draining", "greeter@1 on e2": "serving"}
    await _commit(world, run, plan)
    (wanted,) = (await _deployment(world)).versions
    assert (wanted.version, wanted.weight, wanted.engines) == (1, 100, ("e2",))


async def test_a_lost_card_is_unloaded_too(world: World) -> None:
    ref = await world.publish()
    await world.engines("e1")
    await world.load(ref)
    await world.renew(report("e1", "life-2"))
    run, plan = await world.plan_unload(version=1)
    assert plan.items[0].target.incarnation == "life-1"
    await _withdraw(world, run, plan)
    await _commit(world, run, plan)
    assert await world.cards() == []


async def test_restoring_puts_back_what_was_withdrawn_and_only_that(world: World) -> None:
    await _both_loaded(world)
    run, plan = await world.plan_unload(version=2)
    await _withdraw(world, run, plan)
    async with world.database.transaction() as tx:
        await runs.mark_compensating(tx, run)
    for _ in range(2):
        await _restore(world, run, plan)
    assert set((await world.states()).values()) == {"serving"}
    revision = (await _deployment(world)).revision
    assert revision == 4
    for late in (_withdraw(world, run, plan), _commit(world, run, plan)):
        with pytest.raises(LoradockError, match="operation_ended"):
            await late


async def test_restoring_does_not_route_to_an_engine_that_is_gone(world: World) -> None:
    ref = await world.publish()
    await world.engines("e1", "e2", "e3")
    await world.load(ref)
    run, plan = await world.plan_unload(version=1)
    await _withdraw(world, run, plan)
    await world.renew(report("e1", "life-2"), report("e2", reachable=False), report("e3"))
    await _restore(world, run, plan)
    assert await world.states() == {
        "greeter@1 on e1": "lost",
        "greeter@1 on e2": "lost",
        "greeter@1 on e3": "serving",
    }
    held = {"resident": ("greeter@1",)}
    await world.finish(run)
    await world.renew(report("e1", "life-2"), report("e2", **held), report("e3", **held))
    assert (await world.states())["greeter@1 on e2"] == "serving"


async def test_a_card_that_could_not_be_put_back_is_lost_and_not_restored(world: World) -> None:
    ref = await world.publish()
    await world.engines("e1", "e2")
    await world.load(ref)
    run, plan = await world.plan_unload(version=1)
    await _withdraw(world, run, plan)
    for _ in range(2):
        async with world.database.transaction() as tx:
            await cards.mark_card_lost(tx, run, ref, plan.items[0].target, "no_free_slot")
    await _restore(world, run, plan)
    assert await world.states() == {"greeter@1 on e1": "lost", "greeter@1 on e2": "serving"}
    assert (await world.actions()).count("card.lost") == 1


async def test_an_engine_is_asked_about_a_lost_card_only_while_it_lives_the_same_life(world: World) -> None:
    ref = await world.publish()
    await world.engines("e1", "e2")
    await world.load(ref)
    run, plan = await world.plan_unload(version=1)
    async with world.database.transaction() as tx:
        await cards.mark_card_lost(tx, run, ref, plan.items[0].target, "no_free_slot")
    await world.renew(report("e1"), report("e2", "life-2"))
    async with world.database.read() as tx:
        again = await unloading.check_unload(tx, UnloadRequest(adapter="greeter", version=1, pool="default"))
    assert [(item.target.engine, item.lost) for item in again.items] == [("e1", False), ("e2", True)]


async def test_committing_forgets_the_plans_cards_and_no_others(world: World) -> None:
    ref = await world.publish()
    await world.engines("e1", "e2")
    await world.load(ref)
    run, plan = await world.plan_unload(version=1, engines=("e1",))
    await _withdraw(world, run, plan)
    await _commit(world, run, plan)
    assert await world.states() == {"greeter@1 on e2": "serving"}


async def test_a_sweeper_of_an_unload_of_all_versions_is_told_every_place(world: World) -> None:
    first, second = await _both_loaded(world)
    run, plan = await world.plan_unload()
    async with world.database.transaction() as tx:
        await runs.begin(tx, run, [("unload", "e1"), ("unload", "e2")])
    await _withdraw(world, run, plan)
    async with world.database.transaction() as tx:
        taken = await takeover.take_over(tx, run.operation)
    assert [(target.engine, ref) for target, ref in taken.touched] == [
        ("e1", first),
        ("e1", second),
        ("e2", first),
        ("e2", second),
    ]
    with pytest.raises(LoradockError, match="operation_superseded"):
        await _withdraw(world, run, plan)
    await _restore(world, taken.run, plan)
    assert set((await world.states()).values()) == {"serving"}


async def test_an_unload_tells_where_the_weights_stay_in_memory(world: World) -> None:
    ref = await world.publish()
    await world.engines("e1", "e2")
    await world.load(ref)
    await world.renew(report("e1", missing_promises=(EnginePromise.TRUE_UNLOAD,)), report("e2"))
    run, plan = await world.plan_unload(version=1)
    await _withdraw(world, run, plan)
    note = (await _commit(world, run, plan)).note
    assert "true_unload" in note
    assert "memory of e1 " in note


async def test_an_unload_that_frees_all_slots_has_nothing_to_note(world: World) -> None:
    ref = await world.publish()
    await world.engines("e1", "e2")
    await world.load(ref)
    await world.renew(report("e1", missing_promises=(EnginePromise.STAGED_LOADS,)), report("e2"))
    run, plan = await world.plan_unload(version=1)
    await _withdraw(world, run, plan)
    assert (await _commit(world, run, plan)).note == ""
