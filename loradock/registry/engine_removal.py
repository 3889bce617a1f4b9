"""Forgetting an engine that is gone for good: its cards, what was found at it, and the wish to have anything there."""

from typing import Final

from sqlalchemy import ColumnElement, delete, exists, func, select, text

from loradock.core.errors import LoradockError
from loradock.core.models import CardState
from loradock.core.names import served_name
from loradock.registry import deployments, engines
from loradock.registry.database import Transaction
from loradock.registry.lease_keeping import lease_holds
from loradock.registry.reconciling import heal_operations
from loradock.registry.tables import (
    AgentRow,
    CardRow,
    DeploymentRow,
    DeploymentVersionRow,
    DriftRow,
    EngineRow,
    ReconciliationRow,
)
from loradock.registry.views import RemovedEngine

_NO_SYNC = {"synchronize_session": False}


async def remove_engine(tx: Transaction, engine: str, actor: str) -> RemovedEngine:
    """Forget an engine, and its agent with the last of its engines. Should it come back, it joins as a new one.

    Raises:
        LoradockError: `engine_not_found`; `engine_in_use` while its lease holds, or it has cards that are not lost.
    """
    agent = await tx.session.scalar(select(EngineRow.agent).filter_by(id=engine))
    # The order of locks is that of a renewal (agent, engine) and of a load's end (deployment, engine).
    await tx.session.execute(select(AgentRow.id).filter_by(id=agent).with_for_update())
    wishes = select(DeploymentRow).where(_wants(engine)).order_by(DeploymentRow.adapter, DeploymentRow.pool)
    await tx.session.execute(wishes.with_for_update(key_share=True))
    row = await _lock_gone(tx, engine)
    lost = await tx.session.scalars(
        delete(CardRow).where(CardRow.engine == engine).returning(CardRow.served_name),
        execution_options=_NO_SYNC,
    )
    cards = tuple(sorted(lost))
    unwanted = await _want_nothing_there(tx, engine, actor)
    await tx.session.execute(_KEEP_COUNTS, {"engine": engine})
    for table in (DriftRow, ReconciliationRow):
        await tx.session.execute(delete(table).filter_by(engine=engine), execution_options=_NO_SYNC)
    await heal_operations(tx, engine)  # those that waited for its repair alone
    await tx.session.execute(delete(EngineRow).filter_by(id=engine), execution_options=_NO_SYNC)
    tx.audit(
        "engine.removed", actor=actor, pool=row.pool, engine=engine, agent=row.agent, cards=list(cards),
        unwanted=list(unwanted),
    )  # fmt: skip
    agent_removed = await _remove_agent(tx, row.agent, actor)
    return RemovedEngine(
        id=engine, pool=row.pool, agent=row.agent, agent_removed=agent_removed, cards=cards, unwanted=unwanted
    )


_KEEP_COUNTS: Final = text(
    """
    INSERT INTO past_reconciliations AS past (repaired, failed, converged, converge_seconds)
    SELECT repaired, failed, converged, converge_seconds FROM reconciliations WHERE engine = :engine
    ON CONFLICT (single) DO UPDATE SET
        repaired = past.repaired + excluded.repaired,
        failed = past.failed + excluded.failed,
        converged = past.converged + excluded.converged,
        converge_seconds = past.converge_seconds + excluded.converge_seconds
    """
)


async def _lock_gone(tx: Transaction, engine: str) -> EngineRow:
    """The engine's row, for this transaction alone; nobody lives there and nobody is sent there."""
    query = select(EngineRow, lease_holds()).where(EngineRow.id == engine).with_for_update(of=EngineRow)
    found = (await tx.session.execute(query.execution_options(populate_existing=True))).one_or_none()
    if found is None:
        raise engines.not_found(engine)
    row, leased = found
    if leased:
        raise _in_use(engine, f"its agent {row.agent} renews its lease")
    used = select(CardRow).where(CardRow.engine == engine, CardRow.state != CardState.LOST).limit(1)
    card: CardRow | None = await tx.session.scalar(used)
    if card is not None:
        raise _in_use(engine, f"its card of {card.served_name} is {card.state}")
    return row


def _in_use(engine: str, why: str) -> LoradockError:
    return LoradockError("engine_in_use", f"engine {engine} cannot be removed: {why}", engine=engine)


def _wants(engine: str) -> ColumnElement[bool]:
    """SQL, of a deployment: it names the engine."""
    version = DeploymentVersionRow
    of_it = (version.adapter == DeploymentRow.adapter) & (version.pool == DeploymentRow.pool)
    return exists().where(of_it, version.engines.any_() == engine)


async def _want_nothing_there(tx: Transaction, engine: str, actor: str) -> tuple[str, ...]:
    """Take the engine out of the wishes that name it.

    Returns:
        Served names that are wanted on no engine of their pool any more.
    """
    version = DeploymentVersionRow
    named = select(version).where(version.engines.any_() == engine)
    rows = await tx.session.scalars(named.order_by(version.adapter, version.pool, version.version))
    touched: set[tuple[str, str]] = set()
    unwanted = []
    for row in rows.all():
        touched.add((row.adapter, row.pool))
        stays = sorted({*(row.engines or ())} - {engine})
        if stays:
            deployments.want_less(row, stays)
        else:
            unwanted.append(served_name(row.adapter, row.version))
            await tx.session.delete(row)
    for adapter, pool in sorted(touched):
        deployment = await deployments.lock(tx, adapter, pool, actor)
        await deployments.raise_revision(tx, deployment, actor, generation=True)
    await tx.session.flush()
    return tuple(unwanted)


async def _remove_agent(tx: Transaction, agent: str, actor: str) -> bool:
    """Forget the agent too when it has no engine left and nobody is there under its id."""
    over = AgentRow.lease_until <= func.clock_timestamp()
    alone = ~exists().where(EngineRow.agent == AgentRow.id)
    gone = delete(AgentRow).where(AgentRow.id == agent, over, alone).returning(AgentRow.id)
    if await tx.session.scalar(gone, execution_options=_NO_SYNC) is None:
        return False
    tx.audit("agent.removed", actor=actor, agent=agent)
    return True
