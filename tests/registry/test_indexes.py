"""The lists that everybody asks for do not read whole tables."""

import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from sqlalchemy import event, text

from loradock.core.models import CardState, OperationState
from loradock.registry import audit, cards, operations
from loradock.registry.database import Database, Reader

FILL = """
INSERT INTO adapters (name, created_by) SELECT 'a' || n, 'x' FROM generate_series(1, 200) n;
INSERT INTO operations (id, kind, adapter, state, lock_key, request_hash, request, requested_by, workflow_id, ended_at)
    SELECT 'op-' || lpad(n::text, 6, '0'), 'load', 'a' || (n % 200 + 1), 'succeeded', 'k', 'h', '{}', 'x', 'w', now()
    FROM generate_series(1, 20000) n;
INSERT INTO versions (adapter, version, digest, state, rank, dtype, target_modules, size, manifest, traits, source_uri,
        artifact_uri, labels, operation, created_by)
    SELECT name, 1, 'sha256:' || encode(sha256(name::bytea), 'hex'), 'ready', 8, 'F32', '{}', 1, '{}', '{}', 's', 'a',
        '{}', 'o', 'x' FROM adapters;
INSERT INTO agents (id, instance, pool, agent_version, labels, lease_until, renewed_at)
    VALUES ('h', 'i', 'p', '1', '{}', now(), now());
INSERT INTO engines (id, agent, pool, kind, url, status, lease_until)
    SELECT 'e' || n, 'h', 'p', 'vllm', 'u', 'lost', now() FROM generate_series(1, 100) n;
INSERT INTO cards (engine, adapter, version, incarnation, served_name, digest, int_id, pool, state, operation)
    SELECT 'e' || n, name, 1, 'i', name || '@1', 'd', 1, 'p', CASE WHEN n = 1 THEN 'draining' ELSE 'serving' END,
        'op-000001' FROM adapters, generate_series(1, 100) n;
INSERT INTO audit_events (actor, action, adapter, operation, outcome, detail)
    SELECT 'x' || n % 50, 'y', 'a' || n % 200, 'op' || n, 'ok', '{}' FROM generate_series(1, 3000) n;
"""


@asynccontextmanager
async def statements(database: Database) -> AsyncIterator[list[tuple[str, Any]]]:
    """What is sent to Postgres inside the block."""
    seen: list[tuple[str, Any]] = []

    def note(_connection: object, _cursor: object, statement: str, parameters: Any, *_: object) -> None:
        seen.append((statement, parameters))

    engine = database._engine.sync_engine
    event.listen(engine, "before_cursor_execute", note)
    yield seen
    event.remove(engine, "before_cursor_execute", note)


async def _plans(tx: Reader, seen: list[tuple[str, Any]]) -> str:
    connection = await tx.session.connection()
    plans = []
    for statement, parameters in list(seen):
        rows = await connection.exec_driver_sql(f"EXPLAIN (FORMAT JSON) {statement}", parameters)
        plans.append(json.dumps(rows.scalar_one()))
    return "\n".join(plans)


@pytest.fixture
async def filled(database: Database) -> Database:
    async with database.transaction() as tx:
        await (await tx.session.connection()).exec_driver_sql("SET LOCAL statement_timeout = '60s'")
        for statement in FILL.split(";\n"):
            await tx.session.execute(text(statement))
        await tx.session.execute(text("ANALYZE"))
    return database


async def test_lists_use_their_indexes(filled: Database) -> None:
    for table, ask in (
        ("cards", lambda tx: cards.list_cards(tx, adapter="a7", limit=10)),
        ("cards", lambda tx: cards.list_cards(tx, engine="e7", limit=10)),
        ("cards", lambda tx: cards.list_cards(tx, state=CardState.DRAINING, limit=10)),
        ("cards", lambda tx: cards.list_cards(tx, pool="nothing", limit=10)),
        ("operations", lambda tx: operations.list_operations(tx, limit=10)),
        ("operations", lambda tx: operations.list_operations(tx, adapter="a7", limit=10)),
        ("operations", lambda tx: operations.list_operations(tx, state=OperationState.FAILED, limit=10)),
        ("operations", lambda tx: operations.pending(tx, 1, 10)),
        ("operations", lambda tx: operations.active_started(tx, 10)),
        ("operations", lambda tx: operations.lock_holder(tx, "k")),
        ("audit_events", lambda tx: audit.list_events(tx, limit=10)),
        ("audit_events", lambda tx: audit.list_events(tx, adapter="a7", limit=10)),
        ("audit_events", lambda tx: audit.list_events(tx, operation="op7", limit=10)),
        ("audit_events", lambda tx: audit.list_events(tx, actor="x7", limit=10)),
    ):
        async with filled.read() as tx:
            async with statements(filled) as seen:
                await ask(tx)
            plan = await _plans(tx, seen)
        assert "Index" in plan, (table, plan)
        assert not re.search(rf'"Seq Scan"[^}}]*"Relation Name": "{table}"', plan), plan
