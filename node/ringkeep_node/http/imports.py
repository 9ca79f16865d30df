"""Bulk import over HTTP: NDJSON in, counts out. The body is read no faster than its lines are stored."""

from __future__ import annotations

from ringkeep_node.http.exchange import Exchange, Handler
from ringkeep_node.http.replies import Reply
from ringkeep_node.http.routing import parameters
from ringkeep_node.runtime.importing import Importer


def import_with(importer: Importer) -> Handler:
    """Return the handler of ``POST /v1/import``."""

    async def import_lines(exchange: Exchange) -> Reply:
        parameters(exchange.target.query, ())
        result = await importer.run(exchange.chunks(), timeout_s=exchange.timeout_s(), cause=exchange.cause)
        return exchange.json(result)

    return import_lines
