"""How well each shard is kept, judged from the map and the members. Pure.

unavailable        no primary, the primary's node is dead, or fewer copies in sync than a write needs
under-replicated   fewer copies in sync than the cluster has room for
moving             full strength, and another copy is being built
ok                 full strength
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum

from ringkeep.answers import Member, Shard, ShardMap


class ShardState(StrEnum):
    """The state of a shard, from best to worst."""

    OK = "ok"
    MOVING = "moving"
    UNDER_REPLICATED = "under-replicated"
    UNAVAILABLE = "unavailable"


def copies_wanted(shard_map: ShardMap) -> int:
    """Return the copies of a shard at full strength: the replication factor, or fewer if fewer nodes can hold one."""
    wanted = shard_map.wanted if isinstance(shard_map.wanted, dict) else {}
    settings = wanted.get("settings")
    factor = (settings if isinstance(settings, dict) else wanted).get("replication_factor")
    members = wanted.get("members")
    able = 0
    if isinstance(members, dict):
        able = sum(1 for member in members.values() if not isinstance(member, dict) or member.get("weight", 1))
    if isinstance(factor, int):
        return min(factor, able or len(shard_map.members) or factor)
    return max((len(shard.in_sync) for shard in shard_map.shards), default=1)


def shard_state(shard: Shard, *, copies: int, dead: Iterable[str]) -> ShardState:
    """Return the state of one shard; ``dead`` names the nodes that are dead."""
    if shard.primary is None or not shard.primary.name or shard.primary.name in dead:
        return ShardState.UNAVAILABLE
    if len(shard.in_sync) < shard.need:
        return ShardState.UNAVAILABLE
    if len(shard.in_sync) < copies:
        return ShardState.UNDER_REPLICATED
    return ShardState.MOVING if shard.learners else ShardState.OK


def shard_states(shard_map: ShardMap, members: Iterable[Member]) -> dict[int, ShardState]:
    """Return the state of every shard by its number."""
    dead = {member.name for member in members if member.state in ("dead", "left")}
    copies = copies_wanted(shard_map)
    return {shard.shard: shard_state(shard, copies=copies, dead=dead) for shard in shard_map.shards}
