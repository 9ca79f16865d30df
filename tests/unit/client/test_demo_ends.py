"""However the demo ends, no process of it stays behind."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from rich.console import Console

from ringkeep.demo.__main__ import INTERRUPTED, run
from ringkeep.launcher import ClusterDirectory, local

FAKE_NODE = (sys.executable, "-S", str(Path(__file__).with_name("fake_node_process.py")))
COLUMNS = "year,month,day,sched_dep_time,carrier,flight,tailnum"
DRIVER = """
import signal, sys
from pathlib import Path
from rich.console import Console
from ringkeep.demo.__main__ import _interrupt, run
from ringkeep.launcher import local
local.API_PORT_FIRST, local.PEER_PORT_FIRST = int(sys.argv[3]), int(sys.argv[4])
signal.signal(signal.SIGTERM, _interrupt)
screen, directory, source = Console(file=sys.stdout), Path(sys.argv[1]), Path(sys.argv[2])
raise SystemExit(run(directory, screen, keep=False, node_command=sys.argv[5:], source=source))
"""


def _source(folder: Path, rows: str = "2013,1,1,515,UA,1,N1\n") -> Path:
    path = folder / "flights.csv.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("flights.csv", f"{COLUMNS}\n{rows}")
    return path


def test_after_an_error_every_process_is_ended_and_the_logs_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_NODE_MODE", "crash")
    monkeypatch.setattr(local, "API_PORT_FIRST", 30_000 + os.getpid() % 1_000 * 4)
    output = io.StringIO()
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    try:
        code = run(
            tmp_path / "demo",
            Console(file=output, width=300),
            keep=True,
            node_command=FAKE_NODE,
            source=_source(tmp_path),
        )
    finally:
        for number, handler in zip((signal.SIGINT, signal.SIGTERM, signal.SIGHUP), handlers, strict=True):
            signal.signal(number, handler)
    record = ClusterDirectory(tmp_path / "demo").existing()

    assert code == 1
    assert "the demo failed: launcher: n" in output.getvalue()
    assert "log.jsonl" in output.getvalue()
    assert [node.is_running for node in record.nodes] == [False] * 3


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_demo_ends_its_processes(number: signal.Signals, tmp_path: Path) -> None:
    directory = ClusterDirectory(tmp_path / "demo")
    ports = [str(first + os.getpid() % 1_000 * 4) for first in (36_000, 42_000)]
    arguments = [str(directory.path), str(_source(tmp_path)), *ports, *FAKE_NODE]
    with subprocess.Popen(
        [sys.executable, "-P", "-c", DRIVER, *arguments], stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as demo:
        assert demo.stdout is not None
        for line in demo.stdout:
            if "Where some" in line or "flights of 2013" in line:
                break
        record = directory.existing()
        running = [node.is_running for node in record.nodes]
        demo.send_signal(number)
        output = demo.stdout.read()

    assert running == [True] * 3
    assert (demo.returncode, "interrupted" in output) == (INTERRUPTED, True)
    assert [node.is_running for node in record.nodes] == [False] * 3
    assert directory.read() is None
