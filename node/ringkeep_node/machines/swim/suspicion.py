"""How long a suspect may stay silent before it is called dead, and how much we trust ourselves.

    one accuser                       lone_suspicion_s
    each further one                  shorter, by the logarithm of their number (Lifeguard, LHA-Suspicion)
    all the confirmations wanted      silent_suspicion_s
    hard evidence of two observers    hard_suspicion_s after the second (of one, in clusters of up to three)

Our own loop lag is added to every wait, at most ``slack_max_s`` for one suspicion: a slow observer judges later, but it
does judge (counterexamples.md, L3). Source: Dadgar, Phillips, Currey, "Lifeguard", arXiv:1707.00788.
"""

from __future__ import annotations

import math

from ringkeep_node.machines.swim.timing import SwimSettings

SMALL_CLUSTER = 3


class Suspicion:
    """One accusation of one incarnation of a member, until it is refuted or comes true."""

    __slots__ = ("_graced", "_hard", "_hard_at", "_settings", "_since", "_slack_s", "accusers")

    def __init__(self, settings: SwimSettings, *, now: float, slack_s: float) -> None:
        self._settings = settings
        self._since = now
        self._slack_s = min(slack_s, settings.slack_max_s)
        self._hard: dict[str, float] = {}
        self._hard_at: float | None = None
        self._graced = False
        self.accusers: dict[str, bool] = {}

    def accuse(self, by: str, *, hard: bool, members: int, now: float) -> bool:
        """Count an accuser; return whether this is new: another accuser, or the first hard evidence of a known one."""
        if self.accusers.get(by, False) or (by in self.accusers and not hard):
            return False
        self.accusers[by] = hard
        if hard:
            self._hard[by] = now
            self._judge_hard(members, now)
        return True

    def withdraw(self, by: str, *, members: int, now: float) -> None:
        """Take back what ``by`` saw, because it saw a sign of life; the wait begins again."""
        self.accusers.pop(by, None)
        self._hard.pop(by, None)
        self._since = now
        self._hard_at = None
        self._judge_hard(members, now)

    def lagged(self, lag_s: float, *, members: int, now: float) -> None:
        """Add our own lag to the wait; after a long gap leave, once, time for the answers that queued up meanwhile."""
        self._slack_s = max(self._slack_s, min(self._settings.slack_max_s, self._slack_s + lag_s))
        early_s = now + self._settings.resume_s - self.deadline(members)
        if lag_s >= self._settings.resume_s and early_s > 0 and not self._graced:
            self._graced = True
            self._slack_s += early_s

    def deadline(self, members: int) -> float:
        """Return when the suspect is dead in a cluster of ``members`` (alive and suspect, both of us included)."""
        silent_at = self._since + self._silence_s(members) + self._slack_s
        if self._hard_at is None:
            return silent_at
        return min(silent_at, self._hard_at + self._settings.hard_suspicion_s + self._slack_s)

    def _silence_s(self, members: int) -> float:
        return silence_s(
            confirmations=max(0, len(self.accusers) - 1),
            expected=min(self._settings.confirmations, members - 2),
            shortest_s=self._settings.silent_suspicion_s,
            longest_s=self._settings.lone_suspicion_s,
        )

    def _judge_hard(self, members: int, now: float) -> None:
        enough = 1 if members <= SMALL_CLUSTER else 2
        if self._hard_at is None and len(self._hard) >= enough:
            self._hard_at = now


def silence_s(*, confirmations: int, expected: int, shortest_s: float, longest_s: float) -> float:
    """Return how long a suspect may stay silent when ``confirmations`` others agree with its first accuser.

    With nobody there to confirm (``expected`` < 1) the shortest wait holds: waiting longer could not bring anything.
    """
    if expected < 1:
        return shortest_s
    agreement = min(1.0, math.log(confirmations + 1) / math.log(expected + 1))
    return longest_s - agreement * (longest_s - shortest_s)


class LocalHealth:
    """How far we trust our own ears: 0 is full health, each unit slows our probing (Lifeguard, LHA-Probe)."""

    def __init__(self, score_max: int) -> None:
        self._score_max = score_max
        self.score = 0

    def change(self, by: int) -> None:
        """Worsen (positive) or improve (negative) the score, between 0 and its maximum."""
        self.score = max(0, min(self._score_max, self.score + by))
