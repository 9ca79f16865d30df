"""How much a node stores and how much room it has left, as it tells everybody by gossip.

Told anew only when a number has moved by more than a sixteenth, so that a node at rest says nothing.
Source: replication.md, "The leader alone plans"; placement.md, "A plan can always be shown before it is carried out".
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from msgspec import Struct

from ringkeep_core.shardmap import ShardMap

ROOM_KEY = "room"


class Room(Struct, frozen=True):
    """Bytes of all copies of a node, and bytes free on its volume."""

    copy_bytes: int
    free_bytes: int


def encode_room(room: Room) -> bytes:
    """Return the gossip value."""
    return f"{room.copy_bytes}:{room.free_bytes}".encode()


def room_of(values: Mapping[str, bytes]) -> Room | None:
    """Return what a node's gossip values say of its room; None if nothing that can be read."""
    copies, _, free = values.get(ROOM_KEY, b"").partition(b":")
    if copies.isdigit() and free.isdigit() and len(copies) < 19 and len(free) < 19:
        return Room(int(copies), int(free))
    return None


def shard_bytes_of(held: ShardMap, rooms: Mapping[str, Room]) -> list[int] | None:
    """Return about how many bytes each shard has: an even share of what its primary says it stores; None if unknown."""
    if not rooms:
        return None
    copies = Counter(copy.storage for shard in held.shards for copy in (*shard.in_sync, *shard.learners))
    share = {storage: room.copy_bytes // max(1, copies[storage]) for storage, room in rooms.items()}
    return [share.get(shard.primary.storage, 0) for shard in held.shards]


def has_moved(told: Room | None, room: Room) -> bool:
    """Return whether the difference is worth telling."""
    if told is None:
        return True
    pairs = ((told.copy_bytes, room.copy_bytes), (told.free_bytes, room.free_bytes))
    return any(abs(before - after) > max(before, after) // 16 for before, after in pairs)
