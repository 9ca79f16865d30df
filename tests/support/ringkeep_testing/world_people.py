"""People and launchers of the whole-cluster simulation: nodes are added, drained, taken away and restarted at any time.

    add a node --registers, joining--> want it --plan--> drain it --plan--> leave, asked again until it commits --> delete

Everything goes through any node, as over the REST interface: what was read there may be old, so a change of the wanted
state is a compare-and-set that may fail. What the interface would refuse is mostly not asked for.

Source: replication.md, "Bootstrap", "Leave", "The leader alone plans"; interface.md; testing.md.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import inf
from typing import TYPE_CHECKING

from msgspec.structs import replace

from ringkeep_core.mapchanges import (
    AddLearner,
    Leave,
    MapChange,
    Move,
    RemoveCopy,
    SetWanted,
    ShardChange,
    ShardChanges,
    Touch,
)
from ringkeep_core.placement import NodeState
from ringkeep_core.plans import NodeFacts, refusal_of, with_drain, with_members, with_weight
from ringkeep_core.shardmap import ShardMap, Wanted, WantedMember
from ringkeep_core.shardrules import is_leaving
from ringkeep_node.machines.node import Node
from ringkeep_testing.world_machine import Machine

if TYPE_CHECKING:
    from ringkeep_testing.node_world import World

DECIDE_S = 0.2
ASK_S = 2.0
LEAVE_AGAIN_S = 0.4
PATIENCE = 8
"""How often a node is found to be wanted again before nobody asks any more that it leaves."""
ROLL_S = 0.05
QUIET_S = 4.0
READY_S = 20.0

Change = Callable[[Wanted], Wanted]


class People:
    """Does things until ``until``; what was begun goes on after that, until it is done."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.counts: dict[str, int] = {}
        self.leaving: dict[str, str] = {}
        """Storage ids that are to leave, and their names."""
        self.deleting: set[str] = set()
        """Names of machines that have left and still run."""
        self.stopped: set[str] = set()
        """Names of machines that were stopped in order and will be started again."""
        self._retired: list[Machine] = []
        self._rolling = 0
        self._until = inf
        self._asked_at = -inf
        self._added = len(world.machines)

    @property
    def is_done(self) -> bool:
        """Return whether nothing that was begun is still to be ended."""
        machines = self._world.machines.values()
        begun = self.leaving or self.deleting or self.stopped or self._rolling
        return not (begun or any(it.is_ending for it in machines))

    @property
    def is_quiet(self) -> bool:
        """Return whether nothing that people asked for lately may still be on its way."""
        return self._world.now > self._asked_at + QUIET_S

    def draw(self, until: float) -> None:
        """Draw what people do until a time."""
        world, plan = self._world, self._world.plan
        if not plan.is_elastic:
            return
        self._until = until
        rates: list[tuple[float, Callable[[], object]]] = [
            (plan.join_rate, self._join),
            (plan.want_rate, self._want_something),
            (plan.restart_rate, self._restart_one),
            (plan.rolling_rate, self.roll),
            (plan.transfer_rate, self._transfer),
            (plan.meddle_rate, self._meddle),
        ]

        def decide() -> None:
            if world.now >= until:
                return
            for rate, act in rates:
                if rate > 0 and world.rng.random() < rate * DECIDE_S:
                    act()
            world.at(world.now + DECIDE_S, decide)

        world.at(world.now, decide)

    def count(self, what: str) -> None:
        """Note that something was done."""
        self.counts[what] = self.counts.get(what, 0) + 1
        self._world.note("people", what)

    # --- asking --------------------------------------------------------------------------------------------------

    def propose(self, change: MapChange, through: Machine | None = None) -> None:
        """Ask any node for a change."""
        world = self._world
        machine = through or world.rng.choice(list(world.machines.values()))

        def ask(node: Node) -> None:
            node.propose(change, deadline=world.now + ASK_S, now=world.now)

        machine.on(ask)

    def held_by(self, machine: Machine) -> ShardMap | None:
        """Return the map that a machine holds, if it runs."""
        return machine.node.held.map if machine.node is not None else None

    def want(self, change: Change, through: Machine | None = None, *, asked_again: int = 0) -> None:
        """Change the wanted state as somebody does who reads it through a node; tried again ``asked_again`` times."""
        world = self._world
        machine = through or world.rng.choice(list(world.machines.values()))
        shard_map = self.held_by(machine)
        # A need that is lowered while a damaged copy counts could let it count alone.
        is_risky = world.eye.movement.has_lost_voters() or world.faults.has_rot()
        if shard_map is not None and not is_risky:
            self._asked_at = world.now
            old = shard_map.wanted
            wanted = replace(change(old), revision=old.revision + 1, target_digest="", target_version=0)
            if not self.is_refused(shard_map, wanted) or world.rng.random() < 0.2:
                self.propose(SetWanted(wanted, "somebody wants it"), machine)
        if asked_again:
            world.at(world.now + 0.5, lambda: self._unless_done(change, through, asked_again - 1))

    def _unless_done(self, change: Change, through: Machine | None, left: int) -> None:
        wanted = self._world.eye.newest.wanted
        after = change(wanted)
        if (after.members, after.settings) != (wanted.members, wanted.settings):
            self.want(change, through, asked_again=left)

    def is_refused(self, shard_map: ShardMap, wanted: Wanted) -> bool:
        """Return whether the REST interface would refuse the wanted state at once."""
        facts = {
            name: NodeFacts(NodeState.ALIVE if machine.node is not None else NodeState.DEAD_IN_GRACE)
            for name, machine in self._world.machines.items()
        }
        voters = self._world.eye.movement.newest_configuration().voters
        return refusal_of(shard_map, wanted, facts, voters) is not None

    # --- members -------------------------------------------------------------------------------------------------

    def add(self, name: str = "") -> Machine:
        """Start a new node with an empty disk: a name of its own, or that of a node that is gone."""
        world = self._world
        retired = [it for it in self._retired if it.name == name] if name else []
        if retired:
            machine = retired[0]
            self._retired.remove(machine)
            machine.is_deleted = False
            machine.new_disk()
        else:
            self._added += 1
            machine = Machine(world, self._added)
        self.count("add")
        world.machines[machine.name] = machine
        world.by_address[machine.address] = machine
        machine.start()
        return machine

    def _join(self) -> None:
        world, rng = self._world, self._world.rng
        if len(world.machines) >= world.plan.nodes_max:
            return
        name = rng.choice(self._retired).name if self._retired and rng.random() < 0.5 else ""
        machine = self.add(name)
        if rng.random() < 0.8:
            world.at(world.now + 2.0 * rng.random(), lambda: self.want(listing(machine.name), asked_again=5))

    def drain(self, name: str, *, leaves: bool) -> None:
        """Have a node give everything up, and leave then if it ``leaves``."""
        machine = self._world.machines[name]
        self.want(lambda wanted: with_drain(wanted, name), asked_again=5)
        if leaves and machine.storage not in self.leaving and name not in self.deleting:
            self.leaving[machine.storage] = name
            self._leave(machine.storage, PATIENCE)

    def _leave(self, storage: str, patience: int) -> None:
        """Ask for the leave again and again, until it commits or nobody wants it any more."""
        world, newest = self._world, self._world.eye.newest
        name = self.leaving[storage]
        if storage in newest.left:
            del self.leaving[storage]
            self._gone(storage, name)
            return
        machine = world.machines.get(name)
        if machine is None or machine.storage != storage or not patience:
            del self.leaving[storage]  # It was wanted again, or lost its disk meanwhile.
            return
        is_wanted = storage not in newest.members or not is_leaving(newest.wanted, name)
        if not is_wanted:
            self.propose(Leave(storage, "scaled down"))
        world.at(world.now + LEAVE_AGAIN_S, lambda: self._leave(storage, patience - 1 if is_wanted else PATIENCE))

    def _gone(self, storage: str, name: str) -> None:
        """The leave committed: stop the process, now or later, and delete its disk."""
        world = self._world
        machine = world.machines.get(name)
        if machine is None or machine.storage != storage:
            return
        self.count("left")
        self.deleting.add(name)

        def delete() -> None:
            self.deleting.discard(name)
            if machine.storage != storage:
                return
            machine.kill()
            machine.is_deleted = True
            self.stopped.discard(name)
            del world.machines[name], world.by_address[machine.address]
            world.eye.movement.deleted.add(storage)
            self._retired.append(machine)
            self.count("deleted")

        world.at(world.now + world.rng.choice((0.0, 0.0, 1.0, 3.0)), delete)

    def _want_something(self) -> None:
        world, rng = self._world, self._world.rng
        names = list(world.machines)
        name = rng.choice(names)
        changes: Sequence[tuple[str, Callable[[], object]]] = (
            ("drain", lambda: self.drain(name, leaves=False)),
            ("drain to leave", lambda: self.drain(name, leaves=True)),
            ("drain to leave", lambda: self.drain(name, leaves=True)),
            ("undrain", lambda: self.want(listing(name))),
            ("weight", lambda: self.want(lambda it: with_weight(it, name, rng.choice((0.0, 0.5, 1.0, 1.0, 3.0))))),
            ("zone", lambda: self.want(lambda it: with_zone(it, name, rng.choice(("", "z0", "z1", "z9"))))),
            ("everybody", lambda: self.want(lambda it: with_members(it, names))),
            ("some", lambda: self.want(lambda it: with_members(it, [one for one in names if rng.random() < 0.6]))),
            ("copies", lambda: self.want(lambda it: with_setting(it, replication_factor=rng.choice((1, 2, 3, 3, 4))))),
            ("need", lambda: self.want(lambda it: with_setting(it, min_in_sync=rng.choice((1, 2, 2, 3))))),
            ("grace", lambda: self.want(lambda it: with_setting(it, grace_s=rng.choice((0.0, 1.0, 300.0))))),
            ("streams", lambda: self.want(lambda it: with_setting(it, streams_per_node=rng.choice((1, 2, 8))))),
        )
        what, act = rng.choice(changes)
        self.count(what)
        act()

    def _meddle(self) -> None:
        """Propose what no planner would: the rules are judged when an entry is applied, whoever proposed it and why."""
        world, rng = self._world, self._world.rng
        machine = rng.choice(list(world.machines.values()))
        shard_map = self.held_by(machine)
        if shard_map is None:
            return
        changes: list[ShardChange] = []
        for _ in range(rng.choice((1, 4))):
            number = rng.randrange(len(shard_map.shards))
            shard = shard_map.shards[number]
            copy = rng.choice((*shard.in_sync, *shard.learners))
            kind = rng.random()
            if kind < 0.5:
                changes.append(RemoveCopy(number, shard.revision, copy.storage, copy.added))
            elif kind < 0.7:
                changes.append(AddLearner(number, shard.revision, rng.choice(list(shard_map.members))))
            elif kind < 0.9:
                changes.append(Move(number, shard.revision, copy.storage))
            else:
                changes.append(Touch(number, shard.revision))
        self.count("meddle")
        self.propose(ShardChanges(tuple(changes), "somebody meddles"), machine)

    # --- restarts ------------------------------------------------------------------------------------------------

    def restart(self, machine: Machine, down_s: float) -> None:
        """Stop a node in order, and start it again after a while."""
        world, name = self._world, machine.name

        def stopped() -> None:
            self.stopped.add(name)
            world.at(world.now + down_s, start)

        def start() -> None:
            self.stopped.discard(name)
            is_there = world.machines.get(name) is machine and machine.storage not in world.eye.newest.left
            if machine.node is None and is_there:
                machine.start()

        machine.end(stopped)

    def _restart_one(self) -> None:
        rng = self._world.rng
        machine = rng.choice(list(self._world.machines.values()))
        if machine.node is not None and not machine.is_ending:
            self.count("restart")
            self.restart(machine, rng.choice((0.02, 0.3, 2.0)))

    def roll(self, done: Callable[[], None] | None = None, *, is_ready: Callable[[Node], bool] | None = None) -> None:
        """Restart everybody, one after the other, each when the one before is ready: by default, registered."""
        self.count("rolling restart")
        self._rolling += 1
        self._roll(list(self._world.machines), done, is_ready or (lambda node: node.registered))

    def _roll(self, names: list[str], done: Callable[[], None] | None, is_ready: Callable[[Node], bool]) -> None:
        world = self._world
        if not names or world.now > self._until:
            self._rolling -= 1
            if done is not None:
                done()
            return
        machine = world.machines.get(names[0])
        if machine is None or machine.node is None or machine.is_ending:
            self._roll(names[1:], done, is_ready)
            return
        until, life = world.now + READY_S, machine.life

        def ready() -> None:
            node = machine.node
            is_back = node is not None and is_ready(node) and machine.life != life and not machine.is_ending
            if is_back or world.now > until or world.machines.get(names[0]) is not machine:
                self._roll(names[1:], done, is_ready)
            else:
                world.at(world.now + ROLL_S, ready)

        self.restart(machine, 0.3)
        world.at(world.now + ROLL_S, ready)

    def _transfer(self) -> None:
        world, rng = self._world, self._world.rng
        self.count("transfer")
        to = rng.choice(["", *(machine.storage for machine in world.machines.values())])
        rng.choice(list(world.machines.values())).on(lambda node: node.control.ask_transfer(to, now=world.now))


def listing(*names: str) -> Change:
    """Return the change that makes members of ``names``, whatever they were."""

    def listed(wanted: Wanted) -> Wanted:
        members = dict(wanted.members)
        for name in names:
            members[name] = replace(members.get(name, WantedMember()), draining=False)
        return replace(wanted, members=members)

    return listed


def with_zone(wanted: Wanted, name: str, zone: str) -> Wanted:
    """Return the wanted state in which ``name`` is in another zone, if it is listed."""
    if name not in wanted.members:
        return wanted
    return replace(wanted, members={**wanted.members, name: replace(wanted.members[name], zone=zone)})


def with_setting(wanted: Wanted, **settings: float) -> Wanted:
    """Return the wanted state with other settings."""
    return replace(wanted, settings=replace(wanted.settings, **settings))
