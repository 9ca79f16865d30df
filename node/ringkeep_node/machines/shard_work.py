"""What one shard lacks on its way to where the plan wants it, and which of that is safe now.

    copies missing      -> add a learner (its primary sends the snapshot and lets it in)
    primary elsewhere   -> hand over, once the wanted one is in sync and nothing streams from the present one
    copies too many     -> remove, once as many sure ones as are wanted remain in in_sync

Everything is derived from the shard as the map has it and from its goal, never from a list of steps: whoever changed
the shard in between, a former leader or a failover, the next safe changes follow. The order inside a shard is the one of
``ringkeep_core.placement.stepping``: the future primary's copy first, then the primary moves, then old copies go.

Source: placement.md step 8 and "Safety of the steps"; replication.md rule 3; counterexamples.md S6(e), L10.
"""

from __future__ import annotations

from msgspec import Struct

from ringkeep_core.shardmap import Copy, Shard
from ringkeep_node.machines.failovers import Standing


class Goal(Struct, frozen=True):
    """Where a shard should be, by storage ids. No copies at all means that nothing is known to be better."""

    copies: tuple[str, ...]
    primary: str | None


class Work(Struct, frozen=True):
    """What a shard lacks now. ``urgency`` sorts the endangered first, then everybody by hash.

    ``lacks`` get a learner next, the first one first; ``streams`` are learners on their way; ``to`` takes the primary
    over; ``forced``: the present primary must not stay, whatever the balance; ``surplus`` may go now, ``kept`` copies may
    not go yet; ``is_out``: its primary is out, so nothing goes on before the failover.
    """

    shard: int
    primary: str
    urgency: tuple[int, int]
    lacks: tuple[str, ...] = ()
    streams: tuple[str, ...] = ()
    to: str | None = None
    forced: bool = False
    surplus: tuple[Copy, ...] = ()
    kept: int = 0
    is_out: bool = False

    @property
    def repairs(self) -> bool:
        """Return whether the shard has fewer copies in sync than it should."""
        return self.urgency[0] < MOVES

    @property
    def moves_first(self) -> bool:
        """Return whether the primary should move before another copy is added: the new one sends the snapshot then."""
        return self.to is not None and not self.repairs


MOVES = 1 << 16
"""The urgency of a shard that has all its copies."""


def work_of(
    number: int, shard: Shard, goal: Goal, standing: Standing, *, copies_wanted: int, place: int
) -> Work | None:
    """Return what the shard lacks, or None if nothing is to be done for it now.

    Args:
        number: the shard's number.
        shard: its sets as the map has them.
        goal: where it should be.
        standing: who lives and may lead.
        copies_wanted: how many in-sync copies a shard should have at least before a complete one is given up.
        place: its place in the order of hashes.
    """
    in_sync = [copy.storage for copy in shard.in_sync]
    primary = shard.primary.storage
    if not goal.copies:
        return None
    if not shard.learners and goal.primary in (primary, None) and set(in_sync) == set(goal.copies):
        return None
    urgency = (_lives(shard, standing) if len(in_sync) < len(goal.copies) else MOVES, place)
    held = {copy.storage for copy in shard.learners}
    missing = _in_order(goal, [storage for storage in goal.copies if storage not in in_sync])
    streams = tuple(storage for storage in missing if storage in held and standing.can_lead(storage))
    lacks = tuple(storage for storage in missing if storage not in held and standing.takes(storage))
    if not standing.can_lead(primary):
        return Work(number, primary, urgency, is_out=True) if lacks or streams else None
    to = _next_primary(shard, goal, standing) if not streams else None
    surplus, kept = _surplus(shard, goal, standing, copies_wanted)
    if not (lacks or streams or to or surplus or kept):
        return None
    return Work(number, primary, urgency, lacks, streams, to, primary not in goal.copies, surplus, kept)


def _lives(shard: Shard, standing: Standing) -> int:
    """Return how many complete copies are on members that live."""
    return sum(1 for copy in (*shard.in_sync, *shard.eligible) if standing.lives(copy.storage))


def _in_order(goal: Goal, missing: list[str]) -> list[str]:
    """The future primary comes first: it takes over as soon as it is in sync."""
    if goal.primary in missing:
        missing.remove(goal.primary)
        missing.insert(0, goal.primary)
    return missing


def _next_primary(shard: Shard, goal: Goal, standing: Standing) -> str | None:
    to = goal.primary
    if to is None or to == shard.primary.storage or not shard.is_in_sync(to) or not standing.takes(to):
        return None
    return to


def _surplus(shard: Shard, goal: Goal, standing: Standing, copies_wanted: int) -> tuple[tuple[Copy, ...], int]:
    """Return the copies that may be removed now, and how many of no use must still stay.

    A learner on a live member is complete in no sense, so it may go at any time. One on a dead member is the copy that
    comes back if its node does: it stays until its replacement is in sync, like every complete copy (rule 3).
    """
    sure = [copy.storage for copy in shard.in_sync if copy.storage not in standing.doubtful]
    enough = max(shard.need, copies_wanted, len(goal.copies))
    useless = [copy for copy in shard.learners if copy.storage not in goal.copies]
    going = [
        copy for copy in useless if copy not in shard.eligible and (standing.lives(copy.storage) or len(sure) >= enough)
    ]
    leftover = [copy for copy in shard.in_sync if copy.storage not in (*goal.copies, shard.primary.storage)]
    spare = len(sure) - enough
    given_up = [copy for copy in leftover if copy.storage in sure][: max(0, spare)]
    kept = len(useless) - len(going) + len(leftover) - len(given_up)
    return (*going, *given_up), kept
