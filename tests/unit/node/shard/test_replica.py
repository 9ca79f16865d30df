"""A copy that follows: whom it hears, what it appends, acknowledges, applies, and when it gives itself up."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from ringkeep_core.mapchanges import Boot, Failover, Unfit
from ringkeep_node.machines.records import Kind
from ringkeep_node.machines.shard.messages import Ack, Append, Commits, EpochAsk, EpochEnd, Tail, TailAsk
from ringkeep_node.machines.shard.settings import ReplicationSettings
from ringkeep_testing.maps import FIRST, shard
from ringkeep_testing.shard_bench import Bench, append_of, begin_entry, put_entry, recovered_copy

KEY = (0, FIRST)
BEGIN = begin_entry(1, 1, "b")
ASK_EVERY_S = 0.05


def _follower(*entries: tuple[int, int, bytes], epoch: int = 1) -> Bench:
    """Return a replica "a" of primary "b" whose log holds ``entries``."""
    recovered = {KEY: recovered_copy(entries)} if entries else None
    bench = Bench(shard("b a c", epoch=epoch), recovered=recovered)
    bench.up("b", "c")
    return bench


def test_entries_are_appended_and_acknowledged_with_shard_copy_epoch_and_number() -> None:
    bench = _follower()
    bench.hear("b", append_of([BEGIN, put_entry(1, 2)]))

    assert (bench.last_sn, bench.said("b", Ack), bench.applied) == (2, [Ack(0, FIRST, 1, 2)], [])


def test_entries_that_came_before_are_acknowledged_and_not_written_again() -> None:
    bench = _follower()
    for _ in range(2):
        bench.hear("b", append_of([BEGIN, put_entry(1, 2)]))
    written = [record.kind for record in bench.records]

    assert (written, bench.said("b", Ack)) == (
        [Kind.SHARD_PROMISE, Kind.SHARD_ENTRY, Kind.SHARD_ENTRY],
        [Ack(0, FIRST, 1, 2)] * 2,
    )


def test_a_gap_is_refused_and_the_rest_asked_for() -> None:
    bench = _follower()
    bench.hear("b", append_of([BEGIN]))
    bench.said("b", Ack)
    bench.hear("b", append_of([put_entry(1, 3)], prev=(1, 2)))

    assert (bench.last_sn, bench.said("b", Ack)) == (1, [Ack(0, FIRST, 1, 1, resend=True)])


def test_an_overlapping_message_appends_what_is_new() -> None:
    bench = _follower()
    bench.hear("b", append_of([BEGIN, put_entry(1, 2)]))
    bench.hear("b", append_of([put_entry(1, 2), put_entry(1, 3)], prev=(1, 1)))

    assert bench.last_sn == 3


def test_an_empty_message_asks_where_the_copy_stands() -> None:
    bench = _follower()
    bench.hear("b", append_of([BEGIN]))
    bench.said("b", Ack)
    bench.hear("b", Append(0, 1, 1, 1, 1, ()))

    assert (bench.said("b", Ack), bench.applied) == ([Ack(0, FIRST, 1, 1)], [(1, 1)])


@pytest.mark.parametrize(
    ("sender", "boot", "epoch"),
    [("c", "c-1", 2), ("b", "b-0", 2), ("b", "b-1", 1), ("x", "x-1", 2)],
    ids=["not the primary", "an earlier boot", "a lower epoch", "a stranger"],
)
def test_only_the_primary_of_the_held_map_in_its_boot_and_epoch_is_heard(sender: str, boot: str, epoch: int) -> None:
    bench = _follower(epoch=2)
    bench.hear(sender, append_of([begin_entry(2, 1, "b")], epoch=epoch), boot=boot)

    assert (bench.last_sn, bench.sent, bench.records) == (0, [], [])


def test_a_promise_from_before_the_restart_still_binds() -> None:
    bench = Bench(shard("b a", epoch=2), recovered={KEY: recovered_copy([put_entry(1, 1)], promised=5)})
    bench.up("b")
    bench.hear("b", append_of([begin_entry(2, 2, "b")], prev=(1, 1)))

    assert (bench.last_sn, bench.sent) == (1, [])


def test_a_message_that_is_ahead_of_its_map_is_taken_up_when_that_map_is_held() -> None:
    bench = Bench(shard("c a b"))
    bench.up("b", "c")
    bench.hear("b", append_of([begin_entry(2, 1, "b")]))
    early = (bench.last_sn, bench.said("b", Ack))
    bench.change(Failover(0, 1, "b", ("a", "b")))

    assert (early, bench.last_sn, bench.said("b", Ack)) == ((0, []), 1, [Ack(0, FIRST, 2, 1)])


def test_of_messages_that_are_ahead_the_latest_is_kept() -> None:
    bench = Bench(shard("c a b"))
    bench.up("b", "c")
    bench.hear("b", TailAsk(0, 2))
    bench.hear("b", append_of([begin_entry(2, 1, "b")]))
    bench.change(Failover(0, 1, "b", ("a", "b")))

    assert (bench.said("b", Tail), bench.last_sn) == ([], 1)


def test_of_messages_that_are_ahead_only_so_many_bytes_are_kept_and_the_oldest_go() -> None:
    bench = Bench(*[shard("c a b")] * 4, settings=ReplicationSettings(early_bytes_max=5000))
    bench.up("b", "c")
    big = put_entry(2, 1, value="v" * 1500)
    for number in (0, 1, 2, 2, 3):
        bench.hear("b", replace(append_of([big]), shard=number))
    kept = [number for number in range(4) if bench.machine._replica.early(number) is not None]
    for number in (0, 1):
        bench.hear("b", replace(append_of([big]), shard=number))

    assert (kept, [bench.machine._replica.early(number) is not None for number in (0, 1)]) == ([2, 3], [True, True])


def test_a_log_with_another_end_asks_where_its_last_epoch_ends_and_not_too_often() -> None:
    bench = _follower(put_entry(1, 1), put_entry(1, 2), epoch=3)
    message = append_of([begin_entry(3, 2, "b")], prev=(1, 1))
    for _ in range(3):
        bench.hear("b", message)
    once = bench.said("b", EpochAsk)
    bench.wait(ASK_EVERY_S)
    bench.hear("b", message)

    question = EpochAsk(0, FIRST, 3, 1, 2)
    assert (once, bench.said("b", EpochAsk), bench.last_sn) == ([question], [question], 2)


def test_an_answer_that_this_boot_did_not_ask_for_cuts_nothing() -> None:
    bench = _follower(put_entry(1, 1), begin_entry(3, 2, "b"), put_entry(3, 3), epoch=3)
    bench.hear("b", EpochEnd(0, 3, 1, 1, 1))
    bench.hear("b", append_of([put_entry(3, 5)], prev=(3, 4)))

    assert (bench.last_sn, bench.said("b", Ack)) == (3, [Ack(0, FIRST, 3, 3, resend=True)])


def test_an_answer_for_an_empty_log_cuts_nothing_of_a_log_that_has_grown() -> None:
    bench = _follower(begin_entry(3, 1, "b"), put_entry(3, 2), epoch=3)
    bench.hear("b", EpochEnd(0, 3, 0, 0, 0))

    assert bench.last_sn == 2


def test_a_question_that_is_open_is_repeated_until_it_is_answered() -> None:
    bench = _follower(put_entry(1, 1), put_entry(4, 2), epoch=9)
    message = append_of([begin_entry(9, 5, "b")], prev=(7, 4))
    bench.hear("b", message)
    bench.hear("b", EpochEnd(0, 9, 4, 3, 3))
    bench.wait(ASK_EVERY_S)
    bench.hear("b", message)
    asked = [question.of_epoch for question in bench.said("b", EpochAsk)]
    bench.hear("b", EpochEnd(0, 9, 1, 1, 1))

    assert (asked, bench.last_sn) == ([4, 1, 1], 1)


def test_an_equal_end_needs_no_question() -> None:
    bench = _follower(put_entry(1, 1), epoch=3)
    bench.hear("b", append_of([begin_entry(3, 2, "b")], prev=(1, 1)))

    assert (bench.said("b", EpochAsk), bench.said("b", Ack)) == ([], [Ack(0, FIRST, 3, 2)])


def test_an_end_that_is_told_is_cut_to_and_the_rest_asked_for() -> None:
    bench = _follower(put_entry(1, 1), put_entry(1, 2), epoch=3)
    bench.hear("b", append_of([begin_entry(3, 2, "b")], prev=(1, 1)))
    bench.hear("b", EpochEnd(0, 3, 1, 1, 1))

    assert (bench.last_sn, bench.said("b", Ack)) == (1, [Ack(0, FIRST, 3, 1, resend=True)])


def test_an_epoch_that_the_copy_never_saw_is_asked_about_further_down() -> None:
    bench = _follower(put_entry(1, 1), put_entry(4, 2), epoch=9)
    bench.hear("b", append_of([begin_entry(9, 5, "b")], prev=(7, 4)))
    first = bench.said("b", EpochAsk)
    bench.hear("b", EpochEnd(0, 9, 4, 3, 3))
    second = bench.said("b", EpochAsk)
    bench.hear("b", EpochEnd(0, 9, 1, 1, 1))

    assert (first, second, bench.last_sn) == ([EpochAsk(0, FIRST, 9, 4, 2)], [EpochAsk(0, FIRST, 9, 1, 2)], 1)


def test_a_repeated_answer_about_an_end_does_not_cut_what_was_appended_since() -> None:
    bench = _follower(put_entry(1, 1), put_entry(1, 2), epoch=3)
    entry = begin_entry(3, 2, "b")
    bench.hear("b", append_of([entry], prev=(1, 1)))
    bench.hear("b", EpochEnd(0, 3, 1, 1, 1))
    bench.hear("b", append_of([entry], prev=(1, 1)))
    bench.hear("b", EpochEnd(0, 3, 1, 1, 1))

    assert bench.last_sn == 2


def test_only_what_agrees_with_the_primary_is_applied() -> None:
    bench = _follower(put_entry(1, 1), put_entry(1, 2), epoch=3)
    bench.hear("b", append_of([begin_entry(3, 2, "b")], prev=(1, 1), commit=2))
    bench.hear("b", Commits(((0, 3, 2),)))
    unverified = list(bench.applied)
    bench.hear("b", EpochEnd(0, 3, 1, 1, 1))

    assert (unverified, bench.applied) == ([], [(1, 1)])


def test_a_commit_is_believed_from_the_primary_of_this_epoch_only() -> None:
    bench = _follower()
    bench.hear("b", append_of([BEGIN]))
    bench.hear("c", Commits(((0, 1, 1),)))
    bench.hear("b", Commits(((0, 2, 1),)))
    refused = list(bench.applied)
    bench.hear("b", Commits(((0, 1, 1),)))

    assert (refused, bench.applied) == ([], [(1, 1)])


def test_a_cut_of_what_was_acknowledged_is_not_made_and_the_copy_gives_itself_up() -> None:
    bench = _follower()
    bench.hear("b", append_of([BEGIN, put_entry(1, 2)]))
    bench.change(Failover(0, 1, "c", ("a", "c")))
    bench.hear("c", append_of([begin_entry(2, 2, "c")], prev=(1, 1)))
    bench.hear("c", EpochEnd(0, 2, 1, 1, 1))
    bench.hear("c", append_of([begin_entry(2, 2, "c")], prev=(1, 1)))

    assert (bench.last_sn, bench.copy().unfit, bench.said("c", Ack)) == (2, True, [])
    assert bench.proposals == [Unfit(0, 2, "a", FIRST)]


def test_an_unfit_copy_says_so_again_until_the_map_has_another_in_its_place() -> None:
    bench = Bench(
        shard("b a c"), recovered={KEY: recovered_copy([put_entry(1, 1)], harmed=True)}, stored=[], names="a b c"
    )
    bench.wait(0.3)
    again = list(bench.proposals)
    bench.change(Unfit(0, 1, "a", FIRST))
    bench.proposals.clear()
    bench.wait(3.0)

    assert (again, bench.proposals) == ([Unfit(0, 1, "a", FIRST)] * 2, [])
    assert (bench.copy().added, bench.copy().unfit, bench.last_sn) == (FIRST + 1, False, 0)


def test_an_unfit_copy_answers_nobody() -> None:
    bench = _follower(put_entry(1, 1))
    bench.copy().unfit = True
    for message in (append_of([put_entry(1, 2)], prev=(1, 1)), TailAsk(0, 1), Commits(((0, 1, 1),))):
        bench.hear("b", message)

    assert (bench.sent, bench.applied) == ([], [])


def test_a_registered_boot_that_is_new_is_heard_when_its_map_is_held() -> None:
    bench = _follower()
    message = append_of([begin_entry(2, 1, "b")])
    bench.hear("b", message, boot="b-2")
    early = bench.last_sn
    bench.change(Boot("b", "b", "b-2", 2, "http://b", "b:1", live=("b",)))
    bench.hear("b", message, boot="b-2")

    assert (early, bench.map.shards[0].primary.boot) == (0, "b-2")
    assert bench.last_sn == 1
