"""The store: a write thread, point look-ups in the loop's thread, bulk reads in worker threads, checkpoints.

    apply(), create(), install_*(), drop() --> queue --> [ write thread: BEGIN, everything queued, COMMIT ] --> on_applied

A commit makes changes visible, not durable: only checkpoint() does that, and the log keeps what no checkpoint covers. The
exceptions are a new copy and the end of a snapshot, which somebody waits for: their transaction is synced by itself, and no
page is moved for it.
"""

from __future__ import annotations

import hashlib
import math
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, NamedTuple

import apsw
from msgspec import Struct

from ringkeep_core.errors import RingkeepError
from ringkeep_node.machines.documents import Body, CopyState, Remembered, Row, decode, remembered_since_ms
from ringkeep_node.machines.records import EpochStart
from ringkeep_node.machines.recovery import CopyKey, decode_epochs
from ringkeep_node.runtime.store import schema
from ringkeep_node.runtime.store.changes import Changes, Entry, canonical_state, decode_state
from ringkeep_node.runtime.store.row_cache import RowCache, RowPlace

MEBI = 1024 * 1024
_ENTRY_BYTES = 64
_CHECKPOINT_TRIES = 5
_ROWS_BYTES_MAX = 8 * MEBI


class StoreDamaged(RingkeepError):
    """The store cannot be read: rot, or another format. Its copies are unfit and have to be rebuilt from peers."""

    code = "store_damaged"


class StoreSettings(NamedTuple):
    """``gather_s``: how long a small transaction waits for more, ``gather_awaited_s`` while somebody waits for what is
    applied; from ``gather_bytes`` on a queue does not wait: what copies bring would be one long transaction five times in a
    second, and requests wait for the processor that it takes.

    Most of what a transaction costs is pages and applied numbers, which many rows share. Measured with 64 clients: 20 us
    of CPU less per put with 0.2 s than with 0.05 s.

    ``cold_s``: so long a removed copy is kept, while at least the share ``cold_free_share`` of the volume is free.

    ``checkpoint_bytes``: so much of snapshots is checkpointed at once: what is synced once in ten seconds is a lot then, and
    the syncs of the log would wait for it.

    ``journal_bytes_max``: SQLite's journal is begun anew with the next checkpoint once it is larger.

    ``garbage_rest_s``: at least so long between two portions of a removed copy that are deleted, for nobody waits for them,
    and ``garbage_rest_factor`` times as long as the last portion took: a slow disk must not do this all the time.
    """

    cache_kib: int = 8192
    transaction_bytes_max: int = 4 * MEBI
    queue_bytes_max: int = 64 * MEBI
    gather_s: float = 0.2
    gather_awaited_s: float = 0.05
    gather_bytes: int = 128 * 1024
    checkpoint_bytes: int = 8 * MEBI
    journal_bytes_max: int = 64 * MEBI
    cold_s: float = 300.0
    cold_free_share: float = 0.25
    garbage_rest_s: float = 0.05
    garbage_rest_factor: float = 19.0
    vfs: str = schema.CHECKSUM_VFS


class StoredCopy(Struct, frozen=True):
    """A copy in the store: what it has applied. ``complete`` is False until a snapshot's last range is caught up with."""

    shard: int
    copy: int
    complete: bool
    epoch: int
    sn: int
    state: CopyState
    epochs: tuple[EpochStart, ...]


class Page(Struct, frozen=True):
    """Rows of one user in key order, read in one transaction that had applied ``applied_sn``."""

    applied_sn: int
    rows: list[Row]
    more: bool


class _Command(NamedTuple):
    size: int
    do: Callable[[Changes], object]
    done: Callable[[], object] | None = None
    synced: bool = False
    closes: bool = False
    exchanges: bool = False
    installs: bool = False


def _ignore(_applied: list[tuple[int, int, int]]) -> None:
    return None


def _no_news() -> None:
    return None


def _call(function: Callable[..., object], *arguments: object) -> None:
    function(*arguments)


