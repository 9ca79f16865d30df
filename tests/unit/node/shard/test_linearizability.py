"""The judge of histories is judged: histories known to be bad are refused, good ones are not."""

from math import inf

import pytest

from ringkeep_testing.linearizability import ANY, Operation, Undecided, is_linearizable


def _read(called: float, returned: float, value: str | None) -> Operation:
    return Operation(called, returned, "read", value)


def _write(called: float, returned: float, value: str | None, **more: str | bool) -> Operation:
    return Operation(called, returned, "write", value, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "history",
    [
        pytest.param([_write(0, 1, "a"), _read(2, 3, None)], id="a stale read"),
        pytest.param([_write(0, 9, "a"), _read(1, 2, "a"), _read(3, 4, None)], id="a value seen and then not"),
        pytest.param([_read(0, 1, "a"), _write(2, 3, "a")], id="a read of the future"),
        pytest.param([_write(0, 1, "a"), _write(2, 3, "b"), _read(4, 5, "a")], id="a lost write"),
        pytest.param([_write(0, inf, "a"), _read(1, 2, "a"), _read(3, 4, None)], id="an unknown write seen and undone"),
        pytest.param(
            [_write(0, 1, "a"), Operation(2, 3, "refused", "b", only_if="a"), _read(4, 5, "a")],
            id="a refusal though the precondition held",
        ),
        pytest.param(
            [_write(0, 1, "a"), _write(2, 5, "b", only_if="a"), _write(2, 5, "c", only_if="a")],
            id="two swaps of one value",
        ),
        pytest.param([_write(0, 1, "a"), _write(2, 3, "b", created=True)], id="created what was there"),
    ],
)
def test_a_history_that_no_order_explains_is_refused(history: list[Operation]) -> None:
    assert not is_linearizable(history)


@pytest.mark.parametrize(
    "history",
    [
        pytest.param([_write(0, 5, "a"), _read(1, 2, None), _read(3, 4, "a")], id="a write takes effect in between"),
        pytest.param([_write(0, inf, "a"), _read(1, 2, None), _read(8, 9, "a")], id="an unknown write happens late"),
        pytest.param([_write(0, inf, "a"), _read(1, 2, None)], id="an unknown write never happens"),
        pytest.param(
            [_write(0, 1, "a"), Operation(0, 3, "refused", "b", unless=ANY), _write(2, 3, None, created=False)],
            id="a refusal among concurrent changes",
        ),
        pytest.param([_write(0, inf, f"v{n}") for n in range(40)] + [_read(50, 51, "v7")], id="many unknown writes"),
    ],
)
def test_a_history_that_some_order_explains_is_accepted(history: list[Operation]) -> None:
    assert is_linearizable(history)


def test_a_history_that_takes_too_long_to_judge_is_undecided_and_the_error_shows_it() -> None:
    many = [_write(0, inf, f"v{n}") for n in range(14)]
    history = [*many, *(_read(1, inf, f"v{n}") for n in range(14)), _read(50, 51, "nobody wrote this")]

    with pytest.raises(Undecided, match=r"undecided after 500 states(?s:.*)nobody wrote this"):
        is_linearizable(history, states_max=500)
