"""Services over HTTP: what is answered, who waits, and what is refused."""

import asyncio

import msgspec

from ringkeep_core.services import CheckWish
from ringkeep_node.runtime.services import ServicesSettings
from ringkeep_testing.http_edge import EdgeUnderTest, request, serve, until

WEB = b'{"address": "10.1.0.1", "port": 80, "tags": ["a", "b"], "meta": {"v": "1"}, "checks": [{"ttl_s": 30}]}'


def test_a_registered_instance_is_shown_with_its_checks_and_its_node() -> None:
    async def test(edge: EdgeUnderTest) -> None:
        new = await edge.ask("PUT", "/v1/services/web/web-1", WEB)
        again = await edge.ask("PUT", "/v1/services/web/web-1", WEB)
        one = await edge.ask("GET", "/v1/services/web/web-1")
        shown = await edge.ask("GET", "/v1/services/web")

        assert (new.status, again.status) == (201, 200)
        assert new.json == again.json == one.json
        assert shown.json == {"service": "web", "index": new.json["modify_index"], "instances": [one.json]}
        assert shown.headers["ringkeep-index"] == str(shown.json["index"])
        assert one.json == {
            "service": "web",
            "id": "web-1",
            "address": "10.1.0.1",
            "port": 80,
            "status": "passing",
            "tags": ["a", "b"],
            "meta": {"v": "1"},
            "weights": {"passing": 1, "warning": 1},
            "node": {"name": "n1", "address": "127.0.0.1", "zone": "z1"},
            "checks": [
                {
                    "id": "service:web-1",
                    "name": "check service:web-1",
                    "kind": "ttl",
                    "status": "passing",
                    "output": "",
                    "target": "",
                    "ttl_s": 30.0,
                    "interval_s": 0.0,
                },
                {
                    "id": "serfHealth",
                    "name": "Serf Health Status",
                    "kind": "manual",
                    "status": "passing",
                    "output": "the node is alive and reachable",
                    "target": "",
                    "ttl_s": 0.0,
                    "interval_s": 0.0,
                },
            ],
            "create_index": one.json["create_index"],
            "modify_index": one.json["modify_index"],
        }

    serve(test)


def test_all_services_are_listed_with_the_two_that_nobody_registers() -> None:
    async def test(edge: EdgeUnderTest) -> None:
        await edge.ask("PUT", "/v1/services/web/web-1", WEB)
        await edge.ask("PUT", "/v1/services/web/web-2", b'{"tags": ["c"], "checks": [{"status": "critical"}]}')
        listed = await edge.ask("GET", "/v1/services")

        assert listed.json["services"] == [
            {"name": "web", "tags": ["a", "b", "c"], "instances": 2, "passing": 1},
            {"name": "ringkeep", "tags": [], "instances": 3, "passing": 3},
            {"name": "ringkeep-shard", "tags": ["primary"], "instances": 16, "passing": 16},
        ]

    serve(test)


def test_instances_are_chosen_by_all_tags_and_by_passing() -> None:
    async def test(edge: EdgeUnderTest) -> None:
        await edge.ask("PUT", "/v1/services/web/web-1", b'{"tags": ["a"]}')
        await edge.ask("PUT", "/v1/services/web/web-2", b'{"tags": ["a", "b c"]}')
        await edge.ask("PUT", "/v1/services/web/web-3", b'{"tags": ["a"], "checks": [{"status": "warning"}]}')
        found = {
            query: [row["id"] for row in (await edge.ask("GET", f"/v1/services/web{query}")).json["instances"]]
            for query in ("", "?tag=a", "?tag=a&tag=b+c", "?passing=true", "?tag=a&passing", "?tag=x")
        }

        assert found == {
            "": ["web-1", "web-2", "web-3"],
            "?tag=a": ["web-1", "web-2", "web-3"],
            "?tag=a&tag=b+c": ["web-2"],
            "?passing=true": ["web-1", "web-2"],
            "?tag=a&passing": ["web-1", "web-2"],
            "?tag=x": [],
        }

    serve(test)


