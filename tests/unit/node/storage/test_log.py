"""The log in its thread and without it: group commit, order, release, reading, failure."""

import errno
import os
import threading
from pathlib import Path
from random import Random

import pytest

from ringkeep_node.machines.records import NO_SHARD, Kind, Record
from ringkeep_node.runtime.disk import WRITE_THROUGH, RealDisk, RealFile, WriteThrough
from ringkeep_node.runtime.wal import Log, LogGone, LogSettings
from ringkeep_node.runtime.wal.format import BLOCK_BYTES, MAGIC, decode_header, encode, is_intact
from ringkeep_node.runtime.wal.queue import Queue, Waiting
from ringkeep_testing.sim_disk import SimDisk

SMALL = LogSettings(segment_bytes=32 * 1024, log_bytes_max=64 * 1024, ahead_bytes=16 * 1024, keep_s=1e9, salt=5)


def entry(shard: int, sn: int, payload: bytes = b"x" * 1000) -> Record:
    return Record(Kind.SHARD_ENTRY, shard, 1, 1, sn, payload)


def waiting(ticket: int, *, urgent: bool = False, shard: int = 1, size: int = 10) -> Waiting:
    return Waiting(ticket, urgent, size, [entry(shard, ticket)])


def test_a_batch_is_whole_blocks_and_reads_back_as_it_was_written() -> None:
    records = [entry(1, 1), Record(Kind.RAFT_STATE, NO_SHARD, 0, 4, 0, b"vote"), Record(Kind.SHARD_CUT, 2, 9, 3, 7)]

    data, checksum = encode(3, 8, 77, records, 5)
    header = decode_header(data, 5)

    assert header is not None
    assert len(data) % BLOCK_BYTES == 0
    assert (header.segment, header.number, header.before, header.checksum) == (3, 8, 77, checksum)
    assert header.total_bytes == len(data)
    at = header.header_bytes
    for line, record in zip(header.lines, records, strict=True):
        payload = data[at : at + line.size]
        assert is_intact(payload, line.size, line.checksum, 5)
        assert Record(line.kind, line.shard, line.copy, line.epoch, line.sn, payload) == record
        at += line.size


def test_a_header_with_any_flipped_byte_is_no_header() -> None:
    data, _checksum = encode(3, 8, 77, [entry(1, 1)], 5)
    header = decode_header(data, 5)
    assert header is not None
    for at in range(header.header_bytes):
        damaged = bytearray(data)
        damaged[at] ^= 0x10

        assert decode_header(bytes(damaged), 5) is None


def test_a_document_that_looks_like_a_batch_is_none_without_the_salt() -> None:
    forged, _checksum = encode(1, 99, 0, [entry(1, 1)], 0)

    assert decode_header(forged, 5) is None


def test_a_batch_is_everything_that_arrived_in_the_order_of_arrival() -> None:
    queue = Queue(100)
    for ticket in (1, 2, 3):
        queue.add(waiting(ticket, urgent=ticket == 3))

    assert [append.ticket for append in queue.next_batch()] == [1, 2, 3]
    assert queue.durable_through() == 3


def test_when_more_waits_than_a_batch_holds_urgent_appends_go_first() -> None:
    queue = Queue(100)
    for ticket in (1, 2, 3):
        queue.add(waiting(ticket, size=60))
    queue.add(waiting(4, urgent=True, shard=NO_SHARD))

    first = [append.ticket for append in queue.next_batch()]
    reported = (queue.durable_through(), queue.urgent_durable_through())
    rest = [[append.ticket for append in queue.next_batch()] for _ in range(2)]

    assert first == [4, 1]
    assert reported == (1, 4)
    assert rest == [[2], [3]]
    assert queue.durable_through() == 4


def test_an_urgent_append_never_overtakes_one_of_the_same_copy() -> None:
    queue = Queue(100)
    queue.add(waiting(1, shard=1, size=60))
    queue.add(waiting(2, shard=2, size=60))
    queue.add(waiting(3, shard=1, size=60))
    queue.add(waiting(4, shard=2, urgent=True))

    order = [append.ticket for _ in range(3) for append in queue.next_batch()]

    assert order == [1, 2, 3, 4]


