"""A whole operator, with kopf, watches and Lease, over a fake API server and fake pods, in real time on loopback."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

from ringkeep_operator import handlers
from ringkeep_operator.app import Operator
from ringkeep_operator.kube import Configuration
from ringkeep_operator.plan import plan
from ringkeep_operator.settings import OperatorSettings
from ringkeep_testing.fake_kube import FakeKube
from ringkeep_testing.fake_pods import FakePods

PATIENCE_S = 30.0


class RunningOperator:
    """Use as ``async with RunningOperator(kube, pods) as operator``; ``settings`` replace the defaults."""

    def __init__(self, kube: FakeKube, pods: FakePods, **settings: Any) -> None:
        self.kube, self.pods = kube, pods
        given: dict[str, Any] = {"lease": False, "port": 0, "silence_s": 5.0, "resync_s": 30.0, **settings}
        self.settings = OperatorSettings(**given)
        where = Configuration()
        where.host = kube.url
        self._where = where
        self._stop = asyncio.Event()
        self.operator = Operator(self.settings, where, plan, self._feed, address=pods.address, first_wait_s=0.1)
        self._task: asyncio.Task[None] | None = None

    async def _feed(self, changed: Callable[[Mapping[str, Any]], None]) -> None:
        await handlers.run(self.settings, "operator", changed, lambda: handlers.connection(self._where))

    async def __aenter__(self) -> Self:
        """Start it."""
        self._task = asyncio.create_task(self.operator.run(self._stop))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Ask it to end, as SIGTERM does."""
        self._stop.set()
        assert self._task is not None
        await asyncio.wait_for(self._task, PATIENCE_S)

    @property
    def has_ended(self) -> bool:
        """Whether it ended by itself."""
        return self._task is not None and self._task.done()

    async def kill(self) -> None:
        """End it without a word: no Lease is given back."""
        assert self._task is not None
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task


async def until(holds: Callable[[], bool], what: str = "", patience_s: float = PATIENCE_S) -> float:
    """Wait until something holds; return how many seconds that took."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    while not holds():
        assert loop.time() - began < patience_s, f"waited {patience_s} s in vain {what}"
        await asyncio.sleep(0.01)
    return loop.time() - began
