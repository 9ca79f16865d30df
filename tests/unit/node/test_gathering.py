"""What nobody waits for: held for others, taken in few entries, and never anything that somebody waits for."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest

from ringkeep_core.mapchanges import AddLearner, Leave, MapChange, RemoveCopy, ShardChange, ShardChanges, Touch
from ringkeep_core.shardmap import Copy, Primary, Shard, ShardMap
from ringkeep_node.machines.gathering import ENTRY_CHANGES_MAX, GATHER_S, HELD_MAX, Gathering, may_wait
from ringkeep_node.machines.oversight import Oversight
from ringkeep_testing.control_group import map_of


def some(*changes: ShardChange, reason: str = "scale") -> ShardChanges:
    return ShardChanges(changes, reason)


def test_the_first_change_is_due_at_once_and_the_next_after_a_while() -> None:
    gathering, first, second = Gathering(), Touch(0, 1), Touch(1, 1)
    nothing = gathering.due
    gathering.add(some(first))
    at_once = gathering.due
    taken = gathering.take(100.0)
    gathering.add(some(second))

    assert (nothing, at_once, taken) == (math.inf, -math.inf, [some(first)])
    assert (gathering.due, gathering.take(102.0), gathering.due) == (100.0 + GATHER_S, [some(second)], math.inf)


def test_what_is_asked_for_twice_is_held_once_and_each_reason_is_an_entry_of_its_own() -> None:
    gathering = Gathering()
    for changes in (some(Touch(0, 1)), some(Touch(1, 1), reason="drain"), some(Touch(0, 1), Touch(2, 1))):
        gathering.add(changes)

    assert gathering.take(5.0) == [some(Touch(0, 1), Touch(2, 1)), some(Touch(1, 1), reason="drain")]


def test_a_look_that_finds_nothing_delays_nothing() -> None:
    gathering = Gathering()
    gathering.take(100.0)
    gathering.add(some(Touch(0, 1)))

    assert gathering.due == -math.inf


def test_too_much_leaves_before_its_time_in_entries_of_a_bounded_size() -> None:
    gathering = Gathering()
    gathering.add(some(Touch(0, 1)))
    gathering.take(100.0)
    for number in range(HELD_MAX):
        gathering.add(some(Touch(number, 7)))
    due = gathering.due
    entries = gathering.take(100.1)

    assert due == -math.inf
    assert [len(entry.changes) for entry in entries] == [ENTRY_CHANGES_MAX] * (HELD_MAX // ENTRY_CHANGES_MAX)


def _map(in_sync: int, *, learner: str = "x") -> ShardMap:
    """Return a map of two shards: the first as asked for, the second with a learner on its way from the same primary."""
    copies = tuple(Copy(f"{number:016x}", 1) for number in range(1, in_sync + 1))
    primary = Primary(copies[0].storage, "b")
    shards = (
        Shard(1, 1, primary, copies, (), (), 2),
        Shard(1, 1, primary, copies, (), (Copy(learner, 1),), 1),
    )
    return ShardMap(**{**{name: getattr(map_of(3), name) for name in ShardMap.__struct_fields__}, "shards": shards})


@pytest.mark.parametrize(
    ("change", "shard_map", "waits"),
    [
        (some(AddLearner(0, 1, "x"), RemoveCopy(0, 1, "y", 1)), _map(2), True),
        (some(AddLearner(0, 1, "x")), _map(1), False),
        (some(AddLearner(0, 1, "x")), _map(2, learner="z"), False),
        (some(RemoveCopy(0, 1, "y", 1)), _map(2, learner="z"), True),
        (some(AddLearner(0, 1, "x"), Touch(0, 1)), _map(2), False),
        (Leave("x", "scaled down"), _map(2), False),
    ],
    ids=[
        "copies that come and go",
        "of a shard that takes no writes",
        "for a stream that has run dry",
        "of a copy that goes",
        "beside another change",
        "another kind",
    ],
)
def test_only_copies_that_come_and_go_may_wait_and_none_that_writes_or_a_stream_wait_for(
    change: MapChange, shard_map: ShardMap, waits: bool
) -> None:
    assert may_wait(change, shard_map) is waits


def test_the_leader_has_its_control_plane_gather_what_may_wait_and_nothing_else() -> None:
    comes, gone = some(RemoveCopy(0, 1, "y", 1)), Leave("x", "scaled down")
    told = list[tuple[MapChange, bool]]()

    def propose(change: MapChange, *, now: float, may_wait: bool) -> None:
        told.append((change, may_wait))

    part: Any = SimpleNamespace(
        stale=False,
        hand_overs=[],
        _leads=True,
        _control=SimpleNamespace(leads=True, held=SimpleNamespace(map=_map(2)), propose=propose),
        _leader=SimpleNamespace(next_deadline=lambda: 1.0, tick=lambda now: (comes, gone)),
    )
    Oversight.lead(part, now=1.0)

    assert told == [(comes, True), (gone, False)]
