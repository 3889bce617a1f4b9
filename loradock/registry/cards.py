"""Deployment cards: staged by a load, and retracted, removed, lost or read."""

from collections.abc import Collection, Sequence
from typing import Any

from sqlalchemy import ColumnElement, delete, func, select, tuple_, update
from sqlalchemy.dialects.postgresql import insert

from loradock.core.batches import BatchItem
from loradock.core.errors import LoradockError
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
    await _claim_staging(tx, run)
    check_alive(await lock_engines(tx, [target.engine]), target.engine, target.incarnation)
    staged = await _stage(tx, run, [BatchItem(target=target, ref=ref)], pool)
    return CardState.STAGED if staged else CardState.SERVING


async def stage_many(
    tx: Transaction, run: RunRef, items: Sequence[BatchItem], pool: str
) -> dict[str, LoradockError]:
    """`stage` for many engines at once: those that are not what they were meanwhile do not hold the others.

    Returns:
        Why the card of an engine could not be staged, by engine: `engine_not_found`, `engine_restarted`, `engine_lost`.

    Raises:
        LoradockError: those of `claim_active`.
    """
    await _claim_staging(tx, run)
    found = await lock_engines(tx, [item.target.engine for item in items])
    failed: dict[str, LoradockError] = {}
    for item in items:
        try:
            check_alive(found, item.target.engine, item.target.incarnation)
        except LoradockError as error:
            failed[item.target.engine] = error
    await _stage(tx, run, [item for item in items if item.target.engine not in failed], pool)
    return failed


async def _claim_staging(tx: Transaction, run: RunRef) -> None:
    operation = await claim_active(tx, run)
    if operation.kind == OperationKind.LOAD and operation.state == OperationState.COMPENSATING:
        raise ended(operation)


async def _stage(tx: Transaction, run: RunRef, items: Sequence[BatchItem], pool: str) -> list[str]:
    """Write the cards; gives the engines whose card was not serving the same already."""
    if not items:
        return []
    statement = insert(CardRow).values([_values(run, item, pool) for item in items])
    new = statement.excluded
    serves = (
        (CardRow.state == CardState.SERVING)
        & (CardRow.incarnation == new.incarnation)
        & (CardRow.digest == new.digest)
    )
    key = ("engine", "adapter", "version")
    staged = statement.on_conflict_do_update(
        index_elements=key,
        set_={column.name: column for column in new if column.name not in key},
        where=~serves,
    )
    return list(await tx.session.scalars(staged.returning(CardRow.engine)))


def _values(run: RunRef, item: BatchItem, pool: str) -> dict[str, Any]:
    return {
        "engine": item.target.engine,
        "adapter": item.ref.adapter,
        "version": item.ref.version,
        "incarnation": item.target.incarnation,
        "served_name": item.ref.served_name,
        "digest": item.ref.digest,
        "int_id": item.ref.int_id,
        "pool": pool,
        "state": CardState.STAGED,
        "operation": run.operation,
        "since": func.now(),
    }


async def retract_staged(tx: Transaction, run: RunRef, ref: VersionRef, engine: str) -> None:
    """Take back what `stage` of this operation noted, if it did; a card of another operation stays.

    Raises:
        LoradockError: those of `claim_active`.
    """
    await retract_many(tx, run, ref, [engine])


async def retract_many(tx: Transaction, run: RunRef, ref: VersionRef, engines: Collection[str]) -> None:
    """`retract_staged` for many engines at once.

    Raises:
        LoradockError: those of `claim_active`.
    """
    await claim_active(tx, run)
    # A staged card of an engine that restarted meanwhile is lost: it never served and goes as well.
    own = (CardRow.operation == run.operation) & CardRow.state.in_([CardState.STAGED, CardState.LOST])
    of_version = (CardRow.adapter == ref.adapter) & (CardRow.version == ref.version)
    await tx.session.execute(
        delete(CardRow).where(own, of_version, CardRow.engine.in_(engines)),
        execution_options={"synchronize_session": False},
    )


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
