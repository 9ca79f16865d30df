"""What Consul's clients read: the catalog, health, the agent. Each answer belongs to a topic whose index moves with it.

    catalog/service/web, health/service/web, health/checks/web      topic web
    catalog/services                                               the list of services
    catalog/nodes                                                  the nodes
    catalog/node/n1, health/node/n1, health/state/any, agent/...   anything

Just after a start only the nodes are told, and what the agent is: the rest is refused (``runtime.services``).

The last kind of queries looks at its answer after each change and goes on waiting if it is the same; the first never
wakes for another service. The service ``ringkeep`` is the nodes themselves, as ``consul`` is with Consul.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import partial
from hashlib import blake2b
from importlib.metadata import version
from typing import Any, Final, NamedTuple

from ringkeep_core.errors import BadRequest
from ringkeep_core.services import NODE_NAMES, SERF_HEALTH, InstanceSeen
from ringkeep_node.http import consul_shapes as shapes
from ringkeep_node.http.consul_answers import Consul
from ringkeep_node.http.consul_ids import instance_of
from ringkeep_node.http.consul_queries import Query
from ringkeep_node.http.consul_waiting import Held
from ringkeep_node.http.exchange import Exchange, Handler
from ringkeep_node.http.replies import Reply
from ringkeep_node.http.routing import decoded
from ringkeep_node.machines.registry_builtin import node_instances
from ringkeep_node.machines.registry_view import ANY_TOPIC, NODES_TOPIC, SERVICES_TOPIC

STATES: Final = ("any", "passing", "warning", "critical", "unknown")
HASH_BYTES: Final = 16

Rows = Callable[[], Any]
Select = Callable[[Query, str], tuple[str, Rows]]
"""From a query and the name in the path to the topic of the answer and what makes it."""


class Mark(NamedTuple):
    """What tells one answer from another: its header, the mark that the caller knows, the mark of a topic's answer now."""

    header: str
    known: Callable[[Query], str]
    present: Callable[[str, Callable[[], bytes]], str]


