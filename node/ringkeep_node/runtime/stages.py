"""Where the time of a commit goes: measured once a batch or step, never once a write.

    append --log wait--> batch begins --fsync--> durable here
    append --replicate-------------------------> durable on every awaited copy: handed to the store

The log tells the first two of each batch. For the third one change at a time is followed from the step that appends it to
the step that hands it to the store, which is the moment its last acknowledgement was counted. The clock is a fine one: the
event loop's may count whole milliseconds.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Final

from ringkeep_core.shardmap import ShardMap
from ringkeep_node.machines.records import Kind, Record
from ringkeep_node.machines.shard.effects import Handed
from ringkeep_node.metrics import CommitStages

FOLLOWED_S_MAX: Final = 10.0
"""A change that did not commit within this time is given up: its shard may be led by somebody else now."""


class CommitTimer:
    """Feeds the histograms of commit stages; ``me`` is this node's storage id."""

    def __init__(self, stages: CommitStages, me: str, clock: Callable[[], float] = time.perf_counter) -> None:
        self._stages = stages
        self._me = me
        self._clock = clock
        self._copy = (-1, -1)
        self._sn = 0
        self._since = 0.0

    def batch(self, wait_s: float, sync_s: float) -> None:
        """The log made a batch durable."""
        self._stages.log_wait.observe(max(0.0, wait_s))
        self._stages.fsync.observe(sync_s)

    def appended(self, records: Sequence[Record], shard_map: ShardMap | None) -> None:
        """A step's records go to the log now: follow the last, if it is a change of a shard led here."""
        now = self._clock()
        if self._sn and now < self._since + FOLLOWED_S_MAX:
            return
        last = records[-1]
        self._sn = 0
        if last.kind is not Kind.SHARD_ENTRY or shard_map is None:
            return
        if shard_map.shards[last.shard].primary.storage == self._me:
            self._copy, self._sn, self._since = (last.shard, last.copy), last.sn, now

    def committed(self, handed: Sequence[Handed]) -> None:
        """A step hands committed entries to the store."""
        if not self._sn:
            return
        for shard, copy, entries, _ in handed:
            if (shard, copy) == self._copy and entries[-1][1] >= self._sn:
                self._stages.replicate.observe(self._clock() - self._since)
                self._sn = 0
