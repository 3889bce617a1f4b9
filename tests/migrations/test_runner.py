"""The schema goes up and down on a real Postgres, alone, and equals the program's tables."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
from psycopg import sql
from sqlalchemy import make_url

from loradock.core.errors import LoradockError
from loradock.registry import adapter_rows, adapters
from loradock.registry.database import Database
from loradock.registry.notifications import OperationFeed
from migrations import runner


@pytest.fixture
def sql_ascii_url(postgres_server: str) -> Iterator[str]:
    """The address of an empty database that knows no encoding: a cluster made under LC_ALL=C has only such."""
    name = "no_encoding"
    create = "CREATE DATABASE {} ENCODING 'SQL_ASCII' TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'"
    with psycopg.connect(postgres_server, autocommit=True) as connection:
        connection.execute(sql.SQL(create).format(sql.Identifier(name)))
        yield make_url(postgres_server).set(database=name).render_as_string(hide_password=False)
        connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


def _objects(url: str) -> set[str]:
    query = """
        SELECT relkind::text || ' ' || relname FROM pg_class WHERE relnamespace = 'public'::regnamespace
        UNION SELECT 'f ' || proname FROM pg_proc WHERE pronamespace = 'public'::regnamespace
        UNION SELECT 't ' || tgname || ' ' || tgrelid::regclass FROM pg_trigger WHERE NOT tgisinternal
    """
    with psycopg.connect(url) as connection:
        return {row[0] for row in connection.execute(query)}


def test_up_down_up_leaves_the_same_schema(database_url: str) -> None:
    assert runner.upgrade(database_url) == runner.head()
    there = _objects(database_url)
    assert runner.downgrade(database_url, "base") is None
    assert _objects(database_url) == {"r alembic_version", "i alembic_version_pkc"}
    runner.upgrade(database_url)
    assert _objects(database_url) == there


def test_a_database_without_an_encoding_is_migrated_too(sql_ascii_url: str) -> None:
    assert runner.upgrade(sql_ascii_url) == runner.head()
    runner.check(sql_ascii_url)
    assert runner.current(sql_ascii_url) == runner.head()


async def test_the_registry_reads_text_and_not_bytes_from_a_database_without_an_encoding(
    sql_ascii_url: str,
) -> None:
    runner.upgrade(sql_ascii_url)
    database = Database(sql_ascii_url)
    try:
        async with database.transaction() as tx:
            await adapter_rows.ensure(tx, "greeter", "Zoë")
            tx.audit("adapter.created", actor="Zoë", adapter="greeter")
        async with database.read() as reader:
            assert (await adapters.get_adapter(reader, "greeter")).created_by == "Zoë"
        async with OperationFeed(sql_ascii_url) as feed:
            assert await feed.wait_listening(10)
    finally:
        await database.dispose()


def test_every_single_step_goes_down_and_up_again(database_url: str) -> None:
    runner.upgrade(database_url)
    while runner.current(database_url) is not None:
        runner.downgrade(database_url, "-1")
    while runner.current(database_url) != runner.head():
        runner.upgrade(database_url, "+1")
    runner.check(database_url)


def test_tables_of_the_program_equal_those_of_the_migrations(database_url: str) -> None:
    runner.upgrade(database_url)
    runner.check(database_url)


def test_check_finds_a_drifted_table(database_url: str) -> None:
    runner.upgrade(database_url)
    with psycopg.connect(database_url) as connection:
        connection.execute("ALTER TABLE engines DROP COLUMN limitations")
    with pytest.raises(LoradockError) as caught:
        runner.check(database_url)
    assert caught.value.code == "schema_outdated"


def test_check_finds_a_database_that_is_behind(database_url: str) -> None:
    with pytest.raises(LoradockError) as caught:
        runner.check(database_url)
    assert caught.value.code == "schema_outdated"
    assert runner.current(database_url) is None


def test_a_database_of_a_newer_program_is_refused(database_url: str) -> None:
    runner.upgrade(database_url)
    with psycopg.connect(database_url) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(LoradockError) as caught:
        runner.upgrade(database_url)
    assert caught.value.code == "schema_outdated"


def test_migrations_at_once_wait_for_each_other(database_url: str) -> None:
    with ThreadPoolExecutor(4) as threads:
        results = list(threads.map(lambda _: runner.upgrade(database_url), range(4)))
    assert results == [runner.head()] * 4


def test_a_failed_migration_leaves_nothing_half_done(database_url: str) -> None:
    with psycopg.connect(database_url) as connection:
        connection.execute("CREATE FUNCTION notify_cards() RETURNS int LANGUAGE sql AS 'SELECT 1'")
    with pytest.raises(Exception, match="already exists"):
        runner.upgrade(database_url)
    assert not any(name.startswith("r ") and "alembic" not in name for name in _objects(database_url))


def test_a_database_that_does_not_answer_has_a_code_and_shows_no_password() -> None:
    with pytest.raises(LoradockError) as caught:
        runner.upgrade("postgresql://u:secret-word@127.0.0.1:1/x")
    assert caught.value.code == "database_unavailable"
    assert "secret-word" not in str(caught.value)


def test_an_address_of_another_kind_is_refused_without_being_shown() -> None:
    for url in ("mysql://u:secret-word@h/x", "secret-word", "postgresql://u:secret-word@h:port/x"):
        with pytest.raises(LoradockError) as caught:
            runner.current(url)
        assert caught.value.code == "setting_invalid"
        assert "secret-word" not in str(caught.value)
