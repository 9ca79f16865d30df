"""How long a scrape takes: ``GET /metrics`` of real nodes, and what making the page costs the event loop.

    python -P benchmarks/metrics.py [--nodes 20] [--shards 256] [--scrapes 10]

It starts a cluster on loopback, asks each node for several kinds of things so that their series exist, then scrapes the
nodes one after the other and prints one JSON line. Exit code 1 if the median scrape takes longer than the bar.
"""

from __future__ import annotations

import argparse
import asyncio
import json
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


async def scrapes(urls: list[str], count: int) -> tuple[list[float], int, int]:
    """Return the milliseconds of each scrape, and the bytes and samples of the largest page."""
    took_ms, size, samples = [], 0, 0
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
                    page = await answer.read()
                took_ms.append((time.perf_counter() - started) * 1000)
                size = max(size, len(page))
                samples = max(samples, sum(1 for line in page.splitlines() if not line.startswith(b"#")))
    return took_ms, size, samples


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
            took_ms, size, samples = asyncio.run(scrapes(urls, arguments.scrapes))
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
        "page_bytes": size,
        "samples": samples,
        "bar_ms": SCRAPE_BAR_MS,
    }
    print(json.dumps(result))
    return int(median > SCRAPE_BAR_MS)


if __name__ == "__main__":
    sys.exit(main())
