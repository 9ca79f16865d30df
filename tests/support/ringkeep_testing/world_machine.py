"""One simulated host of the whole-cluster simulation: its disk outlives its processes, each of which is a real ``Node``.

What the node orders is carried out as the driver does it: records to the log (group commit, one sync at a time), changes
of the store in order on a thread of their own, reads beside them. A crash loses what was not durable.

Source: testing.md, "Simulation rules"; INTERFACES of log and store are those of their twins.
"""

from __future__ import annotations

import copy
import hashlib
from collections import deque
from collections.abc import Callable, Generator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from ringkeep_node.machines.generation import Succession, succession
from ringkeep_node.machines.messages import Channel
from ringkeep_node.machines.node import Node, NodeIdentity, NodeStep, split_address
from ringkeep_node.machines.records import NO_SHARD, Kind, Record
from ringkeep_node.machines.recovery import encode_boots
from ringkeep_node.machines.shard import effects
from ringkeep_node.machines.shard.effects import Result, WriteRequest
from ringkeep_node.runtime.wal.format import LINE_BYTES
from ringkeep_node.runtime.wal.log import LogGone, LogSettings
from ringkeep_node.runtime.wal.queue import Queue, Waiting
from ringkeep_testing.sim_log import SimLog
from ringkeep_testing.sim_store import SimStore

if TYPE_CHECKING:
    from ringkeep_testing.node_world import World

LAG_NOTICED_S = 0.02
HAND_OVER_S, RELIEF_S, ANSWER_S = 1.0, 8.0, 3.0
"""How long an ending process waits at most: for another leader and for its release, for other primaries, for answers."""


