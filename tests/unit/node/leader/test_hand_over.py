"""A leader that is slow, or whose disk hangs, hands over (counterexamples.md L2, L3)."""

from ringkeep_node.machines.leader import StepDown, TransferLeadership
from ringkeep_testing.leader_world import LeaderWorld

SLOW = "the leader's event loop is slow"
HANGS = "the leader's disk hangs"


def _slow_for(world: LeaderWorld, seconds: float, lag_s: float = 0.25) -> None:
    end = world.now + seconds
    while world.now < end - 1e-9:
        world.leader.lagged(lag_s, now=world.now)
        world.tick()
        world.now = round(world.now + 0.25, 6)


def test_a_leader_with_250_ms_of_lag_for_two_seconds_hands_over_to_a_voter_without_it() -> None:
    world = LeaderWorld.of(5, 16, voters=3)
    world.lags = {"n2": 0.3}
    world.tick()
    _slow_for(world, 2.25)

    assert world.handed == [(102.0, TransferLeadership("n3", SLOW))]


def test_a_short_stall_hands_nothing_over() -> None:
    world = LeaderWorld.of(5, 16)
    world.tick()
    world.leader.lagged(1.9, now=world.now)
    world.run(10.0)
    _slow_for(world, 1.75)
    world.leader.lagged(0.01, now=world.now)
    _slow_for(world, 1.75)

    assert world.handed == []


def test_separate_stalls_do_not_add_up() -> None:
    world = LeaderWorld.of(5, 16)
    for _ in range(10):
        world.leader.lagged(0.9, now=world.now)
        world.run(1.5)

    assert world.handed == []


def test_lag_of_200_ms_is_tolerated() -> None:
    world = LeaderWorld.of(5, 16)
    _slow_for(world, 5.0, lag_s=0.2)

    assert world.handed == []


def test_a_slow_leader_without_a_healthier_voter_goes_on_leading_and_deciding() -> None:
    world = LeaderWorld.of(3, 16)
    world.lags = {"n2": 1.0, "n3": 1.0}
    _slow_for(world, 3.0)
    world.kill("n3")
    _slow_for(world, 1.0)

    assert world.handed == []
    assert not any(it.is_in_sync("n3") for it in world.map.shards)


def test_a_leader_whose_disk_hangs_hands_over_and_tries_another_voter_each_second() -> None:
    world = LeaderWorld.of(3, 16)
    world.tick()
    world.stalled = {"n1"}
    world.run(2.5)

    assert world.handed == [
        (100.0, TransferLeadership("n2", HANGS)),
        (101.0, TransferLeadership("n3", HANGS)),
        (102.0, TransferLeadership("n2", HANGS)),
    ]


def test_a_leader_whose_disk_hangs_steps_down_if_there_is_nobody_to_name() -> None:
    world = LeaderWorld.of(3, 16)
    world.stalled = {"n1", "n2", "n3"}
    world.tick()

    assert world.handed == [(100.0, StepDown(HANGS))]


def test_the_only_voter_keeps_leading() -> None:
    world = LeaderWorld.of(1, 16, voters=1)
    world.stalled = {"n1"}
    world.run(5.0)

    assert world.handed == []


def test_neither_the_dead_nor_the_suspected_nor_the_stalled_are_named() -> None:
    world = LeaderWorld.of(5, 16)
    world.kill("n2")
    world.suspects = {"n3"}
    world.stalled = {"n1", "n4"}
    world.tick()

    assert world.handed == [(100.0, TransferLeadership("n5", HANGS))]


def test_a_voter_that_started_again_is_the_last_to_be_chosen_even_before_the_map_names_its_boot() -> None:
    """It saw nothing of who led what before, so under it primaries would not find home."""
    world = LeaderWorld.of(3, 16)
    world.restart("n3")
    world.counters["n2"] += 1
    world.tick()
    _slow_for(world, 2.25)

    assert world.leader.successor() == "n3"
    assert world.handed == [(102.0, TransferLeadership("n3", SLOW))]
