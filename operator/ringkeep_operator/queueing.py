"""Which cluster is looked at next: each key waits at most once, and is worked on by one pass at a time.

    add(key, delay) --> due --get--> in work --done--> (due again, if it was added meanwhile)

A key that is added again while it waits only gets an earlier turn; two passes of one key begin at least ``spacing_s``
apart. So a storm of changes costs a few passes a second, and the first change of a quiet cluster is not delayed at all.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeAlias

Key: TypeAlias = tuple[str, str]
"""Namespace and name of a Cluster."""


class KeyQueue:
    """Keys and when they are due. ``clock`` is the event loop's."""

    def __init__(self, clock: Callable[[], float], spacing_s: float = 0.2) -> None:
        self._clock, self._spacing_s = clock, spacing_s
        self._due: dict[Key, float] = {}
        self._began: dict[Key, float] = {}
        self._in_work: set[Key] = set()
        self._changed = asyncio.Event()

    def __len__(self) -> int:
        return len(self._due)

    def add(self, key: Key, delay_s: float = 0.0) -> None:
        """Have the key looked at after ``delay_s`` at the latest."""
        due = self._clock() + delay_s
        if due < self._due.get(key, float("inf")):
            self._due[key] = due
            self._changed.set()

    def forget(self, key: Key) -> None:
        """Forget when a key that no longer exists was looked at; if it was added again meanwhile its turn stands."""
        self._began.pop(key, None)

    async def get(self) -> Key:
        """Wait for the next key and take it into work; ``done`` gives it back."""
        while True:
            now = self._clock()
            turns = [(self._turn(key, due), key) for key, due in self._due.items() if key not in self._in_work]
            first = min(turns, default=None)
            if first is not None and first[0] <= now:
                key = first[1]
                del self._due[key]
                self._began[key] = now
                self._in_work.add(key)
                return key
            self._changed.clear()
            try:
                async with asyncio.timeout(first[0] - now if first is not None else None):
                    await self._changed.wait()
            except TimeoutError:
                continue

    def overdue_s(self) -> float:
        """Seconds since the longest waiting key, which nobody works on, was due."""
        now = self._clock()
        return max((max(0.0, now - due) for key, due in self._due.items() if key not in self._in_work), default=0.0)

    def done(self, key: Key) -> None:
        """End the work on a key."""
        self._in_work.discard(key)
        self._changed.set()

    def _turn(self, key: Key, due: float) -> float:
        began = self._began.get(key)
        return due if began is None else max(due, began + self._spacing_s)
