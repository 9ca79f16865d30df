"""Load-aware swaps cool hot nodes down, leave every count as it is, and end."""

from __future__ import annotations

import math
import random
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import pytest

from ringkeep_core.placement import (
    AddLearner,
    Candidate,
    MovePrimary,
    NodeState,
    PlacementSettings,
    ShardCopies,
    ShardLoad,
    Step,
    Swap,
    SwapSettings,
    Target,
    initial,
    load_swaps,
    steps,
    swapped,
    target,
)
from ringkeep_testing.placement_checks import adopted, arrival_violations, replay, spread_violations

SETTINGS = PlacementSettings()
CHARGES = SwapSettings()


class Cluster:
    """A cluster in which everything is where it should be, and some shards are heavier than others."""

    def __init__(self, seed: int, *, nodes: int = 8, zones: int = 1, shards: int = 128, weighted: bool = False) -> None:
        self.draw = random.Random(seed)
        self.members = [
            Candidate(
                f"n{number}",
                f"z{number % zones}" if zones > 1 else "",
                self.draw.choice((1.0, 2.0)) if weighted else 1.0,
            )
            for number in range(nodes)
        ]
        self.shards: Sequence[ShardCopies] = adopted(initial(shards, self.members, SETTINGS), self.members, need=2)
        heavy = [self.draw.paretovariate(1.2) for _ in range(shards)]
        self.loads = [ShardLoad(load, load * self.draw.random() * 0.3) for load in heavy]

    def target(self) -> Target:
        return target(self.shards, self.members, SETTINGS)

    def swaps(self, settings: SwapSettings = CHARGES) -> tuple[Swap, ...]:
        return load_swaps(self.shards, self.target(), self.members, self.loads, settings)

    def carry_out(self, made: Sequence[Swap]) -> list[str]:
        """Carry swaps out by the planner's own steps; return what was wrong on the way."""
        goal = swapped(self.target(), made)
        plan = steps(self.shards, goal, self.members, SETTINGS)
        done = replay(self.shards, goal, plan, self.members, SETTINGS)
        self.shards = done.shards()
        return [*done.wrong, *arrival_violations(done, goal, self.members)]

    def heats(self) -> list[float]:
        """Return load / weight of each node, the hottest first, summed up from the shards."""
        load: defaultdict[str, float] = defaultdict(float)
        for shard, cost in zip(self.shards, self.loads, strict=True):
            for name in shard.in_sync:
                load[name] += cost.copy
            load[shard.primary or ""] += cost.primary
        return sorted((load[node.node] / node.weight for node in self.members), reverse=True)

    def counts(self) -> tuple[Counter[str], Counter[str | None]]:
        held = Counter(name for shard in self.shards for name in shard.in_sync)
        return held, Counter(shard.primary for shard in self.shards)


@pytest.mark.parametrize("weighted", [False, True], ids=["equal", "weighted"])
@pytest.mark.parametrize("zones", [1, 3])
@pytest.mark.parametrize("seed", range(4))
def test_swaps_keep_every_count_cool_the_hottest_down_and_come_to_an_end(seed: int, zones: int, weighted: bool) -> None:
    cluster = Cluster(seed, nodes=9, zones=zones, weighted=weighted)
    counts, heats, wrong = cluster.counts(), [cluster.heats()], []

    for _ in range(60):
        made = cluster.swaps()
        wrong += cluster.carry_out(made)
        wrong += spread_violations(cluster.target(), cluster.members, 3)
        heats.append(cluster.heats())
        if not made:
            break

    assert wrong == []
    assert made == ()
    assert cluster.counts() == counts
    assert cluster.target().moves == 0
    assert all(later < earlier for earlier, later in pairwise(heats[:-1]))
    assert heats[-1] == heats[-2]


def test_a_hot_spot_of_many_warm_shards_is_evened_out() -> None:
    cluster = Cluster(1, nodes=6)
    cluster.loads = [ShardLoad(5.0 if shard.primary == "n1" else 1.0) for shard in cluster.shards]
    first = cluster.heats()

    while made := cluster.swaps():
        cluster.carry_out(made)
    last = cluster.heats()
    mean = sum(last) / len(last)

    assert first[0] / mean > 2.5
    assert last[0] / mean < 1.15


