"""Follow single requests through this node, for spans and debug lines. A node that wants neither has no ``Trails`` at all.

    client --asked--> gateway --cause--> primary --append, fsync--> commit --> answer
                                            |  replicate, one for each copy
                                            +--cause--> replica --fsync--> acknowledgement

The machines know nothing of it: a request carries its *cause*, an opaque text of the request's id and, if it is traced, a
traceparent; the primary's machine says under which sn it appended what has a cause. All else is read off the messages that
come and the steps that leave: the acknowledgement that goes ends the replica's part, the one that comes the wait for it.
Everything is bounded; what is never seen to end is forgotten, the oldest first.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Final, Generic, TypeVar

import structlog

from ringkeep_core.shardmap import ShardMap
from ringkeep_node.machines.messages import Bundle, Cause, ForwardAnswer, ForwardRead, ForwardWrite
from ringkeep_node.machines.node import NodeStep
from ringkeep_node.machines.records import Kind
from ringkeep_node.machines.shard.effects import Followed, ReadRequest, Result, WriteRequest
from ringkeep_node.machines.shard.messages import Ack, Append
from ringkeep_node.tracing import Span, Tracer

FOLLOWED_MAX: Final = 4_096
"""Of each kind: as many as a gateway has open requests."""

logger: Any = structlog.get_logger()

K = TypeVar("K")
V = TypeVar("V")
Notes = Mapping[str, str | int]


class _Bounded(dict[K, V], Generic[K, V]):
    """A dict that forgets the oldest when it is full."""

    def keep(self, key: K, value: V) -> None:
        if len(self) >= FOLLOWED_MAX:
            del self[next(iter(self))]
        self[key] = value


class Asked:
    """A client's request at its gateway. ``cause`` goes with it to wherever it is served."""

    __slots__ = ("began", "cause", "request_id", "span")

    def __init__(self, request_id: str, span: Span) -> None:
        self.request_id, self.span = request_id, span
        self.cause = f"{request_id} {span.context}" if span.context else request_id
        self.began = time.perf_counter()


class _Served:
    """A request at the node that serves it; ``gateway`` is the storage id of who took it, "" for this node."""

    __slots__ = ("appending", "began", "cause", "gateway", "request_id", "shard", "span")

    def __init__(self, cause: str, span: Span, appending: Span | None, shard: int, gateway: str) -> None:
        self.cause, self.span, self.appending = cause, span, appending
        self.request_id = cause.partition(" ")[0]
        self.shard, self.gateway = shard, gateway
        self.began = time.perf_counter()


class _Change:
    """A followed entry of a shard led here, until it is committed; ``copies`` are the waits for each peer."""

    __slots__ = ("commit", "copies", "request_id", "span")

    def __init__(self, request_id: str, span: Span, commit: Span) -> None:
        self.request_id, self.span, self.commit = request_id, span, commit
        self.copies: dict[str, Span] = {}


class _Copied:
    """A followed entry on its way into a copy of this node."""

    __slots__ = ("began", "primary", "request_id", "span")

    def __init__(self, request_id: str, span: Span, primary: str) -> None:
        self.request_id, self.span, self.primary = request_id, span, primary
        self.began = time.perf_counter()


