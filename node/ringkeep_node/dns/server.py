"""DNS over UDP and TCP at one address: a thin transport. It answers in the callback that brought the question.

    datagram --AnswerRate--> dropped, or --wire.reply_to--> sent, unless the socket is behind
    TCP: two bytes of length, then a message, one after the other; a silent or greedy connection is ended

Everything is bounded: connections, questions on one of them, bytes of a question, and what a network gets (``limits``).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, cast

import dns.exception
import dns.name
from dns.rcode import SERVFAIL
from msgspec import Struct

from ringkeep_core.errors import BadSetting, RingkeepError
from ringkeep_node.dns.answers import Answer, Draw, Names, Question, Zones, answer
from ringkeep_node.dns.limits import AnswerRate, Verdict
from ringkeep_node.dns.wire import PLAIN_BYTES_MAX, UDP_BYTES_MAX, reply_to
from ringkeep_node.runtime.listening import listen, open_datagrams

SETTING: Final = "RINGKEEP_DNS"
QUESTION_BYTES_MAX: Final = 4096
"""Of a question over TCP: a name and a few options need a tenth of it."""
LENGTH_BYTES: Final = 2
ZONES_MAX: Final = 8
BYTES_OF_ONE: Final = 256
"""A longer answer counts for as many as it has of these."""


class DnsSettings(Struct, frozen=True):
    """Settings of DNS; it is off unless RINGKEEP_DNS says where to listen.

    ``domains``: the zones, separated by commas. ``ttl_s``, ``negative_ttl_s``: how long an answer, and the answer that there
    is nothing, may be kept. ``udp_bytes_max``: of a datagram, 512..4096. ``answers_per_s``, ``answers_burst``: for each
    network of clients, over UDP, and as much again over TCP. ``connections_max``, ``connection_s``: TCP connections, and
    how long one may be silent.
    """

    domains: str = "ringkeep,consul"
    ttl_s: int = 0
    negative_ttl_s: int = 1
    udp_bytes_max: int = UDP_BYTES_MAX
    answers_per_s: float = 500.0
    answers_burst: float = 1000.0
    connections_max: int = 128
    connection_s: float = 10.0

    def __post_init__(self) -> None:
        """Check what depends on more than a type; raise ``ValueError``."""
        if not PLAIN_BYTES_MAX <= self.udp_bytes_max <= 4096:
            raise ValueError(f"udp_bytes_max is {PLAIN_BYTES_MAX}..4096, not {self.udp_bytes_max}")
        if self.answers_per_s <= 0 or self.answers_burst < 1:
            raise ValueError("answers_per_s is above 0 and answers_burst at least 1")
        if max(self.ttl_s, self.negative_ttl_s) > 86_400:
            raise ValueError("ttl_s and negative_ttl_s are at most 86400")
        zones_of(self)


def zones_of(settings: DnsSettings) -> Zones:
    """Return the zones that the settings name. Raises ``BadSetting``."""
    texts = [text.strip().strip(".").lower() for text in settings.domains.split(",")]
    texts = [text for text in texts if text]
    if not 1 <= len(texts) <= ZONES_MAX:
        raise BadSetting(f"RINGKEEP_DNS_DOMAINS names 1..{ZONES_MAX} domains, not {len(texts)}")
    try:
        names = [dns.name.from_text(text) for text in texts]
    except (dns.exception.DNSException, UnicodeError) as error:
        raise BadSetting(f"RINGKEEP_DNS_DOMAINS has what is no domain: {error}") from error
    longest_first = sorted(names, key=lambda name: -len(name.labels))
    return Zones(tuple(longest_first), settings.ttl_s, settings.negative_ttl_s)


class Resolving:
    """What datagrams and connections share: the names, the limits, the counts. ``clock`` is in seconds."""

    def __init__(self, names: Names, settings: DnsSettings, clock: Callable[[], float], draw: Draw) -> None:
        self.settings = settings
        # What forged datagrams use up must not be missing over TCP, which is where their victim is told to come.
        self._over_udp = AnswerRate(per_s=settings.answers_per_s, burst=settings.answers_burst)
        self._over_tcp = AnswerRate(per_s=settings.answers_per_s, burst=settings.answers_burst)
        self.clock = clock
        self.answered = 0
        self.curt = 0
        self.dropped = 0
        self._names, self._zones, self._draw = names, zones_of(settings), draw

    def reply(self, data: bytes, client: str, *, over_udp: bool) -> bytes | None:
        """Return what is sent back for ``data`` from ``client``, or None for nothing."""
        rate = self._over_udp if over_udp else self._over_tcp
        verdict = rate.judge(client, now=self.clock())
        if verdict is Verdict.DROP or (verdict is Verdict.TRUNCATE and not over_udp):
            self.dropped += 1
            return None
        is_curt = verdict is Verdict.TRUNCATE
        self.curt += is_curt
        self.answered += not is_curt
        reply = reply_to(
            data, self._answer, over_udp=over_udp, udp_bytes_max=self.settings.udp_bytes_max, is_curt=is_curt
        )
        if reply is not None and len(reply) > BYTES_OF_ONE:
            rate.charge(client, len(reply) / BYTES_OF_ONE - 1)
        return reply

    def _answer(self, question: Question) -> Answer:
        try:
            return answer(question, self._zones, self._names, self._draw)
        except RingkeepError:  # It belongs to no cluster yet, or has just started: others know better.
            return Answer(SERVFAIL, is_ours=False)


class Datagrams(asyncio.DatagramProtocol):
    """Questions over UDP."""

    def __init__(self, resolving: Resolving) -> None:
        self._resolving = resolving
        self._transport: asyncio.DatagramTransport | None = None
        self._is_behind = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep what answers are sent with."""
        self._transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        """Answer one question."""
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        if self._is_behind:
            self._resolving.dropped += 1
            return
        reply = self._resolving.reply(data, addr[0], over_udp=True)
        if reply is not None:
            transport.sendto(reply, addr)

    def pause_writing(self) -> None:
        """Drop answers while the socket does not take them."""
        self._is_behind = True

    def resume_writing(self) -> None:
        """Go on."""
        self._is_behind = False

    def error_received(self, exc: Exception) -> None:
        """Say nothing: a client that has gone is not our concern."""


