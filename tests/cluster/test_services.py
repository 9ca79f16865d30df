"""Services on real processes: found everywhere, not passing once their node is dead, alive where they are renewed."""

from __future__ import annotations

import asyncio
from typing import Any

import aiohttp
import msgspec

from ringkeep.async_client import AsyncClient
from ringkeep.errors import NotFound
from ringkeep_testing.real_cluster import RealCluster, run, until

TTL = [{"ttl_s": 30.0}]
Row = tuple[str, str, str]


async def _seen(client: AsyncClient, service: str = "web") -> list[Row]:
    """Return (id, owner, status) of the instances that a node shows."""
    return [(row["id"], row["node"]["name"], row["status"]) for row in await client.instances(service)]


async def _everywhere(cluster: RealCluster, wanted: list[Row], *names: str) -> None:
    """Return when these nodes show exactly these instances."""
    for name in names:
        async with cluster.gateway(name) as client:

            async def ask(client: AsyncClient = client) -> bool | None:
                return True if await _seen(client) == wanted else None

            await until(ask, f"{name} shows {wanted}")


async def _history(client: AsyncClient, service: str, until_gone: asyncio.Event) -> list[list[Row]]:
    """Return each answer of one node that differs from the one before, by waiting for its index."""
    answers: list[list[Row]] = []
    index = 0
    while not until_gone.is_set():
        body = await client.read(f"/v1/services/{service}?wait_newer_than={index}", timeout_s=30.0)
        told: dict[str, Any] = msgspec.json.decode(body)
        index = told["index"]
        rows = [(row["id"], row["node"]["name"], row["status"]) for row in told["instances"]]
        if not answers or answers[-1] != rows:
            answers.append(rows)
    return answers


def test_a_dead_node_s_instances_turn_critical_then_go_and_the_renewed_one_lives_on_elsewhere(
    cluster: RealCluster,
) -> None:
    async def story() -> None:
        await cluster.up(3, shards=16)
        async with cluster.gateway("n1") as first, cluster.gateway("n2") as second, cluster.gateway("n3") as third:
            await first.register("web", "kept", port=80, checks=TTL)
            await first.register("web", "lost", port=81)
            await second.register("web", "other", port=82)
            before = [("kept", "n1", "passing"), ("lost", "n1", "passing"), ("other", "n2", "passing")]
            await _everywhere(cluster, before, "n1", "n2", "n3")
            gone = asyncio.Event()
            watching = asyncio.ensure_future(_history(third, "web", gone))
            cluster.kill("n1")

            async def critical() -> bool | None:
                return True if ("lost", "n1", "critical") in await _seen(second) else None

            await until(critical, "the dead node's instances are critical")
            await second.renew("web", "kept")
            after = [("kept", "n2", "passing"), ("other", "n2", "passing")]
            await _everywhere(cluster, after, "n2", "n3")
            gone.set()
            await second.register("web", "zlast", port=83)
            answers = await watching

            assert answers[0] == before
            assert [("kept", "n1", "critical"), ("lost", "n1", "critical"), ("other", "n2", "passing")] in answers
            assert ("lost", "n1", "passing") not in [row for rows in answers[1:] for row in rows]
            assert after in answers

    run(story())


def test_a_restarted_node_answers_who_waits_before_it_ends_and_goes_on_with_what_it_owned(
    cluster: RealCluster,
) -> None:
    async def story() -> None:
        await cluster.up(3, shards=16)
        async with cluster.gateway("n1") as client:
            row = await client.register("web", "mine", port=80)
            await _everywhere(cluster, [("mine", "n1", "passing")], "n2", "n3")
            url = f"{cluster.node('n1').url}/v1/services/web?wait_newer_than={row['modify_index']}"
            async with aiohttp.ClientSession() as session:
                waiting = asyncio.ensure_future(session.get(url, headers={"Ringkeep-Timeout": "60"}))

                async def waits() -> bool | None:
                    return True if b"ringkeep_node_service_waits 1.0" in await client.read("/metrics") else None

                await until(waits, "the query waits")
                await cluster.restart("n1")
                answer = await waiting

                assert answer.status == 200

        await _everywhere(cluster, [("mine", "n1", "passing")], "n1", "n2", "n3")

    run(story())


def test_checks_are_carried_out_by_the_owner_and_seen_by_all(annoyed: RealCluster) -> None:
    async def story() -> None:
        answers = {"status": b"200 OK"}

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            head = (
                b"HTTP/1.1 " + answers["status"] + b"\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 2\r\n\r\nhi"
            )
            writer.write(head)
            await writer.drain()
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        check = {"http": f"http://127.0.0.1:{port}/health", "interval_s": 1.0}
        async with annoyed.gateway("n1") as first, annoyed.gateway("n2") as second:
            new = await first.register("web", "asked", address="127.0.0.1", port=port, checks=[check])

            async def shows(status: str) -> bool | None:
                return True if await _seen(second) == [("asked", "n1", status)] else None

            await until(lambda: shows("passing"), "the answer 200 passes")
            answers["status"] = b"429 Too Many Requests"
            await until(lambda: shows("warning"), "429 warns")
            answers["status"] = b"302 Found"
            await until(lambda: shows("critical"), "a redirect is not followed")
            (row,) = await second.instances("web")
            answers["status"] = b"200 OK"
            await until(lambda: shows("passing"), "the answer 200 passes again")
            server.close()
            await server.wait_closed()
            await until(lambda: shows("critical"), "a refused connection is critical")
            await second.deregister("web", "asked")
            await until(lambda: _nobody(first), "it is gone at its owner")

        assert new["status"] == "critical"
        assert row["checks"][0]["output"] == f"GET http://127.0.0.1:{port}/health: 302 hi"

    run(story())


async def _nobody(client: AsyncClient) -> bool | None:
    return True if not await _seen(client) else None


def test_any_node_takes_renewals_and_none_for_what_nobody_knows(annoyed: RealCluster) -> None:
    async def story() -> None:
        async with annoyed.gateway("n1") as first, annoyed.gateway("n2") as second:
            await first.register("web", "any", port=80, checks=TTL)

            async def renewed() -> str | None:
                row = await second.renew("web", "any", status="warning", output="slow")
                return str(row["node"]["name"])

            owner = await until(renewed, "n2 knows the instance")
            await _everywhere(annoyed, [("any", "n1", "warning")], "n1", "n2", "n3")
            refused = ""
            try:
                await second.renew("web", "nobody")
            except NotFound as error:
                refused = str(error)
            await first.deregister("web", "any")
            await _everywhere(annoyed, [], "n1", "n2", "n3")

        assert owner == "n1"
        assert "there is no instance 'nobody' of 'web'" in refused

    run(story())
