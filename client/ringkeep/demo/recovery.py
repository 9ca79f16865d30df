"""How long the writes of a dead node's shards had to wait. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable

import msgspec

from ringkeep.answers import ShardMap
from ringkeep.demo.writer import Acknowledged


class Recovery(msgspec.Struct, frozen=True):
    """Seconds from the kill to the first acknowledgement by the shards' new primaries: the earliest and the latest."""

    shards_seen: int
    first_s: float
    last_s: float


def busiest_primary(shard_map: ShardMap, *, other_than: Collection[str] = ()) -> tuple[str, dict[int, int]]:
    """Return the node that is primary for most shards (``other_than`` some), and the epoch of each of them."""
    epochs: dict[str, dict[int, int]] = {}
    for shard in shard_map.shards:
        if shard.primary is not None and shard.primary.name not in other_than:
            epochs.setdefault(shard.primary.name, {})[shard.shard] = shard.epoch
    name = max(sorted(epochs), key=lambda node: len(epochs[node]))
    return name, epochs[name]


def first_after(acknowledged: Iterable[Acknowledged], epochs: dict[int, int], *, killed_at: float) -> dict[int, float]:
    """Return for each shard when a write was first acknowledged in a later epoch than the one in ``epochs``.

    The epoch tells a new primary's acknowledgement from one that the dead node sent with its last breath.
    """
    first: dict[int, float] = {}
    for write in acknowledged:
        if write.at >= killed_at and write.epoch > epochs.get(write.shard, write.epoch):
            first.setdefault(write.shard, write.at)
    return first


def recovery(first: dict[int, float], *, killed_at: float) -> Recovery:
    """Return the summary of ``first_after``; there must be at least one shard in it."""
    return Recovery(len(first), min(first.values()) - killed_at, max(first.values()) - killed_at)
