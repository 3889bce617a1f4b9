"""Leases: who has an engine, which life it is in, and what happens to its cards."""

import asyncio
from typing import Any

import pytest
from sqlalchemy import event, text

from loradock.core.errors import LoradockError
from loradock.core.models import EngineStatus
from loradock.core.promises import EnginePromise
from loradock.core.requests import EngineReport, LeaseKeep
from loradock.registry import agents, engines
from loradock.registry.views import EngineView
from tests.registry.world import BASE, World, renewal, report


async def _engine(world: World, engine: str = "e1") -> EngineView:
    async with world.database.read() as tx:
        return await engines.get_engine(tx, engine)


async def _expire(world: World) -> list[str]:
    async with world.database.transaction() as tx:
        return await agents.expire_leases(tx)


async def _served(world: World) -> None:
    """`greeter@1` on e1 and e2, as the engines say too."""
    ref = await world.publish()
    await world.engines("e1", "e2")
    await world.load(ref)
    await world.renew(_holding("e1"), _holding("e2"))


def _holding(engine: str, incarnation: str = "life-1", **facts: Any) -> EngineReport:
    return report(engine, incarnation, **{"resident": ("greeter@1",), "free_slots": 3, **facts})


async def test_the_first_renewal_joins_agent_and_engines(world: World) -> None:
    granted = await world.renew(report("e1", limitations=("none",)), report("e2"), seconds=60)
    assert (granted.superseded, granted.engines, granted.refused) == (False, {"e1": 1, "e2": 1}, {})
    engine = await _engine(world)
    assert (engine.status, engine.incarnation, engine.pool, engine.base_model) == (
        "alive",
        "life-1",
        "default",
        BASE,
    )
    assert engine.lease_until == granted.lease_until
    assert engine.limitations == ("none",)
    assert engine.seen_at is not None
    assert await world.actions() == ["agent.joined", "engine.joined", "engine.joined"]


async def test_many_first_renewals_at_once_join_once(world: World) -> None:
    await asyncio.gather(*(world.renew(report("e1"), report("e2")) for _ in range(8)))
    assert await world.actions() == ["agent.joined", "engine.joined", "engine.joined"]


async def test_a_steady_renewal_writes_timestamps_and_nothing_else(world: World) -> None:
    await _served(world)
    columns = "to_jsonb(e) - 'lease_until' - 'seen_at'"

    async def facts() -> tuple[Any, ...]:
        async with world.database.read() as tx:
            rows = await tx.session.execute(text(f"SELECT {columns}, xmin FROM engines e ORDER BY id"))
            cards_rows = await tx.session.execute(text("SELECT xmin, engine FROM cards ORDER BY 2"))
            audited = await tx.session.execute(text("SELECT count(*) FROM audit_events"))
            return [row[0] for row in rows], [tuple(row) for row in cards_rows], audited.scalar_one()

    before, lease = await facts(), (await _engine(world)).lease_until
    await world.renew(_holding("e1"), _holding("e2"))
    assert await facts() == before
    assert (await _engine(world)).lease_until > lease


async def test_a_lease_that_runs_out_loses_engine_and_cards_once(world: World) -> None:
    await _served(world)
    assert await _expire(world) == []
    await world.renew(_holding("e1"), _holding("e2"), seconds=-1)
    assert (await _engine(world)).status is EngineStatus.LOST
    assert await _expire(world) == ["e1", "e2"]
    assert await _expire(world) == []
    assert set((await world.states()).values()) == {"lost"}
    assert (await world.actions())[-2:] == ["engine.lost", "engine.lost"]


async def test_sweepers_at_once_note_each_engine_once(world: World) -> None:
    await _served(world)
    await world.renew(_holding("e1"), _holding("e2"), seconds=-1)
    found = await asyncio.gather(*(_expire(world) for _ in range(5)))
    assert sorted(engine for engines in found for engine in engines) == ["e1", "e2"]


async def test_lost_cards_serve_again_when_the_same_life_still_holds_them(world: World) -> None:
    await _served(world)
    await world.renew(_holding("e1"), _holding("e2"), seconds=-1)
    await _expire(world)
    await world.renew(_holding("e1"), report("e2"))
    assert await world.states() == {"greeter@1 on e1": "serving", "greeter@1 on e2": "lost"}
    assert (await world.actions()).count("card.recovered") == 1
    assert (await _engine(world)).generation == 1


async def test_a_new_life_loses_the_old_lifes_cards_for_good(world: World) -> None:
    await _served(world)
    granted = await world.renew(_holding("e1", "life-2"), _holding("e2"))
    assert granted.engines == {"e1": 2, "e2": 1}
    assert await world.states() == {"greeter@1 on e1": "lost", "greeter@1 on e2": "serving"}
    await world.renew(_holding("e1", "life-2", reachable=False), _holding("e2"))
    await world.renew(_holding("e1", "life-2"), _holding("e2"))
    assert await world.states() == {"greeter@1 on e1": "lost", "greeter@1 on e2": "serving"}
    assert (await world.actions()).count("engine.restarted") == 1


