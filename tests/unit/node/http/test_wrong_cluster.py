"""Requests that are meant for another cluster, and that every answer names the node's own."""

from __future__ import annotations

import pytest

from ringkeep_testing.fake_driver import CLUSTER_ID, FakeDriver
from ringkeep_testing.http_edge import EdgeUnderTest, serve

OTHER = "badc0ffee0000002"
ASKED = [
    ("PUT", "/v1/users/ada/docs/k", b"v"),
    ("DELETE", "/v1/users/ada/docs/k", b""),
    ("GET", "/v1/users/ada/docs/k", b""),
    ("GET", "/v1/users/ada/docs", b""),
    ("POST", "/v1/import", b'{"user":"ada","key":"k","value":1}'),
    ("GET", "/v1/cluster/map", b""),
    ("PUT", "/v1/cluster/wanted", b"{}"),
    ("POST", "/v1/cluster/members/n1/drain", b""),
    ("GET", "/nowhere", b""),
]


@pytest.mark.parametrize(("method", "target", "body"), ASKED)
def test_a_request_for_another_cluster_is_refused_before_anything_is_done(
    method: str, target: str, body: bytes
) -> None:
    async def test(edge: EdgeUnderTest) -> None:
        refused = await edge.ask(method, target, body, Ringkeep_Cluster=OTHER)

        assert (refused.status, refused.code, refused.json["retryable"]) == (421, "wrong_cluster", True)
        assert refused.headers["ringkeep-cluster"] == CLUSTER_ID
        assert CLUSTER_ID in refused.json["detail"] and OTHER in refused.json["detail"]
        assert edge.driver.seen == [] and edge.driver.proposed == []

    serve(test)


def test_a_request_for_this_cluster_is_answered_as_one_that_names_none() -> None:
    async def test(edge: EdgeUnderTest) -> None:
        named = await edge.ask("PUT", "/v1/users/ada/docs/a", b"v", Ringkeep_Cluster=CLUSTER_ID)
        unnamed = await edge.ask("PUT", "/v1/users/ada/docs/b", b"v")
        lost = await edge.ask("GET", "/nowhere")
        broken = await edge.raw(b"NONSENSE\r\n\r\n")

        assert (named.status, unnamed.status, lost.status, broken.status) == (201, 201, 404, 400)
        assert {one.headers["ringkeep-cluster"] for one in (named, unnamed, lost, broken)} == {CLUSTER_ID}

    serve(test)


def test_a_node_without_a_cluster_names_none_and_takes_nothing_that_is_meant_for_one() -> None:
    async def test(edge: EdgeUnderTest) -> None:
        before = await edge.ask("GET", "/livez")
        refused = await edge.ask("PUT", "/v1/users/ada/docs/k", b"v", Ringkeep_Cluster=CLUSTER_ID)
        edge.driver.cluster_id = CLUSTER_ID
        after = await edge.ask("GET", "/livez", Ringkeep_Cluster=CLUSTER_ID)

        assert "ringkeep-cluster" not in before.headers and "ringkeep-cluster" not in refused.headers
        assert (refused.status, refused.code) == (421, "wrong_cluster")
        assert (after.status, after.headers["ringkeep-cluster"]) == (200, CLUSTER_ID)

    serve(test, EdgeUnderTest(FakeDriver(founded=False)))
