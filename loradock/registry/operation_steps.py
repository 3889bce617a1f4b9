"""The steps of operations, as the workflow and the hosts' agents report them."""

from collections.abc import Iterable
from typing import Any

from sqlalchemy import ColumnElement, and_, func, literal, or_, select, tuple_
from sqlalchemy.dialects.postgresql import Insert, insert

from loradock.core.errors import LoradockError
from loradock.core.models import OperationState, StepReport, StepState, utc_now
from loradock.registry.database import Reader, Transaction
from loradock.registry.operation_views import step_view
from loradock.registry.operations import check_exists, not_found
from loradock.registry.pagination import DEFAULT_LIMIT, check_limit, decode_cursor, encode_cursor
from loradock.registry.tables import EngineRow, OperationRow, OperationStepRow
from loradock.registry.views import Page

_UNFINISHED = (StepState.PENDING, StepState.RUNNING)
_PUT_BACK = (StepState.UNDONE, StepState.SKIPPED)


async def record_steps(tx: Transaction, operation: str, reports: Iterable[StepReport]) -> None:
    """Take over the workflow's word on steps, in a transaction that has claimed the operation.

    Reports may come twice and late: an ended step never runs again, an earlier attempt says nothing of a later one, and
    nothing is said of the steps of an operation that has ended.
    """
    row = await tx.session.get(OperationRow, operation)
    if row is not None and OperationState(row.state).active:
        await _upsert(tx, operation, reports, agents=False)


async def record_progress(tx: Transaction, agent: str, operation: str, report: StepReport) -> None:
    """Take over an agent's word on what it does for one of its engines. How a step ended, the workflow's word decides.

    Raises:
        LoradockError: `operation_not_found`, `operation_ended`, `engine_not_found`, `forbidden` for an engine that is
            another agent's or has nothing to do with the operation.
    """
    query = select(OperationRow.state, OperationRow.pool).filter_by(id=operation).with_for_update(read=True)
    found = (await tx.session.execute(query)).one_or_none()
    if found is None:
        raise not_found(operation)
    if not OperationState(found.state).active:
        raise LoradockError("operation_ended", f"operation {operation} is {found.state}", operation=operation)
    engine = await tx.session.get(EngineRow, report.engine)
    if engine is None:
        raise LoradockError("engine_not_found", f"there is no engine {report.engine[:100]!r}")
    if engine.agent != agent or engine.pool != found.pool:
        raise LoradockError("forbidden", f"engine {engine.id} is not {agent[:100]}'s in this operation")
    await _upsert(tx, operation, [report], agents=True)


async def record_own_progress(tx: Transaction, operation: str, report: StepReport) -> None:
    """Take over an orchestrator's word on what it does; nothing when the operation has ended."""
    query = select(OperationRow.state).filter_by(id=operation).with_for_update(read=True)
    state = await tx.session.scalar(query)
    if state is not None and OperationState(state).active:
        await _upsert(tx, operation, [report], agents=True)


async def list_steps(
    tx: Reader,
    operation: str,
    *,
    state: StepState | None = None,
    engine: str | None = None,
    limit: int = DEFAULT_LIMIT,
    cursor: str | None = None,
) -> Page[StepReport]:
    """An operation's steps in their order.

    Raises:
        LoradockError: `operation_not_found`, `invalid_request`.
    """
    await check_exists(tx, operation)
    step = OperationStepRow
    query = select(step).where(step.operation == operation)
    wanted = {"state": state, "engine": engine}
    query = query.filter_by(**{name: value for name, value in wanted.items() if value is not None})
    if cursor is not None:
        last = tuple_(*map(literal, decode_cursor(cursor, int, str, str)))
        query = query.where(tuple_(step.position, step.name, step.engine) > last)
    ordered = query.order_by(step.position, step.name, step.engine).limit(check_limit(limit) + 1)
    rows = (await tx.session.scalars(ordered.execution_options(populate_existing=True))).all()
    items = tuple(step_view(row) for row in rows[:limit])
    if len(rows) <= limit:
        return Page(items=items)
    end = rows[limit - 1]
    return Page(items=items, next=encode_cursor(end.position, end.name, end.engine))


async def _upsert(tx: Transaction, operation: str, reports: Iterable[StepReport], *, agents: bool) -> None:
    values = [_values(operation, report) for report in reports]
    if not values:
        return
    await tx.session.flush()
    # Asked once: a wide operation has thousands of steps, nearly all of them there already.
    next_position = func.coalesce(func.max(OperationStepRow.position) + 1, 0)
    first = await tx.session.scalar(select(next_position).filter_by(operation=operation)) or 0
    for position, row in enumerate(values, start=first):
        row["position"] = position
    connection = await tx.session.connection()
    await connection.execute(_statement(agents=agents), values)


def _values(operation: str, report: StepReport) -> dict[str, Any]:
    begun = report.state is not StepState.PENDING
    over = report.state not in _UNFINISHED
    return {
        "operation": operation,
        "name": report.name,
        "engine": report.engine,
        "state": report.state,
        "attempt": report.attempt,
        "started_at": report.started_at or (utc_now() if begun else None),
        "ended_at": (report.ended_at or utc_now()) if over else None,
        "failure": report.error.model_dump(mode="json") if report.error else None,
        "detail": report.detail,
    }


def _statement(*, agents: bool) -> Insert:
    step = OperationStepRow.__table__.c
    statement = insert(OperationStepRow.__table__)  # type: ignore[arg-type]
    new = statement.excluded
    open_now = _one_of(step.state, _UNFINISHED)
    not_stale = (new.attempt >= step.attempt) | (new.attempt == 0)
    onward = and_(open_now, not_stale, or_(new.state != StepState.PENDING, step.state == StepState.PENDING))
    ended = ~_one_of(new.state, _UNFINISHED) & (not_stale | _one_of(new.state, _PUT_BACK))
    return statement.on_conflict_do_update(
        index_elements=[step.operation, step.name, step.engine],
        set_={
            "state": new.state,
            "attempt": func.greatest(step.attempt, new.attempt),
            "started_at": func.coalesce(step.started_at, new.started_at),
            "ended_at": new.ended_at,
            "failure": new.failure,
            "detail": step.detail.concat(new.detail),
        },
        where=onward if agents else or_(onward, ended),
    )


def _one_of(column: ColumnElement[str], states: Iterable[StepState]) -> ColumnElement[bool]:
    # Not IN: a statement for many rows cannot have one.
    return or_(*(column == state for state in states))
