"""Shard replication under random faults, then healed: nothing acknowledged is lost, nothing read is stale (L3)."""

from __future__ import annotations

import os

import pytest

from ringkeep_testing.shard_clients import Clients
from ringkeep_testing.shard_world import ShardWorld

SEEDS = int(os.environ.get("RINGKEEP_SHARD_SEEDS", "60"))
FIRST_SEED = int(os.environ.get("RINGKEEP_SHARD_SEED", "1"))
SAFETY_S = 10.0
HEALING_S = 20.0


def simulate(seed: int) -> tuple[ShardWorld, Clients]:
    """Run one seed through a safety phase and a healing phase."""
    sizes = (3, 3, 3, 4, 5)
    world = ShardWorld(seed, nodes=sizes[seed % 5], shards=2)
    clients = Clients(world, documents=4)
    end = world.now + SAFETY_S
    while world.now < end:
        world.run(0.05)
        clients.act()
        if world.random.random() < 0.05:
            world.hurt()
        world.eye.check()
    world.heal()
    healed = world.now
    before = 0
    while world.now < healed + HEALING_S:
        world.run(0.25)
        if world.now > healed + HEALING_S - 8 and not before:
            before = clients.counts.get("stored", 0)
        if world.now < healed + HEALING_S - 3:
            clients.act()
    world.eye.check()
    return world, clients


@pytest.mark.parametrize("seed", range(FIRST_SEED, FIRST_SEED + SEEDS))
def test_acknowledged_writes_survive_reads_are_linearizable_and_healing_converges(seed: int) -> None:
    world, clients = simulate(seed)

    clients.judge()
    for number, shard in enumerate(world.service.map.shards):
        copies = {
            node.store.digest(number, copy.added)
            for node in world.nodes
            for copy in shard.in_sync
            if copy.storage == node.storage
        }
        assert (len(shard.in_sync), len(copies), shard.learners) == (3, 1, ()), f"seed {seed}, shard {number}: {shard}"
    assert clients.counts.get("stored", 0) > 20, clients.counts
