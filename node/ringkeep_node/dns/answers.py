"""What a question about one of our names is answered: a function of the question and of what is registered now.

    [tag.]web.service[.dc].zone   A, AAAA, SRV    the healthy instances, shuffled
    _web._tcp.service[.dc].zone   SRV             the same (RFC 2782); any other second label is a tag: _web._v2
    _shard-7._tcp.service.zone    SRV             the primary of a shard
    n1.node[.dc].zone             A, AAAA         a member of the cluster
    7f000001.addr[.dc].zone       A               an address written as a name: what SRV points to
    zone                          SOA, NS         and ns.zone, the server itself

A name is there (NOERROR, maybe without a record of the asked type) or it is not (NXDOMAIN); both say so with the SOA, whose
last number is how long that may be believed. A service without healthy instances is not there: clients that get an
empty answer keep what they had. Everything outside the zones is REFUSED: nothing is asked of others.

Source: RFC 1034, 2308, 2782, 8020, 8482; cluster.md, 6.3.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Sequence
from typing import Final, Protocol

import dns.name
import dns.rdataclass
import dns.rdatatype
from dns.rcode import NOERROR, NXDOMAIN, REFUSED, Rcode
from dns.rdata import Rdata
from dns.rdataclass import IN
from dns.rdatatype import AAAA, ANY, AXFR, CNAME, IXFR, NS, SOA, SRV, A
from dns.rdtypes.ANY.CNAME import CNAME as CnameClass
from dns.rdtypes.ANY.NS import NS as NsClass
from dns.rdtypes.ANY.SOA import SOA as SoaClass
from dns.rdtypes.IN.A import A as AClass
from dns.rdtypes.IN.AAAA import AAAA as AaaaClass
from dns.rdtypes.IN.SRV import SRV as SrvClass
from msgspec import Struct

PRIORITY: Final = 1
TRANSPORT: Final = "_tcp"
SHARD: Final = "shard-"
BRANCHES: Final = ("service", "node", "addr")
ANSWERS_MAX: Final = 250
"""A service with more instances is answered with so many of them, drawn anew each time: the whole node waits meanwhile."""
SOA_REFRESH_S, SOA_RETRY_S, SOA_EXPIRE_S = 3600, 600, 86_400

_Maker = Callable[..., Rdata]  # dnspython's classes have no types for their arguments.
CnameData: _Maker = CnameClass
NsData: _Maker = NsClass
SoaData: _Maker = SoaClass
AData: _Maker = AClass
AaaaData: _Maker = AaaaClass
SrvData: _Maker = SrvClass

Draw = Callable[[], float]
"""Returns a number from 0 to below 1."""


class Place(Struct, frozen=True, gc=False):
    """Where an instance is: ``address`` is an IP address or a host name; ``node`` carries it."""

    node: str
    address: str
    port: int
    weight: int = 1


class Names(Protocol):
    """What there is to be named. Every name comes in lower case."""

    @property
    def datacenter(self) -> str:
        """The one datacenter."""

    @property
    def serial(self) -> int:
        """A number that grows with changes."""

    def service(self, name: str, tag: str | None) -> Sequence[Place]:
        """Return the healthy instances of a service that have the tag."""

    def has_longer_tag(self, name: str, end: str) -> bool:
        """Return whether a healthy instance of a service has a tag that ends with a dot and ``end``."""

    def shard(self, number: int) -> Place | None:
        """Return where the primary of a shard is, if there is such a shard and its node is alive."""

    def node(self, name: str) -> str | None:
        """Return the address of a node."""

    def own_address(self) -> str:
        """Return the address at which others find this server."""


class Zones(Struct, frozen=True):
    """The zones we answer for and how long answers may be kept, in seconds."""

    zones: tuple[dns.name.Name, ...]
    ttl_s: int = 0
    negative_ttl_s: int = 1

    def of(self, name: dns.name.Name) -> dns.name.Name | None:
        """Return the zone that a name belongs to."""
        return next((zone for zone in self.zones if name.is_subdomain(zone)), None)


class Record(Struct, frozen=True):
    """One record."""

    name: dns.name.Name
    ttl_s: int
    data: Rdata


class Answer(Struct, frozen=True):
    """The answer to one question. ``is_ours``: the name is in one of our zones, so that we are the authority.

    ``is_partial``: there is more than what was asked for at most.
    """

    rcode: Rcode
    is_ours: bool = True
    is_partial: bool = False
    answers: tuple[Record, ...] = ()
    authority: tuple[Record, ...] = ()
    additional: tuple[Record, ...] = ()


class Question(Struct, frozen=True):
    """What is asked: a name, a type and a class, as the numbers of the wire; and how many answers are of use at most."""

    name: dns.name.Name
    kind: int
    space: int = IN
    answers_max: int = ANSWERS_MAX


def answer(question: Question, zones: Zones, names: Names, draw: Draw) -> Answer:
    """Return the answer to a question; the same numbers from ``draw`` give the same order."""
    zone = zones.of(question.name)
    if zone is None or question.space not in (IN, dns.rdataclass.ANY) or question.kind in (AXFR, IXFR):
        return Answer(REFUSED, is_ours=False)
    return _Asked(question, zone, zones, names, draw).answer()


class _Asked:
    """One question about a zone of ours."""

    def __init__(self, question: Question, zone: dns.name.Name, zones: Zones, names: Names, draw: Draw) -> None:
        self._name, self._kind, self._answers_max = question.name, question.kind, question.answers_max
        self._zone, self._zones, self._names, self._draw = zone, zones, names, draw

    def answer(self) -> Answer:
        labels = self._labels()
        if labels is None:
            return self._nothing(NXDOMAIN)
        if not labels:
            return self._apex()
        if labels == ["ns"]:
            return self._addresses([self._names.own_address()])
        if len(labels) > 1 and labels[-1] == self._names.datacenter.lower() and labels[-2] in BRANCHES:
            labels = labels[:-1]
        elif labels == [self._names.datacenter.lower()]:
            return self._nothing(NOERROR)
        branch, rest = labels[-1], labels[:-1]
        if branch not in BRANCHES:
            return self._nothing(NXDOMAIN)
        if not rest:
            return self._nothing(NOERROR)  # Names are below it, so it exists (RFC 8020), with no records.
        if branch == "service":
            return self._service(rest)
        return self._node(rest) if branch == "node" else self._address(rest)

    def _labels(self) -> list[str] | None:
        """Return the labels below the zone in lower case; None if one has bytes that no name of ours has."""
        own = self._name.labels[: len(self._name.labels) - len(self._zone.labels)]
        try:
            return [label.decode("ascii").lower() for label in own]
        except UnicodeDecodeError:
            return None

    # --- what there is -------------------------------------------------------------------------------------------

    def _apex(self) -> Answer:
        if self._kind == SOA:
            return Answer(NOERROR, answers=(self._soa(self._zones.ttl_s),))
        if self._kind in (NS, ANY):
            server = dns.name.Name((b"ns", *self._zone.labels))
            record = Record(self._name, self._zones.ttl_s, NsData(IN, NS, server))
            return Answer(NOERROR, answers=(record,), additional=self._glue(server, self._names.own_address()))
        return self._nothing(NOERROR)

    def _service(self, labels: list[str]) -> Answer:
        is_rfc_2782 = labels[-1].startswith("_")
        if is_rfc_2782 and len(labels) == 1:
            # Any service may have the tag, so that _web._v2 may be below _v2: looking at all of them would take too long.
            return self._nothing(NOERROR)
        places = self._rfc_2782(labels) if is_rfc_2782 else self._plain(labels)
        if not places:
            has_names_below = not is_rfc_2782 and self._names.has_longer_tag(labels[-1], ".".join(labels[:-1]))
            return self._nothing(NOERROR if has_names_below else NXDOMAIN)
        shuffled = sorted(((self._draw(), place) for place in places), key=lambda drawn: drawn[0])
        if self._kind == SRV:
            return self._targets([place for _, place in shuffled])
        return self._addresses([place.address for _, place in shuffled])

    def _rfc_2782(self, labels: list[str]) -> Sequence[Place]:
        """Return who is meant by _name._tag: the transport is no tag."""
        if len(labels) != 2 or not labels[0].startswith("_"):
            return ()
        name, tag = labels[0][1:], None if labels[1] == TRANSPORT else labels[1][1:]
        number = name.removeprefix(SHARD)
        if tag is None and number != name and number.isdigit() and len(number) <= 6:
            place = self._names.shard(int(number))
            return () if place is None else (place,)
        return self._names.service(name, tag)

    def _plain(self, labels: list[str]) -> Sequence[Place]:
        return self._names.service(labels[-1], ".".join(labels[:-1]) or None)

    def _node(self, labels: list[str]) -> Answer:
        address = self._names.node(labels[0]) if len(labels) == 1 else None
        return self._nothing(NXDOMAIN) if address is None else self._addresses([address])

    def _address(self, labels: list[str]) -> Answer:
        address = _address_of(labels[0]) if len(labels) == 1 else None
        return self._nothing(NXDOMAIN) if address is None else self._addresses([address])

    # --- records -------------------------------------------------------------------------------------------------

    def _nothing(self, rcode: Rcode) -> Answer:
        return Answer(rcode, authority=(self._soa(self._zones.negative_ttl_s),))

    def _soa(self, ttl_s: int) -> Record:
        server = dns.name.Name((b"ns", *self._zone.labels))
        person = dns.name.Name((b"hostmaster", *self._zone.labels))
        serial = self._names.serial % (1 << 32)
        times = (SOA_REFRESH_S, SOA_RETRY_S, SOA_EXPIRE_S, self._zones.negative_ttl_s)
        return Record(self._zone, ttl_s, SoaData(IN, SOA, server, person, serial, *times))

    def _addresses(self, addresses: Sequence[str]) -> Answer:
        """Return the addresses of the asked family, each once. A host name is said as one CNAME: more are not allowed.

        A name with addresses has no CNAME, whichever family is asked for: caches may take a CNAME for every type.
        """
        records: list[Record] = []
        has_addresses = False
        for address in dict.fromkeys(addresses):
            data = _data_of(address)
            has_addresses = has_addresses or data is not None
            if data is not None and self._kind in (data.rdtype, ANY):
                if len(records) == self._answers_max:
                    return Answer(NOERROR, is_partial=True, answers=tuple(records))
                records.append(Record(self._name, self._zones.ttl_s, data))
        if not has_addresses and self._kind in (A, AAAA, CNAME, ANY):
            host = next((_host_of(address) for address in addresses), None)
            if host is not None:
                records.append(Record(self._name, self._zones.ttl_s, CnameData(IN, CNAME, host)))
        return Answer(NOERROR, answers=tuple(records)) if records else self._nothing(NOERROR)

    def _targets(self, places: Sequence[Place]) -> Answer:
        """Return SRV records, and beside them the addresses that their targets have."""
        answers, additional = [], dict[dns.name.Name, tuple[Record, ...]]()
        for place in places[: self._answers_max]:
            target = self._target(place)
            if target is None:
                continue
            weight = min(max(place.weight, 0), 65_535)
            data = SrvData(IN, SRV, PRIORITY, weight, place.port, target)
            answers.append(Record(self._name, self._zones.ttl_s, data))
            if target not in additional:
                additional[target] = self._glue(target, place.address)
        beside = tuple(record for records in additional.values() for record in records)
        if not answers:
            return self._nothing(NOERROR)
        is_partial = len(places) > self._answers_max
        return Answer(NOERROR, is_partial=is_partial, answers=tuple(answers), additional=beside)

    def _target(self, place: Place) -> dns.name.Name | None:
        """Return the name of an instance's address: its node's name where that has the same address."""
        data = _data_of(place.address)
        if data is None:
            return _host_of(place.address)
        if place.node and self._names.node(place.node.lower()) == place.address:
            label, branch = place.node.lower(), b"node"
        else:
            label, branch = ipaddress.ip_address(place.address).packed.hex(), b"addr"
        return dns.name.Name((label.encode(), branch, self._names.datacenter.lower().encode(), *self._zone.labels))

    def _glue(self, name: dns.name.Name, address: str) -> tuple[Record, ...]:
        data = _data_of(address)
        return () if data is None else (Record(name, self._zones.ttl_s, data),)


def _data_of(address: str) -> Rdata | None:
    """Return an address as a record's data; None if it is a host name."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return None
    text = parsed.compressed
    return AData(IN, A, text) if parsed.version == 4 else AaaaData(IN, AAAA, text)


def _host_of(address: str) -> dns.name.Name | None:
    """Return a host name as a name, None if it cannot be one."""
    try:
        return dns.name.from_text(address)
    except (dns.name.LabelTooLong, dns.name.EmptyLabel, dns.name.NameTooLong, dns.name.BadEscape, UnicodeError):
        return None


def _address_of(label: str) -> str | None:
    """Return the address that a label of hexadecimal digits stands for."""
    if len(label) not in (8, 32):
        return None
    try:
        return ipaddress.ip_address(bytes.fromhex(label)).compressed
    except ValueError:
        return None
