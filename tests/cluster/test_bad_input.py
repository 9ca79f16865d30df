"""Strangers, broken peers and broken clients at a running cluster: each is told why, and everybody else is served on.

The fixture ``annoyed`` looks afterwards whether the same processes still serve and have logged no error.
"""

from __future__ import annotations

import asyncio
import random
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any

import aiohttp
import msgspec
import pytest

from ringkeep_core.ids import HEADERS_BYTES_MAX, KEY_BYTES_MAX, USER_BYTES_MAX, VALUE_BYTES_MAX
from ringkeep_core.wire import FRAME_BYTES_MAX, PROTOCOL_VERSION, FrameWriter, Hello, encode_hello
from ringkeep_node.machines.messages import Bundle, encode_bundle
from ringkeep_node.machines.node import GREETED_MAX
from ringkeep_testing.real_cluster import HOST, LIMIT_S, RealCluster, run, until

STRANGER = "f" * 16
FLOOD = 300

Socket = aiohttp.ClientWebSocketResponse


# -- the peer port -------------------------------------------------------------------------------------------------


def _greeting(cluster_id: str, **changed: Any) -> bytes:
    own = Hello(PROTOCOL_VERSION, cluster_id, "n9", STRANGER, STRANGER, 1, f"http://{HOST}:1", f"{HOST}:1", "", "data")
    return encode_hello(msgspec.structs.replace(own, **changed))


@asynccontextmanager
async def _dialled(cluster: RealCluster) -> AsyncIterator[Socket]:
    """A connection to the peer port of n1 that has not greeted yet."""
    async with aiohttp.ClientSession() as session:
        address = f"http://{cluster.node('n1').peer}/peer"
        async with session.ws_connect(address, compress=0, max_msg_size=0) as connection:
            yield connection


async def _hung_up(connection: Socket) -> bool:
    """Return whether the other side ends the connection (it may answer a greeting first)."""
    async with asyncio.timeout(LIMIT_S):
        while (message := await connection.receive()).type is aiohttp.WSMsgType.BINARY:
            pass
        return message.type in (aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSED, aiohttp.WSMsgType.ERROR)


async def _told(cluster: RealCluster, text: str) -> None:
    """Return when n1 has an event about a refusal with this text."""

    async def ask() -> bool | None:
        texts = [event["text"] for event in await cluster.events("n1")]
        return True if any(text in one for one in texts) else None

    await until(ask, f"an event says {text!r}")


def test_a_member_of_another_cluster_is_refused_at_the_peer_port(annoyed: RealCluster) -> None:
    async def story() -> None:
        async with _dialled(annoyed) as connection:
            await connection.send_bytes(_greeting("0123456789abcdef"))
            refused = await _hung_up(connection)
        await _told(annoyed, "belongs to cluster 0123456789abcdef")

        assert refused

    run(story())


@pytest.mark.parametrize(
    ("greeting", "reason"),
    [
        (b"", "not one of Ringkeep's"),
        (b"\x00" * 100, "not one of Ringkeep's"),
        (b"x" * 100_000, "a greeting of 100000 bytes"),
        ("text", "no greeting"),
        ("version", "protocol version 99"),
        ("channel", "there is no channel 'gossip'"),
    ],
    ids=["empty", "zeros", "huge", "text", "version", "channel"],
)
def test_a_broken_greeting_ends_the_connection_with_a_reason(
    annoyed: RealCluster, greeting: bytes | str, reason: str
) -> None:
    async def story() -> None:
        cluster_id = annoyed.record.cluster_id
        async with _dialled(annoyed) as connection:
            if greeting == "text":
                await connection.send_str("hello")
            elif greeting == "version":
                await connection.send_bytes(_greeting(cluster_id, version=99))
            elif greeting == "channel":
                await connection.send_bytes(_greeting(cluster_id, channel="gossip"))
            else:
                assert isinstance(greeting, bytes)
                await connection.send_bytes(greeting)
            refused = await _hung_up(connection)
        await _told(annoyed, reason)

        assert refused

    run(story())


def _frames(cluster_id: str, kind: str) -> list[bytes]:
    writer, stranger = FrameWriter(cluster_id), FrameWriter("0123456789abcdef")
    body = encode_bundle(Bundle())
    first, second = writer.seal(body), writer.seal(body)
    return {
        "garbage": [random.Random(1).randbytes(200)],
        "truncated": [first[:-1]],
        "short": [b"\x01"],
        "replayed": [first, first],
        "skipped": [second],
        "foreign": [stranger.seal(body)],
        "flipped": [first[:-1] + bytes([first[-1] ^ 1])],
        "no bundle": [FrameWriter(cluster_id).seal(random.Random(2).randbytes(200))],
        "oversized": [FrameWriter(cluster_id).seal(bytes(FRAME_BYTES_MAX + 1))],
    }[kind]


