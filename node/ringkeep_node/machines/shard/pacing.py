"""When the next piece of a snapshot may be read: a limit that people set, and manners while clients are being served.

    piece ordered --charged with its greatest size--> read --corrected to its real size--> free again at: at + debt / rate

One pace serves all streams that leave a node. The limit is ``wanted.settings.bytes_per_s``. The manners hold for a while
after each request that this node answered: then a piece is small, every row is charged with what handling it costs, and
the rate is lower, because what copying takes of the loop and of the disk is what foreground requests wait for. When the
loop is late all the same, the rate goes down, again and again to a share of it, and grows back within seconds: by half when
the loop stood still for long, by less when its timers are late on the average. A loop that waits for a processor is late
by fractions of a millisecond each time, but a request waits so at each of its ten or more hops.

A debt is kept in bytes, not in seconds, so that a new rate counts at once for what is owed already.

Source: replication.md, Handoff; counterexamples.md N3, L7.
"""

from __future__ import annotations

from typing import Final

from ringkeep_node.machines.shard.settings import ReplicationSettings

LIMITED_PIECE_S: Final = 0.1
"""Under a limit a piece is at most what may be sent in so long: small enough to be smooth."""
BURST_S: Final = 0.05
PIECE_BYTES_MIN: Final = 4 << 10
LOWERED_AGAIN_S: Final = 0.1
"""What was sent before the rate was lowered makes the loop late for so long."""
EASED: Final = 0.7
RECOVERS_S: Final = 4.0
"""From nothing to the full rate."""


class Debt:
    """Bytes that are owed since a moment; paid off at a rate in bytes per second, 0 for at once.

    What was not used counts for ``BURST_S``: timers are late, and a rate that lost that would never be reached.
    """

    __slots__ = ("_at", "_bytes")

    def __init__(self) -> None:
        self._at = self._bytes = 0.0

    def free_at(self, rate: float) -> float:
        """Return since when, or from when on, nothing is owed."""
        return self._at + self._bytes / rate if rate else self._at

    def charge(self, size: float, rate: float, now: float) -> None:
        """Owe more, or less if ``size`` is below 0."""
        most = -rate * BURST_S
        left = max(most, self._bytes - (now - self._at) * rate) if rate else 0.0
        self._at, self._bytes = now, max(most, left + size)


class Pace:
    """See the module. ``limit`` is the wanted one in bytes per second, 0 for none."""

    __slots__ = ("_busy_until", "_limited", "_polite", "_settings", "_share", "_share_at", "limit")

    def __init__(self, settings: ReplicationSettings) -> None:
        self._settings = settings
        self.limit = 0
        self._limited, self._polite = Debt(), Debt()
        self._busy_until = self._share_at = float("-inf")
        self._share = 1.0

    def served(self, at: float) -> None:
        """The last request was answered then: soon afterwards there will be others, and they wait for this node."""
        self._busy_until = at + self._settings.polite_s

    def late(self, now: float) -> None:
        """The loop stood still: whoever is served here waits, so less is copied for a while."""
        self._lower(0.5, now)

    def felt(self, lag_s: float, now: float) -> None:
        """The timers of the loop were late by so much on the average, lately."""
        if lag_s > self._settings.polite_lag_s:
            self._lower(EASED, now)

    def _lower(self, factor: float, now: float) -> None:
        if now >= self._share_at + LOWERED_AGAIN_S:
            self._share, self._share_at = max(self._settings.polite_share_min, self._share_of(now) * factor), now

    def _share_of(self, now: float) -> float:
        return min(1.0, self._share + max(0.0, now - self._share_at) / RECOVERS_S) if self._share < 1.0 else 1.0

    def free_at(self, now: float) -> float:
        """Return when the next piece may be read; not later than ``now``: it may be."""
        at = self._limited.free_at(self.limit)
        return max(at, self._polite.free_at(self._polite_rate(now)))

    def piece_bytes(self, now: float) -> int:
        """Return how large the next piece may be."""
        settings = self._settings
        size = settings.polite_chunk_bytes_max if self._polite_rate(now) else settings.chunk_bytes_max
        return max(PIECE_BYTES_MIN, min(size, int(self.limit * LIMITED_PIECE_S))) if self.limit else size

    def charge(self, size: int, rows: int, now: float) -> None:
        """Bytes and rows are sent, or, below 0, are not sent after all."""
        self._limited.charge(size, self.limit, now)
        self._polite.charge(size + rows * self._settings.polite_row_bytes, self._polite_rate(now), now)

    def _polite_rate(self, now: float) -> float:
        return self._settings.polite_bytes_per_s * self._share_of(now) if now < self._busy_until else 0.0
