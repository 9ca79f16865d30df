"""Names for tests of DNS: a few services, nodes and shards that a test writes down."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import count

import dns.name

from ringkeep_node.dns.answers import Place, Zones

ZONES = Zones((dns.name.from_text("ringkeep"), dns.name.from_text("consul")), ttl_s=0, negative_ttl_s=1)


class FakeNames:
    """Implements ``ringkeep_node.dns.answers.Names``. ``services`` are healthy places by (name, tag or None)."""

    datacenter = "dc1"
    serial = 7

    def __init__(
        self,
        services: Mapping[tuple[str, str | None], Sequence[Place]] | None = None,
        *,
        nodes: Mapping[str, str] | None = None,
        shards: Mapping[int, Place] | None = None,
    ) -> None:
        self.services = dict(services or {})
        self.nodes = dict(nodes or {})
        self.shards = dict(shards or {})

    def service(self, name: str, tag: str | None) -> Sequence[Place]:
        """Return what the test put there."""
        return self.services.get((name, tag), ())

    def has_longer_tag(self, name: str, end: str) -> bool:
        """Return whether what the test put there has such a tag."""
        return any(own == name and tag is not None and tag.endswith(f".{end}") for own, tag in self.services)

    def shard(self, number: int) -> Place | None:
        """Return what the test put there."""
        return self.shards.get(number)

    def node(self, name: str) -> str | None:
        """Return what the test put there."""
        return self.nodes.get(name)

    def own_address(self) -> str:
        """Return an address of nobody."""
        return "192.0.2.53"


def in_order() -> float:
    """A draw that shuffles nothing: a stable sort by equal numbers."""
    return 0.0


def reversing() -> count[float]:
    """Numbers whose order turns a list around: use ``next`` on it."""
    return count(0.9, -0.01)
