"""``/livez``, ``/readyz`` and ``/metrics`` of the operator.

Alive: the loop turns, no watch is dead, the resync turns and work that is due is begun. An API server that is away is no
reason to be started again. Ready: alive; a standby is ready too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from aiohttp import web
from prometheus_client import generate_latest

from ringkeep_operator.metrics import OperatorMetrics
from ringkeep_operator.queueing import KeyQueue
from ringkeep_operator.resync import Resync
from ringkeep_operator.watching import Watch

OVERDUE_MAX_S = 120.0
RESYNC_LATE_S = 120.0


class Health:
    """Judges whether the process should be started again. ``is_leading`` says whether passes are due at all."""

    def __init__(
        self,
        watches: Sequence[Watch],
        resync: Resync,
        queue: KeyQueue,
        is_leading: Callable[[], bool],
        resync_s: float,
        clock: Callable[[], float],
    ) -> None:
        self._watches, self._resync, self._queue, self._is_leading = watches, resync, queue, is_leading
        self._resync_s, self._clock = resync_s, clock

    def complaint(self) -> str | None:
        """Return why the process should be started again, or None."""
        for watch in self._watches:
            if watch.is_stuck():
                return f"the watch of {watch.scope.kind} is stuck"
        if self._resync.is_behind:
            return "kopf's watch of clusters is dead"
        if self._clock() - self._resync.turned_at > self._resync_s + RESYNC_LATE_S:
            return "the resync is stuck"
        if self._is_leading() and self._queue.overdue_s() > OVERDUE_MAX_S:
            return "work that is due is not begun"
        return None

    def ages(self) -> dict[str, float]:
        """Return how long ago each kind's watch said anything; the oldest, where there are several."""
        ages: dict[str, float] = {}
        for watch in self._watches:
            kind = watch.scope.kind
            ages[kind] = max(ages.get(kind, 0.0), watch.age())
        return ages


def health_app(health: Health, metrics: OperatorMetrics) -> web.Application:
    """Return the little server's routes."""

    async def alive(_: web.Request) -> web.Response:
        complaint = health.complaint()
        return web.Response(status=503 if complaint else 200, text=complaint or "ok")

    async def exposition(_: web.Request) -> web.Response:
        return web.Response(
            body=generate_latest(metrics.registry), headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"}
        )

    app = web.Application()
    app.router.add_get("/livez", alive)
    app.router.add_get("/readyz", alive)
    app.router.add_get("/metrics", exposition)
    return app
