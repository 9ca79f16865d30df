"""All orders of a few events around one shard on three nodes: the real machine, every state checked (testing.md, L2).

A state is the whole world; from each, every possible next event is tried: a message arrives, is lost or comes twice, a
disk finishes, a node hears the map, a proposal commits, the leader fails over, shrinks or orders a hand-over, time passes,
a process dies and comes back, a client writes or reads. What is rare is bounded by a budget. Breadth first from several
beginnings, so that a broken rule is shown by a short sequence.
"""

from __future__ import annotations

import os
import pickle
from collections import deque
from collections.abc import Callable
from hashlib import blake2b
from random import Random

import pytest

from ringkeep_core.mapchanges import Failover, MapChange, ShardChange, Shrink
from ringkeep_node.machines.shard.effects import Absent, Found
from ringkeep_testing.shard_trio import Trio

STATES = int(os.environ.get("RINGKEEP_SHARD_STATES", "105000"))
BUDGET = {"write": 2, "read": 1, "failover": 1, "shrink": 1, "crash": 1, "commit": 2, "repeat": 1, "lose": 1}
BUDGET |= {"hand over": 0, "wait": 0}
WAIT_S = 1.1
"""Longer than a shard may drain, and than a hand-over goes without an answer before another change competes with it."""
EVENTS_MAX = 80
Event = tuple[str, ...]


class Walk:
    """One world on a walk: the trio, what is left of each budget, and what was promised to readers."""

    def __init__(self) -> None:
        self.trio = Trio()
        self.trio.settle()
        for name in self.trio.nodes:
            self.trio.answer_index(name)
        self.trio.settle()
        self.left = dict(BUDGET)
        self.boots: list[MapChange] = []
        self.reads: dict[tuple[str, int], int] = {}
        self.answered: list[int] = []

    def events(self) -> list[Event]:
        """Return everything that may happen next."""
        trio, left = self.trio, self.left
        found: list[Event] = []
        for (sender, receiver), link in trio.links.items():
            if link and trio.nodes[receiver].machine is not None:
                found.append(("deliver", sender, receiver))
                if left["repeat"]:
                    found.append(("repeat", sender, receiver))
                if left["lose"]:
                    found.append(("lose", sender, receiver))
        for name, node in trio.nodes.items():
            if node.machine is None:
                found.append(("restart", name))
                continue
            if node.pending:
                found.append(("sync", name))
            if node.through < trio.index:
                found.append(("hold", name))
            if node.indexes:
                found.append(("index", name))
            found += [(kind, name) for kind in ("crash", "failover", "shrink") if left[kind]]
            if trio.lead(name) is not None:
                found += [(kind, name) for kind in ("write", "read") if left[kind]]
                if left["hand over"]:
                    found += [("hand over", name, other) for other in trio.nodes if other != name]
        if left["commit"] and trio.proposals:
            found += [("commit", str(number)) for number in range(len(trio.proposals))]
        if self.boots:
            found.append(("boot",))
        if left["wait"]:
            found.append(("wait",))
        return found

    def do(self, event: Event) -> None:
        """Let one event happen, and check everything."""
        trio, kind = self.trio, event[0]
        if kind in self.left:
            self.left[kind] -= 1
        match event:
            case ("deliver", sender, receiver):
                trio.deliver(sender, receiver)
            case ("repeat", sender, receiver):
                trio.deliver(sender, receiver, keep=True)
            case ("lose", sender, receiver):
                trio.links[sender, receiver].pop(0)
            case ("sync", name):
                trio.sync(name)
            case ("hold", name):
                trio.hold(name)
            case ("index", name):
                trio.answer_index(name)
            case ("crash", name):
                trio.kill(name)
            case ("restart", name):
                self.boots.append(trio.restart(name))
            case ("boot",):
                trio.commit(self.boots.pop())
            case ("commit", number):
                trio.commit(trio.proposals.pop(int(number)))
            case ("failover", name) | ("shrink", name):
                self._decide(kind, name)
            case ("hand over", name, to):
                trio.hand_over(name, to)
            case ("wait",):
                trio.pass_time(WAIT_S)
            case ("write", name):
                trio.write(name, f"v{self.left['write']}")
            case ("read", name):
                self.reads[name, trio.read(name)] = trio.acknowledged[0]
        self._check_reads()
        trio.check()

    def _decide(self, kind: str, name: str) -> None:
        trio = self.trio
        storage, shard = trio.nodes[name].storage, trio.shard
        change: ShardChange
        if kind == "shrink":
            change = Shrink(0, shard.revision, (storage,))
        else:
            live = tuple(node.storage for node in trio.nodes.values() if node.storage != shard.primary.storage)
            change = Failover(0, shard.revision, storage, live)
        trio.commit(change)

    def _check_reads(self) -> None:
        """A read sees every write of its document that was acknowledged before it arrived."""
        for (name, token), floor in list(self.reads.items()):
            result = self.trio.answer(name, token)
            if result is None:
                continue
            del self.reads[name, token]
            if isinstance(result, Found | Absent):
                seen = result.row.version if isinstance(result, Found) else 0
                assert seen >= floor or floor == 0, f"read {seen}, acknowledged before: {floor}"


