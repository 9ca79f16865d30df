"""Is this node alive, is it ready, what do its numbers say; and the plain page at ``/``.

Alive: restarting the process would not help. Ready: clients should be sent here. A node that waits for its cluster is
alive and not ready.
"""

from __future__ import annotations

from html import escape

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from ringkeep_node.http.exchange import Exchange, Handler
from ringkeep_node.http.problems import NotReady
from ringkeep_node.http.replies import Reply
from ringkeep_node.http.routing import parameters

LINKS = (
    ("/v1/cluster", "this cluster"),
    ("/v1/cluster/members", "members, with the evidence for their state"),
    ("/v1/cluster/map", "the shard map"),
    ("/v1/cluster/leader", "the leader"),
    ("/v1/cluster/events", "what happened"),
    ("/v1/cluster/wanted", "the wanted state"),
    ("/v1/services", "services, registered and built in"),
    ("/livez", "is this node alive"),
    ("/readyz", "is this node ready"),
    ("/metrics", "metrics for Prometheus"),
    ("/openapi.json", "the interface, as OpenAPI 3.1"),
)


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


async def root(exchange: Exchange) -> Reply:
    """Send a page with links, until there is a console."""
    driver = exchange.edge.driver
    name = escape(driver.identity.name)
    cluster = escape(driver.cluster_id) or "none yet"
    links = "\n".join(f'<li><a href="{path}">{path}</a>: {text}</li>' for path, text in LINKS)
    page = (
        f'<!doctype html>\n<html lang="en"><meta charset="utf-8"><title>Ringkeep {name}</title>\n'
        f"<h1>Ringkeep node {name}</h1>\n<p>Cluster: {cluster}</p>\n<ul>\n{links}\n</ul>\n</html>\n"
    )
    return exchange.reply(
        200,
        "Cache-Control: no-store\r\nContent-Security-Policy: default-src 'none'; frame-ancestors 'none'\r\n",
        page.encode(),
        "text/html; charset=utf-8",
    )
