"""The log of one node in memory: what it holds, what of it is durable, committed and handed out.

    base_index < ... applied <= min(commit, stable) ... <= last_index
                     stable: durable here, as reported by the disk
                     commit: known to be on a majority of the voters

Entries live here until a snapshot covers them and the tail has moved on. What the disk has still to write is handed
out by ``take_writes``; what it has written comes back through ``entries_synced``, first in, first out. A report names
(term, index), which is not enough: an entry can be cut and come back with the same name while the report of its first
life is still under way. So reports are matched against the writes that are outstanding, oldest first.

The configuration is the newest one in the log, committed or not; it counts from the moment it is appended and falls
with truncation (Raft paper, section 6).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from itertools import islice, pairwise

from msgspec import Struct

from ringkeep_node.machines.raft.messages import (
    CONFIGURATION,
    Configuration,
    Entry,
    HardState,
    Recovered,
    Snapshot,
    decode_configuration,
)

_ENTRY_OVERHEAD_BYTES = 64


class RaftLogDamaged(ValueError):
    """What was recovered is no log: it has a hole. Nothing was changed; this storage id must not vote again."""


class _Write(Struct, frozen=True):
    """One handed out step that the disk has not reported yet."""

    hard_state: HardState | None
    cut_after: int | None
    entries: tuple[Entry, ...]

    def holds(self, term: int, index: int) -> bool:
        """Return whether the entry (term, index) is in this write."""
        entries = self.entries
        return (
            bool(entries)
            and entries[0].index <= index <= entries[-1].index
            and entries[index - entries[0].index].term == term
        )


class RaftLog:
    """Entries after ``base_index`` and the marks on them. Callers keep to Raft's rules; asserts catch our own slips."""

    def __init__(self, recovered: Recovered) -> None:
        snapshot, entries = recovered.snapshot, recovered.entries
        self.snapshot = snapshot
        self.base_index, self.base_term = (snapshot.index, snapshot.term) if snapshot else (0, 0)
        if entries:
            _check_contiguous(entries, self.base_index)
            if entries[0].index <= self.base_index:
                # The tail before the snapshot: its first entry can only serve as what precedes the next one.
                self.base_index, self.base_term = entries[0].index, entries[0].term
                entries = entries[1:]
        self._entries: list[Entry] = list(entries)
        start = snapshot.index if snapshot else 0
        if snapshot is not None and (self.last_index < start or self.term_at(start) != snapshot.term):
            raise RaftLogDamaged("the log does not reach or does not match its snapshot")
        self.commit = self.applied = start
        self.stable = self.last_index
        self.installing = False
        self._unwritten = self.last_index + 1
        self._cut: int | None = None
        self._writes: deque[_Write] = deque()
        self._configurations = [(start, snapshot.configuration if snapshot else Configuration())]
        self._note_configurations(entry for entry in self._entries if entry.index > start)

    @property
    def last_index(self) -> int:
        """Return the index of the newest entry."""
        return self.base_index + len(self._entries)

    @property
    def last_term(self) -> int:
        """Return the term of the newest entry."""
        return self._entries[-1].term if self._entries else self.base_term

    @property
    def first_index(self) -> int:
        """Return the index of the oldest entry that can still be sent."""
        return self.base_index + 1

    @property
    def configuration(self) -> Configuration:
        """Return the configuration in effect: the newest in the log."""
        return self._configurations[-1][1]

    @property
    def configuration_index(self) -> int:
        """Return the index of the configuration in effect."""
        return self._configurations[-1][0]

    def configuration_at(self, index: int) -> Configuration:
        """Return the configuration that was in effect at ``index``, which is not older than the snapshot."""
        return next(configuration for at, configuration in reversed(self._configurations) if at <= index)

    def may_stand(self, me: str) -> bool:
        """Return whether ``me`` is a voter, or was one before changes that are not committed yet.

        A node that its newest configuration leaves out may be the only one that holds it; until that configuration is
        committed, nobody else may be electable (thesis 4.2.2).
        """
        for at, configuration in reversed(self._configurations):
            if me in configuration.voters:
                return True
            if at <= self.commit:
                return False
        return False

    def term_at(self, index: int) -> int | None:
        """Return the term of the entry at ``index``, or None if the log does not hold it."""
        at = index - self.base_index
        if at == 0:
            return self.base_term
        return self._entries[at - 1].term if 0 < at <= len(self._entries) else None

    def entries(self, first: int, bytes_max: int) -> tuple[Entry, ...]:
        """Return entries from ``first`` on: at least one if there is one, else as many as fit into ``bytes_max``."""
        start = end = first - self.base_index - 1
        assert start >= 0
        size = 0
        while end < len(self._entries):
            size += size_of(self._entries[end])
            if size > bytes_max and end > start:
                break
            end += 1
        return tuple(self._entries[start:end])

    def range(self, first: int, last: int) -> tuple[Entry, ...]:
        """Return the entries from ``first`` to ``last``, both included."""
        return tuple(self._entries[first - self.base_index - 1 : last - self.base_index])

    def append(self, entries: Sequence[Entry]) -> None:
        """Add entries that follow the newest one."""
        assert not self.installing
        assert entries[0].index == self.last_index + 1 and entries[0].term >= self.last_term
        self._entries.extend(entries)
        self._note_configurations(entries)

    def append_after(self, previous_index: int, entries: Sequence[Entry]) -> None:
        """Take a leader's entries; cut only from the first one that conflicts (paper 5.3, receiver steps 3 and 4).

        A stale or duplicated message whose entries all match changes nothing, however short it is: cutting there would
        drop entries that were acknowledged since.
        """
        for at, entry in enumerate(entries):
            assert entry.index == previous_index + 1 + at
            term = self.term_at(entry.index)
            if term == entry.term:
                continue
            if term is not None:
                self.cut(entry.index - 1)
            self.append(entries[at:])
            return

    def cut(self, after: int) -> None:
        """Drop everything behind ``after``. Committed entries are never dropped."""
        assert self.commit <= after < self.last_index
        del self._entries[after - self.base_index :]
        if after < self._unwritten - 1:
            self._cut = after if self._cut is None else min(after, self._cut)
            self._unwritten = after + 1
        self.stable = min(self.stable, after)
        while self._configurations[-1][0] > after:
            self._configurations.pop()

    def last_index_not_after(self, index: int, term: int) -> int:
        """Return the largest index <= ``index`` with a term <= ``term``, for back-off; 0 or the base if there is none.

        Entries of one term are skipped in one step, so that two logs meet in as many rounds as they differ in terms.
        """
        index = min(index, self.last_index)
        while index > self.base_index and self._entries[index - self.base_index - 1].term > term:
            index -= 1
        return index

    def commit_to(self, index: int) -> bool:
        """Raise the commit index; return whether it moved."""
        if index <= self.commit:
            return False
        assert index <= self.last_index
        self.commit = index
        return True

    def take_writes(self, hard_state: HardState | None) -> tuple[int | None, tuple[Entry, ...]]:
        """Return the cut and the entries the disk has not been given yet, and remember them until they are reported."""
        cut = self._cut
        if self._unwritten > self.last_index:
            if cut is None and hard_state is None:
                return None, ()
            entries: tuple[Entry, ...] = ()
        else:
            entries = self.range(self._unwritten, self.last_index)
        self._cut, self._unwritten = None, self.last_index + 1
        self._writes.append(_Write(hard_state, cut, entries))
        return cut, entries

    def take_committed(self) -> tuple[Entry, ...]:
        """Return the entries that became both committed and durable here since the last call."""
        end = min(self.commit, self.stable)
        if end <= self.applied:
            return ()
        entries = self.range(self.applied + 1, end)
        self.applied = end
        return entries

    def entries_synced(self, term: int, index: int) -> None:
        """Note that the disk holds the entry (term, index) and everything handed out before it."""
        if not any(write.holds(term, index) for write in self._writes):
            return
        while not self._writes[0].holds(term, index):
            self._finish(self._writes.popleft())
        if index == self._writes[0].entries[-1].index:
            self._finish(self._writes.popleft())
        else:
            self._raise_stable(index, later=1)

    def hard_state_synced(self, hard_state: HardState) -> None:
        """Note that the disk holds ``hard_state``, hence everything handed out before it."""
        if not any(write.hard_state == hard_state for write in self._writes):
            return
        while self._writes[0].hard_state != hard_state:
            self._finish(self._writes.popleft())
        if not self._writes[0].entries:
            self._writes.popleft()

    def install(self, snapshot: Snapshot) -> None:
        """Replace the whole log by a snapshot; ``installed`` follows when it is durable."""
        assert snapshot.index > self.commit
        self.snapshot = snapshot
        self.base_index, self.base_term = snapshot.index, snapshot.term
        self._entries.clear()
        self._writes.clear()
        self._cut, self._unwritten = None, snapshot.index + 1
        self._configurations = [(snapshot.index, snapshot.configuration)]
        self.commit = snapshot.index
        self.installing, self.stable = True, -1

    def installed(self) -> None:
        """Note that the snapshot of ``install`` is durable and is the application's state now."""
        assert self.installing
        self.installing = False
        self.applied = self.stable = self.base_index

    def compact(self, snapshot: Snapshot, tail_entries: int) -> None:
        """Keep ``snapshot`` and drop entries before it, but for a tail. An older snapshot than ours changes nothing."""
        if self.installing or snapshot.index <= (self.snapshot.index if self.snapshot else 0):
            return
        assert snapshot.index <= self.applied and self.term_at(snapshot.index) == snapshot.term
        self.snapshot = snapshot
        while len(self._configurations) > 1 and self._configurations[1][0] <= snapshot.index:
            self._configurations.pop(0)
        base = snapshot.index - tail_entries
        if base > self.base_index:
            term = self.term_at(base)
            assert term is not None
            del self._entries[: base - self.base_index]
            self.base_index, self.base_term = base, term

    def _finish(self, write: _Write) -> None:
        if write.entries:
            self._raise_stable(write.entries[-1].index)

    def _raise_stable(self, index: int, *, later: int = 0) -> None:
        # A cut of a later write has already removed what lies behind it from memory, whatever the disk says.
        for write in islice(self._writes, later, None):
            if write.cut_after is not None:
                index = min(index, write.cut_after)
        if self._cut is not None:
            index = min(index, self._cut)
        self.stable = max(self.stable, index)

    def _note_configurations(self, entries: Iterable[Entry]) -> None:
        for entry in entries:
            if entry.kind == CONFIGURATION:
                self._configurations.append((entry.index, decode_configuration(entry.payload)))


def size_of(entry: Entry) -> int:
    """Return the bytes an entry counts for in every bound; the overhead bounds empty payloads as well."""
    return len(entry.payload) + _ENTRY_OVERHEAD_BYTES


def _check_contiguous(entries: Sequence[Entry], base_index: int) -> None:
    if entries[0].index > base_index + 1:
        raise RaftLogDamaged(f"entries begin at {entries[0].index} after a snapshot at {base_index}")
    for before, after in pairwise(entries):
        if after.index != before.index + 1 or after.term < before.term:
            raise RaftLogDamaged(f"entry {after.index} of term {after.term} follows {before.index} of {before.term}")
