"""Measure what waiting for services costs, on a real local cluster: a thousand queries wait, services change one at a time.

    python -P benchmarks/discovery.py [--nodes 3] [--waiting 1000] [--services 100] [--changes 200] [--seconds 15]
    python -P benchmarks/discovery.py --kills 5

All queries wait at one node, spread evenly over the services; changes are made in turn at that node and at another one.
One JSON line says how long it took from sending a change to the answer of each query that waited for it (the making of the
change included), how many answers came to queries whose service did not change, and the share of a core that the node
takes while nothing happens. With ``--kills`` nodes that own an instance are killed (SIGKILL) in turn, and the line says
after how long the instance passed at no other node any more, and after how long it was gone from all of them.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import aiohttp

from ringkeep.launcher.local import LocalCluster

TICKS = os.sysconf("SC_CLK_TCK")
WAIT_S = 60
DEADLINE_S = 5.0


class Waiting(asyncio.Protocol):
    """A connection whose query waits for a change of one service, and waits again after each answer."""

    def __init__(self, service: str, told: asyncio.Queue[tuple[Waiting, float]]) -> None:
        self.service, self._told = service, told
        self.index = 0
        self.answers = 0
        self._data = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask for the first time: the answer comes at once."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self.ask()

    def ask(self) -> None:
        """Ask for what is newer than what this query has seen."""
        target = f"/v1/services/{self.service}?wait_newer_than={self.index}"
        self._transport.write(f"GET {target} HTTP/1.1\r\nHost: node\r\nRingkeep-Timeout: {WAIT_S}\r\n\r\n".encode())

    def data_received(self, data: bytes) -> None:
        """Take a part of an answer; when it is whole, tell and ask again."""
        self._data += data
        head, separator, body = self._data.partition(b"\r\n\r\n")
        if not separator:
            return
        fields = dict(line.split(b": ", 1) for line in head.lower().split(b"\r\n")[1:])
        if len(body) < int(fields[b"content-length"]):
            return
        at = time.perf_counter()
        self._data = b""
        self.index = int(fields[b"ringkeep-index"])
        self.answers += 1
        self._told.put_nowait((self, at))
        self.ask()


def cpu_s(pid: int) -> float:
    """Return the processor seconds a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value below which ``share`` of ``values`` lie."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


async def _change(session: aiohttp.ClientSession, url: str, service: str, number: int) -> None:
    """Make a change that every query of the service must see."""
    body = {"address": "10.1.0.1", "port": 80, "meta": {"number": f"{number}"}}
    async with session.put(f"{url}/v1/services/{service}/one", json=body) as answer:
        assert answer.status in (200, 201), await answer.text()
        await answer.read()


async def _answers(told: asyncio.Queue[tuple[Waiting, float]], count: int) -> list[tuple[Waiting, float]]:
    async with asyncio.timeout(DEADLINE_S):
        return [await told.get() for _ in range(count)]


async def measure(urls: Sequence[str], pid: int, arguments: argparse.Namespace) -> dict[str, object]:
    """Let the queries wait, change services, then do nothing for a while."""
    loop = asyncio.get_running_loop()
    names = [f"bench-{number}" for number in range(arguments.services)]
    told: asyncio.Queue[tuple[Waiting, float]] = asyncio.Queue()
    host, port = urls[0].removeprefix("http://").split(":")
    each = arguments.waiting // len(names)
    async with aiohttp.ClientSession() as session:
        for name in names:
            await _change(session, urls[0], name, 0)
        waiting: list[Waiting] = []
        for number in range(each * len(names)):
            made = await loop.create_connection(lambda n=number: Waiting(names[n % len(names)], told), host, int(port))  # type: ignore[misc]
            waiting.append(made[1])
        await _answers(told, len(waiting))
        await asyncio.sleep(1.0)
        seen: list[float] = []
        foreign = 0
        for number in range(1, arguments.changes + 1):
            name, url = names[number % len(names)], urls[number % min(2, len(urls))]
            before = time.perf_counter()
            await _change(session, url, name, number)
            for query, at in await _answers(told, each):
                foreign += query.service != name
                seen.append((at - before) * 1000)
            await asyncio.sleep(0.02)
        foreign += told.qsize()
        start = cpu_s(pid)
        await asyncio.sleep(arguments.seconds)
        idle = (cpu_s(pid) - start) / arguments.seconds
        foreign += told.qsize()
    return {
        "measure": "discovery",
        "waiting": len(waiting),
        "services": len(names),
        "changes": arguments.changes,
        "seen_ms": {share: round(percentile(seen, at), 2) for share, at in (("p50", 0.5), ("p99", 0.99))}
        | {"max": round(max(seen), 2), "answers": len(seen)},
        "answers_of_other_services": foreign,
        "idle_cpu_percent": round(idle * 100, 2),
    }


async def _statuses(session: aiohttp.ClientSession, urls: Sequence[str], service: str) -> set[str]:
    """Return the states in which nodes show the instances of a service."""
    found: set[str] = set()
    for url in urls:
        async with session.get(f"{url}/v1/services/{service}") as answer:
            found |= {row["status"] for row in (await answer.json())["instances"]}
    return found


async def one_kill(local: LocalCluster, number: int) -> tuple[float, float]:
    """Kill a node that owns an instance; return the seconds until it passes nowhere, and until it is gone everywhere."""
    nodes = local.directory.existing().nodes
    victim, name = nodes[number % len(nodes)], f"kill-{number}"
    rest = [node.url for node in nodes if node is not victim]
    async with aiohttp.ClientSession() as session:
        await _change(session, victim.url, name, number)
        while True:
            await asyncio.sleep(1.0)
            if all([await _statuses(session, [url], name) == {"passing"} for url in rest]):
                break
        killed, out_s = time.monotonic(), 0.0
        os.kill(victim.pid, signal.SIGKILL)
        while statuses := await _statuses(session, rest, name):
            if "passing" not in statuses and not out_s:
                out_s = time.monotonic() - killed
            await asyncio.sleep(0.01)
        gone_s = time.monotonic() - killed
    await local.restart(victim.name)
    return out_s, gone_s


async def kills(local: LocalCluster, count: int) -> dict[str, object]:
    """Kill nodes in turn."""
    times = [await one_kill(local, number) for number in range(count)]
    return {
        "measure": "discovery_kills",
        "kills": count,
        "out_of_passing_s": [round(out, 2) for out, _ in times],
        "removed_s": [round(gone, 2) for _, gone in times],
    }


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--nodes", type=int, default=3)
    parser.add_argument("--waiting", type=int, default=1000)
    parser.add_argument("--services", type=int, default=100)
    parser.add_argument("--changes", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=15.0)
    parser.add_argument("--kills", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="ringkeep-bench-") as folder:
        local = LocalCluster(Path(folder))
        try:
            asyncio.run(local.up(arguments.nodes))
            nodes = local.directory.existing().nodes
            urls = [node.url for node in nodes]
            work = kills(local, arguments.kills) if arguments.kills else measure(urls, nodes[0].pid, arguments)
            result = asyncio.run(work)
        finally:
            local.down(wipe=True)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
