"""What the parts of a node's shard replication share: who we are, the map we hold, the copies, and the open step.

A ``LocalCopy`` is this node's copy of one shard, whatever its role. Everything that leaves a part goes through the
``Context``, so that one turn gives one ``ShardStep``.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from typing import TYPE_CHECKING

from ringkeep_core.shardmap import Shard, ShardMap
from ringkeep_node.machines import documents
from ringkeep_node.machines.documents import CopyState
from ringkeep_node.machines.records import Kind, Record
from ringkeep_node.machines.shard.copy_log import CopyLog, EntryCache
from ringkeep_node.machines.shard.effects import Followed, LogEntry, Result, ShardStep, StoreView
from ringkeep_node.machines.shard.messages import ShardMessage
from ringkeep_node.machines.shard.settings import ReplicationSettings

if TYPE_CHECKING:
    from ringkeep_node.machines.shard.reads import OpenPage

PAUSE_BOUNDS_S = (0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)


class Tally:
    """What this node did for clients since it started: changes committed as primary, reads answered, shards handed over.

    ``hand_overs`` ended with the shard elsewhere, ``hand_overs_given_up`` with the shard here. ``pauses`` counts, by upper
    bound in ``PAUSE_BOUNDS_S``, how long writes to such a shard were not admitted here; the last count is for longer ones.
    ``served_at`` is when a client was answered last. Snapshot bytes are those of documents with their names, repeats
    included; rows are documents.
    """

    __slots__ = (
        "hand_overs",
        "hand_overs_given_up",
        "local_reads",
        "pauses",
        "pauses_s",
        "served_at",
        "snapshot_bytes_received",
        "snapshot_bytes_sent",
        "snapshot_rows_received",
        "snapshot_rows_sent",
        "strict_reads",
        "writes",
    )

    def __init__(self) -> None:
        self.snapshot_bytes_sent = self.snapshot_bytes_received = 0
        self.snapshot_rows_sent = self.snapshot_rows_received = 0
        self.writes = self.strict_reads = self.local_reads = 0
        self.hand_overs = self.hand_overs_given_up = 0
        self.pauses = [0] * (len(PAUSE_BOUNDS_S) + 1)
        self.pauses_s = 0.0
        self.served_at = float("-inf")

    def paused(self, seconds: float) -> None:
        """Count the pause of one shard."""
        self.pauses[bisect_left(PAUSE_BOUNDS_S, seconds)] += 1
        self.pauses_s += seconds


class LocalCopy:
    """This node's copy of a shard.

    ``applied`` <= ``handed`` <= min(``commit``, ``verified``, durable log). ``state`` is as of ``handed``. ``promised`` is
    the epoch below which nothing is accepted; ``aligned`` says that the log agrees with that epoch's primary up to
    ``verified``; until then ``asked_epoch`` is the epoch whose end it asks that primary for. ``acked`` is the greatest sn
    this boot told a primary it holds. ``unfit``: never to be counted again.
    """

    __slots__ = (
        "acked",
        "added",
        "aligned",
        "applied",
        "asked_at",
        "asked_epoch",
        "commit",
        "handed",
        "heard_commit",
        "installing",
        "log",
        "promised",
        "shard",
        "state",
        "unfit",
        "verified",
    )

    def __init__(self, shard: int, added: int, log: CopyLog, applied: int, state: CopyState, promised: int) -> None:
        self.shard = shard
        self.added = added
        self.log = log
        self.state = state
        self.applied = self.handed = self.commit = self.verified = self.heard_commit = applied
        self.promised = promised
        self.aligned = False
        self.acked = 0
        self.asked_at = -1.0
        self.asked_epoch: int | None = None
        self.installing = False
        self.unfit = False


class Context:
    """Shared by the parts; see the module."""

    __slots__ = (
        "boot",
        "cache",
        "copies",
        "dirty",
        "dropped",
        "followed",
        "held",
        "me",
        "notes",
        "now",
        "open",
        "pages",
        "peers_up",
        "settings",
        "step",
        "stopping",
        "store",
        "tally",
        "through",
        "token",
    )

    def __init__(self, me: str, boot: str, settings: ReplicationSettings, store: StoreView, now: float) -> None:
        self.me = me
        self.boot = boot
        self.settings = settings
        self.store = store
        self.now = now
        self.held: ShardMap | None = None
        self.through = 0
        self.copies: dict[int, LocalCopy] = {}
        self.cache = EntryCache(settings.cached_bytes_max)
        self.peers_up: dict[str, str] = {}
        self.stopping: frozenset[str] = frozenset()
        """Who has said that it stops: nobody lets it into a set that the next write would wait for."""
        self.step = ShardStep(1)
        self.dirty: dict[LocalCopy, None] = {}
        self.dropped: list[tuple[int, int]] = []
        self.notes: deque[tuple[int, list[tuple[LocalCopy, int, int]], list[tuple[int, int]]]] = deque()
        self.open: dict[int, int] = {}
        self.token = 0
        self.pages: dict[int, OpenPage] = {}
        self.followed: list[Followed] | None = None
        """What was appended for whom, until somebody takes it; None while nobody follows."""
        self.tally = Tally()

    def shard(self, shard: int) -> Shard:
        """Return what the held map says of a shard."""
        assert self.held is not None
        return self.held.shards[shard]

    def boot_of(self, storage: str) -> str | None:
        """Return the boot that the held map registers for a storage."""
        member = self.held.members.get(storage) if self.held is not None else None
        return None if member is None else member.boot

    def is_up(self, storage: str) -> bool:
        """Return whether the registered boot of a storage is connected."""
        boot = self.peers_up.get(storage)
        return boot is not None and boot == self.boot_of(storage)

    def next_token(self) -> int:
        """Return a number for an order that will be completed."""
        self.token += 1
        return self.token

    def send(self, storage: str, message: ShardMessage) -> None:
        """Send at once, if the peer is connected; otherwise the reconnection repeats what matters."""
        if storage in self.peers_up:
            self.step.send.append((storage, message))

    def send_synced(self, storage: str, message: ShardMessage) -> None:
        """Send when everything up to this step is durable."""
        if storage in self.peers_up:
            self.step.send_synced.append((storage, message))

    def answer(self, token: int, result: Result) -> None:
        """Answer a request, unless it was answered or cancelled before."""
        if self.open.pop(token, None) is not None:
            self.step.answers.append((token, result))

    def append(self, copy: LocalCopy, entry: LogEntry) -> None:
        """Append an entry to a copy's log: in memory now, durable after this step."""
        copy.log.append(entry)
        epoch, sn, payload = entry
        self.step.records.append(Record(Kind.SHARD_ENTRY, copy.shard, copy.added, epoch, sn, payload))
        self.dirty[copy] = None
        self.cache.added(copy.log, entry)

    def promise(self, copy: LocalCopy, epoch: int) -> None:
        """Accept nothing below ``epoch`` any more; what this step sends synced goes after the promise is durable."""
        copy.promised = epoch
        copy.aligned, copy.asked_epoch = False, None
        self.step.records.append(Record(Kind.SHARD_PROMISE, copy.shard, copy.added, epoch, 0))

    def cut(self, copy: LocalCopy, sn: int) -> None:
        """Keep the log up to ``sn``; the caller has made sure that nothing applied or acknowledged goes."""
        if sn < copy.log.last_sn:
            copy.log.cut(sn)
            self.step.records.append(Record(Kind.SHARD_CUT, copy.shard, copy.added, copy.log.last_epoch, sn))
            self.dirty[copy] = None
            copy.acked = min(copy.acked, sn)

    def drop(self, shard: int, added: int) -> None:
        """Give up a copy that the held map no longer lists; the store deletes it once the record is durable."""
        self.step.records.append(Record(Kind.SHARD_DROP, shard, added, 0, 0))
        self.dropped.append((shard, added))

    def hand_over(self, copy: LocalCopy) -> bool:
        """Hand committed, verified and durable entries to the store; return whether there were any."""
        upto = min(copy.commit, copy.verified, copy.log.durable)
        if upto <= copy.handed or copy.installing:
            return False
        cached, state = copy.log.cached, copy.state
        entries = [cached[sn] for sn in range(copy.handed + 1, upto + 1)]
        bodies = [documents.decode(entry[2]) for entry in entries]
        for sn, body in enumerate(bodies, copy.handed + 1):
            state.apply(sn, body)
        copy.handed = upto
        self.step.apply.append((copy.shard, copy.added, entries, bodies))
        return True

    def close_step(self) -> ShardStep:
        """Return the open step and begin the next one."""
        step = self.step
        if self.dirty or self.dropped:
            durable = [(copy, copy.log.cuts, copy.log.last_sn) for copy in self.dirty]
            self.notes.append((step.number, durable, self.dropped))
            self.dirty, self.dropped = {}, []
        self.step = ShardStep(step.number + 1)
        return step
