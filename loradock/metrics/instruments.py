"""A process's metrics, made by the catalog in a registry of its own: nothing is global."""

from collections.abc import Iterable, Iterator
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Summary, generate_latest
from prometheus_client.core import Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from loradock import __version__
from loradock.metrics.catalog import CATALOG, Kind, MetricSpec, Process

CONTENT_TYPE: Final = CONTENT_TYPE_PLAIN_0_0_4
"""Of `Instruments.page`."""


class Instruments:
    """Makes the metrics of one process, and shows them.

    Made with what every process has: its version, and Prometheus' own `process_…` (CPU, memory, open files).
    """

    def __init__(self, process: Process) -> None:
        self._process = process
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.gauge("loradock_build_info").labels(version=__version__, process=process).set(1)

    def counter(self, name: str) -> Counter:
        """Make a counter; like the others, once."""
        spec = self._spec(name, Kind.COUNTER)
        return Counter(name, spec.meaning, spec.label_names, registry=self.registry)

    def gauge(self, name: str) -> Gauge:
        """Make a gauge."""
        spec = self._spec(name, Kind.GAUGE)
        return Gauge(name, spec.meaning, spec.label_names, registry=self.registry)

    def histogram(self, name: str) -> Histogram:
        """Make a histogram with the catalog's buckets."""
        spec = self._spec(name, Kind.HISTOGRAM)
        return Histogram(name, spec.meaning, spec.label_names, registry=self.registry, buckets=spec.buckets)

    def summary(self, name: str) -> Summary:
        """Make a summary: a count and a sum."""
        spec = self._spec(name, Kind.SUMMARY)
        return Summary(name, spec.meaning, spec.label_names, registry=self.registry)

    def page(self, more: Iterable[Metric] = ()) -> bytes:
        """All metrics in Prometheus' text format.

        Args:
            more: families that were made for this page alone.
        """
        return generate_latest(_Page(self.registry, more))

    def _spec(self, name: str, kind: Kind) -> MetricSpec:
        spec = CATALOG[name]
        if spec.kind is not kind or self._process not in spec.processes:
            raise ValueError(f"{name} is a {spec.kind} of {spec.processes}")
        return spec


class Family:
    """One metric whose values are known elsewhere and read when they are asked for.

    Args:
        name: of a gauge, a counter or a summary in the catalog.
    """

    def __init__(self, name: str) -> None:
        self._spec = CATALOG[name]
        base = name.removesuffix("_total") if self._spec.kind is Kind.COUNTER else name
        self.metric = Metric(base, self._spec.meaning, self._spec.kind)
        """What a page takes."""

    def add(self, value: float, **labels: str) -> "Family":
        """Add a value.

        Raises:
            ValueError: the labels are not the catalog's.
        """
        return self._add("", value, labels)

    def add_sum(self, count: int, total: float, **labels: str) -> "Family":
        """Add a summary's count and sum.

        Raises:
            ValueError: the labels are not the catalog's.
        """
        return self._add("_count", count, labels)._add("_sum", total, labels)

    def _add(self, suffix: str, value: float, labels: dict[str, str]) -> "Family":
        if set(labels) != set(self._spec.label_names) or bool(suffix) != (self._spec.kind is Kind.SUMMARY):
            raise ValueError(
                f"{self._spec.name} is a {self._spec.kind} with the labels {self._spec.label_names}"
            )
        self.metric.add_sample(f"{self._spec.name}{suffix}", labels, value)
        return self


class _Page(Collector):
    """Registry and further families, without the times at which counters were made, which nobody asks for."""

    def __init__(self, registry: CollectorRegistry, more: Iterable[Metric]) -> None:
        self._registry = registry
        self._more = more

    def collect(self) -> Iterator[Metric]:
        """Each family once."""
        for metric in self._registry.collect():
            metric.samples = [sample for sample in metric.samples if sample.name != f"{metric.name}_created"]
            yield metric
        yield from self._more
