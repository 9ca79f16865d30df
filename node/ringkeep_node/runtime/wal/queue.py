"""What waits for the log's next batch, and in which order it goes.

A batch is what arrived during the last sync, in the order of arrival. Only when more waits than one batch may hold do
urgent appends (Raft, epochs) overtake the others, so that a bulk import cannot delay a vote. The order between records of
one copy, and of Raft, never changes: before an urgent append go all that touch the same one.

Source: replication.md, Storage; counterexamples.md L7.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

from ringkeep_node.machines.records import Record


class Waiting(NamedTuple):
    """One append: its ticket, its records, their size in the batch, and when it was made."""

    ticket: int
    urgent: bool
    size: int
    records: Sequence[Record]
    at: float = 0.0


class Queue:
    """Appends in the order of arrival. Used by the log's thread alone."""

    def __init__(self, batch_bytes_max: int) -> None:
        self._batch_bytes_max = batch_bytes_max
        self._waiting: deque[Waiting] = deque()
        self._size = 0
        self._last_ticket = 0
        self._last_urgent = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, append: Waiting) -> None:
        """Take in an append."""
        self._waiting.append(append)
        self._size += append.size
        self._last_ticket = append.ticket

    def next_batch(self) -> list[Waiting]:
        """Take out what the next batch holds: at least one append when any waits, and no more than the limit."""
        if self._size <= self._batch_bytes_max:
            batch = list(self._waiting)
            self._waiting.clear()
            self._size = 0
            return batch
        batch = self._fill(self._with_urgent_first())
        taken = {append.ticket for append in batch}
        self._waiting = deque(append for append in self._waiting if append.ticket not in taken)
        self._size -= sum(append.size for append in batch)
        return batch

    def _fill(self, order: list[Waiting]) -> list[Waiting]:
        batch: list[Waiting] = []
        size = 0
        for append in order:
            if batch and size + append.size > self._batch_bytes_max:
                break
            batch.append(append)
            size += append.size
        return batch

    def _with_urgent_first(self) -> list[Waiting]:
        first: list[Waiting] = []
        rest: list[Waiting] = []
        touched: set[tuple[int, int]] = set()
        for append in self._waiting:
            streams = {(record.shard, record.copy if record.shard >= 0 else 0) for record in append.records}
            if not append.urgent:
                rest.append(append)
                touched |= streams
            elif touched.isdisjoint(streams):
                first.append(append)
            else:
                # It may not overtake: everything before it goes first, in the order of arrival.
                first.extend(rest)
                first.append(append)
                rest.clear()
                touched.clear()
        return first + rest

    def durable_through(self) -> int:
        """Return the highest ticket at or below which nothing waits any more; ask after a batch became durable."""
        return self._waiting[0].ticket - 1 if self._waiting else self._last_ticket

    def urgent_durable_through(self) -> int:
        """Return the highest ticket at or below which no urgent append waits any more."""
        for append in self._waiting:
            if append.urgent:
                return append.ticket - 1
        return self._last_ticket
