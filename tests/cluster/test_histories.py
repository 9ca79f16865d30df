"""Clients record what they did and saw while nodes are paused and killed; some order must explain every answer."""

from __future__ import annotations

import asyncio

import pytest

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


@pytest.mark.parametrize("pause_s", [1.0, 8.0])
def test_a_paused_primary_serves_no_stale_read_and_loses_no_write(cluster: RealCluster, pause_s: float) -> None:
    """8 s is longer than it takes to be called dead and replaced, 1 s is not."""

    async def story() -> None:
        await cluster.up(3, shards=SHARDS)
        async with cluster.client() as client:
            victim, _ = busiest_primary(before := await client.map())
            clients = RecordingClients([(user, "d") for user in users_led_by(before, victim, DOCUMENTS)], seed=8)
            for name in cluster.names:
                clients.start(cluster.node(name).url, 4)
            await _answered(clients, 200)
            cluster.pause(victim)
            await asyncio.sleep(pause_s)
            cluster.resume(victim)
            await _answered(clients, 200)
            await clients.stop()
            after = await cluster.settled()

        moved = sum(new.epoch > old.epoch for old, new in zip(before.shards, after.shards, strict=True))
        assert (clients.not_linearizable(), clients.unexpected) == ([], [])
        assert moved > 0 or pause_s < 8.0

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
