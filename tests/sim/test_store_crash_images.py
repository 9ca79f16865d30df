"""Crash images of the store: SQLite and our write side over a simulated disk, cut anywhere and reopened.

Whatever the disk lost, tore or reordered since the last sync, the reopened store is exactly some prefix of its
transactions, and not shorter than the last checkpoint or the last synced transaction promised.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from random import Random
from typing import Any

import apsw
import pytest

from ringkeep_node.machines.documents import Answer, Change, IdempotencyKey, OperationId, Row, Write, decode, encode
from ringkeep_node.runtime.store import schema
from ringkeep_node.runtime.store.changes import Changes, canonical_state, decode_state
from ringkeep_testing.sim_disk import PowerCut, SimDisk
from ringkeep_testing.sim_vfs import SimVfs

KEY = (1, 5)
SEEDS = 20
CUTS_A_SEED = 17
IMAGES_A_CUT = 3
_names = itertools.count()


@contextmanager
def connected(disk: SimDisk) -> Iterator[apsw.Connection]:
    """Open the store's file on a simulated disk, as schema.connect does on a real one."""
    name = f"sim{next(_names)}"
    vfs = SimVfs(name, disk)
    connection = apsw.Connection("store.sqlite", vfs=name)
    try:
        for pragma in (
            "locking_mode = EXCLUSIVE",
            "journal_mode = WAL",
            "synchronous = NORMAL",
            "wal_autocheckpoint = 0",
        ):
            connection.execute(f"PRAGMA {pragma}")
        schema.prepare(connection)
        yield connection
    finally:
        disk.cut_at_step = None
        connection.close(True)
        vfs.unregister()


def entry(sn: int, random: Random) -> tuple[int, int, bytes]:
    value = None if random.random() < 0.2 else random.randbytes(random.choice((10, 300, 6000)))
    write = Write("ada", f"k{random.randrange(30)}", value)
    named = IdempotencyKey("ada", f"n{sn}", b"h") if sn % 2 else None
    return 1, sn, encode(Change((write,), Answer.CREATED, 1000 + sn, OperationId("a" * 16, sn, max(1, sn - 5)), named))


def content(connection: apsw.Connection) -> tuple[int, object]:
    """Return the applied sn and everything stored, as seen now."""
    copies: list[Any] = connection.execute(schema.COPIES).fetchall()
    if not copies:
        return -1, None
    _shard, _copy, epoch, sn, _complete_at, state, epochs = copies[0]
    rows = connection.execute(schema.ROWS_AFTER, (*KEY, "", "")).fetchall()
    kept = connection.execute(schema.REMEMBERED_AFTER, (*KEY, "", "")).fetchall()
    return sn, (epoch, canonical_state(decode_state(state)), bytes(epochs), rows, kept)


class Run:
    """A store that works until the power fails; ``contents`` is what each committed sn looked like."""

    def __init__(self, seed: int) -> None:
        self.disk = SimDisk()
        self.synced = -1
        self.contents: dict[int, object] = {-1: None}
        self._random = Random(seed)

    def work(self, transactions: int, cut_after: int | None) -> None:
        with connected(self.disk) as connection:
            changes = Changes(connection)
            schema.begin(connection)
            changes.create(KEY)
            connection.execute("COMMIT")
            self.contents[0] = content(connection)[1]
            if cut_after is not None:
                self.disk.cut_at_step = self.disk.steps + cut_after
            sn = 0
            for _ in range(transactions):
                count, is_synced = self._random.randint(1, 6), self._random.random() < 0.2
                schema.begin(connection, synced=is_synced)
                entries = [entry(sn + 1 + n, self._random) for n in range(count)]
                changes.apply(KEY, entries, [decode(payload) for _, _, payload in entries])
                if self._random.random() < 0.1:
                    changes.install_begin(KEY)
                    changes.install_rows(KEY, [Row("ada", "k1", 1, 1, "", b"never finished")], [])
                changes.flush()
                sn += count
                # The commit may be on disk although its call does not return, so what it would show is noted before.
                self.contents[sn] = content(connection)[1]
                connection.execute("COMMIT")
                if is_synced:
                    self.synced = sn
                if self._random.random() < 0.2:
                    ((busy, in_log, moved),) = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
                    assert (busy, in_log) == (0, moved)
                    self.synced = sn


@pytest.mark.parametrize("seed", range(SEEDS))
def test_after_a_power_cut_the_store_is_a_prefix_of_its_transactions_from_what_was_synced_on(seed: int) -> None:
    for number in range(CUTS_A_SEED):
        run = Run(seed)
        with pytest.raises((PowerCut, apsw.Error)):
            run.work(10_000, 3 + number * 41 + seed)
        assert run.disk.at_cut is not None
        for image in range(IMAGES_A_CUT):
            disk = run.disk.at_cut.after_power_cut(Random(f"{seed}/{number}/{image}"))
            with connected(disk) as connection:
                sn, found = content(connection)

            assert run.synced <= sn, f"seed {seed}, cut {number}, image {image}"
            assert found == run.contents[sn], f"seed {seed}, cut {number}, image {image}, sn {sn}"
