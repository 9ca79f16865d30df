"""Bad input of any kind: one clear sentence, a stable code, nothing changed, and the node goes on answering."""

from __future__ import annotations

import asyncio

import pytest

from ringkeep_node.http.server import ServerSettings
from ringkeep_testing.http_edge import Answer, EdgeUnderTest, request, serve, until

DOC = "/v1/users/ada/docs/k"
MIB = 1 << 20
HUGE = f"PUT {DOC} HTTP/1.1\r\nHost: n\r\nContent-Length: 99999999999\r\n\r\n".encode()
MANY = {f"X_{i}": "y" * 1000 for i in range(17)}

WELL_FORMED = [
    # what is wrong, request, status, code
    ("bad escape", request("PUT", "/v1/users/ada/docs/%zz", b"x"), 400, "bad_request"),
    ("cut escape", request("PUT", "/v1/users/ada/docs/%2", b"x"), 400, "bad_request"),
    ("lone percent", request("PUT", "/v1/users/a%/docs/k", b"x"), 400, "bad_request"),
    ("dots in a key", request("PUT", "/v1/users/ada/docs/a/../b", b"x"), 400, "bad_request"),
    ("dot as a key", request("PUT", "/v1/users/ada/docs/.", b"x"), 400, "bad_request"),
    ("encoded dots in a key", request("PUT", "/v1/users/ada/docs/a/%2e%2E/b", b"x"), 400, "bad_request"),
    ("dots after an encoded slash", request("PUT", "/v1/users/ada/docs/a%2F..%2Fb", b"x"), 400, "bad_request"),
    ("dots as the user", request("PUT", "/v1/users/../docs/k", b"x"), 400, "bad_request"),
    ("an encoded dot as the user", request("PUT", "/v1/users/%2e/docs/k", b"x"), 400, "bad_request"),
    ("dots elsewhere", request("GET", "/v1/../v1/cluster"), 400, "bad_request"),
    ("encoded dots elsewhere", request("GET", "/v1/%2e%2e/cluster"), 400, "bad_request"),
    ("dots behind a user", request("GET", "/v1/users/ada/../x"), 400, "bad_request"),
    ("an empty key", request("PUT", "/v1/users/ada/docs/", b"x"), 400, "bad_request"),
    ("an empty user", request("PUT", "/v1/users//docs/k", b"x"), 400, "bad_request"),
    ("a user that is too long", request("PUT", f"/v1/users/{'u' * 257}/docs/k", b"x"), 400, "bad_request"),
    ("a key that is too long", request("PUT", f"/v1/users/ada/docs/{'%C3%BC' * 257}", b"x"), 400, "bad_request"),
    ("invalid UTF-8 in a key", request("PUT", "/v1/users/ada/docs/%ff", b"x"), 400, "bad_request"),
    ("overlong UTF-8 in a user", request("PUT", "/v1/users/%c0%af/docs/k", b"x"), 400, "bad_request"),
    ("a surrogate in a key", request("PUT", "/v1/users/ada/docs/%ed%a0%80", b"x"), 400, "bad_request"),
    ("a NUL in a key", request("PUT", "/v1/users/ada/docs/a%00", b"x"), 400, "bad_request"),
    ("a line end in a user", request("PUT", "/v1/users/a%0d%0aX:%20y/docs/k", b"x"), 400, "bad_request"),
    ("a control character in a prefix", request("GET", "/v1/users/ada/docs?prefix=%01"), 400, "bad_request"),
    ("a fragment", request("GET", "/v1/users/ada/docs/a#b"), 400, "bad_request"),
    ("an unknown parameter", request("PUT", DOC + "?ttl=5", b"x"), 400, "bad_request"),
    ("a parameter given twice", request("GET", "/v1/users/ada/docs?limit=1&limit=2"), 400, "bad_request"),
    ("a limit that is no number", request("GET", "/v1/users/ada/docs?limit=ten"), 400, "bad_request"),
    ("a limit in other digits", request("GET", "/v1/users/ada/docs?limit=%D9%A1"), 400, "bad_request"),
    ("a limit of nothing", request("GET", "/v1/users/ada/docs?limit=0"), 400, "bad_request"),
    ("a limit that is too large", request("GET", "/v1/users/ada/docs?limit=1001"), 400, "bad_request"),
    ("a huge number", request("GET", "/v1/cluster/events?after=" + "9" * 400), 400, "bad_request"),
    ("values that is no switch", request("GET", "/v1/users/ada/docs?values=maybe"), 400, "bad_request"),
    ("an unknown consistency", request("GET", DOC + "?consistency=eventual"), 400, "bad_request"),
    ("a bad escape in the query", request("GET", "/v1/users/ada/docs?prefix=%f"), 400, "bad_request"),
    ("a timeout that is no number", request("GET", DOC, Ringkeep_Timeout="soon"), 400, "bad_request"),
    ("an empty timeout", request("PUT", DOC, b"x", Ringkeep_Timeout=""), 400, "bad_request"),
    ("a negative timeout", request("PUT", DOC, b"x", Ringkeep_Timeout="-1"), 400, "bad_request"),
    ("a timeout that is too long", request("PUT", DOC, b"x", Ringkeep_Timeout="60.1"), 400, "bad_request"),
    ("an infinite timeout", request("PUT", DOC, b"x", Ringkeep_Timeout="inf"), 400, "bad_request"),
    ("a key for retries that is too long", request("PUT", DOC, b"x", Idempotency_Key="k" * 129), 400, "bad_request"),
    ("a key for retries with a space", request("PUT", DOC, b"x", Idempotency_Key="a b"), 400, "bad_request"),
    ("an empty key for retries", request("PUT", DOC, b"x", Idempotency_Key=""), 400, "bad_request"),
    ("a content type that is too long", request("PUT", DOC, b"x", Content_Type="a/" + "b" * 255), 400, "bad_request"),
    ("a content type beyond ASCII", request("PUT", DOC, b"x", Content_Type="text/ü"), 400, "bad_request"),
    ("a partial PUT", request("PUT", DOC, b"x", Content_Range="bytes 0-0/2"), 400, "bad_request"),
    ("a date as a condition", request("PUT", DOC, b"x", If_Unmodified_Since="yesterday"), 400, "bad_request"),
    ("an encoded body", request("PUT", DOC, b"x", Content_Encoding="gzip"), 415, "unsupported_media_type"),
    ("an encoded import", request("POST", "/v1/import", b"x", Content_Encoding="br"), 415, "unsupported_media_type"),
    (
        "an unknown expectation",
        request("PUT", DOC, b"", Expect="miracles", Transfer_Encoding="chunked"),
        400,
        "bad_request",
    ),
    ("a body that is too large", request("PUT", DOC, b"x" * (MIB + 1)), 413, "too_large"),
    (
        "a huge body",
        b"PUT " + DOC.encode() + b" HTTP/1.1\r\nHost: n\r\nContent-Length: 99999999999\r\n\r\n",
        413,
        "too_large",
    ),
    ("an unknown path", request("GET", "/v2/users"), 404, "not_found"),
    ("a user alone", request("GET", "/v1/users/ada"), 404, "not_found"),
    ("a part that a user has not", request("GET", "/v1/users/ada/photos"), 404, "not_found"),
    ("a path with a slash at the end", request("GET", "/v1/cluster/"), 404, "not_found"),
    ("a route that comes later", request("POST", "/v1/users/ada/batch", b"{}"), 404, "not_found"),
    ("PATCH of a document", request("PATCH", DOC, b"{}"), 405, "method_not_allowed"),
    ("DELETE of a user", request("DELETE", "/v1/users/ada/docs"), 405, "method_not_allowed"),
    ("POST to a document", request("POST", DOC, b"x"), 405, "method_not_allowed"),
    ("OPTIONS", request("OPTIONS", DOC), 405, "method_not_allowed"),
    ("a method from elsewhere", request("PROPFIND", DOC), 405, "method_not_allowed"),
    ("OPTIONS of everything", request("OPTIONS", "*"), 400, "bad_request"),
    (
        "headers that are too large together",
        request("GET", DOC, b"", **MANY),
        431,
        "headers_too_large",
    ),
    ("a header that is too large", request("GET", DOC, X="y" * 20_000), 431, "headers_too_large"),
    ("a target that is too large", request("GET", "/" + "y" * 20_000), 431, "headers_too_large"),
    ("a thousand headers", request("GET", DOC, b"", **{f"X{i}": "" for i in range(1000)}), 431, "headers_too_large"),
]

