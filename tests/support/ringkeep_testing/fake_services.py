"""The registry behind the HTTP edge for tests: the real machine on virtual time, with nobody else or with neighbours that
the test writes down. Waiting is real; what wakes whom is counted."""

from __future__ import annotations

import asyncio

from ringkeep_core.errors import NotFound
from ringkeep_core.services import (
    NO_RANGES,
    NODE_SERVICE,
    CheckWish,
    InstanceSeen,
    NodeHealth,
    Ranges,
    Registration,
    check_registration,
    check_wish,
)
from ringkeep_node.machines.registry import Registry, RegistrySettings
from ringkeep_node.machines.registry_view import NodeFact, SeenServices
from ringkeep_testing.fake_driver import FakeIdentity

ME = FakeIdentity()


def fact(name: str = "n1", address: str = "127.0.0.1", *, health: NodeHealth = NodeHealth.ALIVE) -> NodeFact:
    """Return what is known of a node of the fake driver's cluster."""
    storage = f"500000000000000{name[1:]}"
    return NodeFact(storage, name, f"b00000000000000{name[1:]}", 1, f"http://{address}:8081", address, "z1", health)


class FakeServices:
    """Implements what the runtime offers of the registry. ``now`` moves by ``pass_time`` only."""

    def __init__(self, *, ranges: Ranges = NO_RANGES, me: NodeFact | None = None) -> None:
        self.now = 1000.0
        self.ranges = ranges
        self.registry = Registry(me or fact(), RegistrySettings(), now=self.now)
        self.clients: list[str] = []
        self.wakes: list[str] = []
        """The topic of every wait that was woken."""
        self.waiting: dict[str, set[asyncio.Future[None]]] = {}

    @property
    def view(self) -> SeenServices:
        """What can be read."""
        return self.registry.view

    def nodes(self, *facts: NodeFact) -> None:
        """Let this node hear how all nodes are."""
        self.registry.members(facts, now=self.now)
        self._took("")

    def pass_time(self, seconds: float) -> None:
        """Let time pass at once."""
        self.now += seconds
        self.registry.tick(now=self.now)
        self._took("")

    def register(
        self, service: str, instance_id: str, registration: Registration, *, client: str, keep_checks: bool = False
    ) -> InstanceSeen:
        """Register an instance."""
        instance = check_registration(
            service, instance_id, registration, node_address=self.view.me().address, ranges=self.ranges
        )
        self.registry.register(instance, now=self.now, keep_checks=keep_checks)
        self._took(client)
        return self._seen(service, instance_id)

    def update_check(
        self, service: str, instance_id: str, check_id: str, status: str, output: str, *, client: str
    ) -> None:
        """Tell the state of a check."""
        self.registry.update_check(service, instance_id, check_id, status, output, now=self.now)
        self._took(client)

    def put_check(self, service: str, instance_id: str, wish: CheckWish, *, client: str) -> None:
        """Add a check."""
        me = self.view.me()
        own = (me.address, me.port)
        if service != NODE_SERVICE:
            seen = self._seen(service, instance_id)
            own = (seen.address, seen.instance.port)
        check = check_wish(wish, default_id=f"service:{instance_id}", own=own, ranges=self.ranges)
        self.registry.put_check(service, instance_id, check, now=self.now)
        self._took(client)

    def drop_check(self, service: str, instance_id: str, check_id: str, *, client: str) -> None:
        """Take a check away."""
        self.registry.drop_check(service, instance_id, check_id, now=self.now)
        self._took(client)

    def deregister(self, service: str, instance_id: str, *, client: str) -> bool:
        """Remove an instance."""
        was_there = self.registry.deregister(service, instance_id, now=self.now)
        self._took(client)
        return was_there

    async def wait(self, topic: str, index: int, *, timeout_s: float) -> int:
        """Return when the index of a topic is another one, or the time is up."""
        if self.view.index(topic) == index:
            woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self.waiting.setdefault(topic, set()).add(woken)
            try:
                async with asyncio.timeout(timeout_s):
                    await woken
                self.wakes.append(topic)
            except TimeoutError:
                pass
            finally:
                self.waiting[topic].discard(woken)
        return self.view.index(topic)

    @property
    def waits(self) -> int:
        """How many wait now."""
        return sum(map(len, self.waiting.values()))

    def _seen(self, service: str, instance_id: str) -> InstanceSeen:
        seen = self.view.get(service, instance_id)
        if seen is None:
            raise NotFound(f"there is no instance {instance_id!r} of {service!r}")
        return seen

    def _took(self, client: str) -> None:
        """Wake whoever waits for what changed."""
        if client:
            self.clients.append(client)
        step = self.registry.take()
        for topic in step.changed if step is not None else ():
            for woken in self.waiting.get(topic, ()):
                if not woken.done():
                    woken.set_result(None)
