"""The source of a hand-over: stop admitting, drain, let go as one entry, and wait for the map whatever the clock says."""

from __future__ import annotations

from dataclasses import replace as with_settings

import pytest

from ringkeep_core.mapchanges import Boot, Failover, Move, Shrink, Touch
from ringkeep_node.machines.documents import Write
from ringkeep_node.machines.shard.effects import Absent, Moved, NotApplied, Stored, WriteRequest
from ringkeep_node.machines.shard.messages import Ack, Tail
from ringkeep_testing.maps import FIRST, shard
from ringkeep_testing.shard_bench import SETTINGS, Bench, appended, operation, serving, tell_tails, write_request

OVERLOADED = NotApplied("overloaded")


def _draining() -> tuple[Bench, int, int]:
    """Return a primary that hands over, the token of a pending write, and that of one that waits."""
    bench = serving(shard("a b c"))
    pending = bench.write("1")
    bench.hand_over("b")
    return bench, pending, bench.write("2", operation=operation(1))


def _proposed() -> tuple[Bench, Move, int]:
    """Return a primary whose hand-over has left, the move, and the token of a write that waits."""
    bench = serving(shard("a b c"))
    (move,) = bench.hand_over("b")
    assert bench.hand_overs == [((move,), "test")]
    bench.hand_overs.clear()
    return bench, move, bench.write("2", operation=operation(1))


def _moved_to(bench: Bench, to: str) -> Moved:
    held = bench.map.shards[0]
    return Moved(to, held.epoch, bench.map.version)


# --- draining -----------------------------------------------------------------------------------------------------


def test_a_shard_with_nothing_pending_leaves_at_once() -> None:
    bench = serving(shard("a b c"))
    moves = bench.hand_over("b", reason="drain a")

    assert bench.hand_overs == [(moves, "drain a")]


def test_writes_wait_while_a_shard_drains_and_what_was_appended_before_is_answered() -> None:
    bench, pending, waiting = _draining()
    before = list(bench.hand_overs)
    log = len(appended(bench))
    bench.ack("b", "c")

    assert (before, bench.result(pending), bench.result(waiting)) == ([], Stored(1, 2, 1), None)
    assert (len(bench.hand_overs), len(appended(bench))) == (1, log)


def test_strict_reads_are_answered_until_the_map_moves() -> None:
    bench, _, _ = _draining()
    while_draining = bench.read("other")
    bench.pong("b", "c")
    bench.ack("b", "c")
    while_proposed = bench.read("other")
    bench.pong("b", "c")

    assert (bench.result(while_draining), bench.result(while_proposed)) == (Absent(1), Absent(1))


def test_a_shard_that_does_not_drain_in_time_goes_on_at_once_and_nothing_of_it_leaves() -> None:
    bench, pending, waiting = _draining()
    bench.wait(SETTINGS.drain_wait_s)
    log = len(appended(bench))
    bench.ack("b", "c")

    assert (bench.hand_overs, log) == ([], 3)
    assert (bench.result(pending), bench.result(waiting)) == (Stored(1, 2, 1), Stored(2, 3, 1))
    assert bench.machine.tally.hand_overs_given_up == 1


def test_what_has_drained_leaves_as_one_entry_without_what_has_not() -> None:
    bench = Bench(*[shard("a b c")] * 3)
    bench.up("b", "c")
    bench.answer_index()
    for number in range(3):
        _begin(bench, number)
    bench.machine.write(99, 1, _request(), now=bench.now)
    bench.pump()
    moves = bench.hand_over("b", 0, 1, 2)
    assert bench.hand_overs == []
    bench.wait(SETTINGS.drain_wait_s)

    assert bench.hand_overs == [((moves[0], moves[2]), "test")]


def test_more_shards_than_an_entry_may_move_are_left_to_a_later_order() -> None:
    bench = Bench(*[shard("a b c")] * 18)
    bench.up("b", "c")
    bench.answer_index()
    for number in range(18):
        _begin(bench, number)
    moves = bench.hand_over("b", *range(18))
    again = bench.hand_over("b", 17)

    assert bench.hand_overs == [(moves[:16], "test")], again


