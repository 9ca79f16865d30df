"""What a stream of log records means: the state of Raft, of the pulled map and of every shard copy.

The same fold runs in three places, so that they cannot disagree: over the log when it is opened, over each batch right
after it became durable, and in the simulator's twin of the log. It sees records in log order, each with the place where
it stands, and is told of records and whole batches that are damaged.

    record ------------> take()  ----+
    payload damaged ---> lost()  ----+--> LogState --> start_records(): what a new segment begins with
    header damaged ----> gone()  ----+             --> recovered(): what a starting node is given

Two facts carry the design. (1) An (epoch, sn) of a copy, and a (term, index) of Raft, has one content for ever (rule 0
and Raft's log matching), so any intact record of it will do, wherever it stands: live entries can be carried forward and
an old segment removed without order mattering. (2) A segment begins with SHARD_END and RAFT_END records that repeat ends,
epoch tables and promises, so that loss before them is seen: an end that is promised but has no entries is a harmed copy.

Source: replication.md, Storage; counterexamples.md S7 and S8.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
from msgspec import Struct

from ringkeep_node.machines.records import NO_SHARD, EpochStart, Kind, Record

CopyKey = tuple[int, int]
"""(shard, map version at which this copy was added)"""

EPOCHS_KEPT = 1000
BOOTS_KEPT = 1000
RUN_SPAN_BYTES = 4 * 1024 * 1024

_RAFT_KINDS = frozenset(
    (Kind.RAFT_STATE, Kind.RAFT_ENTRY, Kind.RAFT_CUT, Kind.RAFT_SNAPSHOT, Kind.RAFT_RESET, Kind.RAFT_END)
)
_SHARD_ENTRY = int(Kind.SHARD_ENTRY)
_encoder = msgspec.msgpack.Encoder()
_epochs_decoder = msgspec.msgpack.Decoder(tuple[EpochStart, ...])


class _End(Struct, frozen=True, array_like=True):
    """Payload of SHARD_END and RAFT_END: the floor of the log, its epochs, and whether it was harmed before."""

    base_epoch: int
    base_sn: int
    epochs: tuple[EpochStart, ...]
    harmed: bool


_end_decoder = msgspec.msgpack.Decoder(_End)


def encode_boots(boots: Sequence[str]) -> bytes:
    """Return the payload of a BOOT record: the boots of the directory up to and with the one that begins."""
    return ",".join(boots[-BOOTS_KEPT:]).encode()


def decode_boots(payload: bytes) -> tuple[str, ...]:
    """Return the boot ids in the payload of a BOOT record."""
    return tuple(payload.decode("ascii", "replace").split(",")) if payload else ()


def encode_epochs(epochs: Sequence[EpochStart]) -> bytes:
    """Return the payload of a SHARD_RESET record: the epoch table that came with the snapshot."""
    return _encoder.encode(tuple(epochs))


def decode_epochs(payload: bytes) -> tuple[EpochStart, ...]:
    """Return the epoch table of a SHARD_RESET record. Raises ``msgspec.DecodeError`` on other bytes."""
    return _epochs_decoder.decode(payload) if payload else ()


def epoch_at(epochs: Sequence[EpochStart], sn: int, base_epoch: int = 0) -> int:
    """Return the epoch that wrote ``sn`` by an ascending epoch table, or ``base_epoch`` below its first start."""
    for start in reversed(epochs):
        if start.first_sn <= sn:
            return start.epoch
    return base_epoch


class Run(Struct):
    """Where consecutive entries stand: ``first``..``last`` are in ``segment``, at or after byte ``offset``."""

    first: int
    last: int
    segment: int
    offset: int


class Track:
    """One log inside the log: a shard copy's, or Raft's with terms for epochs and indexes for sns.

    ``suspect``: a batch is missing and what it held of this track is unknown. ``broken``: records contradict each other,
    so some are missing. Both end with the next END record, which is a full statement; ``harmed`` stays until a reset.
    """

    __slots__ = ("base", "broken", "epochs", "harmed", "last_epoch", "last_sn", "promised", "runs", "suspect")

    def __init__(self) -> None:
        self.promised = 0
        self.epochs: list[EpochStart] = []
        self.base = (0, 0)
        self.last_epoch = 0
        self.last_sn = 0
        self.runs: list[Run] = []
        self.suspect = False
        self.broken = False
        self.harmed = False

    @property
    def last(self) -> tuple[int, int]:
        """(epoch, sn) of the last entry."""
        return self.last_epoch, self.last_sn

    def epoch_at(self, sn: int) -> int:
        """Return the epoch of the entry ``sn`` of this track."""
        return epoch_at(self.epochs, sn, self.base[0])

    def entry(self, epoch: int, sn: int, segment: int, offset: int, *, present: bool = True) -> None:
        """Take in an entry's numbers; ``present`` False when its payload is damaged."""
        if sn == self.last_sn + 1 and epoch >= self.last_epoch:
            if self.suspect:
                # In our last entry's epoch it proves that nothing is missing; in a higher one, what is missing may have
                # cut and replaced the entries before it.
                self.broken = self.broken or epoch != self.last_epoch
                self.suspect = False
            if epoch != self.last_epoch or not self.epochs:
                self._start_epoch(epoch, sn)
            self.last_sn = sn
        elif not (self.base[1] < sn <= self.last_sn and self.epoch_at(sn) == epoch):
            # Neither the next entry nor a repeat of one we have: what stood between is lost.
            self.broken = True
            if sn > self.last_sn and epoch >= self.last_epoch:
                self._start_epoch(epoch, sn)
                self.last_sn = sn
            else:
                return
        if epoch > self.promised:
            self.promised = epoch
        if present:
            self.note(sn, segment, offset)

    def note(self, sn: int, segment: int, offset: int) -> None:
        """Remember where an entry stands, sparsely: one run per segment and span while entries follow each other."""
        if self.runs:
            run = self.runs[-1]
            if run.last == sn - 1 and run.segment == segment and offset - run.offset < RUN_SPAN_BYTES:
                run.last = sn
                return
            if run.first <= sn <= run.last and run.segment == segment:
                return
        self.runs.append(Run(sn, sn, segment, offset))

    def _start_epoch(self, epoch: int, sn: int) -> None:
        self.epochs.append(EpochStart(epoch, sn))
        self.last_epoch = epoch
        if len(self.epochs) > EPOCHS_KEPT:
            oldest = self.epochs.pop(0)
            self.base = (oldest.epoch, self.epochs[0].first_sn - 1)

    def cut(self, sn: int) -> None:
        """Keep entries up to ``sn``."""
        if sn >= self.last_sn:
            return
        while self.epochs and self.epochs[-1].first_sn > sn:
            self.epochs.pop()
        self.last_sn = sn
        self.last_epoch = self.epoch_at(sn)
        self._trim_runs()

    def _trim_runs(self) -> None:
        self.runs = [run for run in self.runs if run.first <= self.last_sn]
        for run in self.runs:
            run.last = min(run.last, self.last_sn)

    def reset(self, epoch: int, sn: int, epochs: Sequence[EpochStart]) -> None:
        """Begin again after a snapshot that ends at (epoch, sn)."""
        self.epochs = list(epochs)
        self.base = (epoch, sn)
        self.last_epoch, self.last_sn = epoch, sn
        self.promised = max(self.promised, epoch)
        self.runs = []
        self.suspect = self.broken = self.harmed = False

    def restate(self, promised: int, last_sn: int, end: _End) -> None:
        """Take an END record: a full statement of everything but the entries themselves."""
        self.promised = promised
        self.base = (end.base_epoch, end.base_sn)
        self.epochs = list(end.epochs)
        self.last_sn = last_sn
        self.last_epoch = self.epoch_at(last_sn)
        self.suspect = self.broken = False
        self.harmed = end.harmed
        self._trim_runs()

    def end(self) -> bytes:
        """Return the payload of this track's END record."""
        harmed = self.harmed or self.suspect or self.broken
        return _encoder.encode(_End(self.base[0], self.base[1], tuple(self.epochs), harmed))

    def first_sn(self) -> int:
        """Return the smallest sn from which on every entry is in the log; one above the last sn when none is."""
        first = self.last_sn + 1
        for run in sorted(self.runs, key=_run_last, reverse=True):
            if run.last < first - 1:
                break
            first = min(first, run.first)
        return max(first, self.base[1] + 1)

    def forget_segment(self, segment: int) -> None:
        """Forget what stood in a segment that is gone."""
        self.runs = [run for run in self.runs if run.segment != segment]

    def only_in(self, segment: int, above_sn: int) -> list[int]:
        """Return the sns above ``above_sn`` that stand in ``segment`` and nowhere else, ascending."""
        held = [run for run in self.runs if run.segment == segment and run.last > above_sn]
        if not held:
            return []
        later = [run for run in self.runs if run.segment != segment]
        return sorted(
            {
                sn
                for run in held
                for sn in range(max(run.first, above_sn + 1), run.last + 1)
                if not any(other.first <= sn <= other.last for other in later)
            }
        )


