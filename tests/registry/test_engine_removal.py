"""An engine that is gone for good is forgotten; one that lives never is."""

import asyncio
from typing import Any

import pytest
from sqlalchemy import text

from loradock.core.errors import LoradockError
from loradock.core.models import OperationState
from loradock.core.requests import LoadPolicy, LoadRequest, UnloadRequest
from loradock.registry import (
    agents,
    deployments,
    engine_removal,
    engines,
    loading,
    placement,
    runs,
    unloading,
)
from loradock.registry.views import DeploymentVersion, RemovedEngine
from tests.registry.reconcile_world import Looks
from tests.registry.world import World, report


async def _hosts(world: World, *numbers: int) -> None:
    """e1 of host-1, e2 of host-2 …"""
    for number in numbers:
        await world.renew(report(f"e{number}"), agent=f"host-{number}")


async def _gone(world: World, number: int) -> None:
    await world.renew(report(f"e{number}"), agent=f"host-{number}", seconds=-1)
    async with world.database.transaction() as tx:
        await agents.expire_leases(tx)


async def _remove(world: World, engine: str) -> RemovedEngine:
    async with world.database.transaction() as tx:
        return await engine_removal.remove_engine(tx, engine, "alice")


async def _refused(world: World, engine: str) -> str:
    with pytest.raises(LoradockError) as caught:
        await _remove(world, engine)
    return caught.value.code


async def _wanted(world: World) -> tuple[DeploymentVersion, ...]:
    async with world.database.read() as tx:
        found = await deployments.get_deployment(tx, "greeter", "default")
    assert found is not None
    return found.versions


async def _known(world: World) -> list[str]:
    async with world.database.read() as tx:
        return [engine.id for engine in (await engines.list_engines(tx)).items]


async def _rows(world: World, table: str) -> int:
    async with world.database.read() as tx:
        return int((await tx.session.execute(text(f"SELECT count(*) FROM {table}"))).scalar_one())


async def test_nobody_removes_an_engine_that_lives_or_is_not_there(world: World) -> None:
    assert await _refused(world, "e1") == "engine_not_found"
    await _hosts(world, 1)
    assert await _refused(world, "e1") == "engine_in_use"
    await world.renew(report("e1", reachable=False), agent="host-1")
    assert await _refused(world, "e1") == "engine_in_use"  # its agent lives


async def test_nobody_removes_an_engine_that_a_card_says_is_in_use(world: World) -> None:
    ref = await world.publish()
    await _hosts(world, 1)
    run, plan = await world.staged(ref)
    await world.renew(report("e1"), agent="host-1", seconds=-1)
    assert await _refused(world, "e1") == "engine_in_use"  # staged
    await world.renew(report("e1"), agent="host-1")
    async with world.database.transaction() as tx:
        await loading.commit_load(tx, run, plan, plan.targets, {})
    await world.renew(report("e1"), agent="host-1", seconds=-1)
    assert (
        await _refused(world, "e1") == "engine_in_use"
    )  # serving: nobody has noted yet that the lease is over
    await _gone(world, 1)
    assert (await _remove(world, "e1")).cards == ("greeter@1",)


async def test_all_that_was_known_of_it_goes_and_its_agent_with_its_last_engine(world: World) -> None:
    ref = await world.publish()
    await world.renew(report("e1"), report("e2"), agent="host-1")
    await world.load(ref)
    await world.renew(report("e1", "life-2"), report("e2"), agent="host-1")
    await Looks(world).look(life="life-2")
    assert (await _rows(world, "drifts"), await _rows(world, "reconciliations")) == (1, 2)
    await world.renew(report("e1", "life-2"), report("e2"), agent="host-1", seconds=-1)
    async with world.database.transaction() as tx:
        await agents.expire_leases(tx)
    first = await _remove(world, "e1")
    assert (first.pool, first.agent, first.agent_removed, first.cards) == (
        "default",
        "host-1",
        False,
        ("greeter@1",),
    )
    assert await world.states() == {"greeter@1 on e2": "lost"}
    assert (await _rows(world, "drifts"), await _known(world)) == (0, ["e2"])
    assert (await _remove(world, "e2")).agent_removed
    assert (await _rows(world, "agents"), await _rows(world, "reconciliations")) == (0, 0)
    assert (await world.actions())[-3:] == ["engine.removed", "engine.removed", "agent.removed"]
    assert await _refused(world, "e2") == "engine_not_found"


