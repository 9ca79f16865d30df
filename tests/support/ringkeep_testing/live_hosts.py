"""Whole nodes without processes: real log, store, links and gossip on loopback, several hosts on one event loop.

    async with hosts(tmp_path, 3) as nodes: await found(nodes); ...

For what lies between the pure machines and the process: the driver, the host, founding. Times are real, so tests wait for
what they want to see and assert no durations.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from aiohttp import web

from ringkeep_node.machines.documents import Write
from ringkeep_node.machines.node import NodeIdentity, NodeSettings
from ringkeep_node.machines.shard.effects import ReadRequest, Result, WriteRequest
from ringkeep_node.metrics import NodeMetrics
from ringkeep_node.runtime.disk import RealDisk
from ringkeep_node.runtime.founding import BootstrapRequest, FirstMember
from ringkeep_node.runtime.host import Host, HostParts
from ringkeep_node.runtime.listening import listen, open_datagrams
from ringkeep_node.runtime.store.store import Store
from ringkeep_node.runtime.trails import Trails
from ringkeep_node.runtime.wal.log import Log, LogSettings
from ringkeep_node.tracing import Tracer

LIMIT_S = 30.0
SHARDS = 16


class LiveNode:
    """One host and what it needs; ``failures`` are the reasons for which it would have ended its process."""

    def __init__(
        self,
        number: int,
        folder: Path,
        *,
        weight: float = 1.0,
        seeds: tuple[str, ...] = (),
        called: str = "127.0.0.1",
        tracer: Tracer | None = None,
    ) -> None:
        self.name, self.number, self.folder = f"n{number}", number, folder
        self.metrics = NodeMetrics()
        self.failures: list[str] = []
        self.left: list[str] = []
        self.seeds = seeds
        self._weight, self._called = weight, called
        self.trails = None if tracer is None else Trails(tracer, says=False, node=self.name, storage=self.storage)
        self._stack = AsyncExitStack()

    @property
    def storage(self) -> str:
        """The storage id."""
        return f"{self.number:016x}"

    async def start(self) -> None:
        """Open everything; the node waits for a cluster then."""
        loop = asyncio.get_running_loop()
        self.metrics = NodeMetrics()
        store = Store.open(_made(self.folder / "store"))
        log, recovered = Log.open(RealDisk(self.folder / "log"), LogSettings(), {})
        log.start(loop.call_soon_threadsafe, lambda error: self.failures.append(f"log: {error}"))
        store.start(loop.call_soon_threadsafe, lambda error: self.failures.append(f"store: {error}"))
        self._stack.push_async_callback(loop.run_in_executor, None, log.close)
        self._stack.push_async_callback(loop.run_in_executor, None, store.close)
        # The host must know its address before it exists, and takes connections only after: hence the indirection.
        server, port = await listen(web.Server(self._accept), "127.0.0.1", 0, "PEER")
        self.peer = f"{self._called}:{port}"
        self._stack.callback(server.close)
        self.host = Host(
            self._identity(recovered.boot_counter + 1),
            NodeSettings(),
            draw=random.Random(1).random,
            metrics=self.metrics,
            trails=self.trails,
        )
        self._stack.push_async_callback(self.host.close)
        udp, _ = await open_datagrams(lambda: self.host.inbox, "127.0.0.1", port, "PEER")
        self._stack.callback(udp.close)
        await server.start_serving()
        await self.host.start(
            HostParts(
                log=log,
                recovered=recovered,
                store=store,
                cluster_id="",
                adopt_cluster=lambda _: None,
                udp=udp,
                seeds=self.seeds,
                draw=random.Random(self.number).random,
                nonce=lambda: "nonce",
                fatal=self.failures.append,
                mark_left=lambda: self.left.append(self.storage),
                balanced=True,
            )
        )

    def _identity(self, counter: int) -> NodeIdentity:
        url = f"http://{self.peer}"
        return NodeIdentity(self.name, self.storage, f"b{self.number:015x}", counter, url, self.peer, "", self._weight)

    async def _accept(self, request: web.BaseRequest) -> web.StreamResponse:
        return await self.host.links.accept(request)

    async def close(self) -> None:
        """End everything."""
        await self._stack.aclose()

    async def put(self, shard: int, key: str, value: bytes = b"v") -> Result:
        """Write a document of a user who is said to live in ``shard``."""
        now = asyncio.get_running_loop().time()
        request = WriteRequest(writes=(Write("ada", key, value, "text/plain"),), deadline=now + LIMIT_S, wall_ms=1)
        return await self.host.submit(shard, request, timeout_s=LIMIT_S, size=100)

    async def get(self, shard: int, key: str, *, local: bool = False) -> Result:
        """Read it."""
        now = asyncio.get_running_loop().time()
        request = ReadRequest(user="ada", key=key, deadline=now + LIMIT_S, local=local)
        return await self.host.submit(shard, request, timeout_s=LIMIT_S, size=100)


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@asynccontextmanager
async def hosts(
    folder: Path,
    count: int,
    *,
    weights: tuple[float, ...] = (),
    called: str = "127.0.0.1",
    have_seeds: bool = True,
    tracer: Tracer | None = None,
) -> AsyncIterator[list[LiveNode]]:
    """Start nodes that belong to no cluster; end them afterwards."""
    made: list[LiveNode] = []
    try:
        for number in range(1, count + 1):
            weight = weights[number - 1] if weights else 1.0
            seeds = (made[0].peer,) if made and have_seeds else ()
            place = folder / f"n{number}"
            made.append(LiveNode(number, place, weight=weight, seeds=seeds, called=called, tracer=tracer))
            await made[-1].start()
        yield made
    finally:
        await asyncio.gather(*(node.close() for node in made))


async def found(nodes: list[LiveNode], *, replication_factor: int = 3, min_in_sync: int = 2) -> str:
    """Bootstrap a cluster of all of them and wait until each is ready."""
    members = tuple(FirstMember(node.name, node.storage, node.peer) for node in nodes)
    factor = min(replication_factor, len(nodes))
    request = BootstrapRequest(members, SHARDS, factor, min(min_in_sync, factor))
    cluster_id = await nodes[0].host.bootstrap(request)
    await until(lambda: all(node.host.is_ready() is None for node in nodes))
    return cluster_id


async def until(holds: Callable[[], object]) -> None:
    """Wait until something holds."""
    async with asyncio.timeout(LIMIT_S):
        while not holds():  # noqa: ASYNC110 - what is waited for has no event, here as in a process
            await asyncio.sleep(0.01)


def run(test: Coroutine[Any, Any, None]) -> None:
    """Run a test's coroutine."""
    asyncio.run(test)
