"""A new primary takes over the longest log among the complete copies before its epoch begins."""

from __future__ import annotations

import pytest

from ringkeep_core.mapchanges import Boot, Shrink, Unfit
from ringkeep_node.machines.documents import Begin
from ringkeep_node.machines.records import Kind
from ringkeep_node.machines.shard.effects import LogEntry, NotApplied, ReadLog
from ringkeep_node.machines.shard.messages import Append, EpochAsk, EpochEnd, Fetch, Fetched, Tail, TailAsk
from ringkeep_testing.maps import FIRST, shard
from ringkeep_testing.shard_bench import Bench, appended, put_entry, recovered_copy, tell_tails

KEY = (0, FIRST)


def _new_primary(*ends: tuple[int, int]) -> Bench:
    """Return a node that leads epoch 9 over a log with these (epoch, last sn) and asked "b" and "c"."""
    entries, sn = [], 0
    for of, end in ends:
        entries += [put_entry(of, number) for number in range(sn + 1, end + 1)]
        sn = end
    bench = Bench(shard("a b c", epoch=9), recovered={KEY: recovered_copy(entries)} if entries else None)
    bench.answer_index()
    bench.up("b", "c")
    return bench


def test_every_member_is_asked_under_a_promise_that_is_durable_first() -> None:
    bench = Bench(shard("a b c", epoch=9), holds=False)
    bench.up("b", "c")
    bench.syncs = False
    bench.hold(bench.map)
    before = list(bench.sent)
    bench.sync()

    assert (before, [record.kind for record in bench.records]) == ([], [Kind.SHARD_PROMISE])
    assert bench.sent == [("b", TailAsk(0, 9)), ("c", TailAsk(0, 9))]


def test_the_epoch_begins_when_the_last_member_has_told_its_end() -> None:
    bench = _new_primary((1, 2))
    tell_tails(bench, "b", last=(1, 2))
    early = bench.last_sn
    tell_tails(bench, "c", last=(1, 1))

    assert (early, bench.last_sn, bench.lead().begin_sn) == (2, 3, 3)
    assert appended(bench)[-1] == Begin("a", "a-1", 0)


def test_entries_leave_only_when_the_epoch_has_begun_and_first_comes_its_start() -> None:
    bench = _new_primary((1, 2))
    tell_tails(bench, "b", "c", last=(1, 2))

    (message,) = bench.said("b", Append)

    assert (message.epoch, message.prev_epoch, message.prev_sn, len(message.entries)) == (9, 1, 2, 1)


def test_an_end_of_another_epoch_copy_or_boot_is_not_counted() -> None:
    bench = _new_primary((1, 2))
    bench.hear("b", Tail(0, FIRST, 8, 1, 2))
    bench.hear("b", Tail(0, FIRST + 1, 9, 1, 2))
    bench.hear("b", Tail(0, FIRST, 9, 1, 2), boot="b-0")
    tell_tails(bench, "c", last=(1, 2))

    assert bench.lead().begin_sn == 0


def test_the_greatest_end_is_fetched_piece_by_piece_and_then_the_epoch_begins() -> None:
    bench = _new_primary((1, 2))
    tell_tails(bench, "b", last=(1, 4))
    tell_tails(bench, "c", last=(2, 4))
    assert bench.said("c", EpochAsk) == [EpochAsk(0, FIRST, 9, 1, 2)]
    bench.hear("c", EpochEnd(0, 9, 1, 1, 3))
    assert bench.said("c", Fetch) == [Fetch(0, 9, 2)]
    tail = [put_entry(1, 3), put_entry(2, 4)]
    bench.hear("c", Fetched(0, 9, 2, ((1, tail[0][2]),)))
    assert bench.said("c", Fetch) == [Fetch(0, 9, 3)]
    bench.hear("c", Fetched(0, 9, 3, ((2, tail[1][2]),)))

    log = bench.copy().log
    assert [log.cached[sn] for sn in (3, 4)] == tail
    assert (bench.lead().begin_sn, bench.said("b", EpochAsk)) == (5, [])


def test_a_longer_end_of_an_older_epoch_is_not_ahead() -> None:
    bench = _new_primary((3, 2))
    tell_tails(bench, "b", "c", last=(2, 90))

    assert bench.lead().begin_sn == 3


def test_a_piece_that_does_not_follow_is_ignored() -> None:
    bench = _new_primary((1, 2))
    tell_tails(bench, "b", last=(0, 0))
    tell_tails(bench, "c", last=(1, 4))
    bench.hear("c", EpochEnd(0, 9, 1, 1, 4))
    bench.hear("c", Fetched(0, 9, 3, ((1, put_entry(1, 4)[2]),)))
    bench.hear("b", Fetched(0, 9, 2, ((1, put_entry(1, 3)[2]),)))

    assert bench.last_sn == 2


