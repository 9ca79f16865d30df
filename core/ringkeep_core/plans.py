"""From the shard map and the wanted state to a plan: the same sums for the leader, dry runs and the operator.

    map ------- copies_of -----> ShardCopies  \\
    wanted, facts -- candidates_of -> Candidate  > target_of -> Target -- plan_of -> Plan (steps, forecast)
    wanted ---- placement_settings -------------/
    wanted, facts, voters -- refusal_of -> why a wanted state is impossible, or None

Pure. Members go by name here, as they do in ``ringkeep_core.placement``; storage ids only name voters. A name that is
wanted and that ``facts`` speak of takes part though it has not registered yet: so a dry run can show a scale-up before
any node is started. The leader's facts name registered members only.

Source: placement.md; replication.md, "The leader alone plans"; counterexamples.md S6, S12, L5.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from msgspec.structs import replace

from ringkeep_core import placement
from ringkeep_core.placement import Candidate, Forecast, NodeState, PlacementSettings, ShardCopies, Step, Target
from ringkeep_core.shardmap import Shard, ShardMap, Wanted, WantedMember

NOT_WANTED = WantedMember(weight=0.0, draining=True)


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """What the caller knows of a node; ``free_bytes`` None where the room on its disk is not known."""

    state: NodeState
    may_lead: bool = True
    free_bytes: int | None = None


# A registered member nobody speaks of keeps what it has and gets nothing: neither is harmful, whatever it is.
UNHEARD = NodeFacts(NodeState.DEAD_IN_GRACE)


@dataclass(frozen=True, slots=True)
class Plan:
    """A target, the safe steps to it, what they should cost, and the bytes that they send."""

    target: Target
    steps: tuple[Step, ...]
    forecast: Forecast
    bytes: int


@dataclass(frozen=True, slots=True)
class PlanRefusal:
    """Why a wanted state is impossible: a stable ``code`` and one sentence for people."""

    code: str
    detail: str


def copies_of(shard_map: ShardMap) -> tuple[ShardCopies, ...]:
    """Return what each shard has, by names."""
    names = {storage: member.name for storage, member in shard_map.members.items()}
    return tuple([_copies_of_shard(shard, names) for shard in shard_map.shards])


def _copies_of_shard(shard: Shard, names: Mapping[str, str]) -> ShardCopies:
    return ShardCopies(
        primary=names[shard.primary.storage],
        in_sync=tuple([names[copy.storage] for copy in shard.in_sync]),
        eligible=tuple([names[copy.storage] for copy in shard.eligible]),
        learners=tuple([names[copy.storage] for copy in shard.learners]),
        need=shard.need,
    )


def candidates_of(shard_map: ShardMap, wanted: Wanted, facts: Mapping[str, NodeFacts]) -> list[Candidate]:
    """Return the members as the planner sees them, by name: who is not wanted is draining."""
    zones = {member.name: member.zone for member in shard_map.members.values()}
    coming = (name for name in wanted.members if name in facts)
    candidates = []
    for name in sorted({*zones, *coming}):
        want, fact = wanted.members.get(name, NOT_WANTED), facts.get(name, UNHEARD)
        candidates.append(
            Candidate(
                node=name,
                zone=want.zone or zones.get(name, ""),
                weight=want.weight,
                state=fact.state,
                draining=want.draining,
                may_lead=fact.may_lead,
            )
        )
    return candidates


def placement_settings(wanted: Wanted) -> PlacementSettings:
    """Return the planner's settings: the wanted ones, and what they mean for forecasts."""
    settings, usual = wanted.settings, PlacementSettings()
    speed = usual.stream_bytes_per_s
    if settings.bytes_per_s:
        speed = min(speed, settings.bytes_per_s / settings.streams_per_node)
    return PlacementSettings(
        replication_factor=settings.replication_factor,
        min_in_sync=settings.min_in_sync,
        streams_in_per_node=settings.streams_per_node,
        streams_out_per_node=settings.streams_per_node,
        streams_max=settings.streams_max,
        stream_bytes_per_s=speed,
    )


def target_of(shard_map: ShardMap, wanted: Wanted, facts: Mapping[str, NodeFacts]) -> Target:
    """Return where every copy and primary should be."""
    return placement.target(copies_of(shard_map), candidates_of(shard_map, wanted, facts), placement_settings(wanted))


def plan_of(
    shard_map: ShardMap, wanted: Wanted, facts: Mapping[str, NodeFacts], bytes_of: Sequence[int] | None = None
) -> Plan:
    """Return the target with all steps that lead there. ``bytes_of``: size of each shard; 0 where not known."""
    shards, candidates = copies_of(shard_map), candidates_of(shard_map, wanted, facts)
    settings = placement_settings(wanted)
    target = placement.target(shards, candidates, settings)
    steps = placement.steps(shards, target, candidates, settings, bytes_of)
    forecast = placement.forecast(steps, settings)
    return Plan(target, steps, forecast, forecast.bytes)


def expected_digest(shard_map: ShardMap, wanted: Wanted) -> str:
    """Return the digest of the target if every wanted member were alive: what an author of a wanted state submits."""
    alive = NodeFacts(NodeState.ALIVE)
    return target_of(shard_map, wanted, {member.name: alive for member in shard_map.members.values()}).digest


# --- the next wanted state ---------------------------------------------------------------------------------------


def with_drain(wanted: Wanted, name: str) -> Wanted:
    """Return the wanted state in which ``name`` gives everything up and may then leave."""
    return _with_member(wanted, name, replace(wanted.members.get(name, WantedMember()), draining=True))


def with_weight(wanted: Wanted, name: str, weight: float) -> Wanted:
    """Return the wanted state in which ``name`` has another weight; 0 holds nothing, and stays."""
    return _with_member(wanted, name, replace(wanted.members.get(name, WantedMember()), weight=weight))


def with_members(wanted: Wanted, names: Sequence[str]) -> Wanted:
    """Return the wanted state in which exactly ``names`` take part; everybody else drains.

    Who was there keeps weight and zone, also over a drain that is taken back.
    """
    members = {name: replace(want, draining=name not in names) for name, want in wanted.members.items()}
    for name in names:
        members.setdefault(name, WantedMember())
    return _next(wanted, members)


def _with_member(wanted: Wanted, name: str, want: WantedMember) -> Wanted:
    return _next(wanted, {**wanted.members, name: want})


def _next(wanted: Wanted, members: dict[str, WantedMember]) -> Wanted:
    """Return the next revision. An opinion of the target was about the former one."""
    return replace(wanted, revision=wanted.revision + 1, members=members, target_digest="", target_version=0)
