"""What registrars do on the Consul-compatible paths."""

from __future__ import annotations

from typing import Any

import pytest

from ringkeep_core.services import CheckWish, Registration
from ringkeep_node.runtime.services import ServicesSettings
from ringkeep_testing.consul_edge import ConsulEdge, serve, shown
from ringkeep_testing.fake_services import FakeServices


@pytest.mark.parametrize(
    "body",
    [
        {"Name": "web", "ID": "w1", "Address": "10.0.0.1", "Port": 80, "Check": {"TTL": "10s", "Status": "passing"}},
        {"name": "web", "id": "w1", "address": "10.0.0.1", "port": 80, "checks": [{"ttl": "10s", "status": "passing"}]},
        {"NAME": "web", "Id": "w1", "ADDRESS": "10.0.0.1", "pOrT": 80, "cHeck": {"Ttl": "10s", "sTatus": "passing"}},
        {
            "Name": "web",
            "ID": "w1",
            "Address": "10.0.0.1",
            "Port": 80,
            "Check": {"TTL": "10s", "Status": "passing", "Header": None, "Args": []},
            "Kind": "",
            "Connect": {"Native": False},
            "Proxy": {"MeshGateway": {}},
            "Tags": None,
            "Namespace": "default",
            "TaggedAddresses": {"lan": {"Address": "10.0.0.1", "Port": 80}},
        },
    ],
)
def test_fields_may_be_in_any_case_and_empty_ones_say_nothing(body: dict[str, Any]) -> None:
    async def test(consul: ConsulEdge) -> None:
        await consul.done("agent/service/register", body)

        assert shown(consul.services) == [("w1", "10.0.0.1", 80, (("service:w1", "passing"),))]

    serve(test)


def test_several_checks_are_numbered_from_check_on_and_each_is_told_by_its_number() -> None:
    async def test(consul: ConsulEdge) -> None:
        checks = {"Check": {"TTL": "10s", "Notes": "alone"}, "Checks": [{"TTL": "20s"}, {"TTL": "30s"}]}
        await consul.done("agent/service/register", {"Name": "web", "ID": "w1", **checks})
        for path in ("pass/service:w1:1", "warn/service:w1:3"):
            await consul.done(f"agent/check/{path}")
        rows = (await consul.get("health/checks/web")).json

        assert [(row["CheckID"], row["Status"], row["Notes"]) for row in rows] == [
            ("service:w1:1", "passing", "alone"),
            ("service:w1:2", "critical", ""),
            ("service:w1:3", "warning", ""),
        ]
        assert (await consul.put("agent/check/pass/service:w1")).status == 404

    serve(test)


def test_the_id_is_the_name_if_none_is_given_and_a_ttl_check_is_critical_until_it_is_told() -> None:
    async def test(consul: ConsulEdge) -> None:
        await consul.done("agent/service/register", {"Name": "web", "Check": {"TTL": "10s"}})
        before = shown(consul.services)
        await consul.done("agent/check/pass/service:web?note=up")
        await consul.done("agent/service/register", {"Name": "web", "Check": {"TTL": "10s"}})

        assert before == [("web", "", 0, (("service:web", "critical"),))]
        assert shown(consul.services) == [("web", "", 0, (("service:web", "passing"),))]
        assert (await consul.get("health/checks/web")).json[0]["Output"] == "up"

    serve(test)


def test_a_ttl_check_that_nobody_renews_gets_critical() -> None:
    async def test(consul: ConsulEdge) -> None:
        await consul.done("agent/service/register", {"Name": "web", "Check": {"TTL": "10s"}})
        await consul.done("agent/check/pass/service:web")
        consul.services.pass_time(9.9)
        before = (await consul.get("health/service/web?passing")).json
        consul.services.pass_time(0.2)

        assert len(before) == 1
        assert (await consul.get("health/service/web?passing")).json == []

    serve(test)


@pytest.mark.parametrize(
    ("path", "body", "state", "output"),
    [
        ("pass/service:web?note=well", None, "passing", "well"),
        ("warn/service:web?note=slow", None, "warning", "slow"),
        ("fail/service:web?note=gone", None, "critical", "gone"),
        ("update/service:web", {"Status": "warning", "Output": "so so"}, "warning", "so so"),
        ("update/service:web", {"status": "passing"}, "passing", ""),
    ],
)
def test_the_state_of_a_check_is_told_with_a_note(path: str, body: Any, state: str, output: str) -> None:
    async def test(consul: ConsulEdge) -> None:
        await consul.done("agent/service/register", {"Name": "web", "Check": {"TTL": "10s"}})
        await consul.done(f"agent/check/{path}", body)
        check = (await consul.get("health/checks/web")).json[0]

        assert (check["Status"], check["Output"]) == (state, output)

    serve(test)


