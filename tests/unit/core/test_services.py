"""What may be registered, in tables of good and bad, and how the states of checks add up."""

from __future__ import annotations

import ipaddress
from itertools import product

import pytest

from ringkeep_core.errors import BadRequest
from ringkeep_core.services import (
    SERF_HEALTH,
    Check,
    CheckWish,
    Instance,
    NodeHealth,
    Ranges,
    Registration,
    Status,
    Weights,
    check_registration,
    clipped_output,
    merged_status,
    same_definition,
    serf_health,
)

NODE = "10.0.0.9"
OWN = "10.1.0.1"
LOOPBACK = Ranges(targets=(ipaddress.ip_network("127.0.0.0/8"),))
OFFICE = Ranges(addresses=(ipaddress.ip_network("10.1.0.0/16"), ipaddress.ip_network("fd00::/8")))


def checked(
    registration: Registration, *, service: str = "web", id_: str = "web-1", ranges: Ranges | None = None
) -> Instance:
    """Return what becomes of a registration at a node."""
    return check_registration(service, id_, registration, node_address=NODE, ranges=ranges or Ranges())


@pytest.mark.parametrize("statuses", list(product(("passing", "warning", "critical"), repeat=3)))
def test_the_worst_check_decides_and_no_check_passes(statuses: tuple[Status, ...]) -> None:
    expected = next(status for status in ("critical", "warning", "passing") if status in statuses)

    assert merged_status(statuses) == expected
    assert merged_status(()) == "passing"


def test_a_node_is_well_unless_it_is_dead_or_has_left() -> None:
    assert {health.name: serf_health(health, "refused").status for health in NodeHealth} == {
        "ALIVE": "passing",
        "SUSPECT": "passing",
        "DEAD": "critical",
        "LEFT": "critical",
    }
    assert serf_health(NodeHealth.DEAD, "refused").output == "the node is dead: refused"
    assert serf_health(NodeHealth.ALIVE).id == SERF_HEALTH


def test_a_registration_becomes_an_instance_with_its_checks() -> None:
    wanted = Registration(
        address=OWN,
        port=80,
        tags=("a", "b", "a"),
        meta={"v": "1"},
        weights=Weights(5, 1),
        checks=(
            CheckWish(ttl_s=30.0),
            CheckWish(http=f"http://{OWN}:80/health", interval_s=5.0),
            CheckWish(id="t", name="port", tcp=f"{OWN}:80", timeout_s=1.0, deregister_after_s=60.0, status="warning"),
            CheckWish(notes="by hand"),
        ),
    )
    instance = checked(wanted)

    assert (instance.key, instance.tags, dict(instance.meta), instance.weights) == (
        ("web", "web-1"),
        ("a", "b"),
        {"v": "1"},
        Weights(5, 1),
    )
    assert instance.checks == (
        Check("service:web-1:1", "check service:web-1:1", "ttl", "passing", ttl_s=30.0),
        Check(
            "service:web-1:2",
            "check service:web-1:2",
            "http",
            "critical",
            interval_s=5.0,
            timeout_s=5.0,
            target=f"http://{OWN}:80/health",
        ),
        Check(
            "t",
            "port",
            "tcp",
            "warning",
            interval_s=10.0,
            timeout_s=1.0,
            target=f"{OWN}:80",
            deregister_after_s=60.0,
        ),
        Check("service:web-1:4", "check service:web-1:4", "manual", "passing", notes="by hand"),
    )
    assert same_definition(instance, checked(wanted))
    assert not same_definition(instance, checked(Registration(address=OWN, port=81)))


def test_the_only_check_is_called_after_its_instance_and_each_of_several_also_after_its_place() -> None:
    def ids(*checks: CheckWish) -> list[str]:
        return [check.id for check in checked(Registration(checks=checks)).checks]

    assert ids(CheckWish()) == ["service:web-1"]
    assert ids(CheckWish(), CheckWish()) == ["service:web-1:1", "service:web-1:2"]
    assert ids(CheckWish(id="own"), CheckWish()) == ["own", "service:web-1:2"]


@pytest.mark.parametrize("name", ["a", "web", "web-2", "0", "a" * 63])
def test_a_dns_label_is_a_service_name(name: str) -> None:
    assert checked(Registration(), service=name).service == name


