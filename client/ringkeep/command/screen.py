"""Where commands print, and the progress of long work: a bar on a terminal, plain lines otherwise."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.table import Table

from ringkeep import membership
from ringkeep_core.wording import size

PLAIN_EVERY_S = 3.0
PIPE_WIDTH = 4096


def console() -> Console:
    """Return the console of results. Made on each use, because tests and pipes replace the stream."""
    # A pipe has no width: its rows are never broken.
    return Console(file=sys.stdout, highlight=False, width=None if sys.stdout.isatty() else PIPE_WIDTH)


def error_console() -> Console:
    """Return the console of errors and progress."""
    return Console(file=sys.stderr, highlight=False)


def write_bytes(body: bytes) -> None:
    """Write bytes to the output unchanged."""
    sys.stdout.flush()
    sys.stdout.buffer.write(body)
    sys.stdout.buffer.flush()


def write_json(body: bytes) -> None:
    """Write a JSON answer unchanged, on a line of its own."""
    write_bytes(body.rstrip(b"\n") + b"\n")


def table(*columns: str, title: str | None = None) -> Table:
    """Return an empty table in the style of the command."""
    made = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for place, column in enumerate(columns, start=1):
        numeric = column.startswith(">")
        # Names and addresses are copied by hand, so only the last column, of words, may be broken.
        made.add_column(
            column.removeprefix(">"),
            justify="right" if numeric else "left",
            overflow="fold",
            no_wrap=place < len(columns),
        )
    return made


def span(seconds: float) -> str:
    """Return a duration for people: ``0.42 s``, ``17 s``, ``3 min 5 s``."""
    if seconds < 10:
        return f"{seconds:.2f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


class Meter:
    """The progress of one piece of long work, with rate and time left.

    ``total`` may be None (not known) and may change. Use it as a context; ``update`` is cheap.
    """

    def __init__(
        self,
        label: str,
        *,
        unit: str,
        total: int | None = None,
        screen: Console | None = None,
        summary: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._label, self._unit, self._total = label, unit, total
        self._screen = screen or error_console()
        self._ends_with_summary = summary
        self._clock = clock
        self._started = self._told_at = clock()
        self._done = 0
        self._note = ""
        self._progress: Progress | None = None
        self._task: TaskID | None = None

    def __enter__(self) -> Self:
        self._started = self._told_at = self._clock()
        if self._screen.is_terminal and not self._screen.is_dumb_terminal:
            columns = (TextColumn("{task.description}"), BarColumn(bar_width=30), TextColumn("{task.fields[told]}"))
            self._progress = Progress(*columns, console=self._screen, transient=True)
            self._progress.start()
            self._task = self._progress.add_task(self._label, total=self._total, told="")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._progress is not None:
            self._progress.stop()
        if kind is None and self._ends_with_summary:
            self._screen.print(f"{self._label}: {self._summary()}", markup=False, soft_wrap=True)

    def update(self, done: int, total: int | None = None, *, note: str = "") -> None:
        """Show that ``done`` of ``total`` are done by now; ``note`` is shown behind that."""
        self._done, self._note = done, note
        if total is not None:
            self._total = total
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, completed=done, total=self._total, told=self._text())
        elif self._clock() >= self._told_at + PLAIN_EVERY_S:
            self._told_at = self._clock()
            self._screen.print(f"{self._label}: {self._text()}", markup=False, soft_wrap=True)

    def _text(self) -> str:
        spent_s = max(self._clock() - self._started, 1e-6)
        rate = self._done / spent_s
        of = (
            f"{self._done:,} {self._unit}" if self._total is None else f"{self._done:,} of {self._total:,} {self._unit}"
        )
        left = (
            f", {span((self._total - self._done) / rate)} left"
            if self._total and rate and self._done < self._total
            else ""
        )
        note = f"; {self._note}" if self._note else ""
        return f"{of}, {rate:,.0f}/s{left}{note}"

    def _summary(self) -> str:
        spent_s = max(self._clock() - self._started, 1e-6)
        return f"{self._done:,} {self._unit} in {span(spent_s)}, {self._done / spent_s:,.0f}/s"


@contextmanager
def moving(
    label: str, *, unit: str, screen: Console | None = None
) -> Iterator[tuple[Callable[[str], None], Callable[[membership.Progress], None]]]:
    """Show the steps of a change of the members, and how far its copies are, with rate and time left."""
    shown = screen or error_console()
    meter: Meter | None = None

    def say(text: str) -> None:
        opened.close()  # What is moved is moved before the next step is told.
        shown.print(f"{label}: {text}", markup=False, soft_wrap=True)

    def told(progress: membership.Progress) -> None:
        nonlocal meter
        if meter is None and progress.total:
            meter = opened.enter_context(Meter(label, unit=unit, screen=shown, total=progress.total))
        if meter is not None:
            meter.update(progress.done, progress.total, note=_note(progress))

    with ExitStack() as opened:
        try:
            yield say, told
        except KeyboardInterrupt:
            opened.close()
            shown.print(
                f"{label}: interrupted; what is under way goes on, and the same command waits for it again",
                soft_wrap=True,
            )
            raise


@contextmanager
def steps(label: str, screen: Console | None = None) -> Iterator[Callable[[str], None]]:
    """Show what is being done: a spinner with changing text on a terminal, a line for each step otherwise."""
    shown = screen or error_console()
    if shown.is_terminal and not shown.is_dumb_terminal:
        with shown.status(label) as status:
            yield lambda text: status.update(f"{label}: {text}")
    else:
        yield lambda text: shown.print(f"{label}: {text}", markup=False, soft_wrap=True)


def _note(progress: membership.Progress) -> str:
    parts = [f"{size(progress.bytes_left)} to send"] if progress.bytes_left else []
    if progress.done >= progress.total and progress.primaries_left:
        parts.append(f"{progress.primaries_left:,} primaries to move")
    return "; ".join((*parts, *progress.waiting[:1]))
