"""What orchestrators and agents count of themselves."""

import time
from collections.abc import Callable, Iterator

from prometheus_client.core import Metric

from activities.metering import Transfer
from activities.progress import TransferSlots
from loradock.metrics.catalog import Process
from loradock.metrics.instruments import Family, Instruments
from worker.cache_watch import CacheNews


class WorkerMetrics:
    """What both have; a `TransferMeter` and a `LoopWatch`.

    Args:
        slots: whose transfers are counted.
    """

    def __init__(self, process: Process, slots: TransferSlots) -> None:
        self._instruments = made = Instruments(process)
        self._transfer_bytes = made.counter("loradock_transfer_bytes_total")
        self._transfer_seconds = made.histogram("loradock_transfer_seconds")
        self._transfer_failures = made.counter("loradock_transfer_failures_total")
        self._transfer_retries = made.counter("loradock_transfer_retries_total")
        made.gauge("loradock_transfers_running").set_function(lambda: slots.running)
        made.gauge("loradock_transfers_waiting").set_function(lambda: slots.waiting)
        self._activity_failures = made.counter("loradock_activity_failures_total")
        self._loop_seconds = made.summary("loradock_loop_seconds")
        self._loop_failures = made.counter("loradock_loop_failures_total")
        self._loop_work = made.counter("loradock_loop_work_total")
        self._loop_success = made.gauge("loradock_loop_last_success_timestamp_seconds")

    def page(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return self._instruments.page(self._more())

    def _more(self) -> Iterator[Metric]:
        """What is read when it is asked for."""
        return iter(())

    def ended(self, transfer: Transfer, outcome: str, seconds: float, size: int, code: str | None) -> None:
        """As `TransferMeter.ended`."""
        self._transfer_bytes.labels(transfer=transfer.value).inc(size)
        self._transfer_seconds.labels(transfer=transfer.value, outcome=outcome).observe(seconds)
        if code is not None:
            self._transfer_failures.labels(transfer=transfer.value, code=code).inc()

    def on_retry(self, transfer: Transfer) -> Callable[[str], None]:
        """Counts what is tried again within transfers of one kind."""
        return lambda code: self._transfer_retries.labels(transfer=transfer.value, code=code).inc()

    def activity_failed(self, activity: str, code: str) -> None:
        """Count an activity that failed."""
        self._activity_failures.labels(activity=activity, code=code).inc()

    def turned(self, loop: str, seconds: float, done: int | None) -> None:
        """As `LoopWatch.turned`."""
        self._loop_seconds.labels(loop=loop).observe(seconds)
        self._loop_failures.labels(loop=loop).inc(done is None)
        self._loop_work.labels(loop=loop).inc(done or 0)
        if done is not None:
            self._loop_success.labels(loop=loop).set(time.time())


class OrchestratorMetrics(WorkerMetrics):
    """An orchestrator's.

    Args:
        slots: of its transfers.
    """

    def __init__(self, slots: TransferSlots) -> None:
        super().__init__(Process.ORCHESTRATOR, slots)


class AgentMetrics(WorkerMetrics):
    """An agent's; a `LeaseWatch` too.

    Args:
        slots: of its downloads.
    """

    def __init__(self, slots: TransferSlots) -> None:
        super().__init__(Process.AGENT, slots)
        self._engines: Callable[[], dict[str, int]] = dict
        self._cache: Callable[[], CacheNews | None] = lambda: None
        made = self._instruments
        self._calls = made.counter("loradock_engine_calls_total")
        self._call_seconds = made.histogram("loradock_engine_call_seconds")
        self._renewals = made.counter("loradock_lease_renewals_total")
        self._renewal_failures = made.counter("loradock_lease_failures_total")
        self._renewal_seconds = made.histogram("loradock_lease_renewal_seconds")
        self._renewed_at = made.gauge("loradock_lease_renewed_timestamp_seconds")

    def show(self, *, engines: Callable[[], dict[str, int]], cache: Callable[[], CacheNews | None]) -> None:
        """Say where that is read which is known elsewhere, when somebody asks.

        Args:
            engines: how many there are in each state.
            cache: the host's cache as last looked at.
        """
        self._engines, self._cache = engines, cache

    def calls_of(self, engine: str) -> Callable[[str, str, float], None]:
        """Counts calls to one engine; a `CallWatch`."""

        def called(call: str, outcome: str, seconds: float) -> None:
            self._calls.labels(engine=engine, call=call, outcome=outcome).inc()
            self._call_seconds.labels(call=call).observe(seconds)

        return called

    def renewed(self, how: str, seconds: float) -> None:
        """As `LeaseWatch.renewed`."""
        self._renewals.labels(how=how).inc()
        self._renewal_seconds.observe(seconds)
        self._renewed_at.set(time.time())

    def not_renewed(self, code: str) -> None:
        """As `LeaseWatch.not_renewed`."""
        self._renewal_failures.labels(code=code).inc()

    def _more(self) -> Iterator[Metric]:
        engines = Family("loradock_agent_engines")
        for state, count in self._engines().items():
            engines.add(count, state=state)
        yield engines.metric
        news = self._cache()
        for name, figure in (
            ("loradock_cache_bytes", "bytes"),
            ("loradock_cache_free_bytes", "free_bytes"),
            ("loradock_cache_adapters", "adapters"),
            ("loradock_cache_leased", "leased"),
            ("loradock_cache_hits_total", "hits"),
            ("loradock_cache_evicted_total", "evicted"),
        ):
            family = Family(name)
            if news is not None:
                family.add(getattr(news.figures, figure))
            yield family.metric
