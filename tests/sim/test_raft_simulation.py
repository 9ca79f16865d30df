"""Seeded runs of whole Raft groups under faults, each with a safety and a healing phase.

``RINGKEEP_RAFT_SEEDS`` sets how many seeds run (default 800). A failing seed is replayed by
``python -m ringkeep_testing.raft_world SEED`` with ``tests/support`` on the path.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from ringkeep_testing import raft_world
from ringkeep_testing.raft_world import RaftWorld, WorldOptions, run_seed

SEEDS = int(os.environ.get("RINGKEEP_RAFT_SEEDS", "800"))
BLOCK = 50

QUIET = WorldOptions(
    nodes=3,
    spares=0,
    faulty_s=5.0,
    loss=0.0,
    duplication=0.0,
    delay_s=0.001,
    sync_s=0.002,
    crashes=0.0,
    partitions=0.0,
    pauses=0.0,
    transfers=0.0,
    changes=0.0,
    compactions=0.0,
    proposals=20.0,
    reads=20.0,
    merged_reports=True,
)


@pytest.mark.parametrize("first", range(0, SEEDS, BLOCK))
def test_a_group_under_faults_stays_safe_and_serves_again_when_they_stop(first: int) -> None:
    for seed in range(first, min(first + BLOCK, SEEDS)):
        try:
            run_seed(seed)
        except AssertionError as error:
            raise AssertionError(f"replay with: python -m ringkeep_testing.raft_world {seed}") from error


@pytest.mark.parametrize("seed", [78, 182, 250, 270, 1107])
def test_a_seed_that_once_failed_passes(seed: int) -> None:
    run_seed(seed)


def test_the_same_seed_gives_the_same_trace_in_every_process() -> None:
    def trace(hash_seed: str) -> str:
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        command = [sys.executable, "-m", "ringkeep_testing.raft_world", "5", "11"]
        return subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout

    assert trace("1") == trace("2") != ""


def test_a_dead_leader_is_replaced_within_two_seconds_and_a_quiet_group_never_elects() -> None:
    world = RaftWorld(1, QUIET)
    world.run(3.0)
    elections = world.elections
    world.run(60.0)
    quiet = world.elections - elections
    term = max(world.leaders)
    world.crash(world.leaders[term])
    world.run(62.0)

    assert (quiet, max(world.leaders) > term, world.elections - elections) == (0, True, 1)


def test_a_leader_that_pauses_for_half_a_second_keeps_leading() -> None:
    world = RaftWorld(2, QUIET)
    world.run(3.0)
    term = max(world.leaders)
    world.hosts[world.leaders[term]].paused_until = world.now + 0.35
    world.run(10.0)

    assert max(world.leaders) == term


def test_followers_that_pause_for_three_seconds_cause_no_election() -> None:
    world = RaftWorld(3, QUIET)
    world.run(3.0)
    term = max(world.leaders)
    follower = next(name for name in world.hosts if name != world.leaders[term])
    world.hosts[follower].paused_until = world.now + 3.0
    world.run(12.0)

    assert max(world.leaders) == term


def test_the_module_can_replay_a_seed(capsys: pytest.CaptureFixture[str]) -> None:
    raft_world.main(["7"])

    assert capsys.readouterr().out.startswith("seed 7 ")
