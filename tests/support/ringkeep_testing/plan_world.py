"""A cluster that carries plans out on virtual time: learners take time to catch up, and every step is judged.

``PlanWorld`` is a ``LeaderWorld`` whose primaries grow learners ``copy_s`` after they were added (or after they came
back), that can take another wanted state, restart nodes as a launcher does, and put another leader in the middle of
anything. It counts what moves and checks after every entry that the map is sound and that no shard has fewer complete
copies than the rules allow.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from msgspec.structs import replace

from ringkeep_core.mapchanges import (
    AddLearner,
    Boot,
    Grow,
    MapChange,
    RemoveCopy,
    SetWanted,
    ShardChanges,
    apply,
    check,
)
from ringkeep_core.placement import NodeState, Target
from ringkeep_core.plans import NodeFacts, target_of
from ringkeep_core.shardmap import Copy, Settings, Shard, ShardMap, Wanted, WantedMember
from ringkeep_core.shardrules import is_leaving
from ringkeep_node.machines.leader import Leader, LeaderSettings
from ringkeep_node.machines.planning import PlanningSettings
from ringkeep_testing.leader_world import COMMIT_S, LeaderWorld

STEPS_MAX = 20_000
LOOK_S = 0.25


@dataclass
class PlanWorld(LeaderWorld):
    """See the module."""

    copy_s: float = 0.2
    refused: Counter[str] = field(default_factory=Counter)
    added: int = 0
    moved: Counter[int] = field(default_factory=Counter)
    """How often the primary of each shard moved."""
    streams_max_seen: int = 0
    _ready: dict[tuple[int, Copy], float] = field(default_factory=dict)

    # --- the cluster ---------------------------------------------------------------------------------------------

    def commit(self, change: MapChange) -> None:
        """Apply a change; the map stays sound and nobody's copies fall below what they may."""
        before = self.map
        applied = apply(before, before.version + 1, change)
        self.map = applied.map
        self.refused.update(outcome.code for outcome in applied.outcomes if outcome is not None)

        assert check(self.map) == ()
        if isinstance(change, ShardChanges):
            self._judge(before, change)
        for number, (old, new) in enumerate(zip(before.shards, self.map.shards, strict=True)):
            self.moved[number] += old.primary.storage != new.primary.storage

    def _judge(self, before: ShardMap, change: ShardChanges) -> None:
        self.added += sum(
            1
            for part in change.changes
            if isinstance(part, AddLearner)
            and self.map.shards[part.shard].copy_of(part.storage) is not None
            and before.shards[part.shard].copy_of(part.storage) is None
        )
        for part in change.changes:
            if isinstance(part, RemoveCopy):
                old, new = before.shards[part.shard], self.map.shards[part.shard]

                assert complete(new) >= min(complete(old), max(old.need, before.copies_wanted()))

    def grow(self) -> None:
        """Let live primaries take in the learners that have had their time; one of each shard at a time."""
        out = self.dead | self.stalled
        ready: dict[tuple[int, Copy], float] = {}
        changes: list[Grow] = []
        for number, shard in enumerate(self.map.shards):
            for copy in shard.learners:
                if shard.primary.storage in out or copy.storage in out or copy.storage not in self.map.members:
                    continue
                at = ready[number, copy] = self._ready.get((number, copy), self.now + self.copy_s)
                if self.now >= at and self._stays(copy) and not any(change.shard == number for change in changes):
                    boot = self.map.members[copy.storage].boot
                    changes.append(
                        Grow(number, shard.revision, copy.storage, boot, copy.added, shard.epoch, shard.primary.boot)
                    )
        self._ready = ready
        self.streams_max_seen = max(
            self.streams_max_seen, len({(self.map.shards[n].primary, c.storage) for n, c in ready})
        )
        if changes:
            self.commit(ShardChanges(tuple(changes), "caught up"))

    def _stays(self, copy: Copy) -> bool:
        return not is_leaving(self.map.wanted, self.map.members[copy.storage].name)

    def run(self, seconds: float, *, grows: bool = True) -> None:
        """Let time pass, in steps of a commit, or to the next moment at which somebody has something to do."""
        end = self.now + seconds
        for _ in range(STEPS_MAX):
            version = self.map.version
            if grows:
                self.grow()
            self.tick()
            # A second look, as the committed map is fed at once.
            self.tell()
            dues = [at for at in self._ready.values() if at > self.now] if grows else []
            due = self.leader.next_deadline()
            if due is not None:
                dues.append(due)
            upcoming = self.now + COMMIT_S if version != self.map.version else min(dues, default=end)
            if upcoming >= end:
                self.now = end
                return
            self.now = max(upcoming, self.now + COMMIT_S)
        raise AssertionError("the cluster never comes to rest")

    def settle(self, seconds: float = 60.0) -> float:
        """Run until nothing is left to do; return how long it took."""
        began, quiet = self.now, 0
        while quiet * LOOK_S <= PlanningSettings().moving_rest_s and self.now < began + seconds:
            before = self.map.version
            self.run(LOOK_S)
            quiet = quiet + 1 if self.map.version == before else 0
        return self.now - began - LOOK_S * quiet

    # --- what people and launchers do ----------------------------------------------------------------------------

    def want(self, members: Mapping[str, WantedMember], settings: Settings | None = None) -> None:
        """Let somebody set the wanted state."""
        wanted = self.map.wanted
        self.commit(
            SetWanted(Wanted(wanted.revision + 1, dict(members), settings or wanted.settings), "a person wants it")
        )

    def join(self, name: str) -> None:
        """Start a new node: it registers and waits until it is wanted."""
        self.counters[name] = 1
        self.commit(Boot(name, name, f"{name}-1", 1, "", ""))

    def new_leader(self, me: str) -> None:
        """Let another node lead, which knows nothing but the map from now on."""
        self.me = me
        self.leader = Leader(me=me, settings=LeaderSettings(), now=self.now)

    def target(self) -> Target:
        """Return where everything should be, everybody alive."""
        facts = {it.name: NodeFacts(NodeState.ALIVE) for it in self.map.members.values()}
        return target_of(self.map, self.map.wanted, facts)

    def held(self) -> dict[str, int]:
        """Return how many copies in sync each member holds."""
        held = dict.fromkeys(sorted(self.map.members), 0)
        for shard in self.map.shards:
            for copy in shard.in_sync:
                held[copy.storage] += 1
        return held

    def is_whole(self) -> bool:
        """Return whether every shard is as its target: nothing missing, nothing left over."""
        made = self.target()
        return made.moves == 0 and all(
            {copy.storage for copy in shard.in_sync} == set(goal.copies) and not shard.learners
            for shard, goal in zip(self.map.shards, made.shards, strict=True)
        )


def complete(shard: Shard) -> int:
    """Return how many complete copies a shard has."""
    return len(shard.in_sync) + len(shard.eligible)


def drained(want: WantedMember) -> WantedMember:
    """Return the same member, draining."""
    return replace(want, draining=True)
