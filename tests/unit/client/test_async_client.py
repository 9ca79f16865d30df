"""The asynchronous client against a fake cluster with faults on demand."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace

import pytest

from ringkeep import AsyncClient, RetryPolicy
from ringkeep.answers import Document, ImportProblem, ImportResult
from ringkeep.errors import (
    KeyReused,
    NoPrimary,
    NotFound,
    OutcomeUnknown,
    ProblemAnswer,
    Unavailable,
    UnexpectedAnswer,
    VersionMismatch,
)
from ringkeep.routing import AVOID_SILENT_S
from ringkeep_testing.fake_cluster import FakeCluster, Fault

# Nothing here waits for as long as this: only an answer that never comes may end an attempt, not a busy machine.
PATIENT_S = 60.0
PATIENT = RetryPolicy(attempt_s=PATIENT_S, connect_s=PATIENT_S, pause_first_s=0.001, pause_max_s=0.002)
# For nodes that hang. An attempt that is given up too early on a busy machine must not matter to these tests.
QUICK = replace(PATIENT, attempt_s=0.1)
# Longer than any deadline: an answer that asks for this pause is the last one of its call.
NEVER_S = 3600


def run(
    test: Callable[[FakeCluster, AsyncClient], Awaitable[None]], *, nodes: int = 3, policy: RetryPolicy = PATIENT
) -> None:
    async def whole() -> None:
        async with (
            FakeCluster(nodes=nodes) as cluster,
            AsyncClient(cluster.urls, policy=policy, timeout_s=PATIENT_S) as client,
        ):
            await test(cluster, client)

    asyncio.run(whole())


def test_a_document_can_be_put_got_headed_listed_and_deleted() -> None:
    async def test(cluster: FakeCluster, client: AsyncClient) -> None:
        first = await client.put("ada/ü", "notes/1 %", b"one", content_type="text/x")
        second = await client.put("ada/ü", "notes/1 %", "two")
        document = await client.get("ada/ü", "notes/1 %")
        info = await client.head("ada/ü", "notes/1 %")
        listed = [row.key async for row in client.list("ada/ü")]
        await client.delete("ada/ü", "notes/1 %")

        assert (first.version, first.created, second.version, second.created) == (1, True, 2, False)
        assert document == Document(b"two", "text/plain; charset=utf-8", 2)
        assert (info.version, info.bytes, info.content_type) == (2, 3, "text/plain; charset=utf-8")
        assert listed == ["notes/1 %"]
        with pytest.raises(NotFound):
            await client.get("ada/ü", "notes/1 %")
        with pytest.raises(NotFound):
            await client.head("ada/ü", "notes/1 %")

    run(test)


def test_with_a_map_every_request_goes_straight_to_the_primary() -> None:
    async def test(cluster: FakeCluster, client: AsyncClient) -> None:
        await client.map()
        users = [cluster.user_of(name, skip=skip) for name in cluster.nodes for skip in range(3)]
        for user in users:
            await client.put(user, "k", b"v")

        assert [seen.node for seen in cluster.seen if seen.method == "PUT"] == [cluster.primary_of(u) for u in users]

    run(test)


def test_an_answer_of_a_newer_epoch_makes_the_client_fetch_the_map() -> None:
    async def test(cluster: FakeCluster, client: AsyncClient) -> None:
        await client.map()
        user = cluster.user_of("n1")
        cluster.move_primary(user, "n2")
        await client.put(user, "before", b"v")
        for _ in range(10_000):
            if client.routing_version == cluster.version:
                break
            await asyncio.sleep(0.005)
        await client.put(user, "after", b"v")

        assert [seen.node for seen in cluster.seen if seen.method == "PUT"] == ["n1", "n2"]

    run(test)


def test_without_direct_only_the_given_addresses_are_used() -> None:
    async def whole() -> None:
        async with FakeCluster() as cluster, AsyncClient(cluster.urls[0], direct=False, policy=PATIENT) as client:
            await client.map()
            for skip in range(4):
                await client.put(cluster.user_of("n2", skip=skip), "k", b"v")

            assert {seen.node for seen in cluster.seen} == {"n1"}

    asyncio.run(whole())


@pytest.mark.parametrize("fault", list(Fault))
def test_a_change_is_applied_exactly_once_whatever_happens_to_its_first_attempts(fault: Fault) -> None:
    async def test(cluster: FakeCluster, client: AsyncClient) -> None:
        await client.map()
        user = cluster.user_of("n1")
        for name in cluster.nodes:
            cluster.inject(name, fault)
        written = await client.put(user, "k", b"v", if_absent=True)
        keys = {seen.idempotency_key for seen in cluster.seen if seen.method == "PUT"}

        assert (written.created, cluster.applied, len(keys)) == (True, 1, 1)
        assert None not in keys

    run(test, policy=QUICK)


def test_every_change_has_an_idempotency_key_of_its_own() -> None:
    async def test(cluster: FakeCluster, client: AsyncClient) -> None:
        await client.put("ada", "k", b"v")
        await client.put("ada", "k", b"w")
        await client.delete("ada", "k")
        keys = [seen.idempotency_key for seen in cluster.seen if seen.method in ("PUT", "DELETE")]

        assert len(set(keys)) == 3
        assert None not in keys

    run(test)


def test_a_repeat_under_the_callers_own_key_changes_nothing_and_another_request_under_it_is_refused() -> None:
    async def test(cluster: FakeCluster, client: AsyncClient) -> None:
        first = await client.put("ada", "k", b"v", idempotency_key="mine")
        again = await client.put("ada", "k", b"v", idempotency_key="mine")

        assert (again.version, again.created, cluster.applied) == (first.version, first.created, 1)
        with pytest.raises(KeyReused):
            await client.put("ada", "k", b"other", idempotency_key="mine")

    run(test)


def test_a_dead_node_costs_a_retry_and_not_an_error() -> None:
    async def test(cluster: FakeCluster, client: AsyncClient) -> None:
        await client.map()
        user = cluster.user_of("n1")
        await client.put(user, "k", b"v")
        await cluster.stop("n1")
        written = await client.put(user, "k", b"w")
        document = await client.get(user, "k")

        assert (written.created, document.value, cluster.applied) == (False, b"w", 2)

    run(test)


def test_a_node_that_hangs_costs_one_attempt_and_not_one_for_each_call() -> None:
    async def test(cluster: FakeCluster, client: AsyncClient) -> None:
        await client.map()
        user = cluster.user_of("n1")
        cluster.inject("n1", *[Fault.HANG] * 1000)
        begun = asyncio.get_running_loop().time()
        for number in range(5):
            await client.put(user, str(number), b"v")
        took_s = asyncio.get_running_loop().time() - begun

        assert 1 <= len(cluster.seen_by("n1", "PUT")) <= 1 + took_s // AVOID_SILENT_S

    run(test, policy=QUICK)


def test_a_refusal_until_the_deadline_is_raised_as_what_it_was() -> None:
    async def test(cluster: FakeCluster, client: AsyncClient) -> None:
        cluster.retry_after_s = NEVER_S
        for name in cluster.nodes:
            cluster.inject(name, Fault.REFUSE)
        with pytest.raises(NoPrimary) as caught:
            await client.put("ada", "k", b"v")

        assert isinstance(caught.value.__cause__, ProblemAnswer)
        assert (caught.value.__cause__.status, cluster.applied) == (503, 0)

    run(test)


def test_one_unknown_attempt_makes_the_whole_change_unknown_even_if_later_ones_were_refused() -> None:
    async def test(cluster: FakeCluster, client: AsyncClient) -> None:
        cluster.inject("n1", Fault.DROP_AFTER, Fault.REFUSE)
        cluster.retry_after_s = NEVER_S
        with pytest.raises(OutcomeUnknown):
            await client.put("ada", "k", b"v")

        assert cluster.applied == 1

    run(test, nodes=1)


def test_a_read_that_nobody_answers_is_unavailable() -> None:
    async def test(cluster: FakeCluster, client: AsyncClient) -> None:
        for name in cluster.nodes:
            await cluster.stop(name)
        with pytest.raises(Unavailable):
            await client.get("ada", "k", timeout_s=0.5)
        with pytest.raises(Unavailable):
            await client.put("ada", "k", b"v", timeout_s=0.5)

    run(test)


def test_a_failed_precondition_is_not_retried() -> None:
    async def test(cluster: FakeCluster, client: AsyncClient) -> None:
        written = await client.put("ada", "k", b"v")
        with pytest.raises(VersionMismatch):
            await client.put("ada", "k", b"w", if_version=written.version + 1)
        with pytest.raises(VersionMismatch):
            await client.delete("ada", "k", if_version=written.version + 1)
        replaced = await client.put("ada", "k", b"w", if_version=written.version)

        assert (replaced.created, len([seen for seen in cluster.seen if seen.method == "PUT"])) == (False, 3)

    run(test)


def test_an_attempt_tells_the_node_how_long_it_may_take() -> None:
    async def test(cluster: FakeCluster, client: AsyncClient) -> None:
        await client.put("ada", "k", b"v", timeout_s=20)
        await client.put("ada", "k", b"v", timeout_s=60)
        timeouts = [seen.timeout_s for seen in cluster.seen if seen.method == "PUT"]

        assert 0 < timeouts[0] <= 20
        assert timeouts[1] == 30

    run(test, policy=replace(PATIENT, attempt_s=30.0))


def test_something_that_is_not_ringkeep_is_said_to_be_so() -> None:
    async def test(cluster: FakeCluster, client: AsyncClient) -> None:
        cluster.retry_after_s = NEVER_S
        cluster.inject("n1", Fault.PROXY)
        with pytest.raises(UnexpectedAnswer):
            await client.get("ada", "k")

    run(test, nodes=1)


def test_a_listing_walks_over_all_pages() -> None:
    async def test(cluster: FakeCluster, client: AsyncClient) -> None:
        for number in range(25):
            await client.put("ada", f"a/{number:02}", b"v")
        await client.put("ada", "b", b'{"n": 1}', content_type="application/json")
        keys = [row.key async for row in client.list("ada", page_size=10)]
        some = [row.key async for row in client.list("ada", prefix="a/2", after="a/21")]
        values = [row.value async for row in client.list("ada", prefix="b", values=True)]

        assert keys == [*(f"a/{number:02}" for number in range(25)), "b"]
        assert some == ["a/22", "a/23", "a/24"]
        assert values == [{"n": 1}]

    run(test)


def test_a_local_read_carries_its_lag() -> None:
    async def test(cluster: FakeCluster, client: AsyncClient) -> None:
        await client.put("ada", "k", b"v")
        document = await client.get("ada", "k", consistency="local")

        assert (document.value, document.lag) == (b"v", 3)

    run(test)


def test_the_cluster_can_be_asked_about_itself() -> None:
    async def test(cluster: FakeCluster, client: AsyncClient) -> None:
        members = await client.members()
        leader = await client.leader()
        wanted = await client.wanted()
        route = await client.route("ada")
        shard_map = await client.map()

        assert [(member.name, member.state) for member in members] == [
            ("n1", "alive"),
            ("n2", "alive"),
            ("n3", "alive"),
        ]
        assert (leader.name, leader.term, wanted["revision"]) == ("n1", 3, 1)
        assert route.primary is not None
        assert (route.primary.name, len(route.in_sync)) == (cluster.primary_of("ada"), 3)
        assert (shard_map.version, len(shard_map.shards)) == (10, 16)

    run(test)


def _line(user: str, number: int) -> bytes:
    return b'{"user":"%b","key":"%d","value":%d}\n' % (user.encode(), number, number)


def test_an_import_stores_every_line_at_its_primary_and_tells_its_progress() -> None:
    async def test(cluster: FakeCluster, client: AsyncClient) -> None:
        told: list[ImportResult] = []

        async def lines() -> AsyncIterator[bytes]:
            for number in range(100):
                yield _line(f"user-{number % 10}", number)
                yield b"\n"

        result = await client.import_lines(lines(), chunk_lines=7, on_progress=told.append)

        assert result == ImportResult(lines=100, stored=100)
        assert told[-1] == result
        assert len(cluster.documents) == 100
        assert {seen.node for seen in cluster.seen if seen.path == "/v1/import"} == {"n1", "n2", "n3"}

    run(test)


def test_an_import_names_bad_lines_by_their_number_in_the_stream_and_stores_the_others() -> None:
    async def test(cluster: FakeCluster, client: AsyncClient) -> None:
        lines = [_line("ada", 1), b"", b"nonsense", _line("bob", 2), b'{"user":"x"}', _line("eve", 3)]
        result = await client.import_lines(lines, chunk_lines=2)

        assert (result.lines, result.stored, result.failed) == (5, 3, 2)
        assert [(problem.line, problem.code) for problem in result.errors] == [(3, "bad_request"), (5, "bad_request")]

    run(test)


def test_an_import_sends_lines_again_that_failed_for_a_passing_reason() -> None:
    async def test(cluster: FakeCluster, client: AsyncClient) -> None:
        cluster.bad_import_lines = {b'"key":"5"': ("no_primary", 2), b'"key":"6"': ("too_large", 1)}
        cluster.inject("n2", Fault.DROP_AFTER, Fault.REFUSE)
        result = await client.import_lines([_line(f"user-{n}", n) for n in range(50)], chunk_lines=5)

        assert result == ImportResult(50, 49, 1, (ImportProblem(7, "too_large", result.errors[0].detail),))
        assert len(cluster.documents) == 49

    run(test)


def test_an_import_of_nothing_stores_nothing() -> None:
    async def test(cluster: FakeCluster, client: AsyncClient) -> None:
        assert await client.import_lines([]) == ImportResult()

    run(test)


def test_an_import_into_a_dead_cluster_fails_with_one_plain_error() -> None:
    async def test(cluster: FakeCluster, client: AsyncClient) -> None:
        await client.map()
        for name in cluster.nodes:
            await cluster.stop(name)
        with pytest.raises(Unavailable):
            await client.import_lines([_line("ada", 1)], timeout_s=0.5)

    run(test)
