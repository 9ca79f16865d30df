"""A majority of the voters is lost for ever, and the cluster goes on from one voter's map (counterexamples.md L8)."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ringkeep_core.shardmap import generation_at
from ringkeep_node.machines.shard.effects import NotApplied, Stored
from ringkeep_testing.elastic_world import CALM, elastic_world, finish
from ringkeep_testing.node_world import World
from ringkeep_testing.world_clients import Call

SEEDS = [1, 2, 3]
THREE = replace(CALM, shards=16)


def written_to(seed: int, *, nodes: int = 3) -> World:
    """Return a cluster that clients have written to for a while, without any now."""
    world = elastic_world(seed, replace(THREE, nodes=nodes))
    world.clients.look_who_serves = False
    world.clients.start(world.now + 2.0)
    world.run_until(world.now + 4.0)
    return world


def stop(world: World, *names: str) -> None:
    for name in names:
        world.machines[name].kill()


def start(world: World, *names: str) -> None:
    for name in names:
        world.machines[name].start()


def generations(world: World) -> dict[str, tuple[int, int]]:
    """Return of which generation map and Raft group each running node are."""
    return {
        name: (machine.node.held.map.generation, machine.node.control.generation)
        for name, machine in world.machines.items()
        if machine.node is not None and machine.node.held.map is not None
    }


def leads_alone(world: World, name: str) -> bool:
    """Return whether one node leads all shards and everybody else is out of in_sync."""
    storage = world.machines[name].storage
    return all({it.storage for it in shard.in_sync} == {storage} for shard in world.eye.newest.shards)


@pytest.mark.parametrize("seed", SEEDS)
def test_two_of_three_disks_are_lost_and_every_acknowledged_write_is_there_when_two_new_ones_have_joined(
    seed: int,
) -> None:
    world = written_to(seed)
    acknowledged = dict(world.eye.acknowledged)
    stop(world, "n1", "n2", "n3")
    for name in ("n2", "n3"):
        world.machines[name].new_disk()

    begun = world.machines["n1"].recover()
    start(world, "n1")
    world.run_until(world.now + 10.0, lambda: leads_alone(world, "n1"))
    alone, former = leads_alone(world, "n1"), {world.machines[name].storage for name in ("n2", "n3")}
    # Below need: nothing is acknowledged on one copy, also not by a generation of one voter.
    early = Call(world.clients, world, (world.user_of(0), "early"), 0.5, kind="write")
    world.clients.histories.setdefault((world.user_of(0), "early"), [])
    early.send(world.machines["n1"])
    world.run_until(world.now + 8.0, lambda: early.result is not None)
    refused = early.result
    listed = [{it.storage for it in shard.eligible} for shard in world.eye.newest.shards]
    start(world, "n2", "n3")
    finish(world)

    assert acknowledged and (begun.generation, begun.absent) == (2, ())
    assert alone and all(len(storages) == 2 and not storages & former for storages in listed)
    assert not isinstance(refused, Stored), refused
    assert generations(world) == dict.fromkeys(("n1", "n2", "n3"), (2, 2))
    assert world.clients.counts["stored"] > 20


@pytest.mark.parametrize("seed", SEEDS)
def test_voters_that_were_not_lost_after_all_take_the_new_map_and_their_copies_are_told_from_the_new_ones(
    seed: int,
) -> None:
    """The old majority goes on without the one that is recovered from: its epochs must not be given again."""
    world = written_to(seed)
    world.eye.forgives = True
    stop(world, "n1")
    world.run_until(world.now + 6.0)
    went_on = world.eye.newest.version
    stop(world, "n2", "n3")

    begun = world.machines["n1"].recover()
    start(world, "n1")
    world.run_until(world.now + 10.0, lambda: leads_alone(world, "n1"))
    start(world, "n2", "n3")
    finish(world)

    assert begun.former < went_on < world.eye.newest.version
    assert generations(world) == dict.fromkeys(("n1", "n2", "n3"), (2, 2))
    assert {len(shard.in_sync) for shard in world.eye.newest.shards} == {3}


@pytest.mark.parametrize("seed", SEEDS)
def test_an_old_majority_that_has_a_leader_again_ends_when_it_hears_of_the_new_generation(seed: int) -> None:
    world = written_to(seed)
    world.eye.forgives = True
    stop(world, "n1", "n2", "n3")
    world.machines["n1"].recover()
    sides = [("n1", other) for other in ("n2", "n3")]
    cuts = [*sides, *((other, one) for one, other in sides)]
    world.network.cut(cuts)
    start(world, "n1", "n2", "n3")
    old = [world.machines[name] for name in ("n2", "n3")]
    survivor = world.machines["n1"]
    assert survivor.node is not None
    world.run_until(world.now + 2.2)
    led = any(it.node is not None and it.node.control.leads for it in old)
    apart = generations(world)
    term = survivor.node.raft.term
    world.network.mend(cuts)
    finish(world)

    assert led and apart == {"n1": (2, 2), "n2": (1, 1), "n3": (1, 1)}
    assert generations(world) == dict.fromkeys(("n1", "n2", "n3"), (2, 2))
    # The new group was not disturbed: its first leader leads in its first term, and no term is one of the old group.
    assert survivor.node.control.leads and survivor.node.raft.term == term
    assert {generation_at(it.node.raft.term) for it in world.machines.values() if it.node is not None} == {2}


@pytest.mark.parametrize("seed", SEEDS)
def test_a_shard_of_which_no_copy_is_left_says_so_and_is_there_again_when_its_holder_is(seed: int) -> None:
    world = written_to(seed, nodes=6)
    stop(world, *world.machines)
    begun = world.machines["n1"].recover()
    start(world, "n1")
    world.run_until(world.now + 8.0)
    newest, survivor = world.eye.newest, world.machines["n1"].storage
    holders = [{it.storage for it in (*shard.in_sync, *shard.eligible)} for shard in newest.shards]
    call = Call(world.clients, world, (world.user_of(begun.absent[0]), "asked"), 0.3, kind="read")
    world.clients.histories.setdefault((world.user_of(begun.absent[0]), "asked"), [])
    call.send(world.machines["n1"])
    world.run_until(world.now + 8.0, lambda: call.result is not None)
    answer = call.result
    start(world, "n2", "n3", "n4", "n5", "n6")
    finish(world)

    assert begun.absent and all(survivor not in holders[number] for number in begun.absent)
    assert all(len(it) == 3 for it in holders)
    assert isinstance(answer, NotApplied) and answer.code == "no_primary"
    assert {len(shard.in_sync) for shard in world.eye.newest.shards} == {3}
