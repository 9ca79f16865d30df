"""One request and how it is answered: reading its body and headers within their limits, building the reply's head.

``Edge`` is what all requests of a node share; ``Exchange`` is one of them.
"""

from __future__ import annotations

import asyncio
import hmac
import re
import time
from collections.abc import AsyncIterator, Callable
from itertools import count
from typing import Any, Final

import aiohttp
import msgspec
from aiohttp import web

from ringkeep_core.errors import (
    BadRequest,
    Overloaded,
    RingkeepError,
    TooLarge,
    Unauthorized,
    UnsupportedMediaType,
    WrongCluster,
)
from ringkeep_core.shardmap import ShardMap
from ringkeep_node.http.problems import (
    PROBLEM_TYPE,
    STATUS_OF_CODE,
    NotReady,
    headers_of,
    problem_of,
    shown,
    status_of,
)
from ringkeep_node.http.replies import JSON_TYPE, STATUS_LINES, Clock, Outgoing, Reply
from ringkeep_node.http.routing import MethodRefused, Target
from ringkeep_node.runtime.service import TIMEOUT_DEFAULT_S, Service, checked_timeout_s
from ringkeep_node.runtime.services import Services

CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
NOWHERE: Final = Target("unknown")
READING_BYTES_MAX: Final = 64 << 20
BODY_SILENCE_S: Final = 30.0
"""A streamed body that brings nothing for so long is given up."""

UNREADY_S: Final = 10.0
"""So long after a balancer was told that this node is not ready connections end with their next answer."""

_REQUEST_ID = re.compile(r"[!-~]{1,128}").fullmatch
_SECONDS = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?").fullmatch
_BROKEN_BODY = (web.RequestPayloadError, aiohttp.ClientError, ConnectionError)


class Edge:
    """What every request of this node shares. ``admin_token`` None: administration is open (loopback only)."""

    def __init__(
        self,
        service: Service,
        services: Services,
        *,
        admin_token: str | None = None,
        services_token: str | None = None,
        reading_bytes_max: int = READING_BYTES_MAX,
    ) -> None:
        self.service = service
        self.services = services
        self._services_token = services_token
        self.driver = service.driver
        self.clock = Clock(service.wall)
        self.outgoing = Outgoing()
        self._admin_token = None if admin_token is None else admin_token.encode()
        identity = service.driver.identity
        self._cluster = ""
        self._ours = f"Ringkeep-Node: {identity.name}\r\nServer: ringkeep\r\nX-Content-Type-Options: nosniff\r\n"
        self._lines = self._ours
        self._prefix = f"{identity.boot[:8]}-"
        self._numbers = count(1)
        self.reading_bytes = 0
        """Announced bytes of the bodies that are being collected."""
        self.reading_bytes_max = reading_bytes_max
        self.stopping = False
        """Set while the node ends: it still answers, but asks to be sent nothing more."""
        self._unready_until = 0.0
        self.thinking = asyncio.Lock()
        """Held by the one request whose plan is being thought out beside the loop."""
        self.thinkers = 0
        self.problems = dict.fromkeys(STATUS_OF_CODE, 0)
        """How many answers had the code of each error."""

    def told_ready(self, is_ready: bool) -> None:
        """A balancer has asked whether clients should be sent here, and will believe it for a while.

        It chooses for new connections only. So while the answer is no the others end with their next answer, or who has
        one would stay until this node is gone.
        """
        self._unready_until = 0.0 if is_ready else time.monotonic() + UNREADY_S

    @property
    def is_unwanted(self) -> bool:
        """Whether clients should go elsewhere with their next request."""
        return self.stopping or (self._unready_until > 0.0 and time.monotonic() < self._unready_until)

    @property
    def lines(self) -> str:
        """The header lines that every answer has; they name the cluster as soon as this node belongs to one."""
        cluster = self.driver.cluster_id
        if cluster != self._cluster:
            self._cluster = cluster
            self._lines = f"Ringkeep-Cluster: {cluster}\r\n{self._ours}"
        return self._lines

    def check_cluster(self, meant: str) -> None:
        """Raise ``WrongCluster`` if a request is meant for another cluster than this node's.

        Whoever found this address in a map may be late: the node that had it is gone, and its port or address is ours
        now. Our acknowledgement would be taken for one of the other cluster, which never got the write.
        """
        own = self.driver.cluster_id
        if meant != own:
            where = f"belongs to cluster {own}" if own else "belongs to no cluster yet"
            raise WrongCluster(f"this node {where}, and the request is meant for cluster {meant[:64]}")

    def next_id(self) -> str:
        """Return an id for a request that came without one: unique among all boots, and in order."""
        return f"{self._prefix}{next(self._numbers):x}"

    def check_admin(self, authorization: str | None) -> None:
        """Raise ``Unauthorized`` unless the caller may administer the cluster."""
        if self._admin_token is None:
            return
        scheme, _, token = (authorization or "").partition(" ")
        given = token.strip().encode("utf-8", "surrogateescape")
        if not hmac.compare_digest(given, self._admin_token) or scheme.lower() != "bearer":
            raise Unauthorized(
                "the administration token is wrong"
                if authorization
                else "administration needs the header 'Authorization: Bearer <RINGKEEP_ADMIN_TOKEN>'"
            )

    def check_registrar(self, token: str | None) -> None:
        """Raise ``Unauthorized`` unless the caller may change registrations; without a token set everybody may."""
        if self._services_token is None:
            return
        given = (token or "").encode("utf-8", "surrogateescape")
        if not hmac.compare_digest(given, self._services_token.encode()):
            raise Unauthorized("changes of services need the token that RINGKEEP_SERVICES_TOKEN sets on the nodes")


