"""The answers of the Consul-compatible paths as real clients read them: shapes, order, headers, filters."""

from __future__ import annotations

from typing import Any

import pytest

from ringkeep_core.services import NodeHealth, Registration
from ringkeep_testing.consul_edge import ConsulEdge, serve
from ringkeep_testing.fake_services import FakeServices, fact
from ringkeep_testing.http_edge import Answer

WEB1 = {
    "Name": "web",
    "ID": "web-1",
    "Address": "10.0.0.1",
    "Port": 8000,
    "Tags": ["v1", "blue"],
    "Meta": {"team": "a"},
    "Weights": {"Passing": 3, "Warning": 2},
    "Check": {"TTL": "30s", "Status": "passing", "Notes": "says so itself"},
}
WEB2 = {"Name": "web", "ID": "web-2", "Port": 8001, "Tags": ["v2", "Blue"], "Check": {"TTL": "30s"}}
STARTED = b"this node has just started and does not know yet what the others hold\n"
HEADERS = ("x-consul-index", "x-consul-knownleader", "x-consul-lastcontact", "x-consul-effective-consistency")


async def with_web(consul: ConsulEdge) -> None:
    """Register two instances of a service; only the first passes."""
    for body in (WEB2, WEB1):
        await consul.done("agent/service/register", body)


def ids(answer: Answer) -> list[str]:
    """Return the ids of the instances of an answer, of either shape."""
    return [row["ServiceID"] if "ServiceID" in row else row["Service"]["ID"] for row in answer.json]


def test_catalog_rows_are_flat() -> None:
    async def test(consul: ConsulEdge) -> None:
        await with_web(consul)
        row = (await consul.get("catalog/service/web")).json[0]
        created, modified, node = row.pop("CreateIndex"), row.pop("ModifyIndex"), row.pop("ID")

        assert row == {
            "Node": "n1",
            "Address": "127.0.0.1",
            "Datacenter": "dc1",
            "TaggedAddresses": {"lan": "127.0.0.1", "wan": "127.0.0.1"},
            "NodeMeta": {
                "zone": "z1",
                "boot-id": "b000000000000001",
                "storage-id": "5000000000000001",
                "url": "http://127.0.0.1:8081",
            },
            "ServiceKind": "",
            "ServiceID": "web-1",
            "ServiceName": "web",
            "ServiceTags": ["v1", "blue"],
            "ServiceAddress": "10.0.0.1",
            "ServiceTaggedAddresses": {},
            "ServiceWeights": {"Passing": 3, "Warning": 2},
            "ServiceMeta": {"team": "a"},
            "ServicePort": 8000,
            "ServiceSocketPath": "",
            "ServiceEnableTagOverride": False,
            "ServiceProxy": {"Mode": "", "MeshGateway": {}, "Expose": {}},
            "ServiceConnect": {},
        }
        assert 1 <= created <= modified
        assert len(node) == 36

    serve(test)


def test_health_rows_have_the_node_the_instance_and_the_checks_of_both() -> None:
    async def test(consul: ConsulEdge) -> None:
        await with_web(consul)
        rows = (await consul.get("health/service/web")).json
        node, service, checks = rows[0]["Node"], rows[0]["Service"], rows[0]["Checks"]

        assert set(rows[0]) == {"Node", "Service", "Checks"}
        assert (node["Node"], node["Address"], node["Meta"]["zone"]) == ("n1", "127.0.0.1", "z1")
        assert (service["ID"], service["Service"], service["Address"], service["Port"]) == (
            "web-1",
            "web",
            "10.0.0.1",
            8000,
        )
        assert (service["Tags"], service["Meta"]) == (["v1", "blue"], {"team": "a"})
        assert [(check["CheckID"], check["Status"], check["ServiceID"], check["Type"]) for check in checks] == [
            ("serfHealth", "passing", "", ""),
            ("service:web-1", "passing", "web-1", "ttl"),
        ]
        assert rows[1]["Service"]["Address"] == ""

    serve(test)


