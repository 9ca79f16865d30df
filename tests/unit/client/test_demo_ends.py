"""However the demo ends, no process of it stays behind."""

from __future__ import annotations

import asyncio
import io
import signal
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from rich.console import Console

from ringkeep.demo.__main__ import INTERRUPTED, run
from ringkeep.demo.interrupts import SIGNALS, Interrupts
from ringkeep.launcher import ClusterDirectory, LocalCluster, local
from ringkeep_testing.real_cluster import own_ports

FAKE_NODE = (sys.executable, "-S", str(Path(__file__).with_name("fake_node_process.py")))
COLUMNS = "year,month,day,sched_dep_time,carrier,flight,tailnum"
DRIVER = """
import signal, sys
from pathlib import Path
from rich.console import Console
from ringkeep.demo.__main__ import run
from ringkeep.launcher import local
local.API_PORT_FIRST, local.PEER_PORT_FIRST = int(sys.argv[3]), int(sys.argv[4])
# As on a terminal: tests that run in the background of a script inherit an ignored SIGINT, and so does what they start.
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, signal.SIG_DFL if sys.argv[5] == "default" else signal.SIG_IGN)
screen, directory, source = Console(file=sys.stdout), Path(sys.argv[1]), Path(sys.argv[2])
raise SystemExit(run(directory, screen, keep=False, node_command=sys.argv[6:], source=source))
"""


@pytest.fixture
def handlers_kept() -> Iterator[None]:
    handlers = [signal.getsignal(number) for number in SIGNALS]
    yield
    for number, handler in zip(SIGNALS, handlers, strict=True):
        signal.signal(number, handler)


def _source(folder: Path, rows: str = "2013,1,1,515,UA,1,N1\n") -> Path:
    path = folder / "flights.csv.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("flights.csv", f"{COLUMNS}\n{rows}")
    return path


def _demo(directory: ClusterDirectory, source: Path, *, signals: str = "default") -> subprocess.Popen[str]:
    arguments = [str(directory.path), str(source), *map(str, own_ports()), signals, *FAKE_NODE]
    command = [sys.executable, "-P", "-c", DRIVER, *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)


def _read_until(demo: subprocess.Popen[str], part: str) -> None:
    assert demo.stdout is not None
    assert any(part in line for line in demo.stdout)


@pytest.mark.usefixtures("handlers_kept")
def test_after_an_error_every_process_is_ended_and_the_logs_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_NODE_MODE", "crash")
    monkeypatch.setattr(local, "API_PORT_FIRST", own_ports()[0])
    monkeypatch.setattr(local, "PEER_PORT_FIRST", own_ports()[1])
    output = io.StringIO()
    code = run(
        tmp_path / "demo", Console(file=output, width=300), keep=True, node_command=FAKE_NODE, source=_source(tmp_path)
    )
    record = ClusterDirectory(tmp_path / "demo").existing()

    assert code == 1
    assert "the demo failed: launcher: n" in output.getvalue()
    assert "log.jsonl" in output.getvalue()
    assert [node.is_running for node in record.nodes] == [False] * 3


@pytest.mark.parametrize("number", SIGNALS)
def test_an_interrupted_demo_ends_its_processes(number: signal.Signals, tmp_path: Path) -> None:
    directory = ClusterDirectory(tmp_path / "demo")
    with _demo(directory, _source(tmp_path)) as demo:
        _read_until(demo, "flights of 2013")
        record = directory.existing()
        running = [node.is_running for node in record.nodes]
        demo.send_signal(number)
        output, _ = demo.communicate()

    assert running == [True] * 3
    assert (demo.returncode, output) == (INTERRUPTED, "\ninterrupted\n")
    assert [node.is_running for node in record.nodes] == [False] * 3
    assert directory.read() is None


def test_a_demo_that_is_interrupted_several_times_while_it_starts_leaves_no_process_behind(tmp_path: Path) -> None:
    directory = ClusterDirectory(tmp_path / "demo")
    with _demo(directory, _source(tmp_path)) as demo:
        _read_until(demo, "starting n1")
        for number in (*SIGNALS, *SIGNALS):
            demo.send_signal(number)
        output, _ = demo.communicate()

    assert demo.returncode == INTERRUPTED
    assert output.endswith("\ninterrupted\n")
    assert directory.read() is None
    assert _processes_that_name(str(directory.path)) == []


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_signal_that_was_ignored_when_the_demo_began_stays_ignored(tmp_path: Path) -> None:
    directory = ClusterDirectory(tmp_path / "demo")
    with _demo(directory, _source(tmp_path), signals="ignored") as demo:
        _read_until(demo, "flights of 2013")
        # The kernel's own list (proc(5)): waiting to see that nothing happens would prove little.
        status = Path(f"/proc/{demo.pid}/status").read_text()
        demo.kill()
        demo.communicate()
    LocalCluster(directory.path).down(wipe=True, grace_s=0.0)
    (ignored,) = [int(line.split()[1], 16) for line in status.splitlines() if line.startswith("SigIgn")]

    assert [ignored >> (number - 1) & 1 for number in SIGNALS] == [1, 1, 1]


@pytest.mark.usefixtures("handlers_kept")
def test_a_signal_before_the_work_cancels_it_and_later_ones_change_nothing() -> None:
    interrupts = Interrupts()
    steps: list[str] = []

    async def work() -> None:
        try:
            steps.append("begun")
            await asyncio.sleep(0)
        finally:
            signal.raise_signal(signal.SIGHUP)
            await asyncio.sleep(0)
            steps.append("closed")

    interrupts.listen()
    before = interrupts.came
    signal.raise_signal(signal.SIGTERM)
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(interrupts.watch(work()))
    signal.raise_signal(signal.SIGINT)

    assert (before, interrupts.came, steps) == (False, True, ["begun", "closed"])


def _processes_that_name(text: str) -> list[int]:
    """Return the processes whose environment holds this text."""
    found = []
    for environment in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):
            if text.encode() in environment.read_bytes():
                found.append(int(environment.parent.name))
    return found
