"""What the registry shows, kept ready for reading, and which topic each change moves.

    winner of a key, facts of a node --> InstanceSeen, NodeSeen --> index of exactly the answers that are different now

A topic is a service's name, or one of the three for everything else. Its index is a stamp of the logical clock: never
below 1, greater after each change of the answer, the same while nothing in the answer changed. A service that has gone
keeps its index (a bounded number of them), so that whoever waits for it does not see it fall.

Source: reference/cluster.md 6.1, "Blocking"; counterexamples of the same: consul issues 1244 and 12398 (one index for all).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Protocol

from msgspec import Struct
from msgspec.structs import replace

from ringkeep_core.services import (
    Check,
    Instance,
    InstanceSeen,
    NodeHealth,
    NodeSeen,
    merged_status,
    serf_health,
)

SERVICES_TOPIC = "*services"
NODES_TOPIC = "*nodes"
ANY_TOPIC = "*any"
"""What can be waited for besides a service, which is waited for by its name: the list of services with their tags; the
nodes and their health; any change of anything. No service name begins with a star."""
GONE_SERVICES_MAX = 4096
FIRST_INDEX = 1

Key = tuple[str, str]


class NodesView(Protocol):
    """What a node knows from its first moment: the members by the map and gossip, and what it owns itself by now."""

    def owned(self) -> Sequence[InstanceSeen]:
        """Return the instances that this node owns, by (service, id): what its agent endpoints list."""
        ...

    def nodes(self) -> Sequence[NodeSeen]:
        """Return the nodes of the cluster, dead ones too, by name."""
        ...

    def me(self) -> NodeSeen:
        """Return this node."""
        ...

    def index(self, topic: str) -> int:
        """Return the index of a service (by its name, known or not) or of one of the topics above."""
        ...


class RegistryView(NodesView, Protocol):
    """What can be read of the registry at this node: plain look-ups in memory, nothing waits, nothing is asked of others.

    Every answer has an index. It is at least 1, grows only when the answer changed, and is told per service: a change of
    one service moves the index of no other one. Indexes are stamps of one logical clock that all nodes share, so nodes
    which know the same mostly name the same index; it may be lower at another node (or after a restart), as Consul's may.
    Whoever waits with an index that is not the present one, lower or higher, is to be answered at once.
    """

    def services(self) -> Mapping[str, tuple[str, ...]]:
        """Return every service name with the sorted union of the tags of its instances, sorted by name.

        Without the built-in ``NODE_NAMES``, which ``nodes`` makes up, and without ``NODE_SERVICE``.
        """
        ...

    def instances(self, service: str) -> Sequence[InstanceSeen]:
        """Return all instances of a service, whatever their status, in ONE order: by id. Empty for unknown names.

        The order is the same at every node, for every kind of answer and over changes of owners: Traefik pairs the rows
        of two answers by position.
        """
        ...

    def get(self, service: str, instance_id: str) -> InstanceSeen | None:
        """Return one instance, or None."""
        ...

    def find(self, instance_id: str) -> Sequence[InstanceSeen]:
        """Return the instances of any service with this id, those that this node owns first.

        Consul's agent names an instance by its id alone.
        """
        ...


class NodeFact(Struct, frozen=True):
    """What the map and gossip say of a node."""

    storage: str
    name: str
    boot: str
    counter: int
    url: str
    address: str
    zone: str
    health: NodeHealth
    evidence: str = ""


class _Shown(Struct):
    """The instances of one service by id, and how often each tag occurs."""

    by_id: dict[str, InstanceSeen]
    tags: dict[str, int]
    sorted: tuple[InstanceSeen, ...] | None = None


class SeenServices:
    """The read side: implements ``RegistryView``. The registry alone changes it.

    Topics whose answers changed gather in ``changed`` until they are taken.
    """

    def __init__(self, me: str) -> None:
        self._me = me
        self._services: dict[str, _Shown] = {}
        self._nodes: dict[str, NodeSeen] = {}
        self._node_checks: dict[str, tuple[Check, ...]] = {}
        self._owned_by: dict[str, dict[Key, None]] = {}
        self._by_id: dict[str, dict[str, None]] = {}
        self._indexes: dict[str, int] = {}
        self._sorted_nodes: tuple[NodeSeen, ...] | None = None
        self._services_answer: Mapping[str, tuple[str, ...]] = MappingProxyType({})
        self._unsettled: int | None = None
        """The stamp of the last change that may have made another list of services."""
        self.changed: set[str] = set()

    # --- reading -------------------------------------------------------------------------------------------------

    def services(self) -> Mapping[str, tuple[str, ...]]:
        """See ``RegistryView``."""
        self.settle()
        return self._services_answer

    def instances(self, service: str) -> Sequence[InstanceSeen]:
        """See ``RegistryView``."""
        shown = self._services.get(service)
        if shown is None:
            return ()
        if shown.sorted is None:
            shown.sorted = tuple(shown.by_id[each] for each in sorted(shown.by_id))
        return shown.sorted

    def find(self, instance_id: str) -> Sequence[InstanceSeen]:
        """See ``RegistryView``."""
        found = [self._services[service].by_id[instance_id] for service in sorted(self._by_id.get(instance_id, ()))]
        return sorted(found, key=lambda seen: seen.node.storage != self._me)

    def get(self, service: str, instance_id: str) -> InstanceSeen | None:
        """Return one instance, or None."""
        shown = self._services.get(service)
        return None if shown is None else shown.by_id.get(instance_id)

    def at_its_address(self, instance: Instance) -> Instance:
        """Return an instance that says the address at which it is shown: another owner has another address."""
        seen = self.get(instance.service, instance.id)
        return instance if instance.address or seen is None else replace(instance, address=seen.address)

    def owned(self) -> Sequence[InstanceSeen]:
        """See ``RegistryView``."""
        return tuple(self._services[service].by_id[id_] for service, id_ in sorted(self._owned_by.get(self._me, ())))

    def nodes(self) -> Sequence[NodeSeen]:
        """See ``RegistryView``."""
        if self._sorted_nodes is None:
            self._sorted_nodes = tuple(sorted(self._nodes.values(), key=lambda node: node.name))
        return self._sorted_nodes

    def me(self) -> NodeSeen:
        """See ``RegistryView``."""
        return self._nodes[self._me]

    def index(self, topic: str) -> int:
        """See ``RegistryView``."""
        if topic == SERVICES_TOPIC:
            self.settle()
        return self._indexes.get(topic, FIRST_INDEX)

    def instance_counts(self) -> dict[str, int]:
        """Return how many instances there are by status, for the metrics."""
        counts = {"passing": 0, "warning": 0, "critical": 0}
        for shown in self._services.values():
            for seen in shown.by_id.values():
                counts[seen.status] += 1
        return counts

    # --- changing ------------------------------------------------------------------------------------------------

    def node(self, fact: NodeFact, stamp: int) -> None:
        """Take what is known of a node now."""
        self._show_node(fact.storage, fact, stamp)

    def node_checks(self, storage: str, checks: tuple[Check, ...], stamp: int) -> None:
        """Take the checks that a node has of its own."""
        if self._node_checks.get(storage, ()) == checks:
            return
        self._node_checks[storage] = checks
        if storage in self._nodes:
            self._show_node(storage, None, stamp)

    def drop_node(self, storage: str, stamp: int) -> None:
        """Forget a node that is no member any more; its instances must have gone before."""
        self._node_checks.pop(storage, None)
        self._owned_by.pop(storage, None)
        if self._nodes.pop(storage, None) is not None:
            self._sorted_nodes = None
            self._move((NODES_TOPIC,), stamp)

    def put(self, key: Key, instance: Instance, owner: str, *, created: int, stamp: int) -> None:
        """Show an instance as its owner has it now."""
        service, id_ = key
        before = self.get(service, id_)
        if before is not None and before.node.storage != owner:
            self._owned_by.get(before.node.storage, {}).pop(key, None)
        self._owned_by.setdefault(owner, {})[key] = None
        node = self._nodes[owner]
        if before is not None and before.instance is instance and before.node is node:
            return
        seen = InstanceSeen(
            instance=instance,
            node=node,
            status=merged_status(check.status for check in (*instance.checks, *node.checks)),
            address=instance.address or node.address,
            create_index=created,
            modify_index=0,
        )
        if before is not None and _same(before, seen):
            seen = replace(seen, modify_index=before.modify_index)
            self._place(key, before, seen, stamp)
            return
        moved = self._move((service,), stamp)
        self._place(key, before, replace(seen, modify_index=moved[service]), stamp)

    def remove(self, key: Key, stamp: int) -> None:
        """Show an instance no more."""
        service, id_ = key
        before = self.get(service, id_)
        if before is None:
            return
        self._owned_by.get(before.node.storage, {}).pop(key, None)
        self._by_id[id_].pop(service, None)
        if not self._by_id[id_]:
            del self._by_id[id_]
        self._place(key, before, None, stamp)
        self._move((service,), stamp)

    def settle(self) -> None:
        """Judge whether the list of services is another one after all that changed.

        Not with each change: of several at once, one may take away the tag that the next one brings back.
        """
        if self._unsettled is None:
            return
        stamp, self._unsettled = self._unsettled, None
        answer = {name: tuple(sorted(self._services[name].tags)) for name in sorted(self._services)}
        if answer != self._services_answer:
            self._services_answer = MappingProxyType(answer)
            self._move((SERVICES_TOPIC,), stamp)

    def _place(self, key: Key, before: InstanceSeen | None, after: InstanceSeen | None, stamp: int) -> None:
        """Put ``after`` in the place of ``before``, and note if the list of services or its tags may be another one."""
        service, id_ = key
        shown = self._services.get(service)
        is_other = shown is None
        if shown is None:
            shown = self._services[service] = _Shown({}, {})
            self._indexes.setdefault(service, FIRST_INDEX)
        old_tags = before.instance.tags if before is not None else ()
        new_tags = after.instance.tags if after is not None else ()
        if old_tags != new_tags:
            for tag in new_tags:
                shown.tags[tag] = shown.tags.get(tag, 0) + 1
                is_other = is_other or shown.tags[tag] == 1
            for tag in old_tags:
                shown.tags[tag] -= 1
                if not shown.tags[tag]:
                    del shown.tags[tag]
                    is_other = True
        if after is None:
            del shown.by_id[id_]
            if not shown.by_id:
                del self._services[service]
                is_other = True
        else:
            shown.by_id[id_] = after
            self._by_id.setdefault(id_, {})[service] = None
        shown.sorted = None
        if is_other:
            self._unsettled = max(stamp, self._unsettled or 0)

    def _show_node(self, storage: str, fact: NodeFact | None, stamp: int) -> None:
        before = self._nodes.get(storage)
        own = self._node_checks.get(storage, ())
        if fact is not None:
            node = NodeSeen(
                name=fact.name,
                storage=storage,
                boot=fact.boot,
                address=fact.address,
                url=fact.url,
                zone=fact.zone,
                health=fact.health,
                checks=(serf_health(fact.health, fact.evidence), *own),
                create_index=stamp if before is None else before.create_index,
                modify_index=0 if before is None else before.modify_index,
            )
        else:
            assert before is not None
            node = replace(before, checks=(before.checks[0], *own))
        if node == before:
            return
        self._sorted_nodes = None
        if before is None or _shown_node(before) != _shown_node(node):
            node = replace(node, modify_index=self._move((NODES_TOPIC,), stamp)[NODES_TOPIC])
        self._nodes[storage] = node
        for key in list(self._owned_by.get(storage, ())):
            seen = self.get(*key)
            if seen is not None:
                self.put(key, seen.instance, storage, created=seen.create_index, stamp=stamp)

    def _move(self, topics: Iterable[str], stamp: int) -> dict[str, int]:
        """Give topics whose answers changed their next index."""
        moved = {}
        for topic in (*topics, ANY_TOPIC):
            index = max(self._indexes.pop(topic, FIRST_INDEX) + 1, stamp)
            self._indexes[topic] = moved[topic] = index
            self.changed.add(topic)
        if len(self._indexes) > GONE_SERVICES_MAX + len(self._services):
            self._forget_gone()
        return moved

    def _forget_gone(self) -> None:
        """Forget the index of the service that has been gone for longest: who waits for it still waits."""
        for topic in self._indexes:
            if topic not in self._services and not topic.startswith("*"):
                del self._indexes[topic]
                return


def _same(one: InstanceSeen, other: InstanceSeen) -> bool:
    """Return whether two pictures of an instance give the same answers: their order among registrations is not shown."""
    return (
        replace(one.instance, lamport=0) == replace(other.instance, lamport=0)
        and one.status == other.status
        and one.address == other.address
        and _shown_node(one.node) == _shown_node(other.node)
    )


def _shown_node(node: NodeSeen) -> tuple[object, ...]:
    return node.storage, node.name, node.address, node.url, node.zone, node.boot, node.checks
