"""The leader's own vote goes last, and a transfer of leadership holds up nothing (replication.md, Raft group)."""

from __future__ import annotations

from itertools import pairwise

import pytest

from ringkeep_core.mapchanges import SetWanted
from ringkeep_core.plans import with_drain
from ringkeep_node.machines.electorate import Ballot, Reconfigure
from ringkeep_node.machines.leader import LeaderOrder, TransferLeadership
from ringkeep_node.machines.raft.messages import Configuration
from ringkeep_testing.leader_world import LeaderWorld


def _draining_leader(*stalled: str) -> LeaderWorld:
    world = LeaderWorld.of(4, 16, voters=4)
    world.commit(SetWanted(with_drain(world.map.wanted, "n1"), "drain n1"))
    world.stalled = set(stalled)
    return world


def _ticks(world: LeaderWorld, seconds: float) -> list[tuple[float, LeaderOrder]]:
    """Let time pass while the Raft group is led by n1 and has four voters."""
    ballot = Ballot(Configuration(("n1", "n2", "n3", "n4")), ("n1", "n2", "n3", "n4"))
    orders, ends = [], world.now + seconds
    while world.now < ends:
        world.leader.facts(
            shard_map=world.map, leads=True, voters=world.voters, members=world.facts(), ballot=ballot, now=world.now
        )
        orders += [(world.now, order) for order in world.leader.tick(now=world.now)]
        world.now += 0.1
    return orders


@pytest.mark.parametrize("fault", ["a disk that hangs", "a slow loop"])
def test_leadership_goes_to_a_voter_that_works_and_to_another_one_at_each_try(fault: str) -> None:
    world = _draining_leader(*(["n2"] if fault == "a disk that hangs" else []))
    world.lags = {"n2": 1.0} if fault == "a slow loop" else {}
    tries = [(at, order.to) for at, order in _ticks(world, 13.0) if isinstance(order, TransferLeadership)]

    assert [to for _, to in tries] == ["n3", "n4", "n3", "n4"]
    assert all(later - earlier >= 3.99 for (earlier, _), (later, _) in pairwise(tries))


def test_what_the_plan_wants_is_proposed_before_leadership_is_handed_over() -> None:
    world = _draining_leader()
    first = _ticks(world, 0.05)

    assert isinstance(first[-1][1], TransferLeadership)
    assert len(first) > 1 and not any(isinstance(order, Reconfigure) for _, order in first)
