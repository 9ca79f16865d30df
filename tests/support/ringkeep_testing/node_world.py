"""A whole cluster on one event heap: the real ``Node`` machines over a simulated network, disks and clock.

Everything follows from one seed. A *safety phase* draws faults (kills, restarts faster than detection, pauses, cuts of
links one way or both, lost datagrams, slow and hanging disks, lost unsynced writes) while clients write and read through
any node and every operation is recorded. Then a *healing phase*: faults stop, everybody is restarted, and the cluster must
converge and serve within a bounded virtual time. God's-eye checks run at every committed map change and at the end.

Source: testing.md, "Simulation rules"; the two phases follow TigerBeetle's VOPR.
"""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any

from ringkeep_core.hashing import shard_of
from ringkeep_core.mapchecks import check
from ringkeep_core.maprules import bootstrap
from ringkeep_core.shardmap import Member, Settings, ShardMap, encode_map
from ringkeep_node.machines.control import encode_snapshot, first_snapshot
from ringkeep_node.machines.documents import Write
from ringkeep_node.machines.messages import Bundle, Channel
from ringkeep_node.machines.node import Node, NodeIdentity, NodeSettings, NodeStep, split_address
from ringkeep_node.machines.records import NO_SHARD, Kind, Record
from ringkeep_node.machines.shard.effects import (
    Absent,
    CreateCopy,
    DropCopy,
    Found,
    InstallAbort,
    InstallBegin,
    InstallFinish,
    InstallRows,
    NotApplied,
    ReadLog,
    ReadPage,
    ReadRequest,
    ReadRows,
    Result,
    WriteRequest,
)
from ringkeep_node.machines.swim.members import Evidence
from ringkeep_testing.sim_log import SimLog
from ringkeep_testing.sim_store import SimStore

