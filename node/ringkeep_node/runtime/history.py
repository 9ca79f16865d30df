"""What happened to the map and to members, as this node saw it: a bounded history for people.

Each entry has a number that only grows within a boot, a wall time, and a sentence with the reason. It is kept in memory
only: the map itself is the truth, this is its story.
"""

from __future__ import annotations

from collections import Counter, deque
from typing import Final

from ringkeep_core.mapchanges import (
    Boot,
    EventKind,
    Leave,
    MapChange,
    NewGeneration,
    SetWanted,
    ShardChanges,
    diff,
    reason_of,
)
from ringkeep_core.maprules import Applied
from ringkeep_core.shardmap import ShardMap
from ringkeep_node.machines.node import NodeStep
from ringkeep_node.machines.swim.members import Evidence, MemberChanged, MemberState
from ringkeep_node.runtime.moves import counts_of, detail_of, wishes_of
from ringkeep_node.runtime.reports import Event

EVENTS_MAX: Final = 1000


class History:
    """The newest events, and counts that metrics show."""

    def __init__(self) -> None:
        self._events: deque[Event] = deque(maxlen=EVENTS_MAX)
        self._number = 0
        self.verdicts: Counter[str] = Counter()
        self.copies_moved: Counter[str] = Counter()
        """Copies that became in sync while this node watched, by storage id."""

    def after(self, number: int) -> tuple[Event, ...]:
        """Return events with a greater number, oldest first."""
        return tuple(event for event in self._events if event.number > number)

    def stepped(self, step: NodeStep, at: float, *, held: ShardMap | None = None) -> tuple[Event, ...]:
        """Take in what a step changed since the map ``held``; return the new events."""
        if not (step.map_changes or step.member_changes):
            return ()
        before = self._number
        for change, after, applied in step.map_changes:
            self._map_change(change, held, applied, at)
            held = after
        for changed in step.member_changes:
            self._member_change(changed, at)
        return self.after(before)

    def stranger(self, address: str, reason: str, repeated: int, at: float) -> None:
        """Somebody was refused, and so often before for the same reason without an event."""
        often = f" (and {repeated} times before)" if repeated else ""
        fields: dict[str, str | int | float] = {"address": address, "repeated": repeated}
        self._add(at, "refused", f"{address} was refused: {reason}{often}", fields)

    def left(self, sentence: str, at: float) -> None:
        """This node has left the cluster for good."""
        self._add(at, "left", sentence, {})

    def leads(self, name: str, term: int, at: float) -> None:
        """Somebody was elected to lead the Raft group."""
        self._add(at, "leader", f"{name} leads the cluster in term {term}", {"member": name, "term": term})

    def followed(self, before: ShardMap, after: ShardMap, at: float) -> None:
        """This node took the map of a later generation from another one."""
        text = (
            f"this node follows generation {after.generation} from version {after.version}; what generation "
            f"{before.generation} did after version {before.version} does not count"
        )
        self._add(at, "recover", text, {"version": after.version, "former": before.version})

    def _add(self, at: float, kind: str, text: str, fields: dict[str, str | int | float]) -> None:
        self._number += 1
        self._events.append(Event(self._number, at, kind, text, fields))

    def _map_change(self, change: MapChange, before: ShardMap | None, applied: Applied, at: float) -> None:
        done = sum(1 for outcome in applied.outcomes if outcome is None)
        if not done:
            return
        fields: dict[str, str | int | float] = {"version": applied.map.version, "reason": reason_of(change)}
        if before is not None:
            fields |= self._moves(before, applied.map)
        if isinstance(change, Boot):
            text = f"{change.name} {_how_started(change, before)} (boot {change.counter})"
            self._add(at, "boot", text, fields | {"member": change.name})
        elif isinstance(change, ShardChanges):
            kinds = Counter(type(one).__name__.lower() for one in change.changes)
            what = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
            text = f"{done} of {len(change.changes)} shard changes ({what}): {change.reason}"
            self._add(at, "shards", text, fields | {"shards": done})
        elif isinstance(change, SetWanted):
            if before is not None and before.version == applied.map.version:
                return  # It was there already: told once.
            wishes = wishes_of(before.wanted, change.wanted) if before is not None else ""
            text = f"wanted state {change.wanted.revision}: {change.reason}" + (f" ({wishes})" if wishes else "")
            self._add(at, "wanted", text, fields)
        elif isinstance(change, NewGeneration):
            self._add(at, "recover", f"generation {change.generation} begins: {change.reason}", fields)
        elif isinstance(change, Leave):
            member = before.members.get(change.storage) if before is not None else None
            who = f"{member.name} (storage {change.storage})" if member is not None else f"storage {change.storage}"
            named: dict[str, str | int | float] = {"member": member.name} if member is not None else {}
            self._add(at, "leave", f"{who} left: {change.reason}", fields | named)

    def _moves(self, before: ShardMap, after: ShardMap) -> dict[str, str | int | float]:
        events = diff(before, after)
        for event in events:
            if event.kind is EventKind.COPY_IN_SYNC:
                self.copies_moved[event.storage] += 1
        detail = detail_of(events, before)
        return {**counts_of(events), **({"detail": detail} if detail else {})}

    def _member_change(self, changed: MemberChanged, at: float) -> None:
        if changed.before is changed.after or _is_only_registered(changed):
            return
        state = changed.after.name.lower()
        if changed.after in (MemberState.SUSPECT, MemberState.DEAD):
            self.verdicts[state] += 1
        why = ", ".join(evidence.value for evidence in changed.evidence)
        before = changed.before.name.lower() if changed.before is not None else ""
        fields: dict[str, str | int | float] = {"member": changed.name, "state": state, "before": before, "why": why}
        self._add(at, "member", f"{changed.name} is {state}" + (f" ({why})" if why else ""), fields)


def _how_started(change: Boot, before: ShardMap | None) -> str:
    if before is None or change.storage in before.members:
        return "started"
    return "came back with an empty disk" if change.name in before.by_name else "joined"


def _is_only_registered(changed: MemberChanged) -> bool:
    """Return whether a member is only named by the map: it is doubted until it speaks, and nothing happened to it."""
    unheard = changed.before is None or changed.after is MemberState.SUSPECT
    return unheard and all(evidence is Evidence.REGISTERED for evidence in changed.evidence)
