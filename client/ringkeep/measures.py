"""Numbers from two scrapes of a node's ``/metrics``: rates of counters, quantiles of histograms. Pure.

    text --samples_of--> Samples                        one scrape
    Samples, Samples, seconds --figures_of--> Figures   what happened between them

A process that starts again counts from zero: what its counters show then happened since that start, so a smaller value
than before is the difference itself. Source: Prometheus, "Text-based format", and ``rate`` and ``histogram_quantile``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import reduce

import msgspec
from msgspec.structs import replace

PREFIX = "ringkeep_node_"
REQUESTS = PREFIX + "request_duration_seconds"
STAGES = PREFIX + "commit_stage_seconds"
LOOP_LAG = PREFIX + "loop_lag_seconds"
STARTED = "process_start_time_seconds"
USER_ROUTES = frozenset({"document", "documents", "route", "import"})
"""What users ask for; scrapes and the questions of `top` itself are not among it."""

_LINE = re.compile(r"^([A-Za-z_:][A-Za-z0-9_:]*)(?:\{(.*)\})?\s+(\S+)(?:\s+-?\d+)?$")
_LABEL = re.compile(r'([A-Za-z_][A-Za-z0-9_]*)="((?:[^"\\]|\\.)*)"')
_ESCAPES = {"\\\\": "\\", '\\"': '"', "\\n": "\n"}

Labels = tuple[tuple[str, str], ...]
Samples = Mapping[str, Mapping[Labels, float]]
"""Values by metric name and sorted labels."""


def samples_of(text: str) -> Samples:
    """Return what an answer of ``/metrics`` says. Comments and lines that cannot be read are passed over."""
    found: dict[str, dict[Labels, float]] = {}
    for line in text.splitlines():
        match = _LINE.match(line.strip())
        if match is None or line.startswith("#"):
            continue
        try:
            value = float(match[3])
        except ValueError:
            continue
        found.setdefault(match[1], {})[_labels_of(match[2] or "")] = value
    return found


def _labels_of(text: str) -> Labels:
    pairs = (
        (name, re.sub(r"\\.", lambda it: _ESCAPES.get(it[0], it[0]), value)) for name, value in _LABEL.findall(text)
    )
    return tuple(sorted(pairs))


# --- counters ----------------------------------------------------------------------------------------------------


def grown(before: float, after: float) -> float:
    """Return by how much a counter has grown; one that is smaller than before has begun anew."""
    return after - before if after >= before else after


class Histogram(msgspec.Struct, frozen=True):
    """How many observations fell at or below each bound, cumulative; the last bound is infinite. ``sum`` in seconds."""

    bounds: tuple[float, ...] = ()
    counts: tuple[float, ...] = ()
    sum: float = 0.0

    @property
    def count(self) -> float:
        """How many there are."""
        return self.counts[-1] if self.counts else 0.0

    def since(self, before: Histogram) -> Histogram:
        """Return what was observed after ``before``: everything if it has begun anew, or has other bounds."""
        if before.bounds != self.bounds:
            return self
        counts = tuple(after - earlier for earlier, after in zip(before.counts, self.counts, strict=True))
        # Cumulative counts can all have grown though a bucket has fewer than before: only a new beginning does that.
        if list(counts) != sorted(counts) or min(counts, default=0.0) < 0:
            return self
        return Histogram(self.bounds, counts, max(0.0, self.sum - before.sum))

    def plus(self, other: Histogram) -> Histogram:
        """Return both together. One of other bounds cannot be added and is left out: the one with more to say stays."""
        if not self.counts or not other.counts:
            return other if other.counts else self
        if self.bounds != other.bounds:
            return self if self.count >= other.count else other
        counts = tuple(one + another for one, another in zip(self.counts, other.counts, strict=True))
        return Histogram(self.bounds, counts, self.sum + other.sum)

    def quantile(self, share: float) -> float | None:
        """Return below which value that share lies, as if observations were spread evenly within a bucket; None if none.

        What lies above the last finite bound is told as that bound: more is not known.
        """
        assert 0 <= share <= 1
        if self.count <= 0:
            return None
        rank = share * self.count
        place = next((i for i, count in enumerate(self.counts) if count >= rank and count > 0), len(self.counts) - 1)
        lower = self.bounds[place - 1] if place else 0.0
        upper = self.bounds[place]
        if math.isinf(upper):
            return lower
        below = self.counts[place - 1] if place else 0.0
        inside = self.counts[place] - below
        return lower + (upper - lower) * ((rank - below) / inside if inside > 0 else 1.0)

    @property
    def mean(self) -> float | None:
        """The mean, None if there is nothing."""
        return self.sum / self.count if self.count > 0 else None


def histograms(samples: Samples, name: str) -> dict[Labels, Histogram]:
    """Return every series of a histogram by its labels."""
    buckets: dict[Labels, dict[float, float]] = {}
    for labels, count in samples.get(f"{name}_bucket", {}).items():
        try:
            bound = float(dict(labels).get("le", ""))
        except ValueError:
            continue
        buckets.setdefault(tuple(it for it in labels if it[0] != "le"), {})[bound] = count
    sums = samples.get(f"{name}_sum", {})
    return {
        labels: Histogram(tuple(sorted(found)), tuple(found[bound] for bound in sorted(found)), sums.get(labels, 0.0))
        for labels, found in buckets.items()
    }


def value(samples: Samples, name: str) -> float | None:
    """Return the sum of a metric over its labels, None if it is not there."""
    found = samples.get(name)
    return sum(found.values()) if found else None


# --- what `top` shows --------------------------------------------------------------------------------------------


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """What one node did between two scrapes, and how it is. Rates per second, times in seconds; None: not known."""

    requests_per_s: float | None = None
    writes_per_s: float | None = None
    reads_per_s: float | None = None
    p50_s: float | None = None
    p99_s: float | None = None
    fsync_s: float | None = None
    loop_lag_s: float | None = None
    copy_bytes: float | None = None
    log_bytes: float | None = None
    disk_free_bytes: float | None = None
    has_restarted: bool = False


class Scrape(msgspec.Struct, frozen=True):
    """What was read from a node, and when (monotonic seconds)."""

    at: float
    samples: Samples


def figures_of(before: Scrape | None, after: Scrape) -> tuple[Figures, Histogram]:
    """Return what happened between two scrapes, and the latencies it is made from; without a first one only what is now."""
    now = after.samples
    sizes = Figures(
        copy_bytes=value(now, PREFIX + "copy_bytes"),
        log_bytes=value(now, PREFIX + "log_bytes"),
        disk_free_bytes=value(now, PREFIX + "disk_free_bytes"),
    )
    if before is None or after.at <= before.at:
        return sizes, Histogram()
    started = (value(before.samples, STARTED), value(now, STARTED))
    restarted = None not in started and started[0] != started[1]
    then: Samples = {} if restarted else before.samples
    latencies = _between(then, now, REQUESTS, _is_users)
    fsync = _between(then, now, STAGES, lambda labels: labels.get("stage") == "fsync")
    seconds = after.at - before.at
    return (
        replace(
            sizes,
            requests_per_s=latencies.count / seconds,
            writes_per_s=_rate(then, now, "writes_committed_total", seconds),
            reads_per_s=_rate(then, now, "reads_answered_total", seconds),
            p50_s=latencies.quantile(0.5),
            p99_s=latencies.quantile(0.99),
            fsync_s=fsync.mean,
            loop_lag_s=_between(then, now, LOOP_LAG).quantile(0.99),
            has_restarted=restarted,
        ),
        latencies,
    )


def _is_users(labels: Mapping[str, str]) -> bool:
    return labels.get("route") in USER_ROUTES


def _between(
    before: Samples, after: Samples, name: str, keep: Callable[[Mapping[str, str]], bool] = lambda labels: True
) -> Histogram:
    """Return what was observed in between, series by series: a series that begins anew must not hide the others."""
    then = histograms(before, name)
    now = histograms(after, name)
    return together(it.since(then.get(labels, Histogram())) for labels, it in now.items() if keep(dict(labels)))


def together(of: Iterable[Histogram]) -> Histogram:
    """Return several histograms as one."""
    return reduce(Histogram.plus, of, Histogram())


def _rate(before: Samples, after: Samples, name: str, seconds: float) -> float | None:
    now = after.get(PREFIX + name)
    if now is None:
        return None
    then = before.get(PREFIX + name, {})
    return sum(grown(then.get(labels, 0.0), count) for labels, count in now.items()) / seconds


def added(of: Sequence[Figures], latencies: Histogram) -> Figures:
    """Return the figures of several nodes as one: rates and bytes add up, times are those of everything together.

    Of syncs and loops the worst node is told: it is the one that users wait for.
    """
    return Figures(
        requests_per_s=_sum(one.requests_per_s for one in of),
        writes_per_s=_sum(one.writes_per_s for one in of),
        reads_per_s=_sum(one.reads_per_s for one in of),
        p50_s=latencies.quantile(0.5),
        p99_s=latencies.quantile(0.99),
        fsync_s=max((one.fsync_s for one in of if one.fsync_s is not None), default=None),
        loop_lag_s=max((one.loop_lag_s for one in of if one.loop_lag_s is not None), default=None),
        copy_bytes=_sum(one.copy_bytes for one in of),
        log_bytes=_sum(one.log_bytes for one in of),
        disk_free_bytes=min((one.disk_free_bytes for one in of if one.disk_free_bytes is not None), default=None),
    )


def _sum(of: Iterable[float | None]) -> float | None:
    known = [one for one in of if one is not None]
    return sum(known) if known else None
