"""Plans carried out entry by entry through the map's own rules, over random histories of members and failures."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Sequence

import pytest
from msgspec.structs import replace

from ringkeep_core import mapchanges, placement
from ringkeep_core.mapchanges import Boot, Failover, Grow, Leave, MapChange, Move, SetWanted, Shrink, apply, check
from ringkeep_core.mapchanges import ShardChanges as Entry
from ringkeep_core.placement import NodeState, Step
from ringkeep_core.plans import (
    NodeFacts,
    Plan,
    candidates_of,
    copies_of,
    plan_of,
    refusal_of,
    target_of,
    with_drain,
    with_members,
    with_weight,
)
from ringkeep_core.shardmap import Settings, Shard, ShardMap, Wanted
from ringkeep_testing.maps import member
from ringkeep_testing.placement_checks import (
    cheapest_violations,
    copy_balance_violations,
    move_violations,
    primary_balance_violations,
    shape_violations,
    spread_violations,
    stability_violations,
)

SHARDS = 64


class World:
    """A cluster whose leader carries out plans: the map changes by entries only, each checked as it is applied."""

    def __init__(self, seed: int, *, nodes: int = 5, zones: int = 1, settings: Settings | None = None) -> None:
        self.draw = random.Random(seed)
        self.zones = zones
        self.born = nodes
        first = [member(f"n{number}", zone=self._zone(number)) for number in range(1, nodes + 1)]
        self.map = mapchanges.bootstrap(
            cluster_id="c" * 16, members=first, shards=SHARDS, settings=settings or Settings()
        )
        self.version = self.map.version
        self.dead: dict[str, NodeState] = {}
        self.added = 0

    def _zone(self, number: int) -> str:
        return f"z{number % self.zones}" if self.zones > 1 else ""

    @property
    def names(self) -> list[str]:
        return sorted(self.map.by_name)

    def facts(self) -> dict[str, NodeFacts]:
        """Return what the leader knows, in an order that must not matter."""
        names = self.names
        self.draw.shuffle(names)
        return {name: NodeFacts(self.dead.get(name, NodeState.ALIVE)) for name in names}

    def plan(self) -> Plan:
        return plan_of(self.map, self.map.wanted, self.facts(), [self.draw.randrange(1 << 20) for _ in range(SHARDS)])

    def commit(self, change: MapChange) -> None:
        """Apply an entry that the map must accept, and assert what always holds."""
        self.version += 1
        before = self.map
        applied = apply(before, self.version, change)
        self.map = applied.map

        assert applied.outcomes == (None,) * len(applied.outcomes), (change, applied.outcomes)
        assert check(self.map) == ()

    # --- members ---

    def join(self, weight: float = 1.0) -> str:
        """Start a node and list it."""
        self.born += 1
        name = f"n{self.born}"
        self.commit(Boot(name, name, f"{name}-1", 1, f"http://{name}", f"{name}:7400", self._zone(self.born)))
        self.want(with_weight(self.map.wanted, name, weight))
        return name

    def want(self, wanted: Wanted) -> None:
        self.commit(SetWanted(wanted, "test"))

    def refuses(self, wanted: Wanted) -> bool:
        voters = self.names[:3]
        return refusal_of(self.map, wanted, self.facts(), voters) is not None

    def die(self, name: str, state: NodeState) -> None:
        """Let a node die: the leader fails its shards over and takes it out of in_sync (rules 3 and 5)."""
        self.dead[name] = state
        live = tuple(other for other in self.names if other not in self.dead)
        for number, shard in enumerate(self.map.shards):
            heirs = [copy.storage for copy in (*shard.in_sync, *shard.eligible) if copy.storage in live]
            if shard.primary.storage == name and heirs:
                self.commit(Entry((Failover(number, shard.revision, heirs[0], live),), "death"))
            elif shard.primary.storage != name and shard.is_in_sync(name):
                self.commit(Entry((Shrink(number, shard.revision, (name,)),), "death"))

    def bury(self) -> None:
        """Let all leave who hold nothing and are not wanted."""
        for name in self.names:
            want = self.map.wanted.members.get(name)
            held = any(shard.copy_of(name) for shard in self.map.shards)
            if (want is None or want.draining) and not held:
                self.commit(Leave(name, "drained"))
                self.dead.pop(name, None)

    # --- plans ---

    def carry_out(self, steps: Sequence[Step], changes_max: int = 1 << 30) -> None:
        """Carry the changes out one by one; every one must be accepted and none may cost a complete copy."""
        for change in list(_changes(steps))[:changes_max]:
            before = self.map.shards[change.shard]
            self.commit(Entry((self._entry(change, before),), "plan"))
            self._assert_safe(change, before, self.map.shards[change.shard])

    def _entry(self, change: placement.ShardChange, shard: Shard) -> mapchanges.ShardChange:
        """Return what is proposed for a step of the plan: the growth as the shard's primary would propose it."""
        number, revision = change.shard, shard.revision
        match change:
            case placement.AddLearner(node=node):
                self.added += 1
                return mapchanges.AddLearner(number, revision, node)
            case placement.AwaitInSync(node=node):
                copy = shard.copy_of(node)
                assert copy is not None
                boots = self.map.members
                return Grow(
                    number, revision, node, boots[node].boot, copy.added, shard.epoch, boots[shard.primary.storage].boot
                )
            case placement.MovePrimary(target=node):
                return Move(number, revision, node)
            case placement.RemoveCopy(node=node):
                copy = shard.copy_of(node)
                assert copy is not None
                return mapchanges.RemoveCopy(number, revision, node, copy.added)

    def _assert_safe(self, change: placement.ShardChange, before: Shard, after: Shard) -> None:
        if isinstance(change, placement.AwaitInSync):
            assert len(after.in_sync) == len(before.in_sync) + 1
            return
        if _complete(after) < _complete(before):
            assert len(after.in_sync) >= max(after.need, self.map.copies_wanted())

    def promises(self, plan: Plan) -> list[str]:
        """Return every broken promise about a plan's target."""
        shards, members = copies_of(self.map), candidates_of(self.map, self.map.wanted, self.facts())
        copies, target = self.map.wanted.settings.replication_factor, plan.target
        return [
            *shape_violations(shards, target, members, copies),
            *spread_violations(target, members, copies),
            *copy_balance_violations(target, members, copies),
            *primary_balance_violations(target, members),
            *move_violations(shards, target, members, slack=9.0),
        ]

    def settled(self, plan: Plan) -> list[str]:
        """Return where the map is not the plan's target."""
        return stability_violations(copies_of(self.map), plan.target)

    def change_something(self) -> None:
        """Change the members at random, if the change is possible."""
        live = [name for name in self.names if name not in self.dead]
        listed = [name for name in live if name in self.map.wanted.members]
        name = self.draw.choice(listed)
        weight = self.draw.choice((0.5, 1.0, 2.0))
        wished = self.draw.choice(
            (
                with_drain(self.map.wanted, name),
                with_weight(self.map.wanted, name, weight),
                with_members(self.map.wanted, live),
                None,
            )
        )
        if wished is None or len(live) < 5:
            self.join(weight)
        elif not self.refuses(wished):
            self.want(wished)


