"""The write-ahead log: group commit in a thread of its own, reading for catching up, letting go of what is covered.

    append() --> SimpleQueue --> [ log thread: batch -> write through -> fold ] --> on_synced, in the loop's thread

One batch is in flight; the next one is what arrived meanwhile. A failed write or sync is final (the kernel may have
dropped the pages, a retry would lie): on_fatal is called once and nothing is written any more.

Source: replication.md, Storage.
"""

from __future__ import annotations

import threading
import time
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from queue import Empty, SimpleQueue
from typing import NamedTuple

from ringkeep_core.errors import RingkeepError
from ringkeep_node.machines.records import Kind, Record
from ringkeep_node.machines.recovery import CopyKey, RecoveredLog, Run, Track
from ringkeep_node.runtime.disk import Disk, File
from ringkeep_node.runtime.wal.format import LINE_BYTES, is_intact
from ringkeep_node.runtime.wal.opening import open_log
from ringkeep_node.runtime.wal.queue import Queue, Waiting
from ringkeep_node.runtime.wal.segments import FoundBatch, batches_in, segment_name
from ringkeep_node.runtime.wal.writer import Writer

MEBI = 1024 * 1024
Post = Callable[..., object]
"""``loop.call_soon_threadsafe`` or something like it: runs a function with arguments in the owner's thread."""


class LogGone(RingkeepError):
    """The log does not hold these entries any more (or they rotted); a snapshot has to take their place."""

    code = "log_gone"


class LogSettings(NamedTuple):
    """Sizes of the log. ``log_bytes_max`` is further limited to a quarter of the volume.

    ``keep_s``: how long covered segments stay for replicas that have to catch up. ``salt``: random, of this directory.
    ``ahead_bytes``: in which steps a segment grows.
    """

    segment_bytes: int = 64 * MEBI
    batch_bytes_max: int = 4 * MEBI
    queue_bytes_max: int = 64 * MEBI
    log_bytes_max: int = 512 * MEBI
    keep_s: float = 300.0
    salt: int = 0
    ahead_bytes: int = MEBI


class _Release(NamedTuple):
    covered: Mapping[CopyKey, int]


class _Close(NamedTuple):
    pass


def _nothing(_through: int) -> None:
    return None


def _untimed(_wait_s: float, _sync_s: float) -> None:
    return None


def _call(function: Callable[..., object], *arguments: object) -> None:
    function(*arguments)


