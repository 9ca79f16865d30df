"""Changes of shards that nobody waits for: the leader's log takes them all in one turn, and not often.

    change --nothing has left lately--> leaves at once
    change --something has--> held --time is up, or an urgent change leaves--> leaves with all others

Each turn of the log that changes the map is a sync and a new map at every node, which requests meet. A copy that became
level, a learner that is to be added, a copy that is to be removed: all are as good a second later. What is held is
not in the log yet, so it is lost with its leader: whoever wants it asks again until the map shows it, and what was asked
for twice is held once. An urgent change goes before what is held: one that is to settle a proposal does settle it.

Source: replication.md, "Every change is a compare-and-set on the shard's revision", Handoff; counterexamples.md S3.
"""

from __future__ import annotations

import math
from typing import Final

from ringkeep_core.mapchanges import AddLearner, MapChange, RemoveCopy, ShardChange, ShardChanges
from ringkeep_core.shardmap import ShardMap

GATHER_S: Final = 1.0
"""Changes that may wait leave at most so often."""
ENTRY_CHANGES_MAX: Final = 2048
"""Changes in one entry: about 300 KB."""
HELD_MAX: Final = 8 * ENTRY_CHANGES_MAX


def may_wait(change: MapChange, shard_map: ShardMap) -> bool:
    """Return whether a change that the leader ordered is one that nobody waits for: copies that come and go.

    Who lacks the copies without which a shard takes no writes does wait, and so does a stream that has run dry: from a
    primary to a node that has nothing else on its way.
    """
    if not isinstance(change, ShardChanges):
        return False
    shards = shard_map.shards
    parts = [it for it in change.changes if isinstance(it, AddLearner | RemoveCopy)]
    # First what costs little: a failover of thousands of shards comes by here too.
    if len(parts) < len(change.changes) or any(len(shards[it.shard].in_sync) < shards[it.shard].need for it in parts):
        return False
    coming = {(shards[it.shard].primary.storage, it.storage) for it in parts if isinstance(it, AddLearner)}
    return coming <= {(shard.primary.storage, copy.storage) for shard in shards for copy in shard.learners}


class Gathering:
    """See the module."""

    __slots__ = ("_held", "_left_at")

    def __init__(self) -> None:
        self._held: dict[str, dict[ShardChange, None]] = {}
        self._left_at = -math.inf

    def add(self, changes: ShardChanges) -> None:
        """Hold changes until they are taken; ``due`` says when."""
        self._held.setdefault(changes.reason, {}).update(dict.fromkeys(changes.changes))

    @property
    def due(self) -> float:
        """When ``take`` should be called: infinity while nothing is held, the past if it is held for too much."""
        if not self._held:
            return math.inf
        is_full = sum(map(len, self._held.values())) >= HELD_MAX
        return -math.inf if is_full else self._left_at + GATHER_S

    def take(self, now: float) -> list[ShardChanges]:
        """Return what is held, as few entries, and hold nothing; the next turn is ``GATHER_S`` from now."""
        if self._held:
            self._left_at = now
        entries = []
        for reason, held in self._held.items():
            changes = tuple(held)
            entries += [
                ShardChanges(changes[first : first + ENTRY_CHANGES_MAX], reason)
                for first in range(0, len(changes), ENTRY_CHANGES_MAX)
            ]
        self._held = {}
        return entries
