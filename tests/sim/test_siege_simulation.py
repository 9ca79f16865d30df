"""Primaries are deposed under clients that talk straight to them: no seed may show a stale or a lost answer (L3).

``RINGKEEP_SIEGE_SEEDS`` is how many seeds run, ``RINGKEEP_SIEGE_SEED`` the first of them. Planted bugs name the test
here that must catch them: all run within the same seeds.
"""

from __future__ import annotations

import pytest

from ringkeep_testing.seeds import BATCH, Seeds, add_up, traces_of
from ringkeep_testing.siege import HandOverSiege, Siege

SEEDS = Seeds(first=1, count=100, prefix="RINGKEEP_SIEGE_")
TRACE = """
import sys
from ringkeep_testing.siege import Siege
siege = Siege(int(sys.argv[1]))
siege.run()
print(siege.world.trace_hash(), siege.clients.histories)
"""


def besieged(kind: type[Siege], first: int) -> None:
    answers: dict[str, int] = {}
    deposed = 0
    for seed in SEEDS.of(first):
        siege = kind(seed)
        try:
            siege.run()
        except AssertionError as error:
            raise AssertionError(
                f"replay: RINGKEEP_SIEGE_SEED={seed} RINGKEEP_SIEGE_SEEDS=1 pytest tests/sim/test_siege_simulation.py"
            ) from error
        deposed += siege.deposed
        add_up(answers, siege.clients.counts)

    # Runs in which nobody was deposed, or nobody answered, would prove nothing.
    enough = {name: answers.get(name, 0) > 10 * BATCH for name in ("stored", "found", "refused", "unknown")}
    assert not SEEDS.prove or (all(enough.values()) and deposed > BATCH), (answers, deposed)


@pytest.mark.parametrize("first", SEEDS.batches)
def test_no_deposed_primary_answers_from_a_state_that_was_superseded(first: int) -> None:
    besieged(Siege, first)


@pytest.mark.parametrize("first", SEEDS.batches)
def test_no_primary_that_hands_its_shard_over_loses_a_change_or_answers_from_what_was_superseded(first: int) -> None:
    besieged(HandOverSiege, first)


@pytest.mark.parametrize("seed", [4, 11])
def test_the_same_seed_gives_the_same_trace_whatever_the_hash_seed(seed: int) -> None:
    traces = traces_of(TRACE, seed)

    assert len(traces) == 1 and traces != {""}
