"""Deployments: which versions of an adapter a pool is to serve, and with what share of the traffic."""

from collections.abc import Sequence

from sqlalchemy import select, tuple_
from sqlalchemy.dialects.postgresql import insert

from loradock.core.requests import Selection
from loradock.registry.database import Reader, Transaction
from loradock.registry.pagination import DEFAULT_LIMIT, check_limit, decode_cursor, encode_cursor
from loradock.registry.tables import DeploymentRow, DeploymentVersionRow
from loradock.registry.views import DeploymentVersion, DeploymentView, Page


async def lock(tx: Transaction, adapter: str, pool: str, actor: str) -> DeploymentRow:
    """The deployment's row, for this transaction alone; made if it is not there."""
    made = insert(DeploymentRow).values(adapter=adapter, pool=pool, updated_by=actor).on_conflict_do_nothing()
    await tx.session.execute(made)
    query = select(DeploymentRow).filter_by(adapter=adapter, pool=pool).with_for_update(key_share=True)
    return (await tx.session.scalars(query.execution_options(populate_existing=True))).one()


async def raise_revision(
    tx: Transaction, row: DeploymentRow, actor: str, *, generation: bool = False
) -> None:
    """Tell all who follow the deployment that it changed.

    Args:
        generation: whether the wanted versions changed too.
    """
    row.revision += 1
    row.generation += int(generation)
    row.updated_at, row.updated_by = await tx.now(), actor


async def version_rows(tx: Reader, adapter: str, pool: str) -> dict[int, DeploymentVersionRow]:
    """The deployment's wanted versions, by number."""
    query = select(DeploymentVersionRow).filter_by(adapter=adapter, pool=pool)
    rows = await tx.session.scalars(query.order_by(DeploymentVersionRow.version))
    return {row.version: row for row in rows}


def want_less(row: DeploymentVersionRow, engines: Sequence[str]) -> None:
    """The version stays on these engines. Who takes one away by name has no more use for so many replicas."""
    row.engines = [*engines]
    asked = Selection() if row.placement is None else Selection.model_validate(row.placement)
    fewer = None if asked.replicas is None else min(asked.replicas, len(engines))
    less = asked.model_copy(update={"replicas": fewer, "engines": tuple(engines)})
    row.placement = less.model_dump(mode="json")


async def get_deployment(tx: Reader, adapter: str, pool: str) -> DeploymentView | None:
    """A deployment, None when the adapter was never loaded in the pool."""
    row: DeploymentRow | None = await tx.session.get(DeploymentRow, (adapter, pool))
    return None if row is None else (await _views(tx, [row]))[0]


async def of_adapter(tx: Reader, adapter: str) -> tuple[DeploymentView, ...]:
    """An adapter's deployments by pool."""
    query = select(DeploymentRow).filter_by(adapter=adapter).order_by(DeploymentRow.pool)
    return await _views(tx, (await tx.session.scalars(query)).all())


async def list_deployments(
    tx: Reader,
    *,
    adapter: str | None = None,
    pool: str | None = None,
    limit: int = DEFAULT_LIMIT,
    cursor: str | None = None,
) -> Page[DeploymentView]:
    """Deployments by adapter and pool.

    Raises:
        LoradockError: `invalid_request`.
    """
    key = (DeploymentRow.adapter, DeploymentRow.pool)
    query = select(DeploymentRow).order_by(*key).limit(check_limit(limit) + 1)
    wanted = {"adapter": adapter, "pool": pool}
    query = query.filter_by(**{name: value for name, value in wanted.items() if value is not None})
    if cursor is not None:
        query = query.where(tuple_(*key) > tuple_(*decode_cursor(cursor, str, str)))
    rows = (await tx.session.scalars(query)).all()
    items = await _views(tx, rows[:limit])
    following = encode_cursor(items[-1].adapter, items[-1].pool) if len(rows) > limit else None
    return Page(items=items, next=following)


async def _views(tx: Reader, rows: Sequence[DeploymentRow]) -> tuple[DeploymentView, ...]:
    version = DeploymentVersionRow
    keys = [(row.adapter, row.pool) for row in rows]
    query = select(version).where(tuple_(version.adapter, version.pool).in_(keys)).order_by(version.version)
    versions: dict[tuple[str, str], list[DeploymentVersion]] = {}
    for found in await tx.session.scalars(query):
        shown = DeploymentVersion(
            version=found.version,
            weight=found.weight,
            engines=None if found.engines is None else tuple(found.engines),
            placement=None if found.placement is None else Selection.model_validate(found.placement),
        )
        versions.setdefault((found.adapter, found.pool), []).append(shown)
    return tuple(
        DeploymentView(
            adapter=row.adapter,
            pool=row.pool,
            generation=row.generation,
            revision=row.revision,
            versions=tuple(versions.get((row.adapter, row.pool), ())),
            updated_at=row.updated_at,
            updated_by=row.updated_by,
        )
        for row in rows
    )
