"""One look at one engine: begun, compared with what is wanted, and ended."""

from collections.abc import Collection, Iterable
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import ColumnElement, exists, select, update

from loradock.core.models import CardState, Failure, OperationKind
from loradock.core.reconcile import EngineObservation, Look, Looked, ReconcileRules
from loradock.core.requests import EngineTarget
from loradock.core.signatures import SignatureRules
from loradock.registry import drift, repairs
from loradock.registry.arrays import is_any_of
from loradock.registry.audit import SYSTEM_ACTOR
from loradock.registry.comparing import Difference, compare
from loradock.registry.database import Reader, Transaction
from loradock.registry.desired import WantedVersion, wanted_on
from loradock.registry.engines import lock_engines
from loradock.registry.operations import IS_ACTIVE, hold_lock_keys, placement_lock
from loradock.registry.tables import (
    CardRow,
    DriftRow,
    EngineRow,
    OperationRow,
    OperationStepRow,
    ReconciliationRow,
)

LOOK_SECONDS: Final = 120.0
"""An engine whose look has not ended by then is looked at again: its workflow may be gone."""
BUSY_SECONDS: Final = 60.0
"""An operation's end has the engine looked at; this is for the case that it never ends well."""
MOMENT_SECONDS: Final = 2.0


async def begin(tx: Transaction, engine: str, rules: ReconcileRules) -> Look:
    """Begin a look; it may be begun again and again."""
    found = (await lock_engines(tx, [engine])).get(engine)
    now = await tx.now()
    if found is None:  # removed meanwhile
        return Look(engine=engine, target=None, begun_at=now, requested=0, drain_seconds=rules.drain_seconds)
    row = await _record(tx, engine)
    target = None
    if found[1]:
        target = EngineTarget(engine=engine, agent=found[0].agent, incarnation=str(found[0].incarnation))
        row.due_at = now + timedelta(seconds=LOOK_SECONDS)
    return Look(
        engine=engine,
        target=target,
        begun_at=now,
        requested=row.requested,
        drain_seconds=rules.drain_seconds,
    )


async def _record(tx: Transaction, engine: str) -> ReconciliationRow:
    query = select(ReconciliationRow).filter_by(engine=engine).with_for_update()
    row: ReconciliationRow | None = await tx.session.scalar(query.execution_options(populate_existing=True))
    if row is None:
        row = ReconciliationRow(engine=engine, requested=1, reason="asked for by hand")
        tx.session.add(row)
        await tx.session.flush()
    return row


async def compare_and_begin(
    tx: Transaction,
    look: Look,
    seen: EngineObservation,
    rules: ReconcileRules,
    *,
    run_id: str,
    under_way: Collection[str] = (),
    signatures: SignatureRules | None = None,
) -> Looked:
    """Compare, take the traffic from what is not so, note the drift, and begin repairs.

    Args:
        run_id: of the workflow's run.
        under_way: names on which this workflow works already: they are left alone.
        signatures: which versions may be loaded; none says any.
    """
    comparison = _Comparison(tx, look, seen, rules, set(under_way))
    return await comparison.run(run_id, signatures or SignatureRules())


