"""Services in whole nodes, on virtual time with realistic latencies: what a killed, restarted or cut off node means.

The times that are promised: out of passing answers within 2 s of a kill, removed within 10 s, the same view within 5 s of
the end of a partition. Source: reference/cluster.md B5, B16; registry.py.
"""

from __future__ import annotations

from itertools import pairwise

import pytest

from ringkeep_node.machines.node import Node
from ringkeep_testing.node_world import World
from ringkeep_testing.registry_group import instance_of
from ringkeep_testing.world_machine import Machine
from ringkeep_testing.world_plan import Plan

CALM = Plan(nodes=5, shards=16, latency_s=0.0005, clients=0)
OUT_S, REMOVED_S, HEALED_S = 2.0, 10.0, 5.0
Row = tuple[str, str, str]


def calm_world(seed: int) -> World:
    """A cluster that has come up and is at rest."""
    world = World(seed, CALM)
    world.settle(10.0)
    world.run_until(world.now + 2.0)
    return world


def register(world: World, machine: Machine, id_: str, *, ttl_s: float = 0.0) -> None:
    """Register an instance of ``web`` at a node."""
    instance = instance_of("web", id_, ttl_s=ttl_s)
    machine.on(lambda node: node.discovery.registry.register(instance, now=world.now))


def renew(world: World, machine: Machine, id_: str) -> None:
    """Show a sign of life at a node."""
    machine.on(lambda node: node.discovery.registry.update_check("web", id_, "", "passing", None, now=world.now))


def deregister(world: World, machine: Machine, id_: str) -> None:
    """Remove an instance at a node."""

    def remove(node: Node) -> None:
        assert node.discovery.registry.deregister("web", id_, now=world.now)

    machine.on(remove)


def shown(machine: Machine) -> list[Row]:
    """Return (id, owner, status) of what a node shows; nothing if it is down."""
    if machine.node is None:
        return []
    seen = machine.node.discovery.registry.view.instances("web")
    return [(each.instance.id, each.node.name, each.status) for each in seen]


def within(world: World, limit_s: float, machines: list[Machine], wanted: list[Row]) -> float:
    """Return after how many seconds all these nodes show exactly this; infinity if not in time."""
    start = world.now
    while world.now < start + limit_s:
        if all(shown(machine) == wanted for machine in machines):
            return world.now - start
        world.run_until(world.now + 0.01)
    return float("inf")


@pytest.mark.parametrize("seed", range(4))
def test_a_killed_node_s_instances_are_out_of_passing_answers_and_then_removed_in_time(seed: int) -> None:
    world = calm_world(seed)
    victim, *rest = world.machines.values()
    register(world, victim, "a")
    register(world, rest[0], "b")
    spread_s = within(world, 1.0, [victim, *rest], [("a", "n1", "passing"), ("b", "n2", "passing")])
    victim.kill()
    out_s = within(world, 20.0, rest, [("a", "n1", "critical"), ("b", "n2", "passing")])
    removed_s = out_s + within(world, 20.0, rest, [("b", "n2", "passing")])

    assert spread_s <= 0.1
    assert out_s <= OUT_S
    assert removed_s <= REMOVED_S


@pytest.mark.parametrize("seed", range(4))
def test_an_instance_that_is_renewed_elsewhere_outlives_its_node(seed: int) -> None:
    world = calm_world(10 + seed)
    victim, *rest = world.machines.values()
    register(world, victim, "a", ttl_s=5.0)
    within(world, 1.0, rest, [("a", "n1", "passing")])
    victim.kill()
    owners = []
    for _ in range(20):
        world.run_until(world.now + 1.0)
        renew(world, rest[1], "a")
        owners.append({machine.name: shown(machine) for machine in rest})

    assert owners[-1] == {machine.name: [("a", "n3", "passing")] for machine in rest}
    assert all(rows != [] for seen in owners for rows in seen.values())


@pytest.mark.parametrize("seed", range(4))
def test_a_restarted_node_goes_on_with_what_it_owned_and_knows_everything(seed: int) -> None:
    world = calm_world(20 + seed)
    victim, *rest = world.machines.values()
    register(world, victim, "a", ttl_s=60.0)
    register(world, rest[0], "b")
    whole = [("a", "n1", "passing"), ("b", "n2", "passing")]
    within(world, 1.0, rest, whole)
    victim.kill()
    world.run_until(world.now + 1.0)
    victim.start()

    assert within(world, 5.0, [victim, *rest], whole) <= 5.0
    register(world, victim, "c")
    assert within(world, 1.0, [victim, *rest], [*whole, ("c", "n1", "passing")]) <= 1.0


@pytest.mark.parametrize("seed", range(4))
def test_after_a_partition_everybody_shows_the_same_and_what_was_removed_stays_removed(seed: int) -> None:
    world = calm_world(30 + seed)
    alone, *rest = world.machines.values()
    register(world, alone, "kept", ttl_s=600.0)
    register(world, alone, "removed")
    register(world, rest[0], "other")
    before = [("kept", "n1", "passing"), ("other", "n2", "passing"), ("removed", "n1", "passing")]
    within(world, 1.0, rest, before)
    pairs = [(alone.name, other.name) for other in rest] + [(other.name, alone.name) for other in rest]
    world.network.cut(pairs)
    deregister(world, rest[1], "removed")
    for _ in range(30):
        world.run_until(world.now + 1.0)
        renew(world, rest[2], "kept")
    apart = [shown(alone), shown(rest[0])]
    world.network.mend(pairs)
    after = [("kept", "n4", "passing"), ("other", "n2", "passing")]

    assert apart == [[("kept", "n1", "passing"), ("removed", "n1", "passing")], after]
    assert within(world, HEALED_S, [alone, *rest], after) <= HEALED_S
    world.run_until(world.now + 5.0)
    assert [shown(machine) for machine in (alone, *rest)] == [after] * 5


def test_nobody_is_woken_and_nothing_is_sent_for_services_while_nothing_changes() -> None:
    world = calm_world(40)
    machines = list(world.machines.values())
    register(world, machines[0], "a", ttl_s=5.0)
    within(world, 1.0, machines, [("a", "n1", "passing")])
    world.run_until(world.now + 2.0)
    woken: list[tuple[str, set[str]]] = []
    world.watches.append(lambda machine, step: woken.append((machine.name, step.topics)) if step.topics else None)
    versions = [machines[0].node.discovery.registry.version if machines[0].node else 0]
    for _ in range(30):
        renew(world, machines[0], "a")
        world.run_until(world.now + 1.0)
        versions.append(machines[0].node.discovery.registry.version if machines[0].node else 0)

    assert woken == []
    assert all(before == after for before, after in pairwise(versions[1:]))
