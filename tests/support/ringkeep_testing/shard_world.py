"""A simulated cluster of nothing but shard replication: one heap of events, everything from one seed.

Each node is a real ``Replication`` over the twins of log and store. The map lives in an abstract service: perfectly
ordered, with proposals that arrive late, twice and out of order, and a leader that suspects wrongly. The network loses,
repeats, reorders and delays; nodes crash with what they had not synced, stop for a while, come back in a new boot or with
an empty disk. ``heal`` ends all faults.

Source: testing.md, L3; replication.md.
"""

from __future__ import annotations

import hashlib
import heapq
from collections import deque
from collections.abc import Callable
from random import Random
from typing import Any

from ringkeep_core.mapchanges import (
    AddLearner,
    Boot,
    Failover,
    MapChange,
    Move,
    RemoveCopy,
    ShardChange,
    ShardChanges,
    Shrink,
    Touch,
    apply,
    bootstrap,
)
from ringkeep_core.shardmap import GENERATION_STEP, Member, Settings, Shard, ShardMap
from ringkeep_node.machines.shard import effects, messages
from ringkeep_node.machines.shard.effects import Result, ShardStep, Stored
from ringkeep_node.machines.shard.primary import Lead
from ringkeep_node.machines.shard.replication import Replication
from ringkeep_node.machines.shard.settings import ReplicationSettings
from ringkeep_node.runtime.wal.log import LogGone
from ringkeep_testing.shard_checks import GodsEye
from ringkeep_testing.shard_faults import Faults
from ringkeep_testing.sim_log import SimLog
from ringkeep_testing.sim_store import SimStore

SETTINGS = ReplicationSettings(small_lag_entries=8, chunk_bytes_max=600, streams_max=1, stream_silence_s=1.0)
MAPS, PROPOSALS, INDEXES = "maps", "proposals", "indexes"
"""What a node can be severed from: newer maps, whoever takes proposals, and answers to a ReadIndex."""


class MapService:
    """The committed map and everything that ever changed it; index = number of entries."""

    def __init__(self, world: ShardWorld, first: ShardMap) -> None:
        self._world = world
        self.map = first
        self.index = first.index
        self.history = [first]

    def propose(self, change: MapChange, delay_s: float) -> None:
        """Let a change commit after a while, perhaps twice."""
        random = self._world.random
        for _ in range(2 if random.random() < self._world.faults.repeat else 1):
            self._world.after(random.random() * delay_s, lambda: self.commit(change))

    def commit(self, change: MapChange) -> None:
        """Append a change to the log; everybody connected hears of it, some soon."""
        self.index += 1
        self.map = apply(self.map, GENERATION_STEP + self.index, change).map
        if self.map is not self.history[-1]:
            self.history.append(self.map)
            self._world.note("map", self.map.version, self.map.shards)
            self._world.eye.check()
        for node in self._world.nodes:
            self._world.tell_map(node)


