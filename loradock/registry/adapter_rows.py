"""An adapter's row: made when it is first named, locked by what has to come one after the other.

Locks are taken in one order everywhere, so that none waits for another in a circle:
lock keys, operation, adapter, version, deployment, agent, engines (by id), cards, drifts, reconciliations, and last of
all the audit chain.
"""

from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert

from loradock.core.errors import LoradockError
from loradock.registry.database import Reader, Transaction
from loradock.registry.tables import AdapterRow


async def ensure(tx: Transaction, name: str, actor: str) -> None:
    """Make the adapter if it is not there."""
    statement = (
        insert(AdapterRow)
        .values(name=name, created_by=actor)
        .on_conflict_do_nothing()
        .returning(AdapterRow.name)
    )
    if await tx.session.scalar(statement) is not None:
        tx.audit("adapter.created", actor=actor, adapter=name)


async def require(tx: Reader, name: str) -> AdapterRow:
    """The adapter's row.

    Raises:
        LoradockError: `adapter_not_found`.
    """
    row: AdapterRow | None = await tx.session.get(AdapterRow, name)
    if row is None:
        raise not_found(name)
    return row


async def lock(tx: Transaction, name: str) -> AdapterRow:
    """The adapter's row, for this transaction alone.

    Raises:
        LoradockError: `adapter_not_found`.
    """
    query = select(AdapterRow).filter_by(name=name).with_for_update(key_share=True)
    row: AdapterRow | None = await tx.session.scalar(query.execution_options(populate_existing=True))
    if row is None:
        raise not_found(name)
    return row


async def lock_shared(tx: Transaction, name: str) -> None:
    """Keep those out who `lock` the adapter, if it is there at all, until the commit."""
    await tx.session.execute(select(AdapterRow.name).filter_by(name=name).with_for_update(read=True))


def not_found(name: str) -> LoradockError:
    """`adapter_not_found`."""
    return LoradockError("adapter_not_found", f"there is no adapter {name[:200]!r}")
