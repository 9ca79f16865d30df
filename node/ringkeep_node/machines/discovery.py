"""The registry's place in a node: what it learns of the others from the map and gossip, and what gossip tells of it.

map (names, addresses, zones) + SWIM (alive, dead, left) --> facts --> registry
boot and version of the own table --> gossip value ``services`` --> whoever lacks it asks for the difference
"""

from __future__ import annotations

from urllib.parse import urlsplit

from ringkeep_core.services import NodeHealth
from ringkeep_core.shardmap import ShardMap
from ringkeep_node.machines.registry import Registry, RegistrySettings, RegistryStep
from ringkeep_node.machines.registry_view import NodeFact
from ringkeep_node.machines.swim.machine import Swim
from ringkeep_node.machines.swim.members import MemberState, MemberView

SERVICES_KEY = "services"
NUMBER_DIGITS = 16
HEALTH = {
    MemberState.ALIVE: NodeHealth.ALIVE,
    MemberState.SUSPECT: NodeHealth.SUSPECT,
    MemberState.DEAD: NodeHealth.DEAD,
    MemberState.LEFT: NodeHealth.LEFT,
}


class Discovery:
    """See the module. ``stale`` asks for new facts with the next step."""

    def __init__(self, me: NodeFact, swim: Swim, settings: RegistrySettings, *, now: float) -> None:
        self.registry = Registry(me, settings, now=now)
        self.registry.awaits_members = True
        self.stale = True
        self._own = me
        self._swim = swim
        self._told = 0
        self._why: dict[str, tuple[NodeHealth, str]] = {}

    def next_deadline(self) -> float | None:
        """When ``tick`` may have something to do."""
        return self.registry.next_deadline()

    def tick(self, *, now: float) -> None:
        """Fire what is due."""
        due = self.registry.next_deadline()
        if due is not None and now >= due:
            self.registry.tick(now=now)

    def take(self, held: ShardMap | None, *, now: float) -> RegistryStep | None:
        """Return what came out since the last call, with the nodes as they are now."""
        if self.stale:
            self.stale = False
            self._learn_members(held, now)
        return self.registry.take()

    def housekeep(self, *, now: float) -> None:
        """Tell how far the own table is, and ask for what others say that they have written."""
        version = self.registry.version
        if version != self._told:
            self._told = version
            self._swim.set_state(SERVICES_KEY, f"{self._own.counter} {version}".encode(), now=now)
        for storage in self._swim.storages():
            counter, _, reached = self._swim.values(storage).get(SERVICES_KEY, b"").partition(b" ")
            if _is_number(counter) and _is_number(reached):
                self.registry.told(storage, int(counter), int(reached), now=now)

    def _learn_members(self, held: ShardMap | None, now: float) -> None:
        views = self._swim.members_at(now)
        facts = [self._own]
        if held is not None:
            for storage, member in held.members.items():
                if storage == self._own.storage:
                    continue
                view = views.get(storage)
                health, why = self._health_of(storage, view)
                facts.append(
                    NodeFact(
                        storage=storage,
                        name=member.name,
                        boot=member.boot if view is None else view.boot or member.boot,
                        counter=member.boot_counter if view is None else max(view.counter, member.boot_counter),
                        url=member.url,
                        address=address_of(member.url),
                        zone=member.zone,
                        health=health,
                        evidence=why,
                    )
                )
        self.registry.awaits_members = held is None
        self.registry.members(facts, map_version=0 if held is None else held.version, now=now)

    def _health_of(self, storage: str, view: MemberView | None) -> tuple[NodeHealth, str]:
        """Return what is believed of a member and why; a reason stays as it was first: further witnesses are no news."""
        health = NodeHealth.ALIVE if view is None else HEALTH[view.state]
        known = self._why.get(storage)
        if known is None or known[0] is not health:
            is_gone = health >= NodeHealth.DEAD
            why = view.evidence[-1].why.value if view is not None and view.evidence and is_gone else ""
            known = self._why[storage] = (health, why)
        return known


def _is_number(text: bytes) -> bool:
    return text.isdigit() and len(text) < NUMBER_DIGITS


def address_of(url: str) -> str:
    """Return the host of a REST base."""
    return urlsplit(url).hostname or ""
