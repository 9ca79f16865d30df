"""Safe but stuck: steps in which the obvious rules stop a cluster, or wrongly accuse it (counterexamples.md L4, L7, L11).

Whole nodes in virtual time. Where each section S3, S12, L1 to L11 has its scenario and its planted bug is the table in
``test_counterexamples_covered.py``.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from ringkeep_node.machines.documents import Write
from ringkeep_node.machines.messages import MapEntries, MapWhole
from ringkeep_node.machines.node import NodeSettings
from ringkeep_node.machines.raft.messages import Configuration
from ringkeep_node.machines.raft.settings import RaftSettings
from ringkeep_node.machines.shard.effects import Found, ReadRequest, Result, Stored, WriteRequest
from ringkeep_node.machines.swim.members import MemberState
from ringkeep_testing.elastic_world import CALM, elastic_world, finish, joined, leader_of, want
from ringkeep_testing.node_world import World
from ringkeep_testing.world_machine import Machine
from ringkeep_testing.world_people import listing
from ringkeep_testing.world_plan import Plan

MEBI = 1 << 20
ELECTION_S = 1.0
"""The longest election time-out."""


def calm_world(seed: int, plan: Plan) -> World:
    """Return a cluster that has come up and is at rest."""
    world = World(seed, plan)
    world.settle(10.0)
    world.run_until(world.now + 2.0)
    return world


def others(world: World, machine: Machine) -> list[Machine]:
    return [other for other in world.machines.values() if other is not machine]


def state_of(observer: Machine, storage: str, now: float) -> MemberState | None:
    assert observer.node is not None
    view = observer.node.swim.members_at(now).get(storage)
    return None if view is None else view.state


# --- L4 ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_l4_a_node_that_refuses_connections_is_dead_within_a_second_and_one_that_is_silent_for_three_is_not(
    seed: int,
) -> None:
    """Two evidences, two clocks: no single suspicion time can do both."""
    world = calm_world(seed, Plan(nodes=5, shards=16, latency_s=0.0005))
    paused, killed = world.machines["n2"], world.machines["n4"]
    called: set[str] = set()

    paused.paused_until = world.now + 3.0
    end = world.now + 4.0
    while world.now < end:
        world.run_until(world.now + 0.05)
        called |= {
            it.name
            for it in others(world, paused)
            if (state_of(it, paused.storage, world.now) or 0) >= MemberState.DEAD
        }
    killed.kill()
    world.run_until(world.now + ELECTION_S)
    dead = {it.name for it in others(world, killed) if state_of(it, killed.storage, world.now) is MemberState.DEAD}

    assert called == set()
    assert dead == {it.name for it in others(world, killed)}


# --- L7 ----------------------------------------------------------------------------------------------------------

HEAVY = Plan(nodes=3, shards=64, latency_s=0.0005, disk_bytes_per_s=24 * MEBI, link_bytes_per_s=24 * MEBI)


class Import:
    """A batch of 64 documents of 1 MiB, each to the primary of another shard, at once."""

    def __init__(self, world: World) -> None:
        self.results: list[Result | None] = []
        for shard in range(64):
            row = Write(world.user_of(shard), "big", bytes(MEBI), "application/octet-stream")
            primary = world.machine_of(world.eye.newest.shards[shard].primary.storage)
            assert primary is not None
            primary.submit(shard, WriteRequest((row,), world.now + 60.0, 0), self.results.append)

    def stored(self) -> int:
        """Return how many are acknowledged."""
        return sum(isinstance(it, Stored) for it in self.results)


def queued(world: World) -> list[int]:
    """Return the MiB that wait for each running node's disk."""
    return [it.log.queued_bytes // MEBI for it in world.machines.values() if it.node is not None]


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_l7_64_mib_in_the_shared_log_delay_no_vote_past_the_election_time_out(seed: int) -> None:
    """Head of line in the log: batches of at most 4 MiB, Raft and epoch records first, and a vote waits for its own only."""
    world = calm_world(seed, replace(HEAVY, link_bytes_per_s=0.0))
    leader = leader_of(world)
    load = Import(world)
    world.run_until(world.now + 0.3)
    waiting = queued(world)
    leader.kill()
    killed_at = world.now

    led = world.run_until(
        world.now + 10.0, lambda: any(it.node.control.leads for it in others(world, leader) if it.node)
    )
    after_s, still = world.now - killed_at, queued(world)
    leader.start()
    world.settle(20.0)

    # Elected within one time-out and the batches under way, with all that still in the way of whoever waits in line.
    assert led and after_s <= ELECTION_S + 0.6
    assert min(waiting) >= 40 and min(still) >= 20
    assert load.stored() >= 10


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_l7_64_mib_between_two_nodes_delay_no_heartbeat_and_no_confirmation(seed: int) -> None:
    """Head of line on the wire: replication has its own connection, pings and Raft another."""
    world = calm_world(seed, replace(HEAVY, disk_bytes_per_s=0.0))
    elections = [it.node.raft.elections for it in world.machines.values() if it.node is not None]
    leader = leader_of(world).storage
    load = Import(world)
    waits: list[float] = []

    def read(shard: int) -> None:
        primary = world.machine_of(world.eye.newest.shards[shard].primary.storage)
        assert primary is not None
        asked_at = world.now

        def answered(result: Result | None) -> None:
            assert isinstance(result, Found) or result is not None
            waits.append(world.now - asked_at)

        primary.submit(shard, ReadRequest(world.user_of(shard), "small", world.now + 10.0), answered)

    for shard in range(30):
        world.run_until(world.now + 0.02)
        read(shard)
    under_way = load.stored()
    world.run_until(world.now + 20.0, lambda: load.stored() == 64)

    assert under_way < 32 and load.stored() == 64
    assert len(waits) == 30 and max(waits) <= 0.1
    assert [it.node.raft.elections for it in world.machines.values() if it.node is not None] == elections
    assert leader_of(world).storage == leader


@pytest.mark.parametrize("seed", [1, 2])
def test_l7_snapshots_delay_no_heartbeat_to_who_is_filled_anew(seed: int) -> None:
    """Snapshots have a connection of their own: who is behind one still hears its leader."""
    world = calm_world(seed, replace(HEAVY, disk_bytes_per_s=0.0, link_bytes_per_s=0.0))
    load = Import(world)
    world.run_until(world.now + 20.0, lambda: load.stored() == 64)
    world.settle(20.0)
    # The log lets go of everything: what comes back with nothing can be filled by snapshots alone.
    for machine in world.machines.values():
        machine.log.release(machine.store.checkpoint(), keep=0)
    world.plan = replace(world.plan, link_bytes_per_s=2 * MEBI)
    empty = next(it for it in world.machines.values() if it is not leader_of(world))
    empty.kill()
    empty.new_disk()
    empty.start()
    filled = world.run_until(world.now + 20.0, lambda: hears_a_leader(empty) and empty.installs > 0)
    deaf, since = 0, world.now
    while any(len(it.in_sync) < 3 for it in world.eye.newest.shards) and world.now < since + 120.0:
        world.run_until(world.now + 0.05)
        deaf += not hears_a_leader(empty)
    took_s = world.now - since
    world.settle(20.0)

    assert load.stored() == 64 and filled
    # 64 MiB at 2 MiB/s from each of two nodes.
    assert took_s > 10.0
    assert deaf == 0


def hears_a_leader(machine: Machine) -> bool:
    """Return whether Raft of a running node knows a leader."""
    return machine.node is not None and machine.node.raft.leader is not None


# --- L11 ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_l11_who_does_not_vote_follows_the_map_from_any_member_and_never_goes_back(seed: int) -> None:
    """Gossip carries the number only; entries and whole maps come from anybody, late, twice and out of order."""
    world = elastic_world(seed, replace(CALM, nodes=4))
    voting = world.eye.movement.newest_configuration().members()
    (pulls,) = [it for it in world.machines.values() if it.storage not in voting]
    held: list[int] = []
    kept: list[MapEntries | MapWhole] = []

    def look() -> bool:
        node = pulls.node
        if node is not None and node.held.map is not None:
            held.append(node.held.map.version)
        for other in others(world, pulls):
            answer = other.node.held.answer(0) if other.node is not None else None
            if answer is not None and (not kept or answer.through > kept[-1].through):
                kept.append(answer)
        return False

    def old_news() -> None:
        # What others said long ago arrives again through whoever had it.
        for message in kept[:-1]:
            sender = world.rng.choice(others(world, pulls)).storage
            pulls.on(lambda node, s=sender, m=message: node._node_message(s, m, world.now))  # type: ignore[misc]
        world.at(world.now + 0.2, old_news)

    world.clients.start(world.now + 6.0)
    leader = leader_of(world)
    world.network.cut([(leader.name, pulls.name), (pulls.name, leader.name)])
    world.at(world.now + 1.0, old_news)
    joined(world, ("n5",))
    want(world, listing("n5"))
    world.run_until(world.now + 4.0, look)
    behind = world.eye.newest.version - held[-1]
    pulls.kill()
    pulls.start()
    world.run_until(world.now + 3.0, look)
    world.network.mend([(leader.name, pulls.name), (pulls.name, leader.name)])
    world.run_until(world.now + 1.0, look)
    finish(world)

    assert held == sorted(held) and len(set(held)) > 5
    assert behind <= 3
    assert world.clients.counts["stored"] > 50


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_l11_a_configuration_that_falls_with_truncation_makes_nobody_a_voter(seed: int) -> None:
    """It counts from append: the cut-off leader's own change is undone when its log is cut."""
    world = World(seed, replace(CALM, nodes=3), settings=NodeSettings(raft=RaftSettings()))
    world.settle(10.0)
    old = leader_of(world)
    assert old.node is not None
    rest = others(world, old)
    cuts = [pair for it in rest for pair in ((old.name, it.name), (it.name, old.name))]
    before = old.node.raft.configuration
    fallen = Configuration(tuple(it for it in before.voters if it != rest[0].storage))
    world.network.cut(cuts)
    old.on(lambda node: node.control.reconfigure(fallen, now=world.now))
    world.run_until(world.now + 0.2)
    appended = old.node.raft.configuration
    world.run_until(world.now + 4.0, lambda: any(it.node is not None and it.node.control.leads for it in rest))
    world.network.mend(cuts)
    world.run_until(world.now + 4.0, lambda: old.node is not None and old.node.raft.leader == leader_of(world).storage)
    world.settle(20.0)

    assert appended == fallen != before
    assert {it.node.raft.configuration for it in world.machines.values() if it.node is not None} == {before}