@pytest.mark.parametrize("query", ["", "?tag=blue", "?stale", "?consistent", "?near=_agent"])
def test_both_kinds_of_rows_are_in_one_order(query: str) -> None:
    async def test(consul: ConsulEdge) -> None:
        for number in (5, 3, 9, 1, 7):
            await consul.done("agent/service/register", {**WEB1, "ID": f"web-{number}"})
        await consul.done("agent/check/fail/service:web-3")
        catalog, health = (
            await consul.get(f"catalog/service/web{query}"),
            await consul.get(f"health/service/web{query}"),
        )

        assert ids(catalog) == ids(health) == [f"web-{number}" for number in (1, 3, 5, 7, 9)]

    serve(test)


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", ["web-1", "web-2"]),
        ("?passing", ["web-1"]),
        ("?passing=1", ["web-1"]),
        ("?passing=true", ["web-1"]),
        ("?passing=false", ["web-1", "web-2"]),
        ("?tag=v2", ["web-2"]),
        ("?tag=blue", ["web-1", "web-2"]),
        ("?tag=blue&tag=v1", ["web-1"]),
        ("?tag=v1&tag=v2", []),
        ("?node-meta=zone:z1", ["web-1", "web-2"]),
        ("?node-meta=zone:z2", []),
        ("?node-meta=zone:z1&node-meta=boot-id:b000000000000001&tag=v2", ["web-2"]),
        ("?dc=dc1&ns=default&partition=default&pretty&unknown=1", ["web-1", "web-2"]),
    ],
)
def test_rows_are_chosen_by_tags_metadata_and_health(query: str, expected: list[str]) -> None:
    async def test(consul: ConsulEdge) -> None:
        await with_web(consul)

        assert ids(await consul.get(f"health/service/web{query}")) == expected

    serve(test)


@pytest.mark.parametrize(
    ("query", "sentence"),
    [
        ("filter=Service.Port==1", "filter expressions are not supported here: use tag, passing and node-meta"),
        ("stale&consistent", "a query is stale or consistent, not both"),
        ("dc=dc2", "there is one datacenter here, 'dc1', not 'dc2'"),
        ("ns=other", "there is no ns here but 'default'"),
        ("partition=other", "there is no partition here but 'default'"),
        ("peer=east", "there is no peer here: services of other clusters are not imported"),
        ("index=-1", "index is a whole number, not '-1'"),
        ("index=1x", "index is a whole number, not '1x'"),
        ("index=1&wait=soon", "wait is a duration like 10s, 5m or 120000ms, not 'soon'"),
        ("index=1&wait=10", "wait is a duration like 10s, 5m or 120000ms, not '10'"),
        ("passing=perhaps", "passing is true or false, not 'perhaps'"),
        ("tag=%zz", "the query has a '%' that is not followed by two hexadecimal digits"),
        ("&".join(["tag=a"] * 101), "a query has at most 100 parameters, not 101"),
    ],
)
@pytest.mark.parametrize("path", ["health/service/web", "catalog/services", "agent/services", "agent/self"])
def test_what_cannot_be_answered_as_it_is_meant_is_refused_in_plain_text(path: str, query: str, sentence: str) -> None:
    async def test(consul: ConsulEdge) -> None:
        answer = await consul.get(f"{path}?{query}")

        assert (answer.status, answer.body) == (400, f"{sentence}\n".encode())
        assert answer.headers["content-type"] == "text/plain; charset=utf-8"

    serve(test)


@pytest.mark.parametrize(
    ("target", "empty"),
    [
        ("catalog/services", {"ringkeep": []}),
        ("catalog/service/none", []),
        ("catalog/node/none", None),
        ("health/service/none", []),
        ("health/checks/none", []),
        ("health/node/none", []),
        ("health/state/critical", []),
    ],
)
def test_what_is_not_there_is_an_empty_answer_with_every_header(target: str, empty: Any) -> None:
    async def test(consul: ConsulEdge) -> None:
        answer = await consul.get(target)

        assert (answer.status, answer.json, answer.headers["content-type"]) == (200, empty, "application/json")
        assert [answer.headers[name] for name in HEADERS[1:]] == ["true", "0", "stale"]
        assert int(answer.headers["x-consul-index"]) >= 1
        assert "x-cache" not in answer.headers

    serve(test)


