"""One real node process: how it starts, how it refuses to, and how it ends."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

ENDS_S = 30.0


class NodeProcess:
    """A node in a process of its own; killed at the end whatever happens."""

    def __init__(self, directory: Path, *, output: int = subprocess.PIPE, **environment: str) -> None:
        self.api, self.peer = free_port(), free_port()
        kept = {name: value for name, value in os.environ.items() if not name.startswith("RINGKEEP_")}
        own = {
            "RINGKEEP_NAME": "n1",
            "RINGKEEP_DATA": str(directory),
            "RINGKEEP_API": f"127.0.0.1:{self.api}",
            "RINGKEEP_PEER": f"127.0.0.1:{self.peer}",
        }
        self.process = subprocess.Popen(
            [sys.executable, "-m", "ringkeep_node"],
            env={name: value for name, value in {**kept, **own, **environment}.items() if value},
            stdout=output,
            stderr=subprocess.PIPE,
        )

    def __enter__(self) -> NodeProcess:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()

    def end(self) -> tuple[int, list[dict[str, Any]], str]:
        """Wait for the end; return the exit code, the log lines, and what was said on standard error."""
        out, err = self.process.communicate(timeout=ENDS_S)
        return self.process.returncode, [json.loads(line) for line in out.splitlines()], err.decode()

    def ask(self, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
        """Send one request."""
        request = urllib.request.Request(f"http://127.0.0.1:{self.api}{path}", body, method=method)
        try:
            with urllib.request.urlopen(request, timeout=ENDS_S) as response:
                return response.status, response.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read()

    def wait(self, path: str) -> None:
        """Wait until a path is answered with 200."""
        deadline = time.monotonic() + ENDS_S
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                if self.ask("GET", path)[0] == 200:
                    return
            except urllib.error.URLError:
                pass
            time.sleep(0.05)
        raise AssertionError(f"{path} was never answered; exit code {self.process.poll()}")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as opened:
        yield opened


def refusal(node: NodeProcess) -> tuple[str, str]:
    """Return the code and the sentence of a node that did not start, after checking how it said so."""
    code, lines, err = node.end()

    assert (code, err.count("\n")) == (1, 1)
    assert [(line["level"], line["event"]) for line in lines if line["level"] == "error"] == [
        ("error", "start_refused")
    ]
    assert err == f"ringkeep-node: {lines[-1]['reason']}\n"
    return lines[-1]["error_code"], lines[-1]["reason"]


def test_a_node_with_settings_that_make_no_sense_says_so_in_one_sentence(tmp_path: Path, stack: ExitStack) -> None:
    nameless = stack.enter_context(NodeProcess(tmp_path / "a", RINGKEEP_NAME=""))
    exposed = stack.enter_context(NodeProcess(tmp_path / "b", RINGKEEP_API="0.0.0.0:1"))

    assert refusal(nameless) == ("bad_setting", "RINGKEEP_NAME is not set")
    assert refusal(exposed)[0] == "bad_setting"
    assert list(tmp_path.iterdir()) == []


def test_a_node_whose_addresses_are_taken_says_which(tmp_path: Path, stack: ExitStack) -> None:
    tcp = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
    udp = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    udp.bind(("127.0.0.1", 0))
    taken_tcp, taken_udp = tcp.getsockname()[1], udp.getsockname()[1]
    nodes = [
        stack.enter_context(NodeProcess(tmp_path / "a", RINGKEEP_API=f"127.0.0.1:{taken_tcp}")),
        stack.enter_context(NodeProcess(tmp_path / "b", RINGKEEP_PEER=f"127.0.0.1:{taken_tcp}")),
        stack.enter_context(NodeProcess(tmp_path / "c", RINGKEEP_PEER=f"127.0.0.1:{taken_udp}")),
    ]

    assert [refusal(node) for node in nodes] == [
        ("port_in_use", f"another process uses TCP 127.0.0.1:{taken_tcp} (RINGKEEP_API)"),
        ("port_in_use", f"another process uses TCP 127.0.0.1:{taken_tcp} (RINGKEEP_PEER)"),
        ("port_in_use", f"another process uses UDP 127.0.0.1:{taken_udp} (RINGKEEP_PEER)"),
    ]


def test_a_node_keeps_its_directory_for_itself_and_its_data_over_a_restart(tmp_path: Path, stack: ExitStack) -> None:
    node = stack.enter_context(NodeProcess(tmp_path / "a"))
    node.wait("/livez")
    second = refusal(stack.enter_context(NodeProcess(tmp_path / "a")))
    (member,) = json.loads(node.ask("GET", "/v1/cluster/members")[1])["members"]
    first = {"name": "n1", "storage_id": member["storage_id"], "peer": member["peer"]}
    body = {"members": [first], "shards": 16, "replication_factor": 1, "min_in_sync": 1}
    unready = node.ask("GET", "/readyz")[0]
    founded = node.ask("POST", "/v1/cluster/bootstrap", json.dumps(body).encode())
    node.wait("/readyz")
    stored = node.ask("PUT", "/v1/users/ada/docs/k", b"kept")[0]
    node.process.send_signal(signal.SIGTERM)
    code, lines, err = node.end()
    stranger = refusal(stack.enter_context(NodeProcess(tmp_path / "a", RINGKEEP_NAME="n2")))
    again = stack.enter_context(NodeProcess(tmp_path / "a"))
    again.wait("/readyz")
    found = again.ask("GET", "/v1/users/ada/docs/k")
    (after,) = json.loads(again.ask("GET", "/v1/cluster/members")[1])["members"]

    assert (second[0], unready, founded[0], stored) == ("directory_in_use", 503, 200, 201)
    assert (code, err, lines[0]["event"], lines[-1]["event"]) == (0, "", "node_starting", "node_stopped")
    assert stranger[0] == "foreign_directory"
    assert found == (200, b"kept")
    assert after["storage_id"] == member["storage_id"] and after["boot_id"] != member["boot_id"]


def test_a_node_whose_output_nobody_reads_goes_on_serving(tmp_path: Path, stack: ExitStack) -> None:
    # The pipe is full before the node starts: whoever waits for it would wait for ever.
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    try:
        while True:
            os.write(writing, b"x" * 4096)
    except BlockingIOError:
        os.set_blocking(writing, True)
    node = stack.enter_context(NodeProcess(tmp_path / "a", output=writing))
    node.wait("/livez")
    node.process.send_signal(signal.SIGTERM)
    node.process.wait(ENDS_S)
    os.close(reading)
    os.close(writing)

    assert node.process.returncode == 0
