"""Services through the client library and the command, against the real HTTP edge of a node."""

from __future__ import annotations

import asyncio
import json

import pytest
from msgspec.structs import replace

from ringkeep import Client, Summary
from ringkeep.async_client import AsyncClient
from ringkeep.command.app import run
from ringkeep.errors import BadRequest, NotFound
from ringkeep_testing.http_edge import EdgeUnderTest, serve

TTL = [{"ttl_s": 30.0}]


def test_an_instance_is_registered_found_renewed_and_removed() -> None:
    async def test(edge: EdgeUnderTest) -> None:
        async with AsyncClient(f"http://127.0.0.1:{edge.port}", direct=False) as client:
            made = await client.register(
                "web", "web-1", address="10.1.0.1", port=80, tags=("a", "b c"), meta={"v": "1"}, checks=TTL
            )
            warned = await client.renew("web", "web-1", status="warning", output="slow")
            found = [
                [row["id"] for row in await client.instances("web", tags=tags, passing=passing)]
                for tags, passing in (((), False), (("a", "b c"), False), (("x",), False), ((), True))
            ]
            listed = await client.services()
            await client.deregister("web", "web-1")

            assert (made["status"], warned["status"], warned["checks"][0]["output"]) == ("passing", "warning", "slow")
            assert found == [["web-1"], ["web-1"], [], []]
            assert listed[0] == {"name": "web", "tags": ["a", "b c"], "instances": 1, "passing": 0}
            with pytest.raises(NotFound):
                await client.renew("web", "web-1")
            with pytest.raises(NotFound):
                await client.deregister("web", "web-1")
            with pytest.raises(BadRequest, match="a service name is a DNS label"):
                await client.register("no/label", "x")

    serve(test)


def test_the_blocking_client_does_the_same() -> None:
    def story(url: str) -> list[object]:
        with Client(url, direct=False) as client:
            made = client.register("web", "web-1", address="10.1.0.1", port=80, tags=("a",), checks=TTL)
            told = client.renew("web", "web-1", status="warning")
            found = [row["id"] for row in client.instances("web", tags=("a",), passing=False)]
            names = [row["name"] for row in client.services()]
            client.deregister("web", "web-1")
            return [made["status"], told["status"], found, names, client.instances("web")]

    async def test(edge: EdgeUnderTest) -> None:
        seen = await asyncio.to_thread(story, f"http://127.0.0.1:{edge.port}")

        assert seen == ["passing", "warning", ["web-1"], ["web", "ringkeep", "ringkeep-shard"], []]

    serve(test)


def test_the_command_lists_services_and_the_instances_of_one(capsys: pytest.CaptureFixture[str]) -> None:
    async def test(edge: EdgeUnderTest) -> None:
        url = f"http://127.0.0.1:{edge.port}"
        for number in (1, 2):
            body = b'{"address": "10.1.0.%d", "port": 80, "tags": ["[v%d]"]}' % (number, number)
            await edge.ask("PUT", f"/v1/services/web/web-{number}", body)
        await edge.ask(
            "PUT", "/v1/services/web/web-2", b'{"address": "fd00::1", "port": 81, "checks": [{"ttl_s": 30}]}'
        )
        await edge.ask("PUT", "/v1/services/web/web-2/renew", b'{"status": "critical", "output": "no disk"}')
        shown = {}
        for arguments in (
            [],
            ["web"],
            ["web", "--passing"],
            ["web", "--tag", "[v1]"],
            ["web", "--output", "json"],
            ["--passing"],
            ["nope", "--tag", "a", "--passing"],
        ):
            code = await asyncio.to_thread(run, ["services", "--url", url, *arguments])
            shown[" ".join(arguments)] = (code, capsys.readouterr().out)
        answer = (await edge.ask("GET", "/v1/services/web")).body

        rows = {key: [line.split() for line in out.splitlines()] for key, (_, out) in shown.items()}
        assert rows[""] == [
            ["NAME", "INSTANCES", "PASSING", "TAGS"],
            ["web", "2", "1", "[v1]"],
            ["ringkeep", "3", "3"],
            ["ringkeep-shard", "16", "16", "primary"],
        ]
        one = ["web-1", "passing", "10.1.0.1:80", "n1", "[v1]"]
        two = ["web-2", "critical", "[fd00::1]:81", "n1", "service:web-2:", "no", "disk"]
        assert rows["web"] == [["ID", "STATUS", "ADDRESS", "NODE", "TAGS", "WHY"], one, two]
        assert rows["web --passing"][1:] == rows["web --tag [v1]"][1:] == [one]
        assert shown["web --output json"] == (0, answer.decode() + "\n")
        assert json.loads(answer)["service"] == "web"
        assert shown["--passing"][0] == 2
        assert shown["nope --tag a --passing"] == (0, "no instance of nope is registered that has a and passes\n")

    serve(test)


def test_both_clients_tell_in_words_how_the_cluster_is() -> None:
    def story(url: str) -> Summary:
        with Client(url, direct=False) as client:
            return client.summary()

    async def test(edge: EdgeUnderTest) -> None:
        url = f"http://127.0.0.1:{edge.port}"
        async with AsyncClient(url, direct=False) as client:
            told = await client.summary()
        same = await asyncio.to_thread(story, url)
        answer = json.loads((await edge.ask("GET", "/v1/cluster/summary")).body)

        assert (told.headline, told.node, told.severity.value) == (answer["headline"], "n1", answer["severity"])
        assert replace(same, at=told.at) == told

    serve(test)
