"""Which engines a load comes to, what a plan tells of it, and that a load by a plan is that plan."""

from typing import Any

import pytest

from loradock.core.errors import LoradockError
from loradock.core.models import OperationState, VersionRef
from loradock.core.requests import LoadPolicy, LoadRequest, Selection
from loradock.registry import agents, deployments, loading, placement, unloading
from loradock.registry.decision import EngineVerdict, PlanView
from loradock.registry.views import DeploymentVersion
from tests.registry.world import World, renewal, report


def request_of(version: int = 1, adapter: str = "greeter", **facts: Any) -> LoadRequest:
    return LoadRequest(adapter=adapter, version=version, pool="default", **facts)


async def plan(world: World, request: LoadRequest) -> PlanView:
    async with world.database.read() as tx:
        return (await placement.decide(tx, request)).view()


async def verdicts(world: World, request: LoadRequest) -> dict[str, tuple[str, str]]:
    return {one.engine: (one.action, one.reason) for one in (await plan(world, request)).engines}


async def verdict(world: World, request: LoadRequest, engine: str) -> EngineVerdict:
    return next(one for one in (await plan(world, request)).engines if one.engine == engine)


async def refusal(world: World, request: LoadRequest) -> str:
    with pytest.raises(LoradockError) as caught:
        async with world.database.read() as tx:
            await placement.check_load(tx, request)
    return caught.value.code


async def wanted(world: World, version: int = 1) -> DeploymentVersion:
    async with world.database.read() as tx:
        found = await deployments.get_deployment(tx, "greeter", "default")
    assert found is not None
    return next(item for item in found.versions if item.version == version)


async def host(
    world: World,
    number: int,
    *,
    labels: dict[str, str] | None = None,
    cached: tuple[str, ...] | None = None,
    **facts: Any,
) -> None:
    """Engine `e<number>` on a host of its own."""
    told = renewal(report(f"e{number}", **facts), agent=f"host-{number}", instance=f"instance-{number}")
    told = told.model_copy(update={"labels": labels or {}, "cached_digests": cached})
    async with world.database.transaction() as tx:
        await agents.renew_lease(tx, told, 60)


async def engines_of(world: World, ref: VersionRef) -> set[str]:
    return {card.engine for card in await world.cards(adapter=ref.adapter) if card.version == ref.version}


async def test_replicas_are_chosen_kept_and_added_to_and_what_is_wanted_says_so(world: World) -> None:
    ref = await world.publish()
    for number in range(5):
        await host(world, number)
    await world.load(ref, replicas=2)
    first = await engines_of(world, ref)
    assert len(first) == 2
    assert (await wanted(world)).engines == tuple(sorted(first))
    assert (await wanted(world)).placement == Selection(replicas=2)
    for number in range(5, 10):
        await host(world, number)
    told = await verdicts(world, request_of(replicas=2))
    assert {name for name, found in told.items() if found == ("keep", "serves")} == first
    assert {found for name, found in told.items() if name not in first} == {("none", "not_needed")}
    await world.load(ref, replicas=3)
    more = await engines_of(world, ref)
    assert first < more
    assert len(more) == 3
    await world.load(ref, replicas=1)  # a load takes nothing away
    assert await engines_of(world, ref) == more == set((await wanted(world)).engines or ())


async def test_versions_of_an_adapter_come_to_the_same_engines(world: World) -> None:
    first, second = await world.publish(seed="one"), await world.publish(seed="two")
    for number in range(6):
        await host(world, number)
    await world.load(first, replicas=2)
    await world.load(second, replicas=2)
    assert await engines_of(world, first) == await engines_of(world, second)


async def test_labels_select_and_none_that_matches_is_told(world: World) -> None:
    ref = await world.publish()
    await host(world, 1, labels={"zone": "a", "gpu": "h100"})
    await host(world, 2, labels={"zone": "b"})
    await host(world, 3, labels={"zone": "a"})
    told = await verdicts(world, request_of(labels={"zone": "a"}))
    assert told["e2"] == ("none", "other_labels")
    assert await refusal(world, request_of(labels={"zone": "c"})) == "no_engine_matches"
    await world.load(ref, labels={"zone": "a"})
    assert await engines_of(world, ref) == {"e1", "e3"}
    assert (await wanted(world)).engines == ("e1", "e3")
    assert (await wanted(world)).placement == Selection(labels={"zone": "a"})
    both = request_of(labels={"zone": "a", "gpu": "h100"}, replicas=1)
    assert (await verdicts(world, both))["e1"] == ("keep", "serves")


