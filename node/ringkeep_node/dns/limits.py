"""How many answers one network may have: a bucket of tokens for each, so that nobody drowns in answers he never asked for.

A datagram's sender is easily forged. Its network therefore gets so many answers per second; of those beyond, every second
is one bare TC answer, no longer than its question, which a real client follows over TCP, and the others are dropped. TCP,
where no sender is forged, has buckets of its own: else the datagrams that use up a network's answers in its name would cut
it off there as well. The table of networks is bounded: with more at the same time, the one that was quiet for longest
starts anew. All networks together have a bucket too, since each answer is work for a node that has other work; a long
answer counts for several.
Source: Vixie, Schryver, "Response Rate Limiting in the Domain Name System".
"""

from __future__ import annotations

import ipaddress
from collections import OrderedDict
from enum import Enum

NETWORKS_MAX = 4096
IPV4_BITS, IPV6_BITS = 24, 56
ALL = 2
"""So many times what one network may have is for all together."""


class Verdict(Enum):
    """What becomes of a question."""

    ANSWER = "answer"
    TRUNCATE = "truncate"
    DROP = "drop"


class AnswerRate:
    """The buckets of all networks. ``per_s`` answers each second, ``burst`` at once; twice as many for all together."""

    def __init__(self, *, per_s: float, burst: float, networks_max: int = NETWORKS_MAX) -> None:
        assert per_s > 0 and burst >= 1 and networks_max > 0
        self._per_s, self._burst, self._networks_max = per_s, burst, networks_max
        self._buckets: OrderedDict[str, tuple[float, float, int]] = OrderedDict()
        self._all, self._all_since = ALL * burst, 0.0

    def judge(self, address: str, *, now: float) -> Verdict:
        """Return what becomes of a question that came from ``address`` at ``now`` (seconds)."""
        network = network_of(address)
        tokens, since, beyond = self._buckets.pop(network, (self._burst, now, 0))
        tokens = min(self._burst, tokens + max(0.0, now - since) * self._per_s)
        passed_s, self._all_since = max(0.0, now - self._all_since), now
        self._all = min(ALL * self._burst, self._all + ALL * passed_s * self._per_s)
        verdict = Verdict.ANSWER
        if tokens >= 1 and self._all >= 1:
            tokens, beyond = tokens - 1, 0
            self._all -= 1
        else:
            beyond += 1
            verdict = Verdict.TRUNCATE if beyond % 2 else Verdict.DROP
        self._buckets[network] = (tokens, now, beyond)
        if len(self._buckets) > self._networks_max:
            self._buckets.popitem(last=False)
        return verdict

    def charge(self, address: str, tokens: float) -> None:
        """Count a long answer that ``address`` was given for more than one."""
        network = network_of(address)
        if network in self._buckets:
            left, since, beyond = self._buckets[network]
            self._buckets[network] = (left - tokens, since, beyond)
        self._all -= tokens

    def __len__(self) -> int:
        return len(self._buckets)


def network_of(address: str) -> str:
    """Return the network of an address: a /24 of IPv4, a /56 of IPv6, or the text itself."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped is not None:
        parsed = parsed.ipv4_mapped
    bits = IPV4_BITS if parsed.version == 4 else IPV6_BITS
    return str(ipaddress.ip_network((parsed, bits), strict=False))
