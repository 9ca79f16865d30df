"""Choose each shard's primary among its copies so that every node leads its share, with as little change as possible.

The same minimum-cost flow as for copies, on a smaller graph: a shard offers itself only to its few copies, at cost 0
for the node that leads it now, 1 for another in-sync copy, 2 for a new copy. Every shard first takes its cheapest
offer. Nodes that lead too many then pass shards on along cheapest chains to nodes that lead too few; all chains of one
cost are taken from one labelling of the nodes (primal-dual), which keeps the number of labellings small.

Source: placement.md step 7; Ahuja, Magnanti, Orlin, "Network Flows", 9.8 (primal-dual algorithm).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence

UNREACHED = 1 << 30

Offers = Sequence[Sequence[tuple[int, int]]]


class _Leaders:
    """Who leads which shard, and the labelling of nodes that the next chains follow."""

    def __init__(self, offers: Offers, order: Sequence[int], quota: Sequence[int]) -> None:
        self.offers, self.quota = offers, quota
        self.leader = [-1] * len(offers)
        self.price = [0] * len(offers)
        self.led: list[dict[int, None]] = [{} for _ in quota]
        for shard in order:
            self._take_cheapest(shard)

    def _take_cheapest(self, shard: int) -> None:
        """Take the cheapest offer; of equal ones the node that lacks the larger part of its quota."""
        offers = self.offers[shard]
        if not offers:
            return
        node, price = offers[0]
        if len(offers) > 1 and offers[1][1] == price:
            node, price = min(offers, key=lambda offer: (offer[1], self._filled(offer[0]), offer[0]))
        self._lead(shard, node, price)

    def _filled(self, node: int) -> float:
        return (len(self.led[node]) + 0.5) / self.quota[node] if self.quota[node] else UNREACHED

    def _lead(self, shard: int, node: int, price: int) -> None:
        self.leader[shard], self.price[shard] = node, price
        self.led[node][shard] = None

    def balance(self, slack: int) -> bool:
        """Move shards until no node leads more than its quota + ``slack``; return False where that cannot be done."""
        while True:
            self.sources = [node for node, led in enumerate(self.led) if len(led) > self.quota[node] + slack]
            if not self.sources:
                return True
            self._label(slack)
            if self.nearest >= UNREACHED:
                return False
            self.visited = [False] * len(self.quota)
            for node in self.sources:
                while len(self.led[node]) > self.quota[node] + slack and self._pass_on(node, slack):
                    pass

    def _label(self, slack: int) -> None:
        """Label every node with the cheapest cost of bringing it one shard more from a node with too many."""
        label = [UNREACHED] * len(self.quota)
        for node in self.sources:
            label[node] = 0
        queue = deque(self.sources)
        queued = [node in set(self.sources) for node in range(len(self.quota))]
        while queue:
            node = queue.popleft()
            queued[node] = False
            for shard in self.led[node]:
                base = label[node] - self.price[shard]
                for other, price in self.offers[shard]:
                    if base + price < label[other] and other != node:
                        label[other] = base + price
                        if not queued[other]:
                            queued[other] = True
                            queue.append(other)
        self.label = label
        lacking = [label[node] for node in range(len(label)) if len(self.led[node]) < self.quota[node] + slack]
        self.nearest = min(lacking, default=UNREACHED)

    def _pass_on(self, start: int, slack: int) -> bool:
        """Pass a shard on along a cheapest chain from ``start``: depth first, no node that failed is tried again."""
        path: list[tuple[int, int, int, int]] = []
        stack = [(start, self._hops(start))]
        self.visited[start] = True
        while stack:
            node, hops = stack[-1]
            hop = next(hops, None)
            if hop is None:
                stack.pop()
                if path:
                    path.pop()
                continue
            shard, other, price = hop
            path.append((shard, node, other, price))
            if self.label[other] == self.nearest and len(self.led[other]) < self.quota[other] + slack:
                for moved, source, target, cost in path:
                    del self.led[source][moved]
                    self._lead(moved, target, cost)
                for _, source, _, _ in path:
                    self.visited[source] = False
                return True
            self.visited[other] = True
            stack.append((other, self._hops(other)))
        return False

    def _hops(self, node: int) -> Iterator[tuple[int, int, int]]:
        """Yield (shard, other, price) for each way from ``node`` that is on a cheapest chain and not tried yet."""
        for shard in list(self.led[node]):
            base = self.label[node] - self.price[shard]
            for other, price in self.offers[shard]:
                if other != node and not self.visited[other] and base + price == self.label[other]:
                    yield shard, other, price


def choose_primaries(offers: Offers, order: Sequence[int], quota: Sequence[int]) -> list[int]:
    """Return the leading node of each shard, -1 where nobody offers.

    Args:
        offers: per shard (node, cost), cheapest first.
        order: the order in which shards choose (by hash, so that no node gets a run of neighbours).
        quota: shards that each node should lead. Where the copies make that impossible it is exceeded by as little as
            possible.
    """
    leaders = _Leaders(offers, order, quota)
    slack = 0
    while not leaders.balance(slack):
        slack += 1
    return leaders.leader
