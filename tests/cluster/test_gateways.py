"""Any node answers for any user, and a change that is sent twice is made once, whichever way it comes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import msgspec

from ringkeep.errors import KeyReused, OutcomeUnknown, VersionMismatch
from ringkeep_testing.real_cluster import RealCluster, run, users_led_by

SHARDS = 16


def test_any_node_answers_for_any_user(cluster: RealCluster) -> None:
    users = [f"user-{number}" for number in range(40)]

    async def story() -> None:
        await cluster.up(3, shards=SHARDS)
        routes = set()
        for number, user in enumerate(users):
            async with cluster.gateway(cluster.names[number % 3]) as client:
                await client.put(user, "d", f"of {user}")
        for name in cluster.names:
            async with cluster.gateway(name) as client:
                found = await asyncio.gather(*(client.get(user, "d") for user in users))
                heads = await asyncio.gather(*(client.head(user, "d") for user in users))
                listed = [[row.key async for row in client.list(user)] for user in users]
                routes.add(msgspec.json.encode([await client.route(user) for user in users]))

            assert [document.value for document in found] == [f"of {user}".encode() for user in users]
            assert [head.version for head in heads] == [document.version for document in found]
            assert listed == [["d"]] * len(users)
        assert len(routes) == 1

    run(story())


def test_a_conditional_change_repeated_through_other_nodes_is_made_once(cluster: RealCluster) -> None:
    async def story() -> None:
        await cluster.up(3, shards=SHARDS)
        one, two, three = (cluster.gateway(name) for name in cluster.names)
        async with one, two, three:
            made = await one.put("ann", "d", "1", if_absent=True, idempotency_key="first")
            again = [
                await other.put("ann", "d", "1", if_absent=True, idempotency_key="first") for other in (two, three)
            ]
            changed = await two.put("ann", "d", "2", if_version=made.version, idempotency_key="second")
            repeated = await three.put("ann", "d", "2", if_version=made.version, idempotency_key="second")
            refused = [
                await _refusal(lambda: three.put("ann", "d", "3", if_version=made.version)),
                await _refusal(lambda: one.put("ann", "d", "3", if_absent=True)),
                await _refusal(lambda: two.put("ann", "d", "other", idempotency_key="first")),
            ]
            await three.delete("ann", "d", idempotency_key="third")
            await one.put("ann", "d", "4")
            await two.delete("ann", "d", idempotency_key="third")
            left = await three.get("ann", "d")

        assert [(write.version, write.created) for write in again] == [(made.version, True)] * 2
        assert (repeated.version, repeated.created) == (changed.version, False)
        assert refused == [VersionMismatch.code, VersionMismatch.code, KeyReused.code]
        assert left.value == b"4"

    run(story())


def test_a_change_repeated_through_another_node_after_a_failover_is_made_once(cluster: RealCluster) -> None:
    """The first attempt hangs at a paused primary; the second is answered by its successor; then the first goes on."""

    async def story() -> None:
        await cluster.up(3, shards=SHARDS)
        async with cluster.client() as client:
            shard_map = await client.map()
        primary, gateway, other = cluster.names
        users = users_led_by(shard_map, primary, 5)
        through, elsewhere = cluster.gateway(gateway), cluster.gateway(other)
        async with through, elsewhere:
            await asyncio.gather(*(through.put(user, "d", "0") for user in users))
            cluster.pause(primary)
            unknown = await asyncio.gather(
                *(through.put(user, "d", "1", idempotency_key=f"{user}/1", timeout_s=0.5) for user in users),
                return_exceptions=True,
            )
            done = await asyncio.gather(*(elsewhere.put(user, "d", "1", idempotency_key=f"{user}/1") for user in users))
            later = await asyncio.gather(*(elsewhere.put(user, "d", "2") for user in users))
            cluster.resume(primary)
            await cluster.settled()
            repeated = await asyncio.gather(
                *(through.put(user, "d", "1", idempotency_key=f"{user}/1") for user in users)
            )
            found = await asyncio.gather(*(through.get(user, "d") for user in users))

        assert all(isinstance(outcome, OutcomeUnknown) for outcome in unknown)
        assert [write.version for write in repeated] == [write.version for write in done]
        assert [(document.value, document.version) for document in found] == [(b"2", write.version) for write in later]

    run(story())


def test_no_write_is_acknowledged_that_the_copies_in_sync_have_not_taken(cluster: RealCluster) -> None:
    """Both other copies hang, so nobody can shrink the set; what was not acknowledged may be there or not afterwards."""

    async def story() -> None:
        await cluster.up(3, shards=SHARDS)
        async with cluster.client() as client:
            users = users_led_by(await client.map(), "n1", 5)
        async with cluster.gateway("n1") as client:
            await asyncio.gather(*(client.put(user, "d", "1") for user in users))
            for name in ("n2", "n3"):
                cluster.pause(name)
            hanging = await asyncio.gather(
                *(client.put(user, "d", "2", timeout_s=1.0) for user in users), return_exceptions=True
            )
            for name in ("n2", "n3"):
                cluster.resume(name)
            found = await asyncio.gather(*(client.get(user, "d") for user in users))

        assert all(isinstance(outcome, OutcomeUnknown) for outcome in hanging)
        assert {document.value for document in found} <= {b"1", b"2"}

    run(story())


def test_a_client_that_knows_one_dead_and_one_live_node_is_served(cluster: RealCluster) -> None:
    async def story() -> None:
        await cluster.up(3, shards=SHARDS)
        cluster.kill("n1")
        async with cluster.client("n1", "n2") as client:
            written = await client.put("ann", "d", "1")
            found = await client.get("ann", "d")

        assert (found.value, found.version) == (b"1", written.version)

    run(story())


def test_a_write_below_the_needed_copies_is_refused_and_goes_through_when_they_are_back(cluster: RealCluster) -> None:
    async def story() -> None:
        await cluster.up(3, shards=SHARDS)
        async with cluster.client() as client:
            await client.put("ann", "d", "1")
            cluster.kill("n2", "n3")
            waiting = asyncio.create_task(client.put("ann", "d", "2"))
            await asyncio.sleep(1.0)
            too_early = waiting.done()
            cluster.start("n2")
            written = await waiting
            found = await client.get("ann", "d")

        assert not too_early
        assert (found.value, found.version) == (b"2", written.version)

    run(story())


async def _refusal(change: Callable[[], Awaitable[object]]) -> str:
    try:
        await change()
    except (VersionMismatch, KeyReused) as error:
        return error.code
    return "made"
