"""What all answers to Consul's clients have in common: headers, refusals, and answers that are encoded once.

The index (py-consul fails without), a number for LastContact (the Go client fails without), KnownLeader, and the consistency
that an answer really has. A refusal is one plain sentence, as those clients print it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Final

import msgspec

from ringkeep_core.errors import Internal, RingkeepError, Unauthorized
from ringkeep_node.http.consul_queries import EFFECTIVE_CONSISTENCY, Query, query_of
from ringkeep_node.http.consul_waiting import ConsulSettings, Waiting
from ringkeep_node.http.exchange import Exchange, Handler
from ringkeep_node.http.problems import headers_of, shown, status_of
from ringkeep_node.http.replies import JSON_TYPE, Reply
from ringkeep_node.runtime.reports import Driving
from ringkeep_node.runtime.services import Services

TEXT_TYPE: Final = "text/plain; charset=utf-8"
FORBIDDEN: Final = 403
"""What Consul says to a wrong token; clients take 401 for "there are no tokens here"."""
KEPT_BYTES_MAX: Final = 16 << 20
"""Of encoded answers, which a thousand clients may ask for at the same time, with what names them."""
KEPT_MAX: Final = 1024
ENTRY_BYTES: Final = 200
"""About what keeping an answer takes beside its bytes and its name."""


class Encoded:
    """Answers as JSON, each made once for an index of its topic.

    Whoever asks chooses the names and filters, so what is kept for them is counted and bounded like the answers.
    """

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[object, ...], tuple[int, bytes, int]] = OrderedDict()
        self.kept_bytes = 0

    def __len__(self) -> int:
        return len(self._kept)

    def of(self, key: tuple[object, ...], index: int, rows: Callable[[], Any], *, is_kept: bool = True) -> bytes:
        """Return the answer ``key`` at ``index``; ``rows`` makes it if it is not there yet.

        ``is_kept`` False: nobody else will ask for it, as for a name that anybody may have made up.
        """
        kept = self._kept.get(key)
        if kept is not None and kept[0] == index:
            self._kept.move_to_end(key)
            return kept[1]
        body = msgspec.json.encode(rows())
        if kept is not None:
            self.kept_bytes -= self._kept.pop(key)[2]
        if is_kept:
            # As ASCII a text is never shorter than in memory.
            size = len(body) + len(ascii(key)) + ENTRY_BYTES
            self._kept[key] = (index, body, size)
            self.kept_bytes += size
        while self.kept_bytes > KEPT_BYTES_MAX or len(self._kept) > KEPT_MAX:
            _, (_, _, dropped) = self._kept.popitem(last=False)
            self.kept_bytes -= dropped
        return body


class Consul:
    """What the handlers of all these paths share."""

    def __init__(
        self,
        services: Services,
        driver: Driving,
        settings: ConsulSettings,
        *,
        clock: Callable[[], float],
        draw: Callable[[], float],
    ) -> None:
        self.services = services
        self.driver = driver
        self.datacenter = settings.datacenter
        self.waiting = Waiting(services, settings, clock, draw)
        self.encoded = Encoded()

    def query(self, exchange: Exchange) -> Query:
        """Return what a request's query asks for. Raises ``BadRequest``."""
        return query_of(exchange.target.query, datacenter=self.datacenter)

    def reply(self, exchange: Exchange, query: Query, body: bytes, lines: str) -> Reply:
        """Return a read's answer with the headers that every one of them has."""
        leads = "true" if self.driver.leader() is not None else "false"
        cached = "X-Cache: HIT\r\nAge: 0\r\n" if query.is_cached else ""
        return exchange.reply(
            200,
            f"{lines}X-Consul-KnownLeader: {leads}\r\nX-Consul-LastContact: 0\r\n"
            f"X-Consul-Effective-Consistency: {EFFECTIVE_CONSISTENCY}\r\n{cached}Cache-Control: no-store\r\n",
            body,
            JSON_TYPE,
        )


def plain(handler: Handler) -> Handler:
    """Return a handler whose refusals are plain text, as Consul's are."""

    async def answered(exchange: Exchange) -> Reply:
        try:
            reply: Reply = await handler(exchange)
        except Internal:
            raise
        except RingkeepError as error:
            told = shown(error)
            status = FORBIDDEN if isinstance(told, Unauthorized) else status_of(told)
            lines = f"{headers_of(told)}Cache-Control: no-store\r\n"
            return exchange.reply(status, lines, f"{told.detail}\n".encode(errors="replace"), TEXT_TYPE)
        return reply

    return answered
