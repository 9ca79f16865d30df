"""Swap a heavy shard for a light one between a hot node and a cool one, so that every count stays as it is.

The planner counts shards as if all were equally heavy. Where they are not, a swap evens the load out without touching
quotas, spread or the planner's target for anybody else: afterwards the map is as balanced as before and stays put.

    heat of a node = load of what it leads and holds / weight, in parts of the mean
    primaries   heavy led by hot, light led by cool, each in sync on the other: the two leaders change places, no bytes
    copies      heavy only on hot, light only on cool: the two copies change places, and the leaders if they lead them

A swap is made only if the hotter of the two nodes cools down by more than the swap is charged for. That also ends it:
the heats, hottest first, fall in lexicographic order with every swap. Nothing is swapped while a plan has work to do.

Pure and bounded: a few hot nodes, a few cool ones, a few light shards near the ideal difference for each heavy one.
Source: placement.md, "Load-aware swaps".
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from ringkeep_core.placement.model import Assignment, Candidate, ShardCopies, Target
from ringkeep_core.placement.planner import digest_of

GIB = 1 << 30
HOT_NODES = 3
COOL_NODES = 8
LIGHT_SHARDS = 12


@dataclass(frozen=True, slots=True)
class ShardLoad:
    """What a shard costs, in any one unit: ``primary`` the node that leads it, ``copy`` each node that holds it."""

    primary: float
    copy: float = 0.0


@dataclass(frozen=True, slots=True)
class SwapSettings:
    """How many swaps at once, and what each is charged, in parts of the mean heat of a node.

    Raises:
        ValueError: a number is negative.
    """

    swaps_max: int = 4
    primary_charge: float = 0.05
    copy_charge: float = 0.1
    charge_per_gib: float = 0.1

    def __post_init__(self) -> None:
        if min(self.swaps_max, self.primary_charge, self.copy_charge, self.charge_per_gib) < 0:
            raise ValueError(f"swap settings out of range: {self}")


@dataclass(frozen=True, slots=True)
class Swap:
    """``hot`` gives ``heavy`` to ``cool`` and gets ``light`` for it.

    ``copies`` False: only the two primaries change places. ``leaders``: the primaries change places (too). ``gain`` is by
    how much the hotter of the two cools down, in parts of the mean, charge not yet taken off; ``bytes`` what is sent.
    """

    heavy: int
    light: int
    hot: str
    cool: str
    copies: bool
    leaders: bool
    gain: float
    bytes: int = 0


def load_swaps(
    shards: Sequence[ShardCopies],
    target: Target,
    candidates: Iterable[Candidate],
    loads: Sequence[ShardLoad],
    settings: SwapSettings,
    bytes_of: Sequence[int] | None = None,
) -> tuple[Swap, ...]:
    """Return the swaps worth making now, the best first found for the hottest node first; none while a plan runs.

    Args:
        shards: what each shard has now.
        target: the planner's target for them; where it is not reached yet nothing is swapped.
        candidates: the members, in any order.
        loads: what each shard costs.
        settings: bound and charges.
        bytes_of: size of each shard, for the charge of copies; 0 where not known.
    """
    nodes = sorted((node for node in candidates if node.wanted), key=lambda node: node.node)
    if not all(map(_is_settled, shards, target.shards)) or not all(node.live and node.may_lead for node in nodes):
        return ()
    heat = _Heat(target.shards, nodes, loads)
    if not 0 < heat.mean < math.inf:
        return ()
    search = _Search(heat, settings, bytes_of or [0] * len(shards))
    found: list[Swap] = []
    while len(found) < settings.swaps_max and (swap := search.best()) is not None:
        heat.make(swap)
        found.append(swap)
    return tuple(found)


def swapped(target: Target, made: Sequence[Swap]) -> Target:
    """Return the target with ``made`` carried out in it: the planner's steps then lead there like anywhere else."""
    shards = list(target.shards)
    for swap in made:
        shards[swap.heavy] = _exchanged(shards[swap.heavy], swap.hot, swap.cool, swap)
        shards[swap.light] = _exchanged(shards[swap.light], swap.cool, swap.hot, swap)
    moves = target.moves + sum(2 for swap in made if swap.copies)
    return replace(target, shards=tuple(shards), moves=moves, digest=digest_of(shards))


def _exchanged(shard: Assignment, source: str, node: str, swap: Swap) -> Assignment:
    copies = shard.copies
    if swap.copies:
        copies = tuple(sorted(node if name == source else name for name in copies))
    return replace(shard, copies=copies, primary=node if swap.leaders else shard.primary)


def _is_settled(shard: ShardCopies, goal: Assignment) -> bool:
    return (
        not shard.learners
        and not shard.eligible
        and shard.primary == goal.primary
        and sorted(shard.in_sync) == list(goal.copies)
        and goal.degraded is None
    )


