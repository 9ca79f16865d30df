"""Put the chunks of a snapshot together on the receiving side.

One snapshot at a time, known by (index, term, size, digest): a second leader that has the same one resumes where the
first stopped. Source: Raft paper, section 7, figure 13.
"""

from __future__ import annotations

import xxhash

from ringkeep_node.machines.raft.messages import InstallSnapshot, Snapshot


class IncomingSnapshot:
    """The part of a snapshot that has arrived, in order and without holes."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._identity: tuple[int, int, int, int] | None = None
        self._data = bytearray()

    def take(self, chunk: InstallSnapshot) -> int | None:
        """Add a chunk and return the next byte wanted; None for a snapshot that is too large to be taken."""
        if chunk.total > self._bytes_max:
            return None
        identity = (chunk.index, chunk.snapshot_term, chunk.total, chunk.digest)
        if identity != self._identity:
            self._identity = identity
            self._data = bytearray()
        if chunk.offset == len(self._data) and len(self._data) + len(chunk.data) <= chunk.total:
            self._data += chunk.data
        return len(self._data)

    def take_complete(self, chunk: InstallSnapshot) -> Snapshot | None:
        """Return the snapshot that ``chunk`` completed, forgetting it here; None if it is damaged."""
        data = bytes(self._data)
        self._identity = None
        self._data = bytearray()
        if xxhash.xxh3_64_intdigest(data) != chunk.digest:
            return None
        return Snapshot(chunk.index, chunk.snapshot_term, chunk.configuration, data)
