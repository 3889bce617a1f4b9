"""Operations from outside: asking for one, reading them, and finding those that need somebody's care."""

import hashlib
import json
from collections.abc import Iterable
from datetime import timedelta
from typing import Any, Final

from sqlalchemy import func, select, text
from sqlalchemy.dialects.postgresql import insert

from loradock.core.errors import LoradockError
from loradock.core.ids import new_operation_id, workflow_id
from loradock.core.models import Model, OperationKind, OperationState
from loradock.core.requests import LoadRequest, PublishRequest, UnloadRequest
from loradock.registry import adapter_rows, idempotency, operation_views
from loradock.registry.database import Reader, Transaction
from loradock.registry.idempotency import KeyUse
from loradock.registry.operation_views import operation_view
from loradock.registry.pagination import DEFAULT_LIMIT, check_limit, decode_cursor, encode_cursor
from loradock.registry.tables import ACTIVE, OperationRow
from loradock.registry.views import OperationView, Page

IS_ACTIVE: Final = text(ACTIVE)
"""In the very words of the partial indexes, so that they are used."""

_TRIES: Final = 5

_KIND_OF: Final = {
    PublishRequest: OperationKind.PUBLISH,
    LoadRequest: OperationKind.LOAD,
    UnloadRequest: OperationKind.UNLOAD,
}

_HOLD: Final = text("SELECT pg_advisory_xact_lock(hashtextextended(:key, 7236270))")
_HOLD_SHARED: Final = text(
    "SELECT pg_advisory_xact_lock_shared(hashtextextended(key, 7236270)) FROM unnest(CAST(:keys AS text[])) AS key"
)


class NewOperation(Model):
    """A change that somebody asks for.

    Attributes:
        lock_key: what it needs for itself: `publish_lock` or `placement_lock`.
        request: what was asked, as JSON; never a secret.
        request_hash: `request_hash` of it: tells the same request from another one.
        key_use: the Idempotency-Key that it came with.
        actor: who asks.
        retry_of: the operation that it does again where that failed.
    """

    id: str
    kind: OperationKind
    adapter: str
    version: int | None = None
    pool: str | None = None
    lock_key: str
    request: dict[str, Any]
    request_hash: str
    key_use: KeyUse | None = None
    actor: str
    retry_of: str | None = None

    @classmethod
    def of(
        cls, request: PublishRequest | LoadRequest | UnloadRequest, actor: str, key_use: KeyUse | None = None
    ) -> "NewOperation":
        """The operation that a request asks for."""
        content = request.model_dump(mode="json")
        kind = _KIND_OF[type(request)]
        pool = content.get("pool")
        return cls(
            id=new_operation_id(),
            kind=kind,
            adapter=request.adapter,
            version=content.get("version"),
            pool=pool,
            lock_key=placement_lock(request.adapter, pool) if pool else publish_lock(request.adapter),
            request=content,
            request_hash=request_hash(kind, content),
            key_use=key_use,
            actor=actor,
        )


class Submitted(Model):
    """The operation that answers a request.

    Attributes:
        created: False when it was there already.
    """

    operation: OperationView
    created: bool


def publish_lock(adapter: str) -> str:
    """The lock of a publish: versions are numbered one after the other."""
    return f"adapter:{adapter}"


def placement_lock(adapter: str, pool: str) -> str:
    """The lock of what changes where an adapter is served in a pool."""
    return f"adapter:{adapter}:pool:{pool}"


