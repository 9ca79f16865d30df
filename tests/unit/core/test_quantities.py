"""Amounts and durations as Kubernetes writes them."""

from fractions import Fraction

import pytest

from ringkeep_core.quantities import parse_bytes, parse_duration, parse_quantity


@pytest.mark.parametrize(
    ("text", "amount"),
    [
        ("0", 0),
        ("1Gi", 1 << 30),
        ("50Mi", 50 << 20),
        ("1k", 1000),
        ("0.5", Fraction(1, 2)),
        ("500m", Fraction(1, 2)),
        (2, 2),
    ],
)
def test_an_amount_is_exact(text: str | int, amount: int | Fraction) -> None:
    assert parse_quantity(text) == amount


@pytest.mark.parametrize("text", ["", "1 Gi", "Gi", "-1", "1.2.3", "1e3", "1Ei"])
def test_what_is_no_amount_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not an amount"):
        parse_quantity(text)


def test_bytes_are_whole() -> None:
    assert parse_bytes("1.5Gi") == 3 << 29
    with pytest.raises(ValueError, match="whole number of bytes"):
        parse_bytes("500m")


@pytest.mark.parametrize(("text", "seconds"), [("0s", 0), ("60s", 60), ("5m", 300), ("2h", 7200)])
def test_a_duration_is_a_number_and_a_unit(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "60", "1m30s", "-1s", "1d", "1.5m"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a duration"):
        parse_duration(text)
