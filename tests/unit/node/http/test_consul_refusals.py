"""Every way in which what registrars send on the Consul-compatible paths is refused: one sentence, nothing changed."""

from __future__ import annotations

import ipaddress
from typing import Any

import pytest

from ringkeep_core.services import Ranges
from ringkeep_testing.consul_edge import ConsulEdge, serve, shown
from ringkeep_testing.fake_services import FakeServices

NEEDED = {"Name": "web", "ID": "w1", "Address": "10.0.0.1", "Port": 80}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"Name": ""}, "a service needs a Name"),
        ({"Name": "Web"}, "a service name is a DNS label: 1..63 of a-z, 0-9 and '-', not 'Web'"),
        ({"Name": "a/b"}, "a service name is a DNS label: 1..63 of a-z, 0-9 and '-', not 'a/b'"),
        ({"Name": "ringkeep"}, "the service name 'ringkeep' is the cluster's own"),
        ({"Name": 7}, "'name' is a text, not 7"),
        ({"ID": "a/b"}, "an instance id is 1..128 visible ASCII characters without '/', not 'a/b'"),
        ({"ID": "x" * 129}, f"an instance id is 1..128 visible ASCII characters without '/', not '{'x' * 129}'"),
        ({"Port": 65536}, "a port is 0..65535, not 65536"),
        ({"Port": -1}, "a port is 0..65535, not -1"),
        ({"Port": "80"}, "'port' is a whole number, not '80'"),
        ({"Port": True}, "'port' is a whole number, not True"),
        ({"Address": "0.0.0.0"}, "the address 0.0.0.0 is outside of the ranges that may be registered here"),
        (
            {"Address": "169.254.169.254"},
            "the address 169.254.169.254 is outside of the ranges that may be registered here",
        ),
        ({"Address": "224.0.0.1"}, "the address 224.0.0.1 is outside of the ranges that may be registered here"),
        (
            {"Address": "::ffff:169.254.169.254"},
            "the address ::ffff:169.254.169.254 is outside of the ranges that may be registered here",
        ),
        ({"Address": "not a host"}, "an address is an IP address or a DNS name, not 'not a host'"),
        ({"Tags": "v1"}, "'tags' is a list, not 'v1'"),
        ({"Tags": [1]}, "'tags' is a list of texts, and 1 is none"),
        ({"Tags": ["x"] * 65}, "an instance has at most 64 tags, not 65"),
        ({"Tags": ["a\nb"]}, "a tag contains a control character"),
        ({"Meta": {"a b": "c"}}, "a key of metadata is 1..128 letters, digits, '-' and '_', not 'a b'"),
        ({"Meta": {"a": 1}}, "'meta' is an object of texts"),
        ({"Weights": {"Passing": 70000}}, "a weight is 0..65535, not 70000"),
        ({"Weights": {"Heavy": 1}}, "Weights has no field 'heavy' here"),
        ({"Prot": 80}, "a service has no field 'prot' here"),
        ({"EnableTagOverride": "yes"}, "'enabletagoverride' is true or false, not 'yes'"),
        ({"Kind": "connect-proxy"}, "mesh proxies and gateways are not supported here: leave 'kind' out"),
        ({"Connect": {"Native": True}}, "mesh certificates are not supported here: leave 'connect' out"),
        ({"SocketPath": "/run/x"}, "socket paths are not supported here: leave 'socketpath' out"),
        ({"Namespace": "other"}, "there is no namespace here but 'default'"),
        (
            {"TaggedAddresses": {"wan": {"Address": "1.2.3.4"}}},
            "an instance has one address here: leave TaggedAddresses out or let them say the same",
        ),
        ({"Checks": [{"TTL": "10s"}] * 9}, "an instance has at most 8 checks, not 9"),
        ({"Checks": [{"TTL": "10s", "CheckID": "a"}] * 2}, "two checks of an instance have the same id"),
        ({"Check": "ttl"}, "a check is not a JSON object"),
    ],
)
def test_a_bad_registration_is_refused_with_one_sentence(change: dict[str, Any], sentence: str) -> None:
    async def test(consul: ConsulEdge) -> None:
        answer = await consul.put("agent/service/register", {**NEEDED, **change})

        assert (answer.status, answer.body.decode()) == (400, f"{sentence}\n")
        assert (await consul.get("catalog/services")).json == {"ringkeep": []}

    serve(test)


@pytest.mark.parametrize("field", ["Proxy", "Connect", "Tags", "Meta", "Weights", "Port", "Name", "Check"])
@pytest.mark.parametrize("depth", [600, 900, 990, 5000])
@pytest.mark.parametrize(("opened", "closed"), [(b"[", b"]"), (b'{"a":', b"}")])
def test_a_body_of_any_depth_is_refused_and_is_no_mistake_of_ours(
    field: str, depth: int, opened: bytes, closed: bytes
) -> None:
    nested = opened * depth + b"1" + closed * depth
    body = b'{"Name": "w1", "%b": %b}' % (field.encode(), nested)

    async def test(consul: ConsulEdge) -> None:
        answer = await consul.put("agent/service/register", body)

        assert (answer.status, answer.body.count(b"\n")) == (400, 1)
        assert (await consul.get("catalog/services")).json == {"ringkeep": []}

    serve(test)


