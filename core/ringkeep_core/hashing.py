"""Which shard a user belongs to.

A shard is one of V = 2^b groups of users: the top b bits of XXH3-64 (seed 0) of the user's UTF-8 bytes. The table of
golden vectors in the tests pins the function across versions and languages. Shards are then *placed* on nodes by
``ringkeep_core.placement``; they are never hashed onto nodes.
"""

from __future__ import annotations

from xxhash import xxh3_64_intdigest

SHARDS_MIN = 16
SHARDS_MAX = 65_536


def user_hash(user: str) -> int:
    """Return the 64-bit hash of a user, the same on every node and in every version."""
    return xxh3_64_intdigest(user.encode())


def shard_of(user: str, shards: int) -> int:
    """Return the shard (0 <= shard < ``shards``) of a user; ``shards`` is a power of two."""
    return xxh3_64_intdigest(user.encode()) * shards >> 64


def is_shard_count(shards: int) -> bool:
    """Return whether a cluster may have this many shards: a power of two from 16 to 65,536."""
    return SHARDS_MIN <= shards <= SHARDS_MAX and shards & (shards - 1) == 0