async def test_engines_with_the_bytes_come_first_and_a_host_fetches_once(world: World) -> None:
    ref = await world.publish()
    await host(world, 1, cached=())
    await host(world, 2, cached=(ref.digest,))
    await host(world, 3)
    told = {one.engine: one for one in (await plan(world, request_of(replicas=1))).engines}
    assert (told["e2"].action, told["e2"].reason, told["e2"].download_bytes) == ("load", "cached", 0)
    assert [told[name].cached for name in ("e1", "e2", "e3")] == [False, True, None]
    everywhere = await plan(world, request_of())
    assert [one.download_bytes for one in everywhere.engines] == [10, 0, None]
    assert everywhere.download_bytes == 10
    await world.renew(report("f1"), report("f2"), agent="host-9", instance="instance-9")
    async with world.database.transaction() as tx:
        news = renewal(report("f1"), report("f2"), agent="host-9", instance="instance-9")
        await agents.renew_lease(tx, news.model_copy(update={"cached_digests": ()}), 60)
    together = [one.download_bytes for one in (await plan(world, request_of(engines=("f1", "f2")))).engines]
    assert together == [10, 0]


async def test_a_full_engine_is_told_at_once_and_passed_over_where_there_is_choice(world: World) -> None:
    await world.publish()
    await host(world, 1, free_slots=0, resident=("a@1", "b@1", "c@1", "d@1"))
    await host(world, 2)
    assert await refusal(world, request_of()) == "no_free_slot"
    assert await verdicts(world, request_of(replicas=1)) == {
        "e1": ("none", "no_free_slot"), "e2": ("load", "score"),
    }  # fmt: skip
    assert await refusal(world, request_of(replicas=2)) == "no_free_slot"
    best = request_of(policy=LoadPolicy.BEST_EFFORT)
    async with world.database.read() as tx:
        found = await placement.check_load(tx, best)
    assert [target.engine for target in found.targets] == ["e2"]
    assert found.left_out == {"e1": "no_free_slot"}


async def test_a_version_that_is_resident_needs_no_further_slot(world: World) -> None:
    await world.publish()
    await host(world, 1, free_slots=0, resident=("greeter@1", "b@1", "c@1", "d@1"))
    assert await verdicts(world, request_of()) == {"e1": ("load", "asked_for")}


async def test_slots_count_what_was_staged_after_the_agents_last_word(world: World) -> None:
    for number in range(4):
        await world.load(await _published_alone(world, f"other-{number}"))
    await world.publish()
    assert await refusal(world, request_of()) == "no_free_slot"
    assert (await verdict(world, request_of(), "e1")).free_slots == 0


async def test_slots_count_what_was_unloaded_after_the_agents_last_word(world: World) -> None:
    names = [f"other-{number}" for number in range(4)]
    for name in names:
        await world.load(await _published_alone(world, name))
    await world.publish()
    await world.renew(report("e1", free_slots=0, resident=tuple(f"{name}@1" for name in names)))
    assert await refusal(world, request_of()) == "no_free_slot"
    run, unload = await world.plan_unload("other-2")
    async with world.database.transaction() as tx:
        await unloading.withdraw(tx, run, unload)
    async with world.database.transaction() as tx:
        await unloading.commit_unload(tx, run, unload)
    found = await verdict(world, request_of(), "e1")
    assert (found.action, found.free_slots) == ("load", 1)


async def _published_alone(world: World, adapter: str) -> VersionRef:
    await world.engines("e1")
    return await world.publish(adapter, seed=adapter)


async def test_a_foreign_resident_is_not_taken_for_one_that_was_unloaded(world: World) -> None:
    await world.publish()
    await host(world, 1, free_slots=0, resident=("not ours", "ghost@1", "other@7", "x@1"))
    assert await refusal(world, request_of()) == "no_free_slot"


async def test_the_etag_changes_with_the_decision_and_with_nothing_else(world: World) -> None:
    await world.publish()
    await host(world, 1)
    await host(world, 2)
    request = request_of(replicas=1)
    first = (await plan(world, request)).etag
    await host(world, 1, free_slots=4, engine_version="2")
    assert (await plan(world, request)).etag == first
    assert (await plan(world, request_of())).etag != first
    chosen = next(one for one in (await plan(world, request)).engines if one.action == "load").engine
    await host(world, int(chosen[1:]), incarnation="life-2")
    second = (await plan(world, request)).etag
    assert second != first
    await host(world, 3, labels={}, max_lora_rank=1)
    assert (await plan(world, request)).etag != second


async def test_a_load_by_a_plan_is_that_plan_or_nothing(world: World) -> None:
    ref = await world.publish()
    await host(world, 1)
    await host(world, 2)
    planned = await plan(world, request_of(replicas=1))
    chosen = {one.engine for one in planned.engines if one.action == "load"}
    await world.load(ref, replicas=1, plan=planned.etag)
    assert await engines_of(world, ref) == chosen
    assert await refusal(world, request_of(replicas=1, plan=planned.etag)) == "plan_outdated"