def test_a_renewal_tells_the_state_of_a_check_and_a_deregistration_ends_it() -> None:
    async def test(edge: EdgeUnderTest) -> None:
        await edge.ask("PUT", "/v1/services/web/web-1", WEB)
        warned = await edge.ask("PUT", "/v1/services/web/web-1/renew", b'{"status": "warning", "output": "slow"}')
        passed = await edge.ask("PUT", "/v1/services/web/web-1/renew")
        gone = await edge.ask("DELETE", "/v1/services/web/web-1")
        again = await edge.ask("DELETE", "/v1/services/web/web-1")
        late = await edge.ask("PUT", "/v1/services/web/web-1/renew")

        assert (warned.json["status"], warned.json["checks"][0]["output"]) == ("warning", "slow")
        assert passed.json["status"] == "passing"
        assert (gone.status, again.code, late.code) == (204, "not_found", "not_found")

    serve(test)


def test_the_checks_of_a_node_are_no_instance_that_could_be_renewed_or_removed() -> None:
    async def test(edge: EdgeUnderTest) -> None:
        edge.services.put_check("_node", "n1", CheckWish(id="disk", status="critical"), client="c")
        renewed = await edge.ask("PUT", "/v1/services/_node/n1/renew", b'{"check": "disk"}')
        removed = await edge.ask("DELETE", "/v1/services/_node/n1")
        checks = [(check.id, check.status) for check in edge.services.view.me().checks]

        assert (renewed.status, removed.status) == (404, 404)
        assert checks == [("serfHealth", "passing"), ("disk", "critical")]

    serve(test)


def test_whoever_waits_is_woken_by_a_change_of_that_service_and_by_no_other() -> None:
    async def test(edge: EdgeUnderTest) -> None:
        await edge.ask("PUT", "/v1/services/web/web-1", WEB)
        index = (await edge.ask("GET", "/v1/services/web")).json["index"]
        target = f"/v1/services/web?wait_newer_than={index}"
        waiting = asyncio.ensure_future(edge.ask("GET", target, Ringkeep_Timeout="60"))
        unknown = asyncio.ensure_future(edge.ask("GET", "/v1/services/db?wait_newer_than=1", Ringkeep_Timeout="60"))
        await until(lambda: edge.services.waiting == 2)
        await edge.ask("PUT", "/v1/services/other/o-1", b"{}")
        await edge.ask("PUT", "/v1/services/web/web-1/renew")
        still = edge.services.waiting
        await edge.ask("PUT", "/v1/services/web/web-2", WEB)
        woken = await waiting
        await edge.ask("PUT", "/v1/services/db/db-1", b"{}")

        assert (still, edge.services.wake_ups) == (2, 2)
        assert [row["id"] for row in woken.json["instances"]] == ["web-1", "web-2"]
        assert woken.json["index"] > index
        assert [row["id"] for row in (await unknown).json["instances"]] == ["db-1"]

    serve(test)


def test_an_index_that_is_not_the_present_one_is_answered_at_once_in_both_directions() -> None:
    async def test(edge: EdgeUnderTest) -> None:
        await edge.ask("PUT", "/v1/services/web/web-1", WEB)
        answers = [
            await edge.ask("GET", f"/v1/services/web?wait_newer_than={index}", Ringkeep_Timeout="60")
            for index in (0, 999_999)
        ]

        assert [answer.status for answer in answers] == [200, 200]

    serve(test)


def test_nobody_waits_on_for_a_client_that_has_hung_up() -> None:
    async def test(edge: EdgeUnderTest) -> None:
        wire = await edge.connect()
        await wire.send(request("GET", "/v1/services/web?wait_newer_than=1", Ringkeep_Timeout="60"))
        await until(lambda: edge.services.waiting == 1)
        wire.hang_up()
        await until(lambda: edge.services.waiting == 0)

    serve(test)


