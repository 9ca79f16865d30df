"""Bytes in, bytes out: sizes, truncation, EDNS, and packets that nobody should have sent."""

from __future__ import annotations

import random
from functools import partial

import dns.edns
import dns.flags
import dns.message
import dns.name
import dns.opcode
import dns.rcode
import dns.rdatatype
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ringkeep_node.dns.answers import ANSWERS_MAX, Answer, Place, Question, answer
from ringkeep_node.dns.wire import TCP_BYTES_MAX, UDP_BYTES_MAX, reply_to
from ringkeep_testing.fake_names import ZONES, FakeNames, in_order

MANY = [Place("n1", f"10.1.{number // 250}.{number % 250 + 1}", 1000 + number) for number in range(2000)]
NAMES = FakeNames({("web", None): MANY, ("few", None): MANY[:3], ("some", None): MANY[:20]}, nodes={"n1": "10.0.0.1"})


def answering(question: Question) -> Answer:
    """Answer from the fake names."""
    return answer(question, ZONES, NAMES, in_order)


def query(name: str, kind: str = "A", *, edns: int | None = None, payload: int = 4096) -> dns.message.Message:
    """Return a query; ``edns`` None: as clients sent them in 1987."""
    made = dns.message.make_query(name, kind, use_edns=edns if edns is not None else False, payload=payload)
    made.id = 4711
    return made


def asked(message: dns.message.Message, *, over_udp: bool = True, is_curt: bool = False) -> dns.message.Message:
    """Return the answer to a query, read as a client reads it."""
    data = reply_to(message.to_wire(), answering, over_udp=over_udp, is_curt=is_curt)
    assert data is not None
    reply = dns.message.from_wire(data)
    assert message.is_response(reply)
    return reply


def records(message: dns.message.Message, section: str = "answer") -> int:
    """Return how many records a section has."""
    return sum(len(rrset) for rrset in getattr(message, section))


def test_an_answer_has_authority_offers_no_recursion_and_repeats_the_question_as_it_was_spelled() -> None:
    reply = asked(query("fEw.Service.Consul"))

    assert reply.question[0].name.to_text() == "fEw.Service.Consul."
    assert reply.flags == dns.flags.QR | dns.flags.AA | dns.flags.RD
    assert (reply.rcode(), records(reply), reply.edns) == (dns.rcode.NOERROR, 3, -1)


@pytest.mark.parametrize(
    ("edns", "payload", "bytes_max"),
    [(None, 0, 512), (0, 0, 512), (0, 512, 512), (0, 900, 900), (0, 1232, 1232), (0, 4096, 1232), (0, 65_535, 1232)],
)
@pytest.mark.parametrize("kind", ["A", "SRV"])
def test_a_datagram_is_no_longer_than_the_client_and_the_limit_allow(
    edns: int | None, payload: int, bytes_max: int, kind: str
) -> None:
    data = reply_to(query("web.service.consul", kind, edns=edns, payload=payload).to_wire(), answering, over_udp=True)
    assert data is not None
    reply = dns.message.from_wire(data)

    assert bytes_max - 100 < len(data) <= bytes_max <= UDP_BYTES_MAX
    assert reply.flags & dns.flags.TC
    assert 0 < records(reply) < len(MANY)


def test_over_tcp_as_many_come_as_are_ever_answered() -> None:
    addresses = asked(query("web.service.consul"), over_udp=False)
    data = reply_to(query("web.service.consul", "SRV").to_wire(), answering, over_udp=False)
    assert data is not None
    targets = dns.message.from_wire(data)

    assert (records(addresses), bool(addresses.flags & dns.flags.TC)) == (ANSWERS_MAX, False)
    assert len(data) <= TCP_BYTES_MAX
    assert (records(targets), records(targets, "additional")) == (ANSWERS_MAX, ANSWERS_MAX)
    assert not targets.flags & dns.flags.TC


def test_additional_records_go_before_answers_do_and_that_is_no_truncation() -> None:
    whole = asked(query("some.service.consul", "SRV", edns=0), over_udp=False)
    reply = asked(query("some.service.consul", "SRV", edns=0))

    assert (records(whole), records(whole, "additional")) == (20, 20)
    assert (records(reply), records(reply, "additional")) == (20, 0)
    assert not reply.flags & dns.flags.TC


@pytest.mark.parametrize("kind", ["A", "SRV"])
def test_no_more_records_are_made_than_can_be_sent(kind: str) -> None:
    made = []

    def noting(question: Question) -> Answer:
        made.append(answering(question))
        return made[-1]

    reply_to(query("web.service.consul", kind, edns=0).to_wire(), noting, over_udp=True)

    assert len(made[0].answers) <= 1232 // 16
    assert made[0].is_partial


