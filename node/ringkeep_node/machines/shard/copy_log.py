"""The end of one copy's log in memory: which epoch wrote which number, and the entries that are still at hand.

Entries above what was handed to the store stay; older ones are kept for replicas that are a little behind, as far as the
node's byte limit reaches, and are then only in the log on disk. The epoch table is complete: it names for every epoch
that wrote into this copy the first number it wrote, so "where does epoch e end" has an answer for every e.

Source: replication.md, rule 6; KIP-101 (leader epochs), KIP-279 (ask down to the greatest common epoch).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence

from ringkeep_node.machines.records import EpochStart
from ringkeep_node.machines.shard.effects import LogEntry

_LOOKS_MAX = 16
ENTRY_BYTES = 300
"""What the objects around a cached payload take, measured in CPython 3.11: small documents are mostly this."""


class CopyLog:
    """The log of one copy; numbers from ``base`` (exclusive) to ``last_sn`` exist, the last ones are cached."""

    __slots__ = ("base", "cached", "cuts", "durable", "epochs", "first", "last_epoch", "last_sn", "released")

    def __init__(self, base: tuple[int, int], epochs: Iterable[EpochStart], last: tuple[int, int]) -> None:
        self.base = base
        self.epochs: list[EpochStart] = list(epochs)
        self.last_epoch, self.last_sn = last
        self.durable = self.last_sn
        self.cuts = 0
        self.released = self.last_sn
        self.cached: dict[int, LogEntry] = {}
        self.first = self.last_sn + 1

    def append(self, entry: LogEntry) -> None:
        """Add the next entry."""
        epoch, sn, _ = entry
        assert sn == self.last_sn + 1 and epoch >= self.last_epoch, "an entry follows the last one"
        if epoch != self.last_epoch:
            self.epochs.append(EpochStart(epoch, sn))
            self.last_epoch = epoch
        self.last_sn = sn
        self.cached[sn] = entry

    def epoch_at(self, sn: int) -> int:
        """Return the epoch that wrote ``sn``; 0 for the empty beginning."""
        for start in reversed(self.epochs):
            if start.first_sn <= sn:
                return start.epoch
        return self.base[0] if sn >= self.base[1] else 0

    def has(self, epoch: int, sn: int) -> bool:
        """Return whether the entry (epoch, sn) is in this log (or is its empty beginning)."""
        return sn <= self.last_sn and self.epoch_at(sn) == epoch

    def end_of(self, epoch: int) -> tuple[int, int]:
        """Return the largest epoch <= ``epoch`` that wrote here and its last sn; (0, 0) if there is none."""
        end = self.last_sn
        for start in reversed(self.epochs):
            if start.epoch <= epoch:
                return start.epoch, end
            end = start.first_sn - 1
        return 0, 0

    def cut(self, sn: int) -> None:
        """Forget everything above ``sn``."""
        for gone in range(max(sn + 1, self.first), self.last_sn + 1):
            del self.cached[gone]
        self.first = min(self.first, sn + 1)
        while self.epochs and self.epochs[-1].first_sn > sn:
            self.epochs.pop()
        self.last_sn = sn
        self.last_epoch = self.epoch_at(sn)
        self.durable = min(self.durable, sn)
        self.released = min(self.released, sn)
        self.cuts += 1

    def slice(self, after_sn: int, bytes_max: int) -> list[LogEntry] | None:
        """Return entries after ``after_sn``, at least one if there is one; None if they are only on disk."""
        if after_sn >= self.last_sn:
            return []
        if after_sn + 1 < self.first:
            return None
        cached, size = self.cached, 0
        taken: list[LogEntry] = []
        for sn in range(after_sn + 1, self.last_sn + 1):
            entry = cached[sn]
            size += len(entry[2])
            if taken and size > bytes_max:
                break
            taken.append(entry)
        return taken

    def is_short_after(self, sn: int, bytes_max: int) -> bool:
        """Return whether everything after ``sn`` is in memory and has at most so many bytes."""
        if sn + 1 < self.first:
            return sn >= self.last_sn
        size = 0
        for number in range(sn + 1, self.last_sn + 1):
            size += len(self.cached[number][2])
            if size > bytes_max:
                return False
        return True

    def release(self, sn: int) -> None:
        """Everything up to ``sn`` was handed to the store: it need not stay in memory."""
        self.released = max(self.released, sn)


class EntryCache:
    """Bounds the bytes of cached entries of all copies of a node; the oldest go first."""

    __slots__ = ("bytes", "bytes_max", "order")

    def __init__(self, bytes_max: int) -> None:
        self.bytes_max = bytes_max
        self.bytes = 0
        self.order: deque[tuple[CopyLog, int, int]] = deque()

    def added(self, log: CopyLog, entry: LogEntry) -> None:
        """Count an entry that was appended to ``log``."""
        size = ENTRY_BYTES + len(entry[2])
        self.bytes += size
        self.order.append((log, entry[1], size))
        if self.bytes > self.bytes_max:
            self.evict()

    def evict(self) -> None:
        """Forget oldest entries until the limit holds, as far as they may be forgotten."""
        order, looks = self.order, 0
        while self.bytes > self.bytes_max and order and looks < _LOOKS_MAX:
            log, sn, size = order.popleft()
            if sn < log.first or sn > log.last_sn:
                self.bytes -= size  # Cut, reset or dropped meanwhile.
            elif sn == log.first and sn <= log.released:
                del log.cached[sn]
                log.first = sn + 1
                self.bytes -= size
            else:
                # Not in the store yet: look at it again after the others.
                order.append((log, sn, size))
                looks += 1


def wire(entries: Sequence[LogEntry]) -> tuple[tuple[int, bytes], ...]:
    """Return entries as messages carry them: their numbers follow from where the message says they begin."""
    return tuple([(epoch, payload) for epoch, _, payload in entries])
