"""Linearizable reads without a clock: ReadIndex (thesis 6.4).

At the leader a read takes the commit index of the moment and waits for a confirmation round that *starts after* it
came: a majority of the voters answers that it still is in this term. Before an entry of its own term is committed the
leader's commit index may be behind what its predecessor acknowledged, so reads wait for that first. At a follower a
read is a question to the leader. All of it belongs to one leader in one term: what is left over when that ends has
failed, and an answer that comes later finds no question.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import inf

from msgspec import Struct


class Read(Struct, frozen=True):
    """A read at the leader: of ``sender`` (None: our own), known to it by ``number``."""

    sender: str | None
    number: int


class _Waiting(Struct, frozen=True):
    read: Read
    index: int
    round: int


class LeaderReads:
    """The reads one leadership has to confirm."""

    def __init__(self, reads_max: int) -> None:
        self._reads_max = reads_max
        self._early: list[Read] = []
        self._waiting: list[_Waiting] = []

    def __bool__(self) -> bool:
        """Return whether a confirmation round is wanted."""
        return bool(self._waiting)

    def add_early(self, read: Read) -> bool:
        """Keep a read until an entry of the own term is committed; False when there are too many."""
        if self._is_full():
            return False
        self._early.append(read)
        return True

    def add(self, read: Read, *, index: int, confirming_round: int) -> bool:
        """Keep a read to be answered with ``index`` once the round is confirmed; False when there are too many."""
        if self._is_full():
            return False
        self._waiting.append(_Waiting(read, index, confirming_round))
        return True

    def take_early(self) -> list[Read]:
        """Return and forget the reads that waited for the term's first commit."""
        early, self._early = self._early, []
        return early

    def take_confirmed(self, confirmed_round: int) -> list[tuple[Read, int]]:
        """Return and forget the reads of rounds up to this one, each with its index. They wait in order of rounds."""
        count = 0
        while count < len(self._waiting) and self._waiting[count].round <= confirmed_round:
            count += 1
        confirmed = [(waiting.read, waiting.index) for waiting in self._waiting[:count]]
        del self._waiting[:count]
        return confirmed

    def take_all(self) -> Iterator[Read]:
        """Return and forget every read, because the leadership ended."""
        everything = self._early + [waiting.read for waiting in self._waiting]
        self._early, self._waiting = [], []
        return iter(everything)

    def _is_full(self) -> bool:
        return len(self._early) + len(self._waiting) >= self._reads_max


class ForwardedReads:
    """The reads a follower has sent to its leader, by number; each is answered, or fails at its deadline."""

    def __init__(self, first_number: int, reads_max: int) -> None:
        # The first number is drawn at random for each boot, so that an answer to an earlier boot matches nothing.
        self._next_number = first_number
        self._reads_max = reads_max
        self._pending: dict[int, tuple[int, float]] = {}

    def add(self, token: int, *, deadline: float) -> int | None:
        """Return the number to ask under, or None when there are too many."""
        if len(self._pending) >= self._reads_max:
            return None
        number = self._next_number
        self._next_number += 1
        self._pending[number] = (token, deadline)
        return number

    def take(self, number: int) -> int | None:
        """Return and forget the token asked for under ``number``."""
        found = self._pending.pop(number, None)
        return None if found is None else found[0]

    def take_overdue(self, now: float) -> list[int]:
        """Return and forget the tokens whose deadline has come."""
        overdue: list[int] = []
        while self._pending and now >= self.next_deadline():
            overdue.append(self._pending.pop(next(iter(self._pending)))[0])
        return overdue

    def take_all(self) -> list[int]:
        """Return and forget every token, because the leader or the term changed."""
        tokens = [token for token, _ in self._pending.values()]
        self._pending.clear()
        return tokens

    def next_deadline(self) -> float:
        """Return when the oldest read fails. All have the same patience, so the oldest is the first."""
        return next(iter(self._pending.values()))[1] if self._pending else inf
