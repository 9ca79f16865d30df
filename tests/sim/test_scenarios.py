"""Promises in seconds, in virtual time with realistic latencies; and the named ways in which whole clusters went wrong.

Source: replication.md, "Aims" and "Members, failure, recovery"; counterexamples.md S1, S4, S8, S10, S12, L1, L2;
akka.net 8501 and memberlist 222 for partitions that must heal without help.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import replace
from statistics import median

import pytest

from ringkeep_node.machines.shard.effects import Absent, Stored
from ringkeep_node.machines.swim.members import MemberState
from ringkeep_testing.node_world import World
from ringkeep_testing.world_clients import Call
from ringkeep_testing.world_machine import Machine
from ringkeep_testing.world_plan import Plan

CALM = Plan(nodes=5, shards=32, latency_s=0.0005, sync_s=0.003, store_s=0.003, clients=4, think_s=0.01)
KILLS = 8


def calm_world(seed: int, plan: Plan = CALM) -> World:
    """A cluster that has come up and is at rest."""
    world = World(seed, plan)
    world.settle(10.0)
    world.run_until(world.now + 2.0)
    return world


def p99(values: Sequence[float]) -> float:
    """The value that 99 of 100 do not exceed."""
    return sorted(values)[min(len(values) - 1, int(len(values) * 0.99))]


def others(world: World, machine: Machine) -> list[Machine]:
    return [other for other in world.machines.values() if other is not machine]


def calls_dead(observer: Machine, storage: str, now: float) -> bool:
    assert observer.node is not None
    view = observer.node.swim.members_at(now).get(storage)
    return view is not None and view.state >= MemberState.DEAD


def watch_death(world: World, machine: Machine, timeout_s: float) -> dict[str, float]:
    """Kill a machine; return after how many seconds each survivor called it dead."""
    killed_at, storage, seen = world.now, machine.storage, dict[str, float]()
    machine.kill()

    def look() -> bool:
        for other in others(world, machine):
            if other.name not in seen and calls_dead(other, storage, world.now):
                seen[other.name] = world.now - killed_at
        return len(seen) == len(world.machines) - 1

    while world.now < killed_at + timeout_s and not look():
        world.run_until(world.now + 0.01)
    return seen


class Writers:
    """One writer for each of some shards, each sending its next write when the last one ended."""

    def __init__(self, world: World, shards: Sequence[int], gateways: Sequence[Machine]) -> None:
        self.first_ack: dict[int, float] = {}
        self._world, self._gateways, self._since = world, gateways, world.now
        for shard in shards:
            user = world.user_of(shard)
            world.clients.histories.setdefault((user, "w"), [])
            self._write(shard, user)

    def _write(self, shard: int, user: str) -> None:
        world = self._world
        call = Call(world.clients, world, (user, "w"), 0.8, kind="write")

        def done() -> None:
            if isinstance(call.result, Stored):
                self.first_ack.setdefault(shard, world.now - self._since)
            else:
                world.at(world.now + 0.01, lambda: self._write(shard, user))

        call.send(world.rng.choice(list(self._gateways)), done)


def test_a_kill_is_seen_by_every_survivor_and_its_shards_take_writes_again_in_time() -> None:
    deaths: list[float] = []
    writes: list[float] = []
    for kill in range(KILLS):
        world = calm_world(100 + kill)
        victim = list(world.machines.values())[kill % 5]
        led = [n for n, shard in enumerate(world.eye.newest.shards) if shard.primary.storage == victim.storage]
        victim.kill()
        killed_at, storage = world.now, victim.storage
        writers = Writers(world, led, others(world, victim))
        seen: dict[str, float] = {}
        while world.now < killed_at + 6.0 and (len(seen) < 4 or len(writers.first_ack) < len(led)):
            world.run_until(world.now + 0.01)
            for other in others(world, victim):
                if other.name not in seen and calls_dead(other, storage, world.now):
                    seen[other.name] = world.now - killed_at
        assert len(seen) == 4 and len(writers.first_ack) == len(led) > 0, (kill, seen, writers.first_ack)
        deaths += seen.values()
        writes += writers.first_ack.values()

    times = [median(deaths), p99(deaths), median(writes), p99(writes)]
    assert [time <= limit for time, limit in zip(times, (1.0, 2.0, 1.5, 3.0), strict=True)] == [True] * 4, times


def test_a_silent_hang_is_noticed_within_four_seconds_and_its_shards_move() -> None:
    times = []
    for seed in range(4):
        world = calm_world(200 + seed)
        victim = world.machines["n2"]
        victim.paused_until = world.now + 8.0
        led = [n for n, shard in enumerate(world.eye.newest.shards) if shard.primary.storage == victim.storage]
        writers = Writers(world, led, others(world, victim))
        world.run_until(world.now + 8.0, lambda w=writers, n=led: len(w.first_ack) == len(n))  # type: ignore[misc]
        times.append(max(writers.first_ack.values()))

        assert len(writers.first_ack) == len(led)

    assert max(times) <= 6.0, times


def test_nobody_is_declared_dead_under_random_stops_of_up_to_three_seconds() -> None:
    world = calm_world(300)
    end = world.now + 60.0
    dead = []
    while world.now < end:
        machine = world.rng.choice(list(world.machines.values()))
        machine.paused_until = max(machine.paused_until, world.now + 0.5 + 2.3 * world.rng.random())
        world.run_until(machine.paused_until + 0.5)
        dead += [
            (observer.name, storage)
            for observer in world.machines.values()
            for storage in world.disks()
            if calls_dead(observer, storage, world.now)
        ]

    assert dead == []


def test_a_restarted_node_catches_up_and_counts_again() -> None:
    world = calm_world(400)
    victim = world.machines["n3"]
    watch_death(world, victim, 5.0)
    world.clients.start(world.now + 3.0)
    world.run_until(world.now + 3.0)
    assert any(victim.storage not in {c.storage for c in shard.in_sync} for shard in world.eye.newest.shards)

    started_at = world.now
    victim.start()
    world.settle(15.0)

    world.run_until(world.now + 2.0)
    world.eye.check_copies_equal()
    world.clients.judge()
    assert world.now - started_at < 15.0


@pytest.mark.parametrize("sides", [(1, 4), (2, 3)])
def test_a_partition_heals_without_help_and_the_majority_serves_meanwhile(sides: tuple[int, int]) -> None:
    world = calm_world(500 + sides[0])
    names = list(world.machines)
    minority, majority = names[: sides[0]], names[sides[0] :]
    cuts = [pair for one in minority for other in majority for pair in ((one, other), (other, one))]
    world.network.cut(cuts)
    served = [
        n
        for n, shard in enumerate(world.eye.newest.shards)
        if sum(world.disks()[copy.storage].name in majority for copy in shard.in_sync) >= shard.need
    ]
    writers = Writers(world, served, [world.machines[name] for name in majority])

    world.run_until(world.now + 12.0, lambda: len(writers.first_ack) == len(served))
    during = len(writers.first_ack)
    world.run_until(world.now + 20.0)
    world.network.mend(cuts)
    world.settle(20.0)
    world.write_everywhere()

    world.clients.judge()
    assert during == len(served) > 0


def test_a_primary_that_reaches_nobody_while_all_reach_each_other_loses_its_shards() -> None:
    """counterexamples.md L1: the odd one out is kept alive by indirect probes, yet its shards must go on."""
    world = calm_world(600)
    odd = world.machines["n1"]
    friend = world.machines["n5"]
    cuts = [
        pair
        for other in world.machines.values()
        if other not in (odd, friend)
        for pair in ((odd.name, other.name), (other.name, odd.name))
    ]
    led = [n for n, shard in enumerate(world.eye.newest.shards) if shard.primary.storage == odd.storage]
    world.network.cut(cuts)
    writers = Writers(world, led, [odd, friend])

    world.run_until(world.now + 25.0, lambda: len(writers.first_ack) == len(led))

    assert len(writers.first_ack) == len(led) > 0


def test_a_hanging_disk_under_a_live_loop_loses_its_shards_and_gets_them_back() -> None:
    """counterexamples.md L2: heartbeats stay green, so the node itself must say that its disk hangs."""
    world = calm_world(700)
    victim = world.machines["n2"]
    assert victim.node is not None
    led = [n for n, shard in enumerate(world.eye.newest.shards) if shard.primary.storage == victim.storage]
    victim.hung_until = world.now + 10.0
    writers = Writers(world, led, others(world, victim))

    world.run_until(world.now + 9.0, lambda: len(writers.first_ack) == len(led))
    served, called_dead = len(writers.first_ack), calls_dead(world.machines["n1"], victim.storage, world.now)
    world.run_until(victim.hung_until + 1.0)
    world.settle(20.0)

    assert (served, called_dead) == (len(led), False)


def test_the_whole_cluster_restarts_after_a_power_cut_with_every_acknowledged_write() -> None:
    """counterexamples.md S8: the last batch is lost with holes on every disk at once."""
    world = calm_world(800)
    world.clients.start(world.now + 2.0)
    world.run_until(world.now + 2.0)
    acknowledged = dict(world.eye.acknowledged)
    for machine in world.machines.values():
        machine.kill()
    world.run_until(world.now + 1.0)
    for machine in world.machines.values():
        machine.start()

    world.settle(15.0)
    world.write_everywhere()
    world.read_everything()

    world.clients.judge()
    assert acknowledged and all(world.eye.acknowledged[shard] >= sn for shard, sn in acknowledged.items())


def test_a_primary_that_restarts_before_anybody_notices_leads_only_in_a_new_epoch() -> None:
    """counterexamples.md S1: an epoch belongs to one boot."""
    world = calm_world(900)
    world.clients.start(world.now + 6.0)
    for _ in range(12):
        machine = world.rng.choice(list(world.machines.values()))
        machine.kill()
        world.run_until(world.now + 0.05)
        machine.start()
        world.run_until(world.now + 0.4)
    world.settle(20.0)

    world.clients.judge()
    assert world.clients.counts["stored"] > 50


def test_a_change_is_applied_once_however_often_its_gateway_must_send_it() -> None:
    """counterexamples.md S10: links that carry the answers are reset all the time."""
    plan = Plan(nodes=3, clients=8, reset_rate=4.0, safety_s=8.0, latency_s=0.01, sync_s=0.01)
    world = World(1000, plan)

    world.run()

    assert world.faults.counts["reset"] > 50 and world.clients.counts["stored"] > 30


def with_old_volume(world: World) -> Machine:
    """Return a node that is down, with its volume as it was two boots ago."""
    victim = world.machines["n4"]
    victim.take_image()
    for _ in range(2):
        victim.kill()
        victim.start()
        world.settle(10.0)
    victim.kill()
    victim.roll_back()
    return victim


def test_a_volume_that_was_rolled_back_is_refused_and_an_empty_one_is_filled() -> None:
    """replication.md rules 0 and 8: the boot counter is not above the registered one."""
    world = calm_world(1100, Plan(nodes=4, latency_s=0.0005))
    victim = with_old_volume(world)
    old = victim.storage
    victim.start()

    world.run_until(world.now + 10.0, lambda: victim.storage != old)
    world.settle(20.0)

    assert world.faults.counts == {"refused the rolled-back volume of": 1}
    assert old in world.eye.newest.left and victim.storage in world.eye.newest.members


def test_a_volume_that_was_rolled_back_is_refused_though_its_boot_counter_has_caught_up() -> None:
    """counterexamples.md S9(b): started again and again while nobody hears it, until its counter is above the registered."""
    world = calm_world(1150, Plan(nodes=4, latency_s=0.0005))
    victim = with_old_volume(world)
    old = victim.storage
    cuts = [pair for other in others(world, victim) for pair in ((victim.name, other.name), (other.name, victim.name))]
    world.network.cut(cuts)
    for _ in range(5):
        victim.start()
        world.run_until(world.now + 0.2)
        victim.kill()
    world.network.mend(cuts)
    victim.start()

    world.run_until(world.now + 10.0, lambda: victim.storage != old)

    assert world.faults.counts == {"refused the rolled-back volume of": 1}
    assert victim.storage != old


def test_a_node_that_comes_back_at_another_address_is_found_there() -> None:
    """cortex 2130: the same name and storage at a new address, while the old address answers nobody."""
    world = calm_world(1250)
    victim = world.machines["n4"]
    victim.kill()
    world.run_until(world.now + 3.0)
    del world.by_address[victim.address]
    victim.address = "10.9.9.9:7400"
    world.by_address[victim.address] = victim
    victim.start()

    world.settle(15.0)
    world.write_everywhere()

    assert world.eye.newest.members[victim.storage].peer == victim.address


def test_a_wiped_disk_under_a_known_name_is_nobodys_copy_until_it_has_caught_up() -> None:
    """KIP-903: the copies it held leave the sets with the registration of the new storage id."""
    world = calm_world(1200)
    victim, old = world.machines["n2"], world.machines["n2"].storage
    world.clients.start(world.now + 5.0)
    world.run_until(world.now + 1.0)

    victim.kill()
    victim.new_disk()
    victim.start()
    world.settle(25.0)

    world.run_until(world.now + 5.0)
    world.clients.judge()
    world.eye.check_copies_equal()
    assert victim.storage != old and old in world.eye.newest.left


def test_a_partition_in_which_nobody_writes_heals_too() -> None:
    """Copies that lack nothing must be taken back all the same, though no acknowledgement will ever come from them."""
    world = calm_world(1400)
    alone = world.machines["n2"]
    cuts = [pair for other in others(world, alone) for pair in ((alone.name, other.name), (other.name, alone.name))]
    world.network.cut(cuts)
    world.run_until(world.now + 12.0)
    without = sum(alone.storage not in {c.storage for c in shard.in_sync} for shard in world.eye.newest.shards)
    world.network.mend(cuts)

    world.settle(15.0)

    assert without == world.plan.shards


def test_an_empty_disk_is_filled_by_snapshots_where_the_log_no_longer_reaches_back() -> None:
    world = calm_world(1500)
    world.clients.start(world.now + 2.0)
    world.run_until(world.now + 4.0)
    for machine in world.machines.values():
        machine.log.release(machine.store.checkpoint(), keep=0)
        machine.kill()
    for machine in world.machines.values():
        machine.start()  # Nothing is left in memory either.
    world.settle(15.0)
    victim = world.machines["n3"]
    victim.kill()
    victim.new_disk()
    victim.start()

    world.run_until(world.now + 2.0)
    world.settle(25.0)
    world.read_everything()

    world.run_until(world.now + 2.0)
    world.eye.check_copies_equal()
    assert victim.storage in world.eye.newest.members


def kill_twice(machine: Machine) -> None:
    machine.kill()
    machine.start()
    machine.kill()


@pytest.mark.parametrize("what", [kill_twice, Machine.kill])
def test_a_kill_during_recovery_is_like_any_other(what: Callable[[Machine], None]) -> None:
    world = calm_world(1300)
    world.clients.start(world.now + 4.0)
    for name in ("n1", "n4"):
        what(world.machines[name])
        world.run_until(world.now + 0.5)
        world.machines[name].start()
        world.run_until(world.now + 1.0)

    world.settle(20.0)

    world.clients.judge()


@pytest.mark.parametrize("seed", [1600, 1601, 1602, 1603])
def test_s4b_a_process_that_wakes_after_its_volume_went_to_another_answers_nothing_stale(seed: int) -> None:
    """Its shards have one copy, so it has no peer to ask: only Raft knows that a later boot has its volume now.

    As an orchestrator does it that gives up on a worker: the volume is attached elsewhere while the process only hung.
    """
    world = calm_world(seed, replace(CALM, nodes=4, shards=16, replication_factor=1, min_in_sync=1))
    # n4 does not vote: what two processes with one vote do to Raft is another matter.
    ghost, twin = world.machines["n4"], Machine(world, 4)
    led = [n for n, shard in enumerate(world.eye.newest.shards) if shard.primary.storage == ghost.storage]
    places = [(world.user_of(shard), "k") for shard in led]
    for place in places:
        world.clients.histories.setdefault(place, [])
        Call(world.clients, world, place, 0.8, kind="write").send(ghost)
    world.run_until(world.now + 1.0)
    ghost.paused_until = world.now + 8.0
    twin.storage, twin.log, twin.store = ghost.storage, deepcopy(ghost.log), deepcopy(ghost.store)
    twin.address, twin.life = "10.1.1.4:7400", ghost.life + 1  # Another process than the one that hangs.
    world.machines["n4"] = world.by_address[twin.address] = twin
    twin.start()
    world.run_until(world.now + 4.0)
    boots = {shard.primary.boot for shard in world.eye.newest.shards if shard.primary.storage == twin.storage}
    calls = [Call(world.clients, world, place, 0.8, kind="write").send(world.machines["n1"]) for place in places]
    world.run_until(world.now + 2.0)
    stored = [isinstance(call.result, Stored) for call in calls]
    world.run_until(ghost.paused_until - 0.5)
    reads = [Call(world.clients, world, place, 0.2, kind="read").send(ghost) for place in places]
    world.run_until(ghost.paused_until + 4.0)
    world.clients.judge()

    assert twin.node is not None and boots == {twin.node.identity.boot}
    assert len(places) == 4 and stored == [True] * 4
    assert not any(isinstance(call.result, Absent) for call in reads)