class ShardNode:
    """One machine: its disk outlives its processes."""

    def __init__(self, world: ShardWorld, name: str, number: int) -> None:
        self.world, self.name, self.number = world, name, number
        self.counter = 1
        self.wipe()
        self.boot = f"b{number:011x}0001"
        self.shards: Replication | None = None
        self.life = 0
        self.paused_until = 0.0
        self.isolated = False
        self.held: ShardMap | None = None
        self.through = 0
        self.inbox: deque[Callable[[], None]] = deque()
        self.tokens: dict[int, Callable[[Result], None]] = {}

    def wipe(self) -> None:
        """Begin with an empty disk: a new storage id."""
        self.storage = f"a{self.number:011x}{self.world.next_number():04x}"
        self.log, self.store = SimLog(), SimStore()
        self.held, self.through = None, 0
        self.world.by_storage[self.storage] = self

    def start(self) -> None:
        """Run a process on this disk."""
        self.life += 1
        self.asked_index: int | None = None
        self._step_tickets: deque[tuple[int, ShardStep]] = deque()
        self._synced = self._last = 0
        self._is_syncing = self._is_storing = False
        self._storing: deque[Callable[[], None]] = deque()
        self._next_token = 0
        self.tokens = {}
        self.inbox.clear()
        applied = self.store.synced()
        recovered = self.log.open(applied)
        self.store.on_applied = self._on_applied
        self.shards = Replication(
            me=self.storage,
            boot=self.boot,
            settings=SETTINGS,
            store=self.store,
            stored=self.store.copies(),
            recovered=recovered.copies,
            now=self.world.now,
        )
        if self.held is not None:
            self.shards.map_held(self.held, through=self.through, now=self.world.now)
        self.pump()
        self.world.after(0.001, self._tick, self)

    @property
    def is_up(self) -> bool:
        """Return whether a process runs."""
        return self.shards is not None

    def crash(self, random: Random) -> None:
        """Lose the process and what was not durable."""
        self.shards = None
        self.life += 1
        self.log.crash(random)
        self.store.crash(random)

    def lead(self, shard: int) -> Lead | None:
        """Return what this node leads, for the checks."""
        return None if self.shards is None else self.shards._leads.get(shard)

    def holds(self, shard: int, added: int, epoch: int, sn: int) -> bool:
        """Return whether the disk holds (epoch, sn) of a copy."""
        applied = self.store.applied(shard, added)
        if applied is not None and applied[1] >= sn:
            return True
        track = self.log._state.copies.get((shard, added))
        return track is not None and track.last_sn >= sn and (sn <= track.base[1] or track.epoch_at(sn) == epoch)

    def describe(self, shard: int, added: int) -> str:
        """Return where a copy stands, for a failing run."""
        track = self.log._state.copies.get((shard, added))
        return f"store {self.store.applied(shard, added)}, log {None if track is None else (track.base, track.last)}"

    # --- the driver ---------------------------------------------------------------------------------------------

    def do(self, action: Callable[[Replication, float], None]) -> None:
        """Let something happen to the process, now or when it is no longer stopped."""
        if self.shards is None:
            return
        if self.world.now < self.paused_until:
            life = self.life
            self.inbox.append(lambda: self._do_later(life, action))
            return
        action(self.shards, self.world.now)
        self.pump()

    def _do_later(self, life: int, action: Callable[[Replication, float], None]) -> None:
        if life == self.life:
            self.do(action)

    def resume(self) -> None:
        """Handle what came while the process was stopped, then its own timers."""
        while self.inbox and self.world.now >= self.paused_until:
            self.inbox.popleft()()

    def pump(self) -> None:
        """Carry out what the machine ordered."""
        while self.shards is not None:
            step = self.shards.take_step()
            if step.is_empty():
                return
            self._carry_out(step)

    def _carry_out(self, step: ShardStep) -> None:
        world = self.world
        if step.records:
            world.note("record", self.number, step.records)
            for record in step.records:
                world.eye.recorded(record)
            self._last = self.log.append(step.records)
        if step.records or step.send_synced:
            self._step_tickets.append((self._last, step))
        for to, message in step.send:
            world.transmit(self, to, message)
        for order in step.orders:
            self._store_later(self._order(order))
        for shard, copy, entries, _ in step.apply:
            world.eye.handed(shard, entries)
            self._store_later(lambda s=shard, c=copy, e=entries: self.store.apply(s, c, e))  # type: ignore[misc]
        for token, result in step.answers:
            world.note("answer", self.number, token, result)
            world.eye.answered(self, result)
            done = self.tokens.pop(token, None)
            if done is not None:
                done(result)
        for change in (*step.proposals, *step.may_wait):
            world.propose(self, change)
        for moves, reason in step.hand_overs:
            world.propose_moves(self, moves, reason)
        for token in step.read_index:
            world.read_index(self, token)
        for read in step.reads:
            world.after(world.random.random() * world.faults.store_s, self._read_later(read), self)
        self._release_synced()
        self._start_sync()

    def _start_sync(self) -> None:
        if not self._is_syncing and self._synced < self._last:
            self._is_syncing = True
            ticket = self._last
            self.world.after(self.world.random.random() * self.world.faults.sync_s, lambda: self._sync(ticket), self)

    def _sync(self, ticket: int) -> None:
        self._is_syncing = False
        self._synced = self.log.sync(ticket)
        if self.world.random.random() < 0.05:
            self.log.release(self.store.checkpoint(), keep=self.world.random.choice([0, 3, 30]))
        self._release_synced()
        self.pump()
        self._start_sync()

    def _release_synced(self) -> None:
        while self._step_tickets and self._step_tickets[0][0] <= self._synced:
            _, step = self._step_tickets.popleft()
            for to, message in step.send_synced:
                self.world.transmit(self, to, message)
            if self.shards is not None:
                self.shards.synced(step.number, now=self.world.now)

    def _store_later(self, change: Callable[[], None]) -> None:
        self._storing.append(change)
        if not self._is_storing:
            self._is_storing = True
            self.world.after(self.world.random.random() * self.world.faults.store_s, self._store, self)

    def _store(self) -> None:
        self._is_storing = False
        batch, self._storing = self._storing, deque()
        for change in batch:
            change()
        self.pump()

    def _on_applied(self, what: list[tuple[int, int, int]]) -> None:
        self.do(lambda shards, now: shards.applied(what, now=now))

    def _order(self, order: effects.StoreOrder) -> Callable[[], None]:
        store, key = self.store, (order.shard, order.copy)
        match order:
            case effects.CreateCopy():
                return lambda: store.create(*key)
            case effects.DropCopy():
                return lambda: store.drop(*key)
            case effects.InstallBegin():
                return lambda: store.install_begin(*key)
            case effects.InstallRows(_, _, rows, remembered):
                return lambda: store.install_rows(*key, rows, remembered)
            case effects.InstallAbort():
                return lambda: store.install_abort(*key)
            case effects.InstallFinish():
                return lambda: self._install(order)
        raise AssertionError(order)

    def _install(self, order: effects.InstallFinish) -> None:
        self.store.install_finish(
            order.shard, order.copy, epoch=order.epoch, sn=order.sn, state=order.state, epochs=order.epochs, done=int
        )
        self.store.checkpoint()
        self.do(lambda shards, now: shards.installed(order.shard, order.copy, now=now))

    def _read_later(self, read: effects.DataRead) -> Callable[[], None]:
        return lambda: self._read(read)

    def _read(self, read: effects.DataRead) -> None:
        store = self.store
        if isinstance(read, effects.ReadLog):
            try:
                entries = self.log.read(read.shard, read.copy, read.after_sn, read.bytes_max)
            except LogGone:
                entries = []
            self.do(lambda shards, now: shards.log_read(read.token, entries, now=now))
        elif isinstance(read, effects.ReadRows):
            rows: Any
            if read.of_remembered:
                rows, more = store.remembered_after(read.shard, read.copy, read.cursor, read.bytes_max)
            else:
                rows, more = store.rows_after(read.shard, read.copy, read.cursor, read.bytes_max)
            self.do(lambda shards, now: shards.rows_read(read.token, rows, more, now=now))
        else:
            page = store.page(
                read.shard, read.copy, read.user, prefix=read.prefix, after=read.after, limit=read.limit, bytes_max=9999
            )
            self.do(lambda shards, now: shards.page_read(read.token, page.applied_sn, page.rows, page.more, now=now))

    def _tick(self) -> None:
        if self.world.now >= self.paused_until:
            due = self.shards.next_deadline() if self.shards is not None else None
            if due is not None and due <= self.world.now:
                self.do(lambda shards, now: shards.tick(now=now))
        self.world.after(0.01, self._tick, self)

    def submit(self, shard: int, request: Any, done: Callable[[Result], None]) -> None:
        """Hand a request to the process."""

        def arrive(shards: Replication, now: float) -> None:
            self._next_token += 1
            token = self._next_token
            self.tokens[token] = done
            if isinstance(request, effects.WriteRequest):
                shards.write(token, shard, request, now=now)
            else:
                shards.read(token, shard, request, now=now)

        self.do(arrive)


