"""What placement promises, as checkers that know nothing of how the planner works.

Each checker returns the violations it found as sentences; an empty list means that the promise holds. They recompute
everything from the inputs: fair shares by bisection instead of exact fractions, the least number of moves by a
Bellman-Ford flow instead of the planner's search. Their own tests feed them bad maps.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from ringkeep_core.placement import (
    NO_LEADER,
    NO_NODES,
    TOO_FEW_NODES,
    ZONE_RULE,
    AddLearner,
    Assignment,
    AwaitInSync,
    Candidate,
    MovePrimary,
    NodeState,
    PlacementSettings,
    RemoveCopy,
    ShardChange,
    ShardCopies,
    Step,
    Target,
)

ROUNDING = 1e-6


def holders(shard: ShardCopies) -> set[str]:
    """Return every node that holds a copy, complete or not."""
    return {*shard.in_sync, *shard.eligible, *shard.learners}


def wanted_nodes(candidates: Sequence[Candidate]) -> dict[str, Candidate]:
    """Return the candidates that may have copies."""
    return {
        node.node: node
        for node in candidates
        if node.state is not NodeState.DEAD and not node.draining and node.weight > 0
    }


def zones_of(nodes: Mapping[str, Candidate]) -> dict[str, list[str]]:
    """Return the nodes of each zone."""
    zones: dict[str, list[str]] = {}
    for name, node in nodes.items():
        zones.setdefault(node.zone, []).append(name)
    return zones


def water_filled(total: float, weights: Mapping[str, float], most: Mapping[str, float]) -> dict[str, float]:
    """Return weighted shares of ``total``, none above its ``most``, by bisection on the water level."""
    low, high = 0.0, max(most.values(), default=0.0) / min(weights.values(), default=1.0) + 1
    for _ in range(200):
        level = (low + high) / 2
        if sum(min(level * weights[name], most[name]) for name in weights) < total:
            low = level
        else:
            high = level
    return {name: min(high * weights[name], most[name]) for name in weights}


def fair_copies(shards: int, candidates: Sequence[Candidate], copies: int) -> dict[str, float]:
    """Return the weighted fair share of copies per node, inside the zone rule. Needs zones with room for it."""
    nodes = wanted_nodes(candidates)
    zones = zones_of(nodes)
    copies = min(copies, len(nodes))
    cap = -(-copies // len(zones))
    room = {zone: float(shards * min(cap, len(members))) for zone, members in zones.items()}
    weight = {zone: sum(nodes[name].weight for name in members) for zone, members in zones.items()}
    shares: dict[str, float] = {}
    for zone, total in water_filled(shards * copies, weight, room).items():
        members = {name: nodes[name].weight for name in zones[zone]}
        shares.update(water_filled(total, members, dict.fromkeys(members, float(shards))))
    return shares


def zones_have_room(candidates: Sequence[Candidate], copies: int) -> bool:
    """Return whether the zone rule can hold at all."""
    nodes = wanted_nodes(candidates)
    zones = zones_of(nodes)
    copies = min(copies, len(nodes))
    return sum(min(-(-copies // len(zones)), len(members)) for members in zones.values()) >= copies


def shape_violations(
    shards: Sequence[ShardCopies], target: Target, candidates: Sequence[Candidate], copies: int
) -> list[str]:
    """Every shard: distinct wanted nodes, the wanted number or a recorded reason, and a primary among them."""
    nodes = wanted_nodes(candidates)
    wrong = []
    for number, assignment in enumerate(target.shards):
        found = assignment.copies
        if list(found) != sorted(set(found)):
            wrong.append(f"shard {number}: copies {found} are not distinct and sorted")
        if set(found) - set(nodes):
            wrong.append(f"shard {number}: copies {found} name a node that is not wanted")
        if len(found) < copies and assignment.degraded not in (TOO_FEW_NODES, NO_NODES, NO_LEADER):
            wrong.append(f"shard {number}: {len(found)} copies and no recorded reason")
        if len(found) < min(copies, len(nodes)) and all(node.state in _LIVE for node in nodes.values()):
            wrong.append(f"shard {number}: {len(found)} copies although {len(nodes)} nodes could hold one")
        wrong.extend(_leader_violations(number, assignment, nodes))
    if len(target.shards) != len(shards):
        wrong.append(f"{len(target.shards)} shards of {len(shards)}")
    return wrong


_LIVE = (NodeState.ALIVE, NodeState.JOINING)


def _leader_violations(number: int, assignment: Assignment, nodes: Mapping[str, Candidate]) -> list[str]:
    able = [name for name in assignment.copies if name in nodes and nodes[name].state in _LIVE]
    free = [name for name in able if nodes[name].may_lead]
    if assignment.primary is None:
        return [f"shard {number}: nobody leads although {able} could"] if able else []
    if assignment.primary not in able:
        return [f"shard {number}: {assignment.primary} leads and cannot"]
    if free and assignment.primary not in free:
        return [f"shard {number}: {assignment.primary} is under the flapping guard and {free} are not"]
    return []


def spread_violations(target: Target, candidates: Sequence[Candidate], copies: int) -> list[str]:
    """At most ceil(R/Z) copies in a zone; more only where zones are too small, and then recorded."""
    nodes = wanted_nodes(candidates)
    cap = -(-min(copies, len(nodes)) // max(1, len(zones_of(nodes))))
    frozen = any(node.state is NodeState.DEAD_IN_GRACE for node in nodes.values())
    excused = frozen or not zones_have_room(candidates, copies)
    wrong = []
    for number, assignment in enumerate(target.shards):
        most = max(Counter(nodes[name].zone for name in assignment.copies).values(), default=0)
        if most > cap and not excused:
            wrong.append(f"shard {number}: {most} copies in one zone, {cap} allowed")
        if most > cap and assignment.degraded not in (ZONE_RULE, NO_LEADER, TOO_FEW_NODES):
            wrong.append(f"shard {number}: {most} copies in one zone and not recorded")
        if most <= cap and assignment.degraded == ZONE_RULE:
            wrong.append(f"shard {number}: recorded as {ZONE_RULE} and is not")
    return wrong


def copy_balance_violations(target: Target, candidates: Sequence[Candidate], copies: int) -> list[str]:
    """Copies per node within 1 of the weighted fair share."""
    held = Counter(name for assignment in target.shards for name in assignment.copies)
    shares = fair_copies(len(target.shards), candidates, copies)
    return [
        f"{name} holds {held[name]} copies, its share is {share:.3f}"
        for name, share in shares.items()
        if abs(held[name] - share) >= 1 + ROUNDING
    ]


def primary_balance_violations(target: Target, candidates: Sequence[Candidate]) -> list[str]:
    """Primaries per node within 1 of the weighted fair share of those that may lead (at most what they hold)."""
    nodes = wanted_nodes(candidates)
    leading = {name: node for name, node in nodes.items() if node.state in _LIVE and node.may_lead}
    free = [assignment for assignment in target.shards if leading.keys() & set(assignment.copies)]
    led = Counter(assignment.primary for assignment in free)
    able = Counter(name for assignment in free for name in assignment.copies)
    weights = {name: node.weight for name, node in leading.items()}
    shares = water_filled(len(free), weights, {name: float(able[name]) for name in weights}) if weights else {}
    return [
        f"{name} leads {led[name]} shards, its share is {share:.3f}"
        for name, share in shares.items()
        if abs(led[name] - share) >= 1 + ROUNDING
    ]


def move_violations(
    shards: Sequence[ShardCopies], target: Target, candidates: Sequence[Candidate], *, slack: float = 0.0
) -> list[str]:
    """Copies moved are counted rightly and equal the lower bound, or exceed it by at most ``slack`` of it."""
    nodes = wanted_nodes(candidates)
    moved = sum(len(set(a.copies) - holders(s)) for s, a in zip(shards, target.shards, strict=True))
    held = Counter(name for shard in shards for name in holders(shard))
    bound = sum(max(0, target.quotas[name] - held[name]) for name in nodes)
    wrong = []
    if (moved, bound) != (target.moves, target.lower_bound):
        wrong.append(f"reported {target.moves} moves, bound {target.lower_bound}; counted {moved}, bound {bound}")
    if moved > bound * (1 + slack) + ROUNDING:
        wrong.append(f"{moved} copies moved, {bound} would do")
    return wrong


def grace_violations(shards: Sequence[ShardCopies], target: Target, candidates: Sequence[Candidate]) -> list[str]:
    """A node dead within the grace keeps every copy and gets none."""
    frozen = {name for name, node in wanted_nodes(candidates).items() if node.state is NodeState.DEAD_IN_GRACE}
    return [
        f"shard {number}: {name}, dead within the grace, {'lost' if name in holders(shard) else 'got'} a copy"
        for number, (shard, assignment) in enumerate(zip(shards, target.shards, strict=True))
        for name in sorted(frozen & (holders(shard) ^ set(assignment.copies)))
    ]


def stability_violations(before: Sequence[ShardCopies], target: Target) -> list[str]:
    """Nothing changed in, nothing changes out."""
    return [
        f"shard {number}: {shard.primary} of {shard.in_sync} became {assignment.primary} of {assignment.copies}"
        for number, (shard, assignment) in enumerate(zip(before, target.shards, strict=True))
        if sorted(holders(shard)) != sorted(assignment.copies) or shard.primary != assignment.primary
    ]


def cheapest_violations(
    shards: Sequence[ShardCopies], target: Target, candidates: Sequence[Candidate], copies: int
) -> list[str]:
    """No other map with the same copies per node and the same zone rule needs fewer moves.

    The certificate of minimum-cost flows: the residual network of the target (shard -> shard in a zone -> node, cost 1
    for a copy that was not there) has no cycle of negative cost (Klein). Bellman-Ford from everywhere at once.
    """
    nodes = wanted_nodes(candidates)
    zones = zones_of(nodes)
    cap = -(-min(copies, len(nodes)) // len(zones))
    arcs: list[tuple[object, object, int]] = []
    for number, (shard, goal) in enumerate(zip(shards, target.shards, strict=True)):
        had = holders(shard)
        for zone, members in zones.items():
            inside = sum(1 for name in goal.copies if nodes[name].zone == zone)
            place = (number, zone)
            if inside < cap:
                arcs.append((number, place, 0))
            if inside:
                arcs.append((place, number, 0))
            for name in members:
                price = 0 if name in had else 1
                arcs.append((name, place, -price) if name in goal.copies else (place, name, price))
    cost: dict[object, int] = defaultdict(int)
    for _ in range(2 * len(nodes) + 4):
        changed = False
        for start, end, price in arcs:
            if cost[start] + price < cost[end]:
                cost[end], changed = cost[start] + price, True
        if not changed:
            return []
    return [f"{target.moves} copies moved, and fewer would do"]


@dataclass
class ShardModel:
    """The sets of one shard, changed as the shard map would be."""

    primary: str | None
    in_sync: set[str]
    eligible: set[str]
    learners: set[str]
    need: int

    @classmethod
    def of(cls, shard: ShardCopies) -> ShardModel:
        """Return a model that starts as ``shard``."""
        learners = {*shard.learners, *shard.eligible} - set(shard.in_sync)
        return cls(shard.primary, set(shard.in_sync), set(shard.eligible), learners, shard.need)

    @property
    def complete(self) -> set[str]:
        """Return the nodes with complete copies."""
        return self.in_sync | self.eligible

    def apply(self, change: ShardChange, live: set[str], wanted: int) -> list[str]:
        """Apply one change and return what was wrong with it."""
        where = f"shard {change.shard}: {change}"
        match change:
            case AddLearner(node=node, source=source):
                wrong = [] if node in live and source in self.complete & live else [f"{where} cannot stream"]
                if node in self.in_sync | self.learners:
                    wrong.append(f"{where} holds a copy already")
                self.learners.add(node)
            case AwaitInSync(node=node):
                wrong = [] if node in self.learners & live and self.primary in live else [f"{where} never happens"]
                self.in_sync.add(node)
                self.learners.discard(node)
                self.eligible.discard(node)
                if len(self.in_sync) >= self.need:
                    self.eligible.clear()
            case MovePrimary(source=source, target=node):
                wrong = [] if node in self.in_sync & live and source == self.primary else [f"{where} is not possible"]
                self.primary = node
            case RemoveCopy(node=node):
                wrong = self._remove(node, wanted, where)
        return wrong

    def _remove(self, node: str, wanted: int, where: str) -> list[str]:
        before = len(self.complete)
        self.in_sync.discard(node)
        self.eligible.discard(node)
        self.learners.discard(node)
        wrong = []
        if len(self.complete) < before and len(self.in_sync) < max(self.need, wanted):
            wrong.append(f"{where} leaves {len(self.in_sync)} in sync of {max(self.need, wanted)}")
        if not self.complete:
            wrong.append(f"{where} removes the last complete copy")
        if node == self.primary:
            wrong.append(f"{where} removes the primary")
        return wrong


@dataclass
class Replay:
    """The shards after a plan, what was wrong on the way, and what each step carried."""

    models: list[ShardModel]
    wrong: list[str] = field(default_factory=list)

    def shards(self) -> list[ShardCopies]:
        """Return the shards as the planner would see them."""
        return [
            ShardCopies(
                primary=model.primary,
                in_sync=tuple(sorted(model.in_sync)),
                eligible=tuple(sorted(model.eligible)),
                learners=tuple(sorted(model.learners)),
                need=model.need,
            )
            for model in self.models
        ]


def replay(
    shards: Sequence[ShardCopies],
    target: Target,
    plan: Sequence[Step],
    candidates: Sequence[Candidate],
    settings: PlacementSettings,
) -> Replay:
    """Carry out ``plan`` on a model, change by change, and note every broken promise."""
    live = {node.node for node in candidates if node.state in _LIVE}
    done = Replay([ShardModel.of(shard) for shard in shards])
    for place, step in enumerate(plan):
        done.wrong += [f"step {place}: {wrong}" for wrong in stream_violations(step, settings)]
        for change in step.changes:
            wanted = len(target.shards[change.shard].copies)
            done.wrong += [f"step {place}: {wrong}" for wrong in done.models[change.shard].apply(change, live, wanted)]
    repairs = [step.repairs for step in plan]
    if repairs != sorted(repairs, reverse=True):
        done.wrong.append("a move comes before a repair")
    return done


def stream_violations(step: Step, settings: PlacementSettings) -> list[str]:
    """At most so many streams in and out per node and in the cluster, and no stream too full."""
    outgoing = Counter(source for source, _ in step.streams)
    incoming = Counter(node for _, node in step.streams)
    shards = Counter((c.source, c.node) for c in step.changes if isinstance(c, AddLearner))
    wrong = []
    if max(outgoing.values(), default=0) > settings.streams_out_per_node:
        wrong.append(f"streams out: {dict(outgoing)}")
    if max(incoming.values(), default=0) > settings.streams_in_per_node:
        wrong.append(f"streams in: {dict(incoming)}")
    if len(step.streams) > settings.streams_max:
        wrong.append(f"{len(step.streams)} streams in the cluster")
    if set(shards) - set(step.streams):
        wrong.append(f"copies outside the streams: {sorted(set(shards) - set(step.streams))}")
    if max(shards.values(), default=0) > settings.stream_shards_max:
        wrong.append(f"shards per stream: {dict(shards)}")
    alone = sum(shards.values()) <= 1
    if not alone and step.bytes > settings.step_bytes_max:
        wrong.append(f"{step.bytes} bytes in a step")
    if step.stream_bytes_max > settings.stream_bytes_max and max(shards.values(), default=0) > 1:
        wrong.append(f"{step.stream_bytes_max} bytes in a stream")
    return wrong


def arrival_violations(done: Replay, target: Target, candidates: Sequence[Candidate]) -> list[str]:
    """After the plan every shard with a live primary is where the target wants it, as far as nodes live.

    A target of fewer copies than the shard needs is not carried out to the end: that would endanger the last ones.
    """
    live = {node.node for node in candidates if node.state in _LIVE}
    wrong = []
    for number, (model, goal) in enumerate(zip(done.models, target.shards, strict=True)):
        if model.primary not in live:
            continue
        if set(goal.copies) & live - model.in_sync:
            wrong.append(f"shard {number}: {sorted(set(goal.copies) & live - model.in_sync)} never came into in_sync")
        enough = len(goal.copies) >= max(model.need, 1)
        if enough and set(goal.copies) <= live and (model.in_sync, model.primary) != (set(goal.copies), goal.primary):
            wrong.append(f"shard {number}: {model} is not {goal}")
    return wrong


def adopted(target: Target, candidates: Sequence[Candidate], *, need: int) -> list[ShardCopies]:
    """Return the shards once ``target`` is carried out: dead nodes hold learners, the others are in sync."""
    live = {node.node for node in candidates if node.state in _LIVE}
    return [
        ShardCopies(
            primary=goal.primary,
            in_sync=tuple(name for name in goal.copies if name in live),
            learners=tuple(name for name in goal.copies if name not in live),
            need=min(need, max(1, len(goal.copies))),
        )
        for goal in target.shards
    ]


def failed_over(shards: Sequence[ShardCopies], candidates: Sequence[Candidate]) -> list[ShardCopies]:
    """Return the shards after the leader took the dead out of in_sync and failed primaries over (rules 3 and 5)."""
    live = {node.node for node in candidates if node.state in _LIVE}
    after = []
    for shard in shards:
        complete = [*shard.in_sync, *(node for node in shard.eligible if node not in shard.in_sync)]
        alive = tuple(node for node in complete if node in live)
        if (len(alive) == len(complete) and shard.primary in live) or not alive:
            after.append(shard)
            continue
        dead = tuple(node for node in complete if node not in live)
        after.append(
            replace(
                shard,
                primary=shard.primary if shard.primary in alive else alive[0],
                in_sync=alive,
                eligible=dead if len(alive) < shard.need else (),
                learners=tuple(dict.fromkeys((*shard.learners, *dead))),
            )
        )
    return after
