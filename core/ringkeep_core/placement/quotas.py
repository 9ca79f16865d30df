"""How many copies, and how many primaries, each node should hold.

Shares are exact fractions, so that a rounding error can never decide who gets a shard. A share is water-filled: a node
that cannot take its weighted share (at most V copies, one per shard) passes the rest on to the others. Whole numbers
come from the shares by floors; leftover units go to those already above their floor (moving nothing), then to larger
fractions, then by hash. Every quota is therefore within 1 of its share, in each zone and for each node.

Source: placement.md steps 2, 3 and 7; reference/cluster.md 2.3.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

from ringkeep_core.placement.hashes import name_hash


@dataclass(frozen=True, slots=True)
class Claim:
    """One party in a division: its weight, how much it has, and the least and most it can take."""

    name: str
    weight: Fraction
    held: int
    least: Fraction
    most: Fraction


@dataclass(frozen=True, slots=True)
class Division:
    """Copies per node, copies per zone and the most copies of one shard in a zone.

    ``zone_cap`` is ceil(R/Z); ``zone_limit`` is the same, and more only where the zones are too small to hold all
    copies otherwise.
    """

    quotas: dict[str, int]
    zones: dict[str, int]
    zone_cap: int
    zone_limit: int


def share_out(total: Fraction, claims: Sequence[Claim]) -> list[Fraction]:
    """Return each claim's weighted share of ``total``, held inside its bounds.

    The bounds must leave room: sum of least <= total <= sum of most. Each round fixes the claims on the side of the
    bounds that costs more, which is the one that no later round can undo.
    """
    shares = [Fraction(0)] * len(claims)
    open_claims = list(range(len(claims)))
    rest = total
    while open_claims:
        weight = sum((claims[i].weight for i in open_claims), Fraction(0))
        level = rest / weight if weight else Fraction(0)
        over, under, excess = [], [], Fraction(0)
        for i in open_claims:
            claim = claims[i]
            ideal = level * claim.weight
            if ideal > claim.most:
                over.append(i)
                excess += ideal - claim.most
            elif ideal < claim.least:
                under.append(i)
                excess -= claim.least - ideal
            shares[i] = ideal
        if not over and not under:
            break
        fixed = over if excess >= 0 and over else under
        for i in fixed:
            shares[i] = claims[i].most if fixed is over else claims[i].least
            rest -= shares[i]
        settled = set(fixed)
        open_claims = [i for i in open_claims if i not in settled]
    return shares


def whole(total: int, claims: Sequence[Claim], shares: Sequence[Fraction]) -> list[int]:
    """Round ``shares`` to whole numbers that sum to ``total``, each to its floor or the number above."""
    counts = [int(share) for share in shares]
    fractional = [i for i, share in enumerate(shares) if share != counts[i]]
    fractional.sort(
        key=lambda i: (claims[i].held <= counts[i], counts[i] - shares[i], name_hash(claims[i].name), claims[i].name)
    )
    for i in fractional[: total - sum(counts)]:
        counts[i] += 1
    assert sum(counts) == total, "the shares do not sum to the total"
    return counts


def divide(total: int, shards: int, copies: int, claims: Mapping[str, Sequence[Claim]]) -> Division:
    """Divide ``total`` copies of ``shards`` shards (``copies`` each) between zones, then between the nodes of a zone.

    ``claims`` are the nodes of each zone; what they can take together must reach ``total``.
    """
    zones = sorted(claims)
    zone_cap = -(-copies // len(zones))
    limit = _zone_limit(total, shards, zone_cap, claims)
    zone_claims = [_zone_claim(zone, claims[zone], shards, zone_cap, limit) for zone in zones]
    zone_shares = share_out(Fraction(total), zone_claims)
    zone_totals = dict(zip(zones, whole(total, zone_claims, zone_shares), strict=True))
    quotas: dict[str, int] = {}
    for zone, share in zip(zones, zone_shares, strict=True):
        members = claims[zone]
        counts = whole(zone_totals[zone], members, share_out(share, members))
        quotas.update((claim.name, count) for claim, count in zip(members, counts, strict=True))
    return Division(quotas, zone_totals, zone_cap, limit)


def divide_primaries(total: int, claims: Sequence[Claim]) -> dict[str, int]:
    """Divide ``total`` primaries by weight; a claim's ``most`` is the number of shards it could lead."""
    counts = whole(total, claims, share_out(Fraction(total), claims))
    return {claim.name: count for claim, count in zip(claims, counts, strict=True)}


def _zone_limit(total: int, shards: int, zone_cap: int, claims: Mapping[str, Sequence[Claim]]) -> int:
    """Return the most copies of one shard in a zone: ``zone_cap``, or as little more as makes room for all copies."""
    rooms = [sum((claim.most for claim in members), Fraction(0)) for members in claims.values()]
    limit = zone_cap
    while sum(min(Fraction(limit * shards), room) for room in rooms) < total:
        limit += 1
    return limit


def _zone_claim(zone: str, members: Sequence[Claim], shards: int, zone_cap: int, limit: int) -> Claim:
    """Return what a zone may take. When zones are too small, each first fills up to the rule, then shares the rest."""
    room = sum((claim.most for claim in members), Fraction(0))
    forced = sum((claim.least for claim in members), Fraction(0))
    least = min(Fraction(zone_cap * shards), room) if limit > zone_cap else Fraction(0)
    return Claim(
        name=zone,
        weight=sum((claim.weight for claim in members), Fraction(0)),
        held=sum(claim.held for claim in members),
        least=max(least, forced),
        most=max(min(Fraction(limit * shards), room), forced),
    )
