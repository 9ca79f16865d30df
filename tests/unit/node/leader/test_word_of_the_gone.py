"""Gossip remembers for a while what members said that died, left or lost their disk: that must not keep a plan waiting."""

import pytest
from msgspec.structs import replace

from ringkeep_core.mapchanges import Leave
from ringkeep_node.machines.verdicts import MemberFacts
from ringkeep_testing.plan_world import PlanWorld, drained


class Remembering(PlanWorld):
    """Gossip that still holds what the dead said last: n5 called n2 dead."""

    def facts(self) -> list[MemberFacts]:
        """Return the facts, with the last words of n5."""
        return [
            replace(fact, reports=(("n2", self.counters["n2"]),)) if fact.storage == "n5" else fact
            for fact in super().facts()
        ]


def drain(world: PlanWorld, name: str) -> None:
    members = world.map.wanted.members
    world.want({it: drained(want) if it == name else want for it, want in members.items()})


@pytest.mark.parametrize("said", ["I am leaving", "n2 is dead"])
def test_what_a_member_said_before_it_left_for_good_counts_no_longer(said: str) -> None:
    world = PlanWorld.of(5, 32)
    drain(world, "n5")
    world.settle()
    world.commit(Leave("n5", "scaled down"))
    if said == "I am leaving":
        world.leaving = {"n5"}
    else:
        world.sees = {"n5": {"n2"}}
    drain(world, "n4")
    world.settle()

    assert world.is_whole() and world.held()["n4"] == 0
    assert max(world.led().values()) - min(world.led()[it] for it in ("n1", "n2", "n3")) <= 1


def held_after_a_drain_beside_a_death(world: PlanWorld) -> dict[str, int]:
    world.kill("n5")
    world.run(1.0)
    drain(world, "n6")
    world.run(20.0)
    return world.held()


def test_whom_the_dead_called_dead_before_they_died_is_not_in_doubt() -> None:
    remembered = held_after_a_drain_beside_a_death(Remembering.of(6, 32))

    assert remembered == held_after_a_drain_beside_a_death(PlanWorld.of(6, 32))
    assert remembered["n6"] < 16
