"""What the primary knows beyond the store: writes on their way, operation ids, and how a new request is judged by them.

The overlay holds every entry of the log that the store has not applied. Committed ones are visible to reads; pending
ones are visible to nobody, but preconditions and operation ids are judged by them too, and the answer to such a request
then waits until what it was judged on has committed.

Source: replication.md, rules 1 and 9; counterexamples.md S5 and S10.
"""

from __future__ import annotations

from collections import deque
from typing import TypeVar

from ringkeep_node.machines.documents import (
    IDEMPOTENCY_KEPT_MS,
    Answer,
    Change,
    CopyState,
    OperationId,
    Remembered,
    Row,
    Write,
)
from ringkeep_node.machines.shard.context import LocalCopy
from ringkeep_node.machines.shard.effects import Absent, NotApplied, Result, Stored, StoreView, Unknown, WriteRequest

_T = TypeVar("_T")
Judged = tuple[Result, int]
"""A result that is a read: (what to answer, the sn that must have committed before)."""


class Overlay:
    """Entries of the log that the store has not applied yet, by document, idempotency key and operation id."""

    __slots__ = ("ended_version", "lowest", "operations", "order", "remembered", "rows")

    def __init__(self) -> None:
        self.rows: dict[tuple[str, str], list[tuple[int, Write, int]]] = {}
        self.remembered: dict[tuple[str, str], list[tuple[int, Remembered]]] = {}
        self.operations: dict[tuple[str, int], tuple[int, int]] = {}
        self.lowest: dict[str, int] = {}
        self.order: deque[tuple[int, Change]] = deque()
        self.ended_version = 0

    def add(self, sn: int, change: Change) -> None:
        """Take in an appended change."""
        for write in change.writes:
            place = (write.user, write.key)
            held = self.rows.get(place)
            if held is None:
                self.rows[place] = [(sn, write, change.wall_ms)]
            else:
                held.append((sn, write, change.wall_ms))
        operation, named = change.operation, change.idempotency
        if operation is not None:
            self.operations[operation.gateway, operation.number] = (change.answer, sn)
            if operation.lowest > self.lowest.get(operation.gateway, 0):
                self.lowest[operation.gateway] = operation.lowest
        if named is not None:
            kept = Remembered(named.user, named.key, named.request_hash, change.answer, sn, change.wall_ms)
            self.remembered.setdefault((named.user, named.key), []).append((sn, kept))
        self.order.append((sn, change))

    def applied(self, sn: int) -> None:
        """Forget what the store has applied."""
        order = self.order
        while order and order[0][0] <= sn:
            gone, change = order.popleft()
            for write in change.writes:
                _drop_oldest(self.rows, (write.user, write.key))
            if (
                change.operation is not None
                and self.operations[change.operation.gateway, change.operation.number][1] <= gone
            ):
                del self.operations[change.operation.gateway, change.operation.number]
            if change.idempotency is not None:
                _drop_oldest(self.remembered, (change.idempotency.user, change.idempotency.key))

    def committed(self, user: str, key: str, commit: int) -> tuple[int, Write, int] | None:
        """Return the newest write of a document that every in-sync copy holds, if the store may lack it."""
        for held in reversed(self.rows.get((user, key), ())):
            if held[0] <= commit:
                return held
        return None


class Refusals:
    """What operations of this epoch were refused, as long as their gateways may send them again.

    An operation has one verdict in an epoch: were it judged anew when a second attempt arrives, its gateway could hear
    that it was refused and the write be applied all the same. The request names its epoch, so no attempt crosses one.
    """

    __slots__ = ("_judged", "_lowest")

    def __init__(self) -> None:
        self._judged: dict[str, dict[int, Judged]] = {}
        self._lowest: dict[str, int] = {}

    def close_below(self, operation: OperationId) -> None:
        """Forget numbers that the gateway has closed; they are refused from now on."""
        if operation.lowest > self._lowest.get(operation.gateway, 0):
            self._lowest[operation.gateway] = operation.lowest
            kept = self._judged.get(operation.gateway)
            if kept:
                self._judged[operation.gateway] = {
                    number: judged for number, judged in kept.items() if number >= operation.lowest
                }

    def judged(self, operation: OperationId) -> Judged | None:
        """Return what this operation was refused with before."""
        kept = self._judged.get(operation.gateway)
        if kept and operation.number in kept:
            return kept[operation.number]
        if operation.number < self._lowest.get(operation.gateway, 0):
            return Unknown(), 0
        return None

    def remember(self, operation: OperationId, judged: Judged) -> None:
        """Keep a refusal; what was stored is kept in the log."""
        if not isinstance(judged[0], Stored | Unknown):
            self._judged.setdefault(operation.gateway, {})[operation.number] = judged


