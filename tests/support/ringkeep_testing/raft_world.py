"""A Raft group on one event heap: virtual time, a bad network, disks that forget what was not synced.

Everything is drawn from one seed. A safety phase, in which anything may fail, is followed by a healing phase, in which
all faults stop and the group must elect, agree and serve. God's eye looks at every step: one leader a term, every
applied entry equal everywhere and durable where it is applied, a new leader holds all that was ever applied, an
acknowledged proposal is never lost, a read never returns an index older than what anybody knew to be committed when it
was asked.
"""

from __future__ import annotations

import random
import sys
from collections import deque
from collections.abc import Callable, Sequence
from heapq import heappop, heappush

import msgspec
import xxhash
from msgspec import Struct

from ringkeep_node.machines.raft import (
    NORMAL,
    Configuration,
    Entry,
    Proposed,
    Raft,
    RaftMessage,
    RaftSettings,
    RaftStep,
    Recovered,
    Role,
)
from ringkeep_testing.raft_disk import Outstanding, compacted, persisted, report


class Violation(AssertionError):
    """God's eye saw what must never be."""


class WorldOptions(Struct, frozen=True, kw_only=True):
    """What one seed may do. Rates are per message or per second of virtual time."""

    nodes: int
    spares: int
    faulty_s: float
    loss: float
    duplication: float
    delay_s: float
    sync_s: float
    crashes: float
    partitions: float
    pauses: float
    transfers: float
    changes: float
    compactions: float
    proposals: float
    reads: float
    merged_reports: bool

    @classmethod
    def drawn(cls, rng: random.Random) -> WorldOptions:
        """Return options in which each fault is absent, rare or frequent (swarm testing)."""

        def rate(most: float) -> float:
            return rng.choice([0.0, most / 5, most])

        return cls(
            nodes=rng.choice([1, 2, 3, 3, 3, 5]),
            spares=rng.choice([0, 1, 2]),
            faulty_s=rng.choice([6.0, 10.0]),
            loss=rate(0.3),
            duplication=rate(0.3),
            delay_s=rng.choice([0.001, 0.01, 0.1]),
            sync_s=rng.choice([0.001, 0.01, 0.15]),
            crashes=rate(1.0),
            partitions=rate(0.6),
            pauses=rate(0.5),
            transfers=rate(0.6),
            changes=rate(1.5),
            compactions=rate(3.0),
            proposals=rng.choice([5.0, 40.0]),
            reads=rng.choice([2.0, 20.0]),
            merged_reports=rng.random() < 0.5,
        )


