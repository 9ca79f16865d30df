"""Peer links over real loopback connections: who is let in, what arrives, and what a lost link says."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from ringkeep_core.wire import PROTOCOL_VERSION, FrameWriter, Hello, decode_hello, encode_hello
from ringkeep_node.machines.messages import Channel
from ringkeep_node.runtime.peers import UNACKNOWLEDGED_S, Link, LinkEvents, PeerLinks, greet

CLUSTER = "00000000000000aa"
LIMIT_S = 10.0


class Recorder(LinkEvents):
    """Keeps what links tell, and lets a test wait for it."""

    def __init__(self) -> None:
        self.told: list[tuple[Any, ...]] = []
        self._news = asyncio.Event()

    def _tell(self, *what: Any) -> None:
        self.told.append(what)
        self._news.set()

    def frame(self, hello: Hello, channel: Channel, body: memoryview) -> None:
        self._tell("frame", hello.name, channel, bytes(body))

    def up(self, storage: str, boot: str, channel: Channel) -> None:
        self._tell("up", storage, channel)

    def down(self, storage: str, channel: Channel, evidence: str) -> None:
        self._tell("down", storage, channel, evidence)

    def stranger(self, address: str, reason: str) -> None:
        self._tell("stranger", reason)

    async def until(self, holds: Callable[[list[tuple[Any, ...]]], bool]) -> None:
        async with asyncio.timeout(LIMIT_S):
            while not holds(self.told):
                self._news.clear()
                await self._news.wait()


def hello_of(number: int, channel: str) -> Hello:
    """The greeting of a node of this cluster that exists only on the wire."""
    return Hello(PROTOCOL_VERSION, CLUSTER, f"n{number}", f"{number:016x}", "b" * 16, 1, "u", "p", "", channel)


class Host:
    """One end: links, what they told, and where it listens."""

    def __init__(self, number: int, cluster_id: str) -> None:
        self.number, self.cluster_id = number, cluster_id
        self.storage = f"{number:016x}"
        self.address = ""
        self.events = Recorder()
        self.links = PeerLinks(self.hello, self.events, lambda: 0.5)
        self.runner: web.ServerRunner | None = None

    def hello(self, channel: str) -> Hello:
        return Hello(
            PROTOCOL_VERSION, self.cluster_id, f"n{self.number}", self.storage, "b" * 16, 1, "u", "p", "", channel
        )

    async def listen(self) -> None:
        self.runner = web.ServerRunner(web.Server(self.links.accept), shutdown_timeout=1.0)
        await self.runner.setup()
        site = web.TCPSite(self.runner, "127.0.0.1", 0)
        await site.start()
        host, port = self.runner.addresses[0][:2]
        self.address = f"{host}:{port}"

    async def close(self) -> None:
        await self.links.close()
        if self.runner is not None:
            await self.runner.cleanup()


@asynccontextmanager
async def two_hosts(second_cluster: str = CLUSTER) -> AsyncIterator[tuple[Host, Host]]:
    one, two = Host(1, CLUSTER), Host(2, second_cluster)
    await one.listen()
    await two.listen()
    try:
        yield one, two
    finally:
        await one.close()
        await two.close()


def run(test: Coroutine[Any, Any, None]) -> None:
    asyncio.run(test)


def ups(told: list[tuple[Any, ...]]) -> set[Channel]:
    return {what[2] for what in told if what[0] == "up"}


def test_a_link_comes_up_on_every_channel_and_frames_arrive_in_order() -> None:
    async def play() -> None:
        async with two_hosts() as (one, two):
            one.links.set_peers({two.storage: two.address})
            await one.events.until(lambda told: ups(told) == set(Channel))
            for number in range(50):
                one.links.send(two.storage, Channel.DATA, b"%d" % number)
            await two.events.until(lambda told: len(told) == 50)

            assert two.events.told == [("frame", "n1", Channel.DATA, b"%d" % number) for number in range(50)]

    run(play())


def test_a_node_of_another_cluster_is_refused_by_both_sides() -> None:
    async def play() -> None:
        async with two_hosts("00000000000000bb") as (one, two):
            one.links.set_peers({two.storage: two.address})
            await one.events.until(lambda told: tuple(told[0][:1]) == ("stranger",) if told else False)
            await two.events.until(lambda told: any(what[0] == "stranger" for what in told))

            assert "belongs to cluster 00000000000000bb" in one.events.told[0][1]
            assert not ups(one.events.told)

    run(play())


def test_a_node_that_belongs_to_no_cluster_yet_is_dialled_again_without_a_word() -> None:
    async def play() -> None:
        async with two_hosts("") as (one, two):
            one.links.set_peers({two.storage: two.address})
            await one.events.until(lambda told: len(told) >= 2 * len(Channel))
            two.cluster_id = CLUSTER
            await one.events.until(lambda told: ups(told) == set(Channel))

            kinds = {what[0] for what in (*one.events.told, *two.events.told)}
            assert kinds == {"down", "up"}
            assert {what[3] for what in one.events.told if what[0] == "down"} == {"closed"}

    run(play())


def test_an_address_that_answers_as_another_storage_is_refused() -> None:
    async def play() -> None:
        async with two_hosts() as (one, two):
            one.links.set_peers({"f" * 16: two.address})
            await one.events.until(lambda told: any(what[0] == "stranger" for what in told))

            assert "is storage 0000000000000002, not ffffffffffffffff" in one.events.told[0][1]
            assert not ups(one.events.told)

    run(play())


def test_nobody_listening_is_told_as_refused_again_and_again() -> None:
    async def play() -> None:
        async with two_hosts() as (one, two):
            address = two.address
            await two.close()
            one.links.set_peers({two.storage: address})
            wanted = ("down", two.storage, Channel.CONTROL, "refused")
            await one.events.until(lambda told: told.count(wanted) >= 2)

    run(play())


def test_a_link_that_ends_is_dialled_again_at_once() -> None:
    async def play() -> None:
        async with two_hosts() as (one, two):
            one.links.set_peers({two.storage: two.address})
            await one.events.until(lambda told: ups(told) == set(Channel))
            host, port = two.address.split(":")
            assert two.runner is not None
            await two.runner.cleanup()
            await one.events.until(lambda told: any(what[0] == "down" for what in told))
            count = len(one.events.told)
            two.runner = web.ServerRunner(web.Server(two.links.accept), shutdown_timeout=1.0)
            await two.runner.setup()
            await web.TCPSite(two.runner, host, int(port), reuse_address=True).start()
            one.links.dial_now(two.storage)
            await one.events.until(lambda told: ups(told[count:]) == set(Channel))

    run(play())


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (b"\x00" * 20, "protocol version 0"),
        (b"short", "a frame of 5 bytes"),
        (FrameWriter("00000000000000bb").seal(b"x"), "another cluster"),
    ],
)
def test_a_bad_frame_ends_that_connection_and_others_are_served_on(bad: bytes, reason: str) -> None:
    async def play() -> None:
        async with two_hosts() as (one, two), aiohttp.ClientSession() as session:
            one.links.set_peers({two.storage: two.address})
            await one.events.until(lambda told: ups(told) == set(Channel))
            async with session.ws_connect(f"http://{two.address}/peer") as socket:
                await socket.send_bytes(encode_hello(hello_of(3, "data")))
                decode_hello(await socket.receive_bytes())
                await socket.send_bytes(bad)
                ended = await socket.receive()
            one.links.send(two.storage, Channel.DATA, b"still here")
            await two.events.until(lambda told: told[-1:] == [("frame", "n1", Channel.DATA, b"still here")])

            assert ended.type in (aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSED)
            assert two.events.told[0][0] == "stranger" and reason in two.events.told[0][1]

    run(play())


@pytest.mark.parametrize("first", [b"", b"\xc1", b"GET / HTTP/1.1\r\n\r\n", b"x" * 9000])
def test_bytes_instead_of_a_greeting_are_refused_with_a_sentence(first: bytes) -> None:
    async def play() -> None:
        async with two_hosts() as (_, two), aiohttp.ClientSession() as session:
            async with session.ws_connect(f"http://{two.address}/peer") as socket:
                await socket.send_bytes(first)
                ended = await socket.receive()

            assert ended.type in (aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSED)
            assert [what[0] for what in two.events.told] == ["stranger"]

    run(play())


def test_a_repeated_frame_is_not_taken_twice() -> None:
    async def play() -> None:
        async with two_hosts() as (_, two), aiohttp.ClientSession() as session:
            frame = FrameWriter(CLUSTER).seal(b"once")
            async with session.ws_connect(f"http://{two.address}/peer") as socket:
                await socket.send_bytes(encode_hello(hello_of(3, "data")))
                decode_hello(await socket.receive_bytes())
                await socket.send_bytes(frame)
                await socket.send_bytes(frame)
                await socket.receive()

            kinds = [what[0] for what in two.events.told]
            assert kinds == ["frame", "stranger"]

    run(play())


def test_greeting_tells_who_listens_without_making_a_link() -> None:
    async def play() -> None:
        async with two_hosts("") as (one, two), aiohttp.ClientSession() as session:
            answer = await greet(session, two.address, one.hello("hello"))

            assert (answer.storage, answer.cluster_id) == (two.storage, "")
            assert two.events.told == []

    run(play())


def test_a_plain_request_to_the_peer_port_is_told_where_the_interface_is() -> None:
    async def play() -> None:
        async with two_hosts() as (_, two), aiohttp.ClientSession() as session:
            async with session.get(f"http://{two.address}/v1/cluster") as answer:
                status, text = answer.status, await answer.text()

            assert (status, "REST is on its API port" in text) == (404, True)

    run(play())


async def dialled(one: Host, storage: str, address: str) -> None:
    """Have ``one`` link to a peer, and wait until all links are up."""
    one.events.told.clear()
    one.links.set_peers({storage: address})
    await one.events.until(lambda told: ups(told) == set(Channel))


async def received(one: Host, other: Host) -> list[tuple[Any, ...]]:
    """Return what ``other`` has been told when ``one`` has sent something to it."""
    one.links.send(other.storage, Channel.DATA, b"moved")
    await other.events.until(bool)
    return other.events.told


ARRIVED = [("frame", "n1", Channel.DATA, b"moved")]


def test_a_peer_that_has_moved_is_dialled_at_its_new_address_though_the_old_connection_never_ended() -> None:
    async def play() -> None:
        async with two_hosts() as (one, two), two_hosts() as (_, again):
            await dialled(one, two.storage, two.address)
            # The first one still listens and answers: what is lost here is only what the old address promises.
            await dialled(one, two.storage, again.address)

            assert await received(one, again) == ARRIVED

    run(play())


def test_a_peer_that_moves_while_it_is_dialled_is_not_kept_at_its_old_address() -> None:
    async def play() -> None:
        async with two_hosts() as (one, two), two_hosts() as (_, again):
            greet_of = Link._greet

            async def greets(link: Link, connection: aiohttp.ClientWebSocketResponse) -> Hello:
                hello = await greet_of(link, connection)
                one.links.set_peers({two.storage: again.address})
                return hello

            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(Link, "_greet", greets)
                await dialled(one, two.storage, two.address)

            assert await received(one, again) == ARRIVED

    run(play())


@asynccontextmanager
async def deaf(number: int) -> AsyncIterator[str]:
    """Listen as a node that greets whoever dials, and takes nothing more out of any connection."""

    async def greets(request: web.BaseRequest) -> web.StreamResponse:
        response = web.WebSocketResponse(compress=False)
        await response.prepare(request)
        theirs = decode_hello((await response.receive()).data)
        await response.send_bytes(encode_hello(hello_of(number, theirs.channel)))
        assert request.transport is not None
        request.transport.pause_reading()
        await asyncio.Event().wait()
        return response

    runner = web.ServerRunner(web.Server(greets), shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0][:2]
    try:
        yield f"{host}:{port}"
    finally:
        await runner.cleanup()


async def fill(links: PeerLinks, storage: str) -> None:
    """Send until a frame is waiting for room in the connection."""
    link = links._links[storage, Channel.DATA]
    for _ in range(400):
        links.send(storage, Channel.DATA, b"x" * (1 << 20))
        await asyncio.sleep(0.005)
        if link._outbox:
            return
    raise AssertionError("the connection takes everything")


def test_a_peer_that_has_moved_is_dialled_though_the_connection_to_its_old_address_takes_nothing_more() -> None:
    """A pod that was cut off and replaced: what was on the way to the old one would be tried for a quarter of an hour."""

    async def play() -> None:
        async with two_hosts() as (one, two), deaf(2) as gone:
            await dialled(one, two.storage, gone)
            await fill(one.links, two.storage)
            await dialled(one, two.storage, two.address)

            assert await received(one, two) == ARRIVED

    run(play())


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="only Linux ends what is not acknowledged")
def test_the_system_is_told_to_end_a_connection_whose_peer_acknowledges_nothing() -> None:
    async def play() -> None:
        told = list[int]()

        async with two_hosts() as (one, two):
            connect = one.links.session.ws_connect

            def watched(*arguments: Any, **named: Any) -> Any:
                context = connect(*arguments, **named)
                sockets.append(context)
                return context

            sockets = list[Any]()
            one.links.session.ws_connect = watched  # type: ignore[method-assign]  # to see what it connects
            await dialled(one, two.storage, two.address)
            for context in sockets:
                connection = context._resp.get_extra_info("socket")
                told.append(connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT))

        assert told == [int(1000 * UNACKNOWLEDGED_S)] * len(Channel)

    run(play())
