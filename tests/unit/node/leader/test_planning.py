"""The leader carries plans out: scale, drain, grace, weights (replication.md, Handoff; placement.md, step 8)."""

import pytest

from ringkeep_core.mapchanges import AddLearner, Leave, RemoveCopy
from ringkeep_core.shardmap import Settings, WantedMember
from ringkeep_testing.plan_world import PlanWorld, drained


def _scaled(shards: int, settings: Settings | None = None) -> tuple[PlanWorld, int, float]:
    """Return a cluster scaled from 3 to 5, the planner's lower bound, and how long it took."""
    world = PlanWorld.of(3, shards, settings)
    world.join("n4")
    world.join("n5")
    world.run(1.0)
    world.want({f"n{number}": WantedMember() for number in range(1, 6)})
    bound = world.target().lower_bound
    return world, bound, world.settle()


def test_a_node_that_nobody_wants_gets_nothing() -> None:
    world = PlanWorld.of(3, 32)
    world.join("n4")
    world.run(10.0)

    assert (world.proposed, world.hand_overs) == ([], [])


@pytest.mark.parametrize("shards", [16, 256])
def test_scaling_from_3_to_5_moves_the_lower_bound_in_a_few_seconds_and_ends_balanced(shards: int) -> None:
    world, bound, took = _scaled(shards)
    held, led = world.held().values(), world.led().values()

    assert world.added == bound
    assert world.is_whole()
    assert (max(held) - min(held), max(led) - min(led)) <= (1, 1)
    assert took < 6.0
    assert world.refused == {}
    assert world.entries()[0].reason == "scale: n4, n5 join"
    assert world.leader.explain(now=world.now).plan is None


def test_scaling_back_drains_and_then_the_members_can_leave() -> None:
    world, _, _ = _scaled(64)
    members = world.map.wanted.members
    world.want({name: drained(want) if name in ("n4", "n5") else want for name, want in members.items()})
    bound, world.added = world.target().lower_bound, 0
    world.settle()
    world.commit(Leave("n4", "scaled down"))
    world.commit(Leave("n5", "scaled down"))

    assert world.added == bound
    assert world.refused == {}
    assert sorted(world.map.members) == ["n1", "n2", "n3"]
    assert world.is_whole()


def test_two_streams_at_most_start_while_only_two_nodes_receive_one_each() -> None:
    world, _, _ = _scaled(64)

    assert world.streams_max_seen == 2
    assert max(sum(isinstance(it, AddLearner) for it in entry.changes) for entry in world.entries()) <= 128
    assert max(sum(isinstance(it, RemoveCopy) for it in entry.changes) for entry in world.entries()) <= 64


def test_more_streams_for_each_node_are_faster() -> None:
    _, _, one = _scaled(64)
    _, _, two = _scaled(64, Settings(streams_per_node=2))

    assert two < one


def test_a_finished_cluster_asks_for_nothing_and_has_no_deadline() -> None:
    world, _, _ = _scaled(64)
    world.tell()
    world.tick()

    assert world.leader.next_deadline() is None


def test_a_dead_member_keeps_its_copies_within_the_grace_and_loses_them_after_it() -> None:
    world = PlanWorld.of(5, 60)
    world.kill("n3")
    world.run(299.0)
    within = (world.added, sum(1 for it in world.map.shards if it.copy_of("n3")))
    world.settle()
    world.run(2.0)
    world.settle()

    assert within == (0, 36)
    assert world.added == 36
    assert not any(it.copy_of("n3") for it in world.map.shards)
    assert all(len(it.in_sync) == 3 for it in world.map.shards)
    assert any(entry.reason == "re-replication: n3 dead for 300 s" for entry in world.entries())


def test_a_new_leader_counts_the_grace_anew() -> None:
    world = PlanWorld.of(5, 60)
    world.kill("n3")
    world.run(200.0)
    world.new_leader("n2")
    world.run(200.0)
    before = world.added
    world.run(110.0)

    assert (before, world.added) == (0, 36)


def test_without_anybody_to_take_them_the_copies_of_the_dead_stay_for_its_return() -> None:
    world = PlanWorld.of(3, 30)
    world.kill("n3")
    world.run(400.0)
    kept = sum(1 for it in world.map.shards if it.copy_of("n3"))
    world.restart("n3")
    world.run(60.0)

    assert kept == 30
    assert (world.added, world.is_whole()) == (0, True)


def test_the_most_endangered_shards_are_copied_first() -> None:
    world = PlanWorld.of(6, 60)
    world.kill("n5", "n6")
    world.run(295.0)
    one_left = {number for number, it in enumerate(world.map.shards) if len(it.in_sync) == 1}
    world.proposed.clear()
    world.run(20.0)
    first = [
        change.shard for entry in world.entries()[:2] for change in entry.changes if isinstance(change, AddLearner)
    ]
    first_of_all = set(first[: len(one_left)])

    assert one_left
    assert len(one_left & first_of_all) >= len(one_left) // 2


def test_weight_0_holds_nothing_and_a_changed_mind_reuses_what_is_there() -> None:
    world = PlanWorld.of(4, 64, Settings(streams_max=1))
    members = dict(world.map.wanted.members)
    world.want(members | {"n4": WantedMember(weight=0.0)})
    world.run(0.3)
    added = world.added
    world.want(members)
    more = world.target().lower_bound
    world.settle()

    assert 0 < added < 48
    assert world.added == added + more
    assert world.is_whole()


def test_a_leader_killed_in_the_middle_changes_nothing_about_the_result() -> None:
    world = PlanWorld.of(3, 64)
    world.join("n4")
    world.want({f"n{number}": WantedMember() for number in range(1, 5)})
    bound = world.target().lower_bound
    for turn in range(12):
        world.run(0.11)
        world.new_leader(f"n{turn % 4 + 1}")
    world.settle()

    assert world.added == bound
    assert world.is_whole()
