"""The queue: never more under way than allowed, fair between actors, and the place shown is the place that counts."""

import asyncio
from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loradock.core.errors import LoradockError
from loradock.core.models import OperationState
from loradock.registry import admission, operations, runs
from loradock.registry.admission import Limits, Waiting, admissible, in_turn
from loradock.registry.audit import SYSTEM_ACTOR
from loradock.registry.views import OperationView
from tests.registry.world import World, new_publish, run_of

ACTORS = st.sampled_from(["alice", "bob", "ci", "dave"])
WAITING = st.lists(ACTORS, max_size=30).map(
    lambda actors: [Waiting(f"op-{number:03}", actor) for number, actor in enumerate(actors)]
)
ACTIVE = st.dictionaries(ACTORS, st.integers(0, 8))
LIMITS = st.builds(
    Limits,
    active=st.integers(1, 12),
    active_per_actor=st.integers(1, 8),
    queued=st.integers(0, 40),
    queued_per_actor=st.integers(0, 40),
)


@given(WAITING, ACTIVE, LIMITS)
def test_no_more_are_admitted_than_allowed_and_no_room_is_left_unused(
    waiting: list[Waiting], active: dict[str, int], limits: Limits
) -> None:
    chosen = admissible(waiting, active, limits)
    by_actor = Counter(active)
    before = sum(by_actor.values())
    actor_of = {one.id: one.actor for one in waiting}
    for operation in chosen:
        by_actor[actor_of[operation]] += 1
        assert by_actor[actor_of[operation]] <= limits.active_per_actor
    assert sum(by_actor.values()) <= max(before, limits.active)
    if sum(by_actor.values()) < limits.active:
        left = {one.actor for one in waiting if one.id not in chosen}
        assert all(by_actor[actor] >= limits.active_per_actor for actor in left)


@given(WAITING, ACTIVE)
def test_turns_are_fair_and_each_actors_own_come_as_they_were_asked_for(
    waiting: list[Waiting], active: dict[str, int]
) -> None:
    turns = list(in_turn(waiting, active))
    assert sorted(turns) == waiting
    under_way = Counter(active)
    left = list(waiting)
    for one in turns:
        assert under_way[one.actor] == min(under_way[other.actor] for other in left)
        assert one == min(other for other in left if other.actor == one.actor)
        under_way[one.actor] += 1
        left.remove(one)


@given(WAITING, ACTIVE, LIMITS)
def test_what_is_admitted_comes_in_the_order_of_the_places_shown(
    waiting: list[Waiting], active: dict[str, int], limits: Limits
) -> None:
    places = [one.id for one in in_turn(waiting, active)]
    chosen = admissible(waiting, active, limits)
    assert chosen == [operation for operation in places if operation in chosen]


SMALL = Limits(active=3, active_per_actor=2, queued=4, queued_per_actor=3)


async def ask(world: World, adapter: str, actor: str = "alice", limits: Limits = SMALL) -> OperationView:
    """What the API does with a request, all but its check."""
    async with world.database.transaction() as tx:
        made = (await operations.submit(tx, new_publish(adapter, actor=actor))).operation
        await admission.enter(tx, made.id, actor, limits)
        return await operations.get_operation(tx, made.id)


async def end(world: World, *made: OperationView) -> None:
    for operation in made:
        await world.finish(run_of(operation))


async def admit(world: World) -> list[str]:
    async with world.database.transaction() as tx:
        return await admission.admit_waiting(tx, SMALL)


async def places(world: World, made: Sequence[OperationView]) -> list[int | None]:
    return [(await world.operation(one.id)).queue_position for one in made]


async def relayed(world: World) -> set[str]:
    async with world.database.read() as tx:
        return {one.id for one in await operations.pending(tx, 3600, 100)}


async def test_what_there_is_no_room_for_waits_with_its_place_until_there_is(world: World) -> None:
    made = [await ask(world, f"a-{number}") for number in range(5)]
    assert [one.queue_position for one in made] == [None, None, 1, 2, 3]
    bob = await ask(world, "b-0", "bob")  # the third place of all is not alice's to take
    assert bob.queue_position is None
    later = await ask(world, "b-1", "bob")
    assert await places(world, [*made, later]) == [None, None, 2, 3, 4, 1]
    with pytest.raises(LoradockError, match="too_many_requests") as refused:
        await ask(world, "a-5")
    assert refused.value.details["retry_after"] > 0
    with pytest.raises(LoradockError, match="too_many_requests"):
        await ask(world, "c-0", "ci")
    assert await admit(world) == []
    assert await relayed(world) == set()
    await end(world, bob, made[0])
    assert await admit(world) == [later.id, made[2].id]
    assert await admit(world) == []
    assert await relayed(world) == {later.id, made[2].id}  # however young they are: nobody else starts them
    assert await places(world, made) == [None, None, None, 1, 2]


async def test_the_same_request_finds_its_operation_in_the_queue(world: World) -> None:
    for number in range(2):
        await ask(world, f"a-{number}")
    waits = await ask(world, "a-2")
    again = await world.submit(new_publish("a-2"))
    assert (again.id, again.queue_position) == (waits.id, 1)
    with pytest.raises(LoradockError, match="adapter_busy"):
        await world.submit(new_publish("a-2", other=True))


async def test_what_ends_while_it_waits_leaves_the_queue(world: World) -> None:
    made = [await ask(world, f"a-{number}") for number in range(4)]
    async with world.database.transaction() as tx:
        row = await runs.lock_operation(tx, made[2].id)
        await runs.end(tx, row, OperationState.ABORTED)
    assert await places(world, made) == [None, None, None, 1]
    await end(world, *made[:2])
    assert await admit(world) == [made[3].id]


async def test_the_services_own_work_neither_waits_nor_takes_room(world: World) -> None:
    own = [await ask(world, f"own-{number}", SYSTEM_ACTOR) for number in range(5)]
    assert [one.queue_position for one in own] == [None] * 5
    assert (await ask(world, "a-0")).queue_position is None


async def test_many_at_once_are_never_more_than_allowed(world: World) -> None:
    wide = Limits(active=3, active_per_actor=2, queued=100, queued_per_actor=100)
    asked = [
        ask(world, f"{actor}-{number}", actor, wide) for actor in ("alice", "bob") for number in range(6)
    ]
    made = await asyncio.gather(*asked)
    under_way = [one for one in made if one.queue_position is None]
    assert len(under_way) == 3
    assert max(Counter(one.requested_by for one in under_way).values()) == 2
    seen = 3
    while under_way:
        await end(world, under_way.pop())
        chosen = [one for batch in await asyncio.gather(admit(world), admit(world)) for one in batch]
        assert len(chosen) <= 1
        seen += len(chosen)
        under_way += [one for one in made if one.id in chosen]
    assert seen == 12
