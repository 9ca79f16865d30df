"""Turn what nodes have counted into rates and latencies: per node, and for all of them together. Pure.

    two answers of one boot --difference--> Rate        an answer of a new boot begins anew; who is silent has no rate

A percentile is read from the histogram that the metrics use, evenly inside one of its steps: good to a step, not better.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Final

from msgspec import Struct

from ringkeep_node.http.console.figures import SLOTS, Counted, Figures
from ringkeep_node.metrics import REQUEST_BOUNDS_S

SPAN_MIN_S: Final = 0.25
"""Two answers closer together than this say nothing about a rate."""
SILENT_S: Final = 20.0
"""Figures older than this are not shown any more."""


class Rate(Struct, frozen=True, kw_only=True):
    """What happened in ``span_s`` before ``at`` (this node's monotonic clock)."""

    at: float
    span_s: float
    reads: Counted
    writes: Counted
    forwards: int
    committed: int
    received_bytes: int


class Meter:
    """The newest figures and rate of each node, by name."""

    def __init__(self) -> None:
        self.figures: dict[str, Figures] = {}
        self.rates: dict[str, Rate] = {}
        self._heard: dict[str, float] = {}

    def hear(self, figures: Figures, now: float) -> None:
        """Take in an answer; ``now`` is the clock of whoever shows it."""
        before = self.figures.get(figures.node)
        if before is not None and before.boot_id == figures.boot_id:
            span_s = figures.at - before.at
            if span_s < SPAN_MIN_S:
                return
            self.rates[figures.node] = _rate(before, figures, span_s, now)
        else:
            self.rates.pop(figures.node, None)
        self.figures[figures.node] = figures
        self._heard[figures.node] = now

    def keep(self, names: Collection[str], now: float) -> None:
        """Forget who is not among ``names`` (who live), and who has been silent for long."""
        for name in [name for name in self.figures if name not in names or now > self._heard[name] + SILENT_S]:
            del self.figures[name], self._heard[name]
            self.rates.pop(name, None)

    def shown(self) -> dict[str, dict[str, object]]:
        """Return what people see of each node, by name, and of all together under ""."""
        shown = {name: _shown(self.rates.get(name), figures) for name, figures in self.figures.items()}
        return shown | {"": _all(self.rates, self.figures)}


def _rate(before: Figures, after: Figures, span_s: float, now: float) -> Rate:
    return Rate(
        at=now,
        span_s=span_s,
        reads=_less(after.reads, before.reads),
        writes=_less(after.writes, before.writes),
        forwards=max(0, after.forwards - before.forwards),
        committed=max(0, after.committed - before.committed),
        received_bytes=max(0, after.received_bytes - before.received_bytes),
    )


def _less(after: Counted, before: Counted) -> Counted:
    # Another version may have other steps; its figures are then compared with nothing.
    durations = tuple(max(0, new - old) for new, old in zip(after.durations, before.durations, strict=False))
    return Counted(durations, max(0, after.failed - before.failed))


def _shown(rate: Rate | None, figures: Figures) -> dict[str, object]:
    now: dict[str, object] = {
        "in_flight": figures.in_flight,
        **{name: _rounded(getattr(figures, name)) for name in ("disk_free_bytes", "copy_bytes", "log_bytes")},
        "disk_full": figures.disk_full,
        "disk_stalled": figures.disk_stalled,
    }
    return now if rate is None else now | _per_second([rate])


def _rounded(size: int) -> int:
    """Return about the same size: what people cannot see is no news."""
    return round(size, 2 - len(str(size)))


def _all(rates: Mapping[str, Rate], figures: Mapping[str, Figures]) -> dict[str, object]:
    together: dict[str, object] = {"nodes": len(rates), "in_flight": sum(one.in_flight for one in figures.values())}
    return together | _per_second(list(rates.values())) if rates else together


def _per_second(rates: Sequence[Rate]) -> dict[str, object]:
    reads, writes = _sum([rate.reads for rate in rates]), _sum([rate.writes for rate in rates])
    return {
        "reads_per_s": round(sum(rate.reads.total / rate.span_s for rate in rates), 1),
        "writes_per_s": round(sum(rate.writes.total / rate.span_s for rate in rates), 1),
        "failed_per_s": round(sum((rate.reads.failed + rate.writes.failed) / rate.span_s for rate in rates), 1),
        "forwards_per_s": round(sum(rate.forwards / rate.span_s for rate in rates), 1),
        "committed_per_s": round(sum(rate.committed / rate.span_s for rate in rates), 1),
        "received_bytes_per_s": round(sum(rate.received_bytes / rate.span_s for rate in rates)),
        "reads_ms": [percentile_ms(reads, part) for part in (0.5, 0.99)],
        "writes_ms": [percentile_ms(writes, part) for part in (0.5, 0.99)],
    }


def _sum(counted: Sequence[Counted]) -> Counted:
    columns = zip(*(one.durations for one in counted if len(one.durations) == SLOTS), strict=True)
    return Counted(tuple(sum(column) for column in columns) or (0,) * SLOTS, sum(one.failed for one in counted))


def percentile_ms(counted: Counted, part: float) -> float | None:
    """Return below how many milliseconds that part of the requests stayed, about; None if there were none."""
    total = counted.total
    if not total:
        return None
    left = part * total
    low = 0.0
    for count, high in zip(counted.durations, (*REQUEST_BOUNDS_S, REQUEST_BOUNDS_S[-1]), strict=True):
        if count and left <= count:
            return round(1000.0 * (low + (high - low) * left / count), 2)
        left -= count
        low = high
    return round(1000.0 * low, 2)
