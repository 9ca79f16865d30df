"""The real HTTP edge of a node over a fake driver, on a free loopback port, and a client that sends exactly the bytes it is
given: tests of bad input need requests that no decent client makes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from types import TracebackType
from typing import Any, Self

import msgspec

from ringkeep_node.http.exchange import Edge, Handler
from ringkeep_node.http.server import Api, HttpServer, ServerSettings
from ringkeep_node.machines.registry import COMPARED_WITHIN_S, Registry, RegistrySettings
from ringkeep_node.metrics import NodeMetrics, NodePage
from ringkeep_node.runtime.importing import Importer, ImportSettings
from ringkeep_node.runtime.service import Service
from ringkeep_node.runtime.services import Services, ServicesSettings
from ringkeep_testing.fake_driver import FakeDriver

WALL_S = 1_767_225_600.25
"""2026-01-01T00:00:00.250Z"""
ANSWER_S = 10.0


class Answer(msgspec.Struct, frozen=True):
    """An answer as it came; header names in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body, decoded."""
        return msgspec.json.decode(self.body)

    @property
    def code(self) -> str:
        """The code of a problem document; an assertion fails if it is none."""
        problem = self.json
        assert self.headers["content-type"] == "application/problem+json"
        assert set(problem) == {"type", "title", "status", "detail", "code", "retryable", "request_id"}
        assert problem["status"] == self.status and problem["detail"]
        assert problem["request_id"] == self.headers["ringkeep-request-id"]
        return str(problem["code"])


class Wire:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    async def send(self, data: bytes) -> None:
        """Send bytes."""
        self._writer.write(data)
        await self._writer.drain()

    async def answer(self, *, bodiless: bool = False) -> Answer:
        """Read one answer. ``bodiless`` for an answer to HEAD."""
        async with asyncio.timeout(ANSWER_S):
            head = await self._reader.readuntil(b"\r\n\r\n")
            lines = head.decode("latin-1").split("\r\n")
            headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:-2])}
            status = int(lines[0].split(" ")[1])
            empty = bodiless or status in (204, 304) or status < 200
            body = b"" if empty else await self._reader.readexactly(int(headers["content-length"]))
        return Answer(status, headers, body)

    async def stream(self) -> Answer:
        """Read the head of an answer that goes on; what follows is read by ``event``."""
        async with asyncio.timeout(ANSWER_S):
            head = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:-2])}
        return Answer(int(head[0].split(" ")[1]), headers, b"")

    async def event(self) -> dict[str, str]:
        """Read one server-sent event: its fields by name."""
        async with asyncio.timeout(ANSWER_S):
            lines = (await self._reader.readuntil(b"\n\n")).decode().splitlines()
        return dict(line.partition(": ")[::2] for line in lines if line)

    async def is_closed(self) -> bool:
        """Return whether the other side ends the connection without another byte."""
        async with asyncio.timeout(ANSWER_S):
            try:
                return await self._reader.read(1) == b""
            except ConnectionError:
                return True

    def hang_up(self) -> None:
        """End the connection at once."""
        self._writer.transport.abort()


class EdgeUnderTest:
    """Use as ``async with EdgeUnderTest() as edge``."""

    def __init__(
        self,
        driver: FakeDriver | None = None,
        *,
        admin_token: str | None = None,
        server: ServerSettings | None = None,
        imports: ImportSettings | None = None,
        services: ServicesSettings | None = None,
        more: Mapping[tuple[str, str], Handler] | None = None,
    ) -> None:
        self.driver = driver or FakeDriver()
        self.wall_s = WALL_S
        self.metrics = NodeMetrics()
        self.failures: list[BaseException] = []
        self.port = 0
        self._admin_token = admin_token
        self._server_settings = server or ServerSettings(shutdown_s=0.5)
        self._imports = imports or ImportSettings()
        self._more = more
        self._wires: list[Wire] = []
        self.services_settings = services or ServicesSettings()

    def turn(self) -> None:
        """Do what the node's loop does after an input to the registry."""
        step = self.registry.take()
        if step is not None:
            self.services.stepped(step.changed, step.checks_changed)

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        service = Service(self.driver, clock=loop.time, wall=lambda: self.wall_s)
        self.services = Services(
            self.services_settings, self.services_settings.ranges(on_loopback=True), clock=loop.time
        )
        if self.driver.cluster_id:
            facts = self.driver.node_facts
            self.registry = Registry(facts[0], RegistrySettings(), now=loop.time() - COMPARED_WITHIN_S)
            self.registry.members(facts, now=loop.time())
            self.services.run(self.registry, self.turn)
        self.edge = Edge(
            service,
            self.services,
            admin_token=self._admin_token,
            services_token=self.services_settings.token or None,
            reading_bytes_max=self._server_settings.reading_bytes_max,
        )
        page = NodePage(
            self.metrics,
            numbers=self.driver.numbers,
            problems=lambda: self.edge.problems,
            dropped=lambda: 0,
            version="0.0.0",
        )
        self.api = api = Api(
            self.edge,
            Importer(service, self._imports),
            self.metrics.requests,
            page,
            lambda _, error: self.failures.append(error),
            more=self._more,
        )
        self.server = HttpServer(api, self._server_settings)
        self.port = await self.server.bind("127.0.0.1", 0)
        await self.server.serve()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for wire in self._wires:
            wire.hang_up()
        await self.services.close()
        await self.server.stop()

    async def connect(self) -> Wire:
        """Open a connection; it is closed at the end."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, limit=1 << 23)
        wire = Wire(reader, writer)
        self._wires.append(wire)
        return wire

    async def raw(self, data: bytes) -> Answer:
        """Send bytes on a new connection and return the first answer."""
        wire = await self.connect()
        await wire.send(data)
        return await wire.answer(bodiless=data.startswith(b"HEAD"))

    async def ask(self, method: str, target: str, body: bytes = b"", **headers: str) -> Answer:
        """Send a well-formed request on a new connection; ``_`` in a header's name stands for ``-``."""
        return await self.raw(request(method, target, body, **headers))


def request(method: str, target: str, body: bytes = b"", **headers: str) -> bytes:
    """Return the bytes of a well-formed request."""
    lines = [f"{method} {target} HTTP/1.1", "Host: node"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    if body or method in ("PUT", "POST"):
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join(lines).encode("utf-8", "surrogateescape") + b"\r\n\r\n" + body


def serve(test: Callable[[EdgeUnderTest], Awaitable[None]], edge: EdgeUnderTest | None = None) -> None:
    """Run a test against an edge; no request of it may have failed unexpectedly."""

    async def whole() -> None:
        async with edge or EdgeUnderTest() as running:
            await test(running)
            assert running.failures == []

    asyncio.run(whole())


async def until(condition: Callable[[], object], *, limit: int = 100_000) -> None:
    """Let the loop turn until the condition holds."""
    for _ in range(limit):
        if condition():
            return
        await asyncio.sleep(0)
    raise AssertionError("it never came to that")