class Log:
    """One log of one data directory. append() and the callbacks belong to the owner's thread.

    Without start() there is no thread: pump() does what the thread would do next, at once (tests).
    """

    def __init__(self, disk: Disk, settings: LogSettings, writer: Writer, clock: Callable[[], float]) -> None:
        self.on_synced: Callable[[int], None] = _nothing
        self.on_urgent_synced: Callable[[int], None] = _nothing
        self.on_timed: Callable[[float, float], None] = _untimed
        """Called for each batch: how long its first append had waited, and how long its write and sync took."""
        self._disk = disk
        self._settings = settings
        self._writer = writer
        self._clock = clock
        self._inbox: SimpleQueue[Waiting | _Release | _Close] = SimpleQueue()
        self._queue = Queue(settings.batch_bytes_max)
        self._state_lock = threading.Lock()
        self._tickets = 0
        self._appended_bytes = 0
        self._written_bytes = 0
        self._sync_since: float | None = None
        self._batches = 0
        self._post: Post = _call
        self._on_fatal: Callable[[BaseException], None] | None = None
        self._thread: threading.Thread | None = None
        self._closing = False

    @classmethod
    def open(
        cls,
        disk: Disk,
        settings: LogSettings,
        applied: Mapping[CopyKey, int],
        clock: Callable[[], float] = time.monotonic,
    ) -> tuple[Log, RecoveredLog]:
        """Read the log and begin a new segment; return the log and what it said.

        ``applied``: the synced applied sn of each copy in the store. Raises ``OSError`` when the disk fails.
        """
        opened = open_log(disk, applied, settings.salt)
        recovered = opened.state.recovered()
        opened.state.run_on()
        now = clock()
        writer = Writer(
            disk,
            opened,
            salt=settings.salt,
            segment_bytes=settings.segment_bytes,
            log_bytes_max=min(settings.log_bytes_max, disk.volume_bytes() // 4),
            keep_s=settings.keep_s,
            ahead_bytes=settings.ahead_bytes,
            now=now,
        )
        writer.begin(now)
        return cls(disk, settings, writer, clock), recovered

    def start(self, post: Post, on_fatal: Callable[[BaseException], None]) -> None:
        """Start the thread. ``post`` runs callbacks in the owner's thread; ``on_fatal`` is posted once, at a failure."""
        self._post = post
        self._on_fatal = on_fatal
        self._thread = threading.Thread(target=self._run, name="ringkeep-log", daemon=True)
        self._thread.start()

    def append(self, records: Sequence[Record], *, urgent: bool = False) -> int:
        """Queue records for the next batch and return a ticket. Never blocks and never refuses.

        The records of one call reach the disk together. Whoever admits work looks at ``queued_bytes`` first.
        """
        self._tickets += 1
        size = LINE_BYTES * len(records)
        for record in records:
            size += len(record.payload)
        self._appended_bytes += size
        self._inbox.put(Waiting(self._tickets, urgent, size, records, self._clock()))
        return self._tickets

    @property
    def queued_bytes(self) -> int:
        """Bytes appended that are not durable yet."""
        return self._appended_bytes - self._written_bytes

    @property
    def is_full(self) -> bool:
        """Whether so much waits that no more client data should be admitted."""
        return self.queued_bytes > self._settings.queue_bytes_max

    @property
    def log_bytes(self) -> int:
        """Bytes of batches on disk."""
        return self._writer.log_bytes

    @property
    def batches(self) -> int:
        """How many batches this process has made durable."""
        return self._batches

    @property
    def free_bytes(self) -> int:
        """How much of the log's volume is free."""
        return self._disk.free_bytes()

    @property
    def volume_bytes(self) -> int:
        """How large the log's volume is."""
        return self._disk.volume_bytes()

    @property
    def has_room(self) -> bool:
        """Whether the volume has room for another segment."""
        return self.free_bytes >= self._settings.segment_bytes

    def sync_age_s(self, now: float) -> float:
        """Return how long the present write and sync have been running; 0 when none is."""
        since = self._sync_since
        return 0.0 if since is None else max(0.0, now - since)

    def first_sn(self, shard: int, copy: int) -> int:
        """Return the smallest sn that read() still has; one above the last sn when none is."""
        with self._state_lock:
            track = self._writer.state.copies.get((shard, copy))
            return track.first_sn() if track else 1

    def release(self, covered: Mapping[CopyKey, int], *, raft_index: int = 0) -> None:
        """Let go of what is covered by the store's *synced* state; live tails are carried forward.

        Raft entries are covered by the RAFT_SNAPSHOT record at or above them, so ``raft_index`` only documents the caller's
        view. Done by the log's thread, between batches.
        """
        self._inbox.put(_Release(dict(covered)))

    def close(self) -> None:
        """Make everything appended durable, end the thread and close the files."""
        self._inbox.put(_Close())
        if self._thread is not None:
            self._thread.join()
        else:
            self.pump()

    def pump(self) -> bool:
        """Do the log thread's next round here, without waiting; return whether there was anything to do."""
        covered = self._drain()
        if not len(self._queue) and covered is None and not self._closing:
            return False
        while True:
            self._round(covered)
            covered = None
            if not len(self._queue):
                break
        if self._closing:
            self._writer.close()
        return True

    def _run(self) -> None:
        try:
            while not self._closing or len(self._queue):
                covered = self._drain(wait=not len(self._queue))
                self._round(covered)
            self._writer.close()
        except BaseException as error:
            # A sync error above all: whatever it was, nothing may be acknowledged any more.
            if self._on_fatal is not None:
                self._post(self._on_fatal, error)

    def _drain(self, *, wait: bool = False) -> Mapping[CopyKey, int] | None:
        covered: Mapping[CopyKey, int] | None = None
        inbox = self._inbox
        try:
            item = inbox.get() if wait else inbox.get_nowait()
            while True:
                if type(item) is Waiting:
                    self._queue.add(item)
                elif type(item) is _Release:
                    covered = item.covered
                else:
                    self._closing = True
                item = inbox.get_nowait()
        except Empty:
            return covered

    def _round(self, covered: Mapping[CopyKey, int] | None) -> None:
        released = self._carry(covered) if covered is not None else []
        batch = self._queue.next_batch()
        if not batch and not released:
            return
        records = [record for append in batch for record in append.records]
        carried = [record for _segment, live in released for record in live]
        timed = self._write(carried + records) if batch or carried else (0.0, 0.0)
        for segment, _live in released:
            self._writer.remove(segment)
        if batch:
            self._written_bytes += sum(append.size for append in batch)
            wait_s, sync_s = timed[0] - batch[0].at, timed[1]
            self._post(
                self._deliver, self._queue.durable_through(), self._queue.urgent_durable_through(), wait_s, sync_s
            )

    def _write(self, records: list[Record]) -> tuple[float, float]:
        """Make records durable; return when that began and how long it took."""
        now = self._clock()
        self._sync_since = now
        try:
            segment, offset = self._writer.write(records, now)
        finally:
            self._sync_since = None
        self._batches += 1
        took_s = self._clock() - now
        with self._state_lock:
            self._writer.take(records, segment, offset)
        return now, took_s

    def _carry(self, covered: Mapping[CopyKey, int]) -> list[tuple[int, list[Record]]]:
        released = []
        while (segment := self._writer.to_release(self._clock())) is not None:
            live = self._writer.live_in(segment, covered)
            if live is None:
                break
            with self._state_lock:
                self._writer.forget(segment)
            released.append((segment, live))
        return released

    def _deliver(self, through: int, urgent_through: int, wait_s: float, sync_s: float) -> None:
        self.on_timed(wait_s, sync_s)
        self.on_urgent_synced(urgent_through)
        self.on_synced(through)

    def read(self, shard: int, copy: int, after_sn: int, bytes_max: int) -> list[tuple[int, int, bytes]]:
        """Return consecutive durable entries (epoch, sn, payload) after ``after_sn``, at least one if there is one.

        Blocks on the disk: call it in a worker thread. Raises LogGone when the next entry is not held any more.
        """
        with self._state_lock:
            track = self._writer.state.copies.get((shard, copy))
            if track is None or after_sn >= track.last_sn:
                return []
            if after_sn + 1 < track.first_sn():
                raise LogGone(f"shard {shard}: entries from {after_sn + 1} on are no longer in the log")
            plan = _Reading((shard, copy), after_sn, track)
        try:
            return plan.collect(self._disk, self._settings.salt, bytes_max)
        except (FileNotFoundError, _Rotten):
            raise LogGone(f"shard {shard}: entries from {after_sn + 1} on cannot be read any more") from None


class _Rotten(Exception):
    """A record that is needed does not have its checksum any more."""


class _Reading:
    """One read(): a copy of what is needed of the state, then the walk over the runs without any lock."""

    def __init__(self, key: CopyKey, after_sn: int, track: Track) -> None:
        self._key = key
        self._expected = after_sn + 1
        self._last = track.last_sn
        self._starts = [start.first_sn for start in track.epochs]
        self._epochs = [start.epoch for start in track.epochs]
        self._runs = [Run(run.first, run.last, run.segment, run.offset) for run in track.runs if run.last > after_sn]
        self._size = 0
        self._found: list[tuple[int, int, bytes]] = []

    def collect(self, disk: Disk, salt: int, bytes_max: int) -> list[tuple[int, int, bytes]]:
        """Walk from run to run until the bytes are full or the end is reached."""
        while self._expected <= self._last and self._size < bytes_max:
            run = next((one for one in reversed(self._runs) if one.first <= self._expected <= one.last), None)
            if run is None:
                break
            before = self._expected
            file = disk.open(segment_name(run.segment))
            try:
                self._walk(file, run, salt, bytes_max)
            finally:
                file.close()
            if self._expected == before:
                break
        if not self._found:
            raise _Rotten
        return self._found

    def _walk(self, file: File, run: Run, salt: int, bytes_max: int) -> None:
        for batch in batches_in(file, run.segment, salt, run.offset):
            self._take(batch, file, run, salt, bytes_max)
            if self._expected > run.last or self._size >= bytes_max:
                return

    def _take(self, batch: FoundBatch, file: File, run: Run, salt: int, bytes_max: int) -> None:
        wanted_shard, wanted_copy = self._key
        at = batch.offset + batch.header.header_bytes
        for kind, shard, copy, epoch, sn, size, checksum in batch.header.numbers():
            if (
                sn == self._expected
                and shard == wanted_shard
                and copy == wanted_copy
                and kind == Kind.SHARD_ENTRY
                and sn <= run.last
                and epoch == self._epoch_at(sn)
            ):
                payload = file.pread(size, at)
                if not is_intact(payload, size, checksum, salt):
                    if not self._found:
                        raise _Rotten
                    self._size = bytes_max
                    return
                self._found.append((epoch, sn, payload))
                self._expected += 1
                self._size += size
                if self._size >= bytes_max:
                    return
            at += size

    def _epoch_at(self, sn: int) -> int:
        index = bisect_right(self._starts, sn) - 1
        return self._epochs[index] if index >= 0 else -1
