"""No lease runs out because the service was away."""

from sqlalchemy import text

from loradock.registry import agents, engines
from loradock.registry.lease_keeping import note_presence
from tests.registry.world import World, report

LEASE = 10.0


async def _say(world: World) -> None:
    async with world.database.single() as connection:
        await note_presence(connection, LEASE)


async def _pass(world: World, seconds: float) -> None:
    """Let time pass: all that is written becomes older."""
    shift = f"interval '{seconds} seconds'"
    async with world.database.transaction() as tx:
        times = ("held_from", "expected_by", "grace_until")
        await tx.session.execute(
            text(f"UPDATE lease_keeping SET {', '.join(f'{name} = {name} - {shift}' for name in times)}")
        )
        await tx.session.execute(text(f"UPDATE engines SET lease_until = lease_until - {shift}"))


async def _lost(world: World) -> list[str]:
    async with world.database.transaction() as tx:
        return await agents.expire_leases(tx)


async def _served(world: World) -> None:
    """`greeter@1` serves on e1, the service is there, and the lease has just been renewed."""
    ref = await world.publish()
    await world.engines("e1")
    await world.load(ref)
    await _say(world)
    await world.renew(report("e1", resident=("greeter@1",), free_slots=3), seconds=LEASE)


async def test_a_lease_runs_out_while_the_service_is_there(world: World) -> None:
    await _served(world)
    for _ in range(4):
        await _pass(world, 3)
        await _say(world)
    assert await _lost(world) == ["e1"]


async def test_no_lease_runs_out_while_the_service_is_away(world: World) -> None:
    await _served(world)
    await _pass(world, 3600)
    assert await _lost(world) == []
    async with world.database.read() as tx:
        assert (await engines.get_engine(tx, "e1")).status == "alive"


async def test_an_engine_that_was_gone_before_the_service_was_stays_gone(world: World) -> None:
    await _served(world)
    await _pass(world, 4)
    await _say(world)
    await _pass(world, 4)
    await _say(world)
    await _pass(world, 4)
    await _say(world)
    await _pass(world, 3600)
    assert await _lost(world) == ["e1"]


async def test_when_the_service_is_back_agents_have_the_time_of_a_lease(world: World) -> None:
    await _served(world)
    await _pass(world, 3600)
    await _say(world)
    await _pass(world, 4)
    await _say(world)
    assert await _lost(world) == []
    await _pass(world, 4)
    await _say(world)
    assert await _lost(world) == []
    await _pass(world, 4)
    await _say(world)
    assert await _lost(world) == ["e1"]


async def test_an_agent_that_comes_back_in_that_time_keeps_its_cards(world: World) -> None:
    await _served(world)
    await _pass(world, 3600)
    await _say(world)
    await world.renew(report("e1", resident=("greeter@1",), free_slots=3), seconds=LEASE)
    await _pass(world, 4)
    await _say(world)
    assert await _lost(world) == []
    assert [(card.engine, card.state) for card in await world.cards()] == [("e1", "serving")]


async def test_a_service_that_goes_again_before_agents_are_back_holds_their_leases_on(world: World) -> None:
    await _served(world)
    for _ in range(3):
        await _pass(world, 3600)
        await _say(world)
        await _pass(world, 2)
    assert await _lost(world) == []
