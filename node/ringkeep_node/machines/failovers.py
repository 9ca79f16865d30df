"""Which changes the map needs because of who is dead, stalled or cut off: pure functions over the map.

    primary dead or stalled          -> Failover to a live complete copy, in_sync first
    another of in_sync dead          -> Shrink
    below need, but the others reach it without the primary -> Failover to one of them (the odd one out)

Copies and primaries that move for any other reason are the plan's (``planning``).
Source: replication.md rules 3 and 5, "Members, failure, recovery"; counterexamples.md L1, L2, L9.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from msgspec import Struct

from ringkeep_core.mapchanges import Failover, ShardChange, Shrink
from ringkeep_core.plans import NOT_WANTED
from ringkeep_core.shardmap import Copy, Shard, ShardMap


class Standing(Struct, frozen=True, kw_only=True):
    """How the leader holds each registered member, by storage id.

    ``dead`` by verdict; ``known``: heard of at all; ``stalled``: its disk hangs; ``doubtful``: only some call it dead,
    or it is suspected; ``guarded``: gets no primaries yet; ``leaving``: about to stop for a restart; ``left``: stopped so,
    and within the grace; ``lost``: out for longer than the grace.
    """

    known: frozenset[str]
    dead: frozenset[str]
    stalled: frozenset[str]
    doubtful: frozenset[str]
    guarded: frozenset[str]
    leaving: frozenset[str] = frozenset()
    left: frozenset[str] = frozenset()
    lost: frozenset[str] = frozenset()

    def lives(self, storage: str) -> bool:
        """Return whether the member can carry a copy: its disk may hang, but nobody's verdict is against it."""
        return storage in self.known and storage not in self.dead

    def can_lead(self, storage: str) -> bool:
        """Return whether the member can lead: it lives, and its disk turns."""
        return self.lives(storage) and storage not in self.stalled

    def takes(self, storage: str) -> bool:
        """Return whether the member can be given copies and primaries that nobody is in need of: it is sure to stay."""
        return self.can_lead(storage) and storage not in self.doubtful and storage not in self.leaving


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

    def _rank(self, storage: str) -> tuple[bool, bool, bool, bool, float, str]:
        want = self._wants[storage]
        load = (self._led[storage] + 1) / want.weight if want.weight > 0 else float("inf")
        standing = self._standing
        unsure, leaving, guarded = (storage in it for it in (standing.doubtful, standing.leaving, standing.guarded))
        return unsure, leaving, guarded, want.draining, load, self._names[storage]


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
