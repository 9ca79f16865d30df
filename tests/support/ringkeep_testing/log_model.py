"""A model of what a log must give back, as plain lists, and a seeded author of valid histories for it.

It shares no code with the log: truncating a list is what a ``cut`` means, an empty list is what a ``drop`` means.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from ringkeep_node.machines.records import NO_SHARD, EpochStart, Kind, Record
from ringkeep_node.machines.recovery import RecoveredLog, encode_epochs

Key = tuple[int, int]


class CopyModel:
    """One shard copy: what was promised, where its log starts, and every entry since."""

    def __init__(self) -> None:
        self.promised = 0
        self.start = (0, 0)
        self.table: list[EpochStart] = []
        self.entries: list[tuple[int, int, bytes]] = []

    @property
    def last(self) -> tuple[int, int]:
        """(epoch, sn) of the last entry."""
        return self.entries[-1][:2] if self.entries else self.start

    def epochs(self) -> tuple[EpochStart, ...]:
        """Return the epoch table."""
        table = list(self.table)
        for epoch, sn, _payload in self.entries:
            if not table or table[-1].epoch != epoch:
                table.append(EpochStart(epoch, sn))
        return tuple(table)


class LogModel:
    """Everything a log was told, in order."""

    def __init__(self) -> None:
        self.boot = 0
        self.term = 0
        self.vote: str | None = None
        self.raft: list[tuple[int, int, bytes]] = []
        self.raft_snapshot: bytes | None = None
        self.raft_snapshot_at = (0, 0)
        self.map_snapshot: bytes | None = None
        self.map_through = 0
        self.map_entries: list[tuple[int, bytes]] = []
        self.copies: dict[Key, CopyModel] = {}

    @classmethod
    def of(cls, appends: Sequence[Sequence[Record]]) -> LogModel:
        """Return the model after these appends."""
        model = cls()
        for records in appends:
            for record in records:
                model.take(record)
        return model

    def take(self, record: Record) -> None:
        """Take in one record."""
        kind, key = record.kind, (record.shard, record.copy)
        if kind == Kind.BOOT:
            self.boot = record.sn
        elif kind == Kind.RAFT_STATE:
            self.term, self.vote = record.epoch, record.payload.decode() or None
        elif kind == Kind.RAFT_ENTRY:
            self.raft.append((record.epoch, record.sn, record.payload))
        elif kind == Kind.RAFT_CUT:
            self.raft = [entry for entry in self.raft if entry[1] <= record.sn]
        elif kind in (Kind.RAFT_SNAPSHOT, Kind.RAFT_RESET):
            self.raft_snapshot, self.raft_snapshot_at = record.payload, (record.epoch, record.sn)
            keeps = kind == Kind.RAFT_SNAPSHOT
            self.raft = [entry for entry in self.raft if keeps and entry[1] > record.sn]
        elif kind == Kind.MAP_SNAPSHOT:
            self.map_snapshot, self.map_through, self.map_entries = record.payload, record.sn, []
        elif kind == Kind.MAP_ENTRY:
            self.map_entries.append((record.sn, record.payload))
            self.map_through = record.sn
        elif kind == Kind.SHARD_DROP:
            self.copies.pop(key, None)
        else:
            self._take_shard(self.copies.setdefault(key, CopyModel()), record)

    def _take_shard(self, copy: CopyModel, record: Record) -> None:
        if record.kind == Kind.SHARD_ENTRY:
            copy.entries.append((record.epoch, record.sn, record.payload))
            copy.promised = max(copy.promised, record.epoch)
        elif record.kind == Kind.SHARD_PROMISE:
            copy.promised = max(copy.promised, record.epoch)
        elif record.kind == Kind.SHARD_CUT:
            copy.entries = [entry for entry in copy.entries if entry[1] <= record.sn]
        else:
            copy.start, copy.entries = (record.epoch, record.sn), []
            copy.table = [EpochStart(record.epoch, record.sn)]
            copy.promised = max(copy.promised, record.epoch)

    def differences(self, found: RecoveredLog, applied: dict[Key, int]) -> list[str]:
        """Return in what a recovered log differs from this model; harmed copies are differences too."""
        said: list[str] = []
        if found.boot_counter != self.boot:
            said.append(f"boot counter {found.boot_counter}, not {self.boot}")
        said += self._raft_differences(found)
        maps = [(record.sn, record.payload) for record in found.map_entries]
        if (found.map_snapshot, found.map_through, maps) != (self.map_snapshot, self.map_through, self.map_entries):
            said.append(f"map through {found.map_through}, not {self.map_through}")
        for key in sorted({*found.copies, *self.copies}):
            said += self.copy_differences(key, found, applied)
        return said

    def _raft_differences(self, found: RecoveredLog) -> list[str]:
        entries = [(record.epoch, record.sn, record.payload) for record in found.raft_entries]
        mine = (self.term, self.vote, self.raft_snapshot, self.raft_snapshot_at, self.raft)
        theirs = (found.term, found.vote, found.raft_snapshot, found.raft_snapshot_at, entries)
        if found.raft_harmed:
            return ["raft is harmed"]
        return [] if mine == theirs else [f"raft: {theirs} instead of {mine}"]

    def copy_differences(self, key: Key, found: RecoveredLog, applied: dict[Key, int]) -> list[str]:
        """Return in what one recovered copy differs."""
        mine, theirs = self.copies.get(key), found.copies.get(key)
        if mine is None or theirs is None:
            return [f"copy {key}: {'missing' if theirs is None else 'came back'}"]
        if theirs.harmed:
            return [f"copy {key} is harmed"]
        floor = max(applied.get(key, 0), mine.start[1])
        entries = [entry for entry in mine.entries if entry[1] > floor]
        expected = (mine.promised, mine.last, mine.epochs(), entries)
        got = (theirs.promised, theirs.last, theirs.epochs, theirs.entries)
        return [] if expected == got else [f"copy {key}: {got} instead of {expected}"]


class Author:
    """Writes one valid history after the other, from a seed; ``model`` is what it has written so far."""

    def __init__(self, random: Random) -> None:
        self.random = random
        self.model = LogModel()
        self.applied: dict[Key, int] = {}
        self._versions = 0

    def append(self) -> list[Record]:
        """Return the records of the next append."""
        draw = self.random.random()
        if not self.model.copies or draw < 0.03:
            records = self._new_copy()
        elif draw < 0.75:
            records = self._shard()
        elif draw < 0.95:
            records = self._raft()
        else:
            records = self._map_or_boot()
        for record in records:
            self.model.take(record)
        return records

    def apply_some(self) -> None:
        """Let the store make some entries its own."""
        for key, copy in self.model.copies.items():
            if self.random.random() < 0.7:
                low = max(self.applied.get(key, 0), copy.start[1])
                self.applied[key] = self.random.randint(low, max(low, copy.last[1] - self.random.randint(0, 5)))

    def _payload(self) -> bytes:
        return self.random.randbytes(self.random.choice((0, 10, 200, 600, 600, 5000)))

    def _new_copy(self) -> list[Record]:
        self._versions += 1
        shard = self.random.randrange(4)
        gone = [key for key in self.model.copies if key[0] == shard]
        drops = [Record(Kind.SHARD_DROP, *key, 0, 0) for key in gone]
        return [*drops, Record(Kind.SHARD_ENTRY, shard, self._versions, 1, 1, self._payload())]

    def _shard(self) -> list[Record]:
        key = self.random.choice(sorted(self.model.copies))
        copy = self.model.copies[key]
        epoch, sn = copy.last
        draw = self.random.random()
        records: list[Record] = []
        if draw < 0.05:
            at = sn + self.random.randint(1, 20)
            promised = max(epoch, copy.promised)
            table = encode_epochs((EpochStart(promised, at),))
            return [Record(Kind.SHARD_RESET, *key, promised, at, table)]
        if draw < 0.3:
            epoch = max(epoch, copy.promised) + 1
            records.append(Record(Kind.SHARD_PROMISE, *key, epoch, 0))
            low = max(self.applied.get(key, 0), copy.start[1])
            keep = self.random.randint(low, max(low, sn))
            if keep < sn:
                kept = copy.start[0] if keep == copy.start[1] else copy.entries[keep - copy.start[1] - 1][0]
                records.append(Record(Kind.SHARD_CUT, *key, kept, keep))
                sn = keep
        epoch = max(epoch, copy.promised)
        count = self.random.randint(0 if records else 1, 5)
        records += [Record(Kind.SHARD_ENTRY, *key, epoch, sn + 1 + n, self._payload()) for n in range(count)]
        return records

    def _raft(self) -> list[Record]:
        model = self.model
        term, index = model.raft[-1][:2] if model.raft else model.raft_snapshot_at
        draw = self.random.random()
        records: list[Record] = []
        if draw < 0.1 and model.raft:
            at = self.random.choice(model.raft)
            return [Record(Kind.RAFT_SNAPSHOT, NO_SHARD, 0, at[0], at[1], b"snapshot" + self._payload())]
        if draw < 0.13:
            return [Record(Kind.RAFT_RESET, NO_SHARD, 0, term, index + 10, b"installed" + self._payload())]
        if draw < 0.4:
            term = max(term, model.term) + 1
            vote = self.random.choice((b"", b"0123456789abcdef"))
            records.append(Record(Kind.RAFT_STATE, NO_SHARD, 0, term, 0, vote))
            keep = self.random.randint(model.raft_snapshot_at[1], max(index, model.raft_snapshot_at[1]))
            if keep < index:
                records.append(Record(Kind.RAFT_CUT, NO_SHARD, 0, 0, keep))
                index = keep
        term = max(term, model.term)
        records += [Record(Kind.RAFT_ENTRY, NO_SHARD, 0, term, index + 1 + n, self._payload()) for n in range(2)]
        return records

    def _map_or_boot(self) -> list[Record]:
        through = self.model.map_through + self.random.randint(1, 3)
        draw = self.random.random()
        if draw < 0.3:
            return [Record(Kind.BOOT, NO_SHARD, 0, 0, self.model.boot + 1)]
        if draw < 0.5:
            return [Record(Kind.MAP_SNAPSHOT, NO_SHARD, 0, 0, through, b"map" + self._payload())]
        return [Record(Kind.MAP_ENTRY, NO_SHARD, 0, 0, through, self._payload())]
