"""Leases: an agent's word that its engines live, and what follows when it says otherwise or nothing."""

import uuid
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import ColumnElement, case, delete, exists, func, select, text, tuple_, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from loradock.core.models import CardState, EngineStatus
from loradock.core.requests import EngineReport, LeaseKeep, LeaseRenewal
from loradock.registry import base_models, cards, reconcile_queue, unloading
from loradock.registry.audit import SYSTEM_ACTOR
from loradock.registry.database import Reader, Transaction
from loradock.registry.lease_keeping import lease_holds
from loradock.registry.tables import AgentRow, CardRow, DriftRow, EngineRow
from loradock.registry.views import LeaseGranted, LeaseKept

_KEPT_INSTANCES: Final = 1000

REPORT_SECONDS: Final = 20.0
"""What an agent tells may be as old as this when it is written: its look, its call, and a wait for locks."""


async def renew_lease(tx: Transaction, renewal: LeaseRenewal, lease_seconds: float) -> LeaseGranted:
    """Take an agent's word for all its engines. When nothing has changed, only timestamps are written.

    The newest process under an agent id has it; an older one is told that it is superseded and changes nothing. An
    engine under another agent's living lease is refused, the rest goes on.
    """
    agent, now = await _lock_agent(tx, renewal)
    if renewal.instance in agent.superseded_instances:
        return LeaseGranted(lease_until=agent.lease_until, superseded=True)
    lease_until = now + timedelta(seconds=lease_seconds)
    _renew_agent(tx, agent, renewal)
    agent.lease_until, agent.renewed_at = lease_until, now
    if renewal.cache is not None:
        _set(agent, cache=renewal.cache.model_dump(mode="json"))
    if renewal.cached_digests is not None:
        _set(agent, cached_digests=sorted(set(renewal.cached_digests)))
    reports = {report.engine: report for report in renewal.engines}
    granted: dict[str, int] = {}
    refused: dict[str, str] = {}
    to_repair: dict[str, str] = {}
    for row, held in await _lock_engines(tx, renewal):
        if row.agent != renewal.agent and held:
            refused[row.id] = f"engine {row.id} is under the lease of agent {row.agent}"
            continue
        reason = await _EngineRenewal(tx, row, reports[row.id], renewal).apply()
        if reason is not None:
            to_repair[row.id] = reason
        granted[row.id] = row.generation
    await _stamp(tx, [reports[engine] for engine in granted], now, lease_until)
    await reconcile_queue.want(tx, to_repair, clock_from_now=True)
    agent.report = None if refused else uuid.uuid4().hex
    return LeaseGranted(lease_until=lease_until, engines=granted, refused=refused, report=agent.report)


async def keep_lease(single: AsyncConnection, agent: str, keep: LeaseKeep, lease_seconds: float) -> LeaseKept:
    """Take an agent's word that nothing has changed since its last full report: times alone are written, by one statement.

    Nothing is written unless that report is the last that was taken in, of this process, and none of its engines has
    been lost or has moved away since; then the agent must tell all again.
    """
    facts = {"agent": agent, "instance": keep.instance, "report": keep.report, "engines": keep.engines}
    lease = timedelta(seconds=lease_seconds)
    kept = await single.scalar(
        _KEEP, {**facts, "lease": lease, "alive": EngineStatus.ALIVE, "lost": EngineStatus.LOST}
    )
    return LeaseKept(kept=kept is not None)


_KEEP: Final = text(
    """
    WITH agent AS MATERIALIZED (
        SELECT id FROM agents
        WHERE id = :agent AND instance = :instance AND report = :report AND lease_until > clock_timestamp()
        FOR NO KEY UPDATE
    ), mine AS MATERIALIZED (
        SELECT engines.id FROM agent JOIN engines ON engines.agent = agent.id AND engines.status <> :lost
        ORDER BY engines.id FOR NO KEY UPDATE OF engines
    ), kept AS MATERIALIZED (
        SELECT clock_timestamp() AS now WHERE (SELECT count(*) FROM mine) = :engines
    ), agent_kept AS (
        UPDATE agents SET lease_until = now + :lease, renewed_at = now FROM kept WHERE id = :agent
    ), engines_kept AS (
        UPDATE engines
        SET lease_until = now + :lease, seen_at = CASE WHEN status = :alive THEN now ELSE seen_at END
        FROM kept WHERE agent = :agent AND status <> :lost
    )
    SELECT now FROM kept
    """
)


async def _lock_agent(tx: Transaction, renewal: LeaseRenewal) -> tuple[AgentRow, datetime]:
    query = select(AgentRow, func.clock_timestamp()).where(AgentRow.id == renewal.agent)
    locked = query.with_for_update(key_share=True).execution_options(populate_existing=True)
    found = (await tx.session.execute(locked)).one_or_none()
    if found is None:
        facts = renewal.model_dump(include={"instance", "pool", "agent_version", "labels"})
        times = {"lease_until": func.now(), "renewed_at": func.now()}
        made = insert(AgentRow).values(id=renewal.agent, **facts, **times).on_conflict_do_nothing()
        if await tx.session.scalar(made.returning(AgentRow.id)) is not None:
            tx.audit("agent.joined", actor=_actor(renewal), agent=renewal.agent, pool=renewal.pool)
        found = (await tx.session.execute(locked)).one()
    return found[0], found[1]


