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

from ringkeep_node.machines.records import Kind, Record
from ringkeep_node.machines.recovery import CopyKey, LogState
from ringkeep_node.runtime.disk import Disk, File
from ringkeep_node.runtime.wal.format import Header, is_intact
from ringkeep_node.runtime.wal.segments import Place, batches_in, read_header, segment_name, segment_numbers


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
        found = [batch.place for segment in segments for batch in batches_in(files[segment], segment, salt)]
        chain = chain_of(found, files, salt)
        state = LogState(applied)
        _fold(state, chain.batches, files, applied, salt)
    finally:
        for file in files.values():
            file.close()
    ends: dict[int, int] = {}
    for batch in chain.batches:
        if batch is not None:
            ends[batch.segment] = batch.end
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

    batches: list[Place | None]
    number: int
    checksum: int
    cut: bool


def chain_of(found: list[Place], files: Mapping[int, File], salt: int) -> Chain:
    """Return the batches that count, followed from the newest end: a number stands twice when a cut batch was replaced.

    A cut batch still proves that the one it names was durable, so the chain ends there even if that one is gone.
    """
    by_number: dict[int, list[Place]] = {}
    for place in found:
        by_number.setdefault(place.number, []).append(place)
    if not by_number:
        return Chain([], 0, 0, cut=False)
    highest = max(by_number)
    newest = by_number[highest][-1]
    cut = not is_whole(newest, files[newest.segment], salt)
    last, checksum = (highest - 1, newest.before) if cut else (highest, newest.checksum)
    expected: int | None = checksum
    batches: list[Place | None] = []
    for number in range(last, min(by_number) - 1, -1):
        fitting = [one for one in by_number.get(number, ()) if expected is None or one.checksum == expected]
        batches.append(fitting[-1] if fitting else None)
        expected = fitting[-1].before if fitting else None
    if (batches and batches[-1] is not None and batches[-1].offset > 0) or (cut and last and not batches):
        # A segment begins with a batch at 0 that repeats all state, and the oldest one's is missing.
        batches.append(None)
    batches.reverse()
    return Chain(batches, last, checksum, cut=cut)


def is_whole(place: Place, file: File, salt: int) -> bool:
    """Return whether every payload of a batch is intact."""
    header = read_header(file, place.offset, salt)
    if header is None:
        return False
    body = read_body(header, file, place.offset)
    at = 0
    for line in header.lines:
        if not is_intact(body[at : at + line.size], line.size, line.checksum, salt):
            return False
        at += line.size
    return True


def read_body(header: Header, file: File, offset: int) -> bytes:
    """Return the payloads of a batch one after the other, unchecked; shorter where the file ends."""
    return file.pread(header.total_bytes - header.header_bytes, offset + header.header_bytes)


def _fold(
    state: LogState,
    places: list[Place | None],
    files: Mapping[int, File],
    applied: Mapping[CopyKey, int],
    salt: int,
) -> None:
    for place in places:
        # Read a second time: keeping a million records' numbers from the first pass costs more than reading them again.
        header = None if place is None else read_header(files[place.segment], place.offset, salt)
        if place is None or header is None:
            state.gone()
        else:
            _fold_batch(state, header, place, files[place.segment], applied, salt)


def _fold_batch(
    state: LogState, header: Header, place: Place, file: File, applied: Mapping[CopyKey, int], salt: int
) -> None:
    segment, offset = place.segment, place.offset
    take_entry, applied_sn, entry_kind = state.take_entry, applied.get, int(Kind.SHARD_ENTRY)
    body: bytes | None = None
    at = 0
    for kind, shard, copy, epoch, sn, size, checksum in header.numbers():
        if kind == entry_kind and sn <= applied_sn((shard, copy), 0):
            take_entry(shard, copy, epoch, sn, segment, offset)
        else:
            if body is None:
                body = read_body(header, file, offset)
            payload = body[at : at + size]
            if is_intact(payload, size, checksum, salt):
                state.take(Record(kind, shard, copy, epoch, sn, payload), segment, offset)
            else:
                state.lost(kind, shard, copy, epoch, sn)
        at += size
