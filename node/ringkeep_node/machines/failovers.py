"""Which changes the map needs because of who is dead, stalled or cut off: pure functions over the map.

    primary dead or stalled          -> Failover to a live complete copy, in_sync first
    another of in_sync dead          -> Shrink
    below need, but the others reach it without the primary -> Failover to one of them (the odd one out)
    all quiet                        -> Move primaries back to balance

Source: replication.md rules 3 and 5, "Members, failure, recovery"; counterexamples.md L1, L2, L9.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from msgspec import Struct

from ringkeep_core.mapchanges import Failover, Move, ShardChange, Shrink
from ringkeep_core.placement import Candidate, NodeState, PlacementSettings, ShardCopies, primary_moves
from ringkeep_core.shardmap import Copy, Shard, ShardMap, WantedMember

NOT_WANTED = WantedMember(weight=0.0, draining=True)


class Standing(Struct, frozen=True, kw_only=True):
    """How the leader holds each registered member, by storage id.

    ``dead`` by verdict; ``known``: heard of at all; ``stalled``: its disk hangs; ``doubtful``: only some call it dead,
    or it is suspected; ``guarded``: gets no primaries yet.
    """

    known: frozenset[str]
    dead: frozenset[str]
    stalled: frozenset[str]
    doubtful: frozenset[str]
    guarded: frozenset[str]

    def lives(self, storage: str) -> bool:
        """Return whether the member can carry a copy: its disk may hang, but nobody's verdict is against it."""
        return storage in self.known and storage not in self.dead

    def can_lead(self, storage: str) -> bool:
        """Return whether the member can lead: it lives, and its disk turns."""
        return self.lives(storage) and storage not in self.stalled


class Chooser:
    """Chooses new primaries, one after the other, so that they end up spread by weight."""

    def __init__(self, shard_map: ShardMap, standing: Standing) -> None:
        self._standing = standing
        self._names = {storage: member.name for storage, member in shard_map.members.items()}
        self._wants = {storage: shard_map.wanted.members.get(name, NOT_WANTED) for storage, name in self._names.items()}
        self._led = dict.fromkeys(shard_map.members, 0)
        for shard in shard_map.shards:
            self._led[shard.primary.storage] += 1

    def choose(self, copies: Sequence[Copy]) -> str | None:
        """Return the best of those that can lead, or None: the sure, the long alive and the staying come first."""
        able = [copy.storage for copy in copies if self._standing.can_lead(copy.storage)]
        if not able:
            return None
        best = min(able, key=self._rank)
        self._led[best] += 1
        return best

    def _rank(self, storage: str) -> tuple[bool, bool, bool, float, str]:
        want = self._wants[storage]
        load = (self._led[storage] + 1) / want.weight if want.weight > 0 else float("inf")
        standing = self._standing
        return storage in standing.doubtful, storage in standing.guarded, want.draining, load, self._names[storage]


def needed_changes(shard_map: ShardMap, standing: Standing) -> Iterator[ShardChange | int]:
    """Yield a change for each shard with dead or stalled members, or its number if nobody can lead it."""
    out = standing.dead | standing.stalled
    if not out:
        return
    chooser = Chooser(shard_map, standing)
    for number, shard in enumerate(shard_map.shards):
        if shard.primary.storage in out:
            yield _replacement(number, shard, standing, chooser)
        else:
            dead = tuple(copy.storage for copy in shard.in_sync if copy.storage in standing.dead)
            if dead:
                yield Shrink(number, shard.revision, dead)


def _replacement(number: int, shard: Shard, standing: Standing, chooser: Chooser) -> ShardChange | int:
    to = chooser.choose(shard.in_sync) or chooser.choose(shard.eligible)
    if to is None:
        return number
    return Failover(number, shard.revision, to, _carriers(shard, standing))


def _carriers(shard: Shard, standing: Standing) -> tuple[str, ...]:
    """Return who carries the new epoch: those whose disk turns, if they are enough, else all that live.

    A member with a hanging disk would hold up every write; but where it is needed, its disk may come back any moment.
    """
    complete = [copy.storage for copy in (*shard.in_sync, *shard.eligible)]
    turning = tuple(storage for storage in complete if standing.can_lead(storage))
    if len(turning) >= shard.need:
        return turning
    return tuple(storage for storage in complete if standing.lives(storage))


def below_need(shard_map: ShardMap) -> list[int]:
    """Return the shards in which nothing can commit for want of copies."""
    return [number for number, shard in enumerate(shard_map.shards) if len(shard.in_sync) < shard.need]


def others_reach_need(shard: Shard, standing: Standing) -> tuple[Copy, ...]:
    """Return the live complete copies beside the primary's, if they reach need without it; else nothing."""
    others = tuple(
        copy
        for copy in (*shard.in_sync, *shard.eligible)
        if copy.storage != shard.primary.storage and standing.can_lead(copy.storage)
    )
    return others if len(others) >= shard.need else ()


def without_the_odd_one(
    shard_map: ShardMap, numbers: Sequence[int], standing: Standing, chooser: Chooser
) -> list[ShardChange]:
    """Return failovers that give these shards to the others, with the others as in_sync."""
    changes: list[ShardChange] = []
    for number in numbers:
        shard = shard_map.shards[number]
        others = others_reach_need(shard, standing)
        to = chooser.choose(others)
        if to is not None:
            changes.append(Failover(number, shard.revision, to, tuple(copy.storage for copy in others)))
    return changes


def is_quiet(shard_map: ShardMap, standing: Standing) -> bool:
    """Return whether no shard has a dead, stalled or doubtful member in in_sync."""
    out = standing.dead | standing.stalled | standing.doubtful
    return not out or not any(copy.storage in out for shard in shard_map.shards for copy in shard.in_sync)


def balancing_moves(shard_map: ShardMap, standing: Standing, *, shards_max: int) -> list[ShardChange]:
    """Return the next moves of primaries among in-sync members towards balance; none if it is reached."""
    names = {storage: member.name for storage, member in shard_map.members.items()}
    storages = {name: storage for storage, name in names.items()}
    settings = shard_map.wanted.settings
    moves = primary_moves(
        [_copies(shard, names) for shard in shard_map.shards],
        [_candidate(shard_map, storage, name, standing) for storage, name in names.items()],
        PlacementSettings(replication_factor=settings.replication_factor, min_in_sync=settings.min_in_sync),
    )
    return [
        Move(move.shard, shard_map.shards[move.shard].revision, storages[move.target]) for move in moves[:shards_max]
    ]


def _copies(shard: Shard, names: Mapping[str, str]) -> ShardCopies:
    return ShardCopies(
        primary=names[shard.primary.storage],
        in_sync=tuple([names[copy.storage] for copy in shard.in_sync]),
        eligible=tuple([names[copy.storage] for copy in shard.eligible]),
        learners=tuple([names[copy.storage] for copy in shard.learners]),
        need=shard.need,
    )


def _candidate(shard_map: ShardMap, storage: str, name: str, standing: Standing) -> Candidate:
    want = shard_map.wanted.members.get(name, NOT_WANTED)
    able = standing.can_lead(storage)
    return Candidate(
        node=name,
        zone=want.zone or shard_map.members[storage].zone,
        weight=want.weight,
        state=NodeState.ALIVE if able else NodeState.DEAD_IN_GRACE,
        draining=want.draining,
        may_lead=able and storage not in standing.guarded,
    )
