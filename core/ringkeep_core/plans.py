"""From the shard map and the wanted state to a plan: the same sums for the leader, dry runs and the operator.

    map ------- copies_of -----> ShardCopies  \\
    wanted, facts -- candidates_of -> Candidate  > target_of -> Target -- plan_of -> Plan (steps, forecast)
    wanted ---- placement_settings -------------/
    wanted, facts, voters -- refusal_of -> why a wanted state is impossible, or None
    loads, once the target is reached -- load_swaps_of -> heavy shards for light ones

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
from ringkeep_core.electorate import voters_wanted
from ringkeep_core.mapentries import SetWanted
from ringkeep_core.maprules import apply
from ringkeep_core.placement import (
    Candidate,
    Forecast,
    NodeState,
    PlacementSettings,
    ShardCopies,
    ShardLoad,
    Step,
    Swap,
    SwapSettings,
    Target,
)
from ringkeep_core.placement.model import LIVE
from ringkeep_core.shardmap import Shard, ShardMap, Wanted, WantedMember
from ringkeep_core.shardrules import is_leaving

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
    least = replace(shard_map, wanted=wanted).copies_wanted()
    steps = placement.steps(shards, target, candidates, settings, bytes_of, copies_least=least)
    forecast = placement.forecast(steps, settings)
    return Plan(target, steps, forecast, forecast.bytes)


def expected_digest(shard_map: ShardMap, wanted: Wanted) -> str:
    """Return the digest of the target if every wanted member were alive: what an author of a wanted state submits."""
    alive = NodeFacts(NodeState.ALIVE)
    return target_of(shard_map, wanted, {member.name: alive for member in shard_map.members.values()}).digest


def load_swaps_of(
    shard_map: ShardMap,
    wanted: Wanted,
    facts: Mapping[str, NodeFacts],
    loads: Sequence[ShardLoad],
    bytes_of: Sequence[int] | None = None,
    *,
    swaps_max: int = SwapSettings().swaps_max,
) -> tuple[Swap, ...]:
    """Return the swaps of heavy for light shards worth making now: none unless they are wanted and all else is done.

    ``swaps_max`` is what is left of ``swaps_per_hour``; whoever carries the swaps out keeps that count.
    """
    if not wanted.settings.hot_spot_swaps or swaps_max <= 0:
        return ()
    shards, candidates = copies_of(shard_map), candidates_of(shard_map, wanted, facts)
    target = placement.target(shards, candidates, placement_settings(wanted))
    settings = SwapSettings(swaps_max=min(swaps_max, SwapSettings().swaps_max))
    return placement.load_swaps(shards, target, candidates, loads, settings, bytes_of)


# --- impossible wishes -------------------------------------------------------------------------------------------


def opinion_of(shard_map: ShardMap, wanted: Wanted, version: int) -> str:
    """Return whether the author of a wanted state expected the target that follows from ``shard_map`` as of ``version``.

    ``none``: it said nothing. ``old``: it looked at another version: nothing to compare. Else ``same`` or ``differs``.
    """
    if not wanted.target_digest:
        return "none"
    if wanted.target_version != version:
        return "old"
    return "same" if wanted.target_digest == expected_digest(shard_map, wanted) else "differs"


def refusal_of(
    shard_map: ShardMap,
    wanted: Wanted,
    facts: Mapping[str, NodeFacts],
    voters: Sequence[str],
    bytes_of: Sequence[int] | None = None,
) -> PlanRefusal | None:
    """Return why ``wanted`` cannot be carried out from ``shard_map``, or None if it can, as far as is known now.

    What takes nothing away is never refused for the sake of quorum or copies: more members and weight can only help.
    A lower need takes away: the eligible copies of a shard that meets it stop counting.

    Args:
        shard_map: the map we have.
        wanted: the wanted state asked for; its revision does not matter.
        facts: who lives and how much room each has, by name; a name not registered yet may be among them.
        voters: storage ids that vote now.
        bytes_of: size of each shard; 0 where not known.
    """
    wish = _Wish(shard_map, wanted, facts)
    return (
        wish.names_unknown()
        or wish.leaves_nobody()
        or wish.breaks_quorum(voters)
        or wish.leaves_too_few_alive()
        or wish.gives_up_the_last_copies()
        or _disk_refusal(shard_map, wanted, facts, bytes_of)
    )


class _Wish:
    """A wanted state beside the one there is: who stays, who may hold copies, and who is to give up either.

    Only registered members count: nobody may go for the sake of a node that is yet to come.
    """

    def __init__(self, shard_map: ShardMap, wanted: Wanted, facts: Mapping[str, NodeFacts]) -> None:
        self.map, self.wanted, self.facts = shard_map, wanted, facts
        known = sorted(shard_map.by_name)
        self.staying = [name for name in known if not is_leaving(wanted, name)]
        self.holding = [name for name in self.staying if wanted.members[name].weight > 0]
        before = [name for name in known if not is_leaving(shard_map.wanted, name)]
        self.going = [name for name in before if name not in self.staying]
        self.yielding = [
            name for name in before if shard_map.wanted.members[name].weight > 0 and name not in self.holding
        ]

    def lives(self, name: str) -> bool:
        """Return whether the member is known alive."""
        return self.facts.get(name, UNHEARD).state in LIVE

    def names_unknown(self) -> PlanRefusal | None:
        """A member nobody has ever heard of; one that is listed already may yet come."""
        known = {*self.map.by_name, *self.facts, *self.map.wanted.members}
        unknown = sorted(name for name in self.wanted.members if name not in known)
        return PlanRefusal("unknown_node", f"there is no node {', '.join(unknown)}") if unknown else None

    def leaves_nobody(self) -> PlanRefusal | None:
        """Somebody must be left to hold the data."""
        if self.holding:
            return None
        return PlanRefusal("last_node", "nobody would hold the data: no node with weight would remain")

    def breaks_quorum(self, voters: Sequence[str]) -> PlanRefusal | None:
        """Voters change one by one, each change committed by a majority: there must be one now and at the end."""
        if not self.going:
            return None
        names, members = ", ".join(self.going), self.map.members
        alive = sum(1 for storage in voters if storage in members and self.lives(members[storage].name))
        if alive <= len(voters) // 2:
            return PlanRefusal(
                "quorum", f"{names} cannot go: {alive} of {len(voters)} voters live, and {len(voters) // 2 + 1} must"
            )
        left = sum(1 for name in self.staying if self.lives(name))
        seats = voters_wanted(len(self.staying))
        if left <= seats // 2:
            return PlanRefusal(
                "quorum",
                f"{names} cannot go: {left} of the {len(self.staying)} nodes that remain live, and {seats // 2 + 1} must "
                f"to be a majority of {seats} voters",
            )
        return None

    def leaves_too_few_alive(self) -> PlanRefusal | None:
        """Enough living members must remain to commit a write."""
        if not self.yielding:
            return None
        settings = self.wanted.settings
        least = min(settings.min_in_sync, settings.replication_factor, len(self.holding))
        alive = sum(1 for name in self.holding if self.lives(name))
        if alive >= least:
            return None
        return PlanRefusal(
            "copies",
            f"{', '.join(self.yielding)} cannot give up its copies: {alive} living nodes with weight would remain, and a "
            f"write needs {least}",
        )

    def gives_up_the_last_copies(self) -> PlanRefusal | None:
        """A shard whose complete copies are all on dead nodes can be copied from nobody until one comes back.

        Settings alone can do it too: a lower need empties eligible (rule 3), and nobody left in it can be elected again.
        """
        asked = SetWanted(replace(self.wanted, revision=self.map.wanted.revision + 1), "")
        settled = apply(self.map, self.map.version + 1, asked).map
        lost: dict[tuple[str, bool], int] = {}
        for before, after in zip(self.map.shards, settled.shards, strict=True):
            holders = self._complete(after)
            if any(self.lives(name) for name in holders):
                continue
            # Whether or not the eligible ones live: the one that comes back first must be able to lead.
            forgets = bool(before.eligible) and not after.eligible
            if forgets or any(name in self.yielding for name in holders):
                lost[holders[0], forgets] = lost.get((holders[0], forgets), 0) + 1
        if not lost:
            return None
        (name, forgets), count = max(lost.items(), key=lambda item: (item[1], item[0]))
        if forgets:
            detail = (
                f"{name} is dead, and with this only its copy of {count} shards would count as complete: start it again"
            )
        else:
            detail = f"{name} is dead and has the only complete copy of {count} shards: start it again"
        return PlanRefusal("copies", detail)

    def _complete(self, shard: Shard) -> list[str]:
        return [self.map.members[copy.storage].name for copy in (*shard.in_sync, *shard.eligible)]


def _disk_refusal(
    shard_map: ShardMap, wanted: Wanted, facts: Mapping[str, NodeFacts], bytes_of: Sequence[int] | None
) -> PlanRefusal | None:
    """Return the first node, by name, on whose disk the copies that it would get do not fit."""
    if not bytes_of or all(fact.free_bytes is None for fact in facts.values()):
        return None
    coming: dict[str, int] = {}
    target = target_of(shard_map, wanted, facts)
    for shard, goal, size in zip(copies_of(shard_map), target.shards, bytes_of, strict=True):
        for name in goal.copies:
            if name not in shard.in_sync and name not in shard.learners:
                coming[name] = coming.get(name, 0) + size
    for name in sorted(coming):
        free = facts.get(name, UNHEARD).free_bytes
        if free is not None and coming[name] > free:
            return PlanRefusal("disk", f"{name} would get {coming[name]} bytes and has {free} free")
    return None


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
