"""Datagrams and TCP messages to questions and back: the only user of dnspython's messages.

    bytes --reply_to--> None    what is too short, or is an answer itself: whoever sent it must not get an echo
                        bytes   FORMERR, NOTIMP, BADVERS, REFUSED, or the answer, cut to what the other side can take

Whatever arrives, nothing is raised. Over UDP an answer is never longer than what the question's EDNS record allows (512
bytes without one) and never longer than ``udp_bytes_max``: first the additional records go, then answers, with TC set.
Source: RFC 1035, 4.1; RFC 6891; RFC 2181, 9; RFC 9619.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Sequence
from typing import Final

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.opcode
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.rrset

from ringkeep_node.dns.answers import ANSWERS_MAX, Answer, Question, Record

HEADER_BYTES: Final = 12
PLAIN_BYTES_MAX: Final = 512
UDP_BYTES_MAX: Final = 1232
"""What crosses every network of today without fragments (DNS flag day 2020)."""
TCP_BYTES_MAX: Final = 65_535
RECORD_BYTES_MIN: Final = 16
"""The shortest record there is: a compressed name and an IPv4 address."""
SRV_BYTES_MIN: Final = 28
"""The shortest SRV record of ours: more than these can never fit, so they need not be made."""
WITH_ADDRESSES_BYTES: Final = 56
"""About what an SRV record and the address of its target take."""
QUERY_FLAG, OPCODE_MASK = 0x8000, 0x7800

Answering = Callable[[Question], Answer]


def reply_to(
    data: bytes, answering: Answering, *, over_udp: bool, udp_bytes_max: int = UDP_BYTES_MAX, is_curt: bool = False
) -> bytes | None:
    """Return the message that answers ``data``, or None if nothing may be sent back.

    ``is_curt``: only TC and the question, which is no longer than what was sent, and asks to come again over TCP.
    """
    if len(data) < HEADER_BYTES:
        return None
    number, flags, questions = struct.unpack_from("!HHH", data)
    if flags & QUERY_FLAG:
        return None
    if flags & OPCODE_MASK:
        return _bare(number, flags, dns.rcode.NOTIMP)
    if questions != 1:
        return _bare(number, flags, dns.rcode.FORMERR)
    try:
        query = dns.message.from_wire(data, ignore_trailing=True)
        question = query.question[0]
    except (dns.exception.DNSException, ValueError, IndexError, struct.error, UnicodeError, AssertionError):
        return _bare(number, flags, dns.rcode.FORMERR)
    response = dns.message.make_response(query, our_payload=udp_bytes_max)
    response.flags &= ~(dns.flags.AD | dns.flags.CD)
    bytes_max = TCP_BYTES_MAX
    if over_udp:
        bytes_max = min(max(query.payload, PLAIN_BYTES_MAX), udp_bytes_max) if query.edns >= 0 else PLAIN_BYTES_MAX
    if query.edns > 0:
        response.use_edns(0, payload=udp_bytes_max)
        response.set_rcode(dns.rcode.BADVERS)
        return response.to_wire()
    if is_curt:
        response.flags |= dns.flags.TC
        return response.to_wire()
    is_srv = question.rdtype == dns.rdatatype.SRV
    useful = min(ANSWERS_MAX, bytes_max // (SRV_BYTES_MIN if is_srv else RECORD_BYTES_MIN))
    found = answering(Question(question.name, question.rdtype, question.rdclass, useful))
    response.set_rcode(found.rcode)
    if found.is_ours:
        response.flags |= dns.flags.AA
    return _fitting(response, found, bytes_max, over_udp=over_udp)


def _bare(number: int, flags: int, rcode: dns.rcode.Rcode) -> bytes:
    """Return a header that says what was wrong and nothing else: shorter than whatever asked for it."""
    kept = flags & (OPCODE_MASK | dns.flags.RD)
    return struct.pack("!HHHHHH", number, QUERY_FLAG | kept | rcode, 0, 0, 0, 0)


def _fitting(response: dns.message.Message, found: Answer, bytes_max: int, *, over_udp: bool) -> bytes:
    """Return the answer with as many of its records as there is room for."""
    response.authority = _sets(found.authority)
    count = len(found.answers)
    # Records that are made only to be found too long cost more than all others.
    beside: Sequence[Record] = found.additional if count * WITH_ADDRESSES_BYTES <= bytes_max else ()
    while True:
        response.answer = _sets(found.answers[:count])
        response.additional = _sets(beside)
        if over_udp and (found.is_partial or count < len(found.answers)):
            response.flags |= dns.flags.TC
        try:
            data = response.to_wire(max_size=TCP_BYTES_MAX)
            if len(data) <= bytes_max:
                return data
            size = len(data)
        except dns.exception.TooBig:
            size = 2 * TCP_BYTES_MAX
        if beside:
            beside = ()  # They are a favour: whoever needs them can ask.
        elif count:
            count = min(count - 1, count * bytes_max // size)
        else:
            response.authority = []
            beside = ()
            response.flags |= dns.flags.TC
            return response.to_wire(max_size=TCP_BYTES_MAX)


def _sets(records: Iterable[Record]) -> list[dns.rrset.RRset]:
    """Return records as sets of the same name and type, in their order."""
    sets: dict[tuple[dns.name.Name, int], dns.rrset.RRset] = {}
    for record in records:
        data = record.data
        key = (record.name, data.rdtype)
        rrset = sets.get(key)
        if rrset is None:
            rrset = sets[key] = dns.rrset.RRset(record.name, dns.rdataclass.IN, data.rdtype)
            rrset.ttl = record.ttl_s
        rrset.items[data] = None
    return list(sets.values())
