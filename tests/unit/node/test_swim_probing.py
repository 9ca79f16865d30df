"""The order of probes, and calls to lost addresses."""

import random
from itertools import pairwise

from ringkeep_node.machines.swim import SwimSettings
from ringkeep_node.machines.swim.dissemination import Outbox, RowCursor, batches, digest_of, within
from ringkeep_node.machines.swim.members import MemberState
from ringkeep_node.machines.swim.messages import Row, Update, size
from ringkeep_node.machines.swim.probing import Calls, Probe, ProbeRing
from ringkeep_testing.swim_traces import news_of, storage_of


def test_the_ring_asks_everybody_once_before_anybody_twice() -> None:
    ring = ProbeRing(random.Random(1).random)
    members = [f"m{number}" for number in range(7)]
    rounds = [[ring.next(members) for _ in members] for _ in range(3)]

    assert [sorted(map(str, one)) for one in rounds] == [members] * 3
    assert len({tuple(one) for one in rounds}) > 1


def test_a_newcomer_is_asked_in_the_round_it_came_in() -> None:
    ring = ProbeRing(random.Random(1).random)
    members = ["a", "b", "c"]
    first = [ring.next(members)]
    ring.add("d")
    rest = [ring.next([*members, "d"]) for _ in range(3)]

    assert sorted(map(str, first + rest)) == ["a", "b", "c", "d"]


def test_the_ring_skips_who_is_gone_and_knows_when_nobody_is_there() -> None:
    ring = ProbeRing(random.Random(1).random)
    ring.next(["a", "b"])

    assert [ring.next(["b"]) for _ in range(3)] == ["b", "b", "b"]
    assert ring.next([]) is None


def test_a_lost_address_is_called_for_ever_with_pauses_that_end_at_two_seconds() -> None:
    calls = Calls(SwimSettings(), lambda: 1.0)
    calls.want([("x", 1)], 0.0)
    times = []
    now = 0.0
    while now < 3600.0:
        now = calls.next_at() or 0.0
        assert calls.due(now) == [("x", 1)]
        times.append(now)

    assert times[:5] == [0.0, 0.25, 0.75, 1.75, 3.75]
    assert {round(later - sooner, 6) for sooner, later in pairwise(times[4:])} == {2.0}


def test_an_address_that_is_found_is_called_no_more() -> None:
    calls = Calls(SwimSettings(), lambda: 1.0)
    calls.want([("x", 1), ("y", 1)], 0.0)
    calls.want([("y", 1)], 1.0)

    assert (calls.due(1.0), calls.next_at()) == ([("y", 1)], 1.25)


def test_a_probe_waits_longer_by_our_worst_lag_only() -> None:
    probe = Probe(number=1, target="a", now=10.0, helpers_s=0.12, fails_s=0.25, lag_s=0.3)
    for lag_s in (0.25, 0.25, 0.5):
        probe.postpone(lag_s)

    assert (probe.helpers_at, probe.fails_at) == (10.62, 10.75)


def test_news_are_told_as_often_as_agreed_the_least_told_first() -> None:
    outbox = Outbox()
    old, new = news_of("n1", MemberState.ALIVE), news_of("n2", MemberState.ALIVE)
    outbox.put(old)
    first = outbox.take(1000, count_max=9, sends_max=2)
    outbox.put(new)

    assert (first, outbox.take(1000, count_max=9, sends_max=2)) == ((old,), (new, old))
    assert outbox.take(1000, count_max=9, sends_max=2) == (new,)
    assert not outbox


def test_a_refutation_takes_the_accusation_out_of_the_mail() -> None:
    outbox = Outbox()
    outbox.put(news_of("n1", MemberState.SUSPECT, by="n2"))
    outbox.put(news_of("n1", MemberState.SUSPECT, by="n3"))
    outbox.put(news_of("n1", MemberState.ALIVE, incarnation=1, by="n1"))

    assert outbox.take(1000, count_max=9, sends_max=9) == (news_of("n1", MemberState.ALIVE, incarnation=1, by="n1"),)


def test_the_mail_is_bounded() -> None:
    outbox = Outbox()
    for number in range(1000):
        outbox.put(news_of(f"n{number}", MemberState.ALIVE))

    assert len(outbox.take(1 << 20, count_max=2000, sends_max=9)) == 256


def test_ranges_of_rows_cover_all_members_without_gaps() -> None:
    storages = [f"{number:016x}" for number in range(70)]
    cursor = RowCursor(32)
    ranges = [cursor.next(storages) for _ in range(3)]

    assert [storage for _, _, chosen in ranges for storage in chosen] == storages
    assert all(within(one, low, high) for low, high, chosen in ranges for one in chosen)
    assert (ranges[0][0], ranges[2][1]) == ("", "")


def test_equal_tables_have_equal_digests_and_any_difference_shows() -> None:
    row = Row(storage_of("n1"), 1, 2, MemberState.ALIVE, 1, 5)
    others = [
        Row(storage_of("n2"), 1, 2, MemberState.ALIVE, 1, 5),
        Row(storage_of("n1"), 2, 2, MemberState.ALIVE, 1, 5),
        Row(storage_of("n1"), 1, 3, MemberState.ALIVE, 1, 5),
        Row(storage_of("n1"), 1, 2, MemberState.SUSPECT, 1, 5),
        Row(storage_of("n1"), 1, 2, MemberState.ALIVE, 1, 6),
    ]

    assert len({digest_of([one]) for one in [row, *others]}) == 6
    assert digest_of([row]) == digest_of(iter([row]))


def test_groups_of_news_fit_and_lose_nothing() -> None:
    news: list[Update] = [news_of(f"n{number}", MemberState.ALIVE) for number in range(40)]
    groups = list(batches(news, 500, count_max=64))

    assert [one for group in groups for one in group] == news
    assert max(sum(map(size, group)) for group in groups) <= 500
