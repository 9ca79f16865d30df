"""Health, metrics and the description of the interface."""

from __future__ import annotations

import re

from ringkeep_node.http.openapi import document
from ringkeep_node.http.routing import METHODS, ROUTES
from ringkeep_testing.fake_driver import FakeDriver
from ringkeep_testing.http_edge import EdgeUnderTest, serve


def test_a_working_node_is_alive_and_ready() -> None:
    async def test(edge: EdgeUnderTest) -> None:
        answers = [await edge.ask("GET", path) for path in ("/livez", "/readyz")]

        assert [(answer.status, answer.json) for answer in answers] == [(200, {"live": True}), (200, {"ready": True})]

    serve(test)


def test_a_node_that_waits_for_its_cluster_is_alive_and_not_ready_and_says_why() -> None:
    async def test(edge: EdgeUnderTest) -> None:
        live, ready = await edge.ask("GET", "/livez"), await edge.ask("GET", "/readyz")

        assert (live.status, ready.status, ready.code) == (200, 503, "not_ready")
        assert (ready.json["detail"], ready.json["retryable"]) == ("this node belongs to no cluster yet", True)

    serve(test, EdgeUnderTest(FakeDriver(founded=False)))


def test_a_node_that_stops_is_not_ready_but_goes_on_answering() -> None:
    async def test(edge: EdgeUnderTest) -> None:
        edge.edge.stopping = True
        ready, live = await edge.ask("GET", "/readyz"), await edge.ask("GET", "/livez")
        document = await edge.ask("PUT", "/v1/users/ada/docs/k", b"x")

        assert (ready.status, ready.json["detail"]) == (503, "this node is stopping")
        assert ready.headers["connection"] == document.headers["connection"] == "close"
        assert (live.status, document.status) == (200, 201)

    serve(test)


def test_connections_end_while_a_balancer_is_told_to_send_clients_elsewhere() -> None:
    async def test(edge: EdgeUnderTest) -> None:
        said = []
        for not_ready in (None, "about to leave", None):
            edge.driver.not_ready = not_ready
            ready = await edge.ask("GET", "/readyz")
            document = await edge.ask("PUT", "/v1/users/ada/docs/k", b"x")
            said.append((ready.status, document.status < 300, document.headers.get("connection")))

        assert said == [(200, True, None), (503, True, "close"), (200, True, None)]

    serve(test)


def test_a_node_whose_machines_stand_still_is_not_alive() -> None:
    async def test(edge: EdgeUnderTest) -> None:
        edge.driver.not_live = "the loop has not turned for 20 s"
        answer = await edge.ask("GET", "/livez")

        assert (answer.status, answer.json["detail"]) == (503, "the loop has not turned for 20 s")

    serve(test)


def test_requests_are_counted_by_route_method_and_code_and_never_by_user_or_path() -> None:
    async def test(edge: EdgeUnderTest) -> None:
        await edge.ask("PUT", "/v1/users/ada/docs/secret", b"x")
        await edge.ask("PUT", "/v1/users/ada/docs/secret", b"x")
        await edge.ask("GET", "/v1/users/bob/docs/none")
        await edge.ask("GET", "/no/such/path")
        await edge.ask("PROPFIND", "/livez")
        await edge.raw(b"nonsense\r\n\r\n")
        page = await edge.ask("GET", "/metrics")
        text = page.body.decode()
        counts = dict(re.findall(r"^ringkeep_node_request_duration_seconds_count(\{.*\}) (.*)$", text, re.MULTILINE))

        assert page.headers["content-type"].startswith("text/plain; version=")
        assert counts == {
            '{route="document",method="PUT",code="201"}': "1",
            '{route="document",method="PUT",code="200"}': "1",
            '{route="document",method="GET",code="404"}': "1",
            '{route="unknown",method="GET",code="404"}': "1",
            '{route="livez",method="other",code="405"}': "1",
            '{route="unknown",method="other",code="400"}': "1",
        }
        assert 'ringkeep_node_problems_total{error="not_found"} 2.0' in text
        assert 'ringkeep_node_problems_total{error="internal"} 0.0' in text
        assert 'ringkeep_node_shards{role="primary",state="ok"} 16.0' in text
        assert 'ringkeep_node_members{state="dead"} 0.0' in text
        assert not any(word in text for word in ("ada", "bob", "secret", "such"))

    serve(test)


def test_the_description_names_exactly_the_routes_and_methods_that_are_answered() -> None:
    async def test(edge: EdgeUnderTest) -> None:
        described = (await edge.ask("GET", "/openapi.json")).json
        methods = {
            path: {method.upper() for method in operations if method != "parameters"}
            for path, operations in described["paths"].items()
        }
        routes = {path: set(METHODS[route]) for path, route in ROUTES.items()} | {
            "/v1/users/{user}/docs/{key}": set(METHODS["document"]),
            "/v1/users/{user}/docs": set(METHODS["documents"]),
            "/v1/users/{user}/route": set(METHODS["route"]),
            "/v1/cluster/members/{name}/drain": set(METHODS["drain"]),
            "/v1/cluster/members/{name}/leave": set(METHODS["leave"]),
            "/v1/services/{name}": set(METHODS["service"]),
            "/v1/services/{name}/watch": set(METHODS["service_watch"]),
            "/v1/services/{name}/{id}": set(METHODS["instance"]),
            "/v1/services/{name}/{id}/renew": set(METHODS["renew"]),
            "/console/{digest}/{file}": set(METHODS["asset"]),
        }

        assert described["openapi"] == "3.1.0"
        # HEAD is described where it has its own use; everywhere else it goes without saying.
        assert {path: found | {"HEAD"} for path, found in methods.items()} == {
            path: wanted | {"HEAD"} for path, wanted in routes.items()
        }

    serve(test)


def test_every_reference_in_the_description_leads_somewhere() -> None:
    described = document()
    references = set(re.findall(r"#/components/(\w+)/(\w+)", str(described)))
    names = [
        operation["operationId"]
        for operations in described["paths"].values()
        for method, operation in operations.items()
        if method != "parameters"
    ]

    assert {(kind, name) for kind, name in references if name not in described["components"][kind]} == set()
    assert len(set(names)) == len(names)