def _renew_agent(tx: Transaction, agent: AgentRow, renewal: LeaseRenewal) -> None:
    if agent.instance != renewal.instance:
        tx.audit(
            "agent.replaced",
            actor=_actor(renewal),
            agent=agent.id,
            before=agent.instance,
            now=renewal.instance,
        )
        agent.superseded_instances = [*agent.superseded_instances, agent.instance][-_KEPT_INSTANCES:]
        agent.instance = renewal.instance
    _set(agent, pool=renewal.pool, agent_version=renewal.agent_version, labels=renewal.labels)


async def _lock_engines(tx: Transaction, renewal: LeaseRenewal) -> list[tuple[EngineRow, bool]]:
    """The engines' rows with whether a lease holds; those that are not known yet are made."""
    names = sorted({report.engine for report in renewal.engines})
    query = select(EngineRow, lease_holds()).where(EngineRow.id.in_(names)).order_by(EngineRow.id)
    locked = query.with_for_update(key_share=True).execution_options(populate_existing=True)
    rows = (await tx.session.execute(locked)).all()
    if len(rows) < len(names):
        await _join(tx, renewal, set(names) - {row.id for row, _ in rows})
        rows = (await tx.session.execute(locked)).all()
    return [(row, held) for row, held in rows]


async def _join(tx: Transaction, renewal: LeaseRenewal, names: set[str]) -> None:
    values = [
        {
            "id": report.engine,
            "agent": renewal.agent,
            "pool": renewal.pool,
            "kind": report.kind,
            "url": report.url,
            "status": EngineStatus.LOST,
            "lease_until": func.now(),
        }
        for report in sorted(renewal.engines, key=lambda report: report.engine)
        if report.engine in names
    ]
    made = insert(EngineRow).values(values).on_conflict_do_nothing().returning(EngineRow.id)
    for engine in (await tx.session.scalars(made)).all():
        tx.audit(
            "engine.joined", actor=_actor(renewal), pool=renewal.pool, engine=engine, agent=renewal.agent
        )


async def _stamp(
    tx: Transaction, reports: Sequence[EngineReport], now: datetime, lease_until: datetime
) -> None:
    reached = [report.engine for report in reports if report.reachable]
    seen_at = case((EngineRow.id.in_(reached), now), else_=EngineRow.seen_at)
    statement = update(EngineRow).where(EngineRow.id.in_([report.engine for report in reports]))
    await tx.session.execute(
        statement.values(lease_until=lease_until, seen_at=seen_at),
        execution_options={"synchronize_session": False},
    )