def test_edns_is_answered_with_edns_and_only_then() -> None:
    assert asked(query("few.service.consul", edns=0)).edns == 0
    assert asked(query("few.service.consul", edns=0)).payload == UDP_BYTES_MAX
    assert asked(query("few.service.consul")).edns == -1


def test_a_later_version_of_edns_is_told_which_one_there_is() -> None:
    message = query("few.service.consul", edns=0)
    message.use_edns(1, payload=4096)

    reply = asked(message)

    assert (reply.rcode(), reply.edns, records(reply)) == (dns.rcode.BADVERS, 0, 0)


def test_options_that_nobody_knows_change_nothing() -> None:
    message = query("few.service.consul", edns=0)
    message.use_edns(0, payload=1232, options=[dns.edns.GenericOption(dns.edns.OptionType.make(65_001), b"x" * 40)])

    assert records(asked(message)) == 3


def test_other_zones_are_refused_without_a_word_more() -> None:
    reply = asked(query("example.com"))

    assert reply.rcode() == dns.rcode.REFUSED
    assert not reply.flags & (dns.flags.AA | dns.flags.RA)
    assert (records(reply), records(reply, "authority")) == (0, 0)


def test_a_curt_answer_is_no_longer_than_its_question_and_asks_for_tcp() -> None:
    for message in (query("web.service.consul"), query("web.service.consul", edns=0)):
        sent = message.to_wire()
        data = reply_to(sent, answering, over_udp=True, is_curt=True)

        assert data is not None and len(data) <= len(sent)
        assert dns.message.from_wire(data).flags & dns.flags.TC


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", None),
        (b"\x12\x67" + b"\0" * 9, None),
        (query("few.service.consul").to_wire()[:2] + b"\x80" + query("few.service.consul").to_wire()[3:], None),
        (b"\x12\x67\x01\0\0\0\0\0\0\0\0\0", "FORMERR"),
        (b"\x12\x67\x01\0\0\2\0\0\0\0\0\0", "FORMERR"),
        (b"\x12\x67\x01\0\0\1\0\0\0\0\0\0", "FORMERR"),
        (b"\x12\x67\x01\0\0\1\0\0\0\0\0\0\xc0\x0c\0\1\0\1", "FORMERR"),
        (b"\x12\x67\x01\0\0\1\0\0\0\0\0\0\xff\0\1\0\1", "FORMERR"),
        (b"\x12\x67\x28\0\0\1\0\0\0\0\0\0", "NOTIMP"),
        (b"\x12\x67\x20\0\0\1\0\0\0\0\0\0", "NOTIMP"),
    ],
)
def test_what_is_no_question_gets_a_bare_header_or_nothing(data: bytes, expected: str | None) -> None:
    reply = reply_to(data, answering, over_udp=True)

    if expected is None:
        assert reply is None
    else:
        assert reply is not None and len(reply) == 12
        assert reply[:2] == data[:2]
        assert dns.message.from_wire(reply).rcode() == dns.rcode.from_text(expected)


SOUND = [
    query(name, kind, edns=edns).to_wire()
    for name, kind, edns in [
        ("web.service.consul", "A", 0),
        ("_web._tcp.service.consul", "SRV", None),
        ("a.b.c.d.e.web.service.dc1.ringkeep", "ANY", 0),
        ("consul", "SOA", None),
    ]
]


def _is_sound(data: bytes | None, sent: bytes) -> bool:
    if data is None:
        return True
    dns.message.from_wire(data)
    return len(data) <= UDP_BYTES_MAX and data[:2] == sent[:2] and bool(data[2] & 0x80)


@given(st.binary(max_size=600))
def test_any_bytes_get_a_sound_answer_or_none(data: bytes) -> None:
    assert _is_sound(reply_to(data, answering, over_udp=True), data)


@given(st.sampled_from(SOUND), st.randoms(use_true_random=False))
def test_any_damage_to_a_question_gets_a_sound_answer_or_none(sound: bytes, chance: random.Random) -> None:
    data = bytearray(sound)
    for _ in range(chance.randint(1, 6)):
        place = chance.randrange(len(data))
        match chance.randrange(4):
            case 0:
                data[place] = chance.randrange(256)
            case 1:
                data[place] ^= 1 << chance.randrange(8)
            case 2:
                del data[place : place + chance.randint(1, 4)]
                data += b"" if data else b"\0"
            case _:
                data[place:place] = chance.randbytes(chance.randint(1, 20))
    sent = bytes(data)

    assert _is_sound(reply_to(sent, partial(answering), over_udp=True), sent)
