"""Is this node alive, is it ready, what do its numbers say.

Alive: restarting the process would not help. Ready: clients should be sent here. A node that waits for its cluster is
alive and not ready.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from ringkeep_node.http.exchange import Exchange, Handler
from ringkeep_node.http.problems import NotReady
from ringkeep_node.http.replies import Reply
from ringkeep_node.http.routing import parameters

EXPOSITION_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"


async def livez(exchange: Exchange) -> Reply:
    """Answer 200 while the process works, else 503 with the reason."""
    parameters(exchange.target.query, ())
    reason = exchange.edge.driver.is_live()
    if reason is not None:
        raise NotReady(reason)
    return exchange.json({"live": True})


async def readyz(exchange: Exchange) -> Reply:
    """Answer 200 if clients should be sent here, else 503 with the reason."""
    parameters(exchange.target.query, ())
    reason = "this node is stopping" if exchange.edge.stopping else exchange.edge.driver.is_ready()
    exchange.edge.told_ready(reason is None)
    if reason is not None:
        raise NotReady(reason)
    return exchange.json({"ready": True})


def metrics_of(page: Callable[[], bytes]) -> Handler:
    """Return the handler of ``GET /metrics``; ``page`` makes the text of this moment."""

    async def metrics(exchange: Exchange) -> Reply:
        return exchange.reply(200, "Cache-Control: no-store\r\n", page(), EXPOSITION_TYPE)

    return metrics
