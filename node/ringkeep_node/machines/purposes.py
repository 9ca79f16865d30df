"""Entries that were proposed and have not shown in the map: one of each purpose is under way at a time.

    propose --the map shows it--> settled
            --time is up-------> proposed again, with back-off (the entry may have been lost with a leader)

A shard is settled when its revision moved, whoever moved it: the proposal was a compare-and-set on the former one.
Source: replication.md, "Every change is a compare-and-set on the shard's revision".
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from ringkeep_core.mapchanges import Move, ShardChange, ShardChanges
from ringkeep_core.shardmap import ShardMap

TRIES_MAX = 16


class Purpose:
    """One kind of entry, at most one under way; proposed again with back-off until the map shows it."""

    def __init__(self, name: str, *, retry_s: float, retry_max_s: float) -> None:
        self.name = name
        self._retry_s, self._retry_max_s = retry_s, retry_max_s
        self._tries = 0
        self.revisions: dict[int, int] = {}
        self.due = 0.0

    def forget(self) -> None:
        """Let nothing be under way."""
        self.revisions = {}
        self._tries = 0

    def is_under_way(self, shard_map: ShardMap, now: float) -> bool:
        """Return whether to wait for the map to show the last entry. One that is given up still counts for the back-off."""
        if not self.revisions:
            return False
        if all(shard_map.shards[number].revision > revision for number, revision in self.revisions.items()):
            self.forget()
        elif now >= self.due:
            self.revisions = {}
        return bool(self.revisions)

    def unsettled(self, shard_map: ShardMap, now: float) -> Iterator[int]:
        """Yield the shards whose change may still be on its way."""
        if now < self.due:
            for number, revision in self.revisions.items():
                if shard_map.shards[number].revision <= revision:
                    yield number

    def start(self, changes: Sequence[ShardChange], now: float) -> None:
        """Note what was asked for just now."""
        self.revisions = {change.shard: change.revision for change in changes}
        self.due = now + min(self._retry_max_s, self._retry_s * 2**self._tries)
        self._tries = min(self._tries + 1, TRIES_MAX)

    def propose(self, changes: Sequence[ShardChange], reason: str, now: float) -> ShardChanges:
        """Return the entry, and wait for it from now on."""
        self.start(changes, now)
        return ShardChanges(tuple(changes), reason)


class PairPurpose(Purpose):
    """The hand-over of shards from one primary to another: one order under way for each pair of members."""

    def __init__(self, source: str, to: str, *, retry_s: float, retry_max_s: float) -> None:
        super().__init__(f"hand-over {source} to {to}", retry_s=retry_s, retry_max_s=retry_max_s)
        self.source, self.to = source, to
        self.rests_until = 0.0
        self.ordered_at = -math.inf

    @property
    def is_failing(self) -> bool:
        """Return whether the last order brought nothing: who does not obey must not keep others waiting."""
        return self._tries > 1

    def order(self, moves: Sequence[Move], now: float, rest_s: float) -> None:
        """Note an order that was given just now; the next one for this pair leaves after ``rest_s`` at the earliest."""
        self.start(moves, now)
        self.rests_until, self.ordered_at = now + rest_s, now

    def is_under_way(self, shard_map: ShardMap, now: float) -> bool:
        """Return whether to wait. All that drained leave in one entry, so the first that moved ends the order.

        The shards that had not drained in time may be asked again at once.
        """
        if any(shard_map.shards[number].primary.storage == self.to for number in self.revisions):
            self.forget()
            return False
        return super().is_under_way(shard_map, now)
