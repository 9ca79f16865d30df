"""Primaries are deposed under clients that talk straight to them: no seed may show a stale or a lost answer (L3).

``RINGKEEP_SIEGE_SEEDS`` is how many seeds run, ``RINGKEEP_SIEGE_SEED`` the first of them. Planted bugs name the test
here that must catch them: all run within the same seeds.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from ringkeep_testing.siege import Siege

SEEDS = int(os.environ.get("RINGKEEP_SIEGE_SEEDS", "100"))
FIRST_SEED = int(os.environ.get("RINGKEEP_SIEGE_SEED", "1"))
BATCH = 10
TRACE = """
import sys
from ringkeep_testing.siege import Siege
siege = Siege(int(sys.argv[1]))
siege.run()
print(siege.world.trace_hash(), siege.clients.histories)
"""


@pytest.mark.parametrize("first", range(FIRST_SEED, FIRST_SEED + SEEDS, BATCH))
def test_no_deposed_primary_answers_from_a_state_that_was_superseded(first: int) -> None:
    answers: dict[str, int] = {}
    deposed = 0
    for seed in range(first, min(first + BATCH, FIRST_SEED + SEEDS)):
        siege = Siege(seed)
        try:
            siege.run()
        except AssertionError as error:
            raise AssertionError(
                f"replay: RINGKEEP_SIEGE_SEED={seed} RINGKEEP_SIEGE_SEEDS=1 pytest tests/sim/test_siege_simulation.py"
            ) from error
        deposed += siege.deposed
        for name, count in siege.clients.counts.items():
            answers[name] = answers.get(name, 0) + count

    # Runs in which nobody was deposed, or nobody answered, would prove nothing.
    enough = {name: answers.get(name, 0) > 10 * BATCH for name in ("stored", "found", "refused", "unknown")}
    assert SEEDS < BATCH or (all(enough.values()) and deposed > BATCH), (answers, deposed)


def _trace_under(hash_seed: str, seed: int) -> str:
    path = os.pathsep.join(part for part in sys.path if part)
    done = subprocess.run(
        [sys.executable, "-c", TRACE, str(seed)],
        env={**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


@pytest.mark.parametrize("seed", [4, 11])
def test_the_same_seed_gives_the_same_trace_whatever_the_hash_seed(seed: int) -> None:
    traces = {_trace_under("1", seed), _trace_under("2", seed)}

    assert len(traces) == 1 and traces != {""}
