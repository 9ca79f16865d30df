"""SQLite's journal: when it is checkpointed before its time, and how it stays bounded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ringkeep_node.machines.documents import Answer, Change, Row, Write, encode
from ringkeep_node.runtime.store import Store, StoreSettings
from ringkeep_node.runtime.store.schema import PAGE_BYTES


def put(sn: int, key: str, value: bytes) -> tuple[int, int, bytes]:
    return 1, sn, encode(Change((Write("ada", key, value),), Answer.CREATED, 1000 + sn, None, None))


def test_a_checkpoint_is_asked_for_each_time_that_so_much_of_snapshots_was_written(tmp_path: Path) -> None:
    store, due = Store.open(tmp_path, StoreSettings(checkpoint_bytes=10_000)), list[int]()
    store.on_checkpoint_due = lambda: due.append(number)
    store.install_begin(1, 5)
    for number in range(12):
        store.apply(2, 6, [put(number + 1, "k", b"v" * 9000)])
        store.install_rows(1, 5, [Row("ada", f"k{number}", number, 9000, "", b"v" * 2436)], [])
        store.pump()
    store.close()

    assert due == [3, 7, 11]


def test_a_journal_that_has_grown_long_is_begun_anew_though_something_always_comes_in(tmp_path: Path) -> None:
    store = Store.open(tmp_path, StoreSettings(journal_bytes_max=100_000))

    def write(number: int) -> None:
        store.apply(1, 5, [put(number, f"k{number}", b"v" * 60_000)])
        store.pump()

    def pages() -> int:
        found: Any = store._checkpointer.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
        return int(found[0][1])

    store.create(1, 5)
    write(1)
    store.checkpoint()
    is_long_at_first = store._journal_is_long
    write(2)
    write(3)
    store.checkpoint()
    is_long = store._journal_is_long
    # What was committed while the checkpoint ran, so that SQLite does not begin anew by itself.
    store._journal_is_long = False
    write(4)
    write(5)
    store._journal_is_long = is_long
    write(6)
    left = pages()
    store.close()

    assert (is_long_at_first, is_long) == (False, True)
    assert 0 < left * PAGE_BYTES < 2 * 60_000