def test_logs_that_parted_more_than_one_epoch_ago_are_compared_down_to_the_common_one() -> None:
    # Ours: epoch 1 to sn 5, epoch 3 to 7. Theirs: epoch 1 to 4, epoch 2 to 6, epoch 4 to 9.
    bench = _new_primary((1, 5), (3, 7))
    tell_tails(bench, "b", last=(0, 0))
    tell_tails(bench, "c", last=(4, 9))
    assert bench.said("c", EpochAsk) == [EpochAsk(0, FIRST, 9, 3, 7)]
    bench.hear("c", EpochEnd(0, 9, 3, 2, 6))
    assert bench.said("c", EpochAsk) == [EpochAsk(0, FIRST, 9, 1, 7)]
    bench.hear("c", EpochEnd(0, 9, 1, 1, 4))

    assert (bench.said("c", Fetch), bench.last_sn) == ([Fetch(0, 9, 4)], 4)


def test_a_late_answer_does_not_cut_what_was_fetched_since() -> None:
    bench = _new_primary((1, 2))
    tell_tails(bench, "b", last=(0, 0))
    tell_tails(bench, "c", last=(2, 5))
    bench.hear("c", EpochEnd(0, 9, 1, 1, 2))
    bench.hear("c", Fetched(0, 9, 2, ((2, put_entry(2, 3)[2]),)))
    bench.hear("c", EpochEnd(0, 9, 1, 1, 2))

    assert bench.last_sn == 3


def test_a_silent_member_is_proposed_for_removal_after_three_seconds() -> None:
    bench = _new_primary((1, 2))
    tell_tails(bench, "b", last=(1, 2))
    bench.wait(2.8)
    before = list(bench.proposals)
    bench.wait(0.4)

    assert (before, bench.proposals) == ([], [Shrink(0, 9, ("c",))])


def test_a_member_that_tells_its_end_and_then_sends_nothing_is_proposed_for_removal() -> None:
    bench = _new_primary((1, 2))
    tell_tails(bench, "b", last=(1, 2))
    tell_tails(bench, "c", last=(1, 9))
    bench.hear("c", EpochEnd(0, 9, 1, 1, 9))
    bench.wait(2.0)
    bench.hear("c", Fetched(0, 9, 2, ((1, put_entry(1, 3)[2]),)))
    bench.down("c")
    bench.wait(2.8)
    before = list(bench.proposals)
    bench.wait(0.4)

    assert (before, bench.proposals) == ([], [Shrink(0, 9, ("c",))])


def test_the_next_longest_log_has_its_own_time_when_the_longest_is_removed() -> None:
    bench = _new_primary((1, 2))
    tell_tails(bench, "b", last=(1, 3))
    tell_tails(bench, "c", last=(1, 9))
    bench.wait(3.2)
    bench.change(Shrink(0, 9, ("c",)))
    bench.proposals.clear()
    bench.said("b", EpochAsk)
    bench.wait(2.8)

    assert bench.proposals == []
    assert EpochAsk(0, FIRST, 9, 1, 2) in bench.said("b", EpochAsk)


def test_a_copy_that_lacks_what_the_longest_log_has_let_go_of_gives_itself_up() -> None:
    bench = _new_primary((1, 2))
    tell_tails(bench, "b", last=(1, 2))
    tell_tails(bench, "c", last=(1, 9))
    bench.hear("c", EpochEnd(0, 9, 1, 1, 9))
    bench.hear("c", Fetched(0, 9, 2, ()))
    bench.sent.clear()
    bench.wait(10.0)

    assert (bench.sent, bench.proposals[0], bench.copy().unfit) == ([], Unfit(0, 9, "a", FIRST), True)


def test_an_empty_answer_about_what_came_meanwhile_gives_nothing_up() -> None:
    bench = _new_primary((1, 2))
    tell_tails(bench, "b", last=(1, 2))
    tell_tails(bench, "c", last=(1, 4))
    bench.hear("c", EpochEnd(0, 9, 1, 1, 4))
    bench.hear("c", Fetched(0, 9, 2, ((1, put_entry(1, 3)[2]),)))
    bench.hear("c", Fetched(0, 9, 2, ()))
    bench.hear("b", Fetched(0, 9, 3, ()))

    assert not bench.copy().unfit


def test_a_silent_member_is_asked_again() -> None:
    bench = _new_primary((1, 2))
    tell_tails(bench, "b", last=(1, 2))
    bench.sent.clear()
    bench.wait(0.5)

    assert bench.sent == [("c", TailAsk(0, 9))]


def test_the_epoch_begins_without_a_member_that_the_map_no_longer_lists_in_sync() -> None:
    bench = _new_primary((1, 2))
    tell_tails(bench, "b", last=(1, 2))
    bench.change(Shrink(0, 9, ("c",)))

    assert bench.lead().begin_sn == 3


def test_an_eligible_copy_that_is_not_connected_is_not_waited_for() -> None:
    bench = Bench(shard("a", eligible="b", epoch=9))

    assert bench.lead().begin_sn == 1


def test_an_eligible_copy_that_is_connected_before_the_map_is_asked_and_waited_for() -> None:
    bench = Bench(shard("a", eligible="b", epoch=9), holds=False)
    bench.up("b")
    bench.hold(bench.map)
    before = bench.lead().begin_sn
    tell_tails(bench, "b")

    assert (before, bench.lead().begin_sn) == (0, 1)