def _run_last(run: Run) -> int:
    return run.last


class RecoveredCopy(Struct, frozen=True):
    """A shard copy as the log knows it.

    ``base``: (epoch, sn) after which the readable log starts (reset point or released prefix). ``reset``: (epoch, sn) of
    the last SHARD_RESET, (0, 0) without one: a store below it has not taken that snapshot. ``entries``: (epoch, sn,
    payload) above the store's synced applied sn. ``harmed``: durable entries are lost, so the copy is unfit.
    """

    shard: int
    copy: int
    promised: int
    epochs: tuple[EpochStart, ...]
    base: tuple[int, int]
    reset: tuple[int, int]
    last: tuple[int, int]
    entries: list[tuple[int, int, bytes]]
    harmed: bool


class RecoveredLog(Struct, frozen=True):
    """Everything a starting node learns from its log. ``raft_snapshot_at`` is the (term, index) of the snapshot.

    ``boots`` are the boot ids this directory was started in, the newest last.
    """

    boot_counter: int
    term: int
    vote: str | None
    raft_snapshot: bytes | None
    raft_snapshot_at: tuple[int, int]
    raft_entries: list[Record]
    raft_harmed: bool
    map_snapshot: bytes | None
    map_through: int
    map_entries: list[Record]
    copies: dict[CopyKey, RecoveredCopy]
    empty: bool
    boots: tuple[str, ...] = ()


