"""What the write thread does inside its transactions: entries to rows, snapshots into staging slots, clearing garbage.

One Changes object owns the write connection. It keeps of each live slot what every transaction writes back: applied
(epoch, sn), epoch table and CopyState. Entries are folded first and only the last state of each row is written.
"""

# ruff: noqa: S608 - statements are put together from constants of this package only; values are always bound

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import apsw
import msgspec

from ringkeep_node.machines.documents import (
    IDEMPOTENCY_ROWS_MAX,
    Body,
    Change,
    CopyState,
    GatewayResults,
    Remembered,
    Row,
    remembered_since_ms,
)
from ringkeep_node.machines.records import EpochStart
from ringkeep_node.machines.recovery import EPOCHS_KEPT, CopyKey, decode_epochs, encode_epochs
from ringkeep_node.runtime.store.row_cache import RowPlace
from ringkeep_node.runtime.store.schema import COLD, GARBAGE, LIVE, ROWS_A_STATEMENT, STAGING, advance, upsert

Entry = tuple[int, int, bytes]
RowKey = tuple[int, str, str]

_GARBAGE_ROWS = 1000
_GARBAGE_BYTES = 2 << 20
_FORGET_EVERY_MS = 10 * 60 * 1000
_UPSERT_ROWS = {count: upsert("rows", count) for count in ROWS_A_STATEMENT}
_UPSERT_REMEMBERED = {count: upsert("remembered", count) for count in ROWS_A_STATEMENT}
_ADVANCE = {count: advance(count) for count in ROWS_A_STATEMENT}
_state_encoder = msgspec.msgpack.Encoder()
_state_decoder = msgspec.msgpack.Decoder(CopyState)


def encode_state(state: CopyState) -> bytes:
    """Return the stored form of a CopyState."""
    return _state_encoder.encode(state)


def canonical_state(state: CopyState) -> bytes:
    """Return bytes that are equal for equal states, whatever the order in which they came to be."""
    gateways = [
        (name, kept.lowest, sorted(kept.results.items())) for name, kept in sorted(state.gateways.items(), key=_name)
    ]
    return _state_encoder.encode((gateways, state.ended_version, state.wall_ms_max))


def decode_state(data: bytes) -> CopyState:
    """Return a stored CopyState."""
    return _state_decoder.decode(data)


class Slot:
    """A live slot as the write thread knows it."""

    __slots__ = ("complete_at", "epoch", "epochs", "oldest_wall_ms", "remembered_max", "slot", "sn", "state")

    def __init__(
        self, slot: int, epoch: int, sn: int, complete_at: int, state: CopyState, epochs: Sequence[EpochStart]
    ) -> None:
        self.slot = slot
        self.epoch = epoch
        self.sn = sn
        self.complete_at = complete_at
        self.state = state
        self.epochs = list(epochs)
        self.remembered_max = 0
        self.oldest_wall_ms = 0

    def advance(self, epoch: int, sn: int) -> None:
        """Note an applied entry."""
        if epoch != self.epoch or not self.epochs:
            self.epochs.append(EpochStart(epoch, sn))
            if len(self.epochs) > EPOCHS_KEPT:
                del self.epochs[0]
        self.epoch = epoch
        self.sn = sn


