"""Node processes: start one detached, recognise it later, end it.

A pid says little, since the system hands out old numbers again. A process is therefore known by its pid *and* its start
time: nothing is ever signalled whose start time differs from the one that was written down.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import msgspec

# Fields of /proc/<pid>/stat after the command's name: the state is the first (proc(5)).
_STATE_FIELD = 0
_THREADS_FIELD = 17
_STARTED_FIELD = 19
_POLL_S = 0.02


class Process(msgspec.Struct, frozen=True):
    """A process by number and start time. ``started`` is opaque text, compared and never read."""

    pid: int
    started: str


def start_detached(command: Sequence[str], *, environment: Mapping[str, str], log: Path) -> Process:
    """Start a process in a session of its own, so that it outlives us and no Ctrl-C reaches it."""
    with log.open("ab") as output:
        child = subprocess.Popen(
            list(command),
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    # Popen would warn that the child still runs when it is collected; whether it runs is asked by pid from here on.
    child.returncode = 0
    return Process(child.pid, start_time(child.pid) or "")


def start_time(pid: int) -> str | None:
    """Return when the process with this number was started, or None if there is none (or only a zombie)."""
    _reap(pid)
    if sys.platform == "linux":
        return _start_time_linux(pid)
    return _start_time_ps(pid)


def is_running(process: Process) -> bool:
    """Return whether exactly this process still runs."""
    return process.pid > 0 and bool(process.started) and start_time(process.pid) == process.started


def send_signal(process: Process, number: signal.Signals) -> bool:
    """Signal exactly this process; return False, having signalled nobody, if it is gone."""
    if not hasattr(os, "pidfd_open"):
        return is_running(process) and _kill(process.pid, number)
    try:
        handle = os.pidfd_open(process.pid)
    except (OSError, OverflowError):
        return False
    try:
        # The handle is held while the start time is compared, so the number cannot change its owner in between.
        if not is_running(process):
            return False
        signal.pidfd_send_signal(handle, number)
    except ProcessLookupError:
        return False
    finally:
        os.close(handle)
    return True


def wait_gone(process: Process, *, limit_s: float) -> bool:
    """Wait until the process is gone; return False if it still runs after ``limit_s``."""
    deadline = time.monotonic() + limit_s
    while is_running(process):
        if time.monotonic() >= deadline:
            return False
        time.sleep(_POLL_S)
    return True


def end(processes: Sequence[Process], *, grace_s: float, kill_wait_s: float = 5.0) -> list[Process]:
    """Ask processes to end, and kill after ``grace_s`` those that did not. Return those that still run even then."""
    for process in processes:
        send_signal(process, signal.SIGTERM)
    deadline = time.monotonic() + grace_s
    stubborn = [p for p in processes if not wait_gone(p, limit_s=max(0.0, deadline - time.monotonic()))]
    for process in stubborn:
        send_signal(process, signal.SIGKILL)
    return [process for process in stubborn if not wait_gone(process, limit_s=kill_wait_s)]


def _kill(pid: int, number: signal.Signals) -> bool:
    try:
        os.kill(pid, number)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def _reap(pid: int) -> None:
    """Collect the process if it is our own dead child; otherwise it would stay as a zombie while we run."""
    with suppress(ChildProcessError, OSError, OverflowError):
        if pid > 0:
            os.waitpid(pid, os.WNOHANG)


def _start_time_linux(pid: int) -> str | None:
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return None
    # The command's name may hold spaces and parentheses, so fields are counted after the last one.
    fields = text.rpartition(")")[2].split()
    if len(fields) <= _STARTED_FIELD or fields[_STATE_FIELD] == "X":
        return None
    # A zombie with more than one thread is still dying: its other threads hold the ports and the lock of the data.
    if fields[_STATE_FIELD] == "Z" and int(fields[_THREADS_FIELD]) <= 1:
        return None
    # Start times count from the boot of the machine, so the boot's id belongs to them.
    return f"{boot[:8]}-{fields[_STARTED_FIELD]}"


def _start_time_ps(pid: int) -> str | None:
    shown = subprocess.run(
        ["ps", "-o", "stat=,lstart=", "-p", str(pid)],  # noqa: S607 - ps is where the system says, on every Unix
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "LC_ALL": "C"},
    )
    state, _, started = shown.stdout.strip().partition(" ")
    return None if not started or state.startswith("Z") else started.strip()
