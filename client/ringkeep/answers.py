"""The typed results of the client: what the REST interface answers, as frozen values.

Fields that a newer node may add are ignored, and fields that an older node may lack have defaults, so a client and a
cluster of neighbouring versions understand each other.
"""

from __future__ import annotations

from typing import Any

import msgspec


class Written(msgspec.Struct, frozen=True):
    """An acknowledged write: on disk on every in-sync copy.

    ``created`` is false where the write replaced a document. ``shard``, ``epoch`` and ``node`` say who acknowledged it.
    """

    version: int
    created: bool
    shard: int = -1
    epoch: int = 0
    node: str = ""


class DocumentInfo(msgspec.Struct, frozen=True):
    """What is known of a document without its bytes. ``modified`` is an HTTP date, empty if the node sent none.

    ``lag`` counts log entries behind the last commit heard; only a read with ``consistency="local"`` has one.
    """

    version: int
    content_type: str
    bytes: int
    modified: str = ""
    lag: int | None = None


class Document(msgspec.Struct, frozen=True):
    """A document's bytes with their content type and version. ``lag`` as in ``DocumentInfo``."""

    value: bytes
    content_type: str
    version: int
    modified: str = ""
    lag: int | None = None


class Listed(msgspec.Struct, frozen=True):
    """One row of a listing. ``value`` (a JSON document) or ``value_b64`` is there if values were asked for."""

    key: str
    version: int = 0
    content_type: str = ""
    bytes: int = 0
    modified: Any = None
    expires: Any = None
    value: Any = None
    value_b64: str | None = None


class Page(msgspec.Struct, frozen=True):
    """One page of a listing, sorted by the keys' bytes. ``next`` is the next page's ``after``, None at the end."""

    docs: tuple[Listed, ...]
    next: str | None = None


class NodeAddress(msgspec.Struct, frozen=True):
    """A node by name, and where its REST interface is."""

    name: str
    url: str = ""


class Route(msgspec.Struct, frozen=True):
    """Where a user lives: its shard, the primary, and every copy that acknowledges each write."""

    user: str
    shard: int
    epoch: int
    version: int
    primary: NodeAddress | None = None
    in_sync: tuple[NodeAddress, ...] = ()


class Primary(msgspec.Struct, frozen=True):
    """The node, in one boot, that orders the writes of a shard."""

    name: str
    storage_id: str = ""
    boot_id: str = ""


class Copy(msgspec.Struct, frozen=True):
    """One copy of a shard: on which node, in which storage, and the map version at which it was added."""

    name: str
    storage_id: str = ""
    added: int = 0


class Shard(msgspec.Struct, frozen=True):
    """One shard of the map."""

    shard: int
    epoch: int
    revision: int = 0
    primary: Primary | None = None
    in_sync: tuple[Copy, ...] = ()
    eligible: tuple[Copy, ...] = ()
    learners: tuple[Copy, ...] = ()
    need: int = 1


class MapMember(msgspec.Struct, frozen=True):
    """A member as the map names it."""

    name: str
    storage_id: str = ""
    boot_id: str = ""
    url: str = ""


class ShardMap(msgspec.Struct, frozen=True):
    """The shard map: the one truth of who holds what, at one ``version``.

    ``left`` are the storage ids that have left for good: that one is there proves it, that a name is missing does not.
    """

    cluster_id: str
    version: int
    members: tuple[MapMember, ...] = ()
    shards: tuple[Shard, ...] = ()
    wanted: Any = None
    left: tuple[str, ...] = ()

    def storage_of(self, name: str) -> str:
        """Return the storage id of a member, empty if there is none of this name."""
        return next((member.storage_id for member in self.members if member.name == name), "")

    def has_left(self, name: str, storage: str) -> bool:
        """Whether the node of this name with this storage id has left for good, and nothing came in its place."""
        return storage in self.left and all(member.name != name for member in self.members)


class Member(msgspec.Struct, frozen=True):
    """A member with what the answering node believes about it; ``evidence`` says why."""

    name: str
    state: str = ""
    draining: bool = False
    url: str = ""
    peer: str = ""
    zone: str | None = ""
    weight: float = 1
    storage_id: str = ""
    boot_id: str = ""
    copies: int = 0
    primaries: int = 0
    since: Any = None
    evidence: Any = None


