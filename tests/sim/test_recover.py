"""A majority of the voters is lost for ever, and the cluster goes on from one voter's map (counterexamples.md L8)."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ringkeep_testing.elastic_world import CALM, elastic_world, finish
from ringkeep_testing.node_world import World


def with_lost_majority(seed: int) -> World:
    """Return a cluster of three of which n2 and n3 died at once, in the middle of writes."""
    world = elastic_world(seed, replace(CALM, shards=16))
    world.clients.look_who_serves = False
    world.clients.start(world.now + 3.0)
    world.run_until(world.now + 3.0)
    for name in ("n1", "n2", "n3"):
        world.machines[name].kill()
    return world


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_x(seed: int) -> None:
    world = with_lost_majority(seed)
    for name in ("n2", "n3"):
        world.machines[name].new_disk()
    begun = world.machines["n1"].recover()
    world.machines["n1"].start()
    world.run_until(world.now + 6.0)
    print(
        begun.generation, begun.absent, world.eye.newest.generation, world.eye.newest.index, world.eye.newest.shards[0]
    )
    for name in ("n2", "n3"):
        world.machines[name].start()
    finish(world)
    print(world.eye.newest.index, world.eye.newest.shards[0], world.clients.counts)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_y(seed: int) -> None:
    world = with_lost_majority(seed)
    begun = world.machines["n1"].recover()
    world.machines["n1"].start()
    world.run_until(world.now + 6.0)
    for name in ("n2", "n3"):
        world.machines[name].start()
    finish(world)
    print(world.eye.newest.index, world.eye.newest.shards[0], world.clients.counts, begun.former)