def _changes(steps: Sequence[Step]) -> Iterator[placement.ShardChange]:
    for step in steps:
        yield from step.changes


def _complete(shard: Shard) -> int:
    return len({copy.storage for copy in (*shard.in_sync, *shard.eligible)})


WORLDS = {"no zones": (5, 1), "three zones": (6, 3), "two zones": (6, 2), "three nodes": (3, 1)}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("shape", WORLDS.values(), ids=WORLDS)
def test_a_plan_carried_out_through_the_maps_rules_ends_in_its_target(shape: tuple[int, int], seed: int) -> None:
    world = World(seed, nodes=shape[0], zones=shape[1])

    for _ in range(5):
        world.change_something()
        plan = world.plan()
        broken, added = world.promises(plan), world.added
        world.carry_out(plan.steps)

        assert broken == []
        assert world.settled(plan) == []
        assert world.added - added == plan.target.moves == plan.forecast.copies
        assert world.plan().steps == ()
        world.bury()


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("shape", WORLDS.values(), ids=WORLDS)
def test_a_plan_that_is_made_anew_again_and_again_moves_no_copy_more(shape: tuple[int, int], seed: int) -> None:
    world = World(seed, nodes=shape[0], zones=shape[1])

    for _ in range(3):
        world.change_something()
        first = plan = world.plan()
        added, rounds = world.added, 0
        while plan.steps:
            world.carry_out(plan.steps, changes_max=world.draw.randrange(1, 60))
            plan, rounds = world.plan(), rounds + 1
            assert rounds < 200

        assert world.added - added == first.target.moves
        assert world.settled(plan) == []
        world.bury()


@pytest.mark.parametrize("seed", range(6))
def test_a_plan_for_other_wishes_midway_uses_the_copies_that_there_are(seed: int) -> None:
    world = World(seed, nodes=5)
    broken: list[str] = []

    for _ in range(6):
        world.change_something()
        world.carry_out(world.plan().steps, changes_max=world.draw.randrange(80))
        shards = copies_of(world.map)
        members = candidates_of(world.map, world.map.wanted, world.facts())
        broken += cheapest_violations(shards, world.plan().target, members, 3)
    plan = world.plan()
    world.carry_out(plan.steps)

    assert broken == []
    assert world.settled(plan) == []


