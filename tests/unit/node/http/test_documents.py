"""Documents over the real HTTP edge: what interface.md promises of PUT, GET, HEAD, DELETE, lists and routes."""

from __future__ import annotations

import asyncio

import pytest

from ringkeep_core.hashing import shard_of, user_hash
from ringkeep_node.machines.shard.effects import NotApplied, Result, Unknown, WriteRequest
from ringkeep_testing.fake_driver import CLUSTER_ID, FakeDriver
from ringkeep_testing.http_edge import EdgeUnderTest, request, serve, until

PATH = "/v1/users/ada/docs/notes/1"


def test_a_new_document_is_created_and_a_second_put_replaces_it() -> None:
    async def test(edge: EdgeUnderTest) -> None:
        created = await edge.ask("PUT", PATH, b"one", Content_Type="text/plain")
        replaced = await edge.ask("PUT", PATH, b"two")
        found = await edge.ask("GET", PATH)

        assert (created.status, created.headers["etag"], created.body) == (201, '"1"', b"")
        assert (replaced.status, replaced.headers["etag"], replaced.body) == (200, '"2"', b"")
        assert (found.status, found.headers["etag"], found.body) == (200, '"2"', b"two")
        assert found.headers["content-type"] == "application/octet-stream"

    serve(test)


def test_an_answer_carries_everything_that_is_known_of_the_document_and_of_who_answered() -> None:
    async def test(edge: EdgeUnderTest) -> None:
        await edge.ask("PUT", PATH, b"one", Content_Type="text/plain; charset=utf-8")
        found = await edge.ask("GET", PATH, Ringkeep_Request_Id="r-1")

        assert found.headers == {
            "content-type": "text/plain; charset=utf-8",
            "content-length": "3",
            "etag": '"1"',
            "last-modified": "Thu, 01 Jan 2026 00:00:00 GMT",
            "ringkeep-shard": str(shard_of("ada", 16)),
            "ringkeep-epoch": "1",
            "cache-control": "no-cache",
            "content-security-policy": "sandbox; default-src 'none'",
            "ringkeep-request-id": "r-1",
            "ringkeep-cluster": CLUSTER_ID,
            "ringkeep-node": "n1",
            "server": "ringkeep",
            "x-content-type-options": "nosniff",
            "date": "Thu, 01 Jan 2026 00:00:00 GMT",
        }

    serve(test)


def test_head_says_what_get_says_without_the_bytes() -> None:
    async def test(edge: EdgeUnderTest) -> None:
        await edge.ask("PUT", PATH, b"one", Content_Type="text/plain")
        found = await edge.ask("GET", PATH, Ringkeep_Request_Id="x")
        headed = await edge.ask("HEAD", PATH, Ringkeep_Request_Id="x")
        missing = await edge.ask("HEAD", "/v1/users/ada/docs/none")

        assert (headed.status, headed.headers, headed.body) == (200, found.headers, b"")
        assert (missing.status, missing.body) == (404, b"")

    serve(test)


def test_delete_removes_a_document_once() -> None:
    async def test(edge: EdgeUnderTest) -> None:
        await edge.ask("PUT", PATH, b"one")
        deleted = await edge.ask("DELETE", PATH)
        again = await edge.ask("DELETE", PATH)
        found = await edge.ask("GET", PATH)

        assert (deleted.status, deleted.body, "content-length" in deleted.headers) == (204, b"", False)
        assert (again.status, again.code, found.status, found.code) == (404, "not_found", 404, "not_found")

    serve(test)


@pytest.mark.parametrize(
    ("target", "user", "key"),
    [
        ("/v1/users/ada/docs/a/b", "ada", "a/b"),
        ("/v1/users/ada/docs/a%2Fb", "ada", "a/b"),
        ("/v1/users/a%2fda/docs/k", "a/da", "k"),
        ("/v1/users/%C3%BC%25/docs/%20+", "ü%", " +"),
        ("/v1/users/a.b/docs/...", "a.b", "..."),
        ("/v1/users/docs/docs/docs/route", "docs", "docs/route"),
        ("/v1/users/ada/docs//x/", "ada", "/x/"),
        ("/v1/users/ada/docs/e%CC%81", "ada", "e\u0301"),
        ("http://elsewhere/v1/users/ada/docs/k", "ada", "k"),
        ("/v1/users/ada/docs/k?", "ada", "k"),
        ("/v1/users/a=b&c;d/docs/@:!$'()*,", "a=b&c;d", "@:!$'()*,"),
        ("/v1/users/" + "u" * 256 + "/docs/" + "%C3%BC" * 256, "u" * 256, "ü" * 256),
    ],
)
def test_a_target_is_split_as_it_was_sent_and_then_decoded(target: str, user: str, key: str) -> None:
    async def test(edge: EdgeUnderTest) -> None:
        answer = await edge.ask("PUT", target, b"x")

        assert answer.status == 201
        assert edge.driver.documents == {(user, key): b"x"}

    serve(test)


