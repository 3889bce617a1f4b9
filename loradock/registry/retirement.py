"""Versions that are no longer wanted: number and digest stay for history, their bytes may be collected."""

from sqlalchemy import Select, func, select

from loradock.core.errors import LoradockError
from loradock.core.models import OperationKind, OperationState, VersionState
from loradock.registry import adapter_rows, references
from loradock.registry.audit import SYSTEM_ACTOR
from loradock.registry.database import Transaction
from loradock.registry.tables import OperationRow, VersionRow
from loradock.registry.versions import get_version, require
from loradock.registry.views import VersionDetail


async def retire(tx: Transaction, adapter: str, version: int, actor: str) -> VersionDetail:
    """Retire one version; one that is retired already stays as it is.

    Raises:
        LoradockError: `adapter_not_found`, `version_not_found`; `version_in_use` when an alias, a card, a deployment or
            an active operation names it, or it is just being published.
    """
    # Operations and aliases that name a version take this lock too: they come before us and are seen, or after.
    await adapter_rows.lock(tx, adapter)
    row = await require(tx, adapter, version)
    await tx.session.refresh(row, with_for_update={"key_share": True})
    if row.state == VersionState.PUBLISHING:
        raise LoradockError("version_in_use", f"{adapter}@{version} is being published")
    await references.check_unnamed(tx, adapter, version)
    if row.state != VersionState.RETIRED:
        await _retire(tx, row, actor, "deleted")
    return await get_version(tx, adapter, version)


async def retire_expired(tx: Transaction, adapter: str, keep: int) -> list[int]:
    """Retire what was published before the last `keep` ready versions and is named by nothing.

    A version that was published again is as new as that, whatever its number.

    Returns:
        The versions' numbers.
    """
    await adapter_rows.lock(tx, adapter)
    ready = (VersionRow.adapter == adapter) & (VersionRow.state == VersionState.READY)
    query = select(VersionRow).where(
        ready, VersionRow.version.not_in(_last_published(adapter, keep)), ~references.is_named()
    )
    rows = (
        await tx.session.scalars(query.order_by(VersionRow.version).with_for_update(key_share=True))
    ).all()
    for row in rows:
        await _retire(tx, row, SYSTEM_ACTOR, "retention")
    return [row.version for row in rows]


def _last_published(adapter: str, keep: int) -> Select[int]:
    """SQL: the numbers of the ready versions that were published last.

    `created_at` is renewed when a retired version comes back; a publish that found its bytes there writes no version, and
    its operation alone tells of it.
    """
    publish = OperationRow
    again = (
        select(publish.version, func.max(publish.ended_at).label("at"))
        .where(
            publish.adapter == adapter,
            publish.kind == OperationKind.PUBLISH,
            publish.state == OperationState.SUCCEEDED,
        )
        .group_by(publish.version)
        .subquery()
    )
    published_at = func.greatest(VersionRow.created_at, again.c.at)  # null counts for nothing in it
    return (
        select(VersionRow.version)
        .outerjoin(again, again.c.version == VersionRow.version)
        .where(VersionRow.adapter == adapter, VersionRow.state == VersionState.READY)
        .order_by(published_at.desc(), VersionRow.version.desc())
        .limit(keep)
    )


async def with_more_than(tx: Transaction, keep: int) -> list[str]:
    """The adapters that have more than `keep` ready versions, by name."""
    query = select(VersionRow.adapter).filter_by(state=VersionState.READY).group_by(VersionRow.adapter)
    return list(await tx.session.scalars(query.having(func.count() > keep).order_by(VersionRow.adapter)))


async def _retire(tx: Transaction, row: VersionRow, actor: str, why: str) -> None:
    row.state = VersionState.RETIRED
    row.retired_at, row.retired_by = await tx.now(), actor
    await tx.session.flush()
    tx.audit(
        "version.retired",
        actor=actor,
        adapter=row.adapter,
        version=row.version,
        digest=row.digest,
        reason=why,
    )
