"""Waiters are woken by the database itself, also after the connection was lost."""

import asyncio

import psycopg

from loradock.core.models import StepReport, StepState
from loradock.registry import operation_steps, runs
from loradock.registry.notifications import OperationFeed
from tests.registry.world import World, new_publish, run_of


async def test_a_change_of_an_operation_wakes_those_who_wait_for_it_and_no_others(
    world: World, registry_url: str
) -> None:
    run = run_of(await world.submit(new_publish()))
    async with OperationFeed(registry_url) as feed:
        assert await feed.wait_listening(5)
        async with (
            feed.watch(run.operation) as one,
            feed.watch(run.operation) as two,
            feed.watch("x") as other,
        ):
            async with world.database.transaction() as tx:
                await runs.begin(tx, run, [])
            assert await one.wait(5)
            assert await two.wait(5)
            assert not await one.wait(0.05)
            async with world.database.transaction() as tx:
                step = StepReport(name="fetch", state=StepState.RUNNING)
                await operation_steps.record_steps(tx, run.operation, [step])
            assert await one.wait(5)
            assert not await other.wait(0.05)


async def test_a_change_between_watch_and_wait_is_not_lost(world: World, registry_url: str) -> None:
    made = await world.submit(new_publish())
    async with OperationFeed(registry_url) as feed, feed.watch(made.id) as changes:
        await feed.wait_listening(5)
        await changes.wait(0)
        await world.finish(run_of(made))
        while not await changes.wait(5):
            raise AssertionError("not woken")
        assert (await world.operation(made.id)).state == "failed"


async def test_after_a_lost_connection_everybody_looks_again(world: World, registry_url: str) -> None:
    made = await world.submit(new_publish())
    async with OperationFeed(registry_url) as feed:
        assert await feed.wait_listening(5)
        async with feed.watch(made.id) as changes:
            with psycopg.connect(registry_url) as connection:
                connection.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                    " WHERE application_name = 'loradock-feed' AND datname = current_database()"
                )
            assert await changes.wait(10)
            assert await feed.wait_listening(10)
            await world.finish(run_of(made))
            assert await changes.wait(5)


async def test_without_a_database_waiters_just_time_out() -> None:
    async with OperationFeed("postgresql://u:p@127.0.0.1:1/x") as feed, feed.watch("op") as changes:
        assert not await changes.wait(0.05)
        assert not feed.listening


async def test_close_ends_at_once_and_leaves_no_connection(registry_url: str) -> None:
    feed = OperationFeed(registry_url)
    await feed.start()
    assert await feed.wait_listening(5)
    await asyncio.wait_for(feed.close(), 2)
    for _ in range(100):
        with psycopg.connect(registry_url) as connection:
            row = connection.execute(
                "SELECT count(*) FROM pg_stat_activity"
                " WHERE application_name = 'loradock-feed' AND datname = current_database()"
            ).fetchone()
        if row == (0,):
            return
        await asyncio.sleep(0.02)
    raise AssertionError("the connection is still open")


async def test_changes_of_cards_are_told(world: World, registry_url: str) -> None:
    ref = await world.publish()
    await world.engines("e1")
    async with await psycopg.AsyncConnection.connect(registry_url, autocommit=True) as connection:
        await connection.execute("LISTEN loradock_cards")
        await world.load(ref)
        told = {notice.payload async for notice in connection.notifies(timeout=2, stop_after=3)}
    assert {"cards", "deployments"} <= told
