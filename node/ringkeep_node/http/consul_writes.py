"""What Consul's clients change: instances, their checks, maintenance. Any node takes any change, whoever owns the instance.

Consul's agent knows an instance by its id alone, and a check too; here the ids of instances are the cluster's, so that a
renewal may go to any node. What could be meant for several of them is refused (``consul_ids``).
Source: cluster.md, 6.1.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Final

from msgspec.structs import replace

from ringkeep_core.errors import BadRequest, NotFound
from ringkeep_core.services import NODE_SERVICE, CheckWish, Registration
from ringkeep_node.http import consul_bodies as bodies
from ringkeep_node.http.consul_answers import Consul
from ringkeep_node.http.consul_ids import (
    SERVICE_MAINTENANCE,
    Key,
    check_is_free,
    instance_of,
    key_of_check,
    one_of,
)
from ringkeep_node.http.consul_queries import Query
from ringkeep_node.http.exchange import Exchange, Handler
from ringkeep_node.http.replies import Reply
from ringkeep_node.http.routing import decoded

BODY_BYTES_MAX: Final = 256 << 10
NODE_MAINTENANCE: Final = "_node_maintenance"
EXTERNAL_NODE: Final = "external-node"
"""Key of the metadata that names the node of catalog/register, if that is none of this cluster."""
STATUS_OF: Mapping[str, str] = {"pass": "passing", "warn": "warning", "fail": "critical"}

Write = Callable[[Exchange, Query, str], Awaitable[None]]


class Writes:
    """The writing half of Consul's paths."""

    def __init__(self, consul: Consul) -> None:
        self._consul = consul
        self._services = consul.services

    def handlers(self) -> Mapping[tuple[str, str], Handler]:
        """Return who answers which method of which route."""
        writes: dict[str, Write] = {
            "consul_service_register": self._register,
            "consul_service_deregister": self._deregister,
            "consul_service_maintenance": self._service_maintenance,
            "consul_agent_maintenance": self._node_maintenance,
            "consul_check_register": self._register_check,
            "consul_check_deregister": self._deregister_check,
            "consul_check_update": self._update_check,
            "consul_catalog_register": self._catalog_register,
            "consul_catalog_deregister": self._catalog_deregister,
            **{f"consul_check_{what}": partial(self._tell_check, status) for what, status in STATUS_OF.items()},
        }
        return {(route, "PUT"): partial(self._answer, write) for route, write in writes.items()}

    async def _answer(self, write: Write, exchange: Exchange) -> Reply:
        query = self._consul.query(exchange)
        exchange.edge.check_registrar(exchange.token() or query.token)
        await write(exchange, query, decoded(exchange.target.key, "path"))
        is_catalog = exchange.target.route.startswith("consul_catalog")
        return exchange.reply(200, "Cache-Control: no-store\r\n", b"true" if is_catalog else b"", "application/json")

    async def _fields(self, exchange: Exchange, what: str) -> bodies.Fields:
        return bodies.folded(await exchange.body(BODY_BYTES_MAX, what))

    # --- instances -----------------------------------------------------------------------------------------------

    async def _register(self, exchange: Exchange, query: Query, _: str) -> None:
        wish = bodies.service_wish(await self._fields(exchange, "a registration"))
        self._put(wish, exchange.client, keep_checks=not query.replaces_checks)

    def _put(self, wish: bodies.ServiceWish, client: str, *, keep_checks: bool) -> None:
        check_is_free(self._services.view, wish.service, wish.id)
        self._services.register(wish.service, wish.id, wish.registration, client=client, keep_checks=keep_checks)

    async def _deregister(self, exchange: Exchange, query: Query, instance_id: str) -> None:
        seen = one_of(self._services.view.find(instance_id), instance_id)
        if seen is not None:
            self._services.deregister(*seen.instance.key, client=exchange.client)

    def _key_of(self, instance_id: str) -> Key:
        return instance_of(self._services.view, instance_id).instance.key

    # --- checks --------------------------------------------------------------------------------------------------

    async def _register_check(self, exchange: Exchange, query: Query, _: str) -> None:
        found = bodies.check_of(await self._fields(exchange, "a check"))
        key = self._key_of(found.service_id) if found.service_id else self._node_key()
        self._services.put_check(*key, found.wish, client=exchange.client)

    async def _deregister_check(self, exchange: Exchange, query: Query, check_id: str) -> None:
        key = key_of_check(self._services.view, check_id)
        if key is not None:
            self._services.drop_check(*key, check_id, client=exchange.client)

    async def _tell_check(self, status: str, exchange: Exchange, query: Query, check_id: str) -> None:
        self._tell(check_id, status, query.note, exchange.client)

    async def _update_check(self, exchange: Exchange, query: Query, check_id: str) -> None:
        status, output = bodies.check_state(await self._fields(exchange, "an update of a check"))
        self._tell(check_id, status, output, exchange.client)

    def _tell(self, check_id: str, status: str, output: str, client: str) -> None:
        key = key_of_check(self._services.view, check_id)
        if key is None:
            raise NotFound(
                f"unknown check ID {check_id[:140]!r}: this service or check may have to be registered again"
            )
        self._services.update_check(*key, check_id, status, output, client=client)

    def _node_key(self) -> Key:
        return NODE_SERVICE, self._services.view.me().name

    # --- maintenance ---------------------------------------------------------------------------------------------

    async def _service_maintenance(self, exchange: Exchange, query: Query, instance_id: str) -> None:
        key = self._key_of(instance_id)
        self._maintain(key, f"{SERVICE_MAINTENANCE}{instance_id}", "Service Maintenance Mode", query, exchange.client)

    async def _node_maintenance(self, exchange: Exchange, query: Query, _: str) -> None:
        self._maintain(self._node_key(), NODE_MAINTENANCE, "Node Maintenance Mode", query, exchange.client)

    def _maintain(self, key: Key, check_id: str, name: str, query: Query, client: str) -> None:
        if query.enable is None:
            raise BadRequest("maintenance needs ?enable=true or ?enable=false")
        if query.enable:
            notes = query.reason or "maintenance mode is enabled, and no reason was given"
            wish = CheckWish(id=check_id, name=name, notes=notes, status="critical")
            self._services.put_check(*key, wish, client=client)
        else:
            self._services.drop_check(*key, check_id, client=client)

    # --- the catalog ---------------------------------------------------------------------------------------------

    async def _catalog_register(self, exchange: Exchange, query: Query, _: str) -> None:
        """Register what a tool says about any node; this node owns it, and a node that is none of ours is metadata."""
        entry = bodies.catalog_entry(await self._fields(exchange, "a registration in the catalog"))
        client = exchange.client
        if entry.service is None and not entry.checks:
            raise BadRequest("the nodes here are the members of the cluster: register a Service, with its Address")
        keys = [self._key_of_catalog_check(check, entry) for check in entry.checks]  # Refused before anything changes.
        if entry.service is not None:
            self._put(self._placed(entry.service, entry), client, keep_checks=True)
        for key, check in zip(keys, entry.checks, strict=True):
            self._put_catalog_check(key, check, client)

    def _is_member(self, name: str) -> bool:
        return any(node.name == name for node in self._services.view.nodes())

    def _placed(self, service: bodies.ServiceWish, entry: bodies.CatalogEntry) -> bodies.ServiceWish:
        """Return an instance with the address of its node, which only the entry tells."""
        registration: Registration = service.registration
        if not self._is_member(entry.node):
            if not (registration.address or entry.address):
                raise BadRequest("a registration in the catalog needs an Address")
            registration = replace(
                registration,
                address=registration.address or entry.address,
                meta={**registration.meta, EXTERNAL_NODE: entry.node},
            )
        return replace(service, registration=registration)

    def _key_of_catalog_check(self, check: bodies.CheckOf, entry: bodies.CatalogEntry) -> Key:
        if entry.service is not None and check.service_id in ("", entry.service.id):
            return entry.service.service, entry.service.id
        if not check.service_id:
            raise BadRequest("a check in the catalog needs a ServiceID: nodes are judged by the cluster itself")
        return self._key_of(check.service_id)

    def _put_catalog_check(self, key: Key, check: bodies.CheckOf, client: str) -> None:
        self._services.put_check(*key, check.wish, client=client)
        if not (check.wish.ttl_s or check.wish.http or check.wish.tcp):
            # Registered again it would keep its state; what a tool says in the catalog is the state.
            self._services.update_check(*key, check.wish.id, check.wish.status, check.output, client=client)

    async def _catalog_deregister(self, exchange: Exchange, query: Query, _: str) -> None:
        removal = bodies.catalog_removal(await self._fields(exchange, "a removal from the catalog"))
        client = exchange.client
        if removal.check_id:
            key = key_of_check(self._services.view, removal.check_id)
            if key is not None:
                self._services.drop_check(*key, removal.check_id, client=client)
            return
        is_member = self._is_member(removal.node)
        if not removal.service_id and is_member:
            raise BadRequest(f"{removal.node!r} is a member of the cluster: it leaves by `ringkeep drain`, not by this")
        view = self._services.view
        found = [
            seen
            for name in view.services()
            for seen in view.instances(name)
            if (is_member or seen.instance.meta.get(EXTERNAL_NODE) == removal.node)
            and removal.service_id in ("", seen.instance.id)
        ]
        if removal.service_id:
            one_of(found, removal.service_id)
        for seen in found:
            self._services.deregister(*seen.instance.key, client=client)
