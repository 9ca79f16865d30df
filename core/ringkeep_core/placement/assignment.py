"""Move as few copies as possible so that every node holds its quota.

A draft starts from the copies there are, releases what is too much, and fills what is missing:

    released: beyond the zone rule -> beyond the wanted number of copies -> beyond a node's quota
    filled:   a node under quota that may take the shard (nearly always)
              -> else a chain "shard goes to a full node, which passes another shard on, ... to a node under quota"
              -> else one beyond the quota, then beyond the zone rule, and the shard is marked degraded

This is a minimum-cost flow from shards to nodes in which a copy that is there already costs 0 and a new one 1. Released
copies leave a flow of cost 0, which is optimal for its size; every chain is a cheapest one of the whole residual graph
(``residual``), so the result is optimal for the quotas: successive shortest paths. Chains are searched in order of
their cost, and the direct placements are exactly the cost-1 paths of length one, so the fast way is also the best one.

Source: placement.md steps 4 to 6; Ahuja, Magnanti, Orlin, "Network Flows", 9.7 (successive shortest paths).
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterable, Sequence

from ringkeep_core.placement.hashes import pair_hash, shard_hash
from ringkeep_core.placement.model import QUOTA, TOO_FEW_NODES, ZONE_RULE
from ringkeep_core.placement.residual import Chain, cheapest_chain

HASH_SPAN = float(1 << 64)


class Draft:
    """A map in the making. Nodes are indexes into a list sorted by name; ``quota`` has their copies.

    Args:
        held: per shard the nodes that hold it now (wanted nodes only), most complete copies first.
        pinned: nodes that keep what they hold and get nothing (dead within the grace).
        zone_of: the zone number of each node.
        zone_limit: most copies of one shard in a zone.
        wanted: copies per shard.
        primary: the node that leads the shard now, -1 for none; its copy is given up last.
    """

    def __init__(
        self,
        *,
        names: Sequence[bytes],
        quota: Sequence[int],
        zone_of: Sequence[int],
        pinned: Sequence[bool],
        zone_limit: int,
        held: Sequence[Sequence[int]],
        wanted: Sequence[int],
        primary: Sequence[int],
    ) -> None:
        self.names, self.quota, self.zone_of, self.pinned = names, quota, zone_of, pinned
        self.zone_limit, self.held, self.wanted, self.primary = zone_limit, held, wanted, primary
        self.zoned = len(set(zone_of)) > 1 and zone_limit < max(wanted, default=0)
        self.members: list[list[int]] = [list(nodes) for nodes in held]
        self.kept: list[dict[int, None]] = [{} for _ in names]
        self.fresh: list[dict[int, None]] = [{} for _ in names]
        self.gone: dict[int, list[int]] = {}
        self.degraded: dict[int, str] = {}
        for shard, nodes in enumerate(held):
            for node in nodes:
                self.kept[node][shard] = None
        self.count = [len(shards) for shards in self.kept]

    def solve(self) -> None:
        """Release and fill until every shard has its wanted copies, or cannot have them."""
        self._release_beyond_zone_rule()
        self._release_beyond_wanted()
        self._release_beyond_quota()
        self._fill()

    def may_take(self, shard: int, node: int, leaving: int = -1) -> bool:
        """Return whether ``shard`` may get a copy on ``node`` once its copy on ``leaving`` is gone."""
        members = self.members[shard]
        if node in members or self.pinned[node]:
            return False
        if not self.zoned:
            return True
        zone = self.zone_of[node]
        inside = sum(1 for member in members if self.zone_of[member] == zone and member != leaving)
        return inside < self.zone_limit

    def may_move(self, moves: Sequence[tuple[int, int, int]]) -> bool:
        """Return whether all ``moves`` (shard, from, to) of one shard together keep the rules."""
        shard = moves[0][0]
        leaving = {source for _, source, _ in moves}
        after = [node for node in self.members[shard] if node not in leaving] + [node for _, _, node in moves]
        zones = [self.zone_of[node] for node in after]
        crowded = self.zoned and any(zones.count(self.zone_of[node]) > self.zone_limit for _, _, node in moves)
        return len(set(after)) == len(after) and not crowded

    # Release -----------------------------------------------------------------------------------------------------

    def _release(self, shard: int, node: int) -> None:
        self.members[shard].remove(node)
        del self.kept[node][shard]
        self.gone.setdefault(shard, []).append(node)
        self.count[node] -= 1

    def _release_beyond_zone_rule(self) -> None:
        if not self.zoned:
            return
        for shard in range(len(self.held)):
            crowd = self._crowded(shard)
            while crowd:
                self._release(shard, min(crowd, key=lambda node: self._release_key(shard, node)))
                crowd = self._crowded(shard)

    def _crowded(self, shard: int) -> list[int]:
        """Return the copies of ``shard`` that could go from a zone with too many of them."""
        zones = [self.zone_of[node] for node in self.members[shard]]
        return [
            node
            for node, zone in zip(self.members[shard], zones, strict=True)
            if zones.count(zone) > self.zone_limit and not self.pinned[node]
        ]

    def _release_beyond_wanted(self) -> None:
        """Drop surplus copies, which a plan in flight leaves while old and new copies both exist."""
        for shard, nodes in enumerate(self.held):
            if len(nodes) <= self.wanted[shard]:
                continue
            while len(self.members[shard]) > self.wanted[shard]:
                loose = [node for node in self.members[shard] if not self.pinned[node]]
                if not loose:
                    break
                self._release(shard, min(loose, key=lambda node: self._release_key(shard, node)))

    def _release_key(self, shard: int, node: int) -> tuple[bool, bool, int, int, int]:
        """Order the copies of one shard: from nodes above quota first, no primary, the least complete, the fullest."""
        excess = self.count[node] - self.quota[node]
        completeness = self.held[shard].index(node)
        return (
            excess <= 0,
            node == self.primary[shard],
            -max(excess, 0),
            -completeness,
            pair_hash(self.names[node], shard),
        )

    def _release_beyond_quota(self) -> None:
        """Let full nodes give up their excess: no primaries, no shard that is short already, then in hash order.

        Two nodes that gave up the same shard would leave it two copies short for one new node.
        """
        for node, name in enumerate(self.names):
            excess = self.count[node] - self.quota[node]
            if excess <= 0 or self.pinned[node]:
                continue
            order = sorted(
                (
                    self.primary[shard] == node,
                    len(self.members[shard]) < self.wanted[shard],
                    pair_hash(name, shard),
                    shard,
                )
                for shard in self.kept[node]
            )
            for *_, shard in order[:excess]:
                self._release(shard, node)

    # Fill --------------------------------------------------------------------------------------------------------

    def _fill(self) -> None:
        short = self._short()
        if any(self.count[node] < self.quota[node] for nodes in self.gone.values() for node in nodes):
            short = self._fill_by_chains(short, cost=0, cost_max=0)
        short = self._fill_directly(short)
        for shard in self._fill_by_chains(short, cost=1, cost_max=None):
            self._fill_beyond_rules(shard)

    def _short(self) -> list[int]:
        """Return the shards that lack copies, in hash order, each as often as it lacks one."""
        lacking = [shard for shard, members in enumerate(self.members) if len(members) < self.wanted[shard]]
        lacking.sort(key=shard_hash)
        return [shard for shard in lacking for _ in range(self.wanted[shard] - len(self.members[shard]))]

    def _fill_directly(self, short: Iterable[int]) -> list[int]:
        """Give short shards to nodes under quota and return those that nobody under quota may take.

        Each node has as many turns as it lacks copies, spread evenly over the whole filling with a hashed jitter, and
        the shard takes the earliest turn it may. Nodes thereby fill up together, whatever their weights, and share
        shards with many others instead of with a fixed few.
        """
        line: list[tuple[float, int, int, int]] = []
        for node, quota in enumerate(self.quota):
            lack = quota - self.count[node]
            if lack > 0 and not self.pinned[node]:
                line.append(self._turn(node, 0, lack))
        line.sort()
        left = []
        for shard in short:
            for place, (_, node, turn, lack) in enumerate(line):
                if self.may_take(shard, node):
                    del line[place]
                    if turn + 1 < lack:
                        insort(line, self._turn(node, turn + 1, lack))
                    self.place(shard, node)
                    break
            else:
                left.append(shard)
        return left

    def _turn(self, node: int, turn: int, lack: int) -> tuple[float, int, int, int]:
        return ((turn + pair_hash(self.names[node], turn) / HASH_SPAN) / lack, node, turn, lack)

    def _fill_by_chains(self, short: Sequence[int], *, cost: int, cost_max: int | None) -> list[int]:
        """Fill by cheapest chains of ``cost`` to ``cost_max`` and return the shards that no chain serves."""
        waiting = list(short)
        while waiting:
            chain = cheapest_chain(self, waiting, cost)
            if chain is None or (cost_max is not None and chain.cost > cost_max):
                break
            cost = chain.cost
            self._apply(chain)
            waiting.remove(chain.shard)
        return waiting

    def _apply(self, chain: Chain) -> None:
        for shard, source, node in chain.swaps:
            self.move(shard, source, node)
        self.place(chain.shard, chain.first)

    def place(self, shard: int, node: int) -> None:
        """Put a copy of ``shard`` on ``node``."""
        self.members[shard].append(node)
        if node in self.held[shard]:
            self.kept[node][shard] = None
            self.gone[shard].remove(node)
            if not self.gone[shard]:
                del self.gone[shard]
        else:
            self.fresh[node][shard] = None
        self.count[node] += 1

    def move(self, shard: int, source: int, node: int) -> None:
        """Move the copy of ``shard`` from ``source`` to ``node``."""
        if shard in self.kept[source]:
            self._release(shard, source)
        else:
            self.members[shard].remove(source)
            del self.fresh[source][shard]
            self.count[source] -= 1
        self.place(shard, node)

    def _fill_beyond_rules(self, shard: int) -> None:
        """Relax the quota by one, then the zone rule; mark the shard with what was relaxed."""
        loose = [node for node in range(len(self.names)) if not self.pinned[node] and node not in self.members[shard]]
        allowed = [node for node in loose if self.may_take(shard, node)]
        nodes = allowed or loose
        if not nodes:
            self.degraded[shard] = TOO_FEW_NODES
            return
        self.degraded[shard] = QUOTA if allowed else ZONE_RULE
        self.place(
            shard,
            min(nodes, key=lambda node: (self.count[node] - self.quota[node], pair_hash(self.names[node], shard))),
        )
