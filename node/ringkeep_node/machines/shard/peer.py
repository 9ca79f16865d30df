"""What a primary knows of one other copy of its shard."""

from __future__ import annotations

from ringkeep_core.shardmap import Copy


class Peer:
    """Another copy: how far it acknowledged, how far we sent, and what it is in the map.

    ``match`` is durable there; ``floor`` is what an earlier boot of it had acknowledged: a copy that comes back with less
    lost what it promised to hold. ``spoke``: its registered boot acknowledged something in this epoch, and since it lost its
    place in in_sync if it did. ``adding``: it is in the awaited set before the map says so; ``added_at`` is the last entry
    appended before that. ``proposed`` is the revision on which its Grow left, 0 if none did. ``is_beyond_log``: what it
    lacks is gone from the log here, only a snapshot helps. ``start`` is where sending began before it told where it stands.
    ``backlog`` is the last entry there was when it began to catch up: up to there it is copied at leisure. ``round_sn`` was
    the last entry at ``round_at``.
    """

    __slots__ = (
        "added",
        "added_at",
        "adding",
        "backlog",
        "behind_since",
        "boot",
        "commit_sent",
        "eligible",
        "floor",
        "in_sync",
        "is_beyond_log",
        "match",
        "next",
        "on_the_way",
        "proposed",
        "proposed_at",
        "reading",
        "resent_at",
        "round_at",
        "round_sn",
        "spoke",
        "start",
        "storage",
        "stream",
    )

    def __init__(self, copy: Copy, boot: str, next_sn: int) -> None:
        self.storage = copy.storage
        self.added = copy.added
        self.boot = boot
        self.in_sync = self.eligible = self.adding = self.spoke = self.is_beyond_log = False
        self.match = self.floor = self.added_at = self.proposed = self.on_the_way = self.commit_sent = 0
        self.next = self.start = next_sn
        self.backlog, self.round_sn, self.round_at = next_sn - 1, 0, -1.0
        self.reading = self.stream = 0
        self.behind_since: float | None = None
        self.resent_at = self.proposed_at = -1.0

    @property
    def is_awaited(self) -> bool:
        """Return whether nothing commits without this copy."""
        return self.in_sync or self.adding

    @property
    def is_copied_to(self) -> bool:
        """Return whether what it lacks next was there before it began to catch up, and nobody waits for it."""
        return self.next <= self.backlog and not self.in_sync and not self.adding

    def restarted(self, boot: str) -> None:
        """Another boot of it is registered: what the last one had on the way is gone, what it acknowledged is not."""
        self.boot = boot
        self.floor = self.match
        self.spoke = False
        self.forget_sent()

    def forget_sent(self) -> None:
        """Its connection ended: send again from what it acknowledged."""
        # Before it spoke nothing is known of its log: ask from where this epoch began, it says if that leaves a gap.
        self.next = self.match + 1 if self.spoke or self.match else self.start
        self.on_the_way = self.commit_sent = 0
        self.reading = 0
