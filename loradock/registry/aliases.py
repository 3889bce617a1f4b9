"""Aliases: movable pointers to versions, changed by compare-and-set on their revision."""

from typing import Any

from sqlalchemy import select

from loradock.core.errors import LoradockError
from loradock.core.names import check_alias
from loradock.registry import adapter_rows
from loradock.registry.database import Reader, Transaction
from loradock.registry.operations import IS_ACTIVE, busy
from loradock.registry.tables import AdapterRow, AliasRow, OperationRow
from loradock.registry.versions import require_ready
from loradock.registry.views import AliasView


async def set_alias(
    tx: Transaction, *, adapter: str, alias: str, version: int, actor: str, if_match: int | None = None
) -> AliasView:
    """Point an alias at a version, and make it if it is new. Pointing it where it points changes nothing.

    Args:
        if_match: the revision that the caller saw, 0 for none; None does not care.

    Raises:
        LoradockError: `invalid_name`, `adapter_not_found`, `version_not_found`, `version_not_ready`, `adapter_busy`,
            `revision_mismatch`.
    """
    check_alias(alias)
    locked, row = await _lock(tx, adapter, alias, if_match)
    await require_ready(tx, adapter, version)
    if row is not None and row.version == version:
        return _view(row)
    before = row.version if row else None
    now = await tx.now()
    if row is None:
        row = AliasRow(adapter=adapter, alias=alias)
        tx.session.add(row)
    locked.alias_revision += 1
    row.version, row.revision = version, locked.alias_revision
    row.updated_at, row.updated_by = now, actor
    await tx.session.flush()
    moved: dict[str, Any] = {"alias": alias, "from_version": before, "to_version": version}
    tx.audit("alias.moved", actor=actor, adapter=adapter, version=version, **moved)
    return _view(row)


async def delete_alias(
    tx: Transaction, *, adapter: str, alias: str, actor: str, if_match: int | None = None
) -> None:
    """Take an alias away.

    Raises:
        LoradockError: `adapter_not_found`, `alias_not_found`, `adapter_busy`, `revision_mismatch`.
    """
    _, row = await _lock(tx, adapter, alias, if_match)
    if row is None:
        raise not_found(adapter, alias)
    await tx.session.delete(row)
    tx.audit("alias.deleted", actor=actor, adapter=adapter, version=row.version, alias=alias)


async def _lock(
    tx: Transaction, adapter: str, alias: str, if_match: int | None
) -> tuple[AdapterRow, AliasRow | None]:
    locked = await adapter_rows.lock(tx, adapter)
    holder = await tx.session.scalar(
        select(OperationRow).where(OperationRow.adapter == adapter, IS_ACTIVE).limit(1)
    )
    if holder is not None:
        raise busy(holder)
    row: AliasRow | None = await tx.session.get(AliasRow, (adapter, alias))
    revision = row.revision if row else 0
    if if_match is not None and if_match != revision:
        raise LoradockError(
            "revision_mismatch", f"alias {alias} is at revision {revision}", revision=revision
        )
    return locked, row


async def get_alias(tx: Reader, adapter: str, alias: str) -> AliasView:
    """An alias.

    Raises:
        LoradockError: `adapter_not_found`, `alias_not_found`.
    """
    row: AliasRow | None = await tx.session.get(AliasRow, (adapter, alias))
    if row is None:
        await adapter_rows.require(tx, adapter)
        raise not_found(adapter, alias)
    return _view(row)


async def list_aliases(tx: Reader, adapter: str) -> tuple[AliasView, ...]:
    """An adapter's aliases by name."""
    rows = await tx.session.scalars(select(AliasRow).filter_by(adapter=adapter).order_by(AliasRow.alias))
    return tuple(_view(row) for row in rows)


def not_found(adapter: str, alias: str) -> LoradockError:
    """`alias_not_found`."""
    return LoradockError("alias_not_found", f"adapter {adapter} has no alias {alias[:100]!r}")


def _view(row: AliasRow) -> AliasView:
    return AliasView(
        adapter=row.adapter,
        alias=row.alias,
        version=row.version,
        revision=row.revision,
        updated_at=row.updated_at,
        updated_by=row.updated_by,
    )
