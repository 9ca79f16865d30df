"""A node behind the service for tests: an in-memory register store that answers as replication would, faults on demand.

It keeps the outside of ``Driving``: versions count per shard, preconditions, operation results under an Idempotency-Key,
pages in the order of the keys' bytes. Nothing is replicated and nothing waits, unless a test holds it back.
"""

from __future__ import annotations

import asyncio
from collections import deque

from msgspec import Struct

from ringkeep_core.errors import Conflict
from ringkeep_core.mapchanges import MapChange, Refusal, apply, bootstrap
from ringkeep_core.placement import NodeState
from ringkeep_core.plans import NodeFacts
from ringkeep_core.services import NodeHealth
from ringkeep_core.shardmap import Member, Settings, ShardMap
from ringkeep_core.summary import Seen, SeenMember
from ringkeep_node.machines.documents import Answer, IdempotencyKey, Row, Write
from ringkeep_node.machines.messages import ProposeOutcome
from ringkeep_node.machines.registry_view import NodeFact
from ringkeep_node.machines.shard.effects import (
    Absent,
    Found,
    NotApplied,
    NotModified,
    PageFound,
    ReadKind,
    ReadRequest,
    Result,
    Stored,
    WriteRequest,
)
from ringkeep_node.metrics import NodeNumbers
from ringkeep_node.runtime.founding import BootstrapRequest
from ringkeep_node.runtime.reports import Event, LeaderReport, MemberReport, RunningPlan

CLUSTER_ID = "c0ffee0000000001"


class FakeIdentity(Struct, frozen=True):
    """A node that never was."""

    name: str = "n1"
    storage: str = "5000000000000001"
    boot: str = "b000000000000001"
    counter: int = 1
    url: str = "http://127.0.0.1:8081"
    peer: str = "127.0.0.1:7401"
    zone: str = "z1"


def first_map(nodes: int = 3, shards: int = 16) -> ShardMap:
    """Return the map of a cluster that was just founded; the first member is the fake node."""
    me = FakeIdentity()
    members = [Member(me.storage, me.name, me.boot, 1, me.url, me.peer, me.zone, 0)] + [
        Member(
            f"500000000000000{i}",
            f"n{i}",
            f"b00000000000000{i}",
            1,
            f"http://127.0.0.1:808{i}",
            f"127.0.0.1:740{i}",
            "",
            0,
        )
        for i in range(2, nodes + 1)
    ]
    return bootstrap(cluster_id=CLUSTER_ID, members=members, shards=shards, settings=Settings())