class _EngineRenewal:
    """One engine's part of a renewal; its row is locked."""

    def __init__(self, tx: Transaction, row: EngineRow, report: EngineReport, renewal: LeaseRenewal) -> None:
        self._tx = tx
        self._row = row
        self._report = report
        self._renewal = renewal

    async def apply(self) -> str | None:
        """Bring row and cards to what the report says.

        Returns:
            Why the engine is to be reconciled; None when there is no cause.
        """
        row, report = self._row, self._report
        if row.agent != self._renewal.agent:
            self._audit("engine.moved", before=row.agent, now=self._renewal.agent)
        other_pool = row.pool != self._renewal.pool
        if other_pool:
            await self._leave_pool()
        _set(row, agent=self._renewal.agent, pool=self._renewal.pool, kind=report.kind, url=report.url)
        if not report.reachable:
            await self._not_reached()
            return None
        reason = await self._reached()
        return "it came into another pool" if other_pool else reason

    async def _reached(self) -> str | None:
        row, report = self._row, self._report
        known, came_back = row.incarnation is not None, row.status != EngineStatus.ALIVE
        same_life = row.incarnation == report.incarnation
        other_base = known and row.base_model != report.base_model
        if not same_life:
            await self._new_life()
        row.status = EngineStatus.ALIVE
        _set(row, problem=None)
        await self._note_base()
        serves_other = row.served != report.served
        self._note_facts()
        if came_back and known and same_life:
            self._audit("engine.recovered")
            await self._recover_cards()
        if not same_life:
            return "it restarted" if known else "it joined"
        if came_back or other_base:
            return "it is back" if came_back else "it serves another base model"
        if serves_other and await self._lose_untrue_cards():
            return "it does not serve what its cards say"
        return None

    async def _leave_pool(self) -> None:
        """An engine serves in one pool: its cards of the one that it leaves are gone."""
        gone = delete(CardRow).where(CardRow.engine == self._row.id, CardRow.pool != self._renewal.pool)
        names = await self._tx.session.scalars(
            gone.returning(CardRow.served_name), execution_options={"synchronize_session": False}
        )
        self._audit("engine.changed_pool", now=self._renewal.pool, cards=sorted(names))

    async def _lose_untrue_cards(self) -> bool:
        """Take the traffic from cards that the engine does not serve (any more) as they say; whether there were any.

        A card that is young may be younger than what the agent saw: the reconciler's own look sees to that.
        """
        row = self._row
        if row.served is None:
            return False
        old = CardRow.since < func.clock_timestamp() - timedelta(seconds=REPORT_SECONDS)
        routed = (CardRow.incarnation == row.incarnation) & (CardRow.state == CardState.SERVING) & old
        lost = await cards.lose(self._tx, row.id, routed & ~served_as(row.served))
        if lost:
            self._audit("engine.drifted", lost=lost)
        return bool(lost)

    async def _new_life(self) -> None:
        row, before = self._row, self._row.incarnation
        row.incarnation = self._report.incarnation
        row.generation += 1
        if before is not None:
            old_life = (CardRow.incarnation != row.incarnation) & (CardRow.state != CardState.LOST)
            names = await cards.lose(self._tx, row.id, old_life)
            self._audit("engine.restarted", before=before, now=row.incarnation, lost=names)

    async def _not_reached(self) -> None:
        _set(self._row, problem=self._report.problem)
        if self._row.status == EngineStatus.UNREACHABLE:
            return
        self._row.status = EngineStatus.UNREACHABLE
        names = await cards.lose(self._tx, self._row.id, CardRow.state == CardState.SERVING)
        self._audit("engine.unreachable", lost=names)

    async def _recover_cards(self) -> None:
        """The process never died and holds the weights still: what was routed to it may be again.

        Except for what an unload takes away: it found these cards lost, and withdraws none that serves after that.
        """
        row = self._row
        here = (CardRow.engine == row.id) & (CardRow.incarnation == row.incarnation)
        held = CardRow.served_name.in_(row.resident) if row.served is None else served_as(row.served)
        in_doubt = exists().where(
            DriftRow.engine == CardRow.engine, DriftRow.served_name == CardRow.served_name
        )
        back = here & (CardRow.state == CardState.LOST) & held & ~in_doubt & ~unloading.being_unloaded()
        changed = update(CardRow).where(back).values(state=CardState.SERVING, since=func.now())
        found = await self._tx.session.execute(
            changed.returning(CardRow.adapter, CardRow.version),
            execution_options={"synchronize_session": False},
        )
        for adapter, version in found.all():
            self._audit("card.recovered", adapter=adapter, version=version)

    async def _note_base(self) -> None:
        """Keep what the engine says of its base model; the first to say something of a name registers it."""
        measures, name = self._report.base_config, self._report.base_model
        told = None if measures is None else measures.model_dump(mode="json", exclude={"fingerprint"})
        if (self._row.base_config, self._row.base_model) == (told, name):
            return
        self._row.base_config = told
        if measures is not None and name is not None:
            actor = _actor(self._renewal)
            await base_models.see(self._tx, name, measures, engine=self._row.id, actor=actor)

    def _note_facts(self) -> None:
        report = self._report
        _set(
            self._row,
            base_model=report.base_model,
            engine_version=report.engine_version,
            max_loras=report.max_loras,
            usable_slots=report.usable_slots,
            free_slots=report.free_slots,
            max_lora_rank=report.max_lora_rank,
            resident=sorted(report.resident),
            served=report.served,
            unknown_ids=sorted(report.unknown_ids),
            limitations=list(report.limitations),
            missing_promises=sorted(set(report.missing_promises)),
        )

    def _audit(self, action: str, **facts: Any) -> None:
        self._tx.audit(action, actor=_actor(self._renewal), pool=self._row.pool, engine=self._row.id, **facts)


def served_as(served: Mapping[str, str]) -> ColumnElement[bool]:
    """SQL, of a card: the engine serves it under its name, from its digest."""
    return tuple_(CardRow.served_name, CardRow.digest).in_(sorted(served.items()))


async def alive_agents(tx: Reader) -> list[str]:
    """The agents whose lease holds, by id."""
    query = select(AgentRow.id).where(AgentRow.lease_until > func.clock_timestamp()).order_by(AgentRow.id)
    return list(await tx.session.scalars(query))


async def expire_leases(tx: Transaction) -> list[str]:
    """Note engines whose agent has not renewed in time, and lose their cards.

    Returns:
        The engines, by id.
    """
    query = select(EngineRow).where(EngineRow.status != EngineStatus.LOST, ~lease_holds())
    locked = query.order_by(EngineRow.id).with_for_update(key_share=True, skip_locked=True)
    rows = (await tx.session.scalars(locked.execution_options(populate_existing=True))).all()
    for row in rows:
        row.status = EngineStatus.LOST
        names = await cards.lose(tx, row.id, CardRow.state == CardState.SERVING)
        tx.audit("engine.lost", actor=SYSTEM_ACTOR, pool=row.pool, engine=row.id, agent=row.agent, lost=names)
    return [row.id for row in rows]


def _actor(renewal: LeaseRenewal) -> str:
    return f"agent:{renewal.agent}"


def _set(row: AgentRow | EngineRow, **facts: Any) -> None:
    """Set only what differs: in the steady state nothing is written."""
    for name, value in facts.items():
        if getattr(row, name) != value:
            setattr(row, name, value)
