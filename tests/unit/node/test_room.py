"""What nodes tell of their room, and what that says of the bytes of each shard."""

from __future__ import annotations

from ringkeep_node.machines.room import Room, encode_room, has_moved, room_of, shard_bytes_of
from ringkeep_testing.maps import shard, shard_map


def test_a_room_survives_gossip_and_nonsense_is_nothing() -> None:
    room = Room(1_000, 5_000)

    assert room_of({"room": encode_room(room)}) == room
    assert [room_of({"room": text}) for text in (b"", b"1", b"x:1", b"1:-2", b"9" * 20 + b":1")] == [None] * 5


def test_a_shard_weighs_an_even_share_of_what_its_primary_stores() -> None:
    held = shard_map("a b c", [shard("a b"), shard("a c"), shard("b a", learners="c"), shard("c b")])

    sizes = shard_bytes_of(held, {"a": Room(300, 0), "b": Room(90, 0)})

    assert sizes == [100, 100, 30, 0]
    assert shard_bytes_of(held, {}) is None


def test_only_a_difference_that_matters_is_told() -> None:
    told = Room(1_600, 1_600)

    assert has_moved(None, told)
    assert not has_moved(told, Room(1_650, 1_600))
    assert has_moved(told, Room(1_600, 1_400))