def test_the_thread_reports_what_is_durable_in_the_owners_thread(tmp_path: Path) -> None:
    log, _found = Log.open(RealDisk(tmp_path / "log"), LogSettings(salt=1), {})
    posted: list[int] = []
    done = threading.Event()

    def synced(through: int) -> None:
        posted.append(through)
        if through == 100:
            done.set()

    log.on_synced = synced
    log.start(lambda function, *arguments: function(*arguments), lambda error: pytest.fail(repr(error)))
    for sn in range(1, 101):
        log.append([entry(1, sn)])
    assert done.wait(10)
    log.close()
    again, found = Log.open(RealDisk(tmp_path / "log"), LogSettings(salt=1), {(1, 1): 90})
    again.close()

    assert posted == sorted(posted)
    assert log.batches < 100
    assert log.queued_bytes == 0
    assert [sn for _epoch, sn, _payload in found.copies[(1, 1)].entries] == list(range(91, 101))


def test_a_sync_error_is_final_and_nothing_is_acknowledged() -> None:
    disk = SimDisk()
    log, _found = Log.open(disk, SMALL, {})
    disk.sync_error = OSError(errno.EIO, "rotten")
    fatal: list[BaseException] = []
    synced: list[int] = []
    failed = threading.Event()

    def on_fatal(error: BaseException) -> None:
        fatal.append(error)
        failed.set()

    log.on_synced = synced.append
    log.start(lambda function, *arguments: function(*arguments), on_fatal)
    log.append([entry(1, 1)])
    assert failed.wait(10)
    log.append([entry(1, 2)])
    log.close()

    assert [type(error) for error in fatal] == [OSError]
    assert synced == []


def test_the_age_of_a_hanging_sync_is_told_while_it_hangs() -> None:
    now = [10.0]
    ages: list[float] = []
    disk = SimDisk()
    log, _found = Log.open(disk, SMALL, {}, clock=lambda: now[0])
    step = disk.step

    def slow_step() -> None:
        now[0] += 1.5
        ages.append(log.sync_age_s(now[0]))
        step()

    disk.step = slow_step  # type: ignore[method-assign]
    log.append([entry(1, 1)])
    log.pump()

    assert ages == [1.5, 3.0]
    assert log.sync_age_s(now[0]) == 0.0


def fill(log: Log, sns: range, shard: int = 1) -> None:
    for sn in sns:
        log.append([entry(shard, sn)])
        log.pump()


def test_covered_segments_go_when_the_log_is_over_its_limit() -> None:
    disk = SimDisk()
    log, _found = Log.open(disk, SMALL, {})
    fill(log, range(1, 61))
    before = log.first_sn(1, 1)
    log.release({(1, 1): 60})
    log.pump()

    assert before == 1
    assert log.first_sn(1, 1) > 20
    assert log.log_bytes <= SMALL.log_bytes_max
    with pytest.raises(LogGone):
        log.read(1, 1, 0, 1000)
    assert log.read(1, 1, 58, 10_000) == [(1, 59, b"x" * 1000), (1, 60, b"x" * 1000)]


def test_the_live_tail_of_a_slow_shard_is_carried_forward_and_pins_nothing() -> None:
    disk = SimDisk()
    log, _found = Log.open(disk, SMALL, {})
    slow = [b"slow %d" % sn for sn in range(1, 4)]
    log.append([entry(9, sn, slow[sn - 1]) for sn in range(1, 4)])
    for sn in range(1, 121):
        fill(log, range(sn, sn + 1))
        log.release({(1, 1): sn})
        log.pump()
    assert log.log_bytes <= SMALL.log_bytes_max + SMALL.segment_bytes
    assert log.read(9, 1, 0, 10_000) == [(1, sn, slow[sn - 1]) for sn in range(1, 4)]
    _log, found = Log.open(disk, SMALL, {(1, 1): 120})

    assert found.copies[(9, 1)].entries == [(1, sn, slow[sn - 1]) for sn in range(1, 4)]
    assert not found.copies[(9, 1)].harmed


def test_raft_entries_above_the_snapshot_are_carried_forward() -> None:
    disk = SimDisk()
    log, _found = Log.open(disk, SMALL, {})
    entries = [Record(Kind.RAFT_ENTRY, NO_SHARD, 0, 1, index, b"%d" % index) for index in range(1, 6)]
    log.append([Record(Kind.RAFT_STATE, NO_SHARD, 0, 1, 0, b"me"), *entries], urgent=True)
    log.append([Record(Kind.RAFT_SNAPSHOT, NO_SHARD, 0, 1, 3, b"snapshot")])
    fill(log, range(1, 121))
    log.release({(1, 1): 120}, raft_index=3)
    log.pump()
    _log, found = Log.open(disk, SMALL, {(1, 1): 120})

    assert found.raft_entries == entries[3:]
    assert (found.term, found.vote, found.raft_snapshot) == (1, "me", b"snapshot")
    assert not found.raft_harmed


