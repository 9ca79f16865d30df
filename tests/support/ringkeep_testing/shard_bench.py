"""One node's shard replication on a bench: the test is its disk, its store, its peers, Raft and the clock.

Everything the machine orders is gathered in lists that a test looks at; nothing answers by itself, except that records are
durable and committed entries are applied at once unless ``syncs`` or ``stores`` is switched off.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

from msgspec.structs import replace

from ringkeep_core.mapchanges import MapChange, Move, ShardChange, ShardChanges, apply
from ringkeep_core.shardmap import GENERATION_STEP, Shard, ShardMap
from ringkeep_node.machines import documents
from ringkeep_node.machines.documents import Begin, Body, Change, IdempotencyKey, OperationId, Write
from ringkeep_node.machines.records import EpochStart, Record
from ringkeep_node.machines.recovery import RecoveredCopy
from ringkeep_node.machines.shard import effects
from ringkeep_node.machines.shard.context import LocalCopy
from ringkeep_node.machines.shard.effects import Handed, LogEntry, ReadRequest, Result, ShardStep, WriteRequest
from ringkeep_node.machines.shard.messages import Ack, Append, Ping, Pong, ShardMessage, Tail
from ringkeep_node.machines.shard.primary import Lead
from ringkeep_node.machines.shard.replication import Replication
from ringkeep_node.machines.shard.settings import ReplicationSettings
from ringkeep_node.runtime.store.store import StoredCopy
from ringkeep_testing.maps import FIRST, shard_map
from ringkeep_testing.sim_store import SimStore

DEADLINE = 1e6
SETTINGS = ReplicationSettings()
_M = TypeVar("_M")


def begin_entry(epoch: int, sn: int, name: str = "a") -> LogEntry:
    """Return an epoch-start record as a log entry."""
    return epoch, sn, documents.encode(Begin(name, f"{name}-1", 0))


def put_entry(epoch: int, sn: int, key: str = "k", value: str = "v", **fields: object) -> LogEntry:
    """Return an entry that puts one document of user "u"."""
    change = Change((Write("u", key, value.encode(), "t"),), documents.Answer.CREATED, 1, **fields)  # type: ignore[arg-type]
    return epoch, sn, documents.encode(change)


def epochs_of(entries: Sequence[LogEntry]) -> tuple[EpochStart, ...]:
    """Return the epoch table of entries."""
    table: dict[int, int] = {}
    for epoch, sn, _ in entries:
        table.setdefault(epoch, sn)
    return tuple(EpochStart(epoch, sn) for epoch, sn in table.items())


def recovered_copy(
    entries: Sequence[LogEntry], *, shard: int = 0, added: int = FIRST, promised: int = 0, harmed: bool = False
) -> RecoveredCopy:
    """Return what a log that holds ``entries`` from its beginning says."""
    last = entries[-1][:2] if entries else (0, 0)
    return RecoveredCopy(
        shard=shard,
        copy=added,
        promised=promised or last[0],
        epochs=epochs_of(entries),
        base=(0, 0),
        reset=(0, 0),
        last=last,
        entries=list(entries),
        harmed=harmed,
    )


class Bench:
    """See the module. ``me`` is the node under test; the other members only say what the test lets them say."""

    def __init__(
        self,
        *shards: Shard,
        me: str = "a",
        names: str = "a b c",
        settings: ReplicationSettings = SETTINGS,
        stored: Sequence[StoredCopy] | None = None,
        recovered: Mapping[tuple[int, int], RecoveredCopy] | None = None,
        store: SimStore | None = None,
        holds: bool = True,
    ) -> None:
        self.now = 100.0
        self.me = me
        self.map = shard_map(names, shards)
        self.store = store or SimStore()
        self.syncs = self.stores = True
        self.unsynced: list[ShardStep] = []
        self.unstored: list[Handed] = []
        self.sent: list[tuple[str, ShardMessage]] = []
        self.records: list[Record] = []
        self.orders: list[effects.StoreOrder] = []
        self.reads: list[effects.DataRead] = []
        self.proposals: list[ShardChange] = []
        self.may_wait: list[ShardChange] = []
        self.hand_overs: list[tuple[tuple[Move, ...], str]] = []
        self.indexes: list[int] = []
        self.applied: list[tuple[int, int]] = []
        self.answers: dict[int, Result] = {}
        self.steps = 0
        self.tokens = 0
        self.machine = Replication(
            me=me,
            boot=f"{me}-1",
            settings=settings,
            store=self.store,
            stored=self.store.copies() if stored is None else stored,
            recovered=recovered or {},
            now=self.now,
        )
        if holds:
            self.hold(self.map)

    # --- what the machine has -----------------------------------------------------------------------------------

    def copy(self, shard: int = 0) -> LocalCopy:
        """Return the node's copy of a shard."""
        return self.machine._ctx.copies[shard]

    def lead(self, shard: int = 0) -> Lead:
        """Return what the node leads."""
        return self.machine._leads[shard]

    @property
    def last_sn(self) -> int:
        """The number of the last entry of shard 0."""
        return self.copy().log.last_sn

    def said(self, to: str, kind: type[_M]) -> list[_M]:
        """Return and forget the messages of one kind that went to a peer."""
        found: list[_M] = [message for name, message in self.sent if name == to and isinstance(message, kind)]
        self.sent = [(name, message) for name, message in self.sent if name != to or not isinstance(message, kind)]
        return found

    # --- the world ----------------------------------------------------------------------------------------------

    def pump(self) -> None:
        """Carry out what the machine ordered, until it orders nothing more."""
        while not (step := self.machine.take_step()).is_empty():
            self.steps += 1
            self.records += step.records
            self.sent += step.send
            self._order(step)
            self.proposals += [*step.proposals, *step.may_wait]
            self.may_wait += step.may_wait
            self.hand_overs += step.hand_overs
            self.indexes += step.read_index
            self.reads += step.reads
            for token, result in step.answers:
                assert token not in self.answers, "answered twice"
                self.answers[token] = result
            self.unsynced.append(step)
            if self.syncs:
                self._sync()
            self.unstored += step.apply
            if self.stores:
                self._store()

    def _order(self, step: ShardStep) -> None:
        self.orders += step.orders
        for order in step.orders:
            key = (order.shard, order.copy)
            match order:
                case effects.CreateCopy():
                    self.store.create(*key)
                case effects.DropCopy():
                    self.store.drop(*key)
                case effects.InstallBegin():
                    self.store.install_begin(*key)
                case effects.InstallRows(_, _, rows, remembered):
                    self.store.install_rows(*key, rows, remembered)
                case effects.InstallAbort():
                    self.store.install_abort(*key)
                case effects.InstallFinish(_, _, epoch, sn, state, epochs):
                    self.store.install_finish(*key, epoch=epoch, sn=sn, state=state, epochs=epochs, done=int)

    def _sync(self) -> None:
        steps, self.unsynced = self.unsynced, []
        for step in steps:
            self.sent += step.send_synced
            self.machine.synced(step.number, now=self.now)

    def _store(self) -> None:
        changes, self.unstored = self.unstored, []
        for shard, copy, entries, _ in changes:
            self.store.apply(shard, copy, entries)
            self.applied += [entry[:2] for entry in entries]
            self.machine.applied([(shard, copy, entries[-1][1])], now=self.now)

    def sync(self) -> None:
        """Let the disk finish what waits."""
        self._sync()
        self.pump()

    def store_all(self) -> None:
        """Let the store apply what waits."""
        self._store()
        self.pump()

    def hold(self, shard_map: ShardMap, *, through: int = 0) -> None:
        """Hold a map."""
        self.map = shard_map
        through = through or shard_map.version - GENERATION_STEP
        self.machine.map_held(shard_map, through=through, now=self.now)
        self.pump()

    def change(self, change: MapChange | ShardChange) -> None:
        """Let Raft commit a change, which must be accepted, and hold the map."""
        entry = change if isinstance(change, MapChange) else ShardChanges((change,), "test")
        applied = apply(self.map, self.map.version + 1, entry)
        assert applied.map is not self.map, applied.outcomes
        self.hold(applied.map)

    def shard_is(self, shard: Shard) -> None:
        """Hold a map in which shard 0 is ``shard``."""
        self.hold(replace(self.map, version=self.map.version + 1, shards=(shard, *self.map.shards[1:])))

    def up(self, *names: str) -> None:
        """Peers are connected."""
        for name in names:
            self.machine.peer_up(name, f"{name}-1", now=self.now)
            self.pump()

    def down(self, name: str) -> None:
        """A peer's connection is gone."""
        self.machine.peer_down(name, now=self.now)
        self.pump()

    def hear(self, sender: str, message: ShardMessage, *, boot: str = "") -> None:
        """A peer says something."""
        self.machine.receive(sender, boot or f"{sender}-1", message, now=self.now)
        self.pump()

    def ack(self, *names: str, sn: int = 0, epoch: int = 1, resend: bool = False) -> None:
        """Peers acknowledge the first shard's log up to ``sn``, or all of it."""
        for name in names:
            self.hear(name, Ack(0, self._added(name), epoch, sn or self.last_sn, resend))

    def _added(self, name: str) -> int:
        held = self.map.shards[0].copy_of(name)
        assert held is not None
        return held.added

    def pong(self, *names: str, version: int = 0) -> None:
        """Peers answer their latest ping: they hold our map, or another."""
        for name in names:
            pings = self.said(name, Ping)
            assert pings, f"{name} was not asked"
            boot = f"{name}-1"
            held = version or self.map.version
            self.hear(name, Pong(pings[-1].round, pings[-1].boot, boot, held, False, 0))

    def answer_index(self, index: int | None = 0) -> None:
        """Raft answers every ReadIndex that was asked for; 0: with the index of the held map."""
        tokens, self.indexes = self.indexes, []
        for token in tokens:
            at = self.map.version - GENERATION_STEP if index == 0 else index
            self.machine.read_index_answered(token, at, now=self.now)
        self.pump()

    def hand_over(self, to: str, *shards: int, reason: str = "test") -> tuple[Move, ...]:
        """The leader orders that shards move, on the revisions of the held map; return the moves."""
        moves = tuple(Move(number, self.map.shards[number].revision, to) for number in shards or (0,))
        self.order(moves, reason)
        return moves

    def order(self, moves: Sequence[Move], reason: str = "test") -> None:
        """The leader orders these moves."""
        self.machine.hand_over(moves, reason, now=self.now)
        self.pump()

    def wait(self, seconds: float) -> None:
        """Let time pass, ticking when the machine wants to be ticked."""
        end = self.now + seconds
        for _ in range(100_000):
            due = self.machine.next_deadline()
            if due is None or due > end:
                break
            self.now = max(self.now, due)
            self.machine.tick(now=self.now)
            self.pump()
        self.now = end
        self.machine.tick(now=end)
        self.pump()

    # --- requests -----------------------------------------------------------------------------------------------

    def request(self, request: WriteRequest | ReadRequest, *, shard: int = 0) -> int:
        """Hand a request to the machine; return its token."""
        self.tokens += 1
        if isinstance(request, WriteRequest):
            self.machine.write(self.tokens, shard, request, now=self.now)
        else:
            self.machine.read(self.tokens, shard, request, now=self.now)
        self.pump()
        return self.tokens

    def write(self, value: str | None, *, key: str = "k", **fields: object) -> int:
        """Write a document of user "u"."""
        write = Write("u", key, None if value is None else value.encode(), "t")
        return self.request(write_request(write, **fields))

    def read(self, key: str = "k", **fields: object) -> int:
        """Read a document of user "u"."""
        return self.request(read_request(key, **fields))

    def result(self, token: int) -> Result | None:
        """Return what a request was answered."""
        return self.answers.get(token)