class _Comparison:
    def __init__(
        self, tx: Transaction, look: Look, seen: EngineObservation, rules: ReconcileRules, under_way: set[str]
    ) -> None:
        self._tx = tx
        self._look = look
        self._seen = seen
        self._rules = rules
        self._passed_over = under_way

    async def run(self, run_id: str, signatures: SignatureRules) -> Looked:
        tx, name = self._tx, self._look.engine
        adapters = await self._hold_adapters()
        found = (await lock_engines(tx, [name])).get(name)
        target = self._look.target
        if found is None or target is None or not found[1]:
            return Looked(changed=True)
        engine = found[0]
        if not engine.incarnation == target.incarnation == self._seen.incarnation:
            return Looked(changed=True)
        # First of all who is at work: what an operation has ended is then read as it left it. Read the other way round,
        # one that ends in between would be neither busy nor seen to have changed anything.
        busy = await _busy(tx, adapters)
        wanted = [one for one in (await wanted_on(tx, [name]))[name] if one.ref.adapter in adapters]
        cards = [card for card in await self._cards() if card.adapter in adapters]
        self._pass_over(cards)
        await self._withdraw(engine, cards, busy)
        routed = {
            card.served_name for card in cards if _routes(card, engine) and card.state == CardState.SERVING
        }
        differing = compare(wanted, routed, self._seen, await self._known_operations())
        waits = [one for one in differing if _is_busy(one, engine.pool, busy)]
        self._passed_over |= {one.served_name for one in waits}
        differing = [one for one in differing if one.served_name not in self._passed_over]
        rows = await drift.note(tx, name, target.incarnation, differing, self._passed_over)
        await self._forget_strays(engine, cards, wanted, busy)
        if any(drift.is_open(row, self._rules) for row in rows.values()):
            (await _record(tx, name)).drifted = True
        ground = repairs.Ground(engine, target, self._rules, signatures, run_id, await tx.now())
        begun = await repairs.begin(tx, ground, differing, rows)
        return Looked(repairs=tuple(begun), waits=bool(waits))

    async def _hold_adapters(self) -> set[str]:
        """The adapters that this look is about; no operation on one of them begins until the commit."""
        tx, name = self._tx, self._look.engine
        engine = await tx.session.get(EngineRow, name)
        wanted = (await wanted_on(tx, [name]))[name]
        carded = await tx.session.scalars(select(CardRow.adapter).filter_by(engine=name))
        adapters = {*carded, *(one.ref.adapter for one in wanted), *(one.adapter for one in self._seen.held)}
        pool = engine.pool if engine else ""
        await hold_lock_keys(tx, (placement_lock(adapter, pool) for adapter in adapters))
        return adapters

    async def _cards(self) -> list[CardRow]:
        query = select(CardRow).filter_by(engine=self._look.engine).order_by(CardRow.served_name)
        return list(await self._tx.session.scalars(query.execution_options(populate_existing=True)))

    def _pass_over(self, cards: Iterable[CardRow]) -> None:
        """Leave alone what came to be served after the engine was asked."""
        young = (card for card in cards if card.since > self._look.begun_at)
        self._passed_over |= {card.served_name for card in young if card.state != CardState.LOST}

    async def _withdraw(
        self, engine: EngineRow, cards: Iterable[CardRow], busy: set[tuple[str, str | None]]
    ) -> None:
        """Take the traffic from cards that say what is not so."""
        held = {one.served_name: one for one in self._seen.held if one.serving}
        for card in cards:
            if card.state != CardState.SERVING or card.served_name in self._passed_over:
                continue
            there = held.get(card.served_name)
            if _routes(card, engine) and there is not None and there.digest == card.digest:
                continue
            if (card.adapter, card.pool) in busy:
                continue
            card.state, card.since = CardState.LOST, await self._tx.now()
            reason = "not_served" if there is None else "other_weights"
            self._tx.audit(
                "card.lost", actor=SYSTEM_ACTOR, adapter=card.adapter, version=card.version, pool=card.pool,
                engine=engine.id, reason=reason,
            )  # fmt: skip
        await self._tx.session.flush()

    async def _known_operations(self) -> set[str]:
        named = {one.operation for one in self._seen.held}
        return set(
            await self._tx.session.scalars(select(OperationRow.id).where(is_any_of(OperationRow.id, named)))
        )

    async def _forget_strays(
        self,
        engine: EngineRow,
        cards: Iterable[CardRow],
        wanted: Iterable[WantedVersion],
        busy: set[tuple[str, str | None]],
    ) -> None:
        """Cards of versions that nobody wants here (any more) go, whatever they say."""
        names = {one.ref.served_name for one in wanted}
        held_up = {adapter for adapter, _ in busy}
        stray = [
            card
            for card in cards
            if (card.served_name not in names or card.pool != engine.pool)
            and card.served_name not in self._passed_over
            and card.adapter not in held_up
        ]
        for card in stray:
            self._tx.audit(
                "card.removed", actor=SYSTEM_ACTOR, adapter=card.adapter, version=card.version, pool=card.pool,
                engine=engine.id, reason="not_wanted", was=card.state,
            )  # fmt: skip
            await self._tx.session.delete(card)
        await self._tx.session.flush()


