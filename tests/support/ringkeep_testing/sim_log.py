"""The log's twin for whole-cluster simulation: records in memory, the real fold, no threads, no bytes.

Nothing is durable before sync(). A crash keeps some prefix of the appends that were not synced: the real log writes them
in this order, in whole batches, and cuts a torn batch whole. What is durable may be damaged later: then the header of
its batch still says what it was.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from random import Random

from ringkeep_node.machines.records import Kind, Record
from ringkeep_node.machines.recovery import CopyKey, LogState, RecoveredLog
from ringkeep_node.runtime.wal.log import LogGone

Place = tuple[int, int, int, int]
"""(shard, copy, epoch, sn) of an entry"""


class SimLog:
    """The durable records of one simulated machine, and the appends of the process that runs on it."""

    def __init__(self) -> None:
        self._durable: list[Record] = []
        self._damaged: set[Place] = set()
        self._state = LogState()
        self._entries: dict[CopyKey, dict[int, tuple[int, bytes]]] = {}
        self._pending: list[tuple[int, Sequence[Record]]] = []
        self._tickets = 0
        self._synced = 0

    def open(self, applied: Mapping[CopyKey, int]) -> RecoveredLog:
        """Start a process on this log: fold what is durable, with the store's synced applied sns."""
        state = self._folded(applied)
        recovered = state.recovered()
        state.run_on()
        self._state = state
        self._tickets = self._synced = 0
        return recovered

    def _folded(self, applied: Mapping[CopyKey, int]) -> LogState:
        state = LogState(applied)
        for record in self._durable:
            place = (record.shard, record.copy, record.epoch, record.sn)
            if record.kind == Kind.SHARD_ENTRY and place in self._damaged:
                state.lost(record.kind, *place)
            else:
                state.take(record, 1, 0)
        return state

    def needed(self, applied: Mapping[CopyKey, int]) -> list[Place]:
        """Return the durable entries above the store's synced applied sns, of whole copies: none of them may get lost."""
        copies = self._folded(applied).recovered().copies.values()
        return [(it.shard, it.copy, epoch, sn) for it in copies if not it.harmed for epoch, sn, _ in it.entries]

    def damage(self, place: Place) -> None:
        """Let a durable entry rot while no process runs on this log."""
        shard, copy, _epoch, sn = place
        self._damaged.add(place)
        self._entries[shard, copy].pop(sn)

    def append(self, records: Sequence[Record], *, urgent: bool = False) -> int:
        """Queue records and return a ticket; who syncs decides in which order they become durable."""
        self._tickets += 1
        self._pending.append((self._tickets, records))
        return self._tickets

    @property
    def queued_bytes(self) -> int:
        """Bytes appended that are not durable yet."""
        return sum(len(record.payload) for _ticket, records in self._pending for record in records)

    def sync(self, through: int | None = None) -> int:
        """Make appends durable, up to a ticket or all; return the highest durable ticket."""
        taken = 0
        for ticket, records in self._pending:
            if through is not None and ticket > through:
                break
            self._store(records)
            self._synced = ticket
            taken += 1
        del self._pending[:taken]
        return self._synced

    def sync_batch(self, tickets: Collection[int]) -> None:
        """Make these appends durable, which may overtake others."""
        for ticket, records in self._pending:
            if ticket in tickets:
                self._store(records)
        self._pending = [(ticket, records) for ticket, records in self._pending if ticket not in tickets]

    def _store(self, records: Sequence[Record]) -> None:
        for record in records:
            self._durable.append(record)
            self._state.take(record, 1, 0)
            key = (record.shard, record.copy)
            if record.kind == Kind.SHARD_ENTRY:
                self._entries.setdefault(key, {})[record.sn] = (record.epoch, record.payload)
            elif record.kind in (Kind.SHARD_DROP, Kind.SHARD_RESET):
                self._entries.pop(key, None)

    def crash(self, random: Random) -> None:
        """Lose the process; some prefix of what was not synced is on the medium all the same."""
        for _ticket, records in self._pending[: random.randint(0, len(self._pending))]:
            self._store(records)
        self._pending.clear()

    def first_sn(self, shard: int, copy: int) -> int:
        """Return the smallest sn that read() still has; one above the last sn when none is."""
        track = self._state.copies.get((shard, copy))
        if track is None:
            return 1
        entries = self._entries.get((shard, copy), {})
        first = track.last_sn + 1
        while first - 1 > track.base[1] and first - 1 in entries:
            first -= 1
        return first

    def read(self, shard: int, copy: int, after_sn: int, bytes_max: int) -> list[tuple[int, int, bytes]]:
        """Return consecutive durable entries after ``after_sn``; raises LogGone when the next one is gone."""
        track = self._state.copies.get((shard, copy))
        if track is None or after_sn >= track.last_sn:
            return []
        entries = self._entries.get((shard, copy), {})
        found: list[tuple[int, int, bytes]] = []
        size = 0
        for sn in range(after_sn + 1, track.last_sn + 1):
            entry = entries.get(sn)
            if size >= bytes_max or entry is None or sn <= track.base[1]:
                break
            found.append((entry[0], sn, entry[1]))
            size += len(entry[1])
        if not found:
            raise LogGone(f"shard {shard}: entries from {after_sn + 1} on are no longer in the log")
        return found

    def release(self, covered: Mapping[CopyKey, int], *, raft_index: int = 0, keep: int = 0) -> None:
        """Let go of covered entries, except the last ``keep`` of each copy: what remains is what a new segment repeats."""
        records = [*self._state.start_records(), *self._state.raft_entries.values()]
        for key, track in self._state.copies.items():
            entries = self._entries.get(key, {})
            floor = max(min(covered.get(key, 0), track.last_sn - keep), track.base[1])
            self._entries[key] = {sn: entry for sn, entry in entries.items() if floor < sn <= track.last_sn}
            for sn, (epoch, payload) in sorted(self._entries[key].items()):
                records.append(Record(Kind.SHARD_ENTRY, *key, epoch, sn, payload))
        self._durable = records
        self._damaged.clear()  # None of it is repeated, but the ends of logs say that something is missing.
