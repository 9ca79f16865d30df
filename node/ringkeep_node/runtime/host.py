"""One node process from an opened data directory to a running member, and what the edge may ask of it.

    opened --no cluster id--> waiting: asks seeds, takes a bootstrap call --cluster id on disk--> running
    opened --cluster id-------------------------------------------------------------------------> running

Before it runs, the node answers only greetings. Starting raises the boot counter on disk first, so that no two starts of
one directory can ever share a boot. Nothing here decides anything about the cluster: ``founding`` and the machines do.

Source: replication.md, rule 0 and "Raft group: Bootstrap"; interface.md for what is reported.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from ringkeep_core.errors import Conflict, NoPrimary, StartRefused
from ringkeep_core.ids import is_identity
from ringkeep_core.mapchanges import MapChange
from ringkeep_core.plans import NodeFacts
from ringkeep_core.shardmap import ShardMap
from ringkeep_core.summary import Seen
from ringkeep_core.wire import PROTOCOL_VERSION, Hello
from ringkeep_node.machines.control import encode_snapshot, first_snapshot
from ringkeep_node.machines.messages import ProposeOutcome
from ringkeep_node.machines.node import Node, NodeIdentity, NodeSettings, NodeStep
from ringkeep_node.machines.records import NO_SHARD, Kind, Record
from ringkeep_node.machines.recovery import RecoveredLog, encode_boots
from ringkeep_node.machines.shard.effects import NotApplied, ReadRequest, Result, WriteRequest
from ringkeep_node.metrics import NodeMetrics, NodeNumbers
from ringkeep_node.runtime.driver import Driver, seeds_of
from ringkeep_node.runtime.founding import (
    BootstrapRequest,
    ask_members,
    check_request,
    found,
    tell_founded,
    wait_for_cluster,
)
from ringkeep_node.runtime.news import News
from ringkeep_node.runtime.peers import HELLO_CHANNEL, LinkEvents, PeerLinks, greet
from ringkeep_node.runtime.reporting import (
    leader_report,
    member_reports,
    node_facts,
    node_numbers,
    running_plan,
    shard_bytes,
    unready_reason,
    voters_of,
)
from ringkeep_node.runtime.reports import Event, LeaderReport, MemberReport, RunningPlan
from ringkeep_node.runtime.seeing import seen_by
from ringkeep_node.runtime.services import Services
from ringkeep_node.runtime.store.store import Store
from ringkeep_node.runtime.succeeding import durable
from ringkeep_node.runtime.trails import Trails
from ringkeep_node.runtime.wal.log import Log

LOOP_SILENCE_S = 10.0


class HostParts(Struct, frozen=True):
    """What the application has opened for a node: the disk side, and where to reach others."""

    log: Log
    recovered: RecoveredLog
    store: Store
    cluster_id: str
    adopt_cluster: Callable[[str], None]
    """Write the cluster id into the data directory, with a sync; called in a worker thread."""
    udp: asyncio.DatagramTransport
    seeds: Sequence[str]
    draw: Callable[[], float]
    nonce: Callable[[], str]
    fatal: Callable[[str], None]
    """End the process, with a reason in a sentence."""
    mark_left: Callable[[], None]
    """Write into the data directory, with a sync, that its storage id has left; called in a worker thread."""
    balanced: bool = False
    """Whether balancers send clients here by what ``is_ready`` says: they must see it before this node leaves."""
    version: str = ""
    """Of the program, for people."""


class _Inbox(LinkEvents, asyncio.DatagramProtocol):
    """Where links and the gossip socket deliver; passes on to the driver once there is one."""

    def __init__(self, founded: Callable[[str], None]) -> None:
        self.driver: Driver | None = None
        self._founded = founded

    def founded(self, cluster_id: str) -> None:
        self._founded(cluster_id)

    def met(self, hello: Hello) -> None:
        if self.driver is not None:
            self.driver.met(hello)

    def frame(self, hello: Hello, channel: Any, body: memoryview) -> None:
        if self.driver is not None:
            self.driver.frame(hello, channel, body)

    def up(self, storage: str, boot: str, channel: Any) -> None:
        if self.driver is not None:
            self.driver.up(storage, boot, channel)

    def down(self, storage: str, channel: Any, evidence: str) -> None:
        if self.driver is not None:
            self.driver.down(storage, channel, evidence)

    def stranger(self, address: str, reason: str) -> None:
        if self.driver is not None:
            self.driver.stranger(address, reason)

    def datagram_received(self, data: bytes, addr: tuple[str | Any, int]) -> None:
        if self.driver is not None:
            self.driver.datagram_received(data, addr)


class Host:
    """The node of this process. Implements ``reports.Driving``."""

    def __init__(
        self,
        identity: NodeIdentity,
        settings: NodeSettings,
        *,
        draw: Callable[[], float],
        metrics: NodeMetrics | None = None,
        services: Services | None = None,
        trails: Trails | None = None,
    ) -> None:
        self.identity = identity
        self.cluster_id = ""
        self.inbox = _Inbox(self._told_of_cluster)
        self.news = News()
        self.links = PeerLinks(self._hello, self.inbox, draw)
        self._settings = settings
        self._metrics = metrics or NodeMetrics()
        self._services = services
        self._trails = trails
        self._parts: HostParts | None = None
        self._driver: Driver | None = None
        self._founding = asyncio.Lock()
        self._running = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._was_ready = False
        self._marking: asyncio.Future[None] | None = None

    # --- life ----------------------------------------------------------------------------------------------------

    async def start(self, parts: HostParts) -> None:
        """Begin: run at once if the directory belongs to a cluster, else wait for one. The log's thread runs already."""
        self._parts = parts
        _refuse_lost_log(parts)
        boots = encode_boots(self.identity.former)
        await self._durable([Record(Kind.BOOT, NO_SHARD, 0, 0, self.identity.counter, boots)])
        if parts.cluster_id:
            self._run(parts.cluster_id, parts.recovered)
        else:
            own = lambda: self._hello(HELLO_CHANNEL)  # noqa: E731 - the greeting changes with the cluster id
            self._spawn(wait_for_cluster(self.links.session, own, parts.seeds, self._adopt))

    @property
    def has_company(self) -> bool:
        """Whether other members live, to which clients can be sent instead."""
        return self._driver is not None and not self._driver.node.is_alone

    async def leave(self) -> None:
        """Hand over what others can take and tell everybody that this node ends: the second step of a planned stop.

        not ready --> leave, while clients are still served --> stop serving them --> close
        """
        if self._driver is not None:
            await self._driver.leave()

    async def close(self) -> None:
        """Stop serving peers; the application closes log and store afterwards."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._driver is not None:
            await self._driver.close()
        await self.links.close()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None and self._parts is not None:
            self._parts.fatal(f"a task of the node failed: {task.exception()!r}")

    def _hello(self, channel: str) -> Hello:
        own = self.identity
        return Hello(
            PROTOCOL_VERSION,
            self.cluster_id,
            own.name,
            own.storage,
            own.boot,
            own.counter,
            own.url,
            own.peer,
            own.zone,
            channel,
            own.weight,
        )

    async def _durable(self, records: Sequence[Record]) -> None:
        """Return when the records are on disk; only before the driver takes the log over."""
        assert self._parts is not None and self._driver is None
        await durable(self._parts.log, records)

    def _told_of_cluster(self, cluster_id: str) -> None:
        """A founder names this node's storage id: as good as a seed that names its cluster."""
        if not self.cluster_id and self._parts is not None and is_identity(cluster_id):
            self._spawn(self._adopt(cluster_id))

    async def _adopt(self, cluster_id: str) -> None:
        async with self._founding:
            if not self.cluster_id:
                await self._join(cluster_id, self._without_cluster())

    def _without_cluster(self) -> RecoveredLog:
        """Return what the log gave back; an interrupted bootstrap must not follow the node into another cluster."""
        assert self._parts is not None
        recovered = self._parts.recovered
        if recovered.raft_snapshot is not None or recovered.raft_entries:
            self._parts.fatal("a bootstrap was interrupted in this data directory: empty it and start again")
            raise Conflict("this data directory holds the beginning of another cluster")
        return recovered

    async def _join(self, cluster_id: str, recovered: RecoveredLog) -> None:
        assert self._parts is not None
        await asyncio.get_running_loop().run_in_executor(None, self._parts.adopt_cluster, cluster_id)
        self._run(cluster_id, recovered)

    def _run(self, cluster_id: str, recovered: RecoveredLog) -> None:
        assert self._parts is not None
        parts, loop = self._parts, asyncio.get_running_loop()
        self.cluster_id = cluster_id
        self.news.joined(cluster_id)
        node = Node(
            identity=self.identity,
            cluster_id=cluster_id,
            settings=self._settings,
            recovered=recovered,
            stored=parts.store.copies(),
            store=parts.store,
            seeds=seeds_of(parts.seeds),
            draw=parts.draw,
            now=loop.time(),
        )
        self._driver = self.inbox.driver = Driver(
            node, parts.log, parts.store, self.links, self, self._metrics, self._trails
        )
        self._driver.start(parts.udp)
        if self._services is not None:
            self._services.run(node.discovery.registry, self._driver.given)
        node.oversight.tell_version(parts.version, now=loop.time())
        self._running.set()
        if not node.registered:
            self._spawn(self._find_peers())

    async def _find_peers(self) -> None:
        """Dial the seeds of this cluster until the map names its members."""
        assert self._parts is not None and self._driver is not None
        seeds = [seed for seed in self._parts.seeds if seed != self.identity.peer]
        while self._driver.shard_map is None:
            for greeting in await greet_all(self.links.session, seeds, self._hello(HELLO_CHANNEL)):
                if greeting.cluster_id == self.cluster_id:
                    self._driver.met(greeting)
            await self._driver.wait_newer_than(0, timeout_s=0.3)

    # --- Observer ------------------------------------------------------------------------------------------------

    def stepped(self, step: NodeStep) -> None:
        """A step of the node was carried out: remember what people may ask about."""
        assert self._driver is not None
        node = self._driver.node
        self.news.stepped(node, step, time.time())
        if self._services is not None and (step.topics or step.checks_changed):
            self._services.stepped(step.topics, step.checks_changed)
        if node.registration.is_gone and self._marking is None:
            self._marking = asyncio.get_running_loop().create_future()
            self._spawn(self._mark_left(self._marking))

    async def _mark_left(self, marked: asyncio.Future[None]) -> None:
        assert self._parts is not None
        await asyncio.get_running_loop().run_in_executor(None, self._parts.mark_left)
        marked.set_result(None)

    def stranger(self, address: str, reason: str) -> None:
        """Somebody was refused."""
        self.news.refused(address, reason, time.time())

    def fatal(self, reason: str) -> None:
        """The node must end; one whose storage id has left only when that is on disk, so that the next start knows."""
        assert self._parts is not None
        end = self._parts.fatal
        if self._marking is None:
            end(reason)
        else:
            self._marking.add_done_callback(lambda _: end(reason))

    # --- Driving -------------------------------------------------------------------------------------------------

    @property
    def shard_map(self) -> ShardMap | None:
        """The held map."""
        return self._driver.shard_map if self._driver is not None else None

    async def submit(self, shard: int, request: WriteRequest | ReadRequest, *, timeout_s: float, size: int) -> Result:
        """Bring a request to its primary and return the answer. Cancelling the caller does not cancel a write."""
        if self._driver is None:
            return NotApplied("no_primary", "this node belongs to no cluster yet")
        return await self._driver.submit(shard, request, size=size)

    async def propose(self, change: MapChange, *, timeout_s: float) -> ProposeOutcome:
        """Have the leader apply a change of the map."""
        if self._driver is None:
            raise NoPrimary("this node belongs to no cluster yet")
        return await self._driver.propose(change, timeout_s=timeout_s)

    async def bootstrap(self, request: BootstrapRequest) -> str:
        """Found a cluster of the named members and return its id."""
        own = self._hello(HELLO_CHANNEL)
        check_request(request, name=own.name, storage=own.storage)
        assert self._parts is not None
        async with self._founding:
            if self.cluster_id:
                raise Conflict(f"this node already belongs to cluster {self.cluster_id}")
            members = await ask_members(self.links.session, own, request, self._parts.seeds)
            founded = found(request, members.members, members.weights, self._parts.nonce())
            snapshot = first_snapshot(founded.first_map, founded.voters)
            payload = encode_snapshot(snapshot)
            # The first map before the id: a crash in between leaves a node without a cluster, never half a founder.
            await self._durable([Record(Kind.RAFT_RESET, NO_SHARD, 0, snapshot.term, snapshot.index, payload)])
            # The record stands for whatever an interrupted bootstrap left: without an id on disk nobody ever heard of that.
            await self._join(founded.cluster_id, replace(self._parts.recovered, raft_snapshot=payload, raft_entries=[]))
            self._spawn(tell_founded(self.links.session, self._hello(HELLO_CHANNEL), request.members))
            return founded.cluster_id

    async def wait_newer_than(self, version: int, *, timeout_s: float) -> None:
        """Return when the held map is newer than ``version``, or the time is up."""
        started = time.monotonic()
        try:
            async with asyncio.timeout(timeout_s):
                await self._running.wait()
        except TimeoutError:
            return
        assert self._driver is not None
        await self._driver.wait_newer_than(version, timeout_s=timeout_s - (time.monotonic() - started))

    def members(self) -> tuple[MemberReport, ...]:
        """Return every member; a node in no cluster reports itself alone, as joining, and one that has left as left."""
        has_left = self._driver is not None and self._driver.node.has_left
        if self._driver is None or self.shard_map is None or has_left:
            own = self.identity
            return (
                MemberReport(
                    name=own.name,
                    state="left" if has_left else "joining",
                    storage_id=own.storage,
                    boot_id=own.boot,
                    url=own.url,
                    peer=own.peer,
                    zone=own.zone,
                    weight=own.weight,
                ),
            )
        return member_reports(self._driver.node, self.news.history, asyncio.get_running_loop().time(), time.time())

    def leader(self) -> LeaderReport | None:
        """Return the leader, or None while none is known."""
        return leader_report(self._driver.node) if self._driver is not None else None

    def facts(self) -> Mapping[str, NodeFacts]:
        """Return what this node knows of each registered member, by name."""
        if self._driver is None or self.shard_map is None:
            return {}
        return node_facts(self._driver.node, asyncio.get_running_loop().time())

    def shard_bytes(self) -> Sequence[int] | None:
        """Return about how many bytes each shard has."""
        return shard_bytes(self._driver.node) if self._driver is not None and self.shard_map is not None else None

    def voters(self) -> tuple[str, ...]:
        """Return the storage ids of the Raft voters."""
        return voters_of(self._driver.node) if self._driver is not None else ()

    def opinion(self) -> tuple[int, str]:
        """Return the newest revision of the wanted state that this node saw being accepted, and how its target compared."""
        return self.news.opinion

    def running_plan(self) -> RunningPlan | None:
        """Return how far the present plan is, if this node leads and there is one."""
        if self._driver is None:
            return None
        return running_plan(self._driver.node, asyncio.get_running_loop().time(), time.time())

    async def transfer_leader(self, to: str, *, timeout_s: float) -> LeaderReport:
        """Have leadership handed to ``to`` and return who leads then."""
        if self._driver is None:
            raise NoPrimary("this node belongs to no cluster yet")
        reached = await self._driver.transfer_leader(to, timeout_s=timeout_s)
        leader = self.leader()
        if not reached or leader is None:
            raise NoPrimary(f"no other leader took over within {timeout_s:g} s")
        return leader

    def events(self, after: int) -> tuple[Event, ...]:
        """Return the remembered events with a greater number than ``after``, oldest first."""
        return self.news.history.after(after)

    def look(self) -> Seen:
        """Return everything that this node knows of its cluster now."""
        managed = self._parts is not None and self._parts.balanced
        if self._driver is None:
            return Seen(node=self.identity.name, now=time.time(), managed=managed)
        now = asyncio.get_running_loop().time()
        node, history = self._driver.node, self.news.history
        return seen_by(node, history, self.numbers(), managed=managed, now=now, wall=time.time())

    def is_ready(self) -> str | None:
        """Return None if clients should be sent here, else the reason why not."""
        if self._driver is None:
            return "this node belongs to no cluster yet"
        assert self._parts is not None
        leaves_soon = self._parts.balanced
        is_informed = self._services is None or self._services.is_informed
        reason = unready_reason(
            self._driver.node, was_ready=self._was_ready, leaves_soon=leaves_soon, is_informed=is_informed
        )
        self._was_ready = self._was_ready or reason is None
        return reason

    def is_current(self) -> bool:
        """Return whether the held map names this start of the node, or says that it has left."""
        node = self._driver.node if self._driver is not None else None
        return node is not None and (node.registered or node.has_left)

    def is_live(self) -> str | None:
        """Return None if this process works, else the reason why it should be restarted."""
        if self._driver is None:
            return None
        silence_s = asyncio.get_running_loop().time() - self._driver.health.turned_at
        if silence_s > LOOP_SILENCE_S:
            return f"the node's machines have not turned for {silence_s:.0f} s"
        return None

    def numbers(self) -> NodeNumbers:
        """Return the counters and gauges of this moment."""
        if self._parts is None:
            return NodeNumbers()
        numbers = NodeNumbers() if self._driver is None else node_numbers(self._driver, self.news.history)
        log, traffic = self._parts.log, self.links.traffic
        instances, events = ({}, {}) if self._services is None else self._services.counts()
        return replace(
            numbers,
            services=instances,
            service_events=events,
            service_waits=0 if self._services is None else self._services.waiting,
            log_bytes=log.log_bytes,
            log_queued_bytes=log.queued_bytes,
            store_queued_bytes=self._parts.store.queued_bytes,
            disk_free_bytes=log.free_bytes,
            disk_volume_bytes=log.volume_bytes,
            disk_full=not log.has_room,
            copy_bytes=self._parts.store.file_bytes,
            cold_copies=self._parts.store.cold_copies,
            peer_frames=traffic.counts(),
            peer_bytes=traffic.sizes(),
            refused=self.news.refusals.total,
        )


def _refuse_lost_log(parts: HostParts) -> None:
    """Refuse to go on as a voter and as copies whose promises are gone: only a new storage id may come from here."""
    if parts.cluster_id and parts.recovered.empty:
        raise StartRefused("the log of this node is gone while its identity is not: empty the data directory")
    if parts.recovered.raft_harmed:
        raise StartRefused("durable Raft records of this node are damaged: empty the data directory, it is rebuilt")


async def greet_all(session: Any, addresses: Sequence[str], own: Hello) -> list[Hello]:
    """Greet several addresses at once; return the answers of those that answered."""
    answers: list[Hello | BaseException] = await asyncio.gather(
        *(greet(session, address, own) for address in addresses), return_exceptions=True
    )
    return [answer for answer in answers if isinstance(answer, Hello)]
