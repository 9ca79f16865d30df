"""Blocking queries: an answer that is held back until it is another one.

    index given is the present one --wait for the topic--> the index moved --is the answer another one?--> yes: answer
                |                             ^                                     | no: nothing was seen by this client
                | any other: answer at once   +-------------------------------------+

A query that waits costs one future and one timer. It is woken by its own service only, ends with its client's connection
and when this node stops, and there is a limit for each client's address and one for all: a client that opens one after the
other must not use up what everybody has.

When a topic changes, the answers of all who wait for it are written first, one after the other, and only then do their
handlers go on: of a thousand the last is answered after 1,000 writes, not after 1,000 requests have been finished. Where
that takes long, because each filter makes another answer, the rest is left for later turns of the loop, a little in each:
who waits must not keep the node from hearing others.
"""

from __future__ import annotations

import asyncio
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
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
STEP_S: Final = 0.005
"""So long a step of the node may be held up by those who wait for what it changed."""
TURN_S: Final = 0.001
"""The same for each turn of the loop after that, until all were looked at."""


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

    __slots__ = ("_send", "answer", "before", "index", "is_over", "seen", "sent")

    def __init__(self, answer: Callable[[], bytes], send: Callable[[bytes], Reply | None]) -> None:
        self.answer, self._send = answer, send
        self.before = answer()
        self.seen: bytes | None = self.before
        """The answer when it was looked at last, None if there was none."""
        self.index = 0
        """That of its topic then."""
        self.sent: Reply | None = None
        self.is_over = False
        """Its handler answers, or has: nothing may be written any more."""

    def look(self, index: Callable[[], int]) -> None:
        """Write the answer if it is another one now."""
        if self.is_over or self.sent is not None:
            return
        try:
            self.index, self.seen = index(), self.answer()
            if self.seen != self.before:
                self.sent = self._send(self.seen)
        except Exception:  # whatever it is, the handler meets it as well, and is the one who can tell it
            self.seen = None


class _Round:
    """The queries of one topic that are still to be looked at because it changed; it ends whatever changes meanwhile."""

    __slots__ = ("due", "ended", "is_stale")

    def __init__(self, due: Iterable[Held]) -> None:
        self.due = deque(due)
        self.ended = asyncio.Event()
        self.is_stale = False
        """The topic has changed again: another round follows."""


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
        self._rounds: dict[str, _Round] = {}
        self._looking: asyncio.Task[None] | None = None
        self._in_turn = asyncio.Lock()
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
            held.index = services.index(topic)
            while held.seen == held.before and held.sent is None and not (hung_up.done() or services.is_released):
                left_s = deadline - self._clock()
                if left_s <= 0:
                    break
                index = held.index
                moved = await services.wait(topic, index, timeout_s=left_s, hung_up=hung_up)
                if moved == index:
                    break
                await self._until_looked_at(topic, index, held)
            return held.answer() if held.seen is None else held.seen

    async def _until_looked_at(self, topic: str, index: int, held: Held) -> None:
        """Return when a query was looked at since its topic had this index: not here if others are to be looked at too.

        All handlers that a change wakes go on in one turn of the loop, so each may only take what was made before.
        """
        if topic == ANY_TOPIC:
            await asyncio.sleep(GATHER_S)
            async with self._in_turn:
                held.look(partial(self._services.index, topic))
                await asyncio.sleep(0)
            return
        running = self._rounds.get(topic)
        if running is not None:
            await running.ended.wait()
        elif held.index == index:  # The change is so new that no step has told it yet.
            held.look(partial(self._services.index, topic))

    # --- looking at those that wait ------------------------------------------------------------------------------

    def _changed(self, topics: set[str]) -> None:
        for topic in topics - {ANY_TOPIC}:
            self._begin(topic)
        if self._rounds and self._looking is None:
            self._look(STEP_S)
            if self._rounds:
                self._looking = asyncio.get_running_loop().create_task(self._look_on())

    def _begin(self, topic: str) -> None:
        running = self._rounds.get(topic)
        if running is not None:
            running.is_stale = True
        elif topic in self._held:
            self._rounds[topic] = _Round(self._held[topic])

    async def _look_on(self) -> None:
        try:
            while self._rounds:
                await asyncio.sleep(0)
                self._look(TURN_S)
        finally:
            self._looking = None

    def _look(self, seconds: float) -> None:
        """Look at queries for so long, one of each topic in turn: no topic waits for all of another one."""
        end = self._clock() + seconds
        while self._rounds and self._clock() < end:
            topic = next(iter(self._rounds))
            running = self._rounds.pop(topic)
            running.due.popleft().look(partial(self._services.index, topic))
            if running.due:
                self._rounds[topic] = running
                continue
            running.ended.set()
            if running.is_stale:
                self._begin(topic)

    @contextmanager
    def _looked_at(self, topic: str, held: Held) -> Iterator[None]:
        of_topic = self._held.setdefault(topic, {})
        of_topic[held] = None
        try:
            yield
        finally:
            held.is_over = True
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