class Machine:
    """See the module. ``life`` counts processes, so that what belongs to a dead one is never done."""

    def __init__(self, world: World, number: int) -> None:
        self.world, self.number = world, number
        self.name = f"n{number}"
        self.address = f"10.0.0.{number}:7400"
        self.disks = 0
        self.counter = 0
        self.life = 0
        self.node: Node | None = None
        self.paused_until = self.hung_until = self.lags_until = 0.0
        self.sync_factor = 1.0
        self.wall_offset_s = 0.0
        self.links: dict[tuple[str, Channel], int] = {}
        self.wanted: dict[str, str] = {}
        self.answers: dict[int, Callable[[Result | None], None]] = {}
        self.outcomes: dict[int, Any] = {}
        self.image: tuple[str, SimLog, SimStore, int] | None = None
        self.fatal = ""
        self.zone = f"z{number % world.plan.zones}" if world.plan.zones else ""
        self.installs = 0
        self.is_deleted = False
        self._ending: Generator[tuple[Callable[[], bool], float], None, None] | None = None
        self.new_disk()

    def new_disk(self) -> None:
        """Begin with an empty disk: a new storage id."""
        self.disks += 1
        self.storage = f"{self.disks:08x}{self.number:08x}"
        self.log, self.store = SimLog(), SimStore()
        self.counter = 0
        self.image = None
        self.is_rolled_back = False

    def take_image(self) -> None:
        """Copy the disk as it is now, as a volume snapshot does."""
        self.image = (self.storage, copy.deepcopy(self.log), copy.deepcopy(self.store), self.counter)

    def roll_back(self) -> None:
        """Put the older image back; the process must be down."""
        assert self.image is not None and self.node is None
        self.storage, self.log, self.store, self.counter = copy.deepcopy(self.image)
        self.log.crash(self.world.rng)
        self.store.crash(self.world.rng)
        self.is_rolled_back = True

    # --- life ----------------------------------------------------------------------------------------------------

    def boot_id(self, counter: int) -> str:
        """Return the boot id of the process with this boot counter."""
        text = f"{self.world.seed}/{self.storage}/{counter}/{self.life if counter > 1 else 1}"
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def start(self) -> None:
        """Start a process: read what the disk holds, raise the boot counter there, run."""
        assert self.node is None
        if self.is_deleted:
            return
        world = self.world
        self.life += 1
        recovered = self.log.open(self.store.synced())
        self.counter = recovered.boot_counter + 1
        self.former = (*recovered.boots, self.boot_id(self.counter))
        self.log.append([Record(Kind.BOOT, NO_SHARD, 0, 0, self.counter, encode_boots(self.former))])
        self.log.sync()
        self.fatal = ""
        self._inbox: deque[Callable[[Node], None]] = deque()
        self._timers: deque[Callable[[Node], None]] = deque()
        self._is_draining = False
        self._tickets: deque[tuple[int, int]] = deque()
        self._urgent: deque[tuple[int, int]] = deque()
        self._queue = Queue(LogSettings().batch_bytes_max)
        self._sync_since: float | None = None
        self._storing: deque[Callable[[Node], None]] = deque()
        self._is_storing = False
        self._wake_at = -1.0
        self.links, self.wanted = {}, {}
        self.node = Node(
            identity=NodeIdentity(
                self.name,
                self.storage,
                self.boot_id(self.counter),
                self.counter,
                f"http://{self.name}",
                self.address,
                zone=self.zone,
                former=self.former,
            ),
            cluster_id=world.cluster_id,
            settings=world.settings,
            recovered=recovered,
            stored=self.store.copies(),
            store=self.store,
            seeds=[split_address(other.address) for other in world.machines.values()],
            draw=world.rng.random,
            now=world.now,
        )
        for other in world.machines.values():
            if other is not self:
                self.node.greeted(other.storage, other.address)
        world.note("start", self.name, self.counter)
        world.eye.started(self)
        self.flush()

    def recover(self) -> Succession:
        """Do what ``ringkeep recover`` does to the disk of a voter that is down; raises ``StartRefused``."""
        assert self.node is None
        begun = succession(self.log.open(self.store.synced()), me=self.storage)
        self.log.append(begun.records)
        self.log.sync()
        self.world.note("recover", self.name, begun.generation)
        return begun

    def kill(self) -> None:
        """End the process without warning; some prefix of what it had not synced is on the disk all the same."""
        if self.node is None:
            return
        self.node = None
        self._ending = None
        self.life += 1
        self.log.crash(self.world.rng)
        self.store.crash(self.world.rng)
        self.world.note("kill", self.name)
        self.world.network.died(self)
        answers, self.answers = self.answers, {}
        for answer in answers.values():
            answer(None)

    @property
    def is_ending(self) -> bool:
        """Whether the process is about to end in order: nobody sends it anything new."""
        return self._ending is not None

    def end(self, done: Callable[[], None]) -> None:
        """End the process as a planned stop does: hand over first, then tell everybody, then stop; then call ``done``."""
        if self.node is None or self.is_ending:
            return
        self.world.note("end", self.name)
        self._ending = self._farewell(self.node, done)
        self.on(lambda node: self._go_on())

    def _farewell(
        self, node: Node, done: Callable[[], None]
    ) -> Generator[tuple[Callable[[], bool], float], None, None]:
        """The steps of ``Driver.leave`` and of the process around it; yields what is waited for, and how long at most."""
        node.oversight.tell_leaving(now=self.world.now)
        if node.stand_down(now=self.world.now):
            yield (lambda: node.raft.leader != self.storage or node.is_alone), HAND_OVER_S
        yield (lambda: node.is_relieved), RELIEF_S
        node.leave(now=self.world.now)
        yield (lambda: node.is_released), HAND_OVER_S
        yield (lambda: not self.answers), ANSWER_S
        self.world.at(self.world.now, self._ended(done))

    def _ended(self, done: Callable[[], None]) -> Callable[[], None]:
        life = self.life

        def stop() -> None:
            if self.life == life:
                self.kill()
                done()

        return stop

    def _go_on(self) -> None:
        """Take the next step of the farewell, and wait for what it names or for its time to be up."""
        ending, life = self._ending, self.life
        if ending is None:
            return
        waits = next(ending, None)
        if waits is None:
            return
        holds, limit_s = waits
        until = self.world.now + limit_s

        def look() -> None:
            if self.life != life or self._ending is not ending:
                return
            if holds() or self.world.now >= until:
                self.on(lambda node: self._go_on())
            else:
                self.world.at(self.world.now + 0.005, look)

        self.world.at(self.world.now + 0.001, look)

    # --- the loop ------------------------------------------------------------------------------------------------

    def on(self, action: Callable[[Node], None], *, after_inputs: bool = False) -> None:
        """Let something happen to the process, now or when its pause ends; a dead process hears nothing.

        After a gap a node first handles what came, in order, then its own timers (``after_inputs``).
        """
        if self.node is None:
            return
        if self.world.now < self.paused_until or self._inbox or after_inputs:
            (self._timers if after_inputs else self._inbox).append(action)
            self._drain_at(max(self.world.now, self.paused_until))
            return
        action(self.node)
        if self.node is not None:
            self.flush()

    def _drain_at(self, due: float) -> None:
        if self._is_draining:
            return
        self._is_draining = True
        life = self.life

        def drain() -> None:
            if self.life != life:
                return
            self._is_draining = False
            if self.world.now < self.paused_until:
                self._drain_at(self.paused_until)
                return
            for queue in (self._inbox, self._timers):
                while queue and self.node is not None and self.life == life:
                    queue.popleft()(self.node)
            if self.node is not None and self.life == life:
                self.flush()

        self.world.at(due, drain)

    def later(self, delay_s: float, action: Callable[[Node], None]) -> None:
        """Let something happen to the present process after a delay."""
        life = self.life

        def due() -> None:
            if self.life == life:
                self.on(action)

        self.world.at(self.world.now + delay_s, due)

    def flush(self) -> None:
        """Carry out what the node ordered, and wake it when it wants."""
        node = self.node
        assert node is not None
        step = node.take_step(now=self.world.now)
        self.world.eye.group_seen(self)
        for watch in self.world.watches:
            watch(self, step)
        self._carry_out(step)
        due = max(self.world.now, node.next_deadline())
        if self.node is node and (self._wake_at < 0 or due < self._wake_at):
            self._wake_at = due
            self._arm(due)

    def _arm(self, due: float) -> None:
        life, world = self.life, self.world

        def tick(node: Node) -> None:
            lag_s = world.now - due
            if lag_s > LAG_NOTICED_S:
                node.lagged(lag_s, now=world.now)
            node.stalled(0.0 if self._sync_since is None else world.now - self._sync_since, now=world.now)
            node.shards.wall_ms = self.wall_ms()
            node.tick(now=world.now)

        def wake() -> None:
            if self.life != life or self._wake_at != due:
                return
            self._wake_at = -1.0
            if world.now < self.lags_until:
                self.paused_until = max(self.paused_until, world.now + 0.1 + 0.4 * world.rng.random())
            self.on(tick, after_inputs=True)

        world.at(due, wake)

    def wall_ms(self) -> int:
        """What this machine takes for the time of day, in ms."""
        return int((self.world.now + self.wall_offset_s) * 1000)

    def _carry_out(self, step: NodeStep) -> None:
        world = self.world
        if step.records:
            ticket = self.log.append(step.records, urgent=step.urgent)
            self._tickets.append((ticket, step.number))
            if step.urgent:
                self._urgent.append((ticket, step.number))
            self._queue.add(Waiting(ticket, step.urgent, size_of(step.records), step.records))
            self._sync()
        for (peer, channel), bundle in step.bundles.items():
            world.network.transmit(self, peer, channel, bundle)
        for address, data in step.datagrams:
            world.network.datagram(self, f"{address[0]}:{address[1]}", data)
        for order in step.orders:
            self._store(partial(self._order, order))
        for shard, added, entries, _ in step.apply:
            self._store(partial(self._apply, shard, added, list(entries)))
        for read in step.reads:
            self.later(world.plan.store_s * world.rng.random(), partial(self._read, read))
        for number, outcome in step.outcomes:
            self.outcomes[number] = outcome
        if step.peers is not None:
            self.wanted = step.peers
            world.network.dial_wanted(self)
        for change, shard_map, _ in step.map_changes:
            world.eye.map_changed(change, shard_map)
        if step.map_changes or step.peers is not None:
            world.eye.map_held(self)
        world.eye.recorded(self, step.records)
        for answer in step.answers:
            waiting = self.answers.pop(answer.token, None)
            if waiting is not None:
                waiting(answer.result)
        if step.fatal:
            self.fatal = step.fatal
            world.note("fatal", self.name, step.fatal)
            self.kill()
            world.faults.ended_itself(self)

    # --- the disk ------------------------------------------------------------------------------------------------

    def _sync(self) -> None:
        """Begin a sync of everything appended so far, unless one is running: the next batch is what arrives meanwhile."""
        if self._sync_since is not None:
            return
        world, life = self.world, self.life
        self._sync_since = world.now
        batch = self._queue.next_batch()
        speed = world.plan.disk_bytes_per_s
        written_s = sum(append.size for append in batch) / speed if speed else 0.0

        def done() -> None:
            if self.life != life:
                return
            if world.now < self.hung_until:
                world.at(self.hung_until, done)
                return
            self.log.sync_batch({append.ticket for append in batch})
            self._sync_since = None
            urgent = _steps_through(self._urgent, self._queue.urgent_durable_through())
            step = _steps_through(self._tickets, self._queue.durable_through())
            if self._tickets:
                self._sync()
            if world.rng.random() < 0.01:
                self.log.release(self.store.checkpoint(), keep=world.rng.choice((0, 3, 30)))
            if urgent > step:
                self.on(lambda node: node.urgent_synced(urgent, now=world.now))
            if step:
                self.on(lambda node: node.synced(step, now=world.now))

        world.at(world.now + world.plan.sync_s * self.sync_factor * (0.5 + world.rng.random()) + written_s, done)

    def _store(self, change: Callable[[Node], None]) -> None:
        """Queue a change of the store: one thread makes them in order, in batches."""
        self._storing.append(change)
        if not self._is_storing:
            self._is_storing = True
            self.later(self.world.plan.store_s * self.world.rng.random(), self._store_batch)

    def _store_batch(self, node: Node) -> None:
        self._is_storing = False
        batch, self._storing = self._storing, deque()
        for change in batch:
            change(node)

    def _apply(self, shard: int, added: int, entries: list[tuple[int, int, bytes]], node: Node) -> None:
        self.world.eye.applied(self, shard, added, entries)
        self.store.apply(shard, added, entries)
        node.shards.applied([(shard, added, entries[-1][1])], now=self.world.now)

    def _order(self, order: effects.StoreOrder, node: Node) -> None:
        store = self.store
        match order:
            case effects.CreateCopy(shard, added):
                store.create(shard, added)
            case effects.DropCopy(shard, added):
                store.drop(shard, added)
            case effects.InstallBegin(shard, added):
                self.installs += 1
                store.install_begin(shard, added)
            case effects.InstallRows(shard, added, rows, remembered):
                store.install_rows(shard, added, rows, remembered)
            case effects.InstallAbort(shard, added):
                store.install_abort(shard, added)
            case effects.InstallFinish(shard, added, epoch, sn, state, epochs):
                store.install_finish(shard, added, epoch=epoch, sn=sn, state=state, epochs=epochs, done=int)
                store.checkpoint()
                node.shards.installed(shard, added, now=self.world.now)

    def _read(self, read: effects.DataRead, node: Node) -> None:
        now = self.world.now
        if isinstance(read, effects.ReadLog):
            try:
                entries = self.log.read(read.shard, read.copy, read.after_sn, read.bytes_max)
            except LogGone:
                entries = []
            node.shards.log_read(read.token, entries, now=now)
        elif isinstance(read, effects.ReadRows):
            rows: Any
            if read.of_remembered:
                rows, more = self.store.remembered_after(read.shard, read.copy, read.cursor, read.bytes_max)
            else:
                rows, more = self.store.rows_after(read.shard, read.copy, read.cursor, read.bytes_max)
            node.shards.rows_read(read.token, rows, more, now=now)
        else:
            page = self.store.page(
                read.shard,
                read.copy,
                read.user,
                prefix=read.prefix,
                after=read.after,
                limit=read.limit,
                bytes_max=read.bytes_max,
            )
            node.shards.page_read(read.token, page.applied_sn, page.rows, page.more, now=now)

    # --- what the checks ask -------------------------------------------------------------------------------------

    def holds(self, shard: int, added: int, sn: int) -> bool:
        """Return whether this disk holds a copy up to ``sn``, whatever is lost with the process."""
        track = self.log._state.copies.get((shard, added))
        if track is not None and track.last_sn >= sn:
            return True
        applied = self.store.applied(shard, added)
        return applied is not None and applied[1] >= sn

    # --- requests ------------------------------------------------------------------------------------------------

    def submit(
        self, shard: int, request: WriteRequest | effects.ReadRequest, answer: Callable[[Result | None], None]
    ) -> None:
        """Hand a request to the process; ``answer`` gets None when it dies before it answers."""
        token = self.world.next_token()
        if self.node is None:
            answer(None)
            return
        self.answers[token] = answer
        self.on(lambda node: node.submit(token, shard, request, size=100, now=self.world.now))


def size_of(records: Sequence[Record]) -> int:
    """Return what records take in a batch, as the log counts it."""
    return sum(LINE_BYTES + len(record.payload) for record in records)


def _steps_through(waiting: deque[tuple[int, int]], ticket: int) -> int:
    """Take out what is durable up to a ticket and return the last step of it, 0 for none."""
    step = 0
    while waiting and waiting[0][0] <= ticket:
        step = waiting.popleft()[1]
    return step
