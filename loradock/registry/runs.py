"""The guard that every activity's transaction begins with, and an operation's way from its begin to its end."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import case, delete, func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import IntegrityError

from loradock.core.errors import LoradockError
from loradock.core.models import (
    CardState,
    Failure,
    OperationState,
    RunRef,
    StepState,
)
from loradock.core.requests import OperationResult
from loradock.registry import reconcile_queue
from loradock.registry.database import Transaction
from loradock.registry.operation_views import count_steps
from loradock.registry.operations import about, busy, get_operation, lock_holder, not_found
from loradock.registry.tables import CardRow, OperationRow, OperationStepRow
from loradock.registry.views import OperationView

_UNFINISHED = (StepState.PENDING, StepState.RUNNING)


async def lock_operation(tx: Transaction, operation: str) -> OperationRow:
    """The operation's row, for this transaction alone.

    Raises:
        LoradockError: `operation_not_found`.
    """
    query = select(OperationRow).filter_by(id=operation).with_for_update()
    row: OperationRow | None = await tx.session.scalar(query.execution_options(populate_existing=True))
    if row is None:
        raise not_found(operation)
    return row


async def claim(tx: Transaction, run: RunRef) -> OperationRow:
    """Lock the operation and see that this run may act for it; nobody else can until the transaction's end.

    The first run to come holds it. A further one (Reset in the Temporal UI) takes it over, for good; when the operation
    had ended, it takes the lock again. An operation that ended under this very run is given back as it is: its
    activities may be tried again after the end.

    Raises:
        LoradockError: `operation_not_found`, `operation_superseded`, `operation_ended` when it ended before any run
            held it, `adapter_busy` when a further run finds the lock taken.
    """
    row = await lock_operation(tx, run.operation)
    if row.epoch != run.epoch or run.run_id in row.superseded_runs:
        raise LoradockError("operation_superseded", f"another run has taken over {row.id}", operation=row.id)
    if row.run_id == run.run_id:
        return row
    if not row.run_id:  # none yet, or taken over by somebody who did not say as which run
        if not active(row):
            raise ended(row)
        row.run_id = run.run_id
    else:
        await _adopt(tx, row, run)
    await tx.session.flush()
    return row


async def claim_active(tx: Transaction, run: RunRef, *, forward: bool = False) -> OperationRow:
    """`claim`, for what must not happen after the end.

    Args:
        forward: nor while the operation is put back: a late attempt would redo what was undone.

    Raises:
        LoradockError: as `claim`; `operation_ended`.
    """
    row = await claim(tx, run)
    if not active(row) or (forward and row.state == OperationState.COMPENSATING):
        raise ended(row)
    return row


def active(row: OperationRow) -> bool:
    """Whether the operation still holds its lock."""
    return OperationState(row.state).active


def ended(row: OperationRow) -> LoradockError:
    """`operation_ended`."""
    return LoradockError("operation_ended", f"operation {row.id} is {row.state}", operation=row.id)


async def _adopt(tx: Transaction, row: OperationRow, run: RunRef) -> None:
    """A Reset in the Temporal UI: the new run takes the lock again, unless the work is done and may be relied on."""
    if row.state == OperationState.SUCCEEDED:
        raise ended(row)
    tx.audit("operation.adopted", **about(row), was=row.state, from_run=row.run_id, to_run=run.run_id)
    lock_key = row.lock_key
    try:
        async with tx.session.begin_nested():
            row.superseded_runs = [*row.superseded_runs, str(row.run_id)]
            row.run_id = run.run_id
            if row.state != OperationState.PENDING:
                _run_again(row)
    except IntegrityError:
        holder = await lock_holder(tx, lock_key)
        raise busy(holder) if holder else _try_again() from None
    # What did not succeed lies before the new run again.
    step = OperationStepRow
    await tx.session.execute(
        update(step)
        .where(step.operation == run.operation, step.state != StepState.SUCCEEDED)
        .values(state=StepState.PENDING, ended_at=None, failure=None, attempt=0)
    )


def _run_again(row: OperationRow) -> None:
    row.state = OperationState.RUNNING
    row.ended_at, row.failure, row.result, row.repairs_pending = None, None, None, False
    row.step_counts = None


def _try_again() -> LoradockError:
    return LoradockError("database_unavailable", "the lock changed hands in this moment")


async def begin(tx: Transaction, run: RunRef, steps: Sequence[tuple[str, str]]) -> OperationRow:
    """Note that the work begins, and what is to be done. Further steps may be added by a later call.

    Called before a publish reads its first byte: who asks for the same before this commits is answered by what is read
    then, who asks later is not (`operations.submit`).

    Args:
        steps: name and engine (empty for none) in the order in which they are shown.

    Raises:
        LoradockError: as `claim`.
    """
    row = await claim(tx, run)
    if row.state == OperationState.PENDING:
        row.state, row.started_at = OperationState.RUNNING, await tx.now()
        await tx.session.flush()
    if steps and active(row):
        position = select(func.coalesce(func.max(OperationStepRow.position) + 1, 0)).filter_by(
            operation=row.id
        )
        first = await tx.session.scalar(position) or 0
        values = [
            {
                "operation": row.id,
                "name": name,
                "engine": engine,
                "position": number,
                "state": StepState.PENDING,
            }
            for number, (name, engine) in enumerate(steps, start=first)
        ]
        await tx.session.execute(insert(OperationStepRow).on_conflict_do_nothing(), values)
    return row


async def set_version(tx: Transaction, run: RunRef, version: int) -> None:
    """Note which version the operation is about, once that is known.

    Raises:
        LoradockError: as `claim_active`.
    """
    row = await claim_active(tx, run)
    row.version = version


async def mark_compensating(tx: Transaction, run: RunRef) -> None:
    """Note that the operation is being put back: from now on nothing forward is accepted from its run.

    Raises:
        LoradockError: as `claim_active`: what has ended is not this run's to put back.
    """
    row = await claim_active(tx, run)
    row.state = OperationState.COMPENSATING


async def finish(
    tx: Transaction,
    run: RunRef,
    state: OperationState,
    failure: Failure | None = None,
    result: OperationResult | None = None,
    *,
    repairs_pending: bool = False,
) -> OperationView:
    """End the operation and give its lock back; once it has ended the first end stands.

    Args:
        state: an end: succeeded, failed, rolled_back, aborted.

    Raises:
        LoradockError: as `claim`.
    """
    if state.active:
        raise ValueError(f"{state} is not an end")
    row = await claim(tx, run)
    if active(row):
        await end(tx, row, state, failure, result, repairs_pending=repairs_pending)
    return await get_operation(tx, row.id)


async def end(
    tx: Transaction,
    row: OperationRow,
    state: OperationState,
    failure: Failure | None = None,
    result: OperationResult | None = None,
    *,
    repairs_pending: bool = False,
) -> None:
    """End an operation whose row is locked and active."""
    row.ended_at, row.state = await tx.now(), state
    row.started_at = row.started_at or row.ended_at
    row.failure = failure.model_dump(mode="json") if failure else None
    row.result = result.model_dump(mode="json") if result else None
    row.repairs_pending = repairs_pending
    await tx.session.flush()
    # What was staged and neither committed nor retracted never served: nobody else would ever take it away.
    await tx.session.execute(delete(CardRow).filter_by(operation=row.id, state=CardState.STAGED))
    step = OperationStepRow
    await tx.session.execute(
        update(step)
        .where(step.operation == row.id, step.state.in_(_UNFINISHED))
        .values(
            # What had begun was cut off and put back; what had not begun never will.
            state=case((step.state == StepState.RUNNING, StepState.UNDONE), else_=StepState.SKIPPED),
            ended_at=row.ended_at,
        )
    )
    if state != OperationState.SUCCEEDED and not repairs_pending:
        # What was done on single engines has been put back; where it could not be, nobody knows here on which.
        done = (step.operation == row.id) & (step.engine != "") & (step.state == StepState.SUCCEEDED)
        await tx.session.execute(update(step).where(done).values(state=StepState.UNDONE))
    row.step_counts = (await count_steps(tx, [row.id])).get(row.id, {})
    detail: dict[str, Any] = {"message": failure.message} if failure else {}
    tx.audit(f"{row.kind}.{state}", **about(row), outcome=failure.code if failure else "ok", **detail)
    await reconcile_queue.want_after(tx, row, troubled=result.failed_engines if result else ())
