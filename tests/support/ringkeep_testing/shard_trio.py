"""Three nodes, one shard, every step by hand: for named scenarios and for walks through all orders of events.

Nothing moves by itself: messages wait in their connection until ``deliver``, records until ``sync``, maps until ``hold``.
The world is plain data, so it can be copied by pickling, and a walk can go on from every state it met.
"""

from __future__ import annotations

from ringkeep_core.mapchanges import Boot, MapChange, Move, ShardChange, ShardChanges, apply, bootstrap
from ringkeep_core.shardmap import GENERATION_STEP, Member, Settings, Shard, ShardMap
from ringkeep_node.machines import documents
from ringkeep_node.machines.documents import Begin, Change, CopyState, OperationId, Remembered, Row, Write
from ringkeep_node.machines.records import EpochStart, Kind, Record
from ringkeep_node.machines.recovery import LogState
from ringkeep_node.machines.shard import effects
from ringkeep_node.machines.shard.effects import ReadRequest, Result, ShardStep, Stored, WriteRequest
from ringkeep_node.machines.shard.messages import ShardMessage
from ringkeep_node.machines.shard.primary import Lead
from ringkeep_node.machines.shard.replication import Replication
from ringkeep_node.machines.shard.settings import ReplicationSettings
from ringkeep_node.runtime.store.store import StoredCopy
from ringkeep_testing.shard_checks import Violation

SETTINGS = ReplicationSettings()
FOREVER = 1e9


class TrioStore:
    """Applied state that is durable at once; the log is what these tests are about."""

    def __init__(self) -> None:
        self.copies: dict[tuple[int, int], StoredCopy] = {}
        self.rows: dict[tuple[int, int, str, str], Row] = {}

    def row(self, shard: int, copy: int, user: str, key: str) -> Row | None:
        """Return one document."""
        return self.rows.get((shard, copy, user, key))

    def remembered(self, shard: int, copy: int, user: str, key: str) -> Remembered | None:
        """These tests use operation ids only."""
        return None

    def create(self, shard: int, copy: int) -> None:
        """Make an empty copy."""
        self.copies.setdefault((shard, copy), StoredCopy(shard, copy, True, 0, 0, CopyState(), ()))

    def apply(self, shard: int, copy: int, entries: list[tuple[int, int, bytes]]) -> None:
        """Apply consecutive entries."""
        at = self.copies[shard, copy]
        state, epochs = at.state.copy(), at.epochs
        for epoch, sn, payload in entries:
            body = documents.decode(payload)
            state.apply(sn, body)
            if type(body) is Change:
                for write in body.writes:
                    place = (shard, copy, write.user, write.key)
                    self.rows.pop(place, None)
                    if write.value is not None:
                        self.rows[place] = Row(*place[2:], sn, body.wall_ms, write.content_type, write.value)
            if not epochs or epochs[-1].epoch != epoch:
                epochs = (*epochs, EpochStart(epoch, sn))
            at = StoredCopy(shard, copy, True, epoch, sn, state, epochs)
        self.copies[shard, copy] = at

    def drop(self, shard: int, copy: int) -> None:
        """Delete a copy."""
        self.copies.pop((shard, copy), None)
        self.rows = {place: row for place, row in self.rows.items() if place[:2] != (shard, copy)}


