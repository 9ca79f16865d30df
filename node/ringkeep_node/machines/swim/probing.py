"""Whom to ask next, what is asked and not answered yet, and which silent addresses to call again.

    probe: ping --probe_timeout_s--> helpers asked --rest of the interval--> failed
    relay: ping for somebody else --nack_after_s--> told that there is no answer (a later answer still goes through)
    call:  ping to an address nobody alive has, again and again, for ever: partitions heal by themselves

The ring visits every member once before it visits one twice, in an order that is shuffled anew each time: the first
detection of a failure takes at most two rounds (SWIM, section 4.3).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from ringkeep_node.machines.swim.members import Address
from ringkeep_node.machines.swim.timing import SwimSettings

RELAYS_MAX = 64

Draw = Callable[[], float]


def shuffled(items: Sequence[str], draw: Draw) -> list[str]:
    """Return ``items`` in random order (Fisher and Yates)."""
    order = list(items)
    for last in range(len(order) - 1, 0, -1):
        other = int(draw() * (last + 1))
        order[last], order[other] = order[other], order[last]
    return order


class ProbeRing:
    """The order in which members are probed."""

    def __init__(self, draw: Draw) -> None:
        self._draw = draw
        self._order: list[str] = []
        self._at = 0

    def add(self, storage: str) -> None:
        """Put a newcomer at a random place of what is left of this round."""
        place = self._at + int(self._draw() * (len(self._order) - self._at + 1))
        self._order.insert(place, storage)

    def next(self, candidates: Collection[str]) -> str | None:
        """Return whom to probe among ``candidates``; None if there is nobody."""
        for order in (self._order, None):
            if order is None:
                self._order, self._at = shuffled(sorted(candidates), self._draw), 0
            while self._at < len(self._order):
                self._at += 1
                if self._order[self._at - 1] in candidates:
                    return self._order[self._at - 1]
        return None


class Probe:
    """One question of ours that is not answered yet."""

    __slots__ = ("_slack_s", "asked", "fails_at", "helpers_at", "nacks", "number", "sent_at", "target")

    def __init__(self, *, number: int, target: str, now: float, helpers_s: float, fails_s: float, lag_s: float) -> None:
        self.number = number
        self.target = target
        self.sent_at = now
        self.helpers_at: float | None = now + helpers_s
        self.fails_at = now + fails_s
        self._slack_s = 0.0
        self.postpone(lag_s)
        self.asked = 0
        self.nacks = 0

    @property
    def due_at(self) -> float:
        """When something happens to it next."""
        return self.fails_at if self.helpers_at is None else min(self.helpers_at, self.fails_at)

    def postpone(self, lag_s: float) -> None:
        """Give it as much more time as we ourselves are late: the worst lag counts, so that it does end."""
        more_s = max(0.0, lag_s - self._slack_s)
        self._slack_s += more_s
        self.fails_at += more_s
        if self.helpers_at is not None:
            self.helpers_at += more_s


class Relay:
    """A question we put for somebody else."""

    __slots__ = ("asker", "ends_at", "nack_at", "number", "target")

    def __init__(self, *, asker: Address, number: int, target: str, nack_at: float, ends_at: float) -> None:
        self.asker = asker
        self.number = number
        self.target = target
        self.nack_at: float | None = nack_at
        self.ends_at = ends_at

    @property
    def due_at(self) -> float:
        """When something happens to it next."""
        return self.ends_at if self.nack_at is None else self.nack_at


class Calls:
    """The addresses that must not be given up, each with the time of the next call."""

    def __init__(self, settings: SwimSettings, draw: Draw) -> None:
        self._settings = settings
        self._draw = draw
        self._next: dict[Address, tuple[float, float]] = {}

    def want(self, addresses: Collection[Address], now: float) -> None:
        """Call exactly these from now on: newcomers at once, the others when their time comes."""
        self._next = {address: self._next.get(address, (now, self._settings.retry_s)) for address in addresses}

    def due(self, now: float) -> list[Address]:
        """Return whom to call now, and plan the next call of each: pauses double up to the longest, with jitter."""
        ready = [address for address, (at, _) in self._next.items() if now >= at]
        for address in ready:
            pause_s = self._next[address][1]
            at = now + pause_s * (0.75 + 0.25 * self._draw())
            self._next[address] = (at, min(self._settings.retry_max_s, 2 * pause_s))
        return ready

    def next_at(self) -> float | None:
        """Return when the next call is due."""
        return min((at for at, _ in self._next.values()), default=None)