class Changes:
    """The write side of the store. Every method runs inside a transaction that the caller began."""

    def __init__(self, connection: apsw.Connection) -> None:
        self._connection = connection
        self.live: dict[CopyKey, Slot] = {}
        self._staging: dict[CopyKey, int] = {}
        self._garbage: list[int] = []
        self.cold: dict[int, float | None] = {}
        """Slots of removed copies that are kept for a while, and since when somebody with a clock has known of them."""
        self._ahead: tuple[list[tuple[int, int, int]], list[tuple[RowPlace, Row | None]]] = ([], [])
        self._next_slot = 1
        self._rows: dict[RowKey, Row | None] = {}
        self._remembered: dict[RowKey, Remembered] = {}
        self._touched: dict[CopyKey, Slot] = {}

    def load(self) -> None:
        """Read the slots; what a crash left in staging becomes garbage. The time of cold ones begins anew."""
        self._connection.execute("UPDATE slots SET status = ? WHERE status = ?", (GARBAGE, STAGING))
        everything: list[Any] = self._connection.execute(
            "SELECT slot, shard, copy, status, epoch, sn, complete_at, state, epochs FROM slots ORDER BY slot"
        ).fetchall()
        for slot, shard, copy, status, epoch, sn, complete_at, state, epochs in everything:
            self._next_slot = slot + 1
            if status == GARBAGE:
                self._garbage.append(slot)
            elif status == COLD:
                self.cold[slot] = None
            else:
                loaded = Slot(slot, epoch, sn, complete_at, decode_state(state), decode_epochs(epochs))
                self._count_remembered(loaded)
                self.live[(shard, copy)] = loaded

    def apply(self, key: CopyKey, entries: Iterable[Entry], bodies: Iterable[Body]) -> None:
        """Take in consecutive committed entries of a copy and what they say; those it has applied already are skipped."""
        slot = self.live.get(key)
        if slot is None:
            return
        for (epoch, sn, _), body in zip(entries, bodies, strict=True):
            if sn <= slot.sn:
                continue
            assert sn == slot.sn + 1, f"shard {key[0]}: entry {sn} does not follow {slot.sn}"
            if type(body) is Change:
                self._take(slot.slot, sn, body)
            slot.state.apply(sn, body)
            slot.advance(epoch, sn)
        self._touched[key] = slot

    def _take(self, slot: int, sn: int, change: Change) -> None:
        rows = self._rows
        for write in change.writes:
            value = write.value
            rows[(slot, write.user, write.key)] = (
                None if value is None else Row(write.user, write.key, sn, change.wall_ms, write.content_type, value)
            )
        named = change.idempotency
        if named is not None:
            self._remembered[(slot, named.user, named.key)] = Remembered(
                named.user, named.key, named.request_hash, change.answer, sn, change.wall_ms
            )

    def flush(self) -> tuple[list[tuple[int, int, int]], list[tuple[RowPlace, Row | None]]]:
        """Write what was folded; return (shard, copy, sn) of the copies that moved, and the rows that changed."""
        places = {slot.slot: key for key, slot in self._touched.items()}
        changed = [((*places[slot], user, key), row) for (slot, user, key), row in self._rows.items()]
        self._write_rows()
        self._write_remembered()
        touched = self._touched
        self._write(
            _ADVANCE,
            [
                (slot.slot, slot.epoch, slot.sn, encode_state(slot.state), encode_epochs(slot.epochs))
                for slot in touched.values()
            ],
        )
        for slot in touched.values():
            self._forget_old(slot)
        moved = [(*key, slot.sn) for key, slot in touched.items()]
        touched.clear()
        ahead, self._ahead = self._ahead, ([], [])
        return ahead[0] + moved, ahead[1] + changed

    def _write_rows(self) -> None:
        rows = self._rows
        if not rows:
            return
        written: list[tuple[Any, ...]] = []
        deleted: list[RowKey] = []
        for key in sorted(rows):
            row = rows[key]
            if row is None:
                deleted.append(key)
            else:
                written.append((*key, row.version, row.modified_ms, row.content_type, row.value))
        if deleted:
            self._connection.executemany("DELETE FROM rows WHERE slot = ? AND user = ? AND key = ?", deleted)
        self._write(_UPSERT_ROWS, written)
        rows.clear()

    def _write_remembered(self) -> None:
        if self._remembered:
            self._write(
                _UPSERT_REMEMBERED,
                [
                    (*key, kept.request_hash, kept.answer, kept.sn, kept.wall_ms)
                    for key, kept in sorted(self._remembered.items(), key=_first)
                ],
            )
            by_slot = {slot.slot: slot for slot in self._touched.values()}
            for key, kept in self._remembered.items():
                _count(by_slot[key[0]], kept)
            self._remembered.clear()

    def _write(self, statements: dict[int, str], rows: list[tuple[Any, ...]]) -> None:
        start, left = 0, len(rows)
        for count, statement in statements.items():
            while left >= count:
                flat = [value for row in rows[start : start + count] for value in row]
                self._connection.execute(statement, flat)
                start += count
                left -= count

    def _count_remembered(self, slot: Slot) -> None:
        found: list[Any] = self._connection.execute(
            "SELECT count(*), min(wall_ms) FROM remembered WHERE slot = ?", (slot.slot,)
        ).fetchall()
        slot.remembered_max, oldest = found[0]
        slot.oldest_wall_ms = oldest or 0

    def _forget_old(self, slot: Slot) -> None:
        """Keep at most 24 h of log time (checked again when answering) and 10,000 rows of Idempotency-Keys."""
        since = remembered_since_ms(slot.state.wall_ms_max)
        if slot.remembered_max and slot.oldest_wall_ms + _FORGET_EVERY_MS < since:
            self._connection.execute("DELETE FROM remembered WHERE slot = ? AND wall_ms < ?", (slot.slot, since))
            self._count_remembered(slot)
        if slot.remembered_max <= IDEMPOTENCY_ROWS_MAX:
            return
        self._count_remembered(slot)
        if slot.remembered_max > IDEMPOTENCY_ROWS_MAX:
            self._connection.execute(
                "DELETE FROM remembered WHERE slot = ?1 AND sn <= "
                "(SELECT sn FROM remembered WHERE slot = ?1 ORDER BY sn DESC LIMIT 1 OFFSET ?2)",
                (slot.slot, IDEMPOTENCY_ROWS_MAX),
            )
            self._count_remembered(slot)

    def create(self, key: CopyKey) -> None:
        """Make an empty complete copy; nothing happens when there is one."""
        if key not in self.live:
            slot = self._new_slot(key, LIVE)
            self.live[key] = Slot(slot, 0, 0, 0, CopyState(), ())

    def _new_slot(self, key: CopyKey, status: int) -> int:
        slot = self._next_slot
        self._next_slot += 1
        self._connection.execute(
            "INSERT INTO slots VALUES (?, ?, ?, ?, 0, 0, 0, ?, ?)",
            (slot, *key, status, encode_state(CopyState()), encode_epochs(())),
        )
        return slot

    def install_begin(self, key: CopyKey) -> None:
        """Make a staging slot beside the copy; an earlier one of the same copy becomes garbage."""
        self.install_abort(key)
        self._staging[key] = self._new_slot(key, STAGING)

    def install_rows(self, key: CopyKey, rows: Sequence[Row], remembered: Sequence[Remembered]) -> None:
        """Write rows of a snapshot into the staging slot; nothing happens when the installation was aborted."""
        slot = self._staging.get(key)
        if slot is None:
            return
        self._write(
            _UPSERT_ROWS,
            [(slot, row.user, row.key, row.version, row.modified_ms, row.content_type, row.value) for row in rows],
        )
        self._write(
            _UPSERT_REMEMBERED,
            [(slot, one.user, one.key, one.request_hash, one.answer, one.sn, one.wall_ms) for one in remembered],
        )

    def install_finish(
        self, key: CopyKey, epoch: int, sn: int, state: CopyState, epochs: Sequence[EpochStart], complete_at: int
    ) -> bool:
        """Let the staging slot take the copy's place; return False when there is no staging slot."""
        staged = self._staging.pop(key, None)
        if staged is None:
            return False
        self._discard(key)
        slot = self.live[key] = Slot(staged, epoch, sn, complete_at, state.copy(), epochs)
        self._connection.execute(
            "UPDATE slots SET status = ?, epoch = ?, sn = ?, complete_at = ?, state = ?, epochs = ? WHERE slot = ?",
            (LIVE, epoch, sn, complete_at, encode_state(state), encode_epochs(slot.epochs), staged),
        )
        self._count_remembered(slot)
        return True

    def install_abort(self, key: CopyKey) -> None:
        """Give up a staging slot, if there is one."""
        staged = self._staging.pop(key, None)
        if staged is not None:
            self._throw_away(staged)

    def drop(self, key: CopyKey, *, keeps: bool = False) -> None:
        """Remove a copy and its staging slot; the rows go bit by bit, or, if it ``keeps`` them, later.

        What never was complete is worth nothing to anybody, and is not kept.
        """
        self.install_abort(key)
        old = self.live.get(key)
        if old is None or not keeps or old.sn < old.complete_at:
            self._discard(key)
            return
        if key in self._touched:
            self._ahead = self.flush()  # What it has applied belongs to it, also when it is cold.
        del self.live[key]
        self._connection.execute("UPDATE slots SET status = ? WHERE slot = ?", (COLD, old.slot))
        self.cold[old.slot] = None

    def end_cold(self, now: float, kept_s: float, *, has_room: bool) -> None:
        """Throw cold copies away that were kept for ``kept_s``, or all of them when there is no room."""
        for slot, since in list(self.cold.items()):
            first = self.cold[slot] = now if since is None else since
            if not has_room or now >= first + kept_s:
                del self.cold[slot]
                self._throw_away(slot)

    def _discard(self, key: CopyKey) -> None:
        old = self.live.pop(key, None)
        self._touched.pop(key, None)
        if old is not None:
            self._rows = {at: row for at, row in self._rows.items() if at[0] != old.slot}
            self._remembered = {at: kept for at, kept in self._remembered.items() if at[0] != old.slot}
            self._throw_away(old.slot)

    def _throw_away(self, slot: int) -> None:
        self._connection.execute("UPDATE slots SET status = ? WHERE slot = ?", (GARBAGE, slot))
        self._garbage.append(slot)

    @property
    def has_garbage(self) -> bool:
        """Whether rows of discarded slots are still to be deleted."""
        return bool(self._garbage)

    def clear_some_garbage(self) -> None:
        """Delete one portion of discarded rows: what waits for the write thread waits no longer than that takes."""
        slot = self._garbage[0]
        for table, size in (("rows", "length(value)"), ("remembered", "0")):
            last = self._end_of_portion(slot, table, size)
            if last is not None:
                self._connection.execute(f"DELETE FROM {table} WHERE slot = ? AND (user, key) <= (?, ?)", (slot, *last))
                return
        self._connection.execute("DELETE FROM slots WHERE slot = ?", (slot,))
        self._garbage.pop(0)

    def _end_of_portion(self, slot: int, table: str, size: str) -> tuple[str, str] | None:
        found: list[Any] = self._connection.execute(
            f"SELECT user, key, {size} FROM {table} WHERE slot = ? ORDER BY user, key LIMIT ?", (slot, _GARBAGE_ROWS)
        ).fetchall()
        total = 0
        last: tuple[str, str] | None = None
        for user, key, size_bytes in found:
            if last is not None and total + size_bytes > _GARBAGE_BYTES:
                break
            total += size_bytes
            last = user, key
        return last


def _name(item: tuple[str, GatewayResults]) -> str:
    return item[0]


def _first(item: tuple[RowKey, Remembered]) -> RowKey:
    return item[0]


def _count(slot: Slot, kept: Remembered) -> None:
    if not slot.remembered_max or kept.wall_ms < slot.oldest_wall_ms:
        slot.oldest_wall_ms = kept.wall_ms
    slot.remembered_max += 1
