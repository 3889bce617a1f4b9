"""The reconciler's part of the registry: what differs, who may repair it, and when a card says again what is so."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import text

from loradock.core.models import OperationState, VersionRef
from loradock.core.reconcile import DriftKind, ForeignPolicy, ReconcileRules, Repair
from loradock.core.requests import EngineReport, LoadRequest
from loradock.core.signatures import SignaturePolicy, SignatureRule, SignatureRules
from loradock.registry import runs, unloading
from tests.registry.reconcile_world import Looks, held
from tests.registry.world import World, digest, new_placement, report, run_of


@pytest.fixture
def looks(world: World) -> Looks:
    return Looks(world)


async def _served(world: World, *engines: str) -> VersionRef:
    """`greeter@1` on these engines, with all that was to be looked at looked at."""
    ref = await world.publish()
    await world.engines(*(engines or ("e1", "e2")))
    await world.load(ref)
    await _sql(world, "UPDATE reconciliations SET due_at = NULL, wanted_since = NULL")
    return ref


async def _sql(world: World, statement: str) -> None:
    async with world.database.transaction() as tx:
        await tx.session.execute(text(statement))


def _serving(ref: VersionRef, engine: str = "e1", life: str = "life-1", **facts: Any) -> EngineReport:
    served = {ref.served_name: ref.digest}
    return report(engine, life, **{"resident": (ref.served_name,), "served": served, **facts})


async def _restarted(looks: Looks, ref: VersionRef) -> Repair:
    """e1 came up empty, and its repair has begun."""
    await looks.world.renew(report("e1", "life-2"), report("e2"))
    assert await looks.due() == ["e1"]
    (repair,) = (await looks.look(life="life-2")).repairs
    assert (repair.kind, repair.put_in, repair.take_out) == (DriftKind.MISSING, ref, None)
    return repair


# ---- a restart


async def test_a_restarted_engine_is_due_at_once_and_serves_again_when_its_repair_is_made_good(
    looks: Looks,
) -> None:
    ref = await _served(looks.world)
    repair = await _restarted(looks, ref)
    assert await looks.world.states() == {"greeter@1 on e1": "lost", "greeter@1 on e2": "serving"}
    assert await looks.drift() == {"greeter@1": "missing"}
    assert (await looks.make_good([repair])).good == ("greeter@1",)
    assert (await looks.make_good([repair])).good == ("greeter@1",)  # told twice, done once
    card = next(card for card in await looks.world.cards() if card.engine == "e1")
    assert (card.state, card.incarnation, card.digest) == ("serving", "life-2", ref.digest)
    assert (card.operation, card.repair) == (None, repair.run.operation)
    look = await looks.begin()
    assert await looks.end(look)
    engine = await looks.engine()
    assert engine.drift == ()
    assert engine.reconcile is not None
    assert (engine.reconcile.wanted_since, engine.reconcile.next_look_at) == (None, None)
    assert (engine.reconcile.repaired, engine.reconcile.failed) == (1, 0)
    assert (await looks.world.actions()).count("card.repaired") == 1
    assert await looks.due() == []


async def test_what_it_took_is_counted_from_when_it_could_be_repaired(looks: Looks) -> None:
    ref = await _served(looks.world)
    await looks.world.renew(report("e1", reachable=False), report("e2"))
    assert await looks.due() == []  # nothing can be repaired there yet
    repair = await _restarted(looks, ref)
    await _sql(looks.world, "UPDATE reconciliations SET wanted_since = now() - interval '7 s'")
    look = await looks.begin()
    assert not await looks.end(look)  # it differs still
    await looks.make_good([repair])
    assert await looks.end(await looks.begin())
    record = (await looks.engine()).reconcile
    assert record is not None
    assert record.converged == 1
    assert record.last_converge_seconds is not None
    assert 7 <= record.last_converge_seconds < 60
    assert "engine.repaired" in await looks.world.actions()


async def test_an_engine_that_joins_gets_what_its_pool_serves(looks: Looks) -> None:
    ref = await _served(looks.world)
    await looks.world.renew(report("e1"), report("e2"), report("e3"))
    assert await looks.due() == ["e3"]
    (repair,) = (await looks.look(engine="e3")).repairs
    await looks.make_good([repair])
    assert (await looks.world.states())[f"{ref.served_name} on e3"] == "serving"


async def test_an_engine_of_another_base_or_not_named_is_asked_for_nothing(looks: Looks) -> None:
    ref = await looks.world.publish()
    await looks.world.renew(report("e1"), report("e2"))
    await looks.world.load(ref, engines=("e1",))
    await looks.world.renew(report("e1"), report("e2"), report("e3", base_model="another"))
    for engine in ("e2", "e3"):
        assert (await looks.look(engine=engine)).repairs == ()


async def test_a_look_that_another_life_overtakes_changes_nothing(looks: Looks) -> None:
    await _served(looks.world)
    look = await looks.begin()
    await looks.world.renew(report("e1", "life-2"), report("e2"))
    assert (await looks.compare(look)).changed
    assert await looks.drift() == {}


# ---- operations come first


async def test_what_an_operation_holds_waits_for_its_end(looks: Looks) -> None:
    ref = await _served(looks.world)
    run = await looks.world.start(new_placement(LoadRequest(adapter="greeter", version=1, pool="default")))
    await looks.world.renew(report("e1", "life-2"), report("e2"))
    look = await looks.begin()
    looked = await looks.compare(look, life="life-2")
    assert (looked.repairs, looked.waits) == ((), True)
    assert not await looks.end(look, waits=True)
    assert await looks.due() == []
    await looks.world.finish(run)
    assert await looks.due() == ["e1"]
    (repair,) = (await looks.look(life="life-2")).repairs
    assert repair.ref == ref


async def test_an_operation_that_begins_later_has_the_higher_epoch_and_wins(looks: Looks) -> None:
    ref = await _served(looks.world)
    repair = await _restarted(looks, ref)
    operation = await looks.world.submit(
        new_placement(LoadRequest(adapter="greeter", version=1, pool="default"))
    )
    assert operation.epoch > repair.run.epoch
    assert (await looks.make_good([repair])).late == ("greeter@1",)
    assert (await looks.world.states())["greeter@1 on e1"] == "lost"


async def test_an_operation_asked_for_in_the_same_moment_is_either_seen_or_later(looks: Looks) -> None:
    await _served(looks.world)
    await looks.world.renew(report("e1", "life-2"), report("e2"))
    look = await looks.begin()
    looked, operation = await asyncio.gather(
        looks.compare(look, life="life-2"),
        looks.world.submit(new_placement(LoadRequest(adapter="greeter", version=1, pool="default"))),
    )
    assert looked.waits or operation.epoch > looked.repairs[0].run.epoch


async def test_an_unload_finds_a_repair_that_has_begun_and_its_work_is_unwanted(looks: Looks) -> None:
    ref = await _served(looks.world)
    repair = await _restarted(looks, ref)
    run, plan = await looks.world.plan_unload(drain_seconds=0)
    (item,) = [item for item in plan.items if item.target.engine == "e1"]
    assert (item.lost, item.target.incarnation) == (False, "life-2")
    async with looks.world.database.transaction() as tx:
        await unloading.withdraw(tx, run, plan)
    async with looks.world.database.transaction() as tx:
        await unloading.commit_unload(tx, run, plan)
    assert (await looks.make_good([repair])).unwanted == ("greeter@1",)
    assert await looks.world.cards() == []


# ---- cards that are not so


async def test_a_card_whose_adapter_is_gone_loses_its_traffic_in_the_renewal_that_tells(looks: Looks) -> None:
    ref = await _served(looks.world)
    await looks.world.renew(_serving(ref), _serving(ref, "e2"))
    await _sql(looks.world, "UPDATE cards SET since = now() - interval '1 min'")
    await looks.world.renew(report("e1", served={}), _serving(ref, "e2"))
    assert await looks.world.states() == {"greeter@1 on e1": "lost", "greeter@1 on e2": "serving"}
    assert await looks.due() == ["e1"]


async def test_a_card_that_is_younger_than_what_the_agent_saw_is_believed(looks: Looks) -> None:
    await _served(looks.world)
    await looks.world.renew(report("e1", served={}), report("e2", served={}))
    assert set((await looks.world.states()).values()) == {"serving"}


async def test_other_weights_under_a_name_are_replaced(looks: Looks) -> None:
    ref = await _served(looks.world)
    wrong = ref.model_copy(update={"digest": digest("other")})
    await _sql(looks.world, "UPDATE cards SET since = now() - interval '1 min'")
    await looks.world.renew(_serving(wrong), report("e2"))
    assert (await looks.world.states())["greeter@1 on e1"] == "lost"
    (repair,) = (await looks.look(held(wrong))).repairs
    assert (repair.kind, repair.take_out, repair.put_in) == (DriftKind.WRONG, wrong, ref)
    (shown,) = (await looks.engine()).drift
    assert (shown.kind, shown.digest, shown.repair) == ("wrong", wrong.digest, repair.run.operation)


async def test_the_looks_own_word_withdraws_a_card_too(looks: Looks) -> None:
    ref = await _served(looks.world)
    looked = await looks.look(held(ref, serving=False))
    assert (await looks.world.states())["greeter@1 on e1"] == "lost"
    assert [repair.kind for repair in looked.repairs] == [DriftKind.MISSING]
    assert "card.lost" in await looks.world.actions()


async def test_what_is_held_rightly_is_taken_as_it_is_once_and_loaded_anew_if_that_fails(
    looks: Looks,
) -> None:
    looks.rules = ReconcileRules(backoff_seconds=0.001)
    ref = await _served(looks.world)
    await _sql(looks.world, "UPDATE cards SET state = 'lost'")
    (first,) = (await looks.look(held(ref))).repairs
    assert first.take_out is None
    await looks.fail(first, "engine_not_verified")
    await asyncio.sleep(0.01)
    (second,) = (await looks.look(held(ref))).repairs
    assert (second.take_out, second.put_in, second.attempt) == (ref, ref, 2)


async def test_cards_of_a_pool_that_the_engine_left_are_gone(looks: Looks) -> None:
    ref = await _served(looks.world)
    await looks.world.renew(report("e1"), report("e2"), pool="other")
    assert await looks.world.cards() == []
    assert await looks.due() == ["e1", "e2"]
    (repair,) = (await looks.look(held(ref, "repair-x"))).repairs
    assert (repair.kind, repair.take_out, repair.put_in) == (DriftKind.LEFTOVER, ref, None)


# ---- what nobody wants


async def test_what_an_operation_of_ours_left_is_taken_out_and_the_operation_is_healed(looks: Looks) -> None:
    ref = await looks.world.publish()
    await looks.world.engines("e1")
    run = await looks.world.start(new_placement(LoadRequest(adapter="greeter", version=1, pool="default")))
    async with looks.world.database.transaction() as tx:
        await runs.begin(tx, run, [("load", "e1")])
    async with looks.world.database.transaction() as tx:
        await runs.finish(tx, run, OperationState.FAILED, repairs_pending=True)
    assert await looks.due() == ["e1"]
    look = await looks.begin()
    (repair,) = (await looks.compare(look, held(ref, run.operation))).repairs
    assert repair.kind is DriftKind.LEFTOVER
    assert not await looks.end(look)
    assert (await looks.world.operation(run.operation)).repairs_pending
    await looks.make_good([repair])
    assert await looks.end(await looks.begin())
    assert not (await looks.world.operation(run.operation)).repairs_pending
    assert (await looks.world.actions())[-3:] == ["engine.cleaned", "engine.repaired", "operation.repaired"]


async def test_a_foreign_adapter_is_reported_and_left_alone(looks: Looks) -> None:
    await looks.world.engines("e1")
    foreign = VersionRef(adapter="stranger", version=3, digest=digest("stranger"), int_id=77)
    look = await looks.begin()
    assert (await looks.compare(look, held(foreign), unknown=(5,))).repairs == ()
    assert await looks.drift() == {"stranger@3": "foreign", "#5": "unknown_id"}
    assert await looks.end(look)
    assert await looks.due() == []
    await looks.look()  # gone by itself
    assert await looks.drift() == {}


async def test_a_foreign_adapter_is_unloaded_by_policy_when_its_grace_is_over(looks: Looks) -> None:
    looks.rules = ReconcileRules(foreign=ForeignPolicy.UNLOAD, foreign_grace_seconds=60)
    await looks.world.engines("e1")
    foreign = VersionRef(adapter="stranger", version=3, digest=digest("stranger"), int_id=77)
    look = await looks.begin()
    assert (await looks.compare(look, held(foreign))).repairs == ()
    assert not await looks.end(look)
    record = (await looks.engine()).reconcile
    assert record is not None
    assert record.next_look_at is not None
    await _sql(looks.world, "UPDATE drifts SET since = now() - interval '61 s'")
    (repair,) = (await looks.look(held(foreign))).repairs
    assert (repair.take_out, repair.put_in) == (foreign, None)


# ---- bounds


async def test_an_adapter_that_keeps_failing_waits_longer_each_time_and_blocks_no_other(looks: Looks) -> None:
    await _served(looks.world)
    other = await looks.world.publish("poet", seed="poet")
    await looks.world.load(other)
    await looks.world.renew(report("e1", "life-2"), report("e2"))
    looked = await looks.look(life="life-2")
    bad, good = looked.repairs
    waits = []
    for attempt in (1, 2):
        await looks.fail(bad, "adapter_corrupt")
        shown = next(one for one in (await looks.engine()).drift if one.served_name == bad.served_name)
        assert shown.next_try_at is not None
        assert shown.error is not None
        assert (shown.attempts, shown.error.code) == (attempt, "adapter_corrupt")
        async with looks.world.database.read() as tx:
            waits.append(shown.next_try_at - await tx.now())
        if attempt == 1:
            assert (await looks.make_good([good])).good == (good.served_name,)
            assert (await looks.look(held(good.ref), life="life-2")).repairs == ()
            await _sql(looks.world, "UPDATE drifts SET next_try_at = now()")
            (bad,) = (await looks.look(held(good.ref), life="life-2")).repairs
    assert timedelta(seconds=3) < waits[0] <= timedelta(seconds=5) < waits[1] <= timedelta(seconds=10)


async def test_another_life_is_tried_at_once_whatever_failed_before(looks: Looks) -> None:
    ref = await _served(looks.world)
    await looks.fail(await _restarted(looks, ref))
    assert (await looks.look(life="life-2")).repairs == ()
    await looks.world.renew(report("e1", "life-3"), report("e2"))
    (repair,) = (await looks.look(life="life-3")).repairs
    assert repair.attempt == 1


async def test_what_cannot_be_is_not_tried(looks: Looks) -> None:
    await looks.world.publish(rank=16)
    await looks.world.engines("e1")
    await looks.world.load(await looks.world.publish(rank=16))
    await looks.world.renew(report("e1", "life-2", max_lora_rank=8))
    assert (await looks.look(life="life-2")).repairs == ()
    (shown,) = (await looks.engine()).drift
    assert shown.error is not None
    assert shown.error.code == "rank_too_high"


async def test_a_version_that_the_signature_policy_does_not_admit_any_more_is_not_loaded(
    looks: Looks,
) -> None:
    await _served(looks.world)
    looks.signatures = SignatureRules(rules=(SignatureRule(policy=SignaturePolicy.REQUIRE),))
    await looks.world.renew(report("e1", "life-2"), report("e2"))
    assert (await looks.look(life="life-2")).repairs == ()
    (shown,) = (await looks.engine()).drift
    assert shown.error is not None
    assert shown.error.code == "signature_required"


async def test_repairs_of_an_engine_are_bounded_by_the_minute(looks: Looks) -> None:
    looks.rules = ReconcileRules(repairs_per_minute=2)
    await looks.world.engines("e1")
    for name in ("a", "b", "c"):
        await looks.world.load(await looks.world.publish(name, seed=name))
    await looks.world.renew(report("e1", "life-2"))
    look = await looks.begin()
    first = (await looks.compare(look, life="life-2")).repairs
    assert len(first) == 2
    await looks.make_good(first)
    assert not await looks.end(look)
    there = [held(repair.ref) for repair in first]
    assert (await looks.look(*there, life="life-2")).repairs == ()
    await _sql(looks.world, "UPDATE reconciliations SET window_at = now() - interval '61 s'")
    await _sql(looks.world, "UPDATE drifts SET next_try_at = now()")
    assert len((await looks.look(*there, life="life-2")).repairs) == 1


# ---- the queue and the scan


async def test_a_cause_that_comes_during_a_look_keeps_the_engine_in_the_queue(looks: Looks) -> None:
    await _served(looks.world)
    look = await looks.begin()
    await looks.compare(look)
    await looks.world.renew(report("e1", "life-2"), report("e2"))
    assert not await looks.end(look)
    assert await looks.due() == ["e1"]
    assert await looks.due() == []  # one starter alone takes it


async def test_a_look_whose_workflow_is_gone_is_begun_again(looks: Looks) -> None:
    ref = await _served(looks.world)
    await _restarted(looks, ref)
    await _sql(looks.world, "UPDATE reconciliations SET due_at = due_at - interval '121 s'")
    assert await looks.due() == ["e1"]
    (again,) = (await looks.look(life="life-2")).repairs
    assert (await looks.make_good([again])).good == ("greeter@1",)


async def test_the_scan_finds_what_no_event_told_and_nothing_else(looks: Looks) -> None:
    ref = await _served(looks.world, "e1", "e2", "e3", "e4")
    await looks.world.renew(*(_serving(ref, engine) for engine in ("e1", "e2", "e3", "e4")))
    await _sql(looks.world, "UPDATE cards SET since = now() - interval '1 min'")
    assert (await looks.scan()).differing == ()
    await _sql(looks.world, "UPDATE cards SET state = 'lost' WHERE engine = 'e1'")
    await _sql(looks.world, """UPDATE engines SET resident = '{greeter@1,x@1}' WHERE id = 'e2'""")
    await _sql(looks.world, """UPDATE engines SET served = '{}' WHERE id = 'e3'""")
    first = await looks.scan(limit=2)
    assert (first.differing, first.next) == (("e1", "e2"), "e2")
    assert (await looks.scan("e2", limit=3)).differing == ("e3",)
    assert await looks.due() == ["e1", "e2", "e3"]
    assert (await looks.scan()).differing == ()  # they are in the queue


async def test_the_scan_leaves_alone_what_an_operation_holds(looks: Looks) -> None:
    ref = await _served(looks.world)
    await _sql(looks.world, "UPDATE cards SET state = 'lost' WHERE engine = 'e1'")
    operation = await looks.world.submit(
        new_placement(LoadRequest(adapter=ref.adapter, version=1, pool="default"))
    )
    assert (await looks.scan()).differing == ()
    await looks.world.finish(run_of(operation))
    assert (await looks.scan()).differing == ("e1",)


async def test_the_scan_does_not_ask_again_for_what_is_reported_already(looks: Looks) -> None:
    await looks.world.engines("e1")
    foreign = VersionRef(adapter="stranger", version=3, digest=digest("stranger"), int_id=77)
    await looks.world.renew(report("e1", resident=("stranger@3",), unknown_ids=(9,)))
    look = await looks.begin()
    await looks.compare(look, held(foreign), unknown=(9,))
    await looks.end(look)
    assert (await looks.scan()).differing == ()
    await looks.world.renew(report("e1"))
    assert (await looks.scan()).differing == ("e1",)
