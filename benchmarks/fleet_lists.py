"""Lists and cards with very much registered."""

import argparse
import statistics
import time

import psycopg

from benchmarks.fleet_stack import FleetStack
from loradock.dev.stack import Stack

CARDS_PER_ADAPTER = 10

FILL = """
INSERT INTO adapters (name, base_model, created_by)
    SELECT 'list-' || lpad(n::text, 5, '0'), 'listed', 'x' FROM generate_series(1, %(adapters)s) n;
INSERT INTO operations (id, kind, adapter, version, pool, state, lock_key, request_hash, request, requested_by, workflow_id,
        ended_at)
    SELECT 'op-list-' || n, 'load', name, 1, 'lists', 'succeeded', name, 'h', '{}', 'x', 'op/list-' || n, now()
    FROM (SELECT name, row_number() OVER () n FROM adapters WHERE base_model = 'listed') found;
INSERT INTO operation_steps (operation, name, engine, position, state)
    SELECT id, step, 'listed-' || engine, 0, 'succeeded'
    FROM operations, (VALUES ('download'), ('load'), ('verify')) steps (step), generate_series(1, 10) engine
    WHERE id LIKE 'op-list-%%';
INSERT INTO versions (adapter, version, digest, state, rank, dtype, target_modules, size, manifest, traits, source_uri,
        artifact_uri, labels, operation, created_by)
    SELECT name, 1, 'sha256:' || encode(sha256(name::bytea), 'hex'), 'ready', 8, 'F32', '{}', 1,
        jsonb_build_object('digest', 'sha256:' || encode(sha256(name::bytea), 'hex'), 'files', '[]'::jsonb),
        '{"peft_base_model": null, "rank": 8, "alpha": 16, "target_modules": [], "dtype": "F32", "tensors": 1,
          "parameters": 1}', 's3://b/a', 'a', '{}', 'o', 'x'
    FROM adapters WHERE base_model = 'listed';
INSERT INTO agents (id, instance, pool, agent_version, labels, lease_until, renewed_at)
    SELECT 'list-agent-' || n, 'instance', 'lists', '1', '{}', now() + interval '1 day', now()
    FROM generate_series(1, %(agents)s) n;
INSERT INTO engines (id, agent, pool, kind, url, status, incarnation, base_model, max_loras, usable_slots, free_slots,
        max_lora_rank, lease_until, seen_at)
    SELECT 'listed-' || lpad(n::text, 4, '0'), 'list-agent-' || (n %% %(agents)s + 1), 'lists', 'vllm', 'http://u',
        'alive', 'life', 'listed', 128, 128, 28, 64, now() + interval '1 day', now()
    FROM generate_series(1, %(engines)s) n;
INSERT INTO cards (engine, adapter, version, incarnation, served_name, digest, int_id, pool, state, operation)
    SELECT 'listed-' || lpad(((a.n * 7 + c * 101) %% %(engines)s + 1)::text, 4, '0'), v.adapter, 1, 'life',
        v.adapter || '@1', v.digest, v.int_id, 'lists', CASE WHEN c = 1 AND a.n %% 100 = 0 THEN 'lost' ELSE 'serving' END,
        'op-list-' || a.n
    FROM (SELECT name, row_number() OVER () n FROM adapters WHERE base_model = 'listed') a
    JOIN versions v ON v.adapter = a.name, generate_series(1, %(cards)s) c
    ON CONFLICT DO NOTHING;
INSERT INTO deployments (adapter, pool, updated_by) SELECT name, 'lists', 'x' FROM adapters WHERE base_model = 'listed';
INSERT INTO deployment_versions (adapter, pool, version, weight)
    SELECT adapter, pool, 1, 100 FROM deployments WHERE pool = 'lists';
"""

PAGES = (
    ("/v1/adapters", {}),
    ("/v1/adapters, far in", {"far": 50}),
    ("/v1/adapters/list-04711", {}),
    ("/v1/cards", {}),
    ("/v1/cards, far in", {"far": 50}),
    ("/v1/cards", {"adapter": "list-04711"}),
    ("/v1/cards", {"engine": "listed-0471"}),
    ("/v1/cards", {"pool": "lists"}),
    ("/v1/cards", {"pool": "lists", "state": "lost"}),
    ("/v1/cards", {"state": "draining"}),
    ("/v1/cards", {"pool": "nothing"}),
    ("/v1/engines", {}),
    ("/v1/engines", {"pool": "lists"}),
    ("/v1/engines", {"status": "lost"}),
    ("/v1/deployments", {"adapter": "list-04711"}),
    ("/v1/operations", {}),
    ("/v1/operations", {"adapter": "list-04711"}),
)


async def run(stack: Stack, given: argparse.Namespace) -> list[str]:
    """Fill the tables, then ask for each list again and again."""
    fleet = FleetStack(stack, 1, 1, 0)
    facts = {
        "adapters": given.adapters,
        "engines": given.engines,
        "agents": given.agents,
        "cards": CARDS_PER_ADAPTER,
    }
    assert stack.info.database_url is not None
    with psycopg.connect(stack.info.database_url, autocommit=True) as connection:
        for statement in FILL.split(";\n"):
            if statement.strip():
                connection.execute(statement % facts)
        connection.execute("ANALYZE")
        counted = connection.execute("SELECT count(*) FROM cards").fetchone()
    assert counted is not None
    lines = [f"{given.adapters} adapters, {given.engines} engines, {counted[0]} cards.", ""]
    lines += ["| GET | p50 ms | p95 ms |", "| --- | --- | --- |"]
    for path, wanted in PAGES:
        took = await _ask(fleet, path.partition(",")[0], dict(wanted), given.rounds * 20)
        shown = path + "".join(f" {name}={value}" for name, value in wanted.items() if name != "far")
        lines.append(f"| {shown} | {statistics.median(took) * 1e3:.0f} | {_p95(took) * 1e3:.0f} |")
    await fleet.aclose()
    return lines


async def _ask(fleet: FleetStack, path: str, wanted: dict[str, object], times: int) -> list[float]:
    params = {name: str(value) for name, value in wanted.items() if name != "far"}
    for _ in range(int(str(wanted.get("far", 0)))):
        page = (await fleet.api.get(path, params=params)).raise_for_status().json()
        params["cursor"] = page["next"]
    took = []
    for _ in range(times):
        began = time.perf_counter()
        (await fleet.api.get(path, params=params)).raise_for_status()
        took.append(time.perf_counter() - began)
    return took


def _p95(values: list[float]) -> float:
    return sorted(values)[min(len(values) - 1, int(0.95 * len(values)))]
