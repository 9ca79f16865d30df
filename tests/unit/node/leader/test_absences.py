"""Since when members are out is known to every node that watched, and nobody is about to stop for ever."""

from __future__ import annotations

from ringkeep_core.mapchanges import SetWanted
from ringkeep_core.plans import with_drain
from ringkeep_core.shardmap import Settings
from ringkeep_node.machines.absences import LEAVING_S
from ringkeep_node.machines.electorate import Ballot, Patience, Reconfigure
from ringkeep_node.machines.raft.messages import Configuration
from ringkeep_testing.leader_world import LeaderWorld
from ringkeep_testing.plan_world import PlanWorld

GRACE_S = 300.0


def watched(world: PlanWorld, seconds: float) -> None:
    """Let time pass on a node that does not lead, and hears how things are once a second."""
    world.leads = False
    end = world.now + seconds
    while world.now < end:
        world.tell()
        world.now += 1.0
    world.leads = True


def test_a_new_leader_counts_the_grace_from_the_death_that_it_saw_itself() -> None:
    world = PlanWorld.of(5, 60)
    world.kill("n3")
    watched(world, 200.0)
    world.run(99.0)
    before = (world.added, world.leader.explain(now=world.now).in_grace)
    world.run(3.0)
    world.settle()

    assert before == (0, (("n3", 100.0 + GRACE_S),))
    assert world.added == 36


def test_a_member_that_came_back_meanwhile_is_counted_from_its_next_death() -> None:
    world = PlanWorld.of(5, 60)
    world.kill("n3")
    watched(world, 200.0)
    world.restart("n3")
    watched(world, 20.0)
    world.kill("n3")
    watched(world, 50.0)
    world.run(240.0)

    assert world.added == 0


def test_a_new_leader_calls_nobody_lost_before_it_has_heard_what_the_others_say_now() -> None:
    world = PlanWorld.of(5, 60)
    world.kill("n3")
    watched(world, 400.0)
    world.run(2.9)
    early = world.added
    world.run(0.2)
    world.settle()

    assert (early, world.added) == (0, 36)


def test_who_says_that_it_stops_and_stays_gets_its_primaries_back_after_a_minute() -> None:
    world = PlanWorld.of(3, 30, Settings())
    world.leaving = {"n2"}
    world.run(LEAVING_S - 1.0)
    relieved = world.led()["n2"]
    world.run(10.0)

    assert (relieved, world.led()) == (0, {"n1": 10, "n2": 10, "n3": 10})


def test_the_word_of_the_next_boot_counts_anew() -> None:
    world = PlanWorld.of(3, 30, Settings())
    world.leaving = {"n2"}
    world.run(LEAVING_S - 1.0)
    world.restart("n2")
    world.leaving = {"n2"}
    world.run(LEAVING_S - 2.0)

    assert world.led()["n2"] == 0


def _steps(world: LeaderWorld, level: str, seconds: float) -> list[tuple[float, Configuration]]:
    """Let time pass while n1 leads; learners named in ``level`` are level. Returns the steps of the configuration."""
    configuration, steps, ends = Configuration(("n1", "n2", "n3")), [], world.now + seconds
    while world.now < ends:
        ballot = Ballot(configuration, tuple(it for it in configuration.learners if it in level.split()))
        world.leader.facts(
            shard_map=world.map, leads=True, voters=world.voters, members=world.facts(), ballot=ballot, now=world.now
        )
        for order in world.leader.tick(now=world.now):
            if isinstance(order, Reconfigure):
                configuration = order.configuration
                steps.append((round(world.now - 100.0, 1), configuration))
        world.now += 0.1
    return steps


def test_a_learner_that_hangs_makes_room_for_another_one_so_that_a_voter_can_go() -> None:
    world = LeaderWorld.of(5, 16, voters=3)
    for name in ("n2", "n3"):
        world.commit(SetWanted(with_drain(world.map.wanted, name), "drain"))
    steps = _steps(world, level="n5", seconds=Patience.LEVEL_S + 3.0)
    configurations = [it for _, it in steps]

    assert configurations[0] == Configuration(("n1", "n2", "n3"), ("n4", "n5"))
    assert Configuration(("n1", "n2", "n3", "n5"), ("n4",)) in configurations
    assert configurations[-1] == Configuration(("n1", "n5"))
    assert Patience.LEVEL_S <= steps[-1][0] <= Patience.LEVEL_S + 2.5


def test_a_member_whose_disk_hangs_is_no_candidate() -> None:
    world = LeaderWorld.of(4, 16, voters=3)
    world.commit(SetWanted(with_drain(world.map.wanted, "n3"), "drain n3"))
    world.stalled = {"n4"}
    steps = _steps(world, level="", seconds=5.0)

    assert [it for _, it in steps] == [Configuration(("n1", "n2"))]


def test_a_learner_that_was_given_up_is_tried_again_later() -> None:
    patience, ballot = Patience(), Ballot(Configuration(("a",), ("b",)))
    times = (0.0, Patience.LEVEL_S - 0.1, Patience.LEVEL_S, Patience.LEVEL_S + Patience.REST_S)
    let_go = Ballot(Configuration(("a",)))
    given_up = [patience.lost_with(ballot if at <= Patience.LEVEL_S else let_go, now=at) for at in times]

    assert given_up == [frozenset(), frozenset(), {"b"}, frozenset()]
