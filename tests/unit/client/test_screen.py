"""Progress: a bar on a terminal, plain lines otherwise."""

from __future__ import annotations

import io
import os
import shutil

import pytest
from rich.console import Console

from ringkeep.command.screen import Meter, span, steps
from ringkeep.launcher.processes import _start_time_ps


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_without_a_terminal_progress_is_a_line_now_and_then_with_rate_and_time_left() -> None:
    output, clock = io.StringIO(), Clock()
    with Meter("load", unit="flights", total=10_000, screen=Console(file=output, width=40), clock=clock) as meter:
        for step in range(1, 9):
            clock.now += 1.0
            meter.update(step * 1000)

    assert output.getvalue().splitlines() == [
        "load: 3,000 of 10,000 flights, 1,000/s, 7.00 s left",
        "load: 6,000 of 10,000 flights, 1,000/s, 4.00 s left",
        "load: 8,000 flights in 8.00 s, 1,000/s",
    ]


def test_work_of_unknown_size_has_no_time_left_and_failed_work_no_summary() -> None:
    output, clock = io.StringIO(), Clock()

    def fail() -> None:
        with Meter("import", unit="lines", screen=Console(file=output), clock=clock) as meter:
            clock.now += 5.0
            meter.update(10)
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert output.getvalue() == "import: 10 lines, 2/s\n"


def test_on_a_terminal_there_is_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    output = io.StringIO()
    with Meter("load", unit="flights", total=10, screen=Console(file=output, force_terminal=True, width=100)) as meter:
        meter.update(5)

    assert "5 of 10 flights" in output.getvalue()
    assert "\x1b[" in output.getvalue()


def test_steps_are_lines_without_a_terminal() -> None:
    output = io.StringIO()
    with steps("up", Console(file=output)) as say:
        say("starting n1")
        say("waiting")

    assert output.getvalue() == "up: starting n1\nup: waiting\n"


def test_spans_are_for_people() -> None:
    assert [span(s) for s in (0.4213, 9.994, 17.2, 65, 3600)] == ["0.42 s", "9.99 s", "17 s", "1 min 5 s", "60 min 0 s"]


@pytest.mark.skipif(shutil.which("ps") is None, reason="ps is the fallback where there is no /proc")
def test_start_times_are_also_known_without_proc() -> None:
    own = _start_time_ps(os.getpid())

    assert own is not None
    assert own == _start_time_ps(os.getpid())
    assert _start_time_ps(2**22 + 1) is None
