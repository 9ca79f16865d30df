"""Walk every state a small Raft group can reach, with the real code.

A world is three nodes (the live machine, its disk, the steps its disk has not finished), the messages under way and
what is left of the budgets. From each world every possible next thing is done: a node's time runs out, its leader is
silent no longer, a message arrives, is lost or arrives twice, a disk finishes a step, a process dies with any part of
its unfinished steps and starts again, a client proposes or reads. Messages are a bag, so every order is tried. All
times are zero: every timer may fire at every moment, which allows more than any clock would.

Worlds that look the same are visited once. The invariants (those of Raft's TLA+ models, see ``_check_world``) hold in
each.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterator
from operator import attrgetter
from typing import Any

from msgspec import Struct

from ringkeep_node.machines.raft import (
    Configuration,
    Entry,
    HardState,
    Proposed,
    Raft,
    RaftMessage,
    RaftSettings,
    RaftStep,
    Recovered,
    Role,
)
from ringkeep_node.machines.raft.replication import Progress
from ringkeep_testing.raft_disk import persisted, report


class Budget(Struct, frozen=True):
    """What may still happen; each kind of event uses one up."""

    elections: int = 2
    proposals: int = 1
    crashes: int = 1
    drops: int = 1
    duplicates: int = 1
    heartbeats: int = 0
    reads: int = 0
    term_max: int = 4
    flight_max: int = 6


class Broken(AssertionError):
    """An invariant does not hold; ``path`` is how to get there."""

    def __init__(self, what: str, path: tuple[str, ...]) -> None:
        super().__init__(what + "\n  " + "\n  ".join(path))
        self.what, self.path = what, path


Wire = tuple[str, str, RaftMessage]


class _Node(Struct, frozen=True, gc=False):
    """One node; replaced, never changed. ``key`` is all that decides its future."""

    raft: Raft
    disk: Recovered
    unfinished: tuple[RaftStep, ...]
    applied: tuple[Entry, ...]
    key: tuple[object, ...]


class World(Struct, frozen=True, gc=False):
    """A state of the group. ``known`` is god's memory: who led which term, what was applied, which reads are open."""

    nodes: tuple[_Node, ...]
    wires: tuple[Wire, ...]
    budget: Budget
    leaders: tuple[tuple[int, str], ...]
    truth: tuple[Entry, ...]
    reads: tuple[tuple[str, int, int], ...]

    def key(self) -> tuple[object, ...]:
        """Return what decides the future of this world."""
        return (
            tuple(node.key for node in self.nodes),
            tuple(sorted(map(repr, self.wires))),
            self.budget,
            self.leaders,
            self.truth,
            self.reads,
        )


def fork(raft: Raft) -> Raft:
    """Return an independent copy of a machine. Values are shared, whatever can change is copied."""
    return _fork(raft, {})  # type: ignore[no-any-return]


_SHARED = (int, str, bytes, float, tuple, frozenset, type(None), Struct)


def _fork(thing: Any, seen: dict[int, Any]) -> Any:
    kind = type(thing)
    if kind is list:
        return thing[:]
    if kind is dict:
        return {key: _fork(value, seen) for key, value in thing.items()} if thing else {}
    if kind is deque:
        return deque(thing)
    if kind.__module__.startswith("ringkeep_node.") and not getattr(kind, "__struct_config__", None):
        if issubclass(kind, int):
            return thing
        return _fork_object(thing, kind, seen)
    if kind.__name__ == "Outbox":
        copy = seen.get(id(thing))
        if copy is None:
            copy = seen[id(thing)] = kind.empty()
        return copy
    if kind is bytearray:
        return bytearray(thing)
    return thing


def _fork_object(thing: Any, kind: Any, seen: dict[int, Any]) -> Any:
    copy = seen.get(id(thing))
    if copy is None:
        copy = seen[id(thing)] = kind.__new__(kind)
        names = Progress.__slots__ if kind is Progress else tuple(vars(thing))
        for name in names:
            value = getattr(thing, name)
            shared = isinstance(value, _SHARED) and type(value).__name__ != "Outbox"
            setattr(copy, name, value if shared else _fork(value, seen))
    return copy


