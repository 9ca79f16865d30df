"""The HTTP server of a node: one handler for every request, on aiohttp's low-level server.

    bytes --aiohttp's parser--> request --split the raw target--> documents, cluster, health ... --> Reply
                 |                                    |
                 +-- cannot be parsed ----------------+-- RingkeepError --> problem document

There is no router, no middleware and no access log: a document costs a few function calls. Whatever goes wrong becomes a
problem document with a stable code; a failure nobody expected is ``internal``, is logged, and ends only its own request.
A handler is never cancelled because its client hung up: a change that was begun runs to its end.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from aiohttp import web
from aiohttp.http_exceptions import LineTooLong
from msgspec import Struct

from ringkeep_core.errors import BadRequest, HeadersTooLarge, Internal, RingkeepError, Unauthorized
from ringkeep_core.ids import HEADERS_BYTES_MAX
from ringkeep_node.http import administration, cluster, documents, health, openapi, services
from ringkeep_node.http.console import assets
from ringkeep_node.http.console.feed import STREAMS_MAX, Feed
from ringkeep_node.http.console.figures import rates_of
from ringkeep_node.http.console.streams import events_of
from ringkeep_node.http.exchange import READING_BYTES_MAX, Edge, Exchange, Handler
from ringkeep_node.http.imports import import_with
from ringkeep_node.http.replies import Reply
from ringkeep_node.http.routing import KNOWN_METHODS, check_method, split_target
from ringkeep_node.metrics import Requests
from ringkeep_node.runtime.importing import Importer
from ringkeep_node.runtime.listening import listen
from ringkeep_node.runtime.trails import Trails

HEADERS_MAX: Final = 512
"""Fields; the limit in bytes is met long before unless they are nearly empty."""
FIELD_BYTES: Final = 4
"""Colon, space and line end of a header field."""
READ_BYTES: Final = 1 << 16
"""A connection buffers at most twice as much."""

OnFailure = Callable[[str, BaseException], None]
"""Called with the request id and an exception that nobody expected."""


class ServerSettings(Struct, frozen=True):
    """Bounds of the server. ``keep_alive_s`` also ends connections that never bring a whole request.

    ``reading_bytes_max``: bodies that are on their way, all together. ``console_streams_max``: pages of the console that
    look at this node at a time.
    """

    keep_alive_s: float = 75.0
    connections_max: int = 4096
    reading_bytes_max: int = READING_BYTES_MAX
    shutdown_s: float = 5.0
    console_streams_max: int = STREAMS_MAX


def handlers_of(
    importer: Importer, page: Callable[[], bytes], requests: Requests, feed: Feed
) -> Mapping[tuple[str, str], Handler]:
    """Return who answers which method of which route."""
    reading: dict[str, Handler] = {
        "document": documents.get,
        "documents": documents.listing,
        "route": documents.route,
        "root": assets.page,
        "asset": assets.asset,
        "livez": health.livez,
        "readyz": health.readyz,
        "metrics": health.metrics_of(page),
        "openapi": openapi.description,
        "cluster": cluster.cluster,
        "members": cluster.members,
        "map": cluster.shard_map,
        "leader": cluster.leader,
        "summary": cluster.summary,
        "plan": administration.plan,
        "events": cluster.events,
        "wanted": administration.wanted,
        "services": services.listing,
        "service": services.of_service,
        "instance": services.instance,
        "service_watch": services.watch,
        "sd_prometheus": services.for_prometheus,
        "rates": rates_of(requests),
    }
    return {
        **{(route, method): handler for route, handler in reading.items() for method in ("GET", "HEAD")},
        ("console_events", "GET"): events_of(feed),
        ("document", "PUT"): documents.put,
        ("document", "DELETE"): documents.delete,
        ("import", "POST"): import_with(importer),
        ("bootstrap", "POST"): cluster.bootstrap,
        ("wanted", "PUT"): administration.set_wanted,
        ("plan", "POST"): administration.what_if,
        ("drain", "POST"): administration.drain,
        ("drain", "DELETE"): administration.drain,
        ("leave", "POST"): administration.leave,
        ("transfer_leader", "POST"): administration.transfer_leader,
        ("instance", "PUT"): services.register,
        ("instance", "DELETE"): services.deregister,
        ("renew", "PUT"): services.renew,
    }


class Api:
    """Answers requests: the handler of the low-level server."""

    def __init__(
        self,
        edge: Edge,
        importer: Importer,
        requests: Requests,
        page: Callable[[], bytes],
        on_failure: OnFailure,
        trails: Trails | None = None,
        more: Mapping[tuple[str, str], Handler] | None = None,
    ) -> None:
        self.edge = edge
        self._trails = trails
        self.feed = Feed(edge, requests, on_failure)
        self._handlers = {**handlers_of(importer, page, requests, self.feed), **(more or {})}
        self._observe = requests.observe
        # Not the loop's clock, which may count whole milliseconds.
        self._clock = time.perf_counter
        self._on_failure = on_failure

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request; every failure becomes an answer too."""
        started = self._clock()
        exchange = Exchange(self.edge, request)
        method = request.method
        label = method if method in KNOWN_METHODS else "other"
        trails, asked = self._trails, None
        try:
            size = 0
            for name, value in request.raw_headers:
                size += len(name) + len(value) + FIELD_BYTES
            if size + len(request.raw_path) > HEADERS_BYTES_MAX:
                exchange.closes = True
                raise HeadersTooLarge(f"request line and headers may have {HEADERS_BYTES_MAX} bytes together")
            meant = request.headers.get("Ringkeep-Cluster")
            if meant is not None:
                self.edge.check_cluster(meant)
            if method == "POST":
                _check_origin(request.headers)
            target = exchange.target = split_target(request.raw_path)
            if trails is not None:
                asked = trails.asked(exchange.id, label, target.route, request.headers.get("traceparent", ""))
                exchange.cause = asked.cause
            handler = self._handlers.get((target.route, method))
            if handler is None:
                check_method(target.route, method)
                raise Internal(f"nobody answers {method} of {target.route}")
            reply: web.StreamResponse = await handler(exchange)
        except RingkeepError as error:
            if error.code == Internal.code:
                self._on_failure(exchange.id, error)
            reply = exchange.problem(error)
        except Exception as error:  # the edge of the program: an unexpected failure must end one request, not more
            self._on_failure(exchange.id, error)
            reply = exchange.problem(Internal())
        self._observe(exchange.target.route, label, reply.status, self._clock() - started)
        if trails is not None and asked is not None:
            trails.answered(asked, label, exchange.target.route, reply.status)
        return reply

    def malformed(self, request: web.BaseRequest, error: BaseException | None) -> Reply:
        """Return the answer to bytes that are no request. The connection ends: where the next one begins is unknown."""
        exchange = Exchange(self.edge, request)
        exchange.closes = True
        reply = exchange.problem(_refusal_of(error))
        self._observe(exchange.target.route, "other", reply.status, 0.0)
        return reply

    def failed(self, request: web.BaseRequest, error: BaseException | None) -> Reply:
        """Return the answer after a failure outside ``handle``."""
        exchange = Exchange(self.edge, request)
        exchange.closes = True
        self._on_failure(exchange.id, error or Internal())
        return exchange.problem(Internal())


