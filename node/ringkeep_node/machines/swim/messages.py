"""The datagrams of the gossip protocol: one packet shape, checked on arrival, never larger than the limit.

    byte 0        protocol version
    byte 1...     Seal.seal(msgpack array of ``Packet``)

Every packet carries the cluster id, who sends it (which is at the same time the news that the sender is alive), the
sender's digest, and as many updates as fit. Sizes of strings and lists are part of the types, so a decoded packet is
bounded. Source: cluster.md section 3 (what memberlist sends), replication.md "Members, failure, recovery".
"""

from __future__ import annotations

from enum import IntEnum
from typing import Annotated, Protocol

from msgspec import Meta, MsgspecError, Struct
from msgspec.msgpack import Decoder, Encoder

from ringkeep_core.errors import BadFrame
from ringkeep_node.machines.gossip_state import Delta, Identity, Number
from ringkeep_node.machines.swim.members import Address, Evidence, Member, MemberIdentity, MemberState

VERSION = 1
ROWS_MAX = 32
LIST_MAX = 64

Name = Annotated[str, Meta(min_length=1, max_length=63)]
Host = Annotated[str, Meta(max_length=253)]
Port = Annotated[int, Meta(ge=0, le=65535)]
Bound = Annotated[str, Meta(max_length=16)]


class Kind(IntEnum):
    """What a packet is for."""

    PING = 1
    ACK = 2
    PING_REQUEST = 3
    NACK = 4
    GOSSIP = 5
    SYNC = 6
    ANSWER = 7


class Update(Struct, frozen=True, array_like=True):
    """One piece of news about a member, and who vouches for it (``by``)."""

    storage: Identity
    name: Name
    boot: Identity
    counter: Number
    incarnation: Number
    state: MemberState
    host: Host
    port: Port
    by: Identity
    why: Evidence

    @property
    def key(self) -> tuple[int, int]:
        """What orders news before their state does."""
        return self.counter, self.incarnation

    @property
    def address(self) -> Address:
        """Where the member hears gossip."""
        return self.host, self.port


class Row(Struct, frozen=True, array_like=True):
    """A member in one line of a comparison: what the sender believes, and up to where it holds the member's values."""

    storage: Identity
    counter: Number
    incarnation: Number
    state: MemberState
    values_counter: Number
    values_version: Number


class Want(Struct, frozen=True, array_like=True):
    """Tell me about this member; I hold its values up to (counter, version)."""

    storage: Identity
    counter: Number
    version: Number


class Packet(Struct, frozen=True, array_like=True, kw_only=True):
    """One datagram. ``low`` and ``high`` (exclusive; empty = no bound) say which members ``rows`` is complete for."""

    cluster: Identity
    storage: Identity
    name: Name
    boot: Identity
    counter: Number
    incarnation: Number
    host: Host
    port: Port
    lag_ms: Number
    digest: Annotated[int, Meta(ge=0)]
    kind: Kind
    number: Number = 0
    target: Bound = ""
    target_host: Host = ""
    target_port: Port = 0
    updates: Annotated[tuple[Update, ...], Meta(max_length=LIST_MAX)] = ()
    deltas: Annotated[tuple[Delta, ...], Meta(max_length=LIST_MAX)] = ()
    rows: Annotated[tuple[Row, ...], Meta(max_length=LIST_MAX)] = ()
    wants: Annotated[tuple[Want, ...], Meta(max_length=LIST_MAX)] = ()
    low: Bound = ""
    high: Bound = ""


class Seal(Protocol):
    """Where encryption will go: what leaves is sealed, what arrives is opened."""

    def seal(self, plain: bytes) -> bytes:
        """Return what travels."""

    def open(self, sealed: bytes) -> bytes:
        """Return what was sealed; raise ``BadFrame`` if nobody of ours sealed it."""


class OpenSeal:
    """Links between nodes are plain until security comes as its own step."""

    def seal(self, plain: bytes) -> bytes:
        """Return ``plain``."""
        return plain

    def open(self, sealed: bytes) -> bytes:
        """Return ``sealed``."""
        return sealed


_ENCODER = Encoder()
_DECODER = Decoder(Packet)
_VERSION_BYTE = bytes([VERSION])


def encode(packet: Packet, seal: Seal) -> bytes:
    """Return the datagram of ``packet``."""
    return _VERSION_BYTE + seal.seal(_ENCODER.encode(packet))


def decode(data: bytes, seal: Seal) -> Packet:
    """Return the packet in ``data``; raise ``BadFrame`` for anything that is not one."""
    try:
        return _DECODER.decode(seal.open(data[1:]))
    except (MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BadFrame("not a gossip packet") from error


def size(part: Update | Delta | Row | Want) -> int:
    """Return how many bytes a part takes in a packet."""
    return len(_ENCODER.encode(part))


def update_about(member: Member | MemberIdentity, *, state: MemberState, by: str, why: Evidence) -> Update:
    """Return news about ``member`` in its present boot and incarnation."""
    return Update(
        storage=member.storage,
        name=member.name,
        boot=member.boot,
        counter=member.counter,
        incarnation=member.incarnation,
        state=state,
        host=member.address[0],
        port=member.address[1],
        by=by,
        why=why,
    )


class Myself:
    """The node that speaks: the one record that only itself changes."""

    __slots__ = ("address", "boot", "counter", "incarnation", "lag_s", "leaving", "name", "storage")

    def __init__(self, me: MemberIdentity) -> None:
        self.storage, self.name, self.boot, self.counter = me.storage, me.name, me.boot, me.counter
        self.address = me.address
        self.incarnation = me.incarnation
        self.leaving = False
        self.lag_s = 0.0

    @property
    def state(self) -> MemberState:
        """What we say about ourselves."""
        return MemberState.LEFT if self.leaving else MemberState.ALIVE

    @property
    def identity(self) -> MemberIdentity:
        """Who we are now."""
        return MemberIdentity(
            storage=self.storage,
            name=self.name,
            boot=self.boot,
            counter=self.counter,
            address=self.address,
            incarnation=self.incarnation,
        )

    def update(self, why: Evidence) -> Update:
        """Return news about ourselves."""
        return update_about(self.identity, state=self.state, by=self.storage, why=why)


def identity_in(news: Update | Packet) -> MemberIdentity:
    """Return whom an update is about, or who sent a packet."""
    return MemberIdentity(
        storage=news.storage,
        name=news.name,
        boot=news.boot,
        counter=news.counter,
        incarnation=news.incarnation,
        address=(news.host, news.port),
    )
