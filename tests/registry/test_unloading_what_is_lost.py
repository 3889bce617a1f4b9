"""An unload meets cards that are lost: of an agent that is away for a moment, or of a host that is gone."""

from typing import Any

import pytest
from sqlalchemy import update

from loradock.core.models import CardState, RunRef
from loradock.core.reconcile import DriftKind
from loradock.core.requests import EngineReport, OperationResult, UnloadPlan, UnloadRequest
from loradock.registry import agents, deployments, runs, unloading
from loradock.registry.tables import CardRow
from tests.registry.reconcile_world import Looks, held
from tests.registry.world import World, new_placement, report, run_of


def _holding(engine: str, name: str = "greeter@1") -> EngineReport:
    return report(engine, resident=(name,), free_slots=3)


async def _lapse(world: World, engine: str, agent: str) -> None:
    await world.renew(_holding(engine), agent=agent, seconds=-1)
    async with world.database.transaction() as tx:
        await agents.expire_leases(tx)


async def _on_two_hosts(world: World) -> None:
    """`greeter@1` on e1 of host-1 and e2 of host-2."""
    ref = await world.publish()
    for engine, agent in (("e1", "host-1"), ("e2", "host-2")):
        await world.renew(report(engine), agent=agent)
    await world.load(ref)


async def _withdraw(world: World, run: RunRef, plan: UnloadPlan) -> None:
    async with world.database.transaction() as tx:
        await unloading.withdraw(tx, run, plan)


async def _commit(world: World, run: RunRef, plan: UnloadPlan) -> OperationResult:
    async with world.database.transaction() as tx:
        return await unloading.commit_unload(tx, run, plan)


async def _nothing_is_left(world: World) -> bool:
    async with world.database.read() as tx:
        deployment = await deployments.get_deployment(tx, "greeter", "default")
    assert deployment is not None
    return (await world.cards(), deployment.versions) == ([], ())


async def test_an_agent_that_returns_during_an_unload_routes_nothing_of_it_again(world: World) -> None:
    await _on_two_hosts(world)
    await _lapse(world, "e2", "host-2")
    run, plan = await world.plan_unload()
    await _withdraw(world, run, plan)
    await world.renew(_holding("e2"), agent="host-2")
    assert await world.states() == {"greeter@1 on e1": "draining", "greeter@1 on e2": "lost"}
    await _commit(world, run, plan)
    assert await _nothing_is_left(world)
    assert "e2" in await Looks(world).due()  # the engine is looked at: what it may still hold is taken out


async def test_an_unload_that_has_not_begun_keeps_nobody_from_coming_back(world: World) -> None:
    await _on_two_hosts(world)
    await _lapse(world, "e2", "host-2")
    request = UnloadRequest(adapter="greeter", pool="default")
    run = run_of(await world.submit(new_placement(request)))
    await world.renew(_holding("e2"), agent="host-2")
    assert set((await world.states()).values()) == {"serving"}
    async with world.database.transaction() as tx:
        await runs.begin(tx, run, [])
        plan = await unloading.plan_unload(tx, run, request)
    await _withdraw(world, run, plan)
    assert set((await world.states()).values()) == {"draining"}


async def test_what_an_unload_gave_up_is_recovered_by_the_reconciler(world: World) -> None:
    await _on_two_hosts(world)
    await _lapse(world, "e2", "host-2")
    run, plan = await world.plan_unload()
    await _withdraw(world, run, plan)
    await world.renew(_holding("e2"), agent="host-2")
    async with world.database.transaction() as tx:
        await unloading.restore(tx, run, plan)
    await world.finish(run)
    assert await world.states() == {"greeter@1 on e1": "serving", "greeter@1 on e2": "lost"}
    assert "e2" in await Looks(world).due()


@pytest.mark.parametrize(
    "meant",
    [{}, {"version": 1}, {"keep_version": 2}, {"engines": ("e1", "e2")}, {"version": 1, "engines": ("e2",)}],
)
async def test_what_an_unload_means_does_not_come_back(world: World, meant: dict[str, Any]) -> None:
    assert not await _comes_back(world, "greeter", meant)


@pytest.mark.parametrize("other", [{"version": 2}, {"keep_version": 1}, {"engines": ("e1",)}])
async def test_what_an_unload_does_not_mean_comes_back(world: World, other: dict[str, Any]) -> None:
    assert await _comes_back(world, "greeter", other)


async def test_an_unload_of_another_adapter_keeps_nothing_from_coming_back(world: World) -> None:
    assert await _comes_back(world, "other", {})


async def _comes_back(world: World, unloaded: str, which: dict[str, Any]) -> bool:
    """Whether `greeter@1` on e2 serves after an absence during that unload."""
    await _on_two_hosts(world)
    await world.load(await world.publish(seed="two"))
    await world.load(await world.publish("other", seed="three"))
    await _lapse(world, "e2", "host-2")
    run, plan = await world.plan_unload(unloaded, force=True, **which)
    await _withdraw(world, run, plan)
    await world.renew(report("e2", resident=("greeter@1",)), agent="host-2")
    return (await world.states())["greeter@1 on e2"] == "serving"


async def test_the_end_of_an_unload_forgets_its_cards_whatever_they_say(world: World) -> None:
    await _on_two_hosts(world)
    run, plan = await world.plan_unload()
    await _withdraw(world, run, plan)
    async with world.database.transaction() as tx:
        await tx.session.execute(update(CardRow).values(state=CardState.SERVING))
    await _commit(world, run, plan)
    assert await _nothing_is_left(world)


async def test_of_a_host_that_is_gone_only_the_cards_go(world: World) -> None:
    await _on_two_hosts(world)
    await _lapse(world, "e2", "host-2")
    run, plan = await world.plan_unload()
    assert [(item.target.engine, item.lost) for item in plan.items] == [("e1", False), ("e2", True)]
    await _withdraw(world, run, plan)
    result = await _commit(world, run, plan)
    assert (result.engines, result.details) == (("e1", "e2"), {"versions": [1], "not_asked": ["e2"]})
    assert await _nothing_is_left(world)


async def test_what_a_host_that_was_gone_still_holds_is_taken_out_when_it_returns(world: World) -> None:
    await _on_two_hosts(world)
    (card,) = await world.cards(engine="e2")
    await _lapse(world, "e2", "host-2")
    run, plan = await world.plan_unload()
    await _withdraw(world, run, plan)
    await _commit(world, run, plan)
    await world.renew(_holding("e2"), agent="host-2")
    looks = Looks(world)
    assert "e2" in await looks.due()
    ref = plan.items[1].ref
    (repair,) = (await looks.look(held(ref, str(card.operation)), engine="e2")).repairs
    assert (repair.kind, repair.take_out, repair.put_in) == (DriftKind.LEFTOVER, ref, None)
    assert await world.cards() == []


async def test_an_engine_whose_agent_lives_is_asked_about_its_lost_cards(world: World) -> None:
    await _on_two_hosts(world)
    await world.renew(_holding("e2").model_copy(update={"reachable": False}), agent="host-2")
    assert (await world.states())["greeter@1 on e2"] == "lost"
    _, plan = await world.plan_unload()
    assert [item.lost for item in plan.items] == [False, False]
