"""Is this node alive, is it ready, what do its numbers say.

Alive: restarting the process would not help. Ready: clients should be sent here. A node that waits for its cluster is
alive and not ready.
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from ringkeep_node.http.exchange import Exchange, Handler
from ringkeep_node.http.problems import NotReady
from ringkeep_node.http.replies import Reply
from ringkeep_node.http.routing import parameters


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


def metrics_of(registry: CollectorRegistry) -> Handler:
    """Return the handler of ``GET /metrics``."""

    async def metrics(exchange: Exchange) -> Reply:
        return exchange.reply(200, "Cache-Control: no-store\r\n", generate_latest(registry), CONTENT_TYPE_LATEST)

    return metrics
