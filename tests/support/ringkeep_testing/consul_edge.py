"""The Consul-compatible paths of one node over the real registry machine and the real HTTP edge."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, Self

import msgspec

from ringkeep_node.http.consul import consul_handlers
from ringkeep_node.http.consul_answers import Consul
from ringkeep_node.http.consul_waiting import ConsulSettings
from ringkeep_node.runtime.services import ServicesSettings
from ringkeep_testing.fake_driver import FakeDriver
from ringkeep_testing.fake_services import FakeServices
from ringkeep_testing.http_edge import Answer, EdgeUnderTest, Wire, request, until

SETTINGS = ConsulSettings()


class ConsulEdge:
    """Use as ``async with ConsulEdge() as consul``. ``token`` "": everybody may write. No jitter."""

    def __init__(
        self, services: FakeServices | None = None, *, settings: ConsulSettings = SETTINGS, token: str = ""
    ) -> None:
        self.services = services or FakeServices()
        self.driver = FakeDriver()
        self.consul = Consul(
            self.services,
            self.driver,
            settings,
            clock=lambda: asyncio.get_running_loop().time(),
            draw=lambda: 0.0,
        )
        settings_of_edge = ServicesSettings(token=token)
        self.edge = EdgeUnderTest(self.driver, services=settings_of_edge, more=consul_handlers(self.consul))

    async def __aenter__(self) -> Self:
        await self.edge.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.edge.__aexit__(kind, error, trace)
        await self.services.close()
        if error is None:
            assert self.edge.failures == []
            assert self.consul.waiting.count == self.services.waiting == 0

    async def get(self, target: str, **headers: str) -> Answer:
        """Read under /v1."""
        return await self.edge.ask("GET", f"/v1/{target}", b"", **headers)

    async def put(self, target: str, body: Any = None, **headers: str) -> Answer:
        """Change something under /v1; a body that is not bytes goes as JSON."""
        data = b"" if body is None else body if isinstance(body, bytes) else msgspec.json.encode(body)
        return await self.edge.ask("PUT", f"/v1/{target}", data, **headers)

    async def done(self, target: str, body: Any = None) -> None:
        """Change something that is not refused."""
        answer = await self.put(target, body)
        assert answer.status == 200, answer.body

    async def held(self, target: str) -> Wire:
        """Begin a query that is held back; return when it is."""
        before = self.services.waiting
        wire = await self.edge.connect()
        await wire.send(request("GET", f"/v1/{target}"))
        await self.waits(before + 1)
        return wire

    async def waits(self, count: int) -> None:
        """Let the loop turn until so many queries wait."""
        await until(lambda: self.services.waiting == count)


def serve(test: Callable[[ConsulEdge], Awaitable[None]], edge: ConsulEdge | None = None) -> None:
    """Run a test against an edge."""

    async def whole() -> None:
        async with edge or ConsulEdge() as running:
            await test(running)

    asyncio.run(whole())


def shown(services: FakeServices, service: str = "web") -> list[tuple[str, str, int, tuple[tuple[str, str], ...]]]:
    """Return (id, address, port, (check, state)...) of all instances of a service."""
    return [
        (
            seen.instance.id,
            seen.instance.address,
            seen.instance.port,
            tuple((check.id, check.status) for check in seen.instance.checks),
        )
        for seen in services.view.instances(service)
    ]
