"""Scaling, drains and restarts mixed with every other fault, then healed: nothing acknowledged is lost, the map follows.

``RINGKEEP_SEEDS`` is how many seeds run, ``RINGKEEP_SEED`` the first of them; a failing seed prints the command that replays
it and is added to ``failed_elastic_seeds.txt``.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ringkeep_testing.node_world import World
from ringkeep_testing.world_plan import Plan, elastic_world_settings

SEEDS = int(os.environ.get("RINGKEEP_SEEDS", "300"))
FIRST_SEED = int(os.environ.get("RINGKEEP_SEED", "1"))
BATCH = 10
REGRESSIONS = [
    int(line.split()[0])
    for line in (Path(__file__).parent / "failed_elastic_seeds.txt").read_text(encoding="utf-8").splitlines()
    if line.strip() and not line.startswith("#")
]
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
@pytest.mark.parametrize("first", range(FIRST_SEED, FIRST_SEED + SEEDS, BATCH))
def test_a_cluster_that_is_scaled_drained_and_restarted_under_faults_converges_to_what_is_wanted(first: int) -> None:
    people: dict[str, int] = {}
    answers: dict[str, int] = {}
    for seed in range(first, min(first + BATCH, FIRST_SEED + SEEDS)):
        world = elastic_world(seed)
        world.run()
        for counted, of_run in ((people, world.people.counts), (answers, world.clients.counts)):
            for name, count in of_run.items():
                counted[name] = counted.get(name, 0) + count

    # Runs in which nothing happened would prove nothing.
    assert SEEDS < BATCH or (people.get("add", 0) > 3 and sum(people.values()) > 2 * BATCH), (people, answers)
    assert SEEDS < BATCH or answers.get("stored", 0) > 10 * BATCH, (people, answers)


def trace_under(hash_seed: str, seed: int) -> str:
    path = os.pathsep.join(part for part in sys.path if part)
    done = subprocess.run(
        [sys.executable, "-c", TRACE, str(seed)],
        env={**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


@pytest.mark.parametrize("seed", [2, 9])
def test_the_same_seed_gives_the_same_trace_whatever_the_hash_seed(seed: int) -> None:
    traces = {trace_under("1", seed), trace_under("2", seed)}

    assert len(traces) == 1 and all(len(trace) == 64 for trace in traces)
