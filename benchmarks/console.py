"""What the web console costs: bytes over the wire, time to the first paint, and processor time of the node per open page.

    python -P benchmarks/console.py [--nodes 20] [--shards 256] [--seconds 15] [--paints 5]

A node without a cluster behind it serves the console of a map of that size; every second a shard changes its primary and an
event happens, and all other nodes answer for their figures. Node, other nodes and readers are processes of their own, so
that the node's processor time is its own. Prints one JSON line for each measurement; the exit status is 1 if a bar is
missed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import statistics
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import aiohttp
import uvloop

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))

from ringkeep_node.http.console.assets import assets
from ringkeep_testing.console_pages import browser_path, console_page
from ringkeep_testing.console_world import ConsoleDriver, with_primary
from ringkeep_testing.fake_driver import FakeIdentity
from ringkeep_testing.http_edge import EdgeUnderTest

WIRE_BAR_BYTES = 150 * 1024
PAINT_BAR_MS = 300.0
PAGE_BAR = 0.01
EVENTS = "/v1/console/events"
CHANGE_S = 1.0
WARM_S = 3.0


# --- the node and the others, in processes of their own ----------------------------------------------------------


def _others(channel: Connection, nodes: int) -> None:
    """Be all nodes but the first: each has an address of its own and answers for its figures."""

    async def serve() -> None:
        urls = {}
        for number in range(2, nodes + 1):
            driver = ConsoleDriver()
            driver.identity = FakeIdentity(
                name=f"n{number}", storage=f"50000000{number:08}", boot=f"b0000000{number:08}"
            )
            edge = await EdgeUnderTest(driver).__aenter__()
            urls[f"n{number}"] = f"http://127.0.0.1:{edge.port}"
        channel.send(urls)
        await asyncio.Event().wait()

    uvloop.run(serve())


def _node(channel: Connection, nodes: int, shards: int) -> None:
    """Be the node that is looked at."""

    async def serve() -> None:
        driver = ConsoleDriver(nodes, shards)
        driver.urls = channel.recv()
        async with EdgeUnderTest(driver) as edge:
            channel.send(edge.port)
            number = 0
            while True:
                await asyncio.sleep(CHANGE_S)
                held = driver.shard_map
                assert held is not None
                number = (number + 1) % shards
                shard = held.shards[number]
                other = next(copy.storage for copy in shard.in_sync if copy.storage != shard.primary.storage)
                driver.replace_map(with_primary(held, number, other))
                driver.happens("1 of 1 shard changes (1 moveprimary): back to balance", reason="back to balance")

    uvloop.run(serve())


class Served:
    """The running processes."""

    def __init__(self, nodes: int, shards: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._processes = []
        channels = []
        for target, sizes in ((_others, (nodes,)), (_node, (nodes, shards))):
            ours, theirs = context.Pipe()
            process = context.Process(target=target, args=(theirs, *sizes), daemon=True)
            process.start()
            self._processes.append(process)
            channels.append(ours)
        channels[1].send(channels[0].recv())
        self.url = f"http://127.0.0.1:{channels[1].recv()}"

    def cpu_s(self) -> float:
        """Return how much processor time the node has used."""
        fields = Path(f"/proc/{self._processes[1].pid}/stat").read_text().rpartition(") ")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def close(self) -> None:
        """End them."""
        for process in self._processes:
            process.kill()
            process.join()


# --- measuring ---------------------------------------------------------------------------------------------------


@asynccontextmanager
async def reading(url: str, pages: int) -> AsyncIterator[list[int]]:
    """Read so many streams until the block ends; yields how many bytes came."""
    came = [0]

    async def read(session: aiohttp.ClientSession) -> None:
        async with session.get(url + EVENTS) as answer:
            async for part in answer.content.iter_any():
                came[0] += len(part)

    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None)) as session:
        tasks = [asyncio.create_task(read(session)) for _ in range(pages)]
        try:
            yield came
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def share_of(served: Served, pages: int, seconds: float) -> tuple[float, float]:
    """Return the share of a core that the node takes with so many pages open, and bytes a second to each page."""
    async with reading(served.url, pages) as came:
        await asyncio.sleep(WARM_S)
        came[0], before, started = 0, served.cpu_s(), time.monotonic()
        await asyncio.sleep(seconds)
        span_s = time.monotonic() - started
        return (served.cpu_s() - before) / span_s, came[0] / span_s / max(1, pages)


async def first_event_bytes(url: str) -> int:
    """Return how large the whole picture is."""
    async with aiohttp.ClientSession() as session, session.get(url + EVENTS) as answer:
        await answer.content.readuntil(b"\n\n")
        return len(await answer.content.readuntil(b"\n\n"))


async def paints(url: str, count: int) -> dict[str, Any]:
    """Load the page anew in a fresh browser, again and again; nothing is cached."""
    first, drawn, sizes = [], [], []
    for _ in range(count):
        async with console_page() as seen:
            await seen.open(url)
            entries = await seen.look(
                "({paint: performance.getEntriesByName('first-contentful-paint')[0].startTime, now: performance.now(), "
                "bytes: [...performance.getEntriesByType('resource'), ...performance.getEntriesByType('navigation')]"
                ".filter((one) => !one.name.includes('/v1/')).reduce((sum, one) => sum + one.transferSize, 0)})"
            )
            assert seen.complaints == [], seen.complaints
        first.append(entries["paint"])
        drawn.append(entries["now"])
        sizes.append(entries["bytes"])
    return {
        "first_paint_ms": {"p50": round(statistics.median(first), 1), "max": round(max(first), 1)},
        "picture_drawn_ms": {"p50": round(statistics.median(drawn), 1), "max": round(max(drawn), 1)},
        "file_bytes_with_headers": max(sizes),
        "loads": count,
    }


def report(measure: str, good: bool, **figures: object) -> bool:
    """Print one line."""
    print(json.dumps({"measure": measure, "ok": good, **figures}), flush=True)
    return good


async def measured(served: Served, options: argparse.Namespace, show: Callable[..., bool]) -> bool:
    """Measure everything; return whether every bar is met."""
    size = {"nodes": options.nodes, "shards": options.shards}
    files = sum(len(file.packed) for file in assets().files.values())
    picture = await first_event_bytes(served.url)
    good = show("console bytes", files + picture <= WIRE_BAR_BYTES, files=files, first_picture=picture, **size)
    if browser_path() is None:
        show("console first paint", True, skipped="no Chromium is installed")
    else:
        seen = await paints(served.url, options.paints)
        good &= show("console first paint", seen["first_paint_ms"]["max"] <= PAINT_BAR_MS, **seen, **size)
    nobody, _ = await share_of(served, 0, options.seconds)
    for pages in (1, 4):
        share, bytes_per_s = await share_of(served, pages, options.seconds)
        each = (share - nobody) / pages
        good &= show(
            "console processor time",
            each <= PAGE_BAR,
            pages=pages,
            core_share=round(share, 4),
            nobody_looks=round(nobody, 4),
            for_each_page=round(each, 4),
            bytes_per_s_and_page=round(bytes_per_s),
            **size,
        )
    return good


def main() -> int:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=20)
    parser.add_argument("--shards", type=int, default=256)
    parser.add_argument("--seconds", type=float, default=15.0)
    parser.add_argument("--paints", type=int, default=5)
    options = parser.parse_args()
    served = Served(options.nodes, options.shards)
    try:
        return 0 if asyncio.run(measured(served, options, report)) else 1
    finally:
        served.close()


if __name__ == "__main__":
    sys.exit(main())
