"""Two clusters on one machine: a node of one leaves, and a node of the other gets its address."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from ringkeep.async_client import AsyncClient
from ringkeep.errors import NotFound, WrongCluster
from ringkeep_testing.real_cluster import (
    LIMIT_S,
    MORTAL_NODE,
    RealCluster,
    node_environment,
    run,
    until,
    users_led_by,
)

WRITERS = 4


@asynccontextmanager
async def lone_cluster(data: Path, url: str) -> AsyncIterator[AsyncClient]:
    """Run another cluster, of one node at this address; yield a client of it."""
    environment = node_environment("stranger", data, API=url.removeprefix("http://"))
    with data.with_suffix(".log").open("wb") as log:
        process = subprocess.Popen(MORTAL_NODE, env=environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
    try:
        async with AsyncClient(url, timeout_s=LIMIT_S) as client:

            async def summary() -> dict[str, str]:
                told: dict[str, str] = msgspec.json.decode(await client.read("/v1/cluster", timeout_s=1.0))
                return told

            storage = (await until(summary, "the stranger answers"))["storage_id"]
            member = {"name": "stranger", "storage_id": storage, "peer": environment["RINGKEEP_PEER"]}
            await client.bootstrap([member], shards=16, replication_factor=1, min_in_sync=1)
            await client.put("serves", "k", b"v")
            yield client
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait(LIMIT_S)


def test_nothing_is_acknowledged_by_another_cluster_that_got_the_address_of_a_node_that_left(
    cluster: RealCluster, tmp_path: Path
) -> None:
    async def story() -> None:
        await cluster.up(3, shards=16)
        async with cluster.client("n1", "n2") as client:
            stale = await client.map()
            users = users_led_by(stale, "n3", WRITERS)
            address = cluster.node("n3").url
            await cluster.launcher.scale(2)
            async with lone_cluster(tmp_path / "stranger", address) as theirs:
                # The first of each goes where the old map says; meanwhile a newer one may be fetched.
                written = await asyncio.gather(*(client.put(user, "k", user) for user in users))
                # Who knows nothing of clusters but the address: the map of one, and then only the other.
                async with AsyncClient(address, cluster_id=stale.cluster_id, timeout_s=LIMIT_S) as lost:
                    with pytest.raises(WrongCluster) as caught:
                        await lost.put(users[0], "k", b"lost")
                for user in users:
                    with pytest.raises(NotFound):
                        await theirs.get(user, "k")
                their_id = (await theirs.map()).cluster_id
        async with cluster.client("n1", "n2") as fresh:
            found = [await fresh.get(user, "k") for user in users]

        assert {one.node for one in written} <= {"n1", "n2"}
        assert [(one.value.decode(), one.version) for one in found] == [
            (user, one.version) for user, one in zip(users, written, strict=True)
        ]
        assert stale.cluster_id in caught.value.detail and their_id in caught.value.detail

    run(story())