START_S = 100.0


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What one seed draws. Probabilities are per second of the safety phase, times in seconds."""

    nodes: int = 3
    shards: int = 16
    replication_factor: int = 3
    min_in_sync: int = 2
    safety_s: float = 20.0
    healing_s: float = 40.0
    clients: int = 4
    users: int = 6
    think_s: float = 0.05
    kill_rate: float = 0.1
    pause_rate: float = 0.05
    cut_rate: float = 0.1
    stall_rate: float = 0.02
    datagram_loss: float = 0.02
    latency_s: float = 0.002
    sync_s: float = 0.003

    @staticmethod
    def drawn(seed: int) -> Plan:
        """Return the options of a seed: some runs are calm in one respect and wild in another (swarm testing)."""
        rng = Random(seed)
        return Plan(
            nodes=rng.choice((1, 2, 3, 3, 3, 4, 5, 5)),
            min_in_sync=rng.choice((1, 2, 2, 2)),
            kill_rate=rng.choice((0.0, 0.1, 0.3)),
            pause_rate=rng.choice((0.0, 0.0, 0.1)),
            cut_rate=rng.choice((0.0, 0.1, 0.3)),
            stall_rate=rng.choice((0.0, 0.0, 0.05)),
            datagram_loss=rng.choice((0.0, 0.02, 0.2)),
            latency_s=rng.choice((0.0005, 0.002, 0.02)),
            sync_s=rng.choice((0.001, 0.005, 0.03)),
            think_s=rng.choice((0.02, 0.1)),
        )


@dataclass
class Operation:
    """One client operation as its client saw it. ``ended`` None: never answered; ``result`` None: outcome unknown."""

    client: int
    user: str
    kind: str
    value: bytes | None
    started: float
    ended: float | None = None
    result: Result | None = None


@dataclass
class Machine:
    """One simulated host: its disk outlives its processes."""

    name: str
    storage: str
    log: SimLog
    store: SimStore
    counter: int = 0
    node: Node | None = None
    life: int = 0
    paused_until: float = 0.0
    stalled_until: float = 0.0
    syncing: bool = False
    tickets: list[tuple[int, int]] = field(default_factory=list)
    waiting: list[Callable[[], None]] = field(default_factory=list)
    links: dict[tuple[str, Channel], int] = field(default_factory=dict)
    wanted: dict[str, str] = field(default_factory=dict)
    wake_at: float = -1.0
    applied_at: float = 0.0


class Violation(AssertionError):
    """A promise was broken. The text names the seed that replays it."""


class World:
    """The cluster of one seed."""

    def __init__(self, seed: int, plan: Plan | None = None) -> None:
        self.seed, self.plan = seed, plan or Plan.drawn(seed)
        self.rng = Random(seed * 7919 + 1)
        self.now = START_S
        self.history: list[Operation] = []
        self.trace = hashlib.sha256()
        self.machines: dict[str, Machine] = {}
        self.by_address: dict[str, str] = {}
        self.cuts: set[tuple[str, str]] = set()
        self.maps: dict[int, bytes] = {}
        self.primaries: dict[tuple[int, int], tuple[str, str]] = {}
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0
        self._tokens = 0
        self._fifo: dict[tuple[str, str, Channel, int, int], float] = {}
        self._answers: dict[tuple[str, int, int], Callable[[Result], None]] = {}
        self._found()

    # --- the heap ------------------------------------------------------------------------------------------------

    def at(self, due: float, action: Callable[[], None]) -> None:
        """Run ``action`` at virtual time ``due``."""
        self._count += 1
        heapq.heappush(self._heap, (max(due, self.now), self._count, action))

    def run_until(self, end: float, done: Callable[[], bool] | None = None) -> bool:
        """Run to virtual time ``end``, or until ``done``. Returns whether ``done`` said so."""
        while self._heap and self._heap[0][0] <= end:
            self.now, _, action = heapq.heappop(self._heap)
            action()
            if done is not None and done():
                return True
        self.now = max(self.now, end)
        return False

    # --- founding and life ---------------------------------------------------------------------------------------

    def _found(self) -> None:
        plan = self.plan
        members = []
        for number in range(1, plan.nodes + 1):
            name, storage, peer = f"n{number}", f"{number:016x}", f"10.0.0.{number}:7400"
            self.machines[name] = Machine(name, storage, SimLog(), SimStore())
            self.by_address[peer] = name
            members.append(Member(storage, name, self._boot_id(name, 1), 1, f"http://{name}", peer, "", 0))
        first = bootstrap(
            cluster_id=f"{self.seed:016x}",
            members=members,
            shards=plan.shards,
            settings=Settings(
                replication_factor=plan.replication_factor,
                min_in_sync=min(plan.min_in_sync, plan.replication_factor),
            ),
        )
        voters = tuple(member.storage for member in members[: 3 if plan.nodes < 5 else 5])
        snapshot = first_snapshot(first, voters)
        founder = self.machines["n1"]
        founder.log.append(
            [Record(Kind.RAFT_RESET, NO_SHARD, 0, snapshot.term, snapshot.index, encode_snapshot(snapshot))]
        )
        founder.log.sync()
        for machine in self.machines.values():
            self.start(machine)

    def _boot_id(self, name: str, counter: int) -> str:
        return hashlib.sha256(f"{self.seed}/{name}/{counter}".encode()).hexdigest()[:16]

    def identity(self, machine: Machine) -> NodeIdentity:
        """Who the next process on a machine is."""
        peer = next(address for address, name in self.by_address.items() if name == machine.name)
        boot = self._boot_id(machine.name, machine.counter)
        return NodeIdentity(machine.name, machine.storage, boot, machine.counter, f"http://{machine.name}", peer)

    def start(self, machine: Machine) -> None:
        """Start a process on a machine: read what its disk holds, raise the boot counter there, run."""
        assert machine.node is None
        machine.life += 1
        recovered = machine.log.open(machine.store.synced())
        machine.counter = recovered.boot_counter + 1
        machine.log.append([Record(Kind.BOOT, NO_SHARD, 0, 0, machine.counter)])
        machine.log.sync()
        machine.tickets.clear()
        machine.syncing, machine.wake_at = False, -1.0
        machine.node = Node(
            identity=self.identity(machine),
            cluster_id=f"{self.seed:016x}",
            settings=NodeSettings(),
            recovered=recovered,
            stored=machine.store.copies(),
            store=machine.store,
            seeds=[split_address(address) for address in self.by_address],
            draw=self.rng.random,
            now=self.now,
        )
        machine.links.clear()
        machine.wanted = {}
        for address, name in self.by_address.items():
            if name != machine.name:
                machine.node.greeted(self.machines[name].storage, address)
        self.note("start", machine.name)
        self._flush(machine)

    def kill(self, machine: Machine) -> None:
        """End a process without warning; what it had not synced may or may not be on the disk."""
        if machine.node is None:
            return
        machine.node = None
        machine.life += 1
        machine.waiting.clear()
        machine.log.crash(self.rng)
        machine.store.crash(self.rng)
        self.note("kill", machine.name)
        for other in self.machines.values():
            for channel in Channel:
                if (machine.storage, channel) in other.links:
                    self._break(other, machine.storage, channel, Evidence.RESET)

    def note(self, *what: object) -> None:
        """Put an event into the trace hash: the same seed must give the same trace."""
        self.trace.update(repr((round(self.now, 9), what)).encode())

    # --- running a machine ---------------------------------------------------------------------------------------

    def on(self, machine: Machine, action: Callable[[Node], None]) -> None:
        """Let something happen to a process, now or when its pause ends; a dead process hears nothing."""
        life = machine.life

        def run() -> None:
            if machine.life != life or machine.node is None:
                return
            if self.now < machine.paused_until:
                self.at(machine.paused_until, run)
                return
            action(machine.node)
            self._flush(machine)

        run()

    def later(self, machine: Machine, delay_s: float, action: Callable[[Node], None]) -> None:
        """Let something happen to the present process of a machine after a delay."""
        life = machine.life

        def due() -> None:
            if machine.life == life:
                self.on(machine, action)

        self.at(self.now + delay_s, due)

    def _flush(self, machine: Machine) -> None:
        node = machine.node
        assert node is not None
        self._carry_out(machine, node.take_step(now=self.now))
        due = node.next_deadline()
        if machine.wake_at < 0 or due < machine.wake_at:
            machine.wake_at = due
            self._arm(machine, due)

    def _arm(self, machine: Machine, due: float) -> None:
        life = machine.life

        def wake() -> None:
            if machine.life != life or machine.wake_at != due:
                return
            machine.wake_at = -1.0
            late_s = self.now - due

            def tick(node: Node) -> None:
                late = max(late_s, self.now - due)
                if late > 0.02:
                    node.lagged(late, now=self.now)
                stalled_s = max(0.0, self.now - machine.stalled_until + 10.0) if self._stalls(machine) else 0.0
                node.stalled(stalled_s, now=self.now)
                node.tick(now=self.now)

            self.on(machine, tick)

        self.at(due, wake)

    def _stalls(self, machine: Machine) -> bool:
        return self.now < machine.stalled_until

    def _carry_out(self, machine: Machine, step: NodeStep) -> None:
        if step.records:
            machine.tickets.append((machine.log.append(step.records, urgent=step.urgent), step.number))
            self._sync(machine)
        for (peer, channel), bundle in step.bundles.items():
            self._transmit(machine, peer, channel, bundle)
        for address, data in step.datagrams:
            self._datagram(machine, f"{address[0]}:{address[1]}", data)
        for order in step.orders:
            self._order(machine, order)
        for shard, copy, entries in step.apply:
            self._apply(machine, shard, copy, list(entries))
        for read in step.reads:
            self._read(machine, read)
        for answer in step.answers:
            waiting = self._answers.pop((machine.name, machine.life, answer.token), None)
            if waiting is not None:
                waiting(answer.result)
        if step.peers is not None:
            machine.wanted = step.peers
            self._dial(machine)
        for _, shard_map, _ in step.map_changes:
            self._check_map(shard_map)
        if step.fatal:
            raise Violation(f"seed {self.seed}: {machine.name} ended itself: {step.fatal}")

    # --- disk ----------------------------------------------------------------------------------------------------

    def _sync(self, machine: Machine) -> None:
        if machine.syncing:
            return
        machine.syncing = True
        delay_s = self.plan.sync_s * (0.5 + self.rng.random())
        life = machine.life

        def done() -> None:
            if machine.life != life:
                return
            if self._stalls(machine):
                self.at(machine.stalled_until, done)
                return
            machine.syncing = False
            durable = machine.log.sync(through)
            step = 0
            while machine.tickets and machine.tickets[0][0] <= durable:
                step = machine.tickets.pop(0)[1]
            if machine.tickets:
                self._sync(machine)
            if step:
                self.on(machine, lambda node: node.synced(step, now=self.now))

        through = machine.tickets[-1][0]
        self.at(self.now + delay_s, done)

    def _apply(self, machine: Machine, shard: int, copy: int, entries: list[tuple[int, int, bytes]]) -> None:
        def apply(node: Node) -> None:
            machine.store.apply(shard, copy, entries)
            node.shards.applied([(shard, copy, entries[-1][1])], now=self.now)

        # One thread applies, in order: a later batch never overtakes an earlier one.
        due = max(self.now + self.plan.sync_s * self.rng.random(), machine.applied_at + 1e-6)
        machine.applied_at = due
        self.later(machine, due - self.now, apply)

    def _order(self, machine: Machine, order: Any) -> None:
        store = machine.store
        if isinstance(order, CreateCopy):
            store.create(order.shard, order.copy)
        elif isinstance(order, DropCopy):
            store.drop(order.shard, order.copy)
        elif isinstance(order, InstallBegin):
            store.install_begin(order.shard, order.copy)
        elif isinstance(order, InstallRows):
            store.install_rows(order.shard, order.copy, order.rows, order.remembered)
        elif isinstance(order, InstallAbort):
            store.install_abort(order.shard, order.copy)
        elif isinstance(order, InstallFinish):
            store.install_finish(
                order.shard,
                order.copy,
                epoch=order.epoch,
                sn=order.sn,
                state=order.state,
                epochs=order.epochs,
                done=lambda: None,
            )
            self.later(
                machine,
                self.plan.sync_s,
                lambda node: node.shards.installed(order.shard, order.copy, now=self.now),
            )

    def _read(self, machine: Machine, read: Any) -> None:
        def run(node: Node) -> None:
            if isinstance(read, ReadLog):
                entries = machine.log.read(read.shard, read.copy, read.after_sn, read.bytes_max)
                node.shards.log_read(read.token, entries, now=self.now)
            elif isinstance(read, ReadRows):
                reader = machine.store.remembered_after if read.of_remembered else machine.store.rows_after
                rows, more = reader(read.shard, read.copy, read.cursor, read.bytes_max)
                node.shards.rows_read(read.token, rows, more, now=self.now)
            else:
                assert isinstance(read, ReadPage)
                page = machine.store.page(
                    read.shard,
                    read.copy,
                    read.user,
                    prefix=read.prefix,
                    after=read.after,
                    limit=read.limit,
                    bytes_max=read.bytes_max,
                )
                node.shards.page_read(read.token, page.applied_sn, page.rows, page.more, now=self.now)

        self.later(machine, self.plan.sync_s * self.rng.random(), run)

    # --- network -------------------------------------------------------------------------------------------------

    def machine_of(self, storage: str) -> Machine:
        """Return the machine with a storage id."""
        return next(machine for machine in self.machines.values() if machine.storage == storage)

    def is_cut(self, sender: str, receiver: str) -> bool:
        """Return whether nothing gets from one machine to another now."""
        return (sender, receiver) in self.cuts

    def _latency_s(self) -> float:
        return self.plan.latency_s * (0.2 + self.rng.random())

    def _dial(self, machine: Machine) -> None:
        for storage in machine.wanted:
            for channel in Channel:
                if (storage, channel) not in machine.links:
                    machine.links[storage, channel] = -1
                    self._dial_one(machine, storage, channel, 0.0)

    def _dial_one(self, machine: Machine, storage: str, channel: Channel, pause_s: float) -> None:
        life = machine.life

        def dial() -> None:
            if machine.life != life or machine.node is None:
                return
            other = self.machine_of(storage)
            blocked = self.is_cut(machine.name, other.name) or self.is_cut(other.name, machine.name)
            if blocked or other.node is None or self.now < other.paused_until:
                if other.node is None and not blocked:
                    down = lambda node: node.link_down(storage, channel, Evidence.REFUSED, now=self.now)  # noqa: E731
                    self.on(machine, down)
                self._dial_one(machine, storage, channel, min(0.5, max(0.05, pause_s * 2)))
                return
            machine.links[storage, channel] = other.life
            boot = other.node.identity.boot
            other.node.greeted(machine.storage, self.identity_address(machine))
            self._flush(other)
            self.on(machine, lambda node: node.link_up(storage, boot, channel, now=self.now))

        self.at(self.now + pause_s * (0.5 + self.rng.random()) + self._latency_s(), dial)

    def identity_address(self, machine: Machine) -> str:
        """Return the peer address of a machine."""
        return next(address for address, name in self.by_address.items() if name == machine.name)

    def _break(self, machine: Machine, storage: str, channel: Channel, evidence: Evidence | None) -> None:
        if machine.node is None or machine.links.get((storage, channel), -1) < 0:
            return
        machine.links[storage, channel] = -1
        self.later(
            machine,
            self._latency_s(),
            lambda node: node.link_down(storage, channel, evidence, now=self.now),
        )
        self._dial_one(machine, storage, channel, 0.0)

    def _transmit(self, machine: Machine, storage: str, channel: Channel, bundle: Bundle) -> None:
        other_life = machine.links.get((storage, channel), -1)
        if other_life < 0:
            return
        other = self.machine_of(storage)
        if self.is_cut(machine.name, other.name):
            self._break(machine, storage, channel, None)
            return
        assert machine.node is not None
        sender, boot, life = machine.storage, machine.node.identity.boot, machine.life
        key = (machine.name, other.name, channel, life, other_life)
        due = max(self.now + self._latency_s(), self._fifo.get(key, 0.0) + 1e-6)
        self._fifo[key] = due

        def deliver() -> None:
            if other.life == other_life and not self.is_cut(machine.name, other.name):
                self.on(other, lambda node: node.receive(sender, boot, bundle, now=self.now))

        self.at(due, deliver)

    def _datagram(self, machine: Machine, address: str, data: bytes) -> None:
        name = self.by_address.get(address)
        if name is None or self.is_cut(machine.name, name) or self.rng.random() < self.plan.datagram_loss:
            return
        other = self.machines[name]
        source = split_address(self.identity_address(machine))
        life = other.life

        def deliver() -> None:
            if other.life == life:
                self.on(other, lambda node: node.datagram(data, source, now=self.now))

        self.at(self.now + self._latency_s(), deliver)

    # --- clients -------------------------------------------------------------------------------------------------

    def request(
        self, machine: Machine, user: str, request: WriteRequest | ReadRequest, answer: Callable[[Result], None]
    ) -> None:
        """Send a request to the node on a machine; ``answer`` is called at most once."""
        if machine.node is None:
            answer(NotApplied("no_primary", "the node is down"))
            return
        self._tokens += 1
        token = self._tokens
        self._answers[machine.name, machine.life, token] = answer
        shard = shard_of(user, self.plan.shards)
        self.on(machine, lambda node: node.submit(token, shard, request, size=100, now=self.now))

    def put(self, machine: Machine, client: int, user: str, value: bytes, timeout_s: float = 5.0) -> Operation:
        """Record and send a PUT."""
        operation = Operation(client, user, "put", value, self.now)
        self.history.append(operation)
        request = WriteRequest((Write(user, "k", value, "t"),), self.now + timeout_s, int(self.now * 1000))
        self.request(machine, user, request, lambda result: self._end(operation, result))
        return operation

    def get(self, machine: Machine, client: int, user: str, timeout_s: float = 5.0) -> Operation:
        """Record and send a strict GET."""
        operation = Operation(client, user, "get", None, self.now)
        self.history.append(operation)
        request = ReadRequest(user, "k", self.now + timeout_s)
        self.request(machine, user, request, lambda result: self._end(operation, result))
        return operation

    def _end(self, operation: Operation, result: Result) -> None:
        operation.ended, operation.result = self.now, result
        if isinstance(result, Found):
            operation.value = result.row.value
        self.note(operation.client, operation.kind, operation.user, type(result).__name__, operation.value)

    def start_client(self, client: int, until: float) -> None:
        """Run a closed-loop client: one operation at a time, each at a random node."""
        counter = 0

        def next_one() -> None:
            nonlocal counter
            if self.now >= until:
                return
            machine = self.rng.choice(list(self.machines.values()))
            user = f"user{self.rng.randrange(self.plan.users)}"
            counter += 1
            if self.rng.random() < 0.5:
                operation = self.put(machine, client, user, f"{client}-{counter}".encode())
            else:
                operation = self.get(machine, client, user)
            self.at(self.now + 5.5, lambda: proceed(operation, True))
            poll(operation)

        def poll(operation: Operation) -> None:
            if operation.ended is None and self.now < operation.started + 5.5:
                self.at(self.now + 0.01, lambda: poll(operation))
            elif operation.ended is not None:
                proceed(operation, False)

        moved_on: set[int] = set()

        def proceed(operation: Operation, timed_out: bool) -> None:
            if id(operation) in moved_on or (timed_out and operation.ended is not None):
                return
            moved_on.add(id(operation))
            self.at(self.now + self.plan.think_s * self.rng.random() * 2, next_one)

        self.at(self.now, next_one)

    # --- faults --------------------------------------------------------------------------------------------------

    def draw_faults(self, until: float) -> None:
        """Draw faults until a time, one decision every 100 ms."""
        plan, rng = self.plan, self.rng

        def decide() -> None:
            if self.now >= until:
                return
            for machine in self.machines.values():
                if rng.random() < plan.kill_rate * 0.1 and machine.node is not None:
                    self.kill(machine)
                    self.at(self.now + rng.choice((0.05, 0.3, 2.0, 6.0)), lambda m=machine: self._restart(m))
                if rng.random() < plan.pause_rate * 0.1:
                    machine.paused_until = self.now + rng.choice((0.3, 1.0, 3.0, 8.0))
                if rng.random() < plan.stall_rate * 0.1:
                    machine.stalled_until = self.now + rng.choice((0.5, 3.0))
            if rng.random() < plan.cut_rate * 0.1:
                self._draw_cut()
            self.at(self.now + 0.1, decide)

        self.at(self.now, decide)

    def _restart(self, machine: Machine) -> None:
        if machine.node is None:
            self.start(machine)

    def _draw_cut(self) -> None:
        names = list(self.machines)
        if len(names) < 2:
            return
        shape = self.rng.choice(("pair", "one way", "isolate"))
        left = self.rng.choice(names)
        others = [name for name in names if name != left]
        right = self.rng.choice(others)
        if shape == "pair":
            cuts = [(left, right), (right, left)]
        elif shape == "one way":
            cuts = [(left, right)]
        else:
            cuts = [pair for other in others for pair in ((left, other), (other, left))]
        self.cuts.update(cuts)
        self.note("cut", shape, left, right)
        heal = self.now + self.rng.choice((0.2, 1.0, 4.0, 8.0))
        self.at(heal, lambda: self.cuts.difference_update(cuts))

    def heal(self) -> None:
        """Stop all faults and start everybody."""
        self.cuts.clear()
        for machine in self.machines.values():
            machine.paused_until = machine.stalled_until = 0.0
            self._restart(machine)

    # --- checks --------------------------------------------------------------------------------------------------

    def _check_map(self, shard_map: ShardMap) -> None:
        """Equal index, equal map; its invariants hold; an epoch belongs to one boot."""
        check(shard_map)
        data = encode_map(shard_map)
        if self.maps.setdefault(shard_map.version, data) != data:
            raise Violation(f"seed {self.seed}: two maps of version {shard_map.version}")
        for number, shard in enumerate(shard_map.shards):
            primary = (shard.primary.storage, shard.primary.boot)
            if self.primaries.setdefault((number, shard.epoch), primary) != primary:
                raise Violation(f"seed {self.seed}: shard {number} epoch {shard.epoch} belongs to two boots")

    def newest_map(self) -> ShardMap:
        """Return the newest map that any node holds."""
        held = [machine.node.held.map for machine in self.machines.values() if machine.node is not None]
        return max((one for one in held if one is not None), key=lambda one: one.version)

    def converged(self) -> bool:
        """Return whether every node holds one map in which every shard is at full strength with a live primary."""
        nodes = [machine.node for machine in self.machines.values()]
        if any(node is None or node.held.map is None for node in nodes):
            return False
        versions = {node.held.map.version for node in nodes if node is not None and node.held.map is not None}
        if len(versions) > 1:
            return False
        newest = self.newest_map()
        copies = min(self.plan.replication_factor, self.plan.nodes)
        return all(len(shard.in_sync) == copies for shard in newest.shards) and all(
            newest.is_registered(node.identity.storage, node.identity.boot) for node in nodes if node is not None
        )

    def run(self) -> None:
        """Safety phase, healing phase, all checks. Raises ``Violation`` with the seed."""
        self.run_until(self.now + 5.0, self.converged)
        end = self.now + self.plan.safety_s
        for client in range(self.plan.clients):
            self.start_client(client, end)
        self.draw_faults(end)
        self.run_until(end)
        self.heal()
        if not self.run_until(self.now + self.plan.healing_s, self.converged):
            raise Violation(f"seed {self.seed}: not converged {self.plan.healing_s} s after all faults stopped")
        self.run_until(self.now + 6.0)
        self._serve_all()
        self.check_history()
        self.check_copies()

    def _serve_all(self) -> None:
        """After healing every user can be written and read through every node."""
        operations = []
        for machine in self.machines.values():
            for number in range(self.plan.users):
                operations.append(self.get(machine, 1000, f"user{number}"))
        self.run_until(self.now + 5.5)
        for operation in operations:
            if not isinstance(operation.result, Found | Absent):
                raise Violation(f"seed {self.seed}: {operation.user} cannot be read after healing: {operation.result}")

    def check_history(self) -> None:
        """Every user's register is linearizable; an acknowledged write that vanished is found by the last reads."""
        from ringkeep_testing.linearizability import is_register_history_linearizable

        for number in range(self.plan.users):
            user = f"user{number}"
            history = [operation for operation in self.history if operation.user == user]
            if not is_register_history_linearizable(history):
                raise Violation(f"seed {self.seed}: the history of {user} is not linearizable")

    def check_copies(self) -> None:
        """After quiet the in-sync copies of each shard are equal byte for byte."""
        newest = self.newest_map()
        for number, shard in enumerate(newest.shards):
            digests = {self.machine_of(copy.storage).store.digest(number, copy.added) for copy in shard.in_sync}
            if len(digests) != 1:
                raise Violation(f"seed {self.seed}: the copies of shard {number} differ")