async def test_a_plan_that_is_outdated_before_the_load_begins_fails_it(world: World) -> None:
    await world.publish()
    await host(world, 1)
    planned = await plan(world, request_of())
    await host(world, 2)
    with pytest.raises(LoradockError, match="plan_outdated"):
        await world.plan_load(request_of(plan=planned.etag))


async def test_a_plan_shows_what_it_would_be_refused_with(world: World) -> None:
    await world.publish(rank=64)
    await host(world, 1)
    await host(world, 2, max_lora_rank=64)
    found = await plan(world, request_of())
    assert found.error is not None
    assert found.error.code == "rank_too_high"
    assert [(one.action, one.reason) for one in found.engines] == [
        ("none", "rank_too_high"),
        ("load", "asked_for"),
    ]
    assert (await plan(world, request_of(replicas=1))).error is None


async def test_engines_of_another_base_are_passed_over_where_there_is_choice(world: World) -> None:
    await world.publish()
    await host(world, 1, base_model="another")
    await host(world, 2)
    assert await refusal(world, request_of()) == "base_model_mismatch"
    told = await verdicts(world, request_of(replicas=1))
    assert told == {"e1": ("none", "base_model_mismatch"), "e2": ("load", "score")}


async def test_best_effort_wants_what_it_could_not_reach_and_tells_of_it(world: World) -> None:
    ref = await world.publish(rank=32)
    for number in (1, 2, 3):
        await host(world, number, max_lora_rank=64)
    await host(world, 4, max_lora_rank=16)
    await host(world, 3, max_lora_rank=64, reachable=False)
    names = ("e1", "e2", "e3", "e4")
    run, planned = await world.plan_load(request_of(engines=names, policy=LoadPolicy.BEST_EFFORT))
    assert [target.engine for target in planned.targets] == ["e1", "e2"]
    assert planned.left_out == {"e3": "engine_lost", "e4": "rank_too_high"}
    await world.stage(run, planned, planned.targets[0])
    async with world.database.transaction() as tx:
        result = await loading.commit_load(tx, run, planned, planned.targets[:1], {"e2": "engine_error"})
    assert result.engines == ("e1",)
    assert result.failed_engines == {"e2": "engine_error", "e3": "engine_lost", "e4": "rank_too_high"}
    # What no waiting helps is not wanted: a reconciler would try for ever.
    assert (await wanted(world)).engines == ("e1", "e2", "e3")
    assert await engines_of(world, ref) == {"e1"}


async def test_a_whole_pool_stays_wanted_as_a_whole(world: World) -> None:
    ref = await world.publish()
    await host(world, 1)
    await host(world, 2)
    await world.load(ref)
    await world.load(ref, replicas=1)
    assert ((await wanted(world)).engines, (await wanted(world)).placement) == (None, None)


async def test_taking_engines_out_by_name_takes_them_out_of_what_is_wanted(world: World) -> None:
    ref = await world.publish()
    for number in range(3):
        await host(world, number)
    await world.load(ref, replicas=3)
    await _unload(world, "e1")
    assert (await wanted(world)).engines == ("e0", "e2")
    assert (await wanted(world)).placement == Selection(replicas=2, engines=("e0", "e2"))
    await _unload(world)
    async with world.database.read() as tx:
        found = await deployments.get_deployment(tx, "greeter", "default")
    assert found is not None
    assert found.versions == ()


async def test_a_wish_that_a_load_could_not_meet_can_be_taken_back(world: World) -> None:
    await world.publish()
    await host(world, 1)
    await host(world, 2)
    both = request_of(engines=("e1", "e2"), policy=LoadPolicy.BEST_EFFORT)
    run, planned = await world.plan_load(both)
    await world.stage(run, planned, planned.targets[0])
    async with world.database.transaction() as tx:
        await loading.commit_load(tx, run, planned, planned.targets[:1], {"e2": "engine_error"})
    await _unload(world, "e2")
    assert (await wanted(world)).engines == ("e1",)
    with pytest.raises(LoradockError, match="version_not_loaded"):
        await world.plan_unload(engines=("e2",))


async def _unload(world: World, *names: str) -> None:
    run, unload = await world.plan_unload(engines=names or None, force=True)
    async with world.database.transaction() as tx:
        await unloading.withdraw(tx, run, unload)
    async with world.database.transaction() as tx:
        await unloading.commit_unload(tx, run, unload)
    assert (await world.operation(run.operation)).state is OperationState.SUCCEEDED


async def test_a_retry_does_its_engines_alone_and_leaves_the_wish_whole(world: World) -> None:
    ref = await world.publish()
    for number in range(3):
        await host(world, number)
    await world.load(ref, only=("e1",))
    assert await engines_of(world, ref) == {"e1"}
    assert ((await wanted(world)).engines, (await wanted(world)).placement) == (None, None)
    assert await refusal(world, request_of(only=("e9",))) == "engine_not_found"
