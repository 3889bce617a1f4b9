"""Idempotency-Keys: one key of an actor stands for one request, as it was sent, and so for one operation, for ever."""

from sqlalchemy import select, update
from sqlalchemy.dialects.postgresql import insert

from loradock.core.errors import LoradockError
from loradock.core.models import Model
from loradock.registry.database import Reader, Transaction
from loradock.registry.tables import IdempotencyKeyRow, OperationRow


class KeyUse(Model):
    """A key, and the request that it comes with.

    Attributes:
        sent_hash: over the request as it was sent. What is settled for it (what an alias names, which pool is meant, an
            upload's digest) may be another thing when it is sent again, or nothing.
    """

    actor: str
    key: str
    sent_hash: str


async def find(tx: Reader, use: KeyUse) -> str | None:
    """The operation that the key stands for; None when it is new, or came with something else.

    The latter is `reserve`'s to judge: the same may have been said in other words.
    """
    row: IdempotencyKeyRow | None = await tx.session.get(IdempotencyKeyRow, (use.actor, use.key))
    return row.operation if row is not None and row.request_hash == use.sent_hash else None


async def reserve(
    tx: Transaction, use: KeyUse, operation: str, *, settled_hash: str, retry_of: str | None
) -> str | None:
    """Take the key for a new operation; when it was used before, the operation that it stands for.

    Args:
        settled_hash: the new operation's `request_hash`.
        retry_of: the operation that it does again.

    Raises:
        LoradockError: `idempotency_key_reused`.
    """
    values = {"actor": use.actor, "key": use.key, "request_hash": use.sent_hash, "operation": operation}
    made = insert(IdempotencyKeyRow).values(values).on_conflict_do_nothing()
    if await tx.session.scalar(made.returning(IdempotencyKeyRow.operation)) is not None:
        return None
    query = (
        select(IdempotencyKeyRow, OperationRow)
        .join(OperationRow, OperationRow.id == IdempotencyKeyRow.operation)
        .where(IdempotencyKeyRow.actor == use.actor, IdempotencyKeyRow.key == use.key)
    )
    used, kept = (await tx.session.execute(query)).one()
    asks_for_the_same = (kept.request_hash, kept.retry_of) == (settled_hash, retry_of)
    if used.request_hash != use.sent_hash and not asks_for_the_same:
        raise LoradockError(
            "idempotency_key_reused", f"the key was used for operation {kept.id}", operation=kept.id
        )
    operation_id: str = kept.id
    return operation_id


async def point(tx: Transaction, from_operation: str, to_operation: str) -> None:
    """Have the key of a request that joined an operation stand for that one, also after its end."""
    key = update(IdempotencyKeyRow).where(IdempotencyKeyRow.operation == from_operation)
    await tx.session.execute(key.values(operation=to_operation))
