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
    """The shard map: the one truth of who holds what, at one ``version``."""

    cluster_id: str
    version: int
    members: tuple[MapMember, ...] = ()
    shards: tuple[Shard, ...] = ()
    wanted: Any = None


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
