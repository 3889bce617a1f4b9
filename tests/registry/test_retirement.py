"""A version that anything names is never retired; number and digest outlive it."""

import asyncio

import pytest

from loradock.core.errors import LoradockError
from loradock.core.models import VersionState
from loradock.core.requests import LoadRequest
from loradock.registry import aliases, operations, retirement, versions
from loradock.registry.views import VersionDetail
from tests.registry.world import World, digest, new_placement, new_publish, run_of


async def _retire(world: World, version: int) -> VersionDetail:
    async with world.database.transaction() as tx:
        return await retirement.retire(tx, "greeter", version, "alice")


async def _refused(world: World, version: int) -> None:
    with pytest.raises(LoradockError) as caught:
        await _retire(world, version)
    assert caught.value.code == "version_in_use"


async def _state(world: World, version: int) -> str:
    async with world.database.read() as tx:
        return (await versions.get_version(tx, "greeter", version)).state


async def test_a_retired_version_keeps_number_and_digest(world: World) -> None:
    await world.publish(seed="one")
    retired = await _retire(world, 1)
    assert (retired.state, retired.digest, retired.retired_by) == (
        VersionState.RETIRED,
        digest("one"),
        "alice",
    )
    assert (await _retire(world, 1)).retired_at == retired.retired_at
    assert (await world.actions()).count("version.retired") == 1
    await world.engines("e0")
    with pytest.raises(LoradockError, match="version_not_ready"):
        await world.plan_load(LoadRequest(adapter="greeter", version=1, pool="default"))
    assert (await world.publish(seed="two")).version == 2


async def test_the_same_bytes_bring_a_retired_version_back(world: World) -> None:
    first = await world.publish(seed="one")
    await _retire(world, 1)
    assert await world.publish(seed="one") == first
    async with world.database.read() as tx:
        back = await versions.get_version(tx, "greeter", 1)
    assert (back.state, back.retired_at, back.retired_by) == (VersionState.READY, None, None)


async def test_what_an_alias_names_is_in_use(world: World) -> None:
    await world.publish(seed="one")
    async with world.database.transaction() as tx:
        await aliases.set_alias(tx, adapter="greeter", alias="stable", version=1, actor="alice")
    await _refused(world, 1)
    async with world.database.transaction() as tx:
        await aliases.delete_alias(tx, adapter="greeter", alias="stable", actor="alice")
    assert (await _retire(world, 1)).state == VersionState.RETIRED


async def test_what_engines_serve_is_in_use(world: World) -> None:
    await world.engines("e0")
    await world.load(await world.publish(seed="one"))
    await _refused(world, 1)


async def test_what_an_active_operation_names_is_in_use(world: World) -> None:
    await world.engines("e0")
    await world.publish(seed="one")
    run = await world.start(new_placement(LoadRequest(adapter="greeter", version=1, pool="default")))
    await _refused(world, 1)
    await world.finish(run)
    await _retire(world, 1)


async def test_what_is_being_published_is_in_use(world: World) -> None:
    await world.publish(seed="one")
    await _retire(world, 1)
    await world.start(new_publish())
    async with world.database.transaction() as tx:
        row = await versions.require(tx, "greeter", 1)
        row.state = VersionState.PUBLISHING
    await _refused(world, 1)


async def test_a_load_and_a_deletion_at_once_never_both_win(world: World) -> None:
    await world.engines("e0")
    for seed in ("one", "two", "three", "four"):
        ref = await world.publish(seed=seed)
        request = LoadRequest(adapter="greeter", version=ref.version, pool="default")
        loaded, retired = await asyncio.gather(
            world.plan_load(request), _retire(world, ref.version), return_exceptions=True
        )
        assert isinstance(loaded, LoradockError) or isinstance(retired, LoradockError)
        if not isinstance(loaded, BaseException):
            await world.finish(loaded[0])
        else:
            async with world.database.read() as tx:
                active = await operations.active_started(tx, 10)
            for operation in active:
                await world.finish(run_of(operation))


async def test_retention_keeps_the_newest_and_what_is_named(world: World) -> None:
    for seed in ("one", "two", "three", "four", "five"):
        await world.publish(seed=seed)
    async with world.database.transaction() as tx:
        await aliases.set_alias(tx, adapter="greeter", alias="stable", version=2, actor="alice")
    async with world.database.transaction() as tx:
        assert await retirement.with_more_than(tx, 5) == []
        assert await retirement.with_more_than(tx, 2) == ["greeter"]
        assert await retirement.retire_expired(tx, "greeter", 2) == [1, 3]
    assert [await _state(world, number) for number in range(1, 6)] == [
        "retired", "ready", "retired", "ready", "ready",
    ]  # fmt: skip


@pytest.mark.parametrize("retired", [True, False])
async def test_retention_counts_what_is_published_again_as_new(world: World, retired: bool) -> None:
    for seed in ("one", "two", "three", "four"):
        await world.publish(seed=seed)
    if retired:
        await _retire(world, 1)
    assert (await world.publish(seed="one")).version == 1
    for expected in ([2], []):
        async with world.database.transaction() as tx:
            assert await retirement.retire_expired(tx, "greeter", 3) == expected
    assert await _state(world, 1) == VersionState.READY
