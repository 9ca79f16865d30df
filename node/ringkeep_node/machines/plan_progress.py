"""How far a plan is, why it runs and what it waits for: for status, events and people.

Source: interface.md (scale, drain, status); placement.md, "A plan can always be shown".
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from msgspec import Struct

from ringkeep_core.placement import Candidate, NodeState, ShardCopies, Target
from ringkeep_core.placement.model import LIVE
from ringkeep_node.machines.shard_work import Work

WAITS_MAX = 8
BALANCE = "back to balance"


class PlanProgress(Struct, frozen=True, kw_only=True):
    """How far a plan is. Copies are counted since this leader began it; a new leader begins with what is left.

    ``copies_wanted`` are all that had to become in sync, copies that came back after a restart among them; ``streams``
    are snapshots and tails on their way as (from, to, shards), by names; ``waits`` says why parts of it do not go on.
    """

    reason: str
    wanted_revision: int
    target_digest: str
    copies_wanted: int
    copies_moved: int
    primaries_to_move: int
    copies_to_remove: int
    streams: tuple[tuple[str, str, int], ...]
    waits: tuple[str, ...]
    seconds: float


def copies_left(works: Iterable[Work]) -> int:
    """Return how many copies are still to become in sync."""
    return sum(len(work.lacks) + len(work.streams) for work in works)


def waits_of(works: Iterable[Work]) -> tuple[str, ...]:
    """Return what shards wait for, in words, with their number."""
    waits: dict[str, int] = {}
    for work in works:
        reason = _wait_of(work)
        if reason:
            waits[reason] = waits.get(reason, 0) + 1
    return tuple(f"{count} shards wait: {reason}" for reason, count in sorted(waits.items())[:WAITS_MAX])


def drain_wait_of(works: Iterable[Work], candidates: Sequence[Candidate], copies: int) -> tuple[str, ...]:
    """Return whom a drain waits for that cannot end: of those that stay, fewer live than there should be ``copies``.

    Dead members with weight still count for ``copies``; the draining ones keep their copies until they are back.
    """
    staying = [it for it in candidates if it.weight > 0 and not it.draining]
    missing = [it.node for it in staying if it.state not in LIVE]
    draining = [it.node for it in candidates if it.draining]
    living = len(staying) - len(missing)
    if not (draining and missing) or living >= copies or not any(work.kept for work in works):
        return ()
    return (
        f"{', '.join(draining)} cannot give up its copies: {living} living nodes would remain for {copies} copies; "
        f"start {' or '.join(missing)}, or drain it too",
    )


def _wait_of(work: Work) -> str:
    if work.is_out:
        return "the primary is out"
    if work.lacks and not work.streams:
        return "a stream to another copy is not free yet"
    return "old copies stay until the new ones are in sync" if work.kept and not work.surplus else ""


def reason_of(shards: Sequence[ShardCopies], candidates: Sequence[Candidate], made: Target, grace_s: float) -> str:
    """Return in a few words why shards move: for the events that people read."""
    holders = {node for shard in shards for node in (*shard.in_sync, *shard.eligible, *shard.learners)}
    held = {candidate.node: candidate.node in holders for candidate in candidates}
    dead = [it.node for it in candidates if it.state is NodeState.DEAD and held[it.node]]
    draining = [it.node for it in candidates if it.draining and it.node not in dead and held[it.node]]
    joining = [it.node for it in candidates if made.quotas.get(it.node, 0) > 0 and not held[it.node]]
    weightless = [it.node for it in candidates if it.weight == 0 and not it.draining and held[it.node]]
    parts = [
        f"re-replication: {', '.join(dead)} dead for {grace_s:g} s" if dead else "",
        f"drain {', '.join(draining)}" if draining else "",
        f"scale: {', '.join(joining)} {'join' if joining[1:] else 'joins'}" if joining else "",
        f"weight 0 for {', '.join(weightless)}" if weightless else "",
    ]
    return "; ".join(part for part in parts if part) or BALANCE
