"""Plans put the most endangered shards first, keep to the streams and the budget, and never endanger a copy."""

from __future__ import annotations

from dataclasses import replace

from ringkeep_core.placement import (
    AddLearner,
    Assignment,
    AwaitInSync,
    Candidate,
    Forecast,
    MovePrimary,
    NodeState,
    PlacementSettings,
    RemoveCopy,
    ShardCopies,
    Step,
    Target,
    forecast,
    initial,
    steps,
    target,
)
from ringkeep_testing.placement_checks import adopted, arrival_violations, replay

SETTINGS = PlacementSettings()
MIB = 1 << 20


def _nodes(names: str) -> list[Candidate]:
    return [Candidate(name) for name in names]


def _goal(*shards: tuple[str, str | None]) -> Target:
    return Target(tuple(Assignment(tuple(copies), primary) for copies, primary in shards), 0, 0, {}, "")


def test_a_map_that_is_as_wanted_needs_no_step() -> None:
    nodes = _nodes("abcde")
    shards = adopted(initial(64, nodes, SETTINGS), nodes, need=2)

    assert steps(shards, target(shards, nodes, SETTINGS), nodes, SETTINGS) == ()


def test_a_copy_moves_by_learner_wait_handover_and_removal_in_this_order() -> None:
    shard = ShardCopies("a", ("a", "b", "c"), need=2)

    assert steps([shard], _goal(("bcd", "d")), _nodes("abcd"), SETTINGS, [5]) == (
        Step(
            changes=(
                AddLearner(0, "d", "a"),
                AwaitInSync(0, "d"),
                MovePrimary(0, "a", "d"),
                RemoveCopy(0, "a"),
            ),
            streams=(("a", "d"),),
            bytes=5,
            stream_bytes_max=5,
        ),
    )


def test_a_learner_that_is_there_already_is_only_awaited() -> None:
    shard = ShardCopies("a", ("a", "b"), learners=("c",), need=2)

    assert [step.changes for step in steps([shard], _goal(("abc", "a")), _nodes("abc"), SETTINGS)] == [
        (AwaitInSync(0, "c"),)
    ]


def test_a_shard_with_one_live_copy_is_repaired_before_one_with_two_and_both_before_moves() -> None:
    shards = [
        ShardCopies("a", ("a", "b", "c"), need=2),
        ShardCopies("a", ("a", "b"), need=2),
        ShardCopies("a", ("a",), need=2),
        ShardCopies("a", ("a",), ("e",), ("e",), need=2),
    ]
    goal = _goal(("bcd", "b"), ("abd", "a"), ("ad", "a"), ("ade", "a"))
    one_at_a_time = replace(SETTINGS, streams_max=1, stream_shards_max=1)
    alive = steps(shards, goal, _nodes("abcde"), one_at_a_time)
    dead = steps(shards, goal, [*_nodes("abcd"), Candidate("e", state=NodeState.DEAD_IN_GRACE)], one_at_a_time)

    assert alive[0].changes[0].shard == 2
    assert [step.repairs for step in alive] == [True] * 4 + [False]
    assert {step.changes[0].shard for step in dead[:2]} == {2, 3}
    assert [step.changes[0].shard for step in dead[2:]] == [1, 0]


def test_the_last_complete_copies_stay_when_nobody_alive_could_replace_them() -> None:
    # in_sync = {a} is dead, eligible = {p} is dead beyond the grace: removing them would remove the data.
    shard = ShardCopies("a", ("a",), ("p",), ("p",), need=2)
    nodes = [
        Candidate("a", state=NodeState.DEAD),
        Candidate("p", state=NodeState.DEAD),
        Candidate("x"),
        Candidate("y"),
    ]
    goal = target([shard], nodes, PlacementSettings(replication_factor=2))

    assert goal.shards[0].copies == ("x", "y")
    assert steps([shard], goal, nodes, SETTINGS) == ()


def test_an_eligible_copy_is_removed_only_after_enough_others_are_in_sync() -> None:
    shard = ShardCopies("a", ("a",), ("p",), ("p",), need=2)
    nodes = [Candidate("a"), Candidate("p", state=NodeState.DEAD), Candidate("x"), Candidate("y")]
    plan = steps([shard], _goal(("axy", "a")), nodes, SETTINGS)

    assert [change for step in plan for change in step.changes] == [
        AddLearner(0, "x", "a"),
        AwaitInSync(0, "x"),
        AddLearner(0, "y", "a"),
        AwaitInSync(0, "y"),
        RemoveCopy(0, "p"),
    ]


