"""Measure blocking queries: how soon a thousand of them see a change, whom a change wakes, and what waiting costs.

    python -P benchmarks/waiting.py [--waiting 1000 --services 100 --changes 100 --idle-s 20]

A local cluster of three nodes in a temporary directory, on loopback. The queries wait at one node, each on a connection of
its own, spread over the services. Changes (a check that passes, then fails) go to the same node, then to another one, one
after the other, to services in turn. A change is seen when the first byte of an answer arrives here; the time is from
before the request that makes it is sent.

    near, far     from a change at the same node, at another one, to each of the queries that wait for its service
    all_for_one   the same when all queries wait for one service
    foreign       answers to queries whose service did not change: nobody may get one
    idle_percent  of a core, what the node spends while all wait and nothing changes; ``empty_percent`` without any query

One JSON line is printed; a foreign answer, or a change that somebody does not see, ends with status 1.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ringkeep.launcher.local import LocalCluster

TICKS = os.sysconf("SC_CLK_TCK")
SEEN_WITHIN_S = 10.0
SETTLE_S = 3.0
CONNECTS_AT_ONCE = 50


class Query(asyncio.Protocol):
    """One connection on which queries for one service wait, one after the other."""

    def __init__(self, service: str) -> None:
        self.service = service
        self.index = ""
        self.answered_at = 0.0
        self.answers = 0
        self._data = bytearray()
        self._got: asyncio.Future[None] | None = None
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep what requests are sent with."""
        self._transport = transport  # type: ignore[assignment]  # it is one

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell whoever awaits an answer."""
        if self._got is not None and not self._got.done():
            self._got.cancel()

    def ask(self, *, waits: bool) -> asyncio.Future[None]:
        """Send a query; the future is done when its answer is here."""
        assert self._transport is not None
        blocking = f"&index={self.index}&wait=10m" if waits else ""
        target = f"/v1/health/service/{self.service}?stale{blocking}"
        self._got = asyncio.get_running_loop().create_future()
        self._transport.write(f"GET {target} HTTP/1.1\r\nHost: node\r\n\r\n".encode())
        return self._got

    def wait(self) -> None:
        """Let a query wait; who is interested looks at ``answers``."""
        self._got = self.ask(waits=True)

    def data_received(self, data: bytes) -> None:
        """Take an answer in; the moment of its first byte counts."""
        if not self._data:
            self.answered_at = time.perf_counter()
        self._data += data
        head, end, body = bytes(self._data).partition(b"\r\n\r\n")
        if not end:
            return
        lines = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:])}
        if len(body) < int(headers["content-length"]):
            return
        self._data.clear()
        assert lines[0].split()[1] == "200", lines[0]
        self.index = headers["x-consul-index"]
        self.answers += 1
        assert self._got is not None
        self._got.set_result(None)


class Bench:
    """One cluster and the queries that wait at its first node."""

    def __init__(self, options: argparse.Namespace, cluster: LocalCluster) -> None:
        self._options = options
        self._nodes = cluster.directory.existing().nodes
        self._queries: list[Query] = []
        self._failing: set[str] = set()
        self.foreign = 0
        self.missed = 0

    def _address(self, node: int) -> tuple[str, int]:
        parts = urlsplit(self._nodes[node].url)
        assert parts.hostname is not None and parts.port is not None
        return parts.hostname, parts.port

    async def put(self, node: int, path: str, body: bytes = b"") -> None:
        """Change something at a node; one that has just started is asked again until it knows what the others hold."""
        for _ in range(100):
            if await self._put(node, path, body) == b"200":
                return
            await asyncio.sleep(0.2)
        raise SystemExit(f"node {node} takes no changes")

    async def _put(self, node: int, path: str, body: bytes) -> bytes:
        reader, writer = await asyncio.open_connection(*self._address(node))
        head = f"PUT {path} HTTP/1.1\r\nHost: node\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)
        status = (await reader.read()).split(b" ", 2)[1]
        writer.close()
        assert status in (b"200", b"503"), status
        return status

    async def register(self) -> None:
        """Register one instance of each service at the node at which queries will wait."""
        for number in range(self._options.services):
            body = {"Name": f"s{number}", "Port": 80, "Check": {"TTL": "1h", "Status": "passing"}}
            await self.put(0, "/v1/agent/service/register", json.dumps(body).encode())

    async def wait(self, services: int) -> None:
        """Open all connections and let a query wait on each."""
        loop = asyncio.get_running_loop()
        for query in self._queries:
            assert query._transport is not None
            query._transport.abort()
        self._queries = [Query(f"s{number % services}") for number in range(self._options.waiting)]
        for place in range(0, len(self._queries), CONNECTS_AT_ONCE):
            some = self._queries[place : place + CONNECTS_AT_ONCE]
            await asyncio.gather(*(loop.create_connection(partial(_same, query), *self._address(0)) for query in some))
            await asyncio.gather(*(query.ask(waits=False) for query in some))
        for query in self._queries:
            query.wait()
        await asyncio.sleep(SETTLE_S)

    async def change(self, node: int, service: str) -> list[float]:
        """Make one change; return how long each query for the service took to see it, in seconds."""
        before = {query: query.answers for query in self._queries}
        meant = [query for query in self._queries if query.service == service]
        state = "pass" if service in self._failing else "fail"
        self._failing ^= {service}
        seen = [query._got for query in meant if query._got is not None]
        began = time.perf_counter()
        await self.put(node, f"/v1/agent/check/{state}/service:{service}")
        done, late = await asyncio.wait(seen, timeout=SEEN_WITHIN_S)
        self.missed += len(late)
        # Whoever is woken for nothing answers within the same moment: give it time to.
        await asyncio.sleep(0.02)
        self.foreign += sum(query.answers - before[query] for query in self._queries if query.service != service)
        taken = [query.answered_at - began for query in meant if query.answers > before[query]]
        for query in meant:
            if query.answers > before[query]:
                query.wait()
        await asyncio.sleep(0.05)
        assert len(done) == len(taken)
        return taken

    async def idle(self) -> float:
        """Return what the first node spends while nothing happens, in percent of a core."""
        pid, seconds = self._nodes[0].pid, self._options.idle_s
        began = cpu_s(pid)
        await asyncio.sleep(seconds)
        spent = 100 * (cpu_s(pid) - began) / seconds
        return float(round(spent, 2))


def _same(query: Query) -> Query:
    return query


def cpu_s(pid: int) -> float:
    """Return the CPU seconds of a process (proc(5))."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    ticks: int = int(fields[11]) + int(fields[12])
    return ticks / TICKS


