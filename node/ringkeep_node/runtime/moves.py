"""What one entry of the map moved, in words and numbers for people: copies, primaries, members, wishes.

Shards are named up to a bound, so that the entry which moves everything is told in a few lines, too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Final

from ringkeep_core.mapchanges import EventKind, MapEvent
from ringkeep_core.shardmap import ShardMap, Wanted

SHARDS_NAMED_MAX: Final = 32
GROUPS_NAMED_MAX: Final = 16

COUNTED: Final = {
    EventKind.COPY_ADDED: "copies_added",
    EventKind.COPY_IN_SYNC: "copies_in_sync",
    EventKind.COPY_OUT_OF_SYNC: "copies_out_of_sync",
    EventKind.COPY_REMOVED: "copies_removed",
    EventKind.PRIMARY_CHANGED: "primaries_moved",
}
"""Events of shards, and the field that counts them."""


def counts_of(events: Sequence[MapEvent]) -> dict[str, int]:
    """Return how many copies and primaries moved; what did not happen is left out."""
    counts: Counter[str] = Counter()
    for event in events:
        # A primary that starts anew has another boot and epoch, and has moved nowhere.
        if event.kind in COUNTED and (event.kind is not EventKind.PRIMARY_CHANGED or event.before != event.after):
            counts[COUNTED[event.kind]] += 1
    return dict(counts)


def detail_of(events: Sequence[MapEvent], before: ShardMap) -> str:
    """Return which shards went where: "primary n1 -> n4: 3, 7; copy added n4: 5"."""
    groups: dict[str, list[int]] = {}
    for event in events:
        if event.shard is not None and event.kind in COUNTED:
            groups.setdefault(_group_of(event, before), []).append(event.shard)
    told = [f"{group}: {_listed(shards)}" for group, shards in list(groups.items())[:GROUPS_NAMED_MAX]]
    if len(groups) > len(told):
        told.append(f"and {len(groups) - len(told)} more")
    return "; ".join(told)


def _group_of(event: MapEvent, before: ShardMap) -> str:
    name = event.name or event.storage
    if event.kind is not EventKind.PRIMARY_CHANGED:
        return f"{event.kind.value.replace('_', ' ')} {name}"
    member = before.members.get(event.before)
    old = member.name if member is not None else event.before
    return f"primary {old} -> {name}" if event.before != event.after else f"new epoch of primary {name}"


def _listed(shards: Sequence[int]) -> str:
    named = ", ".join(str(shard) for shard in shards[:SHARDS_NAMED_MAX])
    return named if len(shards) <= SHARDS_NAMED_MAX else f"{named} and {len(shards) - SHARDS_NAMED_MAX} more"


def wishes_of(before: Wanted, after: Wanted) -> str:
    """Return in a few words what people want otherwise than before."""
    parts = []
    for name in sorted({*before.members, *after.members}):
        old, new = before.members.get(name), after.members.get(name)
        if new is None:
            parts.append(f"without {name}")
        elif old is None:
            parts.append(f"with {name}")
        elif old.draining is not new.draining:
            parts.append(f"{name} drains" if new.draining else f"{name} stays")
        elif old.weight != new.weight:
            parts.append(f"{name} has weight {new.weight:g}")
    if before.settings != after.settings:
        parts.append("other settings")
    more = [f"and {len(parts) - GROUPS_NAMED_MAX} more"] if len(parts) > GROUPS_NAMED_MAX else []
    return ", ".join(parts[:GROUPS_NAMED_MAX] + more) or "nothing else than before"
