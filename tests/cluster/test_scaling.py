"""Scaling, drains and impossible wishes on real node processes, while a writer writes."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable

import msgspec
import pytest

from ringkeep.answers import Plan, ShardMap
from ringkeep.async_client import AsyncClient
from ringkeep.demo import verify
from ringkeep.demo.writer import RecordingWriter
from ringkeep.membership import Impossible, change_wanted, set_drain, taking_part, until_moved
from ringkeep_testing.real_cluster import RealCluster, run, until

SHARDS = 64


class MapRecorder:
    """Counts the copies that are added, from map to map: an added copy has a version of the map of its own."""

    def __init__(self, client: AsyncClient) -> None:
        self._client = client
        self._task: asyncio.Task[None] | None = None
        self.added: set[tuple[int, str, int]] = set()

    async def __aenter__(self) -> MapRecorder:
        self._before = self._copies(await self._client.map())
        self._task = asyncio.create_task(self._record())
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._task is not None
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        self.added |= self._copies(await self._client.map()) - self._before

    async def _record(self) -> None:
        version = 0
        while True:
            told = await self._client.read(f"/v1/cluster/map?wait_newer_than={version}")
            shard_map = msgspec.json.decode(told, type=ShardMap)
            version = shard_map.version
            self.added |= self._copies(shard_map) - self._before

    @staticmethod
    def _copies(shard_map: ShardMap) -> set[tuple[int, str, int]]:
        """Return shard, storage and version of every copy: a copy that goes and comes back is another one."""
        return {
            (shard.shard, copy.storage_id, copy.added)
            for shard in shard_map.shards
            for copy in (*shard.in_sync, *shard.learners)
        }


async def under_writes(cluster: RealCluster, play: Callable[[AsyncClient, RecordingWriter], Awaitable[None]]) -> None:
    """Carry out ``play`` while a writer writes; afterwards no write may have failed and none may be lost."""
    async with cluster.client() as client:
        writer = RecordingWriter(client, writers=16, pace_s=0.02)
        writer.start()
        try:
            await until(lambda: _wrote(writer, 100), "the writer writes")
            await play(client, writer)
            more = len(writer.acknowledged) + 50
            await until(lambda: _wrote(writer, more), "the writer still writes")
            await writer.stop()
        finally:
            await writer.cancel()
        found = await verify.writes(client, writer.acknowledged, lambda count: None)

        assert writer.failed == []
        assert found.wrong == ()
        assert found.checked == len(writer.acknowledged) > 150


async def _wrote(writer: RecordingWriter, count: int) -> bool | None:
    return True if len(writer.acknowledged) >= count else None


def spread(plan: Plan) -> tuple[int, int]:
    """Return the difference between most and fewest copies, and the same for primaries."""
    copies = [node.copies for node in plan.nodes]
    primaries = [node.primaries for node in plan.nodes]
    return max(copies) - min(copies), max(primaries) - min(primaries)


def test_three_five_and_three_nodes_again_under_writes_move_no_copy_too_many_and_lose_nothing(
    cluster: RealCluster,
) -> None:
    async def play(client: AsyncClient, writer: RecordingWriter) -> None:
        thought = await client.what_if(members=["n1", "n2", "n3", "n4", "n5"])
        async with cluster.gateway("n1") as watcher, MapRecorder(watcher) as grown:
            await cluster.launcher.scale(5)
        plan = await client.plan()
        leader = await cluster.leader()
        record = cluster.record

        assert (len(grown.added), spread(plan)) == (thought.lower_bound, (1, 1))
        assert plan.is_done and len(plan.nodes) == 5 and leader in cluster.names
        assert 0 < thought.lower_bound <= SHARDS * 3 * 2 // 5

        thought = await client.what_if(members=["n1", "n2", "n3"])
        async with cluster.gateway("n1") as watcher, MapRecorder(watcher) as shrunk:
            await cluster.launcher.scale(3)
        plan = await client.plan()

        assert (len(shrunk.added), spread(plan)) == (thought.lower_bound, (0, 1))
        assert Counter({node.name: node.copies for node in plan.nodes}) == dict.fromkeys(("n1", "n2", "n3"), SHARDS)
        assert cluster.names == ("n1", "n2", "n3")
        assert [node.is_running for node in record.nodes] == [True, True, True, False, False]
        assert not any((cluster.launcher.directory.path / name).exists() for name in ("n4", "n5"))

    async def whole() -> None:
        await cluster.up(3, shards=SHARDS)
        await cluster.settled()
        await under_writes(cluster, play)
        await cluster.up()
        await cluster.serves()

        assert await cluster.error_lines() == []

    run(whole())


def test_a_drained_leader_gives_everything_up_and_leaves_and_its_name_can_come_back(cluster: RealCluster) -> None:
    async def play(client: AsyncClient, writer: RecordingWriter) -> None:
        leader = await cluster.leader()
        wanted = msgspec.json.decode(await set_drain(client, leader, draining=True))
        await until_moved(client, revision=wanted["revision"], empty=[leader])
        process = cluster.node(leader)
        await cluster.launcher.let_go(leader)
        left = [member.name for member in await client.members()]

        assert leader not in left and len(left) == 3
        assert (process.is_running, leader in cluster.names) == (False, False)

        await cluster.launcher.scale(4)

        assert leader in cluster.names
        assert spread(await client.plan()) == (0, 0)

    async def whole() -> None:
        await cluster.up(4, shards=SHARDS)
        await under_writes(cluster, play)

    run(whole())


def test_a_drain_that_is_taken_back_in_the_middle_brings_everything_home(cluster: RealCluster) -> None:
    async def play(client: AsyncClient, writer: RecordingWriter) -> None:
        await set_drain(client, "n2", draining=True)
        await until(lambda: _holds_less(client, "n2", SHARDS * 3 // 4), "the drain has begun")
        wanted = msgspec.json.decode(await set_drain(client, "n2", draining=False))
        plan = await until_moved(client, revision=wanted["revision"])

        assert spread(plan) == (0, 0)

    async def whole() -> None:
        await cluster.up(4, shards=SHARDS)
        await cluster.settled(copies=3)
        await under_writes(cluster, play)

    run(whole())


def test_a_plan_whose_leader_is_killed_goes_on_under_the_next_one_and_ends_with_the_same_spread(
    cluster: RealCluster,
) -> None:
    async def play(client: AsyncClient, writer: RecordingWriter) -> None:
        leader = await cluster.leader()

        def say(text: str) -> None:
            if text.startswith("moving"):
                cluster.kill(leader)

        await cluster.launcher.scale(5, say=say)
        successor = await cluster.leader(without=leader)
        await cluster.up()
        await cluster.launcher.scale(5)
        copies, _ = spread(await client.plan())

        assert successor != leader
        assert (cluster.names, copies) == (("n1", "n2", "n3", "n4", "n5"), 1)

    async def whole() -> None:
        await cluster.up(3, shards=SHARDS)
        await cluster.settled()
        await under_writes(cluster, play)

    run(whole())


def test_a_rolling_restart_moves_no_copy_and_fails_no_write(cluster: RealCluster) -> None:
    async def play(client: AsyncClient, writer: RecordingWriter) -> None:
        before = holders(await client.map())
        for name in cluster.names:
            await cluster.restart(name)
        after = await cluster.settled(copies=3)

        assert holders(after) == before

    async def whole() -> None:
        await cluster.up(4, shards=SHARDS)
        await cluster.settled(copies=3)
        await under_writes(cluster, play)

        assert await cluster.error_lines() == []

    run(whole())


def holders(shard_map: ShardMap) -> list[list[str]]:
    """Return who has a copy of each shard."""
    return [sorted(copy.name for copy in (*shard.in_sync, *shard.learners)) for shard in shard_map.shards]


async def _holds_less(client: AsyncClient, name: str, copies: int) -> bool | None:
    return True if (await client.plan()).held_by(name) < copies else None


def test_an_interrupted_scale_is_finished_by_the_next_one_whichever_it_is(cluster: RealCluster) -> None:
    async def interrupted(nodes: int, at: str) -> None:
        """Scale, and be interrupted when this is said."""

        def say(text: str) -> None:
            if text.startswith(at):
                task.cancel()

        task = asyncio.create_task(cluster.launcher.scale(nodes, say=say))
        with pytest.raises(asyncio.CancelledError):
            await task

    async def whole() -> None:
        await cluster.up(1, shards=16, min_in_sync=1)
        for at in ("waiting until", "moving copies"):
            await interrupted(2, at)
        await cluster.up()
        await cluster.launcher.scale(2)
        async with cluster.client("n1") as client:
            grown = [(node.name, node.copies) for node in (await client.plan()).nodes]
            await interrupted(1, "stopping n2")
            await cluster.launcher.scale(1)
            shrunk = [(node.name, node.copies) for node in (await client.plan()).nodes]
            await interrupted(2, "waiting until")
            await cluster.launcher.scale(1)
            members = [member.name for member in await client.members()]

        assert (grown, shrunk) == ([("n1", 16), ("n2", 16)], [("n1", 16)])
        assert (members, cluster.names) == (["n1"], ("n1",))

    run(whole())


def test_impossible_wishes_are_refused_with_the_reason_and_change_nothing(cluster: RealCluster) -> None:
    async def whole() -> None:
        await cluster.up(3, shards=16)
        await cluster.settled()
        cluster.kill("n2")
        async with cluster.client("n1", "n3") as client:
            await until(lambda: _is_dead(client, "n2"), "n2 is dead")
            before, names = await client.map(), cluster.names
            with pytest.raises(Impossible, match=r"cannot scale to 2: n3 cannot go"):
                await cluster.launcher.scale(2)
            with pytest.raises(Impossible, match=r"cannot drain n1: n1 cannot go"):
                await set_drain(client, "n1", draining=True)
            with pytest.raises(Impossible, match="nobody would hold the data"):
                await change_wanted(client, lambda members: taking_part(members, (), tuple(members)))
            after = await client.map()

        assert (after.wanted, cluster.names) == (before.wanted, names)

    run(whole())


async def _is_dead(client: AsyncClient, name: str) -> bool | None:
    states = {member.name: member.state for member in await client.members()}
    return True if states[name] == "dead" else None
