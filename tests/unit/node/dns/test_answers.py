"""Questions and answers as values: what each name means, and what is said when there is nothing (RFC 1034, 2308, 2782)."""

from __future__ import annotations

from collections.abc import Sequence

import dns.name
import dns.rdataclass
import dns.rdatatype
import pytest
from dns.rcode import NOERROR, NXDOMAIN, REFUSED

from ringkeep_node.dns.answers import Answer, Place, Question, Record, answer
from ringkeep_testing.fake_names import ZONES, FakeNames, in_order, reversing

WEB1 = Place("n1", "10.0.0.1", 8000, 3)
WEB2 = Place("n2", "10.9.9.9", 8001)
WEB6 = Place("n2", "2001:db8::5", 8002)
NAMES = FakeNames(
    {
        ("web", None): (WEB1, WEB2, WEB6),
        ("web", "v2"): (WEB2,),
        ("web", "a.b"): (WEB1,),
        ("files", None): (Place("n1", "files.example.com", 21),),
    },
    nodes={"n1": "10.0.0.1", "n2": "10.0.0.2", "n3": "2001:db8::3", "k8s": "n4.pods.svc"},
    shards={7: Place("n2", "10.0.0.2", 8080)},
)


def asked(name: str, kind: str = "A", space: int = dns.rdataclass.IN) -> Answer:
    """Ask about a name; instances come in the order in which they are registered."""
    question = Question(dns.name.from_text(name), dns.rdatatype.from_text(kind), space)
    return answer(question, ZONES, NAMES, in_order)


def told(records: Sequence[Record]) -> list[str]:
    """Return records as text without their TTL."""
    return [f"{record.name} {dns.rdatatype.to_text(record.data.rdtype)} {record.data.to_text()}" for record in records]


@pytest.mark.parametrize(
    ("name", "kind", "expected"),
    [
        ("web.service.consul", "A", ["10.0.0.1", "10.9.9.9"]),
        ("web.service.ringkeep", "A", ["10.0.0.1", "10.9.9.9"]),
        ("WEB.Service.Consul", "A", ["10.0.0.1", "10.9.9.9"]),
        ("web.service.dc1.consul", "A", ["10.0.0.1", "10.9.9.9"]),
        ("web.service.consul", "AAAA", ["2001:db8::5"]),
        ("web.service.consul", "ANY", ["10.0.0.1", "10.9.9.9", "2001:db8::5"]),
        ("v2.web.service.consul", "A", ["10.9.9.9"]),
        ("a.b.web.service.consul", "A", ["10.0.0.1"]),
        ("_web._tcp.service.consul", "A", ["10.0.0.1", "10.9.9.9"]),
        ("_web._v2.service.consul", "A", ["10.9.9.9"]),
        ("_shard-7._tcp.service.ringkeep", "A", ["10.0.0.2"]),
        ("n1.node.consul", "A", ["10.0.0.1"]),
        ("n1.node.dc1.consul", "A", ["10.0.0.1"]),
        ("n3.node.consul", "AAAA", ["2001:db8::3"]),
        ("k8s.node.consul", "A", ["n4.pods.svc."]),
        ("0a090909.addr.dc1.consul", "A", ["10.9.9.9"]),
        ("20010db8000000000000000000000005.addr.consul", "AAAA", ["2001:db8::5"]),
        ("files.service.consul", "A", ["files.example.com."]),
        ("ns.ringkeep", "A", ["192.0.2.53"]),
    ],
)
def test_every_kind_of_name_is_answered_with_its_addresses(name: str, kind: str, expected: list[str]) -> None:
    found = asked(name, kind)

    assert (found.rcode, found.is_ours, found.authority, found.additional) == (NOERROR, True, (), ())
    assert [record.data.to_text() for record in found.answers] == expected
    assert {record.name for record in found.answers} == {dns.name.from_text(name)}
    assert {record.ttl_s for record in found.answers} == {0}


def test_srv_points_to_the_node_where_it_has_the_address_and_to_the_address_itself_elsewhere() -> None:
    found = asked("_web._tcp.service.consul", "SRV")

    owner = "_web._tcp.service.consul."
    assert told(found.answers) == [
        f"{owner} SRV 1 3 8000 n1.node.dc1.consul.",
        f"{owner} SRV 1 1 8001 0a090909.addr.dc1.consul.",
        f"{owner} SRV 1 1 8002 20010db8000000000000000000000005.addr.dc1.consul.",
    ]
    assert told(found.additional) == [
        "n1.node.dc1.consul. A 10.0.0.1",
        "0a090909.addr.dc1.consul. A 10.9.9.9",
        "20010db8000000000000000000000005.addr.dc1.consul. AAAA 2001:db8::5",
    ]


def test_every_target_of_srv_is_a_name_that_is_answered_with_the_same_address() -> None:
    for record in asked("web.service.consul", "SRV").additional:
        again = asked(record.name.to_text(), dns.rdatatype.to_text(record.data.rdtype))

        assert [one.data for one in again.answers] == [record.data]


