"""Primaries move back to balance, gently, and not to members that flap (replication.md, Flapping; L9)."""

from itertools import pairwise

import pytest

from ringkeep_core.mapchanges import Move, ShardChanges
from ringkeep_core.shardmap import Settings
from ringkeep_node.machines.flapping import FlappingGuard
from ringkeep_node.machines.planning import HandOver
from ringkeep_node.machines.verdicts import MemberFacts
from ringkeep_testing.leader_world import LeaderWorld


def _after_a_death(nodes: int = 3, shards: int = 96, settings: Settings | None = None) -> LeaderWorld:
    """n2 died, was failed over, came back and is in sync again everywhere."""
    world = LeaderWorld.of(nodes, shards, settings)
    world.kill("n2")
    world.run(10.0)
    world.restart("n2")
    world.run(1.0, grows=True)
    world.proposed.clear()
    world.hand_overs.clear()
    return world


def test_a_returned_member_gets_primaries_back_after_it_lived_for_30_seconds() -> None:
    world = _after_a_death()
    since = world.now - 1.0
    world.run(28.9, grows=True)
    before = (list(world.hand_overs), world.led())
    world.run(10.0, grows=True)

    assert before == ([], {"n1": 48, "n2": 0, "n3": 48})
    assert round(world.hand_overs[0][0] - since, 6) == 30.0
    assert world.led() == {"n1": 32, "n2": 32, "n3": 32}


def test_an_order_hands_over_at_most_8_shards_and_each_new_primary_takes_one_at_a_time() -> None:
    world = _after_a_death(shards=192)
    world.run(28.9)
    world.commits = False
    world.now += 0.1
    (first,) = [order for order in world.tick() if isinstance(order, HandOver)]
    world.now += 0.2
    nothing = world.tick()
    world.hand_over(first)
    world.commits = True
    world.run(5.0)

    assert nothing == ()
    assert [len(order.moves) for _, order in world.hand_overs] == [8] * 8
    assert world.led() == {"n1": 64, "n2": 64, "n3": 64}


def test_orders_that_balance_leave_a_pause_between_them_for_each_pair() -> None:
    world = _after_a_death(shards=192)
    world.run(60.0)
    times = [at for at, order in world.hand_overs if order.source == "n1"]

    assert len(times) == 4
    assert all(later - earlier >= 0.0999 for earlier, later in pairwise(times))


def test_a_shard_that_had_not_drained_is_asked_again_when_the_others_have_moved() -> None:
    world = _after_a_death(shards=192)
    world.run(28.9)
    world.commits = False
    world.now += 0.1
    (order,) = [order for order in world.tick() if isinstance(order, HandOver)]
    left_out, began = order.moves[0], world.now
    world.commit(ShardChanges(order.moves[1:], order.reason))
    world.commits = True
    world.run(0.2)
    again = [at for at, order in world.hand_overs[1:] if left_out in order.moves]

    assert [round(at - began, 3) for at in again] == [0.1]


def test_nothing_moves_while_a_shard_has_a_dead_member_in_it() -> None:
    world = _after_a_death(nodes=5, shards=60)
    world.run(28.0)
    world.kill("n4")
    world.commits = False
    world.run(3.0)

    assert [entry.reason for entry in world.entries()] == ["n4 is dead, say n1, n2, n3, n5"] * 3
    assert world.hand_overs == []


def test_a_fresh_cluster_balances_without_a_guard() -> None:
    world = LeaderWorld.of(3, 30)
    moves = [
        Move(number, it.revision, "n1") for number, it in enumerate(world.map.shards) if it.primary.storage != "n1"
    ]
    world.commit(ShardChanges(tuple(moves), "everything to n1"))
    world.run(1.0)

    assert world.led() == {"n1": 10, "n2": 10, "n3": 10}


def test_a_flapping_member_still_leads_what_nobody_else_can_lead() -> None:
    world = _after_a_death(nodes=5, shards=64, settings=Settings(2, 1))
    only_n2 = [
        number
        for number, it in enumerate(world.map.shards)
        if it.primary.storage == "n4" and [copy.storage for copy in it.in_sync] in (["n2", "n4"], ["n4", "n2"])
    ]
    world.kill("n4")
    world.run(1.0)

    assert only_n2
    assert [number for number, it in enumerate(world.map.shards) if it.primary.storage == "n2"] == only_n2


def test_a_restart_that_nobody_noticed_counts_as_a_death() -> None:
    world = LeaderWorld.of(3, 96)
    world.run(1.0)
    world.restart("n2")
    since = world.now
    world.run(29.0)
    before = world.led()
    world.run(5.0)

    assert before["n2"] == 0
    assert round(world.hand_overs[0][0] - since, 6) == 30.0
    assert world.led() == {"n1": 32, "n2": 32, "n3": 32}


def _guard() -> FlappingGuard:
    return FlappingGuard(guard_s=30.0, guard_max_s=600.0, window_s=3600.0)


def _fact(counter: int, *, dead: bool = False) -> list[MemberFacts]:
    return [MemberFacts(storage="a", counter=counter, dead=dead)]


@pytest.mark.parametrize(("deaths", "guard_s"), [(1, 30.0), (2, 60.0), (3, 120.0), (5, 480.0), (6, 600.0), (40, 600.0)])
def test_the_guard_doubles_with_each_death_within_an_hour_up_to_ten_minutes(deaths: int, guard_s: float) -> None:
    guard = _guard()
    guard.watch(_fact(1), now=0.0)
    for number in range(deaths):
        guard.watch(_fact(number + 1, dead=True), now=number + 0.5)
        guard.watch(_fact(number + 2), now=number + 1.0)

    assert guard.guarded_until("a", now=float(deaths)) == deaths + guard_s
    assert guard.guarded_until("a", now=deaths + guard_s - 0.001) == deaths + guard_s
    assert guard.guarded_until("a", now=deaths + guard_s) is None


def test_deaths_older_than_an_hour_are_forgotten() -> None:
    guard = _guard()
    guard.watch(_fact(1), now=0.0)
    guard.watch(_fact(1, dead=True), now=1.0)
    guard.watch(_fact(2), now=2.0)
    guard.watch(_fact(2, dead=True), now=3601.5)
    guard.watch(_fact(3), now=3602.0)

    assert guard.guarded_until("a", now=3602.0) == 3632.0


def test_a_member_first_seen_alive_is_not_guarded_and_a_refuted_suspicion_is_no_death() -> None:
    guard = _guard()
    guard.watch(_fact(0), now=0.0)
    guard.watch(_fact(7), now=1.0)
    guard.watch([MemberFacts(storage="a", counter=7, suspect=True)], now=2.0)
    guard.watch(_fact(7), now=3.0)

    assert guard.guarded_until("a", now=3.0) is None
    assert guard.guarded_until("unknown", now=3.0) is None
