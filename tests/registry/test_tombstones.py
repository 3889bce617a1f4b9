"""Bytes are deleted only when nobody points to them, and a publish that counts on them is never crossed."""

import asyncio

import pytest

from loradock.core.errors import LoradockError
from loradock.registry import retirement, tombstones
from tests.registry.world import World, digest

ONE, TWO = digest("one"), digest("two")


async def _mark(world: World, *stored: str, grace: float = 0) -> list[str]:
    async with world.database.transaction() as tx:
        return await tombstones.mark(tx, stored, grace)


async def _begin(world: World, which: str = ONE) -> bool:
    async with world.database.transaction() as tx:
        return await tombstones.begin_delete(tx, which)


async def _end(world: World, which: str = ONE) -> None:
    async with world.database.transaction() as tx:
        await tombstones.end_delete(tx, which, 10)


async def _retire(world: World, adapter: str = "greeter", version: int = 1) -> None:
    async with world.database.transaction() as tx:
        await retirement.retire(tx, adapter, version, "alice")


async def test_what_a_version_points_to_is_not_marked(world: World) -> None:
    await world.publish(seed="one")
    assert await _mark(world, ONE, TWO) == [TWO]
    assert not await _begin(world, ONE)


async def test_bytes_of_two_versions_wait_for_both(world: World) -> None:
    await world.publish("greeter", seed="one")
    await world.publish("other", seed="one")
    await _retire(world)
    assert await _mark(world, ONE) == []
    await _retire(world, "other")
    assert await _mark(world, ONE) == [ONE]


async def test_the_grace_period_is_waited_for(world: World) -> None:
    assert await _mark(world, ONE, grace=3600) == []
    assert await _mark(world, ONE, grace=0) == [ONE]


async def test_deleted_once_and_audited(world: World) -> None:
    await _mark(world, ONE)
    assert await _begin(world)
    assert await _mark(world, grace=3600) == [
        ONE
    ]  # a collector that died in the middle is followed by the next
    assert await _begin(world)
    await _end(world)
    await _end(world)
    assert await _mark(world) == []
    assert not await _begin(world)
    assert (await world.actions()).count("artifact.deleted") == 1
    assert await _mark(world, ONE) == [ONE]  # somebody put bytes there again


async def test_a_publish_lifts_the_mark(world: World) -> None:
    await _mark(world, ONE)
    await world.publish(seed="one")
    assert not await _begin(world)
    assert await _mark(world, ONE) == []


async def test_a_publish_waits_for_a_deletion_to_end(world: World) -> None:
    await _mark(world, ONE)
    assert await _begin(world)
    with pytest.raises(LoradockError) as caught:
        async with world.database.transaction() as tx:
            await tombstones.lift(tx, ONE)
    assert caught.value.code == "store_unavailable"
    assert caught.value.retryable
    await _end(world)
    await world.publish(seed="one")


async def test_a_publish_and_a_deletion_at_once_never_both_win(world: World) -> None:
    for number in range(8):
        which = digest(f"seed-{number}")
        await _mark(world, which)
        published, deleting = await asyncio.gather(
            world.publish(f"adapter-{number}", seed=f"seed-{number}"),
            _begin(world, which),
            return_exceptions=True,
        )
        assert isinstance(published, LoradockError) == (deleting is True), (published, deleting)