def _drop_oldest(table: dict[tuple[str, str], list[_T]], place: tuple[str, str]) -> None:
    held = table[place]
    if len(held) == 1:
        del table[place]
    else:
        del held[0]


def row_of(held: tuple[int, Write, int]) -> Row | None:
    """Return the document that a write in the overlay made, or None if it deleted it."""
    sn, write, wall_ms = held
    return None if write.value is None else Row(write.user, write.key, sn, wall_ms, write.content_type, write.value)


def latest_version(overlay: Overlay, store: StoreView, copy: LocalCopy, user: str, key: str) -> tuple[int, int]:
    """Return (version or 0 if absent, sn of the entry that tells so or 0) in the latest state, pending writes included."""
    held = overlay.rows.get((user, key))
    if held is not None:
        sn, write, _ = held[-1]
        return (0 if write.value is None else sn), sn
    row = store.row(copy.shard, copy.added, user, key)
    return (0 if row is None else row.version), 0


def judge_operation(overlay: Overlay, state: CopyState, operation: OperationId, epoch: int) -> Judged | None:
    """Return what a request is answered whose operation is known or closed; None if it is new."""
    pending = overlay.operations.get((operation.gateway, operation.number))
    known = pending if pending is not None else state.result(operation)
    if known is not None:
        return Stored(known[0], known[1], epoch), known[1]
    if state.is_forgotten(operation) or operation.number < overlay.lowest.get(operation.gateway, 0):
        # The gateway closed this number: whatever became of it, it is not applied now.
        return Unknown(epoch), 0
    return None


def judge_idempotency(
    overlay: Overlay, store: StoreView, copy: LocalCopy, request: WriteRequest, epoch: int
) -> Judged | None:
    """Return what a request is answered whose Idempotency-Key was used; None if it was not."""
    named = request.idempotency
    assert named is not None
    held = overlay.remembered.get((named.user, named.key))
    kept = held[-1][1] if held else store.remembered(copy.shard, copy.added, named.user, named.key)
    if kept is None or (held is None and kept.wall_ms < copy.state.wall_ms_max - IDEMPOTENCY_KEPT_MS):
        return None
    if kept.request_hash != named.request_hash:
        return NotApplied("key_reused"), kept.sn
    return Stored(kept.answer, kept.sn, epoch), kept.sn


def judge_change(
    overlay: Overlay, store: StoreView, copy: LocalCopy, request: WriteRequest, epoch: int
) -> Judged | Answer:
    """Return the answer the change will get once it is committed, or the refusal and what it was judged on."""
    if request.imported:
        return Answer.IMPORTED
    write = request.writes[0]
    version, told_by = latest_version(overlay, store, copy, write.user, write.key)
    if not holds(version, request.if_match, request.if_none_match):
        return NotApplied("version_mismatch"), told_by
    if write.value is None:
        return Answer.DELETED if version else (Absent(epoch), told_by)
    return Answer.REPLACED if version else Answer.CREATED


def holds(version: int, if_match: tuple[int, ...] | None, if_none_match: tuple[int, ...] | None) -> bool:
    """Return whether preconditions hold for a document of this version (0: absent)."""
    if not version:
        return if_match is None  # What does not exist has no version, not even one that a client calls 0.
    if if_match and version not in if_match:
        return False
    return if_none_match is None or (bool(if_none_match) and version not in if_none_match)
