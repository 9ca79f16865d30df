"""One sentence that says whether all is well, and one that says what is being done about it if not. Pure.

The worst thing comes first: shards that nobody can write, then no leader, then missing copies, then work under way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

NAMED_MAX: Final = 4


def headline(
    counts: Mapping[str, int],
    members: Mapping[str, Mapping[str, Any]],
    leader: str | None,
    plan: Mapping[str, Any] | None,
    grace_s: float,
) -> dict[str, str]:
    """Return {level, text, doing}; ``level`` is ok, working, degraded or broken."""
    total = counts["total"]
    if not total:
        return _said("degraded", "This node belongs to no cluster yet.", "It waits for its seeds or for a founder.")
    dead = [name for name, row in members.items() if row["state"] == "dead"]
    suspect = [name for name, row in members.items() if row["state"] == "suspect"]
    because = f": {_are(dead, 'dead')}" if dead else ""
    if down := counts["unavailable"]:
        if leader is None:
            doing = "No leader is known, so nobody can fail over until a majority of the voters is back."
        else:
            doing = f"{leader} leads and fails them over as soon as a complete copy is alive."
        return _said("broken", f"{_shards(down, total)} cannot be written or read{because}.", doing)
    if leader is None:
        text = f"No leader is known{because}. All {total} shards go on serving."
        return _said("degraded", text, "The voters elect one; until then nothing fails over and nothing moves.")
    if few := counts["under_replicated"]:
        text = f"All {total} shards serve, {few} of them with fewer copies than wanted{because}."
        return _said("degraded", text, _repair(dead, plan, grace_s))
    if suspect:
        text = f"All {total} shards are ok, but {_are(suspect, 'suspected')}."
        return _said("working", text, "Other nodes probe it; it is cleared or called dead within seconds.")
    if plan is not None or counts["moving"]:
        return _said("working", f"All {total} shards serve while copies move.", _progress(plan))
    if dead:
        return _said("working", f"All {total} shards are ok although {_are(dead, 'dead')}.", "Nothing is left to move.")
    alive = sum(1 for row in members.values() if row["state"] == "alive")
    return _said("ok", f"All is well: {total} shards, every copy in sync on {alive} nodes.", "")


def _repair(dead: Sequence[str], plan: Mapping[str, Any] | None, grace_s: float) -> str:
    if plan is not None and plan["copies_done"] < plan["copies"]:
        return _progress(plan)
    if dead:
        return f"{_are(dead, 'awaited')} for {grace_s:g} s after dying; then others get the copies, if there are any."
    return "The copies are brought up to date."


def _progress(plan: Mapping[str, Any] | None) -> str:
    if plan is None:
        return "Copies are brought up to date."
    done = f"{plan['copies_done']} of {plan['copies']} copies are there"
    left = f", about {plan['eta_s']} s left" if plan["eta_s"] is not None else ""
    return f"{plan['reason'][:1].upper()}{plan['reason'][1:]}: {done}{left}." if plan["reason"] else f"{done}{left}."


def _shards(count: int, total: int) -> str:
    return f"{count} of {total} shards" if count != total else f"All {total} shards"


def _are(names: Sequence[str], what: str) -> str:
    named = list(names[:NAMED_MAX]) + ([f"{len(names) - NAMED_MAX} more"] if len(names) > NAMED_MAX else [])
    if len(names) == 1:
        return f"{names[0]} is {what}"
    return f"{', '.join(named[:-1])} and {named[-1]} are {what}"


def _said(level: str, text: str, doing: str) -> dict[str, str]:
    return {"level": level, "text": text, "doing": doing}
