"""Opening a log: find the batches, decide what is a torn tail and what is lost, fold the rest.

A batch is written only after the sync of the one before returned. So among the intact headers the highest number is the
only batch that may be incomplete: damage in it is a torn tail and it is cut as a whole. Every earlier number was durable,
so one that is missing, does not fit the chain, or has a damaged payload is a lost durable record.

Nothing is repaired in place. The writer continues in a new segment with the number after the last batch that counts; the
chain of checksums tells a cut batch from the one that took its number.

Source: replication.md, Storage; counterexamples.md S8.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from ringkeep_node.machines.records import Record
from ringkeep_node.machines.recovery import CopyKey, LogState
from ringkeep_node.runtime.disk import Disk, File
from ringkeep_node.runtime.wal.format import Header, is_intact
from ringkeep_node.runtime.wal.segments import FoundBatch, batches_in, segment_name, segment_numbers


class Opened(NamedTuple):
    """What was found. ``number`` and ``checksum`` are of the last batch that counts, ``ends`` the bytes used a segment.

    ``empty_segments`` hold no batch that counts; ``cut`` tells that a torn tail was cut.
    """

    state: LogState
    number: int
    checksum: int
    next_segment: int
    ends: dict[int, int]
    empty_segments: list[int]
    cut: bool


def open_log(disk: Disk, applied: Mapping[CopyKey, int], salt: int) -> Opened:
    """Read the whole log and return its state. Raises ``OSError`` when the disk cannot be read."""
    segments = segment_numbers(disk)
    files = {segment: disk.open(segment_name(segment)) for segment in segments}
    try:
        # What a killed process left may be in the page cache only: nothing may be built on it before it is durable.
        for file in files.values():
            file.sync()
        disk.sync_names()
        found = [batch for segment in segments for batch in batches_in(files[segment], segment, salt)]
        chain = chain_of(found, files, salt)
        state = LogState(applied)
        _fold(state, chain.batches, files, salt)
    finally:
        for file in files.values():
            file.close()
    ends: dict[int, int] = {}
    for batch in chain.batches:
        if batch is not None:
            ends[batch.segment] = batch.offset + batch.header.total_bytes
    return Opened(
        state=state,
        number=chain.number,
        checksum=chain.checksum,
        next_segment=segments[-1] + 1 if segments else 1,
        ends=ends,
        empty_segments=[segment for segment in segments if segment not in ends],
        cut=chain.cut,
    )


class Chain(NamedTuple):
    """The batches that count, ascending, None where a durable one is gone; number and checksum of the last one."""

    batches: list[FoundBatch | None]
    number: int
    checksum: int
    cut: bool


def chain_of(found: list[FoundBatch], files: Mapping[int, File], salt: int) -> Chain:
    """Return the batches that count, followed from the newest end: a number stands twice when a cut batch was replaced.

    A cut batch still proves that the one it names was durable, so the chain ends there even if that one is gone.
    """
    by_number: dict[int, list[FoundBatch]] = {}
    for batch in found:
        by_number.setdefault(batch.header.number, []).append(batch)
    if not by_number:
        return Chain([], 0, 0, cut=False)
    highest = max(by_number)
    newest = by_number[highest][-1]
    cut = not is_whole(newest, files[newest.segment], salt)
    last, checksum = (highest - 1, newest.header.before) if cut else (highest, newest.header.checksum)
    expected: int | None = checksum
    batches: list[FoundBatch | None] = []
    for number in range(last, min(by_number) - 1, -1):
        fitting = [one for one in by_number.get(number, ()) if expected is None or one.header.checksum == expected]
        batches.append(fitting[-1] if fitting else None)
        expected = fitting[-1].header.before if fitting else None
    if (batches and batches[-1] is not None and batches[-1].offset > 0) or (cut and last and not batches):
        # A segment begins with a batch at 0 that repeats all state, and the oldest one's is missing.
        batches.append(None)
    batches.reverse()
    return Chain(batches, last, checksum, cut=cut)


def is_whole(batch: FoundBatch, file: File, salt: int) -> bool:
    """Return whether every payload of a batch is intact."""
    payloads = read_payloads(batch.header, file, batch.offset)
    return all(is_intact(line, data, salt) for line, data in zip(batch.header.lines, payloads, strict=True))


def read_payloads(header: Header, file: File, offset: int) -> list[bytes]:
    """Return the payloads of a batch, unchecked; short ones where the file ends."""
    body = file.pread(header.total_bytes - header.header_bytes, offset + header.header_bytes)
    payloads = []
    at = 0
    for line in header.lines:
        payloads.append(body[at : at + line.size])
        at += line.size
    return payloads


def _fold(state: LogState, chain: list[FoundBatch | None], files: Mapping[int, File], salt: int) -> None:
    for batch in chain:
        if batch is None:
            state.gone()
        else:
            _fold_batch(state, batch, files[batch.segment], salt)


def _fold_batch(state: LogState, batch: FoundBatch, file: File, salt: int) -> None:
    header, segment, offset = batch.header, batch.segment, batch.offset
    wanted = [state.wants(line.kind, line.shard, line.copy, line.sn) for line in header.lines]
    if not any(wanted):
        for _kind, shard, copy, epoch, sn, _size, _checksum in header.lines:
            state.take_entry(shard, copy, epoch, sn, segment, offset)
        return
    payloads = read_payloads(header, file, offset)
    for line, payload, is_wanted in zip(header.lines, payloads, wanted, strict=True):
        kind, shard, copy, epoch, sn, _size, _checksum = line
        if not is_wanted:
            state.take_entry(shard, copy, epoch, sn, segment, offset)
        elif is_intact(line, payload, salt):
            state.take(Record(kind, shard, copy, epoch, sn, payload), segment, offset)
        else:
            state.lost(kind, shard, copy, epoch, sn)
