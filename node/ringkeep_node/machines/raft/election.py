"""When a node stands for election, whom it votes for, and what it remembers of its leader.

    follower --silence--> pre-candidate --majority would vote--> candidate --majority voted--> leader
        ^                     |   (nothing has changed yet)          |  (term + 1, own vote on disk)
        +---- a leader, a higher term or a lost election ------------+

A live leader protects itself: whoever has heard it within the shortest election time-out refuses to vote (thesis 4.2.3
and
9.6), except in an election that the leader asked for.
"""

from __future__ import annotations

from collections.abc import Callable

from ringkeep_node.machines.raft.settings import RaftSettings


class ElectionTimer:
    """The silence after which a node acts: drawn anew for each wait (paper 5.2), stretched by the node's own lag."""

    def __init__(self, settings: RaftSettings, draw: Callable[[], float], now: float) -> None:
        self._settings, self._draw = settings, draw
        self._timeout_s = 0.0
        self._since = now
        self._heard_at: float | None = None
        self.lag_s = 0.0
        self.restart(now)

    def restart(self, now: float) -> None:
        """Begin a new wait with a newly drawn length."""
        least, most = self._settings.election_s_min, self._settings.election_s_max
        self._timeout_s = least + self._draw() * (most - least)
        self._since = now

    def heard_leader(self, now: float) -> None:
        """Begin the wait again: the leader lives."""
        self._since = self._heard_at = now

    def forget_leader(self) -> None:
        """Note that there is no leader whom a vote could disturb."""
        self._heard_at = None

    def protects_leader(self, now: float) -> bool:
        """Return whether the leader was heard so recently that we refuse to vote for another."""
        return self._heard_at is not None and now < self._heard_at + self._settings.election_s_min + self.lag_s

    def deadline(self) -> float:
        """Return when the silence has lasted too long."""
        return self._since + self._timeout_s + self.lag_s

    def lagged(self, lag_s: float) -> None:
        """Note how late our own loop is: what we have not heard may be waiting in our own queues."""
        self.lag_s = min(lag_s, self._settings.lag_s_max) if lag_s > self._settings.lag_ignored_s else 0.0


def is_up_to_date(*, theirs: tuple[int, int], ours: tuple[int, int]) -> bool:
    """Return whether a log that ends in ``theirs`` = (last term, last index) holds all that ours may have committed.

    Source: paper 5.4.1.
    """
    return theirs >= ours
