"""Drift rows: what the last look at an engine found, and how often its repair was tried."""

from collections.abc import Collection, Iterable
from typing import Any

from sqlalchemy import delete, select
from sqlalchemy.dialects.postgresql import insert

from loradock.core.reconcile import DriftKind, ForeignPolicy, ReconcileRules
from loradock.registry.arrays import is_any_of
from loradock.registry.comparing import Difference
from loradock.registry.database import Reader, Transaction
from loradock.registry.tables import DriftRow


async def of_engine(tx: Reader, engine: str) -> dict[str, DriftRow]:
    """The engine's rows by served name."""
    query = select(DriftRow).filter_by(engine=engine).execution_options(populate_existing=True)
    return {row.served_name: row for row in await tx.session.scalars(query)}


async def note(
    tx: Transaction, engine: str, incarnation: str, found: Iterable[Difference], kept: Collection[str]
) -> dict[str, DriftRow]:
    """Have a row for every difference and none for what differs no more.

    A row of an earlier life, or of another kind, begins anew: what failed then says nothing now.

    Args:
        kept: names that were not looked at: their rows stay as they are.

    Returns:
        The rows of the differences by served name.
    """
    rows = await of_engine(tx, engine)
    differences = {one.served_name: one for one in found}
    gone = [name for name in rows if name not in differences and name not in kept]
    anew = [
        name
        for name, one in differences.items()
        if name in rows and (rows[name].incarnation, rows[name].kind) != (incarnation, one.kind)
    ]
    stale = [*gone, *anew]
    if stale:
        await tx.session.execute(
            delete(DriftRow).where(DriftRow.engine == engine, is_any_of(DriftRow.served_name, stale)),
            execution_options={"synchronize_session": False},
        )
    new = [
        _values(engine, incarnation, one)
        for name, one in differences.items()
        if name not in rows or name in anew
    ]
    if new:
        await tx.session.execute(insert(DriftRow).on_conflict_do_nothing(), new)
    return {name: row for name, row in (await of_engine(tx, engine)).items() if name in differences}


def _values(engine: str, incarnation: str, one: Difference) -> dict[str, Any]:
    return {
        "engine": engine,
        "served_name": one.served_name,
        "adapter": one.adapter,
        "kind": one.kind,
        "incarnation": incarnation,
        "digest": one.held.digest if one.held else None,
    }


def is_open(row: DriftRow, rules: ReconcileRules) -> bool:
    """Whether the reconciler means to do something about it; the rest is only reported."""
    if row.kind == DriftKind.FOREIGN:
        return rules.foreign is ForeignPolicy.UNLOAD
    return row.kind != DriftKind.UNKNOWN_ID
