"""The primary of a shard: writes, their conditions and bounds, commit, deadlines, and the end of its epoch."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from ringkeep_core.ids import LOG_ENTRY_BYTES_MAX
from ringkeep_core.mapchanges import Boot, Failover, Move, Shrink, Unfit
from ringkeep_node.machines import documents
from ringkeep_node.machines.documents import Answer, Begin, Change, ForgetGateways, Row, Write
from ringkeep_node.machines.shard.effects import Absent, Moved, NotApplied, Result, Stored, Unknown
from ringkeep_node.machines.shard.messages import Ack, Append, Commits, EpochAsk, EpochEnd
from ringkeep_node.machines.shard.settings import ReplicationSettings
from ringkeep_testing.maps import FIRST, shard
from ringkeep_testing.shard_bench import (
    Bench,
    appended,
    operation,
    put_entry,
    read_request,
    recovered_copy,
    serving,
    tell_tails,
    write_request,
)

MISMATCH = NotApplied("version_mismatch")


def _result_of(bench: Bench, token: int) -> Result | None:
    """Let everything commit and every round be answered; return what the request was answered."""
    bench.ack("b")
    if bench.result(token) is None:
        bench.pong("b")
    return bench.result(token)


def _with_document(version: int = 2) -> Bench:
    """Return a primary of "a b" with document "k", written until it has this version."""
    bench = serving(shard("a b"))
    while bench.last_sn < version:
        bench.write("v")
        bench.ack("b")
    bench.sent.clear()
    return bench


# --- writes -------------------------------------------------------------------------------------------------------


def test_a_write_is_sent_at_once_to_every_member_and_answered_when_all_have_it() -> None:
    bench = serving(shard("a b c"))
    token = bench.write("v", key="doc")
    change = Change((Write("u", "doc", b"v", "t"),), Answer.CREATED, 1)
    assert appended(bench)[-1] == change
    (to_b,), (to_c,) = bench.said("b", Append), bench.said("c", Append)
    bench.ack("b")
    early = bench.result(token)
    bench.ack("c")

    assert to_b is to_c and (to_b.prev_epoch, to_b.prev_sn, to_b.commit, len(to_b.entries)) == (1, 1, 1, 1)
    assert (early, bench.result(token)) == (None, Stored(Answer.CREATED, 2, 1))


def test_the_second_write_of_a_document_replaces_and_a_delete_deletes() -> None:
    bench = serving(shard("a b"))
    tokens = [bench.write("1"), bench.write("2"), bench.write(None)]
    bench.ack("b")

    assert [bench.result(token) for token in tokens] == [
        Stored(Answer.CREATED, 2, 1),
        Stored(Answer.REPLACED, 3, 1),
        Stored(Answer.DELETED, 4, 1),
    ]


def test_acknowledging_a_later_entry_commits_the_earlier_ones_in_order() -> None:
    bench = serving(shard("a b"))
    tokens = [bench.write("1"), bench.write("2"), bench.write("3")]
    bench.ack("b", sn=3)

    assert [bench.result(token) is not None for token in tokens] == [True, True, False]
    assert list(bench.answers) == tokens[:2]


def test_a_learner_is_sent_entries_and_not_waited_for() -> None:
    bench = serving(shard("a b", learners="c"))
    token = bench.write("v")
    bench.ack("b")

    assert (len(bench.said("c", Append)), bench.result(token)) == (1, Stored(Answer.CREATED, 2, 1))


@pytest.mark.parametrize(
    ("conditions", "answer"),
    [
        ({}, Stored(Answer.REPLACED, 3, 1)),
        ({"if_match": (2,)}, Stored(Answer.REPLACED, 3, 1)),
        ({"if_match": (7, 2)}, Stored(Answer.REPLACED, 3, 1)),
        ({"if_match": ()}, Stored(Answer.REPLACED, 3, 1)),
        ({"if_match": (1,)}, MISMATCH),
        ({"if_match": (1, 3)}, MISMATCH),
        ({"if_none_match": ()}, MISMATCH),
        ({"if_none_match": (2,)}, MISMATCH),
        ({"if_none_match": (1, 2)}, MISMATCH),
        ({"if_none_match": (1,)}, Stored(Answer.REPLACED, 3, 1)),
        ({"if_match": (2,), "if_none_match": (2,)}, MISMATCH),
    ],
)
def test_conditions_on_a_document_that_exists_at_version_2(conditions: dict[str, Any], answer: Result) -> None:
    bench = _with_document()

    assert _result_of(bench, bench.write("new", **conditions)) == answer


@pytest.mark.parametrize(
    ("conditions", "answer"),
    [
        ({}, Stored(Answer.CREATED, 2, 1)),
        ({"if_none_match": ()}, Stored(Answer.CREATED, 2, 1)),
        ({"if_none_match": (1,)}, Stored(Answer.CREATED, 2, 1)),
        ({"if_match": ()}, MISMATCH),
        ({"if_match": (1,)}, MISMATCH),
        ({"if_match": (0,)}, MISMATCH),
        ({"if_none_match": (0,)}, Stored(Answer.CREATED, 2, 1)),
    ],
)
def test_conditions_on_a_document_that_does_not_exist(conditions: dict[str, Any], answer: Result) -> None:
    bench = serving(shard("a b"))

    assert _result_of(bench, bench.write("new", **conditions)) == answer


def test_a_deleted_document_does_not_exist_before_the_store_knows() -> None:
    bench = _with_document()
    bench.stores = False
    bench.write(None)
    token = bench.write("again", if_none_match=())
    bench.ack("b")

    assert bench.result(token) == Stored(Answer.CREATED, 4, 1)


def test_deleting_nothing_writes_nothing_and_is_confirmed_like_a_read() -> None:
    bench = serving(shard("a b"))
    token = bench.write(None)
    early = bench.result(token)
    bench.pong("b")

    assert (early, bench.result(token), bench.last_sn) == (None, Absent(1), 1)


def test_a_refusal_judged_on_a_pending_write_waits_for_its_commit_and_for_a_confirmation() -> None:
    bench = _with_document()
    bench.write("pending")
    token = bench.write("late", if_match=(2,))
    bench.pong("b")
    confirmed = bench.result(token)
    bench.ack("b")

    assert (confirmed, bench.result(token)) == (None, MISMATCH)


# --- imports ------------------------------------------------------------------------------------------------------


def test_an_import_is_one_entry_with_one_answer_and_the_last_line_of_a_key_wins() -> None:
    bench = serving(shard("a b"))
    lines = [Write("u", "x", b"1"), Write("u", "y", b"2"), Write("u", "x", b"3"), Write("v", "x", b"4")]
    token = bench.request(write_request(*lines, imported=True))
    bench.ack("b")

    assert appended(bench)[-1] == Change((lines[2], lines[1], lines[3]), Answer.IMPORTED, 1)
    assert (bench.result(token), bench.last_sn) == (Stored(Answer.IMPORTED, 2, 1), 2)


def test_a_change_of_more_than_an_entry_may_have_is_refused() -> None:
    bench = serving(shard("a b"))
    token = bench.request(write_request(Write("u", "k", b"x" * LOG_ENTRY_BYTES_MAX), imported=True))

    assert bench.result(token) == NotApplied("too_large", f"a change may have {LOG_ENTRY_BYTES_MAX} bytes in the log")
    assert bench.last_sn == 1


# --- bounds -------------------------------------------------------------------------------------------------------


def test_a_shard_takes_pending_bytes_up_to_its_bound_and_again_when_they_committed() -> None:
    bench = serving(shard("a b"))
    value = "x" * (2 << 20)
    tokens = [bench.write(value, key=f"k{number}") for number in range(4)]
    assert [bench.result(token) for token in tokens] == [None, None, None, NotApplied("overloaded")]
    bench.ack("b")
    again = bench.write(value)
    bench.ack("b")

    assert isinstance(bench.result(again), Stored)
    assert (bench.lead().pending_bytes, bench.machine._desk.pending_bytes) == (0, 0)


def test_all_shards_of_a_node_share_one_bound() -> None:
    settings = ReplicationSettings(node_pending_bytes_max=3 << 20)
    bench = Bench(shard("a b"), shard("a b"), settings=settings)
    for number in range(2):
        bench.lead(number).begin()
    value = Write("u", "k", b"x" * (2 << 20), "t")
    first = bench.request(write_request(value))
    second = bench.request(write_request(value), shard=1)

    assert (bench.result(first), bench.result(second)) == (None, NotApplied("overloaded"))


def test_what_a_lost_epoch_had_pending_counts_no_longer() -> None:
    bench = serving(shard("a b"))
    bench.write("x" * 1000)
    bench.change(Move(0, 1, "b"))

    assert bench.machine._desk.pending_bytes == 0


def test_below_need_a_write_is_refused_and_a_pending_one_waits_for_its_deadline() -> None:
    bench = serving(shard("a b"))
    pending = bench.write("1", deadline=bench.now + 5)
    bench.change(Shrink(0, 1, ("b",)))
    refused = bench.write("2")
    bench.wait(4.9)
    waiting = bench.result(pending)
    bench.wait(0.2)

    assert (bench.result(refused), waiting) == (NotApplied("not_enough_copies"), None)
    assert bench.result(pending) == Unknown()


def test_a_write_of_which_nothing_was_appended_certainly_did_not_happen_at_its_deadline() -> None:
    bench = Bench(shard("a b"))
    token = bench.write("v", deadline=bench.now + 1)
    bench.wait(1.0)
    tell_tails(bench, "b")

    assert bench.result(token) == NotApplied("no_primary", "the deadline passed before anything was done")
    assert [type(body) for body in appended(bench)] == [Begin]


def test_answered_requests_leave_no_timers_behind() -> None:
    bench = _with_document()
    for number in range(50):
        bench.write("v", key=f"k{number}", deadline=bench.now + 30)
    bench.ack("b")
    bench.wait(1.0)

    assert (bench.machine.next_deadline(), bench.machine._desk.deadlines) == (None, [])


def test_reads_that_nobody_waits_for_any_more_do_not_pile_up_while_the_epoch_cannot_begin() -> None:
    bench = Bench(shard("a", eligible="b", need=2))
    bench.up("b")
    bench.answer_index()
    for _ in range(40):
        for _ in range(100):
            bench.read(deadline=bench.now + 0.1)
        bench.pong("b")
        bench.pong("b")
        bench.wait(0.2)
    lead = bench.lead()

    assert len(lead.parked) < 2000 and len(bench.answers) == 4000


# --- the epoch ----------------------------------------------------------------------------------------------------


def test_nothing_counts_before_the_epoch_start_is_committed() -> None:
    bench = Bench(shard("a b", epoch=3), recovered={(0, FIRST): recovered_copy([put_entry(1, 1)])})
    bench.up("b")
    tell_tails(bench, "b", last=(1, 1))
    bench.ack("b", sn=1, epoch=3)
    before = bench.copy().commit
    bench.ack("b", epoch=3)

    assert (before, bench.copy().commit, bench.lead().is_serving) == (0, 2, True)


def test_the_loss_of_the_epoch_moves_everything_that_is_unanswered() -> None:
    bench = serving(shard("a b"))
    tokens = [bench.write("v"), bench.read(), bench.write(None, key="nothing"), bench.write("w", if_match=(9,))]
    bench.change(Move(0, 1, "b"))

    assert [bench.result(token) for token in tokens] == [Moved("b", 2, FIRST + 1)] * 4


def test_requests_that_wait_for_the_begin_are_moved_too() -> None:
    bench = Bench(shard("a b"))
    tokens = [bench.write("v"), bench.read()]
    bench.change(Failover(0, 1, "b", ("b",)))

    assert [bench.result(token) for token in tokens] == [Moved("b", 2, FIRST + 1)] * 2


def test_a_node_that_does_not_lead_names_who_does() -> None:
    bench = Bench(shard("b a"))

    assert bench.result(bench.write("v")) == bench.result(bench.read()) == Moved("b", 1, FIRST)


def test_a_node_without_a_map_and_a_shard_that_does_not_exist_have_no_primary() -> None:
    blank, bench = Bench(shard("a b"), holds=False), Bench(shard("a b"))
    refusal = NotApplied("no_primary", "this node holds no map yet")

    assert blank.result(blank.write("v")) == refusal
    assert bench.result(bench.request(read_request(), shard=9)) == refusal


def test_a_request_routed_by_another_epoch_is_sent_back_to_be_routed_again() -> None:
    bench = serving(shard("a b", epoch=3))

    assert bench.result(bench.write("v", epoch=2)) == Moved("a", 3, FIRST)
    assert bench.result(bench.write("v", epoch=3)) is None


def test_a_primary_under_an_earlier_boot_does_not_lead() -> None:
    one = shard("a b")
    bench = Bench(type(one)(1, 1, type(one.primary)("a", "a-0"), one.in_sync, (), (), 2))

    assert bench.result(bench.write("v")) == NotApplied("no_primary", "this node cannot lead the shard now")


def test_an_epoch_whose_log_names_a_newer_map_begins_when_such_a_map_is_held() -> None:
    ended = ForgetGateways(("x-1",), FIRST + 2, 0)
    entries = [put_entry(1, 1), (1, 2, documents.encode(ended))]
    bench = Bench(shard("a", need=1, epoch=3), recovered={(0, FIRST): recovered_copy(entries)})
    before = bench.lead().begin_sn
    bench.hold(replace(bench.map, version=FIRST + 2))
    bench.wait(0.2)

    assert (before, bench.lead().begin_sn) == (0, 3)


# --- replication --------------------------------------------------------------------------------------------------


def test_an_acknowledgement_of_another_epoch_copy_or_more_than_there_is_counts_nothing() -> None:
    bench = serving(shard("a b"))
    token = bench.write("v")
    for message in (Ack(0, FIRST, 2, 2), Ack(0, FIRST, 0, 2), Ack(0, FIRST + 1, 1, 2), Ack(0, FIRST, 1, 3)):
        bench.hear("b", message)
    bench.hear("c", Ack(0, FIRST, 1, 2))
    bench.hear("b", Ack(0, FIRST, 1, 2), boot="b-0")

    assert bench.result(token) is None


def test_only_a_window_of_bytes_is_on_the_way_and_an_acknowledgement_opens_it() -> None:
    settings = ReplicationSettings(window_bytes_max=3000, chunk_bytes_max=1000)
    bench = serving(shard("a b"), settings=settings)
    for number in range(10):
        bench.write("x" * 900, key=f"k{number}")
    first = bench.said("b", Append)
    bench.ack("b", sn=3)
    second = bench.said("b", Append)

    assert ([message.prev_sn for message in first], [message.prev_sn for message in second]) == ([1, 2, 3, 4], [5, 6])


def test_what_is_not_acknowledged_is_sent_again() -> None:
    bench = serving(shard("a b"))
    bench.write("v")
    (first,) = bench.said("b", Append)
    bench.wait(0.5)

    assert bench.said("b", Append) == [first]


def test_a_copy_that_says_where_it_stands_is_sent_what_follows() -> None:
    bench = serving(shard("a b"))
    for _ in range(3):
        bench.write("v")
    bench.sent.clear()
    bench.wait(0.1)
    bench.ack("b", sn=2, resend=True)

    assert [(message.prev_sn, len(message.entries)) for message in bench.said("b", Append)] == [(2, 2)]


def test_a_connection_that_came_back_is_sent_what_it_lacks() -> None:
    bench = serving(shard("a b"))
    bench.down("b")
    bench.write("v")
    bench.up("b")

    assert [(message.prev_sn, len(message.entries)) for message in bench.said("b", Append)] == [(1, 1)]


def test_a_commit_that_no_entry_carried_is_told_once() -> None:
    bench = serving(shard("a b c"))
    bench.write("v")
    bench.ack("b", "c")
    bench.sent.clear()
    bench.wait(1.0)

    assert bench.sent == [("b", Commits(((0, 1, 2),))), ("c", Commits(((0, 1, 2),)))]


def test_a_copy_that_spoke_only_after_the_commit_is_told_of_it() -> None:
    bench = Bench(shard("a b", learners="c"))
    bench.up("b", "c")
    tell_tails(bench, "b")
    bench.ack("b")
    bench.wait(0.07)
    bench.ack("c")
    bench.wait(0.07)

    assert bench.said("c", Commits) == [Commits(((0, 1, 1),))]


def test_a_copy_that_came_back_with_less_than_it_acknowledged_must_leave_the_sets() -> None:
    bench = serving(shard("a b c"))
    bench.write("v")
    bench.ack("b", "c")
    bench.change(Boot("b", "b", "b-2", 2, "http://b", "b:1", live=()))
    bench.machine.peer_up("b", "b-2", now=bench.now)
    bench.pump()
    bench.hear("b", Ack(0, FIRST, 1, 1), boot="b-2")

    assert bench.proposals == [Unfit(0, 1, "b", FIRST)]


def test_an_epoch_end_is_told_only_after_the_begin_and_to_copies_of_this_epoch() -> None:
    bench = Bench(shard("a b", epoch=3), recovered={(0, FIRST): recovered_copy([put_entry(1, 1)])})
    bench.up("b")
    question = EpochAsk(0, FIRST, 3, 2, 5)
    bench.hear("b", question)
    early = bench.said("b", EpochEnd)
    tell_tails(bench, "b", last=(1, 1))
    bench.hear("b", EpochAsk(0, FIRST, 2, 2, 5))
    bench.hear("b", EpochAsk(0, FIRST + 1, 3, 2, 5))
    bench.hear("b", question)

    assert (early, bench.said("b", EpochEnd)) == ([], [EpochEnd(0, 3, 2, 1, 1)])


def test_the_store_gets_committed_entries_only() -> None:
    bench = serving(shard("a b"))
    bench.write("v")
    before = bench.store.row(0, FIRST, "u", "k")
    bench.ack("b")

    assert (before, bench.store.row(0, FIRST, "u", "k")) == (None, Row("u", "k", 2, 1, "t", b"v"))


def test_a_gateway_that_no_map_registers_is_refused() -> None:
    bench = serving(shard("a b"))
    token = bench.write("v", operation=operation(1, gateway="x-1"))

    assert bench.result(token) == NotApplied("no_primary", "the gateway's boot is not registered in the map held here")
