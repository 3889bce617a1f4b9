"""Operations as they are read: a row with its steps, all of them or those that matter."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from sqlalchemy import Select, case, func, select

from loradock.core.models import Failure, OperationKind, OperationState, StepReport, StepState
from loradock.registry import admission
from loradock.registry.database import Reader
from loradock.registry.tables import OperationRow, OperationStepRow
from loradock.registry.views import OperationView

STEPS_SHOWN: Final = 1000
"""An operation shows so many of its steps; of more, those that matter most. `operation_steps.list_steps` has all."""
FAILED_SHOWN: Final = 10
"""In a list, an operation shows so many of the steps that failed, and no others."""

_MATTERS: Final = (
    StepState.FAILED,
    StepState.RUNNING,
    StepState.UNDONE,
    StepState.PENDING,
    StepState.SUCCEEDED,
    StepState.SKIPPED,
)


async def with_steps(tx: Reader, row: OperationRow) -> OperationView:
    """One operation with its steps: at most `STEPS_SHOWN`."""
    step = OperationStepRow
    matters = case({state: rank for rank, state in enumerate(_MATTERS)}, value=step.state)
    query = select(step).where(step.operation == row.id)
    most = query.order_by(matters, step.position, step.name, step.engine).limit(STEPS_SHOWN)
    found = await tx.session.scalars(most.execution_options(populate_existing=True))
    steps = sorted(found, key=lambda one: (one.position, one.name, one.engine))
    counts = (await count_steps(tx, [row.id])).get(row.id, {})
    places = await _places(tx, [row])
    return operation_view(row, steps, counts, places.get(row.id))


async def in_a_list(tx: Reader, query: Select[OperationRow]) -> list[OperationView]:
    """Many operations, each with the counts of its steps and the first of those that failed."""
    rows = (await tx.session.scalars(query)).all()
    counts = {row.id: row.step_counts for row in rows if row.step_counts is not None}
    counts |= await count_steps(tx, [row.id for row in rows if row.id not in counts])
    failed = await _failed(tx, [name for name, states in counts.items() if states.get(StepState.FAILED)])
    places = await _places(tx, rows)
    return [
        operation_view(row, failed.get(row.id, ()), counts.get(row.id, {}), places.get(row.id))
        for row in rows
    ]


async def count_steps(tx: Reader, operations: Sequence[str]) -> dict[str, dict[str, int]]:
    """How many steps of each of these operations are in which state; nothing for one without any."""
    if not operations:
        return {}
    step = OperationStepRow
    query = select(step.operation, step.state, func.count()).where(step.operation.in_(operations))
    found: dict[str, dict[str, int]] = {}
    for operation, state, count in await tx.session.execute(query.group_by(step.operation, step.state)):
        found.setdefault(operation, {})[state] = count
    return found


async def _failed(tx: Reader, operations: Sequence[str]) -> dict[str, list[OperationStepRow]]:
    """The first steps that failed, of each of these operations."""
    found: dict[str, list[OperationStepRow]] = {}
    if not operations:
        return found
    step = OperationStepRow
    place = func.row_number().over(
        partition_by=step.operation, order_by=(step.position, step.name, step.engine)
    )
    failed = (
        select(step.operation, step.name, step.engine, place.label("place"))
        .where(step.operation.in_(operations), step.state == StepState.FAILED)
        .subquery()
    )
    key = (
        (step.operation == failed.c.operation)
        & (step.name == failed.c.name)
        & (step.engine == failed.c.engine)
    )
    query = select(step).join(failed, key).where(failed.c.place <= FAILED_SHOWN)
    ordered = query.order_by(step.operation, failed.c.place)
    for row in await tx.session.scalars(ordered.execution_options(populate_existing=True)):
        found.setdefault(row.operation, []).append(row)
    return found


async def _places(tx: Reader, rows: Sequence[OperationRow]) -> Mapping[str, int]:
    """Places in the queue, where any of the operations waits in it."""
    waits = any(row.state == OperationState.PENDING and row.admitted_at is None for row in rows)
    return await admission.positions(tx) if waits else {}


def operation_view(
    row: OperationRow,
    steps: Sequence[OperationStepRow] = (),
    counts: Mapping[str, int] | None = None,
    queue_position: int | None = None,
) -> OperationView:
    """The view of an operation's rows."""
    past_run = row.superseded_runs[-1] if row.superseded_runs else None
    return OperationView(
        id=row.id,
        kind=OperationKind(row.kind),
        adapter=row.adapter,
        version=row.version,
        pool=row.pool,
        state=OperationState(row.state),
        steps=tuple(step_view(step) for step in steps),
        step_counts={StepState(state): count for state, count in (counts or {}).items()},
        request=row.request,
        result=row.result,
        error=_failure(row.failure),
        repairs_pending=row.repairs_pending,
        workflow_id=row.workflow_id,
        run_id=row.run_id or past_run,
        epoch=row.epoch,
        requested_by=row.requested_by,
        queue_position=queue_position,
        retry_of=row.retry_of,
        created_at=row.created_at,
        started_at=row.started_at,
        ended_at=row.ended_at,
    )


def step_view(row: OperationStepRow) -> StepReport:
    """The view of a step's row."""
    return StepReport.model_validate(
        {
            "name": row.name,
            "engine": row.engine,
            "state": row.state,
            "attempt": row.attempt,
            "started_at": row.started_at,
            "ended_at": row.ended_at,
            "error": row.failure,
            "detail": row.detail,
        }
    )


def _failure(value: dict[str, Any] | None) -> Failure | None:
    return None if value is None else Failure.model_validate(value)
