"""The loop around the pure node: what happens goes in, then the step is persisted, sent and carried out, in that order.

    anything happens --> node.<input> --> (end of this loop turn) take_step --> log, links, sockets, store, futures
    log thread: synced ------^                 store thread: applied -----^

One flush per loop turn, however many inputs it had, so that messages to a peer share a frame and records share a batch.
Exactly one timer is armed, for ``node.next_deadline()``; how late it fires is the loop's lag, which the node is told
before its own timers may judge anybody. Nothing here decides anything.

Source: architecture.md idea 3; reliability.md section 6 for the pitfalls this avoids.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, Protocol

from msgspec import Struct

from ringkeep_core.errors import BadFrame, OutcomeUnknown
from ringkeep_core.mapchanges import MapChange
from ringkeep_core.shardmap import ShardMap
from ringkeep_core.wire import Hello
from ringkeep_node.machines.messages import Channel, ProposeOutcome, decode_bundle, encode_bundles
from ringkeep_node.machines.node import Node, NodeStep
from ringkeep_node.machines.room import Room
from ringkeep_node.machines.shard.effects import (
    CreateCopy,
    DataRead,
    DropCopy,
    InstallAbort,
    InstallBegin,
    InstallFinish,
    InstallRows,
    LogEntry,
    ReadLog,
    ReadPage,
    ReadRequest,
    ReadRows,
    Result,
    StoreOrder,
    WriteRequest,
)
from ringkeep_node.machines.swim.members import Address, Evidence
from ringkeep_node.metrics import NodeMetrics, Traffic
from ringkeep_node.runtime.names import Names, patience_with, system_lookup
from ringkeep_node.runtime.peers import LinkEvents, PeerLinks
from ringkeep_node.runtime.stages import CommitTimer
from ringkeep_node.runtime.store.store import Store
from ringkeep_node.runtime.trails import Trails
from ringkeep_node.runtime.wal.log import Log, LogGone

HAND_OVER_S: Final = 1.0
"""An ending node waits at most so long for another voter to lead, and as long again for other primaries."""
RELIEF_S: Final = 8.0
"""For all primaries of a node that ends to move: less than the 10 s after which launchers lose their patience."""
CHECKPOINT_EVERY_S: Final = 10.0
CHECKPOINT_MOVING_S: Final = 2.0
"""While the map has learners: what piles up in ten seconds is a lot then, and syncs of the log wait while it is written."""
LAG_NOTICED_S: Final = 0.02
LAG_WINDOW_S: Final = 0.25
LAG_TIMERS_MIN: Final = 8
"""How late the loop is on the average is told after so long and so many timers: a busy loop has a hundred in a second."""
EARLY_S: Final = 0.05
"""A timer may fire so early; one that would fire earlier is armed anew, because waking an idle process costs most."""
BUSY_WINDOW_S: Final = 0.05
BUSY_TURNS: Final = 4
BUSY_S: Final = 0.01
"""After ``BUSY_TURNS`` turns within ``BUSY_WINDOW_S`` the others share one timer that comes ``BUSY_S`` later: finding the
deadline of all machines costs more than the turn of one of them."""
READERS: Final = 2
LEADER_POLL_S: Final = 0.05

EVIDENCE: Final = {
    "refused": Evidence.REFUSED,
    "reset": Evidence.RESET,
    "unreachable": Evidence.UNREACHABLE,
}


class Observer(Protocol):
    """Who hears of what happened, for logs, metrics and the history of events."""

    def stepped(self, step: NodeStep) -> None:
        """A step was carried out."""

    def stranger(self, address: str, reason: str) -> None:
        """Somebody or something was refused."""

    def fatal(self, reason: str) -> None:
        """The node must end."""


class LoopHealth(Struct):
    """How late the loop was: the last value, the worst since the last look, and when it last turned."""

    last_lag_s: float = 0.0
    worst_lag_s: float = 0.0
    turned_at: float = 0.0
    counted_from: float = 0.0
    timers: int = 0
    lags_s: float = 0.0

    def mean_lag_s(self, lag_s: float, now: float) -> float | None:
        """Count one timer; return how late they were on the average once there are enough, and begin anew."""
        self.timers += 1
        self.lags_s += lag_s
        if now < self.counted_from + LAG_WINDOW_S or self.timers < LAG_TIMERS_MIN:
            return None
        mean_s = self.lags_s / self.timers
        self.counted_from, self.timers, self.lags_s = now, 0, 0.0
        return mean_s


class Driver(LinkEvents, asyncio.DatagramProtocol):
    """Runs one ``Node`` on the running event loop."""

    def __init__(
        self,
        node: Node,
        log: Log,
        store: Store,
        links: PeerLinks,
        observer: Observer,
        metrics: NodeMetrics,
        trails: Trails | None = None,
    ) -> None:
        self.node, self.log, self.store, self.links = node, log, store, links
        self._trails = trails
        if trails is not None:
            node.shards.follow()
        self.health = LoopHealth()
        self.gossip = Traffic()
        self._stages = CommitTimer(metrics.stages, node.identity.storage)
        self._observe_lag = metrics.loop_lag.observe
        self._observer = observer
        self._loop = asyncio.get_running_loop()
        self._now: Callable[[], float] = self._loop.time
        self._flush_scheduled = False
        self._timer: asyncio.TimerHandle | None = None
        self._timer_due = self._counted_from = 0.0
        self._turns = 0
        self._tickets: deque[tuple[int, int]] = deque()
        self._urgent: deque[tuple[int, int]] = deque()
        self._requests: dict[int, asyncio.Future[Result]] = {}
        self._proposals: dict[int, asyncio.Future[ProposeOutcome]] = {}
        self._token = 0
        self._map_waiters: set[asyncio.Future[None]] = set()
        self._udp: asyncio.DatagramTransport | None = None
        self._names: Names | None = None
        self._readers = ThreadPoolExecutor(READERS, "reader")
        self._checkpointer = ThreadPoolExecutor(1, "checkpoint")
        self._checkpoint_due = asyncio.Event()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._closed = False
        self._turned: asyncio.Future[None] | None = None

    # --- life ----------------------------------------------------------------------------------------------------

    def start(self, udp: asyncio.DatagramTransport) -> None:
        """Begin to run; log and store have been opened, links exist."""
        self._udp = udp
        self._names = Names(system_lookup(udp.get_extra_info("socket").family), self._now, self._patience)
        self.log.on_synced = self._on_synced
        self.log.on_urgent_synced = self._on_urgent_synced
        self.log.on_timed = self._stages.batch
        self.store.on_applied = self._on_applied
        self.store.on_room = self._schedule
        self.store.on_checkpoint_due = self._checkpoint_due.set
        self._spawn(self._checkpoint_forever())
        self._wake()

    async def leave(self) -> None:
        """Before ``close``: hand over what others can take, and tell everybody that this node ends. Bounded in time.

        Raft leadership goes first, because whoever leads then moves the primaries away, live; when they are gone the node
        leaves gossip, so that it is taken out of the in-sync sets before its acknowledgements stop.
        """
        node = self.node
        node.oversight.tell_leaving(now=self._now())
        if node.stand_down(now=self._now()):
            await self._until(lambda: node.raft.leader != node.identity.storage or node.is_alone)
        await self._until(lambda: node.is_relieved, limit_s=RELIEF_S)
        node.leave(now=self._now())
        await self._until(lambda: node.is_released)

    async def _until(self, holds: Callable[[], bool], *, limit_s: float = HAND_OVER_S) -> None:
        """Carry out what is ordered, then wait turn by turn until something holds, or the time is up."""
        self._schedule()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limit_s):
                while True:
                    self._turned = self._loop.create_future()
                    await self._turned
                    if holds():
                        return

    async def close(self) -> None:
        """Stop everything that this driver started; what became of requests still open nobody here can tell."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._names is not None:
            await self._names.close()
        left: list[asyncio.Future[Any]] = [*self._requests.values(), *self._proposals.values()]
        for waiting in left:
            if not waiting.done():
                waiting.set_exception(OutcomeUnknown("this node stopped before it knew"))
        self._readers.shutdown(wait=True)
        self._checkpointer.shutdown(wait=True)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self._observer.fatal(f"a task of the node failed: {task.exception()!r}")

    # --- requests ------------------------------------------------------------------------------------------------

    @property
    def shard_map(self) -> ShardMap | None:
        """The held map."""
        return self.node.held.map

    def submit(self, shard: int, request: WriteRequest | ReadRequest, *, size: int) -> asyncio.Future[Result]:
        """Start a request whose ``deadline`` is in loop time. The future is done at the latest then.

        Cancelling it gives nothing up: a change may be on other disks already, and a read ends by its deadline.
        """
        self._token += 1
        future: asyncio.Future[Result] = self._loop.create_future()
        self._requests[self._token] = future
        if self._trails is not None:
            self._trails.submitted(self._token, shard, request, self.shard_map)
        self.node.submit(self._token, shard, request, size=size, now=self._now())
        self._schedule()
        return future

    async def propose(self, change: MapChange, *, timeout_s: float) -> ProposeOutcome:
        """Propose a change of the map and wait for its outcome: see ``Control.propose_tracked``."""
        now = self._now()
        number = self.node.propose(change, deadline=now + timeout_s, now=now)
        future: asyncio.Future[ProposeOutcome] = self._loop.create_future()
        self._proposals[number] = future
        self._schedule()
        return await future

    async def transfer_leader(self, to: str, *, timeout_s: float) -> bool:
        """Ask for another leader, ``to`` if that is not "", and return whether there is one before the time is up."""
        control = self.node.control
        before = control.leader()
        control.ask_transfer(to, now=self._now())
        self._schedule()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while (leader := control.leader()) is None or (leader != to if to else leader == before):  # noqa: ASYNC110
                    await asyncio.sleep(LEADER_POLL_S)
                return True
        return False

    async def wait_newer_than(self, version: int, *, timeout_s: float) -> None:
        """Return when the held map is newer than ``version``, or when the time is up."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while (held := self.shard_map) is None or held.version <= version:
                    waiter: asyncio.Future[None] = self._loop.create_future()
                    self._map_waiters.add(waiter)
                    try:
                        await waiter
                    finally:
                        self._map_waiters.discard(waiter)

    def given(self) -> None:
        """The registry of the node was given something directly: take its step with this turn."""
        self._schedule()

    # --- what happens --------------------------------------------------------------------------------------------

    def met(self, hello: Hello) -> None:
        """A node of this cluster was met; it may not be in the map yet."""
        self.node.greeted(hello.storage, hello.peer)
        self._schedule()

    def frame(self, hello: Hello, channel: Channel, body: memoryview) -> None:
        """A peer's frame: everything in it goes in before any timer fires. Raises ``BadFrame``."""
        bundle = decode_bundle(body)
        if self._trails is not None:
            self._trails.received(hello.storage, bundle, self.shard_map)
        self.node.receive(hello.storage, hello.boot, bundle, now=self._now())
        self._schedule()

    def up(self, storage: str, boot: str, channel: Channel) -> None:
        """A link to a peer can be written."""
        self.node.link_up(storage, boot, channel, now=self._now())
        self._schedule()

    def down(self, storage: str, channel: Channel, evidence: str) -> None:
        """A link was lost."""
        self.node.link_down(storage, channel, EVIDENCE.get(evidence), now=self._now())
        self._schedule()

    def stranger(self, address: str, reason: str) -> None:
        """Somebody was refused."""
        self._observer.stranger(address, reason)

    def datagram_received(self, data: bytes, addr: tuple[str | Any, int]) -> None:
        """Gossip from anybody."""
        self.gossip.received += 1
        self.gossip.received_bytes += len(data)
        self.node.datagram(data, (addr[0], addr[1]), now=self._now())
        self._schedule()

    def error_received(self, exc: Exception) -> None:
        """A datagram could not be delivered; probes notice by themselves."""

    def _on_synced(self, ticket: int) -> None:
        step = 0
        while self._tickets and self._tickets[0][0] <= ticket:
            step = self._tickets.popleft()[1]
        if step:
            self.node.synced(step, now=self._now())
            if self._trails is not None:
                self._trails.synced(step)
            self._schedule()

    def _on_urgent_synced(self, ticket: int) -> None:
        step = 0
        while self._urgent and self._urgent[0][0] <= ticket:
            step = self._urgent.popleft()[1]
        if step:
            self.node.urgent_synced(step, now=self._now())
            self._schedule()

    def _on_applied(self, what: list[tuple[int, int, int]]) -> None:
        self.node.shards.applied(what, now=self._now())
        self._schedule()

    # --- the turn ------------------------------------------------------------------------------------------------

    def _schedule(self) -> None:
        if not self._flush_scheduled and not self._closed:
            self._flush_scheduled = True
            # One turn later than it could be: what is ready by then shares the step, the frames and the batch on disk.
            # Measured with 64 clients: a fifth fewer frames, and 6 % less CPU per put; a second turn more brings nothing.
            self._loop.call_soon(self._loop.call_soon, self._flush)

    def _flush(self) -> None:
        self._flush_scheduled = False
        if self._closed:
            return
        now = self._now()
        self.node.shards.store_waits(self.store.queued_bytes, now=now)
        self.store.is_awaited = self.node.shards.has_streams
        self._carry_out(self.node.take_step(now=now))
        self.node.full(self.log.is_full or self.store.is_full)
        self.health.turned_at = now
        if self._turned is not None and not self._turned.done():
            self._turned.set_result(None)
        self._arm(now)

    def _arm(self, now: float) -> None:
        if now >= self._counted_from + BUSY_WINDOW_S:
            self._counted_from, self._turns = now, 0
        self._turns += 1
        is_busy = self._turns > BUSY_TURNS
        if is_busy and self._timer is not None and self._timer_due <= now + BUSY_S and not self._timer.cancelled():
            return
        # A deadline may lie in the past, as "at once": the time since then is no lag of this loop. But a timer that is
        # overdue itself stays: how late it fires is the lag, whatever was handled first after a gap.
        due = now + BUSY_S if is_busy else max(now, self.node.next_deadline())
        if self._timer is not None:
            is_early = self._timer_due <= now or self._timer_due <= due < self._timer_due + EARLY_S
            if is_early and not self._timer.cancelled():
                return  # It fires early and arms itself again: cheaper than one cancelled timer for each message.
            self._timer.cancel()
        self._timer_due = due
        self._timer = self._loop.call_at(due, self._wake)

    def _wake(self) -> None:
        self._timer = None
        now = self._now()
        self._measure_lag(now)
        if self.health.last_lag_s > LAG_NOTICED_S:
            # What arrived during a gap is handled first: the tick runs one loop turn later than the timer.
            self._loop.call_soon(self._tick)
        else:
            self._tick()

    def _measure_lag(self, now: float) -> None:
        lag_s = max(0.0, now - self._timer_due) if self._timer_due else 0.0
        self._observe_lag(lag_s)
        self.health.last_lag_s = lag_s
        self.health.worst_lag_s = max(self.health.worst_lag_s, lag_s)
        if lag_s > LAG_NOTICED_S:
            self.node.lagged(lag_s, now=now)
        mean_s = self.health.mean_lag_s(lag_s, now)
        if mean_s is not None:
            self.node.shards.timers_late(mean_s, now=now)

    def _tick(self) -> None:
        if self._closed:
            return
        now = self._now()
        self.node.stalled(self.log.sync_age_s(time.monotonic()), now=now)
        # The loop may wake a clock tick early; a deadline that fired has passed.
        self.node.tick(now=max(now, self._timer_due))
        self._flush()

    def _carry_out(self, step: NodeStep) -> None:
        if self._trails is not None:
            self._trails.stepped(step, self.node.shards.take_followed())
        if step.records:
            self._stages.appended(step.records, self.node.held.map)
            ticket = self.log.append(step.records, urgent=step.urgent)
            self._tickets.append((ticket, step.number))
            if step.urgent:
                self._urgent.append((ticket, step.number))
        for (peer, channel), bundle in step.bundles.items():
            for body in encode_bundles(bundle):
                self.links.send(peer, channel, body)
        if step.datagrams:
            self._send_datagrams(step.datagrams)
        for order in step.orders:
            self._order(order)
        if step.apply:
            self._stages.committed(step.apply)
            self.store.apply_all(step.apply)
        for read in step.reads:
            self._spawn(self._read(read))
        for answer in step.answers:
            future = self._requests.pop(answer.token, None)
            if future is not None and not future.done():
                future.set_result(answer.result)
        for number, outcome in step.outcomes:
            waiting = self._proposals.pop(number, None)
            if waiting is not None and not waiting.done():
                waiting.set_result(outcome)
        if step.peers is not None:
            for closing in self.links.set_peers(step.peers):
                self._spawn(_finish(closing))
        if step.map_changes or step.member_changes or step.peers is not None:
            self._wake_map_waiters()
        self._observer.stepped(step)
        if step.fatal:
            self._observer.fatal(step.fatal)

    def _send_datagrams(self, datagrams: Sequence[tuple[Address, bytes]]) -> None:
        assert self._udp is not None and self._names is not None
        gossip, names = self.gossip, self._names
        for address, data in datagrams:
            host = names.address(address[0])
            if host is not None:
                gossip.sent += 1
                gossip.sent_bytes += len(data)
                self._udp.sendto(data, (host, address[1]))

    def _patience(self) -> float:
        held, own = self.node.held.map, self.node.identity.storage
        members = {} if held is None else held.members
        return patience_with([member.peer for storage, member in members.items() if storage != own])

    def _wake_map_waiters(self) -> None:
        for waiter in self._map_waiters:
            if not waiter.done():
                waiter.set_result(None)

    def _order(self, order: StoreOrder) -> None:
        store = self.store
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
        else:
            assert isinstance(order, InstallFinish)
            self._install_finish(order)

    def _install_finish(self, order: InstallFinish) -> None:
        def done() -> None:
            self.node.shards.installed(order.shard, order.copy, now=self._now())
            self._schedule()

        self.store.install_finish(
            order.shard,
            order.copy,
            epoch=order.epoch,
            sn=order.sn,
            state=order.state,
            epochs=order.epochs,
            done=done,
        )

    async def _read(self, read: DataRead) -> None:
        store, shards = self.store, self.node.shards
        run = self._loop.run_in_executor
        if isinstance(read, ReadLog):
            shards.log_read(read.token, await run(self._readers, self._entries, read), now=self._now())
        elif isinstance(read, ReadRows):
            reader: Callable[..., tuple[list[Any], bool]] = (
                store.remembered_after if read.of_remembered else store.rows_after
            )
            rows, more = await run(self._readers, reader, read.shard, read.copy, read.cursor, read.bytes_max)
            shards.rows_read(read.token, rows, more, now=self._now())
        else:
            assert isinstance(read, ReadPage)
            page = await run(self._readers, self._page, read)
            shards.page_read(read.token, page.applied_sn, page.rows, page.more, now=self._now())
        self._schedule()

    def _entries(self, read: ReadLog) -> list[LogEntry] | None:
        """Return what the log still has, or None if the next entry is gone: the copy then needs a snapshot."""
        try:
            return self.log.read(read.shard, read.copy, read.after_sn, read.bytes_max)
        except LogGone:
            return None

    def _page(self, read: ReadPage) -> Any:
        return self.store.page(
            read.shard,
            read.copy,
            read.user,
            prefix=read.prefix,
            after=read.after,
            limit=read.limit,
            bytes_max=read.bytes_max,
        )

    def _look_at_room(self) -> None:
        now, oversight = self._now(), self.node.oversight
        oversight.tell_room(Room(self.store.file_bytes, self.log.free_bytes), now=now)
        oversight.tell_received(self.node.shards.tally.snapshot_bytes_received, now=now)
        self.store.look_at_cold(free_bytes=self.log.free_bytes, volume_bytes=self.log.volume_bytes, now=now)

    async def _checkpoint_forever(self) -> None:
        self._look_at_room()
        while True:
            await self._rest_between_checkpoints()
            self._checkpoint_due.clear()
            covered = await self._loop.run_in_executor(self._checkpointer, self.store.checkpoint)
            self.log.release(covered, raft_index=self.node.control.snapshot_index)
            self._look_at_room()

    async def _rest_between_checkpoints(self) -> None:
        """Return when the next checkpoint is due: asked for by the store, or in time."""
        ends = self._loop.time() + CHECKPOINT_EVERY_S
        while (left_s := ends - self._loop.time()) > 0:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._checkpoint_due.wait(), min(left_s, CHECKPOINT_MOVING_S))
                return
            held = self.node.held.map
            if held is not None and any(shard.learners for shard in held.shards):
                return


async def _finish(closing: Any) -> None:
    await closing


def seeds_of(addresses: Sequence[str]) -> list[Address]:
    """Return host:port texts as addresses, for gossip."""
    seeds: list[Address] = []
    for address in addresses:
        host, _, port = address.rpartition(":")
        if not host or not port.isdigit():
            raise BadFrame(f"{address!r} is not host:port")
        seeds.append((host, int(port)))
    return seeds
