"""Deployment cards: staged by a load, and retracted, removed, lost or read."""

from typing import Any

from sqlalchemy import ColumnElement, delete, func, select, tuple_, update
from sqlalchemy.dialects.postgresql import insert

from loradock.core.models import CardState, OperationKind, OperationState, RunRef, VersionRef
from loradock.core.requests import EngineTarget
from loradock.registry import reconcile_queue
from loradock.registry.database import Reader, Transaction
from loradock.registry.engines import check_alive, lock_engines
from loradock.registry.operations import about
from loradock.registry.pagination import DEFAULT_LIMIT, check_limit, decode_cursor, encode_cursor
from loradock.registry.runs import claim_active, ended
from loradock.registry.tables import CardRow, EngineRow
from loradock.registry.views import CardView, Page

SHOWN = (CardState.SERVING, CardState.DRAINING, CardState.LOST)
"""States of cards that a load has committed."""


async def stage(tx: Transaction, run: RunRef, ref: VersionRef, target: EngineTarget, pool: str) -> CardState:
    """Note that the engine holds the version, verified, and that nobody is sent to it yet.

    A card that serves the same weights in the same life of the engine is left alone.

    Returns:
        The state of the card that is there now: staged or serving.

    Raises:
        LoradockError: `engine_not_found`, `engine_restarted`, `engine_lost`, and those of `claim_active`.
    """
    operation = await claim_active(tx, run)
    if operation.kind == OperationKind.LOAD and operation.state == OperationState.COMPENSATING:
        raise ended(operation)
    check_alive(await lock_engines(tx, [target.engine]), target.engine, target.incarnation)
    values = {
        "incarnation": target.incarnation,
        "served_name": ref.served_name,
        "digest": ref.digest,
        "int_id": ref.int_id,
        "pool": pool,
        "state": CardState.STAGED,
        "operation": run.operation,
        "since": func.now(),
    }
    statement = insert(CardRow).values(
        engine=target.engine, adapter=ref.adapter, version=ref.version, **values
    )
    serves = (
        (CardRow.state == CardState.SERVING)
        & (CardRow.incarnation == statement.excluded.incarnation)
        & (CardRow.digest == statement.excluded.digest)
    )
    staged = statement.on_conflict_do_update(
        index_elements=[CardRow.engine, CardRow.adapter, CardRow.version], set_=values, where=~serves
    )
    found = await tx.session.scalar(staged.returning(CardRow.state))
    return CardState.SERVING if found is None else CardState.STAGED


async def retract_staged(tx: Transaction, run: RunRef, ref: VersionRef, engine: str) -> None:
    """Take back what `stage` of this operation noted, if it did; a card of another operation stays.

    Raises:
        LoradockError: those of `claim_active`.
    """
    await claim_active(tx, run)
    # A staged card of an engine that restarted meanwhile is lost: it never served and goes as well.
    own = (CardRow.operation == run.operation) & CardRow.state.in_([CardState.STAGED, CardState.LOST])
    await tx.session.execute(delete(CardRow).where(own, _of(ref, engine)))


async def mark_card_lost(
    tx: Transaction, run: RunRef, ref: VersionRef, target: EngineTarget, reason: str
) -> None:
    """Lose one card whose engine could not be brought back to serving it.

    Args:
        reason: a code for the audit.

    Raises:
        LoradockError: those of `claim_active`.
    """
    operation = await claim_active(tx, run)
    changed = (
        update(CardRow)
        .where(_of(ref, target.engine), CardRow.incarnation == target.incarnation)
        .where(CardRow.state.in_([CardState.SERVING, CardState.DRAINING]))
        .values(state=CardState.LOST, since=func.now())
        .returning(CardRow.version)
    )
    if await tx.session.scalar(changed) is not None:
        event = about(operation) | {"version": ref.version, "engine": target.engine}
        tx.audit("card.lost", **event, reason=reason)
        await reconcile_queue.want(tx, {target.engine: f"{ref.served_name} was lost there: {reason}"})


async def lose(tx: Transaction, engine: str, which: ColumnElement[bool]) -> list[str]:
    """Turn cards of a locked engine to lost.

    Returns:
        Their served names, sorted.
    """
    changed = update(CardRow).where(CardRow.engine == engine, which)
    names = await tx.session.scalars(
        changed.values(state=CardState.LOST, since=func.now()).returning(CardRow.served_name),
        execution_options={"synchronize_session": False},
    )
    return sorted(names)


def _of(ref: VersionRef, engine: str) -> ColumnElement[bool]:
    return (CardRow.engine == engine) & (CardRow.adapter == ref.adapter) & (CardRow.version == ref.version)


async def list_cards(
    tx: Reader,
    *,
    adapter: str | None = None,
    engine: str | None = None,
    pool: str | None = None,
    state: CardState | None = None,
    staged: bool = False,
    limit: int = DEFAULT_LIMIT,
    cursor: str | None = None,
) -> Page[CardView]:
    """Cards by adapter, version and engine.

    Args:
        staged: show also those that no load has committed yet.

    Raises:
        LoradockError: `invalid_request`.
    """
    key = (CardRow.adapter, CardRow.version, CardRow.engine)
    query = select(CardRow).order_by(*key).limit(check_limit(limit) + 1)
    wanted: dict[str, Any] = {"adapter": adapter, "engine": engine, "pool": pool, "state": state}
    query = query.filter_by(**{name: value for name, value in wanted.items() if value is not None})
    if state is None and not staged:
        query = query.where(CardRow.state.in_(SHOWN))
    if cursor is not None:
        query = query.where(tuple_(*key) > tuple_(*decode_cursor(cursor, str, int, str)))
    rows = (await tx.session.scalars(query)).all()
    items = tuple(_view(row) for row in rows[:limit])
    if len(rows) <= limit:
        return Page(items=items)
    last = items[-1]
    return Page(items=items, next=encode_cursor(last.adapter, last.version, last.engine))


async def served_adapters(tx: Reader, *, agent: str | None = None) -> list[str]:
    """The adapters that some engine serves now (an agent's own, where one is given), by name."""
    query = (
        select(CardRow.adapter).where(CardRow.state == CardState.SERVING).distinct().order_by(CardRow.adapter)
    )
    if agent is not None:
        query = query.join(EngineRow, EngineRow.id == CardRow.engine).where(EngineRow.agent == agent)
    return list(await tx.session.scalars(query))


def _view(row: CardRow) -> CardView:
    return CardView(
        engine=row.engine,
        incarnation=row.incarnation,
        adapter=row.adapter,
        version=row.version,
        served_name=row.served_name,
        digest=row.digest,
        state=CardState(row.state),
        since=row.since,
        pool=row.pool,
        operation=row.operation,
        repair=row.repair if row.operation is None else None,
    )
