"""A node that is told to end (SIGTERM) says so first: nobody suspects it, and others lead its shards at once."""

from __future__ import annotations

import asyncio
import contextlib
import signal

import pytest

from ringkeep.launcher.processes import send_signal, wait_gone
from ringkeep_testing.real_cluster import LIMIT_S, RealCluster, run, users_led_by


async def stopped(cluster: RealCluster, name: str) -> list[dict[str, object]]:
    """Tell a node to end, wait until it has, and return what it logged in this start after it was told to."""
    before = len(cluster.log_lines(name))
    process = cluster.node(name).process
    assert send_signal(process, signal.SIGTERM)
    assert await asyncio.to_thread(wait_gone, process, limit_s=LIMIT_S), f"{name} does not end"
    return cluster.log_lines(name)[before:]


async def member_events(cluster: RealCluster, at: str, member: str) -> list[str]:
    """Return the states that a node saw another in, from its last ``alive`` on."""
    states = [
        event["fields"]["state"]
        for event in await cluster.events(at)
        if event["kind"] == "member" and event["fields"]["member"] == member
    ]
    return states[len(states) - 1 - states[::-1].index("alive") :]


def test_the_shards_of_a_stopped_leader_are_led_by_others_and_nobody_suspected_it(cluster: RealCluster) -> None:
    async def play() -> None:
        await cluster.up(3, shards=16)
        await cluster.settled()
        leader = await cluster.leader()
        others = [name for name in cluster.names if name != leader]
        async with cluster.gateway(others[0]) as client:
            users = users_led_by(await client.map(), leader, 8)
            for user in users:
                await client.put(user, "before", b"1")
        lines = await stopped(cluster, leader)
        async with cluster.gateway(others[0]) as client:
            for user in users:
                await client.put(user, "after", b"2")
            found = [(await client.get(user, key)).value for user in users for key in ("before", "after")]
        shard_map = await cluster.left_in_sync(leader, at=others[1])
        seen = [await member_events(cluster, name, leader) for name in others]
        successor = await cluster.leader(without=leader)

        assert found == [b"1", b"2"] * len(users)
        assert [line["event"] for line in lines if str(line["event"]).startswith("node_")] == [
            "node_stopping",
            "node_stopped",
        ]
        assert seen == [["alive", "left"]] * 2
        assert all(shard.primary is not None and shard.primary.name in others for shard in shard_map.shards)
        assert successor in others
        assert await cluster.error_lines() == []

        await cluster.restart(leader)
        await cluster.settled()
        await cluster.serves()

    run(play())


async def readiness_until_refused(url: str) -> list[int]:
    """Ask a node whether it is ready, each time on a connection of its own, until it takes none; return the statuses."""
    host, port = url.removeprefix("http://").split(":")
    statuses: list[int] = []
    while True:
        try:
            reader, writer = await asyncio.open_connection(host, int(port))
        except ConnectionError:
            return statuses
        writer.write(b"GET /readyz HTTP/1.1\r\nHost: n\r\nConnection: close\r\n\r\n")
        with contextlib.suppress(ConnectionError):
            line = await reader.readline()
            if line:  # Nothing: the connection waited in the queue of a server that closed.
                statuses.append(int(line.split()[1]))
        writer.close()


def test_a_node_that_ends_says_that_it_is_not_ready_and_goes_on_serving_while_it_hands_over(
    cluster: RealCluster,
) -> None:
    async def play() -> None:
        await cluster.up(3, shards=16)
        await cluster.settled()
        leader = await cluster.leader()
        ending = next(name for name in cluster.names if name != leader)
        for name in cluster.names:
            if name != ending:
                # Nobody takes over: the node waits for that as long as it ever does.
                assert send_signal(cluster.node(name).process, signal.SIGSTOP)
        asking = asyncio.create_task(readiness_until_refused(cluster.node(ending).url))
        await asyncio.sleep(0.1)
        lines = await stopped(cluster, ending)
        statuses = await asking
        not_ready = statuses[statuses.index(503) :]

        assert set(not_ready) == {503} and len(not_ready) > 3
        assert [line["event"] for line in lines if line["event"] in ("node_stopping", "node_stopped")] == [
            "node_stopping",
            "node_stopped",
        ]

    run(play())


def test_a_whole_cluster_that_is_told_to_end_ends_and_comes_back_with_everything(cluster: RealCluster) -> None:
    async def play() -> None:
        await cluster.up(3, shards=16)
        async with cluster.client() as client:
            written = [await client.put("ada", f"k{number}", b"v") for number in range(10)]
        await asyncio.gather(*(stopped(cluster, name) for name in cluster.names))
        await cluster.up()
        async with cluster.client() as client:
            found = [await client.get("ada", f"k{number}") for number in range(10)]

        assert [one.version for one in found] == [one.version for one in written]
        assert await cluster.error_lines() == []

    run(play())


def test_a_node_hands_over_at_once_and_serves_whom_balancers_still_send_until_the_notice_is_over(
    cluster: RealCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def play() -> None:
        monkeypatch.setenv("RINGKEEP_STOP_NOTICE_S", "6")
        await cluster.up(3, shards=16)
        await cluster.settled()
        ending = await cluster.leader()
        other = next(name for name in cluster.names if name != ending)
        asking = asyncio.create_task(readiness_until_refused(cluster.node(ending).url))
        async with cluster.gateway(ending) as client:
            users = [user for name in cluster.names for user in users_led_by(await client.map(), name, 4)]
            process = cluster.node(ending).process
            told_at = asyncio.get_running_loop().time()
            assert send_signal(process, signal.SIGTERM)
            # No more a primary, nor a copy that a write waits for: from here on a kill would cost nobody anything.
            await cluster.left_in_sync(ending, at=other)
            for user in users:
                await client.put(user, "in time", user.encode())
            found = [(await client.get(user, "in time")).value for user in users]
        assert await asyncio.to_thread(wait_gone, process, limit_s=LIMIT_S)
        lasted_s = asyncio.get_running_loop().time() - told_at
        statuses = await asking

        assert found == [user.encode() for user in users]
        assert lasted_s >= 6
        assert set(statuses[statuses.index(503) :]) == {503}

    run(play())
