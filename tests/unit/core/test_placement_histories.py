"""Placement keeps its promises over random histories of joins, leaves, deaths, drains, weights and zones."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest

from ringkeep_core.placement import Candidate, NodeState, PlacementSettings, ShardCopies, Target, initial, steps, target
from ringkeep_testing.placement_checks import (
    adopted,
    arrival_violations,
    cheapest_violations,
    copy_balance_violations,
    failed_over,
    grace_violations,
    move_violations,
    primary_balance_violations,
    replay,
    shape_violations,
    spread_violations,
    stability_violations,
    zones_have_room,
)


@dataclass(frozen=True)
class Shape:
    """What a history starts with."""

    shards: int
    copies: int
    zones: int
    nodes: int


SHAPES = {
    "no zones": Shape(shards=256, copies=3, zones=1, nodes=8),
    "as many zones as copies": Shape(shards=256, copies=3, zones=3, nodes=9),
    "copies a multiple of the zones": Shape(shards=256, copies=4, zones=2, nodes=10),
    "one copy": Shape(shards=256, copies=1, zones=1, nodes=4),
}
UNEVEN = {
    "more zones than copies": Shape(shards=256, copies=3, zones=5, nodes=15),
    "fewer zones than copies": Shape(shards=256, copies=3, zones=2, nodes=10),
}


class History:
    """A cluster whose members change at random; every plan is carried out before the next change."""

    def __init__(self, seed: int, shape: Shape, *, weighted: bool = False) -> None:
        self.draw = random.Random(seed)
        self.zones, self.weighted, self.born = shape.zones, weighted, 0
        self.settings = PlacementSettings(replication_factor=shape.copies, min_in_sync=min(2, shape.copies))
        self.members: dict[str, Candidate] = {}
        for _ in range(shape.nodes):
            self.join()
        self.shards = self.adopt(initial(shape.shards, self.candidates(), self.settings))

    def candidates(self) -> list[Candidate]:
        """Return the members in an order that must not matter."""
        members = list(self.members.values())
        self.draw.shuffle(members)
        return members

    def weight(self) -> float:
        return self.draw.choice((0.5, 1.0, 1.0, 2.0, 3.7)) if self.weighted else 1.0

    def zone(self) -> str:
        counts = {f"zone-{i}": 0 for i in range(self.zones)}
        for member in self.members.values():
            counts[member.zone] += 1
        return min(counts, key=lambda zone: (counts[zone], zone))

    def join(self) -> None:
        self.born += 1
        self.members[f"node-{self.born}"] = Candidate(f"node-{self.born}", self.zone(), self.weight())

    def leave(self) -> None:
        if len(self.members) > max(2 * self.settings.replication_factor, 2 * self.zones):
            del self.members[self.draw.choice(sorted(self.members))]

    def drain(self) -> None:
        name = self.draw.choice(sorted(self.members))
        if len(self.members) > max(2 * self.settings.replication_factor, 2 * self.zones):
            self.members[name] = replace(self.members[name], draining=True)

    def reweigh(self) -> None:
        name = self.draw.choice(sorted(self.members))
        self.members[name] = replace(self.members[name], weight=self.weight())

    def bury(self) -> None:
        """Forget members that drained."""
        self.members = {name: member for name, member in self.members.items() if not member.draining}

    def adopt(self, goal: Target) -> list[ShardCopies]:
        return adopted(goal, self.candidates(), need=self.settings.min_in_sync)

    def target(self) -> Target:
        return target(self.shards, self.candidates(), self.settings)

    def excess_moves(self, goal: Target) -> list[str]:
        """Return what is above the lower bound, unless a node holds most shards: then only swaps may be left."""
        crowded = max(goal.quotas.values()) > 0.7 * len(goal.shards)
        return move_violations(self.shards, goal, self.candidates(), slack=9.0 if crowded else 0.0)

    def promises(self, goal: Target) -> list[str]:
        """Return every broken promise about a target, but the number of moves."""
        members, copies = self.candidates(), self.settings.replication_factor
        return [
            *shape_violations(self.shards, goal, members, copies),
            *spread_violations(goal, members, copies),
            *copy_balance_violations(goal, members, copies),
            *primary_balance_violations(goal, members),
            *move_violations(self.shards, goal, members, slack=9.0),
        ]


def _broken_promises(history: History, changes: int, extra: Callable[[Target], list[str]]) -> list[str]:
    broken = []
    for _ in range(changes):
        history.draw.choice([history.join, history.leave, history.drain, history.reweigh])()
        goal = history.target()
        broken += [*history.promises(goal), *extra(goal)]
        history.shards = history.adopt(goal)
        history.bury()
    return broken


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_each_change_moves_exactly_the_lower_bound_of_copies(shape: Shape, seed: int) -> None:
    history = History(seed, shape)

    assert _broken_promises(history, 25, lambda goal: history.excess_moves(goal)) == []


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_each_change_of_weighted_nodes_moves_exactly_the_lower_bound_of_copies(shape: Shape, seed: int) -> None:
    history = History(seed, replace(shape, shards=1024, nodes=2 * shape.nodes + 4), weighted=True)

    assert _broken_promises(history, 15, lambda goal: history.excess_moves(goal)) == []


@pytest.mark.parametrize("weighted", [False, True], ids=["equal", "weighted"])
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("shape", [*SHAPES.values(), *UNEVEN.values()], ids=[*SHAPES, *UNEVEN])
def test_no_map_of_the_same_balance_and_spread_needs_fewer_moves(shape: Shape, seed: int, weighted: bool) -> None:
    history = History(seed, shape, weighted=weighted)
    copies = shape.copies

    assert (
        _broken_promises(
            history, 10, lambda goal: cheapest_violations(history.shards, goal, history.candidates(), copies)
        )
        == []
    )


@pytest.mark.parametrize("nodes", [20, 30])
def test_with_more_zones_than_copies_a_long_history_moves_little_more_than_the_lower_bound(nodes: int) -> None:
    # The bound knows no zones; single changes can need more of it, which the test above proves to be unavoidable.
    history = History(0, Shape(shards=1024, copies=3, zones=5, nodes=nodes))
    moves = bound = 0

    for _ in range(20):
        history.draw.choice([history.join, history.leave])()
        goal = history.target()
        moves, bound = moves + goal.moves, bound + goal.lower_bound
        history.shards = history.adopt(goal)

    assert bound <= moves <= 1.01 * bound


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("shape", [*SHAPES.values(), *UNEVEN.values()], ids=[*SHAPES, *UNEVEN])
def test_a_map_that_was_carried_out_is_not_changed_again(shape: Shape, seed: int) -> None:
    history = History(seed, shape, weighted=True)
    broken = []

    for _ in range(6):
        history.draw.choice([history.join, history.leave, history.reweigh])()
        history.shards = history.adopt(history.target())
        again = history.target()
        broken += [*stability_violations(history.shards, again), *([f"{again.moves} moves"] * (again.moves > 0))]

    assert broken == []


@pytest.mark.parametrize("seed", range(8))
def test_a_death_within_the_grace_moves_no_copy_and_only_its_primaries(seed: int) -> None:
    history = History(seed, Shape(shards=256, copies=3, zones=(1, 3)[seed % 2], nodes=9), weighted=seed % 4 > 1)
    history.join()
    history.shards = history.adopt(history.target())
    name = history.draw.choice(sorted(history.members))
    history.members[name] = replace(history.members[name], state=NodeState.DEAD_IN_GRACE)
    after_failover = failed_over(history.shards, history.candidates())
    goal = target(after_failover, history.candidates(), history.settings)

    assert goal.moves == 0
    assert grace_violations(history.shards, goal, history.candidates()) == []
    assert [a.copies for a in goal.shards] == [s.in_sync for s in history.shards]
    assert primary_balance_violations(goal, history.candidates()) == []
    assert [
        number
        for number, (shard, assignment) in enumerate(zip(history.shards, goal.shards, strict=True))
        if assignment.primary == name
    ] == []


@pytest.mark.parametrize("seed", range(8))
def test_joins_and_leaves_beside_a_death_within_the_grace_leave_the_dead_its_copies(seed: int) -> None:
    history = History(seed, Shape(shards=256, copies=3, zones=(1, 3, 2, 4)[seed % 4], nodes=12))
    name = history.draw.choice(sorted(history.members))
    history.members[name] = replace(history.members[name], state=NodeState.DEAD_IN_GRACE)
    broken = []

    for change in (history.join, history.leave, history.join, history.reweigh):
        change()
        history.members.setdefault(name, Candidate(name, "zone-0", state=NodeState.DEAD_IN_GRACE))
        history.shards = failed_over(history.shards, history.candidates())
        goal = history.target()
        broken += grace_violations(history.shards, goal, history.candidates())
        broken += shape_violations(history.shards, goal, history.candidates(), 3)
        broken += spread_violations(goal, history.candidates(), 3)
        history.shards = history.adopt(goal)

    assert broken == []


def _die_at_random(history: History) -> None:
    """Let up to two nodes die, return, or be dead beyond the grace."""
    for name in history.draw.sample(sorted(history.members), 2):
        state = history.draw.choice([NodeState.ALIVE, NodeState.DEAD_IN_GRACE, NodeState.DEAD])
        history.members[name] = replace(history.members[name], state=state)


@pytest.mark.parametrize("seed", range(12))
def test_carrying_out_a_plan_never_endangers_a_copy_even_when_deaths_interrupt_it(seed: int) -> None:
    shape = [*SHAPES.values(), *UNEVEN.values()][seed % 6]
    history = History(seed, replace(shape, shards=128), weighted=seed % 2 == 1)
    sizes = [history.draw.randrange(40 << 20) for _ in history.shards]
    broken = []

    for _ in range(10):
        _die_at_random(history)
        changes: list[Callable[[], None]] = [history.join, history.leave, history.drain, history.reweigh]
        history.draw.choice(changes)()
        history.shards = failed_over(history.shards, history.candidates())
        goal = history.target()
        plan = steps(history.shards, goal, history.candidates(), history.settings, sizes)
        whole = replay(history.shards, goal, plan, history.candidates(), history.settings)
        broken += whole.wrong + arrival_violations(whole, goal, history.candidates())
        cut = plan[: history.draw.randrange(len(plan) + 1)]
        history.shards = replay(history.shards, goal, cut, history.candidates(), history.settings).shards()

    assert broken == []


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_adding_a_node_and_removing_it_again_gives_the_old_map_back_up_to_ties(shape: Shape) -> None:
    history = History(1, shape)
    before = history.shards
    history.join()
    newcomer = f"node-{history.born}"
    history.shards = history.adopt(history.target())
    passing = {number for number, shard in enumerate(history.shards) if newcomer in shard.in_sync}
    del history.members[newcomer]
    after = history.target()

    returned = [len(set(a.copies) ^ set(s.in_sync)) // 2 for s, a in zip(before, after.shards, strict=True)]
    assert {number for number, copies in enumerate(returned) if copies} <= passing
    assert max(returned) <= 1
    assert dict(after.quotas) == dict(initial(len(before), history.candidates(), history.settings).quotas)
    assert after.moves == len(passing)


@pytest.mark.parametrize("zones", [2, 3, 5])
def test_losing_a_zone_leaves_every_shard_all_copies_but_those_of_one_zone(zones: int) -> None:
    history = History(3, Shape(shards=256, copies=3, zones=zones, nodes=3 * zones))
    most = -(-3 // zones)

    for zone in {member.zone for member in history.members.values()}:
        rest = [sum(history.members[node].zone != zone for node in shard.in_sync) for shard in history.shards]
        assert min(rest) >= 3 - most


def test_zones_have_room_tells_a_rule_that_can_hold_from_one_that_cannot() -> None:
    assert zones_have_room([Candidate("a", "x"), Candidate("b", "y")], 2)
    assert not zones_have_room([Candidate("a", "x"), *(Candidate(f"b{i}", "y") for i in range(5))], 4)
