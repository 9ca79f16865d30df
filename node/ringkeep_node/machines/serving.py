"""Requests between clients, this node's copies and other nodes: who serves what comes in, and where answers go.

    client --> gateway --> this node's copy | forward to the primary        a local read: this node's copy at once
    forward of another node --> this node's copy | relayed to the primary | Moved
    answer of a copy --> the client here, or the node that forwarded

Every request that goes to a copy of this node has a number of its own here, which remembers for whom it is.
Source: architecture.md, load balancer; replication.md rules 7 and 9.
"""

from __future__ import annotations

from collections.abc import Callable

from msgspec.structs import replace

from ringkeep_core.shardmap import ShardMap
from ringkeep_node.machines.gateway import Answered, Attempt, Gateway
from ringkeep_node.machines.messages import Channel, ForwardAnswer, ForwardRead, ForwardWrite, NodeMessage
from ringkeep_node.machines.relay import Relays, may_relay
from ringkeep_node.machines.shard.effects import Moved, NotApplied, ReadRequest, Result, WriteRequest
from ringkeep_node.machines.shard.replication import Replication


class Serving:
    """See the module. ``answers`` gather until the node takes them."""

    def __init__(
        self,
        *,
        me: str,
        gateway: Gateway,
        shards: Replication,
        relays: Relays,
        held_map: Callable[[], ShardMap | None],
        send: Callable[[str, NodeMessage, Channel], None],
    ) -> None:
        self.relays = relays
        self.answers: list[Answered] = []
        self.is_full = False
        """While log or store hold as much as they may: no new change is admitted here."""
        self.refusal = ""
        """Why this node takes no requests of clients any more, "" while it does."""
        self.served: dict[int, tuple[str, int]] = {}
        self.local_reads: dict[int, tuple[int, ReadRequest, int]] = {}
        self._me, self._gateway, self._shards = me, gateway, shards
        self._held_map, self._send = held_map, send
        self._tokens = 0

    def submit(self, token: int, shard: int, request: WriteRequest | ReadRequest, *, size: int, now: float) -> None:
        """Take a client's request; ``answers`` will name ``token`` exactly once, at the latest at its deadline."""
        if self.refusal:
            self.answers.append(Answered(token, NotApplied("no_primary", self.refusal)))
            return
        if type(request) is ReadRequest and request.local and self._has_copy(shard):
            own = self._serve("", -token)
            self.local_reads[own] = (shard, request, size)
            self._shards.read(own, shard, request, now=now)
            return
        self._gateway.submit(token, shard, request, deadline=request.deadline, size=size, now=now)

    def carry(self, *, now: float) -> bool:
        """Carry out what the gateway decided. Returns whether a copy of this node got something to do."""
        more = False
        for order in self._gateway.take_orders():
            if isinstance(order, Answered):
                self.answers.append(order)
            elif order.storage == self._me:
                self._serve_here("", order.token, order.shard, order.request, now)
                more = True
            else:
                self._forward(order, now)
        return more

    def _forward(self, order: Attempt, now: float) -> None:
        remaining_s = order.deadline - now
        message: NodeMessage
        if type(order.request) is WriteRequest:
            message = ForwardWrite(order.token, order.shard, order.request, remaining_s, 1)
        else:
            assert isinstance(order.request, ReadRequest)
            message = ForwardRead(order.token, order.shard, order.request, remaining_s, 1)
        self._send(order.storage, message, Channel.DATA)

    # --- copies of this node -------------------------------------------------------------------------------------

    def _serve(self, origin: str, token: int) -> int:
        self._tokens += 1
        self.served[self._tokens] = (origin, token)
        return self._tokens

    def _serve_here(self, origin: str, token: int, shard: int, request: WriteRequest | ReadRequest, now: float) -> None:
        own = self._serve(origin, token)
        if type(request) is WriteRequest:
            if self.is_full:
                self.answered(own, NotApplied("overloaded", "the primary's disk has fallen behind"), now=now)
                return
            self._shards.write(own, shard, request, now=now)
        else:
            assert isinstance(request, ReadRequest)
            self._shards.read(own, shard, request, now=now)

    def answered(self, own: int, result: Result, *, now: float) -> None:
        """A copy of this node has answered what it got under the number ``own``."""
        origin, token = self.served.pop(own)
        if origin:
            self._answer_forward(origin, token, result)
        elif token < 0:
            shard, request, size = self.local_reads.pop(own)
            if type(result) is Moved:
                # Our copy cannot be read after all: somebody else's may.
                self._gateway.submit(-token, shard, request, deadline=request.deadline, size=size, now=now)
            else:
                self.answers.append(Answered(-token, result))
        else:
            self._gateway.answered(token, result, now=now)

    def _has_copy(self, shard: int) -> bool:
        held = self._held_map()
        return held is not None and held.shards[shard].is_complete(self._me)

    # --- other nodes ---------------------------------------------------------------------------------------------

    def forwarded(self, sender: str, message: ForwardWrite | ForwardRead, *, now: float) -> None:
        """Serve a request that another node took, or bring it on to the primary if that is still allowed."""
        held = self._held_map()
        if held is None or not 0 <= message.shard < len(held.shards):
            return
        request, shard = message.request, held.shards[message.shard]
        primary = shard.primary.storage
        is_local = isinstance(request, ReadRequest) and request.local and self._has_copy(message.shard)
        if primary == self._me or is_local:
            request = replace(request, deadline=now + message.remaining_s)
            self._serve_here(sender, message.token, message.shard, request, now)
        elif may_relay(message, sender, shard):
            self._relay(sender, message, primary, now)
        else:
            self._answer_forward(sender, message.token, self._moved(message.shard))

    def forward_answered(self, sender: str, message: ForwardAnswer, *, now: float) -> None:
        """Take the answer to what this node forwarded or relayed."""
        relayed = self.relays.take(message.token, sender) if message.token < 0 else None
        if relayed is not None:
            self._answer_forward(relayed.origin, relayed.token, message.result)
        else:
            self._gateway.answered(message.token, message.result, now=now, by=sender)

    def link_lost(self, storage: str) -> None:
        """A primary cannot be reached any more: tell for whom we relayed what to it."""
        for lost in self.relays.lost(storage):
            self._answer_forward(lost.origin, lost.token, self._moved(lost.shard))

    def _relay(self, sender: str, message: ForwardWrite | ForwardRead, primary: str, now: float) -> None:
        number = self.relays.add(sender, message, primary, now=now) if self._gateway.reaches(primary) else None
        if number is None:
            refused = NotApplied("no_primary", "no node that was asked could reach the primary")
            self._answer_forward(sender, message.token, refused)
        else:
            self._gateway.forwards += 1
            self._send(primary, replace(message, token=number, hops=message.hops + 1), Channel.DATA)

    def _moved(self, shard: int) -> Moved:
        held = self._held_map()
        assert held is not None
        named = held.shards[shard]
        return Moved(named.primary.storage, named.epoch, held.version)

    def _answer_forward(self, origin: str, token: int, result: Result) -> None:
        self._send(origin, ForwardAnswer(token, result), Channel.DATA)
