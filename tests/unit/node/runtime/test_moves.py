"""Events tell what moved when and why, in a bounded space."""

from __future__ import annotations

from msgspec.structs import replace

from ringkeep_core.mapchanges import AddLearner, Boot, Leave, MapChange, Move, SetWanted, ShardChanges, Unfit, apply
from ringkeep_core.shardmap import ShardMap, WantedMember
from ringkeep_node.machines.node import NodeStep
from ringkeep_node.runtime.history import History
from ringkeep_node.runtime.moves import SHARDS_NAMED_MAX
from ringkeep_node.runtime.reports import Event
from ringkeep_testing.maps import shard, shard_map


def told(before: ShardMap, *changes: MapChange) -> tuple[Event, ...]:
    """What a history says of changes that are applied one after the other, in one step."""
    step, held = NodeStep(1), before
    for change in changes:
        done = apply(held, held.version + 1, change)
        held = done.map
        step.map_changes.append((change, held, done))
    return History().stepped(step, 5.0, held=before)


def test_an_entry_tells_which_copies_and_primaries_went_where_and_why() -> None:
    before = shard_map("a b c", [shard("a b"), shard("a b"), shard("b a")])
    moves = ShardChanges((Move(0, 1, "b"), Move(1, 1, "b"), AddLearner(2, 1, "c")), "drain a")

    (event,) = told(before, moves)

    assert event.text == "3 of 3 shard changes (1 addlearner, 2 move): drain a"
    assert event.fields == {
        "version": before.version + 1,
        "reason": "drain a",
        "primaries_moved": 2,
        "copies_added": 1,
        "detail": "primary a -> b: 0, 1; copy added c: 2",
        "shards": 3,
    }


def test_members_that_join_start_again_lose_their_disk_or_leave_are_told_apart() -> None:
    before = shard_map("a b c", [shard("a b")], draining="c")

    events = told(
        before,
        Boot("d", "d", "d-1", 1, "", ""),
        Boot("d", "d", "d-2", 2, "", ""),
        Boot("d", "d2", "d2-1", 1, "", ""),
        Leave("c", "people"),
    )

    assert [event.text for event in events] == [
        "d joined (boot 1)",
        "d started (boot 2)",
        "d came back with an empty disk (boot 1)",
        "c (storage c) left: people",
    ]
    assert [event.fields.get("member") for event in events] == ["d", "d", "d", "c"]


def test_a_wanted_state_tells_what_is_wanted_otherwise() -> None:
    before = shard_map("a b c", [shard("a b")])
    members = {"a": WantedMember(draining=True), "b": WantedMember(weight=2.0), "e": WantedMember()}
    wanted = replace(before.wanted, revision=before.wanted.revision + 1, members=members)

    (event,) = told(before, SetWanted(wanted, "request 7"))

    assert event.text.endswith(": request 7 (a drains, b has weight 2, without c, with e)")


def test_an_entry_that_moves_everything_names_only_so_many_shards() -> None:
    shards = 4 * SHARDS_NAMED_MAX
    before = shard_map("a b", [shard("a b")] * shards)

    (event,) = told(before, ShardChanges(tuple(Move(number, 1, "b") for number in range(shards)), "all"))

    assert event.fields["primaries_moved"] == shards
    assert str(event.fields["detail"]).endswith(f"{SHARDS_NAMED_MAX - 1} and {shards - SHARDS_NAMED_MAX} more")


def test_a_refused_entry_is_no_news_and_a_lost_copy_is() -> None:
    before = shard_map("a b c", [shard("a b c")])
    lost = ShardChanges((Unfit(0, 1, "c", before.shards[0].in_sync[2].added),), "replication")

    refused = told(before, Leave("a", "people"))
    (event,) = told(before, lost)

    assert refused == ()
    assert "copy out of sync c: 0" in str(event.fields["detail"])
