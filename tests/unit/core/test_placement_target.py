"""What the planner does with members and settings at the edges, and that it always does the same."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ringkeep_core.placement import (
    NO_LEADER,
    NO_NODES,
    TOO_FEW_NODES,
    ZONE_RULE,
    Assignment,
    Candidate,
    NodeState,
    PlacementSettings,
    PrimaryMove,
    ShardCopies,
    initial,
    primary_moves,
    target,
)
from ringkeep_testing.placement_checks import (
    adopted,
    cheapest_violations,
    copy_balance_violations,
    failed_over,
    grace_violations,
    holders,
    move_violations,
    primary_balance_violations,
    shape_violations,
    spread_violations,
    zones_have_room,
)

SETTINGS = PlacementSettings()


def _nodes(count: int, zones: int = 1) -> list[Candidate]:
    return [Candidate(f"n{i}", f"z{i % zones}" if zones > 1 else "") for i in range(count)]


def test_one_node_holds_and_leads_every_shard_and_that_is_recorded_as_degraded() -> None:
    assert initial(16, _nodes(1), SETTINGS).shards == (Assignment(("n0",), "n0", TOO_FEW_NODES),) * 16


def test_with_fewer_nodes_than_copies_each_node_has_each_shard() -> None:
    goal = initial(16, _nodes(2), SETTINGS)

    assert {(a.copies, a.degraded) for a in goal.shards} == {(("n0", "n1"), TOO_FEW_NODES)}
    assert Counter(a.primary for a in goal.shards) == {"n0": 8, "n1": 8}


def test_as_many_nodes_as_copies_is_not_degraded() -> None:
    assert {a.degraded for a in initial(16, _nodes(3), SETTINGS).shards} == {None}


@pytest.mark.parametrize(
    "nodes",
    [
        [],
        [replace(node, weight=0.0) for node in _nodes(3)],
        [replace(node, draining=True) for node in _nodes(3)],
        [replace(node, state=NodeState.DEAD) for node in _nodes(3)],
    ],
    ids=["none", "weight 0", "draining", "dead"],
)
def test_without_a_node_that_may_hold_copies_nothing_is_placed(nodes: list[Candidate]) -> None:
    goal = initial(16, nodes, SETTINGS)

    assert goal.shards == (Assignment((), None, NO_NODES),) * 16
    assert (goal.moves, goal.lower_bound, dict(goal.quotas)) == (0, 0, {})


def test_a_node_of_weight_0_holds_nothing_and_a_joining_node_takes_its_part() -> None:
    nodes = [*_nodes(4), Candidate("gate", weight=0.0), Candidate("new", state=NodeState.JOINING)]
    held = Counter(name for a in initial(100, nodes, SETTINGS).shards for name in a.copies)

    assert held == {"n0": 60, "n1": 60, "n2": 60, "n3": 60, "new": 60}


def test_a_zone_too_small_for_its_part_is_recorded_and_still_used_as_far_as_it_goes() -> None:
    nodes = [Candidate("lone", "a"), *(Candidate(f"b{i}", "b") for i in range(5))]
    goal = initial(20, nodes, PlacementSettings(replication_factor=4))

    assert {a.degraded for a in goal.shards} == {ZONE_RULE}
    assert all("lone" in a.copies and len(a.copies) == 4 for a in goal.shards)


@pytest.mark.parametrize(("zones", "copies"), [(2, 3), (3, 3), (5, 3), (2, 4), (3, 1), (4, 6)])
def test_zones_of_unequal_sizes_keep_the_zone_rule_and_the_balance(zones: int, copies: int) -> None:
    nodes = [Candidate(f"n{z}-{i}", f"z{z}") for z in range(zones) for i in range(3 + 2 * z)]
    goal = initial(128, nodes, PlacementSettings(replication_factor=copies))

    assert {a.degraded for a in goal.shards} == {None}
    assert spread_violations(goal, nodes, copies) == []
    assert copy_balance_violations(goal, nodes, copies) == []
    assert primary_balance_violations(goal, nodes) == []


def test_a_node_under_the_flapping_guard_leads_only_what_nobody_else_can_lead() -> None:
    nodes = [replace(_nodes(1)[0], may_lead=False), *_nodes(3)[1:]]
    dead = [nodes[0], *(replace(node, state=NodeState.DEAD_IN_GRACE) for node in nodes[1:])]
    shards = adopted(initial(16, nodes, SETTINGS), nodes, need=2)

    assert Counter(a.primary for a in target(shards, nodes, SETTINGS).shards) == {"n1": 8, "n2": 8}
    assert Counter(a.primary for a in target(shards, dead, SETTINGS).shards) == {"n0": 16}


def test_when_all_copies_are_dead_within_the_grace_nobody_leads_and_nothing_moves() -> None:
    nodes = _nodes(3)
    shards = adopted(initial(16, nodes, SETTINGS), nodes, need=2)
    goal = target(shards, [replace(node, state=NodeState.DEAD_IN_GRACE) for node in nodes], SETTINGS)

    assert goal.shards == (Assignment(("n0", "n1", "n2"), None, NO_LEADER),) * 16
    assert goal.moves == 0


def test_a_draining_node_gives_everything_up() -> None:
    nodes = _nodes(5)
    shards = adopted(initial(64, nodes, SETTINGS), nodes, need=2)
    goal = target(shards, [replace(nodes[0], draining=True), *nodes[1:]], SETTINGS)

    assert not any("n0" in a.copies for a in goal.shards)
    assert goal.moves == goal.lower_bound == sum("n0" in shard.in_sync for shard in shards)


def test_a_copy_on_its_way_is_kept_so_an_interrupted_plan_is_taken_up_again() -> None:
    nodes = _nodes(4)
    before = adopted(initial(64, nodes, SETTINGS), nodes, need=2)
    grown = [*nodes, Candidate("new")]
    goal = target(before, grown, SETTINGS)
    coming = [i for i, a in enumerate(goal.shards) if "new" in a.copies]
    under_way = [replace(s, learners=("new",)) if i in coming[::2] else s for i, s in enumerate(before)]
    again = target(under_way, grown, SETTINGS)

    assert all("new" in again.shards[i].copies for i in coming[::2])
    assert again.moves == again.lower_bound == goal.moves - len(coming[::2])


def test_a_node_named_twice_and_impossible_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="twice"):
        initial(16, [*_nodes(2), *_nodes(1)], SETTINGS)
    for weight in (-1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="weight"):
            Candidate("a", weight=weight)
    with pytest.raises(ValueError, match="out of range"):
        PlacementSettings(replication_factor=0)


def test_weights_far_apart_are_shared_exactly() -> None:
    nodes = [Candidate("heavy", weight=1e300), Candidate("light", weight=1e-300), *_nodes(3)]
    held = Counter(name for a in initial(64, nodes, SETTINGS).shards for name in a.copies)

    assert sorted(held.items())[0] == ("heavy", 64)
    assert sorted(held.values()) == [42, 43, 43, 64]


def test_the_order_of_the_members_and_of_a_shards_copies_does_not_matter() -> None:
    nodes = _nodes(5, zones=2)
    shards = adopted(initial(32, nodes, SETTINGS), nodes, need=2)
    grown = [*nodes, Candidate("new", "z1", 2.0)]
    turned = [replace(shard, in_sync=shard.in_sync[::-1]) for shard in shards]
    goals = {
        target(some, order, SETTINGS).digest
        for some in (shards, turned)
        for order in list(itertools.permutations(grown))[::7]
    }

    assert goals == {target(shards, grown, SETTINGS).digest}


SCRIPT = """
from ringkeep_core.placement import Candidate, PlacementSettings, ShardCopies, initial, target
nodes = [Candidate(f"n{i}", f"z{i % 2}", 1 + i % 3) for i in range(9)]
first = initial(256, nodes, PlacementSettings())
shards = [ShardCopies(a.primary, a.copies, need=2) for a in first.shards]
print(first.digest, target(shards, [*nodes[1:], Candidate("new", "z0")], PlacementSettings()).digest)
"""


def test_every_process_makes_the_same_map_whatever_its_hash_seed() -> None:
    said = [
        subprocess.run(
            [sys.executable, "-P", "-c", SCRIPT],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    ]

    assert said[0] == said[1]
    assert [len(digest) for digest in said[0].split()] == [32, 32]


def test_the_digest_tells_maps_apart_by_copies_and_by_primaries() -> None:
    nodes = _nodes(3)
    one = initial(16, nodes, PlacementSettings(replication_factor=3))
    guarded = initial(16, [replace(nodes[0], may_lead=False), *nodes[1:]], PlacementSettings(replication_factor=3))
    fewer = initial(16, nodes, PlacementSettings(replication_factor=2))

    assert len({one.digest, guarded.digest, fewer.digest}) == 3


# Primaries with the copies as they are -------------------------------------------------------------------------------


def _led(*primaries: str) -> list[ShardCopies]:
    return [ShardCopies(primary=name, in_sync=("n0", "n1", "n2"), need=2) for name in primaries]


def test_primaries_move_back_to_balance_and_no_further() -> None:
    moves = primary_moves(_led("n0", "n0", "n0", "n0", "n1", "n2"), _nodes(3), SETTINGS)

    assert Counter((move.source, move.target) for move in moves) == {("n0", "n1"): 1, ("n0", "n2"): 1}
    assert primary_moves(_led("n0", "n0", "n1", "n1", "n2", "n2"), _nodes(3), SETTINGS) == ()
    assert primary_moves(_led("n0", "n0", "n1", "n2"), _nodes(3), SETTINGS) == ()


def test_primaries_move_only_to_live_in_sync_members_that_may_lead() -> None:
    nodes = [
        Candidate("n0"),
        Candidate("n1", may_lead=False),
        Candidate("n2", state=NodeState.DEAD_IN_GRACE),
        Candidate("n3"),
    ]

    assert primary_moves(_led("n0", "n0", "n0", "n0"), nodes, SETTINGS) == ()
    assert primary_moves(_led("n1"), nodes, SETTINGS) == (PrimaryMove(0, "n1", "n0"),)


def test_a_shard_whose_primary_is_dead_or_missing_is_left_to_the_failover() -> None:
    nodes = [replace(_nodes(1)[0], state=NodeState.DEAD), *_nodes(3)[1:]]
    shards = [*_led("n0", "n0"), ShardCopies(None, ("n1", "n2")), ShardCopies("gone", ("n1",))]

    assert primary_moves(shards, nodes, SETTINGS) == ()


def test_draining_nodes_hand_their_primaries_over_unless_nobody_else_has_a_copy() -> None:
    nodes = [replace(_nodes(1)[0], draining=True), *_nodes(3)[1:]]
    shards = [*_led("n0", "n0"), ShardCopies("n0", ("n0",))]

    assert Counter(move.target for move in primary_moves(shards, nodes, SETTINGS)) == {"n1": 1, "n2": 1}


def test_primaries_reach_balance_along_chains_of_shards() -> None:
    pairs = [("a", "b"), ("a", "b"), ("b", "c"), ("c", "d")]
    shards = [ShardCopies(primary=pair[0], in_sync=pair) for pair in pairs]

    after = [pair[0] for pair in pairs]
    for move in primary_moves(shards, [Candidate(name) for name in "abcd"], SETTINGS):
        after[move.shard] = move.target

    assert sorted(after) == ["a", "b", "c", "d"]


# Anything at all -----------------------------------------------------------------------------------------------------

NAMES = [f"n{i}" for i in range(8)]


@st.composite
def clusters(draw: st.DrawFn) -> tuple[list[ShardCopies], list[Candidate], PlacementSettings]:
    """Any small cluster with any map, however odd."""
    names = draw(st.lists(st.sampled_from(NAMES), unique=True, min_size=1))
    zones = st.sampled_from(["x", "y", "z"])
    nodes = [
        Candidate(
            name,
            draw(zones),
            draw(st.sampled_from([0.0, 0.5, 1.0, 1.0, 2.0, 7.0])),
            draw(st.sampled_from([NodeState.ALIVE] * 4 + list(NodeState))),
            draw(st.sampled_from([False] * 5 + [True])),
            draw(st.sampled_from([True] * 5 + [False])),
        )
        for name in names
    ]
    shards = []
    for _ in range(draw(st.sampled_from([1, 4, 16]))):
        some = draw(st.lists(st.sampled_from(NAMES), unique=True, max_size=5))
        split = draw(st.integers(0, len(some)))
        in_sync = tuple(some[:split])
        primary = in_sync[0] if in_sync else None
        shards.append(ShardCopies(primary, in_sync, learners=tuple(some[split:]), need=draw(st.integers(0, 2))))
    return shards, nodes, PlacementSettings(replication_factor=draw(st.integers(1, 5)))


@settings(max_examples=60)
@given(clusters())
def test_any_map_becomes_a_well_formed_target_that_records_what_it_lacks(
    cluster: tuple[list[ShardCopies], list[Candidate], PlacementSettings],
) -> None:
    shards, nodes, wanted = cluster
    goal = target(shards, nodes, wanted)

    if goal.quotas:
        assert shape_violations(shards, goal, nodes, wanted.replication_factor) == []
        assert spread_violations(goal, nodes, wanted.replication_factor) == []
        assert move_violations(shards, goal, nodes, slack=99.0) in ([], [f"{goal.moves} copies moved, 0 would do"])
        assert goal.moves >= goal.lower_bound
    assert goal == target(shards, nodes[::-1], wanted)


@settings(max_examples=60)
@given(clusters())
def test_any_map_of_live_nodes_becomes_balanced_with_the_fewest_moves_for_that_balance(
    cluster: tuple[list[ShardCopies], list[Candidate], PlacementSettings],
) -> None:
    shards, everybody, wanted = cluster
    nodes = [replace(node, state=NodeState.ALIVE, may_lead=True) for node in everybody]
    copies = wanted.replication_factor
    goal = target(shards, nodes, wanted)

    if goal.quotas and zones_have_room(nodes, copies):
        assert copy_balance_violations(goal, nodes, copies) == []
        assert cheapest_violations(shards, goal, nodes, copies) == []


@settings(max_examples=60)
@given(clusters())
def test_a_node_dead_within_the_grace_keeps_its_copies_whatever_else_changes(
    cluster: tuple[list[ShardCopies], list[Candidate], PlacementSettings],
) -> None:
    shards, nodes, wanted = cluster
    shards = failed_over(shards, nodes)
    goal = target(shards, nodes, wanted)

    assert grace_violations(shards, goal, nodes) == []


@settings(max_examples=60)
@given(clusters())
def test_primaries_alone_move_only_inside_in_sync_and_never_make_the_balance_worse(
    cluster: tuple[list[ShardCopies], list[Candidate], PlacementSettings],
) -> None:
    shards, nodes, wanted = cluster
    moves = primary_moves(shards, nodes, wanted)
    after = list(shards)
    for move in moves:
        assert shards[move.shard].primary == move.source != move.target
        assert move.target in shards[move.shard].in_sync
        after[move.shard] = replace(shards[move.shard], primary=move.target)

    assert primary_moves(after, nodes, wanted) == ()
    assert [holders(shard) for shard in after] == [holders(shard) for shard in shards]


@settings(max_examples=60)
@given(
    st.lists(
        st.lists(st.sampled_from("abcd"), unique=True, min_size=1, max_size=3).map(
            lambda names: ShardCopies(primary=names[0], in_sync=tuple(names))
        ),
        min_size=1,
        max_size=6,
    )
)
def test_no_other_choice_of_the_same_balance_moves_fewer_primaries(shards: list[ShardCopies]) -> None:
    moves = primary_moves(shards, [Candidate(name) for name in "abcd"], SETTINGS)
    after = [shard.primary or "" for shard in shards]
    for move in moves:
        after[move.shard] = move.target
    rivals = [choice for choice in itertools.product(*(s.in_sync for s in shards)) if sorted(choice) == sorted(after)]
    fewest = min(sum(name != s.primary for name, s in zip(choice, shards, strict=True)) for choice in rivals)

    assert len(moves) == fewest
