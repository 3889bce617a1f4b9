"""Repairs of one engine: begun with an epoch of their own, and made good, or noted as failed."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import delete, func, select, update
from sqlalchemy.dialects.postgresql import insert

from loradock.core.ids import new_repair_id
from loradock.core.models import CardState, Failure, OperationKind, RunRef
from loradock.core.reconcile import DriftKind, ForeignPolicy, Made, ReconcileRules, Repair
from loradock.core.requests import EngineTarget
from loradock.core.signatures import SignatureRules
from loradock.registry.audit import SYSTEM_ACTOR
from loradock.registry.comparing import Difference
from loradock.registry.database import Transaction
from loradock.registry.desired import wanted_on
from loradock.registry.engines import lock_engines
from loradock.registry.operations import IS_ACTIVE, hold_lock_keys, placement_lock
from loradock.registry.tables import (
    FENCING_EPOCHS,
    CardRow,
    DriftRow,
    EngineRow,
    OperationRow,
    ReconciliationRow,
)

WINDOW_SECONDS: Final = 60.0

NOT_ITS_FAULT: Final = frozenset(
    {"incarnation_mismatch", "engine_restarted", "engine_lost", "stale_epoch", "operation_cancelled"}
)
"""Codes that say nothing of the adapter on this engine: the next look may try at once."""


@dataclass(frozen=True)
class Ground:
    """Where repairs are begun, and by what rules.

    Attributes:
        engine: its row is locked.
        signatures: which versions may be loaded at all.
        run_id: of the workflow's run.
    """

    engine: EngineRow
    target: EngineTarget
    rules: ReconcileRules
    signatures: SignatureRules
    run_id: str
    now: datetime


async def begin(
    tx: Transaction, ground: Ground, differing: Sequence[Difference], rows: Mapping[str, DriftRow]
) -> list[Repair]:
    """Begin repairs of what may be tried now, as many as the limit allows. The lock keys of all are held."""
    due = [one for one in differing if _is_due(one, rows[one.served_name], ground)]
    allowed = await _allowance(tx, ground, due, rows)
    epochs = await _draw_epochs(tx, len(allowed))
    begun = []
    for one, epoch in zip(allowed, epochs, strict=True):
        row = rows[one.served_name]
        run = RunRef(operation=new_repair_id(), run_id=ground.run_id, epoch=epoch)
        row.under_way, row.next_try_at = run.operation, None
        begun.append(_repair(one, row, run, ground))
    for repair in begun:
        if repair.put_in is not None:
            await _announce(tx, repair)
    await tx.session.flush()
    return begun


def _is_due(one: Difference, row: DriftRow, ground: Ground) -> bool:
    """Whether a repair may begin now; otherwise the row says why not, or when."""
    rules, now = ground.rules, ground.now
    obstacle = _obstacle(one, ground)
    if obstacle is not None:
        row.failure = obstacle.model_dump(mode="json")
        row.next_try_at = now + timedelta(seconds=rules.backoff_max_seconds)
        return False
    if one.kind is DriftKind.UNKNOWN_ID:
        return False
    if one.kind is DriftKind.FOREIGN:
        if rules.foreign is ForeignPolicy.REPORT:
            row.next_try_at = None
            return False
        if row.attempts == 0:
            row.next_try_at = row.since + timedelta(seconds=rules.foreign_grace_seconds)
    return row.next_try_at is None or row.next_try_at <= now


def _obstacle(one: Difference, ground: Ground) -> Failure | None:
    """What can be told to be in the way without trying."""
    wanted, engine = one.wanted, ground.engine
    if wanted is None:
        return None
    if not wanted.ready:
        return Failure(code="version_not_ready", message=f"{one.served_name} is not published any more")
    rule = ground.signatures.rule_for(wanted.ref.adapter)
    if not rule.admits(wanted.signature):
        why = f"the policy does not let {one.served_name} be loaded (any more)"
        return Failure(code="signature_required", message=why, details={"policy": rule.adapters})
    if wanted.rank > engine.max_lora_rank:
        why = f"rank {wanted.rank} is above engine {engine.id}'s highest, {engine.max_lora_rank}"
        return Failure(code="rank_too_high", message=why)
    return None


async def _allowance(
    tx: Transaction, ground: Ground, due: list[Difference], rows: Mapping[str, DriftRow]
) -> list[Difference]:
    """As many as may begin in this minute; the others wait for the next."""
    if not due:
        return []
    now = ground.now
    query = select(ReconciliationRow).filter_by(engine=ground.engine.id).with_for_update()
    record = (await tx.session.scalars(query.execution_options(populate_existing=True))).one()
    if record.window_at is None or (now - record.window_at).total_seconds() >= WINDOW_SECONDS:
        record.window_at, record.window_repairs = now, 0
    left = max(0, ground.rules.repairs_per_minute - record.window_repairs)
    record.window_repairs += len(due[:left])
    for one in due[left:]:
        rows[one.served_name].next_try_at = record.window_at + timedelta(seconds=WINDOW_SECONDS)
    return due[:left]


async def _draw_epochs(tx: Transaction, count: int) -> list[int]:
    drawn = select(FENCING_EPOCHS.next_value()).select_from(func.generate_series(1, count).alias())
    return sorted(await tx.session.scalars(drawn)) if count else []


def _repair(one: Difference, row: DriftRow, run: RunRef, ground: Ground) -> Repair:
    wanted = one.wanted.ref if one.wanted else None
    out = one.held.ref if one.held else None
    if one.kind is DriftKind.MISSING and row.attempts == 0:
        out = None  # what is held is right: it is taken as it is. If that fails once, it is loaded anew.
    return Repair(
        run=run,
        kind=one.kind,
        target=ground.target,
        pool=ground.engine.pool,
        take_out=out,
        put_in=wanted,
        attempt=row.attempts + 1,
    )


async def _announce(tx: Transaction, repair: Repair) -> None:
    """Write the card that the repair is to bring, as lost: an unload that comes later finds it, and takes it out."""
    ref = repair.ref
    values: dict[str, Any] = {
        "incarnation": repair.target.incarnation,
        "served_name": ref.served_name,
        "digest": ref.digest,
        "int_id": ref.int_id,
        "pool": repair.pool,
        "state": CardState.LOST,
        "operation": None,
        "repair": repair.run.operation,
        "since": func.now(),
    }
    place = {"engine": repair.target.engine, "adapter": ref.adapter, "version": ref.version}
    statement = insert(CardRow).values(**place, **values)
    await tx.session.execute(statement.on_conflict_do_update(index_elements=list(place), set_=values))


async def make_good(tx: Transaction, repairs: Sequence[Repair]) -> Made:
    """Let traffic follow what repairs of one engine have brought, where it still counts.

    A call that is repeated gives the same again.
    """
    target, pool = repairs[0].target, repairs[0].pool
    adapters = sorted({repair.ref.adapter for repair in repairs})
    await hold_lock_keys(tx, (placement_lock(adapter, pool) for adapter in adapters))
    found = (await lock_engines(tx, [target.engine])).get(target.engine)
    names = tuple(repair.served_name for repair in repairs)
    if found is None or not found[1] or (found[0].incarnation, found[0].pool) != (target.incarnation, pool):
        return Made(late=names)
    query = select(OperationRow.adapter).where(
        IS_ACTIVE,
        OperationRow.adapter.in_(adapters),
        OperationRow.pool == pool,
        OperationRow.kind != OperationKind.PUBLISH,
    )
    busy = set(await tx.session.scalars(query))
    wanted = {one.ref for one in (await wanted_on(tx, [target.engine]))[target.engine]}
    good, unwanted, late = [], [], []
    for repair in repairs:
        if repair.ref.adapter in busy:
            late.append(repair)
        elif repair.put_in is not None and repair.put_in not in wanted:
            unwanted.append(repair)
        elif repair.put_in is not None and not await _serve(tx, repair):
            late.append(repair)
        else:
            good.append(repair)
    await _note_good(tx, target.engine, good)
    return Made(good=_names(good), unwanted=_names(unwanted), late=_names(late))


def _names(repairs: Iterable[Repair]) -> tuple[str, ...]:
    return tuple(repair.served_name for repair in repairs)


async def _serve(tx: Transaction, repair: Repair) -> bool:
    """Turn the announced card to serving; False when it is not this repair's any more."""
    own = (
        (CardRow.engine == repair.target.engine)
        & (CardRow.adapter == repair.ref.adapter)
        & (CardRow.version == repair.ref.version)
        & (CardRow.incarnation == repair.target.incarnation)
        & (CardRow.repair == repair.run.operation)
        & CardRow.operation.is_(None)
    )
    served = update(CardRow).where(own, CardRow.state == CardState.LOST)
    changed = await tx.session.scalar(
        served.values(state=CardState.SERVING, since=func.now()).returning(CardRow.version)
    )
    if changed is not None:
        return True
    return (
        await tx.session.scalar(select(CardRow.version).where(own, CardRow.state == CardState.SERVING))
        is not None
    )


