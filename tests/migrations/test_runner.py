"""The schema goes up and down on a real Postgres, alone, and equals the program's tables."""

from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest

from loradock.core.errors import LoradockError
from migrations import runner


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
