"""Scaling, drains and restarts mixed with every other fault, then healed: nothing acknowledged is lost, the map follows.

``RINGKEEP_SEEDS`` is how many seeds run, ``RINGKEEP_SEED`` the first of them; a failing seed prints the command that replays
it and is added to ``failed_elastic_seeds.txt``.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from ringkeep_testing.node_world import World
from ringkeep_testing.seeds import BATCH, Seeds, add_up, once_failed, traces_of
from ringkeep_testing.world_plan import Plan, elastic_world_settings

SEEDS = Seeds(first=1, count=300)
REGRESSIONS = once_failed(Path(__file__).parent / "failed_elastic_seeds.txt")
TRACE = """
import sys
from ringkeep_testing.node_world import World
from ringkeep_testing.world_plan import Plan, elastic_world_settings
world = World(int(sys.argv[1]), Plan.elastic(int(sys.argv[1])), settings=elastic_world_settings())
world.run()
print(world.trace_hash())
"""


def elastic_world(seed: int) -> World:
    return World(seed, Plan.elastic(seed), settings=elastic_world_settings())


@pytest.mark.parametrize("seed", REGRESSIONS)
def test_a_seed_that_once_failed_passes(seed: int) -> None:
    elastic_world(seed).run()


@pytest.mark.slow
@pytest.mark.parametrize("first", SEEDS.batches)
def test_a_cluster_that_is_scaled_drained_and_restarted_under_faults_converges_to_what_is_wanted(first: int) -> None:
    people: dict[str, int] = {}
    answers: dict[str, int] = {}
    for seed in SEEDS.of(first):
        world = elastic_world(seed)
        world.run()
        add_up(people, world.people.counts)
        add_up(answers, world.clients.counts)

    # Runs in which nothing happened would prove nothing.
    assert not SEEDS.prove or (people.get("add", 0) > 3 and sum(people.values()) > 2 * BATCH), (people, answers)
    assert not SEEDS.prove or answers.get("stored", 0) > 10 * BATCH, (people, answers)


@pytest.mark.parametrize("seed", [2, 9])
def test_the_same_seed_gives_the_same_trace_whatever_the_hash_seed(seed: int) -> None:
    traces = traces_of(TRACE, seed)

    assert len(traces) == 1 and all(len(trace) == 64 for trace in traces)
