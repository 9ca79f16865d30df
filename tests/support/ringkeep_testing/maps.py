"""Small shard maps for tests: members and shards with short names, and one call per change."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from ringkeep_core.mapchanges import Applied, MapChange, Refusal, ShardChange, ShardChanges, apply
from ringkeep_core.shardmap import (
    GENERATION_STEP,
    Copy,
    Member,
    Primary,
    Settings,
    Shard,
    ShardMap,
    Wanted,
    WantedMember,
)

FIRST = GENERATION_STEP + 1


def member(name: str, *, storage: str = "", boot: str = "", counter: int = 1, zone: str = "") -> Member:
    """Return a member: storage id = ``name``, boot id = ``<name>-<counter>`` unless said otherwise."""
    return Member(
        storage=storage or name,
        name=name,
        boot=boot or f"{name}-{counter}",
        boot_counter=counter,
        url=f"http://{name}",
        peer=f"{name}:7400",
        zone=zone,
        since=FIRST,
    )


def copies(storages: str, *, added: int = FIRST) -> tuple[Copy, ...]:
    """Return copies of the members named in ``storages``, by spaces."""
    return tuple(Copy(storage, added) for storage in storages.split())


def shard(in_sync: str, *, eligible: str = "", learners: str = "", need: int = 2, epoch: int = 1) -> Shard:
    """Return a shard led by the first of ``in_sync``; who is eligible is a learner as well."""
    first = in_sync.split()[0]
    return Shard(
        epoch=epoch,
        revision=epoch,
        primary=Primary(first, f"{first}-1"),
        in_sync=copies(in_sync),
        eligible=copies(eligible),
        learners=copies(eligible) + copies(learners),
        need=need,
    )


def shard_map(names: str, shards: Sequence[Shard], *, settings: Settings | None = None, draining: str = "") -> ShardMap:
    """Return a map of the members named in ``names``, all wanted with weight 1."""
    return ShardMap(
        cluster_id="c" * 16,
        version=FIRST,
        members={name: member(name) for name in names.split()},
        wanted=Wanted(
            revision=1,
            members={name: WantedMember(draining=name in draining.split()) for name in names.split()},
            settings=settings or Settings(),
        ),
        shards=tuple(shards),
    )


def after(before: ShardMap, change: MapChange) -> ShardMap:
    """Return the next map; the change must be accepted."""
    applied = apply(before, before.version + 1, change)
    assert applied.outcomes == (None,) * len(applied.outcomes), applied.outcomes
    return applied.map


def shard_after(before: ShardMap, change: ShardChange) -> Shard:
    """Return the shard after one change of it; the change must be accepted."""
    return after(before, ShardChanges((change,), "test")).shards[change.shard]


def refusal(before: ShardMap, change: MapChange | ShardChange) -> str:
    """Return the code with which the change is refused; it must be, and the map must stay the same object."""
    entry = ShardChanges((change,), "test") if isinstance(change, ShardChange) else change
    applied: Applied = apply(before, before.version + 1, entry)
    assert applied.map is before
    (outcome,) = applied.outcomes
    assert isinstance(outcome, Refusal)
    return outcome.code


def wanted_with(before: ShardMap, *, settings: Settings | None = None, **weights: float) -> Wanted:
    """Return the next wanted state: other settings, and other weights by name."""
    members = dict(before.wanted.members)
    for name, weight in weights.items():
        members[name] = replace(members.get(name, WantedMember()), weight=weight)
    return Wanted(before.wanted.revision + 1, members, settings or before.wanted.settings)
