"""The nodes of the cluster as instances of a service that nobody registers: who looks for this cluster finds it as well.

Consul's agents show themselves as the service ``consul`` in the same way.
"""

from __future__ import annotations

from collections.abc import Iterable

from ringkeep_core.services import NODE_NAMES, Instance, InstanceSeen, NodeSeen, merged_status


def node_instances(nodes: Iterable[NodeSeen]) -> tuple[InstanceSeen, ...]:
    """Return every node's REST interface as an instance of ``NODE_NAMES``, by id, which is the node's name."""
    return tuple(
        InstanceSeen(
            instance=Instance(NODE_NAMES, node.name, port=node.port),
            node=node,
            status=merged_status(check.status for check in node.checks),
            address=node.address,
            create_index=node.create_index,
            modify_index=node.modify_index,
        )
        for node in sorted(nodes, key=lambda each: each.name)
    )
