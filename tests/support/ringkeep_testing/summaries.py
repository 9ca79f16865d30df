"""Pictures of clusters for tests of summaries: three nodes n1 to n3 that hold twelve shards, and what may befall them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ringkeep_core.shardmap import Settings, Shard, ShardMap
from ringkeep_core.summary import Evidence, Seen, SeenMember
from ringkeep_testing.maps import shard, shard_map

NOW = 10_000.0
SHARDS = 12


def turned(*nodes: str, in_sync: int = 3, gone: str = "", need: int = 2, epoch: int = 1) -> list[Shard]:
    """Return shards whose copies lie on ``nodes`` in turn; ``gone`` is a learner of each shard that it held before."""
    shards = []
    for number in range(SHARDS):
        row = [nodes[(number + place) % len(nodes)] for place in range(min(in_sync, len(nodes)))]
        keeps = [name for name in row if name != gone]
        shards.append(shard(" ".join(keeps), learners=gone if gone in row else "", need=need, epoch=epoch))
    return shards


def map_of(
    names: str = "n1 n2 n3", shards: Sequence[Shard] | None = None, *, draining: str = "", **settings: Any
) -> ShardMap:
    """Return a map of these members; their shards lie on all of them in turn unless given."""
    placed = turned(*names.split()) if shards is None else shards
    return shard_map(names, placed, settings=Settings(**settings), draining=draining)


def someone(name: str, **known: Any) -> SeenMember:
    """Return a member; alive unless said otherwise."""
    return SeenMember(storage=name, name=name, **known)


def dead(name: str, *, for_s: float = 42.0, by: str = "n1 n3", why: str = "refused", **known: Any) -> SeenMember:
    """Return a member that was called dead so long ago."""
    since = NOW - for_s
    evidence = tuple(Evidence(one, since, why) for one in by.split() if one != name)
    return someone(name, state="dead", since=since, evidence=evidence, **known)


def look(held: ShardMap | None = None, *members: SeenMember, **known: Any) -> Seen:
    """Return what n1 sees: who is not given is alive, and n1 leads with the first three members as voters."""
    shown = map_of() if held is None else held
    given = {member.name: member for member in members}
    seen = tuple(given.get(name, someone(name)) for name in shown.by_name)
    voters = tuple(shown.members)[:3]
    usual: dict[str, Any] = {"node": "n1", "now": NOW, "cluster_id": shown.cluster_id, "leader": "n1", "term": 7}
    return Seen(**{**usual, "held": shown, "members": seen, "voters": voters, **known})