def test_as_many_wait_as_may_and_the_next_one_is_told_so() -> None:
    async def test(edge: EdgeUnderTest) -> None:
        wire = await edge.connect()
        await wire.send(request("GET", "/v1/services/web?wait_newer_than=1", Ringkeep_Timeout="60"))
        await until(lambda: edge.services.waiting == 1)
        refused = await edge.ask("GET", "/v1/services/db?wait_newer_than=1")

        assert refused.code == "overloaded"

    serve(test, EdgeUnderTest(services=ServicesSettings(waiters_max=1)))


def test_a_watch_sends_the_instances_now_and_with_each_change_until_the_node_ends() -> None:
    async def test(edge: EdgeUnderTest) -> None:
        await edge.ask("PUT", "/v1/services/web/web-1", WEB)
        reader, writer = await asyncio.open_connection("127.0.0.1", edge.port)
        writer.write(request("GET", "/v1/services/web/watch?tag=a"))
        head = await reader.readuntil(b"\r\n\r\n")
        first = await reader.readuntil(b"\n\n")
        await until(lambda: edge.services.waiting == 1)
        await edge.ask("PUT", "/v1/services/web/web-2", WEB)
        second = await reader.readuntil(b"\n\n")
        await until(lambda: edge.services.waiting == 1)
        edge.services.release()
        rest = await reader.read()
        writer.close()

        assert b"\r\nContent-Type: text/event-stream\r\n" in head
        ids = []
        for event in (first, second):
            name, number, data = event.decode().rstrip("\n").split("\n")
            shape = msgspec.json.decode(data.removeprefix("data: "))
            assert (name, number) == ("event: instances", f"id: {shape['index']}")
            ids.append([row["id"] for row in shape["instances"]])
        assert (ids, rest) == ([["web-1"], ["web-1", "web-2"]], b"")

    serve(test)


def test_prometheus_gets_the_nodes_or_the_instances_of_a_service() -> None:
    async def test(edge: EdgeUnderTest) -> None:
        await edge.ask("PUT", "/v1/services/web/web-1", WEB)
        await edge.ask("PUT", "/v1/services/web/web-2", b'{"address": "fd00::1", "port": 81}')
        nodes = await edge.ask("GET", "/v1/sd/prometheus")
        web = await edge.ask("GET", "/v1/sd/prometheus?service=web")
        nobody = await edge.ask("GET", "/v1/sd/prometheus?service=nobody")

        assert {answer.headers["content-type"] for answer in (nodes, web, nobody)} == {"application/json"}
        assert nobody.json == []
        assert [group["targets"] for group in nodes.json] == [
            ["127.0.0.1:8081"],
            ["127.0.0.1:8082"],
            ["127.0.0.1:8083"],
        ]
        assert set(nodes.json[0]["labels"]) == {
            f"__meta_ringkeep_{name}"
            for name in (
                *("node", "zone", "storage_id", "boot_id", "role", "state"),
                *("copies", "primaries", "cluster"),
            )
        }
        assert web.json == [
            {
                "targets": ["10.1.0.1:80"],
                "labels": {
                    "__meta_ringkeep_service": "web",
                    "__meta_ringkeep_service_id": "web-1",
                    "__meta_ringkeep_tags": ",a,b,",
                    "__meta_ringkeep_status": "passing",
                    "__meta_ringkeep_node": "n1",
                    "__meta_ringkeep_zone": "z1",
                    "__meta_ringkeep_service_meta_v": "1",
                },
            },
            {
                "targets": ["[fd00::1]:81"],
                "labels": {
                    "__meta_ringkeep_service": "web",
                    "__meta_ringkeep_service_id": "web-2",
                    "__meta_ringkeep_tags": "",
                    "__meta_ringkeep_status": "passing",
                    "__meta_ringkeep_node": "n1",
                    "__meta_ringkeep_zone": "z1",
                },
            },
        ]

    serve(test)


