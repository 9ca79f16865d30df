"""The transport of DNS on loopback: both protocols at one port, limits, and what a connection may do."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Sequence

import dns.flags
import dns.message
import dns.rcode
import pytest

from ringkeep_core.errors import BadSetting, NoPrimary, PortInUse
from ringkeep_node.dns.answers import Place
from ringkeep_node.dns.server import DnsServer, DnsSettings, Resolving, zones_of
from ringkeep_testing.fake_names import FakeNames, in_order

HOST = "127.0.0.1"
MANY = [Place("n1", f"10.1.0.{number}", 80) for number in range(1, 200)]
NAMES = FakeNames({("web", None): MANY, ("few", None): MANY[:2]})
ANSWER_S = 10.0

Test = Callable[["Under"], Awaitable[None]]


class Under:
    """A server on a free port, with a clock that stands still."""

    def __init__(self, settings: DnsSettings) -> None:
        self.server = DnsServer(NAMES, settings, clock=lambda: 0.0, draw=in_order)
        self.port = 0

    async def over_udp(self, data: bytes) -> bytes:
        """Send a datagram and return the next one that comes back."""
        loop = asyncio.get_running_loop()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.setblocking(False)
            client.connect((HOST, self.port))
            await loop.sock_sendall(client, data)
            async with asyncio.timeout(ANSWER_S):
                return await loop.sock_recv(client, 65_535)

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Open a connection."""
        return await asyncio.open_connection(HOST, self.port)


def serve(test: Test, settings: DnsSettings | None = None) -> None:
    """Run a test against a server."""

    async def whole() -> None:
        under = Under(settings or DnsSettings())
        under.port = await under.server.start(HOST, 0)
        try:
            await test(under)
        finally:
            under.server.stop()
            await asyncio.sleep(0)

    asyncio.run(whole())


def query(name: str = "few.service.consul", kind: str = "A") -> bytes:
    """Return a question."""
    return dns.message.make_query(name, kind, use_edns=False).to_wire()


def framed(data: bytes) -> bytes:
    """Return a message as it goes over TCP."""
    return len(data).to_bytes(2, "big") + data


async def read(reader: asyncio.StreamReader) -> bytes:
    """Return the next message of a connection; b"" when it has ended."""
    async with asyncio.timeout(ANSWER_S):
        try:
            return await reader.readexactly(int.from_bytes(await reader.readexactly(2), "big"))
        except (asyncio.IncompleteReadError, ConnectionError):
            return b""


def records(data: bytes) -> int:
    """Return how many answers a message has."""
    return sum(len(rrset) for rrset in dns.message.from_wire(data).answer)


def test_both_protocols_answer_at_one_port_and_the_second_has_what_was_cut_from_the_first() -> None:
    async def test(under: Under) -> None:
        cut = await under.over_udp(query("web.service.consul"))
        reader, writer = await under.connect()
        writer.write(framed(query("web.service.consul")))
        whole = await read(reader)
        writer.close()

        assert dns.message.from_wire(cut).flags & dns.flags.TC
        assert len(cut) <= 512 and 0 < records(cut) < 199
        assert records(whole) == 199

    serve(test)


def test_several_questions_on_one_connection_are_answered_in_their_order_however_they_are_split() -> None:
    async def test(under: Under) -> None:
        reader, writer = await under.connect()
        questions = [query(), query("web.service.consul"), query("none.service.consul")]
        data = b"".join(map(framed, questions))
        for place in range(0, len(data), 7):
            writer.write(data[place : place + 7])
            await writer.drain()
            await asyncio.sleep(0)
        answers = [await read(reader) for _ in questions]
        writer.close()

        assert [answer[:2] for answer in answers] == [question[:2] for question in questions]
        assert [records(answer) for answer in answers] == [2, 199, 0]

    serve(test)


def test_garbage_over_udp_gets_nothing_and_the_next_question_is_answered() -> None:
    async def test(under: Under) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            for data in (b"", b"x", b"\xff" * 1000, query()[:15], b"\0" * 12):
                client.sendto(data, (HOST, under.port))

        assert records(await under.over_udp(query())) == 2

    serve(test)


@pytest.mark.parametrize("data", [b"\xff\xff" + b"x" * 100, framed(b"short"), framed(b"\0" * 2 + b"\x80" + b"\0" * 9)])
def test_a_connection_that_brings_no_question_is_ended(data: bytes) -> None:
    async def test(under: Under) -> None:
        reader, writer = await under.connect()
        writer.write(data)

        assert await read(reader) == b""
        writer.close()

    serve(test)


