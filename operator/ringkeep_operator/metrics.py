"""The operator's metrics: their names, and how they come to the exposition page. docs/metrics.md is made from them.

Labels come from closed sets: verbs, kinds and results, never a name of a cluster or a pod.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, PlatformCollector, ProcessCollector
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

PREFIX = "ringkeep_operator_"
PASS_BOUNDS_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
RESULTS = ("converged", "acted", "refused", "failed", "invalid")
WRITES = ("apply", "status", "delete", "create", "replace", "node")
MORE: Mapping[str, str] = {
    "pass_duration_seconds": "`result` is `converged`, `acted`, `refused`, `failed` or `invalid`",
    "writes_total": "Those that succeeded: `verb` is `apply`, `status`, `delete`, `create` or `replace`, and `kind` that of "
    "the object; or `verb` is `node`, and `kind` what was asked. A series appears with its first write",
    "queue_length": "Now or later",
    "watch_restarts_total": "Or because its version was too old. A series appears with its first restart",
    "leading": "Of several operators one acts, the others stand by",
}
"""What the documentation says of a metric beside its text on the page."""


class OperatorMetrics:
    """Every metric of the operator, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        self.pass_s = Histogram(
            f"{PREFIX}pass_duration_seconds", "One look at a cluster, with what was done", ["result"],
            buckets=PASS_BOUNDS_S, registry=self.registry,
        )  # fmt: skip
        for result in RESULTS:
            self.pass_s.labels(result)
        self._writes = Counter(
            f"{PREFIX}writes_total", "Writes to the API server, and changes asked of nodes", ["verb", "kind"],
            registry=self.registry,
        )  # fmt: skip
        self.queue = Gauge(f"{PREFIX}queue_length", "Clusters that wait to be looked at", registry=self.registry)
        self.clusters = Gauge(f"{PREFIX}clusters", "Cluster resources there are", registry=self.registry)
        self.leading = Gauge(f"{PREFIX}leading", "1 while this operator acts", registry=self.registry)
        self.restarts = Counter(
            f"{PREFIX}watch_restarts_total", "Watches begun anew after an error or silence", ["kind"],
            registry=self.registry,
        )  # fmt: skip

    def wrote(self, verb: str, kind: str) -> None:
        """Count one write."""
        self._writes.labels(verb, kind).inc()

    def asked(self, change: str) -> None:
        """Count one change asked of a node."""
        self._writes.labels("node", change).inc()

    def show_ages(self, ages: Callable[[], Mapping[str, float]]) -> None:
        """Show how long ago each watch, by kind, said anything, at the moment somebody scrapes."""
        self.registry.register(_Ages(ages))


class _Ages(Collector):
    def __init__(self, ages: Callable[[], Mapping[str, float]]) -> None:
        self._ages = ages

    def collect(self) -> Iterator[GaugeMetricFamily]:
        family = GaugeMetricFamily(
            f"{PREFIX}watch_age_seconds", "Time since the watch of a kind said anything", labels=["kind"]
        )
        for kind, age in sorted(self._ages().items()):
            family.add_metric([kind], age)
        yield family
