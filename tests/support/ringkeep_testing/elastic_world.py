"""A calm cluster of whole nodes for scenarios in which members come and go: who wants what, and what then happened."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from ringkeep_core.mapchanges import AddLearner, Leave, MapChange, ShardChanges
from ringkeep_core.placement import NodeState
from ringkeep_core.plans import NodeFacts, target_of
from ringkeep_core.shardmap import ShardMap
from ringkeep_node.machines.node import Node
from ringkeep_testing.node_world import World
from ringkeep_testing.world_machine import Machine
from ringkeep_testing.world_people import Change
from ringkeep_testing.world_plan import Plan, elastic_world_settings

CALM = Plan(is_elastic=True, shards=32, latency_s=0.0005, sync_s=0.003, store_s=0.003, clients=4, think_s=0.01)


def elastic_world(seed: int, plan: Plan = CALM) -> World:
    """Return a cluster that has come up and is at rest; its clients ask only who says that it serves."""
    world = World(seed, plan, settings=elastic_world_settings())
    world.settle(10.0)
    world.run_until(world.now + 0.5)
    world.clients.look_who_serves = True
    world.eye.movement.keeps = True
    return world


def joined(world: World, names: Sequence[str]) -> list[Machine]:
    """Start new nodes and let them register; nobody wants them yet."""
    machines = [world.people.add(name) for name in names]
    world.run_until(world.now + 3.0, lambda: all(it.storage in world.eye.newest.members for it in machines))
    return machines


def want(world: World, change: Change, timeout_s: float = 5.0) -> None:
    """Have the wanted state changed, and wait until it is."""
    revision = world.eye.newest.wanted.revision
    world.people.want(change, leader_of(world))
    world.run_until(world.now + timeout_s, lambda: world.eye.newest.wanted.revision > revision)
    assert world.eye.newest.wanted.revision > revision


def lower_bound(world: World, change: Change) -> int:
    """Return how many copies must move for a change of the wanted state, everybody alive."""
    newest = world.eye.newest
    alive = {member.name: NodeFacts(NodeState.ALIVE) for member in newest.members.values()}
    return target_of(newest, change(newest.wanted), alive).lower_bound


def leader_of(world: World) -> Machine:
    """Return the machine that leads."""
    return next(it for it in world.machines.values() if it.node is not None and it.node.control.leads)


def asked(world: World, machine: Machine, change: MapChange, timeout_s: float = 2.0) -> str:
    """Propose a change through a node and return the code of its outcome: "" if it was applied."""
    numbers: list[int] = []

    def ask(node: Node) -> None:
        numbers.append(node.propose(change, deadline=world.now + timeout_s, now=world.now))

    machine.on(ask)
    world.run_until(world.now + timeout_s + 1.0, lambda: numbers[0] in machine.outcomes)
    return str(machine.outcomes[numbers[0]].code)


def leave(world: World, names: Sequence[str], timeout_s: float = 10.0) -> None:
    """Let drained nodes leave, as often asked as it takes, and delete them."""
    people = world.people
    for name in names:
        people.drain(name, leaves=True)
    world.run_until(world.now + timeout_s, lambda: people.is_done and not any(name in world.machines for name in names))
    assert not any(name in world.machines for name in names), world.eye.why_not_converged()


def drained(world: World, *names: str) -> Callable[[], bool]:
    """Return whether nodes hold no copy any more, as a question."""

    def is_drained() -> bool:
        newest = world.eye.newest
        storages = {world.machines[name].storage for name in names}
        return not any(shard.copy_of(storage) is not None for shard in newest.shards for storage in storages)

    return is_drained


def voters(world: World) -> list[str]:
    """Return the names of who votes now."""
    names = {machine.storage: name for name, machine in world.machines.items()}
    return sorted(names.get(it, it) for it in world.eye.movement.newest_configuration().voters)


def copies(shard_map: ShardMap) -> Counter[str]:
    """Return how many in-sync copies each member has, by name."""
    return Counter(shard_map.members[copy.storage].name for shard in shard_map.shards for copy in shard.in_sync)


def additions(world: World) -> list[tuple[int, str]]:
    """Return (shard, name) of every copy that a plan added, in order."""
    return [
        (part.shard, after.members[part.storage].name)
        for before, change, after in world.eye.movement.changes
        if isinstance(change, ShardChanges)
        for part in change.changes
        if isinstance(part, AddLearner)
        and before.shards[part.shard].copy_of(part.storage) is None
        and after.shards[part.shard].copy_of(part.storage) is not None
    ]


def finish(world: World, timeout_s: float = 30.0) -> None:
    """Let everything come to rest, then check what clients saw and that the copies are equal."""
    world.run_until(max(world.now, world.clients.until + 1.0))
    world.settle(timeout_s)
    world.write_everywhere()
    world.read_everything()
    world.run_until(world.now + 2.0)
    world.clients.judge()
    world.eye.check_copies_equal()


def leave_of(machine: Machine) -> Leave:
    """Return the entry with which a machine's disk leaves."""
    return Leave(machine.storage, "scaled down")
