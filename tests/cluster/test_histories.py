"""Clients record what they did and saw while nodes are paused and killed; some order must explain every answer."""

from __future__ import annotations

import asyncio

from ringkeep.demo.recovery import busiest_primary
from ringkeep_testing.real_clients import RecordingClients
from ringkeep_testing.real_cluster import RealCluster, run, until, users_led_by

SHARDS = 16
DOCUMENTS = 8


async def _answered(clients: RecordingClients, count: int) -> None:
    """Return when so many more operations were answered."""
    wanted = clients.answers + count

    async def ask() -> bool | None:
        return True if clients.answers >= wanted else None

    await until(ask, f"{count} more operations are answered")


def test_a_paused_primary_serves_no_stale_read_when_it_goes_on_after_it_was_replaced(cluster: RealCluster) -> None:
    """Requests wait in its sockets that were sent after its successors had taken writes: the first thing it sees."""

    async def story() -> None:
        await cluster.up(3, shards=SHARDS)
        async with cluster.client() as client:
            victim, _ = busiest_primary(before := await client.map())
        clients = RecordingClients([(user, "d") for user in users_led_by(before, victim, DOCUMENTS)], seed=8)
        others = [name for name in cluster.names if name != victim]
        for name in cluster.names:
            clients.start(cluster.node(name).url, 4)
        replaced = asyncio.Event()
        clients.start(cluster.node(victim).url, 8, after=replaced)
        await _answered(clients, 300)
        cluster.pause(victim)
        await cluster.left_in_sync(victim, at=others[0])
        await _answered(clients, 200)
        replaced.set()
        await _answered(clients, 100)
        cluster.resume(victim)
        await _answered(clients, 200)
        await clients.stop()
        after = await cluster.settled()

        assert (clients.not_linearizable(), clients.unexpected) == ([], [])
        assert sum(new.epoch > old.epoch for old, new in zip(before.shards, after.shards, strict=True)) > 0

    run(story())


def test_a_primary_that_pauses_too_shortly_to_be_replaced_goes_on_as_if_nothing_had_been(cluster: RealCluster) -> None:
    async def story() -> None:
        await cluster.up(3, shards=SHARDS)
        async with cluster.client() as client:
            victim, _ = busiest_primary(before := await client.map())
        clients = RecordingClients([(user, "d") for user in users_led_by(before, victim, DOCUMENTS)], seed=7)
        for name in cluster.names:
            clients.start(cluster.node(name).url, 4)
        for _ in range(3):
            await _answered(clients, 100)
            cluster.pause(victim)
            await asyncio.sleep(0.7)
            cluster.resume(victim)
        await _answered(clients, 100)
        await clients.stop()
        await cluster.settled()

        assert (clients.not_linearizable(), clients.unexpected) == ([], [])

    run(story())


def test_histories_are_linearizable_while_one_node_after_the_other_dies(cluster: RealCluster) -> None:
    async def story() -> None:
        await cluster.up(3, shards=SHARDS)
        clients = RecordingClients([(f"user-{number}", "d") for number in range(DOCUMENTS)], seed=9)
        for name in cluster.names:
            clients.start(cluster.node(name).url, 2)
        for name in cluster.names:
            await _answered(clients, 150)
            cluster.kill(name)
            await _answered(clients, 150)
            await cluster.restart(name)
            await cluster.settled(at=name)
        await clients.stop()

        assert (clients.not_linearizable(), clients.unexpected) == ([], [])

    run(story())


def test_a_paused_leader_is_replaced_and_accepts_the_new_one_when_it_goes_on(cluster: RealCluster) -> None:
    async def story() -> None:
        await cluster.up(3, shards=SHARDS)
        first = await cluster.leader()
        clients = RecordingClients([(f"user-{number}", "d") for number in range(DOCUMENTS)], seed=10)
        for name in cluster.names:
            clients.start(cluster.node(name).url, 2)
        await _answered(clients, 100)
        cluster.pause(first)
        second = await cluster.leader(without=first)
        cluster.resume(first)
        agreed = await cluster.leader()
        await _answered(clients, 100)
        await clients.stop()
        await cluster.settled()

        assert second != first
        assert agreed in cluster.names
        assert (clients.not_linearizable(), clients.unexpected) == ([], [])

    run(story())
