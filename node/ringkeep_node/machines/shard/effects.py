"""What a node asks of shard replication, what it is told, and what the machine orders.

A ``ShardStep`` is everything one turn of the loop produced. The driver persists ``records`` in order, sends ``send`` at
once, sends ``send_synced`` when everything of this and earlier steps is durable, carries out ``orders`` in order and then
``apply``, starts ``reads``, hands ``proposals`` to the Raft leader, and ``may_wait`` for it to gather with others, each
of ``hand_overs`` as one entry with its reason, and ``answers`` to whoever asked.

Source: replication.md, rules 1 to 4 and 9; architecture.md, "Decide, then do".
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from typing import Protocol

from msgspec import Struct, field

from ringkeep_core.mapchanges import Move, ShardChange
from ringkeep_node.machines.documents import Body, CopyState, IdempotencyKey, OperationId, Remembered, Row, Write
from ringkeep_node.machines.records import EpochStart, Record
from ringkeep_node.machines.shard.messages import ShardMessage

LogEntry = tuple[int, int, bytes]
"""(epoch, sn, payload)"""

Handed = tuple[int, int, list[LogEntry], list[Body]]
"""(shard, copy, entries, what each of them says): read once, for the state kept here and for the store."""


class ReadKind(IntEnum):
    """What a read returns."""

    GET = 1
    HEAD = 2
    PAGE = 3


class WriteRequest(Struct, frozen=True, array_like=True):
    """A change of documents of one shard, all or nothing.

    ``if_match``: the first document must exist with one of these versions (empty: with any). ``if_none_match``: it must
    have none of these versions (empty: it must not exist). ``deadline`` is monotonic, in seconds, of the node that judges.
    ``imported``: lines of an import; the answer is IMPORTED, and the last line of a key wins. ``epoch``: the
    shard's epoch by the sender's map, 0 to leave it open: an attempt that another one has overtaken must not be applied
    in a later epoch, where the other may have been refused. ``cause`` is for logs and traces only: nothing is decided by it.
    """

    writes: tuple[Write, ...]
    deadline: float
    wall_ms: int
    operation: OperationId | None = None
    idempotency: IdempotencyKey | None = None
    if_match: tuple[int, ...] | None = None
    if_none_match: tuple[int, ...] | None = None
    imported: bool = False
    epoch: int = 0
    cause: str = ""


class ReadRequest(Struct, frozen=True, array_like=True):
    """A read of one document, or of a sorted page of a user's documents.

    ``if_none_match``: answer ``NotModified`` for these versions (empty: for any). ``local``: from this replica, at once.
    """

    user: str
    key: str
    deadline: float
    kind: int = ReadKind.GET
    local: bool = False
    if_match: tuple[int, ...] | None = None
    if_none_match: tuple[int, ...] | None = None
    prefix: str = ""
    after: str = ""
    limit: int = 100
    bytes_max: int = 4 << 20
    cause: str = ""


class Followed(Struct, frozen=True, gc=False):
    """A change with a cause was appended as entry ``sn`` of a shard led here; told only while somebody follows."""

    shard: int
    sn: int
    cause: str


class Stored(Struct, frozen=True, array_like=True, tag=1, gc=False):
    """The change is durable on every in-sync copy. ``answer`` is a ``documents.Answer``, ``version`` its sn."""

    answer: int
    version: int
    epoch: int


class Found(Struct, frozen=True, array_like=True, tag=2):
    """The document. For HEAD the row's value is empty; ``size`` is its length in bytes. ``lag`` in entries (local reads)."""

    row: Row
    size: int
    epoch: int
    lag: int = 0


class Absent(Struct, frozen=True, array_like=True, tag=3, gc=False):
    """There is no such document (also the answer to DELETE of nothing)."""

    epoch: int
    lag: int = 0


class PageFound(Struct, frozen=True, array_like=True, tag=4):
    """Documents in key order; ``next`` is the key to continue after, or None at the end."""

    rows: tuple[Row, ...]
    next: str | None
    epoch: int
    lag: int = 0


class NotModified(Struct, frozen=True, array_like=True, tag=5, gc=False):
    """The reader already has this version."""

    version: int
    epoch: int


class NotApplied(Struct, frozen=True, array_like=True, tag=6, gc=False):
    """Certainly nothing changed; ``code`` is one of ringkeep_core.errors."""

    code: str
    detail: str = ""


class Unknown(Struct, frozen=True, array_like=True, tag=7, gc=False):
    """The change may or may not have happened: ``outcome_unknown``."""

    epoch: int = 0


class Moved(Struct, frozen=True, array_like=True, tag=8, gc=False):
    """This node does not lead the shard (any more): send the request to the primary, under the same operation id.

    ``primary`` is the storage id that the held map names, ``version`` that map. A write may be pending in the log: the
    operation id makes resending safe, and only resending tells.
    """

    primary: str
    epoch: int
    version: int


Result = Stored | Found | Absent | PageFound | NotModified | NotApplied | Unknown | Moved