@pytest.mark.parametrize(("path", "body"), [("pass/service:none", None), ("update/x", {"Status": "passing"})])
def test_a_check_that_nobody_knows_is_not_found(path: str, body: Any) -> None:
    async def test(consul: ConsulEdge) -> None:
        answer = await consul.put(f"agent/check/{path}", body)

        assert answer.status == 404
        assert answer.body.endswith(b"this service or check may have to be registered again\n")

    serve(test)


def test_checks_of_an_instance_are_added_and_taken_away() -> None:
    async def test(consul: ConsulEdge) -> None:
        await consul.done("agent/service/register", {"Name": "web", "ID": "w1", "Check": {"TTL": "10s"}})
        await consul.done(
            "agent/check/register", {"Name": "extra", "ServiceID": "w1", "TTL": "5s", "Status": "passing"}
        )
        added = shown(consul.services)
        await consul.done("agent/check/deregister/extra")
        await consul.done("agent/check/deregister/extra")

        assert added == [("w1", "", 0, (("service:w1", "critical"), ("extra", "passing")))]
        assert shown(consul.services) == [("w1", "", 0, (("service:w1", "critical"),))]

    serve(test)


def test_a_check_of_the_node_counts_for_all_its_instances() -> None:
    async def test(consul: ConsulEdge) -> None:
        await consul.done("agent/service/register", {"Name": "web"})
        await consul.done("agent/check/register", {"Name": "disk", "TTL": "10s"})
        failing = (await consul.get("health/service/web?passing")).json
        await consul.done("agent/check/pass/disk")
        passing = (await consul.get("health/service/web?passing")).json
        listed = (await consul.get("agent/checks")).json

        assert (failing, len(passing), set(listed)) == ([], 1, {"disk"})
        await consul.done("agent/check/deregister/disk")
        assert (await consul.get("agent/checks")).json == {}

    serve(test)


@pytest.mark.parametrize(
    ("query", "kept"), [("", True), ("?replace-existing-checks=true", False), ("?replace-existing-checks=false", True)]
)
def test_registering_again_keeps_other_checks_unless_they_are_to_be_replaced(query: str, kept: bool) -> None:
    async def test(consul: ConsulEdge) -> None:
        await consul.done("agent/service/register", {"Name": "web", "Check": {"CheckID": "old", "TTL": "10s"}})
        await consul.done(f"agent/service/register{query}", {"Name": "web", "Check": {"CheckID": "new", "TTL": "10s"}})

        assert {check for check, _ in shown(consul.services)[0][3]} == ({"old", "new"} if kept else {"new"})

    serve(test)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("agent/service/register", {"Name": "web", "ID": "1"}),
        ("catalog/register", {"Node": "n1", "Service": {"Service": "web", "ID": "1"}}),
    ],
)
def test_an_id_that_an_instance_of_another_service_has_is_refused_and_that_one_stays(path: str, body: Any) -> None:
    async def test(consul: ConsulEdge) -> None:
        consul.services.register("api", "1", Registration(port=7), client="")
        answer = await consul.put(path, body)

        assert (answer.status, answer.body.decode()) == (
            400,
            "the ID '1' is that of an instance of 'api': take another ID, or deregister that one first, "
            "or register at this service's own path, /v1/services/<service>/<id>\n",
        )
        assert (shown(consul.services), shown(consul.services, "api")) == ([], [("1", "", 7, ())])
        await consul.done("agent/service/deregister/1")
        await consul.done(path, body)
        assert (shown(consul.services), shown(consul.services, "api")) == ([("1", "", 0, ())], [])

    serve(test)