def test_the_log_takes_at_most_a_quarter_of_the_volume() -> None:
    log, _found = Log.open(SimDisk(volume_bytes=160 * 1024), SMALL._replace(log_bytes_max=1 << 30), {})
    fill(log, range(1, 61))
    log.release({(1, 1): 60})
    log.pump()

    assert log.log_bytes <= 40 * 1024


def test_reading_gives_at_least_one_entry_and_stops_at_the_bytes() -> None:
    log, _found = Log.open(SimDisk(), SMALL, {})
    fill(log, range(1, 11))

    assert [sn for _epoch, sn, _payload in log.read(1, 1, 3, 1)] == [4]
    assert [sn for _epoch, sn, _payload in log.read(1, 1, 3, 2500)] == [4, 5, 6]
    assert log.read(1, 1, 10, 1000) == []
    assert log.read(4, 1, 0, 1000) == []


def test_files_that_are_no_segments_are_left_alone() -> None:
    disk = SimDisk()
    disk.create("lost+found")
    disk.create("notes.log")
    log, found = Log.open(disk, SMALL, {})
    fill(log, range(1, 3))

    assert found.empty
    assert {"lost+found", "notes.log"} <= set(disk.names())


def test_a_durable_write_ends_what_one_call_wrote_in_part_or_could_not_do(tmp_path: Path) -> None:
    def in_part(descriptor: int, data: bytes, offset: int) -> int:
        return os.pwrite(descriptor, data[:2], offset)

    def unknown_here(_descriptor: int, _data: bytes, _offset: int) -> int:
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    def broken(_descriptor: int, _data: bytes, _offset: int) -> int:
        raise OSError(errno.EIO, "Input/output error")

    def written(how: WriteThrough | None) -> bytes:
        file = RealFile(os.open(tmp_path / "a", os.O_RDWR | os.O_CREAT | os.O_TRUNC), how)
        file.pwrite_durably(b"hello", 1)
        file.pwrite_durably(b"world", 6)
        found = file.pread(20, 0)
        file.close()
        return found

    ways = [written(how) for how in (WRITE_THROUGH, in_part, unknown_here, None)]
    with pytest.raises(OSError, match="Input/output error"):
        written(broken)

    assert ways == [b"\0helloworld"] * 4


def test_a_real_disk_names_its_files_and_refuses_to_make_one_twice(tmp_path: Path) -> None:
    disk = RealDisk(tmp_path / "folder")
    file = disk.create("a")
    file.pwrite(b"hello", 3)
    file.sync()
    disk.sync_names()

    assert (file.size(), file.pread(10, 2), disk.names()) == (8, b"\0hello", ["a"])
    assert 0 < disk.free_bytes() <= disk.volume_bytes()
    with pytest.raises(FileExistsError):
        disk.create("a")
    with pytest.raises(FileNotFoundError):
        disk.open("b")
    file.close()
    disk.remove("a")
    assert disk.names() == []


def test_garbage_in_place_of_segments_is_an_empty_log_and_no_error() -> None:
    random = Random(7)
    for _ in range(100):
        disk = SimDisk()
        file = disk.create(f"{random.randint(1, 5):016x}.log")
        garbage = bytearray(random.randbytes(random.choice((0, 10, 4096, 20_000))))
        for at in range(0, len(garbage), 4096):
            garbage[at : at + 8] = MAGIC[: len(garbage) - at]
        file.pwrite(bytes(garbage), 0)
        log, found = Log.open(disk, SMALL, {})
        fill(log, range(1, 3))

        assert found.empty
        assert len(log.read(1, 1, 0, 10_000)) == 2


def test_readers_see_whole_entries_in_order_while_the_log_grows_and_lets_go(tmp_path: Path) -> None:
    log, _found = Log.open(RealDisk(tmp_path / "log"), SMALL, {})
    log.start(lambda function, *arguments: function(*arguments), lambda error: pytest.fail(repr(error)))
    wrong: list[object] = []
    seen = [0]
    stop = threading.Event()

    def read() -> None:
        after = 0
        while not stop.is_set():
            try:
                found = log.read(1, 1, after, 5000)
            except LogGone:
                after = log.first_sn(1, 1) - 1
                continue
            expected = [(1, after + 1 + n, b"%d" % (after + 1 + n) * 100) for n in range(len(found))]
            if found != expected:
                wrong.append((after, found))
            after += len(found)
            seen[0] += len(found)

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    for sn in range(1, 1501):
        log.append([entry(1, sn, b"%d" % sn * 100)])
        if sn % 20 == 0:
            log.release({(1, 1): sn - 10})
        if sn % 100 == 0:
            while log.queued_bytes:
                stop.wait(0.001)
    stop.set()
    for reader in readers:
        reader.join()
    log.close()

    assert wrong == []
    assert seen[0] > 0
