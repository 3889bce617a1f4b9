"""The queue: how many operations may be under way at once, and which of those that wait comes next.

All of it stands in the operations' rows: one that may be started has `admitted_at`, one that waits has not. Whoever
admits holds one lock, taken after every other but the audit chain's. The service's own work never waits.
"""

import heapq
from collections import Counter, defaultdict, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from sqlalchemy import func, select, text, update

from loradock.core.errors import LoradockError
from loradock.core.settings import Settings
from loradock.registry.arrays import is_any_of
from loradock.registry.audit import SYSTEM_ACTOR
from loradock.registry.database import Reader, Transaction
from loradock.registry.tables import ACTIVE, QUEUED, OperationRow

RETRY_AFTER_SECONDS: Final = 10

_LOCK: Final = 0x6C6F7261_646D6974
"""The advisory lock's number: any, but the same in every process."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How much may be asked of the service at once.

    Attributes:
        active, active_per_actor: operations that are admitted and have not ended.
        queued, queued_per_actor: operations that wait to be admitted; what is beyond is refused.
    """

    active: int
    active_per_actor: int
    queued: int
    queued_per_actor: int

    @classmethod
    def of(cls, settings: Settings) -> "Limits":
        """As the settings say."""
        return cls(
            active=settings.operations_active,
            active_per_actor=settings.operations_active_per_actor,
            queued=settings.operations_queued,
            queued_per_actor=settings.operations_queued_per_actor,
        )


@dataclass(frozen=True, slots=True, order=True)
class Waiting:
    """An operation in the queue; ids sort by the time when they were asked for."""

    id: str
    actor: str


def in_turn(
    waiting: Sequence[Waiting], active: Mapping[str, int], per_actor: int | None = None
) -> Iterator[Waiting]:
    """Those that wait, in the order of their turn: whoever has the least under way comes first, then who asked first.

    Args:
        active: operations under way, by actor.
        per_actor: who has so many under way gets no further turn; None is no limit.
    """
    queues: dict[str, deque[Waiting]] = defaultdict(deque)
    for one in sorted(waiting):
        queues[one.actor].append(one)
    turns = [(active.get(actor, 0), queue[0], actor) for actor, queue in queues.items()]
    heapq.heapify(turns)
    while turns:
        count, one, actor = heapq.heappop(turns)
        if per_actor is not None and count >= per_actor:
            continue
        yield one
        queues[actor].popleft()
        if queues[actor]:
            heapq.heappush(turns, (count + 1, queues[actor][0], actor))


def admissible(waiting: Sequence[Waiting], active: Mapping[str, int], limits: Limits) -> list[str]:
    """The operations that there is room for, in the order of their turn."""
    room = max(0, limits.active - sum(active.values()))
    turns = in_turn(waiting, active, limits.active_per_actor)
    return [one.id for _, one in zip(range(room), turns, strict=False)]


async def enter(tx: Transaction, operation: str, actor: str, limits: Limits) -> bool:
    """Let an operation that this transaction has made go ahead, or have it wait for its turn.

    Returns:
        Whether it may be started.

    Raises:
        LoradockError: `too_many_requests` when the queue is full.
    """
    if actor == SYSTEM_ACTOR:
        return True
    await _lock(tx)
    active = await _under_way(tx, but=operation)
    waiting = await _waiting(tx)
    if operation in admissible([*waiting, Waiting(operation, actor)], active, limits):
        return True
    own = sum(one.actor == actor for one in waiting)
    if own >= limits.queued_per_actor or len(waiting) >= limits.queued:
        raise LoradockError(
            "too_many_requests",
            f"{sum(active.values())} operations are under way and {len(waiting)} wait, {own} of them {actor}'s",
            retry_after=RETRY_AFTER_SECONDS,
        )
    await tx.session.execute(
        update(OperationRow).where(OperationRow.id == operation).values(admitted_at=None),
        execution_options={"synchronize_session": False},
    )
    return False


async def admit_waiting(tx: Transaction, limits: Limits) -> list[str]:
    """Admit those that there is room for.

    Returns:
        Their ids, in the order of their turn.
    """
    if not await _waiting(tx, limit=1):
        return []
    await _lock(tx)
    chosen = admissible(await _waiting(tx), await _under_way(tx), limits)
    if not chosen:
        return []
    # One that is aborted in this moment is passed over: it does not wait any more.
    admitted = update(OperationRow).where(is_any_of(OperationRow.id, chosen), text(QUEUED))
    done = await tx.session.scalars(
        admitted.values(admitted_at=func.clock_timestamp()).returning(OperationRow.id),
        execution_options={"synchronize_session": False},
    )
    taken = set(done)
    return [operation for operation in chosen if operation in taken]


async def positions(tx: Reader) -> dict[str, int]:
    """Every waiting operation's place in the queue as things stand; 1 is next."""
    turns = in_turn(await _waiting(tx), await _under_way(tx))
    return {one.id: place for place, one in enumerate(turns, start=1)}


async def _lock(tx: Transaction) -> None:
    await tx.session.flush()
    await tx.session.execute(select(func.pg_advisory_xact_lock(_LOCK)))


async def _waiting(tx: Reader, limit: int | None = None) -> list[Waiting]:
    query = select(OperationRow.id, OperationRow.requested_by).where(text(QUEUED)).order_by(OperationRow.id)
    return [Waiting(operation, actor) for operation, actor in await tx.session.execute(query.limit(limit))]


async def _under_way(tx: Reader, but: str = "") -> Counter[str]:
    query = (
        select(OperationRow.requested_by, func.count().label("under_way"))
        .where(text(ACTIVE), OperationRow.admitted_at.is_not(None))
        .where(OperationRow.requested_by != SYSTEM_ACTOR, OperationRow.id != but)
        .group_by(OperationRow.requested_by)
    )
    return Counter({row.requested_by: row.under_way for row in await tx.session.execute(query)})
