"""Versioned values of each member: owner-only writes, differences, limits."""

import random

import pytest

from ringkeep_node.machines.gossip_state import OWNER_BYTES_MAX, VALUE_BYTES_MAX, Delta, Entry, GossipState

A, B = "a" * 16, "b" * 16


def state(owner: str = A, counter: int = 1) -> GossipState:
    return GossipState(owner=owner, counter=counter)


def delta_of(source: GossipState, owner: str, counter: int = 0, version: int = 0, *, bytes_max: int = 1400) -> Delta:
    delta = source.since(owner, counter, version, bytes_max=bytes_max)
    assert delta is not None
    return delta


def test_what_an_owner_writes_reaches_whoever_takes_its_delta() -> None:
    a, b = state(A), state(B)
    a.set("load", b"3")
    a.set("map", b"17")
    a.set("load", b"4")

    assert b.apply(delta_of(a, A)) == (("map", b"17"), ("load", b"4"))
    assert dict(b.values(A)) == {"map": b"17", "load": b"4"}
    assert b.held(A) == a.held(A) == (1, 3)


def test_writing_the_same_value_again_is_no_change() -> None:
    a = state(A)

    assert [a.set("load", b"3"), a.set("load", b"3")] == [True, False]
    assert a.held(A) == (1, 1)


def test_nobody_but_the_owner_writes_its_values() -> None:
    a, b = state(A), state(B)
    a.set("load", b"3")
    forged = Delta(owner=A, counter=9, base=0, version=9, entries=(Entry("load", 9, b"9"),))

    assert a.apply(forged) == ()
    assert dict(a.values(A)) == {"load": b"3"}
    assert dict(b.values(A)) == {}


def test_a_delta_with_a_gap_before_it_is_not_taken() -> None:
    a, b = state(A), state(B)
    for value in (b"1", b"2", b"3"):
        a.set("x", value)
    late = delta_of(a, A, 1, 2)

    assert (b.apply(late), b.held(A)) == ((), (0, 0))


def test_an_old_delta_that_comes_late_changes_nothing() -> None:
    a, b = state(A), state(B)
    a.set("x", b"1")
    old = delta_of(a, A)
    a.set("x", b"2")
    b.apply(delta_of(a, A))

    assert (b.apply(old), dict(b.values(A))) == ((), {"x": b"2"})


def test_a_new_boot_of_the_owner_throws_away_what_the_old_one_said() -> None:
    old, new, b = state(A, 1), state(A, 2), state(B)
    old.set("stalled", b"yes")
    old.set("load", b"3")
    b.apply(delta_of(old, A))
    new.set("load", b"0")

    assert b.apply(delta_of(new, A)) == (("stalled", b""), ("load", b"0"))
    assert b.apply(delta_of(old, A)) == ()
    assert dict(b.values(A)) == {"load": b"0"}


def test_a_restart_that_says_nothing_yet_clears_the_values_too() -> None:
    old, b = state(A, 1), state(B)
    old.set("stalled", b"yes")
    b.apply(delta_of(old, A))

    assert b.restart(A, 2) == (("stalled", b""),)
    assert (b.restart(A, 2), b.restart(B, 5), dict(b.values(A))) == ((), (), {})


def test_an_empty_value_removes_a_key_everywhere() -> None:
    a, b = state(A), state(B)
    a.set("leaving", b"yes")
    b.apply(delta_of(a, A))
    a.set("leaving", b"")

    assert b.apply(delta_of(a, A, *b.held(A))) == (("leaving", b""),)
    assert dict(b.values(A)) == dict(a.values(A)) == {}


def test_a_delta_is_cut_where_the_datagram_is_full_and_goes_on_from_there() -> None:
    a, b = state(A), state(B)
    for number in range(6):
        a.set(f"k{number}", bytes(400))
    rounds = 0
    while b.held(A) != a.held(A):
        b.apply(delta_of(a, A, *b.held(A), bytes_max=1000))
        rounds += 1

    assert (rounds, dict(b.values(A))) == (3, dict(a.values(A)))


def test_values_travel_through_third_parties() -> None:
    a, b, c = state(A), state(B), state("c" * 16)
    a.set("load", b"3")
    b.apply(delta_of(a, A))

    assert c.apply(delta_of(b, A)) == (("load", b"3"),)


def test_too_much_is_refused_and_leaves_everything_as_it_was() -> None:
    a, b = state(A), state(B)
    for number in range(OWNER_BYTES_MAX // (VALUE_BYTES_MAX + 32)):
        a.set(f"k{number}", bytes(VALUE_BYTES_MAX - 16))
    held = a.held(A)
    with pytest.raises(ValueError, match="does not fit"):
        a.set("one-more", bytes(VALUE_BYTES_MAX))
    with pytest.raises(ValueError, match="does not fit"):
        a.set("long", bytes(VALUE_BYTES_MAX + 1))
    flood = Delta(A, 1, 0, 20, tuple(Entry(f"k{n}", n, bytes(VALUE_BYTES_MAX)) for n in range(1, 21)))

    assert a.held(A) == held
    assert (b.apply(flood), b.held(A)) == ((), (0, 0))


@pytest.mark.parametrize("seed", range(30))
def test_whatever_is_lost_or_repeated_on_the_way_everybody_ends_with_the_owners_values(seed: int) -> None:
    draw = random.Random(seed)
    owner, others = state(A), [state(B), state("c" * 16)]
    for _ in range(60):
        before = owner.held(A)
        owner.set(f"k{draw.randrange(5)}", bytes([draw.randrange(3)] * draw.randrange(3)))
        for other in others:
            if draw.random() < 0.5:
                base = before if draw.random() < 0.5 else other.held(A)
                delta = owner.since(A, *base, bytes_max=draw.choice([40, 1400]))
                if delta is not None:
                    other.apply(delta)
    for other in others:
        while (rest := owner.since(A, *other.held(A), bytes_max=60)) is not None:
            other.apply(rest)

    assert [dict(other.values(A)) for other in others] == [dict(owner.values(A))] * 2
