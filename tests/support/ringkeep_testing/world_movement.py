"""What must hold while members come and go: of every entry, of every configuration of the Raft group, and in the end.

every entry     a plan gives up a complete copy only while as many as are needed and wanted remain; nobody gets a copy who
                is not to hold one; a storage that left is never in the map again
every step      two committed configurations of voters in a row share a majority of both
the end         the map is the target of the wanted state with everybody alive; voters are as many as the members call
                for, spread over zones; who left holds nothing and votes nowhere

Source: testing.md, god's-eye checks; replication.md rule 3, "Raft group", "Leave"; placement.md, "Safety of the steps".
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from ringkeep_core.electorate import voters_wanted
from ringkeep_core.mapchanges import AddLearner, Leave, MapChange, Move, RemoveCopy, ShardChanges, Touch
from ringkeep_core.placement import NodeState
from ringkeep_core.plans import NOT_WANTED, NodeFacts, target_of
from ringkeep_core.shardmap import Copy, Member, Shard, ShardMap, generation_at
from ringkeep_core.shardrules import is_leaving
from ringkeep_node.machines.raft.messages import Configuration

if TYPE_CHECKING:
    from ringkeep_testing.node_world import World
    from ringkeep_testing.world_machine import Machine

ALIVE = NodeFacts(NodeState.ALIVE)
MOVES_MAX = 16
PLANNED = (AddLearner, Move, RemoveCopy, Touch)


class Movement:
    """See the module. Counts what moved: ``copies_added``, ``primaries_moved`` by shard."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.copies_added = 0
        self.changes: list[tuple[ShardMap, MapChange, ShardMap]] = []
        """Every entry that changed the map, with the map before and after it, if ``keeps``."""
        self.keeps = False
        self.primaries_moved: dict[int, int] = {}
        self.ever_voted: set[str] = set()
        self.deleted: set[str] = set()
        self.configurations: dict[int, Configuration] = {}
        self._seen: dict[str, tuple[int, int, bool]] = {}
        self._present: dict[str, Configuration] = {}
        self._whole_at = -1
        self._faults_of_map: list[str] = []

    # --- entries -------------------------------------------------------------------------------------------------

    def applied(self, before: ShardMap, change: MapChange, after: ShardMap) -> None:
        """An entry was applied for the first time."""
        for fault in self._faults_of(before, change, after):
            raise self._world.violation(f"after {change}: {fault}")
        if self.keeps:
            self.changes.append((before, change, after))
        for number, (old, new) in enumerate(zip(before.shards, after.shards, strict=True)):
            if old.primary.storage != new.primary.storage:
                self.primaries_moved[number] = self.primaries_moved.get(number, 0) + 1
            if old is not new:
                self.copies_added += len({c.storage for c in held(new)} - {c.storage for c in held(old)})

    def _faults_of(self, before: ShardMap, change: MapChange, after: ShardMap) -> Iterator[str]:
        if after.left[: len(before.left)] != before.left:
            yield "a storage that had left is forgotten"
        gone = self.deleted.intersection(copy.storage for shard in after.shards for copy in held(shard))
        if gone or self.deleted.intersection(after.members):
            yield f"nodes that were deleted count: {sorted(gone)}"
        if isinstance(change, Leave) and change.storage in after.left and change.storage not in before.left:
            if any(shard.copy_of(change.storage) is not None for shard in before.shards):
                yield f"{change.storage} left with copies"
            if change.storage in self._configuration_at(after.index).members():
                yield f"{change.storage} left with a vote"
        if isinstance(change, ShardChanges):
            moves = sum(isinstance(part, Move) for part in change.changes)
            if moves > MOVES_MAX:
                yield f"{moves} primaries move in one entry"
            yield from self._faults_of_shards(before, change, after)

    def _faults_of_shards(self, before: ShardMap, change: ShardChanges, after: ShardMap) -> Iterator[str]:
        wanted = before.wanted.members
        by_shard: dict[int, list[object]] = {}
        for part in change.changes:
            by_shard.setdefault(part.shard, []).append(part)
            if isinstance(part, AddLearner) and _gained(before, after, part):
                want = wanted.get(before.members[part.storage].name, NOT_WANTED)
                if want.draining or want.weight <= 0:
                    yield f"shard {part.shard}: {part.storage} is to hold nothing and got a copy"
        for number, parts in by_shard.items():
            old, new = before.shards[number], after.shards[number]
            if old is not new and all(isinstance(part, PLANNED) for part in parts):
                yield from self._lost_copies(number, old, new, max(new.need, before.copies_wanted()))

    def _lost_copies(self, number: int, old: Shard, new: Shard, enough: int) -> Iterator[str]:
        if complete(new) < complete(old) and len(new.in_sync) < enough:
            yield f"shard {number} went from {complete(old)} complete copies to {complete(new)} of {enough}"

    # --- the Raft group ------------------------------------------------------------------------------------------

    def group_seen(self, machine: Machine) -> None:
        """Look at what a node knows of the configurations, if that is news."""
        if machine.node is None:
            return
        raft = machine.node.raft
        log = raft._log
        at, commit = log.configuration_index, log.commit
        news = (machine.life, at, commit >= at)
        if self._seen.get(machine.name) == news:
            return
        self._seen[machine.name] = news
        self._present[machine.storage] = raft.configuration
        for index, configuration in log._configurations:
            self.ever_voted.update(configuration.members())
            if index <= commit and configuration.voters and index not in self.configurations:
                self._committed(index, configuration)

    def _committed(self, index: int, configuration: Configuration) -> None:
        self.configurations[index] = configuration
        known = sorted(self.configurations)
        for one, other in pairwise(known):
            if index in (one, other):
                changed = set(self.configurations[one].voters) ^ set(self.configurations[other].voters)
                if len(changed) > 1 and generation_at(one) == generation_at(other):
                    raise self._world.violation(f"the voters at {one} and {other} differ by {sorted(changed)}")
        if index == known[-1] and self.deleted.intersection(configuration.members()):
            raise self._world.violation(f"a node that was deleted votes: {configuration}")

    def newest_configuration(self) -> Configuration:
        """Return the newest configuration that is known to be committed."""
        return self.configurations[max(self.configurations)] if self.configurations else Configuration()

    def _configuration_at(self, index: int) -> Configuration:
        known = [at for at in self.configurations if at <= index]
        return self.configurations[max(known)] if known else Configuration()

    def may_lose_voter(self, storage: str) -> bool:
        """Return whether every group that this storage may be counted in keeps a majority of disks without it.

        While the voters may be about to change, one disk more must be left: nobody can know of a loss at once.
        """
        present, spare = self._world.disks(), 0 if self._world.people.is_quiet else 1
        for of, configuration in self._present.items():
            voters = configuration.voters
            if of in present and of in voters and storage in voters:
                left = [voter for voter in voters if voter in present and voter != storage]
                if len(left) - spare <= len(voters) // 2:
                    return False
        return True

    def has_lost_voters(self) -> bool:
        """Return whether the disk of a voter is gone, and nobody votes in its place yet."""
        present = self._world.disks()
        return any(voter not in present for voter in self.newest_configuration().voters)

    # --- the end -------------------------------------------------------------------------------------------------

    def left_to_do(self) -> list[str]:
        """Return what is still to be done until everything is as people want it; nothing once it is."""
        newest, faults = self._world.eye.newest, []
        if self._whole_at != newest.version:
            self._whole_at, self._faults_of_map = newest.version, list(map_faults(newest))
        faults += self._faults_of_map
        leaders = [it for it in self._world.machines.values() if it.node is not None and it.node.control.leads]
        if len(leaders) != 1:
            return [*faults, f"{len(leaders)} leaders"]
        assert leaders[0].node is not None
        return [*faults, *voter_faults(newest, leaders[0].node.raft.configuration)]