@pytest.mark.parametrize("name", ["", "Web", "-a", "a-", "a.b", "a_b", "a" * 64, "ü", "*any", "ringkeep", "ringkeep-x"])
def test_what_is_no_dns_label_or_the_cluster_s_own_is_no_service_name(name: str) -> None:
    with pytest.raises(BadRequest, match="service name"):
        checked(Registration(), service=name)


@pytest.mark.parametrize("id_", ["", "a/b", "a b", "a\n", "ü", "a" * 129, ".", ".."])
def test_an_id_that_cannot_stand_in_a_path_is_refused(id_: str) -> None:
    with pytest.raises(BadRequest, match="an instance id"):
        checked(Registration(), id_=id_)


@pytest.mark.parametrize(
    ("wanted", "sentence"),
    [
        (Registration(port=-1), "a port is 0..65535, not -1"),
        (Registration(port=65536), "a port is 0..65535, not 65536"),
        (Registration(tags=("",)), "a tag is empty"),
        (Registration(tags=("a\x00",)), "a tag contains a control character"),
        (Registration(tags=("a\x9b2J",)), "a tag contains a control character"),
        (Registration(tags=("a" * 513,)), "a tag has 513 bytes, the limit is 512"),
        (Registration(tags=tuple(f"{n}" for n in range(65))), "at most 64 tags, not 65"),
        (Registration(meta={"a b": "1"}), "a key of metadata"),
        (Registration(meta={"a": "x" * 513}), "513 bytes, the limit is 512"),
        (Registration(meta={f"k{n}": "" for n in range(65)}), "at most 64 pairs"),
        (Registration(meta={f"k{n}": "x" * 512 for n in range(16)}), "at most 8192 bytes of text"),
        (Registration(weights=Weights(65536, 1)), "a weight is 0..65535"),
        (Registration(checks=(CheckWish(ttl_s=9.0),) * 9), "at most 8 checks"),
        (Registration(checks=(CheckWish(id="a"), CheckWish(id="a"))), "two checks of an instance have the same id"),
        (Registration(checks=(CheckWish(id=SERF_HEALTH),)), "the cluster's own"),
        (Registration(checks=(CheckWish(ttl_s=0.5),)), "ttl_s is 1..86400 seconds, not 0.5"),
        (Registration(checks=(CheckWish(ttl_s=float("nan")),)), "ttl_s is 1..86400 seconds"),
        (Registration(checks=(CheckWish(ttl_s=9.0, tcp=f"{NODE}:80"),)), "one of ttl_s, http and tcp"),
        (Registration(checks=(CheckWish(status="fine"),)), "passing, warning or critical"),
        (Registration(port=80, checks=(CheckWish(tcp=f"{NODE}:80", interval_s=0.1),)), "interval_s is 1..3600"),
        (Registration(port=80, checks=(CheckWish(tcp=f"{NODE}:80", timeout_s=31.0),)), "timeout_s is 0.1..30"),
    ],
)
def test_a_bad_registration_is_refused_with_the_reason(wanted: Registration, sentence: str) -> None:
    with pytest.raises(BadRequest) as refused:
        checked(wanted)

    assert sentence in refused.value.detail


@pytest.mark.parametrize(
    "address", ["", "10.1.0.1", "fd00::1", "web.example", "web-1.default.svc.cluster.local.", "127.0.0.1"]
)
def test_unicast_addresses_and_dns_names_are_registered(address: str) -> None:
    assert checked(Registration(address=address)).address == address


@pytest.mark.parametrize(
    "address",
    [
        *("169.254.169.254", "fe80::1", "::ffff:169.254.169.254", "fe80::1%eth0"),
        *("fd00:ec2::254", "fd20:ce::254", "fd00:42::42", "100.100.100.200", "192.0.0.192", "168.63.129.16"),
        *("::ffff:100.100.100.200", "64:ff9b::169.254.169.254", "2002:a9fe:a9fe::1"),
        *("0.0.0.0", "::", "224.0.0.1", "ff02::1", "255.255.255.255"),
        *("a b", "a/b", "http://a", "10.0.0.1:80", "-a", "a..b", "1.2.3", "0x7f000001.1", "[::1]", "a" * 254),
    ],
)
def test_addresses_that_serve_one_machine_or_none_and_what_is_no_address_are_refused(address: str) -> None:
    with pytest.raises(BadRequest, match="address"):
        checked(Registration(address=address))


