"""How long clients wait while shards are handed over, in virtual time with realistic latencies: a pause, never an error.

Source: replication.md, Handoff; counterexamples.md L6, N4.
"""

from __future__ import annotations

from statistics import median

import pytest

from ringkeep_core.mapchanges import Move
from ringkeep_node.machines.planning import HandOver
from ringkeep_node.machines.shard.effects import Stored
from ringkeep_testing.node_world import World
from ringkeep_testing.world_clients import Call
from ringkeep_testing.world_machine import Machine
from ringkeep_testing.world_plan import Plan

CALM = Plan(nodes=7, shards=64, latency_s=0.0005, sync_s=0.003, store_s=0.003, clients=4, think_s=0.01)
ORDERS = 6


def _leader(world: World) -> Machine:
    return next(one for one in world.machines.values() if one.node is not None and one.node.control.leads)


def _some_shards(world: World, to: Machine) -> tuple[str, tuple[Move, ...]]:
    """Return a primary and shards of it, up to 16, that ``to`` can lead."""
    found: dict[str, list[Move]] = {}
    for number, shard in enumerate(world.eye.newest.shards):
        if shard.is_in_sync(to.storage) and shard.primary.storage != to.storage:
            found.setdefault(shard.primary.storage, []).append(Move(number, shard.revision, to.storage))
    source = max(found, key=lambda storage: len(found[storage]))
    return source, tuple(found[source][:16])


def _write_each(world: World, moves: tuple[Move, ...], took: list[float]) -> list[Call]:
    """Write one document to each shard through any node; ``took`` gets the seconds until each was stored."""
    calls = []
    for move in moves:
        user, since = world.user_of(move.shard), world.now
        world.clients.histories.setdefault((user, "w"), [])
        call = Call(world.clients, world, (user, "w"), 0.8, kind="write")
        gateway = world.rng.choice(list(world.machines.values()))
        calls.append(call.send(gateway, lambda since=since: took.append(world.now - since)))
    return calls


@pytest.mark.parametrize("votes", [True, False], ids=["to voters", "to members that do not vote"])
def test_writes_that_meet_a_hand_over_wait_for_some_milliseconds_and_none_fails(votes: bool) -> None:
    world = World(7, CALM)
    world.settle(10.0)
    world.run_until(world.now + 2.0)
    usual, met = list[float](), list[float]()
    targets = [one for one in world.machines.values() if one.node is not None and one.node.control.votes is votes]
    for number in range(ORDERS):
        to = targets[number % len(targets)]
        source, moves = _some_shards(world, to)
        _write_each(world, moves, usual)
        world.run_until(world.now + 0.5)
        source, moves = _some_shards(world, to)
        leader = _leader(world)
        leader.on(lambda node, s=source, m=moves: node.oversight.hand_overs.append(HandOver(s, m, "test")))  # type: ignore[misc]
        world.run_until(world.now + 0.001)
        calls = _write_each(world, moves, met)
        world.run_until(world.now + 0.05)
        # Looked at before the leader, whose plan this is not, takes them back.
        moved = {world.eye.newest.shards[move.shard].primary.storage for move in moves}
        world.run_until(world.now + 2.5)
        assert moved == {to.storage} and all(isinstance(call.result, Stored) for call in calls)
    world.clients.judge()

    assert median(met) - median(usual) <= 0.02 and max(met) <= 0.05, (median(usual), median(met), max(met))


def test_hand_overs_that_follow_each_other_reach_a_member_that_does_not_vote_without_its_asking() -> None:
    world = World(8, CALM)
    world.settle(10.0)
    world.run_until(world.now + 2.0)
    to = next(one for one in world.machines.values() if one.node is not None and not one.node.control.votes)
    took: list[float] = []
    for _ in range(ORDERS):
        source, moves = _some_shards(world, to)
        leader = _leader(world)
        leader.on(lambda node, s=source, m=moves[:2]: node.oversight.hand_overs.append(HandOver(s, m, "test")))  # type: ignore[misc]
        world.run_until(world.now + 0.001)
        _write_each(world, moves[:2], took)
        world.run_until(world.now + 0.06)
    world.run_until(world.now + 1.0)

    assert len(took) == 2 * ORDERS and max(took) <= 0.05, took