def _describe(raft: Raft) -> tuple[object, ...]:
    """Return every value inside a machine that can make a difference later."""
    values: tuple[object, ...] = _values(raft, set())
    return values


_IGNORED = {"_settings", "_draw", "_outbox", "_me", "heard_at", "heartbeat_due", "_timer", "_shown"}


_PLAIN = frozenset((int, str, bytes, float, bool, type(None)))


def _values(thing: Any, seen: set[int]) -> Any:
    kind = type(thing)
    if kind in _PLAIN:
        return thing
    if kind is Progress:
        return tuple([_values(value, seen) for value in _PROGRESS_VALUES(thing)])
    if kind is bytearray:
        return bytes(thing)
    if kind in (list, tuple, deque):
        return tuple([_values(value, seen) for value in thing])
    if kind is dict:
        return tuple([(key, _values(value, seen)) for key, value in thing.items()])
    if kind.__module__.startswith("ringkeep_node.") and not isinstance(thing, Struct) and not issubclass(kind, int):
        if id(thing) in seen:
            return None
        seen.add(id(thing))
        return tuple([_values(value, seen) for name, value in vars(thing).items() if name not in _IGNORED])
    return thing


_PROGRESS_VALUES = attrgetter(*(name for name in Progress.__slots__ if name not in _IGNORED))


