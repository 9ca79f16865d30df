"""Blocking queries: an answer that is held back until it is another one.

    index given is the present one --wait for the topic--> the index moved --is the answer another one?--> yes: answer
                |                             ^                                     | no: nothing was seen by this client
                | any other: answer at once   +-------------------------------------+

A query that waits costs one future and one timer. It is woken by its own service only, ends with its client's connection
and when this node stops, and there is a limit for each client's address and one for all: a client that opens one after the
other must not use up what everybody has.

When a topic changes, the answers of all who wait for it are written first, one after the other, and only then do their
handlers go on: of a thousand the last is answered after 1,000 writes, not after 1,000 requests have been finished.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from msgspec import Struct

from ringkeep_core.errors import TooManyRequests
from ringkeep_node.http.consul_queries import JITTER
from ringkeep_node.http.replies import Reply
from ringkeep_node.machines.registry_clients import network_of
from ringkeep_node.machines.registry_view import ANY_TOPIC
from ringkeep_node.runtime.services import Services

_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
GATHER_S: Final = 0.1
"""Whoever waits for any change looks at most so often: the answer is large, and is made anew each time."""


class ConsulSettings(Struct, frozen=True):
    """Settings of the Consul-compatible paths.

    ``datacenter``: the one name that clients may ask for, a DNS label. ``waiting_per_client_max``: blocking queries that
    clients with one address (IPv6: one /64) may have waiting at this node; a further one is ``too_many_requests``. How
    many may wait in all is a setting of the registry.
    """

    datacenter: str = "dc1"
    waiting_per_client_max: int = 1500

    def __post_init__(self) -> None:
        """Check what depends on more than a type; raise ``ValueError``."""
        if _LABEL.fullmatch(self.datacenter) is None:
            raise ValueError(f"datacenter is a DNS label of a-z, 0-9 and '-', not {self.datacenter[:80]!r}")
        if self.waiting_per_client_max < 1:
            raise ValueError("waiting_per_client_max is at least 1")


class Held:
    """A query that waits. ``send`` writes an answer at once and returns it; None if that is not possible now."""

    __slots__ = ("_send", "answer", "before", "sent")

    def __init__(self, answer: Callable[[], bytes], send: Callable[[bytes], Reply | None]) -> None:
        self.answer, self._send = answer, send
        self.before = answer()
        self.sent: Reply | None = None

    def look(self) -> None:
        """Write the answer if it is another one now."""
        if self.sent is not None:
            return
        try:
            body = self.answer()
            if body != self.before:
                self.sent = self._send(body)
        except Exception:  # whatever it is, the handler meets it as well, and is the one who can tell it
            self.sent = None


class Waiting:
    """The queries that wait at this node. ``clock`` is in seconds, ``draw`` gives numbers from 0 to below 1."""

    def __init__(
        self, services: Services, settings: ConsulSettings, clock: Callable[[], float], draw: Callable[[], float]
    ) -> None:
        self._services = services
        self._settings = settings
        self._clock = clock
        self._draw = draw
        self._of_client: dict[str, int] = {}
        self._held: dict[str, dict[Held, None]] = {}
        self.count = 0
        services.on_changed = self._changed

    async def until_changed(
        self, topic: str, wait_s: float, client: str, held: Held, hung_up: asyncio.Future[None]
    ) -> bytes:
        """Return the answer as soon as it is not what it was, or what it is after ``wait_s``; maybe it is written by then.

        A sixteenth of ``wait_s`` at most is added by chance. ``hung_up`` is done when nobody waits for it any more. Raises
        ``TooManyRequests``, ``Overloaded``.
        """
        services = self._services
        with self._counted(client), self._looked_at(topic, held):
            deadline = self._clock() + wait_s * (1 + JITTER * self._draw())
            index = services.index(topic)
            current = held.answer()
            while current == held.before and held.sent is None and not (hung_up.done() or services.is_released):
                left_s = deadline - self._clock()
                if left_s <= 0:
                    break
                moved = await services.wait(topic, index, timeout_s=left_s, hung_up=hung_up)
                if moved == index:
                    break
                if topic == ANY_TOPIC:
                    await asyncio.sleep(GATHER_S)
                    moved = services.index(topic)
                index = moved
                current = held.answer()
        return current

    def _changed(self, topics: set[str]) -> None:
        for topic in topics - {ANY_TOPIC}:
            for held in tuple(self._held.get(topic, ())):
                held.look()

    @contextmanager
    def _looked_at(self, topic: str, held: Held) -> Iterator[None]:
        of_topic = self._held.setdefault(topic, {})
        of_topic[held] = None
        try:
            yield
        finally:
            del of_topic[held]
            if not of_topic and self._held.get(topic) is of_topic:
                del self._held[topic]

    @contextmanager
    def _counted(self, client: str) -> Iterator[None]:
        settings, who = self._settings, network_of(client)
        own = self._of_client.get(who, 0)
        if own >= settings.waiting_per_client_max:
            raise TooManyRequests(f"{own} queries of this client wait already, which is as many as may")
        self._of_client[who] = own + 1
        self.count += 1
        try:
            yield
        finally:
            self.count -= 1
            left = self._of_client[who] - 1
            if left:
                self._of_client[who] = left
            else:
                del self._of_client[who]