def test_preconditions_decide_whether_a_change_is_made() -> None:
    async def test(edge: EdgeUnderTest) -> None:
        async def put(**headers: str) -> int:
            return (await edge.ask("PUT", PATH, b"x", **headers)).status

        statuses = [
            await put(If_Match="*"),
            await put(If_Match='"1"'),
            await put(If_None_Match="*"),
            await put(If_None_Match="*"),
            await put(If_Match='"9", "1"'),
            await put(If_Match='W/"2"'),
            await put(If_Match='"abc"'),
            await put(If_None_Match='"2"'),
            await put(If_None_Match='W/"2"'),
            await put(If_None_Match='"1","abc"'),
            await put(If_Match="*"),
        ]
        refused = await edge.ask("DELETE", PATH, If_Match='"1"')
        deleted = await edge.ask("DELETE", PATH, If_Match='"4"')

        assert statuses == [412, 412, 201, 412, 200, 412, 412, 412, 412, 200, 200]
        assert (refused.status, refused.code, deleted.status) == (412, "version_mismatch", 204)

    serve(test)


def test_preconditions_may_be_spread_over_several_header_lines() -> None:
    async def test(edge: EdgeUnderTest) -> None:
        await edge.ask("PUT", PATH, b"x")
        answer = await edge.raw(
            f'PUT {PATH} HTTP/1.1\r\nHost: n\r\nIf-Match: "7"\r\nIf-Match: "1"\r\nContent-Length: 1\r\n\r\ny'.encode()
        )

        assert answer.status == 200

    serve(test)


def test_a_client_that_has_the_version_gets_304() -> None:
    async def test(edge: EdgeUnderTest) -> None:
        await edge.ask("PUT", PATH, b"x")
        answers = [
            await edge.ask("GET", PATH, If_None_Match=tags) for tags in ('"1"', 'W/"1"', "*", '"5", "1"', '"2"', '"x"')
        ]
        mismatch = await edge.ask("GET", PATH, If_Match='"2"')

        assert [(a.status, a.headers["etag"], a.body) for a in answers] == [(304, '"1"', b"")] * 4 + [
            (200, '"1"', b"x")
        ] * 2
        assert (mismatch.status, mismatch.code) == (412, "version_mismatch")

    serve(test)


@pytest.mark.parametrize("tags", ["1", '"1', '"1" "2"', "W/1", "*, *", "", ",", '"a"b"'])
def test_a_precondition_that_is_none_is_refused_and_changes_nothing(tags: str) -> None:
    async def test(edge: EdgeUnderTest) -> None:
        for name in ("If_Match", "If_None_Match"):
            answer = await edge.ask("PUT", PATH, b"x", **{name: tags})

            assert (answer.status, answer.code) == (400, "bad_request")
        assert edge.driver.seen == []

    serve(test)


def test_a_local_read_says_how_far_behind_it_may_be() -> None:
    async def test(edge: EdgeUnderTest) -> None:
        await edge.ask("PUT", PATH, b"x")
        edge.driver.lag = 7
        local = await edge.ask("GET", f"{PATH}?consistency=local")
        strict = await edge.ask("GET", f"{PATH}?consistency=strict")
        listed = await edge.ask("GET", "/v1/users/ada/docs?consistency=local")

        assert [answer.headers.get("ringkeep-lag") for answer in (local, strict, listed)] == ["7", None, "7"]

    serve(test)


