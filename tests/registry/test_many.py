"""What grows without bound is given to Postgres as arrays: a statement takes at most 65,535 parameters."""

import hashlib
from collections.abc import Iterator

import pytest
from sqlalchemy import text

from loradock.core.errors import LoradockError
from loradock.core.requests import LoadRequest
from loradock.registry import placement, reconcile_queue, tombstones
from tests.registry.reconcile_world import Looks
from tests.registry.world import World

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

MANY = 66_000


async def do(world: World, statement: str, **values: object) -> int:
    """Execute it; how many rows it changed or gave first."""
    async with world.database.transaction() as tx:
        result = await tx.session.execute(text(statement), values)
        return int(result.scalar_one()) if result.returns_rows else 0


def digests(of: str) -> Iterator[str]:
    return (f"sha256:{hashlib.sha256(f'{of}{number}'.encode()).hexdigest()}" for number in range(MANY))


COPIES = """
INSERT INTO versions (adapter, version, digest, state, rank, dtype, target_modules, size, manifest, traits, source_uri,
                      artifact_uri, labels, operation, created_by)
SELECT adapter, 1 + number, 'sha256:' || encode(sha256(('used' || number - 1)::bytea), 'hex'), state, rank, dtype,
       target_modules, size, '{}', '{}', source_uri, artifact_uri, labels, operation, created_by
FROM versions, generate_series(1, :many) AS number
"""


async def test_a_store_of_very_many_artifacts_is_marked_and_unmarked(world: World) -> None:
    await world.publish()
    await do(world, COPIES, many=MANY)
    await do(world, "INSERT INTO artifact_tombstones (digest) SELECT digest FROM versions")
    unused = sorted(digests("unused"))
    async with world.database.transaction() as tx:
        due = await tombstones.mark(tx, {*unused, *digests("used")}, 0)
    assert due == unused
    async with world.database.transaction() as tx:
        assert await tombstones.mark(tx, {*unused}, 3600) == []


ENGINES = """
INSERT INTO engines (id, agent, pool, kind, url, status, lease_until)
SELECT 'many-' || number, agent, pool, kind, url, 'lost', now() FROM engines, generate_series(1, :many) AS number
"""


async def test_very_many_engines_come_into_the_queue_at_once(world: World) -> None:
    await world.engines("e1")
    many = MANY // 2  # of two columns each
    await do(world, ENGINES, many=many)
    for _ in range(2):
        async with world.database.transaction() as tx:
            await reconcile_queue.want(tx, {f"many-{number}": "a cause" for number in range(1, many + 1)})
    counted = "SELECT count(*) FROM reconciliations WHERE engine LIKE 'many-%' AND requested = 2"
    assert await do(world, counted) == many


async def test_an_engine_with_very_many_numbers_of_somebody_else_is_looked_at(world: World) -> None:
    looks = Looks(world)
    await world.engines("e1")
    many = 11_000  # of six columns each
    await looks.compare(await looks.begin(), unknown=range(many))
    assert await do(world, "SELECT count(*) FROM drifts") == many
    await looks.compare(await looks.begin())
    assert await do(world, "SELECT count(*) FROM drifts") == 0


async def test_a_load_where_engines_are_full_of_very_many_adapters_is_told_so(world: World) -> None:
    ref = await world.publish()
    await world.engines(*(f"e{number}" for number in range(7)))
    fill = """UPDATE engines SET free_slots = 0, resident = ARRAY(
                SELECT 'other-' || id || '-' || number || '@1' FROM generate_series(1, 10000) AS number)"""
    await do(world, fill)
    request = LoadRequest(adapter=ref.adapter, version=ref.version, pool="default")
    with pytest.raises(LoradockError, match="no_free_slot"):
        async with world.database.read() as tx:
            await placement.check_load(tx, request)
