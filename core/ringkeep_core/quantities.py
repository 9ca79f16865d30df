"""Amounts and durations as Kubernetes writes them: ``1Gi``, ``500m``, ``60s``.

Amounts are exact: milli-units matter for processors, bytes for storage, so they are fractions and not floats.
Source: Kubernetes, "Quantity" (apimachinery); durations are one number and one unit here, for one way to write each.
"""

from __future__ import annotations

import re
from fractions import Fraction

QUANTITY_PATTERN = r"^[0-9]{1,15}(\.[0-9]{1,9})?(m|k|M|G|T|P|Ki|Mi|Gi|Ti|Pi)?$"
DURATION_PATTERN = r"^[0-9]{1,6}(s|m|h)$"

# fmt: off
_UNITS = {
    "": Fraction(1), "m": Fraction(1, 1000),
    "k": Fraction(10**3), "M": Fraction(10**6), "G": Fraction(10**9), "T": Fraction(10**12), "P": Fraction(10**15),
    "Ki": Fraction(2**10), "Mi": Fraction(2**20), "Gi": Fraction(2**30), "Ti": Fraction(2**40), "Pi": Fraction(2**50),
}
# fmt: on
_QUANTITY = re.compile(QUANTITY_PATTERN)
_SPLIT = re.compile(r"([0-9.]+)([A-Za-z]*)")
_DURATION = re.compile(r"([0-9]{1,6})(s|m|h)")
_SECONDS = {"s": 1, "m": 60, "h": 3600}


def parse_quantity(text: str | int | float) -> Fraction:
    """Return the amount that ``text`` stands for. Raises ``ValueError`` with one sentence."""
    if isinstance(text, int | float):
        return Fraction(text)
    parts = _SPLIT.fullmatch(text) if _QUANTITY.fullmatch(text) else None
    if parts is None:
        raise ValueError(f"{text!r} is not an amount such as 1Gi, 50Mi or 500m")
    return Fraction(parts[1]) * _UNITS[parts[2]]


def are_equal_amounts(first: object, second: object) -> bool:
    """Return whether two amounts are the same, however they are written: the API server rewrites them."""
    return _amount(first) == _amount(second)


def _amount(value: object) -> object:
    try:
        return parse_quantity(value)  # type: ignore[arg-type]  # what is no text and no number is no amount either
    except (TypeError, ValueError):
        return value


def parse_bytes(text: str | int) -> int:
    """Return the whole bytes that ``text`` stands for. Raises ``ValueError`` with one sentence."""
    amount = parse_quantity(text)
    if amount.denominator != 1:
        raise ValueError(f"{text!r} is not a whole number of bytes")
    return amount.numerator


def parse_duration(text: str) -> float:
    """Return the seconds that ``text`` (``60s``, ``5m``, ``1h``) stands for. Raises ``ValueError`` with one sentence."""
    match = _DURATION.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is not a duration such as 60s, 5m or 1h")
    return float(int(match[1]) * _SECONDS[match[2]])