def _gained(before: ShardMap, after: ShardMap, part: AddLearner) -> bool:
    had, has = (it.shards[part.shard].copy_of(part.storage) is not None for it in (before, after))
    return has and not had


def complete(shard: Shard) -> int:
    """Return how many complete copies a shard has."""
    return len(shard.in_sync) + len(shard.eligible)


def held(shard: Shard) -> list[Copy]:
    """Return all copies of a shard."""
    return [*shard.in_sync, *shard.learners]


def map_faults(shard_map: ShardMap) -> Iterator[str]:
    """Yield where a map differs from the target of its wanted state, everybody alive."""
    names = {storage: member.name for storage, member in shard_map.members.items()}
    made = target_of(shard_map, shard_map.wanted, dict.fromkeys(names.values(), ALIVE))
    for number, (shard, goal) in enumerate(zip(shard_map.shards, made.shards, strict=True)):
        there = {names[copy.storage] for copy in shard.in_sync}
        if there != set(goal.copies) or shard.learners:
            yield f"shard {number} has {sorted(there)} and {len(shard.learners)} learners, not {sorted(goal.copies)}"
        elif names[shard.primary.storage] != goal.primary:
            yield f"shard {number} is led by {names[shard.primary.storage]}, not by {goal.primary}"
        if shard.need != shard_map.need_wanted():
            yield f"shard {number} needs {shard.need}, not {shard_map.need_wanted()}"


def voter_faults(shard_map: ShardMap, configuration: Configuration) -> Iterator[str]:
    """Yield what is wrong with the voters once everybody lives: 1, 2, 3, 3, 5 of those that stay, spread over zones."""
    staying = [it for it in shard_map.members.values() if not is_leaving(shard_map.wanted, it.name)]
    fit = [it for it in staying if shard_map.wanted.members[it.name].weight > 0] or staying
    if not fit:
        yield "nobody stays"
        return
    voters = [it for it in fit if it.storage in configuration.voters]
    if configuration.learners or len(voters) != len(configuration.voters) or len(voters) != voters_wanted(len(fit)):
        yield f"{len(voters)} of {len(fit)} members vote in {configuration}"
    sizes = zone_sizes(shard_map, fit)
    most = next(
        cap for cap in range(1, len(fit) + 1) if sum(min(size, cap) for size in sizes) >= voters_wanted(len(fit))
    )
    if max(zone_sizes(shard_map, voters), default=0) > most:
        yield f"more than {most} voters are in one zone: {[it.name for it in voters]}"


def zone_sizes(shard_map: ShardMap, members: Sequence[Member]) -> list[int]:
    """Return how many of some members are in each zone."""
    sizes: dict[str, int] = {}
    for member in members:
        zone = shard_map.wanted.members[member.name].zone or member.zone
        sizes[zone] = sizes.get(zone, 0) + 1
    return list(sizes.values())
