"""One whole node as a pure machine: everything that happens goes in, everything to be done comes out.

    request --> gateway --> replication (here) or a forward (another node) --> answer
    peers   --> Raft, replication, map pulls, forwards (some to be relayed)
    gossip  --> SWIM --> verdicts --> leader (if this node leads) --> map changes --> Raft
    Raft    --> map held --> replication, gateway, gossip
    disk    --> synced, applied

The code around it (``runtime.driver``, or the simulator) persists a step's records, reports ``synced`` when that is
done, and carries out the rest of the step at once: what must wait for the disk is kept in here until then.

Source: architecture.md, "Decide, then do"; replication.md, rules 0 and 2 and "Members".
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

from msgspec import Struct, field, structs

from ringkeep_core.mapchanges import Boot, MapChange, ShardChanges
from ringkeep_core.maprules import Applied
from ringkeep_core.services import NodeHealth
from ringkeep_core.shardmap import ShardMap, position_of
from ringkeep_node.machines.control import Control, recovered_raft
from ringkeep_node.machines.discovery import Discovery, address_of
from ringkeep_node.machines.farewells import FAREWELL_S, Farewells
from ringkeep_node.machines.gateway import Answered, Gateway, GatewaySettings
from ringkeep_node.machines.held_map import HeldMap, recovered_map
from ringkeep_node.machines.leader import Leader, LeaderSettings
from ringkeep_node.machines.messages import (
    Bundle,
    Channel,
    ForwardAnswer,
    ForwardRead,
    ForwardWrite,
    HandOverShards,
    MapPull,
    NodeMessage,
    ProposeOutcome,
)
from ringkeep_node.machines.oversight import (
    Oversight,
    leader_hint,
    member_addresses,
    registered_members,
    split_address,
)
from ringkeep_node.machines.raft.machine import Raft
from ringkeep_node.machines.raft.messages import RaftMessage
from ringkeep_node.machines.raft.settings import RaftSettings
from ringkeep_node.machines.records import Record
from ringkeep_node.machines.recovery import RecoveredLog
from ringkeep_node.machines.registration import Registration
from ringkeep_node.machines.registry import RegistrySettings
from ringkeep_node.machines.registry_tables import SERVICES_MESSAGES
from ringkeep_node.machines.registry_view import NodeFact
from ringkeep_node.machines.relay import Relays
from ringkeep_node.machines.serving import Serving
from ringkeep_node.machines.shard.effects import (
    DataRead,
    Handed,
    ReadRequest,
    ShardStep,
    StoredCopyLike,
    StoreOrder,
    StoreView,
    WriteRequest,
)
from ringkeep_node.machines.shard.messages import (
    BULK_MESSAGES,
    CONTROL_MESSAGES,
    Append,
    Ping,
    Pong,
    ShardMessage,
    SnapshotRows,
)
from ringkeep_node.machines.shard.replication import Replication
from ringkeep_node.machines.shard.settings import ReplicationSettings
from ringkeep_node.machines.swim.machine import Swim, SwimStep
from ringkeep_node.machines.swim.members import (
    Address,
    Evidence,
    MemberChanged,
    MemberIdentity,
)
from ringkeep_node.machines.swim.timing import SwimSettings

BOOT_NUMBERS_BITS = 32
GREETED_MAX = 64
HOUSEKEEPING_S = 0.2
HOUSEKEEPING_LATE_S = 0.3
STALLED_AFTER_S = 2.0

__all__ = ["Node", "NodeIdentity", "NodeSettings", "NodeStep", "registered_members", "split_address"]

Peer = tuple[str, Channel]
NODE_MESSAGES = frozenset(NodeMessage.__args__)
SHARD_CHANNELS: dict[type, Channel] = {
    **dict.fromkeys(CONTROL_MESSAGES, Channel.CONTROL),
    **dict.fromkeys(BULK_MESSAGES, Channel.BULK),
}
"""What does not travel with the data."""


class NodeIdentity(Struct, frozen=True):
    """Who this node is in this boot. ``peer`` is host:port of its peer links and gossip, ``url`` its REST base.

    ``former`` are the boots of its directory, this one the newest.
    """

    name: str
    storage: str
    boot: str
    counter: int
    url: str
    peer: str
    zone: str = ""
    weight: float = 1.0
    former: tuple[str, ...] = ()

    @property
    def fact(self) -> NodeFact:
        """What the registry shows of this node."""
        where = (self.url, address_of(self.url), self.zone)
        return NodeFact(self.storage, self.name, self.boot, self.counter, *where, NodeHealth.ALIVE)


class NodeSettings(Struct, frozen=True):
    """Settings of all machines of a node."""

    raft: RaftSettings = field(default_factory=RaftSettings)
    replication: ReplicationSettings = field(default_factory=ReplicationSettings)
    swim: SwimSettings = field(default_factory=SwimSettings)
    gateway: GatewaySettings = field(default_factory=GatewaySettings)
    leader: LeaderSettings = field(default_factory=LeaderSettings)
    services: RegistrySettings = RegistrySettings()


class NodeStep(Struct):
    """What one turn produced. Persist ``records`` (then report ``synced(number)``), do everything else at once."""

    number: int
    records: list[Record] = field(default_factory=list)
    urgent: bool = False
    bundles: dict[Peer, Bundle] = field(default_factory=dict)
    datagrams: list[tuple[Address, bytes]] = field(default_factory=list)
    orders: list[StoreOrder] = field(default_factory=list)
    apply: list[Handed] = field(default_factory=list)
    reads: list[DataRead] = field(default_factory=list)
    answers: list[Answered] = field(default_factory=list)
    outcomes: list[tuple[int, ProposeOutcome]] = field(default_factory=list)
    map_changes: list[tuple[MapChange, ShardMap, Applied]] = field(default_factory=list)
    member_changes: list[MemberChanged] = field(default_factory=list)
    topics: set[str] = field(default_factory=set)
    checks_changed: bool = False
    peers: dict[str, str] | None = None
    fatal: str = ""


class Node:
    """All machines of one node, in one boot, in one cluster. Call ``take_step`` after every batch of inputs."""

    def __init__(
        self,
        *,
        identity: NodeIdentity,
        cluster_id: str,
        settings: NodeSettings,
        recovered: RecoveredLog,
        stored: Sequence[StoredCopyLike],
        store: StoreView,
        seeds: Sequence[Address],
        draw: Callable[[], float],
        now: float,
    ) -> None:
        self.identity, self.cluster_id = identity, cluster_id
        raft_log, held = recovered_raft(recovered.term, recovered.vote, recovered.raft_snapshot, recovered.raft_entries)
        pulled = recovered_map(recovered.map_snapshot, recovered.map_through, recovered.map_entries)
        self._links_up: dict[str, None] = {}
        first_number = (identity.counter << BOOT_NUMBERS_BITS) + 1
        self.raft = Raft(me=identity.storage, recovered=raft_log, settings=settings.raft, draw=draw, now=now)
        self.swim = Swim(
            me=MemberIdentity(
                storage=identity.storage,
                name=identity.name,
                boot=identity.boot,
                counter=identity.counter,
                address=split_address(identity.peer),
            ),
            cluster_id=cluster_id,
            settings=settings.swim,
            seeds=seeds,
            draw=draw,
            now=now,
        )
        self.leader = Leader(me=identity.storage, settings=settings.leader, now=now)
        self.control = Control(
            me=identity.storage,
            raft=self.raft,
            held=pulled if pulled.through > held.through else held,
            leader_hint=lambda: leader_hint(self.swim),
            complete_boot=self.leader.complete_boot,
            is_linked=self._is_linked,
            linked=lambda: self._links_up,
            first_number=first_number,
        )
        self.oversight = Oversight(me=identity.storage, swim=self.swim, leader=self.leader, control=self.control)
        self.shards = Replication(
            me=identity.storage,
            boot=identity.boot,
            settings=settings.replication,
            store=store,
            stored=stored,
            recovered=recovered.copies,
            own_index=self.raft.own_index,
            now=now,
        )
        self._take_requests(settings.gateway, first_number)
        self.discovery = Discovery(identity.fact, self.swim, settings.services, now=now)
        self._step = NodeStep(1)
        self._unsynced_shards: deque[tuple[int, ShardStep]] = deque()
        self._through_wanted = 0
        self._housekeeping_due = self._housekeeping_late = now
        self._through_told = -1
        self._greeted: dict[str, str] = {}
        self._farewells = Farewells()
        self._closes_at: float | None = None
        self._is_closed = False
        self._last_records = self._synced = 0
        self._stalled = self._stands_down = False

    def _take_requests(self, settings: GatewaySettings, first_number: int) -> None:
        """Make the parts that requests and the own registration need."""
        identity = self.identity
        self.gateway = Gateway(me=identity.storage, boot=identity.boot, settings=settings, first_attempt=first_number)
        self.serving = Serving(
            me=identity.storage,
            gateway=self.gateway,
            shards=self.shards,
            relays=Relays(first_number=first_number),
            held_map=lambda: self.held.map,
            send=self._send,
        )
        self.registration = Registration(
            name=identity.name,
            storage=identity.storage,
            boot=identity.boot,
            cluster_id=self.cluster_id,
            control=self.control,
            boot_for=self._boot_for,
        )

    # --- what can be read at any time ----------------------------------------------------------------------------

    @property
    def held(self) -> HeldMap:
        """The map this node holds."""
        return self.control.held

    @property
    def registered(self) -> bool:
        """Whether the held map names this boot: before that the node serves nobody."""
        return self.registration.registered

    @property
    def has_left(self) -> bool:
        """Whether this node left the cluster for good while it ran: it is idle, says so and disturbs nobody."""
        return self.registration.has_left

    @property
    def is_stalled(self) -> bool:
        """Whether the log's sync hangs."""
        return self._stalled

    def next_deadline(self) -> float:
        """When ``tick`` has something to do."""
        due = min(self.control.next_deadline(), self._housekeeping_late)
        if not self.has_left:
            due = min(due, self.swim.next_deadline())
        for machine in (self.shards, self.gateway, self.leader, self.discovery):
            other = machine.next_deadline()
            if other is not None and other < due:
                due = other
        return due

    @property
    def is_relieved(self) -> bool:
        """Whether this node leads no shard, or nobody is there who could lead it instead."""
        held, own = self.held.map, self.identity.storage
        return held is None or all(shard.primary.storage != own for shard in held.shards) or self.is_alone

    @property
    def is_released(self) -> bool:
        """Whether no write waits for this node's acknowledgement, or nobody is there who could go on without it."""
        held, own = self.held.map, self.identity.storage
        return held is None or not any(shard.is_in_sync(own) for shard in held.shards) or self.is_alone

    @property
    def is_alone(self) -> bool:
        """Whether no other member is known to be alive and to stay: there is nobody to hand anything to."""
        return not self.oversight.others_stay()

    @property
    def is_full(self) -> bool:
        """Whether log or store hold as much as they may, as the driver says: no new change is admitted here."""
        return self.serving.is_full

    # --- inputs --------------------------------------------------------------------------------------------------

    def stand_down(self, *, now: float) -> bool:
        """Hand Raft leadership to another voter, and do not stand for election any more: this process will end.

        Returns whether there is something to hand over and somebody to take it.
        """
        self._stands_down = True
        self._set_electable()
        return self.raft.step_down(now=now, to=self.leader.successor())

    def leave(self, *, now: float) -> None:
        """Tell everybody that this process ends: nobody need suspect it first, its shards are failed over at once."""
        self.oversight.take(self.swim.leave(now=now), now=now)

    def receive(self, sender: str, boot: str, bundle: Bundle, *, now: float) -> None:
        """Take everything a greeted peer of this cluster said in one frame."""
        if self._farewells.has_left(sender):
            self._bid_farewell(sender, now)
        for message in bundle.node:
            self._node_message(sender, message, now)
        for raft_message in bundle.raft:
            self.control.raft_message(sender, raft_message, generation=bundle.generation, now=now)
        is_full = self.serving.is_full
        for shard_message in bundle.shard:
            kind = type(shard_message)
            if kind is Ping or kind is Pong:
                self._compare_maps(sender, shard_message, now)  # type: ignore[arg-type]  # kind says so
            elif is_full and (kind is Append or kind is SnapshotRows):
                continue  # Not acknowledged, so sent again later: a copy whose disk has fallen behind takes no more.
            self.shards.receive(sender, boot, shard_message, now=now)

    def datagram(self, data: bytes, source: Address, *, now: float) -> None:
        """Take a gossip datagram; the bytes are anybody's."""
        self._gossip(self.swim.datagram(data, source, now=now), now)

    def greeted(self, storage: str, address: str) -> None:
        """A node of this cluster dialled us; it may not be in our map yet, but can be answered."""
        if storage != self.identity.storage and self._greeted.get(storage) != address:
            self._greeted.pop(storage, None)
            self._greeted[storage] = address
            # Whoever knows the cluster id can greet under any number of names.
            while len(self._greeted) > GREETED_MAX:
                del self._greeted[next(iter(self._greeted))]
            self._step.peers = self._addresses()

    def link_up(self, storage: str, boot: str, channel: Channel, *, now: float) -> None:
        """A link to a peer can be written."""
        if channel is Channel.CONTROL:
            self._gossip(self.swim.hint(storage, Evidence.CONNECTED, now=now), now)
            self._links_up[storage] = None
            if self.held.map is None:
                self._send(storage, MapPull(0))
            self._campaign_if_new(now)
        elif channel is Channel.DATA:
            self.shards.peer_up(storage, boot, now=now)
            self.gateway.peer_up(storage, now=now)
            self.discovery.registry.linked(storage, now=now)

    def _is_linked(self, storage: str) -> bool:
        return storage in self._links_up

    def link_down(self, storage: str, channel: Channel, evidence: Evidence | None, *, now: float) -> None:
        """A link was lost or could not be made; ``evidence`` is what that says about the peer, if anything."""
        if channel is Channel.CONTROL:
            self._links_up.pop(storage, None)
            if self._farewells.lost(storage):
                self._step.peers = self._addresses()
        if evidence is not None:
            self._gossip(self.swim.hint(storage, evidence, now=now), now)
        if channel is Channel.DATA:
            self.shards.peer_down(storage, now=now)
            self.gateway.peer_down(storage, now=now)
            self.serving.link_lost(storage)
            self.discovery.registry.unlinked(storage)

    def full(self, is_full: bool) -> None:
        """Say whether log or store hold as much as they may."""
        self.serving.is_full = is_full

    def submit(self, token: int, shard: int, request: WriteRequest | ReadRequest, *, size: int, now: float) -> None:
        """Take a client's request; ``answers`` will name ``token`` exactly once, at the latest at its deadline."""
        self.serving.submit(token, shard, request, size=size, now=now)

    def propose(self, change: MapChange, *, deadline: float, now: float) -> int:
        """Take an administrative change; ``outcomes`` will name the returned number."""
        return self.control.propose_tracked(change, deadline=deadline, now=now)

    def synced(self, step: int, *, now: float) -> None:
        """The records of all steps up to ``step`` are durable."""
        self._synced = step
        self.control.synced(step, now=now)
        while self._unsynced_shards and self._unsynced_shards[0][0] <= step:
            self._shards_synced(self._unsynced_shards.popleft()[1], now)

    def urgent_synced(self, step: int, *, now: float) -> None:
        """All records of Raft and the map of steps up to ``step`` are durable; what shards wrote may still wait.

        A vote thus leaves although an import is queued before it (counterexamples.md L7).
        """
        self.control.synced(step, now=now)

    def _shards_synced(self, done: ShardStep, now: float) -> None:
        self._send_shard(done.send_synced)
        self.shards.synced(done.number, now=now)

    def lagged(self, lag_s: float, *, now: float) -> None:
        """The loop was late by so much: distrust own clocks before judging others."""
        self.swim.lagged(lag_s, now=now)
        self.raft.lagged(lag_s)
        self.shards.lagged(now=now)
        self.leader.lagged(lag_s, now=now)

    def stalled(self, sync_age_s: float, *, now: float) -> None:
        """Say how long the log's present sync has been running: a disk that hangs must not lead, and says so itself."""
        stalled = sync_age_s >= STALLED_AFTER_S
        if stalled == self._stalled:
            return
        self._stalled = stalled
        self.oversight.tell_stalled(stalled, now=now)
        self.shards.stalled(stalled, now=now)
        self._set_electable()
        if stalled:
            self.raft.step_down(now=now)

    def _set_electable(self) -> None:
        """Stand for election unless anything speaks against it: a disk that works again does not undo the rest.

        Whoever has left may not have heard that it does not vote any more.
        """
        self.raft.set_electable(not (self._stalled or self._stands_down or self.has_left))

    def tick(self, *, now: float) -> None:
        """Fire every timer that is due. Feed what has arrived first."""
        if now >= self.control.next_deadline():
            self.control.tick(now=now)
        if not self.has_left and now >= self.swim.next_deadline():
            self._gossip(self.swim.tick(now=now), now)
        due = self.shards.next_deadline()
        if due is not None and now >= due:
            self.shards.tick(now=now)
        due = self.gateway.next_deadline()
        if due is not None and now >= due:
            self.gateway.tick(now=now)
        self.discovery.tick(now=now)
        self._housekeep(now)

    # --- the step ------------------------------------------------------------------------------------------------

    def take_step(self, *, now: float) -> NodeStep:
        """Return everything that came out since the last call."""
        while self._turn(now):
            pass
        self._take_services(now)
        step, self._step = self._step, NodeStep(self._step.number + 1)
        if self.serving.answers:
            step.answers, self.serving.answers = self.serving.answers, []
        oversight = self.oversight
        if oversight.datagrams:
            step.datagrams, oversight.datagrams = oversight.datagrams, []
        if oversight.member_changes:
            step.member_changes, oversight.member_changes = oversight.member_changes, []
        step.fatal = self.registration.fatal
        return step

    def _take_services(self, now: float) -> None:
        self.discovery.stale = self.discovery.stale or bool(self.oversight.member_changes)
        done = self.discovery.take(self.held.map, now=now)
        if done is not None:
            self._step.topics, self._step.checks_changed = done.changed, done.checks_changed
            for to, message in done.sends:
                self._send(to, message, Channel.DATA)

    def _turn(self, now: float) -> bool:
        """Move outputs of one machine to the next. Returns whether there may be more."""
        self.oversight.lead(now=now)
        if self.oversight.hand_overs:
            self._order_hand_overs(now)
        self.control.collect(self._step.number, now=now)
        more = self._from_control(now)
        self.serving.carry(now=now)  # Before the shards, which then take requests in and give answers in the same turn.
        more = self._from_shards(now) or more
        return self.serving.carry(now=now) or more

    def _from_control(self, now: float) -> bool:
        control, step = self.control, self._step
        if control.records:
            step.records += control.records
            step.urgent = True
            control.records = []
        sends, control.sends = control.sends, []
        for to, message in sends:
            self._send(to, message)
        step.outcomes += self.registration.settle(control.outcomes)
        control.outcomes = []
        indexes, control.indexes = control.indexes, []
        for token, index in indexes:
            self._through_wanted = max(self._through_wanted, index or 0)
            self.shards.read_index_answered(token, index, now=now)
        changes, control.changes = control.changes, []
        if changes:
            self._note_changes(changes)
        role_changed, control.role_changed = control.role_changed, False
        if role_changed:
            self.oversight.tell_leadership(now=now)
        moved = self._map_moved(now)
        return bool(sends or indexes or changes or moved or role_changed)

    def _from_shards(self, now: float) -> bool:
        done = self.shards.take_step()
        if done.is_empty():
            return False
        step = self._step
        if done.records:
            step.records += done.records
            self._last_records = step.number
        if self._last_records > self._synced:
            # A step without records still waits for the records of earlier ones.
            self._unsynced_shards.append((self._last_records, done))
        else:
            self._shards_synced(done, now)
        self._send_shard(done.send)
        step.orders += done.orders
        step.apply += done.apply
        step.reads += done.reads
        for token, result in done.answers:
            self.serving.answered(token, result, now=now)
        if self.has_left:
            return False  # It has no copies, and nobody takes questions or changes from it.
        for changes, may_wait in ((done.proposals, False), (done.may_wait, True)):
            if changes:
                self.control.propose(ShardChanges(tuple(changes), "replication"), now=now, may_wait=may_wait)
        for moves, reason in done.hand_overs:
            self.control.propose(ShardChanges(moves, reason), now=now)
        for token in done.read_index:
            self.control.ask_index(token, deadline=now + 1.0, now=now)
        return bool(done.proposals or done.may_wait or done.hand_overs or done.read_index)

    # --- messages ------------------------------------------------------------------------------------------------

    def _node_message(self, sender: str, message: NodeMessage, now: float) -> None:
        kind = type(message)
        if kind is ForwardWrite or kind is ForwardRead:
            assert isinstance(message, ForwardWrite | ForwardRead)
            self.serving.forwarded(sender, message, now=now)
        elif kind is ForwardAnswer:
            assert isinstance(message, ForwardAnswer)
            self.serving.forward_answered(sender, message, now=now)
        elif kind is HandOverShards:
            assert isinstance(message, HandOverShards)
            self.shards.hand_over(message.moves, message.reason, now=now)
        elif kind in SERVICES_MESSAGES:
            self.discovery.registry.receive(sender, message, now=now)  # type: ignore[arg-type]  # kind says so
        else:
            self.control.node_message(sender, message, self._step.number, now=now)

    def _order_hand_overs(self, now: float) -> None:
        """Bring what the leader decided to the primaries it concerns."""
        orders, self.oversight.hand_overs = self.oversight.hand_overs, []
        for order in orders:
            if order.source == self.identity.storage:
                self.shards.hand_over(order.moves, order.reason, now=now)
            else:
                self._send(order.source, HandOverShards(order.moves, order.reason))

    def _compare_maps(self, sender: str, message: Ping | Pong, now: float) -> None:
        held = self.held.map
        version = 0 if held is None else held.version
        if message.version < version and type(message) is Ping:
            self.control.bring_up_to_date(sender, position_of(message.version))
        elif message.version > version:
            self.control.heard_of_newer(sender, position_of(message.version), now=now)

    def _bundle(self, peer: str, channel: Channel) -> Bundle:
        key = (peer, channel)
        bundle = self._step.bundles.get(key)
        if bundle is None:
            bundle = self._step.bundles[key] = Bundle()
        return bundle

    def _send(self, to: str, message: NodeMessage | RaftMessage, channel: Channel = Channel.CONTROL) -> None:
        bundle = self._bundle(to, channel)
        if type(message) in NODE_MESSAGES:
            bundle.node.append(message)  # type: ignore[arg-type]  # its type says so
        else:
            if bundle.generation != self.control.generation:
                bundle.generation = self.control.generation
                bundle.raft.clear()  # Said for a group that this node has left since.
            bundle.raft.append(message)  # type: ignore[arg-type]  # whatever is no node message

    def _send_shard(self, sends: Sequence[tuple[str, ShardMessage]]) -> None:
        for to, message in sends:
            channel = SHARD_CHANNELS.get(type(message), Channel.DATA)
            self._bundle(to, channel).shard.append(message)

    # --- the map -------------------------------------------------------------------------------------------------

    def _map_moved(self, now: float) -> bool:
        held, control = self.held, self.control
        if held.map is None or (held.through == self._through_told and not control.map_moved):
            return False
        self._through_told = held.through
        self.shards.map_held(held.map, through=held.through, now=now)
        if not control.map_moved:
            return True
        control.map_moved = False
        self.oversight.map_held(held.map, now=now)
        self.gateway.map_held(held.map, now=now)
        self.registration.map_held(held.map)
        self.discovery.stale = True
        if self.has_left and self._closes_at is None:
            self._closes_at = now + FAREWELL_S
            self.serving.refusal = self.registration.has_left_text
            self._set_electable()
        self._farewells.map_held(held.map, self._greeted, now=now)
        self._step.peers = self._addresses()
        return True

    def _note_changes(self, changes: Sequence[tuple[MapChange, Applied]]) -> None:
        for change, applied in changes:
            self._step.map_changes.append((change, applied.map, applied))

    def _addresses(self) -> dict[str, str]:
        """Where to dial whom: everybody in the map, and who dialled us and is not in it, yet or any more."""
        held = self.held.map
        if self._is_closed:
            return {}
        addresses = self._farewells.without_left(self._greeted)
        if held is not None:
            addresses.update(member_addresses(held, self.swim))
        addresses.pop(self.identity.storage, None)
        return addresses

    # --- gossip and housekeeping -----------------------------------------------------------------------------------

    def _gossip(self, done: SwimStep, now: float) -> None:
        if not self.has_left:
            self.oversight.take(done, now=now)
            self.shards.peers_stopping(self.oversight.stopping, now=now)
            if done.changes:
                self._step.peers = self._addresses()

    def _bid_farewell(self, storage: str, now: float) -> None:
        """Keep a link to somebody who has left and talks to us: it must be told."""
        if self._farewells.heard(storage, self._greeted.get(storage, ""), self.held.map, now=now):
            self._step.peers = self._addresses()

    def _campaign_if_new(self, now: float) -> None:
        """Stand for the first election of a new cluster as soon as a majority can be reached: there is no leader to hear."""
        raft, voters = self.raft, self.raft.configuration.voters
        if raft.leader is None and raft.vote is None and self.identity.storage in voters and raft.last_index <= 1:
            reachable = 1 + sum(1 for voter in voters if voter in self._links_up)
            if 2 * reachable > len(voters):
                raft.campaign(now=now)

    def _housekeep(self, now: float) -> None:
        """Register this boot until the map names it, pull the map if we do not vote, and lead if we lead."""
        if now < self._housekeeping_due:
            return
        self._housekeeping_due = now + HOUSEKEEPING_S
        # A registered node has no hurry: it rides along with the next heartbeat or probe instead of waking the process.
        self._housekeeping_late = self._housekeeping_due + (HOUSEKEEPING_LATE_S if self.registered else 0.0)
        self.serving.relays.expire(now=now)
        self.oversight.stale = self.oversight.stale or self.control.leads
        if not self.has_left:
            self.oversight.tell_load(self.shards, now=now)
            self.discovery.housekeep(now=now)
        self.registration.housekeep(now=now)
        closes = not self._is_closed and self._closes_at is not None and self._closes_at <= now
        self._is_closed = self._is_closed or closes
        if self._farewells.expire(now=now) or closes:
            self._step.peers = self._addresses()
        if not self.control.has_raft and not self.has_left:
            self._pull(now)
            self.control.look_around(now=now)
        elif self.control.has_raft:
            self.oversight.look_for_generation(now=now)

    def _boot_for(self, replaces: str) -> Boot:
        own = self.identity
        change = Boot(own.name, own.storage, own.boot, own.counter, own.url, own.peer, own.zone, former=own.former)
        return structs.replace(change, replaces=replaces)

    def _pull(self, now: float) -> None:
        """Ask whoever names a newer map, or the leader, for what this node lacks."""
        if self.held.map is None:
            for storage in self._greeted:
                self._send(storage, MapPull(0))
            return
        self.oversight.look_for_map(self._through_wanted, now=now)
