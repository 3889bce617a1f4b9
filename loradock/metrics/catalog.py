"""Every metric of every process: its name, labels and meaning. docs/metrics.md is made from it (`make docs`).

No label holds what callers may invent (adapters, paths, actors): the number of series does not grow with them.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class Process(StrEnum):
    """Who has a metric."""

    API = "api"
    ORCHESTRATOR = "orchestrator"
    AGENT = "agent"


class Kind(StrEnum):
    """Prometheus' types."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"
    SUMMARY = "summary"


@dataclass(frozen=True, slots=True)
class MetricSpec:
    """One metric.

    Attributes:
        name: as it is queried; a histogram has `_bucket`, `_sum` and `_count` behind it, a summary the last two.
        meaning: one line.
        unit: of its value, or of what is observed.
        labels: each with what it may be.
        buckets: upper bounds of a histogram.
    """

    name: str
    kind: Kind
    processes: tuple[Process, ...]
    meaning: str
    unit: str
    labels: tuple[tuple[str, str], ...] = ()
    buckets: tuple[float, ...] = ()

    @property
    def label_names(self) -> tuple[str, ...]:
        """The labels alone."""
        return tuple(name for name, _ in self.labels)


REQUEST_BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""Seconds, of calls to the API."""
CALL_BUCKETS: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
"""Seconds, of calls to engines."""
TRANSFER_BUCKETS: Final = (0.01, 0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0)
"""Seconds, of artifacts on their way."""
RENEWAL_BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
"""Seconds, of lease renewals."""

_API: Final = (Process.API,)
_AGENT: Final = (Process.AGENT,)
_WORKERS: Final = (Process.ORCHESTRATOR, Process.AGENT)
_EVERY: Final = (Process.API, *_WORKERS)

_CODE: Final = ("code", "a code of docs/errors.md, or `internal_error`")
_ENGINE: Final = (("engine", "engine id"),)
_HOST: Final = (("agent", "agent id"),)
_TRANSFER: Final = (
    "transfer",
    "`download` (store to host cache), `fetch` (source to orchestrator), `upload` (orchestrator to store)",
)
_LOOP: Final = (("loop", "`relay`, `sweeper`, `leases`, `reconciler`, `staging`; `cache`, `cache figures`"),)

SPECS: Final = (
    MetricSpec(
        "loradock_build_info", Kind.GAUGE, _EVERY, "1, with the program's version.", "–",
        (("version", "of Loradock"), ("process", "which one it is")),
    ),
    # --- the API's own calls
    MetricSpec(
        "loradock_http_requests_total", Kind.COUNTER, _API, "Calls that were answered.", "calls",
        (
            ("method", "or `other`"),
            ("route", "its template, e.g. `/v1/engines/{engine}`; `none` when none fits, or the call was refused before"),
            ("status", "of the answer; `none`: cut off before there was one"),
        ),
    ),
    MetricSpec(
        "loradock_http_request_seconds", Kind.HISTOGRAM, _API,
        "Time until the answer began. A call with `wait` takes as long as it waits.", "seconds",
        (("method", "as above"), ("route", "as above")), REQUEST_BUCKETS,
    ),
    MetricSpec(
        "loradock_http_requests_open", Kind.GAUGE, _API, "Calls that are under way, event streams among them.", "calls"
    ),
    # --- what the registry holds
    MetricSpec(
        "loradock_registry_up", Kind.GAUGE, _API,
        "1 when Postgres told what follows; 0: it did not, and all that follows is left out.", "–",
    ),
    MetricSpec(
        "loradock_operations", Kind.GAUGE, _API, "Operations that have not ended.", "operations",
        (("kind", "`publish`, `load`, `unload`"), ("state", "`queued`, `pending`, `running`, `paused`, `compensating`")),
    ),
    MetricSpec(
        "loradock_operation_oldest_seconds", Kind.GAUGE, _API,
        "Age of the oldest of them: since it began, else since it may begin, else since it was asked for.", "seconds",
        (("kind", "as above"), ("state", "as above")),
    ),
    MetricSpec(
        "loradock_operation_seconds", Kind.SUMMARY, _API,
        "Ended operations: how many, and their time from the request to the end.", "seconds",
        (("kind", "as above"), ("state", "`succeeded`, `failed`, `rolled_back`, `aborted`")),
    ),
    MetricSpec(
        "loradock_operations_repairs_pending", Kind.GAUGE, _API,
        "Ended operations whose undo was left to the reconciler, and is not done yet.", "operations",
    ),
    MetricSpec(
        "loradock_engines", Kind.GAUGE, _API, "Engines that were heard of in the last 24 hours.", "engines",
        (("pool", "pool"), ("status", "`alive`, `unreachable`, `lost`")),
    ),
    MetricSpec(
        "loradock_leases_ending", Kind.GAUGE, _API,
        "Engines whose lease has not run out and has less than half of its time left.", "engines",
    ),
    MetricSpec(
        "loradock_cards", Kind.GAUGE, _API, "Deployment cards.", "cards",
        (("state", "`staged`, `serving`, `draining`, `lost`"),),
    ),
    MetricSpec(
        "loradock_drifts", Kind.GAUGE, _API, "Things in which engines differ from what is wanted of them.", "drifts",
        (("kind", "`missing`, `wrong`, `leftover`, `foreign`, `unknown_id` (docs/reconcile.md)"),),
    ),
    MetricSpec(
        "loradock_repairs_total", Kind.COUNTER, _API, "Repairs by the reconciler.", "repairs",
        (("outcome", "`done`, `failed`"),),
    ),
    MetricSpec(
        "loradock_converge_seconds", Kind.SUMMARY, _API,
        "Engines that differed and came to what is wanted: how often, and in what time, from when they could be repaired.",
        "seconds",
    ),
    MetricSpec(
        "loradock_engines_differing", Kind.GAUGE, _API,
        "Living engines that differ from what is wanted of them, or may: they wait for a look.", "engines",
    ),
    MetricSpec(
        "loradock_reconcile_overdue_seconds", Kind.GAUGE, _API,
        "By how long the reconciler's most belated look is late.", "seconds",
    ),
    MetricSpec(
        "loradock_uploads", Kind.GAUGE, _API, "Upload sessions that have not ended.", "sessions",
        (("state", "`open`, `complete`, `publishing`"),),
    ),
    MetricSpec(
        "loradock_engines_not_shown", Kind.GAUGE, _API,
        "Engines that the metrics of single engines and hosts leave out: all of them when there are more than 1,000.",
        "engines",
    ),
    # --- single engines
    MetricSpec(
        "loradock_engine_info", Kind.GAUGE, _API, "1, with what belongs together.", "–",
        (*_ENGINE, ("agent", "agent id"), ("pool", "pool")),
    ),
    MetricSpec(
        "loradock_engine_alive", Kind.GAUGE, _API, "1 when the engine can be given work, else 0.", "–", _ENGINE
    ),
    MetricSpec("loradock_engine_slots", Kind.GAUGE, _API, "Adapter slots that can be used.", "slots", _ENGINE),
    MetricSpec("loradock_engine_slots_free", Kind.GAUGE, _API, "Those of them that are free.", "slots", _ENGINE),
    MetricSpec("loradock_engine_cards", Kind.GAUGE, _API, "Cards that serve.", "cards", _ENGINE),
    MetricSpec(
        "loradock_engine_drifts", Kind.GAUGE, _API, "Things in which it differs from what is wanted.", "drifts", _ENGINE
    ),
    MetricSpec(
        "loradock_engine_differs_seconds", Kind.GAUGE, _API,
        "Since when it differs, or may, and can be repaired; 0 when it is as wanted or does not live.", "seconds", _ENGINE,
    ),
    # --- hosts' caches, as the API knows them
    MetricSpec("loradock_host_cache_bytes", Kind.GAUGE, _API, "Bytes in the host's cache.", "bytes", _HOST),
    MetricSpec(
        "loradock_host_cache_free_bytes", Kind.GAUGE, _API, "Bytes of the cache's disk that are free.", "bytes", _HOST
    ),
    MetricSpec("loradock_host_cache_adapters", Kind.GAUGE, _API, "Adapters that are there whole.", "adapters", _HOST),
    MetricSpec(
        "loradock_host_cache_leased", Kind.GAUGE, _API, "Adapters that an engine or a hand relies on.", "adapters", _HOST
    ),
    MetricSpec(
        "loradock_host_cache_hits_total", Kind.COUNTER, _API, "Uses that fetched nothing, since the cache was made.",
        "uses", _HOST,
    ),
    MetricSpec(
        "loradock_host_cache_evicted_total", Kind.COUNTER, _API, "Adapters that had to go, since the cache was made.",
        "adapters", _HOST,
    ),
    # --- orchestrator and agent
    MetricSpec(
        "loradock_transfer_bytes_total", Kind.COUNTER, _WORKERS,
        "Bytes moved by transfers that ended well, counted at their end.", "bytes", (_TRANSFER,),
    ),
    MetricSpec(
        "loradock_transfer_seconds", Kind.HISTOGRAM, _WORKERS,
        "What a transfer of one adapter took, with its checks, and without the wait for its turn.", "seconds",
        (_TRANSFER, ("outcome", "`moved`, `cached` (nothing had to be moved), `failed`, `cancelled`")), TRANSFER_BUCKETS,
    ),
    MetricSpec(
        "loradock_transfer_failures_total", Kind.COUNTER, _WORKERS, "Transfers that failed; most are tried again.",
        "transfers", (_TRANSFER, _CODE),
    ),
    MetricSpec(
        "loradock_transfer_retries_total", Kind.COUNTER, _WORKERS,
        "Reads of a source or the store that broke off and went on from where they were, within one transfer.", "reads",
        (_TRANSFER, _CODE),
    ),
    MetricSpec(
        "loradock_transfers_running", Kind.GAUGE, _WORKERS, "Transfers that are under way.", "transfers"
    ),
    MetricSpec(
        "loradock_transfers_waiting", Kind.GAUGE, _WORKERS, "Transfers that wait for their turn.", "transfers"
    ),
    MetricSpec(
        "loradock_activity_failures_total", Kind.COUNTER, _WORKERS,
        "Activities (steps of workflows) that failed here; most are tried again.", "activities",
        (("activity", "its type in Temporal"), _CODE),
    ),
    MetricSpec(
        "loradock_loop_seconds", Kind.SUMMARY, _WORKERS, "Turns of what a process repeats by itself, well ended or not.",
        "seconds", _LOOP,
    ),
    MetricSpec("loradock_loop_failures_total", Kind.COUNTER, _WORKERS, "Turns that failed.", "turns", _LOOP),
    MetricSpec(
        "loradock_loop_work_total", Kind.COUNTER, _WORKERS,
        "What turns found to do: operations that `relay` started, recoveries that `sweeper` began, engines whose `leases` "
        "ran out, looks that `reconciler` started, what `staging` and `cache` removed.",
        "pieces", _LOOP,
    ),
    MetricSpec(
        "loradock_loop_last_success_timestamp_seconds", Kind.GAUGE, _WORKERS,
        "When the last turn ended that went well: `time()` less this is how far the loop lags.", "seconds since 1970", _LOOP,
    ),
    # --- agent
    MetricSpec(
        "loradock_engine_calls_total", Kind.COUNTER, _AGENT, "Calls to engines.", "calls",
        (
            *_ENGINE,
            ("call", "`load`, `unload`, `drain`, `probe`"),
            ("outcome", "the engine's word (`loaded`, `already_loaded`, `unloaded`, …; `answered`), or an error's code"),
        ),
    ),
    MetricSpec(
        "loradock_engine_call_seconds", Kind.HISTOGRAM, _AGENT, "What they took, well ended or not.", "seconds",
        (("call", "as above"),), CALL_BUCKETS,
    ),
    MetricSpec(
        "loradock_agent_engines", Kind.GAUGE, _AGENT, "The agent's engines, as it sees them.", "engines",
        (("state", "`reachable`, `unreachable`; `refused`: its lease does not cover them"),),
    ),
    MetricSpec(
        "loradock_lease_renewals_total", Kind.COUNTER, _AGENT, "Renewals that the API took.", "renewals",
        (("how", "`told` (all engines), `kept` (nothing was new)"),),
    ),
    MetricSpec(
        "loradock_lease_failures_total", Kind.COUNTER, _AGENT, "Renewals that it did not take.", "renewals", (_CODE,)
    ),
    MetricSpec(
        "loradock_lease_renewal_seconds", Kind.HISTOGRAM, _AGENT, "What a renewal took.", "seconds", (), RENEWAL_BUCKETS
    ),
    MetricSpec(
        "loradock_lease_renewed_timestamp_seconds", Kind.GAUGE, _AGENT,
        "When the last renewal was taken; 0: none was yet.", "seconds since 1970",
    ),
    MetricSpec("loradock_cache_bytes", Kind.GAUGE, _AGENT, "Bytes in this host's cache.", "bytes"),
    MetricSpec("loradock_cache_free_bytes", Kind.GAUGE, _AGENT, "Bytes of its disk that are free.", "bytes"),
    MetricSpec("loradock_cache_adapters", Kind.GAUGE, _AGENT, "Adapters that are there whole.", "adapters"),
    MetricSpec("loradock_cache_leased", Kind.GAUGE, _AGENT, "Adapters that an engine or a hand relies on.", "adapters"),
    MetricSpec(
        "loradock_cache_hits_total", Kind.COUNTER, _AGENT, "Uses that fetched nothing, since the cache was made.", "uses"
    ),
    MetricSpec(
        "loradock_cache_evicted_total", Kind.COUNTER, _AGENT, "Adapters that had to go, since the cache was made.",
        "adapters",
    ),
)  # fmt: skip

CATALOG: Final = {spec.name: spec for spec in SPECS}


def metrics_of(process: Process) -> tuple[MetricSpec, ...]:
    """What a process has, in the catalog's order."""
    return tuple(spec for spec in SPECS if process in spec.processes)
