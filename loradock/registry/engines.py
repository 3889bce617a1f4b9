"""Engines, as they are read, and locked before something is done with them."""

from collections.abc import Collection, Sequence

from sqlalchemy import ColumnElement, Select, select

from loradock.core.base_config import BaseConfig
from loradock.core.errors import LoradockError
from loradock.core.models import EngineStatus
from loradock.core.promises import EnginePromise
from loradock.core.requests import CacheReport
from loradock.registry import drift_views
from loradock.registry.database import Reader, Transaction
from loradock.registry.lease_keeping import lease_holds
from loradock.registry.pagination import DEFAULT_LIMIT, check_limit, decode_cursor, encode_cursor
from loradock.registry.tables import AgentRow, DeploymentRow, EngineRow
from loradock.registry.views import EngineView, Page


def is_alive() -> ColumnElement[bool]:
    """SQL: the engine can be given work."""
    return (EngineRow.status == EngineStatus.ALIVE) & lease_holds()


async def lock_engines(tx: Transaction, engines: Collection[str]) -> dict[str, tuple[EngineRow, bool]]:
    """Engines that exist, with whether they are alive; none of them changes until the commit."""
    query = select(EngineRow, is_alive()).where(EngineRow.id.in_(engines)).order_by(EngineRow.id)
    locked = query.with_for_update(read=True).execution_options(populate_existing=True)
    return {row.id: (row, alive) for row, alive in await tx.session.execute(locked)}


def check_alive(found: dict[str, tuple[EngineRow, bool]], engine: str, incarnation: str) -> None:
    """See that a locked engine is the process that was meant, and alive.

    Raises:
        LoradockError: `engine_not_found`, `engine_restarted`, `engine_lost`.
    """
    if engine not in found:
        raise not_found(engine)
    row, alive = found[engine]
    if row.incarnation != incarnation:
        raise LoradockError(
            "engine_restarted",
            f"engine {engine} is not the process that the operation began with",
            engine=engine,
        )
    if not alive:
        raise lost(row)


def lost(row: EngineRow) -> LoradockError:
    """`engine_lost`, saying how."""
    why = "does not answer its agent" if row.status == EngineStatus.UNREACHABLE else "has no living agent"
    return LoradockError("engine_lost", f"engine {row.id} {why}", engine=row.id)


def not_found(engine: str) -> LoradockError:
    """`engine_not_found`."""
    return LoradockError("engine_not_found", f"there is no engine {engine[:100]!r}", engine=engine[:100])


async def pool_exists(tx: Reader, pool: str) -> bool:
    """Whether an engine is there, or was and something was loaded on it: all of them may have been removed since."""
    joined = await tx.session.scalar(select(EngineRow.id).filter_by(pool=pool).limit(1))
    deployed = select(DeploymentRow.pool).filter_by(pool=pool).limit(1)
    return joined is not None or await tx.session.scalar(deployed) is not None


def pool_not_found(pool: str) -> LoradockError:
    """`pool_not_found`."""
    return LoradockError("pool_not_found", f"no engine has joined pool {pool[:100]!r}")


async def pools_of_base_model(tx: Reader, base_model: str) -> list[str]:
    """The pools with an engine of this base model, by name."""
    query = select(EngineRow.pool).filter_by(base_model=base_model).distinct().order_by(EngineRow.pool)
    return list(await tx.session.scalars(query))


async def get_engine(tx: Reader, engine: str) -> EngineView:
    """An engine.

    Raises:
        LoradockError: `engine_not_found`.
    """
    query = _select().where(EngineRow.id == engine)
    found = (await tx.session.execute(query)).one_or_none()
    if found is None:
        raise not_found(engine)
    (view,) = await _with_drift(tx, [_view(*found)])
    return view


async def list_engines(
    tx: Reader,
    *,
    pool: str | None = None,
    status: EngineStatus | None = None,
    limit: int = DEFAULT_LIMIT,
    cursor: str | None = None,
) -> Page[EngineView]:
    """Engines by id.

    Raises:
        LoradockError: `invalid_request`.
    """
    query = _select().order_by(EngineRow.id).limit(check_limit(limit) + 1)
    if pool is not None:
        query = query.where(EngineRow.pool == pool)
    if status is EngineStatus.LOST:
        query = query.where((EngineRow.status == status) | ~lease_holds())
    elif status is not None:
        query = query.where(EngineRow.status == status, lease_holds())
    if cursor is not None:
        (last,) = decode_cursor(cursor, str)
        query = query.where(EngineRow.id > last)
    rows = (await tx.session.execute(query)).all()
    items = await _with_drift(tx, [_view(row, holds, agent) for row, holds, agent in rows[:limit]])
    return Page(items=items, next=encode_cursor(items[-1].id) if len(rows) > limit else None)


def _select() -> Select[EngineRow, bool, AgentRow]:
    return select(EngineRow, lease_holds(), AgentRow).join(AgentRow, AgentRow.id == EngineRow.agent)


async def _with_drift(tx: Reader, views: Sequence[EngineView]) -> tuple[EngineView, ...]:
    names = [view.id for view in views]
    found, records = await drift_views.views(tx, names), await drift_views.records(tx, names)
    return tuple(
        view.model_copy(update={"drift": found.get(view.id, ()), "reconcile": records.get(view.id)})
        for view in views
    )


def _view(row: EngineRow, lease: bool, agent: AgentRow) -> EngineView:
    base_config = None if row.base_config is None else BaseConfig.model_validate(row.base_config)
    return EngineView(
        id=row.id,
        agent=row.agent,
        pool=row.pool,
        kind=row.kind,
        url=row.url,
        status=EngineStatus(row.status) if lease else EngineStatus.LOST,
        incarnation=row.incarnation,
        generation=row.generation,
        base_model=row.base_model,
        engine_version=row.engine_version,
        max_loras=row.max_loras,
        usable_slots=row.usable_slots,
        free_slots=row.free_slots,
        max_lora_rank=row.max_lora_rank,
        resident=tuple(row.resident),
        served=row.served,
        unknown_ids=tuple(row.unknown_ids),
        limitations=tuple(row.limitations),
        missing_promises=tuple(EnginePromise(name) for name in row.missing_promises),
        problem=row.problem,
        base_fingerprint=None if base_config is None else base_config.fingerprint,
        base_config=base_config,
        lease_until=row.lease_until,
        joined_at=row.joined_at,
        seen_at=row.seen_at,
        agent_version=agent.agent_version,
        labels=agent.labels,
        cache=None if agent.cache is None else CacheReport.model_validate(agent.cache),
    )
