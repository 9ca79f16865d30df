"""The whole cluster under faults, then healed: nothing acknowledged is lost, nothing stale is read (testing.md, L3, L4).

``RINGKEEP_SEEDS`` is how many seeds run, ``RINGKEEP_SEED`` the first of them; a failing seed prints the command that replays
it and is added to ``failed_seeds.txt``.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from ringkeep_testing.node_world import World
from ringkeep_testing.seeds import BATCH, Seeds, add_up, once_failed, traces_of
from ringkeep_testing.world_plan import Plan

SEEDS = Seeds(first=1000, count=300)
REGRESSIONS = once_failed(Path(__file__).parent / "failed_seeds.txt")
TRACE = """
import sys
from ringkeep_testing.node_world import World
world = World(int(sys.argv[1]))
world.run()
print(world.trace_hash())
"""


@pytest.mark.parametrize("seed", REGRESSIONS)
def test_a_seed_that_once_failed_passes(seed: int) -> None:
    World(seed).run()


@pytest.mark.slow
@pytest.mark.parametrize("first", SEEDS.batches)
def test_the_cluster_keeps_its_promises_under_faults_and_converges_and_serves_when_they_stop(first: int) -> None:
    faults: dict[str, int] = {}
    answers: dict[str, int] = {}
    for seed in SEEDS.of(first):
        world = World(seed)
        world.run()
        add_up(faults, world.faults.counts)
        add_up(answers, world.clients.counts)

    # Runs in which nothing happened would prove nothing.
    assert not SEEDS.prove or (sum(faults.values()) > BATCH and answers.get("stored", 0) > 10 * BATCH), (
        faults,
        answers,
    )


@pytest.mark.parametrize("seed", [6, 17])
def test_the_same_seed_gives_the_same_trace_whatever_the_hash_seed(seed: int) -> None:
    traces = traces_of(TRACE, seed)

    assert len(traces) == 1 and all(len(trace) == 64 for trace in traces)


def test_different_seeds_give_different_traces() -> None:
    hashes = set()
    for seed in (1, 2, 3):
        world = World(seed, Plan(safety_s=1.0))
        world.run()
        hashes.add(world.trace_hash())

    assert len(hashes) == 3


@pytest.mark.parametrize("nodes", range(1, 8))
def test_a_cluster_of_any_size_converges_serves_and_survives_the_power_cut_of_all(nodes: int) -> None:
    world = World(nodes, Plan(nodes=nodes, power_cut_rate=0.3, safety_s=6.0))

    world.run()

    assert world.clients.counts.get("stored", 0) > 20
