"""Whatever happens, and wherever the operator is killed: its rules hold, and the cluster ends as the spec wants it."""

import pytest

from ringkeep_testing.operator_walk import walk


@pytest.mark.parametrize("seed", range(12))
def test_a_cluster_that_is_left_alone_becomes_what_the_spec_wants_and_no_rule_was_broken(seed: int) -> None:
    life = walk(seed)

    assert (life.world.broken, life.is_ready, life.is_idle) == ([], True, True), (
        f'python -c "from ringkeep_testing.operator_walk import walk; print(walk({seed}))"'
    )


@pytest.mark.parametrize("seed", range(200, 208))
def test_what_is_seen_late_breaks_no_rule_either(seed: int) -> None:
    life = walk(seed, looks_late=True)

    assert (life.world.broken, life.is_ready, life.is_idle) == ([], True, True)


@pytest.mark.slow
@pytest.mark.parametrize("first", range(100, 130, 15))
def test_many_more_lives_end_well(first: int) -> None:
    lives = {seed: walk(seed) for seed in range(first, first + 15)}
    ends = {
        seed: (life.world.broken, life.is_ready, life.is_idle)
        for seed, life in lives.items()
        if life.world.broken or not life.is_ready or not life.is_idle
    }

    assert ends == {}


# Found by this test; each was a bug.
@pytest.mark.parametrize("seed", [9, 23, 32, 44, 53, 55, 65])
def test_a_life_that_once_ended_badly_ends_well(seed: int) -> None:
    life = walk(seed)

    assert (life.world.broken, life.is_ready, life.is_idle) == ([], True, True)
