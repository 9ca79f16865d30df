"""A rolling restart moves primaries at most twice and no copies; a planned stop is no death (replication.md, Handoff)."""

import pytest

from ringkeep_core.mapchanges import AddLearner
from ringkeep_node.machines.flapping import FlappingGuard
from ringkeep_node.machines.verdicts import MemberFacts
from ringkeep_testing.plan_world import PlanWorld


def _restart(world: PlanWorld, name: str, *, pause_s: float) -> float:
    """Restart one node as a launcher does; return how long it took until it led nothing any more."""
    began = world.now
    world.leaving.add(name)
    if world.me == name:
        world.new_leader(min(it for it in sorted(world.map.members) if it != name))
    while world.led()[name] and world.now < began + 5.0:
        world.run(0.05)
    relieved = world.now - began
    world.left.add(name)
    world.kill(name)
    world.run(1.0)
    world.restart(name)
    world.run(pause_s)
    return relieved


@pytest.mark.parametrize("pause_s", [0.5, 3.0])
def test_a_rolling_restart_of_five_moves_each_primary_at_most_twice_and_no_copy(pause_s: float) -> None:
    world = PlanWorld.of(5, 256)
    world.run(1.0)
    before = world.map
    relieved = [_restart(world, f"n{number}", pause_s=pause_s) for number in range(1, 6)]
    world.run(5.0)
    led = world.led().values()

    assert max(relieved) < 1.0
    assert max(world.moved.values()) <= 2
    assert world.added == 0
    assert not any(isinstance(part, AddLearner) for entry in world.entries() for part in entry.changes)
    assert max(led) - min(led) <= 1
    assert world.is_whole()
    if pause_s > 1.0:
        assert [it.primary.storage for it in world.map.shards] == [it.primary.storage for it in before.shards]


def test_the_reasons_say_that_a_node_restarts_and_not_that_it_died() -> None:
    world = PlanWorld.of(5, 60)
    _restart(world, "n2", pause_s=3.0)

    assert {order.reason for _, order in world.hand_overs} == {
        "n2 is leaving: its primaries go first",
        "back to balance",
    }
    assert {entry.reason for entry in world.entries()} == {"n2 left for a restart"}


def test_the_least_loaded_take_over_and_of_those_the_one_restarted_last() -> None:
    world = PlanWorld.of(5, 60)
    _restart(world, "n4", pause_s=5.0)
    before = world.led()
    world.leaving.add("n2")
    world.run(1.0)
    led = world.led()
    others = [led[name] for name in ("n1", "n3", "n5")]

    assert before == {"n1": 12, "n2": 12, "n3": 12, "n4": 12, "n5": 12}
    assert max(others) - min(others) <= 3
    assert led["n4"] >= max(others)


def test_a_leaving_node_gets_no_primaries_and_keeps_those_that_nobody_else_can_lead() -> None:
    world = PlanWorld.of(3, 12)
    world.kill("n1")
    world.me = "n3"
    world.new_leader("n3")
    world.run(1.0)
    world.leaving = {"n3"}
    world.run(2.0)
    first = world.led()
    world.leaving = {"n2", "n3"}
    world.run(2.0)

    assert first == {"n1": 0, "n2": 12, "n3": 0}
    assert world.led() == first


def test_relief_goes_on_while_another_member_is_only_suspected() -> None:
    world = PlanWorld.of(5, 60)
    world.suspects = {"n5"}
    world.leaving = {"n2"}
    world.run(1.0)

    assert world.led()["n2"] == 0


def test_a_planned_stop_is_no_death_for_the_guard_and_a_crash_after_it_is_one() -> None:
    guard = FlappingGuard(guard_s=30.0, guard_max_s=600.0, window_s=3600.0)
    for at, fact in enumerate(
        [
            MemberFacts(storage="a", counter=1),
            MemberFacts(storage="a", counter=1, leaving=True),
            MemberFacts(storage="a", counter=1, dead=True, left=True),
            MemberFacts(storage="a", counter=2),
        ]
    ):
        guard.watch([fact], now=float(at))
    planned = guard.guarded_until("a", now=4.0)
    guard.watch([MemberFacts(storage="a", counter=2, dead=True)], now=5.0)
    guard.watch([MemberFacts(storage="a", counter=3)], now=6.0)

    assert planned is None
    assert guard.guarded_until("a", now=7.0) == 36.0


def test_a_planned_restart_that_nobody_saw_the_end_of_is_no_death_either() -> None:
    guard = FlappingGuard(guard_s=30.0, guard_max_s=600.0, window_s=3600.0)
    guard.watch([MemberFacts(storage="a", counter=1, leaving=True)], now=0.0)
    guard.watch([MemberFacts(storage="a", counter=2)], now=1.0)

    assert guard.guarded_until("a", now=2.0) is None


def test_a_boot_that_an_old_map_did_not_know_is_no_restart() -> None:
    """Whoever starts holds the map of its disk, and hears of later boots than that one names."""
    guard = FlappingGuard(guard_s=30.0, guard_max_s=600.0, window_s=3600.0)
    guard.watch([MemberFacts(storage="a", counter=1, heard=False)], now=0.0)
    guard.watch([MemberFacts(storage="a", counter=2)], now=1.0)
    first = guard.guarded_until("a", now=2.0)
    guard.watch([MemberFacts(storage="a", counter=3)], now=3.0)

    assert first is None
    assert guard.guarded_until("a", now=4.0) == 33.0
