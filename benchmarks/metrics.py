"""How long a scrape takes: ``GET /metrics`` of real nodes, and what making the page costs the event loop.

    python -P benchmarks/metrics.py [--nodes 20] [--shards 256] [--scrapes 10]

It starts a cluster on loopback, asks each node for several kinds of things so that their series exist, then scrapes the
nodes one after the other and prints one JSON line. Exit code 1 if the median scrape takes longer than the bar.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import sys
import tempfile
import time
from pathlib import Path

import aiohttp

from ringkeep.launcher.local import LocalCluster

SCRAPE_BAR_MS = 10.0
PATHS = (
    "/v1/users/ann/docs/none",
    "/v1/users/ann/docs",
    "/v1/users/ann/route",
    "/v1/cluster",
    "/v1/cluster/members",
    "/v1/cluster/map",
    "/v1/cluster/leader",
    "/v1/cluster/plan",
    "/v1/cluster/events",
    "/v1/cluster/wanted",
    "/livez",
    "/readyz",
    "/metrics",
    "/openapi.json",
    "/",
    "/nowhere",
)
"""Each is asked with every method below, so that there are about as many series as a node ever has."""
METHODS = ("GET", "HEAD", "PATCH")


async def scrapes(urls: list[str], count: int) -> tuple[list[float], list[float], list[bytes]]:
    """Return the milliseconds of each scrape, of each node's own part in it on the average, and the last page of each."""
    took_ms: list[float] = []
    pages: dict[str, bytes] = {}
    async with aiohttp.ClientSession() as session:
        for url in urls:
            for path in PATHS:
                for method in METHODS:
                    async with session.request(method, url + path) as answer:
                        await answer.read()
        await asyncio.sleep(2.0)
        for _ in range(count):
            for url in urls:
                started = time.perf_counter()
                async with session.get(f"{url}/metrics") as answer:
                    pages[url] = await answer.read()
                took_ms.append((time.perf_counter() - started) * 1000)
    return took_ms, [own_ms(page) for page in pages.values()], list(pages.values())


def own_ms(page: bytes) -> float:
    """Return how long a node took for its pages on the average, by its own histogram of requests: its loop stood still."""
    told = dict(re.findall(rb'_seconds_(sum|count)\{route="metrics",method="GET",code="200"\} (\S+)', page))
    return float(told[b"sum"]) / float(told[b"count"]) * 1000


def main() -> int:
    """Measure, print, and say whether the bar is met."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--nodes", type=int, default=20)
    parser.add_argument("--shards", type=int, default=256)
    parser.add_argument("--scrapes", type=int, default=10, help="of each node")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="ringkeep-bench-") as folder:
        local = LocalCluster(Path(folder))
        try:
            asyncio.run(local.up(arguments.nodes, shards=arguments.shards))
            urls = [node.url for node in local.directory.existing().nodes]
            took_ms, own, pages = asyncio.run(scrapes(urls, arguments.scrapes))
        finally:
            local.down(wipe=True)
    took_ms.sort()
    median = took_ms[len(took_ms) // 2]
    result = {
        "measure": "scrape_ms",
        "nodes": arguments.nodes,
        "shards": arguments.shards,
        "p50": round(median, 2),
        "p99": round(took_ms[int(len(took_ms) * 0.99)], 2),
        "max": round(took_ms[-1], 2),
        "scrapes": len(took_ms),
        "in_the_node": round(sum(own) / len(own), 2),
        "page_bytes": max(map(len, pages)),
        "samples": max(sum(not line.startswith(b"#") for line in page.splitlines()) for page in pages),
        "bar_ms": SCRAPE_BAR_MS,
    }
    print(json.dumps(result))
    return int(median > SCRAPE_BAR_MS)


if __name__ == "__main__":
    sys.exit(main())
