"""Limits and times of shard replication; each with its unit and where it comes from."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicationSettings:
    """Settings of one node's shard replication. No safety depends on any of them."""

    ack_silence_s: float = 3.0
    """A member of in_sync with something unacknowledged for so long is proposed for removal (rule 3)."""
    confirm_wait_s: float = 0.05
    """A confirmation round waits so long for its peers, then Raft is asked (rule 2)."""
    commits_every_s: float = 0.05
    """A commit sn that no append carried is sent at most this often."""
    check_every_s: float = 0.1
    """How often shards with something open are looked at."""
    resend_after_s: float = 0.3
    """Without progress for so long, entries are sent again."""
    proposal_again_s: float = 0.25
    """First wait before an unanswered proposal is sent again; doubles up to ``proposal_again_max_s``."""
    proposal_again_max_s: float = 2.0
    """Also the first wait of what may wait: the leader holds it for less."""
    touch_after_s: float = 1.0
    """A proposed member that does not acknowledge is forced to an answer after so long (rule 4)."""
    small_lag_entries: int = 64
    """A learner at most so far behind joins the awaited set (rule 4), if that is little to send as well."""
    small_lag_bytes: int = 64 << 10
    """So much is little: what a learner lacks when it joins is what the next writes of its shard wait for."""
    small_lag_s: float = 0.1
    """Where more than that is always on its way: a learner that takes all there was within so long keeps up."""
    cached_bytes_max: int = 64 << 20
    """Log entries kept in memory by this node, beyond those not yet handed to the store."""
    pending_bytes_max: int = 8 << 20
    """Pending writes of one shard; above it writes are refused as overloaded. At least one log entry of 3 MiB."""
    node_pending_bytes_max: int = 64 << 20
    """Pending writes of all shards that this node leads."""
    waiting_writes_max: int = 1_000
    """Writes of one shard that wait for a new primary to begin, or for a hand-over; in bytes as many as may be pending."""
    drain_wait_s: float = 0.03
    """A shard with something uncommitted for so long after it stopped admitting is left out of a hand-over (L6)."""
    early_bytes_max: int = 4 << 20
    """Messages kept that came before the map they belong to, of all shards; the oldest are forgotten."""
    chunk_bytes_max: int = 512 << 10
    """One message of catching up: entries or rows."""
    polite_bytes_per_s: int = 8 << 20
    """Bytes that a node copies at most while it serves clients; 0: no manners (the wanted limit holds always)."""
    polite_share_min: float = 0.25
    """Down to so much of that it goes while the loop is late again and again."""
    polite_lag_s: float = 0.0003
    """The loop is late if its timers come so late on the average: with time to spare it is half of that."""
    polite_row_bytes: int = 512
    """What each row counts for beside its bytes while clients are served: handling it costs, however small it is."""
    polite_chunk_bytes_max: int = 32 << 10
    """One piece of what is copied while clients are served."""
    polite_s: float = 1.0
    """How long after an answered request a node counts as serving clients."""
    pieces_ahead: int = 4
    """Unacknowledged pieces of one snapshot on the way."""
    install_bytes_max: int = 8 << 20
    """More waits for the store of a learner: pieces are acknowledged when less does."""
    window_bytes_max: int = 4 << 20
    """Unacknowledged bytes on the way to one copy."""
    streams_max: int = 4
    """Snapshots going out of this node at once, and coming in."""
    stream_silence_s: float = 5.0
    """A snapshot whose next piece is not acknowledged for so long, however often it was sent again, is given up."""

    def __post_init__(self) -> None:
        assert self.pending_bytes_max >= 4 << 20, "a shard must be able to hold one log entry"
        assert self.streams_max >= 1 and self.chunk_bytes_max > 0 and self.polite_chunk_bytes_max > 0
        assert self.pieces_ahead >= 1 and self.install_bytes_max > 0 and self.polite_bytes_per_s >= 0
        assert 0.0 < self.polite_share_min <= 1.0 and self.polite_lag_s > 0.0