def test_a_service_at_a_host_name_is_that_name_in_srv_and_a_cname_otherwise() -> None:
    srv, cname = asked("files.service.consul", "SRV"), asked("files.service.consul", "AAAA")

    assert told(srv.answers) == ["files.service.consul. SRV 1 1 21 files.example.com."]
    assert srv.additional == ()
    assert told(cname.answers) == ["files.service.consul. CNAME files.example.com."]


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("A", ["10.0.0.1"]), ("AAAA", []), ("CNAME", []), ("ANY", ["10.0.0.1"])],
)
@pytest.mark.parametrize("order", [1, -1])
def test_a_service_at_a_host_name_and_at_an_address_has_no_cname(kind: str, expected: list[str], order: int) -> None:
    mixed = [Place("n1", "10.0.0.1", 80), Place("n2", "files.example.com", 80)][::order]
    question = Question(dns.name.from_text("mixed.service.consul"), dns.rdatatype.from_text(kind))

    found = answer(question, ZONES, FakeNames({("mixed", None): mixed}), in_order)

    assert (found.rcode, [record.data.to_text() for record in found.answers]) == (NOERROR, expected)


def test_the_primary_of_a_shard_has_a_name() -> None:
    found = asked("_shard-7._tcp.service.ringkeep", "SRV")

    assert told(found.answers) == ["_shard-7._tcp.service.ringkeep. SRV 1 1 8080 n2.node.dc1.ringkeep."]
    assert told(found.additional) == ["n2.node.dc1.ringkeep. A 10.0.0.2"]


@pytest.mark.parametrize(
    "name",
    [
        "other.service.consul",
        "v9.web.service.consul",
        "_web._v9.service.consul",
        "x.b.web.service.consul",
        "b.files.service.consul",
        "a._web._tcp.service.consul",
        "_shard-8._tcp.service.consul",
        "_shard-x._tcp.service.consul",
        "_shard-99999999._tcp.service.consul",
        "n9.node.consul",
        "a.n1.node.consul",
        "web.service.dc2.consul",
        "zz.addr.consul",
        "0a0909.addr.consul",
        "nothing.consul",
        "web.query.consul",
        "w\\195\\188b.service.consul",
    ],
)
def test_a_name_that_is_not_there_is_nxdomain_for_as_long_as_the_soa_says(name: str) -> None:
    found = asked(name)

    assert (found.rcode, found.answers, found.additional) == (NXDOMAIN, (), ())
    assert told(found.authority) == ["consul. SOA ns.consul. hostmaster.consul. 7 3600 600 86400 1"]
    assert found.authority[0].ttl_s == 1


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("web.service.consul", "TXT"),
        ("v2.web.service.consul", "AAAA"),
        ("n1.node.consul", "AAAA"),
        ("n1.node.consul", "SRV"),
        ("0a090909.addr.consul", "AAAA"),
        ("consul", "A"),
        ("service.consul", "A"),
        ("service.dc1.consul", "A"),
        ("dc1.consul", "A"),
        ("_tcp.service.consul", "SRV"),
        ("_v2.service.consul", "SRV"),
        ("_v2.service.dc1.consul", "A"),
        ("b.web.service.consul", "A"),
        ("B.web.service.consul", "SRV"),
        ("node.consul", "A"),
        ("ns.consul", "AAAA"),
    ],
)
def test_a_name_that_is_there_without_such_a_record_has_no_data(name: str, kind: str) -> None:
    found = asked(name, kind)

    assert (found.rcode, found.answers, found.additional) == (NOERROR, (), ())
    assert told(found.authority) == ["consul. SOA ns.consul. hostmaster.consul. 7 3600 600 86400 1"]


def test_the_zone_itself_has_a_soa_and_a_name_server_with_an_address() -> None:
    soa, server = asked("consul", "SOA"), asked("ringkeep", "NS")

    assert told(soa.answers) == ["consul. SOA ns.consul. hostmaster.consul. 7 3600 600 86400 1"]
    assert told(server.answers) == ["ringkeep. NS ns.ringkeep."]
    assert told(server.additional) == ["ns.ringkeep. A 192.0.2.53"]


@pytest.mark.parametrize(
    ("name", "kind", "space"),
    [
        ("example.com", "A", dns.rdataclass.IN),
        (".", "NS", dns.rdataclass.IN),
        ("notconsul", "A", dns.rdataclass.IN),
        ("web.service.consul", "A", dns.rdataclass.CH),
        ("consul", "AXFR", dns.rdataclass.IN),
        ("consul", "IXFR", dns.rdataclass.IN),
    ],
)
def test_what_is_not_ours_is_refused_and_nobody_else_is_asked(name: str, kind: str, space: int) -> None:
    assert asked(name, kind, space) == Answer(REFUSED, is_ours=False)


def test_instances_come_in_the_order_that_is_drawn() -> None:
    draws = reversing()
    question = Question(dns.name.from_text("web.service.consul"), dns.rdatatype.A)

    found = answer(question, ZONES, NAMES, lambda: next(draws))

    assert [record.data.to_text() for record in found.answers] == ["10.9.9.9", "10.0.0.1"]


def test_an_address_that_several_instances_share_is_told_once_and_each_port_is() -> None:
    names = FakeNames({("db", None): [Place("n1", "10.0.0.1", port) for port in (1, 2, 3)]}, nodes={"n1": "10.0.0.1"})
    name = dns.name.from_text("db.service.consul")

    addresses = answer(Question(name, dns.rdatatype.A), ZONES, names, in_order)
    targets = answer(Question(name, dns.rdatatype.SRV), ZONES, names, in_order)

    assert told(addresses.answers) == ["db.service.consul. A 10.0.0.1"]
    assert [record.data.to_text().split()[2] for record in targets.answers] == ["1", "2", "3"]
    assert told(targets.additional) == ["n1.node.dc1.consul. A 10.0.0.1"]
