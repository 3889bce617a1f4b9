"""Drift and reconciliation as people see them; engines are shown with both."""

from collections.abc import Collection

from sqlalchemy import select

from loradock.core.models import Failure
from loradock.core.reconcile import DriftKind
from loradock.registry.database import Reader
from loradock.registry.tables import DriftRow, ReconciliationRow
from loradock.registry.views import DriftView, ReconcileView


async def views(tx: Reader, engines: Collection[str]) -> dict[str, tuple[DriftView, ...]]:
    """The drift of engines, for people."""
    query = (
        select(DriftRow).where(DriftRow.engine.in_(engines)).order_by(DriftRow.engine, DriftRow.served_name)
    )
    found: dict[str, list[DriftView]] = {}
    for row in await tx.session.scalars(query):
        found.setdefault(row.engine, []).append(
            DriftView(
                served_name=row.served_name,
                kind=DriftKind(row.kind),
                digest=row.digest,
                since=row.since,
                attempts=row.attempts,
                next_try_at=row.next_try_at,
                repair=row.under_way,
                error=None if row.failure is None else Failure.model_validate(row.failure),
            )
        )
    return {engine: tuple(rows) for engine, rows in found.items()}


async def records(tx: Reader, engines: Collection[str]) -> dict[str, ReconcileView]:
    """How reconciliation of engines stands, for people."""
    query = select(ReconciliationRow).where(ReconciliationRow.engine.in_(engines))
    return {row.engine: _record(row) for row in await tx.session.scalars(query)}


def _record(row: ReconciliationRow) -> ReconcileView:
    return ReconcileView(
        wanted_since=row.wanted_since,
        reason=row.reason,
        next_look_at=row.due_at,
        last_look_at=row.looked_at,
        last_error=None if row.failure is None else Failure.model_validate(row.failure),
        repaired=row.repaired,
        failed=row.failed,
        converged=row.converged,
        converge_seconds=row.converge_seconds,
        last_converge_seconds=row.last_converge_seconds,
    )
