"""Retries: operation ids, Idempotency-Keys, and gateways that ended (replication.md, rule 9)."""

from __future__ import annotations

import pytest

from ringkeep_core.mapchanges import Boot, Move
from ringkeep_node.machines.documents import IDEMPOTENCY_KEPT_MS, Answer, Change, ForgetGateways, Write
from ringkeep_node.machines.shard.effects import Absent, Moved, NotApplied, Stored, Unknown
from ringkeep_node.machines.shard.operations import Overlay, holds
from ringkeep_testing.maps import FIRST, shard
from ringkeep_testing.shard_bench import (
    Bench,
    appended,
    named,
    operation,
    put_entry,
    recovered_copy,
    serving,
    tell_tails,
)

CREATED = Stored(Answer.CREATED, 2, 1)
REUSED = NotApplied("key_reused")


def _bench() -> Bench:
    return serving(shard("a b"))


def _settled(bench: Bench, *tokens: int) -> list[object]:
    """Let everything commit and be confirmed; return the answers."""
    bench.ack("b")
    for _ in range(3):
        if any(bench.result(token) is None for token in tokens):
            bench.pong("b")
    return [bench.result(token) for token in tokens]


def _reboot(bench: Bench, name: str, counter: int) -> None:
    bench.change(Boot(name, name, f"{name}-{counter}", counter, f"http://{name}", f"{name}:1", live=()))


# --- operation ids ------------------------------------------------------------------------------------------------


def test_a_second_attempt_waits_for_the_first_and_hears_the_same() -> None:
    bench = _bench()
    first = bench.write("v", operation=operation(1))
    second = bench.write("v", operation=operation(1))
    bench.pong("b")
    waiting = bench.result(second)

    assert (waiting, _settled(bench, first, second), bench.last_sn) == (None, [CREATED, CREATED], 2)


def test_a_known_result_is_told_after_a_confirmation_and_nothing_is_written() -> None:
    bench = _bench()
    bench.write("v", operation=operation(1))
    bench.ack("b")
    again = bench.write("v", operation=operation(1))
    early = bench.result(again)

    assert (early, _settled(bench, again), bench.last_sn) == (None, [CREATED], 2)


def test_the_same_number_of_another_gateway_is_another_operation() -> None:
    bench = _bench()
    tokens = [bench.write("1", operation=operation(1, gateway="b-1")), bench.write("2", operation=operation(1))]

    assert _settled(bench, *tokens) == [CREATED, Stored(Answer.REPLACED, 3, 1)]


@pytest.mark.parametrize("is_applied", [True, False])
def test_a_number_that_its_gateway_has_closed_is_never_applied(is_applied: bool) -> None:
    bench = _bench()
    bench.stores = is_applied
    bench.write("v", operation=operation(7, lowest=5))
    bench.ack("b")
    late = bench.write("late", operation=operation(4, lowest=4))

    assert (_settled(bench, late), bench.last_sn) == ([Unknown()], 2)


def test_a_number_closed_only_by_a_refused_request_is_not_applied_either() -> None:
    bench = _bench()
    refused = bench.write("v", operation=operation(7, lowest=5), if_match=(9,))
    late = bench.write("late", operation=operation(4, lowest=4))

    assert _settled(bench, refused, late) == [NotApplied("version_mismatch"), Unknown()]


def test_results_stay_as_long_as_their_gateway_keeps_them_open() -> None:
    bench = _bench()
    for number in (1, 2, 3):
        bench.write("v", key=f"k{number}", operation=operation(number, lowest=min(number, 2)))
    bench.ack("b")

    kept = bench.copy().state.gateways["c-1"]
    assert (kept.lowest, kept.results) == (2, {2: (Answer.CREATED, 3), 3: (Answer.CREATED, 4)})


def test_a_refused_operation_stays_refused_in_this_epoch_whatever_happens_between() -> None:
    bench = _bench()
    refused = bench.write("v", operation=operation(1), if_match=(2,))
    bench.write("other")
    again = bench.write("v", operation=operation(1), if_match=(2,))

    assert _settled(bench, refused, again) == [NotApplied("version_mismatch")] * 2