def test_what_nests_empty_objects_says_nothing_to_a_depth_that_clients_send() -> None:
    async def test(consul: ConsulEdge) -> None:
        await consul.done("agent/service/register", {"Name": "w1", "Proxy": {"Expose": {"Paths": [{}, {"Port": 0}]}}})
        deep = await consul.put("agent/service/register", {"Name": "w2", "Proxy": [[[[[[[[[]]]]]]]]]})

        assert (deep.status, (await consul.get("catalog/services")).json) == (400, {"ringkeep": [], "w1": []})

    serve(test)


PROXY = "a check asks the address and port of its own instance (10.0.0.1:80), not"


@pytest.mark.parametrize(
    ("check", "sentence"),
    [
        ({"HTTP": "http://10.0.0.2:80/", "Interval": "10s"}, f"{PROXY} 'http://10.0.0.2:80/'"),
        ({"HTTP": "http://10.0.0.1:81/", "Interval": "10s"}, f"{PROXY} 'http://10.0.0.1:81/'"),
        ({"HTTP": "http://169.254.169.254/latest", "Interval": "10s"}, f"{PROXY} 'http://169.254.169.254/latest'"),
        ({"HTTP": "http://localhost:80/", "Interval": "10s"}, f"{PROXY} 'http://localhost:80/'"),
        ({"HTTP": "http://[::ffff:127.0.0.1]:80/", "Interval": "10s"}, f"{PROXY} 'http://[::ffff:127.0.0.1]:80/'"),
        ({"HTTP": "http://0x7f000001:80/", "Interval": "10s"}, f"{PROXY} 'http://0x7f000001:80/'"),
        ({"TCP": "127.0.0.1:22", "Interval": "10s"}, f"{PROXY} '127.0.0.1:22'"),
        ({"TCP": "metadata.internal:80", "Interval": "10s"}, f"{PROXY} 'metadata.internal:80'"),
        (
            {"HTTP": "file:///etc/passwd", "Interval": "10s"},
            "a check asks a plain http address like http://host:port/path, not 'file:///etc/passwd'",
        ),
        (
            {"HTTP": "http://u:p@10.0.0.1:80/", "Interval": "10s"},
            "the address of a check has no user name or password in it",
        ),
        ({"HTTP": "http://10.0.0.1:80/"}, "a check by HTTP or TCP needs an Interval"),
        ({"HTTP": "http://10.0.0.1:80/", "Interval": "10ms"}, "interval_s is 1..3600 seconds, not 0.01"),
        (
            {"HTTP": "http://10.0.0.1:80/", "Interval": "10s", "Header": {"X": ["y"]}},
            "a check by HTTP is a plain GET: 'header' is not supported",
        ),
        (
            {"HTTP": "http://10.0.0.1:80/", "Interval": "10s", "Method": "POST"},
            "a check by HTTP is a plain GET: no other Method is supported",
        ),
        (
            {"HTTP": "http://10.0.0.1:80/", "Interval": "10s", "Body": "x"},
            "a check by HTTP is a plain GET: 'body' is not supported",
        ),
        (
            {"Args": ["rm", "-rf"], "Interval": "10s"},
            "a node runs no scripts or containers for checks: 'args' is not supported",
        ),
        (
            {"Script": "true", "Interval": "10s"},
            "a node runs no scripts or containers for checks: 'script' is not supported",
        ),
        (
            {"DockerContainerID": "x", "Interval": "10s"},
            "a node runs no scripts or containers for checks: 'dockercontainerid' is not supported",
        ),
        ({"GRPC": "10.0.0.1:80", "Interval": "10s"}, "checks are by TTL, HTTP and TCP here: 'grpc' is not supported"),
        ({"UDP": "10.0.0.1:80", "Interval": "10s"}, "checks are by TTL, HTTP and TCP here: 'udp' is not supported"),
        ({"AliasService": "x"}, "checks are by TTL, HTTP and TCP here: 'aliasservice' is not supported"),
        ({"TTL": "10"}, "the TTL of a check is a duration like 10s, 5m or 120000ms, not '10'"),
        ({"TTL": "100ms"}, "ttl_s is 1..86400 seconds, not 0.1"),
        ({"TTL": "10s", "Status": "well"}, "the status of a check is passing, warning or critical, not 'well'"),
        (
            {"TTL": "10s", "HTTP": "http://10.0.0.1:80/", "Interval": "10s"},
            "a check has one of ttl_s, http and tcp, not several",
        ),
        ({"TTL": "10s", "CheckID": "serfHealth"}, "the check id 'serfHealth' is the cluster's own"),
        (
            {"TTL": "10s", "FailuresBeforeCritical": 3},
            "the last answer of a check counts here: 'failuresbeforecritical' is not supported",
        ),
        ({"TTL": "10s", "Tll": "10s"}, "a check has no field 'tll' here"),
    ],
)
def test_a_check_that_would_make_a_proxy_or_a_shell_of_a_node_is_refused(check: dict[str, Any], sentence: str) -> None:
    async def test(consul: ConsulEdge) -> None:
        alone = await consul.put("agent/service/register", {**NEEDED, "Check": check})
        await consul.done("agent/service/register", NEEDED)
        added = await consul.put("agent/check/register", {"Name": "late", "ServiceID": "w1", **check})

        assert (alone.status, alone.body.decode()) == (400, f"{sentence}\n")
        assert added.status == 400
        assert shown(consul.services) == [("w1", "10.0.0.1", 80, ())]

    serve(test)


