"""The shard map that this node holds, and how it comes to hold newer ones.

    nothing --whole map on disk--> held --committed entry on disk--> held, newer

To *hold* a version is to have the whole committed map on disk; a node acts on nothing else. A voter gets committed
entries from Raft, whose core hands out only what is durable here. Everybody else pulls entries, or the whole map, from
any member; they count once their records are synced. Versions never go back. Every node keeps the newest entries in
memory, to answer pulls and to bring a peer up to date with the answer to its ping.

A node may vote, then not, then vote again. What it pulls is replayed after a restart on the newest whole map among its
pulled records, so the first answer it pulls after Raft has moved the map carries the whole map to the disk with it.

Source: replication.md, "The shard map"; counterexamples.md S4 and L11.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Sequence

import msgspec

from ringkeep_core.errors import BadFrame
from ringkeep_core.mapchanges import MapChange, decode_change
from ringkeep_core.maprules import Applied, apply
from ringkeep_core.shardmap import GENERATION_STEP, ShardMap, decode_map, encode_map, floor_of, generation_at
from ringkeep_node.machines.messages import MapEntries, MapWhole
from ringkeep_node.machines.records import NO_SHARD, Kind, Record

RECENT_ENTRIES_MAX = 1024
PULL_BYTES_MAX = 1 << 20
PULLED_ENTRIES_MAX = 1024


class HeldMap:
    """The newest map on this node's disk, or None before it belongs to a cluster; ``through`` is the Raft index up to
    which it is known current."""

    def __init__(self, shard_map: ShardMap | None = None, through: int = 0, *, pulled: bool = False) -> None:
        """``pulled``: the map was pulled, as a whole, into this disk's records."""
        self.map = shard_map
        self.through = through
        self._recent: deque[tuple[int, bytes]] = deque(maxlen=RECENT_ENTRIES_MAX)
        self._recent_after = through
        self._pulled_through = through
        self._pulled_entries = 0
        self._chained = pulled
        """Whether the pulled records on disk, or on their way, give the newest map: else entries have no base there."""
        self._unsynced: deque[tuple[int, MapEntries | MapWhole]] = deque()

    @property
    def coming(self) -> int:
        """The Raft index up to which the map is held or on its way to this disk."""
        return max(self.through, self._pulled_through)

    # --- from Raft -----------------------------------------------------------------------------------------------

    def committed(
        self, index: int, payload: bytes, *, voters: Collection[str] = ()
    ) -> tuple[MapChange, Applied] | None:
        """Apply a committed entry that is on this disk; None if the map is already past it (or there is none).

        ``voters`` are the members of the Raft configuration as of this entry: they cannot leave.
        """
        done = self._commit(index, payload, voters)
        if done is not None and done[1].map.position == index:
            self._chained = False
        return done

    def _commit(self, index: int, payload: bytes, voters: Collection[str] = ()) -> tuple[MapChange, Applied] | None:
        if index <= self.through or self.map is None:
            return None
        return self._apply(index, payload, voters)

    def passed(self, index: int) -> None:
        """Note a committed entry that carries no map change (a no-op, a configuration)."""
        self.through = max(self.through, index)
        self._pulled_through = max(self._pulled_through, index)

    def installed(self, data: bytes, index: int) -> bool:
        """Take the whole map of a Raft snapshot that is on this disk. Returns whether it is newer."""
        if not self._install(data, index):
            return False
        self._chained = False
        return True

    def _install(self, data: bytes, index: int) -> bool:
        if self.map is not None and index <= self.through:
            return False
        self.map, self.through = decode_map(data), index
        self._pulled_through = max(self._pulled_through, index)
        self._recent.clear()
        self._recent_after = index
        return True

    # --- pulled by those who do not vote -------------------------------------------------------------------------

    def pulled(self, message: MapEntries | MapWhole, step: int) -> list[Record]:
        """Return the records that make a pulled answer durable; it counts when ``synced(step)`` says so.

        An answer that leaves a gap, or brings nothing, gives no records and changes nothing.
        """
        if isinstance(message, MapEntries):
            if message.after > self._pulled_through or message.through <= self._pulled_through:
                return []
            if self.map is None and not self._unsynced:
                return []
            if not self._chained and self._unsynced:
                return []  # Raft moved the map while an answer was on its way: pull again when that is settled.
            records = [
                Record(Kind.MAP_ENTRY, NO_SHARD, 0, 0, index, payload)
                for index, payload in message.entries
                if index > self._pulled_through
            ]
            self._pulled_entries += len(records)
            if records and not self._chained:
                assert self.map is not None
                records.insert(0, Record(Kind.MAP_SNAPSHOT, NO_SHARD, 0, 0, self.through, encode_map(self.map)))
                self._chained = True
        else:
            if message.through <= self._pulled_through:
                return []
            records = [Record(Kind.MAP_SNAPSHOT, NO_SHARD, 0, 0, message.through, message.data)]
            self._pulled_entries = 0
            self._chained = True
        if not records:
            # Nothing changed the map up to there: this waits for what is on its way to the disk, or for nothing.
            if not self._unsynced:
                self.passed(message.through)
                return []
            step = self._unsynced[-1][0]
        self._pulled_through = message.through
        self._unsynced.append((step, message))
        return records

    def replayed(self, record: Record) -> None:
        """Take an entry that was pulled before a restart: it follows the whole map found on this disk."""
        self._commit(record.sn, record.payload)

    def synced(self, step: int) -> list[tuple[MapChange, Applied]]:
        """Act on the pulled answers whose records are durable now. Returns what changed, in order."""
        changes: list[tuple[MapChange, Applied]] = []
        while self._unsynced and self._unsynced[0][0] <= step:
            _, message = self._unsynced.popleft()
            if isinstance(message, MapWhole):
                self._install(message.data, message.through)
                continue
            for index, payload in message.entries:
                applied = self._commit(index, payload)
                if applied is not None:
                    changes.append(applied)
            self.passed(message.through)
        return changes

    @property
    def is_long(self) -> bool:
        """Whether so many entries were pulled that ``compacted`` may have something."""
        return self._pulled_entries >= PULLED_ENTRIES_MAX

    def compacted(self) -> Record | None:
        """Return the whole map as a record once many entries were pulled: the log then repeats no more of them.

        None while answers wait for the disk: the record would stand behind them and take them back.
        """
        if not self.is_long or self._unsynced or self.map is None:
            return None
        self._pulled_entries = 0
        self._chained = True
        return Record(Kind.MAP_SNAPSHOT, NO_SHARD, 0, 0, self.through, encode_map(self.map))

    def answer(self, after: int) -> MapEntries | MapWhole | None:
        """Return what brings a member that holds the map through ``after`` up to date; None if it is."""
        if self.map is None or after >= self.through:
            return None
        if self.map.position < floor_of(generation_at(self.through)):
            return None  # The entry that begins this generation is not committed: others may hold more of the last one.
        if after >= self._recent_after and generation_at(after) == generation_at(self.through):
            entries = tuple((index, payload) for index, payload in self._recent if index > after)
            if sum(len(payload) for _, payload in entries) <= PULL_BYTES_MAX:
                return MapEntries(after, entries, self.through)
        return MapWhole(encode_map(self.map), self.through)

    def _apply(self, index: int, payload: bytes, voters: Collection[str]) -> tuple[MapChange, Applied]:
        assert self.map is not None
        change, before = decode_change(payload), self.map
        applied = apply(before, GENERATION_STEP + index, change, voters=voters)
        self.map, self.through = applied.map, index
        self._pulled_through = max(self._pulled_through, index)
        if applied.map is before:
            # Refused as a whole: nobody needs it, and who does not vote could not judge it (it knows no voters).
            return change, applied
        if len(self._recent) == RECENT_ENTRIES_MAX:
            self._recent_after = self._recent[0][0]
        self._recent.append((index, payload))
        return change, applied


def recovered_map(snapshot: bytes | None, through: int, entries: Sequence[Record]) -> HeldMap:
    """Return the map a non-voter held before its restart: the pulled snapshot and the entries pulled after it.

    ``through`` is how far snapshot and entries reach together.
    """
    try:
        first = decode_map(snapshot) if snapshot is not None else None
    except msgspec.DecodeError as error:
        raise BadFrame("the map in the log is damaged") from error
    held = HeldMap(first, 0 if first is None else first.position, pulled=first is not None)
    for record in entries:
        held.replayed(record)
    if first is not None:
        held.passed(through)
    return held
