"""One request is found by its id at every node that had to do with it: in the answer, in errors, and in the logs."""

from __future__ import annotations

from typing import Any

import aiohttp
import pytest

from ringkeep_testing.real_cluster import RealCluster, run, until, users_led_by

ID = "find-me.42"


async def asked(url: str, method: str, path: str, request_id: str) -> tuple[int, str, str]:
    """Ask one node; return the status, and the id in the header and in the problem document of the answer."""
    async with (
        aiohttp.ClientSession() as session,
        session.request(method, url + path, headers={"Ringkeep-Request-Id": request_id}) as answer,
    ):
        problem = await answer.json(content_type=None) if answer.status >= 400 else {}
        return answer.status, answer.headers["Ringkeep-Request-Id"], problem.get("request_id", "")


def test_a_forwarded_write_is_found_by_its_id_at_gateway_primary_and_copies(
    cluster: RealCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RINGKEEP_LOG_LEVEL", "debug")

    async def story() -> None:
        await cluster.up(3, shards=16)
        async with cluster.client() as client:
            held = await client.map()
        (user,) = users_led_by(held, "n2", 1)
        storages = {member.storage_id: member.name for member in held.members}
        path = f"/v1/users/{user}/docs/d"
        written = await asked(cluster.node("n1").url, "PUT", path, ID)

        wanted = {
            ("n1", "request_answered", ""),
            ("n2", "request_served", "n1"),
            ("n1", "entry_copied", "n2"),
            ("n3", "entry_copied", "n2"),
        }

        async def told() -> list[tuple[str, dict[str, Any]]] | None:
            lines = [(name, line) for name in cluster.names for line in cluster.log_lines(name)]
            found = [(name, line) for name, line in lines if line.get("request_id") == ID]
            what = {(name, line["event"], storages.get(line.get("peer", ""), "")) for name, line in found}
            return found if what >= wanted else None

        lines = await until(told, "every node has told what it did")

        assert written == (201, ID, "")
        assert {line["event"] for _, line in lines} == {event for _, event, _ in wanted}
        assert not any(user in str(line.values()) for _, line in lines)

    run(story())


def test_a_forwarded_request_that_fails_names_its_id_and_no_node_logs_it_unless_asked(cluster: RealCluster) -> None:
    async def story() -> None:
        await cluster.up(3, shards=16)
        answers = [await asked(url, "GET", "/v1/users/nobody/docs/none", ID) for url in cluster.urls()]
        lines = [line for name in cluster.names for line in cluster.log_lines(name)]

        assert answers == [(404, ID, ID)] * 3
        assert not [line for line in lines if "request_id" in line]

    run(story())


@pytest.mark.parametrize("given", ["", "two words", "x" * 129, "gr\u00fcn"])
def test_an_id_that_could_not_stand_in_a_log_is_replaced(annoyed: RealCluster, given: str) -> None:
    async def story() -> None:
        status, told, named = await asked(annoyed.urls()[0], "GET", "/v1/users/nobody/docs/none", given)

        assert status == 404 and told == named != given
        assert told.isascii() and told.isprintable() and 0 < len(told) <= 128

    run(story())
