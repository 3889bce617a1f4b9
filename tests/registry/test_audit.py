"""The audit chain cannot be changed by ordinary means, and a change by extraordinary ones shows."""

import asyncio
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from sqlalchemy import text

from loradock.core.models import utc_now
from loradock.registry import audit
from loradock.registry.audit import ChainCheck
from loradock.registry.database import Database

TAMPER = "ALTER TABLE audit_events DISABLE TRIGGER ALL"


async def _note(database: Database, action: str = "thing.done", **facts: Any) -> None:
    async with database.transaction() as tx:
        tx.audit(action, actor=facts.pop("actor", "alice"), **facts)


async def _verify(database: Database) -> ChainCheck:
    async with database.read() as tx:
        return await audit.verify_chain(tx)


async def test_events_are_chained_in_the_order_of_commit(database: Database) -> None:
    assert await _verify(database) == ChainCheck(events=0, broken_at=None, head=None)
    await _note(
        database, adapter="a", version=1, pool="p", engine="e", operation="op", detail_of="é", number=1.5
    )
    await _note(database, outcome="engine_lost")
    async with database.read() as tx:
        second, first = (await audit.list_events(tx)).items
    assert (first.seq, first.previous_hash, second.seq) == (1, "0" * 64, 2)
    assert second.previous_hash == first.hash
    assert (first.detail, first.adapter, second.outcome) == (
        {"detail_of": "é", "number": 1.5},
        "a",
        "engine_lost",
    )
    assert await _verify(database) == ChainCheck(events=2, broken_at=None, head=second.hash)


async def test_writers_at_once_make_one_chain(database: Database) -> None:
    async def write(number: int) -> None:
        async with database.transaction() as tx:
            tx.audit("first", actor=str(number))
            tx.audit("second", actor=str(number))

    await asyncio.gather(*(write(number) for number in range(24)))
    assert (await _verify(database)).events == 48
    assert (await _verify(database)).broken_at is None
    async with database.read() as tx:
        events = (await audit.list_events(tx, limit=100)).items[::-1]
    assert [event.seq for event in events] == list(range(1, 49))
    for first, second in zip(events[::2], events[1::2], strict=True):
        assert (first.actor, first.action, second.action) == (second.actor, "first", "second")


async def test_nothing_is_audited_when_the_transaction_fails(database: Database) -> None:
    with pytest.raises(KeyError):
        async with database.transaction() as tx:
            tx.audit("thing.done", actor="alice")
            raise KeyError
    assert (await _verify(database)).events == 0


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE audit_events SET actor = 'mallory'",
        "UPDATE audit_events SET actor = 'mallory' WHERE false",
        "DELETE FROM audit_events",
        "TRUNCATE audit_events",
        "SET session_replication_role = replica; DELETE FROM audit_events",
        "INSERT INTO audit_events (seq, actor, action, outcome, detail) VALUES (1, 'a', 'b', 'ok', '{}')"
        " ON CONFLICT (seq) DO UPDATE SET actor = 'mallory'",
    ],
)
async def test_the_database_refuses_to_change_events(
    database: Database, registry_url: str, statement: str
) -> None:
    await _note(database)
    with psycopg.connect(registry_url) as connection, pytest.raises(psycopg.errors.InsufficientPrivilege):
        connection.execute(statement)
    check = await _verify(database)
    assert (check.events, check.broken_at) == (1, None)


async def test_an_insert_cannot_choose_its_place_time_or_hash(database: Database, registry_url: str) -> None:
    await _note(database)
    with psycopg.connect(registry_url) as connection:
        connection.execute(
            "INSERT INTO audit_events (seq, at, actor, action, outcome, detail, previous_hash, hash)"
            " VALUES (77, '2001-01-01', 'a', 'b', 'ok', '{}', 'x', 'y')"
        )
    async with database.read() as tx:
        event = (await audit.list_events(tx)).items[0]
    assert event.seq == 2
    assert utc_now() - event.at < timedelta(minutes=5)
    assert (await _verify(database)).broken_at is None


@pytest.mark.parametrize(
    ("statement", "broken_at"),
    [
        ("UPDATE audit_events SET actor = 'mallory' WHERE seq = 3", 3),
        ("UPDATE audit_events SET detail = '{\"n\": 9}' WHERE seq = 2", 2),
        ("UPDATE audit_events SET at = at - interval '1 microsecond' WHERE seq = 4", 4),
        ("DELETE FROM audit_events WHERE seq = 2", 3),
        ("DELETE FROM audit_events WHERE seq = 1", 2),
        ("UPDATE audit_events SET version = 1 WHERE seq = 5", 5),
    ],
)
async def test_a_change_behind_the_triggers_shows(
    database: Database, registry_url: str, statement: str, broken_at: int
) -> None:
    for number in range(5):
        await _note(database, n=number)
    with psycopg.connect(registry_url) as connection:
        connection.execute(TAMPER)
        connection.execute(statement)
    assert (await _verify(database)).broken_at == broken_at


async def test_a_chain_that_was_cut_at_its_end_has_another_head(
    database: Database, registry_url: str
) -> None:
    for _ in range(3):
        await _note(database)
    noted = await _verify(database)
    with psycopg.connect(registry_url) as connection:
        connection.execute(TAMPER)
        connection.execute("DELETE FROM audit_events WHERE seq = 3")
    cut = await _verify(database)
    assert (cut.broken_at, cut.events) == (None, 2)
    assert cut.head != noted.head


async def test_the_hash_does_not_depend_on_the_sessions_settings(
    database: Database, registry_url: str
) -> None:
    await _note(database, n=1.25)
    with psycopg.connect(registry_url) as connection:
        connection.execute(
            "SET timezone = 'Asia/Kolkata'; SET datestyle = 'German'; SET extra_float_digits = -5"
        )
        row = connection.execute("SELECT bool_and(hash = audit_event_hash(e)) FROM audit_events e").fetchone()
    assert row == (True,)


async def test_events_are_listed_newest_first_by_pages_and_filters(database: Database) -> None:
    for number in range(5):
        await _note(database, adapter=f"a{number % 2}", operation=f"op{number}", actor=f"u{number % 2}")
    async with database.read() as tx:
        first = await audit.list_events(tx, adapter="a0", limit=2)
        rest = await audit.list_events(tx, adapter="a0", limit=2, cursor=first.next)
        by_operation = await audit.list_events(tx, operation="op3", actor="u1")
        recent = await audit.list_events(tx, since=utc_now() + timedelta(hours=1))
    assert [event.seq for event in (*first.items, *rest.items)] == [5, 3, 1]
    assert ([event.seq for event in by_operation.items], recent.items) == ([4], ())


async def test_the_chain_is_locked_only_while_a_transaction_ends(database: Database) -> None:
    """A transaction that noted an event and still works does not keep others from writing theirs."""
    async with database.transaction() as slow:
        slow.audit("slow", actor="alice")
        await slow.session.execute(text("SELECT 1"))
        await asyncio.wait_for(_note(database, "quick"), 5)
    async with database.read() as tx:
        assert [event.action for event in (await audit.list_events(tx)).items] == ["slow", "quick"]
