"""What people and programs look at while nodes come and go: readiness, members, events, metrics, logs."""

from __future__ import annotations

import asyncio
import re
from functools import partial
from typing import Any

import msgspec
from prometheus_client.parser import text_string_to_metric_families

from ringkeep.async_client import AsyncClient
from ringkeep.errors import NotReady, RingkeepError
from ringkeep_testing.real_cluster import RealCluster, holds, run, until

SHARDS = 16
FAMILIES = frozenset(
    {
        "ringkeep_node_map_version",
        "ringkeep_node_members",
        "ringkeep_node_raft_term",
        "ringkeep_node_shards",
    }
)


def test_a_restarting_node_is_ready_only_when_it_is_caught_up(cluster: RealCluster) -> None:
    async def story() -> None:
        await cluster.up(3, shards=SHARDS)
        said: list[str] = []
        async with cluster.client() as client, cluster.gateway("n2") as seen:
            await asyncio.gather(*(client.put(f"user-{number}", "d", b"x" * 10_000) for number in range(200)))
            cluster.kill("n2")
            await cluster.left_in_sync("n2", at="n1")
            await asyncio.gather(*(client.put(f"user-{number}", "e", b"x" * 10_000) for number in range(200)))
            cluster.start("n2")

            async def ready() -> bool | None:
                try:
                    await seen.read("/readyz", timeout_s=0.3)
                except NotReady as error:
                    said.append(str(error))
                    return None
                return True

            await until(ready, "n2 is ready")
            held = await seen.map()
            alive = msgspec.json.decode(await seen.read("/livez"))

        assert all(holds(held, "n2"))
        assert all(re.fullmatch(r"[a-z0-9 ]+", reason) for reason in said)
        assert alive == {"live": True}

    run(story())


def test_every_node_tells_the_same_story_of_a_death_and_a_return(cluster: RealCluster) -> None:
    async def story() -> None:
        await cluster.up(3, shards=SHARDS)
        cluster.kill("n3")
        async with cluster.gateway("n1") as one, cluster.gateway("n2") as two:
            dead = [await until(partial(_state_of, seen, "n3", "dead"), "n3 is dead") for seen in (one, two)]
            await cluster.restart("n3")
            alive = [await until(partial(_state_of, seen, "n3", "alive"), "n3 is alive") for seen in (one, two)]
            events = msgspec.json.decode(await one.read("/v1/cluster/events"))["events"]

        assert all(member["evidence"] for member in dead)
        assert len({member["boot_id"] for member in (*dead, *alive)}) == 2
        assert [event["number"] for event in events] == list(range(events[0]["number"], events[-1]["number"] + 1))
        assert {"n3 is dead", "n3 is alive"} <= {" ".join(event["text"].split()[:3]) for event in events}

    run(story())


def test_metrics_and_logs_of_every_node_are_well_formed(cluster: RealCluster) -> None:
    async def story() -> None:
        await cluster.up(3, shards=SHARDS)
        async with cluster.client() as client:
            await client.put("ann", "d", "1")
        for name in cluster.names:
            async with cluster.gateway(name) as seen:
                families = {
                    family.name: family
                    for family in text_string_to_metric_families((await seen.read("/metrics")).decode())
                }
                version = (await seen.map()).version

            assert families.keys() >= FAMILIES
            assert [sample.value for sample in families["ringkeep_node_map_version"].samples] == [version]
            assert all(family.documentation for family in families.values())
        cluster.launcher.down()
        lines = [line for name in cluster.names for line in cluster.log_lines(name)]

        assert all({"time", "level", "event", "node"} <= line.keys() for line in lines)
        assert all(re.fullmatch(r"[a-z_]+", line["event"]) for line in lines)
        assert [line["event"] for line in lines if line["level"] == "error"] == []
        assert [line["event"] for line in lines].count("node_stopped") == 3

    run(story())


async def _state_of(client: AsyncClient, name: str, state: str) -> dict[str, Any] | None:
    try:
        members = msgspec.json.decode(await client.read("/v1/cluster/members", timeout_s=2.0))["members"]
    except RingkeepError:
        return None
    return next((member for member in members if (member["name"], member["state"]) == (name, state)), None)
