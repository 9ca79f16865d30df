"""How the shards are: counted from the map and from who lives, the same for the status and for every gate.

    unavailable > under-replicated > moving > ok: a shard counts once, as the worst that is true of it

Source: docs/kubernetes.md, status.shards.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from ringkeep_core.resource import ShardCounts
from ringkeep_core.shardmap import Shard, ShardMap
from ringkeep_core.shardrules import is_leaving
from ringkeep_operator.state import SeenMember

LIVING = frozenset({"alive", "suspect", "joining"})
"""States of a member that may serve: suspicion alone takes nothing away."""


def counts_of(shard_map: ShardMap, members: Iterable[SeenMember]) -> ShardCounts:
    """Return how many shards are in which state."""
    living = {member.storage_id for member in members if member.state in LIVING}
    leaving = {storage for storage, member in shard_map.members.items() if is_leaving(shard_map.wanted, member.name)}
    wanted = shard_map.copies_wanted()
    counts = dict.fromkeys(("unavailable", "under_replicated", "moving", "ok"), 0)
    for shard in shard_map.shards:
        counts[_state_of(shard, living, leaving, wanted)] += 1
    return ShardCounts(total=len(shard_map.shards), **counts)


def _state_of(shard: Shard, living: set[str], leaving: set[str], wanted: int) -> str:
    in_sync = [copy.storage for copy in shard.in_sync]
    alive = sum(1 for storage in in_sync if storage in living)
    if shard.primary.storage not in living or alive < shard.need:
        return "unavailable"
    if alive < wanted:
        return "under_replicated"
    if shard.learners or len(in_sync) != wanted or any(storage in leaving for storage in in_sync):
        return "moving"
    return "ok"


def only_complete_copies(shard_map: ShardMap, storage: str, living: Collection[str]) -> int:
    """Return of how many shards ``storage`` has a complete copy that no living member has: what would be lost with it.

    A copy on another member that is down counts for nothing: it may be lost as well, and judged at the same moment.
    """
    return sum(
        1
        for shard in shard_map.shards
        if shard.is_complete(storage)
        and not any(copy.storage != storage and copy.storage in living for copy in (*shard.in_sync, *shard.eligible))
    )
