"""What the planner reads and what it answers: plain, immutable values.

Nodes are opaque strings. The caller decides what they are (storage ids in the leader, names in the operator and at
bootstrap); only equality and a stable hash of the text matter. Source: placement.md.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

MIB = 1 << 20


class NodeState(Enum):
    """What the planner may assume about a node. ``DEAD`` means dead for longer than the grace."""

    ALIVE = "alive"
    JOINING = "joining"
    DEAD_IN_GRACE = "dead_in_grace"
    DEAD = "dead"


LIVE = (NodeState.ALIVE, NodeState.JOINING)


@dataclass(frozen=True, slots=True)
class Candidate:
    """One node that may hold copies.

    ``zone`` "" is a zone like any other: name the zone of every node or of none. ``weight`` is relative and may be any
    finite number >= 0; 0 holds nothing. ``may_lead`` is False while the flapping guard keeps primaries away from the
    node.

    Raises:
        ValueError: the weight is negative, infinite or not a number.
    """

    node: str
    zone: str = ""
    weight: float = 1.0
    state: NodeState = NodeState.ALIVE
    draining: bool = False
    may_lead: bool = True

    def __post_init__(self) -> None:
        if not (math.isfinite(self.weight) and self.weight >= 0):
            raise ValueError(f"weight of {self.node!r} is {self.weight}: it must be finite and at least 0")

    @property
    def live(self) -> bool:
        """Return whether the node can take part in a copy now."""
        return self.state in LIVE

    @property
    def wanted(self) -> bool:
        """Return whether the node may have copies in a target map."""
        return self.state is not NodeState.DEAD and not self.draining and self.weight > 0


@dataclass(frozen=True, slots=True)
class ShardCopies:
    """What one shard has now.

    A node may be named in ``eligible`` and ``learners`` at once, as in the shard map. Every node named anywhere holds
    a copy, complete (``in_sync``, ``eligible``) or on its way (``learners``): placing the shard there again is free.
    """

    primary: str | None
    in_sync: tuple[str, ...]
    eligible: tuple[str, ...] = ()
    learners: tuple[str, ...] = ()
    need: int = 0


NOTHING = ShardCopies(primary=None, in_sync=())


@dataclass(frozen=True, slots=True)
class PlacementSettings:
    """What is wanted of the map, and how fast a plan may be carried out.

    Args:
        replication_factor: Copies of each shard, at least 1.
        min_in_sync: Copies that must acknowledge a write, at least 1. The planner keeps to the shard's own ``need``
            (a live setting that only the map may change); this one is what bootstrap and forecasts speak of.
        streams_in_per_node, streams_out_per_node: Streams that a node receives or sends in one step.
        streams_max: Streams of the whole cluster in one step.
        stream_bytes_max, stream_shards_max: What one stream carries in a step. A larger shard travels alone.
        step_bytes_max: Bytes of all streams of one step (the byte budget). A larger shard is a step of its own.
        stream_bytes_per_s: Speed of one stream, for forecasts only.
        handoff_pause_s: Pause of a shard whose primary moves, for forecasts only.
    Raises:
        ValueError: a number is below its least value.
    """

    replication_factor: int = 3
    min_in_sync: int = 2
    streams_in_per_node: int = 1
    streams_out_per_node: int = 1
    streams_max: int = 16
    stream_bytes_max: int = 64 * MIB
    stream_shards_max: int = 64
    step_bytes_max: int = 512 * MIB
    stream_bytes_per_s: float = 100e6
    handoff_pause_s: float = 0.01

    def __post_init__(self) -> None:
        least_one = (
            self.replication_factor,
            self.min_in_sync,
            self.streams_in_per_node,
            self.streams_out_per_node,
            self.streams_max,
            self.stream_bytes_max,
            self.stream_shards_max,
            self.step_bytes_max,
        )
        if min(least_one) < 1 or not self.stream_bytes_per_s > 0 or not self.handoff_pause_s >= 0:
            raise ValueError(f"placement settings out of range: {self}")


# Why a shard is not placed as wanted, worst first. A shard with several reasons names the worst.
NO_NODES = "no_nodes"  # nobody may hold a copy
NO_LEADER = "no_leader"  # no node of the target can lead now
TOO_FEW_NODES = "too_few_nodes"  # fewer copies than the replication factor
ZONE_RULE = "zone_rule"  # more than ceil(R/Z) copies in one zone
QUOTA = "quota"  # a node holds more than its quota for this shard's sake


@dataclass(frozen=True, slots=True)
class Assignment:
    """Where one shard should be: ``copies`` sorted by name, ``primary`` one of them or None, why it is degraded."""

    copies: tuple[str, ...]
    primary: str | None
    degraded: str | None = None


@dataclass(frozen=True, slots=True)
class Target:
    """The map we want.

    ``moves`` counts copies on nodes that do not hold them now, ``lower_bound`` is L = sum over nodes of
    max(0, quota - held), ``quotas`` the copies each wanted node should hold. ``digest`` names shards and quotas alike
    on every machine, so two planners compare one string.
    """

    shards: tuple[Assignment, ...]
    moves: int
    lower_bound: int
    quotas: Mapping[str, int]
    digest: str


@dataclass(frozen=True, slots=True)
class PrimaryMove:
    """Move the primary of ``shard`` between two in-sync members."""

    shard: int
    source: str
    target: str


@dataclass(frozen=True, slots=True)
class AddLearner:
    """Start a copy of ``shard`` on ``node``; its snapshot comes from ``source``."""

    shard: int
    node: str
    source: str


@dataclass(frozen=True, slots=True)
class AwaitInSync:
    """Wait until the primary has let ``node`` into in_sync. Nothing later in this shard may start before."""

    shard: int
    node: str


@dataclass(frozen=True, slots=True)
class MovePrimary:
    """Hand the shard over from its live primary ``source`` to ``target``, which is in sync."""

    shard: int
    source: str
    target: str


@dataclass(frozen=True, slots=True)
class RemoveCopy:
    """Take ``node`` out of all sets of the shard; it may then delete its copy."""

    shard: int
    node: str


ShardChange = AddLearner | AwaitInSync | MovePrimary | RemoveCopy


@dataclass(frozen=True, slots=True)
class Step:
    """Changes that may run side by side; the changes of one shard run in the order given.

    ``streams`` are (source, destination) pairs, ``bytes`` what they carry, ``stream_bytes_max`` the fullest of them.
    ``repairs`` is True when the step holds shards that lack copies.
    """

    changes: tuple[ShardChange, ...]
    streams: tuple[tuple[str, str], ...] = ()
    bytes: int = 0
    stream_bytes_max: int = 0
    repairs: bool = False


@dataclass(frozen=True, slots=True)
class Forecast:
    """What carrying out a plan is expected to cost: shards touched, bytes sent, seconds, and pause of all handoffs."""

    shards: tuple[int, ...]
    copies: int
    primaries: int
    bytes: int
    seconds: float
    pause_s: float