class Trails:
    """See the module. ``says``: debug lines are wanted; ``node`` is this node's name, ``storage`` its storage id."""

    def __init__(self, tracer: Tracer, *, says: bool, node: str, storage: str) -> None:
        self._begin, self._says = tracer.begin, says
        self._node, self._me = node, storage
        self._here: _Bounded[int, _Served] = _Bounded()
        self._away: _Bounded[tuple[str, int], _Served] = _Bounded()
        self._writes: _Bounded[tuple[int, str], _Served] = _Bounded()
        self._changes: _Bounded[tuple[int, int], _Change] = _Bounded()
        self._copied: _Bounded[tuple[int, int], _Copied] = _Bounded()
        self._syncing: _Bounded[int, list[Span]] = _Bounded()

    @property
    def is_idle(self) -> bool:
        """Whether nothing is being followed."""
        return not (self._here or self._away or self._writes or self._changes or self._copied or self._syncing)

    # --- at the edge ---------------------------------------------------------------------------------------------

    def asked(self, request_id: str, method: str, route: str, traceparent: str) -> Asked:
        """A client's request has come."""
        notes: Notes = {"http.request.method": method, "http.route": route, "ringkeep.request_id": request_id}
        return Asked(request_id, self._begin(f"{method} {route}", traceparent, self._noted(notes), serves=True))

    def answered(self, asked: Asked, method: str, route: str, status: int) -> None:
        """It is answered."""
        asked.span.note("http.response.status_code", status)
        asked.span.end()
        if self._says:
            logger.debug(
                "request_answered",
                request_id=asked.request_id,
                route=route,
                method=method,
                status=status,
                duration_s=_since(asked.began),
            )

    # --- what comes ----------------------------------------------------------------------------------------------

    def submitted(self, token: int, shard: int, request: WriteRequest | ReadRequest, held: ShardMap | None) -> None:
        """This node's gateway takes a request; it is followed here if it is served here."""
        if request.cause and held is not None and held.shards[shard].primary.storage == self._me:
            self._here.keep(token, self._serve(request, shard, ""))

    def received(self, peer: str, bundle: Bundle, held: ShardMap | None) -> None:
        """A frame of a peer is about to be handled."""
        for message in bundle.node:
            if type(message) in (ForwardWrite, ForwardRead):
                assert isinstance(message, ForwardWrite | ForwardRead)
                self._forwarded(peer, message, held)
        for cause in bundle.causes:
            request_id, _, parent = cause.text.partition(" ")
            notes: Notes = {"ringkeep.shard": cause.shard, "ringkeep.sn": cause.sn, "ringkeep.request_id": request_id}
            span = self._begin("replica", parent, self._noted(notes), serves=True)
            self._copied.keep((cause.shard, cause.sn), _Copied(request_id, span, peer))
        if self._changes:
            for acknowledged in bundle.shard:
                if type(acknowledged) is Ack:
                    self._acknowledged(peer, acknowledged)

    def _forwarded(self, peer: str, message: ForwardWrite | ForwardRead, held: ShardMap | None) -> None:
        request = message.request
        if not request.cause or held is None or not 0 <= message.shard < len(held.shards):
            return
        is_local = isinstance(request, ReadRequest) and request.local
        if is_local or held.shards[message.shard].primary.storage == self._me:
            self._away.keep((peer, message.token), self._serve(request, message.shard, peer))

    def _serve(self, request: WriteRequest | ReadRequest, shard: int, gateway: str) -> _Served:
        request_id, _, parent = request.cause.partition(" ")
        notes = self._noted({"ringkeep.shard": shard, "ringkeep.request_id": request_id})
        span = self._begin("primary", parent, notes, serves=bool(gateway))
        appending = None
        if isinstance(request, WriteRequest):
            appending = self._begin("append", span.context, self._noted({"ringkeep.shard": shard}))
        served = _Served(request.cause, span, appending, shard, gateway)
        if appending is not None:
            self._writes.keep((shard, request.cause), served)
        return served

    def _acknowledged(self, peer: str, ack: Ack) -> None:
        for (shard, sn), change in self._changes.items():
            if shard == ack.shard and sn <= ack.sn and (waited := change.copies.get(peer)) is not None:
                waited.end()

    def synced(self, step: int) -> None:
        """Everything up to this step is on disk."""
        for number in [number for number in self._syncing if number <= step]:
            for span in self._syncing.pop(number):
                span.end()

    # --- what leaves ---------------------------------------------------------------------------------------------

    def stepped(self, step: NodeStep, followed: list[Followed]) -> None:
        """A step is about to be carried out; its frames are told which of their entries have a cause."""
        syncing: list[Span] = []
        for entry in followed:
            self._appended(entry, syncing)
        if step.records and self._copied:
            self._copying(step, syncing)
        if syncing:
            self._syncing.keep(step.number, syncing)
        for (peer, _), bundle in step.bundles.items():
            self._leaves(peer, bundle)
        if step.apply and self._changes:
            for shard, _, entries, _ in step.apply:
                self._committed(shard, entries[-1][1])
        for answer in step.answers:
            served = self._here.pop(answer.token, None)
            if served is not None:
                self._finish(served, answer.result)

    def _appended(self, entry: Followed, syncing: list[Span]) -> None:
        served = self._writes.pop((entry.shard, entry.cause), None)
        if served is None:
            return
        if served.appending is not None:
            served.appending.end()
        parent = served.span.context
        notes: Notes = {"ringkeep.shard": entry.shard, "ringkeep.sn": entry.sn}
        syncing.append(self._begin("fsync", parent, self._noted(notes)))
        commit = self._begin("commit", parent, self._noted(notes))
        self._changes.keep((entry.shard, entry.sn), _Change(served.request_id, served.span, commit))

    def _copying(self, step: NodeStep, syncing: list[Span]) -> None:
        for record in step.records:
            copied = self._copied.get((record.shard, record.sn)) if record.kind == Kind.SHARD_ENTRY else None
            if copied is not None:
                notes: Notes = {"ringkeep.shard": record.shard, "ringkeep.sn": record.sn}
                syncing.append(self._begin("fsync", copied.span.context, self._noted(notes)))

    def _leaves(self, peer: str, bundle: Bundle) -> None:
        for message in bundle.node:
            if type(message) is ForwardAnswer and (served := self._away.pop((peer, message.token), None)) is not None:
                self._finish(served, message.result)
        for told in bundle.shard:
            if type(told) is Append and told.entries and self._changes:
                self._sent(peer, told, bundle)
            elif type(told) is Ack and self._copied:
                self._acknowledge(told)

    def _sent(self, peer: str, append: Append, bundle: Bundle) -> None:
        for sn in range(append.prev_sn + 1, append.prev_sn + 1 + len(append.entries)):
            change = self._changes.get((append.shard, sn))
            if change is None or peer in change.copies:
                continue  # What is sent again is not followed twice.
            notes: Notes = {"ringkeep.shard": append.shard, "ringkeep.sn": sn, "ringkeep.peer": peer}
            waited = change.copies[peer] = self._begin("replicate", change.span.context, self._noted(notes))
            text = f"{change.request_id} {waited.context}" if waited.context else change.request_id
            bundle.causes = (*bundle.causes, Cause(append.shard, sn, text))

    def _acknowledge(self, ack: Ack) -> None:
        for key in [key for key in self._copied if key[0] == ack.shard and key[1] <= ack.sn]:
            copied = self._copied.pop(key)
            copied.span.end()
            if self._says:
                logger.debug(
                    "entry_copied",
                    request_id=copied.request_id,
                    shard=key[0],
                    sn=key[1],
                    peer=copied.primary,
                    duration_s=_since(copied.began),
                )

    def _committed(self, shard: int, upto: int) -> None:
        for key in [key for key in self._changes if key[0] == shard and key[1] <= upto]:
            change = self._changes.pop(key)
            for waited in change.copies.values():
                waited.end()
            change.commit.end()

    def _finish(self, served: _Served, result: Result) -> None:
        what = type(result).__name__
        served.span.note("ringkeep.result", what)
        if served.appending is not None:
            # Of a change that was refused, or found to be done already, nothing was appended.
            served.appending.end()
            self._writes.pop((served.shard, served.cause), None)
        served.span.end()
        if self._says:
            logger.debug(
                "request_served",
                request_id=served.request_id,
                shard=served.shard,
                peer=served.gateway,
                result=what,
                duration_s=_since(served.began),
            )

    def _noted(self, notes: Notes) -> Notes:
        return {**notes, "ringkeep.node": self._node}


def _since(began: float) -> float:
    return round(time.perf_counter() - began, 6)
