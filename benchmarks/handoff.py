"""Measure how copies are filled on a real local cluster: a node is added, and takes a copy of everything.

    python -P benchmarks/handoff.py throughput|foreground [--documents N --size BYTES --shards N --per-second N]

    throughput   bytes and documents per second of snapshots, and what nodes spend on them
    foreground   latency of requests at a steady rate while that happens, against the same before it

The cluster has one node and gets a second one, or, with ``--nodes 3``, more of both; every node holds everything. All runs
on loopback in a temporary directory. One JSON line is printed; a run that shows nothing ends with the reason and status 1.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec

from ringkeep.async_client import AsyncClient
from ringkeep.errors import RingkeepError
from ringkeep.launcher.directory import LauncherError
from ringkeep.launcher.local import LocalCluster

# What memory or the log still has would be sent from there, without a snapshot.
SHORT_LOG = {
    "RINGKEEP_REPLICATION_CACHED_BYTES_MAX": "1",
    "RINGKEEP_LOG_KEEP_S": "1",
    "RINGKEEP_LOG_SEGMENT_BYTES": "1048576",
}
LOG_GOES_S = 22.0
"""Two checkpoints: the first covers a segment, the second finds it kept long enough."""
METRICS = re.compile(r'^ringkeep_node_snapshot_(bytes|rows)_total\{direction="received"\} ([0-9.e+]+)', re.MULTILINE)
TICKS = os.sysconf("SC_CLK_TCK")


class Sample(NamedTuple):
    """What a node has taken of snapshots until a moment, and what both sides have spent until then."""

    at: float
    size: float
    rows: float
    cpu_s: dict[str, float]


def shares(values: list[float]) -> dict[str, float]:
    """Return p50, p99 and the greatest in ms, and how many there were."""
    ordered = sorted(values) or [0.0]
    found = {"p50": 0.5, "p99": 0.99, "max": 1.0}
    return {name: round(1000 * ordered[int(share * (len(ordered) - 1))], 1) for name, share in found.items()} | {
        "count": len(values)
    }


def lines(documents: int, size: int) -> Iterator[bytes]:
    """Yield documents of many users."""
    pad = "x" * size
    for number in range(documents):
        yield msgspec.json.encode({"user": f"u{number % 500}", "key": f"doc-{number:07}", "value": {"pad": pad}})


async def load(client: AsyncClient, documents: int, size: int) -> None:
    """Store all documents."""
    result = await client.import_lines(lines(documents, size))
    if result.stored != documents:
        raise SystemExit(f"only {result.stored} of {documents} documents were stored: {result.errors[:1]}")


async def requests(client: AsyncClient, per_second: int, took: list[float], errors: list[str]) -> None:
    """Put and get in turn at a steady rate until cancelled."""
    loop, running, number = asyncio.get_running_loop(), set[asyncio.Task[None]](), 0
    due = loop.time()

    async def one(number: int) -> None:
        started = loop.time()
        user, key = f"live-{number // 2 % 100}", f"k{number // 2 % 1000}"
        try:
            await (client.put(user, key, b"x" * 100) if number % 2 == 0 else client.get(user, key))
        except RingkeepError as error:
            errors.append(f"{error.code}: {error}")
        took.append(loop.time() - started)

    try:
        while True:
            due += 1.0 / per_second
            await asyncio.sleep(max(0.0, due - loop.time()))
            task = asyncio.create_task(one(number))
            number += 1
            running.add(task)
            task.add_done_callback(running.discard)
    finally:
        await asyncio.gather(*running)


def cpu_s(pid: int) -> float:
    """Return the CPU seconds of a process (proc(5)); 0 without /proc."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / TICKS


