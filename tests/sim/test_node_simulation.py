"""The whole cluster under faults, then healed: nothing acknowledged is lost, nothing stale is read (testing.md, L3, L4).

``RINGKEEP_SEEDS`` is how many seeds run, ``RINGKEEP_SEED`` the first of them; a failing seed prints the command that replays
it and is added to ``failed_seeds.txt``.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ringkeep_testing.node_world import World
from ringkeep_testing.world_plan import Plan

SEEDS = int(os.environ.get("RINGKEEP_SEEDS", "300"))
FIRST_SEED = int(os.environ.get("RINGKEEP_SEED", "1000"))
BATCH = 10
REGRESSIONS = [
    int(line.split()[0])
    for line in (Path(__file__).parent / "failed_seeds.txt").read_text(encoding="utf-8").splitlines()
    if line.strip() and not line.startswith("#")
]
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
@pytest.mark.parametrize("first", range(FIRST_SEED, FIRST_SEED + SEEDS, BATCH))
def test_the_cluster_keeps_its_promises_under_faults_and_converges_and_serves_when_they_stop(first: int) -> None:
    faults: dict[str, int] = {}
    answers: dict[str, int] = {}
    for seed in range(first, min(first + BATCH, FIRST_SEED + SEEDS)):
        world = World(seed)
        world.run()
        for counted, of_run in ((faults, world.faults.counts), (answers, world.clients.counts)):
            for name, count in of_run.items():
                counted[name] = counted.get(name, 0) + count

    # Runs in which nothing happened would prove nothing.
    assert SEEDS < BATCH or (sum(faults.values()) > BATCH and answers.get("stored", 0) > 10 * BATCH), (faults, answers)


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


@pytest.mark.parametrize("seed", [6, 17])
def test_the_same_seed_gives_the_same_trace_whatever_the_hash_seed(seed: int) -> None:
    traces = {trace_under("1", seed), trace_under("2", seed)}

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