class ShardWorld:
    """The cluster, its clock and its faults.

    ``severed``: (node, MAPS, PROPOSALS or INDEXES) that does not get through. ``withheld``: links that carry nothing but
    confirmation pings. ``lag_s``: links that are slow. ``hold_s``: a map takes up to so long until it is on disk.
    ``on_sent`` and ``on_proposed`` let an adversary choose its moment.
    """

    def __init__(
        self,
        seed: int,
        *,
        nodes: int = 3,
        shards: int = 2,
        faults: bool = True,
        copies: int = 3,
        min_in_sync: int = 2,
    ) -> None:
        self.random = Random(seed)
        self.now = 0.0
        self._events: list[tuple[float, int, Callable[[], None], ShardNode | None, int]] = []
        self._count = 0
        self.events_done = 0
        self._trace = hashlib.sha256()
        self.by_storage: dict[str, ShardNode] = {}
        self.faults = Faults(self.random if faults else None)
        self.blocked: set[tuple[int, int]] = set()
        self.severed: set[tuple[int, str]] = set()
        self.withheld: set[tuple[int, int]] = set()
        self.lag_s: dict[tuple[int, int], float] = {}
        self.hold_s = 0.0
        self.on_sent: Callable[[ShardNode, messages.ShardMessage], None] | None = None
        self.on_proposed: Callable[[ShardNode, ShardChange], None] | None = None
        self.nodes = [ShardNode(self, f"n{number}", number) for number in range(nodes)]
        members = [
            Member(node.storage, node.name, node.boot, 1, f"http://{node.name}", f"{node.name}:1", "", 0)
            for node in self.nodes
        ]
        settings = Settings(replication_factor=copies, min_in_sync=min(min_in_sync, copies))
        self.eye = GodsEye(self)
        self.service = MapService(
            self, bootstrap(cluster_id="c" * 16, members=members, shards=shards, settings=settings)
        )
        for node in self.nodes:
            node.held, node.through = self.service.map, self.service.index
            node.start()
        for node in self.nodes:
            for other in self.nodes:
                if other is not node:
                    self._connect(node, other)
        self.after(0.1, self._look_around)

    # --- events -------------------------------------------------------------------------------------------------

    def note(self, *fact: object) -> None:
        """Add to the trace what happened now."""
        self._trace.update(repr((self.now, *fact)).encode())

    def trace_hash(self) -> str:
        """Return the hash of every message, record, answer and map so far: equal runs have equal ones."""
        return self._trace.hexdigest()

    def next_number(self) -> int:
        """Return a number that nobody had."""
        self._count += 1
        return self._count

    def after(self, delay_s: float, action: Callable[[], None], owner: ShardNode | None = None) -> None:
        """Do something later; what a process had planned dies with it."""
        life = 0 if owner is None else owner.life
        heapq.heappush(self._events, (self.now + delay_s, self.next_number(), action, owner, life))

    def run(self, seconds: float) -> None:
        """Let time pass."""
        end = self.now + seconds
        while self._events and self._events[0][0] <= end:
            at, _, action, owner, life = heapq.heappop(self._events)
            self.now = at
            if owner is None or owner.life == life:
                action()
                self.events_done += 1
        self.now = end

    # --- network ------------------------------------------------------------------------------------------------

    def is_blocked(self, sender: ShardNode, receiver: ShardNode) -> bool:
        """Return whether messages between these get lost."""
        return (sender.number, receiver.number) in self.blocked

    def transmit(self, sender: ShardNode, to: str, message: messages.ShardMessage) -> None:
        """Send a message: it may be lost, come twice, late, or after later ones."""
        receiver = self.by_storage.get(to)
        if self.on_sent is not None:
            self.on_sent(sender, message)
        if receiver is None or receiver.storage != to or self.is_blocked(sender, receiver):
            return
        link = (sender.number, receiver.number)
        if link in self.withheld and not isinstance(message, messages.CONTROL_MESSAGES):
            return
        faults, random = self.faults, self.random
        if random.random() < faults.loss:
            return
        data = messages.encode_message(message)
        self.note("send", sender.number, to, data)
        held, through, storage, boot = sender.held, sender.through, sender.storage, sender.boot
        for _ in range(2 if random.random() < faults.repeat else 1):
            delay_s = faults.delay_s * (1 + (random.random() * 20 if random.random() < faults.reorder else 0.0))
            delay_s += self.lag_s.get(link, 0.0)
            if isinstance(message, messages.Pong) and held is not None:
                # The node layer sends the map first when its own is newer than the pinger's.
                self.after(delay_s * 0.9, lambda: self._map_arrives(receiver, held, through), receiver)
            self.after(
                delay_s,
                lambda: receiver.do(
                    lambda shards, now: shards.receive(storage, boot, messages.decode_message(data), now=now)
                ),
                receiver,
            )

    def _connect(self, one: ShardNode, other: ShardNode) -> None:
        if one.is_up and other.is_up:
            one.do(lambda shards, now: shards.peer_up(other.storage, other.boot, now=now))

    def _disconnect(self, one: ShardNode, other: ShardNode, storage: str) -> None:
        one.do(lambda shards, now: shards.peer_down(storage, now=now))

    def disconnect(self, one: ShardNode, other: ShardNode) -> None:
        """Tell a node at once that its connection to another is lost."""
        self._disconnect(one, other, other.storage)

    def block(self, one: ShardNode, other: ShardNode) -> None:
        """Cut one direction; both notice after a while."""
        self.blocked.add((one.number, other.number))
        for node, lost in ((one, other), (other, one)):
            self.after(self.random.random(), lambda n=node, o=lost: self._notice(n, o), node)  # type: ignore[misc]

    def _notice(self, node: ShardNode, lost: ShardNode) -> None:
        if self.is_blocked(node, lost) or self.is_blocked(lost, node):
            self._disconnect(node, lost, lost.storage)

    def unblock_all(self) -> None:
        """End all partitions and connect everybody anew."""
        self.blocked.clear()
        self.severed.clear()
        self.withheld.clear()
        self.lag_s.clear()
        for node in self.nodes:
            node.isolated = False
            for other in self.nodes:
                if other is not node:
                    self._connect(node, other)

    # --- the map ------------------------------------------------------------------------------------------------

    def tell_map(self, node: ShardNode) -> None:
        """Send a node the committed map as it is now."""
        held, through = self.service.map, self.service.index
        if not node.isolated and self.random.random() >= self.faults.loss:
            delay_s = self.random.random() * self.faults.delay_s * 4
            self.after(delay_s, lambda: self._map_arrives(node, held, through), node)

    def _map_arrives(self, node: ShardNode, held: ShardMap, through: int) -> None:
        if (node.number, MAPS) in self.severed:
            return
        if self.hold_s:
            self.after(self.hold_s * self.random.random(), lambda: self._hold(node, held, through), node)
        else:
            self._hold(node, held, through)

    def _hold(self, node: ShardNode, held: ShardMap, through: int) -> None:
        if node.shards is None or through <= node.through or self.now < node.paused_until:
            return
        node.held, node.through = held, through
        node.do(lambda shards, now: shards.map_held(held, through=through, now=now))

    def propose(self, node: ShardNode, change: ShardChange) -> None:
        """Take a node's proposal; it commits late, twice, or never."""
        if self.on_proposed is not None:
            self.on_proposed(node, change)
        if (node.number, PROPOSALS) in self.severed:
            return
        if not node.isolated and self.random.random() >= self.faults.loss:
            self.service.propose(ShardChanges((change,), "node"), self.faults.proposal_delay_s)

    def propose_moves(self, node: ShardNode, moves: tuple[Move, ...], reason: str) -> None:
        """Take what a node hands over, as one entry; it commits late, twice, or never."""
        lost = node.isolated or (node.number, PROPOSALS) in self.severed or self.random.random() < self.faults.loss
        if not lost:
            self.service.propose(ShardChanges(moves, reason), self.faults.proposal_delay_s)

    def read_index(self, node: ShardNode, token: int) -> None:
        """Answer a ReadIndex with the index at some moment after it was asked."""
        lost = node.isolated or (node.number, INDEXES) in self.severed or self.random.random() < self.faults.loss

        def answer() -> None:
            index = None if lost else self.service.index
            if node.asked_index is None:
                node.asked_index = index
            node.do(lambda shards, now: shards.read_index_answered(token, index, now=now))
            self.tell_map(node)

        self.after(1.0 if lost else self.random.random() * self.faults.delay_s * 4, answer, node)

    # --- the leader ---------------------------------------------------------------------------------------------

    def _look_around(self) -> None:
        """What the Raft leader does: fail over, shrink, and tell everybody the map."""
        suspected = {node.storage for node in self.nodes if not node.is_up or self.now < node.paused_until - 0.1}
        changes: list[ShardChange] = []
        for number, shard in enumerate(self.service.map.shards):
            changes += self._mend(number, shard, suspected)
        if changes:
            self.service.commit(ShardChanges(tuple(changes), "leader"))
        for node in self.nodes:
            if node.through < self.service.index:
                self.tell_map(node)
            member = self.service.map.members.get(node.storage)
            if node.is_up and not node.isolated and (member is None or member.boot != node.boot):
                self._register(node)
        self.after(0.25, self._look_around)

    def _register(self, node: ShardNode) -> None:
        live = tuple(other.storage for other in self.nodes if other.is_up)
        boot = Boot(
            node.name, node.storage, node.boot, node.counter, f"http://{node.name}", f"{node.name}:1", live=live
        )
        self.service.propose(boot, self.faults.proposal_delay_s)

    def _mend(self, number: int, shard: Shard, suspected: set[str]) -> list[ShardChange]:
        live = tuple(node.storage for node in self.nodes if node.storage not in suspected)
        complete = [copy.storage for copy in (*shard.in_sync, *shard.eligible)]
        heirs = [storage for storage in complete if storage in live and storage != shard.primary.storage]
        if shard.primary.storage in suspected:
            return [Failover(number, shard.revision, heirs[0], live)] if heirs else []
        below = len(shard.in_sync) < shard.need
        if below and len(heirs) >= shard.need and self.random.random() < 0.2:
            return [Failover(number, shard.revision, self.random.choice(heirs), live)]
        dead = tuple(copy.storage for copy in shard.in_sync if copy.storage in suspected)
        if dead:
            return [Shrink(number, shard.revision, dead)]
        missing = [storage for storage in live if shard.copy_of(storage) is None]
        settings = self.service.map.wanted.settings
        if missing and len(shard.in_sync) + len(shard.learners) < settings.replication_factor:
            return [AddLearner(number, shard.revision, missing[0])]
        return []

    def hand_over(self) -> None:
        """Order a primary to hand shards over, by a map that may be past; the order may come late or twice."""
        random = self.random
        held = self.service.history[-1 if random.random() < 0.8 else max(-2, -len(self.service.history))]
        source = self.by_storage[random.choice(held.shards).primary.storage]
        moves = tuple(
            Move(number, shard.revision, random.choice(shard.in_sync).storage)
            for number, shard in enumerate(held.shards)
            if shard.primary.storage == source.storage
        )
        for _ in range(2 if random.random() < self.faults.repeat else 1):
            self.after(
                random.random() * self.faults.delay_s * 4,
                lambda: source.do(lambda shards, now: shards.hand_over(moves, "test", now=now)),
            )

    # --- faults -------------------------------------------------------------------------------------------------

    def hurt(self) -> None:
        """Do one harm."""
        node = self.random.choice(self.nodes)
        kinds = [self._crash, self._crash, self._pause, self._cut_off, self._false_verdict, self._false_verdict]
        if self.random.random() < 0.1:
            kinds = [self._wipe]
        self.random.choice(kinds)(node)

    def _crash(self, node: ShardNode) -> None:
        if node.is_up:
            self.kill(node)
            self.after(self.random.choice([0.05, 0.3, 1.0, 5.0]), lambda: self.restart(node))

    def kill(self, node: ShardNode) -> None:
        """Kill a process; its peers see their connections end."""
        storage = node.storage
        node.crash(self.random)
        for other in self.nodes:
            if other is not node and other.is_up:
                self.after(self.random.random() * 0.05, lambda o=other: self._disconnect(o, node, storage), other)  # type: ignore[misc]

    def restart(self, node: ShardNode) -> None:
        """Start a new process on a node's disk."""
        if node.is_up:
            return
        node.counter += 1
        node.boot = f"b{node.number:07x}{node.counter:08x}"
        node.paused_until = 0.0
        node.start()
        for other in self.nodes:
            if other is not node and not self.is_blocked(node, other) and not self.is_blocked(other, node):
                self.after(0.06, lambda o=other: self._connect(node, o), node)  # type: ignore[misc]
                self.after(0.06, lambda o=other: self._connect(o, node), node)  # type: ignore[misc]
        self._register(node)

    def _wipe(self, node: ShardNode) -> None:
        """An empty disk; not while another one was emptied: two of three lost copies is more than is promised."""
        full = all(len(shard.in_sync) >= min(3, len(self.nodes)) for shard in self.service.map.shards)
        if full and all(other.is_up for other in self.nodes):
            self.kill(node)
            node.wipe()
            self.after(1.0, lambda: self.restart(node))

    def _pause(self, node: ShardNode) -> None:
        length_s = self.random.choice([0.1, 1.0, 4.0])
        node.paused_until = self.now + length_s
        self.after(length_s + 1e-6, node.resume, node)

    def _cut_off(self, node: ShardNode) -> None:
        others = [other for other in self.nodes if other is not node]
        node.isolated = self.random.random() < 0.5
        for other in others if self.random.random() < 0.5 else [self.random.choice(others)]:
            if self.random.random() < 0.7:
                self.block(node, other)
            if self.random.random() < 0.7:
                self.block(other, node)
        self.after(self.random.choice([0.3, 2.0, 6.0]), self.unblock_all)

    def _false_verdict(self, node: ShardNode) -> None:
        """Somebody believes something wrong, and says so late: a change on a revision that may be past."""
        number = self.random.randrange(len(self.service.map.shards))
        shard = self.random.choice(self.service.history[-4:]).shards[number]
        live = tuple(other.storage for other in self.nodes if other.is_up and self.random.random() < 0.8)
        complete = [copy.storage for copy in (*shard.in_sync, *shard.eligible) if copy.storage in live]
        revision = shard.revision
        changes: list[ShardChange] = [Touch(number, revision), Shrink(number, revision, (node.storage,))]
        if complete:
            to = self.random.choice(complete)
            changes += [Failover(number, revision, to, live)] * 3 + [Move(number, revision, to)] * 2
        changes += [
            RemoveCopy(number, revision, copy.storage, copy.added)
            for copy in shard.learners
            if copy not in shard.eligible
        ]
        change = self.random.choice(changes)
        self.service.propose(ShardChanges((change,), "wrong"), self.random.choice([0.01, 1.0]))

    def heal(self) -> None:
        """No more faults: everybody runs, is connected, and hears everything."""
        self.faults = Faults(None)
        for node in self.nodes:
            node.paused_until = 0.0
            node.resume()
            if not node.is_up:
                self.restart(node)
        self.unblock_all()


def stored_version(result: Result) -> int | None:
    """Return the version of a stored change."""
    return result.version if isinstance(result, Stored) else None
