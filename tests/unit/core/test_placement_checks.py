"""The checkers of placement reject bad maps and bad plans: each promise has a map that breaks it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from ringkeep_core.placement import (
    AddLearner,
    Assignment,
    AwaitInSync,
    Candidate,
    MovePrimary,
    NodeState,
    PlacementSettings,
    RemoveCopy,
    ShardChange,
    ShardCopies,
    Step,
    Target,
    initial,
    target,
)
from ringkeep_testing.placement_checks import (
    adopted,
    arrival_violations,
    cheapest_violations,
    copy_balance_violations,
    grace_violations,
    move_violations,
    primary_balance_violations,
    replay,
    shape_violations,
    spread_violations,
    stability_violations,
    stream_violations,
)

SETTINGS = PlacementSettings(replication_factor=2)
NODES = [Candidate("a", "x"), Candidate("b", "y"), Candidate("c", "x"), Candidate("d", "y")]
GOOD = initial(16, NODES, SETTINGS)
SHARDS = adopted(GOOD, NODES, need=2)


def _with(changes: dict[int, Assignment]) -> Target:
    return replace(GOOD, shards=tuple(changes.get(i, shard) for i, shard in enumerate(GOOD.shards)))


def _all(*copies: str) -> Target:
    return replace(GOOD, shards=(Assignment(copies, copies[0]),) * 16)


def test_the_planners_own_map_passes_every_checker() -> None:
    again = target(SHARDS, NODES, SETTINGS)

    assert shape_violations(SHARDS, again, NODES, 2) == []
    assert spread_violations(again, NODES, 2) == []
    assert copy_balance_violations(again, NODES, 2) == []
    assert primary_balance_violations(again, NODES) == []
    assert move_violations(SHARDS, again, NODES) == []
    assert cheapest_violations(SHARDS, again, NODES, 2) == []
    assert stability_violations(SHARDS, again) == []


@pytest.mark.parametrize(
    ("bad", "nodes"),
    [
        (Assignment(("a",), "a"), NODES),
        (Assignment(("a", "a"), "a"), NODES),
        (Assignment(("b", "a"), "a"), NODES),
        (Assignment(("a", "zz"), "a"), NODES),
        (Assignment(("a", "b"), None), NODES),
        (Assignment(("a", "b"), "c"), NODES),
        (Assignment(("a", "b"), "a"), [replace(NODES[0], state=NodeState.DEAD_IN_GRACE), *NODES[1:]]),
        (Assignment(("a", "b"), "a"), [replace(NODES[0], may_lead=False), *NODES[1:]]),
        (Assignment(("a", "b"), "b"), [replace(NODES[0], draining=True), *NODES[1:]]),
        (Assignment(("a", "b"), "b"), [replace(NODES[0], weight=0.0), *NODES[1:]]),
    ],
    ids=["short", "twice", "unsorted", "stranger", "no leader", "outsider", "dead", "flapping", "draining", "weight 0"],
)
def test_a_badly_shaped_shard_is_found(bad: Assignment, nodes: list[Candidate]) -> None:
    assert any(wrong.startswith("shard 3:") for wrong in shape_violations(SHARDS, _with({3: bad}), nodes, 2))


def test_two_copies_in_one_zone_are_found_also_when_they_are_excused_but_not_recorded() -> None:
    lonely = [Candidate("a", "x"), Candidate("c", "x"), Candidate("b", "y")]

    assert spread_violations(_with({3: Assignment(("a", "c"), "a")}), NODES, 2) != []
    assert spread_violations(_with({3: Assignment(("a", "b"), "a", "zone_rule")}), NODES, 2) != []
    assert (
        spread_violations(replace(GOOD, shards=(Assignment(("a", "b", "c"), "a"),)), lonely[:2] + NODES[1:2], 4) == []
    )


def test_unbalanced_copies_and_primaries_are_found() -> None:
    assert len(copy_balance_violations(_all("a", "b"), NODES, 2)) == 4
    assert len(primary_balance_violations(_all("a", "b"), NODES)) == 2


def test_a_needless_move_and_a_wrong_count_are_found() -> None:
    other = next(c for c in ("a", "c") if c not in SHARDS[3].in_sync)
    kept = next(c for c in SHARDS[3].in_sync if c in ("b", "d"))
    moved = _with({3: Assignment(tuple(sorted((kept, other))), kept)})

    assert len(move_violations(SHARDS, moved, NODES)) == 2
    assert len(move_violations(SHARDS, replace(moved, moves=1, lower_bound=0), NODES)) == 1
    assert len(stability_violations(SHARDS, moved)) == 1


def test_a_map_of_equal_balance_that_moves_more_is_found() -> None:
    first = next(i for i, shard in enumerate(SHARDS) if "a" in shard.in_sync)
    second = next(i for i, shard in enumerate(SHARDS) if "c" in shard.in_sync)
    swapped = [
        Assignment(
            tuple(sorted({"a": "c", "c": "a"}.get(n, n) if i in (first, second) else n for n in s.in_sync)), None
        )
        for i, s in enumerate(SHARDS)
    ]

    assert cheapest_violations(SHARDS, replace(GOOD, shards=tuple(swapped)), NODES, 2) != []


def test_copies_taken_from_or_given_to_a_node_in_its_grace_are_found() -> None:
    nodes = [replace(NODES[0], state=NodeState.DEAD_IN_GRACE), *NODES[1:]]
    losing = next(i for i, shard in enumerate(SHARDS) if "a" in shard.in_sync)
    getting = next(i for i, shard in enumerate(SHARDS) if "a" not in shard.in_sync)
    changed = _with({losing: Assignment(("b", "c"), "b"), getting: Assignment(("a", "b"), "b")})

    assert len(grace_violations(SHARDS, changed, nodes)) == 2


GOAL = replace(GOOD, shards=(Assignment(("b", "c"), "b"),))
PAIR = ShardCopies(primary="a", in_sync=("a", "b"), need=2)


def _wrong(shard: ShardCopies, changes: Sequence[ShardChange], goal: Target = GOAL) -> list[str]:
    streams = tuple((c.source, c.node) for c in changes if isinstance(c, AddLearner))
    return replay([shard], goal, [Step(tuple(changes), streams)], NODES, SETTINGS).wrong


def test_a_safe_plan_passes_the_replay() -> None:
    changes: list[ShardChange] = [
        AddLearner(0, "c", "a"),
        AwaitInSync(0, "c"),
        MovePrimary(0, "a", "b"),
        RemoveCopy(0, "a"),
    ]
    done = replay([PAIR], GOAL, [Step(tuple(changes), (("a", "c"),))], NODES, SETTINGS)

    assert done.wrong == []
    assert arrival_violations(done, GOAL, NODES) == []


@pytest.mark.parametrize(
    ("shard", "changes"),
    [
        (PAIR, [MovePrimary(0, "a", "b"), RemoveCopy(0, "a")]),
        (PAIR, [AddLearner(0, "c", "a"), AwaitInSync(0, "c"), RemoveCopy(0, "a")]),
        (PAIR, [AwaitInSync(0, "c")]),
        (PAIR, [AddLearner(0, "zz", "a")]),
        (PAIR, [AddLearner(0, "c", "d")]),
        (PAIR, [AddLearner(0, "b", "a")]),
        (PAIR, [MovePrimary(0, "a", "c")]),
        (PAIR, [MovePrimary(0, "b", "a")]),
        (ShardCopies("a", ("a",), ("d",), ("d",), need=2), [RemoveCopy(0, "d")]),
        (ShardCopies("b", ("a",), need=0), [RemoveCopy(0, "a")]),
    ],
    ids=[
        "removed before its replacement",
        "primary removed",
        "awaits nobody",
        "learner on a stranger",
        "source without a copy",
        "learner where a copy is",
        "primary out of sync",
        "wrong source",
        "eligible removed while in_sync is short",
        "last copy removed",
    ],
)
def test_an_unsafe_plan_is_found(shard: ShardCopies, changes: list[ShardChange]) -> None:
    assert len(_wrong(shard, changes)) > 0


def test_a_plan_that_stops_short_or_repairs_last_is_found() -> None:
    empty = replay([PAIR], GOAL, [], NODES, SETTINGS)
    late = replay([PAIR], GOAL, [Step(()), Step((), repairs=True)], NODES, SETTINGS)

    assert len(arrival_violations(empty, GOAL, NODES)) == 2
    assert late.wrong == ["a move comes before a repair"]


@pytest.mark.parametrize(
    "step",
    [
        Step((), (("a", "b"), ("a", "c"))),
        Step((), (("a", "c"), ("b", "c"))),
        Step((AddLearner(0, "c", "a"),)),
        Step(tuple(AddLearner(i, "c", "a") for i in range(65)), (("a", "c"),)),
        Step(tuple(AddLearner(i, "c", "a") for i in range(2)), (("a", "c"),), 65 << 20, 65 << 20),
        Step(tuple(AddLearner(i, "c", "a") for i in range(2)), (("a", "c"),), 513 << 20, 64 << 20),
        Step((), tuple((f"from-{i}", f"to-{i}") for i in range(17))),
    ],
    ids=["two out", "two in", "outside", "65 shards", "65 MiB", "over the budget", "17 streams"],
)
def test_a_step_beyond_its_limits_is_found(step: Step) -> None:
    assert len(stream_violations(step, SETTINGS)) == 1
