"""What DNS names: the registry and the shard map of this node, read at the moment of each question.

Healthy is what is not critical: an instance that warns is found, with the weight that it has then. Host names, which nodes
have in Kubernetes, are answered with their addresses as soon as those are known (``resolve``), else as a CNAME.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ringkeep_core.services import NODE_NAMES, InstanceSeen, NodeHealth, NodeSeen
from ringkeep_core.shardmap import ShardMap
from ringkeep_node.dns.answers import Place
from ringkeep_node.machines.registry_builtin import node_instances
from ringkeep_node.machines.registry_view import ANY_TOPIC, NodesView, RegistryView

Resolve = Callable[[str], str | None]
"""Returns the IP address of a host as far as it is known now; it never waits."""


class RegistryNames:
    """Implements ``answers.Names``. Both views raise ``NoPrimary`` while this node belongs to no cluster.

    ``view`` raises ``Overloaded`` on a node that has just started: "no such name" would end what others still offer.
    """

    def __init__(
        self,
        view: Callable[[], RegistryView],
        nodes_view: Callable[[], NodesView],
        shard_map: Callable[[], ShardMap | None],
        resolve: Resolve,
        *,
        datacenter: str,
    ) -> None:
        self.datacenter = datacenter
        self._view, self._nodes_view = view, nodes_view
        self._shard_map, self._resolve = shard_map, resolve

    @property
    def serial(self) -> int:
        """See ``Names``."""
        return self._nodes_view().index(ANY_TOPIC)

    def service(self, name: str, tag: str | None) -> Sequence[Place]:
        """See ``Names``."""
        is_built_in = name == NODE_NAMES
        seen = node_instances(self._nodes_view().nodes()) if is_built_in else self._view().instances(name)
        return [self._place(one) for one in seen if one.status != "critical" and _has(one, tag)]

    def has_longer_tag(self, name: str, end: str) -> bool:
        """See ``Names``."""
        seen = self._view().instances(name)
        tags = (tag.lower() for one in seen if one.status != "critical" for tag in one.instance.tags)
        return any(tag.endswith(f".{end}") for tag in tags)

    def shard(self, number: int) -> Place | None:
        """See ``Names``."""
        held = self._shard_map()
        if held is None or number >= len(held.shards):
            return None
        storage = held.shards[number].primary.storage
        for node in self._nodes_view().nodes():
            if node.storage == storage and node.health in (NodeHealth.ALIVE, NodeHealth.SUSPECT):
                return Place(node.name, self._known(node.address), node.port)
        return None

    def node(self, name: str) -> str | None:
        """See ``Names``."""
        node = self._node(name)
        return None if node is None else self._known(node.address)

    def own_address(self) -> str:
        """See ``Names``."""
        return self._known(self._nodes_view().me().address)

    def _node(self, name: str) -> NodeSeen | None:
        return next((node for node in self._nodes_view().nodes() if node.name == name), None)

    def _place(self, seen: InstanceSeen) -> Place:
        weights = seen.instance.weights
        weight = weights.passing if seen.status == "passing" else weights.warning
        return Place(seen.node.name, self._known(seen.address), seen.instance.port, weight)

    def _known(self, address: str) -> str:
        return self._resolve(address) or address


def _has(seen: InstanceSeen, tag: str | None) -> bool:
    return tag is None or any(own.lower() == tag for own in seen.instance.tags)