def test_the_same_idempotency_key_is_applied_once_and_refused_for_another_request() -> None:
    async def test(edge: EdgeUnderTest) -> None:
        first = await edge.ask("PUT", PATH, b"x", Idempotency_Key="k1", Ringkeep_Timeout="1")
        again = await edge.ask("PUT", PATH, b"x", Idempotency_Key="k1", Ringkeep_Timeout="2")
        other = [
            await edge.ask("PUT", PATH, b"y", Idempotency_Key="k1"),
            await edge.ask("PUT", PATH, b"x", Idempotency_Key="k1", Content_Type="text/plain"),
            await edge.ask("PUT", PATH, b"x", Idempotency_Key="k1", If_Match="*"),
            await edge.ask("PUT", PATH + "2", b"x", Idempotency_Key="k1"),
            await edge.ask("DELETE", PATH, Idempotency_Key="k1"),
        ]

        assert (first.status, first.headers["etag"]) == (again.status, again.headers["etag"]) == (201, '"1"')
        assert [(answer.status, answer.code) for answer in other] == [(422, "key_reused")] * 5

    serve(test)


@pytest.mark.parametrize(
    ("result", "status", "retryable"),
    [
        (NotApplied("no_primary", "nobody leads"), 503, True),
        (NotApplied("not_enough_copies", "1 of 2"), 503, True),
        (NotApplied("overloaded", "full"), 503, True),
        (NotApplied("disk_full", "full"), 507, True),
        (NotApplied("version_mismatch", "it is 7"), 412, False),
        (NotApplied("key_reused", "twice"), 422, False),
        (Unknown(3), 504, True),
    ],
)
def test_a_result_without_success_is_a_problem_with_its_code(result: Result, status: int, retryable: bool) -> None:
    async def test(edge: EdgeUnderTest) -> None:
        edge.driver.failures.append(result)
        answer = await edge.ask("PUT", PATH, b"x")

        code = result.code if isinstance(result, NotApplied) else "outcome_unknown"
        assert (answer.status, answer.code, answer.json["retryable"]) == (status, code, retryable)
        assert answer.headers["ringkeep-shard"] == str(shard_of("ada", 16))
        assert answer.headers["ringkeep-epoch"] == "1"
        assert ("retry-after" in answer.headers) == (code in ("overloaded", "disk_full"))

    serve(test)


def test_the_deadline_of_the_client_reaches_the_node() -> None:
    async def test(edge: EdgeUnderTest) -> None:
        for timeout in ("0.25", "60", "1.500"):
            await edge.ask("PUT", PATH, b"x", Ringkeep_Timeout=timeout)
        await edge.ask("GET", PATH)

        assert [timeout_s for _, _, timeout_s in edge.driver.seen] == [0.25, 60.0, 1.5, 5.0]

    serve(test)


def test_a_change_is_made_although_its_client_hung_up() -> None:
    async def test(edge: EdgeUnderTest) -> None:
        edge.driver.held_back = asyncio.Event()
        wire = await edge.connect()
        await wire.send(request("PUT", PATH, b"x"))
        await until(lambda: edge.driver.seen)
        wire.hang_up()
        await until(lambda: edge.server.connections[0].transport is None)
        edge.driver.held_back.set()
        await until(lambda: not edge.server.connections)

        assert edge.driver.documents == {("ada", "notes/1"): b"x"}

    serve(test)


def test_a_list_is_sorted_by_bytes_and_read_page_by_page() -> None:
    async def test(edge: EdgeUnderTest) -> None:
        for key in ("b", "a/2", "a/1", "%C3%BC", "z"):
            await edge.ask("PUT", f"/v1/users/ada/docs/{key}", b"x" * 3, Content_Type="text/plain")
        first = await edge.ask("GET", "/v1/users/ada/docs?limit=2")
        second = await edge.ask("GET", "/v1/users/ada/docs?limit=3&after=a/2")
        prefixed = await edge.ask("GET", "/v1/users/ada/docs?prefix=a%2F")
        nobody = await edge.ask("GET", "/v1/users/bob/docs")

        assert first.json == {
            "docs": [
                {
                    "key": f"a/{number}",
                    "version": version,
                    "content_type": "text/plain",
                    "bytes": 3,
                    "modified": "2026-01-01T00:00:00.250Z",
                }
                for number, version in ((1, 3), (2, 2))
            ],
            "next": "a/2",
        }
        assert ([row["key"] for row in second.json["docs"]], second.json["next"]) == (["b", "z", "ü"], None)
        assert [row["key"] for row in prefixed.json["docs"]] == ["a/1", "a/2"]
        assert nobody.json == {"docs": [], "next": None}

    serve(test)