class Store:
    """One store of one data directory.

    Without start() there is no write thread: pump() does what it would do next, at once (tests).
    """

    def __init__(self, folder: Path, settings: StoreSettings, writer: apsw.Connection, changes: Changes) -> None:
        self.on_applied: Callable[[list[tuple[int, int, int]]], None] = _ignore
        self.on_room: Callable[[], object] = _no_news
        """Called when rows of a snapshot are in the store: there is room for more."""
        self.on_checkpoint_due: Callable[[], object] = _no_news
        """Called when so much of snapshots was written that a checkpoint should not wait for its time."""
        self.is_awaited = False
        """Set by the owner while snapshots go out, which begin at what is applied, or come in."""
        self._folder = folder
        self._settings = settings
        self._writer = writer
        self._changes = changes
        self._point = schema.connect(folder, cache_kib=settings.cache_kib // 2, vfs=settings.vfs, read_only=True)
        self._bulk = schema.connect(folder, cache_kib=settings.cache_kib // 4, vfs=settings.vfs, read_only=True)
        self._checkpointer = schema.connect(folder, cache_kib=256, vfs=settings.vfs)
        self._bulk_lock = threading.Lock()
        self._checkpoint_lock = threading.Lock()
        self._synced: dict[CopyKey, int] = {}
        self._rows = RowCache(_ROWS_BYTES_MAX)
        self._inbox: SimpleQueue[_Command] = SimpleQueue()
        self._hurry = threading.Event()
        self._queued = 0
        self._done = 0
        self._post: Callable[..., object] = _call
        self._on_fatal: Callable[[BaseException], None] | None = None
        self._thread: threading.Thread | None = None
        self._closed = False
        self._has_room = True
        self._installed = 0
        self._journal_is_long = False

    @classmethod
    def open(cls, folder: Path, settings: StoreSettings | None = None) -> Store:
        """Open the store in a folder, making it when missing; everything in it is durable afterwards.

        Raises StoreDamaged when it cannot be read.
        """
        settings = settings or StoreSettings()
        schema.load_checksums()
        try:
            writer = schema.connect(folder, cache_kib=settings.cache_kib, vfs=settings.vfs)
            schema.prepare(writer)
            changes = Changes(writer)
            schema.begin(writer)
            changes.load()
            writer.execute("COMMIT")
            store = cls(folder, settings, writer, changes)
            # A killed process leaves commits that only the page cache has; nothing may count on them before this.
            store.checkpoint()
        except (apsw.Error, ValueError) as error:
            raise StoreDamaged(f"the store in {folder} cannot be read: {error}") from error
        return store

    def start(self, post: Callable[..., object], on_fatal: Callable[[BaseException], None]) -> None:
        """Start the write thread. ``post`` runs callbacks in the owner's thread; ``on_fatal`` is posted once."""
        self._post = post
        self._on_fatal = on_fatal
        self._thread = threading.Thread(target=self._run, name="ringkeep-store", daemon=True)
        self._thread.start()

    def copies(self) -> list[StoredCopy]:
        """Return the live copies as last committed."""
        with self._bulk_lock:
            found: list[Any] = self._bulk.execute(schema.COPIES).fetchall()
        return [
            StoredCopy(shard, copy, sn >= complete_at, epoch, sn, decode_state(state), decode_epochs(epochs))
            for shard, copy, epoch, sn, complete_at, state, epochs in found
        ]

    @property
    def file_bytes(self) -> int:
        """Size of the SQLite file and its write-ahead file: all copies, and space that is not used at present."""
        return sum(path.stat().st_size for path in self._folder.glob(f"{schema.FILE_NAME}*"))

    # Point look-ups, in the loop's thread.

    def applied(self, shard: int, copy: int) -> tuple[int, int] | None:
        """Return the (epoch, sn) that row() and page() show, None without such a copy."""
        found: list[Any] = self._point.execute(schema.APPLIED, (shard, copy)).fetchall()
        return found[0] if found else None

    def row(self, shard: int, copy: int, user: str, key: str) -> Row | None:
        """Return one document."""
        place = (shard, copy, user, key)
        row = self._rows.get(place)
        if row is None:
            # fetchall, not fetchone: only a finished statement ends its read transaction.
            found: list[Any] = self._point.execute(schema.ROW, place).fetchall()
            if found:
                row = Row(user, key, *found[0])
                self._rows.keep(place, row)
        return row

    def remembered(self, shard: int, copy: int, user: str, key: str, *, log_time_ms: int = 0) -> Remembered | None:
        """Return what a change under an Idempotency-Key was answered, unless 24 h of log time have passed."""
        asked = (shard, copy, user, key, remembered_since_ms(log_time_ms))
        found: list[Any] = self._point.execute(schema.REMEMBERED, asked).fetchall()
        return Remembered(user, key, *found[0]) if found else None

    # Bulk reads, in worker threads.

    def page(
        self, shard: int, copy: int, user: str, *, prefix: str = "", after: str = "", limit: int, bytes_max: int
    ) -> Page:
        """Return a user's rows whose key begins with ``prefix`` and is greater than ``after``."""
        with self._bulk_lock:
            self._bulk.execute("BEGIN")
            try:
                applied: list[Any] = self._bulk.execute(schema.APPLIED, (shard, copy)).fetchall()
                cursor: Any = self._bulk.execute(schema.PAGE, (shard, copy, user, prefix, after))
                matching = (Row(*row) for row in cursor)
                rows, more = _take(matching, lambda row: row.key.startswith(prefix), limit, bytes_max)
                cursor.close(True)
            finally:
                self._bulk.execute("ROLLBACK")
        return Page(applied[0][1] if applied else 0, rows, more)

    def rows_after(
        self, shard: int, copy: int, cursor: tuple[str, str] | None, bytes_max: int
    ) -> tuple[list[Row], bool]:
        """Return the rows after (user, key) in that order, and whether there are more: one range of a snapshot."""
        with self._bulk_lock:
            found: Any = self._bulk.execute(schema.ROWS_AFTER, (shard, copy, *(cursor or ("", ""))))
            rows, more = _take((Row(*row) for row in found), None, None, bytes_max)
            found.close(True)
        return rows, more

    def remembered_after(
        self, shard: int, copy: int, cursor: tuple[str, str] | None, bytes_max: int
    ) -> tuple[list[Remembered], bool]:
        """Return the rows of Idempotency-Keys after (user, key), and whether there are more."""
        with self._bulk_lock:
            found: Any = self._bulk.execute(schema.REMEMBERED_AFTER, (shard, copy, *(cursor or ("", ""))))
            kept: list[Remembered] = []
            size = 0
            more = False
            for row in found:
                if size >= bytes_max:
                    more = True
                    break
                kept.append(Remembered(*row))
                size += _ENTRY_BYTES + len(row[0]) + len(row[1])
            found.close(True)
        return kept, more

    def digest(self, shard: int, copy: int) -> str:
        """Return a hash over a copy's rows and state: equal copies that applied the same entries have the same."""
        digest = hashlib.sha256()
        with self._bulk_lock:
            self._bulk.execute("BEGIN")
            try:
                slot: list[Any] = self._bulk.execute(
                    "SELECT epoch, sn, state, epochs FROM slots WHERE shard = ? AND copy = ? AND status = 0",
                    (shard, copy),
                ).fetchall()
                state = decode_state(slot[0][2]) if slot else CopyState()
                digest.update(repr([one[:2] for one in slot]).encode() + canonical_state(state))
                digest.update(b"".join(one[3] for one in slot))
                since = remembered_since_ms(state.wall_ms_max)
                rows: Any = self._bulk.execute(schema.ROWS_AFTER, (shard, copy, "", ""))
                for row in rows:
                    digest.update(repr(row).encode())
                kept: Any = self._bulk.execute(schema.REMEMBERED_AFTER, (shard, copy, "", ""))
                for one in kept:
                    if one[5] >= since:
                        digest.update(repr(one).encode())
            finally:
                self._bulk.execute("ROLLBACK")
        return digest.hexdigest()

    # Changes, queued to the write thread.

    @property
    def queued_bytes(self) -> int:
        """Bytes of changes that are not committed yet."""
        return self._queued - self._done

    @property
    def is_full(self) -> bool:
        """Whether so much waits that nothing more should be handed over."""
        return self.queued_bytes > self._settings.queue_bytes_max

    def _put(self, size: int, do: Callable[[Changes], object]) -> None:
        self._queue(_Command(size, do))

    def _queue(self, command: _Command) -> None:
        self._queued += command.size
        self._inbox.put(command)
        if command.synced or command.closes or self.queued_bytes >= self._settings.gather_bytes:
            self._hurry.set()

    def apply(self, shard: int, copy: int, entries: Sequence[Entry]) -> None:
        """Apply consecutive committed entries (epoch, sn, payload); those that were applied already are skipped."""
        self.apply_all([(shard, copy, entries, [decode(payload) for _, _, payload in entries])])

    def apply_all(self, what: Sequence[tuple[int, int, Sequence[Entry], Sequence[Body]]]) -> None:
        """Apply entries of several copies, as ``apply`` does: (shard, copy, entries, what each of them says)."""
        size = 0
        for _, _, entries, _ in what:
            for entry in entries:
                size += _ENTRY_BYTES + len(entry[2])

        def do(changes: Changes) -> None:
            for shard, copy, entries, bodies in what:
                changes.apply((shard, copy), entries, bodies)

        self._put(size, do)

    def create(self, shard: int, copy: int) -> None:
        """Make an empty complete copy at (0, 0); it is durable before anything later is applied."""
        self._queue(_Command(_ENTRY_BYTES, lambda changes: changes.create((shard, copy)), synced=True))

    def install_begin(self, shard: int, copy: int) -> None:
        """Begin to write a snapshot beside the copy."""
        self._put(_ENTRY_BYTES, lambda changes: changes.install_begin((shard, copy)))

    def install_rows(self, shard: int, copy: int, rows: Sequence[Row], remembered: Sequence[Remembered]) -> None:
        """Write one range of the snapshot."""
        size = sum(_ENTRY_BYTES + len(row.value) for row in rows) + _ENTRY_BYTES * len(remembered)
        self._queue(
            _Command(size, lambda changes: changes.install_rows((shard, copy), rows, remembered), installs=True)
        )

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
        """Let the snapshot take the copy's place in one transaction; ``done`` is posted when that is durable.

        ``sn``: where the copy's log restarts; ``complete_at``: the greatest applied sn seen while the ranges were read.
        """
        state = state.copy()
        self._queue(
            _Command(
                _ENTRY_BYTES,
                lambda changes: changes.install_finish((shard, copy), epoch, sn, state, epochs, complete_at),
                done=done,
                synced=True,
                exchanges=True,
            )
        )

    def install_abort(self, shard: int, copy: int) -> None:
        """Give up the snapshot that is being written."""
        self._put(_ENTRY_BYTES, lambda changes: changes.install_abort((shard, copy)))

    def drop(self, shard: int, copy: int) -> None:
        """Remove a copy: it is none from now on. Its rows are kept cold for a while if there is room."""
        keeps = self._settings.cold_s > 0 and self._has_room
        self._queue(_Command(_ENTRY_BYTES, lambda changes: changes.drop((shard, copy), keeps=keeps), exchanges=True))

    def look_at_cold(self, *, free_bytes: int, volume_bytes: int, now: float) -> None:
        """Let go of cold copies whose time is up, or of all when too little of the volume is free. Call it regularly."""
        kept_s = self._settings.cold_s
        has_room = self._has_room = free_bytes >= self._settings.cold_free_share * volume_bytes
        if self._changes.cold:
            self._put(_ENTRY_BYTES, lambda changes: changes.end_cold(now, kept_s, has_room=has_room))

    @property
    def cold_copies(self) -> int:
        """How many removed copies are kept for a while."""
        return len(self._changes.cold)

    def checkpoint(self) -> Mapping[CopyKey, int]:
        """Sync what is committed and return the applied sns that are durable now. Blocks: call it in a worker thread."""
        with self._checkpoint_lock:
            self._sync()
            return dict(self._synced)

    def _sync(self) -> None:
        """Checkpoint. Only if it gets through is everything committed before it known to be durable."""
        committed: list[Any] = self._checkpointer.execute(schema.SYNCED).fetchall()
        for attempt in range(_CHECKPOINT_TRIES):
            mode = "PASSIVE" if attempt == 0 else "FULL"
            found: list[Any] = self._checkpointer.execute(f"PRAGMA wal_checkpoint({mode})").fetchall()
            busy, in_log, moved = found[0]
            if not busy and (in_log == moved or in_log < 0):
                self._synced = {(shard, copy): sn for shard, copy, sn in committed}
                self._journal_is_long = in_log * schema.PAGE_BYTES > self._settings.journal_bytes_max
                return

    def close(self) -> None:
        """Commit what is queued, sync it, end the thread and close the file."""
        if self._closed:
            return
        self._closed = True
        self._queue(_Command(0, _nothing, closes=True))
        if self._thread is not None:
            self._thread.join()
        else:
            self.pump()
        self.checkpoint()
        for connection in (self._point, self._bulk, self._checkpointer, self._writer):
            connection.close()

    def pump(self) -> bool:
        """Do the write thread's work here until nothing is queued; return whether there was any."""
        worked = False
        while commands := self._drain(0.0):
            self._transaction(commands)
            worked = True
        while self._changes.has_garbage:
            self._clear_garbage()
        return worked

    def _run(self) -> None:
        try:
            closing, clears_at = False, math.inf
            while not closing:
                commands = self._drain(max(0.0, clears_at - time.monotonic()) if clears_at < math.inf else None)
                if commands:
                    self._transaction(commands)
                    closing = any(command.closes for command in commands)
                clears_at = self._clear_when_due(clears_at)
        except BaseException as error:
            if self._on_fatal is not None:
                self._post(self._on_fatal, error)

    def _clear_when_due(self, due: float) -> float:
        """Delete a portion if its time has come; return when the next one may go, never if nothing is left.

        However much is queued: where something always is, removed copies would stay for ever.
        """
        now = time.monotonic()
        if now >= due:
            self._clear_garbage()
            ended, settings = time.monotonic(), self._settings
            due = ended + max(settings.garbage_rest_s, settings.garbage_rest_factor * (ended - now))
        elif due == math.inf:
            due = now + self._settings.garbage_rest_s
        return due if self._changes.has_garbage else math.inf

    def _drain(self, wait_s: float | None) -> list[_Command]:
        """Take what is queued, waiting for the first at most so long; None: until there is one."""
        commands: list[_Command] = []
        size = 0
        try:
            if wait_s is None or wait_s > 0.0:
                commands.append(self._inbox.get(timeout=wait_s))
                size = commands[0].size
                if size < self._settings.gather_bytes and self.queued_bytes < self._settings.gather_bytes:
                    # Somebody waits for what is to be synced; everything else may gather.
                    settings = self._settings
                    self._hurry.wait(settings.gather_awaited_s if self.is_awaited else settings.gather_s)
            self._hurry.clear()  # Before the queue is looked into: what is set later is about something later.
            while size < self._settings.transaction_bytes_max:
                command = self._inbox.get_nowait()
                commands.append(command)
                size += command.size
        except Empty:
            pass
        return commands

    def _begin_journal_anew(self) -> None:
        """Have SQLite write its journal from the start again. It does so by itself only where a transaction begins with
        nothing left to move, and while copies come in a checkpoint in another thread always leaves something."""
        with self._checkpoint_lock:
            self._journal_is_long = False
            self._writer.execute("PRAGMA wal_checkpoint(RESTART)").fetchall()

    def _transaction(self, commands: Sequence[_Command]) -> None:
        changes = self._changes
        if self._journal_is_long:
            self._begin_journal_anew()
        schema.begin(self._writer, synced=any(command.synced for command in commands))
        for command in commands:
            command.do(changes)
        moved, changed = changes.flush()
        self._writer.execute("COMMIT")
        self._done += sum(command.size for command in commands)
        exchanged = any(command.exchanges for command in commands)
        if moved or exchanged:
            self._post(self._deliver, moved, changed, exchanged)
        installed = [command.size for command in commands if command.installs]
        if installed:
            self._post(self.on_room)
            self._count_installed(sum(installed))
        for command in commands:
            if command.done is not None:
                self._post(command.done)

    def _count_installed(self, size: int) -> None:
        self._installed += size
        if self._installed >= self._settings.checkpoint_bytes:
            self._installed = 0
            self._post(self.on_checkpoint_due)

    def _deliver(
        self, moved: list[tuple[int, int, int]], changed: list[tuple[RowPlace, Row | None]], exchanged: bool
    ) -> None:
        if exchanged:
            self._rows.clear()
        else:
            self._rows.written(changed)
        if moved:
            self.on_applied(moved)

    def _clear_garbage(self) -> None:
        schema.begin(self._writer)
        self._changes.clear_some_garbage()
        self._writer.execute("COMMIT")


def _nothing(_changes: Changes) -> None:
    return None


def _take(
    rows: Iterable[Row], wanted: Callable[[Row], bool] | None, limit: int | None, bytes_max: int
) -> tuple[list[Row], bool]:
    taken: list[Row] = []
    size = 0
    for row in rows:
        if wanted is not None and not wanted(row):
            break
        if size >= bytes_max or (limit is not None and len(taken) >= limit):
            return taken, True
        taken.append(row)
        size += _ENTRY_BYTES + len(row.user) + len(row.key) + len(row.value)
    return taken, False
