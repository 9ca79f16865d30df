"""The numbers of the Raft group: times in seconds, bounds in bytes, messages and entries.

The defaults are those of replication.md ("Raft group"); the bounds keep one slow follower from holding memory.
"""

from __future__ import annotations

from msgspec import Struct


class RaftSettings(Struct, frozen=True):
    """How one Raft node behaves. All nodes of a group should use the same times."""

    heartbeat_s: float = 0.1
    """Silence after which a leader speaks. Far below ``election_s_min``."""
    election_s_min: float = 0.5
    """Shortest election time-out; also how long a follower that heard its leader refuses to vote for others."""
    election_s_max: float = 1.0
    """Longest election time-out; also how long a leader leads without hearing a quorum, and how long a read waits."""
    prevote: bool = True
    """Ask before raising the term (thesis 9.6). Off only in tests that need fewer states."""
    lag_ignored_s: float = 0.2
    """Own loop lag up to this is normal and changes nothing."""
    lag_s_max: float = 3.0
    """At most this much own lag is added to the own time-outs."""
    tail_entries: int = 1024
    """Entries kept before a snapshot, so that a slightly late follower needs no snapshot."""
    append_bytes_max: int = 1 << 20
    """Payload bytes in one ``AppendEntries``; a single larger entry travels alone."""
    inflight_messages_max: int = 64
    """Unanswered ``AppendEntries`` with entries per follower."""
    inflight_bytes_max: int = 4 << 20
    """Unanswered payload bytes per follower; one message may exceed it."""
    entry_bytes_max: int = 3 << 20
    """Largest payload that may be proposed."""
    uncommitted_bytes_max: int = 16 << 20
    """Payload bytes that may wait for commit; a further proposal is refused with ``overloaded``."""
    snapshot_chunk_bytes: int = 256 << 10
    """Bytes of a snapshot in one message."""
    snapshot_bytes_max: int = 256 << 20
    """Largest snapshot that is received."""
    reads_max: int = 10_000
    """Reads that wait for a confirmation; a further one fails at once."""
    caught_up_entries: int = 128
    """A learner at most this far behind the end of the log may become a voter."""

    def __post_init__(self) -> None:
        """Check the relations between the numbers; a violation is a configuration error (``ValueError``)."""
        if not 0 <= self.heartbeat_s <= self.election_s_min <= self.election_s_max:
            raise ValueError("heartbeat_s <= election_s_min <= election_s_max must hold")
        bounds = (
            self.append_bytes_max,
            self.inflight_messages_max,
            self.inflight_bytes_max,
            self.entry_bytes_max,
            self.uncommitted_bytes_max,
            self.snapshot_chunk_bytes,
            self.snapshot_bytes_max,
            self.reads_max,
        )
        if min(bounds) < 1 or self.tail_entries < 0:
            raise ValueError("every bound must be at least 1")