def _pair(walk: Walk) -> tuple[str, str, str]:
    trio = walk.trio
    q, r = [name for name in trio.nodes if name != trio.primary]
    return trio.primary, q, r


def _half_replicated(walk: Walk) -> None:
    """A write is durable on one replica only, and the primary is dead."""
    p, q, r = _pair(walk)
    walk.do(("write", p))
    walk.do(("deliver", p, r))
    walk.do(("sync", r))
    walk.do(("crash", p))
    walk.do(("failover", q))
    walk.do(("hold", q))


def _growing(walk: Walk) -> None:
    """A removed member is level again and proposed."""
    _, q, _ = _pair(walk)
    walk.do(("shrink", q))
    walk.trio.hold()
    walk.trio.pass_time(0.5)
    walk.trio.settle()


def _below_need(walk: Walk) -> None:
    """The primary is alone in in_sync, the others are eligible and do not know it yet."""
    p, q, r = _pair(walk)
    walk.left["shrink"] = 2
    walk.do(("write", p))
    walk.do(("shrink", q))
    walk.do(("shrink", r))
    walk.do(("hold", p))


def _deposed(walk: Walk) -> None:
    """The old primary knows of nothing and is asked; the new one has begun."""
    p, q, r = _pair(walk)
    walk.do(("write", p))
    walk.do(("failover", q))
    walk.do(("hold", q))
    walk.do(("hold", r))
    walk.trio.settle(q, r)
    walk.do(("read", p))


def _handing_over(walk: Walk) -> None:
    """A shard drains with a write under way; another one and a read wait."""
    p, q, _ = _pair(walk)
    walk.left |= {"hand over": 1, "wait": 1, "crash": 0, "lose": 0}
    walk.do(("write", p))
    walk.do(("hand over", p, q))
    walk.do(("write", p))
    walk.do(("read", p))


BEGINNINGS = (lambda walk: None, _half_replicated, _growing, _below_need, _deposed, _handing_over)


def breadth_first(begin: Callable[[Walk], None], states: int) -> int:
    """Visit the nearest states, every order of every event; return how many."""
    start = Walk()
    begin(start)
    packed = pickle.dumps(start, pickle.HIGHEST_PROTOCOL)
    seen = {blake2b(packed, digest_size=12).digest()}
    queue: deque[tuple[bytes, tuple[Event, ...]]] = deque([(packed, ())])
    while queue and len(seen) < states:
        packed, path = queue.popleft()
        for event in pickle.loads(packed).events():
            world: Walk = pickle.loads(packed)
            _do(world, path, event)
            after = pickle.dumps(world, pickle.HIGHEST_PROTOCOL)
            digest = blake2b(after, digest_size=12).digest()
            if digest not in seen:
                seen.add(digest)
                queue.append((after, (*path, event)))
    return len(seen)


def at_random(begin: Callable[[Walk], None], states: int, seed: int) -> int:
    """Visit states far away, one random sequence of events after the other; return how many."""
    random, visited = Random(seed), 0
    start = Walk()
    begin(start)
    packed = pickle.dumps(start, pickle.HIGHEST_PROTOCOL)
    while visited < states:
        world: Walk = pickle.loads(packed)
        world.left = dict.fromkeys(world.left, 3)
        path: tuple[Event, ...] = ()
        for _ in range(EVENTS_MAX):
            events = world.events()
            if not events:
                break
            event = random.choice(events)
            _do(world, path, event)
            path = (*path, event)
            visited += 1
    return visited


def _do(world: Walk, path: tuple[Event, ...], event: Event) -> None:
    try:
        world.do(event)
    except AssertionError as error:
        raise AssertionError(f"{error} after {[*path, event]}") from error


@pytest.mark.slow
@pytest.mark.parametrize("number", range(len(BEGINNINGS)))
def test_no_order_of_events_loses_a_write_or_shows_a_stale_one(number: int) -> None:
    visited = breadth_first(BEGINNINGS[number], STATES // 3 // len(BEGINNINGS))
    visited += at_random(BEGINNINGS[number], STATES * 2 // 3 // len(BEGINNINGS), seed=number)

    assert visited > 0