def request_hash(kind: str, request: dict[str, Any]) -> str:
    """The same for two requests that ask for the same."""
    content = json.dumps([str(kind), request], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(content.encode()).hexdigest()


async def submit(tx: Transaction, new: NewOperation) -> Submitted:
    """Take in a request, once, however many say it at the same time.

    The same request again is the active operation that it asks for; a publish only until that begins to read its source,
    or where the digest is given (as of every upload).

    Raises:
        LoradockError: `idempotency_key_reused`, `adapter_busy` (details: `operation`).
    """
    known = await _reserve_key(tx, new)
    if known is not None:
        return Submitted(operation=await get_operation(tx, known), created=False)
    for _ in range(_TRIES):
        row = await _insert(tx, new)
        if row is not None:
            return Submitted(operation=operation_view(row), created=True)
        row = await _holder_kept_as_it_is(tx, new)
        if row is not None:
            if not _answers(row, new):
                raise busy(row)
            await idempotency.point(tx, new.id, row.id)
            return Submitted(operation=await operation_views.with_steps(tx, row), created=False)
        # What was in the way has just ended: the way may be free now.
    raise LoradockError("database_unavailable", f"operations on {new.adapter} come and go too fast")


async def hold_lock_keys(tx: Transaction, keys: Iterable[str]) -> None:
    """Keep operations with these locks from being asked for until the commit; others may hold the same keys so.

    Whoever then sees no active operation and draws an epoch knows that every operation that comes later has a higher one.
    """
    sorted_keys = sorted(set(keys))
    if sorted_keys:
        await tx.session.execute(_HOLD_SHARED, {"keys": sorted_keys})


async def take_lock_key(tx: Transaction, key: str) -> None:
    """Keep everybody else from the key until the commit: for who asks for an operation, before its epoch is drawn.

    It comes first in the order of locks: a transaction that ends one operation and asks for another takes it early.
    """
    await tx.session.execute(_HOLD, {"key": key})


async def operation_of_key(tx: Reader, use: KeyUse) -> OperationView | None:
    """The operation that an Idempotency-Key stands for, None for a new key and for one that came with something else."""
    known = await idempotency.find(tx, use)
    return None if known is None else await get_operation(tx, known)


async def _reserve_key(tx: Transaction, new: NewOperation) -> str | None:
    if new.key_use is None:
        return None
    return await idempotency.reserve(
        tx, new.key_use, new.id, settled_hash=new.request_hash, retry_of=new.retry_of
    )


async def _insert(tx: Transaction, new: NewOperation) -> OperationRow | None:
    await take_lock_key(tx, new.lock_key)
    values = {
        **new.model_dump(exclude={"actor", "key_use"}),
        "state": OperationState.PENDING,
        "requested_by": new.actor,
        "workflow_id": workflow_id(new.id),
    }
    statement = insert(OperationRow).values(values).on_conflict_do_nothing().returning(OperationRow)
    row: OperationRow | None = await tx.session.scalar(statement)
    if row is None:
        return None
    if new.kind is OperationKind.PUBLISH:
        await adapter_rows.ensure(tx, new.adapter, new.actor)
    # Whoever moves an alias locks the adapter too and then looks for active operations: one of both comes second.
    await adapter_rows.lock_shared(tx, new.adapter)
    more: dict[str, Any] = {} if row.retry_of is None else {"retry_of": row.retry_of}
    tx.audit("operation.requested", **about(row), kind=row.kind, request=row.request, **more)
    return row


def _answers(row: OperationRow, new: NewOperation) -> bool:
    """Whether an active operation does what the new one asks for.

    A publish that has begun may have read its source before the caller wrote what is there now: unless the digest is
    given, only one that is still to begin reads what the caller means.
    """
    if row.request_hash != new.request_hash:
        return False
    bytes_are_named = new.kind is not OperationKind.PUBLISH or new.request.get("expect_digest") is not None
    return bytes_are_named or row.state == OperationState.PENDING


async def _holder_kept_as_it_is(tx: Transaction, new: NewOperation) -> OperationRow | None:
    """The active operation that holds the new one's lock; a publish does not begin (`runs.begin`) before the commit."""
    holder = await lock_holder(tx, new.lock_key)
    if holder is None or new.kind is not OperationKind.PUBLISH:
        return holder
    query = select(OperationRow).where(OperationRow.id == holder.id, IS_ACTIVE).with_for_update(read=True)
    row: OperationRow | None = await tx.session.scalar(query.execution_options(populate_existing=True))
    return row


async def lock_holder(tx: Reader, lock_key: str) -> OperationRow | None:
    """The active operation that holds a lock."""
    query = select(OperationRow).where(OperationRow.lock_key == lock_key, IS_ACTIVE)
    row: OperationRow | None = await tx.session.scalar(query)
    return row


def busy(holder: OperationRow) -> LoradockError:
    """`adapter_busy`, naming who holds it."""
    return LoradockError(
        "adapter_busy", f"operation {holder.id} ({holder.kind}) is still {holder.state}", operation=holder.id
    )


async def get_operation(tx: Reader, operation: str) -> OperationView:
    """An operation with its steps; of more than 1,000, with those that matter most.

    Raises:
        LoradockError: `operation_not_found`.
    """
    row = await tx.session.get(OperationRow, operation)
    if row is None:
        raise not_found(operation)
    return await operation_views.with_steps(tx, row)


async def is_active(tx: Reader, operation: str) -> bool:
    """Whether an operation has not ended yet: for those who wait, and need not see thousands of steps each time.

    Raises:
        LoradockError: `operation_not_found`.
    """
    state = await tx.session.scalar(select(OperationRow.state).filter_by(id=operation))
    if state is None:
        raise not_found(operation)
    return OperationState(state).active


async def check_exists(tx: Reader, operation: str) -> None:
    """See that there is such an operation.

    Raises:
        LoradockError: `operation_not_found`.
    """
    if await tx.session.scalar(select(OperationRow.id).filter_by(id=operation)) is None:
        raise not_found(operation)


def not_found(operation: str) -> LoradockError:
    """`operation_not_found`."""
    return LoradockError("operation_not_found", f"there is no operation {operation[:100]!r}")


async def list_operations(
    tx: Reader,
    *,
    adapter: str | None = None,
    state: OperationState | None = None,
    kind: OperationKind | None = None,
    limit: int = DEFAULT_LIMIT,
    cursor: str | None = None,
) -> Page[OperationView]:
    """Operations, newest first, each with the counts of its steps and the first of those that failed.

    Raises:
        LoradockError: `invalid_request`.
    """
    query = select(OperationRow).order_by(OperationRow.id.desc()).limit(check_limit(limit) + 1)
    wanted = {"adapter": adapter, "state": state, "kind": kind}
    query = query.filter_by(**{name: value for name, value in wanted.items() if value is not None})
    if cursor is not None:
        (last,) = decode_cursor(cursor, str)
        query = query.where(OperationRow.id < last)
    views = await operation_views.in_a_list(tx, query)
    items = tuple(views[:limit])
    return Page(items=items, next=encode_cursor(items[-1].id) if len(views) > limit else None)


async def pending(tx: Reader, older_than_seconds: float, limit: int) -> list[OperationView]:
    """Operations that were committed and, it seems, never started: the relay's work, oldest first, without steps.

    Those that came out of the queue are nobody else's to start, however young they are.
    """
    query = (
        select(OperationRow)
        .where(
            IS_ACTIVE,
            OperationRow.state == OperationState.PENDING,
            OperationRow.admitted_at.is_not(None),
            (OperationRow.created_at <= func.now() - timedelta(seconds=older_than_seconds))
            | (OperationRow.admitted_at > OperationRow.created_at),
        )
        .order_by(OperationRow.id)
        .limit(limit)
    )
    return [operation_view(row) for row in await tx.session.scalars(query)]


async def active_started(tx: Reader, limit: int, after: str | None = None) -> list[OperationView]:
    """Active operations that a run has taken up: the sweeper looks whether their workflows live; oldest first, no steps.

    Args:
        after: the last operation id of the batch before.
    """
    taken_up = (OperationRow.state != OperationState.PENDING) | OperationRow.run_id.is_not(None)
    query = select(OperationRow).where(IS_ACTIVE, taken_up).order_by(OperationRow.id).limit(limit)
    if after is not None:
        query = query.where(OperationRow.id > after)
    return [operation_view(row) for row in await tx.session.scalars(query)]


def about(row: OperationRow) -> dict[str, Any]:
    """What an audit event says of the operation that it belongs to."""
    return {
        "actor": row.requested_by,
        "adapter": row.adapter,
        "version": row.version,
        "pool": row.pool,
        "operation": row.id,
    }
