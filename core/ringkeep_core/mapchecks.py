"""What must hold of every shard map, and what changed between two.

``check`` states the invariants that ``ringkeep_core.maprules`` keeps; tests and simulations assert it after every
entry. ``diff`` turns two maps into the events that people read in ``/v1/cluster/events``.

Source: replication.md, "The shard map" and rules 3 to 5; testing.md, god's-eye checks.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum

from msgspec import Struct

from ringkeep_core.shardmap import Copy, Shard, ShardMap


def check(shard_map: ShardMap) -> tuple[str, ...]:
    """Return a sentence for each broken invariant; nothing if the map is sound."""
    return (*_member_faults(shard_map), *_wanted_faults(shard_map), *_shard_faults(shard_map))


def _member_faults(shard_map: ShardMap) -> Iterator[str]:
    names: set[str] = set()
    boots: set[str] = set()
    for storage, member in shard_map.members.items():
        if member.storage != storage:
            yield f"member {storage} is filed under another storage id than its own, {member.storage}"
        if member.name in names:
            yield f"two members are named {member.name}"
        if member.boot in boots:
            yield f"two members share the boot {member.boot}"
        if member.since > shard_map.version:
            yield f"member {member.name} registered at {member.since}, after the map's version"
        if storage in shard_map.left:
            yield f"member {member.name} has a storage id that has left"
        names.add(member.name)
        boots.add(member.boot)


def _wanted_faults(shard_map: ShardMap) -> Iterator[str]:
    if shard_map.wanted.revision < 1:
        yield "the wanted state has no revision"
    for name, want in shard_map.wanted.members.items():
        if not want.weight >= 0:
            yield f"the weight of {name} is {want.weight}"


def _shard_faults(shard_map: ShardMap) -> Iterator[str]:
    need_max = shard_map.need_wanted()
    for number, shard in enumerate(shard_map.shards):
        for fault in _faults_of(shard_map, shard):
            yield f"shard {number}: {fault}"
        if not 1 <= shard.need <= need_max:
            yield f"shard {number}: need is {shard.need}, the wanted state allows 1..{need_max}"


def _faults_of(shard_map: ShardMap, shard: Shard) -> Iterator[str]:
    holders = [copy.storage for copy in (*shard.in_sync, *shard.learners)]
    if not 1 <= shard.epoch <= shard.revision:
        yield f"epoch {shard.epoch} and revision {shard.revision} do not fit"
    if not shard.is_in_sync(shard.primary.storage):
        yield "the primary is not in in_sync"
    if not shard_map.is_registered(shard.primary.storage, shard.primary.boot):
        yield "the epoch belongs to a boot that is not registered"
    if len(set(holders)) != len(holders):
        yield "a member is listed twice in in_sync + learners"
    if len(set(shard.eligible)) != len(shard.eligible) or not set(shard.eligible) <= set(shard.learners):
        yield "eligible is not a subset of learners"
    if shard.eligible and len(shard.in_sync) >= shard.need:
        yield "in_sync reaches need, but eligible is not empty"
    if not all(storage in shard_map.members for storage in holders):
        yield "a copy belongs to nobody registered"
    if any(copy.added > shard_map.version for copy in (*shard.in_sync, *shard.learners)):
        yield "a copy was added after the map's version"


class EventKind(StrEnum):
    """What an event of the map's history says."""

    MEMBER_REGISTERED = "member_registered"
    MEMBER_RESTARTED = "member_restarted"
    MEMBER_LEFT = "member_left"
    WANTED_CHANGED = "wanted_changed"
    PRIMARY_CHANGED = "primary_changed"
    COPY_IN_SYNC = "copy_in_sync"
    COPY_OUT_OF_SYNC = "copy_out_of_sync"
    COPY_ADDED = "copy_added"
    COPY_REMOVED = "copy_removed"
    NEED_CHANGED = "need_changed"


class MapEvent(Struct, frozen=True):
    """One line of the map's history. Members are named by storage id and, where known, by name.

    ``before`` and ``after`` are storage ids for a change of primary, numbers in decimal for need and wanted revision,
    boot ids for a restart, and empty otherwise.
    """

    version: int
    kind: EventKind
    reason: str
    shard: int | None = None
    storage: str = ""
    name: str = ""
    before: str = ""
    after: str = ""


def diff(before: ShardMap, after: ShardMap, *, reason: str = "") -> tuple[MapEvent, ...]:
    """Return what changed from one map to a later one, members first, then shard by shard."""
    if before is after:
        return ()
    return (*_member_events(before, after, reason), *_shard_events(before, after, reason))


def _member_events(before: ShardMap, after: ShardMap, reason: str) -> Iterator[MapEvent]:
    version = after.version
    for storage, member in after.members.items():
        old = before.members.get(storage)
        if old is None:
            yield MapEvent(version, EventKind.MEMBER_REGISTERED, reason, storage=storage, name=member.name)
        elif old.boot != member.boot:
            yield MapEvent(
                version,
                EventKind.MEMBER_RESTARTED,
                reason,
                storage=storage,
                name=member.name,
                before=old.boot,
                after=member.boot,
            )
    for storage, member in before.members.items():
        if storage not in after.members:
            yield MapEvent(version, EventKind.MEMBER_LEFT, reason, storage=storage, name=member.name)
    if before.wanted.revision != after.wanted.revision:
        yield MapEvent(
            version,
            EventKind.WANTED_CHANGED,
            reason,
            before=str(before.wanted.revision),
            after=str(after.wanted.revision),
        )


def _shard_events(before: ShardMap, after: ShardMap, reason: str) -> Iterator[MapEvent]:
    names = {storage: member.name for storage, member in (*before.members.items(), *after.members.items())}
    for number, (old, new) in enumerate(zip(before.shards, after.shards, strict=True)):
        if old is new or old == new:
            continue
        if old.primary != new.primary:
            yield MapEvent(
                after.version,
                EventKind.PRIMARY_CHANGED,
                reason,
                number,
                new.primary.storage,
                names.get(new.primary.storage, ""),
                old.primary.storage,
                new.primary.storage,
            )
        for kind, copy in _copy_changes(old, new):
            yield MapEvent(after.version, kind, reason, number, copy.storage, names.get(copy.storage, ""))
        if old.need != new.need:
            yield MapEvent(
                after.version, EventKind.NEED_CHANGED, reason, number, before=str(old.need), after=str(new.need)
            )


def _copy_changes(old: Shard, new: Shard) -> Iterator[tuple[EventKind, Copy]]:
    had, has = old.in_sync + old.learners, new.in_sync + new.learners
    for copy in new.in_sync:
        if copy not in old.in_sync:
            yield EventKind.COPY_IN_SYNC, copy
    for copy in old.in_sync:
        if copy not in new.in_sync:
            yield EventKind.COPY_OUT_OF_SYNC, copy
    for copy in has:
        if copy not in had:
            yield EventKind.COPY_ADDED, copy
    for copy in had:
        if copy not in has:
            yield EventKind.COPY_REMOVED, copy
