"""The service registry under random faults, then healed: everybody shows what lives, and nothing else (L3)."""

from __future__ import annotations

import pytest

from ringkeep_testing.registry_world import DETECTION_S, TTL_S, RegistryWorld
from ringkeep_testing.seeds import Seeds, add_up, traces_of

SAFETY_S = 60.0
HEALING_S = TTL_S + DETECTION_S + 10.0
"""A ttl that ran out and its renewal, a verdict, and the time after which a dead owner's instances are forgotten."""
SEEDS = Seeds(first=1, count=330, prefix="RINGKEEP_REGISTRY_")
TRACE = """
import sys
from test_registry_simulation import simulate
world = simulate(int(sys.argv[1]))
print(world.counts, {name: registry.version for name, registry in sorted(world.up.items())}, world.random.random())
"""


def simulate(seed: int) -> RegistryWorld:
    """Run one seed through a safety phase and a healing phase."""
    world = RegistryWorld(seed)
    while world.now < SAFETY_S:
        world.run(0.5)
        if world.random.random() < 0.25:
            world.hurt()
    world.heal()
    world.run(HEALING_S)
    world.check_whole()
    world.clients_act = False
    world.run(TTL_S / 2)
    world.check_whole()
    return world


@pytest.mark.parametrize("batch", SEEDS.batches)
def test_what_lives_is_shown_everywhere_after_faults_and_nobody_is_woken_for_nothing(batch: int) -> None:
    totals: dict[str, int] = {}
    for seed in SEEDS.of(batch):
        add_up(totals, simulate(seed).counts)

    # Whether the network is cut or loses anything is drawn for each world; these happen in every batch.
    happened = {name: totals[name] > 0 for name in ("kill", "adopted", "lapsed", "removed", "woken")}
    assert not SEEDS.prove or all(happened.values()), totals


@pytest.mark.parametrize("seed", [7, 103])
def test_the_same_seed_gives_the_same_run(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend("tests/sim")

    assert len(traces_of(TRACE, seed)) == 1
