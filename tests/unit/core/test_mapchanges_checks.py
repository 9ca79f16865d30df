"""``check`` notices each broken invariant, and ``diff`` tells what happened."""

import pytest
from msgspec.structs import replace

from ringkeep_core.mapchanges import (
    AddLearner,
    Boot,
    EventKind,
    Failover,
    Grow,
    Leave,
    MapEvent,
    SetWanted,
    ShardChanges,
    check,
    diff,
)
from ringkeep_core.shardmap import Primary, Settings, ShardMap, WantedMember
from ringkeep_testing.maps import FIRST, after, copies, member, shard, shard_map, wanted_with

NEXT = FIRST + 1
SOUND = shard_map("a b c", [shard("a b", learners="c"), shard("b", eligible="c")])
ONE, TWO = SOUND.shards

BROKEN: dict[str, ShardMap] = {
    "filed under another storage id": replace(SOUND, members={**SOUND.members, "d": member("e")}),
    "two members are named c": replace(SOUND, members={**SOUND.members, "d": member("c", storage="d", boot="d-1")}),
    "two members share the boot c-1": replace(SOUND, members={**SOUND.members, "d": member("d", boot="c-1")}),
    "registered at": replace(SOUND, version=FIRST - 1),
    "has left": replace(SOUND, left=("c",)),
    "the wanted state has no revision": replace(SOUND, wanted=replace(SOUND.wanted, revision=0)),
    "the weight of a is": replace(
        SOUND, wanted=replace(SOUND.wanted, members={**SOUND.wanted.members, "a": WantedMember(weight=-1.0)})
    ),
    "shard 0: need is 0": replace(SOUND, shards=(replace(ONE, need=0), TWO)),
    "shard 0: need is 3": replace(SOUND, shards=(replace(ONE, need=3), TWO)),
    "shard 1: epoch 2 and revision 1": replace(SOUND, shards=(ONE, replace(TWO, epoch=2))),
    "shard 0: the primary is not in in_sync": replace(SOUND, shards=(replace(ONE, in_sync=copies("b")), TWO)),
    "shard 0: the epoch belongs to a boot": replace(SOUND, shards=(replace(ONE, primary=Primary("a", "a-0")), TWO)),
    "shard 0: a member is listed twice": replace(SOUND, shards=(replace(ONE, learners=copies("b")), TWO)),
    "shard 1: eligible is not a subset": replace(SOUND, shards=(ONE, replace(TWO, learners=()))),
    "shard 1: in_sync reaches need": replace(SOUND, shards=(ONE, replace(TWO, need=1))),
    "shard 0: a copy belongs to nobody": replace(SOUND, shards=(replace(ONE, learners=copies("x")), TWO)),
    "shard 0: a copy was added after": replace(SOUND, shards=(replace(ONE, learners=copies("c", added=NEXT)), TWO)),
}


def test_a_sound_map_has_no_faults() -> None:
    assert check(SOUND) == ()


@pytest.mark.parametrize("fault", BROKEN)
def test_each_broken_invariant_is_named(fault: str) -> None:
    assert any(fault in sentence for sentence in check(BROKEN[fault])), check(BROKEN[fault])


def test_a_failover_reads_as_a_new_primary_and_a_lost_copy() -> None:
    start = shard_map("a b c", [shard("a b c")])
    result = after(start, ShardChanges((Failover(0, 1, "b", ("b", "c")),), "a died"))

    assert diff(start, result, reason="a died") == (
        MapEvent(NEXT, EventKind.PRIMARY_CHANGED, "a died", 0, "b", "b", "a", "b"),
        MapEvent(NEXT, EventKind.COPY_OUT_OF_SYNC, "a died", 0, "a", "a"),
    )


def test_a_growth_that_raises_need_reads_as_both() -> None:
    start = shard_map("a b", [shard("a", learners="b", need=1)])
    result = after(start, ShardChanges((Grow(0, 1, "b", "b-1", FIRST, 1, "a-1"),), "caught up"))

    assert diff(start, result, reason="caught up") == (
        MapEvent(NEXT, EventKind.COPY_IN_SYNC, "caught up", 0, "b", "b"),
        MapEvent(NEXT, EventKind.NEED_CHANGED, "caught up", 0, before="1", after="2"),
    )


def test_a_new_copy_a_boot_and_an_emptied_disk_read_as_what_they_are() -> None:
    start = shard_map("a b c", [shard("a b")])
    added = after(start, ShardChanges((AddLearner(0, 1, "c"),), "plan"))
    booted = after(added, Boot("b", "b", "b-2", 2, "", ""))
    emptied = after(booted, Boot("c", "c2", "c-9", 1, "", ""))

    assert diff(start, added, reason="plan") == (MapEvent(NEXT, EventKind.COPY_ADDED, "plan", 0, "c", "c"),)
    assert diff(added, booted) == (MapEvent(NEXT + 1, EventKind.MEMBER_RESTARTED, "", None, "b", "b", "b-1", "b-2"),)
    assert diff(booted, emptied) == (
        MapEvent(NEXT + 2, EventKind.MEMBER_REGISTERED, "", storage="c2", name="c"),
        MapEvent(NEXT + 2, EventKind.MEMBER_LEFT, "", storage="c", name="c"),
        MapEvent(NEXT + 2, EventKind.COPY_ADDED, "", 0, "c2", "c"),
        MapEvent(NEXT + 2, EventKind.COPY_REMOVED, "", 0, "c", "c"),
    )


def test_a_wanted_state_and_a_leave_read_as_what_they_are() -> None:
    start = shard_map("a b c", [shard("a b")], draining="c")
    wanted = after(start, SetWanted(wanted_with(start, settings=Settings(grace_s=60.0)), "settings"))
    left = after(wanted, Leave("c", "scaled down"))

    assert diff(start, wanted) == (MapEvent(NEXT, EventKind.WANTED_CHANGED, "", before="1", after="2"),)
    assert diff(wanted, left) == (
        MapEvent(NEXT + 1, EventKind.MEMBER_LEFT, "", storage="c", name="c"),
        MapEvent(NEXT + 1, EventKind.WANTED_CHANGED, "", before="2", after="3"),
    )


def test_nothing_changed_reads_as_nothing() -> None:
    assert diff(SOUND, SOUND) == ()