class Exchange:
    """One request on its way to its reply."""

    __slots__ = ("cause", "closes", "edge", "id", "request", "target")

    def __init__(self, edge: Edge, request: web.BaseRequest) -> None:
        self.edge = edge
        self.request = request
        self.target = NOWHERE
        self.closes = edge.is_unwanted
        given = request.headers.get("Ringkeep-Request-Id")
        self.id = given if given is not None and _REQUEST_ID(given) else edge.next_id()
        self.cause = self.id
        """What goes with the request to the nodes that serve it: its id, and where it belongs in a trace."""

    @property
    def client(self) -> str:
        """The address of the caller, whose changes are counted."""
        return self.request.remote or ""

    def token(self) -> str | None:
        """Return the token that the caller shows as Consul's clients do, or as a bearer; None if it shows none."""
        own = self.request.headers.get("X-Consul-Token")
        scheme, _, bearer = self.request.headers.get("Authorization", "").partition(" ")
        return own if own is not None else bearer.strip() if scheme.lower() == "bearer" else None

    def hung_up(self) -> asyncio.Future[None]:
        """Return what is done when the client has hung up: a handler is not cancelled then, but need not wait on."""
        connection: Any = self.request.protocol
        lost: asyncio.Future[None] = connection.when_lost()
        return lost

    # --- what was sent -------------------------------------------------------------------------------------------

    def timeout_s(self) -> float:
        """Return how long the client waits; raise ``BadRequest`` if the header is no such number."""
        text = self.request.headers.get("Ringkeep-Timeout")
        if text is None:
            return TIMEOUT_DEFAULT_S
        if not _SECONDS(text):
            raise BadRequest("Ringkeep-Timeout is a decimal number of seconds, for example 2.5")
        return checked_timeout_s(float(text))

    async def current_map(self) -> ShardMap:
        """Return the held map once it is at least as new as this start of the node.

        What a restarted node finds on its disk may be of any age, and people would take it for what is now. Raises
        ``NotReady`` at the deadline, ``NoPrimary`` on a node that belongs to no cluster.
        """
        driver, clock = self.edge.driver, self.edge.service.clock
        until = clock() + self.timeout_s()
        held = self.edge.service.held_map()
        while not driver.is_current():
            left_s = until - clock()
            if left_s <= 0:
                raise NotReady("this start of the node is not registered yet, so its map may be old: ask another node")
            await driver.wait_newer_than(held.version, timeout_s=left_s)
            held = self.edge.service.held_map()
        return held

    def joined_header(self, name: str) -> str | None:
        """Return a header whose lines may be split over several fields, or None."""
        values = self.request.headers.getall(name, None)
        return None if values is None else ", ".join(values)

    async def body(self, bytes_max: int, what: str) -> bytes:
        """Return the whole body.

        Raises ``TooLarge``, ``UnsupportedMediaType`` (a Content-Encoding), ``BadRequest`` (it breaks off or is late),
        ``Overloaded``.
        """
        content = self.request.content
        self._check_encoding()
        length = self.request.content_length
        if length is not None and length > bytes_max:
            self.closes = True
            raise TooLarge(f"{what} may have {bytes_max} bytes, not {length}")
        if content.is_eof():
            data = content.read_nowait(-1)
            if len(data) > bytes_max:
                raise TooLarge(f"{what} may have {bytes_max} bytes, not {len(data)}")
            return data
        return await self._whole_body(bytes_max if length is None else length, bytes_max, what)

    async def _whole_body(self, expected: int, bytes_max: int, what: str) -> bytes:
        """Collect a body that is still on its way; all such bodies together are bounded, and each has its deadline."""
        edge = self.edge
        if edge.reading_bytes + expected > edge.reading_bytes_max:
            self.closes = True
            raise Overloaded(f"this node reads {edge.reading_bytes} bytes of bodies, which is as many as it may hold")
        edge.reading_bytes += expected
        parts: list[bytes] = []
        size = 0
        timeout_s = self.timeout_s()
        try:
            async with asyncio.timeout(timeout_s):
                async for part in self.chunks(silence_s=timeout_s):
                    size += len(part)
                    if size > bytes_max:
                        self.closes = True
                        raise TooLarge(f"{what} may have {bytes_max} bytes")
                    parts.append(part)
        except TimeoutError:
            self.closes = True
            raise BadRequest(f"the body was not complete after {timeout_s:g} s") from None
        finally:
            edge.reading_bytes -= expected
        return b"".join(parts)

    async def chunks(self, *, silence_s: float = BODY_SILENCE_S) -> AsyncIterator[bytes]:
        """Yield the body as it arrives; the client is held back while nobody asks for more. Raises as ``body`` does."""
        self._check_encoding()
        await self._say_continue()
        content = self.request.content
        try:
            while True:
                async with asyncio.timeout(silence_s):
                    part = await content.readany()
                if not part:
                    return
                yield part
        except TimeoutError:
            self.closes = True
            raise BadRequest(f"the body did not go on for {silence_s:g} s") from None
        except _BROKEN_BODY:
            self.closes = True
            raise BadRequest("the body breaks off or is not encoded as its headers say") from None

    def _check_encoding(self) -> None:
        encoding = self.request.headers.get("Content-Encoding")
        if encoding is not None and encoding.strip().lower() != "identity":
            self.closes = True
            raise UnsupportedMediaType("a request's body must not have a Content-Encoding; send it as it is")

    async def _say_continue(self) -> None:
        expected = self.request.headers.get("Expect")
        if expected is None:
            return
        if expected.strip().lower() != "100-continue":
            self.closes = True
            raise BadRequest("the only possible value of Expect is 100-continue")
        if not self.request.content.is_eof() and not self.request.content.total_bytes:
            await self.request.writer.write(CONTINUE)

    # --- the answer ----------------------------------------------------------------------------------------------

    def reply(self, status: int, lines: str = "", body: bytes = b"", content_type: str = "") -> Reply:
        """Return an answer; ``lines`` are further header lines, each with its line end."""
        length = "" if status in (204, 304) else f"Content-Length: {len(body)}\r\n"
        type_line = f"Content-Type: {content_type}\r\n" if content_type else ""
        head = self.head(status, f"{type_line}{length}{lines}")
        return Reply(status, head, body, closes=self.closes, outgoing=self.edge.outgoing)

    def head(self, status: int, lines: str) -> str:
        """Return the head of an answer, without the empty line that ends it."""
        edge = self.edge
        return f"{STATUS_LINES[status]}{lines}Ringkeep-Request-Id: {self.id}\r\n{edge.lines}{edge.clock.date()}"

    def json(self, value: Any, status: int = 200, lines: str = "") -> Reply:
        """Return an answer in JSON that nobody may keep."""
        return self.reply(status, f"{lines}Cache-Control: no-store\r\n", msgspec.json.encode(value), JSON_TYPE)

    def problem(self, error: RingkeepError) -> Reply:
        """Return the problem document of an error, with the headers that belong to it."""
        error = shown(error)
        self.edge.problems[error.code] += 1
        lines = headers_of(error)
        if isinstance(error, MethodRefused):
            lines += f"Allow: {error.allow}\r\n"
        if self.target.user:
            where = self.edge.service.where(self.target.user)
            if where is not None:
                lines += f"Ringkeep-Shard: {where[0]}\r\nRingkeep-Epoch: {where[1]}\r\n"
        return self.reply(
            status_of(error), f"{lines}Cache-Control: no-store\r\n", problem_of(error, self.id), PROBLEM_TYPE
        )


Handler = Callable[[Exchange], Any]
"""A coroutine function from an exchange to its reply."""
