"""Blocking queries: held back until the answer is another one, woken by nothing else, bounded, ended with their client."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from ringkeep_core.services import NodeHealth
from ringkeep_node.http.consul_waiting import ConsulSettings
from ringkeep_node.machines.registry_clients import network_of
from ringkeep_node.runtime.services import ServicesSettings
from ringkeep_testing.consul_edge import ConsulEdge, serve
from ringkeep_testing.fake_services import FakeServices, fact
from ringkeep_testing.http_edge import Answer, request, until

WEB = {"Name": "web", "ID": "web-1", "Port": 80, "Check": {"TTL": "30s", "Status": "passing"}}


async def index_of(consul: ConsulEdge, target: str) -> str:
    """Return the index of an answer."""
    return (await consul.get(target)).headers["x-consul-index"]


def test_a_query_with_the_present_index_is_answered_when_the_service_changes() -> None:
    async def test(consul: ConsulEdge) -> None:
        await consul.done("agent/service/register", WEB)
        index = await index_of(consul, "health/service/web")
        wire = await consul.held(f"health/service/web?index={index}&wait=5m")
        await consul.done("agent/check/warn/service:web-1?note=slow")
        answer = await wire.answer()

        assert [row["Checks"][1]["Status"] for row in answer.json] == ["warning"]
        assert int(answer.headers["x-consul-index"]) > int(index)

    serve(test)


@pytest.mark.parametrize("target", ["health/service/other", "catalog/service/other", "health/checks/other"])
def test_an_unknown_service_is_waited_for_too(target: str) -> None:
    async def test(consul: ConsulEdge) -> None:
        first = await consul.get(target)
        wire = await consul.held(f"{target}?index={first.headers['x-consul-index']}")
        await consul.done("agent/service/register", {**WEB, "Name": "other"})
        answer = await wire.answer()

        assert (first.json, first.headers["x-consul-index"]) == ([], "1")
        assert len(answer.json) == 1
        assert int(answer.headers["x-consul-index"]) > 1

    serve(test)


def test_members_are_told_with_the_roles_that_they_have_when_the_waiting_ends() -> None:
    async def test(consul: ConsulEdge) -> None:
        content = (await consul.get("agent/members")).headers["x-consul-contenthash"]
        wire = await consul.held(f"agent/members?hash={content}&wait=5m")
        consul.driver.voters_set = ()
        consul.services.release()
        answer = await wire.answer()

        assert [member["Tags"]["role"] for member in answer.json] == ["node"]
        assert answer.headers["x-consul-contenthash"] != content

    serve(test)


def test_changes_of_other_services_wake_nobody() -> None:
    async def test(consul: ConsulEdge) -> None:
        await consul.done("agent/service/register", WEB)
        index = await index_of(consul, "health/service/web")
        held = [await consul.held(f"health/service/web?index={index}") for _ in range(10)]
        for number in range(20):
            await consul.done("agent/service/register", {"Name": f"other-{number}", "Port": 1})

        assert (consul.services.wakes, consul.services.waiting) == ([], 10)
        assert await index_of(consul, "health/service/web") == index
        await consul.done("agent/service/deregister/web-1")
        assert [(await wire.answer()).json for wire in held] == [[]] * 10
        assert consul.services.wakes == ["web"] * 10

    serve(test)


def test_a_change_that_the_filters_hide_does_not_answer_the_query() -> None:
    async def test(consul: ConsulEdge) -> None:
        await consul.done("agent/service/register", WEB)
        await consul.done("agent/service/register", {**WEB, "ID": "web-2", "Tags": ["v2"]})
        index = await index_of(consul, "health/service/web?tag=v2")
        wire = await consul.held(f"health/service/web?tag=v2&index={index}")
        await consul.done("agent/check/fail/service:web-1")
        await until(lambda: consul.services.wakes == ["web"])
        await consul.waits(1)
        await consul.done("agent/check/fail/service:web-2")
        answer = await wire.answer()

        assert [row["Service"]["ID"] for row in answer.json] == ["web-2"]
        assert consul.services.wakes == ["web", "web"]

    serve(test)


def test_the_list_of_services_waits_for_names_and_tags_and_not_for_health() -> None:
    async def test(consul: ConsulEdge) -> None:
        await consul.done("agent/service/register", WEB)
        index = await index_of(consul, "catalog/services")
        wire = await consul.held(f"catalog/services?index={index}")
        await consul.done("agent/check/fail/service:web-1")
        await consul.done("agent/check/pass/service:web-1")
        assert consul.services.wakes == []
        await consul.done("agent/service/register", {**WEB, "Tags": ["v1"]})

        assert (await wire.answer()).json == {"ringkeep": [], "web": ["v1"]}

    serve(test)


def test_the_death_of_a_node_answers_whoever_waits_for_what_it_owned() -> None:
    async def test(consul: ConsulEdge) -> None:
        consul.services.nodes(fact("n1"), fact("n2"))
        index = await index_of(consul, "catalog/nodes")
        nodes = await consul.held(f"health/service/ringkeep?passing&index={index}")
        consul.services.nodes(fact("n1"), fact("n2", health=NodeHealth.DEAD))
        answer = await nodes.answer()

        assert [row["Node"]["Node"] for row in answer.json] == ["n1"]

    serve(test)


def test_an_answer_comes_when_the_time_is_up_with_the_same_index() -> None:
    async def test(consul: ConsulEdge) -> None:
        index = await index_of(consul, "health/service/web")
        answer = await consul.get(f"health/service/web?index={index}&wait=10ms")

        assert (answer.json, answer.headers["x-consul-index"]) == ([], index)

    serve(test)


@pytest.mark.parametrize("index", ["0", "7", "999999999"])
def test_any_other_index_than_the_present_one_is_answered_at_once(index: str) -> None:
    """A lower one: it has changed. A higher one: this node counts anew, or another one was asked before."""

    async def test(consul: ConsulEdge) -> None:
        answer = await consul.get(f"health/service/web?index={index}&wait=10m")

        assert (answer.status, answer.headers["x-consul-index"]) == (200, "1")

    serve(test)


def test_agent_answers_wait_for_another_content_by_its_hash() -> None:
    async def test(consul: ConsulEdge) -> None:
        await consul.done("agent/service/register", WEB)
        first = await consul.get("agent/service/web-1")
        content = first.headers["x-consul-contenthash"]
        wire = await consul.held(f"agent/service/web-1?hash={content}&wait=5m")
        await consul.done("agent/service/register", {"Name": "other", "Port": 1})
        await until(lambda: consul.services.wakes)
        await consul.waits(1)
        await consul.done("agent/service/register", {**WEB, "Port": 81})
        answer = await wire.answer()

        assert (first.json["Port"], answer.json["Port"]) == (80, 81)
        assert answer.headers["x-consul-contenthash"] != content
        assert (await consul.get("agent/service/web-1?hash=other")).json == answer.json

    serve(test)


def test_an_instance_that_goes_while_its_agent_answer_is_waited_for_is_told_as_unknown() -> None:
    async def test(consul: ConsulEdge) -> None:
        await consul.done("agent/service/register", WEB)
        content = (await consul.get("agent/service/web-1")).headers["x-consul-contenthash"]
        wire = await consul.held(f"agent/service/web-1?hash={content}")
        await consul.done("agent/service/deregister/web-1")
        answer = await wire.answer()

        assert (answer.status, answer.body) == (404, b"unknown service ID 'web-1'\n")

    serve(test)


def test_a_connection_goes_on_after_a_query_that_waited() -> None:
    async def test(consul: ConsulEdge) -> None:
        wire = await consul.held("health/service/web?index=1")
        await consul.done("agent/service/register", WEB)
        first = await wire.answer()
        index = first.headers["x-consul-index"]
        await wire.send(request("GET", f"/v1/health/service/web?index={index}"))
        await consul.waits(1)
        await consul.done("agent/service/deregister/web-1")
        second = await wire.answer()
        await wire.send(request("HEAD", f"/v1/health/service/web?index={second.headers['x-consul-index']}"))
        await consul.waits(1)
        await consul.done("agent/service/register", WEB)
        third = await wire.answer(bodiless=True)

        assert [len(answer.json) for answer in (first, second)] == [1, 0]
        assert third.status == 200 and int(third.headers["content-length"]) > 2

    serve(test)


def test_whoever_waits_for_any_change_looks_once_at_many_changes() -> None:
    async def test(consul: ConsulEdge) -> None:
        await consul.done("agent/service/register", WEB)
        index = await index_of(consul, "health/state/warning")
        wire = await consul.held(f"health/state/warning?index={index}")
        for _ in range(10):
            await consul.done("agent/check/warn/service:web-1")
            await consul.done("agent/check/pass/service:web-1")
        await consul.done("agent/check/warn/service:web-1")
        answer = await wire.answer()

        assert [check["CheckID"] for check in answer.json] == ["service:web-1"]
        assert len(consul.services.wakes) < 21

    serve(test)


def test_a_client_that_closes_after_its_answer_gets_it_whole() -> None:
    async def test(consul: ConsulEdge) -> None:
        wire = await consul.edge.connect()
        await wire.send(request("GET", "/v1/health/service/web?index=1", Connection="close"))
        await consul.waits(1)
        await consul.done("agent/service/register", WEB)
        answer = await wire.answer()

        assert (len(answer.json), answer.headers["connection"]) == (1, "close")
        assert await wire.is_closed()

    serve(test)


def test_a_query_ends_with_the_connection_of_its_client() -> None:
    async def test(consul: ConsulEdge) -> None:
        wires = [await consul.held("health/service/web?index=1") for _ in range(3)]
        wires[1].hang_up()
        await consul.waits(2)

        assert consul.consul.waiting.count == 2
        for wire in wires:
            wire.hang_up()
        await consul.waits(0)

    serve(test)


def test_a_node_that_stops_answers_whoever_waits() -> None:
    async def test(consul: ConsulEdge) -> None:
        wires = [await consul.held(f"{target}?index=1") for target in ("health/service/web", "catalog/service/web")]
        consul.services.release()
        answers = [await wire.answer() for wire in wires]
        late = await consul.get("health/service/web?index=1")

        assert [(answer.status, answer.json) for answer in (*answers, late)] == [(200, [])] * 3

    serve(test)


def test_one_client_and_all_together_may_have_so_many_queries_waiting() -> None:
    async def test(consul: ConsulEdge) -> None:
        for _ in range(3):
            await consul.held("health/service/web?index=1")
        refused = await consul.get("health/service/web?index=1")
        free = await consul.get("health/service/web")

        assert (refused.status, refused.headers["retry-after"]) == (429, "1")
        assert refused.body == b"3 queries of this client wait already, which is as many as may\n"
        assert free.status == 200

    serve(test, ConsulEdge(settings=ConsulSettings(waiting_per_client_max=3)))


def test_the_limit_for_all_is_told_as_such() -> None:
    async def test(consul: ConsulEdge) -> None:
        await consul.held("health/service/web?index=1")
        refused = await consul.get("health/service/web?index=1")

        assert refused.status == 503
        assert refused.body == b"1 queries wait for changes here, which is as many as may\n"

    serve(test, ConsulEdge(FakeServices(settings=ServicesSettings(waiters_max=1))))


@pytest.mark.parametrize("made", [lambda: ConsulSettings("DC 1"), lambda: ConsulSettings(waiting_per_client_max=0)])
def test_settings_that_make_no_sense_are_refused(made: Callable[[], ConsulSettings]) -> None:
    with pytest.raises(ValueError):
        made()


@pytest.mark.parametrize(
    ("address", "client"),
    [
        ("10.1.2.3", "10.1.2.3"),
        ("::ffff:10.1.2.3", "10.1.2.3"),
        ("2001:db8:1:2:3::4", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("", ""),
    ],
)
def test_one_client_is_an_ipv4_address_or_a_64th_of_ipv6(address: str, client: str) -> None:
    assert network_of(address) == client


def test_all_that_wait_for_one_service_are_answered_by_one_change() -> None:
    async def test(consul: ConsulEdge) -> None:
        wires = [await consul.held("health/service/web?index=1") for _ in range(200)]
        await consul.done("agent/service/register", WEB)
        answers: list[Answer] = await asyncio.gather(*(wire.answer() for wire in wires))

        assert {len(answer.json) for answer in answers} == {1}
        assert len({answer.body for answer in answers}) == 1
        assert consul.services.wakes == ["web"] * 200

    serve(test, ConsulEdge(FakeServices()))
