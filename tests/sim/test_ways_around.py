"""A gateway that cannot reach one primary, though everybody else can: its clients must not notice much (any node answers).

Source: architecture.md, load balancer ("forwards at most once or twice"); interface.md, "A request is retried inside until
its deadline"; replication.md rules 7 and 9.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from ringkeep_node.machines.shard.effects import Absent, Found, Stored
from ringkeep_testing import world_clients
from ringkeep_testing.node_world import World
from ringkeep_testing.world_clients import Call
from ringkeep_testing.world_machine import Machine
from ringkeep_testing.world_plan import Plan

CALM = Plan(nodes=5, shards=32, latency_s=0.0005, sync_s=0.003, store_s=0.003, clients=6, think_s=0.02)
FIRST_ANSWER_S = {"both ways": 0.1, "to the primary": 2.0, "from the primary": 1.5}
"""A link that breaks is noticed at once; one that only swallows is given up by the network, or goes unanswered for 1 s."""


def apart(world: World, how: str, *, last: str = "n4") -> tuple[Machine, Machine, list[tuple[str, str]]]:
    """Cut the way between a gateway and a primary only. Returns both, and what was cut."""
    gateway, primary = world.machines["n1"], world.machines[last]
    there, back = (gateway.name, primary.name), (primary.name, gateway.name)
    cuts = {"both ways": [there, back], "to the primary": [there], "from the primary": [back]}[how]
    world.network.cut(cuts)
    if how == "both ways":
        world.network.reset(gateway, primary)
    return gateway, primary, cuts


def led_without(world: World, primary: Machine, gateway: Machine) -> list[str]:
    """Users of shards that one machine leads and of which the other has no copy."""
    return [
        world.user_of(number)
        for number, shard in enumerate(world.eye.newest.shards)
        if shard.primary.storage == primary.storage and gateway.storage not in {copy.storage for copy in shard.in_sync}
    ]


def call(world: World, gateway: Machine, user: str, kind: str) -> Call:
    world.clients.histories.setdefault((user, "around"), [])
    return Call(world.clients, world, (user, "around"), 0.8 if kind == "write" else 0.2, kind=kind).send(gateway)


@pytest.mark.parametrize("how", FIRST_ANSWER_S)
def test_a_gateway_cut_off_from_one_primary_writes_and_reads_through_a_third_node(how: str) -> None:
    world = World(1600, CALM)
    world.settle(10.0)
    world.run_until(world.now + 2.0)
    gateway, primary, cuts = apart(world, how)
    users = led_without(world, primary, gateway)
    times = []
    for kind in ("write", "read") * 6:
        since = world.now
        calls = [call(world, gateway, user, kind) for user in users]
        world.run_until(world.now + 3.0, lambda c=calls: all(one.result is not None for one in c))  # type: ignore[misc]
        times.append(world.now - since)
        assert {type(one.result) for one in calls} <= ({Stored} if kind == "write" else {Found, Absent}), kind
    world.network.mend(cuts)
    world.settle(20.0)
    world.run_until(world.now + 2.0)

    world.clients.judge()
    world.eye.check_queues(empty=True)
    assert len(users) > 1 and times[0] < FIRST_ANSWER_S[how] and sorted(times)[-3] < 0.2, times


@pytest.mark.parametrize("how", FIRST_ANSWER_S)
def test_clients_of_all_nodes_see_one_history_while_a_gateway_and_a_primary_are_apart(how: str) -> None:
    world = World(1700, CALM)
    world.settle(10.0)
    world.clients.start(world.now + 8.0)
    world.run_until(world.now + 2.0)
    cuts = apart(world, how)[2]
    world.run_until(world.now + 5.0)
    world.network.mend(cuts)
    world.settle(20.0)
    world.write_everywhere()
    world.read_everything()
    world.run_until(world.now + 2.0)

    world.clients.judge()
    world.eye.check_copies_equal()
    world.eye.check_queues(empty=True)
    assert world.clients.counts["stored"] > 150


@pytest.mark.parametrize("how", ["both ways", "to the primary"])
def test_where_the_gateway_has_a_copy_too_a_change_waits_until_that_is_taken_out_and_no_longer_than_its_deadline(
    how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing commits without a copy that is in sync: the primary has it removed after 3 s, well before the deadline."""
    monkeypatch.setattr(world_clients, "TIMEOUT_S", 5.0)
    world = World(1800, replace(CALM, nodes=3))
    world.settle(10.0)
    world.run_until(world.now + 2.0)
    gateway, primary, cuts = apart(world, how, last="n3")
    led = [n for n, shard in enumerate(world.eye.newest.shards) if shard.primary.storage == primary.storage]
    users = [world.user_of(shard) for shard in led]
    ends = []
    for kind in ("write", "read", "write", "read"):
        calls = [call(world, gateway, user, kind) for user in users]
        world.run_until(world.now + 5.0, lambda c=calls: all(one.result is not None for one in c))  # type: ignore[misc]
        ends.append({type(one.result) for one in calls})
    world.network.mend(cuts)
    world.settle(20.0)
    world.run_until(world.now + 2.0)

    world.clients.judge()
    world.eye.check_copies_equal()
    world.eye.check_queues(empty=True)
    assert len(users) > 5 and ends == [{Stored}, {Found}] * 2