def test_a_list_shows_values_as_json_where_they_are_json_and_in_base64_elsewhere() -> None:
    async def test(edge: EdgeUnderTest) -> None:
        stored = [
            ("a", b'{"n": 1.0}', "application/json; charset=utf-8"),
            ("b", b"\xff", "image/png"),
            ("c", b"{broken", "application/json"),
            ("d", b'"\xff"', "application/json"),
            ("e", b"[" * 5000, "application/json"),
        ]
        for key, value, content_type in stored:
            await edge.ask("PUT", f"/v1/users/ada/docs/{key}", value, Content_Type=content_type)
        listed = await edge.ask("GET", "/v1/users/ada/docs?values=true")

        assert [row.get("value", row.get("value_b64", "")[:12]) for row in listed.json["docs"]] == [
            {"n": 1.0},
            "/w==",
            "e2Jyb2tlbg==",
            "Iv8i",
            "W1tbW1tbW1tb",
        ]

    serve(test)


def test_a_route_names_the_primary_and_every_copy() -> None:
    async def test(edge: EdgeUnderTest) -> None:
        answer = await edge.ask("GET", "/v1/users/ada/route")
        shard_map = edge.driver.shard_map
        assert shard_map is not None
        shard = shard_map.shards[shard_of("ada", 16)]
        members = shard_map.members

        assert answer.json == {
            "user": "ada",
            "hash": f"{user_hash('ada'):016x}",
            "shard": shard_of("ada", 16),
            "epoch": 1,
            "version": shard_map.version,
            "primary": {"name": members[shard.primary.storage].name, "url": members[shard.primary.storage].url},
            "in_sync": [
                {"name": members[copy.storage].name, "url": members[copy.storage].url} for copy in shard.in_sync
            ],
        }

    serve(test)


def test_a_node_in_no_cluster_refuses_documents_and_says_why() -> None:
    async def test(edge: EdgeUnderTest) -> None:
        answers = [
            await edge.ask("PUT", PATH, b"x"),
            await edge.ask("GET", PATH),
            await edge.ask("DELETE", PATH),
            await edge.ask("GET", "/v1/users/ada/docs"),
            await edge.ask("GET", "/v1/users/ada/route"),
            await edge.ask("POST", "/v1/import", b"{}\n"),
            await edge.ask("GET", "/v1/cluster/map"),
        ]

        assert [(answer.status, answer.code) for answer in answers] == [(503, "no_primary")] * 7
        assert answers[0].json["detail"] == "this node belongs to no cluster yet"

    serve(test, EdgeUnderTest(FakeDriver(founded=False)))


def test_wall_time_and_conditions_reach_replication() -> None:
    async def test(edge: EdgeUnderTest) -> None:
        await edge.ask("PUT", PATH, b"x", If_None_Match="*", Content_Type="a/b")
        _, seen, _ = edge.driver.seen[0]

        assert isinstance(seen, WriteRequest)
        assert (seen.wall_ms, seen.if_match, seen.if_none_match) == (1_767_225_600_250, None, ())
        assert (seen.operation, seen.idempotency, seen.imported) == (None, None, False)

    serve(test)


def test_requests_on_one_connection_are_answered_in_order() -> None:
    async def test(edge: EdgeUnderTest) -> None:
        wire = await edge.connect()
        await wire.send(
            request("PUT", PATH, b"one") + request("GET", PATH) + request("GET", "/nowhere") + request("DELETE", PATH)
        )
        answers = [await wire.answer() for _ in range(4)]

        assert [answer.status for answer in answers] == [201, 200, 404, 204]

    serve(test)


def test_an_unexpected_failure_ends_one_request_and_is_reported() -> None:
    async def test(edge: EdgeUnderTest) -> None:
        failure = RuntimeError("broken")
        edge.driver.failures.append(failure)
        answer = await edge.ask("GET", PATH)
        after = await edge.ask("PUT", PATH, b"x")
        reported, edge.failures = edge.failures, []

        assert (answer.status, answer.code, after.status) == (500, "internal", 201)
        assert "broken" not in answer.json["detail"]
        assert reported == [failure]

    serve(test)