def test_with_ranges_set_only_addresses_in_them_are_registered() -> None:
    for address in ("10.1.2.3", "fd00::1", "::ffff:10.1.2.3", ""):
        assert checked(Registration(address=address), ranges=OFFICE).address == address
    for address in ("10.2.0.1", "2001:db8::1", "127.0.0.1", "::ffff:10.2.0.1"):
        with pytest.raises(BadRequest, match="outside of the ranges"):
            checked(Registration(address=address), ranges=OFFICE)
    # Nobody could say where a name leads to, or will tomorrow.
    with pytest.raises(BadRequest, match=r"name\.example is a name, give its address"):
        checked(Registration(address="name.example"), ranges=OFFICE)


def test_no_instance_has_the_id_under_which_its_service_is_watched() -> None:
    with pytest.raises(BadRequest, match="the path at which its service is watched"):
        check_registration("web", "watch", Registration(), node_address=NODE)


def target(address: str, wish: CheckWish, ranges: Ranges | None = None) -> str:
    """Return the target of the check of an instance at ``address``, port 80."""
    (check,) = checked(Registration(address=address, port=80, checks=(wish,)), ranges=ranges).checks
    return str(check.target)


def test_a_check_asks_the_address_and_port_of_its_own_instance() -> None:
    assert target(OWN, CheckWish(http=f"http://{OWN}/")) == f"http://{OWN}/"
    assert target(OWN, CheckWish(http=f"http://{OWN}:80/a?b=c")) == f"http://{OWN}:80/a?b=c"
    assert target("", CheckWish(tcp=f"{NODE}:80")) == f"{NODE}:80"
    assert target("fd00::1", CheckWish(tcp="[fd00::1]:80")) == "[fd00::1]:80"
    assert target("web.example", CheckWish(http="http://WEB.example:80/")) == "http://WEB.example:80/"


@pytest.mark.parametrize(
    ("address", "wish"),
    [
        (OWN, CheckWish(http="http://10.1.0.2:80/")),
        (OWN, CheckWish(http=f"http://{OWN}:81/")),
        (OWN, CheckWish(tcp="10.1.0.2:80")),
        (OWN, CheckWish(http=f"https://{OWN}:80/")),
        (OWN, CheckWish(http=f"http://user@{OWN}:80/")),
        (OWN, CheckWish(http=f"http://{OWN}:80@10.1.0.2/")),
        (OWN, CheckWish(http=f"http://{OWN}:99999/")),
        (OWN, CheckWish(http="http:///x")),
        (OWN, CheckWish(http=f"http://{OWN}:80/ a")),
        (OWN, CheckWish(http=f"http://{OWN}:80/" + "a" * 600)),
        (OWN, CheckWish(tcp=f"{OWN}")),
        (OWN, CheckWish(tcp="fd00::1:80")),
        (OWN, CheckWish(http="http://localhost:80/")),
        ("localhost", CheckWish(http="http://localhost:80/")),
        ("127.0.0.1", CheckWish(http="http://127.0.0.1:80/")),
        ("::1", CheckWish(tcp="[::1]:80")),
        ("::ffff:127.0.0.1", CheckWish(tcp="[::ffff:127.0.0.1]:80")),
    ],
)
def test_a_check_asks_nothing_else_and_never_this_machine_itself(address: str, wish: CheckWish) -> None:
    with pytest.raises(BadRequest):
        target(address, wish)


def test_what_the_settings_name_may_be_asked_too() -> None:
    both = Ranges(targets=(*LOOPBACK.targets, ipaddress.ip_network("10.2.0.0/16")))

    assert target("127.0.0.1", CheckWish(tcp="127.0.0.1:80"), LOOPBACK) == "127.0.0.1:80"
    assert target(OWN, CheckWish(tcp="10.2.0.1:99"), both) == "10.2.0.1:99"
    with pytest.raises(BadRequest):
        target(OWN, CheckWish(tcp="10.3.0.1:80"), both)


def test_only_what_the_settings_name_may_be_quoted() -> None:
    quoted = [
        [
            ranges.may_quote(ipaddress.ip_address(address))
            for address in (OWN, "::ffff:10.1.0.1", "127.0.0.1", "8.8.8.8")
        ]
        for ranges in (Ranges(), OFFICE, LOOPBACK)
    ]

    assert quoted == [[False] * 4, [True, True, False, False], [False, False, True, False]]


def test_an_output_is_clipped_to_whole_characters_and_holds_no_control_characters() -> None:
    assert clipped_output("a\r\n\x00b") == "a   b"
    assert clipped_output("a\x9b31mb") == "a 31mb"
    assert clipped_output("ü" * 300) == "ü" * 256
