"""What the nodes of a shard say to each other.

Every message is accepted only from the boot that the held map registers for its sender; the connection carries storage
and boot id. A message about one shard names the epoch it belongs to. Nothing here relies on order or on single delivery:
late, repeated and reordered messages are harmless; the fields say what makes them so.

Source: replication.md, rules 1, 2, 4 and 6.
"""

from __future__ import annotations

import msgspec
from msgspec import Struct

from ringkeep_core.errors import BadFrame
from ringkeep_node.machines.documents import CopyState, Remembered, Row
from ringkeep_node.machines.records import EpochStart


class Append(Struct, frozen=True, array_like=True, tag=1, gc=False):
    """Primary to replica: entries (epoch, payload) with the numbers ``prev_sn`` + 1 and up. Without entries: a probe.

    The content depends on the epoch only, never on the receiver, so one object serves all peers.
    """

    shard: int
    epoch: int
    prev_epoch: int
    prev_sn: int
    commit: int
    entries: tuple[tuple[int, bytes], ...]


class Ack(Struct, frozen=True, array_like=True, tag=2, gc=False):
    """Replica to primary: everything up to ``sn`` is the primary's of this epoch and durable in copy ``copy``.

    ``resend``: what came after ``sn`` did not fit; send from there.
    """

    shard: int
    copy: int
    epoch: int
    sn: int
    resend: bool = False


class Commits(Struct, frozen=True, array_like=True, tag=3, gc=False):
    """Primary to replica: (shard, epoch, commit sn) of shards whose commit sn no append carried."""

    commits: tuple[tuple[int, int, int], ...]


class TailAsk(Struct, frozen=True, array_like=True, tag=4, gc=False):
    """New primary to a complete copy: promise the epoch and say where your log ends."""

    shard: int
    epoch: int


class Tail(Struct, frozen=True, array_like=True, tag=5, gc=False):
    """Answer to ``TailAsk``, sent when promise and log are durable."""

    shard: int
    copy: int
    epoch: int
    last_epoch: int
    last_sn: int


class EpochAsk(Struct, frozen=True, array_like=True, tag=6, gc=False):
    """What is the largest epoch <= ``of_epoch`` in your log, and where does it end? ``last_sn``: the asker's own end."""

    shard: int
    copy: int
    epoch: int
    of_epoch: int
    last_sn: int


class EpochEnd(Struct, frozen=True, array_like=True, tag=7, gc=False):
    """Answer to ``EpochAsk``: a fact that never changes within ``epoch``. It counts only for a copy that asked for it."""

    shard: int
    epoch: int
    of_epoch: int
    found_epoch: int
    end_sn: int


class Fetch(Struct, frozen=True, array_like=True, tag=8, gc=False):
    """New primary to the copy with the longest log: send what follows ``after_sn``."""

    shard: int
    epoch: int
    after_sn: int


class Fetched(Struct, frozen=True, array_like=True, tag=9, gc=False):
    """Answer to ``Fetch``: entries (epoch, payload) with the numbers ``after_sn`` + 1 and up. None: they are gone."""

    shard: int
    epoch: int
    after_sn: int
    entries: tuple[tuple[int, bytes], ...]


class Ping(Struct, frozen=True, array_like=True, tag=10, gc=False):
    """A confirmation round's question; ``boot`` and ``version`` are the asker's."""

    round: int
    boot: str
    version: int


class Pong(Struct, frozen=True, array_like=True, tag=11, gc=False):
    """The answer, made when the ping is handled: ``version`` is the map the answerer holds at that moment."""

    round: int
    pinger_boot: str
    boot: str
    version: int
    stalled: bool
    wall_ms: int


class SnapshotBegin(Struct, frozen=True, array_like=True, tag=12):
    """Primary to learner: a snapshot starts whose log restarts after (``base_epoch``, ``base_sn``)."""

    shard: int
    copy: int
    epoch: int
    stream: int
    base_epoch: int
    base_sn: int
    state: CopyState
    epochs: tuple[EpochStart, ...]


class SnapshotRows(Struct, frozen=True, array_like=True, tag=13):
    """One piece of a snapshot, pieces counted from 1; ``last``: no more follows."""

    shard: int
    copy: int
    epoch: int
    stream: int
    piece: int
    rows: tuple[Row, ...]
    remembered: tuple[Remembered, ...]
    last: bool


class SnapshotAck(Struct, frozen=True, array_like=True, tag=14, gc=False):
    """Learner to primary: pieces up to ``piece`` are taken (0: begun); the last one: the snapshot is in place and durable.

    ``aborted``: start again later.
    """

    shard: int
    copy: int
    epoch: int
    stream: int
    piece: int
    aborted: bool = False


ShardMessage = (
    Append
    | Ack
    | Commits
    | TailAsk
    | Tail
    | EpochAsk
    | EpochEnd
    | Fetch
    | Fetched
    | Ping
    | Pong
    | SnapshotBegin
    | SnapshotRows
    | SnapshotAck
)

CONTROL_MESSAGES = (Ping, Pong)
"""Messages of the ``control`` connection: never behind data."""
BULK_MESSAGES = (SnapshotBegin, SnapshotRows, SnapshotAck)
"""Messages of the ``bulk`` connection: data never waits for them."""

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[ShardMessage] = msgspec.msgpack.Decoder(ShardMessage)


def encode_message(message: ShardMessage) -> bytes:
    """Return a message as bytes."""
    return _encoder.encode(message)


def decode_message(data: bytes) -> ShardMessage:
    """Return the message in ``data``; raise ``BadFrame`` if it is none."""
    try:
        return _decoder.decode(data)
    except msgspec.DecodeError as error:
        raise BadFrame(f"not a shard message: {error}") from error
