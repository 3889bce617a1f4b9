"""The registry in numbers."""

from datetime import timedelta
from typing import Any

from sqlalchemy import text, update

from loradock.core.models import OperationState
from loradock.core.requests import CacheReport
from loradock.core.uploads import UploadState
from loradock.registry import agents, engine_removal, figures, uploads
from loradock.registry.database import Database
from loradock.registry.figures import Figures
from loradock.registry.lease_keeping import note_presence
from loradock.registry.tables import AgentRow, EngineRow, OperationRow, ReconciliationRow
from tests.registry.reconcile_world import Looks
from tests.registry.test_indexes import statements
from tests.registry.world import World, digest, manifest, new_publish, renewal, report

FLEET = """
INSERT INTO agents (id, instance, pool, agent_version, labels, lease_until, renewed_at, cache)
    SELECT 'h' || n, 'i', 'p', '1', '{}', now() + interval '1 hour', now(),
        '{"bytes": 10, "adapters": 1, "leased": 1, "hits": 3, "evicted": 2, "free_bytes": 7}'
    FROM generate_series(1, 100) n;
INSERT INTO engines (id, agent, pool, kind, url, status, incarnation, lease_until)
    SELECT 'e' || n, 'h' || (n % 100 + 1), 'p', 'vllm', 'u', 'alive', 'i', now() + interval '1 hour'
    FROM generate_series(1, 1000) n
"""


async def read(database: Database, *, most_engines: int = 1000, lease_seconds: float = 10) -> Figures:
    async with database.single() as single:
        return await figures.read(single, lease_seconds=lease_seconds, most_engines=most_engines)


async def change(database: Database, statement: Any) -> None:
    async with database.transaction() as tx:
        await tx.session.execute(statement)


async def test_an_empty_registry_is_all_zero(database: Database) -> None:
    found = await read(database)
    assert (found.active, found.ended, found.engines, found.hosts, found.cards) == ((), (), (), (), ())
    assert (found.repairs_pending, found.leases_ending, found.engines_left_out) == (0, 0, 0)
    assert found.reconciliations.model_dump() == {
        "repaired": 0, "failed": 0, "converged": 0, "converge_seconds": 0, "differing": 0, "overdue_seconds": 0,
    }  # fmt: skip


async def test_operations_are_counted_by_kind_and_state_and_the_waiting_apart(world: World) -> None:
    await world.publish()
    await world.finish(await world.start(new_publish("second")))
    await world.start(new_publish("third"))
    waiting = await world.submit(new_publish("fourth"))
    hour_ago = text("now() - interval '1 hour'")
    row = update(OperationRow).where(OperationRow.id == waiting.id)
    await change(world.database, row.values(admitted_at=None, created_at=hour_ago))
    found = await read(world.database)
    assert {(one.kind, one.state, one.count) for one in found.active} == {
        ("publish", "running", 1),
        ("publish", "queued", 1),
    }
    oldest = {one.state: one.oldest_seconds for one in found.active}
    assert 0 <= oldest["running"] < 600 < 3600 <= oldest["queued"] < 4200
    assert {(one.kind, one.state, one.count) for one in found.ended} == {
        ("publish", "succeeded", 1),
        ("publish", "failed", 1),
    }
    assert all(0 <= one.seconds < 600 for one in found.ended)


async def test_the_time_of_ended_operations_counts_from_the_request(world: World) -> None:
    await world.publish()
    begun = OperationRow.ended_at - timedelta(seconds=90)
    await change(world.database, update(OperationRow).values(created_at=begun))
    (ended,) = (await read(world.database)).ended
    assert ended.seconds == 90


async def test_an_undo_that_was_handed_on_is_counted_until_it_is_made_good(world: World) -> None:
    run = await world.start(new_publish())
    await world.finish(run, OperationState.FAILED)
    await change(world.database, update(OperationRow).values(repairs_pending=True))
    assert (await read(world.database)).repairs_pending == 1


async def test_an_engine_whose_lease_ran_out_is_lost_and_forgotten_a_day_later(world: World) -> None:
    await world.engines("e1", "e2", "e3", "e4")
    for engine, until in (("e2", "- interval '1 second'"), ("e3", "- interval '2 days'"), ("e4", "")):
        lease = text(f"clock_timestamp() {until or '+ interval ' + repr('4 seconds')}")
        await change(
            world.database, update(EngineRow).where(EngineRow.id == engine).values(lease_until=lease)
        )
    found = await read(world.database)
    assert {(one.pool, one.status): one.count for one in found.engine_counts} == {
        ("default", "alive"): 2,
        ("default", "lost"): 1,
    }
    assert {one.engine: one.alive for one in found.engines} == {"e1": True, "e2": False, "e4": True}
    assert found.leases_ending == 1  # e4: less than half of 10 s is left


async def test_no_engine_counts_as_lost_because_the_service_was_away(world: World) -> None:
    await world.engines("e1")
    async with world.database.single() as single:
        await note_presence(single, 10)
    hour = "- interval '1 hour'"
    await change(world.database, text(f"UPDATE engines SET lease_until = lease_until {hour}"))
    times = ", ".join(f"{name} = {name} {hour}" for name in ("held_from", "expected_by", "grace_until"))
    await change(world.database, text(f"UPDATE lease_keeping SET {times}"))
    found = await read(world.database)
    assert [(one.status, one.count) for one in found.engine_counts] == [("alive", 1)]
    assert [one.alive for one in found.engines] == [True]


