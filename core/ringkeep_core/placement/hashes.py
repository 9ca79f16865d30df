"""The hashes that break ties in a plan: XXH3-64 of names, equal on every machine and in every run.

Python's own ``hash`` differs from process to process and would give each node a plan of its own.
"""

from __future__ import annotations

from xxhash import xxh3_64_intdigest


def name_hash(name: str) -> int:
    """Return the 64-bit hash of a node or zone name."""
    return xxh3_64_intdigest(name.encode())


def shard_hash(shard: int) -> int:
    """Return the 64-bit hash of a shard number: the order in which shards are served."""
    return xxh3_64_intdigest(shard.to_bytes(4, "big"))


def pair_hash(name: bytes, number: int) -> int:
    """Return the 64-bit hash of a name with a number (a shard, or a turn) as the seed."""
    return xxh3_64_intdigest(name, number)
