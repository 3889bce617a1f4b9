"""Adapters, as they are read."""

from typing import Final

from sqlalchemy import ScalarSelect, func, select

from loradock.core.models import VersionState
from loradock.registry import adapter_rows, aliases, deployments, versions
from loradock.registry.database import Reader
from loradock.registry.pagination import DEFAULT_LIMIT, check_limit, decode_cursor, encode_cursor
from loradock.registry.tables import AdapterRow, VersionRow
from loradock.registry.views import AdapterDetail, AdapterView, Page

DETAIL_VERSIONS: Final = 200
"""Versions that an adapter's own view shows."""


async def get_adapter(tx: Reader, name: str) -> AdapterDetail:
    """An adapter with its newest versions, its aliases and its deployments.

    Raises:
        LoradockError: `adapter_not_found`.
    """
    row = await adapter_rows.require(tx, name)
    latest = await tx.session.scalar(select(_latest(name)))
    newest = await versions.list_versions(tx, name, limit=DETAIL_VERSIONS)
    return AdapterDetail(
        **_view(row, latest).model_dump(),
        versions=newest.items,
        aliases=await aliases.list_aliases(tx, name),
        deployments=await deployments.of_adapter(tx, name),
    )


async def list_adapters(
    tx: Reader, *, limit: int = DEFAULT_LIMIT, cursor: str | None = None
) -> Page[AdapterView]:
    """Adapters by name.

    Raises:
        LoradockError: `invalid_request`.
    """
    query = select(AdapterRow, _latest(AdapterRow.name)).order_by(AdapterRow.name)
    if cursor is not None:
        (last,) = decode_cursor(cursor, str)
        query = query.where(AdapterRow.name > last)
    rows = (await tx.session.execute(query.limit(check_limit(limit) + 1))).all()
    items = tuple(_view(row, latest) for row, latest in rows[:limit])
    return Page(items=items, next=encode_cursor(items[-1].name) if len(rows) > limit else None)


def _latest(adapter: object) -> ScalarSelect[int | None]:
    ready = (VersionRow.adapter == adapter) & (VersionRow.state == VersionState.READY)
    return select(func.max(VersionRow.version)).where(ready).scalar_subquery()


def _view(row: AdapterRow, latest: int | None) -> AdapterView:
    return AdapterView(
        name=row.name,
        base_model=row.base_model,
        latest_version=latest,
        created_at=row.created_at,
        created_by=row.created_by,
    )