def both(consul: ConsulEdge) -> dict[str, list[tuple[str, str, int, tuple[tuple[str, str], ...]]]]:
    """Return the instances of the two services that have an id in common."""
    return {service: shown(consul.services, service) for service in ("api", "web")}


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("agent/service/deregister/1", None),
        ("agent/service/maintenance/1?enable=true", None),
        ("agent/check/register", {"Name": "more", "ServiceID": "1", "TTL": "5s"}),
        ("catalog/register", {"Node": "n1", "Check": {"CheckID": "more", "ServiceID": "1"}}),
        (
            "catalog/register",
            {"Node": "n1", "Service": {"Service": "api"}, "Check": {"CheckID": "m", "ServiceID": "1"}},
        ),
        ("catalog/deregister", {"Node": "n1", "ServiceID": "1"}),
    ],
)
def test_an_id_that_two_services_have_is_refused_with_their_names_and_neither_is_changed(path: str, body: Any) -> None:
    async def test(consul: ConsulEdge) -> None:
        for service in ("web", "api"):
            consul.services.register(service, "1", Registration(checks=(CheckWish(ttl_s=10),)), client="")
        before = both(consul)
        answer = await consul.put(path, body)

        assert (answer.status, answer.body.decode()) == (
            400,
            "2 services have an instance '1' ('api', 'web'): say which one by its own path, /v1/services/<service>/<id>\n",
        )
        assert both(consul) == before

    serve(test)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("agent/check/pass/service:1", None),
        ("agent/check/warn/service:1", None),
        ("agent/check/fail/service:1", None),
        ("agent/check/update/service:1", {"Status": "warning"}),
        ("agent/check/deregister/service:1", None),
        ("catalog/deregister", {"Node": "n1", "CheckID": "service:1"}),
    ],
)
def test_a_check_that_instances_of_two_services_have_is_told_for_neither(path: str, body: Any) -> None:
    async def test(consul: ConsulEdge) -> None:
        for service in ("web", "api"):
            wanted = Registration(checks=(CheckWish(ttl_s=10, status="warning"),))
            consul.services.register(service, "1", wanted, client="")
        before = both(consul)
        answer = await consul.put(path, body)

        assert (answer.status, answer.body.decode()) == (
            400,
            "2 instances have a check 'service:1' ('api/1', 'web/1'): give their checks ids of their own, "
            "or say which one by its own path, /v1/services/<service>/<id>/renew\n",
        )
        assert both(consul) == before

    serve(test)


def test_the_second_check_of_an_instance_and_the_only_one_of_another_are_not_taken_for_each_other() -> None:
    async def test(consul: ConsulEdge) -> None:
        checks = [{"TTL": "10s"}, {"TTL": "10s"}]
        await consul.done("agent/service/register", {"Name": "web", "ID": "w1", "Checks": checks})
        await consul.done("agent/check/pass/service:w1:2")
        await consul.done("agent/service/register", {"Name": "api", "ID": "w1:2", "Check": {"TTL": "10s"}})
        answer = await consul.put("agent/check/pass/service:w1:2")

        assert answer.status == 400
        assert answer.body.startswith(b"2 instances have a check 'service:w1:2' ('api/w1:2', 'web/w1'): ")
        assert shown(consul.services, "api") == [("w1:2", "", 0, (("service:w1:2", "critical"),))]

    serve(test)


def test_what_names_its_service_is_registered_again_though_another_service_has_the_id_too() -> None:
    async def test(consul: ConsulEdge) -> None:
        for service in ("api", "web"):
            consul.services.register(service, "1", Registration(), client="")
        await consul.done("agent/service/register", {"Name": "web", "ID": "1", "Port": 8})
        state = {"CheckID": "probe", "Status": "warning"}
        entry = {"Node": "n1", "Service": {"Service": "web", "ID": "1", "Port": 9}, "Check": state}
        await consul.done("catalog/register", entry)

        assert both(consul) == {"api": [("1", "", 0, ())], "web": [("1", "", 9, (("probe", "warning"),))]}

    serve(test)


def test_an_id_that_another_node_s_service_has_too_is_removed_only_where_the_catalog_says() -> None:
    async def test(consul: ConsulEdge) -> None:
        consul.services.register("api", "1", Registration(meta={"external-node": "mailer"}), client="")
        consul.services.register("web", "1", Registration(), client="")
        await consul.done("catalog/deregister", {"Node": "mailer", "ServiceID": "1"})

        assert both(consul) == {"api": [], "web": [("1", "", 0, ())]}

    serve(test)


def test_deregistering_is_idempotent() -> None:
    async def test(consul: ConsulEdge) -> None:
        await consul.done("agent/service/register", {"Name": "web"})
        for _ in range(2):
            await consul.done("agent/service/deregister/web")

            assert shown(consul.services) == []

    serve(test)


def test_maintenance_makes_an_instance_critical_until_it_ends() -> None:
    async def test(consul: ConsulEdge) -> None:
        await consul.done("agent/service/register", {"Name": "web", "ID": "w1"})
        await consul.done("agent/service/maintenance/w1?enable=True&reason=new+disk")
        during = (await consul.get("health/service/web")).json[0]["Checks"][1]
        passing = (await consul.get("health/service/web?passing")).json
        await consul.done("agent/service/maintenance/w1?enable=false")

        assert (during["CheckID"], during["Status"], during["Notes"]) == (
            "_service_maintenance:w1",
            "critical",
            "new disk",
        )
        assert passing == []
        assert len((await consul.get("health/service/web?passing")).json) == 1

    serve(test)