async def test_an_unreachable_engine_loses_its_cards_and_is_audited_once(world: World) -> None:
    await _served(world)
    for _ in range(3):
        await world.renew(_holding("e1", reachable=False), _holding("e2"))
    assert (await _engine(world)).status is EngineStatus.UNREACHABLE
    assert await world.states() == {"greeter@1 on e1": "lost", "greeter@1 on e2": "serving"}
    await world.renew(_holding("e1"), _holding("e2"))
    assert set((await world.states()).values()) == {"serving"}
    actions = await world.actions()
    assert (actions.count("engine.unreachable"), actions.count("engine.recovered")) == (1, 1)


async def test_an_unreachable_report_keeps_what_is_known(world: World) -> None:
    await _served(world)
    before = await _engine(world)
    await world.renew(EngineReport(engine="e1", url="http://x", kind="simulated", reachable=False))
    after = await _engine(world)
    assert (after.incarnation, after.base_model, after.max_lora_rank, after.resident, after.seen_at) == (
        before.incarnation,
        before.base_model,
        before.max_lora_rank,
        before.resident,
        before.seen_at,
    )


async def test_an_engine_may_join_before_it_was_ever_reached(world: World) -> None:
    unknown = EngineReport(engine="e1", url="http://x", kind="vllm", reachable=False)
    assert (await world.renew(unknown)).engines == {"e1": 0}
    assert (await _engine(world)).status is EngineStatus.UNREACHABLE
    assert (await world.renew(report("e1"))).engines == {"e1": 1}
    assert "engine.restarted" not in await world.actions()


async def test_draining_and_staged_cards_outlive_an_outage_but_not_a_restart(world: World) -> None:
    await _served(world)
    second = await world.publish(seed="two")
    await world.staged(second, engines=("e1",))
    await world.renew(_holding("e1", reachable=False), _holding("e2"))
    assert (await world.states())["greeter@2 on e1"] == "staged"
    await world.renew(_holding("e1", "life-2"), _holding("e2"))
    assert (await world.states())["greeter@2 on e1"] == "lost"


async def test_a_second_process_takes_over_and_the_first_is_told(world: World) -> None:
    await world.renew(report("e1"), instance="process-1")
    assert not (await world.renew(report("e1"), instance="process-2")).superseded
    old = await world.renew(report("e1", "life-2"), report("e5"), instance="process-1")
    assert (old.superseded, old.engines) == (True, {})
    assert (await _engine(world)).incarnation == "life-1"
    assert not (await world.renew(report("e1"), instance="process-2")).superseded
    assert (await world.actions()).count("agent.replaced") == 1
    with pytest.raises(LoradockError, match="engine_not_found"):
        await _engine(world, "e5")


async def test_an_engine_under_another_living_lease_is_refused_and_the_rest_goes_on(world: World) -> None:
    await world.renew(report("e1"), seconds=60)
    granted = await world.renew(report("e1", "other-life"), report("e2"), agent="host-2")
    assert (granted.engines, list(granted.refused)) == ({"e2": 1}, ["e1"])
    assert ((await _engine(world)).agent, (await _engine(world)).incarnation) == ("host-1", "life-1")


async def test_an_engine_whose_lease_ran_out_may_move_to_another_agent(world: World) -> None:
    await world.renew(report("e1"), seconds=-1)
    assert (await world.renew(report("e1"), agent="host-2")).engines == {"e1": 1}
    assert (await _engine(world)).agent == "host-2"
    assert "engine.moved" in await world.actions()


async def test_agents_that_fight_for_an_engine_at_once_do_not_deadlock(world: World) -> None:
    names = [f"e{number}" for number in range(6)]
    both = (names, names[::-1])
    answers = await asyncio.gather(
        *(world.renew(*map(report, both[number % 2]), agent=f"host-{number}") for number in range(6))
    )
    owners = [granted for granted in answers if granted.engines]
    assert sorted(engine for granted in owners for engine in granted.engines) == names


async def test_engines_are_listed_by_pool_and_status(world: World) -> None:
    await world.engines("e1", "e2", "e3")
    await world.renew(report("f1"), agent="host-2", pool="other", seconds=-1)
    async with world.database.read() as tx:
        first = await engines.list_engines(tx, pool="default", limit=2)
        rest = await engines.list_engines(tx, pool="default", limit=2, cursor=first.next)
        lost = await engines.list_engines(tx, status=EngineStatus.LOST)
        alive = await engines.list_engines(tx, status=EngineStatus.ALIVE)
        assert await engines.pools_of_base_model(tx, BASE) == ["default", "other"]
    assert [engine.id for engine in (*first.items, *rest.items)] == ["e1", "e2", "e3"]
    assert [engine.id for engine in lost.items] == ["f1"]
    assert [engine.id for engine in alive.items] == ["e1", "e2", "e3"]


