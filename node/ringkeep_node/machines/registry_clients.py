"""How many changes of the registry one client may make: a token bucket for each address, for a bounded number of them.

A bucket that is full again is as good as none, so the one that was used longest ago is dropped first.
"""

from __future__ import annotations

import ipaddress
from typing import Final

from ringkeep_core.errors import TooManyRequests

CLIENTS_MAX = 10_000
NETWORK_BITS: Final = 64
"""One client has at least so many bits of IPv6 addresses for itself."""


class ClientBuckets:
    """``burst`` changes at once, ``per_second`` from then on, for what ``network_of`` takes for one client."""

    def __init__(self, *, burst: float, per_second: float) -> None:
        self._burst, self._per_second = burst, per_second
        self._left: dict[str, tuple[float, float]] = {}
        self.refused = 0

    def take(self, client: str, *, now: float) -> None:
        """Count one change of a client.

        Raises:
            TooManyRequests: It makes more than its share. Nothing was counted.
        """
        client = network_of(client)
        left, at = self._left.pop(client, (self._burst, now))
        left = min(self._burst, left + (now - at) * self._per_second)
        if left < 1.0:
            self._left[client] = (left, now)
            self.refused += 1
            raise TooManyRequests(f"one client may change {self._per_second:g} registrations a second here: try later")
        self._left[client] = (left - 1.0, now)
        if len(self._left) > CLIENTS_MAX:
            del self._left[next(iter(self._left))]


def network_of(client: str) -> str:
    """Return what counts as one client: an IPv4 address, or the /64 of an IPv6 address."""
    try:
        address = ipaddress.ip_address(client.partition("%")[0])
    except ValueError:
        return client
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.ip_network((address, NETWORK_BITS), strict=False))
