"""What a node has counted since its start, for whoever wants rates: ``GET /v1/cluster/rates``.

Counters, not rates: the caller takes the difference of two answers of one boot, so a node keeps nothing and does nothing
for anybody who does not ask. ``at`` is the node's monotonic clock; only differences of it mean something.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from msgspec import Struct

from ringkeep_node.http.exchange import Edge, Exchange, Handler
from ringkeep_node.http.replies import Reply
from ringkeep_node.http.routing import parameters
from ringkeep_node.metrics import REQUEST_BOUNDS_S, Durations, Requests
from ringkeep_node.runtime.reports import RunningPlan

DOCUMENT_ROUTES: Final = frozenset({"document", "documents", "batch"})
READING: Final = frozenset({"GET", "HEAD"})
SLOTS: Final = len(REQUEST_BOUNDS_S) + 1


class Counted(Struct, frozen=True):
    """Requests for documents: how many took up to each of ``REQUEST_BOUNDS_S`` (the last: longer), and how many failed.

    ``failed``: answered with 500 or above, which is never the client's fault.
    """

    durations: tuple[int, ...] = (0,) * SLOTS
    failed: int = 0

    @property
    def total(self) -> int:
        """How many there were."""
        return sum(self.durations)


class Figures(Struct, frozen=True, kw_only=True):
    """The answer of one node about itself. Sizes are in bytes; ``plan`` only from the leader that carries one out."""

    node: str
    boot_id: str
    at: float
    bounds_s: tuple[float, ...] = REQUEST_BOUNDS_S
    reads: Counted = Counted()
    writes: Counted = Counted()
    in_flight: int = 0
    shed: int = 0
    forwards: int = 0
    committed: int = 0
    received_bytes: int = 0
    log_bytes: int = 0
    copy_bytes: int = 0
    disk_free_bytes: int = 0
    disk_full: bool = False
    disk_stalled: bool = False
    plan: RunningPlan | None = None


def figures_of(edge: Edge, requests: Requests) -> Figures:
    """Return what this node has counted until now."""
    driver = edge.driver
    numbers, identity = driver.numbers(), driver.identity
    seen = [(method, status, one) for (route, method, status), one in requests.items() if route in DOCUMENT_ROUTES]
    return Figures(
        node=identity.name,
        boot_id=identity.boot,
        at=round(edge.service.clock(), 3),
        reads=_counted((status, one) for method, status, one in seen if method in READING),
        writes=_counted((status, one) for method, status, one in seen if method not in READING),
        in_flight=numbers.open_requests,
        shed=numbers.shed,
        forwards=numbers.forwards,
        committed=numbers.writes_committed,
        received_bytes=numbers.snapshot_bytes.get("received", 0),
        log_bytes=numbers.log_bytes,
        copy_bytes=numbers.copy_bytes,
        disk_free_bytes=numbers.disk_free_bytes,
        disk_full=numbers.disk_full,
        disk_stalled=numbers.disk_stalled,
        plan=driver.running_plan(),
    )


def _counted(seen: Iterable[tuple[int, Durations]]) -> Counted:
    durations, failed = [0] * SLOTS, 0
    for status, one in seen:
        for slot, count in enumerate(one.counts):
            durations[slot] += count
        failed += one.count if status >= 500 else 0
    return Counted(tuple(durations), failed)


def rates_of(requests: Requests) -> Handler:
    """Return the handler of ``GET /v1/cluster/rates``."""

    async def rates(exchange: Exchange) -> Reply:
        parameters(exchange.target.query, ())
        return exchange.json(figures_of(exchange.edge, requests))

    return rates