class Explorer:
    """All worlds within ``budget``, up to ``states_max`` different ones.

    Breadth first finds the shortest way to a fault near the start. ``deep`` continues from worlds drawn with ``seed``,
    half of them among the newest, so that the ends of the budgets are reached long before everything near the start is
    seen.
    """

    def __init__(
        self,
        budget: Budget,
        *,
        states_max: int,
        voters: int = 3,
        prevote: bool = False,
        deep: bool = False,
        seed: int = 0,
    ) -> None:
        self.deep, self.rng = deep, random.Random(seed)
        self.names = tuple("abcde"[:voters])
        self.settings = RaftSettings(
            heartbeat_s=0.0, election_s_min=0.0, election_s_max=0.0, prevote=prevote, tail_entries=0, append_bytes_max=1
        )
        self.states_max = states_max
        self.budget = budget
        self.visited = 0
        self.exhausted = False
        self.deepest = self.applied = self.leaders = 0

    def _take(self, queue: deque[tuple[World, Any, int]]) -> tuple[World, Any, int]:
        if self.deep and len(queue) > 1:
            span = len(queue) if self.rng.random() < 0.5 else min(len(queue), 8)
            at = len(queue) - 1 - int(self.rng.random() * span)
            queue[at], queue[-1] = queue[-1], queue[at]
        return queue.pop() if self.deep else queue.popleft()

    def first(self) -> World:
        """Return the group as it starts: everybody has the bootstrap entry on disk."""
        bootstrap = Configuration(self.names)
        nodes = []
        for name in self.names:
            raft = Raft(
                me=name, recovered=Recovered(), settings=self.settings, draw=lambda: 0.0, now=0.0, bootstrap=bootstrap
            )
            step = raft.take_step()
            report(raft, step, now=0.0)
            disk, committed = persisted(Recovered(), step), raft.take_step().committed
            nodes.append(_Node(raft, disk, (), committed, _key(raft, disk, (), committed)))
        return World(tuple(nodes), (), self.budget, (), nodes[0].applied, ())

    def run(self, start: World | None = None) -> int:
        """Explore; return the number of different worlds. Raises ``Broken`` with the shortest way there."""
        first = start or self.first()
        seen = {hash(first.key())}
        queue: deque[tuple[World, Any, int]] = deque([(first, None, 0)])
        while queue:
            world, path, depth = self._take(queue)
            self.deepest = max(depth, self.deepest)
            for label, after in self.successors(world, path):
                key = hash(after.key())
                if key in seen:
                    continue
                seen.add(key)
                way = (label, path)
                self._check(after, way)
                self.applied = max(self.applied, len(after.truth))
                self.leaders = max(self.leaders, len(after.leaders))
                if len(seen) >= self.states_max:
                    self.visited = len(seen)
                    return self.visited
                queue.append((after, way, depth + 1))
        self.exhausted = True
        self.visited = len(seen)
        return self.visited

    def play(self, world: World, *orders: str) -> World:
        """Return the world after a script.

        An order is the beginning of an event's label (``a time-out``, ``c->b RequestVote``), ``ab settle``: sync and
        deliver between the named nodes until nothing is left to do, or ``ab only``: lose what is under way to and from
        others. The script costs nothing of the budget.
        """
        ample = Budget(9, 9, 9, 0, 0, 9, 9, 99, 99)
        for order in orders:
            world = _replaced(world, budget=ample)
            subject, verb = order.split(" ", 1)
            if verb == "settle":
                world = self._settle(world, subject, ample)
            elif verb == "only":
                kept = tuple(wire for wire in world.wires if {wire[0], wire[1]} <= set(subject))
                world = _replaced(world, wires=kept)
            else:
                found = self._first(world, (order,))
                assert found is not None, order
                world = found
        return _replaced(world, budget=self.budget)

    def _settle(self, world: World, names: str, ample: Budget) -> World:
        ends = tuple(f"{one}->{two} " for one in names for two in names)
        quiet = (*ends, *(f"{name} synced" for name in names))
        while (after := self._first(world, quiet)) is not None:
            world = _replaced(after, budget=ample)
        return world

    def _first(self, world: World, labels: tuple[str, ...]) -> World | None:
        return next((after for label, after in self.successors(world, None) if label.startswith(labels)), None)

    def successors(self, world: World, path: Any) -> Iterator[tuple[str, World]]:
        """Yield everything that can happen next."""
        budget = world.budget
        for at, node in enumerate(world.nodes):
            yield from self._own_events(world, at, node, path)
        for number, wire in enumerate(world.wires):
            if number and wire == world.wires[number - 1]:
                continue
            rest = world.wires[:number] + world.wires[number + 1 :]
            yield f"{wire[0]}->{wire[1]} {wire[2]}", self._deliver(world, wire, rest, path)
            if budget.drops:
                yield f"drop {wire}", _replaced(world, wires=rest, budget=_less(budget, drops=1))
            if budget.duplicates:
                twice = _replaced(world, budget=_less(budget, duplicates=1))
                yield f"again {wire}", self._deliver(twice, wire, world.wires, path)

    def _own_events(self, world: World, at: int, node: _Node, path: Any) -> Iterator[tuple[str, World]]:
        budget, name, raft = world.budget, self.names[at], node.raft
        if budget.elections and raft.role is not Role.LEADER and raft.term < budget.term_max:
            after = fork(raft)
            after.tick(now=0.0)
            yield (
                f"{name} time-out",
                self._absorb(_replaced(world, budget=_less(budget, elections=1)), at, node, after, path),
            )
        if raft.role is Role.LEADER and budget.proposals:
            after = fork(raft)
            assert isinstance(after.propose(b"%d" % budget.proposals, now=0.0), Proposed)
            yield (
                f"{name} proposes",
                self._absorb(_replaced(world, budget=_less(budget, proposals=1)), at, node, after, path),
            )
        if raft.role is Role.LEADER and budget.heartbeats:
            after = fork(raft)
            leadership = after._leadership
            assert leadership is not None
            leadership._start_round(0.0)
            yield (
                f"{name} heartbeats",
                self._absorb(_replaced(world, budget=_less(budget, heartbeats=1)), at, node, after, path),
            )
        if raft.leader is not None and budget.reads:
            after = fork(raft)
            after.read_index(budget.reads, now=0.0)
            asked = (*world.reads, (name, budget.reads, max(other.raft.commit for other in world.nodes)))
            yield (
                f"{name} reads",
                self._absorb(_replaced(world, budget=_less(budget, reads=1), reads=asked), at, node, after, path),
            )
        if node.unfinished:
            yield f"{name} synced", self._sync(world, at, node, path)
        if budget.crashes:
            for kept in range(len(node.unfinished) + 1):
                yield f"{name} crashes, {kept} steps survive", self._crash(world, at, node, kept)

    def _deliver(self, world: World, wire: Wire, rest: tuple[Wire, ...], path: Any) -> World:
        at = self.names.index(wire[1])
        after = fork(world.nodes[at].raft)
        after.receive(wire[0], wire[2], now=0.0)
        return self._absorb(_replaced(world, wires=rest), at, world.nodes[at], after, path)

    def _sync(self, world: World, at: int, node: _Node, path: Any) -> World:
        step, name = node.unfinished[0], self.names[at]
        after = fork(node.raft)
        disk = persisted(node.disk, step)
        report(after, step, now=0.0)
        wires = world.wires + tuple((name, send.to, send.message) for send in step.send_synced)
        synced = _Node(after, disk, node.unfinished[1:], node.applied, ())
        return self._absorb(_replaced(world, wires=wires), at, synced, after, path)

    def _crash(self, world: World, at: int, node: _Node, kept: int) -> World:
        disk = node.disk
        for step in node.unfinished[:kept]:
            disk = persisted(disk, step)
        name = self.names[at]
        boot = world.budget.crashes / 16
        raft = Raft(me=name, recovered=disk, settings=self.settings, draw=lambda: boot, now=0.0)
        raft.take_step()
        fresh = _Node(raft, disk, (), (), _key(raft, disk, (), ()))
        nodes = (*world.nodes[:at], fresh, *world.nodes[at + 1 :])
        reads = tuple(read for read in world.reads if read[0] != name)
        return _replaced(world, nodes=nodes, budget=_less(world.budget, crashes=1), reads=reads)

    def _absorb(self, world: World, at: int, before: _Node, raft: Raft, path: Any) -> World:
        """Take what came out of a machine: records wait for the disk, messages fly, entries are applied."""
        name, disk, unfinished, applied = self.names[at], before.disk, before.unfinished, before.applied
        wires, truth, reads, leaders = list(world.wires), world.truth, world.reads, world.leaders
        while step := raft.take_step():
            wires += [(name, send.to, send.message) for send in step.send]
            if step.must_persist or (step.send_synced and unfinished):
                unfinished += (step,)
            else:
                wires += [(name, send.to, send.message) for send in step.send_synced]
            for entry in step.committed:
                truth = _applied(truth, entry, disk, name, path)
                applied += (entry,)
            for ready in step.reads:
                reads = _answered(reads, name, ready.token, ready.index, path)
            if step.reads_failed:
                reads = tuple(read for read in reads if read[0] != name or read[1] not in step.reads_failed)
            if step.changed and raft.role is Role.LEADER:
                leaders = _elected(leaders, raft.term, name, path)
                _check_complete(raft, truth, path)
        node = _Node(raft, disk, unfinished, applied, _key(raft, disk, unfinished, applied))
        nodes = (*world.nodes[:at], node, *world.nodes[at + 1 :])
        flying = tuple(sorted(wires, key=repr)[: world.budget.flight_max]) if len(wires) > 1 else tuple(wires)
        return World(nodes, flying, world.budget, leaders, truth, reads)

    def _check(self, world: World, path: Any) -> None:
        problem = _check_world([node.raft for node in world.nodes], [node.disk for node in world.nodes], world.truth)
        if problem is not None:
            raise Broken(problem, _unrolled(path))


