"""Services over HTTP: registering, finding and watching them, and the list of targets that Prometheus takes.

    PUT /v1/services/{name}/{id}          register, or show a sign of life with the same body
    PUT /v1/services/{name}/{id}/renew    show a sign of life, or tell the state of a check
    GET ...?wait_newer_than=<index>       at once if the index is another one, else when it changes or the time is up

Beside what was registered there are two services that nobody registers: ``ringkeep`` (the nodes) and ``ringkeep-shard``
(the primary of every shard). Source: reference/cluster.md 6.2; docs/discovery.md.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Sequence

import msgspec
from aiohttp import web
from aiohttp.abc import AbstractStreamWriter
from msgspec import Struct

from ringkeep_core.errors import BadRequest, NotFound, Overloaded
from ringkeep_core.services import NODE_NAMES, NODE_SERVICE, InstanceSeen, Registration, check_instance_id
from ringkeep_node.http.administration import body_of
from ringkeep_node.http.exchange import Edge, Exchange
from ringkeep_node.http.replies import JSON_TYPE, STATUS_LINES, Reply
from ringkeep_node.http.routing import WATCH, decoded, parameters, switch, whole_number
from ringkeep_node.machines.registry_builtin import SHARD_NAMES, node_instances, primary_instances, selected
from ringkeep_node.machines.registry_view import NODES_TOPIC, SERVICES_TOPIC
from ringkeep_node.runtime.reports import MemberReport

EVENTS_TYPE = "text/event-stream"
KEEP_ALIVE_S = 15.0
"""A comment after so much silence, so that proxies and clients know that the stream lives."""
_LABEL = re.compile(r"[^a-zA-Z0-9_]")


class RenewBody(Struct, frozen=True, forbid_unknown_fields=True):
    """What a renewal may say; without a body all ttl checks pass."""

    check: str = ""
    status: str = "passing"
    output: str | None = None


_registration_decoder = msgspec.json.Decoder(Registration)
_renew_decoder = msgspec.json.Decoder(RenewBody)


# --- reading -----------------------------------------------------------------------------------------------------


async def listing(exchange: Exchange) -> Reply:
    """Send all services with their tags and how many of their instances pass."""
    asked = parameters(exchange.target.query, ("wait_newer_than",))
    services = exchange.edge.services
    if "wait_newer_than" in asked:
        known = whole_number(asked["wait_newer_than"], "wait_newer_than")
        timeout_s, hung_up = exchange.timeout_s(), exchange.hung_up()
        await services.wait(SERVICES_TOPIC, known, timeout_s=timeout_s, hung_up=hung_up)
    view = services.view
    index = view.index(SERVICES_TOPIC)
    rows = [_summary(name, tags, view.instances(name)) for name, tags in view.services().items()]
    for name in (NODE_NAMES, SHARD_NAMES):
        seen = instances_of(exchange.edge, name)
        rows.append(_summary(name, ("primary",) if name == SHARD_NAMES and seen else (), seen))
    return exchange.json({"index": index, "services": rows}, lines=f"Ringkeep-Index: {index}\r\n")


async def of_service(exchange: Exchange) -> Reply:
    """Send the instances of one service, an empty list for a name that nobody has."""
    query, tags = _without_tags(exchange.target.query)
    asked = parameters(query, ("passing", "wait_newer_than"))
    passing = switch(asked["passing"], "passing") if "passing" in asked else False
    name = exchange.target.service
    if "wait_newer_than" in asked:
        known = whole_number(asked["wait_newer_than"], "wait_newer_than")
        await _wait_for(exchange, name, known, exchange.timeout_s())
    index = _index_of(exchange.edge, name)
    seen = selected(instances_of(exchange.edge, name), tags=tags, passing=passing)
    shape = {"service": name, "index": index, "instances": [row_of(each) for each in seen]}
    return exchange.json(shape, lines=f"Ringkeep-Index: {index}\r\n")


async def instance(exchange: Exchange) -> Reply:
    """Send one instance."""
    parameters(exchange.target.query, ())
    seen = _known(exchange)
    return exchange.json(row_of(seen))


async def watch(exchange: Exchange) -> web.StreamResponse:
    """Stream the instances of a service: all of them with each change, as a server-sent event named ``instances``."""
    query, tags = _without_tags(exchange.target.query)
    asked = parameters(query, ("passing",))
    passing = switch(asked["passing"], "passing") if "passing" in asked else False
    _index_of(exchange.edge, exchange.target.service)  # What is refused is refused before the stream begins.
    exchange.closes = True
    return EventStream(exchange, _events(exchange, tags, passing))


async def _events(exchange: Exchange, tags: Sequence[str], passing: bool) -> AsyncIterator[bytes]:
    services, name, hung_up = exchange.edge.services, exchange.target.service, exchange.hung_up()
    told = 0
    while not (hung_up.done() or services.is_released):
        index = _index_of(exchange.edge, name)
        if index == told:
            yield b": still here\n\n"
        else:
            told = index
            seen = selected(instances_of(exchange.edge, name), tags=tags, passing=passing)
            shape = {"service": name, "index": index, "instances": [row_of(each) for each in seen]}
            yield b"event: instances\nid: %d\ndata: %b\n\n" % (index, msgspec.json.encode(shape))
        await _wait_for(exchange, name, told, KEEP_ALIVE_S)


async def _wait_for(exchange: Exchange, service: str, index: int, timeout_s: float) -> None:
    """Return when the index of a service is another one, the client has hung up, or the time is up."""
    edge = exchange.edge
    if service == SHARD_NAMES:
        if index >= _index_of(edge, service):
            await edge.driver.wait_newer_than(index, timeout_s=timeout_s)
    else:
        await edge.services.wait(topic_of(service), index, timeout_s=timeout_s, hung_up=exchange.hung_up())


def _index_of(edge: Edge, service: str) -> int:
    """Return the index of a service; the holders of shards are as the map says, so theirs is its version."""
    if service == SHARD_NAMES:
        held = edge.driver.shard_map
        return 1 if held is None else held.version
    return edge.services.index(topic_of(service))


# --- changing ----------------------------------------------------------------------------------------------------


async def register(exchange: Exchange) -> Reply:
    """Register an instance: 201 if there was none with this id, else 200."""
    exchange.edge.check_registrar(exchange.token())
    parameters(exchange.target.query, ())
    name, instance_id = exchange.target.service, exchange.target.key
    if instance_id == WATCH:
        raise BadRequest(f"an instance cannot have the id {WATCH!r}: its path is that of the stream")
    wanted = await body_of(exchange, _registration_decoder, "a registration")
    services = exchange.edge.services
    is_new = all(seen.instance.id != instance_id for seen in services.view.instances(name))
    seen = services.register(name, instance_id, wanted, client=exchange.client)
    return exchange.json(row_of(seen), 201 if is_new else 200)


async def renew(exchange: Exchange) -> Reply:
    """Take a sign of life of an instance, or the state of one of its ttl or manual checks."""
    exchange.edge.check_registrar(exchange.token())
    parameters(exchange.target.query, ())
    told = await body_of(exchange, _renew_decoder, "a renewal")
    name, instance_id = exchange.target.service, exchange.target.key
    _known(exchange)  # Checks of whole nodes are kept beside the instances, and are none.
    exchange.edge.services.update_check(name, instance_id, told.check, told.status, told.output, client=exchange.client)
    return exchange.json(row_of(_known(exchange)))


async def deregister(exchange: Exchange) -> Reply:
    """Remove an instance; 404 if there is none."""
    exchange.edge.check_registrar(exchange.token())
    parameters(exchange.target.query, ())
    name, instance_id = exchange.target.service, exchange.target.key
    # Checks of whole nodes are kept beside the instances: only their node may remove them, or they would stay in its view.
    if name == NODE_SERVICE or not exchange.edge.services.deregister(name, instance_id, client=exchange.client):
        raise _nobody(name, instance_id)
    return exchange.reply(204)


# --- Prometheus --------------------------------------------------------------------------------------------------


async def for_prometheus(exchange: Exchange) -> Reply:
    """Send targets as Prometheus' http_sd takes them: the nodes of this cluster, or the instances of ``service``.

    Nothing but this very content type is taken; a dead target stays in the list until it is forgotten, so that it is
    seen to be down.
    """
    query, tags = _without_tags(exchange.target.query)
    asked = parameters(query, ("service", "passing"))
    passing = switch(asked["passing"], "passing") if "passing" in asked else False
    edge = exchange.edge
    if "service" in asked:
        seen = selected(instances_of(edge, asked["service"]), tags=tags, passing=passing)
        groups = [_instance_group(each) for each in seen]
    else:
        leader = edge.driver.leader()
        groups = [_node_group(row, edge, leader.name if leader else "") for row in edge.driver.members()]
    return exchange.reply(200, "Cache-Control: no-store\r\n", msgspec.json.encode(groups), JSON_TYPE)


def _node_group(row: MemberReport, edge: Edge, leader: str) -> dict[str, object]:
    host, _, port = row.url.partition("://")[2].partition("/")[0].rpartition(":")
    labels = {
        "node": row.name,
        "zone": row.zone,
        "storage_id": row.storage_id,
        "boot_id": row.boot_id,
        "role": "leader" if row.name == leader else "gateway" if row.weight == 0 else "member",
        "state": row.state,
        "copies": f"{row.copies}",
        "primaries": f"{row.primaries}",
        "cluster": edge.driver.cluster_id,
    }
    return {"targets": [f"{host}:{port}"], "labels": _labels(labels)}


def _instance_group(seen: InstanceSeen) -> dict[str, object]:
    instance = seen.instance
    labels = {
        "service": instance.service,
        "service_id": instance.id,
        # Between commas, as Consul's: an expression can look for ",tag," wherever it stands.
        "tags": f",{','.join(instance.tags)}," if instance.tags else "",
        "status": seen.status,
        "node": seen.node.name,
        "zone": seen.node.zone,
    }
    labels.update({f"service_meta_{_LABEL.sub('_', key)}": value for key, value in instance.meta.items()})
    return {"targets": [f"{bracketed(seen.address)}:{instance.port}"], "labels": _labels(labels)}


def _labels(values: dict[str, str]) -> dict[str, str]:
    return {f"__meta_ringkeep_{name}": value for name, value in values.items()}


def bracketed(host: str) -> str:
    """Return a host as it stands before a port: IPv6 addresses in brackets."""
    return f"[{host}]" if ":" in host else host


# --- pieces ------------------------------------------------------------------------------------------------------


def topic_of(service: str) -> str:
    """Return what moves when the instances of a service do; raise ``BadRequest`` for what no service can be called."""
    if service.startswith("*"):
        raise BadRequest("a service name does not begin with '*'")
    return NODES_TOPIC if service == NODE_NAMES else service


def instances_of(edge: Edge, service: str) -> Sequence[InstanceSeen]:
    """Return the instances of a service, registered or built in."""
    services = edge.services
    if service == NODE_NAMES:
        return node_instances(services.nodes_view.nodes())
    if service == SHARD_NAMES:
        held = edge.driver.shard_map
        return () if held is None else primary_instances(held, services.nodes_view.nodes())
    return services.view.instances(service)


def row_of(seen: InstanceSeen) -> dict[str, object]:
    """Return an instance as the REST interface shows it."""
    instance = seen.instance
    return {
        "service": instance.service,
        "id": instance.id,
        "address": seen.address,
        "port": instance.port,
        "status": seen.status,
        "tags": instance.tags,
        "meta": instance.meta,
        "weights": instance.weights,
        "node": {"name": seen.node.name, "address": seen.node.address, "zone": seen.node.zone},
        "checks": [
            {
                "id": check.id,
                "name": check.name,
                "kind": check.kind,
                "status": check.status,
                "output": check.output,
                "target": check.target,
                "ttl_s": check.ttl_s,
                "interval_s": check.interval_s,
            }
            for check in (*instance.checks, *seen.node.checks)
        ],
        "create_index": seen.create_index,
        "modify_index": seen.modify_index,
    }


def _summary(name: str, tags: Sequence[str], seen: Sequence[InstanceSeen]) -> dict[str, object]:
    passing = sum(1 for each in seen if each.status == "passing")
    return {"name": name, "tags": tags, "instances": len(seen), "passing": passing}


def _known(exchange: Exchange) -> InstanceSeen:
    name, instance_id = exchange.target.service, check_instance_id(exchange.target.key)
    for seen in instances_of(exchange.edge, name):
        if seen.instance.id == instance_id:
            return seen
    raise _nobody(name, instance_id)


def _nobody(service: str, instance_id: str) -> NotFound:
    return NotFound(f"there is no instance {instance_id[:140]!r} of {service[:80]!r}")


def _without_tags(query: str) -> tuple[str, tuple[str, ...]]:
    """Return the query without its ``tag`` parameters, which may be repeated, and their values."""
    parts = query.split("&") if query else []
    tags = [part[4:] for part in parts if part.startswith("tag=")]
    rest = "&".join(part for part in parts if not part.startswith("tag="))
    return rest, tuple(decoded(tag.replace("+", " "), "query parameter tag") for tag in tags)


class EventStream(Reply):
    """An answer that goes on until its events end; the connection ends with it."""

    __slots__ = ("_events",)

    def __init__(self, exchange: Exchange, events: AsyncIterator[bytes]) -> None:
        edge = exchange.edge
        head = (
            f"{STATUS_LINES[200]}Content-Type: {EVENTS_TYPE}\r\nCache-Control: no-store\r\n"
            f"Ringkeep-Request-Id: {exchange.id}\r\n{edge.lines}{edge.clock.date()}"
        )
        super().__init__(200, head, closes=True)
        self._events = events

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter:
        """Write the head, then every event as it comes."""
        writer = await super().prepare(request)
        if request.method == "HEAD":
            return writer
        try:
            async for event in self._events:
                await writer.write(event)
        except (ConnectionError, Overloaded):
            pass  # The client has gone, or must come again: a stream that has begun can tell it by its end only.
        return writer
