"""The reconciler's queue: a row per engine, written in the transaction that gives the cause to look."""

from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import Final

from sqlalchemy import case, func, select, union, update
from sqlalchemy.dialects.postgresql import insert

from loradock.core.models import StepState
from loradock.registry.arrays import is_any_of, rows_of
from loradock.registry.database import Transaction
from loradock.registry.engines import is_alive
from loradock.registry.tables import EngineRow, OperationRow, OperationStepRow, ReconciliationRow

CHANNEL: Final = "loradock_reconcile"
"""Told with every cause to look: the listeners read the queue."""

CLAIM_SECONDS: Final = 10.0
"""A look that was to be started and has not begun in this time is started again."""


async def want(tx: Transaction, reasons: Mapping[str, str], *, clock_from_now: bool = False) -> None:
    """Have engines looked at, as soon as this transaction is committed.

    Args:
        reasons: a cause for each engine, for people.
        clock_from_now: the engine could not be repaired before: what it takes counts from now.
    """
    if not reasons:
        return
    row = ReconciliationRow
    names = sorted(reasons)
    asked = rows_of(engine=names, reason=[reasons[name] for name in names])
    statement = insert(row).from_select(
        ["engine", "reason", "wanted_since", "due_at"],
        select(asked.c.engine, asked.c.reason, func.now(), func.now()).order_by(asked.c.engine),
        include_defaults=False,
    )
    since = func.now() if clock_from_now else func.coalesce(row.wanted_since, func.now())
    await tx.session.execute(
        statement.on_conflict_do_update(
            index_elements=[row.engine],
            set_={
                "requested": row.requested + 1,
                "reason": statement.excluded.reason,
                "wanted_since": since,
                "due_at": func.now(),
            },
        )
    )
    await _notify(tx)


async def want_after(tx: Transaction, operation: OperationRow, *, troubled: Iterable[str] = ()) -> None:
    """The look that follows an operation's end: its lock held repairs up, and it may have left some itself.

    Args:
        troubled: engines where it did not come to what was asked for.
    """
    if operation.pool is None:
        return
    row, step = ReconciliationRow, OperationStepRow
    touched = (step.operation == operation.id) & (step.engine != "")
    if not operation.repairs_pending:
        touched &= step.state == StepState.FAILED
    waiting = (
        select(row.engine)
        .join(EngineRow, EngineRow.id == row.engine)
        .where(row.wanted_since.is_not(None), EngineRow.pool == operation.pool)
    )
    asked = select(EngineRow.id).where(is_any_of(EngineRow.id, troubled))
    concerned = union(waiting, select(step.engine).where(touched), asked).subquery()
    engines = await tx.session.scalars(select(EngineRow.id).where(EngineRow.id.in_(select(concerned))))
    await want(tx, dict.fromkeys(engines, f"{operation.kind} {operation.id} ended as {operation.state}"))


async def claim_due(tx: Transaction, limit: int) -> list[str]:
    """Engines whose look is due, for one starter alone; those that do not live wait for their return."""
    row = ReconciliationRow
    query = (
        select(row.engine)
        .join(EngineRow, EngineRow.id == row.engine)
        .where(row.due_at <= func.clock_timestamp(), is_alive())
        .order_by(row.due_at)
        .limit(limit)
        .with_for_update(of=row, skip_locked=True)
    )
    engines = sorted(await tx.session.scalars(query))
    if engines:
        await delay(tx, engines, CLAIM_SECONDS)
    return engines


async def delay(tx: Transaction, engines: Iterable[str], seconds: float) -> None:
    """Have the next look begin in so many seconds, unless one was asked for meanwhile."""
    row = ReconciliationRow
    due = func.clock_timestamp() + timedelta(seconds=seconds)
    await tx.session.execute(
        update(row).where(is_any_of(row.engine, engines)).values(due_at=case((row.due_at.is_not(None), due))),
        execution_options={"synchronize_session": False},
    )


async def _notify(tx: Transaction) -> None:
    await tx.session.execute(select(func.pg_notify(CHANNEL, "")))
