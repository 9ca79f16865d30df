"""Measure how long it takes to find a user's primary with the map in hand. The bar is 150 ns.

    python -P benchmarks/routing.py

Prints one JSON line: nanoseconds for a call, the best of several rounds, over many users.
"""

from __future__ import annotations

import json
import timeit

from ringkeep_core.maprules import bootstrap
from ringkeep_core.shardmap import Member, Settings, ShardMap

ROUNDS = 7
USERS = [f"user{number:06d}" for number in range(10_000)]


def map_of(nodes: int, shards: int) -> ShardMap:
    """Return the first map of a cluster."""
    members = [
        Member(f"{number:016x}", f"n{number}", f"{number:016x}", 1, f"http://n{number}", f"n{number}:7400", "", 0)
        for number in range(1, nodes + 1)
    ]
    return bootstrap(cluster_id="c" * 16, members=members, shards=shards, settings=Settings())


def nanoseconds(shard_map: ShardMap) -> float:
    """Return the time of one look-up: the loop that makes the calls is subtracted."""
    primary_of = shard_map.primary_of

    def looked_up() -> None:
        for user in USERS:
            primary_of(user)

    def empty() -> None:
        for _user in USERS:
            pass

    looked_up_s = min(timeit.repeat(looked_up, number=1, repeat=ROUNDS))
    empty_s = min(timeit.repeat(empty, number=1, repeat=ROUNDS))
    return (looked_up_s - empty_s) / len(USERS) * 1e9


def main() -> None:
    """Print the measurement for a small and a large map."""
    for nodes, shards in ((3, 256), (50, 16_384)):
        result = {"measure": "user_to_primary_ns", "nodes": nodes, "shards": shards, "bar": 150}
        print(json.dumps({**result, "best": round(nanoseconds(map_of(nodes, shards)), 1)}))


if __name__ == "__main__":
    main()
