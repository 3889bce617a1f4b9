"""Units of work: kept or undone as a whole; failures of Postgres have a code."""

import asyncio

import psycopg
import pytest
from sqlalchemy import text

from loradock.core.errors import LoradockError
from loradock.registry import adapter_rows, adapters
from loradock.registry.database import Database
from tests.registry.world import World, new_publish


async def _names(database: Database) -> list[str]:
    async with database.read() as tx:
        return [item.name for item in (await adapters.list_adapters(tx)).items]


async def test_a_transaction_is_kept_or_undone_as_a_whole(database: Database) -> None:
    async with database.transaction() as tx:
        await adapter_rows.ensure(tx, "kept", "alice")
    with pytest.raises(KeyError):
        async with database.transaction() as tx:
            await adapter_rows.ensure(tx, "undone", "alice")
            raise KeyError
    assert await _names(database) == ["kept"]


async def test_a_read_cannot_write(database: Database) -> None:
    with pytest.raises(Exception, match="read-only"):
        async with database.read() as tx:
            await tx.session.execute(text("INSERT INTO adapters (name, created_by) VALUES ('a', 'b')"))
    async with database.transaction() as tx:
        await adapter_rows.ensure(tx, "afterwards", "alice")


async def test_a_read_sees_one_picture(database: Database) -> None:
    async with database.read() as tx:
        assert (await adapters.list_adapters(tx)).items == ()
        async with database.transaction() as other:
            await adapter_rows.ensure(other, "new", "alice")
        assert (await adapters.list_adapters(tx)).items == ()
    assert await _names(database) == ["new"]


async def test_a_database_that_does_not_answer_has_a_code_and_shows_no_password() -> None:
    database = Database("postgresql://u:secret-word@127.0.0.1:1/x")
    for work in (database.ping(), _names(database)):
        with pytest.raises(LoradockError) as caught:
            await work
        assert (caught.value.code, caught.value.retryable) == ("database_unavailable", True)
        assert "secret-word" not in str(caught.value)
    await database.dispose()


async def test_a_database_without_tables_has_a_code(database_url: str) -> None:
    database = Database(database_url)
    await database.ping()
    with pytest.raises(LoradockError, match="schema_outdated"):
        await _names(database)
    await database.dispose()


async def test_connections_that_postgres_closed_are_replaced(database: Database, registry_url: str) -> None:
    await database.ping()
    _close_connections(registry_url)
    await database.ping()


async def test_a_connection_lost_in_the_middle_has_a_code(database: Database, registry_url: str) -> None:
    with pytest.raises(LoradockError, match="database_unavailable"):
        async with database.transaction() as tx:
            await adapter_rows.ensure(tx, "half", "alice")
            _close_connections(registry_url)
            await adapter_rows.ensure(tx, "half-too", "alice")
    assert await _names(database) == []


def _close_connections(url: str) -> None:
    with psycopg.connect(url) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )


async def test_a_deadlock_is_something_to_try_again(database: Database) -> None:
    for name in ("a", "b"):
        async with database.transaction() as tx:
            await adapter_rows.ensure(tx, name, "alice")
    held = asyncio.Barrier(2)

    async def lock(first: str, second: str) -> str:
        try:
            async with database.transaction() as tx:
                await adapter_rows.lock(tx, first)
                await held.wait()
                await adapter_rows.lock(tx, second)
        except LoradockError as error:
            return error.code
        return "done"

    assert sorted(await asyncio.gather(lock("a", "b"), lock("b", "a"))) == ["database_unavailable", "done"]


async def test_text_that_postgres_cannot_store_is_the_callers_fault(world: World) -> None:
    for bad in ("a\x00b", "\ud800"):
        with pytest.raises(LoradockError, match="invalid_request"):
            await world.submit(new_publish(labels={"k": bad}))


async def test_no_free_connection_has_a_code(registry_url: str) -> None:
    database = Database(registry_url, pool_size=1)
    database._engine.pool._timeout = 0.1  # type: ignore[attr-defined]
    async with database.read() as tx:
        await tx.session.execute(text("SELECT 1"))
        with pytest.raises(LoradockError, match="database_unavailable"):
            await database.ping()
    await database.dispose()


async def test_adapters_are_listed_by_name_and_pages(database: Database) -> None:
    for name in ("b", "a", "org/c"):
        async with database.transaction() as tx:
            await adapter_rows.ensure(tx, name, "alice")
    async with database.read() as tx:
        first = await adapters.list_adapters(tx, limit=2)
        rest = await adapters.list_adapters(tx, limit=2, cursor=first.next)
    assert ([item.name for item in (*first.items, *rest.items)], rest.next) == (["a", "b", "org/c"], None)
