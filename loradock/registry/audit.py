"""The audit chain: append-only, hashed by the database, read here."""

from datetime import datetime
from typing import Final, cast

from sqlalchemy import Table, func, select

from loradock.core.models import Model
from loradock.registry.database import Reader
from loradock.registry.pagination import DEFAULT_LIMIT, check_limit, decode_cursor, encode_cursor
from loradock.registry.tables import AuditEventRow
from loradock.registry.views import AuditEvent, Page

SYSTEM_ACTOR: Final = "loradock"
"""Who acts when nobody asked for it."""

_GENESIS: Final = "0" * 64


class ChainCheck(Model):
    """What a walk over the chain found.

    Attributes:
        events: how many there are.
        broken_at: `seq` of the first event whose number, hash or link is wrong; None when all is well.
        head: hash of the last event: noted elsewhere, it also betrays a chain that was cut at its end.
    """

    events: int
    broken_at: int | None
    head: str | None


async def list_events(
    tx: Reader,
    *,
    adapter: str | None = None,
    operation: str | None = None,
    actor: str | None = None,
    since: datetime | None = None,
    limit: int = DEFAULT_LIMIT,
    cursor: str | None = None,
) -> Page[AuditEvent]:
    """Events, newest first.

    Raises:
        LoradockError: `invalid_request`.
    """
    query = select(AuditEventRow).order_by(AuditEventRow.seq.desc()).limit(check_limit(limit) + 1)
    wanted = {"adapter": adapter, "operation": operation, "actor": actor}
    query = query.filter_by(**{name: value for name, value in wanted.items() if value is not None})
    if since is not None:
        query = query.where(AuditEventRow.at >= since)
    if cursor is not None:
        (seq,) = decode_cursor(cursor, int)
        query = query.where(AuditEventRow.seq < seq)
    rows = (await tx.session.scalars(query)).all()
    items = tuple(_view(row) for row in rows[:limit])
    return Page(items=items, next=encode_cursor(items[-1].seq) if len(rows) > limit else None)


async def verify_chain(tx: Reader) -> ChainCheck:
    """Compute every hash anew and follow every link. Reads the whole table."""
    event = cast(Table, AuditEventRow.__table__)
    walked = select(
        event.c.seq,
        (
            (event.c.seq == func.row_number().over(order_by=event.c.seq))
            & (
                event.c.previous_hash
                == func.coalesce(func.lag(event.c.hash).over(order_by=event.c.seq), _GENESIS)
            )
            & (event.c.hash == func.audit_event_hash(event.table_valued()))
        ).label("sound"),
    ).subquery()
    broken = select(func.min(walked.c.seq)).where(~walked.c.sound).scalar_subquery()
    head = select(event.c.hash).order_by(event.c.seq.desc()).limit(1).scalar_subquery()
    events, broken_at, last = (
        await tx.session.execute(select(func.count(), broken, head).select_from(event))
    ).one()
    return ChainCheck(events=events, broken_at=broken_at, head=last)


def _view(row: AuditEventRow) -> AuditEvent:
    return AuditEvent(
        seq=row.seq,
        at=row.at,
        actor=row.actor,
        action=row.action,
        adapter=row.adapter,
        version=row.version,
        pool=row.pool,
        engine=row.engine,
        operation=row.operation,
        outcome=row.outcome,
        detail=row.detail,
        previous_hash=row.previous_hash,
        hash=row.hash,
    )