def _routes(card: CardRow, engine: EngineRow) -> bool:
    return card.incarnation == engine.incarnation and card.pool == engine.pool


async def _busy(tx: Reader, adapters: Collection[str]) -> set[tuple[str, str | None]]:
    """Adapter and pool of every operation that holds where one of the adapters is served."""
    row = OperationRow
    query = select(row.adapter, row.pool).where(
        IS_ACTIVE, is_any_of(row.adapter, adapters), row.kind != OperationKind.PUBLISH
    )
    return {(adapter, pool) for adapter, pool in await tx.session.execute(query)}


def _is_busy(one: Difference, pool: str, busy: set[tuple[str, str | None]]) -> bool:
    """What is wanted here waits for an operation on this pool; what is taken out, for any on the adapter."""
    if one.wanted is not None:
        return (one.wanted.ref.adapter, pool) in busy
    return any(adapter == one.adapter for adapter, _ in busy)


async def end(
    tx: Transaction, look: Look, rules: ReconcileRules, *, waits: bool, failure: Failure | None, run_id: str
) -> bool:
    """End a look: note whether the engine is as wanted, or when to look again.

    Returns:
        Whether it is as wanted; so is one that was removed meanwhile.
    """
    if await tx.session.get(EngineRow, look.engine) is None:
        return True
    rows = (await drift.of_engine(tx, look.engine)).values()
    is_open = [row for row in rows if drift.is_open(row, rules)]
    record, now = await _record(tx, look.engine), await tx.now()
    record.looked_at = now
    record.failure = failure.model_dump(mode="json") if failure else None
    if record.requested != look.requested:
        record.due_at = now
    elif look.target is None:
        record.due_at = None  # its return has it looked at
    elif failure is not None:
        record.due_at = now + timedelta(seconds=rules.backoff_seconds)
    elif is_open:
        record.due_at = min(_next_try(row, now) for row in is_open)
    elif waits:
        record.due_at = now + timedelta(seconds=BUSY_SECONDS)
    else:
        await _converged(tx, record, now, run_id)
        return True
    return False


def _next_try(row: DriftRow, now: datetime) -> datetime:
    soonest = now + timedelta(seconds=MOMENT_SECONDS)
    return soonest if row.next_try_at is None else max(soonest, row.next_try_at)


async def _converged(tx: Transaction, record: ReconciliationRow, now: datetime, run_id: str) -> None:
    if record.drifted and record.wanted_since is not None:
        seconds = max(0.0, (now - record.wanted_since).total_seconds())
        record.converged += 1
        record.converge_seconds += seconds
        record.last_converge_seconds = seconds
        tx.audit(
            "engine.repaired", actor=SYSTEM_ACTOR, engine=record.engine, seconds=round(seconds, 3),
            reason=record.reason, run=run_id,
        )  # fmt: skip
    record.due_at, record.wanted_since, record.drifted = None, None, False
    await tx.session.flush()
    await heal_operations(tx, record.engine)


async def heal_operations(tx: Transaction, engine: str) -> None:
    """Operations that left repairs are done with when every engine that they touched is as wanted."""
    operation, step = OperationRow, OperationStepRow
    touched = step.operation == operation.id
    here = exists().where(touched, step.engine == engine)
    elsewhere = exists().where(
        touched, step.engine == ReconciliationRow.engine, ReconciliationRow.wanted_since.is_not(None)
    )
    healed = (
        update(operation)
        .where(_REPAIRS_PENDING, operation.ended_at.is_not(None), here, ~elsewhere)
        .values(repairs_pending=False)
        .returning(operation.id, operation.adapter, operation.version, operation.pool)
    )
    rows = await tx.session.execute(healed, execution_options={"synchronize_session": False})
    for name, adapter, version, pool in rows.all():
        tx.audit(
            "operation.repaired",
            actor=SYSTEM_ACTOR,
            adapter=adapter,
            version=version,
            pool=pool,
            operation=name,
        )


_REPAIRS_PENDING: Final[ColumnElement[bool]] = OperationRow.repairs_pending.is_(True)
