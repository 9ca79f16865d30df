"""The services that nobody registers: the nodes of the cluster, and who holds which shard. Made from what is known anyway.

They are no part of the registry's tables and indexes: ``ringkeep`` changes with the topic of the nodes, the holders of a
shard with the version of the shard map.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ringkeep_core.services import NODE_NAMES, Instance, InstanceSeen, NodeSeen, merged_status
from ringkeep_core.shardmap import ShardMap

SHARD_NAMES = f"{NODE_NAMES}-shard"
"""The built-in service of all primaries; in DNS each shard has a name of its own, ``_shard-<n>``."""


def node_instances(nodes: Iterable[NodeSeen]) -> tuple[InstanceSeen, ...]:
    """Return every node as an instance of ``NODE_NAMES``: where its REST interface is."""
    return tuple(
        _seen(node, Instance(NODE_NAMES, node.name, node.address, node.port, meta=_meta(node)), node.modify_index)
        for node in nodes
    )


def shard_instances(shard_map: ShardMap, nodes: Iterable[NodeSeen], shard: int) -> tuple[InstanceSeen, ...]:
    """Return who holds a shard in sync, its primary first: tagged ``primary`` or ``replica``. Empty: no such shard."""
    if not 0 <= shard < len(shard_map.shards):
        return ()
    row = shard_map.shards[shard]
    by_storage = {node.storage: node for node in nodes}
    holders = (row.primary.storage, *(copy.storage for copy in row.in_sync if copy.storage != row.primary.storage))
    return tuple(
        _shard_seen(shard, row.epoch, by_storage[storage], place == 0, shard_map.version)
        for place, storage in enumerate(holders)
        if storage in by_storage
    )


def primary_instances(shard_map: ShardMap, nodes: Iterable[NodeSeen]) -> tuple[InstanceSeen, ...]:
    """Return the primary of every shard as instances of ``SHARD_NAMES``, by number of the shard."""
    by_storage = {node.storage: node for node in nodes}
    return tuple(
        _shard_seen(shard, row.epoch, by_storage[row.primary.storage], True, shard_map.version)
        for shard, row in enumerate(shard_map.shards)
        if row.primary.storage in by_storage
    )


def selected(instances: Sequence[InstanceSeen], *, tags: Sequence[str], passing: bool) -> tuple[InstanceSeen, ...]:
    """Return the instances that have all these tags and, if that is asked for, pass; in the order they had."""
    return tuple(
        seen
        for seen in instances
        if (not passing or seen.status == "passing") and all(tag in seen.instance.tags for tag in tags)
    )


def _shard_seen(shard: int, epoch: int, node: NodeSeen, is_primary: bool, version: int) -> InstanceSeen:
    instance = Instance(
        SHARD_NAMES,
        f"{shard}" if is_primary else f"{shard}-{node.name}",
        node.address,
        node.port,
        tags=("primary" if is_primary else "replica", f"shard-{shard}"),
        meta={**_meta(node), "epoch": f"{epoch}"},
    )
    return _seen(node, instance, version)


def _seen(node: NodeSeen, instance: Instance, index: int) -> InstanceSeen:
    status = merged_status(check.status for check in node.checks)
    return InstanceSeen(instance, node, status, node.address, node.create_index, index)


def _meta(node: NodeSeen) -> dict[str, str]:
    return {"zone": node.zone, "boot_id": node.boot, "storage_id": node.storage}
