"""What Raft nodes say to each other, keep on disk, and hand to the code around them.

Everything here is a frozen value. Messages are tagged arrays, so that a heartbeat is a few bytes on the wire; a node
id is always a storage id. Which field must be durable before a message may leave is not a property of the message but
of the step that carries it (``RaftStep``).

Source: Ongaro and Ousterhout, "In Search of an Understandable Consensus Algorithm" (2014), figures 2 and 13; Ongaro's
thesis, sections 3.10 (TimeoutNow), 6.4 (ReadIndex), 9.6 (PreVote).
"""

from __future__ import annotations

from typing import TypeAlias

import msgspec
from msgspec import Struct

NORMAL = 0
NOOP = 1
CONFIGURATION = 2


class Entry(Struct, frozen=True, array_like=True, gc=False):
    """One entry of the log. ``kind`` is NORMAL (``payload`` is the application's), NOOP or CONFIGURATION."""

    term: int
    index: int
    kind: int
    payload: bytes


class HardState(Struct, frozen=True, array_like=True):
    """What must survive a restart besides the log: the newest term seen and whom we voted for in it."""

    term: int
    vote: str | None


class Configuration(Struct, frozen=True, array_like=True):
    """Who takes part. ``voters`` elect and commit, ``learners`` only receive the log."""

    voters: tuple[str, ...] = ()
    learners: tuple[str, ...] = ()

    def members(self) -> tuple[str, ...]:
        """Return everybody the leader sends the log to, voters first."""
        return self.voters + self.learners


class Snapshot(Struct, frozen=True, array_like=True):
    """The application's state after ``index``, and the configuration that was in effect there."""

    index: int
    term: int
    configuration: Configuration
    data: bytes


class Recovered(Struct, frozen=True):
    """What a node found on its disk: entries are contiguous and may begin before the snapshot's index (the tail)."""

    hard_state: HardState = HardState(0, None)
    snapshot: Snapshot | None = None
    entries: tuple[Entry, ...] = ()


class RequestVote(Struct, frozen=True, array_like=True, tag="v"):
    """A candidate asks for a vote in ``term``. ``prevote``: it only asks whether it would get one, and nothing changes.

    ``transfer``: the leader itself asked for this election, so a receiver that still hears that leader may vote.
    """

    term: int
    last_index: int
    last_term: int
    prevote: bool = False
    transfer: bool = False


class VoteAnswer(Struct, frozen=True, array_like=True, tag="V"):
    """The answer to ``RequestVote``. ``term`` is the asked one when granted, else the voter's own."""

    term: int
    granted: bool
    prevote: bool = False


class AppendEntries(Struct, frozen=True, array_like=True, tag="a"):
    """Entries that follow (``previous_term``, ``previous_index``); ``commit`` is the leader's commit index."""

    term: int
    previous_index: int
    previous_term: int
    commit: int
    entries: tuple[Entry, ...] = ()


class AppendAnswer(Struct, frozen=True, array_like=True, tag="A"):
    """The answer to ``AppendEntries``.

    Granted: the sender's log equals the leader's up to ``index``, durably. Refused: ``index`` is the refused
    ``previous_index``, and the logs can only agree at or before ``hint_index``, where the sender has ``hint_term``.
    """

    term: int
    success: bool
    index: int
    hint_index: int = 0
    hint_term: int = 0


class Heartbeat(Struct, frozen=True, array_like=True, tag="h"):
    """The leader of ``term`` lives; the receiver may commit up to ``commit``. ``round`` > 0 asks for an answer."""

    term: int
    commit: int
    round: int


class HeartbeatAnswer(Struct, frozen=True, array_like=True, tag="H"):
    """The sender was in ``term`` when it handled the heartbeat of ``round``."""

    term: int
    round: int


class InstallSnapshot(Struct, frozen=True, array_like=True, tag="s"):
    """A piece of a snapshot: ``data`` begins at byte ``offset`` of ``total``; ``digest`` is XXH3-64 of the whole."""

    term: int
    index: int
    snapshot_term: int
    configuration: Configuration
    total: int
    digest: int
    offset: int
    data: bytes


class SnapshotAnswer(Struct, frozen=True, array_like=True, tag="S"):
    """The receiver of snapshot ``index`` wants byte ``offset`` next. ``AppendAnswer`` reports its installation."""

    term: int
    index: int
    offset: int