class _Heat:
    """Who holds and leads what, and how hot that makes each node; changed by each swap."""

    def __init__(self, goals: Sequence[Assignment], nodes: Sequence[Candidate], loads: Sequence[ShardLoad]) -> None:
        self.loads, self.nodes = loads, {node.node: node for node in nodes}
        self.zones = len({node.zone for node in nodes})
        self.copies = [goal.copies for goal in goals]
        self.leader = [goal.primary for goal in goals]
        self.held: dict[str, list[int]] = {name: [] for name in self.nodes}
        self.load = dict.fromkeys(self.nodes, 0.0)
        for shard, goal in enumerate(goals):
            for name in goal.copies:
                self.held[name].append(shard)
                self.load[name] += self.cost(shard, name)
        weight = sum(node.weight for node in nodes)
        self.mean = sum(self.load.values()) / weight if weight else 0.0
        self.swapped: dict[int, None] = {}

    def cost(self, shard: int, name: str) -> float:
        """Return what a shard costs a node that holds it."""
        load = self.loads[shard]
        return load.copy + (load.primary if self.leader[shard] == name else 0.0)

    def of(self, name: str, more: float = 0.0) -> float:
        """Return the heat of a node, in parts of the mean, if its load were so much more."""
        return (self.load[name] + more) / self.nodes[name].weight / self.mean

    def by_heat(self) -> list[str]:
        """Return the nodes, the hottest first."""
        return sorted(self.load, key=lambda name: (-self.of(name), name))

    def has_room(self, shard: int, source: str, node: str) -> bool:
        """Return whether the zone rule lets the copy on ``source`` move to ``node``."""
        zone, copies = self.nodes[node].zone, self.copies[shard]
        if zone == self.nodes[source].zone:
            return True
        inside = Counter(self.nodes[name].zone for name in copies)[zone]
        return inside + 1 <= -(-len(copies) // self.zones)

    def make(self, swap: Swap) -> None:
        """Make a swap; its shards are in no other."""
        moved = _moved(self, swap.heavy, swap.light, swap.hot, swap.cool, copies=swap.copies)
        self.load[swap.hot] -= moved
        self.load[swap.cool] += moved
        self.swapped[swap.heavy] = self.swapped[swap.light] = None


def _moved(heat: _Heat, heavy: int, light: int, hot: str, cool: str, *, copies: bool) -> float:
    """Return the load that goes from ``hot`` to ``cool``."""
    if copies:
        return heat.cost(heavy, hot) - heat.cost(light, cool)
    return heat.loads[heavy].primary - heat.loads[light].primary


class _Search:
    """Looks for the swap that helps a hot node most beyond what it is charged."""

    def __init__(self, heat: _Heat, settings: SwapSettings, sizes: Sequence[int]) -> None:
        self.heat, self.settings, self.sizes = heat, settings, sizes

    def best(self) -> Swap | None:
        """Return the best swap of the hottest node that has one, or None."""
        order = self.heat.by_heat()
        cools = order[::-1][:COOL_NODES]
        for hot in order[:HOT_NODES]:
            offers = [
                offer for cool in cools if self.heat.of(cool) < self.heat.of(hot) for offer in self._of(hot, cool)
            ]
            if offers:
                return max(offers, key=self._rank)[1]
        return None

    def _rank(self, offer: tuple[float, Swap]) -> tuple[float, float, int, int]:
        """What is left of the gain; where the hot node stays the hotter one all are equal, and the coolest takes most."""
        left, swap = offer
        return left, -self.heat.of(swap.cool), -swap.heavy, -swap.light

    def _of(self, hot: str, cool: str) -> Iterator[tuple[float, Swap]]:
        """Yield the swaps between two nodes that are worth it, each with what is left of its gain after the charge."""
        yield from self._between(hot, cool, copies=False)
        yield from self._between(hot, cool, copies=True)

    def _between(self, hot: str, cool: str, *, copies: bool) -> Iterator[tuple[float, Swap]]:
        heat = self.heat
        cost = self._costs(cool, copies=copies)
        lights = sorted((shard for shard in heat.held[cool] if shard in cost), key=lambda shard: (cost[shard], shard))
        loads = [cost[shard] for shard in lights]
        ideal = self._ideal(hot, cool)
        given = self._costs(hot, copies=copies)
        for heavy in given:
            place = bisect_left(loads, given[heavy] - ideal)
            near = lights[max(0, place - LIGHT_SHARDS // 2) : place + LIGHT_SHARDS // 2]
            for light in near:
                if given[heavy] > cost[light] and self._may_swap(heavy, light, hot, cool, copies=copies):
                    offer = self._judged(heavy, light, hot, cool, copies=copies)
                    if offer is not None:
                        yield offer

    def _costs(self, name: str, *, copies: bool) -> Mapping[int, float]:
        """Return what the node would give away with each of its shards: all it costs there, or the lead alone."""
        heat = self.heat
        free = [shard for shard in heat.held[name] if shard not in heat.swapped]
        if copies:
            return {shard: heat.cost(shard, name) for shard in free}
        return {shard: heat.loads[shard].primary for shard in free if heat.leader[shard] == name}

    def _ideal(self, hot: str, cool: str) -> float:
        """Return the load whose move makes the two equally hot."""
        first, second = self.heat.nodes[hot].weight, self.heat.nodes[cool].weight
        return (self.heat.of(hot) - self.heat.of(cool)) * self.heat.mean * first * second / (first + second)

    def _may_swap(self, heavy: int, light: int, hot: str, cool: str, *, copies: bool) -> bool:
        heat = self.heat
        if not copies:
            return cool in heat.copies[heavy] and hot in heat.copies[light]
        if cool in heat.copies[heavy] or hot in heat.copies[light]:
            return False
        # Leading one of the two only would change how many shards each of the nodes leads.
        if (heat.leader[heavy] == hot) != (heat.leader[light] == cool):
            return False
        return heat.has_room(heavy, hot, cool) and heat.has_room(light, cool, hot)

    def _judged(self, heavy: int, light: int, hot: str, cool: str, *, copies: bool) -> tuple[float, Swap] | None:
        heat, settings = self.heat, self.settings
        moved = _moved(heat, heavy, light, hot, cool, copies=copies)
        gain = heat.of(hot) - max(heat.of(hot, -moved), heat.of(cool, moved))
        size = self.sizes[heavy] + self.sizes[light] if copies else 0
        charge = settings.copy_charge + settings.charge_per_gib * size / GIB if copies else settings.primary_charge
        if not gain > charge:
            return None
        leaders = not copies or heat.leader[heavy] == hot
        return gain - charge, Swap(heavy, light, hot, cool, copies, leaders, gain, size)
