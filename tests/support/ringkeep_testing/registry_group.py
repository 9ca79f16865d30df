"""Several registries in one process, with links that can be cut: what one sends is in the others with ``settle``."""

from __future__ import annotations

from collections import deque

from msgspec.structs import replace

from ringkeep_core.services import CheckWish, Instance, InstanceSeen, NodeHealth, Registration, check_registration
from ringkeep_node.machines.messages import Bundle, decode_bundle, encode_bundle
from ringkeep_node.machines.registry import Registry, RegistrySettings
from ringkeep_node.machines.registry_tables import ServicesMessage
from ringkeep_node.machines.registry_view import NodeFact


def storage_of(name: str) -> str:
    """Return the storage id of a node in these tests: it sorts as the names do."""
    return name.rjust(16, "0")


def fact_of(name: str, *, counter: int = 1, health: NodeHealth = NodeHealth.ALIVE) -> NodeFact:
    """Return what the map and gossip would say of a node."""
    host = f"10.0.0.{int(name[1:])}"
    return NodeFact(
        storage_of(name), name, f"{counter:x}".rjust(16, "b"), counter, f"http://{host}:80", host, "", health
    )


def instance_of(
    service: str = "web", id_: str = "web-1", *, port: int = 80, ttl_s: float = 0.0, tags: tuple[str, ...] = ()
) -> Instance:
    """Return a checked registration, with a ttl check if it has a ttl."""
    checks = (CheckWish(ttl_s=ttl_s),) if ttl_s else ()
    wanted = Registration(address="10.1.0.1", port=port, tags=tags, checks=checks)
    return check_registration(service, id_, wanted, node_address="10.0.0.1")


class RegistryGroup:
    """See the module. ``now`` only moves by ``pass_time``."""

    def __init__(self, count: int = 3, settings: RegistrySettings | None = None) -> None:
        self.now = 0.0
        self.settings = settings or RegistrySettings()
        self.names = [f"n{number}" for number in range(1, count + 1)]
        self.facts = {name: fact_of(name) for name in self.names}
        self.up: dict[str, Registry] = {}
        self.cut: set[frozenset[str]] = set()
        self.topics: dict[str, set[str]] = {name: set() for name in self.names}
        self._wires: deque[tuple[str, str, ServicesMessage]] = deque()
        for name in self.names:
            self.up[name] = Registry(self.facts[name], self.settings, now=self.now)
        for name in self.names:
            self.learn(name)
        for name in self.names:
            for other in self.names:
                if name != other:
                    self.up[name].linked(storage_of(other), now=self.now)
        self.settle()

    def __getitem__(self, name: str) -> Registry:
        return self.up[name]

    def learn(self, name: str) -> None:
        """Let a node hear how all nodes are."""
        self.up[name].members(self.facts.values(), now=self.now)

    def settle(self) -> None:
        """Deliver everything that is sent, and what is sent because of it, over links that are not cut."""
        while True:
            for name, registry in list(self.up.items()):
                step = registry.take()
                if step is not None:
                    self.topics[name] |= step.changed
                    self._wires += [(name, to, message) for to, message in step.sends]
            if not self._wires:
                return
            sender, to, message = self._wires.popleft()
            name = next(each for each in self.names if storage_of(each) == to)
            if name in self.up and frozenset((sender, name)) not in self.cut:
                carried = decode_bundle(encode_bundle(Bundle(node=[message]))).node[0]
                self.up[name].receive(storage_of(sender), carried, now=self.now)  # type: ignore[arg-type]

    def drop(self) -> None:
        """Lose everything that is to be sent."""
        for registry in self.up.values():
            registry.take()

    def gossip(self) -> None:
        """Tell everybody how far the tables of the others are."""
        for name, registry in self.up.items():
            for other, theirs in self.up.items():
                if name != other and frozenset((name, other)) not in self.cut:
                    registry.told(storage_of(other), self.facts[other].counter, theirs.version, now=self.now)
        self.settle()

    def pass_time(self, seconds: float) -> None:
        """Let time pass, with a tick at every deadline."""
        end = self.now + seconds
        while True:
            dues = [due for due in (each.next_deadline() for each in self.up.values()) if due is not None]
            if not dues or min(dues) > end:
                break
            self.now = max(self.now, min(dues))
            for registry in self.up.values():
                registry.tick(now=self.now)
            self.settle()
        self.now = end

    def kill(self, name: str, *, known: bool = True) -> None:
        """End a process; ``known``: everybody hears of it."""
        self.up.pop(name)
        for registry in self.up.values():
            registry.unlinked(storage_of(name))
        if known:
            self.tell_health(name, NodeHealth.DEAD)

    def tell_health(self, name: str, health: NodeHealth) -> None:
        """Let everybody take a node for alive, dead, ..."""
        self.facts[name] = replace(self.facts[name], health=health)
        for other in self.up:
            self.learn(other)
        self.settle()

    def start(self, name: str) -> None:
        """Start a process again: a new boot, with empty memory, whose links come up."""
        counter = self.facts[name].counter + 1
        self.facts[name] = fact_of(name, counter=counter)
        self.up[name] = Registry(self.facts[name], self.settings, now=self.now)
        for other in self.up:
            self.learn(other)
        for other in self.up:
            if other != name:
                self.up[other].linked(storage_of(name), now=self.now)
                self.up[name].linked(storage_of(other), now=self.now)
        self.settle()

    def cut_off(self, name: str) -> None:
        """Cut all links of a node; nobody is told."""
        for other in self.names:
            if other != name:
                self.cut.add(frozenset((name, other)))

    def heal(self) -> None:
        """Let all links come up again."""
        self.cut.clear()
        for name, registry in self.up.items():
            for other in self.up:
                if name != other:
                    registry.linked(storage_of(other), now=self.now)
        self.settle()

    def seen(self, service: str = "web") -> dict[str, list[tuple[str, str, str]]]:
        """Return (id, owner's name, status) of all instances of a service at every node that runs."""
        return {name: [shown(seen) for seen in self.up[name].view.instances(service)] for name in self.up}

    def everywhere(self, *rows: tuple[str, str, str]) -> dict[str, list[tuple[str, str, str]]]:
        """Return what ``seen`` gives when all that run show exactly these rows."""
        return {name: list(rows) for name in self.up}


def shown(seen: InstanceSeen) -> tuple[str, str, str]:
    """Return (id, owner's name, status) of an instance."""
    return seen.instance.id, seen.node.name, seen.status