def _key(
    raft: Raft, disk: Recovered, unfinished: tuple[RaftStep, ...], applied: tuple[Entry, ...]
) -> tuple[object, ...]:
    return (_describe(raft), disk.hard_state, disk.snapshot, disk.entries, unfinished, len(applied))


def _replaced(world: World, **changes: Any) -> World:
    fields = {name: getattr(world, name) for name in World.__struct_fields__}
    return World(**{**fields, **changes})


def _less(budget: Budget, **used: int) -> Budget:
    fields = {name: getattr(budget, name) - used.get(name, 0) for name in Budget.__struct_fields__}
    return Budget(**fields)


def _unrolled(path: Any) -> tuple[str, ...]:
    labels = []
    while path is not None:
        label, path = path
        labels.append(label)
    return tuple(reversed(labels))


# The invariants


def _applied(truth: tuple[Entry, ...], entry: Entry, disk: Recovered, name: str, path: Any) -> tuple[Entry, ...]:
    """State machine safety, and nothing is applied that the own disk does not hold."""
    if entry not in disk.entries:
        raise Broken(f"{name} applies {entry}, which its disk does not hold", _unrolled(path))
    if entry.index <= len(truth):
        if truth[entry.index - 1] != entry:
            raise Broken(f"{name} applies {entry}, another applied {truth[entry.index - 1]}", _unrolled(path))
        return truth
    return (*truth, entry)


