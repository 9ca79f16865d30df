"""Nodes are killed and started again under load: nothing that was acknowledged may be missing afterwards."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence

import pytest

from ringkeep.answers import ShardMap
from ringkeep.demo import verify
from ringkeep.demo.recovery import busiest_primary
from ringkeep.demo.writer import Acknowledged, RecordingWriter
from ringkeep_testing.real_cluster import RealCluster, equal_copies, import_lines, imported, run, until

WRITERS = 12
PACE_S = 0.03
SHARDS = 32


async def _written(writer: RecordingWriter, count: int) -> None:
    """Return when so many more writes are acknowledged."""
    wanted = len(writer.acknowledged) + count

    async def ask() -> bool | None:
        return True if len(writer.acknowledged) >= wanted else None

    await until(ask, f"{count} more writes are acknowledged")


async def _missing(cluster: RealCluster, acknowledged: Sequence[Acknowledged]) -> list[str]:
    """Return one sentence for each acknowledged write that a node does not give back by a strict read."""
    wrong: list[str] = []
    for name in cluster.names:
        async with cluster.gateway(name) as client:
            verdict = await verify.writes(client, acknowledged, lambda _: None)
        wrong += [f"through {name}: {complaint}" for complaint in verdict.wrong]
    return wrong


async def _nothing_is_lost(cluster: RealCluster, writer: RecordingWriter) -> ShardMap:
    """Stop the writers, wait until every copy is back, and look for every write at every node."""
    await writer.stop()
    shard_map = await cluster.settled()
    missing = await _missing(cluster, writer.acknowledged)
    acknowledged = {(write.user, write.key) for write in writer.acknowledged}

    async def every_copy_has_them() -> bool | None:
        # What a copy has on its disk it shows a little later: just after a start all may equally show nothing.
        copies = await equal_copies(cluster, writer.users)
        kept = {(user, key) for user, documents in copies.items() for key in documents}
        return True if acknowledged <= kept else None

    assert missing == []
    await until(every_copy_has_them, "every copy shows every acknowledged write")
    assert writer.failed == []
    assert await cluster.error_lines() == []
    return shard_map


def test_no_acknowledged_write_is_lost_when_the_busiest_node_dies_and_comes_back(cluster: RealCluster) -> None:
    async def story() -> None:
        await cluster.up(3, shards=SHARDS)
        async with cluster.client() as client:
            writer = RecordingWriter(client, writers=WRITERS, pace_s=PACE_S)
            writer.start()
            await _written(writer, 100)
            victim, led = busiest_primary(await client.map())
            cluster.kill(victim)
            await _written(writer, 300)
            survivor = next(name for name in cluster.names if name != victim)
            alone = await cluster.left_in_sync(victim, at=survivor)
            await cluster.restart(victim)
            await _written(writer, 100)
            shard_map = await _nothing_is_lost(cluster, writer)

        epochs = {shard.shard: shard.epoch for shard in alone.shards}
        assert all(epochs[shard] > epoch for shard, epoch in led.items())
        assert all({copy.name for copy in shard.in_sync} == set(cluster.names) for shard in shard_map.shards)

    run(story())


def test_the_cluster_elects_another_leader_and_goes_on_when_the_leader_dies(cluster: RealCluster) -> None:
    async def story() -> None:
        await cluster.up(3, shards=SHARDS)
        async with cluster.client() as client:
            writer = RecordingWriter(client, writers=WRITERS, pace_s=PACE_S)
            writer.start()
            await _written(writer, 50)
            first = await cluster.leader()
            cluster.kill(first)
            second = await cluster.leader(without=first)
            await _written(writer, 200)
            await cluster.restart(first)
            await _nothing_is_lost(cluster, writer)

        assert second != first

    run(story())


def test_no_acknowledged_write_is_lost_when_all_nodes_die_at_once(cluster: RealCluster) -> None:
    async def story() -> None:
        before = await cluster.up(3, shards=SHARDS)
        async with cluster.client() as client:
            writer = RecordingWriter(client, writers=WRITERS, pace_s=0.0)
            writer.start()
            await _written(writer, 300)
            cluster.kill(*cluster.names)
            after = await cluster.up()
            await _written(writer, 100)
            await _nothing_is_lost(cluster, writer)

        assert after.cluster_id == before.cluster_id

    run(story())


def test_a_node_that_restarts_faster_than_anybody_notices_loses_nothing(cluster: RealCluster) -> None:
    async def story() -> None:
        await cluster.up(3, shards=SHARDS)
        async with cluster.client() as client:
            writer = RecordingWriter(client, writers=WRITERS, pace_s=PACE_S)
            writer.start()
            for _ in range(3):
                await _written(writer, 50)
                victim, _ = busiest_primary(await client.map())
                cluster.kill(victim)
                cluster.start(victim)
                await _written(writer, 50)
            await _nothing_is_lost(cluster, writer)

    run(story())


def test_a_rolling_restart_loses_nothing_and_no_request_fails(cluster: RealCluster) -> None:
    async def story() -> None:
        await cluster.up(3, shards=SHARDS)
        async with cluster.client() as client:
            writer = RecordingWriter(client, writers=WRITERS, pace_s=PACE_S)
            writer.start()
            added = {(copy.name, copy.added) for copy in (await client.map()).shards[0].in_sync}
            for name in cluster.names:
                await _written(writer, 50)
                await cluster.restart(name)
                await cluster.settled(at=name)
            shard_map = await _nothing_is_lost(cluster, writer)
        ends = [line["event"] for name in cluster.names for line in cluster.log_lines(name)]

        assert {(copy.name, copy.added) for copy in shard_map.shards[0].in_sync} == added
        assert ends.count("node_stopped") == len(cluster.names)
        assert "node_failed" not in ends

    run(story())


def test_a_node_whose_directory_was_emptied_is_rebuilt_as_another_storage(cluster: RealCluster) -> None:
    async def story() -> None:
        await cluster.up(3, shards=SHARDS)
        async with cluster.client() as client:
            writer = RecordingWriter(client, writers=WRITERS, pace_s=PACE_S)
            writer.start()
            await _written(writer, 200)
            before = {member.name: member.storage_id for member in (await client.map()).members}
            cluster.kill("n2")
            cluster.empty("n2")
            cluster.start("n2")
            await _written(writer, 200)

            async def replaced() -> bool | None:
                members = {member.name: member.storage_id for member in (await client.map()).members}
                return True if members["n2"] != before["n2"] else None

            await until(replaced, "the name n2 stands for another storage")
            shard_map = await _nothing_is_lost(cluster, writer)
            after = {member.name: member.storage_id for member in shard_map.members}
            async with cluster.gateway("n2") as rebuilt, cluster.gateway("n1") as voter:
                leaders = [await rebuilt.leader(), await voter.leader()]

        assert leaders[0] == leaders[1]
        assert {name for name in before if before[name] != after[name]} == {"n2"}
        assert all({copy.storage_id for copy in shard.in_sync} == set(after.values()) for shard in shard_map.shards)

    run(story())


@pytest.mark.parametrize(("nodes", "min_in_sync"), [(1, 1), (2, 2), (5, 2)])
def test_a_cluster_of_any_size_serves_and_keeps_what_it_acknowledged(
    cluster: RealCluster, nodes: int, min_in_sync: int
) -> None:
    async def story() -> None:
        await cluster.up(nodes, shards=SHARDS, min_in_sync=min_in_sync)
        async with cluster.client() as client:
            writer = RecordingWriter(client, writers=WRITERS, pace_s=PACE_S)
            writer.start()
            await _written(writer, 100)
            victim, _ = busiest_primary(await client.map())
            cluster.kill(victim)
            if nodes == 5:
                await _written(writer, 100)
            await cluster.restart(victim)
            await _written(writer, 100)
            await writer.stop()
            await cluster.settled()
            missing = await _missing(cluster, writer.acknowledged)

        assert (missing, writer.failed) == ([], [])

    run(story())


def test_an_import_stores_every_line_exactly_once_while_a_node_dies(cluster: RealCluster) -> None:
    lines, users = import_lines(20_000, 100), [f"flyer-{number}" for number in range(100)]

    async def story() -> None:
        await cluster.up(3, shards=SHARDS)
        async with cluster.client() as client:
            victim, _ = busiest_primary(await client.map())
            result = await imported(client, lines, after_lines=3_000, then=lambda: cluster.kill(victim))
            counts = Counter[str]()
            for user in users:
                counts[user] = len([row.key async for row in client.list(user)])
            await cluster.restart(victim)
            await cluster.settled()
            copies = await equal_copies(cluster, users[:10])

        assert (result.lines, result.stored, result.failed) == (len(lines), len(lines), 0)
        assert counts == Counter(dict.fromkeys(users, len(lines) // len(users)))
        assert {len(documents) for documents in copies.values()} == {len(lines) // len(users)}

    run(story())


def test_pages_of_a_listing_continue_across_a_failover(cluster: RealCluster) -> None:
    async def story() -> None:
        await cluster.up(3, shards=SHARDS)
        keys = [f"{number:04}" for number in range(300)]
        async with cluster.client() as client:
            await asyncio.gather(*(client.put("reader", key, f"value {key}") for key in keys))
            route = await client.route("reader")
            seen: list[str] = []
            after: str | None = ""
            while after is not None:
                page = await client.page("reader", after=after, limit=40)
                seen += [row.key for row in page.docs]
                after = page.next
                if len(seen) == 120 and route.primary is not None:
                    cluster.kill(route.primary.name)

        assert seen == keys

    run(story())