class FakeDriver:
    """One node that leads every shard."""

    def __init__(self, *, founded: bool = True, shards: int = 16) -> None:
        self.identity = FakeIdentity()
        self.cluster_id = CLUSTER_ID if founded else ""
        self.shard_map: ShardMap | None = first_map(shards=shards) if founded else None
        self.rows: dict[int, dict[tuple[str, str], Row]] = {}
        self.sns: dict[int, int] = {}
        self.remembered: dict[tuple[str, str], tuple[IdempotencyKey, Result]] = {}
        self.failures: deque[Result | BaseException] = deque()
        """What the next requests are answered instead of being carried out."""
        self.seen: list[tuple[int, WriteRequest | ReadRequest, float]] = []
        self.proposed: list[MapChange] = []
        self.asked: list[BootstrapRequest] = []
        self.facts_set: dict[str, NodeFacts] = {}
        self.voters_set: tuple[str, ...] | None = None
        self.bytes_each = 1000
        self.running: RunningPlan | None = None
        self.transferred: list[str] = []
        self.lag = 0
        self.look_set: Seen | None = None
        self.not_ready: str | None = None
        self.current_from = 0
        self.current_from = 0
        self.not_live: str | None = None
        self.happened: tuple[Event, ...] = ()
        self.open_writes = 0
        self.open_writes_most = 0
        self._map_changed = asyncio.Event()
        self.held_back: asyncio.Event | None = None
        """While set to an event, requests wait for it before they are carried out."""

    @property
    def node_facts(self) -> list[NodeFact]:
        """What the registry shows of the nodes, this one first."""
        assert self.shard_map is not None
        return [
            NodeFact(one.storage, one.name, one.boot, 1, one.url, "127.0.0.1", one.zone, NodeHealth.ALIVE)
            for one in self.shard_map.members.values()
        ]

    # --- Driving -------------------------------------------------------------------------------------------------

    async def submit(self, shard: int, request: WriteRequest | ReadRequest, *, timeout_s: float, size: int) -> Result:
        """Carry a request out at once, or answer the next injected failure."""
        self.seen.append((shard, request, timeout_s))
        if self.failures:
            failure = self.failures.popleft()
            if isinstance(failure, BaseException):
                raise failure
            return failure
        if self.held_back is not None:
            self.open_writes += 1
            self.open_writes_most = max(self.open_writes_most, self.open_writes)
            await self.held_back.wait()
            self.open_writes -= 1
        return self._write(shard, request) if isinstance(request, WriteRequest) else self._read(shard, request)

    async def propose(self, change: MapChange, *, timeout_s: float) -> ProposeOutcome:
        """Apply a change to the map as the leader would."""
        assert self.shard_map is not None
        self.proposed.append(change)
        applied = apply(self.shard_map, self.shard_map.version + 1, change)
        self.replace_map(applied.map)
        outcome = applied.outcomes[0]
        if isinstance(outcome, Refusal):
            return ProposeOutcome(1, applied.map.version, outcome.code, outcome.detail)
        return ProposeOutcome(1, applied.map.version, "", "")

    async def bootstrap(self, request: BootstrapRequest) -> str:
        """Found the fake cluster, once."""
        self.asked.append(request)
        if self.cluster_id:
            raise Conflict(f"this node already belongs to cluster {self.cluster_id}")
        self.cluster_id = CLUSTER_ID
        self.replace_map(first_map(shards=request.shards))
        return CLUSTER_ID

    async def wait_newer_than(self, version: int, *, timeout_s: float) -> None:
        """Wait until the map was replaced."""
        try:
            async with asyncio.timeout(timeout_s):
                while self.shard_map is None or self.shard_map.version <= version:
                    self._map_changed.clear()
                    await self._map_changed.wait()
        except TimeoutError:
            return

    def members(self) -> tuple[MemberReport, ...]:
        """Return every member of the map as alive, or this node alone as joining."""
        me = self.identity
        if self.shard_map is None:
            return (
                MemberReport(
                    name=me.name,
                    state="joining",
                    storage_id=me.storage,
                    boot_id=me.boot,
                    url=me.url,
                    peer=me.peer,
                    zone=me.zone,
                ),
            )
        return tuple(
            MemberReport(
                name=member.name,
                state="alive",
                storage_id=member.storage,
                boot_id=member.boot,
                url=member.url,
                peer=member.peer,
                zone=member.zone,
            )
            for member in self.shard_map.members.values()
        )

    def leader(self) -> LeaderReport | None:
        """Return this node, once there is a cluster."""
        return LeaderReport(self.identity.name, self.identity.url, 3) if self.cluster_id else None

    def facts(self) -> dict[str, NodeFacts]:
        """Return every member as alive, with the room that the test sets."""
        assert self.shard_map is not None
        alive = {name: NodeFacts(NodeState.ALIVE) for name in self.shard_map.by_name}
        return {**alive, **self.facts_set}

    def shard_bytes(self) -> list[int] | None:
        """Return the same size for each shard."""
        return [self.bytes_each] * len(self.shard_map.shards) if self.shard_map is not None else None

    def voters(self) -> tuple[str, ...]:
        """Return what the test sets, otherwise the first three members."""
        if self.voters_set is not None:
            return self.voters_set
        return tuple(self.shard_map.members)[:3] if self.shard_map is not None else ()

    def opinion(self) -> tuple[int, str]:
        """Nobody was watching when the wanted state was accepted."""
        return 0, "none"

    def running_plan(self) -> RunningPlan | None:
        """Return what the test sets."""
        return self.running

    async def transfer_leader(self, to: str, *, timeout_s: float) -> LeaderReport:
        """Note the wish and name the member as leader."""
        assert self.shard_map is not None
        self.transferred.append(to)
        member = self.shard_map.members[to or list(self.shard_map.members)[1]]
        return LeaderReport(member.name, member.url, 2)

    def events(self, after: int) -> tuple[Event, ...]:
        """Return what the test put in."""
        return tuple(event for event in self.happened if event.number > after)

    def look(self) -> Seen:
        """Return the map with everybody alive, or what the test sets."""
        if self.look_set is not None:
            return self.look_set
        leader = self.leader()
        return Seen(
            node=self.identity.name,
            now=1000.0,
            cluster_id=self.cluster_id,
            held=self.shard_map,
            members=tuple(SeenMember(storage=it.storage_id, name=it.name, state=it.state) for it in self.members()),
            leader=leader.name if leader is not None else None,
            term=leader.term if leader is not None else 0,
            voters=self.voters(),
        )

    def is_ready(self) -> str | None:
        """Return what the test says."""
        return self.not_ready if self.cluster_id else "this node belongs to no cluster yet"

    def is_current(self) -> bool:
        """Return whether the version that the test asks for is reached."""
        return self.shard_map is None or self.shard_map.version >= self.current_from

    def is_live(self) -> str | None:
        """Return what the test says."""
        return self.not_live

    def numbers(self) -> NodeNumbers:
        """Return a few numbers."""
        version = self.shard_map.version if self.shard_map else 0
        return NodeNumbers(map_version=version, members={"alive": 3}, shards={("primary", "ok"): 16})

    # --- the store -----------------------------------------------------------------------------------------------

    def replace_map(self, shard_map: ShardMap) -> None:
        """Hold another map from now on."""
        self.shard_map = shard_map
        self._map_changed.set()

    def document(self, user: str, key: str) -> Row | None:
        """Return what is stored."""
        assert self.shard_map is not None
        return self.rows.get(self.shard_map.shard_of(user), {}).get((user, key))

    @property
    def documents(self) -> dict[tuple[str, str], bytes]:
        """Everything that is stored."""
        return {name: row.value for rows in self.rows.values() for name, row in sorted(rows.items())}

    def _epoch(self, shard: int) -> int:
        assert self.shard_map is not None
        return self.shard_map.shards[shard].epoch

    def _write(self, shard: int, request: WriteRequest) -> Result:
        key = request.idempotency
        if key is not None and (known := self.remembered.get((key.user, key.key))) is not None:
            return known[1] if known[0] == key else NotApplied("key_reused", "the key was used by another request")
        result = self._applied(shard, request)
        if key is not None and isinstance(result, Stored):
            self.remembered[key.user, key.key] = (key, result)
        return result

    def _applied(self, shard: int, request: WriteRequest) -> Result:
        rows = self.rows.setdefault(shard, {})
        first = request.writes[0]
        before = rows.get((first.user, first.key))
        if not _holds(before, request.if_match, request.if_none_match):
            return NotApplied("version_mismatch", "the document has another version")
        if first.value is None and before is None:
            return Absent(self._epoch(shard))
        sn = self.sns[shard] = self.sns.get(shard, 0) + 1
        for write in request.writes:
            self._set(rows, write, sn, request.wall_ms)
        answer = Answer.CREATED if before is None else Answer.REPLACED
        if first.value is None:
            answer = Answer.DELETED
        return Stored(Answer.IMPORTED if request.imported else answer, sn, self._epoch(shard))

    def _set(self, rows: dict[tuple[str, str], Row], write: Write, sn: int, wall_ms: int) -> None:
        if write.value is None:
            rows.pop((write.user, write.key), None)
        else:
            rows[write.user, write.key] = Row(write.user, write.key, sn, wall_ms, write.content_type, write.value)

    def _read(self, shard: int, request: ReadRequest) -> Result:
        if request.kind == ReadKind.PAGE:
            return self._page(shard, request)
        row = self.rows.get(shard, {}).get((request.user, request.key))
        epoch = self._epoch(shard)
        lag = self.lag if request.local else 0
        if not _holds(row, request.if_match, None):
            return NotApplied("version_mismatch", "the document has another version")
        if row is None:
            return Absent(epoch, lag)
        if not _holds(row, None, request.if_none_match):
            return NotModified(row.version, epoch)
        size = len(row.value)
        if request.kind == ReadKind.HEAD:
            row = Row(row.user, row.key, row.version, row.modified_ms, row.content_type, b"")
        return Found(row, size, epoch, lag)

    def _page(self, shard: int, request: ReadRequest) -> Result:
        names = sorted(
            (name for name in self.rows.get(shard, {}) if name[0] == request.user), key=lambda name: name[1].encode()
        )
        after = request.after.encode()
        names = [name for name in names if name[1].startswith(request.prefix) and name[1].encode() > after]
        rows = [self.rows[shard][name] for name in names[: request.limit]]
        more = rows[-1].key if len(names) > request.limit else None
        return PageFound(tuple(rows), more, self._epoch(shard), self.lag if request.local else 0)


def _holds(row: Row | None, if_match: tuple[int, ...] | None, if_none_match: tuple[int, ...] | None) -> bool:
    if if_match is not None and (row is None or (if_match and row.version not in if_match)):
        return False
    return if_none_match is None or row is None or bool(if_none_match and row.version not in if_none_match)