def test_a_cached_answer_says_so_and_is_of_now() -> None:
    async def test(consul: ConsulEdge) -> None:
        answer = await consul.get("health/service/web?cached")

        assert (answer.headers["x-cache"], answer.headers["age"]) == ("HIT", "0")

    serve(test)


def test_without_a_leader_answers_say_so() -> None:
    async def test(consul: ConsulEdge) -> None:
        consul.driver.cluster_id = ""
        answer = await consul.get("health/service/web")
        leader = await consul.get("status/leader")

        assert (answer.status, answer.headers["x-consul-knownleader"], leader.json) == (200, "false", "")

    serve(test)


def test_the_services_have_the_union_of_their_tags_and_the_cluster_itself_is_one() -> None:
    async def test(consul: ConsulEdge) -> None:
        await with_web(consul)

        assert (await consul.get("catalog/services")).json == {"ringkeep": [], "web": ["Blue", "blue", "v1", "v2"]}
        assert (await consul.get("catalog/services?node-meta=zone:none")).json == {}
        assert (await consul.get("catalog/services?node-meta=zone:z1")).json == {
            "ringkeep": [],
            "web": ["Blue", "blue", "v1", "v2"],
        }

    serve(test)


def test_the_cluster_itself_is_found_with_its_nodes_and_dead_ones_do_not_pass() -> None:
    async def test(consul: ConsulEdge) -> None:
        consul.services.nodes(fact("n1"), fact("n2", "10.0.0.2"), fact("n3", "10.0.0.3", health=NodeHealth.DEAD))
        every, passing = (
            await consul.get("health/service/ringkeep"),
            await consul.get("health/service/ringkeep?passing"),
        )

        assert ids(every) == ["n1", "n2", "n3"]
        assert ids(passing) == ["n1", "n2"]
        assert [(row["Node"]["Address"], row["Service"]["Port"]) for row in passing.json] == [
            ("127.0.0.1", 8081),
            ("10.0.0.2", 8081),
        ]

    serve(test)


def test_a_name_that_nobody_can_have_is_unknown_like_any_other() -> None:
    async def test(consul: ConsulEdge) -> None:
        for name in ("UPPER", "a_b", "_node", "w%C3%BCb", "x" * 300):
            assert (await consul.get(f"health/service/{name}")).json == []

    serve(test)


def test_nodes_are_listed_with_their_addresses_and_metadata() -> None:
    async def test(consul: ConsulEdge) -> None:
        consul.services.nodes(fact("n1"), fact("n2", "10.0.0.2"))
        nodes = (await consul.get("catalog/nodes")).json

        assert [(node["Node"], node["Address"], node["Datacenter"]) for node in nodes] == [
            ("n1", "127.0.0.1", "dc1"),
            ("n2", "10.0.0.2", "dc1"),
        ]
        assert len({node["ID"] for node in nodes}) == 2
        assert (await consul.get("catalog/nodes?node-meta=zone:z9")).json == []
        assert (await consul.get("catalog/datacenters")).json == ["dc1"]

    serve(test)


def test_a_node_is_shown_with_what_it_owns() -> None:
    async def test(consul: ConsulEdge) -> None:
        await with_web(consul)
        found = (await consul.get("catalog/node/n1")).json

        assert found["Node"]["Node"] == "n1"
        assert {key: (row["Service"], row["Port"]) for key, row in found["Services"].items()} == {
            "web-1": ("web", 8000),
            "web-2": ("web", 8001),
        }

    serve(test)


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("health/checks/web", ["service:web-1", "service:web-2"]),
        ("health/node/n1", ["serfHealth", "service:web-1", "service:web-2"]),
        ("health/state/any", ["serfHealth", "service:web-1", "service:web-2"]),
        ("health/state/passing", ["serfHealth", "service:web-1"]),
        ("health/state/critical", ["service:web-2"]),
        ("health/state/warning", []),
    ],
)
def test_checks_are_listed_by_service_node_and_state(target: str, expected: list[str]) -> None:
    async def test(consul: ConsulEdge) -> None:
        await with_web(consul)

        assert [check["CheckID"] for check in (await consul.get(target)).json] == expected

    serve(test)


