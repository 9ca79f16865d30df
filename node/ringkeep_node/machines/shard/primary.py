"""The primary of one shard in one epoch: it orders writes, counts acknowledgements, and answers.

    taking over --own log is the longest--> begun --epoch start committed--> serving <--> handing over (see hand_over)
    any --the held map names another primary or epoch--> over: everything unanswered is Moved

Committed is what every awaited copy holds durably, our own included, while in_sync reaches ``need``; nothing counts
before the epoch-start record does. The awaited set is in_sync of the held map and the copies being added.

Source: replication.md, rules 1, 4, 6 and 7; PacificA; counterexamples.md S1 to S6.
"""

from __future__ import annotations

from collections import deque
from heapq import heappush
from typing import TYPE_CHECKING

from ringkeep_core.ids import LOG_ENTRY_BYTES_MAX
from ringkeep_core.mapchanges import Unfit
from ringkeep_core.shardmap import Shard
from ringkeep_node.machines import documents
from ringkeep_node.machines.documents import Begin, Body, Change, ForgetGateways, Write
from ringkeep_node.machines.shard.context import Context, LocalCopy
from ringkeep_node.machines.shard.copy_log import wire
from ringkeep_node.machines.shard.effects import (
    Followed,
    Moved,
    NotApplied,
    ReadRequest,
    Result,
    Stored,
    WriteRequest,
)
from ringkeep_node.machines.shard.growth import Growth
from ringkeep_node.machines.shard.messages import Ack, Append, EpochAsk, EpochEnd
from ringkeep_node.machines.shard.operations import (
    Judged,
    Overlay,
    Refusals,
    judge_change,
    judge_idempotency,
    judge_operation,
)
from ringkeep_node.machines.shard.peer import Peer
from ringkeep_node.machines.shard.reads import answer_read

if TYPE_CHECKING:
    from ringkeep_node.machines.shard.catch_up import CatchUp
    from ringkeep_node.machines.shard.confirmation import Confirmation
    from ringkeep_node.machines.shard.proposals import Proposals
    from ringkeep_node.machines.shard.takeover import Takeover

WaitingRead = tuple[int, ReadRequest | None, Result | None, int]
"""(token, what is read or None, what is answered instead or None, the sn that must have committed)."""

QUEUED, APPENDED = 1, 2
"""What became of an open request: nothing yet, or perhaps everything."""
_PARKED_MIN = 1000
WRITE_BYTES = 400
"""What a waiting request takes beside its values, about: names, ids and the objects around them."""


class Desk:
    """What the leads of a node share: the parts they call, and which of them have something to send or to look at."""

    __slots__ = (
        "active",
        "catch_up",
        "commit_news",
        "confirmation",
        "deadlines",
        "growth",
        "leads",
        "pending_bytes",
        "proposals",
        "queued_bytes",
        "registered",
        "unsent",
    )

    def __init__(
        self,
        growth: Growth,
        proposals: Proposals,
        confirmation: Confirmation,
        catch_up: CatchUp,
        leads: dict[int, Lead],
    ) -> None:
        self.growth = growth
        self.proposals = proposals
        self.confirmation = confirmation
        self.catch_up = catch_up
        self.leads = leads
        self.unsent: dict[Lead, None] = {}
        self.active: dict[Lead, None] = {}
        self.commit_news: dict[Lead, None] = {}
        self.deadlines: list[tuple[float, int]] = []
        self.registered: frozenset[str] = frozenset()
        self.pending_bytes = self.queued_bytes = 0


