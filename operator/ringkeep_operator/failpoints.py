"""Places where the operator may die: before and after each write to the API server and each change asked of a node.

Every write passes one of these by name, so a test can list the places of a run and then end the operator at each of them in
turn. In a real process ``RINGKEEP_OPERATOR_FAILPOINT=name:count`` ends it, as a kill would, the count-th time that it
comes to ``name``; without it a failpoint costs one call.

Source: Sieve (OSDI 2022); gofail, as etcd's operator uses it in its end-to-end image.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TypeAlias

KILLED = 137
"""Exit code of a process that was killed: 128 + SIGKILL."""

Reached: TypeAlias = Callable[[str], None]
"""Told the name of each failpoint as it is reached; ends the operator if it wants to."""


def never(_: str) -> None:
    """Pass every failpoint."""


class KillAt:
    """Ends the process the ``count``-th time that ``name`` is reached. Raises ``ValueError`` for a wish of another form."""

    def __init__(self, wish: str, end: Callable[[int], object] = os._exit) -> None:
        name, _, count = wish.rpartition(":")
        if not name or not count.isdigit() or int(count) < 1:
            raise ValueError(f"a failpoint is name:count, with a count from 1, not {wish!r}")
        self.name, self.left = name, int(count)
        self._end = end

    def __call__(self, name: str) -> None:
        """Count, and end the process when it is time."""
        if name != self.name:
            return
        self.left -= 1
        if self.left == 0:
            self._end(KILLED)


@asynccontextmanager
async def around(reached: Reached, name: str) -> AsyncIterator[None]:
    """Reach ``before:name``, and ``after:name`` if what is inside succeeded."""
    reached(f"before:{name}")
    yield
    reached(f"after:{name}")
