"""Heavy shards change places with light ones if people want it, a few an hour (placement.md, Load-aware swaps)."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest
from msgspec.structs import replace

from ringkeep_core.placement.swaps import ShardLoad
from ringkeep_core.shardmap import Settings, WantedMember
from ringkeep_node.machines.hot_spots import HOUR_S, LOOK_S, NEW_LEADER_S, HotSpots
from ringkeep_testing.plan_world import PlanWorld

ON = Settings(hot_spot_swaps=True, swaps_per_hour=12)
MANY = 10_000.0
"""After so long, a budget that comes back bit by bit is there in full."""


def _heavy(world: PlanWorld, name: str, count: int) -> list[int]:
    return [number for number, it in enumerate(world.map.shards) if it.primary.storage == name][:count]


def _learn(world: PlanWorld, heavy: list[int], weight: float = 100.0) -> None:
    loads = {number: ShardLoad(weight if number in heavy else 1.0) for number in range(len(world.map.shards))}
    world.leader.learn_loads(loads, now=world.now)


def _hot(settings: Settings, count: int = 4) -> tuple[PlanWorld, list[int]]:
    """All heavy shards are led by n1, on a cluster where everybody holds everything, and the leader has led for long."""
    world = PlanWorld.of(3, 24, settings)
    world.run(MANY)
    heavy = _heavy(world, "n1", count)
    _learn(world, heavy)
    return world, heavy


def _led_by(world: PlanWorld, name: str, heavy: list[int]) -> int:
    return sum(1 for number in heavy if world.map.shards[number].primary.storage == name)


def _swaps(world: PlanWorld) -> float:
    return sum(world.moved.values()) / 2


def test_heavy_primaries_spread_while_every_count_stays_and_it_is_said_which_ones() -> None:
    world, heavy = _hot(ON)
    before = world.led()
    world.run(LOOK_S - 1.0)
    early = list(world.hand_overs)
    world.run(20.0)
    reasons = {order.reason for _, order in world.hand_overs}

    assert early == []
    assert _led_by(world, "n1", heavy) == 2
    assert (world.led(), world.added, _swaps(world)) == (before, 0, 2)
    assert len(reasons) == 1
    assert reasons.pop().startswith("hot spot: shard ")
    assert world.leader.hot_spot_swaps == 2


def test_each_hot_node_gives_its_second_hot_shard_to_a_cool_one() -> None:
    world = PlanWorld.of(4, 32, replace(ON, replication_factor=4))
    world.run(MANY)
    heavy = _heavy(world, "n1", 2) + _heavy(world, "n3", 2)
    _learn(world, heavy)
    world.run(LOOK_S + 5.0)

    assert [_led_by(world, f"n{number}", heavy) for number in (1, 2, 3, 4)] == [1, 1, 1, 1]
    assert _swaps(world) == 2


def test_an_even_load_ends_it() -> None:
    world, heavy = _hot(ON)
    world.run(3 * HOUR_S)

    assert [_led_by(world, f"n{number}", heavy) for number in (1, 2, 3)] == [2, 1, 1]
    assert _swaps(world) == 2


@pytest.mark.parametrize("settings", [Settings(), replace(ON, swaps_per_hour=0)])
def test_nothing_is_swapped_unless_somebody_wants_it(settings: Settings) -> None:
    world, heavy = _hot(settings)
    world.run(2 * HOUR_S)

    assert _led_by(world, "n1", heavy) == 4
    assert world.hand_overs == []


def test_no_hour_has_more_swaps_than_wanted_however_the_load_wanders() -> None:
    draw, world = Random(5), PlanWorld.of(5, 40, replace(ON, swaps_per_hour=5))
    made: list[float] = []
    for _ in range(int(4 * HOUR_S / LOOK_S)):
        _learn(world, draw.sample(range(40), 4))
        before = world.leader.hot_spot_swaps
        world.run(LOOK_S)
        made += [world.now] * (world.leader.hot_spot_swaps - before)
    in_an_hour = [sum(1 for at in made if start <= at < start + HOUR_S) for start in made]

    assert max(in_an_hour) == 5
    assert len(made) >= 14
    assert made[0] > world.now - 4 * HOUR_S + NEW_LEADER_S


def test_leaders_that_follow_each_other_do_not_have_a_budget_each() -> None:
    draw, world = Random(6), PlanWorld.of(5, 40, replace(ON, swaps_per_hour=5))
    made: list[float] = []
    for turn in range(int(4 * HOUR_S / LOOK_S)):
        if turn % 12 == 0:
            world.new_leader(f"n{turn // 12 % 5 + 1}")
        _learn(world, draw.sample(range(40), 4))
        before = world.leader.hot_spot_swaps
        world.run(LOOK_S)
        made += [world.now] * (world.leader.hot_spot_swaps - before)
    in_an_hour = [sum(1 for at in made if start <= at < start + HOUR_S) for start in made]

    assert 0 < max(in_an_hour) <= 2 * 5


def test_a_new_leader_neither_undoes_a_swap_nor_makes_one_for_minutes() -> None:
    world, heavy = _hot(ON)
    world.run(LOOK_S + 10.0)
    after, moves = [it.primary.storage for it in world.map.shards], sum(world.moved.values())
    world.new_leader("n2")
    _learn(world, _heavy(world, "n3", 3))
    world.run(NEW_LEADER_S - 1.0)

    assert _led_by(world, "n1", heavy) == 2
    assert [it.primary.storage for it in world.map.shards] == after
    assert sum(world.moved.values()) == moves

    world.run(2 * LOOK_S)

    assert sum(world.moved.values()) > moves


def test_loads_that_jitter_cause_no_swap() -> None:
    draw, world = Random(9), PlanWorld.of(5, 60, ON)
    for _ in range(200):
        world.leader.learn_loads(
            {number: ShardLoad(100.0 * draw.uniform(0.8, 1.2), 20.0) for number in range(60)}, now=world.now
        )
        world.run(LOOK_S)

    assert world.leader.hot_spot_swaps == 0
    assert world.hand_overs == []


def test_what_is_swapped_stays_swapped_through_a_death_and_a_return() -> None:
    world, heavy = _hot(ON)
    world.run(LOOK_S + 10.0)
    swapped = {number: world.map.shards[number].primary.storage for number in heavy}
    world.leader.learn_loads({}, now=world.now)
    world.kill("n3")
    world.run(30.0)
    world.restart("n3")
    world.run(200.0)

    assert {number: world.map.shards[number].primary.storage for number in heavy} == swapped
    assert world.hand_overs[-1][1].reason == "back to balance"


def test_nothing_is_swapped_while_a_node_is_out_nor_soon_after() -> None:
    world, _ = _hot(ON)
    world.kill("n3")
    world.run(250.0)
    while_out = world.leader.hot_spot_swaps
    world.restart("n3")
    world.run(30.0)

    assert (while_out, world.leader.hot_spot_swaps) == (0, 0)


def test_a_leader_that_waits_for_a_better_time_looks_again_in_a_minute_not_at_once() -> None:
    world, _ = _hot(ON)
    world.kill("n3")
    world.left.add("n3")
    world.run(1.5 * LOOK_S)
    due = world.leader.next_deadline()

    assert due is None or due > world.now + 1.0


@pytest.mark.parametrize("seed", range(24))
def test_swaps_change_no_count_of_any_node_and_no_spread(seed: int) -> None:
    draw = Random(seed)
    nodes, zones = draw.randint(3, 7), draw.choice((1, 1, 2, 3))
    world = PlanWorld.of(nodes, 32, replace(ON, swaps_per_hour=100, replication_factor=draw.choice((2, 3))))
    world.want(
        {
            name: WantedMember(weight=draw.choice((1.0, 1.0, 2.0)), zone=f"z{number % zones}")
            for number, name in enumerate(sorted(world.map.members))
        }
    )
    world.settle()
    before, target = (world.held(), world.led()), world.target()
    for _ in range(20):
        loads = {n: ShardLoad(draw.paretovariate(1.0), draw.paretovariate(1.5)) for n in range(32)}
        world.leader.learn_loads(loads, now=world.now)
        world.run(4 * LOOK_S)
        world.settle()
    degraded = [Counter(it.degraded for it in made.shards) for made in (target, world.target())]

    assert world.leader.hot_spot_swaps > 0
    assert (world.held(), world.led()) == before
    assert world.is_whole()
    assert degraded[0] == degraded[1]


def test_the_budget_of_a_new_leader_comes_back_bit_by_bit() -> None:
    pace, shards = HotSpots(), PlanWorld.of(3, 16).map.shards
    pace.next_look(ON, shards, 1000.0)
    budgets = [pace.budget(12, 1000.0 + after) for after in (0.0, 299.0, 300.0, 600.0, 1955.0, 3600.0, 7200.0)]

    assert budgets == [0, 0, 1, 2, 7, 12, 12]
    assert pace.budget(0, 9000.0) == 0


def test_any_change_of_a_shard_puts_the_next_look_off_for_what_nodes_said_is_older_then() -> None:
    pace, first = HotSpots(), PlanWorld.of(3, 16).map.shards
    pace.loads = {0: ShardLoad(1.0)}
    looks = [pace.next_look(ON, first, 1000.0), pace.next_look(ON, first, 1050.0)]
    changed = (replace(first[0], revision=first[0].revision + 1), *first[1:])
    looks += [pace.next_look(ON, changed, 1059.0), pace.next_look(ON, changed, 1100.0)]

    assert looks == [1060.0, 1060.0, 1119.0, 1119.0]
    assert pace.next_look(Settings(), changed, 1110.0) is None
    assert pace.next_look(ON, changed, 1110.0) == 1170.0


@pytest.mark.parametrize("after_s", [0.0, 0.01, 0.1, 0.3, 1.0])
def test_a_leader_that_dies_in_the_middle_of_swaps_leaves_nothing_half_done(after_s: float) -> None:
    draw, world = Random(4), PlanWorld.of(6, 36, ON)
    world.run(MANY)
    before = (sorted(world.held().values()), sorted(world.led().values()))
    loads = {number: ShardLoad(draw.paretovariate(1.0), draw.paretovariate(1.0)) for number in range(36)}
    world.leader.learn_loads(loads, now=world.now)
    world.run(LOOK_S)
    world.run(after_s)
    made = world.leader.hot_spot_swaps
    world.new_leader("n2")
    world.settle()

    assert made > 0
    assert world.is_whole()
    assert (sorted(world.held().values()), sorted(world.led().values())) == before