class Reads:
    """The reading half of Consul's paths."""

    def __init__(self, consul: Consul) -> None:
        self._consul = consul
        self._services = consul.services
        self._datacenter = consul.datacenter
        self._beside: Mapping[str, Callable[[], Hashable]] = {"consul_agent_members": self._voters}
        """What the answers of a route depend on beside their topic: what was kept is old when that has changed."""

    def handlers(self) -> Mapping[tuple[str, str], Handler]:
        """Return who answers which method of which route."""
        indexed: dict[str, Select] = {
            "consul_catalog_services": self._catalog_services,
            "consul_catalog_service": self._catalog_service,
            "consul_catalog_nodes": self._catalog_nodes,
            "consul_catalog_node": self._catalog_node,
            "consul_health_service": self._health_service,
            "consul_health_checks": self._health_checks,
            "consul_health_node": self._health_node,
            "consul_health_state": self._health_state,
        }
        hashed: dict[str, Select] = {
            "consul_agent_services": self._agent_services,
            "consul_agent_service": self._agent_service,
            "consul_agent_checks": self._agent_checks,
            "consul_agent_members": self._agent_members,
        }
        plain: dict[str, Callable[[], Any]] = {
            "consul_agent_self": self._agent_self,
            "consul_catalog_datacenters": lambda: [self._datacenter],
            "consul_status_leader": self._leader,
            "consul_status_peers": self._peers,
        }
        handlers: dict[str, Handler] = {
            **{route: partial(self._by_index, select) for route, select in indexed.items()},
            **{route: partial(self._by_hash, select) for route, select in hashed.items()},
            **{route: partial(self._at_once, rows) for route, rows in plain.items()},
        }
        return {(route, method): handler for route, handler in handlers.items() for method in ("GET", "HEAD")}

    # --- how an answer is given ----------------------------------------------------------------------------------

    async def _by_index(self, select: Select, exchange: Exchange) -> Reply:
        """Answer with an index; with the present one in the query, when the answer is another one."""
        services = self._services
        of_index = Mark("X-Consul-Index", lambda it: str(it.index or ""), lambda topic, _: str(services.index(topic)))
        return await self._marked(select, exchange, of_index)

    async def _by_hash(self, select: Select, exchange: Exchange) -> Reply:
        """Answer with a hash of the content; with the present one in the query, when the content is another one."""
        of_hash = Mark("X-Consul-ContentHash", lambda it: it.hash, lambda _, answer: _hash(answer()))
        return await self._marked(select, exchange, of_hash)

    async def _marked(self, select: Select, exchange: Exchange, mark: Mark) -> Reply:
        consul, services = self._consul, self._services
        query = consul.query(exchange)
        name = decoded(exchange.target.key, "path")
        topic, rows = select(query, name)
        key = (exchange.target.route, name, query.filters)
        beside = self._beside.get(exchange.target.route, lambda: None)

        def answer() -> bytes:
            index = services.index(topic)
            is_known = topic.startswith("*") or bool(services.view.instances(topic))
            return consul.encoded.of((*key, beside()), index, rows, is_kept=is_known)

        def reply(body: bytes) -> Reply:
            return consul.reply(exchange, query, body, f"{mark.header}: {mark.present(topic, lambda: body)}\r\n")

        known = mark.known(query)
        if known and known == mark.present(topic, answer):
            return await self._changed(topic, query, exchange, answer, reply)
        return reply(answer())

    async def _changed(
        self,
        topic: str,
        query: Query,
        exchange: Exchange,
        answer: Callable[[], bytes],
        reply: Callable[[bytes], Reply],
    ) -> Reply:
        """Return the answer when it is another one than now, or the time is up."""

        def send(body: bytes) -> Reply | None:
            early = reply(body)
            return early if early.write_early(exchange.request) else None

        held = Held(answer, send)
        waiting = self._consul.waiting
        await waiting.until_changed(topic, query.wait_s, exchange.client, held, exchange.hung_up())
        # Made anew: what is beside the topic wakes nobody, and may have changed meanwhile.
        return held.sent or reply(answer())

    async def _at_once(self, rows: Callable[[], Any], exchange: Exchange) -> Reply:
        self._consul.query(exchange)  # What cannot be answered as it is meant is refused here too.
        return exchange.json(rows())

    # --- catalog and health --------------------------------------------------------------------------------------

    def _instances(self, service: str) -> Sequence[InstanceSeen]:
        services = self._services
        if service == NODE_NAMES:
            return node_instances(services.nodes_view.nodes())
        return services.view.instances(service)

    def _kept(self, service: str, query: Query) -> list[InstanceSeen]:
        return [
            seen
            for seen in self._instances(service)
            if shapes.keeps(seen, query.tags, query.node_meta, is_passing=query.is_passing)
        ]

    def _catalog_services(self, query: Query, _: str) -> tuple[str, Rows]:
        def rows() -> dict[str, Sequence[str]]:
            return {NODE_NAMES: (), **self._services.view.services()}

        if not query.node_meta:
            return SERVICES_TOPIC, rows

        def chosen() -> dict[str, Sequence[str]]:
            found: dict[str, Sequence[str]] = {}
            for name in rows():
                kept = self._kept(name, query)
                if kept:
                    found[name] = sorted({tag for seen in kept for tag in seen.instance.tags})
            return found

        return ANY_TOPIC, chosen

    def _catalog_service(self, query: Query, name: str) -> tuple[str, Rows]:
        # ``passing`` has no meaning in the catalog: Consul's rows there have no checks.
        asked = Query(tags=query.tags, node_meta=query.node_meta)
        return _topic_of(name), lambda: [shapes.catalog_row(seen, self._datacenter) for seen in self._kept(name, asked)]

    def _health_service(self, query: Query, name: str) -> tuple[str, Rows]:
        return _topic_of(name), lambda: [shapes.health_row(seen, self._datacenter) for seen in self._kept(name, query)]

    def _health_checks(self, query: Query, name: str) -> tuple[str, Rows]:
        asked = Query(node_meta=query.node_meta)
        return _topic_of(name), lambda: shapes.all_checks((), self._kept(name, asked))

    def _catalog_nodes(self, query: Query, _: str) -> tuple[str, Rows]:
        return NODES_TOPIC, lambda: [
            shapes.node_row(node, self._datacenter)
            for node in self._services.nodes_view.nodes()
            if shapes.keeps_node(node, query.node_meta)
        ]

    def _everything(self) -> list[InstanceSeen]:
        view = self._services.view
        return [seen for name in view.services() for seen in view.instances(name)]

    def _catalog_node(self, query: Query, name: str) -> tuple[str, Rows]:
        def rows() -> dict[str, Any] | None:
            for node in self._services.view.nodes():
                if node.name == name:
                    owned = [seen for seen in self._everything() if seen.node.storage == node.storage]
                    return shapes.node_services(node, owned, self._datacenter)
            return None

        return ANY_TOPIC, rows

    def _health_node(self, query: Query, name: str) -> tuple[str, Rows]:
        def rows() -> list[dict[str, Any]]:
            nodes = [node for node in self._services.view.nodes() if node.name == name]
            return shapes.all_checks(nodes, [seen for seen in self._everything() if seen.node.name == name])

        return ANY_TOPIC, rows

    def _health_state(self, query: Query, state: str) -> tuple[str, Rows]:
        if state not in STATES:
            raise BadRequest(f"a state is one of {', '.join(STATES)}, not {state[:40]!r}")

        def rows() -> list[dict[str, Any]]:
            nodes = [node for node in self._services.view.nodes() if shapes.keeps_node(node, query.node_meta)]
            seen = [one for one in self._everything() if shapes.keeps_node(one.node, query.node_meta)]
            return [row for row in shapes.all_checks(nodes, seen) if state in ("any", row["Status"])]

        return ANY_TOPIC, rows

    # --- the agent -----------------------------------------------------------------------------------------------

    def _agent_services(self, _: Query, __: str) -> tuple[str, Rows]:
        return ANY_TOPIC, lambda: {
            seen.instance.id: {**shapes.service_row(seen), "Datacenter": self._datacenter}
            for seen in self._services.view.owned()
        }

    def _agent_service(self, _: Query, name: str) -> tuple[str, Rows]:
        def rows() -> dict[str, Any]:
            return {**shapes.service_row(instance_of(self._services.view, name)), "Datacenter": self._datacenter}

        return ANY_TOPIC, rows

    def _agent_checks(self, _: Query, __: str) -> tuple[str, Rows]:
        def rows() -> dict[str, Any]:
            view = self._services.view
            found = shapes.all_checks((view.me(),), view.owned())
            return {row["CheckID"]: row for row in found if row["CheckID"] != SERF_HEALTH}

        return ANY_TOPIC, rows

    def _agent_members(self, _: Query, __: str) -> tuple[str, Rows]:
        def rows() -> list[dict[str, Any]]:
            voters, nodes = self._voters(), self._services.nodes_view.nodes()
            return [shapes.member_row(node, self._datacenter, is_voter=node.storage in voters) for node in nodes]

        return NODES_TOPIC, rows

    def _voters(self) -> frozenset[str]:
        return frozenset(self._consul.driver.voters())

    def _agent_self(self) -> dict[str, Any]:
        driver, view = self._consul.driver, self._services.nodes_view
        me = view.me()
        is_voter = me.storage in driver.voters()
        return {
            "Config": {
                "Datacenter": self._datacenter,
                "PrimaryDatacenter": self._datacenter,
                "NodeName": me.name,
                "NodeID": shapes.node_id(me),
                "Server": is_voter,
                "Revision": "",
                "Version": version("ringkeep"),
            },
            "Member": shapes.member_row(me, self._datacenter, is_voter=is_voter),
            "Meta": shapes.node_meta(me),
            "Stats": {"agent": {"services": str(len(view.owned()))}},
        }

    def _peer_of(self) -> dict[str, str]:
        return {member.storage_id: member.peer for member in self._consul.driver.members()}

    def _leader(self) -> str:
        driver = self._consul.driver
        leader = driver.leader()
        if leader is None:
            return ""
        return next((member.peer for member in driver.members() if member.name == leader.name), "")

    def _peers(self) -> list[str]:
        peers = self._peer_of()
        return sorted(peers[voter] for voter in self._consul.driver.voters() if voter in peers)


def _topic_of(service: str) -> str:
    if service.startswith("*"):
        raise BadRequest("a service name does not begin with '*'")
    return NODES_TOPIC if service == NODE_NAMES else service


def _hash(body: bytes) -> str:
    return blake2b(body, digest_size=HASH_BYTES).hexdigest()