def test_a_silent_connection_is_ended() -> None:
    async def test(under: Under) -> None:
        reader, writer = await under.connect()

        assert await read(reader) == b""
        writer.close()

    serve(test, DnsSettings(connection_s=0.01))


def test_no_more_connections_are_taken_than_there_may_be() -> None:
    async def test(under: Under) -> None:
        first, writer = await under.connect()
        writer.write(framed(query()))
        assert records(await read(first)) == 2
        second, late = await under.connect()

        assert await read(second) == b""
        late.close()
        writer.close()

    serve(test, DnsSettings(connections_max=1))


def test_beyond_its_rate_a_network_is_told_to_use_tcp_and_is_answered_there_until_it_asks_too_much_of_that() -> None:
    async def test(under: Under) -> None:
        first, curt = await under.over_udp(query()), await under.over_udp(query())
        reader, writer = await under.connect()
        writer.write(framed(query()) + framed(query()))
        followed, cut_off = await read(reader), await read(reader)
        writer.close()

        assert (records(first), records(curt), records(followed), cut_off) == (2, 0, 2, b"")
        assert dns.message.from_wire(curt).flags & dns.flags.TC
        assert under.server.counts() == {"answered": 2, "truncated": 1, "dropped": 1}

    serve(test, DnsSettings(answers_per_s=0.001, answers_burst=1))


def test_datagrams_that_are_forged_in_the_name_of_many_networks_take_nothing_from_tcp() -> None:
    resolving = Resolving(NAMES, DnsSettings(answers_per_s=1, answers_burst=2), lambda: 0.0, in_order)
    for number in range(100):
        resolving.reply(query(), f"10.0.{number}.1", over_udp=True)
    replies = [resolving.reply(query(), "10.0.0.1", over_udp=False) for _ in range(3)]

    assert [reply and records(reply) for reply in replies] == [2, 2, None]


def test_long_answers_over_tcp_are_counted_there_and_not_over_udp() -> None:
    resolving = Resolving(NAMES, DnsSettings(answers_per_s=1, answers_burst=2), lambda: 0.0, in_order)
    whole = resolving.reply(query("web.service.consul"), HOST, over_udp=False)
    beyond = resolving.reply(query(), HOST, over_udp=False)
    datagram = resolving.reply(query(), HOST, over_udp=True)

    assert (whole and records(whole), beyond, datagram and records(datagram)) == (199, None, 2)


def test_a_node_without_a_cluster_answers_that_it_fails() -> None:
    class Nameless(FakeNames):
        def service(self, name: str, tag: str | None) -> Sequence[Place]:
            raise NoPrimary("this node belongs to no cluster yet")

    resolving = Resolving(Nameless(), DnsSettings(), lambda: 0.0, in_order)
    reply = resolving.reply(query(), HOST, over_udp=True)

    assert reply is not None
    assert dns.message.from_wire(reply).rcode() == dns.rcode.SERVFAIL


def test_an_address_that_is_taken_is_refused_with_the_name_of_the_setting() -> None:
    async def test(under: Under) -> None:
        other = Under(DnsSettings())

        with pytest.raises(PortInUse, match="RINGKEEP_DNS"):
            await other.server.start(HOST, under.port)

    serve(test)


@pytest.mark.parametrize("domains", ["", " , ", "a..b", "x" * 64, ",".join("abcdefghi")])
def test_domains_that_are_none_are_refused(domains: str) -> None:
    with pytest.raises((BadSetting, ValueError)):
        zones_of(DnsSettings(domains=domains))


def test_the_longest_domain_that_fits_is_the_zone_of_a_name() -> None:
    zones = zones_of(DnsSettings(domains="consul, DC.consul."))

    assert [name.to_text() for name in zones.zones] == ["dc.consul.", "consul."]


@pytest.mark.parametrize(
    "made",
    [
        lambda: DnsSettings(udp_bytes_max=511),
        lambda: DnsSettings(udp_bytes_max=4097),
        lambda: DnsSettings(answers_per_s=0),
        lambda: DnsSettings(answers_burst=0),
        lambda: DnsSettings(ttl_s=86_401),
    ],
)
def test_settings_that_make_no_sense_are_refused(made: Callable[[], DnsSettings]) -> None:
    with pytest.raises(ValueError):
        made()
