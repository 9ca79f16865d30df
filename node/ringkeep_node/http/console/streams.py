"""``GET /v1/console/events``: what the console shows, as server-sent events.

    full    everything; the first event, and whenever the reader is too far behind
    news    what changed since the event before, at most twice a second
    beat    nothing changed for a while: the line and the node live
    bye     this node stops

A reader goes on after a break with the id of its last event, in ``Last-Event-ID`` or ``?after=``. There is room for so
many streams and no more; one whose reader does not read keeps nothing but its place, and not for long.
"""

from __future__ import annotations

import asyncio
from typing import Final

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter

from ringkeep_node.http.console.feed import Feed
from ringkeep_node.http.exchange import Exchange, Handler
from ringkeep_node.http.routing import parameters

BEAT_S: Final = 5.0
STUCK_S: Final = 30.0
"""A reader that takes nothing for so long is given up; it comes back by itself if it lives."""
RETRY: Final = b"retry: 2000\n\n"
BEAT: Final = b"event: beat\ndata: {}\n\n"
BYE: Final = b"event: bye\ndata: {}\n\n"
LINES: Final = (
    "Content-Type: text/event-stream\r\nCache-Control: no-store\r\nX-Accel-Buffering: no\r\nConnection: close\r\n"
)


class EventStream(web.StreamResponse):
    """An answer that goes on: its head is written, then events until the reader or the node has had enough.

    It has no length: its end is the end of the connection.
    """

    __slots__ = ("_after", "_feed", "_head", "_request", "_writer")

    def __init__(self, head: str, feed: Feed, after: int | None) -> None:
        # The base class would make headers that this answer does not use.
        self._head = head.encode("latin-1")
        self._feed = feed
        self._after = after

    @property
    def status(self) -> int:
        """The status code."""
        return 200

    @property
    def keep_alive(self) -> bool | None:
        """No: whoever reads to the end must find one."""
        return False

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter:
        """Write the head; called once by aiohttp."""
        self._request, self._writer = request, request.writer
        await self._writer.write(self._head + b"\r\n" + RETRY)
        return self._writer

    async def write_eof(self, data: bytes = b"") -> None:
        """Write events until the end; called once by aiohttp, after the head."""
        feed, number, failures = self._feed, self._after, self._feed.failures
        if feed.streams >= feed.streams_max:
            return  # Others came first while the head was written.
        with feed.watched():
            while not feed.ended and feed.failures == failures and self._is_open():
                told, number = feed.since(number), feed.number
                if not await self._written(told or BEAT):
                    return
                await feed.wait(number, timeout_s=BEAT_S)
            if feed.ended and self._is_open():
                await self._written(BYE)

    def _is_open(self) -> bool:
        transport = self._request.transport
        return transport is not None and not transport.is_closing()

    async def _written(self, data: bytes) -> bool:
        """Write, and wait for a reader that is behind. Return whether there is any use in going on."""
        transport = self._request.transport
        try:
            async with asyncio.timeout(STUCK_S):
                await self._writer.write(data)
                await self._writer.drain()
        except ConnectionError:
            return False
        except TimeoutError:
            if transport is not None:
                transport.abort()
            return False
        return True


def events_of(feed: Feed) -> Handler:
    """Return the handler of ``GET /v1/console/events``."""

    async def events(exchange: Exchange) -> web.StreamResponse:
        asked = parameters(exchange.target.query, ("after",))
        after = exchange.request.headers.get("Last-Event-ID") or asked.get("after", "")
        feed.check_room()
        exchange.closes = True
        return EventStream(exchange.head(200, LINES), feed, feed.number_of(after))

    return events