def test_a_member_that_restarted_is_asked_anew() -> None:
    bench = _new_primary((1, 2))
    tell_tails(bench, "b", last=(1, 2))
    bench.change(Boot("b", "b", "b-2", 2, "http://b", "b:1", live=()))
    tell_tails(bench, "c", last=(1, 2))

    assert bench.lead().begin_sn == 0


def test_a_log_that_would_lose_applied_entries_makes_the_copy_unfit_and_it_refuses_to_lead() -> None:
    bench = _new_primary((1, 3))
    bench.copy().handed = 3
    tell_tails(bench, "b", last=(0, 0))
    tell_tails(bench, "c", last=(2, 3))
    bench.hear("c", EpochEnd(0, 9, 1, 1, 2))
    token = bench.write("w")

    assert bench.proposals == [Unfit(0, 9, "a", FIRST)]
    assert bench.result(token) == NotApplied("no_primary", "this node cannot lead the shard now")


def test_writes_that_come_before_the_epoch_begins_wait_up_to_a_bound() -> None:
    bench = _new_primary((1, 2))
    limit = bench.machine._ctx.settings.waiting_writes_max
    tokens = [bench.write("w") for _ in range(limit + 1)]

    assert [bench.result(token) for token in tokens[-2:]] == [None, NotApplied("overloaded")]

    tell_tails(bench, "b", "c", last=(1, 2))

    assert bench.last_sn == 3 + limit


def test_waiting_requests_that_nobody_waits_for_any_more_make_room() -> None:
    bench = _new_primary((1, 2))
    limit = bench.machine._ctx.settings.waiting_writes_max
    for _ in range(limit):
        bench.write("w", deadline=bench.now + 1)
    bench.wait(1.0)
    fresh = bench.write("new")
    tell_tails(bench, "b", "c", last=(1, 2))

    assert (bench.result(fresh), bench.last_sn) == (None, 4)


def test_a_copy_whose_tail_is_only_on_disk_reads_it_for_the_new_primary() -> None:
    entries = [put_entry(1, 1), put_entry(1, 2)]
    bench = Bench(shard("b a", epoch=9), recovered={KEY: recovered_copy(entries)})
    bench.up("b")
    bench.copy().log.cached.clear()
    bench.copy().log.first = 3
    bench.hear("b", Fetch(0, 9, 0))
    (read,) = bench.reads
    assert isinstance(read, ReadLog)
    bench.machine.log_read(read.token, entries, now=bench.now)
    bench.pump()

    assert (read.after_sn, bench.said("b", Fetched)) == (
        0,
        [Fetched(0, 9, 0, tuple((epoch, payload) for epoch, _, payload in entries))],
    )


@pytest.mark.parametrize("found", [None, [put_entry(1, 2)]])
def test_a_copy_whose_log_has_let_go_of_the_tail_says_so(found: list[LogEntry] | None) -> None:
    bench = Bench(shard("b a", epoch=9), recovered={KEY: recovered_copy([put_entry(1, 1), put_entry(1, 2)])})
    bench.up("b")
    bench.copy().log.cached.clear()
    bench.copy().log.first = 3
    bench.hear("b", Fetch(0, 9, 0))
    bench.machine.log_read(bench.reads[0].token, found, now=bench.now)
    bench.pump()

    assert bench.said("b", Fetched) == [Fetched(0, 9, 0, ())]


def test_a_copy_that_was_dropped_while_its_log_was_read_answers_nothing() -> None:
    bench = Bench(shard("b c a", epoch=9), recovered={KEY: recovered_copy([put_entry(1, 1)])})
    bench.up("b", "c")
    bench.copy().log.cached.clear()
    bench.copy().log.first = 2
    bench.hear("b", Fetch(0, 9, 0))
    bench.shard_is(shard("b c", epoch=9))
    bench.machine.log_read(bench.reads[0].token, None, now=bench.now)
    bench.pump()

    assert bench.said("b", Fetched) == []


def test_a_copy_is_silent_about_what_comes_after_its_end() -> None:
    bench = Bench(shard("b a", epoch=9), recovered={KEY: recovered_copy([put_entry(1, 1)])})
    bench.up("b")
    bench.hear("b", Fetch(0, 9, 1))

    assert bench.said("b", Fetched) == []


def test_a_copy_tells_its_end_when_promise_and_log_are_durable() -> None:
    bench = Bench(shard("b a", epoch=9), recovered={KEY: recovered_copy([put_entry(1, 1)])})
    bench.up("b")
    bench.syncs = False
    bench.hear("b", TailAsk(0, 9))
    before = bench.said("b", Tail)
    bench.sync()

    assert (before, bench.said("b", Tail)) == ([], [Tail(0, FIRST, 9, 1, 1)])
    assert [(record.kind, record.epoch) for record in bench.records] == [(Kind.SHARD_PROMISE, 9)]
