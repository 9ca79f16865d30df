"""What a leader knows about one follower, and when it may send it more.

    probe --an append is granted--> replicate --an append is refused or lost--> probe
    probe, replicate --what comes next is compacted--> snapshot --its end is granted--> replicate

Probe: one message at a time, to find where the logs agree. Replicate: a stream, bounded in messages and bytes.
Snapshot: one chunk at a time, resumed where the receiver says. A heartbeat answer frees a probe or a chunk that was
lost.
"""

from __future__ import annotations

from collections import deque
from enum import IntEnum

from ringkeep_node.machines.raft.messages import Snapshot
from ringkeep_node.machines.raft.settings import RaftSettings


class Mode(IntEnum):
    """How a follower is being served."""

    PROBE, REPLICATE, SNAPSHOT = range(3)


class Progress:
    """One follower as seen by one leadership. ``match`` is granted, ``next`` is what is sent next."""

    __slots__ = (
        "commit_told",
        "digest",
        "heard_at",
        "inflight",
        "inflight_bytes",
        "mark",
        "match",
        "mode",
        "next",
        "offset",
        "paused",
        "resent_to",
        "round",
        "silent",
        "snapshot",
    )

    def __init__(self, *, next_index: int, now: float) -> None:
        self.mode = Mode.PROBE
        self.match = 0
        self.next = next_index
        self.paused = False
        self.inflight: deque[tuple[int, int]] = deque()
        self.inflight_bytes = 0
        self.heard_at = now
        self.commit_told = 0
        self.resent_to = 0
        self.round = 0
        self.mark = (self.mode, 0, 0, 0)
        self.silent = False
        self.snapshot: Snapshot | None = None
        self.offset = self.digest = 0

    def can_send(self, settings: RaftSettings) -> bool:
        """Return whether another ``AppendEntries`` may leave now."""
        if self.mode is not Mode.REPLICATE:
            return self.mode is Mode.PROBE and not self.paused
        return len(self.inflight) < settings.inflight_messages_max and self.inflight_bytes < settings.inflight_bytes_max

    def sent(self, last: int, size: int) -> None:
        """Note that entries up to ``last``, of ``size`` payload bytes, are under way."""
        if self.mode is Mode.PROBE:
            self.paused = True
        elif last >= self.next:
            self.next = last + 1
            self.inflight.append((last, size))
            self.inflight_bytes += size

    def granted(self, index: int) -> bool:
        """Note that the follower's log agrees up to ``index``; return whether that is news."""
        while self.inflight and self.inflight[0][0] <= index:
            self.inflight_bytes -= self.inflight.popleft()[1]
        news = index > self.match
        self.match = max(self.match, index)
        if self.mode is Mode.PROBE and self.match < self.resent_to:
            self.paused &= not news
        elif self.mode is Mode.PROBE or (self.mode is Mode.SNAPSHOT and self._has_snapshot()):
            self._enter(Mode.REPLICATE)
        self.next = max(self.next, self.match + 1)
        return news

    def refused(self, previous_index: int, agree_at_most: int) -> bool:
        """Note that the follower does not have ``previous_index``; return False for a refusal of something older."""
        if self.mode is Mode.REPLICATE:
            if previous_index <= self.match:
                return False
            # The refused window is sent again message by message: in a network that reorders and repeats, each message
            # of a window can be refused, and a new window for each refusal would grow without end.
            self.resent_to = self.next - 1
            self._enter(Mode.PROBE)
            return True
        if self.mode is Mode.SNAPSHOT or previous_index != self.next - 1:
            return False
        self.next = max(min(previous_index, agree_at_most + 1), self.match + 1)
        self.paused = False
        return True

    def start_snapshot(self, snapshot: Snapshot, digest: int) -> None:
        """Serve a snapshot from its first byte on."""
        self._enter(Mode.SNAPSHOT)
        self.snapshot, self.digest, self.offset = snapshot, digest, 0

    def chunk_wanted(self, index: int, offset: int) -> bool:
        """Note which byte the follower wants next; return whether a chunk is due. A repeated answer asks nothing."""
        if self.mode is not Mode.SNAPSHOT or not self.snapshot or self.snapshot.index != index:
            return False
        if offset == self.offset or offset > len(self.snapshot.data):
            return False
        self.offset = offset
        return offset < len(self.snapshot.data)

    def _has_snapshot(self) -> bool:
        return self.snapshot is not None and self.match >= self.snapshot.index

    def _enter(self, mode: Mode) -> None:
        self.mode, self.paused, self.snapshot = mode, False, None
        self.inflight.clear()
        self.inflight_bytes = 0
        self.next = self.match + 1