@pytest.mark.parametrize(
    "kind",
    ["garbage", "truncated", "short", "replayed", "skipped", "foreign", "flipped", "no bundle", "oversized"],
)
def test_a_frame_that_is_not_the_next_one_of_this_cluster_ends_the_connection(annoyed: RealCluster, kind: str) -> None:
    async def story() -> None:
        cluster_id = annoyed.record.cluster_id
        async with _dialled(annoyed) as connection:
            await connection.send_bytes(_greeting(cluster_id))
            await connection.receive_bytes()
            with suppress(ConnectionError):  # Hung up on in the middle of a frame that is too long.
                for frame in _frames(cluster_id, kind):
                    await connection.send_bytes(frame)
            refused = await _hung_up(connection)

        assert refused

    run(story())


@pytest.mark.skipif(sys.platform != "linux", reason="needs many loopback addresses")
def test_greetings_of_many_strangers_do_not_make_a_node_dial_them_all_for_ever(annoyed: RealCluster) -> None:
    """A stranger may be a node that is about to join, so it is dialled back; but only so many are."""
    dialled: list[str] = []

    def accepted(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        dialled.append(writer.get_extra_info("sockname")[0])
        writer.close()

    async def enough() -> bool | None:
        return True if len(dialled) >= 2 * FLOOD else None

    async def story() -> None:
        async with await asyncio.start_server(accepted, "0.0.0.0", 0) as server:
            port = server.sockets[0].getsockname()[1]
            for number in range(FLOOD):
                own = {"storage": f"{number:016x}", "peer": f"127.1.{number // 250}.{number % 250 + 1}:{port}"}
                async with _dialled(annoyed) as connection:
                    await connection.send_bytes(_greeting(annoyed.record.cluster_id, **own))
                    await connection.receive_bytes()
            await annoyed.serves()
            dialled.clear()
            await until(enough, "strangers are dialled again")

        assert len(set(dialled)) <= GREETED_MAX
        async with annoyed.gateway("n1") as client:
            assert [member.name for member in await client.members()] == list(annoyed.names)

    run(story())


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500),
        b"\x00" * 5_000,
        b"GET /peer HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\n\r\n",
        random.Random(3).randbytes(5_000),
    ],
    ids=["http", "tls", "zeros", "half an upgrade", "random"],
)
def test_what_is_no_peer_gets_an_answer_or_is_hung_up_on(annoyed: RealCluster, data: bytes) -> None:
    host, port = HOST, annoyed.node("n1").ports[1]

    async def story() -> None:
        reader, writer = await asyncio.open_connection(host, port)
        try:
            writer.write(data)
            answer = await asyncio.wait_for(reader.read(65_536), LIMIT_S)
        finally:
            writer.close()

        assert answer == b"" or answer.startswith((b"HTTP/1.1 400", b"HTTP/1.0 400", b"HTTP/1.1 404"))

    run(story())


def test_garbage_datagrams_disturb_nobody(annoyed: RealCluster) -> None:
    dice = random.Random(4)

    async def story() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            for number in range(2_000):
                name = annoyed.names[number % 3]
                size = dice.choice((0, 1, 9, 100, 1_400, 60_000))
                first = bytes([1]) if dice.random() < 0.5 else b""
                sender.sendto((first + dice.randbytes(size))[:60_000], (HOST, annoyed.node(name).ports[1]))
        await annoyed.serves()
        async with annoyed.gateway("n1") as client:
            states = [(member.name, member.state) for member in await client.members()]

        assert states == [("n1", "alive"), ("n2", "alive"), ("n3", "alive")]

    run(story())


# -- the REST port -------------------------------------------------------------------------------------------------


async def _answer(cluster: RealCluster, data: bytes) -> tuple[int, str]:
    """Send bytes to n1 and return the status and the stable code of the first answer."""
    reader, writer = await asyncio.open_connection(HOST, cluster.node("n1").ports[0])
    try:
        writer.write(data)
        async with asyncio.timeout(LIMIT_S):
            head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
            length = int(head.partition("content-length: ")[2].partition("\r")[0])
            body = await reader.readexactly(length)
    finally:
        writer.close()
    problem = msgspec.json.decode(body)
    assert problem["detail"] and "application/problem+json" in head
    return int(head.split()[1]), problem["code"]


def _put(path: str, *headers: str, body: bytes = b"") -> bytes:
    lines = [f"PUT {path} HTTP/1.1", "Host: x", *headers]
    if not any(line.lower().startswith(("content-length", "transfer-encoding")) for line in headers):
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join((*lines, "", "")).encode() + body


