"""A node that ends for a restart hands its primaries over first, and gets the same ones back.

    leaving --its primaries go to the least loaded--> leads nothing --stops, starts, in sync again--> leads the same shards

Over a rolling restart each primary moves twice: away, and home. ``Homes`` remembers where primaries were before their
node went out; every node watches, so that a new leader knows it too. Nothing depends on it but how often primaries move.

Source: replication.md, "Rolling restart moves no bytes"; architecture.md.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from ringkeep_core.plans import NOT_WANTED
from ringkeep_core.shardmap import Copy, ShardMap, WantedMember
from ringkeep_node.machines.failovers import Standing

HEARD_LATE_S = 5.0
"""The map may bring a move before gossip says why: so long a primary's last node may turn out to be going out."""


class Homes:
    """Where primaries were before their node went out, by shard; at most one for each shard."""

    def __init__(self) -> None:
        self._map: ShardMap | None = None
        self._moved: dict[int, tuple[str, float]] = {}
        self.homes: dict[int, str] = {}

    def watch(self, shard_map: ShardMap, out: Collection[str], now: float) -> None:
        """Note the primaries that moved since the last map.

        Args:
            shard_map: the newest map.
            out: members that are leaving or called dead.
            now: monotonic seconds.
        """
        before, self._map = self._map, shard_map
        if before is None or before is shard_map or len(before.shards) != len(shard_map.shards):
            self._look_back(out, now)
            return
        gone = {*out, *_restarted(before, shard_map)}
        for number, (old, new) in enumerate(zip(before.shards, shard_map.shards, strict=True)):
            if old is new or old.primary == new.primary:
                continue
            if new.primary.storage == self.homes.get(number):
                del self.homes[number]
            else:
                self._moved[number] = old.primary.storage, now
        self._look_back(gone, now)

    def _look_back(self, gone: Collection[str], now: float) -> None:
        if not self._moved:
            return
        for number, (former, at) in list(self._moved.items()):
            if former in gone and self._map is not None and self._map.shards[number].primary.storage != former:
                self.homes.setdefault(number, former)
            if former in gone or now >= at + HEARD_LATE_S:
                del self._moved[number]

    def forget(self, storages: Collection[str]) -> None:
        """Forget the primaries of these members: they are back where they should be."""
        if self.homes:
            self.homes = {number: home for number, home in self.homes.items() if home not in storages}


def _restarted(before: ShardMap, after: ShardMap) -> list[str]:
    if before.members is after.members:
        return []
    return [
        storage
        for storage, member in before.members.items()
        if storage in after.members and after.members[storage].boot != member.boot
    ]


class Relief:
    """Chooses who takes the primaries of the members that are leaving, spreading them by weight."""

    def __init__(
        self, shard_map: ShardMap, standing: Standing, homes: Mapping[int, str], coming: Mapping[str, int]
    ) -> None:
        self._map, self._standing, self._homes = shard_map, standing, homes
        self._led = {storage: coming.get(storage, 0) for storage in shard_map.members}
        for shard in shard_map.shards:
            self._led[shard.primary.storage] += 1

    def moves(self, busy: Collection[int]) -> list[tuple[int, str]]:
        """Return (shard, next primary) for each shard of a leaving member that somebody else can take now."""
        moves = []
        for number, shard in enumerate(self._map.shards):
            primary = shard.primary.storage
            if primary in self._standing.leaving and self._standing.can_lead(primary) and number not in busy:
                to = self._choose(number, shard.in_sync)
                if to is not None:
                    self._led[to] += 1
                    moves.append((number, to))
        return moves

    def _choose(self, number: int, in_sync: Sequence[Copy]) -> str | None:
        """Return its home, else the least loaded; of equal ones the one restarted last: it will not restart again."""
        fit = [copy.storage for copy in in_sync if self._standing.takes(copy.storage)]
        home = self._homes.get(number)
        if home in fit and home not in self._standing.guarded:
            return home
        return min(fit, key=self._rank) if fit else None

    def _rank(self, storage: str) -> tuple[bool, bool, float, int, str]:
        member = self._map.members[storage]
        want: WantedMember = self._map.wanted.members.get(member.name, NOT_WANTED)
        load = (self._led[storage] + 1) / want.weight if want.weight > 0 else float("inf")
        return storage in self._standing.guarded, want.draining, load, -member.since, member.name
