"""What nodes say to each other beside Raft and replication: map, proposals, forwards, and what the registry spreads.

All messages of one loop turn for one peer and channel travel as one ``Bundle``, map entries first: an answer to a
confirmation ping that names a newer map thus never arrives before the entries that make it.
"""

from __future__ import annotations

from enum import IntEnum

import msgspec
from msgspec import Struct

from ringkeep_core.errors import BadFrame
from ringkeep_core.mapchanges import Move
from ringkeep_node.machines.raft.messages import RaftMessage
from ringkeep_node.machines.registry_tables import ServicesDelta, ServicesKnown, ServicesPull, ServicesRenew
from ringkeep_node.machines.shard.effects import ReadRequest, Result, WriteRequest
from ringkeep_node.machines.shard.messages import ShardMessage

BODY_BYTES_MAX = 8 << 20
"""A frame holds at most this, unless a single message is larger; half of what a receiver takes."""


class Channel(IntEnum):
    """The connections between two nodes; bulk never delays a vote or a ping."""

    CONTROL = 0  # pings, Raft, map, proposals
    DATA = 1  # replication, forwarded requests
    BULK = 2  # snapshots and catching up


class MapPull(Struct, frozen=True, array_like=True, tag=1):
    """Asks a member for the committed map after Raft index ``after``."""

    after: int


class MapEntries(Struct, frozen=True, array_like=True, tag=2):
    """Committed (index, change) pairs after ``after``; the receiver's map is then current through ``through``."""

    after: int
    entries: tuple[tuple[int, bytes], ...]
    through: int


class MapWhole(Struct, frozen=True, array_like=True, tag=3):
    """The whole map as of Raft index ``through``, for a node too far behind for entries."""

    data: bytes
    through: int


class Propose(Struct, frozen=True, array_like=True, tag=4):
    """A map change on its way to the leader. ``number`` 0 wants no outcome; others are answered to the origin.

    ``may_wait``: the leader may hold it for a while, to put it into its log together with others.
    """

    number: int
    change: bytes
    hops: int
    may_wait: bool = False


class ProposeOutcome(Struct, frozen=True, array_like=True, tag=5):
    """What became of a proposal: applied at ``version`` when ``code`` is "", else refused."""

    number: int
    version: int
    code: str
    detail: str


class IndexAsk(Struct, frozen=True, array_like=True, tag=6):
    """A node without Raft asks a voter for a ReadIndex."""

    token: int


class IndexAnswer(Struct, frozen=True, array_like=True, tag=7):
    """The answer to ``IndexAsk``; ``index`` None means that there is no leader now."""

    token: int
    index: int | None


class ForwardWrite(Struct, frozen=True, array_like=True, tag=8):
    """A change on its way from the gateway to the primary, straight (``hops`` 1) or relayed by a third node (2).

    ``token`` is its sender's; ``remaining_s`` is what is left of its deadline.
    """

    token: int
    shard: int
    request: WriteRequest
    remaining_s: float
    hops: int


class ForwardRead(Struct, frozen=True, array_like=True, tag=9):
    """A read on its way from the gateway to a copy."""

    token: int
    shard: int
    request: ReadRequest
    remaining_s: float
    hops: int


class ForwardAnswer(Struct, frozen=True, array_like=True, tag=10):
    """The answer to a forwarded request, to whoever sent it here: its gateway, or the node that relayed it."""

    token: int
    result: Result


class HandOverShards(Struct, frozen=True, array_like=True, tag=11):
    """The leader to a primary: let these shards drain, then propose that they move. Repeated or late it changes nothing."""

    moves: tuple[Move, ...]
    reason: str


class TransferAsk(Struct, frozen=True, array_like=True, tag=12):
    """Asks the leader to hand leadership to the voter ``to``, or to whom it likes ("")."""

    to: str
    hops: int


NodeMessage = (
    MapPull
    | MapEntries
    | MapWhole
    | Propose
    | ProposeOutcome
    | IndexAsk
    | IndexAnswer
    | ForwardWrite
    | ForwardRead
    | ForwardAnswer
    | HandOverShards
    | TransferAsk
    | ServicesDelta
    | ServicesKnown
    | ServicesPull
    | ServicesRenew
)


class Cause(Struct, frozen=True, array_like=True, gc=False):
    """Whose request made entry ``sn`` of a shard that is in the same bundle; see ``runtime.trails``."""

    shard: int
    sn: int
    text: str


class Bundle(Struct, array_like=True):
    """Everything one node says to another on one channel in one loop turn, in this order.

    ``generation`` is that of the Raft group that ``raft`` speaks for: votes and entries of another one mean nothing.
    ``causes`` is for logs and traces only; the runtime fills it in.
    """

    node: list[NodeMessage] = []
    raft: list[RaftMessage] = []
    shard: list[ShardMessage] = []
    generation: int = 1
    causes: tuple[Cause, ...] = ()


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Bundle)


def encode_bundle(bundle: Bundle) -> bytes:
    """Return the body of a frame."""
    return _encoder.encode(bundle)


def encode_bundles(bundle: Bundle) -> list[bytes]:
    """Return the bodies of the frames that carry a bundle, in order: more than one if it is larger than a frame may be.

    The receiver refuses frames above its limit and hangs up; after a lost link a peer has a lot to say in one turn.
    """
    body = encode_bundle(bundle)
    node, raft, shard = bundle.node, bundle.raft, bundle.shard
    count = len(node) + len(raft) + len(shard)
    if len(body) <= BODY_BYTES_MAX or count <= 1:
        return [body]
    half = count // 2
    in_raft = max(0, half - len(node))
    in_shard = max(0, in_raft - len(raft))
    # Causes go with the first frame: they must not come after the entries that they belong to.
    first = Bundle(node[:half], raft[:in_raft], shard[:in_shard], bundle.generation, bundle.causes)
    rest = Bundle(node[half:], raft[in_raft:], shard[in_shard:], bundle.generation)
    return encode_bundles(first) + encode_bundles(rest)


def decode_bundle(body: bytes | memoryview) -> Bundle:
    """Return what a frame's body says; raise ``BadFrame`` if it is nothing this version knows."""
    try:
        return _decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadFrame("the frame's body is not of this protocol version") from error