def test_a_state_that_there_is_not_is_refused() -> None:
    async def test(consul: ConsulEdge) -> None:
        answer = await consul.get("health/state/well")

        assert answer.status == 400
        assert answer.body == b"a state is one of any, passing, warning, critical, unknown, not 'well'\n"

    serve(test)


def test_the_agent_tells_who_it_is() -> None:
    async def test(consul: ConsulEdge) -> None:
        told = (await consul.get("agent/self")).json

        assert set(told) == {"Config", "Member", "Meta", "Stats"}
        assert (told["Config"]["Datacenter"], told["Config"]["NodeName"], told["Config"]["Server"]) == (
            "dc1",
            "n1",
            True,
        )
        assert (told["Member"]["Name"], told["Member"]["Addr"], told["Member"]["Status"]) == ("n1", "127.0.0.1", 1)
        assert told["Meta"]["zone"] == "z1"

    serve(test)


def test_the_agent_lists_its_own_services_and_checks_and_all_members() -> None:
    async def test(consul: ConsulEdge) -> None:
        consul.services.nodes(fact("n1"), fact("n2", "10.0.0.2", health=NodeHealth.DEAD))
        await with_web(consul)
        services, checks = (await consul.get("agent/services")).json, (await consul.get("agent/checks")).json
        one, members = (await consul.get("agent/service/web-2")).json, (await consul.get("agent/members")).json

        assert set(services) == {"web-1", "web-2"}
        assert set(checks) == {"service:web-1", "service:web-2"}
        assert one == services["web-2"]
        assert [(member["Name"], member["Status"]) for member in members] == [("n1", 1), ("n2", 4)]

    serve(test)


def test_a_member_has_the_role_of_a_voter_as_soon_as_it_is_one() -> None:
    async def test(consul: ConsulEdge) -> None:
        consul.services.nodes(fact("n1"), fact("n2"))
        answers = []
        for voters in ((fact("n1").storage,), (fact("n2").storage,)):
            consul.driver.voters_set = voters
            answers.append(await consul.get("agent/members"))
        before = answers[0].headers["x-consul-contenthash"]
        told = await consul.get(f"agent/members?hash={before}&wait=5m")

        assert [[member["Tags"]["role"] for member in answer.json] for answer in (*answers, told)] == [
            ["consul", "node"],
            ["node", "consul"],
            ["node", "consul"],
        ]
        assert told.headers["x-consul-contenthash"] == answers[1].headers["x-consul-contenthash"] != before

    serve(test)


def test_an_agent_that_does_not_know_an_instance_says_so_with_404() -> None:
    async def test(consul: ConsulEdge) -> None:
        answer = await consul.get("agent/service/none")

        assert (answer.status, answer.body) == (404, b"unknown service ID 'none'\n")

    serve(test)


def test_an_agent_shows_none_of_two_instances_that_have_one_id() -> None:
    async def test(consul: ConsulEdge) -> None:
        for service in ("web", "api"):
            consul.services.register(service, "1", Registration(), client="")
        answer = await consul.get("agent/service/1")

        assert (answer.status, answer.body) == (
            400,
            b"2 services have an instance '1' ('api', 'web'): say which one by its own path, /v1/services/<service>/<id>\n",
        )

    serve(test)


def test_the_leader_and_the_voters_are_told_by_their_addresses() -> None:
    async def test(consul: ConsulEdge) -> None:
        assert (await consul.get("status/leader")).json == "127.0.0.1:7401"
        assert (await consul.get("status/peers")).json == ["127.0.0.1:7401", "127.0.0.1:7402", "127.0.0.1:7403"]

    serve(test)


