"""The paths of Consul that real clients call: who answers which.

    target --consul_routing--> route --consul_queries, consul_bodies--> what is asked --consul_reads, consul_writes--> Reply

Nothing is decided here: ``runtime.services`` keeps the registry, these modules translate.
"""

from __future__ import annotations

from collections.abc import Mapping

from ringkeep_node.http.consul_answers import Consul, plain
from ringkeep_node.http.consul_reads import Reads
from ringkeep_node.http.consul_writes import Writes
from ringkeep_node.http.exchange import Handler


def consul_handlers(consul: Consul) -> Mapping[tuple[str, str], Handler]:
    """Return who answers which method of which route, with refusals in plain text."""
    handlers = {**Reads(consul).handlers(), **Writes(consul).handlers()}
    return {key: plain(handler) for key, handler in handlers.items()}
