"""The registry behind the HTTP edge for tests: the real machine and the real runtime on virtual time, with nobody else or
with neighbours that the test writes down. What wakes whom is written down too."""

from __future__ import annotations

from ringkeep_core.services import NO_RANGES, NodeHealth, Ranges
from ringkeep_node.machines.registry import Registry, RegistrySettings
from ringkeep_node.machines.registry_tables import ServicesKnown
from ringkeep_node.machines.registry_view import NodeFact
from ringkeep_node.runtime.services import Services, ServicesSettings

SETTINGS = ServicesSettings()


def fact(name: str = "n1", address: str = "127.0.0.1", *, health: NodeHealth = NodeHealth.ALIVE) -> NodeFact:
    """Return what is known of a node of the fake driver's cluster."""
    storage = f"500000000000000{name[1:]}"
    return NodeFact(storage, name, f"b00000000000000{name[1:]}", 1, f"http://{address}:8081", address, "z1", health)


class FakeServices(Services):
    """``now`` moves by ``pass_time`` only; waits end by real time, which tests avoid."""

    def __init__(self, *, ranges: Ranges = NO_RANGES, settings: ServicesSettings = SETTINGS) -> None:
        super().__init__(settings, ranges, clock=lambda: self.now)
        self.now = 1000.0
        self.registry = Registry(fact(), RegistrySettings(), now=self.now)
        self.run(self.registry, self._took)
        self.wakes: list[str] = []
        """The topic of every wait that was woken by a change."""

    def nodes(self, *facts: NodeFact, have_compared: bool = True) -> None:
        """Let this node hear how all nodes are, and what they hold: nothing that it does not hold itself."""
        self.registry.members(facts, now=self.now)
        if have_compared:
            self.registry.receive(facts[-1].storage, ServicesKnown((), asks=False), now=self.now)
        self._took()

    def pass_time(self, seconds: float) -> None:
        """Let time pass at once."""
        self.now += seconds
        self.registry.tick(now=self.now)
        self._took()

    def stepped(self, topics: set[str], checks_changed: bool) -> None:
        """Write down who is woken."""
        self.wakes += [topic for topic in sorted(topics) for _ in self._waiters.get(topic, ())]
        super().stepped(topics, checks_changed)

    def _took(self) -> None:
        step = self.registry.take()
        if step is not None:
            self.stepped(step.changed, step.checks_changed)