class CreateCopy(Struct, frozen=True, array_like=True, gc=False):
    """Make an empty copy at (0, 0)."""

    shard: int
    copy: int


class DropCopy(Struct, frozen=True, array_like=True, gc=False):
    """Delete the rows of a copy; its ``SHARD_DROP`` record is durable."""

    shard: int
    copy: int


class InstallBegin(Struct, frozen=True, array_like=True, gc=False):
    """Make an empty staging slot beside the copy."""

    shard: int
    copy: int


class InstallRows(Struct, frozen=True, array_like=True):
    """Add rows to the staging slot."""

    shard: int
    copy: int
    rows: tuple[Row, ...]
    remembered: tuple[Remembered, ...]


class InstallFinish(Struct, frozen=True, array_like=True):
    """Swap the staging slot in, in one transaction; call ``installed`` when that is synced."""

    shard: int
    copy: int
    epoch: int
    sn: int
    state: CopyState
    epochs: tuple[EpochStart, ...]


class InstallAbort(Struct, frozen=True, array_like=True, gc=False):
    """Throw the staging slot away."""

    shard: int
    copy: int


StoreOrder = CreateCopy | DropCopy | InstallBegin | InstallRows | InstallFinish | InstallAbort


class ReadLog(Struct, frozen=True, array_like=True, gc=False):
    """Read entries after ``after_sn`` from the log, at most ``bytes_max``; complete with ``log_read(token, ...)``."""

    token: int
    shard: int
    copy: int
    after_sn: int
    bytes_max: int


class ReadRows(Struct, frozen=True, array_like=True, gc=False):
    """Read rows after ``cursor`` for a snapshot; complete with ``rows_read(token, ...)``.

    Cursors are (user, key). ``of_remembered``: read idempotency rows instead of documents.
    """

    token: int
    shard: int
    copy: int
    cursor: tuple[str, str] | None
    of_remembered: bool
    bytes_max: int


class OverlayRow(Struct, frozen=True, array_like=True, gc=False):
    """A committed write that the store may not have applied yet; ``row`` None is a delete."""

    sn: int
    key: str
    row: Row | None


class ReadPage(Struct, frozen=True, array_like=True):
    """Read a page of the store; complete with ``page_read(token, ...)``."""

    token: int
    shard: int
    copy: int
    user: str
    prefix: str
    after: str
    limit: int
    bytes_max: int


DataRead = ReadLog | ReadRows | ReadPage


class ShardStep(Struct):
    """Everything one turn produced; ``number`` grows by one with every step."""

    number: int
    records: list[Record] = field(default_factory=list)
    send: list[tuple[str, ShardMessage]] = field(default_factory=list)
    send_synced: list[tuple[str, ShardMessage]] = field(default_factory=list)
    orders: list[StoreOrder] = field(default_factory=list)
    apply: list[Handed] = field(default_factory=list)
    answers: list[tuple[int, Result]] = field(default_factory=list)
    proposals: list[ShardChange] = field(default_factory=list)
    may_wait: list[ShardChange] = field(default_factory=list)
    hand_overs: list[tuple[tuple[Move, ...], str]] = field(default_factory=list)
    read_index: list[int] = field(default_factory=list)
    reads: list[DataRead] = field(default_factory=list)

    def is_empty(self) -> bool:
        """Return whether there is nothing to do."""
        return not (
            self.records
            or self.send
            or self.send_synced
            or self.orders
            or self.apply
            or self.answers
            or self.proposals
            or self.may_wait
            or self.hand_overs
            or self.read_index
            or self.reads
        )


class StoreView(Protocol):
    """Point look-ups in the materialised state: synchronous, microseconds."""

    def row(self, shard: int, copy: int, user: str, key: str) -> Row | None:
        """Return the stored document, as of the applied sn."""

    def remembered(self, shard: int, copy: int, user: str, key: str) -> Remembered | None:
        """Return what a change under an Idempotency-Key was answered, as of the applied sn."""


class StoredCopyLike(Protocol):
    """What the store says of a copy when the node starts."""

    @property
    def shard(self) -> int: ...
    @property
    def copy(self) -> int: ...
    @property
    def complete(self) -> bool: ...
    @property
    def epoch(self) -> int: ...
    @property
    def sn(self) -> int: ...
    @property
    def state(self) -> CopyState: ...
    @property
    def epochs(self) -> tuple[EpochStart, ...]: ...


class RecoveredCopyLike(Protocol):
    """What the log says of a copy when the node starts."""

    @property
    def shard(self) -> int: ...
    @property
    def copy(self) -> int: ...
    @property
    def promised(self) -> int: ...
    @property
    def epochs(self) -> tuple[EpochStart, ...]: ...
    @property
    def base(self) -> tuple[int, int]: ...
    @property
    def last(self) -> tuple[int, int]: ...
    @property
    def entries(self) -> Sequence[LogEntry]: ...
    @property
    def harmed(self) -> bool: ...
