"""The starter of the reconciler: told of a cause it starts at once, and what Temporal does not take stays in the queue."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from pathlib import Path

from sqlalchemy import text
from temporalio.client import Client, ScheduleOverlapPolicy

from loradock.core.settings import load_settings
from loradock.registry import reconcile_queue
from loradock.registry.database import Database
from loradock.registry.engines import get_engine
from tests.activities.conftest import Running
from tests.registry.world import World
from tests.worker.service import Service
from worker.reconciler import SCAN_SCHEDULE_ID, ReconcileStarter, ensure_scan


@asynccontextmanager
async def starting(starter: ReconcileStarter) -> AsyncIterator[None]:
    task = asyncio.create_task(starter.run())
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def until_serving(registry: World, count: int) -> None:
    async with asyncio.timeout(60):
        while list((await registry.states()).values()).count("serving") < count:
            await asyncio.sleep(0.05)


async def test_a_cause_in_a_transaction_has_the_engine_repaired(
    service: Service, engines: dict[str, Running], folder: Path, database_address: str
) -> None:
    drivers = {name: running.driver for name, running in engines.items()}
    starter = ReconcileStarter(service.database, database_address, service.client)
    async with service.orchestrating(), service.hosting(drivers), starting(starter):
        await service.join(drivers)
        ref = await service.publish(folder)
        await service.load(ref)
        inside = engines["e1"].inside
        for int_id in await inside.list_ids():  # the engine has lost it, and nobody has told
            await inside.remove(int_id)
        async with service.database.transaction() as tx:
            await tx.session.execute(text("UPDATE cards SET state = 'lost' WHERE engine = 'e1'"))
            await reconcile_queue.want(tx, {"e1": "the test says so"})
        await until_serving(service.registry, 2)
        assert (await drivers["e1"].state()).adapter(ref.served_name) is not None
        async with asyncio.timeout(30):
            while await waiting(service.database):
                await asyncio.sleep(0.05)
        async with service.database.read() as tx:
            engine = await get_engine(tx, "e1")
    assert engine.drift == ()
    assert engine.reconcile is not None
    assert (engine.reconcile.repaired, engine.reconcile.converged) == (1, 1)


async def waiting(database: Database) -> bool:
    async with database.read() as tx:
        query = "SELECT count(*) FROM reconciliations WHERE wanted_since IS NOT NULL"
        return bool((await tx.session.execute(text(query))).scalar_one())


async def test_what_temporal_does_not_take_stays_in_the_queue(registry: World, database_address: str) -> None:
    away = await Client.connect("127.0.0.1:9", lazy=True)
    await registry.engines("e1", "e2")
    assert await ReconcileStarter(registry.database, database_address, away).run_once() == 0
    async with registry.database.read() as tx:
        query = "SELECT engine, due_at > clock_timestamp() + interval '3 s' FROM reconciliations ORDER BY 1"
        assert [tuple(row) for row in await tx.session.execute(text(query))] == [("e1", False), ("e2", False)]


async def test_the_scan_has_a_schedule_that_never_overlaps(client: Client) -> None:
    await ensure_scan(client, load_settings(reconcile_scan_seconds=60))
    found = (await client.get_schedule_handle(SCAN_SCHEDULE_ID).describe()).schedule
    assert found.policy.overlap is ScheduleOverlapPolicy.SKIP
    assert (found.spec.intervals[0].every, found.spec.jitter) == (timedelta(seconds=60), timedelta(seconds=6))
