"""Segments: the files of the log, their names, and reading batches out of one.

A file grows in steps of zeros written ahead of the batches, so that the sync of a batch need not write the file's
metadata as well; the sync that follows a step pays for it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from ringkeep_node.runtime.disk import Disk, File
from ringkeep_node.runtime.wal.format import BLOCK_BYTES, Header, decode_header, header_size

SUFFIX = ".log"
_HEADER_READ_BYTES = 4 * BLOCK_BYTES


class Place(NamedTuple):
    """Where a batch with an intact header stands, and its links in the chain of batches."""

    segment: int
    offset: int
    end: int
    number: int
    before: int
    checksum: int


class FoundBatch(NamedTuple):
    """An intact header and where it stands."""

    segment: int
    offset: int
    header: Header

    @property
    def place(self) -> Place:
        """The batch without what its header says about records."""
        header = self.header
        return Place(
            self.segment, self.offset, self.offset + header.total_bytes, header.number, header.before, header.checksum
        )


def segment_name(segment: int) -> str:
    """Return the file name of a segment."""
    return f"{segment:016x}{SUFFIX}"


def segment_numbers(disk: Disk) -> list[int]:
    """Return the numbers of the segment files that exist, ascending. Other files are none of ours."""
    stems = [name[: -len(SUFFIX)] for name in disk.names() if name.endswith(SUFFIX)]
    return sorted(int(stem, 16) for stem in stems if len(stem) == 16 and all(c in "0123456789abcdef" for c in stem))


def read_header(file: File, offset: int, salt: int) -> Header | None:
    """Return the intact header at ``offset``, or None."""
    data = file.pread(_HEADER_READ_BYTES, offset)
    size = header_size(data)
    if size is None or offset + size > file.size():
        return None
    if size > len(data):
        data = file.pread(size, offset)
    return decode_header(data, salt)


def batches_in(file: File, segment: int, salt: int, offset: int = 0) -> Iterator[FoundBatch]:
    """Yield every intact header of this segment from ``offset`` on.

    Where a header is damaged the search goes on block by block: later batches decide whether the damage is a torn tail.
    """
    size = file.size()
    while offset + BLOCK_BYTES <= size:
        header = read_header(file, offset, salt)
        if header is not None and header.segment == segment:
            yield FoundBatch(segment, offset, header)
            offset += header.total_bytes
        else:
            offset += BLOCK_BYTES


class SegmentFile:
    """The segment that is being written."""

    def __init__(self, disk: Disk, segment: int, ahead_bytes: int) -> None:
        self.segment = segment
        self.end = 0
        self._ahead_bytes = ahead_bytes
        self._zeroed = 0
        self._file = disk.create(segment_name(segment))
        # The name is synced before the first batch is: a batch in a file without a name is lost.
        disk.sync_names()

    def write(self, data: bytes) -> int:
        """Write a batch behind the last one and return its offset when it is on the medium."""
        offset = self.end
        end = offset + len(data)
        if end > self._zeroed:
            until = -(-end // self._ahead_bytes) * self._ahead_bytes
            self._file.pwrite_durably(data + bytes(until - end), offset)
            self._zeroed = until
        else:
            self._file.pwrite_durably(data, offset)
        self.end = end
        return offset

    def close(self) -> None:
        """Close the file."""
        self._file.close()