def _check_origin(headers: Mapping[str, str]) -> None:
    """Refuse what a page of another site has a browser send: without a token a local cluster is open to its user only.

    Programs send no Origin; a browser asks before any method but POST, and is answered that there is none (Fetch, "CORS").
    """
    origin = headers.get("Origin")
    if origin is not None and origin.partition("://")[2] != headers.get("Host", ""):
        raise Unauthorized("a page of another site may not change anything here")


def _refusal_of(error: BaseException | None) -> RingkeepError:
    text = " ".join(str(getattr(error, "message", "") or error or "").split())
    if isinstance(error, LineTooLong) or "too many headers" in text.lower():
        return HeadersTooLarge(f"request line and headers may have {HEADERS_BYTES_MAX} bytes together")
    reason = "".join(character for character in text.partition(":")[0] if character.isprintable())[:200]
    return BadRequest(f"this is not an HTTP/1.1 request that can be understood: {reason or 'it has no valid form'}")


class Connection(web.RequestHandler):
    """aiohttp's connection, with our answers to what it cannot parse and without its logging."""

    __slots__ = ("_api", "_lost")

    def __init__(self, manager: web.Server, api: Api, **options: Any) -> None:
        super().__init__(manager, **options)
        self._api = api
        self._lost: asyncio.Future[None] | None = None

    def when_lost(self) -> asyncio.Future[None]:
        """Return a future that is done when the connection is lost."""
        if self._lost is None:
            self._lost = asyncio.get_running_loop().create_future()
            if self.transport is None:
                self._lost.set_result(None)
        return self._lost

    def connection_lost(self, exc: BaseException | None) -> None:
        """Let whoever waits on behalf of this client know."""
        super().connection_lost(exc)
        if self._lost is not None and not self._lost.done():
            self._lost.set_result(None)

    def handle_error(
        self, request: web.BaseRequest, status: int = 500, exc: BaseException | None = None, message: str | None = None
    ) -> web.StreamResponse:
        """Return a problem document where aiohttp would make a page of its own."""
        if request.writer.output_size > 0:
            raise ConnectionError("an answer has begun; there is no way left to say that it failed")
        return self._api.malformed(request, exc) if status == 400 else self._api.failed(request, exc)

    def log_exception(self, *args: Any, **kw: Any) -> None:
        """Say nothing: failures are reported where they become answers."""


class HttpServer(web.Server):
    """The low-level server with our connections. Closing it ends idle connections and waits for running requests."""

    def __init__(self, api: Api, settings: ServerSettings) -> None:
        super().__init__(api.handle)
        self._api = api
        self._settings = settings
        api.feed.streams_max = settings.console_streams_max
        self._listening: asyncio.Server | None = None
        self.refused = 0

    def __call__(self) -> web.RequestHandler:
        """Return the protocol of a new connection."""
        return Connection(
            self,
            self._api,
            loop=asyncio.get_running_loop(),
            access_log=None,
            keepalive_timeout=self._settings.keep_alive_s,
            max_line_size=HEADERS_BYTES_MAX,
            max_field_size=HEADERS_BYTES_MAX,
            max_headers=HEADERS_MAX,
            auto_decompress=False,
            lingering_time=2.0,
            read_bufsize=READ_BYTES,
        )

    def connection_made(self, handler: web.RequestHandler, transport: asyncio.Transport) -> None:
        """Take a connection in, unless there are as many as there may be."""
        super().connection_made(handler, transport)
        if len(self._connections) > self._settings.connections_max:
            self.refused += 1
            handler.force_close()

    async def bind(self, host: str, port: int) -> int:
        """Take the address and return the port; nobody is served yet. Raises ``PortInUse``, ``StartRefused``."""
        self._listening, bound = await listen(self, host, port, "RINGKEEP_API")
        return bound

    async def serve(self) -> None:
        """Begin to answer."""
        assert self._listening is not None, "bind comes first"
        await self._listening.start_serving()

    async def stop(self) -> None:
        """Take no more connections, let running requests end (bounded), close the rest."""
        if self._listening is not None:
            self._listening.close()
        self._api.feed.end()  # Streams would otherwise be waited for until they are cut off.
        self.pre_shutdown()
        await self.shutdown(self._settings.shutdown_s)
