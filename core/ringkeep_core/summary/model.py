"""What one node knows of its cluster, and what a summary says of it: values only, no decisions."""

from __future__ import annotations

from enum import StrEnum

from msgspec import Struct

from ringkeep_core.shardmap import ShardMap


class Severity(StrEnum):
    """How bad a finding, or the whole, is."""

    OK = "ok"
    DEGRADED = "degraded"
    UNAVAILABLE = "unavailable"


SEVERITIES = (Severity.UNAVAILABLE, Severity.DEGRADED, Severity.OK)
"""From worst to best."""


# --- what is known -----------------------------------------------------------------------------------------------


class Evidence(Struct, frozen=True):
    """Who said why about a member; ``why`` is one of SWIM's words. ``at`` in unix seconds."""

    by: str
    at: float
    why: str


class SeenMember(Struct, frozen=True, kw_only=True):
    """A member as the asked node sees it. Times are unix seconds; what is not known is left out.

    ``grace_until``: until when the copies of a member that is out are kept; ``guarded_until``: until when a member that
    died lately gets no primaries; ``deaths`` within the hour. ``lag_s``: how late its loop is, as it says.
    """

    storage: str
    name: str
    state: str = "alive"
    draining: bool = False
    weight: float = 1.0
    since: float = 0.0
    evidence: tuple[Evidence, ...] = ()
    leaving: bool = False
    stalled: bool = False
    disk_full: bool = False
    free_bytes: int | None = None
    copy_bytes: int = 0
    lag_s: float = 0.0
    version: str = ""
    grace_until: float | None = None
    guarded_until: float | None = None
    deaths: int = 0

    @property
    def is_out(self) -> bool:
        """Whether it is called dead, or has stopped in order."""
        return self.state in ("dead", "left")


class SeenPlan(Struct, frozen=True, kw_only=True):
    """How far the plan is; only the leader knows. ``since`` in unix seconds."""

    reason: str
    since: float
    copies: int
    copies_done: int
    primaries: int
    waiting: tuple[str, ...] = ()


class SeenMove(Struct, frozen=True):
    """A remembered change of the map: when (unix seconds), and how many copies and primaries it brought home."""

    at: float
    copies: int = 0
    primaries: int = 0


class Seen(Struct, frozen=True, kw_only=True):
    """Everything that one node knows of its cluster at the moment ``now`` (unix seconds).

    ``voters`` are storage ids, empty where the node does not know them. ``leader_version`` is the map version that the
    leader says it holds, 0 if unknown. ``managed``: an operator starts nodes, not a person. ``log_queued_bytes`` waits for
    the log's thread of the asked node itself.
    """

    node: str
    now: float
    cluster_id: str = ""
    held: ShardMap | None = None
    members: tuple[SeenMember, ...] = ()
    leader: str | None = None
    term: int = 0
    leader_version: int = 0
    voters: tuple[str, ...] = ()
    plan: SeenPlan | None = None
    moves: tuple[SeenMove, ...] = ()
    log_queued_bytes: int = 0
    managed: bool = False
    has_left: bool = False


# --- what is said ------------------------------------------------------------------------------------------------


class Progress(Struct, frozen=True, kw_only=True):
    """How far something is that goes on by itself. ``per_s`` and ``left_s`` are None while there is nothing to tell by."""

    done: int
    total: int
    per_s: float | None = None
    left_s: float | None = None


class Finding(Struct, frozen=True, kw_only=True):
    """One thing to know. Sentences begin small where they may stand in a sentence, and have no full stop at the end.

    ``kind`` is from a closed set; ``subject`` a member's name, "shards" or "cluster"; ``what`` is wrong (or going on);
    ``evidence`` for it; ``means`` for users; ``doing``: what is done about it without anybody; ``advice`` and the exact
    ``command`` for a person, empty if there is nothing to do. ``shards`` are the first numbers of ``shard_count``.
    """

    kind: str
    severity: Severity
    subject: str
    what: str
    evidence: str = ""
    means: str = ""
    doing: str = ""
    advice: str = ""
    command: str = ""
    since: float | None = None
    progress: Progress | None = None
    shard_count: int = 0
    shards: tuple[int, ...] = ()


class ShardCounts(Struct, frozen=True, kw_only=True):
    """Shards by how they are served; each is in one of these.

    ``unavailable``: neither strict reads nor writes; ``no_writes``: only reads; ``under_replicated``: with fewer living
    copies than wanted; ``moving``: full strength, and another copy is being made.
    """

    total: int = 0
    ok: int = 0
    moving: int = 0
    under_replicated: int = 0
    no_writes: int = 0
    unavailable: int = 0


class Summary(Struct, frozen=True, kw_only=True):
    """How a cluster is, as ``node`` sees it ``at`` (unix seconds). ``findings`` begin with the worst."""

    headline: str
    severity: Severity
    findings: tuple[Finding, ...]
    node: str
    at: float
    cluster_id: str = ""
    version: int = 0
    leader: str | None = None
    term: int = 0
    members: dict[str, int] = {}
    shards: ShardCounts = ShardCounts()