class LogState:
    """The fold. Payloads are kept only of Raft, of the map, and of live shard entries while ``applied`` is given.

    ``applied``: the store's synced applied sn of each copy; entries above it are kept for recovered(). None while the
    log runs: then no shard payload is kept.
    """

    def __init__(self, applied: Mapping[CopyKey, int] | None = None) -> None:
        self.boot_counter = 0
        self.boots = b""
        self.term = 0
        self.vote: str | None = None
        self.vote_lost = False
        self.raft_suspect = False
        self.raft = Track()
        self.raft_snapshot: bytes | None = None
        self.raft_snapshot_at = (0, 0)
        self.raft_snapshot_lost = False
        self.raft_entries: dict[int, Record] = {}
        self.map_snapshot: bytes | None = None
        self.map_snapshot_sn = 0
        self.map_through = 0
        self.map_entries: list[Record] = []
        self.map_cut_short = False
        self.copies: dict[CopyKey, Track] = {}
        self.empty = True
        self._applied = applied
        self._live: dict[CopyKey, dict[int, tuple[int, bytes]]] = {}

    def take(self, record: Record, segment: int, offset: int) -> None:
        """Take in one record that stands in the batch at (segment, offset)."""
        kind = record.kind
        self.empty = False
        if kind == _SHARD_ENTRY:
            self.take_entry(record.shard, record.copy, record.epoch, record.sn, segment, offset)
            key = (record.shard, record.copy)
            if self._applied is not None and record.sn > self._applied.get(key, 0):
                self._live.setdefault(key, {})[record.sn] = (record.epoch, record.payload)
            return
        if kind in _RAFT_KINDS:
            self._take_raft(record, segment, offset)
        elif kind == Kind.MAP_ENTRY or kind == Kind.MAP_SNAPSHOT:
            self._take_map(record)
        elif kind == Kind.BOOT:
            if record.sn >= self.boot_counter:
                self.boot_counter, self.boots = record.sn, record.payload
        else:
            self._take_shard(record)

    def take_entry(self, shard: int, copy: int, epoch: int, sn: int, segment: int, offset: int) -> None:
        """Take in a SHARD_ENTRY whose payload nobody needs."""
        track = self.copies.get((shard, copy))
        if track is None:
            track = self._unknown((shard, copy))
        track.entry(epoch, sn, segment, offset)

    def _unknown(self, key: CopyKey) -> Track:
        track = self.copies[key] = Track()
        return track

    def _take_shard(self, record: Record) -> None:
        key = (record.shard, record.copy)
        kind = record.kind
        if kind == Kind.SHARD_DROP:
            self.copies.pop(key, None)
            self._live.pop(key, None)
            return
        track = self.copies.get(key) or self._unknown(key)
        if kind == Kind.SHARD_PROMISE:
            track.promised = max(track.promised, record.epoch)
        elif kind == Kind.SHARD_CUT:
            track.cut(record.sn)
            self._live_up_to(key, record.sn)
        elif kind == Kind.SHARD_RESET:
            track.reset(record.epoch, record.sn, decode_epochs(record.payload))
            self._live.pop(key, None)
        elif kind == Kind.SHARD_END:
            track.restate(record.epoch, record.sn, _end_decoder.decode(record.payload))
            self._live_up_to(key, record.sn)

    def _live_up_to(self, key: CopyKey, sn: int) -> None:
        live = self._live.get(key)
        if live:
            self._live[key] = {at: entry for at, entry in live.items() if at <= sn}

    def _take_raft(self, record: Record, segment: int, offset: int) -> None:
        kind = record.kind
        if kind == Kind.RAFT_ENTRY:
            self.raft.entry(record.epoch, record.sn, segment, offset)
            if self.raft_snapshot_at[1] < record.sn <= self.raft.last_sn:
                self.raft_entries[record.sn] = record
        elif kind == Kind.RAFT_STATE:
            self.term = record.epoch
            self.vote = record.payload.decode() or None
            self.vote_lost = False
        elif kind == Kind.RAFT_CUT:
            self.raft.cut(record.sn)
            self._raft_entries_between(0, record.sn)
        elif kind == Kind.RAFT_SNAPSHOT:
            self._raft_snapshot(record)
            self._raft_entries_between(record.sn, self.raft.last_sn)
        elif kind == Kind.RAFT_RESET:
            self.raft.reset(record.epoch, record.sn, ())
            self.raft_entries.clear()
            self._raft_snapshot(record)
            if not record.payload:
                self.raft_snapshot = None  # The group has ended: this node is in none.
        else:
            self.raft_suspect = False
            self.raft.restate(record.epoch, record.sn, _end_decoder.decode(record.payload))
            self._raft_entries_between(self.raft_snapshot_at[1], record.sn)

    def _raft_snapshot(self, record: Record) -> None:
        self.raft_snapshot = record.payload
        self.raft_snapshot_at = (record.epoch, record.sn)
        self.raft_snapshot_lost = False

    def _raft_entries_between(self, above: int, up_to: int) -> None:
        self.raft_entries = {at: record for at, record in self.raft_entries.items() if above < at <= up_to}

    def _take_map(self, record: Record) -> None:
        if record.kind == Kind.MAP_SNAPSHOT:
            self.map_snapshot = record.payload
            self.map_snapshot_sn = self.map_through = record.sn
            self.map_entries = []
            self.map_cut_short = False
        elif not self.map_cut_short and record.sn > self.map_through:
            self.map_entries.append(record)
            self.map_through = record.sn

    def lost(self, kind: int, shard: int, copy: int, epoch: int, sn: int) -> None:
        """Take in that a durable record is damaged; its header still says what it was."""
        self.empty = False
        if kind == Kind.RAFT_STATE:
            self.term = max(self.term, epoch)
            self.vote, self.vote_lost = None, True
        elif kind == Kind.RAFT_SNAPSHOT or kind == Kind.RAFT_RESET:
            self.raft_snapshot_lost = True
            self.raft_snapshot_at = max(self.raft_snapshot_at, (epoch, sn))
        elif kind == Kind.RAFT_ENTRY:
            self.raft.entry(epoch, sn, 0, 0, present=False)
        elif kind in _RAFT_KINDS:
            self.raft_suspect = True
        elif kind == Kind.MAP_ENTRY or kind == Kind.MAP_SNAPSHOT:
            self.map_cut_short = True
        elif kind == Kind.BOOT:
            # The boots we know of stay: a genuine directory must not look like one that was rolled back.
            self.boot_counter = max(self.boot_counter, sn)
        elif kind in (Kind.SHARD_CUT, Kind.SHARD_DROP, Kind.SHARD_PROMISE):
            # These say all they have to say in their numbers.
            self.take(Record(kind, shard, copy, epoch, sn), 0, 0)
        else:
            self._lost_of_shard(kind, (shard, copy), epoch, sn)

    def _lost_of_shard(self, kind: int, key: CopyKey, epoch: int, sn: int) -> None:
        track = self.copies.get(key) or self._unknown(key)
        if kind == Kind.SHARD_ENTRY:
            track.entry(epoch, sn, 0, 0, present=False)
        elif kind != Kind.SHARD_END or (track.promised, track.last_sn) != (epoch, sn):
            # A repeat that says what we have already is no loss; anything else was.
            track.broken = True

    def gone(self) -> None:
        """Take in that a whole durable batch is missing: its header is damaged, so nobody knows what it held.

        A copy is cleared by a later entry that follows its last one, Raft and the map by a later full statement. The boot
        counter may have been raised in it, so it is raised here: it only ever has to grow.
        """
        self.empty = False
        self.boot_counter += 1
        self.raft.suspect = self.raft_suspect = True
        self.map_cut_short = True
        for track in self.copies.values():
            track.suspect = True

    def start_records(self) -> list[Record]:
        """Return what a new segment begins with: hard state, snapshots, and every track's end."""
        raft = self.raft
        records = [Record(Kind.BOOT, NO_SHARD, 0, 0, self.boot_counter, self.boots)]
        if not self.vote_lost:
            records.append(Record(Kind.RAFT_STATE, NO_SHARD, 0, self.term, 0, (self.vote or "").encode()))
        if self.raft_snapshot is not None and not self.raft_snapshot_lost:
            term, index = self.raft_snapshot_at
            records.append(Record(Kind.RAFT_SNAPSHOT, NO_SHARD, 0, term, index, self.raft_snapshot))
        if self.raft_is_harmed():
            raft.harmed = True
        records.append(Record(Kind.RAFT_END, NO_SHARD, 0, raft.promised, raft.last_sn, raft.end()))
        if self.map_snapshot is not None:
            records.append(Record(Kind.MAP_SNAPSHOT, NO_SHARD, 0, 0, self.map_snapshot_sn, self.map_snapshot))
        records.extend(self.map_entries)
        for (shard, copy), track in self.copies.items():
            records.append(Record(Kind.SHARD_END, shard, copy, track.promised, track.last_sn, track.end()))
        return records

    def raft_is_harmed(self) -> bool:
        """Return whether hard state or entries of Raft were lost: this storage id may not vote as the old voter."""
        raft = self.raft
        lost = self.raft_suspect or self.vote_lost or self.raft_snapshot_lost
        if lost or raft.harmed or raft.suspect or raft.broken:
            return True
        first = self.raft_snapshot_at[1] + 1
        return any(
            index not in self.raft_entries or self.raft_entries[index].epoch != raft.epoch_at(index)
            for index in range(first, raft.last_sn + 1)
        )

    def recovered(self) -> RecoveredLog:
        """Return what a starting node is given. Marks harmed copies, so that the next segment repeats the harm."""
        return RecoveredLog(
            boot_counter=self.boot_counter,
            boots=decode_boots(self.boots),
            term=self.term,
            vote=self.vote,
            raft_snapshot=self.raft_snapshot,
            raft_snapshot_at=self.raft_snapshot_at,
            raft_entries=[self.raft_entries[index] for index in sorted(self.raft_entries)],
            raft_harmed=self.raft_is_harmed(),
            map_snapshot=self.map_snapshot,
            map_through=self.map_through,
            map_entries=list(self.map_entries),
            copies={key: self._recovered_copy(key, track) for key, track in self.copies.items()},
            empty=self.empty,
        )

    def _recovered_copy(self, key: CopyKey, track: Track) -> RecoveredCopy:
        applied = max((self._applied or {}).get(key, 0), track.base[1])
        live = self._live.get(key, {})
        entries: list[tuple[int, int, bytes]] = []
        for sn in range(applied + 1, track.last_sn + 1):
            found = live.get(sn)
            if found is None or found[0] != track.epoch_at(sn):
                track.harmed = True
                break
            entries.append((found[0], sn, found[1]))
        # A store past the end of the log: what was acknowledged after it may be lost as well.
        if track.suspect or track.broken or applied > track.last_sn:
            track.harmed = True
        first = track.first_sn()
        return RecoveredCopy(
            shard=key[0],
            copy=key[1],
            promised=track.promised,
            epochs=tuple(track.epochs),
            base=(track.epoch_at(first - 1), first - 1),
            reset=track.base,
            last=track.last,
            entries=entries,
            harmed=track.harmed,
        )

    def run_on(self) -> None:
        """Forget live payloads: from now on the fold follows a running log."""
        self._applied = None
        self._live = {}
