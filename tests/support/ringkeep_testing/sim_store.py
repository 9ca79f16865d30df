"""The store's twin for whole-cluster simulation: dictionaries, no threads, the real meaning of entries.

Every change is applied at once. What no checkpoint covered may be lost by a crash, newest first: an undo is kept for each
of the last transactions, and a crash takes back some of them.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from random import Random

from ringkeep_node.machines.documents import (
    IDEMPOTENCY_ROWS_MAX,
    Change,
    CopyState,
    Remembered,
    Row,
    decode,
    remembered_since_ms,
)
from ringkeep_node.machines.records import EpochStart
from ringkeep_node.machines.recovery import CopyKey
from ringkeep_node.runtime.store.changes import canonical_state
from ringkeep_node.runtime.store.store import Page, StoredCopy

UNDOS_KEPT = 300
NameKey = tuple[str, str]


class _Copy:
    def __init__(self) -> None:
        self.epoch = 0
        self.sn = 0
        self.complete_at = 0
        self.state = CopyState()
        self.epochs: tuple[EpochStart, ...] = ()
        self.rows: dict[NameKey, Row] = {}
        self.remembered: dict[NameKey, Remembered] = {}


class SimStore:
    """The copies of one simulated machine. ``on_applied`` is called at once."""

    def __init__(self) -> None:
        self.on_applied: Callable[[list[tuple[int, int, int]]], None] = lambda _applied: None
        self.queued_bytes = 0
        self._copies: dict[CopyKey, _Copy] = {}
        self._staging: dict[CopyKey, _Copy] = {}
        self._undos: deque[Callable[[], None]] = deque(maxlen=UNDOS_KEPT)

    def crash(self, random: Random) -> None:
        """Lose the process and some of the newest transactions that no checkpoint covered."""
        for _ in range(random.randint(0, len(self._undos))):
            self._undos.pop()()
        self._undos.clear()
        self._staging.clear()

    def synced(self) -> dict[CopyKey, int]:
        """Return the applied sns that are durable once a process has opened the store."""
        return {key: copy.sn for key, copy in self._copies.items()}

    def checkpoint(self) -> Mapping[CopyKey, int]:
        """Make everything durable."""
        self._undos.clear()
        return self.synced()

    def copies(self) -> list[StoredCopy]:
        """Return the live copies."""
        return [
            StoredCopy(*key, copy.sn >= copy.complete_at, copy.epoch, copy.sn, copy.state.copy(), copy.epochs)
            for key, copy in sorted(self._copies.items(), key=lambda item: item[0])
        ]

    def applied(self, shard: int, copy: int) -> tuple[int, int] | None:
        """Return the (epoch, sn) that is visible."""
        found = self._copies.get((shard, copy))
        return (found.epoch, found.sn) if found else None

    def row(self, shard: int, copy: int, user: str, key: str) -> Row | None:
        """Return one document."""
        found = self._copies.get((shard, copy))
        return found.rows.get((user, key)) if found else None

    def remembered(self, shard: int, copy: int, user: str, key: str, *, log_time_ms: int = 0) -> Remembered | None:
        """Return what a change under an Idempotency-Key was answered."""
        found = self._copies.get((shard, copy))
        kept = found.remembered.get((user, key)) if found else None
        return kept if kept is not None and kept.wall_ms >= remembered_since_ms(log_time_ms) else None

    def page(
        self, shard: int, copy: int, user: str, *, prefix: str = "", after: str = "", limit: int, bytes_max: int
    ) -> Page:
        """Return a user's rows whose key begins with ``prefix`` and is greater than ``after``."""
        found = self._copies.get((shard, copy))
        if found is None:
            return Page(0, [], False)
        matching = [
            row for (owner, key), row in found.rows.items() if owner == user and key > after and key.startswith(prefix)
        ]
        rows, more = _limited(sorted(matching, key=_row_key), limit, bytes_max)
        return Page(found.sn, rows, more)

    def rows_after(self, shard: int, copy: int, cursor: NameKey | None, bytes_max: int) -> tuple[list[Row], bool]:
        """Return the rows after (user, key) in that order, and whether there are more."""
        found = self._copies.get((shard, copy))
        names = sorted(name for name in found.rows if name > (cursor or ("", ""))) if found else []
        return _limited([found.rows[name] for name in names] if found else [], len(names), bytes_max)

    def remembered_after(
        self, shard: int, copy: int, cursor: NameKey | None, bytes_max: int
    ) -> tuple[list[Remembered], bool]:
        """Return the rows of Idempotency-Keys after (user, key), and whether there are more."""
        found = self._copies.get((shard, copy))
        if found is None:
            return [], False
        names = sorted(name for name in found.remembered if name > (cursor or ("", "")))
        count = max(1, bytes_max // 64)
        return [found.remembered[name] for name in names[:count]], len(names) > count

    def digest(self, shard: int, copy: int) -> str:
        """Return a hash over a copy's rows and state: equal copies that applied the same entries have the same."""
        found = self._copies.get((shard, copy)) or _Copy()
        since = remembered_since_ms(found.state.wall_ms_max)
        kept = [
            one for _name, one in sorted(found.remembered.items(), key=lambda item: item[0]) if one.wall_ms >= since
        ]
        rows = [found.rows[name] for name in sorted(found.rows)]
        content = (found.epoch, found.sn, canonical_state(found.state), found.epochs, rows, kept)
        return hashlib.sha256(repr(content).encode()).hexdigest()

    def apply(self, shard: int, copy: int, entries: Sequence[tuple[int, int, bytes]]) -> None:
        """Apply consecutive committed entries; those that were applied already are skipped."""
        found = self._copies.get((shard, copy))
        if found is None:
            return
        undo = _Undo(found)
        for epoch, sn, payload in entries:
            if sn <= found.sn:
                continue
            assert sn == found.sn + 1, f"shard {shard}: entry {sn} does not follow {found.sn}"
            body = decode(payload)
            if type(body) is Change:
                _take(found, undo, sn, body)
            found.state.apply(sn, body)
            if epoch != found.epoch or not found.epochs:
                found.epochs = (*found.epochs, EpochStart(epoch, sn))
            found.epoch, found.sn = epoch, sn
        self._undos.append(undo.run)
        self.on_applied([(shard, copy, found.sn)])

    def create(self, shard: int, copy: int) -> None:
        """Make an empty complete copy at (0, 0)."""
        if (shard, copy) not in self._copies:
            self._replace((shard, copy), _Copy())

    def _replace(self, key: CopyKey, new: _Copy | None) -> None:
        old = self._copies.get(key)
        self._put(key, new)
        self._undos.append(lambda: self._put(key, old))

    def _put(self, key: CopyKey, copy: _Copy | None) -> None:
        if copy is None:
            self._copies.pop(key, None)
        else:
            self._copies[key] = copy

    def install_begin(self, shard: int, copy: int) -> None:
        """Begin to write a snapshot beside the copy."""
        self._staging[(shard, copy)] = _Copy()

    def install_rows(self, shard: int, copy: int, rows: Sequence[Row], remembered: Sequence[Remembered]) -> None:
        """Write one range of the snapshot."""
        staged = self._staging.get((shard, copy))
        if staged is not None:
            staged.rows.update({(row.user, row.key): row for row in rows})
            staged.remembered.update({(one.user, one.key): one for one in remembered})

    def install_finish(
        self,
        shard: int,
        copy: int,
        *,
        epoch: int,
        sn: int,
        state: CopyState,
        epochs: Sequence[EpochStart],
        done: Callable[[], object],
        complete_at: int = 0,
    ) -> None:
        """Let the snapshot take the copy's place."""
        staged = self._staging.pop((shard, copy), None)
        if staged is not None:
            staged.epoch, staged.sn, staged.complete_at = epoch, sn, complete_at
            staged.state, staged.epochs = state.copy(), tuple(epochs)
            self._replace((shard, copy), staged)
        done()

    def install_abort(self, shard: int, copy: int) -> None:
        """Give up the snapshot that is being written."""
        self._staging.pop((shard, copy), None)

    def drop(self, shard: int, copy: int) -> None:
        """Remove a copy."""
        self._staging.pop((shard, copy), None)
        self._replace((shard, copy), None)


class _Undo:
    """Takes one apply() back."""

    def __init__(self, copy: _Copy) -> None:
        self._copy = copy
        self._before = (copy.epoch, copy.sn, copy.state.copy(), copy.epochs)
        self.rows: dict[NameKey, Row | None] = {}
        self.remembered: dict[NameKey, Remembered | None] = {}

    def run(self) -> None:
        copy = self._copy
        copy.epoch, copy.sn, copy.state, copy.epochs = self._before
        for name, row in self.rows.items():
            if row is None:
                copy.rows.pop(name, None)
            else:
                copy.rows[name] = row
        for name, kept in self.remembered.items():
            if kept is None:
                copy.remembered.pop(name, None)
            else:
                copy.remembered[name] = kept


def _take(copy: _Copy, undo: _Undo, sn: int, change: Change) -> None:
    for write in change.writes:
        name = (write.user, write.key)
        undo.rows.setdefault(name, copy.rows.get(name))
        if write.value is None:
            copy.rows.pop(name, None)
        else:
            copy.rows[name] = Row(write.user, write.key, sn, change.wall_ms, write.content_type, write.value)
    named = change.idempotency
    if named is not None:
        name = (named.user, named.key)
        undo.remembered.setdefault(name, copy.remembered.get(name))
        copy.remembered[name] = Remembered(named.user, named.key, named.request_hash, change.answer, sn, change.wall_ms)
        if len(copy.remembered) > IDEMPOTENCY_ROWS_MAX:
            oldest = min(copy.remembered, key=lambda other: copy.remembered[other].sn)
            undo.remembered.setdefault(oldest, copy.remembered[oldest])
            del copy.remembered[oldest]


def _row_key(row: Row) -> str:
    return row.key


def _limited(rows: Sequence[Row], limit: int, bytes_max: int) -> tuple[list[Row], bool]:
    taken: list[Row] = []
    size = 0
    for row in rows:
        if size >= bytes_max or len(taken) >= limit:
            return taken, True
        taken.append(row)
        size += 64 + len(row.user) + len(row.key) + len(row.value)
    return taken, False
