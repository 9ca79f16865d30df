"""How many answers a network gets, in virtual time."""

from __future__ import annotations

import pytest

from ringkeep_node.dns.limits import AnswerRate, Verdict, network_of

ANSWER, TRUNCATE, DROP = Verdict.ANSWER, Verdict.TRUNCATE, Verdict.DROP


def test_a_network_gets_its_burst_and_then_every_second_question_a_hint_to_use_tcp() -> None:
    rate = AnswerRate(per_s=1, burst=2)

    verdicts = [rate.judge("10.0.0.1", now=100.0) for _ in range(6)]

    assert verdicts == [ANSWER, ANSWER, TRUNCATE, DROP, TRUNCATE, DROP]


def test_tokens_come_back_with_time_and_no_more_than_the_burst() -> None:
    rate = AnswerRate(per_s=2, burst=2)
    for _ in range(4):
        rate.judge("10.0.0.1", now=0.0)

    assert [rate.judge("10.0.0.1", now=0.5) for _ in range(2)] == [ANSWER, TRUNCATE]
    assert [rate.judge("10.0.0.1", now=1000.0) for _ in range(3)] == [ANSWER, ANSWER, TRUNCATE]


def test_the_addresses_of_one_network_share_and_other_networks_do_not() -> None:
    rate = AnswerRate(per_s=1, burst=1)

    assert [rate.judge(address, now=0.0) for address in ("10.0.0.1", "10.0.0.200", "10.0.1.1")] == [
        ANSWER,
        TRUNCATE,
        ANSWER,
    ]


def test_all_networks_together_have_twice_as_much() -> None:
    rate = AnswerRate(per_s=1, burst=2)

    verdicts = [rate.judge(f"10.0.{number}.1", now=0.0) for number in range(5)]

    assert verdicts == [ANSWER] * 4 + [TRUNCATE]
    assert [rate.judge(f"10.1.{number}.1", now=1.0) for number in range(3)] == [ANSWER, ANSWER, TRUNCATE]


def test_a_long_answer_counts_for_several() -> None:
    rate = AnswerRate(per_s=1, burst=10)
    rate.judge("10.0.0.1", now=0.0)
    rate.charge("10.0.0.1", 11)

    assert [rate.judge("10.0.0.1", now=now) for now in (0.0, 2.0, 3.0)] == [TRUNCATE, DROP, ANSWER]


def test_the_table_of_networks_is_bounded() -> None:
    rate = AnswerRate(per_s=1, burst=1, networks_max=3)
    for number in range(100):
        rate.judge(f"10.0.{number}.1", now=0.0)

    assert len(rate) == 3


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("10.1.2.3", "10.1.2.0/24"),
        ("::ffff:10.1.2.3", "10.1.2.0/24"),
        ("2001:db8:1:2:3::4", "2001:db8:1::/56"),
        ("fe80::1%eth0", "fe80::/56"),
        ("socket", "socket"),
    ],
)
def test_a_network_is_what_one_client_is_likely_to_have(address: str, network: str) -> None:
    assert network_of(address) == network