async def test_an_engine_tells_its_slots_and_what_it_serves(world: World) -> None:
    await world.renew(report("e1", free_slots=3), report("e2"))
    await world.load(await world.publish())
    found = await read(world.database)
    by_name = {one.engine: one for one in found.engines}
    assert (by_name["e1"].usable_slots, by_name["e1"].free_slots, by_name["e1"].cards) == (4, 3, 1)
    assert (by_name["e2"].agent, by_name["e2"].pool) == ("host-1", "default")
    assert [(one.name, one.count) for one in found.cards] == [("serving", 2)]


async def test_drift_and_repairs_are_counted_and_the_time_until_an_engine_is_as_wanted(world: World) -> None:
    looks = Looks(world)
    await world.engines("e1")
    await world.load(await world.publish())
    look = await looks.begin()
    (repair,) = (await looks.compare(look)).repairs
    found = await read(world.database)
    assert [(one.name, one.count) for one in found.drifts] == [("missing", 1)]
    assert (found.engines[0].drifts, found.reconciliations.differing) == (1, 1)
    assert found.engines[0].differs_seconds > 0
    await looks.fail(repair)
    await change(world.database, text("UPDATE drifts SET next_try_at = NULL"))
    look = await looks.begin()
    (repair,) = (await looks.compare(look)).repairs
    await looks.make_good([repair])
    minute_ago = text("clock_timestamp() - interval '1 minute'")
    await change(world.database, update(ReconciliationRow).values(wanted_since=minute_ago))
    assert await looks.end(look)
    found = await read(world.database)
    done = found.reconciliations
    assert (done.repaired, done.failed, done.converged, done.differing) == (1, 1, 1, 0)
    assert 60 <= done.converge_seconds < 600
    assert (found.drifts, found.engines[0].drifts, found.engines[0].differs_seconds) == ((), 0, 0)


async def test_what_was_repaired_on_an_engine_that_is_removed_counts_on(world: World) -> None:
    await world.engines("e1", "e2", "e3")
    counts = {"repaired": 3, "failed": 2, "converged": 1, "converge_seconds": 1.5}
    await change(world.database, update(ReconciliationRow).values(**counts))
    for engine in ("e1", "e2"):
        past = update(EngineRow).where(EngineRow.id == engine)
        await change(world.database, past.values(lease_until=text("now() - interval '1 hour'")))
        async with world.database.transaction() as tx:
            await engine_removal.remove_engine(tx, engine, "alice")
    done = (await read(world.database)).reconciliations
    assert done.model_dump(include=set(counts)) == {name: 3 * count for name, count in counts.items()}


async def test_a_look_that_is_late_shows_by_how_much(world: World) -> None:
    await world.engines("e1", "e2")
    for engine, due in (("e1", "- interval '1 minute'"), ("e2", "+ interval '1 minute'")):
        row = update(ReconciliationRow).where(ReconciliationRow.engine == engine)
        await change(world.database, row.values(due_at=text(f"clock_timestamp() {due}")))
    assert 60 <= (await read(world.database)).reconciliations.overdue_seconds < 600


async def test_upload_sessions_are_counted_until_they_end(world: World) -> None:
    new = uploads.NewUpload(
        id="up-1", actor="alice", adapter="greeter", digest=digest("one"), files=manifest("one").files,
        seconds=60,
    )  # fmt: skip
    async with world.database.transaction() as tx:
        await uploads.open_session(tx, new)
    assert [(one.name, one.count) for one in (await read(world.database)).uploads] == [(UploadState.OPEN, 1)]
    await change(world.database, text("UPDATE uploads SET state = 'ended', ended_at = now()"))
    assert (await read(world.database)).uploads == ()


async def test_the_caches_are_told_once_for_each_host(world: World) -> None:
    cache = CacheReport(bytes=5, adapters=2, leased=1, hits=9, evicted=3, free_bytes=100)
    told = renewal(report("e1"), report("e2")).model_copy(update={"cache": cache})
    async with world.database.transaction() as tx:
        await agents.renew_lease(tx, told, 60)
    await world.renew(report("e3"), agent="host-2")  # tells nothing of its cache
    (host,) = (await read(world.database)).hosts
    assert (host.agent, host.cache) == ("host-1", cache)
    await change(world.database, update(AgentRow).values(cache=None))
    assert (await read(world.database)).hosts == ()


async def test_a_large_fleet_is_counted_by_one_statement_and_told_of_in_sums_alone(
    database: Database,
) -> None:
    for statement in FLEET.split(";\n"):
        await change(database, text(statement))
    async with statements(database) as seen:
        found = await read(database)
    assert len(seen) == 1
    assert (len(found.engines), len(found.hosts), found.engines_left_out) == (1000, 100, 0)
    found = await read(database, most_engines=999)
    assert (found.engines, found.hosts, found.engines_left_out) == ((), (), 1000)
    assert [(one.pool, one.status, one.count) for one in found.engine_counts] == [("p", "alive", 1000)]