def test_a_copy_dead_beyond_the_grace_is_removed_only_after_its_replacement_is_in_sync() -> None:
    shard = ShardCopies("a", ("a", "b"), learners=("d",), need=2)
    nodes = [*_nodes("abx"), Candidate("d", state=NodeState.DEAD)]

    assert [step.changes for step in steps([shard], _goal(("abx", "a")), nodes, SETTINGS)] == [
        (AddLearner(0, "x", "a"), AwaitInSync(0, "x"), RemoveCopy(0, "d"))
    ]


def test_fewer_wanted_copies_than_needed_are_not_reached_while_the_need_stands() -> None:
    shard = ShardCopies("a", ("a", "b"), need=2)
    alone = steps([replace(shard, need=1)], _goal(("a", "a")), _nodes("ab"), SETTINGS)

    assert steps([shard], _goal(("a", "a")), _nodes("ab"), SETTINGS) == ()
    assert alone == (Step((RemoveCopy(0, "b"),)),)


def test_a_target_without_any_copy_removes_nothing() -> None:
    assert steps([ShardCopies("a", ("a",), need=0)], _goal(("", None)), _nodes("a"), SETTINGS) == ()


def test_a_shard_whose_primary_is_dead_waits_for_the_failover() -> None:
    nodes = [Candidate("a", state=NodeState.DEAD), *_nodes("bcd")]

    assert steps([ShardCopies("a", ("a", "b", "c"), need=2)], _goal(("bcd", "b")), nodes, SETTINGS) == ()


def test_a_copy_wanted_on_a_node_dead_within_the_grace_is_waited_for_and_nothing_else_goes() -> None:
    shard = ShardCopies("a", ("a", "b", "c"), learners=("d",), need=2)
    nodes = [*_nodes("abc"), Candidate("d", state=NodeState.DEAD_IN_GRACE)]

    assert steps([shard], _goal(("bcd", "b")), nodes, SETTINGS) == (Step((MovePrimary(0, "a", "b"),)),)


def test_a_stream_carries_64_shards_or_64_mib_whichever_is_less() -> None:
    shards = [ShardCopies("a", ("a",), need=1)] * 100
    goal = _goal(*[("b", "b")] * 100)
    by_count = steps(shards, goal, _nodes("ab"), SETTINGS, [1] * 100)
    by_bytes = steps(shards, goal, _nodes("ab"), SETTINGS, [10 * MIB] * 100)
    giant = steps(shards[:2], _goal(("b", "b"), ("b", "b")), _nodes("ab"), SETTINGS, [900 * MIB] * 2)

    assert [step.bytes for step in by_count] == [64, 36]
    assert [step.bytes // MIB for step in by_bytes] == [60] * 16 + [40]
    assert [step.bytes // MIB for step in giant] == [900, 900]


def test_a_step_keeps_to_the_cluster_cap_and_the_byte_budget() -> None:
    shards = [ShardCopies(name, (name,), need=1) for name in "abcdef"]
    goal = _goal(*[(name, name) for name in "uvwxyz"])
    nodes = _nodes("abcdefuvwxyz")
    capped = steps(shards, goal, nodes, replace(SETTINGS, streams_max=4), [MIB] * 6)
    budget = steps(shards, goal, nodes, replace(SETTINGS, step_bytes_max=2 * MIB), [MIB] * 6)

    assert [len(step.streams) for step in capped] == [4, 2]
    assert [step.bytes // MIB for step in budget] == [2, 2, 2]


def test_growing_from_three_nodes_to_five_takes_few_steps() -> None:
    shards = adopted(initial(256, _nodes("abc"), SETTINGS), _nodes("abc"), need=2)
    goal = target(shards, _nodes("abcde"), SETTINGS)
    plan = steps(shards, goal, _nodes("abcde"), SETTINGS, [MIB // 4] * 256)
    done = replay(shards, goal, plan, _nodes("abcde"), SETTINGS)

    assert done.wrong == []
    assert arrival_violations(done, goal, _nodes("abcde")) == []
    assert goal.moves == goal.lower_bound == 306
    assert len(plan) <= 10


def test_a_forecast_sums_what_a_plan_will_cost_before_it_is_carried_out() -> None:
    shards = [ShardCopies("a", ("a", "b", "c"), need=2)] * 2
    plan = steps(shards, _goal(("bcd", "d"), ("abd", "a")), _nodes("abcd"), SETTINGS, [50_000_000, 10_000_000])

    assert forecast(plan, SETTINGS) == Forecast(
        shards=(0, 1), copies=2, primaries=1, bytes=60_000_000, seconds=0.6, pause_s=0.01
    )
    assert forecast((), SETTINGS) == Forecast((), 0, 0, 0, 0.0, 0.0)


def test_a_primary_stays_until_another_node_can_take_over() -> None:
    shard = ShardCopies("a", ("a", "b", "c", "d"), need=2)

    assert steps([shard], _goal(("bcd", None)), _nodes("abcd"), SETTINGS) == ()
