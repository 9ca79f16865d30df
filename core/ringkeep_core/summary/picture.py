"""What follows from the map and from who lives, counted once for a summary."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from ringkeep_core.shardmap import Member, Shard, ShardMap
from ringkeep_core.summary.model import Seen, SeenMember, ShardCounts

SHARDS_NAMED_MAX = 64
"""Shard numbers in a finding: enough to look at, bounded in a cluster of 65,536."""


class Picture:
    """What follows from the map and from who lives: shards by their state, and who is where.

    ``out``: dead, stopped, or with a disk that hangs. ``orphaned``: the primary is out, and another complete copy works;
    ``lost``: none does; ``refusing``: fewer in sync than needed; ``waiting``: an in-sync copy is out and not yet removed;
    ``short``: fewer living copies in sync than wanted. ``mute``: nobody can confirm its primary's strict reads, because
    there is no leader, and not all of its other complete copies are there to ask (replication.md, rule 2).
    """

    def __init__(self, seen: Seen, held: ShardMap) -> None:
        self.seen, self.held = seen, held
        self.by_storage = {member.storage: member for member in seen.members}
        self.total, self.wanted_copies = len(held.shards), held.copies_wanted()
        self.out = frozenset(storage for storage in held.members if self._is_out(storage))
        self.orphaned: list[int] = []
        self.lost: list[int] = []
        self.refusing: list[int] = []
        self.waiting: list[int] = []
        self.short: list[int] = []
        self.mute: list[int] = []
        self.moving: list[int] = []
        self.held_by: dict[str, list[int]] = {storage: [] for storage in held.members}
        self.led_by: Counter[str] = Counter()
        self.learning: Counter[str] = Counter()
        self.living: list[int] = []
        for number, shard in enumerate(held.shards):
            self._count(number, shard)

    def _is_out(self, storage: str) -> bool:
        member = self.by_storage.get(storage)
        return member is not None and (member.is_out or member.stalled)

    def _count(self, number: int, shard: Shard) -> None:
        out = self.out
        for copy in (*shard.in_sync, *shard.learners):
            self.held_by.setdefault(copy.storage, []).append(number)
        self.led_by[shard.primary.storage] += 1
        living = sum(1 for copy in shard.in_sync if copy.storage not in out)
        learners = [copy.storage for copy in shard.learners if copy.storage not in out]
        self.learning.update(learners)
        self.living.append(living)
        primary, complete = shard.primary, (*shard.in_sync, *shard.eligible)
        if primary.storage in out or not self.held.is_registered(primary.storage, primary.boot):
            (self.orphaned if any(copy.storage not in out for copy in complete) else self.lost).append(number)
        elif len(shard.in_sync) < shard.need:
            self.refusing.append(number)
        elif living < len(shard.in_sync):
            self.waiting.append(number)
        is_alone = len(complete) == 1 or any(copy.storage in out for copy in complete)
        if self.seen.leader is None and is_alone:
            self.mute.append(number)
        if living < self.wanted_copies:
            self.short.append(number)
        elif learners:
            self.moving.append(number)

    @property
    def hurt(self) -> set[int]:
        """Shards of which users notice something."""
        return self.unread | self.unwritten

    @property
    def unread(self) -> set[int]:
        """Shards whose strict reads wait."""
        return {*self.orphaned, *self.lost, *self.mute}

    @property
    def unwritten(self) -> set[int]:
        """Shards whose writes wait or are refused."""
        return {*self.orphaned, *self.lost, *self.refusing, *self.waiting}

    def counts(self) -> ShardCounts:
        """Return how many shards are how, each counted at its worst."""
        unavailable, no_writes = self.unread, self.unwritten - self.unread
        short = set(self.short) - unavailable - no_writes
        moving = set(self.moving) - unavailable - no_writes
        return ShardCounts(
            total=self.total,
            ok=self.total - len(unavailable) - len(no_writes) - len(short) - len(moving),
            moving=len(moving),
            under_replicated=len(short),
            no_writes=len(no_writes),
            unavailable=len(unavailable),
        )

    def members(self) -> list[tuple[Member, SeenMember]]:
        """Return every registered member with what is seen of it, by name."""
        rows = sorted(self.held.members.values(), key=lambda member: member.name)
        return [(it, self.by_storage.get(it.storage) or SeenMember(storage=it.storage, name=it.name)) for it in rows]

    def name_of(self, storage: str) -> str:
        """Return a member's name."""
        member = self.held.members.get(storage)
        return member.name if member is not None else storage

    def names_out(self) -> list[str]:
        """Return who is dead or stopped."""
        return sorted(member.name for member in self.seen.members if member.is_out)

    def able(self) -> list[str]:
        """Return the living members that may hold copies."""
        wanted = self.held.wanted.members
        return [
            member.name
            for member, seen in self.members()
            if not seen.is_out
            and (want := wanted.get(member.name)) is not None
            and want.weight > 0
            and not want.draining
        ]


def named(numbers: Sequence[int]) -> tuple[int, ...]:
    """Return the shard numbers that a finding lists."""
    return tuple(numbers[:SHARDS_NAMED_MAX])
