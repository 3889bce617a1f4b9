"""Plans of wide operations in the registry: kept once for a run, taken in batches, and refused beyond what one may touch."""

import pytest

from loradock.core.batches import BATCH_SIZE, batches_of
from loradock.core.errors import LoradockError
from loradock.core.models import OperationState, RunRef
from loradock.core.requests import EngineTarget, LoadRequest, UnloadItem, UnloadRequest
from loradock.registry import cards, loading, placement, runs, targets, unloading
from tests.registry.world import World, new_placement, report, run_of


def item(world_ref: object, number: int, *, lost: bool = False) -> UnloadItem:
    target = EngineTarget(engine=f"e{number:03}", agent="host-1", incarnation="life-1")
    return UnloadItem(target=target, ref=world_ref, lost=lost)  # type: ignore[arg-type]


async def wide_load(
    world: World, engines: int, run_id: str = "run-1"
) -> tuple[RunRef, tuple[UnloadItem, ...]]:
    ref = await world.publish()
    await world.renew(*(report(f"e{number:03}") for number in range(engines)))
    request = LoadRequest(adapter="greeter", version=1, pool="default")
    run = run_of(await world.submit(new_placement(request)), run_id)
    items = tuple(item(ref, number) for number in range(engines))
    async with world.database.transaction() as tx:
        await runs.begin(tx, run, [])
        assert await targets.keep(tx, run, items) == engines
    return run, items


def test_few_engines_are_no_batches() -> None:
    assert [batches_of(count) for count in (0, 1, 50, 51, 100, 101, 2000)] == [0, 0, 0, 1, 1, 2, 20]


async def test_a_plan_is_taken_in_batches_and_a_second_try_to_keep_it_changes_nothing(world: World) -> None:
    run, items = await wide_load(world, BATCH_SIZE + 20)
    async with world.database.transaction() as tx:
        assert await targets.keep(tx, run, items[:3]) == len(items)
        first, second = [await targets.take_batch(tx, run, number) for number in (0, 1)]
        assert await targets.take_batch(tx, run, 2) == ()
    assert (len(first), len(second)) == (BATCH_SIZE, 20)
    assert [one.target for one in (*first, *second)] == [one.target for one in items]


async def test_another_run_makes_a_plan_of_its_own_and_the_one_before_is_refused(world: World) -> None:
    run, items = await wide_load(world, 60)
    again = run.model_copy(update={"run_id": "run-2"})
    async with world.database.transaction() as tx:
        await runs.begin(tx, again, [])
        assert await targets.keep(tx, again, items[:55]) == 55
        assert len(await targets.take_batch(tx, again, 0)) == 55
    with pytest.raises(LoradockError, match="operation_superseded"):
        async with world.database.transaction() as tx:
            await targets.take_batch(tx, run, 0)


async def test_cards_are_staged_together_and_an_engine_that_restarted_does_not_hold_the_others(
    world: World,
) -> None:
    run, _ = await wide_load(world, 60)
    await world.renew(report("e007", "life-2"))
    async with world.database.transaction() as tx:
        batch = await targets.take_batch(tx, run, 0)
        failed = await cards.stage_many(tx, run, batch, "default")
        ready = [one.target.engine for one in batch if one.target.engine not in failed]
        await targets.note(tx, run, 0, ready[1:], {"e007": "engine_restarted"})
    assert {engine: error.code for engine, error in failed.items()} == {"e007": "engine_restarted"}
    assert set((await world.states()).values()) == {"staged"}
    async with world.database.transaction() as tx:
        found, codes = await targets.outcome(tx, run)
        plan = (
            await placement.check_load(tx, LoadRequest(adapter="greeter", version=1, pool="default"))
        ).model_copy(update={"targets": (), "batches": 1})
        result = await loading.commit_load(tx, run, plan, found, codes)
    assert len(result.engines) == 58
    # The one of which nothing was noted is not guessed to be ready.
    assert result.failed_engines == {"e000": "internal_error", "e007": "engine_restarted"}
    assert set((await world.states()).values()) == {"serving"}
    assert (await world.operation(run.operation)).state is OperationState.SUCCEEDED


async def test_an_item_whose_card_was_lost_with_an_earlier_life_is_kept_and_nobody_is_asked(
    world: World,
) -> None:
    run, items = await wide_load(world, 60)
    async with world.database.transaction() as tx:
        other = run.model_copy(update={"run_id": "run-2"})
        await runs.begin(tx, other, [])
        await targets.keep(tx, other, [*items[:59], items[59].model_copy(update={"lost": True})])
        assert len(await targets.take_batch(tx, other, 0)) == 59
        assert len(await targets.whole(tx, other)) == 60


async def test_more_than_an_operation_may_touch_is_refused_before_anything_starts(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    ref = await world.publish()
    await world.engines("e1", "e2", "e3")
    await world.load(ref)
    monkeypatch.setattr(placement, "MAX_ENGINES", 2)
    monkeypatch.setattr(unloading, "MAX_CARDS", 2)
    async with world.database.read() as tx:
        with pytest.raises(LoradockError, match="too_many_engines"):
            await placement.check_load(tx, LoadRequest(adapter="greeter", version=1, pool="default"))
        with pytest.raises(LoradockError, match="too_many_engines"):
            await unloading.check_unload(tx, UnloadRequest(adapter="greeter", pool="default"))
        few = LoadRequest(adapter="greeter", version=1, pool="default", engines=("e1", "e2"))
        assert len((await placement.check_load(tx, few)).targets) == 2