def test_a_delete_of_nothing_stays_one_when_it_is_sent_again() -> None:
    bench = _bench()
    first = bench.write(None, operation=operation(1))
    bench.write("created meanwhile")
    again = bench.write(None, operation=operation(1))

    assert (_settled(bench, first, again), bench.last_sn) == ([Absent(1), Absent(1)], 2)


def test_what_was_refused_for_want_of_room_may_be_tried_again() -> None:
    bench = _bench()
    value = "x" * (2 << 20)
    for number in range(1, 4):
        bench.write(value, operation=operation(number))
    refused = bench.write(value, operation=operation(4))
    bench.ack("b")
    again = bench.write(value, operation=operation(4))

    assert bench.result(refused) == NotApplied("overloaded")
    assert _settled(bench, again) == [Stored(Answer.REPLACED, 5, 1)]


def test_a_new_primary_knows_operations_of_the_log_before_anything_is_applied() -> None:
    entries = [put_entry(1, 1, operation=operation(3))]
    bench = Bench(shard("a b", epoch=2), recovered={(0, FIRST): recovered_copy(entries)})
    bench.up("b")
    bench.answer_index()
    waiting = bench.write("v", operation=operation(3))
    tell_tails(bench, "b", last=(1, 1))
    bench.ack("b", epoch=2)
    bench.pong("b")

    assert (bench.result(waiting), bench.last_sn) == (Stored(Answer.CREATED, 1, 2), 2)


def test_an_epoch_that_is_lost_moves_a_waiting_duplicate_as_well() -> None:
    bench = _bench()
    tokens = [bench.write("v", operation=operation(1)) for _ in range(2)]
    bench.change(Move(0, 1, "b"))

    assert [bench.result(token) for token in tokens] == [Moved("b", 2, FIRST + 1)] * 2


def test_a_duplicate_whose_first_attempt_never_commits_has_an_unknown_outcome() -> None:
    bench = _bench()
    bench.write("v", operation=operation(1))
    second = bench.write("v", operation=operation(1), deadline=bench.now + 1)
    bench.wait(1.0)

    assert bench.result(second) == Unknown()


# --- Idempotency-Key ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_applied", [True, False])
def test_a_key_used_again_for_the_same_request_gives_the_first_answer(is_applied: bool) -> None:
    bench = _bench()
    bench.stores = is_applied
    first = bench.write("v", idempotency=named("order-1"), operation=operation(1))
    bench.ack("b")
    again = bench.write("v", idempotency=named("order-1"), operation=operation(1, gateway="b-1"))

    assert (_settled(bench, first, again), bench.last_sn) == ([CREATED, CREATED], 2)


@pytest.mark.parametrize("is_committed", [True, False])
def test_a_key_used_again_for_another_request_is_refused(is_committed: bool) -> None:
    bench = _bench()
    bench.write("v", idempotency=named("order-1"))
    if is_committed:
        bench.ack("b")
    other = bench.write("w", idempotency=named("order-1", b"other"))

    assert (_settled(bench, other), bench.last_sn) == ([REUSED], 2)


def test_two_attempts_at_once_through_two_gateways_are_one_change() -> None:
    bench = _bench()
    tokens = [
        bench.write("v", idempotency=named("order-1"), operation=operation(number, gateway=gateway))
        for number, gateway in ((1, "b-1"), (9, "c-1"))
    ]
    bench.pong("b")
    waiting = [bench.result(token) for token in tokens]

    assert (waiting, _settled(bench, *tokens), bench.last_sn) == ([None, None], [CREATED, CREATED], 2)


def test_a_key_belongs_to_its_user() -> None:
    bench = _bench()
    bench.write("v", idempotency=named("order-1"))
    other = bench.write("w", idempotency=type(named(""))("v", "order-1", b"other"))

    assert _settled(bench, other) == [Stored(Answer.REPLACED, 3, 1)]


@pytest.mark.parametrize(
    ("later_ms", "answer"),
    [(IDEMPOTENCY_KEPT_MS, REUSED), (IDEMPOTENCY_KEPT_MS + 1, Stored(Answer.REPLACED, 4, 1))],
)
def test_a_key_is_kept_for_a_day_of_the_logs_time_and_not_by_any_clock(later_ms: int, answer: object) -> None:
    bench = _bench()
    bench.write("v", idempotency=named("order-1"), wall_ms=1000)
    bench.ack("b")
    bench.write("a day later", key="other", wall_ms=1000 + later_ms)
    bench.ack("b")
    again = bench.write("w", idempotency=named("order-1", b"other"), wall_ms=1)

    assert _settled(bench, again) == [answer]