DOCUMENT = "/v1/users/ann/docs/d"
OVERSIZED = {
    "declared body": (_put(DOCUMENT, f"Content-Length: {VALUE_BYTES_MAX + 1}"), (413, "too_large")),
    "absurd length": (_put(DOCUMENT, f"Content-Length: {10**30}"), (400, "bad_request")),
    "chunked body": (
        _put(DOCUMENT, "Transfer-Encoding: chunked")
        + b"10000\r\n%s\r\n" % bytes(0x10000) * (VALUE_BYTES_MAX // 0x10000 + 1)
        + b"0\r\n\r\n",
        (413, "too_large"),
    ),
    "user": (_put(f"/v1/users/{'u' * (USER_BYTES_MAX + 1)}/docs/d"), (400, "bad_request")),
    "key": (_put(f"/v1/users/ann/docs/{'k' * (KEY_BYTES_MAX + 1)}"), (400, "bad_request")),
    "header": (_put(DOCUMENT, f"X-Long: {'x' * HEADERS_BYTES_MAX}"), (431, "headers_too_large")),
    "headers": (_put(DOCUMENT, *(f"X-{number}: y" for number in range(3_000))), (431, "headers_too_large")),
    "request line": (_put("/" + "x" * HEADERS_BYTES_MAX), (431, "headers_too_large")),
    "endless line": (b"GET /" + b"x" * 200_000, (431, "headers_too_large")),
    "endless method": (b"x" * 200_000, (400, "bad_request")),
    "import line": (
        b"POST /v1/import?x=1 HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}",
        (400, "bad_request"),
    ),
    "idempotency key": (_put(DOCUMENT, f"Idempotency-Key: {'k' * 129}"), (400, "bad_request")),
    "content type": (_put(DOCUMENT, f"Content-Type: text/{'x' * 300}"), (400, "bad_request")),
    "timeout": (_put(DOCUMENT, "Ringkeep-Timeout: 61"), (400, "bad_request")),
    "not http": (b"\x00\x01\x02\r\n\r\n", (400, "bad_request")),
}


@pytest.mark.parametrize("what", list(OVERSIZED))
def test_what_is_too_large_or_malformed_is_refused_by_its_code_and_stores_nothing(
    annoyed: RealCluster, what: str
) -> None:
    data, expected = OVERSIZED[what]

    async def story() -> None:
        answer = await _answer(annoyed, data)
        stored = await _answer(annoyed, b"GET /v1/users/ann/docs/d HTTP/1.1\r\nHost: x\r\n\r\n")

        assert answer == expected
        assert stored == (404, "not_found")

    run(story())


async def _others_are_served_while(cluster: RealCluster, opened: Callable[[AsyncExitStack], Awaitable[None]]) -> None:
    async with AsyncExitStack() as stack:
        await opened(stack)
        await cluster.serves()


async def _connection(stack: AsyncExitStack, port: int) -> asyncio.StreamWriter:
    _, writer = await asyncio.open_connection(HOST, port)
    stack.callback(writer.close)
    return writer


@pytest.mark.parametrize(
    "beginning",
    [
        b"",
        b"PUT /v1/users/ann/docs/d HTTP/1.1\r\nHost: x\r\nX-Slow",
        b"PUT /v1/users/ann/docs/d HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nhalf",
        b"POST /v1/import HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n",
    ],
    ids=["nothing", "half a head", "half a body", "half an import"],
)
def test_a_flood_of_half_open_requests_keeps_nobody_else_from_being_served(
    annoyed: RealCluster, beginning: bytes
) -> None:
    async def flood(stack: AsyncExitStack) -> None:
        for _ in range(FLOOD):
            (await _connection(stack, annoyed.node("n1").ports[0])).write(beginning)

    run(_others_are_served_while(annoyed, flood))


def test_a_client_that_sends_a_byte_at_a_time_is_served_in_the_end_and_others_meanwhile(annoyed: RealCluster) -> None:
    request = _put("/v1/users/slow/docs/d", body=b"worth waiting for")

    async def story() -> None:
        reader, writer = await asyncio.open_connection(HOST, annoyed.node("n1").ports[0])
        for byte in request:
            writer.write(bytes([byte]))
            await asyncio.sleep(0.01)
            if byte == ord("\n"):
                await annoyed.serves()
        answer = await asyncio.wait_for(reader.readline(), LIMIT_S)
        writer.close()

        assert answer.split()[1] in (b"200", b"201")

    run(story())


def test_a_flood_of_idle_connections_to_the_peer_port_keeps_peers_together(annoyed: RealCluster) -> None:
    async def flood(stack: AsyncExitStack) -> None:
        for _ in range(FLOOD):
            await _connection(stack, annoyed.node("n2").ports[1])

    run(_others_are_served_while(annoyed, flood))