class Connection(asyncio.Protocol):
    """Questions over one TCP connection, answered in their order."""

    def __init__(self, resolving: Resolving, open_ones: set[Connection]) -> None:
        self._resolving = resolving
        self._open = open_ones
        self._buffer = bytearray()
        self._transport: asyncio.Transport | None = None
        self._client = ""
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the connection in, unless there are as many as there may be."""
        self._transport = cast(asyncio.Transport, transport)
        if len(self._open) >= self._resolving.settings.connections_max:
            self._resolving.dropped += 1
            self._transport.abort()
            return
        self._open.add(self)
        peer = transport.get_extra_info("peername")
        self._client = str(peer[0]) if peer else ""
        self._rearm()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget it."""
        self._open.discard(self)
        self._transport = None
        if self._timer is not None:
            self._timer.cancel()

    def data_received(self, data: bytes) -> None:
        """Answer every whole question."""
        self._buffer += data
        while self._transport is not None and len(self._buffer) >= LENGTH_BYTES:
            size = int.from_bytes(self._buffer[:LENGTH_BYTES], "big")
            if size > QUESTION_BYTES_MAX:
                self._transport.abort()
                return
            if len(self._buffer) < LENGTH_BYTES + size:
                return
            question = bytes(self._buffer[LENGTH_BYTES : LENGTH_BYTES + size])
            del self._buffer[: LENGTH_BYTES + size]
            self._rearm()
            reply = self._resolving.reply(question, self._client, over_udp=False)
            if reply is None:
                self._transport.abort()
                return
            self._transport.write(len(reply).to_bytes(LENGTH_BYTES, "big") + reply)

    def pause_writing(self) -> None:
        """Read no more questions while nobody takes the answers."""
        if self._transport is not None:
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        """Go on."""
        if self._transport is not None:
            self._transport.resume_reading()

    def close(self) -> None:
        """End the connection."""
        if self._transport is not None:
            self._transport.abort()

    def _rearm(self) -> None:
        """Give the next question its time; one that comes in byte after byte has no more."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(self._resolving.settings.connection_s, self.close)


class DnsServer:
    """Both transports at one address."""

    def __init__(self, names: Names, settings: DnsSettings, *, clock: Callable[[], float], draw: Draw) -> None:
        self.resolving = Resolving(names, settings, clock, draw)
        self._connections: set[Connection] = set()
        self._tcp: asyncio.Server | None = None
        self._udp: asyncio.DatagramTransport | None = None

    async def start(self, host: str, port: int) -> int:
        """Take the address for both and begin to answer; return the port. Raises ``PortInUse``, ``StartRefused``."""
        self._tcp, bound = await listen(lambda: Connection(self.resolving, self._connections), host, port, SETTING)
        try:
            self._udp, _ = await open_datagrams(lambda: Datagrams(self.resolving), host, bound, SETTING)
        except BaseException:
            self._tcp.close()
            raise
        await self._tcp.start_serving()
        return bound

    def counts(self) -> dict[str, int]:
        """Return what became of the questions so far, for the metrics."""
        resolving = self.resolving
        return {"answered": resolving.answered, "truncated": resolving.curt, "dropped": resolving.dropped}

    def stop(self) -> None:
        """Answer nobody any more."""
        if self._tcp is not None:
            self._tcp.close()
        if self._udp is not None:
            self._udp.close()
        for connection in tuple(self._connections):
            connection.close()
