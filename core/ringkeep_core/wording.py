"""How numbers, times and lists are said to people: the same words in every summary."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

RANGES_NAMED_MAX = 8


def span(seconds: float) -> str:
    """Return a duration in whole units: ``1 s``, ``42 s``, ``4 min 18 s``, ``2 h 5 min``, ``3 d 4 h``."""
    whole = max(1, round(seconds))
    if whole < 60:
        return f"{whole} s"
    for unit, smaller, length, part in (("min", "s", 60, 1), ("h", "min", 3600, 60), ("d", "h", 86400, 3600)):
        if whole < length * (60 if unit == "min" else 24) or unit == "d":
            large, rest = whole // length, whole % length // part
            return f"{large} {unit} {rest} {smaller}" if rest else f"{large} {unit}"
    raise AssertionError("days have no bound")


def size(count: int) -> str:
    """Return a number of bytes for people: ``512 B``, ``3.4 MiB``."""
    value, unit = float(count), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if value < 1024:
            break
        value, unit = value / 1024, larger
    return f"{value:,.0f} B" if unit == "B" else f"{value:,.1f} {unit}"


def many(count: int, one: str, more: str = "") -> str:
    """Return a number with its word: ``1 copy``, ``1,024 shards``."""
    return f"{count:,} {one if count == 1 else more or one + 's'}"


def verb(count: int, one: str, more: str) -> str:
    """Return the form of a verb that goes with a number."""
    return one if count == 1 else more


def part(count: int, total: int, one: str = "shard") -> str:
    """Return a part of a whole: ``171 of 256 shards``, ``all 256 shards``."""
    if count == total and total > 1:
        return f"all {many(total, one)}"
    return f"{count:,} of {many(total, one)}"


def share(count: int, total: int, one: str, more: str) -> str:
    """Return a part of all shards with its verb: ``1 of 256 shards has``, ``all 256 shards have``."""
    return f"{part(count, total)} {verb(count, one, more)}"


def names(of: Iterable[str], word: str = "and") -> str:
    """Return names in a row: ``n1``, ``n1 and n2``, ``n1, n2 and n3``."""
    given = list(of)
    if len(given) < 2:
        return "".join(given)
    return f"{', '.join(given[:-1])} {word} {given[-1]}"


def ranges(numbers: Sequence[int]) -> str:
    """Return ascending numbers in short: ``3, 7-9 and 12``; what would be long ends with how many more there are."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    shown = runs[:RANGES_NAMED_MAX]
    told = [str(first) if first == last else f"{first}-{last}" for first, last in shown]
    left = sum(last - first + 1 for first, last in runs[RANGES_NAMED_MAX:])
    return names([*told, f"{left:,} more"] if left else told)


def capital(text: str) -> str:
    """Return a sentence with a great first letter, unless it begins with a name such as ``n1``."""
    word = text.split(" ", 1)[0]
    return text[:1].upper() + text[1:] if word.isalpha() else text
