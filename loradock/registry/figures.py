"""The registry in numbers, for metrics: one statement, whatever its tables hold."""

from datetime import timedelta
from typing import Final

from pydantic import TypeAdapter
from sqlalchemy import case, func, select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from loradock.core.models import EngineStatus, Model
from loradock.core.requests import CacheReport
from loradock.registry.lease_keeping import lease_holds
from loradock.registry.tables import ACTIVE, QUEUED, EngineRow

HEARD_OF_WITHIN: Final = timedelta(days=1)
"""Engines and hosts whose lease ran out longer ago are counted nowhere: dead ones stay until somebody removes them."""


class ActiveOperations(Model):
    """Operations that have not ended.

    Attributes:
        state: an active state, or `queued`: pending, and not admitted yet.
        oldest_seconds: since the oldest of them came into this state (of those under way: since it began).
    """

    kind: str
    state: str
    count: int
    oldest_seconds: float


class EndedOperations(Model):
    """Operations that have ended.

    Attributes:
        seconds: from the request to the end, of all of them together.
    """

    kind: str
    state: str
    count: int
    seconds: float


class EngineCount(Model):
    """How many engines of a pool have a status; `lost` as soon as the lease ran out."""

    pool: str
    status: str
    count: int


class Count(Model):
    """How many there are of something."""

    name: str
    count: int


class EngineFigures(Model):
    """One engine.

    Attributes:
        cards: that serve.
        drifts: in how many things it differs from what is wanted.
        differs_seconds: since it differs, or may, and could be repaired; 0 when it is as wanted or does not live.
    """

    engine: str
    agent: str
    pool: str
    alive: bool
    usable_slots: int
    free_slots: int
    cards: int
    drifts: int
    differs_seconds: float


class HostCache(Model):
    """One host's cache, as its agent last told."""

    agent: str
    cache: CacheReport


class Reconciliations(Model):
    """All engines' reconciliation together.

    Attributes:
        repaired, failed: repairs since the beginning, those on engines that were removed among them.
        converged: how often an engine that differed came to what is wanted; `converge_seconds`, in what time in all.
        differing: engines that differ now, or may.
        overdue_seconds: by how long the look that has waited longest is late.
    """

    repaired: int
    failed: int
    converged: int
    converge_seconds: float
    differing: int
    overdue_seconds: float


class Figures(Model):
    """The registry at one moment.

    Attributes:
        leases_ending: engines whose lease has not run out, and will unless it is renewed soon.
        engines: in no order; none when there are more than were asked for.
        hosts: of those engines.
    """

    active: tuple[ActiveOperations, ...]
    ended: tuple[EndedOperations, ...]
    repairs_pending: int
    engine_counts: tuple[EngineCount, ...]
    cards: tuple[Count, ...]
    drifts: tuple[Count, ...]
    uploads: tuple[Count, ...]
    leases_ending: int
    reconciliations: Reconciliations
    engines: tuple[EngineFigures, ...]
    hosts: tuple[HostCache, ...]

    @property
    def engines_left_out(self) -> int:
        """How many engines there are that `engines` does not tell of."""
        return sum(one.count for one in self.engine_counts) - len(self.engines)


_FIGURES: Final = TypeAdapter(Figures)

_FLEET: Final = (
    select(
        EngineRow.id,
        EngineRow.agent,
        EngineRow.pool,
        EngineRow.usable_slots,
        EngineRow.free_slots,
        EngineRow.lease_until,
        case((lease_holds(), EngineRow.status), else_=EngineStatus.LOST).label("status"),
    )
    .where(EngineRow.lease_until > func.clock_timestamp() - HEARD_OF_WITHIN)
    .cte("fleet")
    .prefix_with("MATERIALIZED")
)