def _answered(
    reads: tuple[tuple[str, int, int], ...], name: str, token: int, index: int, path: Any
) -> tuple[tuple[str, int, int], ...]:
    """A read sees all that anybody knew to be committed when it was asked."""
    for read in reads:
        if read[:2] == (name, token) and index < read[2]:
            raise Broken(f"read {token} at {name} got {index}, but {read[2]} was committed before", _unrolled(path))
    return tuple(read for read in reads if read[:2] != (name, token))


def _elected(leaders: tuple[tuple[int, str], ...], term: int, name: str, path: Any) -> tuple[tuple[int, str], ...]:
    """At most one leader a term."""
    for led, leader in leaders:
        if led == term and leader != name:
            raise Broken(f"{leader} and {name} both lead term {term}", _unrolled(path))
    return leaders if (term, name) in leaders else (*leaders, (term, name))


def _check_complete(raft: Raft, truth: tuple[Entry, ...], path: Any) -> None:
    """A new leader holds everything that was ever applied (leader completeness)."""
    for entry in truth:
        if entry.index >= raft.first_index and raft.term_at(entry.index) != entry.term:
            raise Broken(f"leader {raft.me} of term {raft.term} lacks {entry}", _unrolled(path))


def _check_world(rafts: list[Raft], disks: list[Recovered], truth: tuple[Entry, ...]) -> str | None:
    """Return which invariant of a single state is broken.

    Committed prefixes agree; index and term fix a prefix (log matching); a term's leader has its longest log; what is
    known to be committed is durable on a majority; terms on disk are never ahead of the machine's; marks are in order.
    """
    best = max(rafts, key=lambda raft: raft.commit)
    committed = best.entries(1, best.commit)
    for raft, disk in zip(rafts, disks, strict=True):
        if raft.entries(1, raft.commit) != committed[: raft.commit]:
            return f"committed prefixes of {raft.me} and {best.me} differ"
        if not raft.applied <= min(raft.commit, raft.stable) <= raft.last_index:
            return f"marks of {raft.me} are out of order"
        if disk.hard_state.term > raft.term:
            return f"the disk of {raft.me} knows a newer term"
        if raft.entries(1, raft.stable) != disk.entries[: raft.stable]:
            return f"{raft.me} takes for durable what its disk does not hold"
    for left in rafts:
        for right in rafts:
            if not _logs_match(left, right):
                return f"the logs of {left.me} and {right.me} agree in an entry but not before it"
            if left.role is Role.LEADER and _own_term_end(right, left.term) > _own_term_end(left, left.term):
                return f"{right.me} has more of term {left.term} than its leader {left.me}"
    if best.commit:
        held = sum(disk.entries[: best.commit] == committed for disk in disks)
        if held <= len(disks) // 2:
            return f"index {best.commit} is committed, but only {held} disks hold it"
    if truth[: best.commit] != committed[: len(truth)]:
        return "something applied was not committed"
    return None


def _logs_match(left: Raft, right: Raft) -> bool:
    for index in range(min(left.last_index, right.last_index), 0, -1):
        if left.term_at(index) == right.term_at(index):
            return left.entries(1, index) == right.entries(1, index)
    return True


def _own_term_end(raft: Raft, term: int) -> int:
    return raft.last_index if raft.last_term == term else 0


__all__ = ["Broken", "Budget", "Explorer", "HardState", "World", "fork"]