class TrioNode:
    """One node of the trio."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.storage = f"5{name:0>15}"
        self.counter = 1
        self.boot = ""
        self.disk: list[Record] = []
        self.pending: list[ShardStep] = []
        self.store = TrioStore()
        self.machine: Replication | None = None
        self.through = 0
        self.answers: dict[int, Result] = {}
        self.indexes: list[int] = []


class Trio:
    """Nodes "a", "b", "c" with one shard led by "a" unless ``primary`` says otherwise; need 2."""

    def __init__(self, *, copies: int = 3, min_in_sync: int = 2) -> None:
        self.now = 0.0
        self.nodes = {name: TrioNode(name) for name in "abc"}
        for node in self.nodes.values():
            node.boot = f"b{node.name:0>11}{node.counter:04x}"
        members = [
            Member(it.storage, it.name, it.boot, 1, f"http://{it.name}", f"{it.name}:1", "", 0)
            for it in self.nodes.values()
        ]
        settings = Settings(replication_factor=copies, min_in_sync=min_in_sync)
        self.map = bootstrap(cluster_id="c" * 16, members=members, shards=1, settings=settings)
        self.maps: dict[int, ShardMap] = {1: self.map}
        self.index = 1
        self.links: dict[tuple[str, str], list[tuple[str, ShardMessage]]] = {}
        self.proposals: list[ShardChange] = []
        self.tokens = 0
        self.numbers = 0
        self.content: dict[tuple[int, int], bytes] = {}
        self.applied: dict[int, int] = {}
        self.acknowledged: tuple[int, int] = (0, 0)
        self.writes: dict[int, tuple[str, int]] = {}
        for node in self.nodes.values():
            self._start(node)

    # --- facts --------------------------------------------------------------------------------------------------

    @property
    def shard(self) -> Shard:
        """The shard in the committed map."""
        return self.map.shards[0]

    def named(self, storage: str) -> TrioNode:
        """Return the node of a storage."""
        return next(node for node in self.nodes.values() if node.storage == storage)

    @property
    def primary(self) -> str:
        """Name of the primary in the committed map."""
        return self.named(self.shard.primary.storage).name

    def lead(self, name: str) -> Lead | None:
        """Return what a node leads."""
        machine = self.nodes[name].machine
        return None if machine is None else machine._leads.get(0)

    def machine(self, name: str) -> Replication:
        """Return a running node's machine."""
        machine = self.nodes[name].machine
        assert machine is not None
        return machine

    # --- steps --------------------------------------------------------------------------------------------------

    def _start(self, node: TrioNode) -> None:
        state = LogState({key: copy.sn for key, copy in node.store.copies.items()})
        for record in node.disk:
            state.take(record, 1, 0)
        node.machine = Replication(
            me=node.storage,
            boot=node.boot,
            settings=SETTINGS,
            store=node.store,
            stored=list(node.store.copies.values()),
            recovered=state.recovered().copies,
            now=self.now,
        )
        if node.through == 0:
            node.through = 1
        node.machine.map_held(self.maps[node.through], through=node.through, now=self.now)
        for other in self.nodes.values():
            if other is not node and other.machine is not None:
                node.machine.peer_up(other.storage, other.boot, now=self.now)
                other.machine.peer_up(node.storage, node.boot, now=self.now)
                self.pump(other)
        self.pump(node)

    def pump(self, node: TrioNode) -> None:
        """Carry out what a machine ordered."""
        machine = node.machine
        while machine is not None:
            step = machine.take_step()
            if step.is_empty():
                return
            for record in step.records:
                self._check_record(record)
            for order in step.orders:
                if isinstance(order, effects.CreateCopy):
                    node.store.create(order.shard, order.copy)
                elif isinstance(order, effects.DropCopy):
                    node.store.drop(order.shard, order.copy)
            for to, message in step.send:
                self._post(node, to, message)
            for shard, copy, entries, _ in step.apply:
                self._check_applied(entries)
                node.store.apply(shard, copy, entries)
                machine.applied([(shard, copy, entries[-1][1])], now=self.now)
            for token, result in step.answers:
                node.answers[token] = result
                if isinstance(result, Stored):
                    self.acknowledged = max(self.acknowledged, (result.version, result.epoch))
            self.proposals += [*step.proposals, *step.may_wait]
            self.proposals += [move for moves, _ in step.hand_overs for move in moves]
            node.indexes += step.read_index
            if step.records or node.pending:
                # Nothing is durable before what was written earlier is.
                node.pending.append(step)
            else:
                self._release(node, step)

    def _release(self, node: TrioNode, step: ShardStep) -> None:
        for to, message in step.send_synced:
            self._post(node, to, message)
        assert node.machine is not None
        node.machine.synced(step.number, now=self.now)

    def _post(self, node: TrioNode, to: str, message: ShardMessage) -> None:
        self.links.setdefault((node.name, self.named(to).name), []).append((node.boot, message))

    def sync(self, *names: str) -> None:
        """Let the disk of nodes finish everything that waits."""
        for name in names or self.nodes:
            node = self.nodes[name]
            steps, node.pending = node.pending, []
            for step in steps:
                node.disk += step.records
                self._release(node, step)
            self.pump(node)

    def deliver(self, sender: str, receiver: str, *, keep: bool = False) -> ShardMessage | None:
        """Deliver the oldest message of a connection; ``keep``: it comes again later."""
        link = self.links.get((sender, receiver))
        if not link:
            return None
        boot, message = link[0] if keep else link.pop(0)
        node = self.nodes[receiver]
        if node.machine is not None:
            node.machine.receive(self.nodes[sender].storage, boot, message, now=self.now)
            self.pump(node)
        return message

    def lose(self, sender: str, receiver: str) -> None:
        """Lose everything on the way between two nodes."""
        self.links.pop((sender, receiver), None)

    def settle(self, *names: str) -> None:
        """Sync and deliver between nodes until nothing moves."""
        among = names or tuple(self.nodes)
        for _ in range(200):
            moved = False
            for name in among:
                if self.nodes[name].machine is not None and self.nodes[name].pending:
                    self.sync(name)
                    moved = True
                for other in among:
                    while name != other and self.deliver(name, other) is not None:
                        moved = True
            if not moved:
                return
        raise AssertionError("the nodes never come to rest")

    def commit(self, change: ShardChange | MapChange) -> None:
        """Let Raft commit a change; nobody holds the map yet."""
        self.index += 1
        entry = change if isinstance(change, MapChange) else ShardChanges((change,), "test")
        self.map = apply(self.map, GENERATION_STEP + self.index, entry).map
        self.maps[self.index] = self.map
        self.check()

    def hold(self, *names: str) -> None:
        """Nodes hold the committed map."""
        for name in names or self.nodes:
            node = self.nodes[name]
            node.through = self.index
            if node.machine is not None:
                node.machine.map_held(self.map, through=self.index, now=self.now)
                self.pump(node)

    def hand_over(self, name: str, to: str) -> None:
        """The leader, with the committed map before it, orders a node to hand the shard to another one."""
        move = Move(0, self.shard.revision, self.nodes[to].storage)
        self.machine(name).hand_over((move,), "test", now=self.now)
        self.pump(self.nodes[name])

    def answer_index(self, name: str) -> None:
        """Raft answers every ReadIndex a node asked for, with the index of now."""
        node = self.nodes[name]
        tokens, node.indexes = node.indexes, []
        for token in tokens:
            self.machine(name).read_index_answered(token, self.index, now=self.now)
        self.pump(node)

    def pass_time(self, seconds: float, *names: str) -> None:
        """Let time pass for nodes."""
        end = self.now + seconds
        while self.now < end:
            self.now = min(end, self.now + 0.05)
            for name in names or self.nodes:
                node = self.nodes[name]
                if node.machine is not None:
                    node.machine.tick(now=self.now)
                    self.pump(node)

    def kill(self, name: str) -> None:
        """Kill a process: what was not synced is gone, its connections end."""
        node = self.nodes[name]
        node.machine, node.pending, node.indexes = None, [], []
        for other in self.nodes.values():
            self.links.pop((name, other.name), None)
            self.links.pop((other.name, name), None)
            if other.machine is not None:
                other.machine.peer_down(node.storage, now=self.now)
                self.pump(other)

    def restart(self, name: str) -> Boot:
        """Start a new process on the same disk; return the entry it wants committed."""
        node = self.nodes[name]
        node.counter += 1
        node.boot = f"b{name:0>11}{node.counter:04x}"
        self._start(node)
        return Boot(name, node.storage, node.boot, node.counter, f"http://{name}", f"{name}:1", live=())

    # --- requests -----------------------------------------------------------------------------------------------

    def write(self, name: str, value: str | None, *, key: str = "k", again: int = 0, **conditions: object) -> int:
        """Send a node a write through gateway "a"; ``again``: the number of an earlier one. Return the token."""
        self.tokens += 1
        number = again
        if not number:
            self.numbers += 1
            number = self.numbers
        operation = OperationId(self.nodes["a"].boot, number, 1)
        data = None if value is None else value.encode()
        request = WriteRequest((Write("u", key, data, "t"),), FOREVER, 1, operation, **conditions)  # type: ignore[arg-type]
        self.machine(name).write(self.tokens, 0, request, now=self.now)
        self.pump(self.nodes[name])
        return self.tokens

    def read(self, name: str, key: str = "k") -> int:
        """Send a node a strict read; return the token."""
        self.tokens += 1
        self.machine(name).read(self.tokens, 0, ReadRequest("u", key, FOREVER), now=self.now)
        self.pump(self.nodes[name])
        return self.tokens

    def answer(self, name: str, token: int) -> Result | None:
        """Return what a node answered."""
        return self.nodes[name].answers.get(token)

    # --- checks -------------------------------------------------------------------------------------------------

    def _check_record(self, record: Record) -> None:
        if record.kind != Kind.SHARD_ENTRY:
            return
        place = (record.epoch, record.sn)
        if self.content.setdefault(place, record.payload) != record.payload:
            raise Violation(f"two entries at {place}")
        body = documents.decode(record.payload)
        if type(body) is Begin and record.epoch == self.shard.epoch and body.boot != self.shard.primary.boot:
            raise Violation(f"boot {body.boot} begins epoch {record.epoch} of {self.shard.primary.boot}")

    def _check_applied(self, entries: list[tuple[int, int, bytes]]) -> None:
        for epoch, sn, _ in entries:
            if self.applied.setdefault(sn, epoch) != epoch:
                raise Violation(f"sn {sn} applied from epochs {self.applied[sn]} and {epoch}")

    def holds(self, name: str, added: int, epoch: int, sn: int) -> bool:
        """Return whether a node's disk holds an acknowledged entry."""
        state = LogState()
        for record in self.nodes[name].disk:
            state.take(record, 1, 0)
        track = state.copies.get((0, added))
        return track is not None and track.last_sn >= sn and track.epoch_at(sn) == epoch

    def check(self) -> None:
        """Every complete copy holds what was acknowledged; the acting primary awaits the committed in_sync."""
        sn, epoch = self.acknowledged
        if sn:
            for copy in (*self.shard.in_sync, *self.shard.eligible):
                node = self.named(copy.storage)
                if not self.holds(node.name, copy.added, self.applied.get(sn, epoch), sn):
                    raise Violation(f"{node.name} is complete without ({epoch}, {sn})")
        node = self.named(self.shard.primary.storage)
        lead = self.lead(node.name)
        if lead is not None and lead.epoch == self.shard.epoch and node.boot == self.shard.primary.boot:
            awaited = {peer.storage for peer in lead.awaited} | {node.storage}
            missing = {copy.storage for copy in self.shard.in_sync} - awaited
            if missing:
                raise Violation(f"{missing} in in_sync, not awaited by {node.name}")
