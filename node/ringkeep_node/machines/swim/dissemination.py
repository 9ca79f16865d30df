"""Which news still have to be told, and how two members find out what they know differently.

News wait in an outbox until each was sent often enough (``retransmit`` times for each decimal digit of the cluster's
size: SWIM, section 4.1), the least sent first. What gets lost on the way is found by digest: a hash of what every node
should agree on travels in each packet; where it differs for longer than news need, two members compare rows (bounded
ranges of the sorted members) and tell each other the differences only.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from xxhash import xxh3_64_intdigest

from ringkeep_node.machines.swim.messages import Row, Update, size

OUTBOX_MAX = 256


@dataclass(slots=True)
class _Waiting:
    update: Update
    bytes: int
    sent: int = 0


class Outbox:
    """News that still travel, at most one state and one accusation by each accuser for every member."""

    def __init__(self) -> None:
        self._waiting: dict[tuple[str, str], _Waiting] = {}

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def put(self, update: Update) -> None:
        """Add news. Newer news about a member replace everything older about it."""
        for key in [key for key, old in self._waiting.items() if _outdates(update, old.update)]:
            del self._waiting[key]
        if len(self._waiting) >= OUTBOX_MAX:
            # What was told most often is the smallest loss; digests find it again.
            del self._waiting[max(self._waiting, key=lambda key: self._waiting[key].sent)]
        self._waiting[update.storage, update.by] = _Waiting(update, size(update))

    def forget(self, storage: str) -> None:
        """Drop all news about a member."""
        for key in [key for key in self._waiting if key[0] == storage]:
            del self._waiting[key]

    def take(self, bytes_max: int, *, count_max: int, sends_max: int) -> tuple[Update, ...]:
        """Return the least told news that fit, and count them as told once more."""
        if not self._waiting:
            return ()
        taken: list[Update] = []
        for key, waiting in sorted(self._waiting.items(), key=lambda item: item[1].sent):
            if waiting.bytes <= bytes_max and len(taken) < count_max:
                bytes_max -= waiting.bytes
                taken.append(waiting.update)
                waiting.sent += 1
                if waiting.sent >= sends_max:
                    del self._waiting[key]
        return tuple(taken)


def _outdates(new: Update, old: Update) -> bool:
    if new.storage != old.storage:
        return False
    if new.by == old.by:
        return True
    return (*new.key, new.state) > (*old.key, old.state)


def sends_max(members: int, retransmit: int) -> int:
    """Return how often news are told in a cluster of ``members``: ``retransmit`` for each decimal digit."""
    return retransmit * len(str(members))


def digest_of(rows: Iterable[Row]) -> int:
    """Return the hash of what all nodes should agree on.

    The dead and those who left do not count: nodes forget them at different times.
    """
    lines = (
        f"{row.storage}:{row.counter}:{row.incarnation}:{row.state:d}:{row.values_counter}:{row.values_version}"
        for row in rows
    )
    return xxh3_64_intdigest("\n".join(lines).encode())


class RowCursor:
    """Cuts the sorted members into ranges that fit into a packet, one range after the other."""

    def __init__(self, rows_max: int) -> None:
        self._rows_max = rows_max
        self._low = ""

    def next(self, storages: Sequence[str]) -> tuple[str, str, Sequence[str]]:
        """Return (low, high, storages) of the next range of the sorted ``storages``; an empty bound is none."""
        start = next((place for place, storage in enumerate(storages) if storage >= self._low), 0)
        low = self._low if start else ""
        chosen = storages[start : start + self._rows_max]
        end = start + len(chosen)
        self._low = high = storages[end] if end < len(storages) else ""
        return low, high, chosen


def within(storage: str, low: str, high: str) -> bool:
    """Return whether ``storage`` is in the range from ``low`` up to but not including ``high``."""
    return storage >= low and (not high or storage < high)


def batches(parts: Sequence[Update], bytes_max: int, *, count_max: int) -> Iterator[tuple[Update, ...]]:
    """Yield ``parts`` in groups that fit into a packet."""
    group: list[Update] = []
    left = bytes_max
    for part in parts:
        needed = size(part)
        if group and (needed > left or len(group) == count_max):
            yield tuple(group)
            group, left = [], bytes_max
        group.append(part)
        left -= needed
    if group:
        yield tuple(group)
