"""A death counts when most live voters report it (replication.md, Members; counterexamples.md L3)."""

import pytest

from ringkeep_node.machines.swim import members
from ringkeep_node.machines.verdicts import (
    REPORTS_MAX,
    MemberFacts,
    Verdict,
    decode_reports,
    encode_reports,
    judge,
)


def _judged(voters: str, views: dict[str, str], *, members: str = "", dead_boot: int = 1) -> dict[str, bool]:
    """Return who is dead, when ``views`` says whom each node calls dead; the leader is ``a``."""
    everybody = (members or voters).split()
    facts = {
        name: MemberFacts(
            storage=name,
            counter=dead_boot,
            dead=name in views.get("a", "").split(),
            reports=tuple((other, dead_boot) for other in views.get(name, "").split()),
        )
        for name in everybody
    }
    verdicts = judge("a", registered=dict.fromkeys(everybody, 1), voters=voters.split(), facts=facts)
    return {storage: verdict.dead for storage, verdict in sorted(verdicts.items())}


def test_nobody_is_judged_while_nobody_is_accused() -> None:
    assert _judged("a b c", {}) == {}


def test_the_leaders_own_view_alone_is_not_enough() -> None:
    assert _judged("a b c", {"a": "c"}) == {"c": False}
    assert _judged("a b c d e", {"a": "e"}) == {"e": False}


def test_most_live_voters_are_enough_without_the_leaders_own_view() -> None:
    """L3: a leader that is slow itself believes the others."""
    assert _judged("a b c d e", {"b": "e", "c": "e", "d": "e"}) == {"e": True}


@pytest.mark.parametrize(
    ("voters", "views", "dead"),
    [
        ("a b c", {"a": "c", "b": "c"}, True),
        ("a b c", {"b": "c"}, False),
        ("a b c d e", {"a": "e", "b": "e", "c": "e"}, True),
        ("a b c d e", {"a": "e", "b": "e"}, False),
        ("a b", {"a": "b"}, True),
    ],
)
def test_more_than_half_of_the_other_live_voters_must_agree(voters: str, views: dict[str, str], dead: bool) -> None:
    (verdict,) = _judged(voters, views).values()

    assert verdict is dead


def test_reports_of_members_that_do_not_vote_do_not_count() -> None:
    views = {"a": "f", "d": "f", "e": "f"}

    assert _judged("a b c", views, members="a b c d e f") == {"f": False}
    assert _judged("a b c", views | {"b": "f"}, members="a b c d e f") == {"f": True}


def test_voters_that_died_with_it_do_not_hold_a_verdict_up() -> None:
    views = {"a": "d e", "b": "d e", "c": "d e"}
    one_late = {"a": "d e", "b": "d e", "c": "d"}

    assert _judged("a b c d e", views) == {"d": True, "e": True}
    assert _judged("a b c d e", one_late) == {"d": True, "e": True}


def test_a_leader_that_sees_nobody_condemns_nobody() -> None:
    assert _judged("a b c", {"a": "b c"}) == {"b": False, "c": False}
    assert _judged("a b c d e", {"a": "b c d e"}) == {"b": False, "c": False, "d": False, "e": False}


def test_the_only_voter_judges_alone() -> None:
    assert _judged("a", {"a": "b"}, members="a b") == {"b": True}


def test_reports_about_an_earlier_boot_than_the_registered_one_are_void() -> None:
    facts = {
        "a": MemberFacts(storage="a", counter=1),
        "b": MemberFacts(storage="b", counter=1, reports=(("c", 4), ("x", 1))),
        "c": MemberFacts(storage="c", counter=4, dead=True),
    }

    assert judge("a", registered={"a": 1, "b": 1, "c": 5}, voters=("a", "b", "c"), facts=facts) == {}


def test_reports_about_an_earlier_boot_than_the_one_that_is_heard_are_old_news() -> None:
    facts = {
        "a": MemberFacts(storage="a", counter=1),
        "b": MemberFacts(storage="b", counter=1, reports=(("d", 1),)),
        "c": MemberFacts(storage="c", counter=1, reports=(("d", 1),)),
        "d": MemberFacts(storage="d", counter=2),
    }

    assert judge("a", registered=dict.fromkeys("abcd", 1), voters=("a", "b", "c"), facts=facts) == {}


def test_a_boot_that_died_before_it_was_registered_counts() -> None:
    assert _judged("a b c", {"a": "c", "b": "c"}, dead_boot=2) == {"c": True}


def test_the_leader_is_not_judged_by_others_and_nobody_by_itself() -> None:
    assert _judged("a b c", {"b": "a b", "c": "a"}) == {}


def test_a_verdict_carries_who_was_asked_who_said_so_and_why() -> None:
    facts = {
        "a": MemberFacts(storage="a", counter=1),
        "b": MemberFacts(storage="b", counter=1, reports=(("c", 1),)),
        "c": MemberFacts(
            storage="c", counter=1, dead=True, evidence=(members.Testimony("b", 3.0, members.Evidence.REFUSED),)
        ),
    }
    verdicts = judge("a", registered={"a": 1, "b": 1, "c": 1}, voters=("a", "b", "c"), facts=facts)

    assert verdicts == {
        "c": Verdict(
            storage="c",
            counter=1,
            dead=True,
            accusers=("a", "b"),
            voters=("a", "b"),
            evidence=("b refused at 3.000",),
        )
    }


def test_reports_survive_the_gossip_and_are_bounded() -> None:
    many = [(f"{number:016x}", number) for number in range(60)]
    value = encode_reports(reversed(many))

    assert decode_reports(value) == tuple(many[:REPORTS_MAX])
    assert len(value) <= 512
    assert (encode_reports([]), decode_reports(b"")) == (b"", ())


@pytest.mark.parametrize(
    "value", [b"x", b":", b":1", b"a:", b"a:-1", b"a:1x", b"\xff\xfe:1" * 0 + b",,", b"a:" + b"9" * 30]
)
def test_reports_that_make_no_sense_are_left_out(value: bytes) -> None:
    assert decode_reports(value) == ()