def write_request(*writes: Write, **fields: object) -> WriteRequest:
    """Return a write with a far deadline."""
    known = {"deadline": DEADLINE, "wall_ms": 1, **fields}
    return WriteRequest(writes, **known)  # type: ignore[arg-type]  # the fields of a request


def read_request(key: str = "", **fields: object) -> ReadRequest:
    """Return a read of user "u" with a far deadline."""
    known = {"deadline": DEADLINE, **fields}
    return ReadRequest("u", key, **known)  # type: ignore[arg-type]  # the fields of a request


def operation(number: int, *, lowest: int = 1, gateway: str = "c-1") -> OperationId:
    """Return the id of a change that came through a gateway."""
    return OperationId(gateway, number, lowest)


def named(key: str, request_hash: bytes = b"h") -> IdempotencyKey:
    """Return a client's own name for a change."""
    return IdempotencyKey("u", key, request_hash)


def serving(shard: Shard, **fields: object) -> Bench:
    """Return a primary whose peers are up and told that their logs are empty, with its epoch start committed."""
    bench = Bench(shard, **fields)  # type: ignore[arg-type]  # the fields of a bench
    others = [copy.storage for copy in (*shard.in_sync, *shard.learners) if copy.storage != bench.me]
    bench.up(*others)
    bench.answer_index()
    tell_tails(bench, *[copy.storage for copy in shard.in_sync if copy.storage != bench.me])
    bench.ack(*[copy.storage for copy in shard.in_sync if copy.storage != bench.me], epoch=shard.epoch)
    bench.sent.clear()
    return bench


def tell_tails(bench: Bench, *names: str, last: tuple[int, int] = (0, 0)) -> None:
    """Copies tell a new primary where their logs end."""
    for name in names:
        bench.hear(name, Tail(0, bench._added(name), bench.map.shards[0].epoch, *last))


def appended(bench: Bench) -> list[Body]:
    """Return what is in the log of shard 0, as far as it is in memory."""
    log = bench.copy().log
    return [documents.decode(log.cached[sn][2]) for sn in sorted(log.cached)]


def append_of(
    entries: Sequence[LogEntry], *, prev: tuple[int, int] = (0, 0), commit: int = 0, epoch: int = 0
) -> Append:
    """Return the message that carries entries after ``prev``."""
    carried = tuple((of, payload) for of, _, payload in entries)
    return Append(0, epoch or entries[-1][0], *prev, commit, carried)