class _Host:
    """One machine: its disk survives, its process (``raft`` and what it was doing) does not."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.raft: Raft | None = None
        self.disk = Recovered()
        self.outstanding = Outstanding([])
        self.syncing = 0
        self.boot = 0
        self.applied: list[tuple[int, bytes]] = []
        self.paused_until = -1.0
        self.inbox: deque[tuple[str, RaftMessage]] = deque()
        self.tokens: dict[int, int] = {}
        self.waiting: dict[tuple[int, int], bytes] = {}


class RaftWorld:
    """The whole group and everything that happens to it."""

    def __init__(self, seed: int, options: WorldOptions | None = None, settings: RaftSettings | None = None) -> None:
        self.rng = random.Random(seed)
        self.options = options or WorldOptions.drawn(self.rng)
        self.settings = settings or RaftSettings(
            tail_entries=self.rng.choice([0, 3, 20]),
            snapshot_chunk_bytes=self.rng.choice([50, 1 << 20]),
            inflight_messages_max=self.rng.choice([2, 64]),
            append_bytes_max=self.rng.choice([20, 300, 1 << 20]),
            caught_up_entries=8,
        )
        self.now = 0.0
        self.healing = False
        names = [f"n{number}" for number in range(self.options.nodes + self.options.spares)]
        self.bootstrap = Configuration(tuple(names[: self.options.nodes]))
        self.hosts = {name: _Host(name) for name in names}
        self.cut_links: set[tuple[str, str]] = set()
        self.truth: dict[int, Entry] = {}
        self.leaders: dict[int, str] = {}
        self.acknowledged: set[bytes] = set()
        self.reads_answered = self.events = self.elections = self.snapshots = self.last_proposal = 0
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._sequence = self._token = 0
        self._highest_commit = 0
        self._trace = xxhash.xxh3_64()
        for name in names:
            self._start(name)

    # The heap

    def at(self, delay_s: float, action: Callable[[], None]) -> None:
        """Do ``action`` after ``delay_s``."""
        self._sequence += 1
        heappush(self._heap, (self.now + delay_s, self._sequence, action))

    def run(self, until: float) -> None:
        """Let time pass."""
        while self._heap and self._heap[0][0] <= until:
            self.now, _, action = heappop(self._heap)
            self.events += 1
            action()
        self.now = until

    def trace_hash(self) -> str:
        """Return a digest of everything that was applied, elected and answered, with its time."""
        return self._trace.hexdigest()

    def _note(self, *facts: object) -> None:
        self._trace.update(repr((round(self.now, 9), *facts)).encode())

    # Nodes

    def _start(self, name: str) -> None:
        host = self.hosts[name]
        host.boot += 1
        first = name in self.bootstrap.voters
        host.raft = Raft(
            me=name,
            recovered=host.disk,
            settings=self.settings,
            draw=self.rng.random,
            now=self.now,
            bootstrap=self.bootstrap if first else None,
        )
        snapshot = host.disk.snapshot
        host.applied = msgspec.msgpack.decode(snapshot.data, type=list[tuple[int, bytes]]) if snapshot else []
        self._pump(host)
        self._arm(host, host.boot)

    def crash(self, name: str) -> None:
        """Kill the process; a random part of what was not synced is lost."""
        host = self.hosts[name]
        if host.raft is None:
            return
        for step in host.outstanding.steps[: self.rng.randint(0, len(host.outstanding.steps))]:
            host.disk = persisted(host.disk, step)
        host.raft, host.outstanding, host.syncing, host.paused_until = None, Outstanding([]), 0, -1.0
        host.inbox.clear()
        host.tokens.clear()
        host.waiting.clear()
        host.boot += 1
        self._note("crash", name)

    def restart(self, name: str) -> None:
        """Start the process again if it does not run."""
        if self.hosts[name].raft is None:
            self._start(name)

    def _arm(self, host: _Host, boot: int) -> None:
        if host.raft is not None and host.boot == boot:
            due = max(host.raft.next_deadline(), host.paused_until) - self.now
            self.at(min(max(due, 0.001), 0.1), lambda: self._tick(host, boot))

    def _tick(self, host: _Host, boot: int) -> None:
        if host.raft is None or host.boot != boot:
            return
        if self.now >= host.paused_until:
            while host.inbox:
                sender, message = host.inbox.popleft()
                host.raft.receive(sender, message, now=self.now)
            host.raft.tick(now=self.now)
            self._pump(host)
        self._arm(host, boot)

    def _deliver(self, host: _Host, sender: str, message: RaftMessage) -> None:
        if host.raft is None:
            return
        if self.now < host.paused_until:
            if len(host.inbox) < 1000:
                host.inbox.append((sender, message))
            return
        host.raft.receive(sender, message, now=self.now)
        self._pump(host)

    def _pump(self, host: _Host) -> None:
        raft = host.raft
        assert raft is not None
        while step := raft.take_step():
            for send in step.send:
                self._transmit(host.name, send.to, send.message)
            if step.must_persist or step.send_synced:
                host.outstanding.steps.append(step)
            self._apply(host, step)
            for ready in step.reads:
                self._check_read(host, ready.token, ready.index)
            for token in step.reads_failed:
                host.tokens.pop(token)
            if step.changed and raft.role is Role.LEADER:
                self._check_new_leader(host)
        if host.outstanding.steps and not host.syncing:
            self._begin_sync(host)

    # Disks

    def _begin_sync(self, host: _Host) -> None:
        host.syncing = len(host.outstanding.steps)
        boot = host.boot
        slow = 20.0 if self.rng.random() < 0.01 else 1.0
        sync_s = 0.005 if self.healing else self.options.sync_s * slow
        self.at(sync_s * self.rng.random(), lambda: self._end_sync(host, boot))

    def _end_sync(self, host: _Host, boot: int) -> None:
        if host.raft is None or host.boot != boot:
            return
        done = Outstanding(host.outstanding.steps[: host.syncing])
        del host.outstanding.steps[: host.syncing]
        host.syncing = 0
        for step in done.steps:
            host.disk = persisted(host.disk, step)
            if step.install is not None:
                host.applied = msgspec.msgpack.decode(step.install.data, type=list[tuple[int, bytes]])
                self.snapshots += 1
        merged = done.merged()
        reports = [merged] if self.options.merged_reports and merged else done.steps
        for step in reports:
            report(host.raft, step, now=self.now)
        for step in done.steps:
            for send in step.send_synced:
                self._transmit(host.name, send.to, send.message)
        self._pump(host)

    # The network

    def _transmit(self, sender: str, to: str, message: RaftMessage) -> None:
        if (sender, to) in self.cut_links or to not in self.hosts:
            return
        copies = 1
        if not self.healing:
            copies += self.rng.random() < self.options.duplication
            copies -= self.rng.random() < self.options.loss
        for _ in range(copies):
            slowest = min(self.options.delay_s, 0.01) if self.healing else self.options.delay_s
            delay = slowest * self.rng.random() * (10.0 if self.rng.random() < 0.05 else 1.0)
            self.at(delay, lambda: self._deliver(self.hosts[to], sender, message))

    def partition(self) -> None:
        """Cut links: two halves, one node off, one direction off, or a bridge; or heal everything."""
        names = list(self.hosts)
        self.rng.shuffle(names)
        half = set(names[: len(names) // 2])
        kind = self.rng.choice(["halves", "one", "one way", "bridge", "none"])
        pairs = [(a, b) for a in names for b in names if a != b]
        self.cut_links = {
            "halves": {(a, b) for a, b in pairs if (a in half) != (b in half)},
            "one": {(a, b) for a, b in pairs if names[0] in (a, b)},
            "one way": {(a, b) for a, b in pairs if a == names[0]},
            "bridge": {(a, b) for a, b in pairs if (a in half) != (b in half) and names[-1] not in (a, b)},
            "none": set(),
        }[kind]

    # The application and its clients

    def _apply(self, host: _Host, step: RaftStep) -> None:
        raft = host.raft
        assert raft is not None
        self._highest_commit = max(self._highest_commit, raft.commit)
        for entry in step.committed:
            if self.truth.setdefault(entry.index, entry) != entry:
                raise Violation(f"{host.name} applies {entry}, another node applied {self.truth[entry.index]}")
            snapshot_index = host.disk.snapshot.index if host.disk.snapshot else 0
            at = next((kept for kept in reversed(host.disk.entries) if kept.index == entry.index), None)
            if entry.index > snapshot_index and at != entry:
                raise Violation(f"{host.name} applies {entry} but its disk holds {at}")
            if entry.kind == NORMAL:
                host.applied.append((entry.index, entry.payload))
            expected = host.waiting.pop((entry.term, entry.index), None)
            if expected is not None:
                self.acknowledged.add(expected)
            self._note("apply", host.name, entry.index, entry.term)

    def _check_new_leader(self, host: _Host) -> None:
        raft = host.raft
        assert raft is not None
        self.elections += 1
        self._note("leader", host.name, raft.term)
        if self.leaders.setdefault(raft.term, host.name) != host.name:
            raise Violation(f"{host.name} and {self.leaders[raft.term]} both lead term {raft.term}")
        for index, entry in self.truth.items():
            if index >= raft.first_index and raft.term_at(index) != entry.term:
                raise Violation(f"leader {host.name} of term {raft.term} lacks {entry}")

    def _check_read(self, host: _Host, token: int, index: int) -> None:
        floor = host.tokens.pop(token)
        self.reads_answered += 1
        self._note("read", host.name, index)
        if index < floor:
            raise Violation(f"a read at {host.name} got {index}, but {floor} was committed when it was asked")

    def propose(self) -> None:
        """Let a client propose at any node; the answer counts when that node applies the entry."""
        for host in self._running():
            assert host.raft is not None
            if host.raft.role is Role.LEADER:
                self.last_proposal += 1
                payload = b"p%d" % self.last_proposal
                answer = host.raft.propose(payload, now=self.now)
                if isinstance(answer, Proposed):
                    host.waiting[answer.term, answer.index] = payload
                self._pump(host)

    def read(self) -> None:
        """Let a client read at a random node."""
        running = self._running()
        if running:
            self.read_at(self.rng.choice(running).name)

    def read_at(self, name: str) -> None:
        """Let a client read at one node, which runs."""
        host = self.hosts[name]
        assert host.raft is not None
        self._token += 1
        host.tokens[self._token] = self._highest_commit
        host.raft.read_index(self._token, now=self.now)
        self._pump(host)

    def _running(self) -> list[_Host]:
        return [host for host in self.hosts.values() if host.raft is not None and self.now >= host.paused_until]

    # Faults

    def inject(self) -> None:
        """Start everything that goes on by itself: clients, and faults until ``faulty_s``."""
        options = self.options
        for rate, action in (
            (options.proposals, self.propose),
            (options.reads, self.read),
            (options.crashes, self._crash_one),
            (options.partitions, self.partition),
            (options.pauses, self._pause_one),
            (options.transfers, self._transfer),
            (options.changes, self._change),
            (options.compactions, self._compact),
        ):
            if rate:
                self._repeat(rate, action)

    def _repeat(self, rate: float, action: Callable[[], None]) -> None:
        def again() -> None:
            if not self.healing:
                action()
                self.at(self.rng.expovariate(rate), again)

        self.at(self.rng.expovariate(rate), again)

    def _crash_one(self) -> None:
        name = self.rng.choice(list(self.hosts))
        self.crash(name)
        self.at(self.rng.choice([0.01, 0.3, 3.0]), lambda: self.restart(name))

    def _pause_one(self) -> None:
        host = self.rng.choice(list(self.hosts.values()))
        host.paused_until = self.now + self.rng.choice([0.3, 1.0, 4.0])

    def _transfer(self) -> None:
        for host in self._running():
            assert host.raft is not None
            if host.raft.role is Role.LEADER:
                if self.rng.random() < 0.2:
                    host.raft.step_down(now=self.now)
                else:
                    host.raft.transfer_leadership(self.rng.choice(list(self.hosts)), now=self.now)
                self._pump(host)

    def _change(self) -> None:
        for host in self._running():
            assert host.raft is not None
            if host.raft.role is Role.LEADER:
                host.raft.propose_configuration(self._next_configuration(host.raft.configuration), now=self.now)
                self._pump(host)

    def _next_configuration(self, before: Configuration) -> Configuration:
        name = self.rng.choice(list(self.hosts))
        voters = tuple(voter for voter in before.voters if voter != name)
        learners = tuple(learner for learner in before.learners if learner != name)
        if name in before.learners:
            return Configuration((*voters, name), learners)
        if name in before.voters:
            return Configuration(voters, learners + ((name,) if self.rng.random() < 0.5 else ()))
        return Configuration(voters, (*learners, name))

    def _compact(self) -> None:
        running = self._running()
        if not running:
            return
        host = self.rng.choice(running)
        raft = host.raft
        assert raft is not None
        durable = raft.applied
        if durable > (raft.snapshot.index if raft.snapshot else 0):
            applied = [(index, payload) for index, payload in host.applied if index <= durable]
            snapshot = raft.make_snapshot(durable, msgspec.msgpack.encode(applied))
            # The simulated disk has it at once: what was handed out to apply is durable, so no record is jumped.
            host.disk = compacted(host.disk, snapshot, self.settings.tail_entries)
            raft.compact(snapshot)

    # The end

    def heal(self) -> None:
        """Stop every fault and start every node."""
        self.healing = True
        self.cut_links = set()
        for host in self.hosts.values():
            host.paused_until = -1.0
            self.restart(host.name)

    def check_logs(self) -> None:
        """Compare all logs: where index and term agree, everything before agrees (paper, log matching)."""
        rafts = [host.raft for host in self.hosts.values() if host.raft is not None]
        for left in rafts:
            for right in rafts:
                first = max(left.first_index, right.first_index)
                common = range(first, min(left.last_index, right.last_index) + 1)
                agreed = max((i for i in common if left.term_at(i) == right.term_at(i)), default=first - 1)
                if left.entries(first, agreed) != right.entries(first, agreed):
                    raise Violation(f"logs agree at {agreed} but not before")

    def check_converged(self) -> None:
        """Everybody in the configuration has applied the same, and nothing acknowledged is missing."""
        leaders = [host.raft for host in self.hosts.values() if host.raft and host.raft.role is Role.LEADER]
        top = max(leaders, key=lambda raft: raft.term, default=None)
        if top is None or not top.leader_ready:
            raise Violation("no leader after healing")
        members = [self.hosts[name] for name in top.configuration.members()]
        applied = self.hosts[top.me].applied
        missing = self.acknowledged - {payload for _, payload in applied}
        if missing:
            raise Violation(f"acknowledged and lost: {sorted(missing)}")
        for host in members:
            if host.applied != applied or host.raft is None or host.raft.commit != top.commit:
                raise Violation(f"{host.name} did not catch up with {top.me}")
            if host.disk.hard_state.term > top.term:
                raise Violation(f"{host.name} is stuck in term {host.disk.hard_state.term}")


def run_seed(seed: int) -> RaftWorld:
    """Run one seed through its safety and healing phase; raises ``Violation``."""
    world = RaftWorld(seed)
    world.inject()
    for second in range(1, int(world.options.faulty_s) + 1):
        world.run(float(second))
        world.check_logs()
    world.heal()
    world.run(world.now + 5.0)
    acknowledged, answered = len(world.acknowledged), world.reads_answered
    world.propose()
    for name in world.hosts:
        world.read_at(name)
    world.run(world.now + 2.0)
    world.check_logs()
    if len(world.acknowledged) <= acknowledged or world.reads_answered <= answered:
        raise Violation("nothing is served after healing")
    _converge(world)
    return world


def _converge(world: RaftWorld) -> None:
    """Let stragglers catch up. Where a message holds one entry, a refused window comes again at one entry a round trip."""
    for _ in range(10):
        try:
            world.check_converged()
        except Violation:
            world.run(world.now + 1.0)
        else:
            return
    world.check_converged()


def main(seeds: Sequence[str]) -> None:
    """Run seeds and print what came of each; the first violation ends it."""
    for seed in map(int, seeds):
        world = run_seed(seed)
        counts = f"events {world.events} elections {world.elections} snapshots {world.snapshots}"
        print(f"seed {seed} {world.trace_hash()} {counts} {world.options}")


if __name__ == "__main__":
    main(sys.argv[1:])