@pytest.mark.parametrize("seed", range(4))
def test_each_swap_gains_more_than_its_charge(seed: int) -> None:
    made = Cluster(seed).swaps()

    assert made
    assert len(made) <= CHARGES.swaps_max
    assert len({shard for swap in made for shard in (swap.heavy, swap.light)}) == 2 * len(made)
    assert all(swap.gain > (CHARGES.copy_charge if swap.copies else CHARGES.primary_charge) for swap in made)


@pytest.mark.parametrize("seed", range(4))
def test_the_order_of_the_members_does_not_matter(seed: int) -> None:
    cluster = Cluster(seed, nodes=9, zones=3)
    made = cluster.swaps()
    cluster.members.reverse()
    reversed_too = cluster.swaps()
    cluster.draw.shuffle(cluster.members)

    assert made == reversed_too == cluster.swaps()


def test_a_swap_of_primaries_sends_nothing_and_one_of_copies_sends_both() -> None:
    cluster = Cluster(2)
    primaries = load_swaps(
        cluster.shards, cluster.target(), cluster.members, cluster.loads, SwapSettings(copy_charge=9.0), [7] * 128
    )
    copies = load_swaps(
        cluster.shards, cluster.target(), cluster.members, cluster.loads, SwapSettings(primary_charge=9.0), [7] * 128
    )

    assert primaries and all((swap.copies, swap.leaders, swap.bytes) == (False, True, 0) for swap in primaries)
    assert copies and all((swap.copies, swap.bytes) == (True, 14) for swap in copies)
    kinds = [
        {type(change) for step in _steps(cluster, made) for change in step.changes} for made in (primaries, copies)
    ]
    assert kinds[0] == {MovePrimary}
    assert AddLearner in kinds[1]


def _steps(cluster: Cluster, made: Sequence[Swap]) -> Sequence[Step]:
    return steps(cluster.shards, swapped(cluster.target(), made), cluster.members, SETTINGS)


def test_large_shards_are_charged_for_what_is_sent() -> None:
    cluster = Cluster(2)
    large = [100 << 30] * len(cluster.shards)
    made = load_swaps(cluster.shards, cluster.target(), cluster.members, cluster.loads, CHARGES, large)

    assert all(not swap.copies for swap in made)


def test_even_load_unknown_load_and_nonsense_swap_nothing() -> None:
    cluster = Cluster(1)

    for load in (1.0, 0.0, math.nan, math.inf):
        cluster.loads = [ShardLoad(load, load)] * len(cluster.shards)
        assert cluster.swaps() == ()


def test_one_shard_that_is_heavier_than_a_node_should_carry_is_not_sent_round_and_round() -> None:
    cluster = Cluster(1, nodes=4, shards=16)
    cluster.loads = [ShardLoad(1000.0 if number == 3 else 1.0) for number in range(16)]

    assert cluster.swaps() == ()


def test_nothing_is_swapped_while_the_map_is_not_as_wanted() -> None:
    cluster = Cluster(1)
    settled = cluster.shards
    first = settled[0]
    unsettled = [
        replace(first, learners=("n9",)),
        replace(first, in_sync=first.in_sync[:2], eligible=first.in_sync[2:], learners=first.in_sync[2:]),
        replace(first, primary=next(name for name in first.in_sync if name != first.primary)),
    ]

    for shard in unsettled:
        goal = cluster.target()
        assert load_swaps([shard, *settled[1:]], goal, cluster.members, cluster.loads, CHARGES) == ()


@pytest.mark.parametrize("state", [NodeState.DEAD_IN_GRACE, NodeState.ALIVE])
def test_nothing_is_swapped_while_a_node_is_dead_or_guarded(state: NodeState) -> None:
    cluster = Cluster(1)
    goal = cluster.target()
    cluster.members[0] = replace(cluster.members[0], state=state, may_lead=False)

    assert load_swaps(cluster.shards, goal, cluster.members, cluster.loads, CHARGES) == ()


def test_no_swap_is_made_when_none_is_left_of_the_budget() -> None:
    assert Cluster(1).swaps(SwapSettings(swaps_max=0)) == ()


def test_settings_below_zero_are_refused() -> None:
    with pytest.raises(ValueError, match="out of range"):
        SwapSettings(primary_charge=-0.1)


def test_a_swapped_target_has_a_digest_of_its_own() -> None:
    cluster = Cluster(1)
    made = cluster.swaps()
    goal = cluster.target()

    assert swapped(goal, ()) == goal
    assert swapped(goal, made).digest != goal.digest
