"""A writer that remembers: every acknowledged write is written down and looked for afterwards.

Many small writers, each with a user of its own, so that every node's shards are written all the time. A write that ends
in an error is not acknowledged and not counted; its key is never used again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec

from ringkeep.async_client import AsyncClient
from ringkeep.errors import RingkeepError

WRITERS = 64
PACE_S = 0.15
WRITE_TIMEOUT_S = 30.0


class Acknowledged(msgspec.Struct, frozen=True):
    """A write that the cluster has acknowledged.

    ``at`` is the loop's time of the acknowledgement, ``took_s`` how long it took with all its retries.
    """

    user: str
    key: str
    value: bytes
    version: int
    shard: int
    epoch: int
    at: float
    took_s: float = 0.0


class RecordingWriter:
    """Writes until it is stopped."""

    def __init__(self, client: AsyncClient, *, writers: int = WRITERS, pace_s: float = PACE_S) -> None:
        self._client = client
        self._pace_s = pace_s
        self.users = tuple(f"demo-writer-{number:02}" for number in range(writers))
        self.acknowledged: list[Acknowledged] = []
        self.failed: list[str] = []
        self._stopping = False
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin to write."""
        self._tasks = [asyncio.create_task(self._write(user)) for user in self.users]

    async def stop(self) -> None:
        """Let each writer finish its present write."""
        self._stopping = True
        await asyncio.gather(*self._tasks)

    async def cancel(self) -> None:
        """End at once; what was in flight is not recorded."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def until(self, holds: Callable[[], bool], *, limit_s: float) -> bool:
        """Wait until ``holds``, asked often while the writers write; return False if it does not within ``limit_s``."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + limit_s
        while not holds():
            if loop.time() >= deadline:
                return False
            await asyncio.sleep(0.02)
        return True

    async def _write(self, user: str) -> None:
        loop = asyncio.get_running_loop()
        number = 0
        while not self._stopping:
            number += 1
            key, value = f"{number:06}", msgspec.json.encode({"writer": user, "number": number})
            sent = loop.time()
            try:
                written = await self._client.put(
                    user, key, value, content_type="application/json", timeout_s=WRITE_TIMEOUT_S
                )
            except RingkeepError as error:
                self.failed.append(f"{user}/{key}: {error.code}: {error}")
            else:
                now = loop.time()
                self.acknowledged.append(
                    Acknowledged(user, key, value, written.version, written.shard, written.epoch, now, now - sent)
                )
            await asyncio.sleep(self._pace_s)