def test_maintenance_of_the_node_makes_everything_it_owns_critical() -> None:
    async def test(consul: ConsulEdge) -> None:
        await consul.done("agent/service/register", {"Name": "web"})
        await consul.done("agent/maintenance?enable=true")
        during = (await consul.get("health/service/web?passing")).json
        node = (await consul.get("health/node/n1")).json
        await consul.done("agent/maintenance?enable=false")

        assert during == []
        assert [(check["CheckID"], check["Status"]) for check in node] == [
            ("serfHealth", "passing"),
            ("_node_maintenance", "critical"),
        ]
        assert len((await consul.get("health/service/web?passing")).json) == 1

    serve(test)


def test_a_tool_registers_a_foreign_node_in_the_catalog_and_removes_it() -> None:
    async def test(consul: ConsulEdge) -> None:
        await consul.done(
            "catalog/register",
            {
                "Node": "mailer",
                "Address": "10.7.7.7",
                "Service": {"Service": "mail", "ID": "mail-1", "Port": 25},
                "Check": {
                    "Node": "mailer",
                    "CheckID": "probe",
                    "Name": "probe",
                    "Status": "warning",
                    "ServiceID": "mail-1",
                },
            },
        )
        row = (await consul.get("catalog/service/mail")).json[0]
        check = (await consul.get("health/checks/mail")).json[0]
        await consul.done("catalog/register", {"Node": "mailer", "Check": {"CheckID": "probe", "ServiceID": "mail-1"}})
        failed = (await consul.get("health/checks/mail")).json[0]["Status"]

        assert (row["ServiceAddress"], row["ServicePort"], row["ServiceMeta"]) == (
            "10.7.7.7",
            25,
            {"external-node": "mailer"},
        )
        assert (check["CheckID"], check["Status"], failed) == ("probe", "warning", "critical")
        await consul.done("catalog/deregister", {"Node": "other"})
        await consul.done("catalog/deregister", {"Node": "mailer", "CheckID": "probe"})
        assert (await consul.get("health/checks/mail")).json == []
        await consul.done("catalog/deregister", {"Node": "mailer"})
        assert (await consul.get("catalog/service/mail")).json == []

    serve(test)


def test_py_consuls_catalog_call_for_a_member_registers_there() -> None:
    async def test(consul: ConsulEdge) -> None:
        body = {"node": "n1", "address": "127.0.0.1", "service": {"service": "redis", "id": "r1", "port": 1}}
        await consul.done("catalog/register?token=x", body)
        row = (await consul.get("catalog/service/redis")).json[0]
        await consul.done("catalog/deregister", {"node": "n1", "serviceid": "r1"})

        assert (row["Node"], row["ServiceID"], row["ServiceMeta"]) == ("n1", "r1", {})
        assert (await consul.get("catalog/services")).json == {"ringkeep": []}

    serve(test)


def test_a_check_id_that_several_instances_gave_is_refused_until_it_is_clear_which_one_is_meant() -> None:
    async def test(consul: ConsulEdge) -> None:
        for name in ("a", "b"):
            await consul.done("agent/service/register", {"Name": name, "Check": {"CheckID": "alive", "TTL": "10s"}})
        answer = await consul.put("agent/check/pass/alive")

        assert answer.status == 400
        assert answer.body == (
            b"2 instances have a check 'alive' ('a/a', 'b/b'): give their checks ids of their own, "
            b"or say which one by its own path, /v1/services/<service>/<id>/renew\n"
        )

    serve(test)


def test_a_flood_of_changes_is_refused_and_reading_goes_on() -> None:
    async def test(consul: ConsulEdge) -> None:
        for _ in range(2):
            await consul.done("agent/service/register", {"Name": "web", "Check": {"TTL": "10s"}})
        changes = [
            await consul.put("agent/service/register", {"Name": "shop"}),
            await consul.put("agent/check/pass/service:web"),
            await consul.put("agent/check/register", {"Name": "disk", "TTL": "10s"}),
            await consul.put("agent/maintenance?enable=true"),
            await consul.put("catalog/register", {"Node": "n1", "Service": {"Service": "shop"}}),
            await consul.put("agent/service/deregister/web"),
        ]

        assert [answer.status for answer in changes] == [429] * 6
        assert {answer.body for answer in changes} == {
            b"one client may change 0.001 registrations a second here: try later\n"
        }
        assert [answer.headers["retry-after"] for answer in changes] == ["1"] * 6
        assert (await consul.get("catalog/services")).json == {"ringkeep": [], "web": []}

    serve(test, ConsulEdge(FakeServices(settings=ServicesSettings(burst=2, changes_per_s=0.001))))