async def _note_good(tx: Transaction, engine: str, good: Sequence[Repair]) -> None:
    own = [(repair.served_name, repair.run.operation) for repair in good]
    gone: set[str] = set()
    for name, repair_id in own:
        row = delete(DriftRow).filter_by(engine=engine, served_name=name, under_way=repair_id)
        if await tx.session.scalar(row.returning(DriftRow.served_name)) is not None:
            gone.add(name)
    for repair in good:
        if repair.served_name in gone:  # else it was noted before
            tx.audit("card.repaired" if repair.put_in else "engine.cleaned", **_about(repair))
    if gone:
        await _count(tx, engine, repaired=len(gone))


async def note_failed(tx: Transaction, repair: Repair, failure: Failure, rules: ReconcileRules) -> None:
    """Keep why a repair failed, and put the next try off; a failure that is not the adapter's own puts off nothing."""
    query = select(DriftRow).filter_by(engine=repair.target.engine, served_name=repair.served_name)
    row = await tx.session.scalar(query.with_for_update().execution_options(populate_existing=True))
    if row is None or row.under_way != repair.run.operation:
        return
    row.under_way = None
    row.failure = failure.model_dump(mode="json")
    if failure.code not in NOT_ITS_FAULT:
        row.attempts += 1
        row.next_try_at = await tx.now() + timedelta(seconds=rules.backoff(row.attempts))
    await tx.session.flush()
    await _count(tx, repair.target.engine, failed=1)
    tx.audit("repair.failed", **_about(repair), outcome=failure.code, message=failure.message[:300])


def _about(repair: Repair) -> dict[str, Any]:
    return {
        "actor": SYSTEM_ACTOR,
        "adapter": repair.ref.adapter,
        "version": repair.ref.version,
        "pool": repair.pool,
        "engine": repair.target.engine,
        "operation": repair.run.operation,
        "reason": str(repair.kind),
        "run": repair.run.run_id,
        "digest": repair.ref.digest,
        "attempt": repair.attempt,
    }


async def _count(tx: Transaction, engine: str, *, repaired: int = 0, failed: int = 0) -> None:
    row = ReconciliationRow
    await tx.session.execute(
        update(row)
        .where(row.engine == engine)
        .values(repaired=row.repaired + repaired, failed=row.failed + failed),
        execution_options={"synchronize_session": False},
    )