class Watch:
    """Samples what the node that comes takes."""

    def __init__(self, local: LocalCluster, name: str) -> None:
        self._local, self._name = local, name
        self.samples: list[Sample] = []

    async def run(self) -> None:
        """Sample until cancelled; nothing is said while the node does not answer."""
        while True:
            node = next((node for node in self._local.directory.existing().nodes if node.name == self._name), None)
            if node is None or not node.is_running:
                await asyncio.sleep(0.05)
                continue
            async with AsyncClient(node.url, direct=False) as client:
                await self._ask(client)

    async def _ask(self, client: AsyncClient) -> None:
        try:
            while True:
                found = dict(METRICS.findall((await client.read("/metrics", timeout_s=2.0)).decode()))
                spent = {node.name: cpu_s(node.pid) for node in self._local.directory.existing().nodes}
                sample = Sample(time.monotonic(), float(found.get("bytes", 0)), float(found.get("rows", 0)), spent)
                if not self.samples or sample.rows > self.samples[-1].rows:
                    self.samples.append(sample)
                elif not sample.rows:
                    self.samples[-1] = sample  # The last one before anything came.
                await asyncio.sleep(0.05)
        except RingkeepError:
            await asyncio.sleep(0.05)

    def shown(self) -> dict[str, object]:
        """Return the rates between the moment before the first piece and the last piece."""
        if len(self.samples) < 2:
            raise SystemExit("no snapshot was seen: the log had everything, or there was no time to look")
        first, last = self.samples[0], self.samples[-1]
        took = last.at - first.at
        return {
            "rows": round(last.rows),
            "seconds": round(took, 2),
            "rows_per_s": round((last.rows - first.rows) / took),
            "mb_per_s": round((last.size - first.size) / took / 1e6, 1),
            "cpu_s": {name: round(spent - first.cpu_s.get(name, 0.0), 2) for name, spent in last.cpu_s.items()},
        }


async def filled(local: LocalCluster, nodes: int) -> dict[str, object]:
    """Add a node and watch it take everything."""
    watch = Watch(local, f"n{nodes + 1}")
    watching = asyncio.create_task(watch.run())
    try:
        await local.scale(nodes + 1)
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
    return watch.shown()


async def measure(arguments: argparse.Namespace) -> dict[str, object]:
    """Load, add a node, with or without requests."""
    with tempfile.TemporaryDirectory(prefix="ringkeep-bench-") as folder:
        local = LocalCluster(Path(folder))
        try:
            copies = arguments.nodes + 1
            await local.up(arguments.nodes, shards=arguments.shards, replication_factor=copies, min_in_sync=1)
            async with AsyncClient([node.url for node in local.directory.existing().nodes]) as client:
                await load(client, arguments.documents, arguments.size)
                await asyncio.sleep(arguments.log_goes_s)
                return {
                    "measure": arguments.measure,
                    "size": arguments.size,
                    "shards": arguments.shards,
                    **await MEASURES[arguments.measure](client, local, arguments),
                }
        finally:
            await asyncio.to_thread(local.down, wipe=True)


async def throughput(_client: AsyncClient, local: LocalCluster, arguments: argparse.Namespace) -> dict[str, object]:
    """Nobody else asks for anything."""
    return await filled(local, arguments.nodes)


async def ended(task: asyncio.Task[None]) -> None:
    """Cancel a task and wait until it is over."""
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def foreground(client: AsyncClient, local: LocalCluster, arguments: argparse.Namespace) -> dict[str, object]:
    """Requests go on before and during it."""
    idle: list[float] = []
    during: list[float] = []
    errors: list[str] = []
    # While it warms up a key may be asked for before it is there for the first time: that is no error of the node's.
    for took, lasts_s, failed in (([], arguments.warm_s, []), (idle, arguments.idle_s, errors)):
        task = asyncio.create_task(requests(client, arguments.per_second, took, failed))
        await asyncio.sleep(lasts_s)
        await ended(task)
    task = asyncio.create_task(requests(client, arguments.per_second, during, errors))
    try:
        copied = await filled(local, arguments.nodes)
    finally:
        await ended(task)
    return {
        **copied,
        "idle_ms": shares(idle),
        "while_ms": shares(during),
        "errors": len(errors),
        "first_errors": errors[:2],
    }


MEASURES = {"throughput": throughput, "foreground": foreground}


def main() -> None:
    """Read the command line and print one line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("measure", choices=MEASURES)
    parser.add_argument("--documents", type=int, default=20_000)
    parser.add_argument("--size", type=int, default=200, help="bytes of a document")
    parser.add_argument("--shards", type=int, default=16)
    parser.add_argument("--nodes", type=int, default=1, help="nodes before one is added")
    parser.add_argument("--per-second", type=int, default=100)
    parser.add_argument("--warm-s", type=float, default=10.0, help="nobody measures: each key is stored once")
    parser.add_argument("--idle-s", type=float, default=6.0)
    parser.add_argument("--log-goes-s", type=float, default=LOG_GOES_S)
    arguments = parser.parse_args()
    os.environ.update({name: os.environ.get(name, value) for name, value in SHORT_LOG.items()})
    try:
        print(json.dumps(asyncio.run(measure(arguments))), flush=True)
    except (RingkeepError, LauncherError) as error:
        raise SystemExit(f"{type(error).__name__}: {error}") from error


if __name__ == "__main__":
    main()
