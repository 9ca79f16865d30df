"""Two of three real nodes are lost with their disks: the cluster goes on from the third (counterexamples.md L8)."""

from __future__ import annotations

import pytest

from ringkeep.async_client import AsyncClient
from ringkeep.demo import verify
from ringkeep.demo.writer import RecordingWriter
from ringkeep.launcher import LauncherError
from ringkeep_core.shardmap import GENERATION_STEP
from ringkeep_testing.real_cluster import RealCluster, local_documents, run, until

SHARDS = 32


async def _written(writer: RecordingWriter, count: int) -> None:
    async def ask() -> bool | None:
        return True if len(writer.acknowledged) >= count else None

    await until(ask, f"{count} writes are acknowledged")


async def _kept(client: AsyncClient, writer: RecordingWriter) -> set[tuple[str, str]]:
    """Return every document of the writer that the one copy shows, though it may confirm nothing."""
    return {(user, key) for user in writer.users for key in await local_documents(client, user)}


def test_everything_acknowledged_is_read_back_after_a_recovery_from_one_of_three_and_copies_are_three_again(
    cluster: RealCluster,
) -> None:
    async def story() -> None:
        await cluster.up(3, shards=SHARDS)
        async with cluster.client() as client:
            writer = RecordingWriter(client, writers=8, pace_s=0.01)
            writer.start()
            await _written(writer, 200)
            with pytest.raises(LauncherError, match="n2, n3 still run"):
                await cluster.launcher.recover("n1")
            cluster.kill("n2", "n3")
            await writer.cancel()
        with pytest.raises(LauncherError, match="3 of 3 voters are there"):
            await cluster.launcher.recover("n1")
        async with cluster.gateway("n1") as client:
            await client.read("/livez")  # It was started again, for nothing was changed.
        with pytest.raises(LauncherError, match="in use by another process"):
            cluster.launcher._nodes.recover(cluster.record, "n1", [])
        cluster.empty("n2")
        cluster.empty("n3")

        begun = await cluster.launcher.recover("n1")
        async with cluster.gateway("n1") as client:
            alone = await _kept(client, writer)
        told = [event["text"] for event in await cluster.events("n1") if event["kind"] == "recover"]
        await cluster.up()
        shard_map = await cluster.settled()
        async with cluster.client() as client:
            found = await verify.writes(client, writer.acknowledged, lambda count: None)
        await cluster.serves()
        followed = [line for line in cluster.log_lines("n1") if line["event"] == "generation_begun"]

        acknowledged = {(write.user, write.key) for write in writer.acknowledged}
        assert (begun.generation, begun.shards, begun.absent) == (2, SHARDS, ())
        # What it had not heard to be committed is in its log, and shows when the shard takes writes again.
        assert len(alone & acknowledged) > 100
        assert told == [
            f"generation 2 begins: the majority of the voters is lost; n1 goes on from version {begun.former_version}"
        ]
        assert [(line["generation"], line["former_version"]) for line in followed] == [(2, begun.former_version)]
        assert found.wrong == () and found.checked >= 200
        assert shard_map.version // GENERATION_STEP == 2
        assert all({copy.name for copy in shard.in_sync} == {"n1", "n2", "n3"} for shard in shard_map.shards)

    run(story())


def test_a_node_that_does_not_vote_and_one_that_has_no_data_are_not_recovered_from(cluster: RealCluster) -> None:
    async def story() -> None:
        await cluster.up(4, shards=SHARDS)
        cluster.kill(*cluster.names)
        with pytest.raises(LauncherError, match="n4 cannot begin a new generation: this node is not a voter"):
            await cluster.launcher.recover("n4")
        cluster.empty("n3")
        with pytest.raises(LauncherError, match="n3 cannot begin a new generation: there is no node's data"):
            await cluster.launcher.recover("n3")
        await cluster.up()
        await cluster.serves()

        assert not any(
            line["event"] == "generation_begun" for name in cluster.names for line in cluster.log_lines(name)
        )

    run(story())
