"""The leader carries plans out: scale, drain, grace, weights (replication.md, Handoff; placement.md, step 8)."""

from itertools import pairwise

import pytest

from ringkeep_core.mapchanges import AddLearner, Leave, RemoveCopy, SetWanted
from ringkeep_core.plans import with_drain
from ringkeep_core.shardmap import Settings, WantedMember
from ringkeep_node.machines.planning import HandOver, PlanningSettings
from ringkeep_testing.plan_world import PlanWorld, drained


def _scaled(shards: int, settings: Settings | None = None, *, copy_s: float = 0.2) -> tuple[PlanWorld, int, float]:
    """Return a cluster scaled from 3 to 5, the planner's lower bound, and how long it took."""
    world = PlanWorld.of(3, shards, settings)
    world.copy_s = copy_s
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


def _growing(shards: int) -> PlanWorld:
    """Return a cluster whose two new nodes were wanted just now."""
    world = PlanWorld.of(3, shards)
    world.copy_s = 0.6
    world.join("n4")
    world.join("n5")
    world.want({f"n{number}": WantedMember() for number in range(1, 6)})
    return world


def _moves(world: PlanWorld) -> bool:
    return any(shard.learners for shard in world.map.shards)


def test_while_copies_are_on_their_way_primaries_are_handed_over_once_in_a_while() -> None:
    world, ordered = _growing(256), list[float]()
    while _moves(world) or not ordered:
        before = len(world.hand_overs)
        world.run(0.05)
        if _moves(world):
            ordered += [at for at, _ in world.hand_overs[before:]]
    rounds = sorted(set(ordered))
    world.settle()

    assert len(rounds) >= 2 and world.is_whole()
    assert min(after - at for at, after in pairwise(rounds)) > PlanningSettings().moving_rest_s - 0.001


def test_who_stops_while_copies_are_on_their_way_is_relieved_at_once() -> None:
    world = _growing(256)
    while not world.hand_overs:
        world.run(0.05)
    began = world.now
    world.leaving.add("n1")
    world.run(0.3)
    relief = [at for at, order in world.hand_overs if order.source == "n1" and "is leaving" in order.reason]

    assert _moves(world) and relief and relief[0] <= began + 0.3


def test_more_streams_for_each_node_are_faster() -> None:
    _, _, one = _scaled(64, copy_s=0.6)
    _, _, two = _scaled(64, Settings(streams_per_node=2), copy_s=0.6)

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
    explained = world.leader.explain(now=world.now)
    world.settle()
    world.run(2.0)
    world.settle()

    assert within == (0, 36)
    assert explained.in_grace == (("n3", 400.0),)
    assert world.leader.explain(now=world.now).in_grace == ()
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


def test_a_shard_with_a_failover_under_way_waits_and_the_others_go_on() -> None:
    world = PlanWorld.of(5, 60)
    members = world.map.wanted.members
    world.kill("n3")
    world.commits = False
    world.want({name: drained(want) if name == "n5" else want for name, want in members.items()})
    world.tick()
    (failover,) = world.entries()
    world.now += 0.1
    world.tick()
    failing = {part.shard for part in failover.changes}
    planned = {part.shard for entry in world.entries()[1:] for part in entry.changes}
    planned |= {move.shard for _, order in world.hand_overs for move in order.moves}

    assert planned
    assert not planned & failing


def test_progress_tells_what_moves_and_why() -> None:
    world = PlanWorld.of(3, 256, Settings(streams_max=1))
    world.join("n4")
    world.want({f"n{number}": WantedMember() for number in range(1, 5)})
    digest = world.target().digest
    world.run(0.3)
    plan = world.leader.explain(now=world.now).plan

    assert plan is not None
    assert (plan.reason, plan.wanted_revision, plan.copies_wanted) == ("scale: n4 joins", 2, 192)
    assert 0 < plan.copies_moved < 192
    assert [(source, to) for source, to, _ in plan.streams] in ([("n1", "n4")], [("n2", "n4")], [("n3", "n4")])
    assert plan.target_digest == digest
    assert any("old copies stay until the new ones are in sync" in wait for wait in plan.waits)
    assert round(plan.seconds, 1) == 0.3


