"""What the HTTP edge and the service cost: CPU per request and per imported line, over a driver that answers at once.

    python -P benchmarks/http_edge.py [--seconds 3] [--clients 16]

The server runs in this process, the clients in a child, so that the process time divided by the requests is the server's
own (system calls included). Prints one JSON line for each measurement; the exit status is 1 if a bar is missed.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import multiprocessing
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import cast

import uvloop

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))

from ringkeep_core.services import Ranges
from ringkeep_node.http.exchange import Edge
from ringkeep_node.http.server import Api, HttpServer, ServerSettings
from ringkeep_node.machines.shard.effects import ReadRequest, Result, WriteRequest
from ringkeep_node.metrics import NodeMetrics, NodePage
from ringkeep_node.runtime.importing import Importer, ImportSettings
from ringkeep_node.runtime.service import Service
from ringkeep_node.runtime.services import Services, ServicesSettings
from ringkeep_testing.fake_driver import FakeDriver
from ringkeep_testing.http_edge import request

REQUEST_BAR_US = 120.0
LINE_BAR_PER_S = 20_000.0
USERS = 1000
LINES = 100_000
CHUNK = 1 << 16
WARM_S = 2.5
"""Until the child has been started and has sent its first thousands of requests."""


class InstantDriver(FakeDriver):
    """Keeps no record of what it was asked."""

    async def submit(self, shard: int, request: WriteRequest | ReadRequest, *, timeout_s: float, size: int) -> Result:
        """Answer at once."""
        if isinstance(request, WriteRequest):
            return self._write(shard, request)
        return self._read(shard, request)


class Client(asyncio.Protocol):
    """A closed loop on one connection: the next request leaves when the answer is there. Answers fit one segment."""

    def __init__(self, requests: list[bytes]) -> None:
        self._requests = requests
        self._next = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._transport = cast(asyncio.WriteTransport, transport)  # uvloop's is none by inheritance
        self._send()

    def data_received(self, data: bytes) -> None:
        """Go on."""
        self._send()

    def _send(self) -> None:
        self._transport.write(self._requests[self._next % len(self._requests)])
        self._next += 1


def load(port: int, method: str, clients: int, seconds: float) -> None:
    """Drive the server for some seconds (in a process of its own)."""
    body = b"x" * 256 if method == "PUT" else b""
    requests = [request(method, f"/v1/users/user{i:06}/docs/profile", body) for i in range(USERS)]

    async def run() -> None:
        loop = asyncio.get_running_loop()
        for i in range(clients):
            mine = requests[i * 7 :] + requests[: i * 7]
            await loop.create_connection(lambda mine=mine: Client(mine), "127.0.0.1", port)  # type: ignore[misc]
        await asyncio.sleep(seconds)

    uvloop.run(run())


async def requests_cost(seconds: float, clients: int) -> bool:
    """Measure PUT and GET; return whether both are below the bar."""
    driver = InstantDriver(shards=256)
    service = Service(driver, clock=time.monotonic, wall=time.time)
    metrics = NodeMetrics()
    edge = Edge(service, Services(ServicesSettings(), Ranges(), clock=time.monotonic))
    page = NodePage(metrics, numbers=driver.numbers, problems=lambda: edge.problems, dropped=lambda: 0, version="0")
    fail: Callable[[str, BaseException], None] = lambda _, error: sys.exit(repr(error))  # noqa: E731
    api = Api(edge, Importer(service, ImportSettings()), metrics.requests, page, fail)
    server = HttpServer(api, ServerSettings())
    port = await server.bind("127.0.0.1", 0)
    await server.serve()
    gc.freeze()
    good = True
    for method in ("PUT", "GET"):
        child = multiprocessing.get_context("spawn").Process(
            target=load, args=(port, method, clients, seconds + WARM_S)
        )
        child.start()
        await asyncio.sleep(WARM_S)
        before, cpu_s, started = server.requests_count, time.process_time(), time.monotonic()
        await asyncio.sleep(seconds)
        count = max(1, server.requests_count - before)
        cost_us = (time.process_time() - cpu_s) * 1e6 / count
        rate = count / (time.monotonic() - started)
        print(
            json.dumps(
                {"measured": method, "cpu_us": round(cost_us, 1), "per_second": round(rate), "bar_us": REQUEST_BAR_US}
            )
        )
        good &= cost_us <= REQUEST_BAR_US
        child.join()
    await server.stop()
    return good


async def import_cost() -> bool:
    """Measure the import of lines like those of the demo; return whether it is above the bar."""
    service = Service(InstantDriver(shards=256), clock=time.monotonic, wall=time.time)
    value = {"year": 2013, "carrier": "UA", "tailnum": "N14228", "origin": "EWR", "dest": "IAH", "distance": 1400}
    body = b"".join(
        json.dumps({"user": f"N{i * 7919 % 4043}", "key": f"{i % 12}-{i % 28}/{i}", "value": value}).encode() + b"\n"
        for i in range(LINES)
    )

    async def chunks() -> AsyncIterator[bytes]:
        for at in range(0, len(body), CHUNK):
            yield body[at : at + CHUNK]

    cpu_s = time.process_time()
    result = await Importer(service, ImportSettings()).run(chunks(), timeout_s=5.0)
    cost_s = time.process_time() - cpu_s
    rate = result.stored / cost_s
    print(
        json.dumps(
            {
                "measured": "import",
                "cpu_us": round(cost_s * 1e6 / LINES, 2),
                "per_second": round(rate),
                "bar": LINE_BAR_PER_S,
            }
        )
    )
    return rate >= LINE_BAR_PER_S


def main() -> int:
    """Run all measurements; return the exit status."""
    parser = argparse.ArgumentParser(description="cost of the HTTP edge and the service")
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--clients", type=int, default=16)
    options = parser.parse_args()
    good = uvloop.run(requests_cost(options.seconds, options.clients))
    return 0 if uvloop.run(import_cost()) and good else 1


if __name__ == "__main__":
    sys.exit(main())