async def test_a_renewal_with_many_engines_is_a_handful_of_statements(world: World) -> None:
    reports = [report(f"e{number}") for number in range(200)]
    await world.renew(*reports)
    statements = 0

    def count(*_: object) -> None:
        nonlocal statements
        statements += 1

    engine = world.database._engine.sync_engine
    event.listen(engine, "before_cursor_execute", count)
    async with world.database.transaction() as tx:
        await agents.renew_lease(tx, renewal(*reports), 60)
    event.remove(engine, "before_cursor_execute", count)
    assert statements <= 5


async def _keep(world: World, report: str | None, engines: int = 2, instance: str = "instance-1") -> bool:
    keep = LeaseKeep(instance=instance, report=report or "nothing-of-the-kind", engines=engines)
    async with world.database.single() as connection:
        return (await agents.keep_lease(connection, "host-1", keep, 600)).kept


async def test_a_lease_is_kept_by_quoting_the_last_report_and_only_times_change(world: World) -> None:
    granted = await world.renew(report("e1"), report("e2", reachable=False))
    before = {name: await _engine(world, name) for name in ("e1", "e2")}
    actions = await world.actions()
    assert await _keep(world, granted.report)
    after = {name: await _engine(world, name) for name in ("e1", "e2")}
    assert all(after[name].lease_until > before[name].lease_until for name in after)
    assert (after["e1"].seen_at or 0) > (before["e1"].seen_at or 0)  # type: ignore[operator]
    assert after["e2"].seen_at == before["e2"].seen_at
    times = {"lease_until", "seen_at"}
    assert [after[name].model_dump(exclude=times) for name in after] == [
        before[name].model_dump(exclude=times) for name in before
    ]
    assert await world.actions() == actions


async def test_a_lease_is_not_kept_by_what_is_not_in_force_any_more(world: World) -> None:
    first = await world.renew(report("e1"), report("e2"))
    second = await world.renew(report("e1"), report("e2"))
    assert not await _keep(world, first.report)
    assert not await _keep(world, second.report, instance="instance-2")
    assert not await _keep(world, second.report, engines=3)
    until = (await _engine(world)).lease_until
    assert await _keep(world, second.report)
    assert (await _engine(world)).lease_until > until

    # Lost, as a whole or one engine alone: all must be told, or nobody would learn that it lives.
    lapsed = await world.renew(report("e1"), report("e2"), seconds=-1)
    assert not await _keep(world, lapsed.report)
    await _expire(world)
    assert not await _keep(world, lapsed.report)
    assert (await _engine(world)).status is EngineStatus.LOST


async def test_a_lease_that_does_not_cover_an_engine_is_not_kept(world: World) -> None:
    await world.renew(report("e2"), agent="host-2")
    refused = await world.renew(report("e1"), report("e2"))
    assert (set(refused.refused), refused.report) == ({"e2"}, None)
    assert not await _keep(world, refused.report)

    alone = await world.renew(report("e1"))
    assert await _keep(world, alone.report, engines=1)
    await world.renew(report("e1"), report("e3"), seconds=-1)
    taken = await world.renew(report("e1"), agent="host-2")
    assert taken.engines == {"e1": 1}
    assert not await _keep(world, alone.report, engines=1)


async def test_keeping_and_losing_at_once_never_keeps_half(world: World) -> None:
    for _ in range(5):
        granted = await world.renew(report("e1"), report("e2"), seconds=0.05)
        kept, lost = await asyncio.gather(_keep(world, granted.report), _expire(world))
        statuses = {(await _engine(world, name)).status for name in ("e1", "e2")}
        assert len(statuses) == 1
        assert not (kept and lost)


async def test_what_an_engine_cannot_promise_is_kept_with_it_until_it_can(world: World) -> None:
    missing = (EnginePromise.TRUE_UNLOAD, EnginePromise.ADMISSION)
    await world.renew(report("e1", missing_promises=missing), report("e2"))
    assert (await _engine(world)).missing_promises == tuple(sorted(missing))
    assert (await _engine(world, "e2")).missing_promises == ()
    await world.renew(report("e1"), report("e2"))
    assert (await _engine(world)).missing_promises == ()


async def test_why_an_engine_is_not_reached_is_kept_until_it_is(world: World) -> None:
    why = "engine_not_supported: http://e1 answers without Loradock's extension"
    await world.renew(report("e1", reachable=False, problem=why))
    assert ((await _engine(world)).status, (await _engine(world)).problem) == ("unreachable", why)
    await world.renew(report("e1", reachable=False, problem="engine_unreachable: gone"))
    assert (await _engine(world)).problem == "engine_unreachable: gone"
    await world.renew(report("e1"))
    assert ((await _engine(world)).status, (await _engine(world)).problem) == ("alive", None)
