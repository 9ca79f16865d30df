"""Random deaths, restarts, hanging disks and wrong views; then everything heals, and the leader must put it in order."""

from hypothesis import given, settings
from hypothesis import strategies as st

from ringkeep_core.shardmap import encode_map
from ringkeep_testing.leader_world import LeaderWorld

NODES = ("n1", "n2", "n3", "n4", "n5")
STEP = st.tuples(st.integers(0, 7), st.integers(1, 4), st.integers(0, 60))


def _play(steps: list[tuple[int, int, int]]) -> LeaderWorld:
    world = LeaderWorld.of(5, 32)
    for verb, node, seconds in steps:
        _do(world, verb, NODES[node])
        world.run(seconds / 10.0, grows=seconds % 2 == 0)
    return world


def _do(world: LeaderWorld, verb: int, name: str) -> None:
    if verb <= 1 and len(world.dead) < 2:
        world.kill(name)
    elif verb in (2, 3) and (verb == 2) == (name in world.dead):
        world.restart(name)
    elif verb == 4 and not world.stalled:
        world.stalled = {name}
    elif verb == 5:
        world.stalled = set()
    elif verb == 6:
        world.sees = {"n1": {name}}
    else:
        world.sees, world.suspects = {}, {name}


@settings(max_examples=40)
@given(st.lists(STEP, min_size=5, max_size=25))
def test_after_any_history_the_healed_cluster_is_whole_and_balanced(steps: list[tuple[int, int, int]]) -> None:
    world = _play(steps)
    world.stalled, world.sees, world.suspects = set(), {}, set()
    for name in sorted(world.dead):
        world.restart(name)
    for _ in range(8):
        world.run(100.0, grows=True)
    explained = world.leader.explain(now=world.now)
    led = world.led().values()

    assert (explained.unavailable, explained.below_need, explained.under_way, explained.guarded) == ((), (), (), ())
    assert all(len(it.in_sync) == 3 and not it.learners for it in world.map.shards)
    assert max(led) - min(led) <= 1
    assert world.tick() == ()


@settings(max_examples=10)
@given(st.lists(STEP, min_size=5, max_size=15))
def test_the_same_history_gives_the_same_proposals(steps: list[tuple[int, int, int]]) -> None:
    first, second = _play(steps), _play(steps)

    assert first.proposed == second.proposed
    assert encode_map(first.map) == encode_map(second.map)


@settings(max_examples=40)
@given(st.lists(STEP, min_size=5, max_size=25))
def test_whatever_one_node_sees_alone_moves_nothing(steps: list[tuple[int, int, int]]) -> None:
    world = LeaderWorld.of(5, 32)
    for verb, node, seconds in steps:
        world.sees = {"n1": {NODES[node]}} if verb % 2 else {NODES[node]: {NODES[1 + node % 4], "n1"}}
        world.run(seconds / 10.0)

    assert world.proposed == []
