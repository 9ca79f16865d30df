"""The rows that were asked for last, as Python objects: a look-up in SQLite costs several system calls.

    look-up misses --> read from SQLite --> kept        transaction delivered --> newer rows take the place of kept ones

Used in the loop's thread alone. A kept row is never older than what the owner was told is applied: rows change here
when a transaction is delivered, which is before the owner hears of it. A delivery that comes after a later transaction was
read changes nothing, because a kept row only gives way to a greater version. What is absent is not kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from ringkeep_node.machines.documents import Row

ROW_BYTES: Final = 400
"""What the objects around a kept value take, measured in CPython 3.11."""

RowPlace = tuple[int, int, str, str]
"""(shard, copy, user, key)"""


class RowCache:
    """At most ``bytes_max`` of rows; the one that was put in first goes first."""

    __slots__ = ("_bytes_max", "_rows", "size")

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._rows: dict[RowPlace, Row] = {}
        self.size = 0

    def get(self, place: RowPlace) -> Row | None:
        """Return a kept row, None if it is not known here."""
        return self._rows.get(place)

    def keep(self, place: RowPlace, row: Row) -> None:
        """Keep a row that was read; ``place`` is not kept yet."""
        self._rows[place] = row
        self.size += ROW_BYTES + len(row.value)
        self._make_room()

    def written(self, changed: Sequence[tuple[RowPlace, Row | None]]) -> None:
        """A transaction that wrote these rows (None: deleted them) is visible."""
        rows = self._rows
        for place, row in changed:
            kept = rows.get(place)
            if kept is None:
                continue
            if row is None or ROW_BYTES + len(row.value) > self._bytes_max:
                self._drop(place)
            elif row.version > kept.version:
                rows[place] = row
                self.size += len(row.value) - len(kept.value)
        self._make_room()

    def _make_room(self) -> None:
        while self.size > self._bytes_max:
            self._drop(next(iter(self._rows)))

    def _drop(self, place: RowPlace) -> None:
        self.size -= ROW_BYTES + len(self._rows.pop(place).value)

    def clear(self) -> None:
        """Forget everything: a copy's content was exchanged."""
        self._rows.clear()
        self.size = 0
