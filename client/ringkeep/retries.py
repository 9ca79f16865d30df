"""When a failed attempt is tried again, and which error remains at the deadline.

Pure: the clock and the random draw come in. What an attempt can end in:

    refused   the connection was refused, 503, 429, 507,
              421: the node is of another cluster          certainly not applied
    unknown   504, a broken connection, a time-out         may have been applied
    final     everything else                              ends the operation

Every change carries one Idempotency-Key through all its attempts, so both refused and unknown are tried again. The
difference shows at the deadline: after one unknown attempt the operation is ``OutcomeUnknown``, even if a later attempt
was refused, because the refusal speaks for that attempt only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from ringkeep.errors import (
    Internal,
    OutcomeUnknown,
    ProblemAnswer,
    RingkeepError,
    Unavailable,
    UnexpectedAnswer,
    WrongCluster,
)

TIMEOUT_MAX_S = 60.0
CONNECT_S = 1.0


class Ending(Enum):
    """How an attempt ended, where it was not answered for good."""

    FINAL = "final"
    REFUSED = "refused"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How patiently a client tries. All in seconds.

    ``attempt_s`` bounds the silence in one attempt, so that a node that hangs costs one attempt and not the whole
    deadline; it is told to the node as ``Ringkeep-Timeout``. ``connect_s`` bounds the making of a connection: a host
    that is gone answers nothing, and one that is there needs a round trip. Pauses are drawn from 0..``pause_first_s``,
    doubled for each failure up to ``pause_max_s``: jitter from zero keeps many clients from coming back together.
    """

    attempt_s: float = 2.5
    connect_s: float = CONNECT_S
    pause_first_s: float = 0.02
    pause_max_s: float = 0.25

    def pause_s(self, failures: int, draw: float) -> float:
        """Return the pause after the ``failures``-th failure (from 1), for a uniform ``draw`` from [0, 1)."""
        ceiling: float = min(self.pause_max_s, self.pause_first_s * 2 ** min(failures - 1, 30))
        return draw * ceiling


def ending_of(error: RingkeepError) -> Ending:
    """Return how the attempt that raised ``error`` ended."""
    cause = error.__cause__
    status = cause.status if isinstance(cause, ProblemAnswer) else 0
    if isinstance(error, UnexpectedAnswer):
        # A proxy's 502, 503 or 504 in front of a node that is gone: the node may have got the request.
        return Ending.UNKNOWN if status in (502, 503, 504) else Ending.FINAL
    if isinstance(error, OutcomeUnknown):
        return Ending.UNKNOWN
    if status in (503, 429, 507) or isinstance(error, Unavailable | WrongCluster):
        return Ending.REFUSED
    return Ending.FINAL


class Operation:
    """One call of the client through all its attempts."""

    def __init__(
        self, *, started: float, timeout_s: float, changes: bool, policy: RetryPolicy, draw: Callable[[], float]
    ) -> None:
        self._deadline = started + timeout_s
        self._changes = changes
        self._policy = policy
        self._draw = draw
        self._failures = 0
        self._maybe_applied = False

    def left_s(self, now: float) -> float:
        """Return how long the operation may still take."""
        return max(0.001, self._deadline - now)

    def attempt_s(self, now: float) -> float:
        """Return how long the next attempt may take; it is positive until ``failed`` has raised."""
        return min(self._policy.attempt_s, self.left_s(now))

    def failed(
        self,
        error: RingkeepError,
        *,
        now: float,
        retry_after_s: float = 0.0,
        wrong_cluster: WrongCluster | None = None,
        is_hopeless: bool = False,
    ) -> float:
        """Take note of a failed attempt and return the pause before the next one.

        Args:
            wrong_cluster: What is known of addresses that belong to another cluster now.
            is_hopeless: Whether that is all of them.
        Raises:
            RingkeepError: the error is final, nobody is left to ask, or the next attempt would begin at or after the
                deadline.
        """
        ending = ending_of(error)
        if ending is Ending.FINAL:
            if self._maybe_applied and isinstance(error, Internal | UnexpectedAnswer):
                raise self._unknown(error) from error
            raise error
        self._failures += 1
        self._maybe_applied |= self._changes and ending is Ending.UNKNOWN
        pause_s = max(self._policy.pause_s(self._failures, self._draw()), retry_after_s)
        if is_hopeless or now + pause_s >= self._deadline:
            raise self._verdict(error, wrong_cluster) from (error.__cause__ or error)
        return pause_s

    def _verdict(self, last: RingkeepError, wrong_cluster: WrongCluster | None) -> RingkeepError:
        if self._maybe_applied:
            return self._unknown(last)
        if wrong_cluster is not None and isinstance(last, OutcomeUnknown | Unavailable):
            return wrong_cluster  # It says more than that the addresses beside it are silent.
        if isinstance(last, OutcomeUnknown):
            return Unavailable(f"no answer after {self._failures} attempts: {last}")
        return last

    def _unknown(self, last: RingkeepError) -> OutcomeUnknown:
        return OutcomeUnknown(f"after {self._failures} attempts it is not known whether it was made: {last}")