async def test_deployments_that_name_it_name_it_no_more(world: World) -> None:
    first, second, third = [await world.publish(seed=seed) for seed in ("one", "two", "three")]
    await _hosts(world, 1, 2)
    await world.load(first, engines=("e1", "e2"), replicas=2)
    await world.load(second, engines=("e2",))
    await world.load(third)
    await _gone(world, 2)
    assert (await _remove(world, "e2")).unwanted == ("greeter@2",)
    kept, pool_wide = await _wanted(world)
    assert (kept.version, kept.weight, kept.engines) == (1, 100, ("e1",))
    assert kept.placement is not None
    assert (kept.placement.engines, kept.placement.replicas) == (("e1",), 1)
    assert (pool_wide.version, pool_wide.engines) == (3, None)


async def test_what_was_loaded_in_a_pool_whose_last_engine_went_can_still_be_unloaded(world: World) -> None:
    ref = await world.publish()
    await _hosts(world, 1)
    await world.load(ref)
    await _gone(world, 1)
    await _remove(world, "e1")
    request = LoadRequest(adapter="greeter", version=1, pool="default")
    with pytest.raises(LoradockError, match="no_engine_alive"):
        async with world.database.read() as tx:
            await placement.check_load(tx, request)
    run, plan = await world.plan_unload()
    async with world.database.transaction() as tx:
        await unloading.withdraw(tx, run, plan)
        await unloading.commit_unload(tx, run, plan)
    assert await _wanted(world) == ()
    with pytest.raises(LoradockError, match="pool_not_found"):
        async with world.database.read() as tx:
            await unloading.check_unload(tx, UnloadRequest(adapter="greeter", pool="elsewhere"))


async def test_an_unload_under_way_ends_well_when_one_of_its_engines_is_removed(world: World) -> None:
    ref = await world.publish()
    await _hosts(world, 1, 2)
    await world.load(ref)
    await _gone(world, 2)
    run, plan = await world.plan_unload()
    async with world.database.transaction() as tx:
        await unloading.withdraw(tx, run, plan)
    await _remove(world, "e2")
    async with world.database.transaction() as tx:
        await unloading.commit_unload(tx, run, plan)
    assert (await world.cards(), await _wanted(world)) == ([], ())


async def test_a_load_under_way_wishes_for_no_engine_that_was_removed(world: World) -> None:
    await world.publish()
    await _hosts(world, 1, 2)
    await _gone(world, 2)
    request = LoadRequest(
        adapter="greeter", version=1, pool="default", engines=("e1", "e2"), policy=LoadPolicy.BEST_EFFORT
    )
    run, plan = await world.plan_load(request)
    assert set(plan.wanted or ()) == {"e1", "e2"}
    await world.stage(run, plan)
    await _remove(world, "e2")
    async with world.database.transaction() as tx:
        await loading.commit_load(tx, run, plan, plan.targets, {})
    (wanted,) = await _wanted(world)
    assert wanted.engines == ("e1",)


async def test_an_operation_that_waited_for_its_repair_alone_is_done_with(world: World) -> None:
    ref = await world.publish()
    await _hosts(world, 1)
    run, _ = await world.staged(ref)
    async with world.database.transaction() as tx:
        await runs.begin(tx, run, [("load", "e1")])
        await runs.finish(tx, run, OperationState.FAILED, repairs_pending=True)
    await _gone(world, 1)
    await _remove(world, "e1")
    assert not (await world.operation(run.operation)).repairs_pending


async def test_a_look_at_an_engine_that_was_removed_meanwhile_ends(world: World) -> None:
    looks = Looks(world)
    await _hosts(world, 1)
    look = await looks.begin()
    await _gone(world, 1)
    await _remove(world, "e1")
    assert (await looks.compare(look)).changed
    assert await looks.end(look)
    late = await looks.begin()
    assert late.target is None
    assert await looks.end(late)
    assert await _rows(world, "reconciliations") == 0


async def test_an_engine_that_comes_back_joins_as_a_new_one(world: World) -> None:
    ref = await world.publish()
    await _hosts(world, 1, 2)
    await world.load(ref)
    await _gone(world, 2)
    await _remove(world, "e2")
    granted = await world.renew(report("e2", resident=("greeter@1",)), agent="host-2")
    assert granted.engines == {"e2": 1}
    assert "greeter@1 on e2" not in await world.states()
    assert "e2" in await Looks(world).due()


async def test_removing_and_returning_at_once_leaves_the_engine_there(world: World) -> None:
    ref = await world.publish()
    for _ in range(5):
        await _hosts(world, 1)
        await world.load(ref, engines=("e1",))
        await _gone(world, 1)
        results: list[Any] = await asyncio.gather(
            _remove(world, "e1"), world.renew(report("e1"), agent="host-1"), return_exceptions=True
        )
        removed, granted = results
        if isinstance(removed, LoradockError):
            assert removed.code == "engine_in_use"
        assert list(granted.engines) == ["e1"]
        assert await _known(world) == ["e1"]
