"""Requests on their way through this node: a gateway that cannot reach a primary sends around, and we can.

    gateway --hops 1--> this node --hops 2--> primary
    gateway <--answer-- this node <--answer-- primary

The request goes on as it came: same operation id, same epoch, what is left of its deadline. So the primary cannot tell, and
need not, which way it came, and an attempt that arrives on both ways is applied once. Every refusal of a relay means that
the request went no further; once it has gone on and its answer may be lost, the gateway is told ``Moved``: only sending
again tells. A write that names another epoch than the held map is not relayed: naming epochs is the gateway's part.

Bounded by count and bytes; what nobody answered is forgotten at its deadline, which its gateway keeps itself.
Source: architecture.md, load balancer; replication.md rules 7 and 9.
"""

from __future__ import annotations

from msgspec import Struct

from ringkeep_core.shardmap import Shard
from ringkeep_node.machines.messages import ForwardRead, ForwardWrite
from ringkeep_node.machines.shard.effects import WriteRequest

HOPS_MAX = 2
"""A request is sent on at most so often: by its gateway, and by one node that is not the primary."""
RELAYS_MAX = 1024
RELAY_BYTES_MAX = 32 << 20
REQUEST_BYTES = 1024
"""What a request weighs beside its values."""


class Relayed(Struct, frozen=True, gc=False):
    """A request that went on to ``primary`` and is not answered: ``token`` is what ``origin`` calls it."""

    origin: str
    token: int
    shard: int
    primary: str
    deadline: float
    size: int


class Relays:
    """What this node has relayed and not yet brought back. Numbers are negative, so that they are no gateway's."""

    def __init__(self, *, first_number: int, count_max: int = RELAYS_MAX, bytes_max: int = RELAY_BYTES_MAX) -> None:
        self._last = first_number - 1
        self._count_max, self._bytes_max = count_max, bytes_max
        self._open: dict[int, Relayed] = {}
        self.open_bytes = 0

    def __len__(self) -> int:
        return len(self._open)

    def add(self, origin: str, message: ForwardWrite | ForwardRead, primary: str, *, now: float) -> int | None:
        """Remember a request that is to go on; return its number here, or None if there are too many."""
        size = weight(message)
        if len(self._open) >= self._count_max or self.open_bytes + size > self._bytes_max:
            return None
        self._last += 1
        number = -self._last
        self._open[number] = Relayed(origin, message.token, message.shard, primary, now + message.remaining_s, size)
        self.open_bytes += size
        return number

    def take(self, number: int, sender: str) -> Relayed | None:
        """Return whose answer this is, once; None if it is nobody's any more, or comes from somebody else."""
        relayed = self._open.get(number)
        if relayed is None or relayed.primary != sender:
            return None
        self._drop(number)
        return relayed

    def lost(self, primary: str) -> list[Relayed]:
        """Return, and forget, what went to a node whose link is gone."""
        numbers = [number for number, relayed in self._open.items() if relayed.primary == primary]
        return [self._drop(number) for number in numbers]

    def expire(self, *, now: float) -> None:
        """Forget what is past its deadline."""
        for number in [number for number, relayed in self._open.items() if relayed.deadline <= now]:
            self._drop(number)

    def _drop(self, number: int) -> Relayed:
        relayed = self._open.pop(number)
        self.open_bytes -= relayed.size
        return relayed


def may_relay(message: ForwardWrite | ForwardRead, sender: str, shard: Shard) -> bool:
    """Return whether a request may go on to the primary of its shard in the held map, as it is.

    A write that was meant for another epoch may not: applied in a later one, it could follow the refusal of an attempt that
    overtook it, which its client has been told.
    """
    if message.hops >= HOPS_MAX or shard.primary.storage == sender:
        return False
    request = message.request
    return not isinstance(request, WriteRequest) or request.epoch == shard.epoch


def weight(message: ForwardWrite | ForwardRead) -> int:
    """Return what a request counts for, in bytes."""
    request = message.request
    if not isinstance(request, WriteRequest):
        return REQUEST_BYTES
    return REQUEST_BYTES + sum(len(write.value or b"") for write in request.writes)
