"""How a batch of records looks on disk. Pure: bytes in, bytes out.

A segment is a file of batches, each starting on a 4 KiB boundary:

    prelude   magic, checksum, segment, batch number, checksum of the batch before, record count, body length
    records'  one fixed line each: kind, shard, copy, epoch, sn, payload length, payload checksum
    numbers
    body      the payloads, one after the other; zeros up to the next boundary

The header's checksum covers prelude and lines, so through the payload checksums in them it covers the whole batch: the
next batch names it, and that chain tells an overwritten batch from its replacement. Checksums are XXH3-64 seeded with a
random number of the data directory, so that a document can never pass for a batch header.

Source: replication.md, Storage; counterexamples.md S8.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from struct import Struct as Packing
from typing import NamedTuple

import xxhash

from ringkeep_node.machines.records import Record

BLOCK_BYTES = 4096
MAGIC = b"RKLOG\x00\x00\x01"
HEADER_BYTES_MAX = 64 * 1024 * 1024

_PRELUDE = Packing("<8sQQQQIIQ")
_CHECKED_FROM = 16
_LINE = Packing("<BiQQQIQ")
PRELUDE_BYTES = _PRELUDE.size
LINE_BYTES = _LINE.size
_ZEROS = bytes(BLOCK_BYTES)


class Line(NamedTuple):
    """What a header says about one record."""

    kind: int
    shard: int
    copy: int
    epoch: int
    sn: int
    size: int
    checksum: int


class Header(NamedTuple):
    """An intact batch header. ``header_bytes`` is where the body begins, ``total_bytes`` is padded to blocks.

    ``packed_lines`` are unpacked when they are needed: a log has millions of them.
    """

    segment: int
    number: int
    before: int
    checksum: int
    packed_lines: bytes
    header_bytes: int
    total_bytes: int

    @property
    def lines(self) -> list[Line]:
        """What the header says about each record."""
        return [Line._make(fields) for fields in _LINE.iter_unpack(self.packed_lines)]

    def numbers(self) -> Iterator[tuple[int, int, int, int, int, int, int]]:
        """Yield the fields of each line without making a Line."""
        return _LINE.iter_unpack(self.packed_lines)


def padded(size: int) -> int:
    """Return the size rounded up to whole blocks."""
    return -(-size // BLOCK_BYTES) * BLOCK_BYTES


def encode(segment: int, number: int, before: int, records: Sequence[Record], salt: int) -> tuple[bytes, int]:
    """Return the batch's bytes and its checksum, which the next batch has to name."""
    line = _LINE.pack
    checksum_of = xxhash.xxh3_64_intdigest
    payloads = [record.payload for record in records]
    lines = b"".join(
        [
            line(r.kind, r.shard, r.copy, r.epoch, r.sn, len(payload), checksum_of(payload, salt))
            for r, payload in zip(records, payloads, strict=True)
        ]
    )
    body_bytes = sum(map(len, payloads))
    prelude = _PRELUDE.pack(MAGIC, 0, segment, number, before, len(payloads), body_bytes, 0)
    checksum = checksum_of(prelude[_CHECKED_FROM:] + lines, salt)
    prelude = _PRELUDE.pack(MAGIC, checksum, segment, number, before, len(payloads), body_bytes, 0)
    used = len(prelude) + len(lines) + body_bytes
    return b"".join([prelude, lines, *payloads, _ZEROS[: padded(used) - used]]), checksum


def header_size(block: bytes) -> int | None:
    """Return how long the header that begins with this block claims to be, or None when it is no header at all."""
    if len(block) < PRELUDE_BYTES or block[:8] != MAGIC:
        return None
    count = int.from_bytes(block[40:44], "little")
    size = PRELUDE_BYTES + count * LINE_BYTES
    return size if size <= HEADER_BYTES_MAX else None


def decode_header(data: bytes, salt: int) -> Header | None:
    """Return the header at the start of ``data``, or None when it is damaged or ``data`` is shorter than it."""
    size = header_size(data)
    if size is None or len(data) < size:
        return None
    _magic, checksum, segment, number, before, _count, body_bytes, _ = _PRELUDE.unpack_from(data)
    if xxhash.xxh3_64_intdigest(data[_CHECKED_FROM:size], salt) != checksum:
        return None
    return Header(segment, number, before, checksum, data[PRELUDE_BYTES:size], size, padded(size + body_bytes))


def is_intact(payload: bytes, size: int, checksum: int, salt: int) -> bool:
    """Return whether a payload is the one that was written."""
    return len(payload) == size and xxhash.xxh3_64_intdigest(payload, salt) == checksum
