"""Search the residual graph of a draft for the cheapest chain from shards that lack a copy to nodes under quota.

A chain gives a waiting shard to a node, which passes another of its shards on, and so on. Its cost is the number of
copies it adds: taking a copy that was there before costs 0, a new one 1; passing on a copy that was new gains 1 back.
The search labels nodes with the cheapest cost to reach them (a double-ended queue: what costs nothing goes first;
labels may be corrected because of the gains; there is no cycle of negative cost to get lost in).

Two things make it fast. It stops at the first chain as cheap as any can be (the cost of the chain before: costs never
fall from one chain to the next). And once all nodes are labelled cheaply only copies that were released can improve a
label, so shards without one are passed over.

Source: placement.md step 5.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

UNREACHED = 1 << 30


class Residual(Protocol):
    """What the search needs of a draft."""

    names: Sequence[bytes]
    quota: Sequence[int]
    count: list[int]
    pinned: Sequence[bool]
    held: Sequence[Sequence[int]]
    members: list[list[int]]
    kept: list[dict[int, None]]
    fresh: list[dict[int, None]]
    gone: dict[int, list[int]]

    def may_take(self, shard: int, node: int, leaving: int = -1) -> bool: ...

    def may_move(self, moves: Sequence[tuple[int, int, int]]) -> bool: ...


@dataclass(frozen=True, slots=True)
class Chain:
    """``shard`` goes to node ``first``; ``swaps`` (shard, from, to) make room, the last one first."""

    shard: int
    first: int
    swaps: tuple[tuple[int, int, int], ...]
    cost: int


class _Search:
    def __init__(self, draft: Residual, floor: int) -> None:
        self.draft, self.floor = draft, floor
        count = len(draft.names)
        self.label = [UNREACHED] * count
        self.shard_into = [-1] * count
        self.node_before = [-1] * count
        self.queue: deque[int] = deque()
        self.queued = [False] * count
        self.found = -1

    def costlier(self, cost: int) -> list[int]:
        """Return the nodes that a label of ``cost`` would improve."""
        pinned = self.draft.pinned
        return [node for node, label in enumerate(self.label) if label > cost and not pinned[node]]

    def reach(self, shard: int, before: int, node: int, cost: int, urgent: bool) -> None:
        """Label ``node``: ``shard`` comes to it from ``before`` (-1: it waits for a copy)."""
        self.label[node] = cost
        self.shard_into[node] = shard
        self.node_before[node] = before
        if cost <= self.floor and self.draft.count[node] < self.draft.quota[node]:
            self.found = node
        if not self.queued[node]:
            self.queued[node] = True
            if urgent:
                self.queue.appendleft(node)
            else:
                self.queue.append(node)

    def offer(self, shards: Iterable[int], before: int, cost: int, urgent: bool) -> None:
        """Let each of ``shards`` leave ``before`` at ``cost`` and go wherever that is an improvement."""
        draft = self.draft
        targets = self.costlier(cost + 1)
        if not targets:
            shards = [shard for shard in shards if shard in draft.gone]
        for shard in shards:
            for node in draft.gone.get(shard, ()):
                if self.label[node] > cost and draft.may_take(shard, node, before):
                    self.reach(shard, before, node, cost, urgent=True)
            if self.found >= 0:
                return
            missed = []
            for node in targets:
                if self.label[node] <= cost + 1:
                    continue
                if draft.may_take(shard, node, before):
                    self.reach(shard, before, node, cost + 1, urgent)
                    if self.found >= 0:
                        return
                else:
                    missed.append(node)
            targets = missed

    def run(self, waiting: Sequence[int]) -> int:
        """Label nodes until a chain of the floor's cost is found, or everything is labelled; return the sink or -1."""
        draft = self.draft
        self.offer(waiting, -1, 0, urgent=False)
        while self.queue and self.found < 0:
            node = self.queue.popleft()
            self.queued[node] = False
            cost = self.label[node]
            self.offer(list(draft.fresh[node]), node, cost - 1, urgent=True)
            if self.found < 0:
                self.offer(self._kept_of_interest(node, cost), node, cost, urgent=False)
        if self.found >= 0:
            return self.found
        sinks = [node for node in self.costlier(-UNREACHED) if draft.count[node] < draft.quota[node]]
        best = min(sinks, key=lambda node: self.label[node], default=-1)
        return best if best >= 0 and self.label[best] < UNREACHED else -1

    def _kept_of_interest(self, node: int, cost: int) -> list[int]:
        kept, gone = self.draft.kept[node], self.draft.gone
        if not self.costlier(cost + 1) and len(gone) < len(kept):
            return [shard for shard in gone if shard in kept]
        return list(kept)


def cheapest_chain(draft: Residual, waiting: Sequence[int], floor: int) -> Chain | None:
    """Return a cheapest chain that serves one of ``waiting``, or None if no node under quota can be reached.

    ``floor`` is a cost that no chain can be below: the search stops at the first chain that has it.
    """
    search = _Search(draft, floor)
    sink = search.run(waiting)
    if sink < 0:
        return None
    hops: list[tuple[int, int, int]] = []
    node = sink
    while node >= 0:
        hops.append((search.shard_into[node], search.node_before[node], node))
        node = search.node_before[node]
        assert len(hops) <= len(draft.names), "labels of a chain run in a circle"
    hops.reverse()
    hops = _without_conflicts(draft, hops)
    (shard, _, first), *swaps = hops
    return Chain(shard, first, tuple(reversed(swaps)), search.label[sink])


def _without_conflicts(draft: Residual, hops: list[tuple[int, int, int]]) -> list[tuple[int, int, int]]:
    """Cut out the loop where one shard's two moves of a chain would use the same free place of a zone.

    Labels belong to nodes, so a chain may move a shard twice. Where both moves together break the zone rule, the first
    may go straight to the place of the second. What lies between is a cycle, which never has a gain to lose.
    """
    moves: dict[int, list[int]] = {}
    for place, (shard, _, _) in enumerate(hops):
        moves.setdefault(shard, []).append(place)
    for shard, places in moves.items():
        if len(places) > 1 and not draft.may_move([hops[place] for place in places]):
            start, end = places[0], places[-1]
            return _without_conflicts(draft, [*hops[:start], (shard, hops[start][1], hops[end][2]), *hops[end + 1 :]])
    return hops