def test_three_to_five_to_three_moves_the_lower_bound_and_stays_even() -> None:
    world = World(1, nodes=3)
    seen = []

    for wished in (["n1", "n2", "n3", "n4", "n5"], ["n1", "n2", "n3"]):
        while world.born < len(wished):
            world.join(weight=0.0)
        world.want(_of_weight_one(with_members(world.map.wanted, wished)))
        plan = world.plan()
        world.carry_out(plan.steps)
        held = Counter(copy.storage for shard in world.map.shards for copy in shard.in_sync)
        led = Counter(shard.primary.storage for shard in world.map.shards)
        world.bury()
        seen.append((plan.target.moves - plan.target.lower_bound, _spread(held), _spread(led), world.names))

    assert seen == [(0, 1, 1, ["n1", "n2", "n3", "n4", "n5"]), (0, 0, 1, ["n1", "n2", "n3"])]


def _of_weight_one(wanted: Wanted) -> Wanted:
    """Return the wanted state with every weight 1."""
    return replace(wanted, members={name: replace(want, weight=1.0) for name, want in wanted.members.items()})


def _spread(counts: Counter[str]) -> int:
    return max(counts.values()) - min(counts.values())


@pytest.mark.parametrize("seed", range(4))
def test_a_death_within_the_grace_moves_no_copy_and_one_beyond_it_is_made_good(seed: int) -> None:
    world = World(seed, nodes=5)
    dead = world.draw.choice(world.names)
    lost = sum(1 for shard in world.map.shards if shard.copy_of(dead))

    world.die(dead, NodeState.DEAD_IN_GRACE)
    within = world.plan()
    world.carry_out(within.steps)
    world.dead[dead] = NodeState.DEAD
    beyond = world.plan()
    world.carry_out(beyond.steps)

    assert (within.target.moves, beyond.target.moves, world.added) == (0, lost, lost)
    assert world.settled(beyond) == []
    assert all(dead not in holders for holders in _holders(world.map))


def _holders(shard_map: ShardMap) -> list[list[str]]:
    return [[copy.storage for copy in (*shard.in_sync, *shard.learners)] for shard in shard_map.shards]


@pytest.mark.parametrize("seed", range(6))
def test_deaths_and_returns_in_the_middle_of_plans_endanger_no_copy(seed: int) -> None:
    world = World(seed, nodes=6, zones=(1, 3)[seed % 2])

    for _ in range(8):
        world.change_something()
        world.carry_out(world.plan().steps, changes_max=world.draw.randrange(60))
        if world.dead:
            name = world.draw.choice(sorted(world.dead))
            del world.dead[name]
        elif len(world.names) > 4:
            world.die(world.draw.choice(world.names), world.draw.choice((NodeState.DEAD, NodeState.DEAD_IN_GRACE)))
        world.carry_out(world.plan().steps, changes_max=world.draw.randrange(60))
        world.bury()
    world.dead.clear()
    plan = world.plan()
    world.carry_out(plan.steps)

    assert world.settled(plan) == []
    assert all(len(shard.in_sync) == 3 for shard in world.map.shards)


def test_the_plan_is_the_same_whoever_makes_it() -> None:
    worlds = [World(seed, nodes=6, zones=3) for seed in (1, 2)]

    for world in worlds:
        world.want(with_drain(world.map.wanted, "n2"))

    digests = {target_of(world.map, world.map.wanted, world.facts()).digest for world in worlds}
    assert len(digests) == 1


@pytest.mark.parametrize("seed", range(2))
def test_several_nodes_drain_at_once_and_no_shard_has_fewer_copies_on_the_way(seed: int) -> None:
    world = World(seed, nodes=6)
    world.want(with_members(world.map.wanted, ["n2", "n4", "n6"]))
    plan = world.plan()
    world.carry_out(plan.steps)
    world.bury()

    assert world.settled(plan) == []
    assert world.added == plan.target.moves == plan.target.lower_bound
    assert world.names == ["n2", "n4", "n6"]


def test_a_drain_beside_a_dead_node_waits_for_it_rather_than_leave_fewer_copies_than_wanted() -> None:
    world = World(1, nodes=4)
    world.die("n4", NodeState.DEAD)
    world.carry_out(world.plan().steps)
    world.want(with_drain(world.map.wanted, "n3"))
    world.carry_out(world.plan().steps)
    waiting = [shard.is_in_sync("n3") for shard in world.map.shards]
    world.want(with_members(world.map.wanted, ["n1", "n2"]))
    world.carry_out(world.plan().steps)
    world.bury()

    assert waiting == [True] * SHARDS
    assert world.names == ["n1", "n2"]
