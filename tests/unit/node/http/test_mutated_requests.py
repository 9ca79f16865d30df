"""Requests with random damage: whatever comes, the node answers or hangs up, and serves the next one."""

from __future__ import annotations

import asyncio
import random

import pytest

from ringkeep_testing.http_edge import EdgeUnderTest, request, serve

SEEDS = 8
CASES = 100
SILENCE_S = 0.05
GOOD = [
    request("PUT", "/v1/users/ada/docs/a/b%20c", b"hello", Content_Type="text/plain", If_Match='"1", W/"2"'),
    request("GET", "/v1/users/ada/docs?prefix=a&limit=10&values=true", Ringkeep_Timeout="1.5"),
    request("DELETE", "/v1/users/%C3%BC/docs/k", Idempotency_Key="abc"),
    request(
        "POST", "/v1/import", b'{"user":"u","key":"k","value":{"a":1}}\n{"user":"u","key":"l","value_b64":"AA=="}\n'
    ),
    request("PUT", "/v1/cluster/wanted", b'{"revision":1,"members":{},"settings":{"replication_factor":3}}'),
    b"PUT /v1/users/ada/docs/k HTTP/1.1\r\nHost: n\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
]
PIECES = [
    b"\r\n",
    b"\r",
    b"\n",
    b"\x00",
    b"%",
    b"%2e%2e/",
    b"\xff\xfe",
    b" ",
    b":",
    b"..",
    b"\t",
    b'"',
    b"9" * 30,
    b"HTTP/1.1",
    b"?",
    b"#",
]


def damaged(draw: random.Random) -> bytes:
    data = bytearray(draw.choice(GOOD))
    for _ in range(draw.randint(1, 4)):
        at = draw.randrange(len(data) + 1)
        kind = draw.randrange(5)
        if kind == 0:
            data[at:at] = draw.choice(PIECES)
        elif kind == 1:
            del data[at : at + draw.randint(1, 12)]
        elif kind == 2 and at < len(data):
            data[at] = draw.randrange(256)
        elif kind == 3:
            data[at:at] = data[: draw.randint(1, 80)]
        else:
            del data[at:]
    return bytes(data)


LAST = b"\r\n\r\nGET /livez HTTP/1.1\r\nHost: n\r\nConnection: close\r\n\r\n"


async def sent(port: int, data: bytes) -> bytes:
    """Send everything and a last good request, and return all that comes back until the end or a short silence."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    answer = b""
    try:
        writer.write(data + LAST)
        async with asyncio.timeout(SILENCE_S):
            while part := await reader.read(1 << 16):
                answer += part
    except (TimeoutError, ConnectionError):
        pass
    finally:
        writer.transport.abort()
    return answer


@pytest.mark.parametrize("seed", range(SEEDS))
def test_a_damaged_request_is_answered_or_dropped_and_hurts_nobody(seed: int) -> None:
    async def test(edge: EdgeUnderTest) -> None:
        draw = random.Random(seed)
        answered = 0
        for _ in range(CASES):
            data = damaged(draw)
            answer = await sent(edge.port, data)
            answered += answer != b""

            # Nothing may be our own fault, and nothing that was sent may become a header of the answer.
            assert b" 500 " not in answer.partition(b"\r\n")[0], data
            assert answer == b"" or answer.startswith(b"HTTP/1.1 "), data
            assert edge.failures == [], data
        assert answered > CASES // 2
        assert (await edge.ask("PUT", "/v1/users/ada/docs/after", b"x")).status in (200, 201)

    serve(test)