class Members(msgspec.Struct, frozen=True):
    """The answer of ``/v1/cluster/members``."""

    members: tuple[Member, ...]


class Leader(msgspec.Struct, frozen=True):
    """The Raft leader, as the answering node knows it; ``name`` is None while there is none."""

    name: str | None = None
    url: str | None = None
    term: int = 0


class PlannedNode(msgspec.Struct, frozen=True):
    """A node in a plan: the copies and primaries that it has, and those that it will have."""

    name: str
    copies: int = 0
    copies_then: int = 0
    primaries: int = 0
    primaries_then: int = 0


class PlannedChange(msgspec.Struct, frozen=True):
    """One change of a shard: ``kind`` is copy, in_sync, primary or remove; ``source`` is who sends or gives up."""

    shard: int
    kind: str
    node: str
    source: str = msgspec.field(default="", name="from")


class PlannedStep(msgspec.Struct, frozen=True):
    """Changes that are made side by side. ``repairs`` if shards of it have too few copies."""

    changes: tuple[PlannedChange, ...] = ()
    bytes: int = 0
    repairs: bool = False


class RunningPlan(msgspec.Struct, frozen=True):
    """How far the leader has come with a plan. ``since`` in unix seconds; ``waiting`` says in sentences why it waits.

    ``received_bytes`` grows while copies are being sent; what it counts from means nothing.
    """

    reason: str = ""
    since: float = 0.0
    copies: int = 0
    copies_done: int = 0
    primaries: int = 0
    received_bytes: int = 0
    waiting: tuple[str, ...] = ()


class Plan(msgspec.Struct, frozen=True):
    """What is left between the map and a wanted state, or what a change of that would mean.

    ``copies`` are those to be begun, ``lower_bound`` the fewest that any plan needs; ``pause_s`` is the sum of the short
    pauses of all shards whose primary moves. ``degraded`` counts shards that cannot be as wished, by reason.
    ``running`` is known to the leader alone.
    """

    wanted_revision: int = 0
    version: int = 0
    digest: str = ""
    opinion: str = "none"
    copies: int = 0
    lower_bound: int = 0
    primaries: int = 0
    shards: int = 0
    bytes: int = 0
    seconds: float = 0.0
    pause_s: float = 0.0
    degraded: dict[str, int] = {}
    nodes: tuple[PlannedNode, ...] = ()
    steps: tuple[PlannedStep, ...] = ()
    running: RunningPlan | None = None

    @property
    def is_done(self) -> bool:
        """Whether nothing is left to do, as far as the answering node knows who lives."""
        return not any(step.changes for step in self.steps)

    @property
    def only_primaries_left(self) -> bool:
        """Whether every copy is where it should be, and some primaries are not."""
        return not self.is_done and all(change.kind == "primary" for step in self.steps for change in step.changes)

    @property
    def copies_left(self) -> int:
        """Copies that are not in sync yet: those to be begun, and those on their way."""
        awaited = sum(1 for step in self.steps for change in step.changes if change.kind == "in_sync")
        return max(self.copies, awaited)

    def held_by(self, *names: str) -> int:
        """Return how many copies these nodes have between them, complete or not."""
        return sum(node.copies for node in self.nodes if node.name in names)


class Event(msgspec.Struct, frozen=True):
    """Something that happened to the map or to a member. ``number`` counts up in each start of a node."""

    number: int
    at: float
    kind: str
    text: str
    fields: dict[str, Any] = {}


class Events(msgspec.Struct, frozen=True):
    """The answer of ``/v1/cluster/events``."""

    events: tuple[Event, ...]


class ImportProblem(msgspec.Struct, frozen=True):
    """A line that was not stored. ``line`` counts from 1."""

    line: int
    code: str
    detail: str = ""


class ImportResult(msgspec.Struct, frozen=True):
    """The counts of an import, and its first problems."""

    lines: int = 0
    stored: int = 0
    failed: int = 0
    errors: tuple[ImportProblem, ...] = ()
