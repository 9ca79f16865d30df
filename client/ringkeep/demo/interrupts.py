"""The first SIGINT, SIGTERM or SIGHUP ends the demo in order; every later one does nothing.

    listen -> signal -> the work is cancelled, between two steps of the loop -> the caller ends the processes

Nothing is ever raised out of a signal handler. Such an exception could come between the start of a process and the
writing down of its number, or between the end of the work and the ending of the processes: either would leave processes
behind. A signal that was ignored when we were started stays ignored (``nohup``, or a job in the background of a script).
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Coroutine
from types import FrameType
from typing import Any, TypeVar

T = TypeVar("T")

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupts:
    """Signals that ask for the end. Used in the main thread only."""

    def __init__(self) -> None:
        self.came = False
        """Whether a signal came: an error that the work ends with after that is an interruption, whatever it is."""
        self._task: asyncio.Task[Any] | None = None

    def listen(self) -> None:
        """Take the signals from now on."""
        for number in SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._take)

    async def watch(self, work: Coroutine[Any, Any, T]) -> T:
        """Carry out ``work``; a signal that comes, or came before, cancels it."""
        self._task = asyncio.current_task()
        assert self._task is not None, "a coroutine is run by a task"
        if self.came:
            self._task.cancel()
        try:
            return await work
        finally:
            self._task = None

    def _take(self, number: int, frame: FrameType | None) -> None:
        if not self.came and self._task is not None:
            self._task.get_loop().call_soon_threadsafe(self._task.cancel)
        self.came = True
