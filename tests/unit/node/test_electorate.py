"""Who votes: as many as the members call for, spread over zones, and one harmless step at a time."""

from __future__ import annotations

from random import Random

import pytest

from ringkeep_node.machines.electorate import Elector, Handover, chosen, next_step
from ringkeep_node.machines.raft import membership
from ringkeep_node.machines.raft.messages import Configuration


def electors(names: str, *, dead: str = "", going: str = "", light: str = "", zones: str = "") -> list[Elector]:
    """One elector a letter: storage id and name are the letter; ``zones`` gives each its zone by place."""
    return [
        Elector(
            name,
            name,
            zone=zones[place] if zones else "",
            lives=name not in dead,
            stays=name not in going,
            carries=name not in light,
        )
        for place, name in enumerate(names)
    ]


def step(
    members: list[Elector], voters: str, learners: str = "", *, leader: str = "a", level: str = "abcdefghij"
) -> Configuration | Handover | None:
    return next_step(
        members,
        Configuration(tuple(voters), tuple(learners)),
        leader=leader,
        level=level,
    )


@pytest.mark.parametrize(
    ("members", "voters"),
    [("a", "a"), ("ab", "ab"), ("abc", "abc"), ("abcd", "abc"), ("abcde", "abcde"), ("abcdefg", "abcde")],
)
def test_one_two_three_three_and_then_five_vote(members: str, voters: str) -> None:
    assert chosen(electors(members), Configuration(("a",))) == tuple(voters)


def test_who_votes_already_goes_on_voting() -> None:
    assert chosen(electors("abcd"), Configuration(("b", "c", "d"))) == ("b", "c", "d")


def test_voters_are_spread_over_zones() -> None:
    members = electors("abcdef", zones="xxxxyz")

    assert chosen(members[:3] + members[4:6], Configuration(("a", "b", "c")), lambda _: 3) == ("a", "e", "f")


def test_a_pure_gateway_votes_only_where_nobody_carries_weight() -> None:
    assert chosen(electors("abcd", light="ab"), Configuration(("a",))) == ("c", "d")
    assert chosen(electors("ab", light="ab"), Configuration(("a",))) == ("a", "b")


def test_a_voter_that_is_dead_within_the_grace_keeps_its_vote_and_a_dead_member_gets_none() -> None:
    assert chosen(electors("abcd", dead="c"), Configuration(("a", "b", "c"))) == ("a", "b", "c")
    assert chosen(electors("abcde", dead="e"), Configuration(("a", "b", "c"))) == ("a", "b", "c", "d")


def test_a_new_voter_is_first_a_learner_then_level_and_only_then_votes() -> None:
    members = electors("abc")

    assert step(members, "ab") == Configuration(("a", "b"), ("c",))
    assert step(members, "ab", "c", level="ab") is None
    assert step(members, "ab", "c") == Configuration(("a", "b", "c"))
    assert step(members, "abc") is None


def test_a_lost_disk_is_replaced_before_its_vote_is_taken_away() -> None:
    members = electors("abd")

    assert step(members, "abc") == Configuration(("a", "b", "c"), ("d",))
    assert step(members, "abc", "d") == Configuration(("a", "b", "c", "d"))
    assert step(members, "abcd") == Configuration(("a", "b", "d"))


def test_the_dead_go_before_the_living_and_no_step_leaves_a_dead_majority() -> None:
    members = electors("abcde", dead="bc", going="de")

    assert step(members, "abcde") is None
    assert step(electors("abcde", dead="d", going="de"), "abcde") == Configuration(("a", "b", "c", "e"))


def test_a_learner_that_nobody_needs_any_more_is_let_go() -> None:
    assert step(electors("abc"), "abc", "d") == Configuration(("a", "b", "c"))


def test_a_leader_that_goes_hands_leadership_over_before_its_vote_goes() -> None:
    assert step(electors("abcd", going="a"), "abcd") == Handover(("b", "c", "d"))
    assert step(electors("abcd", going="a"), "abcd", leader="b") == Configuration(("b", "c", "d"))


def test_every_history_ends_at_the_chosen_voters_by_steps_that_raft_takes_and_that_never_stop_it() -> None:
    draw = Random(20)
    for _ in range(400):
        names = "abcdefghij"[: draw.randint(1, 10)]
        voters = tuple(draw.sample(names, draw.randint(1, min(5, len(names)))))
        dead = "".join(name for name in names if name not in voters and draw.random() < 0.3)
        minority = (len(voters) - 1) // 2
        dead += "".join(draw.sample(voters, draw.randint(0, minority)))
        going = "".join(name for name in names if draw.random() < 0.3)
        zones = "".join(draw.choice("xyz") for _ in names)
        members = electors(names, dead=dead, going=going, zones=zones)
        configuration, leader = Configuration(voters), next(voter for voter in voters if voter not in dead)
        for _ in range(40):
            order = next_step(members, configuration, leader=leader, level=names)
            if order is None:
                break
            if isinstance(order, Handover):
                assert set(order.heirs) <= set(configuration.voters) and not set(order.heirs) & set(dead)
                leader = order.heirs[0]
                continue
            assert membership.refusal(configuration, order) is None
            assert sum(voter not in dead for voter in order.voters) >= membership.majority(order.voters)
            configuration = order
        else:
            raise AssertionError("the steps never end")

        target = chosen(members, configuration)
        surplus = set(configuration.voters) - set(target)
        stuck_with_the_dead = any(voter in dead for voter in target) or not any(name not in dead for name in target)
        assert set(target) <= set(configuration.voters) or not target
        assert not surplus or stuck_with_the_dead or not target
