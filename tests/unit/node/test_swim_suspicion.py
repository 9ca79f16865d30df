"""How long a suspect may stay silent (Lifeguard, LHA-Suspicion; replication.md, "Members, failure, recovery")."""

import pytest

from ringkeep_node.machines.swim import SwimSettings
from ringkeep_node.machines.swim.suspicion import LocalHealth, Suspicion, silence_s

SETTINGS = SwimSettings()


def suspicion(*, slack_s: float = 0.0) -> Suspicion:
    return Suspicion(SETTINGS, now=10.0, slack_s=slack_s)


def test_the_wait_shrinks_with_each_confirmation_and_never_below_the_shortest() -> None:
    waits = [silence_s(confirmations=c, expected=2, shortest_s=3.0, longest_s=6.0) for c in range(5)]

    assert waits == [6.0, pytest.approx(4.107, abs=0.001), 3.0, 3.0, 3.0]


@pytest.mark.parametrize("members", [1, 2])
def test_where_nobody_could_confirm_the_shortest_wait_holds(members: int) -> None:
    alone = suspicion()
    alone.accuse("me", hard=False, members=members, now=10.0)

    assert alone.deadline(members) == 13.1


def test_one_hard_witness_of_five_is_not_enough_and_two_are() -> None:
    case = suspicion()
    case.accuse("me", hard=True, members=5, now=10.0)
    alone = case.deadline(5)
    case.accuse("you", hard=True, members=5, now=10.2)

    assert (alone, case.deadline(5)) == pytest.approx((16.2, 10.7))


def test_one_hard_witness_of_three_is_enough() -> None:
    case = suspicion()
    case.accuse("me", hard=True, members=3, now=10.0)

    assert case.deadline(3) == 10.5


def test_the_same_accuser_counts_once_but_hard_evidence_of_it_is_new() -> None:
    case = suspicion()
    said = [case.accuse("me", hard=hard, members=5, now=10.0) for hard in (False, False, True, True, False)]

    assert said == [True, False, True, False, False]


def test_a_sign_of_life_takes_back_what_we_saw_and_starts_the_wait_anew() -> None:
    case = suspicion()
    case.accuse("me", hard=True, members=3, now=10.0)
    case.withdraw("me", members=3, now=11.0)

    assert (case.accusers, case.deadline(3)) == ({}, 17.2)


def test_our_own_lag_adds_at_most_three_seconds_however_often_we_lag() -> None:
    case = suspicion()
    case.accuse("me", hard=False, members=2, now=10.0)
    for _ in range(100):
        case.lagged(0.25, members=2, now=10.0)

    assert case.deadline(2) == pytest.approx(16.1)


def test_after_a_gap_longer_than_that_the_queued_answers_get_half_a_second_once() -> None:
    case = suspicion()
    case.accuse("me", hard=False, members=2, now=10.0)
    case.lagged(60.0, members=2, now=70.0)
    first = case.deadline(2)
    case.lagged(60.0, members=2, now=130.0)

    assert (first, case.deadline(2)) == pytest.approx((70.5, 70.5))


def test_health_stays_between_best_and_worst() -> None:
    health = LocalHealth(7)
    scores = []
    for change in (-1, 3, 9, -2):
        health.change(change)
        scores.append(health.score)

    assert scores == [0, 3, 7, 5]


def test_settings_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(ValueError, match="contradicting"):
        SwimSettings(probe_timeout_s=0.3)