def test_shards_for_several_members_leave_as_one_entry_each() -> None:
    bench = Bench(shard("a b c"), shard("a b c"))
    bench.up("b", "c")
    bench.answer_index()
    _begin(bench, 0)
    _begin(bench, 1)
    to_b, to_c = Move(0, 1, "b"), Move(1, 1, "c")
    bench.order((to_b, to_c))

    assert bench.hand_overs == [((to_b,), "test"), ((to_c,), "test")]


@pytest.mark.parametrize(
    "move",
    [
        Move(0, 9, "b"),
        Move(0, 1, "a"),
        Move(0, 1, "c"),
        Move(0, 1, "nobody"),
        Move(7, 1, "b"),
    ],
    ids=["another revision", "to itself", "to a learner", "to nobody", "no such shard"],
)
def test_an_order_that_does_not_fit_the_held_map_changes_nothing(move: Move) -> None:
    bench = serving(shard("a b", learners="c"))
    bench.order((move,))
    token = bench.write("v")
    bench.ack("b")

    assert (bench.hand_overs, bench.result(token)) == ([], Stored(1, 2, 1))


def test_a_primary_that_has_not_begun_hands_nothing_over() -> None:
    bench = Bench(shard("a b c", epoch=2))
    bench.hand_over("b")
    bench.wait(1.0)

    assert bench.hand_overs == []


def test_an_epoch_start_that_is_not_committed_has_not_drained() -> None:
    bench = Bench(shard("a b c", epoch=2))
    bench.up("b", "c")
    tell_tails(bench, "b", "c")
    bench.hand_over("b")
    before = list(bench.hand_overs)
    bench.ack("b", "c", epoch=2)

    assert (before, len(bench.hand_overs)) == ([], 1)


def test_a_repeated_order_changes_nothing() -> None:
    bench, _, waiting = _draining()
    bench.hand_over("b")
    bench.ack("b", "c")
    bench.hand_over("b")
    bench.hand_over("c")

    assert (len(bench.hand_overs), bench.result(waiting)) == (1, None)


# --- settled ------------------------------------------------------------------------------------------------------


def test_when_the_map_moved_the_shard_everything_that_waits_is_sent_to_the_new_primary() -> None:
    bench, move, waiting = _proposed()
    read = bench.read()
    bench.change(move)
    late = bench.write("3")

    assert [bench.result(token) for token in (waiting, read, late)] == [_moved_to(bench, "b")] * 3
    assert len(appended(bench)) == 1
    assert (bench.machine.tally.hand_overs, bench.machine.tally.hand_overs_given_up) == (1, 0)


def test_when_another_change_won_the_shard_goes_on_here_with_the_new_awaited_set() -> None:
    bench, _, waiting = _proposed()
    bench.change(Touch(0, 1))
    bench.ack("b")
    early = bench.result(waiting)
    bench.ack("c")

    assert (early, bench.result(waiting)) == (None, Stored(1, 2, 1))
    assert (bench.machine.tally.hand_overs, bench.machine.tally.hand_overs_given_up) == (0, 1)


def test_when_the_target_was_removed_the_queue_commits_without_it() -> None:
    bench, _, waiting = _proposed()
    bench.change(Shrink(0, 1, ("b",)))
    bench.ack("c")

    assert bench.result(waiting) == Stored(1, 2, 1)


def test_when_somebody_else_was_made_primary_the_queue_goes_there() -> None:
    bench, _, waiting = _proposed()
    bench.change(Failover(0, 1, "c", ("b", "c")))

    assert bench.result(waiting) == _moved_to(bench, "c")


def test_a_map_that_does_not_change_the_shard_settles_nothing() -> None:
    bench, _, waiting = _proposed()
    bench.change(Boot("c", "c", "c-2", 2, "http://c", "c:1", former=("c-1", "c-2")))
    bench.ack("b")

    assert (bench.result(waiting), len(appended(bench))) == (None, 1)


def test_no_clock_ends_a_hand_over_that_has_left() -> None:
    bench, _, waiting = _proposed()
    bench.wait(30.0)
    bench.ack("b", "c")

    assert (bench.result(waiting), len(appended(bench))) == (None, 1)


def test_an_entry_without_an_answer_is_sent_again_and_then_another_change_competes_with_it() -> None:
    bench, move, _ = _proposed()
    bench.wait(SETTINGS.touch_after_s - 0.01)
    before = (list(bench.hand_overs), list(bench.proposals))
    bench.wait(0.01)

    assert before == ([((move,), "test")] * 2, [])
    assert bench.proposals == [Touch(0, 1)]


