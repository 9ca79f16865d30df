"""The membership machine in a simulated world: every promise in seconds, in virtual time, over many seeds.

Aims: replication.md, "Members, failure, recovery". Named regressions: memberlist 222, cortex 2130.
A failing seed replays with ``World(seed, ...)`` as the test makes it.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ringkeep_node.machines.swim import MemberState, Swim
from ringkeep_testing.swim_world import PORT, World, storage_id

SUPPORT = Path(__file__).parents[1] / "support"


def percentile(values: list[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def detection_times(seed: int, *, hang: bool) -> list[float]:
    """Return when each of four survivors called the fifth dead; nobody else may die."""
    world = World(seed, 5)
    world.run(4.0 + seed * 0.017)
    began = world.now
    if hang:
        world.hang(4)
    else:
        world.kill(4)
    world.run(8.0)
    first = {seen.observer: seen.at - began for seen in reversed(world.died(4))}
    assert sorted(first) == [0, 1, 2, 3], f"seed {seed}: {world.table()}"
    assert len(world.deaths()) == 4, f"seed {seed}: {world.deaths()}"
    return list(first.values())


def stop_at_random(world: World, until: float) -> None:
    """Stop one node after the other for 3 s, with short pauses between."""

    def stop() -> None:
        if not any(world.now < node.paused_until for node in world.nodes.values()):
            world.pause(world.random.randrange(len(world.nodes)), 3.0)
        if world.now < until:
            world.later(0.2 + 2.0 * world.random.random(), stop)

    stop()


def test_a_killed_node_is_dead_everywhere_after_one_second_at_most_in_half_and_two_in_all_cases() -> None:
    times = [time for seed in range(25) for time in detection_times(seed, hang=False)]

    assert percentile(times, 0.5) <= 1.0 and percentile(times, 0.99) <= 2.0


def test_a_silent_hang_is_found_within_four_seconds() -> None:
    times = [time for seed in range(25) for time in detection_times(seed, hang=True)]

    assert min(times) > 3.1 and percentile(times, 0.95) <= 4.0


@pytest.mark.parametrize("seed", range(4))
def test_nobody_who_is_stopped_for_three_seconds_is_called_dead(seed: int) -> None:
    world = World(seed, 5, loss=0.01)
    world.run(3.0)
    stop_at_random(world, world.now + 90.0)
    world.run(100.0)

    assert world.deaths() == []
    assert world.all_agree(range(5)), world.table()


@pytest.mark.parametrize("seed", range(3))
def test_with_a_third_of_all_datagrams_lost_and_some_doubled_nobody_is_called_dead(seed: int) -> None:
    world = World(seed, 5, loss=0.3, duplicate=0.1, latency_s=(0.0005, 0.03))
    world.run(180.0)

    assert world.deaths() == []
    assert sum(node.swim.refutes for node in world.nodes.values()) > 0


@pytest.mark.parametrize("seed", range(3))
def test_nodes_with_slow_loops_accuse_nobody_to_death(seed: int) -> None:
    world = World(seed, 5)
    world.lag_s = {0: 0.6, 1: 0.3}
    world.run(60.0)
    world.run(60.0)

    assert world.deaths() == []


def test_a_slow_node_still_finds_a_real_death() -> None:
    world = World(1, 5)
    world.lag_s = {0: 0.3}
    world.run(5.0)
    world.hang(4)
    world.run(12.0)

    assert sorted({seen.observer for seen in world.died(4)}) == [0, 1, 2, 3]
    assert len(world.deaths()) == 4


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("sides", [([0, 1], [2, 3, 4]), ([0], [1, 2, 3, 4])])
def test_a_ten_minute_partition_heals_to_one_view_within_five_seconds(
    seed: int, sides: tuple[list[int], list[int]]
) -> None:
    """memberlist 222: after a partition the sides never rejoin, because the dead are forgotten."""
    world = World(seed, 5)
    world.run(5.0)
    world.partition(*sides)
    world.run(600.0)
    apart = [world.states(one)[other] for one in sides[0] for other in sides[1]]
    world.heal()

    assert set(apart) == {MemberState.DEAD}
    assert world.run_until(lambda: world.all_agree(range(5)), 5.0) <= 5.0


@pytest.mark.parametrize("seed", range(3))
def test_two_islands_merge_once_one_node_knows_an_address_of_the_other(seed: int) -> None:
    world = World(seed, 6, seeds=lambda index: [0] if index < 3 else [3])
    world.run(5.0)
    apart = sorted(world.states(0))

    def tell(swim: Swim, now: float) -> None:
        swim.set_permanent([("10.0.0.4", PORT)], now=now)

    world.call(1, tell)

    assert apart == [0, 1, 2]
    assert world.run_until(lambda: world.all_agree(range(6)), 5.0) <= 5.0
    assert world.deaths() == []


@pytest.mark.parametrize("downtime_s", [0.05, 0.3, 1.0, 10.0])
def test_a_pod_that_comes_back_under_its_name_at_a_new_address_is_alive_everywhere_within_a_second(
    downtime_s: float,
) -> None:
    """cortex 2130: the same name with another address was refused for up to 30 s."""
    world = World(7, 5)
    world.run(5.0)
    world.kill(2)
    world.run(downtime_s)
    moved = ("10.0.9.9", PORT)
    world.start(2, address=moved)

    def is_back() -> bool:
        views = [world.nodes[index].swim.members[storage_id(2)] for index in range(5)]
        return world.all_agree(range(5)) and {(view.address, view.counter) for view in views} == {(moved, 2)}

    assert world.run_until(is_back, 1.0) <= 1.0
    world.run(20.0)
    assert world.all_agree(range(5)), world.table()
    assert [seen for seen in world.died(2) if seen.at > world.now - 20.0] == []


def test_a_one_way_cut_between_two_nodes_kills_nobody() -> None:
    world = World(4, 5)
    world.run(3.0)
    world.cut.add((0, 1))
    world.run(60.0)

    assert world.deaths() == []


def test_a_node_that_hears_nobody_dies_for_the_others_and_comes_back_when_it_hears_again() -> None:
    world = World(4, 5)
    world.run(3.0)
    world.cut.update((peer, 1) for peer in (0, 2, 3, 4))
    world.run(20.0)
    deaf = [world.states(index)[1] for index in (0, 2, 3, 4)]
    world.heal()

    assert deaf == [MemberState.DEAD] * 4
    assert world.run_until(lambda: world.all_agree(range(5)), 5.0) <= 5.0


def test_a_planned_leave_is_known_at_once_and_is_no_death() -> None:
    world = World(2, 5)
    world.run(3.0)
    began = world.now
    world.call(4, lambda swim, now: swim.leave(now=now))
    world.run(0.35)
    world.kill(4)
    world.run(10.0)
    left = [seen for seen in world.seen if seen.change.after is MemberState.LEFT]

    assert sorted(seen.observer for seen in left) == [0, 1, 2, 3]
    assert max(seen.at for seen in left) - began <= 0.1
    assert world.deaths() == []


def test_a_node_that_left_by_the_map_is_not_taken_back_by_anybody() -> None:
    world = World(2, 3)
    world.run(3.0)
    rows = world.registered(left=[2])
    for index in (0, 1):
        world.call(index, lambda swim, now: swim.registered(rows, now=now))
    world.start(2)
    world.run(10.0)

    assert [world.states(index)[2] for index in (0, 1)] == [MemberState.LEFT] * 2
    assert world.nodes[0].swim.refused["left"] > 0


def test_values_of_every_node_reach_every_node_although_a_third_is_lost() -> None:
    world = World(5, 5, loss=0.3)
    world.run(3.0)

    def write(swim: Swim, now: float) -> None:
        swim.set_state("load", f"{now:.3f}".encode(), now=now)

    for _ in range(20):
        world.call(world.random.randrange(5), write)
        world.run(0.2)

    def is_equal() -> bool:
        tables = [[dict(node.swim.values(storage_id(one))) for one in range(5)] for node in world.nodes.values()]
        return all(table == tables[0] for table in tables)

    assert world.run_until(is_equal, 10.0) <= 10.0


def test_forty_nodes_join_find_a_death_and_heal() -> None:
    world = World(7, 40)
    joined_s = world.run_until(lambda: world.all_agree(range(40)), 5.0)
    world.run(5.0)
    world.hang(39)
    world.run(9.0)
    world.partition(range(20), range(20, 39))
    world.run(30.0)
    world.heal()

    assert joined_s <= 5.0
    assert len({seen.observer for seen in world.died(39)}) == 39
    assert world.run_until(lambda: world.all_agree(range(39)), 5.0) <= 5.0
    assert world.largest <= 1400


def test_an_idle_node_sends_and_hears_no_more_than_its_probes() -> None:
    world = World(3, 5)
    world.run(10.0)
    datagrams, size = world.datagrams, world.bytes
    world.run(60.0)

    assert (world.datagrams - datagrams) / (5 * 60) <= 8.5
    assert (world.bytes - size) / (5 * 60) <= 1024


def eventful(seed: int) -> str:
    """Return the trace hash of a world in which a bit of everything happens."""
    world = World(seed, 6, loss=0.1, duplicate=0.1)
    world.run(3.0)
    world.kill(1)
    world.pause(2, 3.0)
    world.run(2.0)
    world.start(1, address=("10.0.7.7", PORT))
    world.partition([0, 1], [2, 3, 4, 5])
    world.run(12.0)
    world.heal()
    world.call(3, lambda swim, now: swim.leave(now=now))
    world.call(4, lambda swim, now: swim.registered(world.registered(left=[3]), now=now))
    world.run(10.0)
    return world.trace_hash()


def test_the_same_seed_gives_the_same_trace_in_processes_with_different_hash_seeds() -> None:
    code = (
        "import importlib.util as u, sys; spec = u.spec_from_file_location('sim', sys.argv[1]); "
        "sim = u.module_from_spec(spec); spec.loader.exec_module(sim); print(sim.eventful(11))"
    )
    hashes = []
    for hash_seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(SUPPORT)}
        done = subprocess.run(
            [sys.executable, "-c", code, __file__],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
        hashes.append(done.stdout.strip())

    assert hashes == [eventful(11)] * 2
    assert eventful(12) != hashes[0]


def resolve(world: World) -> None:
    """Tell everybody where everybody is, as the DNS name of all pods does."""
    addresses = [node.address for node in world.nodes.values()]
    for node in world.nodes.values():
        node.swim.set_permanent(addresses, now=world.now)


def disturb(world: World) -> None:
    """Do one random thing to a random node or to the network."""
    draw = world.random
    index = draw.randrange(len(world.nodes))
    node = world.nodes[index]
    choice = draw.randrange(8)
    if choice == 0 and node.running:
        world.kill(index, hints=draw.random() < 0.7)
    elif choice in (1, 2):
        moved = (f"10.1.{draw.randrange(200)}.{index + 1}", PORT) if draw.random() < 0.5 else None
        if node.running:
            world.kill(index)
        world.start(index, address=moved)
        resolve(world)
    elif choice == 3:
        world.pause(index, draw.choice([0.3, 1.0, 3.0, 12.0]))
    elif choice == 4:
        others = [peer for peer in world.nodes if peer != index and draw.random() < 0.5]
        world.partition(others, [peer for peer in world.nodes if peer not in others])
    elif choice == 5:
        world.cut.add((index, draw.randrange(len(world.nodes))))
    elif choice == 6:
        world.heal()
    else:
        world.loss, world.lag_s[index] = draw.choice([0.0, 0.1, 0.5]), draw.choice([0.0, 0.3, 0.8])


@pytest.mark.parametrize("seed", range(8))
def test_whatever_happened_everybody_agrees_soon_after_it_stops_and_nobody_dies_then(seed: int) -> None:
    world = World(seed, 3 + seed % 4, duplicate=0.05)
    for _ in range(40):
        disturb(world)
        world.run(world.random.random() * 3.0)
    world.heal()
    world.loss, world.lag_s = 0.0, {}
    world.run(12.0)
    for index, node in list(world.nodes.items()):
        if not node.running:
            world.start(index)
    resolve(world)
    healed = world.now

    assert world.run_until(lambda: world.all_agree(world.nodes), 6.0) <= 6.0
    world.run(20.0)
    assert world.all_agree(world.nodes), world.table()
    assert [seen for seen in world.deaths() if seen.at > healed] == []
    assert {node.swim.superseded for node in world.nodes.values()} == {False}
