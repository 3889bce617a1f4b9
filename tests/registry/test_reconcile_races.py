"""A look compares in the very moment in which an operation ends: it sees all that the operation did, or leaves it alone."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from sqlalchemy import text

from loradock.core.reconcile import HeldAdapter, Looked
from loradock.registry import loading, unloading
from loradock.registry.database import Transaction
from tests.registry.reconcile_world import Looks, held
from tests.registry.world import World


@pytest.fixture
def looks(world: World) -> Looks:
    return Looks(world)


class _Overtaken:
    """A comparison that another transaction overtakes: it waits for the table of operations until that one commits.

    What it reads of other tables before operations is from before that commit, what it reads afterwards from after it.
    """

    def __init__(self, looks: Looks, *there: HeldAdapter) -> None:
        self._looks = looks
        self._there = there
        self.looked = Looked()

    @asynccontextmanager
    async def by(self) -> AsyncIterator[Transaction]:
        look = await self._looks.begin()
        async with self._looks.world.database.transaction() as tx:
            await tx.session.execute(text("LOCK TABLE operations IN ACCESS EXCLUSIVE MODE"))
            comparing = asyncio.create_task(self._looks.compare(look, *self._there))
            waits = text("SELECT 1 FROM pg_locks WHERE relation = 'operations'::regclass AND NOT granted")
            while (await tx.session.execute(waits)).first() is None:
                assert not comparing.done(), "the comparison does not read operations"
                await asyncio.sleep(0.01)
            yield tx
        self.looked = await comparing


async def test_an_unload_that_ends_meanwhile_leaves_nothing_to_repair_and_no_card(looks: Looks) -> None:
    await looks.world.engines("e1")
    await looks.world.load(await looks.world.publish())
    run, plan = await looks.world.plan_unload(drain_seconds=0)
    async with looks.world.database.transaction() as tx:
        await unloading.withdraw(tx, run, plan)
    overtaken = _Overtaken(looks)  # the engine holds it no more
    async with overtaken.by() as tx:
        await unloading.commit_unload(tx, run, plan)
    assert overtaken.looked.repairs == ()
    assert await looks.world.cards() == []
    assert await looks.drift() == {}


async def test_a_load_that_ends_meanwhile_is_not_taken_out_as_left_over(looks: Looks) -> None:
    await looks.world.engines("e1")
    ref = await looks.world.publish()
    run, plan = await looks.world.staged(
        ref
    )  # verified on this engine before the look; another one took longer
    overtaken = _Overtaken(looks, held(ref, run.operation))
    async with overtaken.by() as tx:
        await loading.commit_load(tx, run, plan, plan.targets, {})
    assert overtaken.looked.repairs == ()
    assert await looks.world.states() == {"greeter@1 on e1": "serving"}
    assert await looks.drift() == {}
