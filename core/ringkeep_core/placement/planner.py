"""The planner: from the map we have and the members wanted to the map we want.

    candidates -> wanted nodes -> quotas -> draft (release, fill) -> primaries -> target

Pure and deterministic: nodes are taken in order of their names, shards in order of their hashes, so neither the order
of the candidates nor the process matters. Details the design leaves open are settled here:

- A node dead within the grace keeps exactly what it holds; quotas are first made as if it were alive (so that nothing
  moves because of the death alone) and again around it only if it does not hold its quota.
- With fewer wanted nodes than copies, each shard gets one copy on each (``too_few_nodes``).
- With zones too small for the zone rule, each first takes what the rule allows, then the rest (``zone_rule``).
- Candidates with weight 0, draining or dead beyond the grace are in no target; nodes that are no candidates neither.

Source: placement.md; reference/cluster.md 2.3.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fractions import Fraction
from types import MappingProxyType

from xxhash import xxh3_128_hexdigest

from ringkeep_core.placement.assignment import Draft
from ringkeep_core.placement.hashes import shard_hash
from ringkeep_core.placement.model import (
    NO_LEADER,
    NO_NODES,
    NOTHING,
    TOO_FEW_NODES,
    ZONE_RULE,
    Assignment,
    Candidate,
    NodeState,
    PlacementSettings,
    PrimaryMove,
    ShardCopies,
    Target,
)
from ringkeep_core.placement.primaries import choose_primaries
from ringkeep_core.placement.quotas import Claim, Division, divide, divide_primaries, share_out


def target(shards: Sequence[ShardCopies], candidates: Iterable[Candidate], settings: PlacementSettings) -> Target:
    """Return the map we want for ``shards``, given who may hold copies.

    Args:
        shards: what each shard has now, by shard number.
        candidates: the members that are wanted, in any order, each node once.
        settings: the replication factor is what counts here.
    Raises:
        ValueError: a node is named twice.
    """
    nodes = _wanted(candidates)
    if not nodes:
        nowhere = Assignment(copies=(), primary=None, degraded=NO_NODES)
        return _sealed([nowhere] * len(shards), moves=0, lower_bound=0, quotas={})
    before = _Before(shards, nodes)
    division, wanted = _divide(before, nodes, settings.replication_factor)
    draft = _draft(before, nodes, division, wanted)
    draft.solve()
    leaders = _leaders(before, nodes, draft.members)
    names = [node.node for node in nodes]
    assigned = []
    for shard, members in enumerate(draft.members):
        leader = leaders[shard]
        assigned.append(
            Assignment(
                copies=tuple(names[node] for node in sorted(members)),
                primary=names[leader] if leader >= 0 else None,
                degraded=_degraded(draft, division, shard, leader, settings.replication_factor),
            )
        )
    quotas = division.quotas
    return _sealed(
        assigned,
        moves=sum(len(fresh) for fresh in draft.fresh),
        lower_bound=sum(max(0, quotas[name] - held) for name, held in zip(names, before.count, strict=True)),
        quotas=quotas,
    )


def initial(shard_count: int, candidates: Iterable[Candidate], settings: PlacementSettings) -> Target:
    """Return the first map of a cluster: all shards over all candidates, every copy new and all full at once."""
    return target([NOTHING] * shard_count, candidates, settings)


def primary_moves(
    shards: Sequence[ShardCopies], candidates: Iterable[Candidate], settings: PlacementSettings
) -> tuple[PrimaryMove, ...]:
    """Return the primaries to move so that they are balanced, with the copies as they are.

    Only between in-sync members that live; a shard whose primary is dead or missing is left to the failover. A node
    that is draining, of weight 0 or under the flapping guard leads only what nobody else can lead. The moves are in
    the order of the shards and the same for every order of the candidates.
    """
    del settings  # balance knows no setting; the parameter keeps the three planner calls alike
    everybody = sorted(_unique(candidates), key=lambda candidate: candidate.node)
    index = {candidate.node: place for place, candidate in enumerate(everybody)}
    offers: list[list[tuple[int, int]]] = []
    for shard in shards:
        present = index.get(shard.primary, -1) if shard.primary is not None else -1
        movable = present >= 0 and everybody[present].live and shard.primary in shard.in_sync
        members = [index[node] for node in shard.in_sync if node in index] if movable else []
        leading = [node for node in members if _is_leader(everybody[node])] or [present] * movable
        offers.append(_priced(leading, present, leading))
    lead = _LeadShares(everybody, offers, [shard.primary for shard in shards])
    leaders = choose_primaries(offers, _hash_order(len(shards)), lead.quotas())
    leaders_now = [
        index.get(shard.primary or "", -1) if offered else -1 for shard, offered in zip(shards, offers, strict=True)
    ]
    if lead.imbalance(leaders) >= lead.imbalance(leaders_now):
        # Where the copies allow no balance, two maps can be equally bad: without this, calls would alternate for ever.
        return ()
    moves = []
    for number, (shard, leader) in enumerate(zip(shards, leaders, strict=True)):
        if leader >= 0 and shard.primary is not None and everybody[leader].node != shard.primary:
            moves.append(PrimaryMove(number, shard.primary, everybody[leader].node))
    return tuple(moves)


def _unique(candidates: Iterable[Candidate]) -> list[Candidate]:
    everybody = list(candidates)
    if len({candidate.node for candidate in everybody}) != len(everybody):
        raise ValueError("a node is named twice among the candidates")
    return everybody


def _wanted(candidates: Iterable[Candidate]) -> list[Candidate]:
    return sorted((node for node in _unique(candidates) if node.wanted), key=lambda candidate: candidate.node)


class _Before:
    """The map we have, with node numbers for names and only the nodes that may keep copies.

    ``held`` has per shard the primary first, then the other complete copies, then learners: the order in which a
    surplus copy is dearer to us.
    """

    def __init__(self, shards: Sequence[ShardCopies], nodes: Sequence[Candidate]) -> None:
        index = {candidate.node: place for place, candidate in enumerate(nodes)}
        self.shards = shards
        self.held: list[tuple[int, ...]] = []
        self.complete: list[tuple[int, ...]] = []
        self.primary: list[int] = []
        self.count = [0] * len(nodes)
        empty: tuple[int, ...] = ()
        for shard in shards:
            if shard is NOTHING:
                complete = held = empty
            else:
                complete = tuple(
                    dict.fromkeys(sorted(index[node] for node in (*shard.in_sync, *shard.eligible) if node in index))
                )
                held = complete
                if shard.learners:
                    late = sorted(index[node] for node in shard.learners if node in index)
                    held = tuple(dict.fromkeys((*complete, *late)))
            self.complete.append(complete)
            self.held.append(held)
            self.primary.append(index.get(shard.primary, -1) if shard.primary is not None else -1)
            for node in held:
                self.count[node] += 1


def _divide(before: _Before, nodes: Sequence[Candidate], copies: int) -> tuple[Division, list[int]]:
    """Return the quotas and the copies that each shard can have."""
    shards = len(before.held)
    copies = min(copies, len(nodes))
    pinned = [node.state is NodeState.DEAD_IN_GRACE for node in nodes]
    division = divide(shards * copies, shards, copies, _claims(before, nodes, [False] * len(nodes)))
    wanted = [copies] * shards
    rows = zip(nodes, pinned, before.count, strict=True)
    if all(division.quotas[node.node] == count for node, pin, count in rows if pin):
        return division, wanted
    live = len(nodes) - sum(pinned)
    wanted = [
        min(max(copies, kept), live + kept)
        for kept in (sum(1 for node in held if pinned[node]) for held in before.held)
    ]
    return divide(sum(wanted), shards, copies, _claims(before, nodes, pinned)), wanted


def _claims(before: _Before, nodes: Sequence[Candidate], pinned: Sequence[bool]) -> dict[str, list[Claim]]:
    claims: dict[str, list[Claim]] = {}
    shards = len(before.held)
    for node, pin, count in zip(nodes, pinned, before.count, strict=True):
        least, most = (count, count) if pin else (0, shards)
        claims.setdefault(node.zone, []).append(
            Claim(node.node, Fraction(node.weight), count, Fraction(least), Fraction(most))
        )
    return claims


def _draft(before: _Before, nodes: Sequence[Candidate], division: Division, wanted: Sequence[int]) -> Draft:
    zones = {zone: number for number, zone in enumerate(sorted(division.zones))}
    return Draft(
        names=[node.node.encode() for node in nodes],
        quota=[division.quotas[node.node] for node in nodes],
        zone_of=[zones[node.zone] for node in nodes],
        pinned=[node.state is NodeState.DEAD_IN_GRACE for node in nodes],
        zone_limit=division.zone_limit,
        held=before.held,
        wanted=wanted,
        primary=before.primary,
    )


def _is_leader(node: Candidate) -> bool:
    return node.live and node.may_lead and node.wanted


def _leaders(before: _Before, nodes: Sequence[Candidate], members: Sequence[Sequence[int]]) -> list[int]:
    """Return the primary of each shard of the draft, -1 where no copy lives."""
    leads = [_is_leader(node) for node in nodes]
    lives = [node.live for node in nodes]
    offers = []
    for shard, copies in enumerate(members):
        leading = [node for node in copies if leads[node]] or [node for node in copies if lives[node]]
        offers.append(_priced(leading, before.primary[shard], before.complete[shard]))
    lead = _LeadShares(nodes, offers, [shard.primary for shard in before.shards])
    return choose_primaries(offers, _hash_order(len(offers)), lead.quotas())


def _priced(leading: Sequence[int], present: int, complete: Sequence[int]) -> list[tuple[int, int]]:
    """Return (node, cost) of each node that may lead, cheapest first."""
    priced = [(0 if node == present else 1 if node in complete else 2, node) for node in leading]
    priced.sort()
    return [(node, cost) for cost, node in priced]


class _LeadShares:
    """How many shards each node should lead.

    A shard that only guarded nodes can lead stays with the cheapest of them: its offers are cut to that one, and it is
    left out of the division. A shard that only one node can lead counts as that node's least.
    """

    def __init__(
        self, nodes: Sequence[Candidate], offers: list[list[tuple[int, int]]], present: Sequence[str | None]
    ) -> None:
        index = {node.node: place for place, node in enumerate(nodes)}
        able, least, held = [0] * len(nodes), [0] * len(nodes), [0] * len(nodes)
        self.leads = [_is_leader(node) for node in nodes]
        self.forced = [0] * len(nodes)
        self.divided = 0
        for shard, offered in enumerate(offers):
            if not offered:
                continue
            first = offered[0][0]
            if not self.leads[first]:
                del offered[1:]
                self.forced[first] += 1
                continue
            self.divided += 1
            least[first] += len(offered) == 1
            for node, _ in offered:
                able[node] += 1
            leader = index.get(present[shard] or "", -1)
            if leader >= 0:
                held[leader] += 1
        self.claims = [
            Claim(node.node, Fraction(node.weight), held[place], Fraction(least[place]), Fraction(able[place]))
            for place, node in enumerate(nodes)
            if self.leads[place]
        ]

    def quotas(self) -> list[int]:
        """Return the whole number of shards that each node should lead."""
        counts = iter(divide_primaries(self.divided, self.claims).values())
        return [(next(counts) if leads else 0) + forced for leads, forced in zip(self.leads, self.forced, strict=True)]

    def imbalance(self, leaders: Sequence[int]) -> tuple[int, Fraction]:
        """Return how far ``leaders`` is from the shares: shards led by nodes that should not, then summed squares."""
        led = [0] * len(self.leads)
        for leader in leaders:
            if leader >= 0:
                led[leader] += 1
        shares = iter(share_out(Fraction(self.divided), self.claims))
        wrong = sum(led[place] for place, leads in enumerate(self.leads) if not leads)
        return wrong, sum(
            ((led[place] - next(shares)) ** 2 for place, leads in enumerate(self.leads) if leads), Fraction(0)
        )


def _hash_order(shards: int) -> list[int]:
    return sorted(range(shards), key=shard_hash)


def _degraded(draft: Draft, division: Division, shard: int, leader: int, copies: int) -> str | None:
    """Return the worst reason why the shard is not as wanted, or None."""
    members = draft.members[shard]
    if leader < 0:
        return NO_LEADER
    if len(members) < copies:
        return TOO_FEW_NODES
    zones = [draft.zone_of[node] for node in members]
    if len(division.zones) > 1 and any(zones.count(zone) > division.zone_cap for zone in zones):
        return ZONE_RULE
    return draft.degraded.get(shard)


def _sealed(shards: Sequence[Assignment], *, moves: int, lower_bound: int, quotas: dict[str, int]) -> Target:
    return Target(
        shards=tuple(shards),
        moves=moves,
        lower_bound=lower_bound,
        quotas=MappingProxyType(dict(sorted(quotas.items()))),
        digest=digest_of(shards),
    )


def digest_of(shards: Sequence[Assignment]) -> str:
    """Return XXH3-128 over one line per shard: primary, then copies, each with its length so that no name can forge."""
    lines = []
    for shard in shards:
        names = (shard.primary or "", *shard.copies)
        lines.append(" ".join([f"{len(name)}:{name}" for name in names]))
    return xxh3_128_hexdigest("\n".join(lines).encode())