@pytest.mark.parametrize(
    ("path", "body", "sentence"),
    [
        ("agent/service/register", b"", "the body is not JSON"),
        ("agent/service/register", b"{", "the body is not JSON"),
        ("agent/service/register", b"\xff", "the body is not JSON"),
        ("agent/service/register", b"[]", "the body is not a JSON object"),
        ("agent/service/register", b"[" * 100_000, "the body is not JSON"),
        ("agent/check/register", {"Name": "x", "ServiceID": "none", "TTL": "1s"}, "unknown service ID 'none'"),
        ("agent/check/register", {"TTL": "1s"}, "a check needs a Name"),
        ("agent/check/register", {"Name": "x"}, "a check needs TTL, HTTP or TCP"),
        (
            "agent/check/register",
            {"Name": "x y", "TTL": "1s"},
            "an instance id is 1..128 visible ASCII characters without '/', not 'x y'",
        ),
        (
            "agent/check/update/x",
            {"Status": "well"},
            "the Status of a check is passing, warning or critical, not 'well'",
        ),
        ("agent/service/maintenance/none?enable=true", None, "unknown service ID 'none'"),
        ("agent/maintenance", None, "maintenance needs ?enable=true or ?enable=false"),
        ("agent/maintenance?enable=perhaps", None, "enable is true or false, not 'perhaps'"),
        ("catalog/register", {"Address": "10.0.0.1"}, "a registration in the catalog needs a Node"),
        (
            "catalog/register",
            {"Node": "x", "Address": "10.0.0.1"},
            "the nodes here are the members of the cluster: register a Service, with its Address",
        ),
        (
            "catalog/register",
            {"Node": "x", "Service": {"Service": "web"}},
            "a registration in the catalog needs an Address",
        ),
        (
            "catalog/register",
            {"Node": "n1", "Check": {"CheckID": "x"}},
            "a check in the catalog needs a ServiceID: nodes are judged by the cluster itself",
        ),
        (
            "catalog/register",
            {"Node": "n1", "Servcie": {}},
            "a registration in the catalog has no field 'servcie' here",
        ),
        ("catalog/deregister", {}, "a removal from the catalog needs a Node"),
        (
            "catalog/deregister",
            {"Node": "n1"},
            "'n1' is a member of the cluster: it leaves by `ringkeep drain`, not by this",
        ),
    ],
)
def test_other_bad_changes_are_refused_too(path: str, body: Any, sentence: str) -> None:
    async def test(consul: ConsulEdge) -> None:
        answer = await consul.put(path, body)

        assert (answer.status in (400, 404), answer.body.decode()) == (True, f"{sentence}\n")
        assert (await consul.get("catalog/services")).json == {"ringkeep": []}

    serve(test)


def test_addresses_outside_of_the_configured_ranges_are_refused() -> None:
    ranges = Ranges(addresses=(ipaddress.ip_network("10.0.0.0/8"),))

    async def test(consul: ConsulEdge) -> None:
        inside = await consul.put("agent/service/register", NEEDED)
        outside = await consul.put("agent/service/register", {**NEEDED, "ID": "w2", "Address": "192.0.2.1"})

        assert (inside.status, outside.status) == (200, 400)

    serve(test, ConsulEdge(FakeServices(ranges=ranges)))


def test_a_body_that_is_too_large_is_refused_unread() -> None:
    async def test(consul: ConsulEdge) -> None:
        answer = await consul.put("agent/service/register", b"x" * (300 << 10))

        assert (answer.status, answer.body) == (413, b"a registration may have 262144 bytes, not 307200\n")

    serve(test)


@pytest.mark.parametrize(
    ("headers", "query", "status"),
    [
        ({}, "", 403),
        ({"X_Consul_Token": "wrong"}, "", 403),
        ({"X_Consul_Token": "right"}, "", 200),
        ({"Authorization": "Bearer right"}, "", 200),
        ({"Authorization": "Basic right"}, "", 403),
        ({}, "?token=right", 200),
        ({"X_Consul_Token": "wrong"}, "?token=right", 403),
    ],
)
def test_changes_need_the_token_if_there_is_one_and_reading_does_not(
    headers: dict[str, str], query: str, status: int
) -> None:
    async def test(consul: ConsulEdge) -> None:
        changed = await consul.put(f"agent/service/register{query}", NEEDED, **headers)
        read = await consul.get("health/service/web", **headers)

        assert (changed.status, read.status) == (status, 200)
        assert len(read.json) == (status == 200)

    serve(test, ConsulEdge(token="right"))
