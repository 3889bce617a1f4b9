"""Aliases move by compare-and-set, and never under a running operation."""

import asyncio

import pytest

from loradock.core.errors import LoradockError
from loradock.core.models import OperationState
from loradock.registry import adapters, aliases, runs
from loradock.registry.views import AliasView
from tests.registry.world import World, new_publish


async def _set(world: World, version: int, if_match: int | None = None, alias: str = "stable") -> AliasView:
    async with world.database.transaction() as tx:
        return await aliases.set_alias(
            tx, adapter="greeter", alias=alias, version=version, actor="alice", if_match=if_match
        )


async def _delete(world: World, if_match: int | None = None) -> None:
    async with world.database.transaction() as tx:
        await aliases.delete_alias(tx, adapter="greeter", alias="stable", actor="alice", if_match=if_match)


async def _two(world: World) -> None:
    await world.publish(seed="one")
    await world.publish(seed="two")


async def test_an_alias_is_made_moved_and_deleted(world: World) -> None:
    await _two(world)
    first = await _set(world, 1)
    assert (first.version, first.revision, first.updated_by) == (1, 1, "alice")
    second = await _set(world, 2)
    assert (second.version, second.revision) == (2, 2)
    assert second.updated_at > first.updated_at
    async with world.database.read() as tx:
        assert await aliases.get_alias(tx, "greeter", "stable") == second
        assert (await adapters.get_adapter(tx, "greeter")).aliases == (second,)
    await _delete(world)
    with pytest.raises(LoradockError, match="alias_not_found"):
        await _delete(world)
    assert (await world.actions())[-3:] == ["alias.moved", "alias.moved", "alias.deleted"]


async def test_pointing_it_where_it_points_changes_nothing(world: World) -> None:
    await _two(world)
    first = await _set(world, 1)
    assert await _set(world, 1) == first
    assert (await world.actions()).count("alias.moved") == 1


async def test_another_revision_than_the_expected_is_refused(world: World) -> None:
    await _two(world)
    with pytest.raises(LoradockError, match="revision_mismatch"):
        await _set(world, 1, if_match=1)
    await _set(world, 1, if_match=0)
    for wrong in (0, 2):
        with pytest.raises(LoradockError, match="revision_mismatch"):
            await _set(world, 2, if_match=wrong)
        with pytest.raises(LoradockError, match="revision_mismatch"):
            await _delete(world, if_match=wrong)
    assert (await _set(world, 2, if_match=1)).revision == 2


async def test_of_moves_at_once_that_expect_the_same_revision_one_wins(world: World) -> None:
    await _two(world)
    await _set(world, 1)
    answers = await asyncio.gather(*(_set(world, 2, if_match=1) for _ in range(6)), return_exceptions=True)
    assert sum(isinstance(answer, AliasView) for answer in answers) == 1


@pytest.mark.parametrize(
    ("version", "alias", "code"), [(9, "stable", "version_not_found"), (1, "12", "invalid_name")]
)
async def test_what_it_cannot_point_at_or_be_called_is_refused(
    world: World, version: int, alias: str, code: str
) -> None:
    await _two(world)
    with pytest.raises(LoradockError, match=code):
        await _set(world, version, alias=alias)


async def test_missing_things_have_their_codes(world: World) -> None:
    with pytest.raises(LoradockError, match="adapter_not_found"):
        await _set(world, 1)
    await world.submit(new_publish())
    with pytest.raises(LoradockError, match="adapter_busy"):
        await _set(world, 1)


async def test_an_alias_and_an_operation_at_once_come_one_after_the_other(world: World) -> None:
    """Either the alias is refused, or it was moved before the operation was taken in."""
    await _two(world)
    for number in range(10):
        moved, submitted = await asyncio.gather(
            _set(world, 1 + number % 2), world.submit(new_publish(number=number)), return_exceptions=True
        )
        assert not isinstance(submitted, BaseException)
        happened = [
            action for action in await world.actions() if action in {"alias.moved", "operation.requested"}
        ]
        if isinstance(moved, AliasView):
            assert happened[-2:] == ["alias.moved", "operation.requested"]
        else:
            assert isinstance(moved, LoradockError)
            assert moved.code == "adapter_busy"
        async with world.database.transaction() as tx:
            await runs.end(tx, await runs.lock_operation(tx, submitted.id), OperationState.ABORTED)


async def test_a_revision_is_never_given_again(world: World) -> None:
    await world.publish(seed="one")
    await world.publish(seed="two")
    seen = await _set(world, 1)
    async with world.database.transaction() as tx:
        await aliases.delete_alias(tx, adapter="greeter", alias="stable", actor="bob")
    again = await _set(world, 2)
    assert again.revision > seen.revision
    with pytest.raises(LoradockError, match="revision_mismatch"):
        await _set(world, 1, if_match=seen.revision)
