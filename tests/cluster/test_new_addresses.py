"""Nodes that come back at other addresses, as pods do, and directories that have left: they find their cluster again."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from pathlib import Path

import msgspec

from ringkeep.async_client import AsyncClient
from ringkeep.launcher.ports import next_free
from ringkeep_testing.real_cluster import (
    HOST,
    LIMIT_S,
    MORTAL_NODE,
    RealCluster,
    node_environment,
    own_ports,
    refused_start,
    run,
    until,
)


def moved(cluster: RealCluster, *names: str) -> None:
    """Give nodes that are down ports that they never had."""
    record = cluster.record
    taken = {port for node in record.nodes for port in node.ports}
    for name in names:
        ports = []
        for first in own_ports():
            ports.append(next_free(first, taken))
            taken.add(ports[-1])
        node = record.node(name)
        changed = msgspec.structs.replace(node, url=f"http://{HOST}:{ports[0]}", peer=f"{HOST}:{ports[1]}")
        record = record.with_node(changed)
    cluster.launcher.directory.write(record)


def test_a_whole_cluster_that_comes_back_at_new_addresses_finds_itself_through_the_seeds(cluster: RealCluster) -> None:
    async def story() -> None:
        await cluster.up(3, shards=16)
        async with cluster.client() as client:
            written = [await client.put(f"user-{number}", "k", b"v") for number in range(20)]
        before = {node.name: node.peer for node in cluster.record.nodes}
        cluster.kill(*cluster.names)
        moved(cluster, *cluster.names)
        await cluster.up()
        await cluster.settled()
        await cluster.serves()
        async with cluster.client() as client:
            found = [await client.get(f"user-{number}", "k") for number in range(20)]
        urls = {row["name"]: row["url"] for row in await members_of(cluster)}

        assert [one.version for one in found] == [one.version for one in written]
        assert all(node.peer != before[node.name] for node in cluster.record.nodes)
        assert urls == {node.name: node.url for node in cluster.record.nodes}

    run(story())


def test_most_of_the_voters_may_come_back_at_new_addresses_while_the_others_wait(cluster: RealCluster) -> None:
    async def story() -> None:
        await cluster.up(3, shards=16)
        async with cluster.client() as client:
            written = await client.put("ann", "k", b"v")
        # The one that stays up knows the others by the map only: its own seeds are the addresses that they have left.
        cluster.kill("n2", "n3")
        moved(cluster, "n2", "n3")
        await cluster.up()
        await cluster.settled()
        await cluster.serves()
        async with cluster.client() as client:
            found = await client.get("ann", "k")

        assert found.version == written.version

    run(story())


def test_a_kept_directory_whose_storage_has_left_is_emptied_only_where_that_is_allowed(cluster: RealCluster) -> None:
    async def story() -> None:
        await cluster.up(4, shards=16)
        data = cluster.launcher.directory.data("n4")
        cluster.kill("n4")
        kept = cluster.launcher.directory.path.with_name("kept")
        shutil.copytree(data, kept)
        await cluster.restart("n4")
        await cluster.settled(copies=3)
        await cluster.launcher.scale(3)
        storage = msgspec.json.decode((kept / "identity.json").read_bytes())["storage_id"]
        seeds = ",".join(node.peer for node in cluster.record.nodes)
        refusing = node_environment("n4", kept, SEEDS=seeds)
        emptying = refusing | {"RINGKEEP_LEFT_DATA": "empty"}

        told = refused_by_the_cluster(emptying)
        marked = msgspec.json.decode((kept / "left.json").read_bytes())
        has_data = (kept / "log").exists() and (kept / "store").exists()
        refused = refused_start(refusing)
        joined = await summary_of(emptying, kept)
        names = [row["name"] for row in await members_of(cluster)]

        assert (told, has_data) == (4, True)
        assert marked == {"storage_id": storage, "cluster_id": cluster.record.cluster_id}
        assert refused.code == 1 and "n4 has left cluster" in refused.refusal[1]
        assert joined["cluster_id"] == cluster.record.cluster_id and joined["has_left"] is False
        assert joined["storage_id"] != storage
        assert names == ["n1", "n2", "n3", "n4"]
        await cluster.serves()

    run(story())


def refused_by_the_cluster(environment: dict[str, str]) -> int:
    """Start a node that the cluster turns away and return its exit code."""
    done = subprocess.run(MORTAL_NODE, env=environment, capture_output=True, timeout=LIMIT_S, check=False)
    return done.returncode


async def summary_of(environment: dict[str, str], kept: Path) -> dict[str, object]:
    """Start a node, wait until it is ready, end it, and return what it said of itself."""
    cluster_url = f"http://{environment['RINGKEEP_API']}"
    with (kept.parent / "kept.log").open("wb") as log:
        process = subprocess.Popen(MORTAL_NODE, env=environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
    try:
        async with AsyncClient([cluster_url], direct=False, timeout_s=LIMIT_S) as client:

            async def ready() -> bool | None:
                await client.read("/readyz", timeout_s=1.0)
                return True

            await until(ready, "the emptied node is ready")
            summary: dict[str, object] = msgspec.json.decode(await client.read("/v1/cluster"))
            return summary
    finally:
        os.kill(process.pid, signal.SIGTERM)
        process.wait(LIMIT_S)


async def members_of(cluster: RealCluster) -> list[dict[str, str]]:
    async with cluster.gateway("n1") as client:
        decoded: dict[str, list[dict[str, str]]] = msgspec.json.decode(await client.read("/v1/cluster/members"))
    return sorted(decoded["members"], key=lambda row: row["name"])
