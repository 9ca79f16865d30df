"""Hot shards in a cluster of whole nodes: measured where they are led, told by gossip, swapped by the leader, for good.

Source: placement.md, Load-aware swaps.
"""

from __future__ import annotations

from collections import Counter

from msgspec.structs import replace

from ringkeep_core.mapchanges import SetWanted, ShardChanges
from ringkeep_node.machines.documents import Write
from ringkeep_node.machines.hot_spots import LOOK_S, NEW_LEADER_S
from ringkeep_node.machines.node import Node
from ringkeep_node.machines.shard.effects import Absent, Found, ReadRequest, Result, Stored, WriteRequest
from ringkeep_node.machines.shard_loads import LOAD_KEY, decode_load
from ringkeep_testing.node_world import World
from ringkeep_testing.world_machine import Machine
from ringkeep_testing.world_plan import Plan

CALM = Plan(nodes=4, shards=16, latency_s=0.0005, sync_s=0.003, store_s=0.003)
EVERY_S = 0.03


def _leader(world: World) -> Machine:
    return next(one for one in world.machines.values() if one.node is not None and one.node.control.leads)


def _want_swaps(world: World) -> None:
    """Let somebody ask for swaps."""
    wanted = world.eye.newest.wanted
    settings = replace(wanted.settings, hot_spot_swaps=True, swaps_per_hour=60)
    change = SetWanted(replace(wanted, revision=wanted.revision + 1, settings=settings), "somebody wants it")
    _leader(world).on(lambda node: _propose(node, change, world.now))
    world.run_until(world.now + 1.0)
    assert world.eye.newest.wanted.settings.hot_spot_swaps


def _propose(node: Node, change: SetWanted, now: float) -> None:
    node.propose(change, deadline=now + 2.0, now=now)


def _step_down(node: Node, now: float) -> None:
    node.raft.step_down(now=now)


def _ask(world: World, shards: list[int], seconds: float) -> Counter[str]:
    """Let clients write and read documents of these shards, round and round; return what they were answered."""
    users, answers = [world.user_of(shard) for shard in shards], Counter[str]()
    names, end, deadline_s = list(world.machines.values()), world.now + seconds, 3.0

    def answered(result: Result | None) -> None:
        answers[type(result).__name__] += 1

    def ask(turn: int) -> None:
        if world.now >= end:
            return
        at = turn % len(shards)
        if turn % 2:
            request: WriteRequest | ReadRequest = ReadRequest(users[at], "k", world.now + deadline_s)
        else:
            request = WriteRequest(
                (Write(users[at], "k", f"v{turn}".encode(), "text/plain"),), world.now + deadline_s, 0
            )
        names[turn % len(names)].submit(shards[at], request, answered)
        world.at(world.now + EVERY_S, lambda: ask(turn + 1))

    ask(0)
    world.run_until(end + 2.0)
    return answers


def _led(world: World, shards: list[int]) -> list[int]:
    """Return how many of these shards each member leads, the most first."""
    return sorted(Counter(world.eye.newest.shards[number].primary.storage for number in shards).values(), reverse=True)


def _counts(world: World) -> tuple[Counter[str], Counter[str]]:
    shards = world.eye.newest.shards
    led = Counter(shard.primary.storage for shard in shards)
    return led, Counter(copy.storage for shard in shards for copy in shard.in_sync)


def _reasons(world: World) -> list[str]:
    found = [change.reason for _, change, _ in world.eye.movement.changes if isinstance(change, ShardChanges)]
    return [reason for reason in found if reason.startswith("hot spot")]


def _hot_world(seed: int, *, led_s: float = NEW_LEADER_S + 50.0) -> tuple[World, list[int]]:
    """Return a cluster that its leader has led for a while, and three shards of n2 that clients will ask for."""
    world = World(seed, CALM)
    world.settle(10.0)
    world.eye.movement.keeps = True
    world.run_until(world.now + led_s)
    storage = world.machines["n2"].storage
    hot = [number for number, it in enumerate(world.eye.newest.shards) if it.primary.storage == storage][:3]
    return world, hot


def test_hot_shards_of_one_node_are_spread_without_an_error_and_every_count_stays() -> None:
    world, hot = _hot_world(1)
    before = _counts(world)
    _want_swaps(world)
    answers = _ask(world, hot, LOOK_S + 15.0)

    assert before == _counts(world)
    assert _led(world, hot) == [1, 1, 1]
    assert set(answers) <= {Stored.__name__, Found.__name__, Absent.__name__}
    assert sum(answers.values()) > 2000
    assert len(_reasons(world)) > 0


def test_what_was_swapped_is_not_undone_by_the_next_leader_nor_when_the_load_is_gone() -> None:
    world, hot = _hot_world(2)
    _want_swaps(world)
    _ask(world, hot, LOOK_S + 15.0)
    swapped = [shard.primary.storage for shard in world.eye.newest.shards]
    first = _leader(world)
    first.on(lambda node: _step_down(node, world.now))
    world.run_until(world.now + 2.0)
    second = _leader(world)
    world.run_until(world.now + NEW_LEADER_S + LOOK_S + 30.0)

    assert second is not first
    assert _led(world, hot) == [1, 1, 1]
    assert [shard.primary.storage for shard in world.eye.newest.shards] == swapped


def test_unless_somebody_wants_it_nothing_is_told_nor_swapped() -> None:
    world, hot = _hot_world(3)
    before = [shard.primary.storage for shard in world.eye.newest.shards]
    _ask(world, hot, LOOK_S + 15.0)
    told = [one.node.swim.values(it) for one in world.machines.values() if one.node for it in world.eye.newest.members]

    assert [shard.primary.storage for shard in world.eye.newest.shards] == before
    assert not any(LOAD_KEY in values for values in told)
    assert _reasons(world) == []


def test_everybody_hears_what_a_node_is_asked_for_and_nothing_any_more_when_nobody_wants_to_know() -> None:
    world, hot = _hot_world(4, led_s=1.0)
    _want_swaps(world)
    _ask(world, hot, 30.0)
    storage = world.machines["n2"].storage
    heard = [decode_load(one.node.swim.values(storage)[LOAD_KEY]) for one in world.machines.values() if one.node]
    wanted = world.eye.newest.wanted
    change = SetWanted(
        replace(wanted, revision=wanted.revision + 1, settings=replace(wanted.settings, hot_spot_swaps=False)), "enough"
    )
    _leader(world).on(lambda node: _propose(node, change, world.now))
    world.run_until(world.now + 10.0)
    left = [one.node.swim.values(storage) for one in world.machines.values() if one.node]

    assert len(heard) == 4
    assert all(load is not None and sorted(load.hottest) == sorted(hot) for load in heard)
    assert all(load is not None and 30 <= load.total.operations <= 36 for load in heard)
    assert not any(LOAD_KEY in values for values in left)
