"""The registry as the edge uses it: who may change what, who waits for which topic, and the checks that are carried out.

    REST, Consul-compatible paths --> checked, counted for the client --> registry --> step --> links
    step says which topics moved --> whoever waits for one of them, and nobody else
    step says that own checks changed --> ``checks``

    just started --> compared with the others, or nobody is there, or 5 s --> what is registered is told and changed

Before that it is neither, so that clients keep what they know: they would take an empty list for the end of a service.
Every change is in force here when the call returns. Nothing here decides: the machine does (``machines.registry``).
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Callable, Mapping
from typing import NamedTuple

from ringkeep_core.errors import BadRequest, NoPrimary, Overloaded
from ringkeep_core.services import (
    INSTANCES_PER_NODE_MAX,
    NODE_SERVICE,
    CheckWish,
    InstanceSeen,
    Network,
    Ranges,
    Registration,
    check_registration,
    check_service_name,
    check_wish,
)
from ringkeep_node.machines.registry import Registry, RegistrySettings
from ringkeep_node.machines.registry_clients import ClientBuckets
from ringkeep_node.machines.registry_view import NODES_TOPIC, NodesView, RegistryView
from ringkeep_node.runtime.checks import Checks

LOOPBACK = (ipaddress.ip_network("127.0.0.0/8"), ipaddress.ip_network("::1/128"))


class ServicesSettings(NamedTuple):
    """What may be registered, and how much of it. Times are in seconds."""

    addresses: str = ""
    """Address ranges (CIDR, separated by commas) in which registered addresses must lie. Empty: all unicast ones, and
    names."""
    targets: str = ""
    """Address ranges that checks may ask beside the registered address and port themselves; also what is refused
    otherwise: loopback and link-local addresses. A node that is itself reached over loopback may ask loopback."""
    token: str = ""
    """If set, what PUT and DELETE of registrations must show: ``Authorization: Bearer`` or ``X-Consul-Token``."""
    burst: int = 2000
    """Changes, renewals included, that one client address may make at once."""
    changes_per_s: float = 200.0
    """Changes a second that one client address may make in the long run."""
    instances_max: int = INSTANCES_PER_NODE_MAX
    """1..1000 instances that one node owns."""
    waiters_max: int = 4096
    """Queries that may wait for a change at the same time."""
    checks_at_once: int = 64
    """http and tcp checks under way at the same time."""
    removed_after_s: float = 7.0
    """So long after a node was called dead what it owned is forgotten, unless it was renewed elsewhere."""
    tombstone_s: float = 600.0
    """How long a removal is remembered: a partition that lasts longer may bring back what was removed meanwhile."""

    def machine(self) -> RegistrySettings:
        """Return what the machine needs; raise ``ValueError`` for what makes no sense."""
        if not 1 <= self.instances_max <= INSTANCES_PER_NODE_MAX:
            raise ValueError(f"instances_max is 1..{INSTANCES_PER_NODE_MAX}")
        if self.burst < 1 or self.changes_per_s <= 0 or self.checks_at_once < 1:
            raise ValueError("burst, changes_per_s and checks_at_once are greater than 0")
        return RegistrySettings(self.instances_max, self.removed_after_s, self.tombstone_s)

    def ranges(self, *, on_loopback: bool) -> Ranges:
        """Return the ranges; ``on_loopback``: this node is reached over loopback, as in a cluster on one machine."""
        targets = networks(self.targets)
        return Ranges(networks(self.addresses), (*targets, *LOOPBACK) if on_loopback else targets)


def networks(text: str) -> tuple[Network, ...]:
    """Return address ranges that are separated by commas; raise ``ValueError`` for what is none."""
    return tuple(ipaddress.ip_network(part.strip()) for part in text.split(",") if part.strip())


class Services:
    """See the module. Before ``run`` the node belongs to no cluster: everything is refused."""

    def __init__(self, settings: ServicesSettings, ranges: Ranges, *, clock: Callable[[], float]) -> None:
        self.settings = settings
        self._ranges = ranges
        self._clock = clock
        self._registry: Registry | None = None
        self._given: Callable[[], None] = lambda: None
        self.on_changed: Callable[[set[str]], None] = lambda _: None
        """Called with the topics that changed, before anybody who waits goes on."""
        self._clients = ClientBuckets(burst=settings.burst, per_second=settings.changes_per_s)
        self._waiters: dict[str, dict[asyncio.Future[None], None]] = {}
        self._waiting = 0
        self._released = False
        self._checks: Checks | None = None
        self.wake_ups = 0

    # --- life ----------------------------------------------------------------------------------------------------

    def run(self, registry: Registry, given: Callable[[], None]) -> None:
        """Begin: the node runs. ``given`` is called after each input to the machine, so that its step is taken."""
        self._registry, self._given = registry, given
        self._checks = Checks(registry, self._ranges, given, clock=self._clock, at_once=self.settings.checks_at_once)

    def stepped(self, topics: set[str], checks_changed: bool) -> None:
        """A step of the node was carried out: wake who waits for what changed."""
        self.on_changed(topics)
        for topic in topics:
            for waiter in self._waiters.get(topic, ()):
                if not waiter.done():
                    self.wake_ups += 1
                    waiter.set_result(None)
        if checks_changed and self._checks is not None:
            self._checks.changed()

    def release(self) -> None:
        """Let nobody wait any more: the node ends."""
        self._released = True
        for waiters in self._waiters.values():
            for waiter in waiters:
                if not waiter.done():
                    waiter.set_result(None)

    async def close(self) -> None:
        """End the checks."""
        self.release()
        if self._checks is not None:
            await self._checks.close()

    # --- reading -------------------------------------------------------------------------------------------------

    @property
    def view(self) -> RegistryView:
        """What is registered. All that is read and changed of it passes here.

        Raises ``NoPrimary`` on a node that belongs to no cluster yet, ``Overloaded`` on one that has just started.
        """
        return self._informed(self._clock()).view

    @property
    def nodes_view(self) -> NodesView:
        """What is known without the others too. Raises ``NoPrimary`` on a node that belongs to no cluster yet."""
        return self._running().view

    def index(self, topic: str) -> int:
        """Return the index of a topic; of the nodes from the start, else it raises as ``view``."""
        return (self.nodes_view if topic == NODES_TOPIC else self.view).index(topic)

    @property
    def is_informed(self) -> bool:
        """Whether what is registered can be read here."""
        return self._registry is not None and self._registry.is_informed(now=self._clock())

    @property
    def waiting(self) -> int:
        """How many queries wait."""
        return self._waiting

    @property
    def is_released(self) -> bool:
        """Whether nobody waits any more, because the node ends."""
        return self._released

    def counts(self) -> tuple[Mapping[str, int], Mapping[str, int]]:
        """Return instances by status, and events by kind, for the metrics."""
        registry = self._registry
        if registry is None:
            return {}, {}
        events = {
            "lapsed": registry.lapses,
            "adopted": registry.adoptions,
            "owner_removed": registry.removals,
            "refused": self._clients.refused,
            "woken": self.wake_ups,
        }
        return registry.view.instance_counts(), events

    async def wait(
        self, topic: str, index: int, *, timeout_s: float, hung_up: asyncio.Future[None] | None = None
    ) -> int:
        """Return the index of ``topic``: at once if it is not ``index``, else when it changes or the time is up.

        Only changes of that very topic wake the caller. ``hung_up``: whoever asked has gone when this is done. Raises
        ``Overloaded`` when as many wait as may, and as ``view``.
        """
        now_at = self.index(topic)
        if now_at != index or self._released or timeout_s <= 0:
            return now_at
        if self._waiting >= self.settings.waiters_max:
            raise Overloaded(f"{self._waiting} queries wait for changes here, which is as many as may")
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[None] = loop.create_future()
        wake = lambda *_: None if waiter.done() else waiter.set_result(None)  # noqa: E731 - two callers, one line
        timer = loop.call_later(timeout_s, wake)
        if hung_up is not None:
            hung_up.add_done_callback(wake)
        waiters = self._waiters.setdefault(topic, {})
        waiters[waiter] = None
        self._waiting += 1
        try:
            await waiter
        finally:
            timer.cancel()
            if hung_up is not None:
                hung_up.remove_done_callback(wake)
            self._waiting -= 1
            del waiters[waiter]
            if not waiters and self._waiters.get(topic) is waiters:
                del self._waiters[topic]
        return self.index(topic)

    # --- changing ------------------------------------------------------------------------------------------------

    def register(
        self,
        service: str,
        instance_id: str,
        registration: Registration,
        *,
        client: str,
        keep_checks: bool = False,
    ) -> InstanceSeen:
        """Register an instance, in place of one with the same id, and return it.

        The same definition again is a sign of life: it renews, keeps the states of the checks and changes no index.
        ``keep_checks``: checks that are there and not in this registration stay (Consul without
        ``replace-existing-checks``). Raises ``BadRequest``, ``TooManyRequests``, ``Overloaded`` (the node just started).
        """
        registry, now = self._admitted(client)
        check_service_name(service)
        address = registry.view.me().address
        instance = check_registration(service, instance_id, registration, node_address=address, ranges=self._ranges)
        registry.register(instance, now=now, keep_checks=keep_checks)
        self._given()
        seen = registry.view.get(service, instance_id)
        assert seen is not None
        return seen

    def update_check(
        self, service: str, instance_id: str, check_id: str, status: str, output: str | None, *, client: str
    ) -> None:
        """Tell the state of one ttl or manual check; for a ttl check that is a renewal. ``check_id`` "": all ttl checks.

        ``output`` None leaves it as it is. Raises ``NotFound``, ``BadRequest``, ``TooManyRequests``, ``Overloaded``.
        """
        registry, now = self._admitted(client)
        registry.update_check(service, instance_id, check_id, status, output, now=now)
        self._given()

    def put_check(self, service: str, instance_id: str, wish: CheckWish, *, client: str) -> None:
        """Add a check to an instance, in place of one with the same id. Raises as ``register``, and ``NotFound``.

        With ``NODE_SERVICE`` and the node's own name it is a check of the whole node.
        """
        registry, now = self._admitted(client)
        seen = registry.view.get(service, instance_id)
        me = registry.view.me()
        own = (me.address, me.port) if seen is None else (seen.address, seen.instance.port)
        default = f"service:{instance_id}" if service != NODE_SERVICE else ""
        if not wish.id and not default:
            raise BadRequest("a check of a node needs an id")
        check = check_wish(wish, default_id=default, own=own, ranges=self._ranges)
        registry.put_check(service, instance_id, check, now=now)
        self._given()

    def drop_check(self, service: str, instance_id: str, check_id: str, *, client: str) -> None:
        """Take a check away; nothing happens if there is none."""
        registry, now = self._admitted(client)
        registry.drop_check(service, instance_id, check_id, now=now)
        self._given()

    def deregister(self, service: str, instance_id: str, *, client: str) -> bool:
        """Remove an instance; return whether there was one."""
        registry, now = self._admitted(client)
        removed = registry.deregister(service, instance_id, now=now)
        self._given()
        return removed

    def _running(self) -> Registry:
        if self._registry is None:
            raise NoPrimary("this node belongs to no cluster yet")
        return self._registry

    def _admitted(self, client: str) -> tuple[Registry, float]:
        registry, now = self._running(), self._clock()
        self._clients.take(client, now=now)
        self._informed(now)
        return registry, now

    def _informed(self, now: float) -> Registry:
        registry = self._running()
        if not registry.is_informed(now=now):
            raise Overloaded("this node has just started and does not know yet what the others hold")
        return registry