def test_a_member_whose_disk_hangs_for_longer_than_the_grace_is_replaced_like_a_dead_one() -> None:
    world = PlanWorld.of(5, 60)
    world.stalled = {"n3"}
    world.run(299.0)
    before = world.added
    world.run(20.0)

    assert (before, world.added) == (0, 36)
    assert not any(it.copy_of("n3") for it in world.map.shards)


def test_a_drain_that_waits_for_a_dead_member_names_it() -> None:
    """Three copies are wanted of the three that stay, and one of them is dead: the drained copy is the third."""
    world = PlanWorld.of(4, 32, Settings(streams_per_node=3))
    world.kill("n4")
    members = world.map.wanted.members
    world.want({name: drained(want) if name == "n3" else want for name, want in members.items()})
    world.run(90.0)
    waiting = world.leader.explain(now=world.now).plan
    world.restart("n4")
    world.settle()

    assert waiting is not None
    assert waiting.waits[0] == (
        "n3 cannot give up its copies: 2 living nodes would remain for 3 copies; start n4, or drain it too"
    )
    assert world.held()["n3"] == 0


def test_a_drain_beside_a_restart_hands_over_what_must_go_and_balances_nothing() -> None:
    world = PlanWorld.of(5, 60)
    world.leaving.add("n2")
    world.run(0.5)
    world.left.add("n2")
    world.kill("n2")
    world.run(1.0)
    members = world.map.wanted.members
    world.hand_overs.clear()
    world.want({name: drained(want) if name == "n5" else want for name, want in members.items()})
    world.run(20.0)
    sources = {order.source for _, order in world.hand_overs}
    world.restart("n2")
    world.settle()

    assert sources == {"n5"}
    assert world.is_whole()
    assert world.led()["n5"] == 0


def test_a_copy_is_not_given_up_while_one_of_those_that_remain_is_in_doubt() -> None:
    world = PlanWorld.of(4, 32, Settings(streams_per_node=3))
    members = world.map.wanted.members
    world.want({name: drained(want) if name == "n4" else want for name, want in members.items()})
    world.run(0.1)
    world.suspects = {"n2"}
    world.run(5.0)
    in_doubt = [it for it in world.map.shards if it.copy_of("n4") is None and it.is_in_sync("n2") and it.revision > 1]
    world.suspects = set()
    world.settle()

    assert in_doubt == []
    assert world.is_whole()


def test_a_leader_that_leads_again_inherits_nothing_from_its_former_term() -> None:
    world = PlanWorld.of(3, 32)
    world.join("n4")
    world.want({f"n{number}": WantedMember() for number in range(1, 5)})
    world.commits = False
    world.tick()
    world.leads = False
    world.tell()
    world.leads, world.commits = True, True
    world.tick()

    assert world.added > 0


def test_an_order_that_nobody_needs_any_more_is_forgotten() -> None:
    world = PlanWorld.of(5, 60)
    members = world.map.wanted.members
    world.commits = False
    world.want({name: drained(want) if name == "n5" else want for name, want in members.items()})
    world.tick()
    ordered = world.leader.explain(now=world.now).under_way
    world.want(members)
    world.run(10.0)

    assert ordered
    assert world.leader.explain(now=world.now).under_way == ()
    assert world.leader.next_deadline() is None


class _Deaf(PlanWorld):
    """A cluster in which one member's orders to hand over come to nothing."""

    deaf = ""

    def hand_over(self, order: HandOver) -> None:
        if order.source != self.deaf:
            super().hand_over(order)


def test_a_member_that_does_not_hand_over_keeps_no_other_from_it() -> None:
    world = _Deaf.of(6, 96)
    world.settle()
    world.deaf = "n1"
    world.commit(SetWanted(with_drain(world.map.wanted, "n1"), "drain n1"))
    world.commit(SetWanted(with_drain(world.map.wanted, "n2"), "drain n2"))
    world.run(20.0)

    assert world.led()["n1"] > 0
    assert world.led()["n2"] == 0