def test_a_refused_change_leaves_its_key_free() -> None:
    bench = _bench()
    bench.write("v", idempotency=named("order-1"), if_match=(9,))
    again = bench.write("w", idempotency=named("order-1", b"other"))

    assert _settled(bench, again) == [CREATED]


# --- gateways that ended ------------------------------------------------------------------------------------------


def test_the_next_write_after_a_gateway_ended_lets_its_results_go_and_names_the_map() -> None:
    bench = serving(shard("a b"))
    bench.write("v", operation=operation(1))
    bench.ack("b")
    _reboot(bench, "c", 2)
    bench.write("w", wall_ms=5)
    bench.ack("b")

    assert ForgetGateways(("c-1",), FIRST + 1, 5) in appended(bench)
    assert (bench.copy().state.gateways, bench.copy().state.ended_version) == ({}, FIRST + 1)


def test_gateways_that_go_on_are_not_forgotten() -> None:
    bench = serving(shard("a b"))
    for gateway in ("a-1", "b-1", "c-1"):
        bench.write("v", operation=operation(1, gateway=gateway))
    bench.ack("b")
    _reboot(bench, "c", 2)
    bench.write("w")
    bench.ack("b")

    assert sorted(bench.copy().state.gateways) == ["a-1", "b-1"]


def test_an_ended_gateway_is_not_served_any_more() -> None:
    bench = serving(shard("a b"))
    _reboot(bench, "c", 2)
    late = bench.write("v", operation=operation(1))

    assert isinstance(bench.result(late), NotApplied) and bench.last_sn == 1


def test_a_gateway_whose_last_write_was_still_pending_is_forgotten_too() -> None:
    bench = serving(shard("a b"))
    bench.write("v", operation=operation(1))
    _reboot(bench, "c", 2)
    bench.write("w")
    bench.ack("b")

    assert bench.copy().state.gateways == {}


# --- the overlay --------------------------------------------------------------------------------------------------


def _change(key: str, number: int) -> Change:
    return Change((Write("u", key, b"v"),), Answer.CREATED, 1, operation(number), named(f"n{number}"))


def test_the_overlay_forgets_what_the_store_has_applied_and_nothing_else() -> None:
    overlay = Overlay()
    for sn, key in ((2, "x"), (3, "y"), (4, "x")):
        overlay.add(sn, _change(key, sn))
    overlay.applied(2)

    assert {place: [sn for sn, _, _ in held] for place, held in overlay.rows.items()} == {
        ("u", "x"): [4],
        ("u", "y"): [3],
    }
    assert (sorted(overlay.operations), sorted(overlay.remembered)) == (
        [("c-1", 3), ("c-1", 4)],
        [("u", "n3"), ("u", "n4")],
    )

    overlay.applied(4)

    assert (overlay.rows, overlay.operations, overlay.remembered, list(overlay.order)) == ({}, {}, {}, [])


def test_the_overlay_shows_the_newest_committed_write() -> None:
    overlay = Overlay()
    for sn in (2, 3, 4):
        overlay.add(sn, _change("x", sn))

    found = [overlay.committed("u", "x", commit) for commit in (1, 2, 3, 9)]
    assert [held and held[0] for held in found] == [None, 2, 3, 4]


@pytest.mark.parametrize(
    ("version", "if_match", "if_none_match", "expected"),
    [
        (0, None, None, True),
        (5, None, None, True),
        (5, (), None, True),
        (0, (), None, False),
        (5, (5, 6), None, True),
        (5, (6,), None, False),
        (0, (0,), None, False),
        (5, None, (), False),
        (0, None, (), True),
        (5, None, (6,), True),
        (5, None, (6, 5), False),
        (0, None, (0,), True),
    ],
)
def test_conditions(
    version: int, if_match: tuple[int, ...] | None, if_none_match: tuple[int, ...] | None, expected: bool
) -> None:
    assert holds(version, if_match, if_none_match) is expected
