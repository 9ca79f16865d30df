"""How fast the failure detector asks, waits and gives up, and how much it may hold.

The defaults are the design's (replication.md, "Members, failure, recovery"); the reasons for the numbers are with each
field. All times are seconds.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class SwimSettings:
    """Times and bounds of one SWIM machine. Construction refuses values that contradict each other."""

    probe_interval_s: float = 0.25
    """Between the starts of two probes, at full health. Four a second keep an idle node cheap."""
    probe_timeout_s: float = 0.12
    """Until helpers are asked; our own loop lag is added."""
    helpers: int = 3
    """How many members are asked to try for us (SWIM's k)."""
    nack_after_s: float = 0.1
    """When a helper says that it got no answer either: about 80 % of what the prober still waits (Lifeguard)."""
    hard_suspicion_s: float = 0.5
    """From agreed hard evidence (refused, reset, unreachable) to the verdict."""
    silent_suspicion_s: float = 3.1
    """From the suspicion of a silent member to the verdict, once others confirm: a 3 s stop is survived."""
    lone_suspicion_s: float = 6.2
    """The same while nobody confirms: then it is more likely that we are the one who is cut off."""
    confirmations: int = 2
    """Other accusers that earn ``silent_suspicion_s``; fewer when the cluster has fewer."""
    health_max: int = 7
    """The worst local health score: the probe interval is multiplied by score + 1."""
    lag_s: float = 0.2
    """Own loop lag above this is added to our own time-outs."""
    slack_max_s: float = 3.0
    """How much of our own lag a time-out may get at most."""
    resume_s: float = 0.5
    """A gap of our own loop from which on we refute before anybody asked, and void our probes."""
    heard_s: float = 1.0
    """A member heard directly within this time is not dead because somebody else says so."""
    everybody_max: int = 16
    """Up to so many members every update goes to all at once."""
    gossip_interval_s: float = 0.2
    """Between rounds of gossip in larger clusters."""
    gossip_fanout: int = 3
    """Members told in each round in larger clusters."""
    retransmit: int = 4
    """An update is sent this often for each decimal digit of the cluster's size."""
    sync_interval_s: float = 0.5
    """Between two comparisons with the same member."""
    sync_after_s: float = 0.3
    """How long digests must differ before they are compared: an update may still be on its way."""
    retry_s: float = 0.25
    """First pause between calls to an address that does not answer."""
    retry_max_s: float = 2.0
    """Last pause, for ever: bounds how long a healed partition goes unnoticed."""
    forget_s: float = 3600.0
    """How long the dead that the map does not name, and death times, are remembered."""
    members_max: int = 1024
    """Members known at most; further strangers are refused."""
    addresses_max: int = 256
    """Permanent addresses kept at most."""
    datagram_bytes_max: int = 1400
    """UDP payload: fits an Ethernet frame with tunnels around it."""

    def __post_init__(self) -> None:
        ordered = (
            0 < self.probe_timeout_s < self.probe_interval_s
            and 0 < self.hard_suspicion_s <= self.silent_suspicion_s <= self.lone_suspicion_s
            and 0 < self.retry_s <= self.retry_max_s
            and self.nack_after_s > 0
        )
        if not ordered or self.helpers < 0 or self.confirmations < 1 or self.datagram_bytes_max < 1200:
            raise ValueError(f"contradicting SWIM settings: {self}")