@pytest.mark.parametrize("path", ["kv/a/b", "kv/", "kv", "session/create", "session/list", "txn"])
@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
def test_keys_and_sessions_are_not_found_with_a_sentence_that_says_why(path: str, method: str) -> None:
    async def test(consul: ConsulEdge) -> None:
        answer = await consul.edge.ask(method, f"/v1/{path}")

        assert (answer.status, answer.code) == (404, "not_found")
        assert "keys, sessions and transactions of Consul are not supported" in answer.json["detail"]

    serve(test)


@pytest.mark.parametrize(
    "path",
    [
        "agent/leave",
        "agent/self/x",
        "catalog",
        "catalog/service/",
        "catalog/service/a/b",
        "health/connect/x",
        "acl/token",
    ],
)
def test_other_paths_of_consul_are_not_there(path: str) -> None:
    async def test(consul: ConsulEdge) -> None:
        assert (await consul.get(path)).status == 404

    serve(test)


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("PUT", "health/service/web", "GET, HEAD"),
        ("GET", "agent/service/register", "PUT"),
        ("POST", "agent/self", "GET, HEAD"),
    ],
)
def test_another_method_is_told_which_one_there_is(method: str, path: str, allow: str) -> None:
    async def test(consul: ConsulEdge) -> None:
        answer = await consul.edge.ask(method, f"/v1/{path}")

        assert (answer.status, answer.headers["allow"]) == (405, allow)

    serve(test)


def test_head_is_get_without_a_body() -> None:
    async def test(consul: ConsulEdge) -> None:
        answer = await consul.edge.ask("HEAD", "/v1/health/service/web")

        assert (answer.status, answer.body, answer.headers["content-length"]) == (200, b"", "2")

    serve(test)


def test_an_answer_is_encoded_anew_only_when_its_service_changed() -> None:
    async def test(consul: ConsulEdge) -> None:
        await with_web(consul)
        made: list[object] = []
        original = consul.consul.encoded.of

        def counted(key: tuple[object, ...], index: int, rows: Any, *, is_kept: bool = True) -> bytes:
            def noted() -> Any:
                made.append(key)
                return rows()

            return original(key, index, noted, is_kept=is_kept)

        consul.consul.encoded.of = counted  # type: ignore[method-assign]  # a spy, not a stand-in
        for _ in range(3):
            await consul.get("health/service/web?passing")
        await consul.done("agent/service/register", {"Name": "other", "Port": 1})
        await consul.get("health/service/web?passing")
        await consul.done("agent/check/warn/service:web-1")
        await consul.get("health/service/web?passing")

        assert len(made) == 2

    serve(test, ConsulEdge(FakeServices()))


def test_a_node_that_has_just_started_refuses_to_tell_what_is_registered_and_says_who_it_is() -> None:
    registered = (
        *(
            "catalog/services",
            "catalog/service/web",
            "catalog/node/n1",
            "health/service/web?passing",
            "health/checks/web",
        ),
        *("health/node/n1", "health/state/any", "agent/services", "agent/service/web-1", "agent/checks"),
        *("health/service/web?index=1&wait=5m", "catalog/services?index=1"),
    )
    known = (
        *("agent/self", "agent/members", "catalog/nodes", "catalog/datacenters", "status/leader", "status/peers"),
        *("health/service/ringkeep", "catalog/service/ringkeep"),
    )

    async def test(consul: ConsulEdge) -> None:
        consul.services.nodes(fact("n1"), fact("n2"), have_compared=False)
        early = [await consul.get(target) for target in registered]
        answered = [await consul.get(target) for target in known]
        consul.services.nodes(fact("n1"), fact("n2"))

        assert {(answer.status, answer.body) for answer in early} == {(503, STARTED)}
        assert {answer.status for answer in answered} == {200}
        assert (await consul.get("health/service/web?passing")).json == []

    serve(test)
