"""When an attempt is tried again, and which error remains at the deadline."""

from __future__ import annotations

import pytest

from ringkeep.errors import (
    CLASS_OF_CODE,
    NoPrimary,
    OutcomeUnknown,
    RingkeepError,
    Unavailable,
    UnexpectedAnswer,
    VersionMismatch,
    error_of_answer,
)
from ringkeep.retries import Ending, Operation, RetryPolicy, ending_of


def _answer(status: int, code: str, detail: str = "because") -> RingkeepError:
    body = f'{{"code": "{code}", "detail": "{detail}", "status": {status}}}'.encode()
    return error_of_answer(status=status, body=body, node="n1")


def _operation(*, changes: bool = True) -> Operation:
    return Operation(started=100.0, timeout_s=1.0, changes=changes, policy=RetryPolicy(), draw=lambda: 0.5)


@pytest.mark.parametrize(
    ("error", "ending"),
    [
        (_answer(503, "no_primary"), Ending.REFUSED),
        (_answer(503, "not_enough_copies"), Ending.REFUSED),
        (_answer(503, "overloaded"), Ending.REFUSED),
        (_answer(429, "too_many_requests"), Ending.REFUSED),
        (_answer(507, "disk_full"), Ending.REFUSED),
        (Unavailable(), Ending.REFUSED),
        (_answer(504, "outcome_unknown"), Ending.UNKNOWN),
        (OutcomeUnknown(), Ending.UNKNOWN),
        (error_of_answer(status=502, body=b"<html>"), Ending.UNKNOWN),
        (error_of_answer(status=404, body=b"<html>"), Ending.FINAL),
        (_answer(404, "not_found"), Ending.FINAL),
        (_answer(412, "version_mismatch"), Ending.FINAL),
        (_answer(422, "key_reused"), Ending.FINAL),
        (_answer(500, "internal"), Ending.FINAL),
    ],
    ids=lambda value: getattr(value, "code", None) or str(value),
)
def test_each_error_ends_an_attempt_in_its_own_way(error: RingkeepError, ending: Ending) -> None:
    assert ending_of(error) is ending


def test_pauses_double_up_to_the_ceiling_and_are_drawn_from_zero() -> None:
    policy = RetryPolicy(pause_first_s=0.02, pause_max_s=0.25)

    assert [policy.pause_s(failures, 0.5) for failures in (1, 2, 3, 4, 5, 99)] == [0.01, 0.02, 0.04, 0.08, 0.125, 0.125]
    assert policy.pause_s(3, 0.0) == 0.0


def test_a_final_error_is_raised_at_once() -> None:
    with pytest.raises(RingkeepError) as caught:
        _operation().failed(_answer(412, "version_mismatch"), now=100.0)

    assert caught.value.code == "version_mismatch"


def test_retries_go_on_until_the_next_attempt_would_begin_at_the_deadline() -> None:
    operation = _operation()

    assert operation.failed(_answer(503, "no_primary"), now=100.0) == 0.01
    assert operation.failed(_answer(503, "no_primary"), now=100.97) == 0.02
    with pytest.raises(NoPrimary):
        operation.failed(_answer(503, "no_primary"), now=100.96)


def test_the_nodes_wish_to_be_left_alone_is_kept() -> None:
    operation = Operation(started=0.0, timeout_s=10.0, changes=True, policy=RetryPolicy(), draw=lambda: 0.5)

    assert operation.failed(_answer(503, "overloaded"), now=0.0, retry_after_s=2.0) == 2.0


def test_a_change_with_one_unknown_attempt_is_never_reported_as_refused() -> None:
    operation = _operation()
    operation.failed(_answer(504, "outcome_unknown"), now=100.0)

    with pytest.raises(OutcomeUnknown):
        operation.failed(_answer(503, "no_primary"), now=101.0)


def test_an_answer_that_settles_nothing_does_not_settle_an_unknown_attempt() -> None:
    for error in (_answer(500, "internal"), error_of_answer(status=404, body=b"<html>")):
        operation = _operation()
        operation.failed(_answer(504, "outcome_unknown"), now=100.0)

        with pytest.raises(OutcomeUnknown):
            operation.failed(error, now=100.1)
    operation = _operation()
    operation.failed(_answer(504, "outcome_unknown"), now=100.0)
    with pytest.raises(VersionMismatch):
        operation.failed(_answer(412, "version_mismatch"), now=100.1)


def test_a_read_has_no_unknown_outcome() -> None:
    operation = _operation(changes=False)
    operation.failed(OutcomeUnknown(), now=100.0)

    with pytest.raises(Unavailable):
        operation.failed(OutcomeUnknown("no answer"), now=101.0)


def test_an_attempt_takes_at_most_its_share_and_what_is_left() -> None:
    operation = Operation(started=0.0, timeout_s=10.0, changes=True, policy=RetryPolicy(attempt_s=2.5), draw=lambda: 0)

    assert [operation.attempt_s(now) for now in (0.0, 9.0, 11.0)] == [2.5, 1.0, 0.001]


def test_every_code_of_the_contract_has_a_class_of_its_own() -> None:
    for code, kind in CLASS_OF_CODE.items():
        error = _answer(400, code, "what happened")

        assert (type(error), error.code, str(error)) == (kind, code, "what happened")


def test_a_head_without_a_body_is_understood_by_its_status_if_a_node_answered() -> None:
    assert error_of_answer(status=404, body=b"", node="n1").code == "not_found"
    assert isinstance(error_of_answer(status=404, body=b"", node=""), UnexpectedAnswer)


def test_a_code_of_a_newer_version_is_judged_by_its_status() -> None:
    error = _answer(503, "brand_new")

    assert (error.code, str(error), ending_of(error)) == ("not_ready", "because", Ending.REFUSED)