class TimeoutNow(Struct, frozen=True, array_like=True, tag="t"):
    """The leader of ``term`` asks the receiver to stand for election at once (thesis 3.10)."""

    term: int


class ReadIndexRequest(Struct, frozen=True, array_like=True, tag="r"):
    """A follower asks the leader for a confirmed commit index. ``number`` is unique over all boots of the follower."""

    term: int
    number: int


class ReadIndexAnswer(Struct, frozen=True, array_like=True, tag="R"):
    """The answer to ``ReadIndexRequest``; ``index`` is None when the leader could not confirm."""

    term: int
    number: int
    index: int | None


RaftMessage: TypeAlias = (
    RequestVote
    | VoteAnswer
    | AppendEntries
    | AppendAnswer
    | Heartbeat
    | HeartbeatAnswer
    | InstallSnapshot
    | SnapshotAnswer
    | TimeoutNow
    | ReadIndexRequest
    | ReadIndexAnswer
)


class Send(Struct, frozen=True):
    """Send ``message`` to the node ``to``. Losing it is allowed."""

    to: str
    message: RaftMessage


class ReadReady(Struct, frozen=True):
    """A read may be answered from any state that has applied ``index``."""

    token: int
    index: int


class RaftStep(Struct, frozen=True):
    """Everything that came out of Raft since the last step, in the order in which it must happen.

    1. ``send`` may leave at once.
    2. Persist ``hard_state``; then ``install`` (it replaces the whole log; ``cut_after`` and ``append`` are then
       empty); then a ``cut`` record that keeps entries up to ``cut_after``; then ``append``.
    3. When all of that and of every earlier step is durable, report it (``hard_state_synced``, ``synced`` with term and
       index of the last entry of ``append``, ``snapshot_installed``), in this order, and let ``send_synced`` leave.
    4. Apply ``committed``, in order. These entries are already durable here.
    """

    hard_state: HardState | None = None
    cut_after: int | None = None
    append: tuple[Entry, ...] = ()
    install: Snapshot | None = None
    send: tuple[Send, ...] = ()
    send_synced: tuple[Send, ...] = ()
    committed: tuple[Entry, ...] = ()
    reads: tuple[ReadReady, ...] = ()
    reads_failed: tuple[int, ...] = ()
    changed: bool = False

    def __bool__(self) -> bool:
        """Return whether there is anything to do."""
        return self.must_persist or bool(
            self.send or self.send_synced or self.committed or self.reads or self.reads_failed or self.changed
        )

    @property
    def must_persist(self) -> bool:
        """Return whether this step has anything for the disk."""
        return (
            self.hard_state is not None or self.cut_after is not None or self.install is not None or bool(self.append)
        )


EMPTY_STEP = RaftStep()


class Proposed(Struct, frozen=True):
    """The entry stands in the leader's log. It is committed if the entry applied at ``index`` has this ``term``."""

    term: int
    index: int


class NotLeader(Struct, frozen=True):
    """Nothing was appended. ``leader`` is where to ask, if known."""

    leader: str | None


class Refused(Struct, frozen=True):
    """Nothing was appended. ``reason`` is a stable word: see ``Raft.propose`` and ``membership.refusal``."""

    reason: str


def is_well_formed(message: AppendEntries) -> bool:
    """Return whether the entries follow each other as a log's do; anything else is a damaged message, to be ignored."""
    index, term = message.previous_index, message.previous_term
    for entry in message.entries:
        index += 1
        if entry.index != index or not term <= entry.term <= message.term:
            return False
        term = entry.term
        if entry.kind == CONFIGURATION and not _is_configuration(entry.payload):
            return False
    return message.previous_index >= 0


def _is_configuration(payload: bytes) -> bool:
    try:
        decode_configuration(payload)
    except msgspec.DecodeError:
        return False
    return True


_CONFIGURATION_ENCODER = msgspec.msgpack.Encoder()
_CONFIGURATION_DECODER = msgspec.msgpack.Decoder(Configuration)


def encode_configuration(configuration: Configuration) -> bytes:
    """Return the payload of a CONFIGURATION entry."""
    return _CONFIGURATION_ENCODER.encode(configuration)


def decode_configuration(payload: bytes) -> Configuration:
    """Return the configuration in the payload of a CONFIGURATION entry."""
    return _CONFIGURATION_DECODER.decode(payload)
