"""Which copies start next: snapshots side by side, within the limits, the most endangered shards first.

A stream is a (primary, learner's node) pair with up to 64 shards or 64 MiB on their way. A node sends and receives a
limited number of streams, the cluster carries a limited number, and all of them a limited number of bytes. A shard that
lacks copies and finds its stream's place taken keeps it from being filled up by less urgent ones.

Source: placement.md step 8; counterexamples.md L10.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from ringkeep_core.placement import PlacementSettings
from ringkeep_node.machines.shard_work import Work

Pair = tuple[str, str]


class Streams:
    """What is on its way, and what may be added to it."""

    def __init__(self, works: Iterable[Work], sizes: Mapping[int, int], limits: PlacementSettings) -> None:
        self._sizes, self._limits = sizes, limits
        self.shards: dict[Pair, int] = defaultdict(int)
        self._bytes: dict[Pair, int] = defaultdict(int)
        self._outgoing: dict[str, int] = defaultdict(int)
        self._incoming: dict[str, int] = defaultdict(int)
        self._total = 0
        self._taken: dict[str, int] = {}
        self._closed: set[Pair] = set()
        for work in works:
            for node in work.streams:
                self._load((work.primary, node), sizes.get(work.shard, 0))
        # A stream is filled up again when half of it has arrived: one entry for many shards, not one for each.
        self._full = {pair for pair, count in self.shards.items() if 2 * count > limits.stream_shards_max}

    def choose(self, waiting: Sequence[Work], *, shards_max: int) -> list[tuple[Work, str]]:
        """Return (shard, learner's node) for each copy to start now; ``waiting`` in the order of urgency."""
        chosen: list[tuple[Work, str]] = []
        for work in waiting:
            if len(chosen) >= shards_max:
                break
            for node in work.lacks:
                if self._take(work, node):
                    chosen.append((work, node))
                    # One change of a shard at a time: the next would be refused for its revision.
                    break
        return chosen

    def _take(self, work: Work, node: str) -> bool:
        pair, size, level = (work.primary, node), self._sizes.get(work.shard, 0), work.urgency[0]
        if pair in self._closed:
            return False
        ends = (f"out {work.primary}", f"in {node}", "all")
        if any(self._taken.get(end, level) < level for end in ends):
            return False
        if self._fits(pair, size):
            self._load(pair, size)
            return True
        for end in self._short_ends(pair, size):
            self._taken[end] = min(level, self._taken.get(end, level))
        if not size:
            # Neither a smaller nor a later shard will fit: the waiting come in the order of urgency.
            self._closed.add(pair)
        return False

    def _fits(self, pair: Pair, size: int) -> bool:
        limits = self._limits
        if self._total and self._total + size > limits.step_bytes_max:
            return False
        if pair in self.shards:
            has_room = self.shards[pair] < limits.stream_shards_max and pair not in self._full
            return has_room and (not self._bytes[pair] or self._bytes[pair] + size <= limits.stream_bytes_max)
        return (
            len(self.shards) < limits.streams_max
            and self._outgoing[pair[0]] < limits.streams_out_per_node
            and self._incoming[pair[1]] < limits.streams_in_per_node
        )

    def _short_ends(self, pair: Pair, size: int) -> list[str]:
        """Return what less urgent shards must leave alone, so that this one gets its turn."""
        limits, (source, node) = self._limits, pair
        if self._total and self._total + size > limits.step_bytes_max:
            return ["all"]
        if pair in self.shards:
            return [f"out {source}", f"in {node}"]
        ends = ["all"] if len(self.shards) >= limits.streams_max else []
        ends += [f"out {source}"] if self._outgoing[source] >= limits.streams_out_per_node else []
        return ends + ([f"in {node}"] if self._incoming[node] >= limits.streams_in_per_node else [])

    def _load(self, pair: Pair, size: int) -> None:
        if pair not in self.shards:
            self._outgoing[pair[0]] += 1
            self._incoming[pair[1]] += 1
        self.shards[pair] += 1
        self._bytes[pair] += size
        self._total += size
