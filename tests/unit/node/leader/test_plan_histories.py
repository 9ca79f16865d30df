"""Random wanted states, leaders, deaths and restarts: every step is safe, and in the end the map is the target."""

from hypothesis import given, settings
from hypothesis import strategies as st

from ringkeep_core.shardmap import Settings, WantedMember, encode_map
from ringkeep_testing.plan_world import PlanWorld

NODES = ("n1", "n2", "n3", "n4", "n5", "n6")
WEIGHTS = (0.0, 1.0, 1.0, 1.0, 2.0)
WANTED = st.lists(st.tuples(st.integers(0, 4), st.booleans()), min_size=6, max_size=6)
"""Per node its weight and whether it drains; n1 always takes part."""
STEP = st.tuples(st.integers(0, 9), st.integers(0, 5), st.integers(0, 30), WANTED)


def _started(shards: int = 24) -> PlanWorld:
    world = PlanWorld.of(4, shards, Settings(streams_per_node=2, grace_s=20.0))
    world.join("n5")
    world.join("n6")
    return world


def _want(world: PlanWorld, rows: list[tuple[int, bool]]) -> None:
    world.want(
        {
            name: WantedMember(
                weight=1.0 if name == "n1" else WEIGHTS[weight], zone="", draining=drains and name != "n1"
            )
            for name, (weight, drains) in zip(NODES, rows, strict=True)
        }
    )


@settings(max_examples=30)
@given(st.lists(st.tuples(WANTED, st.integers(1, 20), st.integers(0, 5)), min_size=1, max_size=6))
def test_each_wanted_state_costs_its_lower_bound_at_most_under_any_leaders(
    steps: list[tuple[list[tuple[int, bool]], int, int]],
) -> None:
    world = _started()
    for rows, tenths, leader in steps:
        _want(world, rows)
        bound, before = world.target().moves, world.added
        world.run(tenths / 20.0)
        world.new_leader(NODES[leader])
        world.run(tenths / 10.0)

        assert world.added - before <= bound
    world.settle()

    assert world.is_whole()
    assert world.added - before == bound
    assert world.refused == {}
    assert world.leader.explain(now=world.now).plan is None


def _play(steps: list[tuple[int, int, int, list[tuple[int, bool]]]]) -> PlanWorld:
    world = _started()
    for verb, node, tenths, rows in steps:
        name = NODES[node]
        if verb <= 2 and world.me != name and len(world.dead) < 1:
            if verb == 2:
                world.leaving.add(name)
                world.run(0.3)
                world.left.add(name)
            world.kill(name)
        elif verb in (3, 4) and name in world.dead:
            world.restart(name)
        elif verb == 5 and not world.stalled and world.me != name:
            world.stalled = {name}
        elif verb == 6:
            world.stalled = set()
        elif verb == 7 and name not in world.dead | world.stalled:
            world.new_leader(name)
        else:
            _want(world, rows)
        world.run(float(tenths) if verb == 0 else tenths / 10.0)
    return world


@settings(max_examples=40)
@given(st.lists(STEP, min_size=4, max_size=20))
def test_after_any_history_the_healed_cluster_is_its_target(
    steps: list[tuple[int, int, int, list[tuple[int, bool]]]],
) -> None:
    world = _play(steps)
    world.stalled, world.leaving = set(), set()
    for name in sorted(world.dead):
        world.restart(name)
    world.run(700.0)
    world.run(10.0)
    led = [count for name, count in world.led().items() if world.map.wanted.members.get(name)]

    assert world.is_whole()
    assert world.leader.explain(now=world.now).plan is None
    assert world.tick() == ()
    assert sum(led) == len(world.map.shards)


@settings(max_examples=10)
@given(st.lists(STEP, min_size=4, max_size=12))
def test_the_same_history_gives_the_same_plans(steps: list[tuple[int, int, int, list[tuple[int, bool]]]]) -> None:
    first, second = _play(steps), _play(steps)

    assert (first.proposed, first.hand_overs) == (second.proposed, second.hand_overs)
    assert encode_map(first.map) == encode_map(second.map)