class Lead:
    """See the module. ``confirmers`` are the storages that a confirmation round must hear.

    ``admits``: writes are judged and appended; otherwise they wait in ``queue``, as (token, request, bytes).
    ``asked_reads`` and ``asked_writes`` count strict reads and documents to write, answered or not, until somebody looks.
    """

    __slots__ = (
        "admits",
        "asked_reads",
        "asked_writes",
        "awaited",
        "begin_sn",
        "confirmers",
        "copy",
        "ctx",
        "desk",
        "epoch",
        "forget_due",
        "overlay",
        "parked",
        "parked_max",
        "peers",
        "pending_bytes",
        "queue",
        "queued_bytes",
        "refusals",
        "shard",
        "takeover",
        "waiters",
    )

    def __init__(self, ctx: Context, desk: Desk, copy: LocalCopy, shard: Shard) -> None:
        self.ctx = ctx
        self.desk = desk
        self.copy = copy
        self.shard = shard
        self.epoch = shard.epoch
        self.begin_sn = 0
        self.asked_reads = self.asked_writes = 0
        self.admits = False
        self.peers: dict[str, Peer] = {}
        self.awaited: list[Peer] = []
        self.confirmers: tuple[str, ...] = ()
        self.takeover: Takeover | None = None
        self.overlay = Overlay()
        self.refusals = Refusals()
        self.waiters: deque[tuple[int, int, int, int]] = deque()
        self.pending_bytes = 0
        self.queue: list[tuple[int, WriteRequest | ReadRequest, int]] = []
        self.queued_bytes = 0
        self.parked: list[WaitingRead] = []
        self.parked_max = _PARKED_MIN
        self.forget_due = True

    # --- requests -----------------------------------------------------------------------------------------------

    def write(self, token: int, request: WriteRequest) -> None:
        """Admit a write, or keep it until the epoch has begun, or until a hand-over is settled."""
        self.asked_writes += len(request.writes)
        self.ctx.open[token] = QUEUED
        heappush(self.desk.deadlines, (request.deadline, token))
        if self.admits:
            self._admit(token, request)
        else:
            self._wait(token, request, sum(WRITE_BYTES + len(write.value or b"") for write in request.writes))

    def read(self, token: int, request: ReadRequest) -> None:
        """Answer a linearizable read after a confirmation that starts from now on."""
        self.asked_reads += 1
        self.ctx.open[token] = QUEUED
        heappush(self.desk.deadlines, (request.deadline, token))
        if not self.begin_sn:
            self._wait(token, request, WRITE_BYTES)
        else:
            self.desk.confirmation.add(self, (token, request, None, self.begin_sn))

    def _wait(self, token: int, request: WriteRequest | ReadRequest, size: int) -> None:
        if not self._has_room(size):
            queue = self._take_queue()
            for waiting in queue:
                if waiting[0] in self.ctx.open:
                    self._enqueue(*waiting)
        if self._has_room(size):
            self._enqueue(token, request, size)
        else:
            self.ctx.answer(token, NotApplied("overloaded"))

    def _has_room(self, size: int) -> bool:
        settings = self.ctx.settings
        return (
            len(self.queue) < settings.waiting_writes_max
            and self.queued_bytes + size <= settings.pending_bytes_max
            and self.desk.queued_bytes + size <= settings.node_pending_bytes_max
        )

    def _enqueue(self, token: int, request: WriteRequest | ReadRequest, size: int) -> None:
        self.queue.append((token, request, size))
        self.queued_bytes += size
        self.desk.queued_bytes += size

    def _take_queue(self) -> list[tuple[int, WriteRequest | ReadRequest, int]]:
        queue, self.queue = self.queue, []
        self.desk.queued_bytes -= self.queued_bytes
        self.queued_bytes = 0
        return queue

    def pause(self) -> None:
        """Append nothing more for now: what is pending drains, new writes wait. Strict reads are answered as before."""
        self.admits = False

    def resume(self) -> None:
        """Admit writes again, those that waited first; a copy that has become unfit refuses them."""
        self.admits = True
        for token, request, _ in self._take_queue():
            if token not in self.ctx.open:
                continue
            if self.copy.unfit:
                self.ctx.answer(token, NotApplied("no_primary", "this node cannot lead the shard now"))
            elif isinstance(request, WriteRequest):
                self._admit(token, request)
            else:
                self.desk.confirmation.add(self, (token, request, None, self.begin_sn))

    def _admit(self, token: int, request: WriteRequest) -> None:
        ctx, copy, operation = self.ctx, self.copy, request.operation
        judged: Judged | int | None = None
        if request.epoch not in (0, self.epoch):
            self._move_on(token)
            return
        if operation is not None:
            if operation.gateway not in self.desk.registered:
                # Ended, or registered by a map that is still on its way: only a newer map tells, so ask again.
                ctx.answer(token, NotApplied("no_primary", "the gateway's boot is not registered in the map held here"))
                return
            self.refusals.close_below(operation)
            judged = self.refusals.judged(operation) or judge_operation(self.overlay, copy.state, operation, self.epoch)
        if judged is None and request.idempotency is not None:
            judged = judge_idempotency(self.overlay, ctx.store, copy, request, self.epoch)
        if judged is None:
            if len(self.shard.in_sync) < self.shard.need:
                ctx.answer(token, NotApplied("not_enough_copies"))
                return
            judged = judge_change(self.overlay, ctx.store, copy, request, self.epoch)
        if isinstance(judged, tuple):
            if operation is not None:
                self.refusals.remember(operation, judged)
            if type(judged[0]) is Stored:
                ctx.open[token] = APPENDED
            self.desk.confirmation.add(self, (token, None, judged[0], max(judged[1], self.begin_sn)))
            return
        self._append_change(token, request, int(judged))

    def _append_change(self, token: int, request: WriteRequest, answer: int) -> None:
        ctx, desk, settings = self.ctx, self.desk, self.ctx.settings
        writes = last_of_each(request.writes) if len(request.writes) > 1 else request.writes
        change = Change(writes, answer, request.wall_ms, request.operation, request.idempotency)
        payload = documents.encode(change)
        size = len(payload)
        if size > LOG_ENTRY_BYTES_MAX:
            ctx.answer(token, NotApplied("too_large", f"a change may have {LOG_ENTRY_BYTES_MAX} bytes in the log"))
            return
        if (
            self.pending_bytes + size > settings.pending_bytes_max
            or desk.pending_bytes + size > settings.node_pending_bytes_max
        ):
            ctx.answer(token, NotApplied("overloaded"))
            return
        if self.forget_due:
            self._forget_gateways(request.wall_ms)
        sn = self._append_payload(payload)
        if ctx.followed is not None and request.cause:
            ctx.followed.append(Followed(self.copy.shard, sn, request.cause))
        self.overlay.add(sn, change)
        self.waiters.append((sn, token, answer, size))
        self.pending_bytes += size
        desk.pending_bytes += size
        ctx.open[token] = APPENDED

    def _forget_gateways(self, wall_ms: int) -> None:
        """Write down which gateway boots have ended; who serves from here must hold the map that says so."""
        self.forget_due = False
        held, registered = self.ctx.held, self.desk.registered
        assert held is not None
        known = {*self.copy.state.gateways, *(gateway for gateway, _ in self.overlay.operations)}
        ended = tuple(sorted(known - registered))
        if ended:
            self.overlay.ended_version = held.version
            self._append_payload(documents.encode(ForgetGateways(ended, held.version, wall_ms)))

    def _append_payload(self, payload: bytes) -> int:
        sn = self.copy.log.last_sn + 1
        self.ctx.append(self.copy, (self.epoch, sn, payload))
        self.desk.unsent[self] = None
        return sn

    # --- the epoch ----------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Our log is the longest: write the epoch-start record and admit what waited, behind it."""
        ctx, copy = self.ctx, self.copy
        self.takeover = None
        self._rebuild_overlay()
        held = ctx.held
        assert held is not None
        if max(self.overlay.ended_version, copy.state.ended_version) > held.version:
            return  # Our map is older than one the log names: the epoch begins when a newer one is held.
        last_sn = copy.log.last_sn
        for peer in self.peers.values():
            peer.next = peer.start = last_sn + 1
        start: Body = Begin(ctx.me, ctx.boot, copy.state.wall_ms_max)
        self.begin_sn = self._append_payload(documents.encode(start))
        self.resume()

    def _rebuild_overlay(self) -> None:
        """Take in what the log holds beyond the store: it may be committed, and requests are judged by it."""
        log, overlay = self.copy.log, Overlay()
        for sn in range(self.copy.applied + 1, log.last_sn + 1):
            body = documents.decode(log.cached[sn][2])
            if type(body) is Change:
                overlay.add(sn, body)
            elif type(body) is ForgetGateways:
                overlay.ended_version = max(overlay.ended_version, body.version)
        self.overlay = overlay

    def over(self) -> None:
        """This epoch is not ours any more: whoever leads now is asked again, under the same operation ids."""
        held, shard = self.ctx.held, self.ctx.shard(self.copy.shard)
        assert held is not None
        moved = Moved(shard.primary.storage, shard.epoch, held.version)
        for _, token, _, _ in self.waiters:
            self.ctx.answer(token, moved)
        for token, _, _ in self._take_queue():
            self.ctx.answer(token, moved)
        self.refuse_reads(self.parked)
        self.desk.pending_bytes -= self.pending_bytes
        for register in (self.desk.unsent, self.desk.active, self.desk.commit_news):
            register.pop(self, None)

    def _move_on(self, token: int) -> None:
        held = self.ctx.held
        assert held is not None
        self.ctx.answer(token, Moved(self.ctx.me, self.epoch, held.version))

    def refuse_reads(self, reads: list[WaitingRead]) -> None:
        """Send reads that were never answered to whoever leads now."""
        held, shard = self.ctx.held, self.ctx.shard(self.copy.shard)
        assert held is not None
        for token, _, _, _ in reads:
            self.ctx.answer(token, Moved(shard.primary.storage, shard.epoch, held.version))

    # --- replication --------------------------------------------------------------------------------------------

    def flush(self) -> None:
        """Send every copy what it lacks and what fits into its window."""
        if not self.begin_sn:
            return
        shared: Append | None = None
        last_sn = self.copy.log.last_sn
        for peer in self.peers.values():
            if peer.match < last_sn and peer.behind_since is None:
                peer.behind_since = self.ctx.now
            if peer.next <= last_sn:
                shared = self._send(peer, shared)
        self.desk.active[self] = None

    def _send(self, peer: Peer, shared: Append | None) -> Append | None:
        """Send one copy its next entries; ``shared`` is a message another copy got, reused where it fits."""
        ctx, log = self.ctx, self.copy.log
        settings = ctx.settings
        while peer.next <= log.last_sn and peer.on_the_way < settings.window_bytes_max and not peer.reading:
            if peer.storage not in ctx.peers_up or peer.stream:
                break
            prev_sn, bytes_max = peer.next - 1, settings.chunk_bytes_max
            if peer.is_copied_to:
                bytes_max = self.desk.catch_up.turn_of(self, peer)
                if not bytes_max:
                    break
            if shared is None or shared.prev_sn != prev_sn or bytes_max < settings.chunk_bytes_max:
                entries = log.slice(prev_sn, bytes_max)
                if entries is None:
                    self.desk.catch_up.read_for(self, peer, bytes_max)
                    break
                shared = self.append_message(prev_sn, wire(entries))
            if peer.is_copied_to:
                self.desk.catch_up.copied(shared)
            self.send_append(peer, shared)
        return shared

    def send_on(self, peer: Peer) -> None:
        """Send one copy its next entries."""
        self._send(peer, None)

    def append_message(self, prev_sn: int, entries: tuple[tuple[int, bytes], ...]) -> Append:
        """Return the message that carries ``entries`` after ``prev_sn``."""
        return Append(self.copy.shard, self.epoch, self.copy.log.epoch_at(prev_sn), prev_sn, self.copy.commit, entries)

    def send_append(self, peer: Peer, message: Append) -> None:
        """Send one message of entries and remember how far that reaches."""
        peer.next = message.prev_sn + 1 + len(message.entries)
        for _, payload in message.entries:
            peer.on_the_way += len(payload)
        peer.commit_sent = message.commit
        self.ctx.step.send.append((peer.storage, message))

    def probe(self, peer: Peer) -> None:
        """Ask a copy where it stands, or repeat what it has not acknowledged."""
        if not self.begin_sn or peer.stream or peer.reading or peer.storage not in self.ctx.peers_up:
            return
        peer.forget_sent()
        peer.resent_at = self.ctx.now
        if peer.next > self.copy.log.last_sn:
            self.send_append(peer, self.append_message(self.copy.log.last_sn, ()))
        else:
            self._send(peer, None)

    def ack(self, sender: str, message: Ack) -> None:
        """Count an acknowledgement of the registered boot of ``sender``."""
        peer = self.peers.get(sender)
        sn, last_sn = message.sn, self.copy.log.last_sn
        if (
            peer is None
            or message.epoch != self.epoch
            or peer.added != message.copy
            or sn > last_sn
            or not self.begin_sn
        ):
            return
        if sn < peer.floor:
            self.lost_what_it_held(peer)
            return
        if not peer.spoke and peer.commit_sent < self.copy.commit:
            self.desk.commit_news[self] = None  # What committed before it spoke was told to the others only.
        is_first, peer.spoke = not peer.spoke, True
        peer.floor = 0
        if sn > peer.match:
            on_the_way = peer.next - 1 - peer.match
            peer.on_the_way = 0 if on_the_way <= 0 else peer.on_the_way * max(0, peer.next - 1 - sn) // on_the_way
            peer.match = sn
            peer.is_beyond_log = False
            peer.behind_since = None if sn == last_sn else self.ctx.now
            if peer.next <= sn:
                peer.next = sn + 1
            if peer.is_awaited:
                self.advance()
        if message.resend and sn + 1 < peer.next and sn >= peer.match:
            # Each append that does not fit reports a gap; the first report answers the question where the copy stands.
            if is_first or peer.resent_at + self.ctx.settings.check_every_s / 2 <= self.ctx.now:
                self.probe(peer)
        elif peer.next <= last_sn:
            self.desk.unsent[self] = None
        if not peer.in_sync:
            self.desk.growth.consider(self, peer)

    def lost_what_it_held(self, peer: Peer) -> None:
        """A copy came back shorter than it acknowledged: it must leave the sets, and gets a copy anew."""
        change = Unfit(self.copy.shard, self.shard.revision, peer.storage, peer.added)
        self.desk.proposals.want(change, peer.storage)

    def epoch_ask(self, sender: str, message: EpochAsk) -> None:
        """Tell a copy where an epoch ends in our log: never before the epoch start is in it, for it may still grow."""
        peer = self.peers.get(sender)
        if peer is None or not self.begin_sn or message.epoch != self.epoch or peer.added != message.copy:
            return
        if message.last_sn < peer.floor:
            self.lost_what_it_held(peer)
            return
        found, end_sn = self.copy.log.end_of(message.of_epoch)
        self.ctx.send(sender, EpochEnd(self.copy.shard, self.epoch, message.of_epoch, found, end_sn))

    # --- commit -------------------------------------------------------------------------------------------------

    def advance(self) -> None:
        """Commit what every awaited copy holds durably, and answer."""
        if len(self.shard.in_sync) < self.shard.need:
            return
        copy = self.copy
        sn = copy.log.durable
        for peer in self.awaited:
            if peer.match < sn:
                sn = peer.match
        if sn <= copy.commit or sn < self.begin_sn or not self.begin_sn:
            return
        copy.commit = sn
        copy.verified = max(copy.verified, sn)
        self._answer_committed(sn)
        self.ctx.hand_over(copy)
        self.desk.commit_news[self] = None
        if self.parked:
            parked, self.parked = self.parked, []
            self.confirmed(parked)

    def _answer_committed(self, commit: int) -> None:
        waiters, ctx, done, count = self.waiters, self.ctx, 0, 0
        while waiters and waiters[0][0] <= commit:
            sn, token, answer, size = waiters.popleft()
            done += size
            ctx.answer(token, Stored(answer, sn, self.epoch))
            count += 1
        if count:
            ctx.tally.writes += count
            ctx.tally.served_at = ctx.now
        self.pending_bytes -= done
        self.desk.pending_bytes -= done

    @property
    def is_serving(self) -> bool:
        """Return whether the epoch start is committed."""
        return 0 < self.begin_sn <= self.copy.commit

    def confirmed(self, reads: list[WaitingRead]) -> None:
        """A confirmation that began after these reads arrived is there: answer those that wait for nothing else."""
        commit = self.copy.commit
        if len(self.parked) > self.parked_max:
            # Nothing commits, and whoever asked has gone: what nobody waits for would pile up for as long as that lasts.
            self.parked = [read for read in self.parked if read[0] in self.ctx.open]
            self.parked_max = max(_PARKED_MIN, 2 * len(self.parked))
        for read in reads:
            token, request, result, after_sn = read
            if after_sn > commit:
                self.parked.append(read)
            elif request is None:
                assert result is not None
                self.ctx.answer(token, result)
            elif token in self.ctx.open:
                answer_read(self.ctx, self.copy, self.overlay, self.epoch, token, request)


def last_of_each(writes: tuple[Write, ...]) -> tuple[Write, ...]:
    """Return the last write of each document, in the order of their first."""
    return tuple({(write.user, write.key): write for write in writes}.values())
