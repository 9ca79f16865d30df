"""Writing the log: one batch at a time, each synced before the next; new segments; letting old segments go.

Synchronous and without threads: log.py runs it in the log's thread, the crash-image tests run it as it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ringkeep_node.machines.records import Kind, Record
from ringkeep_node.machines.recovery import CopyKey, Track
from ringkeep_node.runtime.disk import Disk
from ringkeep_node.runtime.wal.format import encode, is_intact
from ringkeep_node.runtime.wal.opening import Opened
from ringkeep_node.runtime.wal.segments import SegmentFile, batches_in, segment_name

CARRY_SHARE = 2  # a segment whose live tails are above 1/2 of it waits for the store, until the log is twice its limit


class Writer:
    """The end of the log. ``state`` follows what is durable; readers of its runs take the lock that log.py holds."""

    def __init__(
        self,
        disk: Disk,
        opened: Opened,
        *,
        salt: int,
        segment_bytes: int,
        log_bytes_max: int,
        keep_s: float,
        ahead_bytes: int,
        now: float,
    ) -> None:
        self._disk = disk
        self._salt = salt
        self._segment_bytes = segment_bytes
        self._log_bytes_max = log_bytes_max
        self._keep_s = keep_s
        self._ahead_bytes = ahead_bytes
        self.state = opened.state
        self._number = opened.number
        self._checksum = opened.checksum
        self._next_segment = opened.next_segment
        self._closed: dict[int, int] = dict(sorted(opened.ends.items()))
        self._closed_at: dict[int, float] = dict.fromkeys(self._closed, now)
        self._empty = list(opened.empty_segments)
        self._current: SegmentFile | None = None

    @property
    def log_bytes(self) -> int:
        """How many bytes of batches the log holds."""
        return sum(self._closed.values()) + (self._current.end if self._current else 0)

    @property
    def segment(self) -> int:
        """The number of the segment being written."""
        return self._current.segment if self._current else self._next_segment

    def write(self, records: Sequence[Record], now: float) -> tuple[int, int]:
        """Make a batch durable and return where it stands; take() it into the state afterwards."""
        current = self._current
        if current is None or current.end >= self._segment_bytes:
            current = self._new_segment(now)
            records = [*self.state.start_records(), *records]
        data, checksum = encode(current.segment, self._number + 1, self._checksum, records, self._salt)
        offset = current.write(data)
        self._number += 1
        self._checksum = checksum
        return current.segment, offset

    def take(self, records: Sequence[Record], segment: int, offset: int) -> None:
        """Fold a durable batch into the state."""
        take = self.state.take
        for record in records:
            take(record, segment, offset)

    def begin(self, now: float) -> None:
        """Start the new segment that every opening begins with, and remove what no batch counts in."""
        self.write((), now)
        for segment in self._empty:
            self.remove(segment)
        self._empty.clear()

    def _new_segment(self, now: float) -> SegmentFile:
        if self._current is not None:
            self._closed[self._current.segment] = self._current.end
            self._closed_at[self._current.segment] = now
            self._current.close()
            self._current = None
        self._current = SegmentFile(self._disk, self._next_segment, self._ahead_bytes)
        self._next_segment += 1
        return self._current

    def to_release(self, now: float) -> int | None:
        """Return the oldest segment when it is time to let it go: the log is over its limit, or it is older than wanted."""
        if not self._closed:
            return None
        oldest = next(iter(self._closed))
        too_much = self.log_bytes > self._log_bytes_max
        return oldest if too_much or now - self._closed_at[oldest] >= self._keep_s else None

    def live_in(self, segment: int, covered: Mapping[CopyKey, int]) -> list[Record] | None:
        """Return the records of a segment that stand nowhere else and are not covered: to be carried forward.

        None while they are so many that waiting for the store is the better choice.
        """
        state = self.state
        raft_sns = state.raft.only_in(segment, state.raft_snapshot_at[1])
        carried = [state.raft_entries[sn] for sn in raft_sns if sn in state.raft_entries]
        wanted: dict[tuple[int, int, int, int], Track] = {}
        for key, track in state.copies.items():
            # A copy the store does not know yet is covered up to the snapshot that its log starts after.
            for sn in track.only_in(segment, max(covered.get(key, 0), track.base[1])):
                wanted[(*key, track.epoch_at(sn), sn)] = track
        carried.extend(self._read(segment, wanted))
        size = sum(len(record.payload) for record in carried)
        too_many = size * CARRY_SHARE > self._closed[segment] and len(self._closed) > 1
        if too_many and self.log_bytes <= 2 * self._log_bytes_max:
            return None
        return carried

    def _read(self, segment: int, wanted: Mapping[tuple[int, int, int, int], Track]) -> list[Record]:
        if not wanted:
            return []
        found: list[Record] = []
        file = self._disk.open(segment_name(segment))
        try:
            for batch in batches_in(file, segment, self._salt):
                at = batch.offset + batch.header.header_bytes
                for kind, shard, copy, epoch, sn, size, checksum in batch.header.numbers():
                    if kind == Kind.SHARD_ENTRY and (shard, copy, epoch, sn) in wanted:
                        payload = file.pread(size, at)
                        if is_intact(payload, size, checksum, self._salt):
                            found.append(Record(kind, shard, copy, epoch, sn, payload))
                    at += size
        finally:
            file.close()
        read = {(record.shard, record.copy, record.epoch, record.sn) for record in found}
        for key, track in wanted.items():
            if key not in read:
                # Rotted since it was written: the end that later segments repeat must not hide the loss.
                track.harmed = True
        return found

    def forget(self, segment: int) -> None:
        """Remove a segment whose records are covered or repeated in a newer, synced one."""
        for track in (self.state.raft, *self.state.copies.values()):
            track.forget_segment(segment)
        del self._closed[segment], self._closed_at[segment]

    def remove(self, segment: int) -> None:
        """Delete a forgotten segment's file; for good before the next one goes, so that no hole can appear."""
        self._disk.remove(segment_name(segment))
        self._disk.sync_names()

    def close(self) -> None:
        """Close the file that is being written."""
        if self._current is not None:
            self._current.close()
            self._current = None
