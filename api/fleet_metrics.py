"""The registry's figures as metrics. Every state that there may be is told of, also when it is empty."""

from collections.abc import Iterable, Iterator
from enum import StrEnum

from prometheus_client.core import Metric

from loradock.core.models import ACTIVE_STATES, CardState, EngineStatus, OperationKind, OperationState
from loradock.core.reconcile import DriftKind
from loradock.core.uploads import UploadState
from loradock.metrics.instruments import Family
from loradock.registry.figures import Count, Figures

_UNDER_WAY = ("queued", *(state.value for state in OperationState if state in ACTIVE_STATES))
_ENDED = tuple(state.value for state in OperationState if state not in ACTIVE_STATES)
_UPLOADS = tuple(state for state in UploadState if state is not UploadState.ENDED)


def families(figures: Figures) -> Iterator[Metric]:
    """All metrics that come from the registry."""
    yield from _operations(figures)
    yield from _fleet(figures)
    yield from _reconciliation(figures)
    yield from _engines(figures)
    yield from _caches(figures)


def _operations(figures: Figures) -> Iterator[Metric]:
    active = {(one.kind, one.state): one for one in figures.active}
    ended = {(one.kind, one.state): one for one in figures.ended}
    count, oldest = Family("loradock_operations"), Family("loradock_operation_oldest_seconds")
    took = Family("loradock_operation_seconds")
    for kind in OperationKind:
        for state in _UNDER_WAY:
            now = active.get((kind, state))
            count.add(now.count if now else 0, kind=kind, state=state)
            oldest.add(now.oldest_seconds if now else 0, kind=kind, state=state)
        for state in _ENDED:
            past = ended.get((kind, state))
            took.add_sum(past.count if past else 0, past.seconds if past else 0, kind=kind, state=state)
    yield from (count.metric, oldest.metric, took.metric)
    yield _one("loradock_operations_repairs_pending", figures.repairs_pending)
    yield _counts("loradock_uploads", "state", _UPLOADS, figures.uploads)


def _fleet(figures: Figures) -> Iterator[Metric]:
    engines = Family("loradock_engines")
    known = {(one.pool, one.status): one.count for one in figures.engine_counts}
    for pool in sorted({pool for pool, _ in known}):
        for status in EngineStatus:
            engines.add(known.get((pool, status), 0), pool=pool, status=status)
    yield engines.metric
    yield _one("loradock_leases_ending", figures.leases_ending)
    yield _counts("loradock_cards", "state", CardState, figures.cards)
    yield _one("loradock_engines_not_shown", figures.engines_left_out)


def _reconciliation(figures: Figures) -> Iterator[Metric]:
    done = figures.reconciliations
    repairs = Family("loradock_repairs_total").add(done.repaired, outcome="done")
    converged = Family("loradock_converge_seconds").add_sum(done.converged, done.converge_seconds)
    yield _counts("loradock_drifts", "kind", DriftKind, figures.drifts)
    yield repairs.add(done.failed, outcome="failed").metric
    yield converged.metric
    yield _one("loradock_engines_differing", done.differing)
    yield _one("loradock_reconcile_overdue_seconds", done.overdue_seconds)


def _engines(figures: Figures) -> Iterator[Metric]:
    info, alive = Family("loradock_engine_info"), Family("loradock_engine_alive")
    slots, free = Family("loradock_engine_slots"), Family("loradock_engine_slots_free")
    cards, drifts = Family("loradock_engine_cards"), Family("loradock_engine_drifts")
    differs = Family("loradock_engine_differs_seconds")
    for one in figures.engines:
        info.add(1, engine=one.engine, agent=one.agent, pool=one.pool)
        alive.add(one.alive, engine=one.engine)
        slots.add(one.usable_slots, engine=one.engine)
        free.add(one.free_slots, engine=one.engine)
        cards.add(one.cards, engine=one.engine)
        drifts.add(one.drifts, engine=one.engine)
        differs.add(one.differs_seconds, engine=one.engine)
    yield from (family.metric for family in (info, alive, slots, free, cards, drifts, differs))


def _caches(figures: Figures) -> Iterator[Metric]:
    for figure, name in (
        ("bytes", "loradock_host_cache_bytes"),
        ("free_bytes", "loradock_host_cache_free_bytes"),
        ("adapters", "loradock_host_cache_adapters"),
        ("leased", "loradock_host_cache_leased"),
        ("hits", "loradock_host_cache_hits_total"),
        ("evicted", "loradock_host_cache_evicted_total"),
    ):
        family = Family(name)
        for host in figures.hosts:
            family.add(getattr(host.cache, figure), agent=host.agent)
        yield family.metric


def _one(name: str, value: float) -> Metric:
    return Family(name).add(value).metric


def _counts(name: str, label: str, values: Iterable[StrEnum], counts: Iterable[Count]) -> Metric:
    known = {one.name: one.count for one in counts}
    family = Family(name)
    for value in values:
        family.add(known.get(value, 0), **{label: value.value})
    return family.metric