_FIGURES_OF_FLEET: Final = text(
    f"""
    (WITH held AS MATERIALIZED (
        SELECT engine, state, count(*) AS count FROM cards GROUP BY engine, state
    ), operations_active AS (
        SELECT kind, CASE WHEN {QUEUED} THEN 'queued' ELSE state END AS state, count(*) AS count,
            max(extract(epoch FROM clock_timestamp() - coalesce(started_at, admitted_at, created_at))) AS oldest_seconds
        FROM operations WHERE {ACTIVE} GROUP BY 1, 2
    ), operations_ended AS (
        SELECT kind, state, count(*) AS count, extract(epoch FROM sum(ended_at - created_at)) AS seconds
        FROM operations WHERE ended_at IS NOT NULL AND :with_ended GROUP BY kind, state
    ), engine_counts AS (
        SELECT pool, status, count(*) AS count FROM fleet GROUP BY pool, status
    ), card_counts AS (
        SELECT state AS name, sum(count) AS count FROM held GROUP BY state
    ), drift_counts AS (
        SELECT kind AS name, count(*) AS count FROM drifts GROUP BY kind
    ), upload_counts AS (
        SELECT state AS name, count(*) AS count FROM uploads WHERE state <> 'ended' GROUP BY state
    ), queue AS (
        SELECT count(*) FILTER (WHERE wanted_since IS NOT NULL AND fleet.status = 'alive') AS differing,
            greatest(0, coalesce(
                extract(epoch FROM clock_timestamp() - min(due_at) FILTER (WHERE fleet.status = 'alive')), 0
            )) AS overdue_seconds
        FROM reconciliations LEFT JOIN fleet ON fleet.id = reconciliations.engine
    ), done AS (
        SELECT coalesce(sum(repaired), 0) AS repaired, coalesce(sum(failed), 0) AS failed,
            coalesce(sum(converged), 0) AS converged, coalesce(sum(converge_seconds), 0) AS converge_seconds
        FROM (
            SELECT repaired, failed, converged, converge_seconds FROM reconciliations
            UNION ALL SELECT repaired, failed, converged, converge_seconds FROM past_reconciliations
        ) AS ever
    ), shown AS MATERIALIZED (
        SELECT * FROM fleet WHERE (SELECT count(*) FROM fleet) <= :most_engines
    ), engine_figures AS (
        SELECT shown.id AS engine, agent, pool, status = 'alive' AS alive, usable_slots, free_slots,
            coalesce(held.count, 0) AS cards, coalesce(differences.count, 0) AS drifts,
            CASE WHEN status = 'alive' THEN coalesce(extract(epoch FROM clock_timestamp() - wanted_since), 0) ELSE 0 END
                AS differs_seconds
        FROM shown
            LEFT JOIN held ON held.engine = shown.id AND held.state = 'serving'
            LEFT JOIN reconciliations ON reconciliations.engine = shown.id
            LEFT JOIN (SELECT engine, count(*) AS count FROM drifts GROUP BY engine) AS differences
                ON differences.engine = shown.id
    ), host_figures AS (
        SELECT id AS agent, cache FROM agents WHERE cache IS NOT NULL AND id IN (SELECT agent FROM shown)
    )
    SELECT json_build_object(
        'active', (SELECT coalesce(json_agg(one), '[]') FROM operations_active AS one),
        'ended', (SELECT coalesce(json_agg(one), '[]') FROM operations_ended AS one),
        'repairs_pending', (SELECT count(*) FROM operations WHERE repairs_pending),
        'engine_counts', (SELECT coalesce(json_agg(one), '[]') FROM engine_counts AS one),
        'cards', (SELECT coalesce(json_agg(one), '[]') FROM card_counts AS one),
        'drifts', (SELECT coalesce(json_agg(one), '[]') FROM drift_counts AS one),
        'uploads', (SELECT coalesce(json_agg(one), '[]') FROM upload_counts AS one),
        'leases_ending', (
            SELECT count(*) FROM fleet
            WHERE lease_until BETWEEN clock_timestamp() AND clock_timestamp() + :ending_within
        ),
        'reconciliations', (SELECT row_to_json(one) FROM (SELECT * FROM queue, done) AS one),
        'engines', (SELECT coalesce(json_agg(one), '[]') FROM engine_figures AS one),
        'hosts', (SELECT coalesce(json_agg(one), '[]') FROM host_figures AS one)
    )::text)
    """  # noqa: S608 - two constants of our own
)

_ALL: Final = select(_FIGURES_OF_FLEET).add_cte(_FLEET)


async def read(
    single: AsyncConnection, *, lease_seconds: float, most_engines: int, with_ended: bool = True
) -> Figures:
    """Count everything, by one statement.

    Args:
        lease_seconds: how long a lease lasts; one with less than half of it left counts as ending.
        most_engines: of more than these no single one is told, nor any host.
        with_ended: ended operations are counted; they grow for ever, and so does what that costs.
    """
    facts = {
        "ending_within": timedelta(seconds=lease_seconds / 2),
        "most_engines": most_engines,
        "with_ended": with_ended,
    }
    return _FIGURES.validate_json(await single.scalar(_ALL, facts))