MALFORMED = [
    ("not HTTP", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 hello\r\n\r\n"),
    ("an unfinished request line", b"GET\r\n\r\n"),
    ("a space in the target", b"GET /v1/users/a b HTTP/1.1\r\nHost: n\r\n\r\n"),
    ("an unknown version", b"GET / HTTP/7.0\r\nHost: n\r\n\r\n"),
    ("no Host", b"GET / HTTP/1.1\r\n\r\n"),
    ("two Hosts", b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n"),
    (
        "two lengths",
        b"PUT " + DOC.encode() + b" HTTP/1.1\r\nHost: n\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx",
    ),
    (
        "a length and a transfer encoding",
        b"PUT "
        + DOC.encode()
        + b" HTTP/1.1\r\nHost: n\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ),
    ("a length that is no number", b"PUT " + DOC.encode() + b" HTTP/1.1\r\nHost: n\r\nContent-Length: +1\r\n\r\nx"),
    ("a negative length", b"PUT " + DOC.encode() + b" HTTP/1.1\r\nHost: n\r\nContent-Length: -1\r\n\r\nx"),
    (
        "an unknown transfer encoding",
        b"PUT " + DOC.encode() + b" HTTP/1.1\r\nHost: n\r\nTransfer-Encoding: gzip\r\n\r\nx",
    ),
    ("a folded header", b"GET / HTTP/1.1\r\nHost: n\r\nX: a\r\n b\r\n\r\n"),
    ("a space before a colon", b"GET / HTTP/1.1\r\nHost: n\r\nX : a\r\n\r\n"),
    ("a NUL in a header", b"GET / HTTP/1.1\r\nHost: n\r\nX: a\x00b\r\n\r\n"),
    ("a bare carriage return in a header", b"GET / HTTP/1.1\r\nHost: n\r\nX: a\rb\r\n\r\n"),
    ("a header without a name", b"GET / HTTP/1.1\r\nHost: n\r\n: x\r\n\r\n"),
    ("a control character in the target", b"GET /\x01 HTTP/1.1\r\nHost: n\r\n\r\n"),
]


async def is_serving(edge: EdgeUnderTest) -> None:
    """The node answers, and nothing was changed by what it refused."""
    assert edge.driver.documents == {}
    assert (await edge.ask("PUT", "/v1/users/ada/docs/after", b"x")).status == 201
    assert edge.failures == []


@pytest.mark.parametrize(
    ("data", "status", "code"), [case[1:] for case in WELL_FORMED], ids=[case[0] for case in WELL_FORMED]
)
def test_what_makes_no_sense_is_refused_with_its_code_and_changes_nothing(data: bytes, status: int, code: str) -> None:
    async def test(edge: EdgeUnderTest) -> None:
        answer = await edge.raw(data)

        assert (answer.status, answer.code, answer.headers["ringkeep-node"]) == (status, code, "n1")
        assert answer.json["retryable"] is False and "\n" not in answer.json["detail"]
        await is_serving(edge)

    serve(test)


@pytest.mark.parametrize("data", [case[1] for case in MALFORMED], ids=[case[0] for case in MALFORMED])
def test_what_is_no_request_is_refused_and_the_connection_ends(data: bytes) -> None:
    async def test(edge: EdgeUnderTest) -> None:
        wire = await edge.connect()
        await wire.send(data)
        answer = await wire.answer()

        assert (answer.status, answer.code, answer.headers["connection"]) == (400, "bad_request", "close")
        assert await wire.is_closed()
        await is_serving(edge)

    serve(test)


@pytest.mark.parametrize(
    ("target", "method", "allow"),
    [
        (DOC, "PATCH", "GET, HEAD, PUT, DELETE"),
        ("/v1/users/ada/docs", "PUT", "GET, HEAD"),
        ("/v1/import", "GET", "POST"),
        ("/v1/cluster/wanted", "DELETE", "GET, HEAD, PUT"),
        ("/v1/cluster/bootstrap", "GET", "POST"),
    ],
)
def test_a_wrong_method_is_told_the_right_ones(target: str, method: str, allow: str) -> None:
    async def test(edge: EdgeUnderTest) -> None:
        answer = await edge.ask(method, target)

        assert (answer.status, answer.code, answer.headers["allow"]) == (405, "method_not_allowed", allow)

    serve(test)


def test_a_refusal_that_reads_the_whole_request_keeps_the_connection() -> None:
    async def test(edge: EdgeUnderTest) -> None:
        wire = await edge.connect()
        for data, status in (
            (request("PUT", "/v1/users/ada/docs/%zz", b"x" * 1000), 400),
            (request("GET", "/nowhere"), 404),
            (request("POST", DOC, b"x"), 405),
            (request("PUT", DOC, b"x", If_Match='"1"'), 412),
            (request("PUT", DOC, b"x"), 201),
        ):
            await wire.send(data)
            answer = await wire.answer()

            assert (answer.status, "connection" in answer.headers) == (status, False)

    serve(test)


def test_a_chunked_body_is_limited_like_any_other() -> None:
    async def test(edge: EdgeUnderTest) -> None:
        wire = await edge.connect()
        await wire.send(f"PUT {DOC} HTTP/1.1\r\nHost: n\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
        await wire.send(b"80000\r\n" + b"x" * 0x80000 + b"\r\n")
        await wire.send(b"80001\r\n" + b"x" * 0x80001 + b"\r\n")
        answer = await wire.answer()

        assert (answer.status, answer.code, answer.headers["connection"]) == (413, "too_large", "close")
        await is_serving(edge)

    serve(test)


def test_a_document_of_exactly_the_limit_is_stored_in_any_framing() -> None:
    async def test(edge: EdgeUnderTest) -> None:
        plain = await edge.ask("PUT", DOC, b"x" * MIB)
        wire = await edge.connect()
        await wire.send(f"PUT {DOC}2 HTTP/1.1\r\nHost: n\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
        await wire.send(b"100000\r\n" + b"y" * MIB + b"\r\n0\r\n\r\n")
        chunked = await wire.answer()
        found = await edge.ask("GET", DOC)

        assert (plain.status, chunked.status, found.body) == (201, 201, b"x" * MIB)
        assert edge.driver.documents["ada", "k2"] == b"y" * MIB

    serve(test)


@pytest.mark.parametrize(
    "body",
    [b"zz\r\nhello\r\n0\r\n\r\n", b"5\r\nhelloXX0\r\n\r\n", b"-1\r\n\r\n", b"ffffffffffffffffff\r\nhello\r\n"],
    ids=["no number", "no line end", "a negative size", "a size beyond 64 bits"],
)
def test_a_chunked_body_that_is_none_is_refused_and_the_connection_ends(body: bytes) -> None:
    async def test(edge: EdgeUnderTest) -> None:
        wire = await edge.connect()
        await wire.send(f"PUT {DOC} HTTP/1.1\r\nHost: n\r\nTransfer-Encoding: chunked\r\n\r\n".encode() + body)
        answer = await wire.answer()

        assert (answer.status, answer.code) == (400, "bad_request")
        assert await wire.is_closed()
        await is_serving(edge)

    serve(test)


def test_a_body_that_breaks_off_changes_nothing() -> None:
    async def test(edge: EdgeUnderTest) -> None:
        for _ in range(3):
            wire = await edge.connect()
            await wire.send(f"PUT {DOC} HTTP/1.1\r\nHost: n\r\nContent-Length: 100\r\n\r\nhalf".encode())
            wire.hang_up()

        await is_serving(edge)

    serve(test)


def test_a_body_that_stalls_is_given_up_at_the_deadline() -> None:
    async def test(edge: EdgeUnderTest) -> None:
        head = f"PUT {DOC} HTTP/1.1\r\nHost: n\r\nRingkeep-Timeout: 0.05\r\nContent-Length: 100\r\n\r\nhalf"
        answer = await edge.raw(head.encode())

        assert (answer.status, answer.code, answer.headers["connection"]) == (400, "bad_request", "close")
        await is_serving(edge)

    serve(test)


def test_a_body_that_drips_is_given_up_at_the_deadline_too() -> None:
    async def test(edge: EdgeUnderTest) -> None:
        wire = await edge.connect()
        await wire.send(
            f"PUT {DOC} HTTP/1.1\r\nHost: n\r\nRingkeep-Timeout: 0.1\r\nContent-Length: 100\r\n\r\n".encode()
        )
        answer = asyncio.ensure_future(wire.answer())
        while not answer.done():
            await wire.send(b"x")
            await asyncio.wait([answer], timeout=0.02)

        assert ((await answer).status, (await answer).code) == (400, "bad_request")
        assert edge.edge.reading_bytes == 0
        await is_serving(edge)

    serve(test)


def test_bodies_on_their_way_are_bounded_all_together() -> None:
    async def test(edge: EdgeUnderTest) -> None:
        head = f"PUT {DOC} HTTP/1.1\r\nHost: n\r\nContent-Length: 900000\r\n\r\nx".encode()
        slow = [await edge.connect() for _ in range(2)]
        for wire in slow:
            await wire.send(head)
        await until(lambda: edge.edge.reading_bytes == 1_800_000)
        refused = await edge.raw(head)
        small = await edge.ask("PUT", DOC, b"x")
        for wire in slow:
            wire.hang_up()
        await until(lambda: edge.edge.reading_bytes == 0)

        assert (refused.status, refused.code, refused.headers["retry-after"]) == (503, "overloaded", "1")
        assert small.status == 201

    serve(test, EdgeUnderTest(server=ServerSettings(reading_bytes_max=2_000_000, shutdown_s=0.5)))


def test_an_upgrade_is_not_taken_and_the_request_answered() -> None:
    async def test(edge: EdgeUnderTest) -> None:
        wire = await edge.connect()
        await wire.send(request("GET", "/livez", Connection="Upgrade", Upgrade="websocket"))
        answer = await wire.answer()
        await wire.send(request("GET", "/readyz"))
        after = await wire.answer()
        tunnel = await edge.raw(b"CONNECT elsewhere:443 HTTP/1.1\r\nHost: elsewhere:443\r\n\r\n")

        assert (answer.status, after.status, tunnel.status, tunnel.code) == (200, 200, 400, "bad_request")

    serve(test)


def test_a_client_that_asks_first_is_told_to_go_on_or_refused_before_it_sends() -> None:
    async def test(edge: EdgeUnderTest) -> None:
        wire = await edge.connect()
        await wire.send(f"PUT {DOC} HTTP/1.1\r\nHost: n\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\n".encode())
        first: Answer = await wire.answer()
        await wire.send(b"x")
        second = await wire.answer()
        refused = await edge.raw(
            f"PUT {DOC} HTTP/1.1\r\nHost: n\r\nExpect: 100-continue\r\nContent-Length: 9999999\r\n\r\n".encode()
        )

        assert (first.status, second.status, refused.status) == (100, 201, 413)

    serve(test)


def test_an_old_client_is_answered_and_its_connection_closed() -> None:
    async def test(edge: EdgeUnderTest) -> None:
        wire = await edge.connect()
        await wire.send(b"GET /livez HTTP/1.0\r\n\r\n")
        answer = await wire.answer()

        assert (answer.status, answer.headers["connection"]) == (200, "close")
        assert await wire.is_closed()

    serve(test)


def test_a_request_id_that_could_break_a_line_is_replaced() -> None:
    async def test(edge: EdgeUnderTest) -> None:
        for given in ("a b", "ü", "x" * 129):
            answer = await edge.ask("GET", "/livez", Ringkeep_Request_Id=given)

            assert answer.headers["ringkeep-request-id"].startswith("b0000000-")

    serve(test)


def test_connections_beyond_the_limit_are_closed_and_the_others_served() -> None:
    async def test(edge: EdgeUnderTest) -> None:
        wires = [await edge.connect() for _ in range(3)]
        for wire in wires[:2]:
            await wire.send(request("GET", "/livez"))
        answers = [await wire.answer() for wire in wires[:2]]

        assert [answer.status for answer in answers] == [200, 200]
        assert await wires[2].is_closed()
        assert edge.server.refused == 1

    serve(test, EdgeUnderTest(server=ServerSettings(connections_max=2, shutdown_s=0.5)))


def test_a_connection_that_never_brings_a_whole_request_is_closed() -> None:
    async def test(edge: EdgeUnderTest) -> None:
        wire = await edge.connect()
        await wire.send(b"GET /livez HTTP/1.1\r\nHost: n\r\nX: ")

        assert await wire.is_closed()

    serve(test, EdgeUnderTest(server=ServerSettings(keep_alive_s=0.05, shutdown_s=0.5)))
