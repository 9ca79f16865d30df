"""Since when members are out, or say that they will be: watched by every node, so that a new leader counts on.

    dead, never heard of, or its disk hanging --out since--> the grace --> lost: its copies are made elsewhere
    "I stop for a restart" --leaving--> down, or still there a minute later: then its word counts for nothing any more

Nothing that is safe depends on these times: copies are removed only where enough others are in sync. A node that has
just started knows of nobody's absence before its own start.
Source: replication.md, rule 3 and "Members, failure, recovery"; placement.md, Grace.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from msgspec.structs import replace

from ringkeep_node.machines.verdicts import MemberFacts

LEAVING_S = 60.0
"""A planned stop takes a few seconds, each of its waits is bounded; whoever is there so long after its word has stuck."""


class Absences:
    """See the module. ``out_since`` holds everybody who is out, by storage id, in monotonic seconds."""

    def __init__(self) -> None:
        self.out_since: dict[str, float] = {}
        self._leaving: dict[str, tuple[int, float]] = {}

    def believed(self, facts: Mapping[str, MemberFacts], *, now: float) -> dict[str, MemberFacts]:
        """Return the facts without the word of those who said long ago that they stop, and did not."""
        said = {storage: fact.counter for storage, fact in facts.items() if fact.leaving}
        held = self._leaving
        self._leaving = {
            storage: held[storage] if storage in held and held[storage][0] == counter else (counter, now)
            for storage, counter in said.items()
        }
        return {
            storage: replace(fact, leaving=False) if fact.leaving and now >= self._doubted_at(storage) else fact
            for storage, fact in facts.items()
        }

    def _doubted_at(self, storage: str) -> float:
        return self._leaving[storage][1] + LEAVING_S

    def next_doubt(self, *, now: float) -> float | None:
        """Return when the next one's word ends to count."""
        return min((at for at in map(self._doubted_at, self._leaving) if at > now), default=None)

    def watch(
        self, members: Collection[str], dead: Collection[str], facts: Mapping[str, MemberFacts], *, me: str, now: float
    ) -> None:
        """Note who is out now: called dead, never heard of, or with a disk that hangs. This node itself never is."""
        out = [it for it in members if it != me and (it in dead or it not in facts or facts[it].stalled)]
        self.out_since = {storage: self.out_since.get(storage, now) for storage in out}