def shares(values: list[float]) -> dict[str, float]:
    """Return p50, p99 and the greatest in ms, and how many there were."""
    ordered = sorted(values) or [0.0]
    found = {"p50": 0.5, "p99": 0.99, "max": 1.0}
    return {name: round(1000 * ordered[int(share * (len(ordered) - 1))], 2) for name, share in found.items()} | {
        "count": len(values)
    }


async def measure(options: argparse.Namespace, cluster: LocalCluster) -> dict[str, Any]:
    """Run all parts on one cluster."""
    await cluster.up(3, shards=16)
    bench = Bench(options, cluster)
    await bench.register()
    await asyncio.sleep(SETTLE_S)
    result: dict[str, Any] = {"measure": "waiting", "queries": options.waiting, "services": options.services}
    result["empty_percent"] = await bench.idle()
    await bench.wait(options.services)
    result["idle_percent"] = await bench.idle()
    for name, node in (("near", 0), ("far", 1)):
        taken = []
        for number in range(options.changes):
            taken += await bench.change(node, f"s{number % options.services}")
        result[name] = shares(taken)
    await bench.wait(1)
    taken = []
    for number in range(max(2, options.changes // 5)):
        taken += await bench.change(number % 2, "s0")
    result["all_for_one"] = shares(taken)
    result["foreign"], result["missed"] = bench.foreign, bench.missed
    return result


def main() -> int:
    """Parse the options, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--waiting", type=int, default=1000)
    parser.add_argument("--services", type=int, default=100)
    parser.add_argument("--changes", type=int, default=100)
    parser.add_argument("--idle-s", type=float, default=20.0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        cluster = LocalCluster(Path(folder) / "cluster")
        try:
            result = asyncio.run(measure(options, cluster))
        finally:
            cluster.down(wipe=True)
    print(json.dumps(result))
    return 1 if result["foreign"] or result["missed"] else 0


if __name__ == "__main__":
    sys.exit(main())