def test_a_bad_registration_is_refused_with_one_sentence_and_changes_nothing() -> None:
    bad = {
        "/v1/services/Web/w": b"{}",
        "/v1/services/ringkeep/w": b"{}",
        "/v1/services/_node/n1": b"{}",
        "/v1/services/web/watch": b"{}",
        "/v1/services/web/a%20b": b"{}",
        "/v1/services/web/w?x=1": b"{}",
        "/v1/services/web/w1": b'{"port": 65536}',
        "/v1/services/web/w2": b'{"port": "80"}',
        "/v1/services/web/w3": b'{"adress": "10.0.0.1"}',
        "/v1/services/web/w4": b'{"address": "169.254.169.254"}',
        "/v1/services/web/w5": b'{"address": "10.1.0.1", "port": 80, "checks": [{"http": "http://10.1.0.2:80/"}]}',
        "/v1/services/web/w6": b"[",
    }

    async def test(edge: EdgeUnderTest) -> None:
        codes = {
            target: (await edge.ask("PUT", target, body)).code for target, body in bad.items() if target[-1] != "h"
        }
        watched = await edge.ask("PUT", "/v1/services/web/watch", b"{}")
        listed = await edge.ask("GET", "/v1/services")

        assert set(codes.values()) == {"bad_request"}
        assert watched.status == 405
        assert [row["name"] for row in listed.json["services"]] == ["ringkeep", "ringkeep-shard"]

    serve(test)


def test_one_client_s_flood_is_refused_and_reading_goes_on() -> None:
    async def test(edge: EdgeUnderTest) -> None:
        statuses = [(await edge.ask("PUT", f"/v1/services/web/w-{n}", b"{}")).status for n in range(5)]
        reading = await edge.ask("GET", "/v1/services/web")

        assert statuses == [201, 201, 201, 429, 429]
        assert len(reading.json["instances"]) == 3

    serve(test, EdgeUnderTest(services=ServicesSettings(burst=3, changes_per_s=0.001)))


def test_with_a_token_set_only_who_shows_it_may_change_registrations() -> None:
    async def test(edge: EdgeUnderTest) -> None:
        target = "/v1/services/web/web-1"
        refused = [await edge.ask("PUT", target, WEB), await edge.ask("DELETE", target, X_Consul_Token="other")]
        taken = await edge.ask("PUT", target, WEB, Authorization="Bearer s3cret")
        gone = await edge.ask("DELETE", target, X_Consul_Token="s3cret")

        assert [answer.code for answer in refused] == ["unauthorized"] * 2
        assert (taken.status, gone.status) == (201, 204)

    serve(test, EdgeUnderTest(services=ServicesSettings(token="s3cret")))


def test_a_node_that_has_just_started_refuses_to_tell_what_is_registered_and_names_the_nodes() -> None:
    async def test(edge: EdgeUnderTest) -> None:
        edge.registry.awaits_members = True
        registered = [
            await edge.ask("GET", f"/v1/{target}")
            for target in (
                "services",
                "services?wait_newer_than=1",
                "services/web",
                "services/web?wait_newer_than=7",
                "services/web/watch",
                "services/web/web-1",
                "sd/prometheus?service=web",
            )
        ]
        renewal = await edge.ask("PUT", "/v1/services/web/web-1/renew")
        built_in = [
            await edge.ask("GET", f"/v1/{target}")
            for target in (
                "services/ringkeep",
                "services/ringkeep-shard",
                "sd/prometheus",
                "sd/prometheus?service=ringkeep",
            )
        ]

        assert {(answer.status, answer.json["code"]) for answer in (*registered, renewal)} == {(503, "overloaded")}
        assert {answer.status for answer in built_in} == {200}

    serve(test)
