"""Which configuration changes are safe, and what a quorum of a configuration is.

Voters change one at a time, so that any two configurations in a row share a voter in every pair of majorities. That
argument needs two guards (the correction of 2015): the leader has committed an entry of its own term, and no other
configuration is uncommitted; otherwise two leaders can each start a change from the same base and reach disjoint
majorities.

Source: Ongaro's thesis, section 4.1; raft-dev, "bug in single-server membership changes" (2015).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from ringkeep_node.machines.raft.messages import Configuration

Number = TypeVar("Number", int, float)


def majority(voters: tuple[str, ...]) -> int:
    """Return how many of ``voters`` decide."""
    return len(voters) // 2 + 1


def reached_by_majority(values: list[Number]) -> Number:
    """Return the greatest number that a majority of ``values`` (one per voter) reaches; 0 without voters."""
    if not values:
        return 0
    values.sort(reverse=True)
    return values[len(values) // 2]


def is_elected(voters: tuple[str, ...], votes: Mapping[str, bool]) -> bool:
    """Return whether a majority of ``voters`` granted; votes of others count for nothing."""
    return bool(voters) and sum(votes.get(voter, False) for voter in voters) >= majority(voters)


def is_rejected(voters: tuple[str, ...], votes: Mapping[str, bool]) -> bool:
    """Return whether so many refused that a majority can no longer grant."""
    return sum(not votes.get(voter, True) for voter in voters) > len(voters) - majority(voters)


def refusal(before: Configuration, after: Configuration) -> str | None:
    """Return why ``after`` may not follow ``before`` whatever the log says, or None if it may.

    Reasons: ``no_voters``, ``twice_named``, ``unchanged``, ``more_than_one_voter``, ``not_a_learner`` (a new voter
    first receives the log as a learner, replication.md "Raft group").
    """
    if not after.voters:
        return "no_voters"
    if len(set(after.members())) != len(after.members()):
        return "twice_named"
    if set(after.voters) == set(before.voters) and set(after.learners) == set(before.learners):
        return "unchanged"
    added, removed = set(after.voters) - set(before.voters), set(before.voters) - set(after.voters)
    if len(added) + len(removed) > 1:
        return "more_than_one_voter"
    return None if added <= set(before.learners) else "not_a_learner"