def test_a_touch_that_won_is_not_asked_for_again() -> None:
    bench, _, _ = _proposed()
    bench.wait(SETTINGS.touch_after_s)
    bench.change(Touch(0, 1))
    bench.proposals.clear()
    bench.hand_overs.clear()
    bench.ack("b", "c")
    bench.wait(10.0)

    assert (bench.proposals, bench.hand_overs) == ([], [])


def test_a_shard_can_be_handed_over_again_after_another_change_won() -> None:
    bench, _, _ = _proposed()
    bench.change(Touch(0, 1))
    bench.ack("b", "c")
    moves = bench.hand_over("b")

    assert bench.hand_overs == [(moves, "test")]


# --- bounds -------------------------------------------------------------------------------------------------------


def test_a_write_that_waits_keeps_its_deadline_and_was_certainly_not_applied() -> None:
    bench, _, _ = _proposed()
    token = bench.write("3", deadline=bench.now + 0.2)
    bench.wait(0.2)
    bench.change(Touch(0, 1))

    assert bench.result(token) == NotApplied("no_primary", "the deadline passed before anything was done")
    assert [type(body).__name__ for body in appended(bench)] == ["Begin", "Change"]


def test_as_many_writes_wait_as_the_settings_allow() -> None:
    bench = serving(shard("a b c"), settings=with_settings(SETTINGS, waiting_writes_max=3))
    bench.hand_over("b")
    tokens = [bench.write("v") for _ in range(4)]

    assert [bench.result(token) for token in tokens] == [None, None, None, OVERLOADED]


def test_as_many_bytes_wait_as_may_be_pending_and_they_are_free_again_afterwards() -> None:
    bench = serving(shard("a b c"))
    bench.hand_over("b")
    tokens = [bench.write("v" * (2 << 20)) for _ in range(4)]
    during = bench.machine._desk.queued_bytes
    bench.change(Touch(0, 1))

    assert [bench.result(token) for token in tokens] == [None, None, None, OVERLOADED]
    assert (during > 6 << 20, bench.machine._desk.queued_bytes) == (True, 0)


def test_waiting_writes_of_all_shards_together_are_bounded() -> None:
    settings = with_settings(SETTINGS, node_pending_bytes_max=3 << 20)
    bench = Bench(shard("a b c"), shard("a b c"), settings=settings)
    bench.up("b", "c")
    bench.answer_index()
    for number in (0, 1):
        _begin(bench, number)
    bench.hand_over("b", 0, 1)
    first = bench.write("v" * (2 << 20))
    bench.machine.write(99, 1, _request("v" * (2 << 20)), now=bench.now)
    bench.pump()

    assert (bench.result(first), bench.answers[99]) == (None, OVERLOADED)


def test_a_pause_is_counted_by_its_length() -> None:
    bench, move, _ = _proposed()
    bench.wait(0.025)
    bench.change(move)

    assert (bench.machine.tally.pauses[4], sum(bench.machine.tally.pauses)) == (1, 1)
    assert bench.machine.tally.pauses_s == pytest.approx(0.025)


def _request(value: str = "v") -> WriteRequest:
    return write_request(Write("u", "k", value.encode(), "t"))


def _begin(bench: Bench, number: int) -> None:
    """Let the epoch of a shard begin and its start commit."""
    for name in ("b", "c"):
        bench.hear(name, Tail(number, FIRST, 1, 0, 0))
    for name in ("b", "c"):
        bench.hear(name, Ack(number, FIRST, 1, 1))


def test_a_shard_on_a_slow_disk_is_given_twice_as_long_by_each_order_that_it_missed() -> None:
    bench = serving(shard("a b c"))
    waits = []
    for _ in range(7):
        bench.write("v")
        began = bench.now
        bench.hand_over("b")
        waiting = bench.write("w")
        while bench.machine._leads[0].admits is False:
            bench.wait(0.005)
        waits.append(round(bench.now - began, 2))
        bench.ack("b", "c")
        bench.ack("b", "c")
        assert bench.result(waiting) is not None

    assert waits[0] <= 0.04 and waits[1] > 0.05 and waits[2] > 0.11
    assert waits[-1] == waits[-2] <= 0.5
