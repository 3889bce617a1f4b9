"""Plans of wide operations: kept whole by the activity that makes them, taken in batches by the children that follow."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from sqlalchemy import ColumnElement, delete, insert, select, update

from loradock.core.batches import BATCH_SIZE, BatchItem
from loradock.core.models import RunRef, VersionRef
from loradock.core.requests import EngineTarget, UnloadItem
from loradock.registry.database import Reader, Transaction
from loradock.registry.runs import claim_active
from loradock.registry.tables import OperationTargetRow as Row

_NO_SYNC = {"synchronize_session": False}


async def keep(tx: Transaction, run: RunRef, items: Sequence[UnloadItem]) -> int:
    """Keep a run's plan; the one that it has kept before stays, so a late second try changes nothing.

    Returns:
        How many items the run's plan has.
    """
    known = await tx.session.scalars(select(Row.run_id).filter_by(operation=run.operation))
    runs = known.all()
    if runs and set(runs) == {run.run_id}:
        return len(runs)
    await tx.session.execute(delete(Row).filter_by(operation=run.operation), execution_options=_NO_SYNC)
    await tx.session.flush()
    await tx.session.execute(insert(Row), [_values(run, at, item) for at, item in enumerate(items)])
    return len(items)


def _values(run: RunRef, position: int, item: UnloadItem) -> dict[str, Any]:
    return {
        "operation": run.operation,
        "position": position,
        "run_id": run.run_id,
        **item.target.model_dump(),
        **item.ref.model_dump(),
        "lost": item.lost,
    }


async def take_batch(tx: Transaction, run: RunRef, number: int) -> tuple[BatchItem, ...]:
    """A batch's items that an engine must be asked about; nothing is known of them any more, whatever an earlier run noted.

    Raises:
        LoradockError: those of `claim_active`.
    """
    await claim_active(tx, run)
    await tx.session.execute(
        update(Row).where(_in_batch(run, number)).values(ready=False, code=None), execution_options=_NO_SYNC
    )
    return await batch(tx, run, number)


async def batch(tx: Reader, run: RunRef, number: int) -> tuple[BatchItem, ...]:
    """The same items, only read."""
    rows = await _rows(tx, run, _in_batch(run, number) & ~Row.lost)
    return tuple(BatchItem(target=_target(row), ref=_ref(row)) for row in rows)


async def whole(tx: Reader, run: RunRef) -> tuple[UnloadItem, ...]:
    """All items of an operation's plan, in order."""
    rows = await _rows(tx, run)
    return tuple(UnloadItem(target=_target(row), ref=_ref(row), lost=row.lost) for row in rows)


async def note(
    tx: Transaction, run: RunRef, number: int, ready: Collection[str], failed: Mapping[str, str]
) -> None:
    """Note what became of a load's batch.

    Args:
        ready: engines whose cards are staged.
        failed: the others, with the code of each.
    """
    batch = _in_batch(run, number)
    await tx.session.execute(
        update(Row).where(batch, Row.engine.in_(ready)).values(ready=True, code=None),
        execution_options=_NO_SYNC,
    )
    for code in sorted(set(failed.values())):
        engines = [engine for engine, why in failed.items() if why == code]
        await tx.session.execute(
            update(Row).where(batch, Row.engine.in_(engines)).values(ready=False, code=code),
            execution_options=_NO_SYNC,
        )


async def outcome(tx: Reader, run: RunRef) -> tuple[tuple[EngineTarget, ...], dict[str, str]]:
    """Where a load's version is ready, and the code of each engine where it is not."""
    rows = await _rows(tx, run)
    ready = tuple(_target(row) for row in rows if row.ready)
    return ready, {row.engine: row.code or "internal_error" for row in rows if not row.ready}


async def _rows(tx: Reader, run: RunRef, which: ColumnElement[bool] | None = None) -> Sequence[Row]:
    query = select(Row).filter_by(operation=run.operation).order_by(Row.position)
    if which is not None:
        query = query.where(which)
    return (await tx.session.scalars(query.execution_options(populate_existing=True))).all()


def _in_batch(run: RunRef, number: int) -> ColumnElement[bool]:
    first = number * BATCH_SIZE
    return (Row.operation == run.operation) & Row.position.between(first, first + BATCH_SIZE - 1)


def _target(row: Row) -> EngineTarget:
    return EngineTarget(engine=row.engine, agent=row.agent, incarnation=row.incarnation)


def _ref(row: Row) -> VersionRef:
    return VersionRef(adapter=row.adapter, version=row.version, digest=row.digest, int_id=row.int_id)
