"""Answers on the wire: those of one loop turn go out together, in their order, and only to connections that are there."""

from __future__ import annotations

import asyncio

from ringkeep_node.http.replies import JOINED_BYTES_MAX, Outgoing
from ringkeep_testing.http_edge import EdgeUnderTest, request, serve


class FakeTransport(asyncio.WriteTransport):
    """Remembers what was written."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[bytes] = []
        self.closing = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written.append(bytes(data))

    def is_closing(self) -> bool:
        return self.closing


def test_answers_are_written_in_order_once_the_turn_is_over() -> None:
    async def test() -> tuple[list[bytes], list[bytes]]:
        outgoing, transport = Outgoing(), FakeTransport()
        outgoing.write(transport, b"one")
        outgoing.write(transport, b"two")
        before = list(transport.written)
        await asyncio.sleep(0)
        return before, transport.written

    assert asyncio.run(test()) == ([], [b"one", b"two"])


def test_nothing_is_written_to_a_connection_that_closes() -> None:
    async def test() -> tuple[list[bytes], list[bytes]]:
        outgoing, gone, there = Outgoing(), FakeTransport(), FakeTransport()
        outgoing.write(gone, b"one")
        outgoing.write(there, b"two")
        gone.closing = True
        await asyncio.sleep(0)
        return gone.written, there.written

    assert asyncio.run(test()) == ([], [b"two"])


def test_answers_to_requests_sent_at_once_keep_their_order_whatever_their_size() -> None:
    async def test(edge: EdgeUnderTest) -> None:
        large = bytes(JOINED_BYTES_MAX + 1)
        await edge.ask("PUT", "/v1/users/ada/docs/large", large)
        names = ["small", "large", "small", "nothing", "large", "small"]
        await edge.ask("PUT", "/v1/users/ada/docs/small", b"s")
        wire = await edge.connect()
        asked = [
            request("GET", f"/v1/users/ada/docs/{name}", Ringkeep_Request_Id=f"r{number}")
            for number, name in enumerate(names)
        ]
        await wire.send(b"".join(asked))
        answers = [await wire.answer() for _ in names]

        assert [answer.headers["ringkeep-request-id"] for answer in answers] == [f"r{number}" for number in range(6)]
        assert [len(answer.body) > JOINED_BYTES_MAX for answer in answers] == [name == "large" for name in names]

    serve(test)
