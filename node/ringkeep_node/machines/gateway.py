"""The gateway of a node: it takes any user's request, brings it to the primary and retries until the deadline.

    waiting --primary known--> sent --answer--> done
       ^         straight, or   |
       |         around         |
       +-- moved, link lost, ---+          deadline --> no_primary, or outcome_unknown for a change that may be applied
           not enough copies

A failover is latency here, not an error: a request that found the wrong node, or nobody, or too few copies, waits for
a newer map or a short back-off and goes out again. A change always goes out under the same operation id, so however
often it arrives it is applied once. Ids count per (gateway boot, shard), and each names the lowest one still open, which
lets the shard forget all results below. Every attempt names the epoch it is meant for: one that was overtaken cannot be
applied in a later epoch, so the refusal of the newest attempt is final, and that of an older one means nothing. Numbers
of attempts never repeat over the boots of a node, so an answer to an earlier boot finds no request here.

A primary that this node has no link to, or that does not answer it, is reached *around*: through another member, in_sync
ones first, which relays the request and the answer (``relay``). An attempt is thus forwarded at most twice. A node that
holds a newer map than this one answers ``Moved`` with where the shard is by that map: the request goes there at once, in
the epoch named there. Only the gateway names epochs, and never a lower one than before: were a relay to do it, an attempt
could be applied in an epoch after the one whose refusal of a newer attempt was the client's answer.

Source: replication.md rule 9 and rule 7; architecture.md, load balancer; interface.md on deadlines and on what a 503
promises.
"""

from __future__ import annotations

import heapq

import msgspec
from msgspec import Struct

from ringkeep_core.shardmap import ShardMap
from ringkeep_node.machines.documents import OperationId
from ringkeep_node.machines.shard.effects import Moved, NotApplied, ReadRequest, Result, Stored, Unknown, WriteRequest

RETRY_FIRST_S = 0.005
RETRY_MOST_S = 0.1
RESEND_AFTER_S = 1.0
RESEND_MOST_S = 8.0
SWEEP_S = 0.25
AROUND_FIRST_S = 0.05
AROUND_MOST_S = 0.5
"""Pauses after an attempt that went around: whoever relays carries every byte once more, mostly to nobody after a death."""
SILENT_S = 5.0
"""So long requests go around a primary that did not answer; then one of them finds out whether it does again."""
STRAIGHT, AROUND = 1, 2
RETRIED_CODES = frozenset({"no_primary", "not_enough_copies"})
JUDGED_CODES = frozenset({"version_mismatch", "key_reused", "too_large"})
"""Refusals by the documents or the request itself: nothing of an earlier attempt can be on its way when they come."""


class GatewaySettings(Struct, frozen=True):
    """Bounds of one gateway. ``open_requests_max`` and ``open_bytes_max`` shed load before any work is done."""

    open_requests_max: int = 4096
    open_bytes_max: int = 64 << 20


class Attempt(Struct, frozen=True, gc=False):
    """An order to bring a request to ``storage`` (this node itself, or a peer)."""

    token: int
    storage: str
    shard: int
    request: WriteRequest | ReadRequest
    deadline: float


class Answered(Struct, frozen=True, gc=False):
    """An order to answer the client."""

    token: int
    result: Result


class _Open(Struct):
    """A request that is not answered yet."""

    token: int
    shard: int
    request: WriteRequest | ReadRequest
    deadline: float
    size: int
    is_write: bool
    attempts: list[int] = []
    attempt: int = 0
    primary: str = ""
    sent_to: str | None = None
    sent_at: float = 0.0
    is_around: bool = False
    prefer: int = 0
    relays: int = 0
    hint: Moved | None = None
    resends: int = 0
    uncertain: bool = False
    retries: int = 0
    last_failure: Result | None = None


class _ShardNumbers(Struct):
    """Operation numbers of this gateway boot at one shard; ``open`` is insertion-ordered, so its first is the lowest."""

    last: int = 0
    open: dict[int, None] = {}


