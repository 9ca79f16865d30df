"""A simulated world for the real membership machine: one event heap, one network, everything from one seed.

Nodes have a process that runs, is paused (its datagrams queue up) or is gone (peer connections then break: the others
get hints, as the runtime would give them). The network delays, loses, duplicates, and is cut between any two nodes one
way or both ways. Every event goes into a hash, so that two runs of one seed can be compared.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from random import Random

from xxhash import xxh3_64

from ringkeep_node.machines.swim import (
    Address,
    Evidence,
    MemberChanged,
    MemberIdentity,
    MemberState,
    RegisteredMember,
    Swim,
    SwimSettings,
    SwimStep,
)

CLUSTER = "c" * 16
PORT = 7946
QUEUE_MAX = 256
RECONNECT_S = 0.2


def storage_id(index: int) -> str:
    """Return the storage id of node ``index``."""
    return f"{index:016x}"


@dataclass(frozen=True)
class Seen:
    """A change of state at one observer, in the true order."""

    at: float
    observer: int
    change: MemberChanged


@dataclass
class Node:
    """One process, or the place where one was."""

    index: int
    swim: Swim
    counter: int
    address: Address
    running: bool = True
    paused_until: float = 0.0
    queue: list[tuple[bytes, Address]] = field(default_factory=list)
    timer: float | None = None


class World:
    """Nodes, network and clock."""

    def __init__(
        self,
        seed: int,
        nodes: int,
        *,
        settings: SwimSettings | None = None,
        loss: float = 0.0,
        duplicate: float = 0.0,
        latency_s: tuple[float, float] = (0.0002, 0.002),
        seeds: Callable[[int], Iterable[int]] | None = None,
    ) -> None:
        self.random = Random(seed)
        self.now = 1000.0
        self.loss = loss
        self.duplicate = duplicate
        self.latency_s = latency_s
        self.cut: set[tuple[int, int]] = set()
        self.lag_s: dict[int, float] = {}
        self.report_lag = True
        self.seen: list[Seen] = []
        self.datagrams = 0
        self.bytes = 0
        self.largest = 0
        self._settings = settings or SwimSettings()
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._events = 0
        self._trace = xxh3_64()
        self._seeds = seeds or (lambda index: [0, 1, 2][: max(1, nodes)])
        self._at_address: dict[Address, Node] = {}
        self.nodes: dict[int, Node] = {}
        for index in range(nodes):
            self.start(index)

    # Processes

    def start(self, index: int, *, address: Address | None = None) -> Node:
        """Start node ``index``: a new boot of the same storage id, at its old address or a new one."""
        old = self.nodes.get(index)
        counter = 1 if old is None else old.counter + 1
        place = address or (old.address if old is not None else (f"10.0.0.{index + 1}", PORT))
        me = MemberIdentity(
            storage=storage_id(index),
            name=f"n{index}",
            boot=f"{self.random.getrandbits(64):016x}",
            counter=counter,
            address=place,
        )
        seeds = [(f"10.0.0.{peer + 1}", PORT) for peer in self._seeds(index)]
        swim = Swim(
            me=me,
            cluster_id=CLUSTER,
            settings=self._settings,
            seeds=seeds,
            draw=Random(self.random.getrandbits(64)).random,
            now=self.now,
        )
        if old is not None and self._at_address.get(old.address) is old:
            del self._at_address[old.address]
        node = Node(index=index, swim=swim, counter=counter, address=place)
        self.nodes[index] = self._at_address[place] = node
        self._note("start", index, counter)
        self._arm(node)
        return node

    def kill(self, index: int, *, hints: bool = True) -> None:
        """End the process at once. Its peers' connections are reset, and refused when they try again."""
        node = self.nodes[index]
        node.running = False
        self._note("kill", index)
        if hints:
            for peer in list(self.nodes.values()):
                if peer is not node and peer.running:
                    self._at(self._latency(), lambda peer=peer: self._reset(peer, node))  # type: ignore[misc]

    def pause(self, index: int, seconds: float) -> None:
        """Stop the process (SIGSTOP) for a while: connections stay, nothing is read."""
        node = self.nodes[index]
        node.paused_until = max(node.paused_until, self.now + seconds)
        self._note("pause", index)
        self._at(node.paused_until - self.now, lambda: self._resume(node))

    def hang(self, index: int) -> None:
        """Stop the process for ever."""
        self.nodes[index].paused_until = float("inf")
        self._note("hang", index)

    def call(self, index: int, action: Callable[[Swim, float], SwimStep | None]) -> None:
        """Let node ``index`` do something now."""
        node = self.nodes[index]
        self._done(node, action(node.swim, self.now) or SwimStep())

    # Network

    def partition(self, *groups: Iterable[int]) -> None:
        """Cut everything between the groups, both ways."""
        sides = [set(group) for group in groups]
        pairs = [(a, b) for one in sides for other in sides if one is not other for a in one for b in other]
        self.cut.update(pairs)
        self._note("partition")

    def heal(self) -> None:
        """Undo all cuts."""
        self.cut.clear()
        self._note("heal")

    # Time

    def run(self, seconds: float) -> None:
        """Let ``seconds`` pass."""
        end = self.now + seconds
        while self._heap and self._heap[0][0] <= end:
            self.now, _, action = heapq.heappop(self._heap)
            action()
        self.now = end

    def run_until(self, done: Callable[[], bool], limit_s: float) -> float:
        """Let time pass until ``done``; return how long it took, or raise after ``limit_s``."""
        began, end = self.now, self.now + limit_s
        while not done():
            if not self._heap or self._heap[0][0] > end:
                raise AssertionError(f"not reached within {limit_s} s: {self.table()}")
            self.now, _, action = heapq.heappop(self._heap)
            action()
        return self.now - began

    def later(self, seconds: float, action: Callable[[], None]) -> None:
        """Do something after ``seconds``."""
        self._at(seconds, action)

    # Looking

    def states(self, observer: int) -> dict[int, MemberState]:
        """Return what ``observer`` believes of everybody."""
        return {int(storage, 16): view.state for storage, view in self.nodes[observer].swim.members.items()}

    def all_agree(self, alive: Iterable[int]) -> bool:
        """Return whether each of ``alive`` knows exactly these as alive, and all their digests are equal."""
        expected = sorted(alive)
        for index in expected:
            known = sorted(one for one, state in self.states(index).items() if state is MemberState.ALIVE)
            if known != expected:
                return False
        return True

    def died(self, index: int, *, after: float = 0.0) -> list[Seen]:
        """Return every observation of the death of ``index``."""
        storage = storage_id(index)
        return [
            one
            for one in self.seen
            if one.at >= after and one.change.storage == storage and one.change.after is MemberState.DEAD
        ]

    def deaths(self) -> list[Seen]:
        """Return every observation of a death."""
        return [one for one in self.seen if one.change.after is MemberState.DEAD]

    def table(self) -> str:
        """Return who believes what, for people."""
        lines = (
            f"n{index}: " + " ".join(f"n{peer}={state.name}" for peer, state in sorted(self.states(index).items()))
            for index, node in sorted(self.nodes.items())
            if node.running
        )
        return "; ".join(lines)

    def trace_hash(self) -> str:
        """Return the hash of everything that happened."""
        return self._trace.hexdigest()

    def registered(self, *, left: Iterable[int] = ()) -> list[RegisteredMember]:
        """Return the rows of a committed map that names all present boots."""
        gone = set(left)
        return [
            RegisteredMember(
                storage=storage_id(index),
                name=f"n{index}",
                boot=node.swim.identity.boot,
                counter=node.counter,
                address=node.address,
                left=index in gone,
            )
            for index, node in sorted(self.nodes.items())
        ]

    # Inside

    def _at(self, seconds: float, action: Callable[[], None]) -> None:
        self._events += 1
        heapq.heappush(self._heap, (self.now + seconds, self._events, action))

    def _latency(self) -> float:
        shortest, longest = self.latency_s
        return shortest + (longest - shortest) * self.random.random()

    def _is_stopped(self, node: Node) -> bool:
        return self.now < node.paused_until

    def _arm(self, node: Node) -> None:
        due = max(node.swim.next_deadline(), self.now) + self.lag_s.get(node.index, 0.0) * self.random.random()
        if node.timer is not None and node.timer <= due and node.timer >= self.now:
            return
        node.timer = due
        self._at(due - self.now, lambda: self._wake(node, due))

    def _wake(self, node: Node, due: float) -> None:
        if node.timer != due or not node.running or self._is_stopped(node):
            return
        node.timer = None
        if node.swim.next_deadline() <= self.now:
            lag_s = self.lag_s.get(node.index, 0.0)
            if lag_s and self.report_lag:
                node.swim.lagged(lag_s, now=self.now)
            self._done(node, node.swim.tick(now=self.now))
            # Else a driver that calls tick at each deadline would spin.
            assert node.swim.next_deadline() > self.now, f"n{node.index} wants another tick at {self.now}"
        else:
            self._arm(node)

    def _resume(self, node: Node) -> None:
        if self._is_stopped(node) or not node.running or self.nodes[node.index] is not node:
            return
        self._note("resume", node.index)
        queued, node.queue = node.queue, []
        for data, source in queued:
            self._done(node, node.swim.datagram(data, source, now=self.now))
        self._done(node, node.swim.tick(now=self.now))

    def _done(self, node: Node, step: SwimStep) -> None:
        for change in step.changes:
            self.seen.append(Seen(self.now, node.index, change))
            self._note("change", node.index, change.storage, change.before, change.after, change.evidence)
        for owner, key, value in step.state_changed:
            self._note("value", node.index, owner, key, value)
        for address, data in step.send:
            self._transmit(node, address, data)
        self._arm(node)

    def _transmit(self, node: Node, address: Address, data: bytes) -> None:
        self.datagrams += 1
        self.bytes += len(data)
        self.largest = max(self.largest, len(data))
        self._note("send", node.index, address, data)
        copies = 1 + (self.random.random() < self.duplicate)
        for _ in range(copies):
            if self.random.random() >= self.loss:
                lag_s = self.lag_s.get(node.index, 0.0) * self.random.random()
                self._at(self._latency() + lag_s, lambda: self._arrive(node, address, data))

    def _arrive(self, sender: Node, address: Address, data: bytes) -> None:
        node = self._at_address.get(address)
        if node is None or not node.running or (sender.index, node.index) in self.cut:
            return
        if self._is_stopped(node):
            if len(node.queue) < QUEUE_MAX:
                node.queue.append((data, sender.address))
            return
        self._done(node, node.swim.datagram(data, sender.address, now=self.now))

    def _reset(self, peer: Node, gone: Node) -> None:
        self._hint(peer, gone, Evidence.RESET)
        self._at(self.random.random() * 0.02, lambda: self._reconnect(peer, gone))

    def _reconnect(self, peer: Node, gone: Node) -> None:
        """The runtime dials at once and then again and again, where the member is by now."""
        present = self.nodes[gone.index]
        if present.running:
            if not self._is_stopped(present) and (peer.index, present.index) not in self.cut:
                self._hint(peer, present, Evidence.CONNECTED)
            return
        self._hint(peer, gone, Evidence.REFUSED)
        self._at(RECONNECT_S, lambda: self._reconnect(peer, gone))

    def _hint(self, peer: Node, about: Node, evidence: Evidence) -> None:
        cut = (about.index, peer.index) in self.cut or (peer.index, about.index) in self.cut
        if peer.running and not self._is_stopped(peer) and not cut:
            self._done(peer, peer.swim.hint(storage_id(about.index), evidence, now=self.now))

    def _note(self, *what: object) -> None:
        self._trace.update(repr((round(self.now, 9), *what)).encode())
