"""How many changes of the registry one client may make: a token bucket for each address, for a bounded number of them.

A bucket that is full again is as good as none, so the one that was used longest ago is dropped first.
"""

from __future__ import annotations

from ringkeep_core.errors import TooManyRequests

CLIENTS_MAX = 10_000


class ClientBuckets:
    """``burst`` changes at once, ``per_second`` from then on."""

    def __init__(self, *, burst: float, per_second: float) -> None:
        self._burst, self._per_second = burst, per_second
        self._left: dict[str, tuple[float, float]] = {}
        self.refused = 0

    def take(self, client: str, *, now: float) -> None:
        """Count one change of a client.

        Raises:
            TooManyRequests: It makes more than its share. Nothing was counted.
        """
        left, at = self._left.pop(client, (self._burst, now))
        left = min(self._burst, left + (now - at) * self._per_second)
        if left < 1.0:
            self._left[client] = (left, now)
            self.refused += 1
            raise TooManyRequests(f"one client may change {self._per_second:g} registrations a second here: try later")
        self._left[client] = (left - 1.0, now)
        if len(self._left) > CLIENTS_MAX:
            del self._left[next(iter(self._left))]