class Gateway:
    """Every client request this node has taken and not yet answered."""

    def __init__(self, *, me: str, boot: str, settings: GatewaySettings, first_attempt: int = 1) -> None:
        self._me, self._boot, self._settings = me, boot, settings
        self._map: ShardMap | None = None
        self._open: dict[int, _Open] = {}
        self._by_attempt: dict[int, _Open] = {}
        self._waiting: dict[int, _Open] = {}
        self._numbers: dict[int, _ShardNumbers] = {}
        self._timers: list[tuple[float, int, int]] = []
        self._sweep_due: float | None = None
        self._attempts = first_attempt - 1
        self._reachable: dict[str, None] = {}
        self._unreachable: set[str] = set()
        self._heard: dict[str, float] = {}
        self._silent: dict[str, float] = {}
        self._orders: list[Attempt | Answered] = []
        self.open_bytes = 0
        self.retries = 0
        self.forwards = 0
        self.shed = 0

    @property
    def open_requests(self) -> int:
        """How many requests are not answered yet."""
        return len(self._open)

    def take_orders(self) -> list[Attempt | Answered]:
        """Return what came out since the last call, in order."""
        # The earliest deadlines nearly always belong to answered requests: they would fire for nothing, one by one.
        while self._timers and self._timers[0][1] not in self._open:
            heapq.heappop(self._timers)
        orders, self._orders = self._orders, []
        return orders

    def next_deadline(self) -> float | None:
        """Return when ``tick`` has something to do."""
        due = self._timers[0][0] if self._timers else None
        if self._sweep_due is None or (due is not None and due < self._sweep_due):
            return due
        return self._sweep_due

    # --- requests ------------------------------------------------------------------------------------------------

    def submit(
        self, token: int, shard: int, request: WriteRequest | ReadRequest, *, deadline: float, size: int, now: float
    ) -> None:
        """Take a request. It is answered exactly once, at the latest at ``deadline``."""
        if (
            len(self._open) >= self._settings.open_requests_max
            or self.open_bytes + size > self._settings.open_bytes_max
        ):
            self.shed += 1
            self._orders.append(
                Answered(token, NotApplied("overloaded", "this node has as many requests as it may hold"))
            )
            return
        is_write = isinstance(request, WriteRequest)
        if isinstance(request, WriteRequest):
            request = self._numbered(shard, request)
        entry = _Open(token, shard, request, deadline, size, is_write)
        self._open[token] = entry
        self.open_bytes += size
        heapq.heappush(self._timers, (deadline, token, -1))
        self._send(entry, now)

    def answered(self, attempt: int, result: Result, *, now: float, by: str = "") -> None:
        """Take the answer to an attempt; late answers of attempts that were given up still count for changes.

        ``by`` is the peer that brought it: this node and that one hear each other.
        """
        if by:
            self._heard[by] = now
            if self._silent:
                self._silent.pop(by, None)
        entry = self._by_attempt.pop(attempt, None)
        if entry is None or entry.token not in self._open:
            return
        current = entry.attempt == attempt
        if current:
            entry.sent_to = None
        if self._is_final(entry, result, current, now):
            self._finish(entry, result)
            return
        is_told = False
        if type(result) is NotApplied:
            entry.last_failure = result
        else:
            entry.uncertain = True
            is_told = type(result) is Moved and self._take_hint(entry, result)
        if current:
            entry.prefer = STRAIGHT if entry.is_around and not is_told else 0
            if is_told:
                self._send(entry, now)
            else:
                self._retry(entry, now)

    def _take_hint(self, entry: _Open, moved: Moved) -> bool:
        """Keep where a newer map than any this request was routed by has the shard. Returns whether it is newer."""
        known = 0 if self._map is None else self._map.version
        if entry.hint is not None and entry.hint.version > known:
            known = entry.hint.version
        if moved.version <= known:
            return False
        entry.hint = moved
        return True

    def _is_final(self, entry: _Open, result: Result, current: bool, now: float) -> bool:
        """Return whether this answer is the request's answer, whatever its other attempts come to."""
        kind = type(result)
        if kind is Stored:
            return True
        if kind is Moved:
            return False
        if kind is Unknown:
            return now >= entry.deadline
        if kind is NotApplied:
            assert isinstance(result, NotApplied)
            if result.code in RETRIED_CODES:
                return False
            if entry.uncertain and result.code not in JUDGED_CODES:
                return False  # This attempt was turned away at the door; the one before may be in the log.
        return current or not entry.is_write

    # --- facts ---------------------------------------------------------------------------------------------------

    def map_held(self, shard_map: ShardMap, *, now: float) -> None:
        """Route by a newer map from now on; requests that wait or went to a node that is no primary any more go out."""
        self._map = shard_map
        for storage in [storage for storage in self._heard if storage not in shard_map.members]:
            del self._heard[storage]
            self._silent.pop(storage, None)
        for entry in list(self._waiting.values()):
            primary = self._route(entry, shard_map)[0]
            if primary != entry.primary or primary not in self._unreachable:
                self._send(entry, now)
        for entry in list(self._open.values()):
            if entry.sent_to is not None and self._route(entry, shard_map)[0] != entry.primary:
                self._lost(entry, now)

    def reaches(self, storage: str) -> bool:
        """Return whether there is a link to a peer."""
        return storage in self._reachable

    def peer_down(self, storage: str, *, now: float) -> None:
        """The link to a peer was lost: what was sent there goes out again under the same operation ids."""
        self._unreachable.add(storage)
        self._reachable.pop(storage, None)
        self._silent.pop(storage, None)
        for entry in [entry for entry in self._open.values() if entry.sent_to == storage]:
            self._lost(entry, now)

    def peer_up(self, storage: str, *, now: float) -> None:
        """The link to a peer is there (again): what waited goes out, and what was sent before there was one."""
        self._unreachable.discard(storage)
        self._reachable[storage] = None
        self._silent.pop(storage, None)
        for entry in [entry for entry in self._open.values() if entry.sent_to == storage]:
            self._lost(entry, now)
        for entry in list(self._waiting.values()):
            self._send(entry, now)

    def tick(self, *, now: float) -> None:
        """Fire what is due: back-offs, deadlines, and a second try of what was not answered. Late calls are safe."""
        while self._timers and self._timers[0][0] <= now:
            _, token, retries = heapq.heappop(self._timers)
            entry = self._open.get(token)
            if entry is None:
                continue
            if retries < 0:
                self._expire(entry)
            elif entry.token in self._waiting and entry.retries == retries:
                self._send(entry, now)
        if self._sweep_due is not None and now >= self._sweep_due:
            self._sweep(now)

    # --- inside --------------------------------------------------------------------------------------------------

    def _numbered(self, shard: int, request: WriteRequest) -> WriteRequest:
        numbers = self._numbers.setdefault(shard, _ShardNumbers())
        numbers.last += 1
        numbers.open[numbers.last] = None
        operation = OperationId(self._boot, numbers.last, next(iter(numbers.open)))
        epoch = 0 if self._map is None else self._map.shards[shard].epoch
        return msgspec.structs.replace(request, operation=operation, epoch=epoch)

    def _route(self, entry: _Open, shard_map: ShardMap) -> tuple[str, int]:
        """Return (primary, epoch) by the newest map that this request was told of."""
        hint = entry.hint
        if hint is not None and hint.version > shard_map.version:
            return hint.primary, hint.epoch
        shard = shard_map.shards[entry.shard]
        return shard.primary.storage, shard.epoch

    def _next_hop(self, entry: _Open, primary: str, shard_map: ShardMap, now: float) -> str | None:
        if primary == self._me:
            return primary
        is_open = primary not in self._unreachable
        if is_open and entry.prefer != AROUND and (entry.prefer == STRAIGHT or not self._is_silent(primary, now)):
            return primary
        shard = shard_map.shards[entry.shard]
        # What is in sync hears the primary, and is heard by it.
        known = dict.fromkeys((*(copy.storage for copy in shard.in_sync), *shard_map.members))
        relays = [storage for storage in known if storage in self._reachable and storage not in (self._me, primary)]
        if not relays:
            return primary if is_open else None
        entry.relays += 1
        return relays[(entry.relays - 1) % len(relays)]

    def _is_silent(self, storage: str, now: float) -> bool:
        until = self._silent.get(storage) if self._silent else None
        if until is None:
            return False
        if now < until:
            return True
        self._silent[storage] = now + SILENT_S  # This one request finds out; the others go on around.
        return False

    def _send(self, entry: _Open, now: float) -> None:
        shard_map = self._map
        if shard_map is None:
            self._wait(entry, now)
            return
        primary, epoch = self._route(entry, shard_map)
        if primary != entry.primary:
            entry.primary, entry.prefer = primary, 0
        storage = self._next_hop(entry, primary, shard_map, now)
        if storage is None:
            self._wait(entry, now)
            return
        self._waiting.pop(entry.token, None)
        self._attempts += 1
        entry.attempt, entry.sent_to, entry.sent_at = self._attempts, storage, now
        entry.is_around = storage != primary
        if storage != self._me and self._sweep_due is None:
            self._sweep_due = now + SWEEP_S
        entry.attempts.append(entry.attempt)
        if entry.is_write:
            self._name_epoch(entry, epoch)
        self._by_attempt[entry.attempt] = entry
        self.forwards += storage != self._me
        self._orders.append(Attempt(entry.attempt, storage, entry.shard, entry.request, entry.deadline))

    def _sweep(self, now: float) -> None:
        # A request or its answer may be dropped with a link that either side just lost; nobody else would notice.
        forwarded = [entry for entry in self._open.values() if entry.sent_to not in (None, self._me)]
        self._sweep_due = now + SWEEP_S if forwarded else None
        for entry in forwarded:
            if now >= entry.sent_at + min(RESEND_MOST_S, RESEND_AFTER_S * 2 ** min(entry.resends, 6)):
                entry.resends += 1
                if not entry.is_around and self._heard.get(entry.primary, 0.0) <= entry.sent_at:
                    self._silent[entry.primary] = now + SILENT_S
                entry.prefer = STRAIGHT if entry.is_around else AROUND
                self._lost(entry, now)

    def _name_epoch(self, entry: _Open, epoch: int) -> None:
        assert isinstance(entry.request, WriteRequest)
        if entry.request.epoch != epoch:
            entry.request = msgspec.structs.replace(entry.request, epoch=epoch)

    def _lost(self, entry: _Open, now: float) -> None:
        entry.sent_to, entry.uncertain = None, True
        self._send(entry, now)

    def _retry(self, entry: _Open, now: float) -> None:
        self.retries += 1
        self._wait(entry, now)

    def _wait(self, entry: _Open, now: float) -> None:
        entry.retries += 1
        self._waiting[entry.token] = entry
        first_s, most_s = (AROUND_FIRST_S, AROUND_MOST_S) if entry.is_around else (RETRY_FIRST_S, RETRY_MOST_S)
        pause_s = min(most_s, first_s * 2 ** min(entry.retries - 1, 6))
        heapq.heappush(self._timers, (now + pause_s, entry.token, entry.retries))

    def _expire(self, entry: _Open) -> None:
        if entry.is_write and (entry.uncertain or entry.sent_to is not None):
            self._finish(entry, Unknown())
        else:
            self._finish(
                entry, entry.last_failure or NotApplied("no_primary", "no primary could be reached before the deadline")
            )

    def _finish(self, entry: _Open, result: Result) -> None:
        self._close(entry)
        self._orders.append(Answered(entry.token, result))

    def _close(self, entry: _Open) -> None:
        del self._open[entry.token]
        self._waiting.pop(entry.token, None)
        self.open_bytes -= entry.size
        for attempt in entry.attempts:
            self._by_attempt.pop(attempt, None)
        if isinstance(entry.request, WriteRequest):
            operation = entry.request.operation
            assert operation is not None
            self._numbers[entry.shard].open.pop(operation.number, None)
