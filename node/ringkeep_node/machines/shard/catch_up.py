"""Bring copies up to date that need more than what is in memory: pieces of the log from disk, or a snapshot.

    primary: gone from the log --stream free--> begun --acknowledged--> rows, piece by piece --last acknowledged--> over
             any piece --not acknowledged in time--> sent again --still not--> given up
             as many streams as there may be --> waits for one to end
    learner: begun --piece--> piece ... --last--> finishing --swapped in and synced--> the log restarts at the base

A snapshot is fuzzy: its base is the applied sn noted before the first row is read, rows are read while entries go on
being applied, and replaying every entry after the base over them gives the exact state. It is built beside the old copy
and takes its place in one transaction; a copy that still counts is never overwritten. A few pieces are
in flight per stream; they are taken in order, so an acknowledgement is for all before it too. A piece is acknowledged when
the learner has taken it and its store does not lag; a learner whose disk has fallen far behind takes none, and gets it
again. The last one is acknowledged when everything is durable: only then is the stream over. How fast pieces leave is
decided in ``pacing``; a stream that waits long for its turn sends an empty piece now and then, so that nobody gives it up.

What of the log was there before a learner began to catch up is as much work as a snapshot, and takes turns with them.

Source: replication.md, rules 3 and 4, Handoff; counterexamples.md S6(c), S7.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from ringkeep_core.mapchanges import Unfit
from ringkeep_node.machines.documents import CopyState, Remembered, Row, writes_in
from ringkeep_node.machines.records import EpochStart, Kind, Record
from ringkeep_node.machines.recovery import encode_epochs
from ringkeep_node.machines.shard.context import Context, LocalCopy
from ringkeep_node.machines.shard.copy_log import CopyLog, wire
from ringkeep_node.machines.shard.effects import (
    InstallAbort,
    InstallBegin,
    InstallFinish,
    InstallRows,
    LogEntry,
    ReadLog,
    ReadRows,
)
from ringkeep_node.machines.shard.messages import Ack, Append, Fetched, SnapshotAck, SnapshotBegin, SnapshotRows
from ringkeep_node.machines.shard.pacing import Pace
from ringkeep_node.machines.shard.peer import Peer
from ringkeep_node.machines.shard.proposals import Proposals

ROW_BYTES: Final = 24
"""What numbers and lengths of a row take in a message."""

if TYPE_CHECKING:
    from ringkeep_node.machines.shard.primary import Lead


class _Outgoing:
    """A snapshot on its way out.

    ``unacknowledged`` are (number, message, bytes) in order, ``piece`` the last number. ``accepted``: the learner has taken
    its beginning. ``ordered``: bytes of the piece that is being read, 0 if none is. ``is_read``: the last piece has left.
    """

    __slots__ = (
        "accepted",
        "again_s",
        "base",
        "cursor",
        "is_read",
        "lead",
        "moved_at",
        "of_remembered",
        "ordered",
        "peer",
        "piece",
        "sent_at",
        "stream",
        "unacknowledged",
    )

    def __init__(self, lead: Lead, peer: Peer, stream: int, now: float) -> None:
        self.lead, self.peer, self.stream, self.moved_at = lead, peer, stream, now
        self.base = lead.copy.handed
        self.cursor: tuple[str, str] | None = None
        self.of_remembered = self.accepted = self.is_read = False
        self.piece = self.ordered = 0
        self.unacknowledged: deque[tuple[int, SnapshotBegin | SnapshotRows, int]] = deque()
        self.sent_at = now
        self.again_s = 0.0

    def wants_rows(self, pieces_ahead: int) -> bool:
        """Return whether the next rows should be read: not before the store has applied the base.

        Rows read earlier could lack entries up to the base, which nobody would replay.
        """
        if not self.accepted or self.ordered or self.is_read or len(self.unacknowledged) >= pieces_ahead:
            return False
        return self.lead.copy.applied >= self.base

    def is_current(self) -> bool:
        """Return whether the epoch that sends this still lasts, and the map still lists the learner."""
        lead = self.lead
        return lead.desk.leads.get(lead.copy.shard) is lead and lead.peers.get(self.peer.storage) is self.peer


class _Incoming:
    """A snapshot coming in. ``finishing``: it is being swapped in, which nothing stops any more.

    ``owes``: its last piece is not acknowledged yet, because the store lags.
    """

    __slots__ = ("begin", "copy", "finishing", "moved_at", "owes", "piece", "sender")

    def __init__(self, copy: LocalCopy, sender: str, begin: SnapshotBegin, now: float) -> None:
        self.copy, self.sender, self.begin, self.moved_at = copy, sender, begin, now
        self.piece = 0
        self.finishing = self.owes = False


class CatchUp:
    """Reads of the log for others, and snapshots out and in."""

    __slots__ = (
        "_ctx",
        "_held_back",
        "_incoming",
        "_is_behind",
        "_log_reads",
        "_outgoing",
        "_pace",
        "_proposals",
        "_row_reads",
        "_streams_first",
        "_tail_reads",
        "_waiting",
    )

    def __init__(self, ctx: Context, proposals: Proposals) -> None:
        self._ctx = ctx
        self._proposals = proposals
        self._held_back: dict[tuple[int, str], tuple[Lead, Peer]] = {}
        self._streams_first = True
        self._log_reads: dict[int, tuple[Lead, Peer, int, int]] = {}
        self._tail_reads: dict[int, tuple[LocalCopy, str, int, int]] = {}
        self._row_reads: dict[int, _Outgoing] = {}
        self._outgoing: dict[int, _Outgoing] = {}
        self._incoming: dict[int, _Incoming] = {}
        self._waiting: dict[tuple[int, str], tuple[Lead, Peer]] = {}
        self._pace = Pace(ctx.settings)
        self._is_behind = False

    # --- the log on disk ----------------------------------------------------------------------------------------

    def read_for(self, lead: Lead, peer: Peer, bytes_max: int) -> None:
        """Read from disk what ``peer`` needs next; one read at a time and peer."""
        token = self._order_log(lead.copy, peer.next - 1, bytes_max)
        peer.reading = token
        charged = bytes_max if peer.is_copied_to else 0
        self._log_reads[token] = (lead, peer, peer.next, charged)
        self._pace.charge(charged, 0, self._ctx.now)

    def read_tail(self, copy: LocalCopy, sender: str, epoch: int, after_sn: int) -> None:
        """Read from disk what a new primary fetches of our log."""
        token = self._order_log(copy, after_sn, self._ctx.settings.chunk_bytes_max)
        self._tail_reads[token] = (copy, sender, epoch, after_sn)

    def _order_log(self, copy: LocalCopy, after_sn: int, bytes_max: int) -> int:
        token = self._ctx.next_token()
        self._ctx.step.reads.append(ReadLog(token, copy.shard, copy.added, after_sn, bytes_max))
        return token

    def log_read(self, token: int, entries: Sequence[LogEntry] | None) -> None:
        """Send on what was read; None: the log no longer has it."""
        tail = self._tail_reads.pop(token, None)
        if tail is not None:
            self._tail_read(*tail, entries or ())
            return
        lead, peer, first_sn, charged = self._log_reads.pop(token, (None, None, 0, 0))
        self._pace.charge(-charged, 0, self._ctx.now)
        if lead is None or peer is None or peer.reading != token:
            return
        peer.reading = 0
        if lead.peers.get(peer.storage) is not peer or lead.desk.leads.get(lead.copy.shard) is not lead:
            return
        if peer.next != first_sn:
            lead.desk.unsent[lead] = None  # It acknowledged more while the disk was read: it needs something else now.
        elif entries and entries[0][1] == first_sn:
            if peer.storage in self._ctx.peers_up:
                message = lead.append_message(peer.next - 1, wire(entries))
                if charged:
                    self.copied(message)
                lead.send_append(peer, message)
                lead.desk.unsent[lead] = None
        else:
            self._begin_snapshot(lead, peer)

    def _tail_read(self, copy: LocalCopy, sender: str, epoch: int, after_sn: int, entries: Sequence[LogEntry]) -> None:
        if copy.promised != epoch or copy.unfit or self._ctx.copies.get(copy.shard) is not copy:
            return
        fits = bool(entries) and entries[0][1] == after_sn + 1
        # Nothing: what follows is gone from the log. It is said, for the new primary would ask for ever.
        self._ctx.send(sender, Fetched(copy.shard, epoch, after_sn, wire(entries) if fits else ()))

    # --- turns --------------------------------------------------------------------------------------------------

    def turn_of(self, lead: Lead, peer: Peer) -> int:
        """Return how many bytes of the log may be copied to ``peer`` now; 0: it is sent more when its turn comes."""
        if self._ctx.now >= self._free_at():
            return self._pace.piece_bytes(self._ctx.now)
        self._held_back.setdefault((lead.copy.shard, peer.storage), (lead, peer))
        return 0

    def holds_back(self, lead: Lead, peer: Peer) -> bool:
        """Return whether ``peer`` waits for its turn: nothing was lost that would have to be sent again."""
        return self._held_back.get((lead.copy.shard, peer.storage), (None, None))[1] is peer

    def copied(self, message: Append) -> None:
        """Count entries that were copied to a learner."""
        size = sum(len(payload) for _, payload in message.entries)
        self._pace.charge(size, sum(writes_in(payload) for _, payload in message.entries), self._ctx.now)

    def loop_was_late(self) -> None:
        """Copy less for a while, if clients are served."""
        self._pace.late(self._ctx.now)

    def timers_were_late(self, lag_s: float) -> None:
        """Copy less for a while, if that is much on the average and clients are served."""
        self._pace.felt(lag_s, self._ctx.now)

    def _send_on(self) -> None:
        """Send those on whose turn comes; who was sent something and lacks more goes to the end."""
        held_back, ctx = self._held_back, self._ctx
        while held_back and ctx.now >= self._free_at():
            key = next(iter(held_back))
            lead, peer = held_back.pop(key)
            is_led = lead.desk.leads.get(lead.copy.shard) is lead and lead.peers.get(peer.storage) is peer
            if is_led and not peer.reading:
                lead.send_on(peer)

    # --- snapshots out ------------------------------------------------------------------------------------------

    def _begin_snapshot(self, lead: Lead, peer: Peer) -> None:
        ctx = self._ctx
        if peer.in_sync or peer.eligible:
            # It counts as complete: it leaves the sets before anything of it is overwritten.
            self._proposals.want(Unfit(lead.copy.shard, lead.shard.revision, peer.storage, peer.added), peer.storage)
            return
        peer.is_beyond_log = True
        lead.desk.growth.drop(lead, peer)
        if peer.adding or peer.stream:
            return
        if len(self._outgoing) >= ctx.settings.streams_max:
            self._waiting[lead.copy.shard, peer.storage] = (lead, peer)
            return
        self._waiting.pop((lead.copy.shard, peer.storage), None)
        copy, stream = lead.copy, ctx.next_token()
        out = _Outgoing(lead, peer, stream, ctx.now)
        self._outgoing[stream] = out
        peer.stream = stream
        log, base = copy.log, copy.handed
        epochs = tuple(start for start in log.epochs if start.first_sn <= base)
        begin = SnapshotBegin(
            copy.shard, peer.added, lead.epoch, stream, log.epoch_at(base), base, copy.state.copy(), epochs
        )
        self._send(out, begin, 0)

    def _send(self, out: _Outgoing, message: SnapshotBegin | SnapshotRows, size: int) -> None:
        if not out.unacknowledged:
            out.sent_at, out.again_s = self._ctx.now, self._ctx.settings.resend_after_s
        out.unacknowledged.append((out.piece, message, size))
        self._ctx.tally.snapshot_bytes_sent += size
        self._ctx.send(out.peer.storage, message)

    def _send_again(self, out: _Outgoing) -> None:
        """Repeat what is not acknowledged: it was lost, or the learner took nothing because its disk has fallen behind."""
        ctx = self._ctx
        if not out.unacknowledged or ctx.now < out.sent_at + out.again_s:
            return
        out.sent_at = ctx.now
        # The link may be what is slow: then a repeat makes it slower.
        out.again_s = min(2 * out.again_s, ctx.settings.stream_silence_s / 4)
        for _, message, size in out.unacknowledged:
            self._pace.charge(size, 0, ctx.now)
            ctx.tally.snapshot_bytes_sent += size
            ctx.send(out.peer.storage, message)

    def acknowledged(self, sender: str, message: SnapshotAck) -> None:
        """The learner took pieces: more may be read; or everything is durable there: the stream is over."""
        out = self._outgoing.get(message.stream)
        if out is None or out.peer.storage != sender or message.copy != out.peer.added:
            return
        if message.aborted:
            self._end(out)
            return
        unacknowledged = out.unacknowledged
        if not unacknowledged or not unacknowledged[0][0] <= message.piece <= out.piece:
            return
        while unacknowledged and unacknowledged[0][0] <= message.piece:
            unacknowledged.popleft()
        out.accepted = True
        out.moved_at = out.sent_at = self._ctx.now
        out.again_s = self._ctx.settings.resend_after_s
        if not out.is_read or unacknowledged:
            self._read_on()
            return
        self._end(out)
        if out.is_current():
            # The other connection may be slower: without this, the next entry would begin a second snapshot.
            out.lead.ack(sender, Ack(message.shard, message.copy, message.epoch, out.base, True))

    def read_rows(self, copy: LocalCopy) -> None:
        """The store has applied more of ``copy``: a snapshot may have waited for that."""
        if any(out.lead.copy is copy for out in self._outgoing.values()):
            self._read_on()

    def _read_on(self) -> None:
        """Read what may be read now; the streams take turns."""
        ctx, outgoing = self._ctx, self._outgoing
        for out in list(outgoing.values()):
            if out.wants_rows(ctx.settings.pieces_ahead) and ctx.now >= self._free_at():
                outgoing[out.stream] = outgoing.pop(out.stream)
                self._order_rows(out)

    def _free_at(self) -> float:
        ctx = self._ctx
        assert ctx.held is not None
        self._pace.limit = ctx.held.wanted.settings.bytes_per_s
        self._pace.served(ctx.tally.served_at)
        return self._pace.free_at(ctx.now)

    def next_deadline(self) -> float | None:
        """Return when ``turn`` may read or send more, or None if nobody waits for a turn."""
        ahead = self._ctx.settings.pieces_ahead
        if self._held_back or any(out.wants_rows(ahead) for out in self._outgoing.values()):
            return self._free_at()
        return None

    def turn(self) -> None:
        """Read and send more if its time has come; snapshots and logs are first in turn."""
        if not self._outgoing and not self._held_back:
            return
        self._streams_first = not self._streams_first
        for work in (self._read_on, self._send_on) if self._streams_first else (self._send_on, self._read_on):
            work()

    def _order_rows(self, out: _Outgoing) -> None:
        ctx, copy = self._ctx, out.lead.copy
        out.ordered = self._pace.piece_bytes(ctx.now)
        self._pace.charge(out.ordered, 0, ctx.now)
        token = ctx.next_token()
        self._row_reads[token] = out
        ctx.step.reads.append(ReadRows(token, copy.shard, copy.added, out.cursor, out.of_remembered, out.ordered))

    def rows_read(self, token: int, read: Sequence[Row] | Sequence[Remembered], *, more: bool) -> None:
        """Send on the rows that were read."""
        out = self._row_reads.pop(token, None)
        if out is None:
            return
        tally, is_open = self._ctx.tally, self._outgoing.get(out.stream) is out
        size = _size_of(read) if is_open else 0
        self._pace.charge(size - out.ordered, len(read) if is_open else 0, self._ctx.now)
        out.ordered = 0
        if not is_open:
            return
        rows = tuple([one for one in read if isinstance(one, Row)])
        remembered = tuple([one for one in read if isinstance(one, Remembered)])
        out.is_read = not more and out.of_remembered
        if more and read:
            out.cursor = (read[-1].user, read[-1].key)
        else:
            out.cursor, out.of_remembered = None, True
        tally.snapshot_rows_sent += len(rows)
        self._send_piece(out, rows, remembered, size)
        self._read_on()

    def _send_piece(self, out: _Outgoing, rows: tuple[Row, ...], remembered: tuple[Remembered, ...], size: int) -> None:
        out.piece += 1
        lead, added = out.lead, out.peer.added
        self._send(
            out,
            SnapshotRows(lead.copy.shard, added, lead.epoch, out.stream, out.piece, rows, remembered, out.is_read),
            size,
        )

    def _stay_alive(self, out: _Outgoing) -> None:
        """Send an empty piece on a stream that has waited long for its turn: the learner would give it up."""
        is_waiting = out.accepted and not out.ordered and not out.is_read and not out.unacknowledged
        if is_waiting and self._ctx.now >= out.sent_at + self._ctx.settings.stream_silence_s / 4:
            self._send_piece(out, (), (), 0)

    def _end(self, out: _Outgoing) -> None:
        self._outgoing.pop(out.stream, None)
        lead, peer = out.lead, out.peer
        if peer.stream == out.stream:
            peer.stream = 0
            peer.resent_at = self._ctx.now
            if peer.match >= out.base and out.is_current():
                lead.desk.unsent[lead] = None  # It has acknowledged the base already: the tail may follow at once.
        self._begin_next()

    def _begin_next(self) -> None:
        """Begin the snapshots that waited for a stream to end, as far as they are needed still."""
        while self._waiting and len(self._outgoing) < self._ctx.settings.streams_max:
            key = next(iter(self._waiting))
            lead, peer = self._waiting.pop(key)
            is_led = lead.desk.leads.get(lead.copy.shard) is lead and lead.peers.get(peer.storage) is peer
            if is_led and peer.is_beyond_log and not peer.reading and self._ctx.is_up(peer.storage):
                self._begin_snapshot(lead, peer)

    # --- snapshots in -------------------------------------------------------------------------------------------

    def begin(self, copy: LocalCopy, sender: str, message: SnapshotBegin) -> None:
        """Take a snapshot in beside this copy, unless this copy counts as complete."""
        ctx, shard = self._ctx, self._ctx.shard(copy.shard)
        known = self._incoming.get(copy.shard)
        if known is not None and known.begin.stream == message.stream and known.sender == sender:
            if not known.piece:
                self._acknowledge(sender, message, 0)
            return
        busy = len(self._incoming) - (known is not None) >= ctx.settings.streams_max
        is_finishing = known is not None and known.finishing
        if message.copy != copy.added or shard.is_complete(ctx.me) or busy or is_finishing:
            self._acknowledge(sender, message, 0, aborted=True)
            return
        if copy.aligned and message.base_sn < copy.log.last_sn:
            # This copy holds, and may have acknowledged, more than the snapshot ends at: it must not take that back.
            self._acknowledge(sender, message, 0, aborted=True)
            copy.acked = max(copy.acked, copy.log.last_sn)
            ctx.send_synced(sender, Ack(copy.shard, copy.added, message.epoch, copy.log.last_sn, True))
            return
        if message.base_sn < copy.handed:
            self._acknowledge(sender, message, 0, aborted=True)
            return
        self.abort(copy.shard)
        self._incoming[copy.shard] = _Incoming(copy, sender, message, ctx.now)
        copy.installing = True
        ctx.step.orders.append(InstallBegin(copy.shard, copy.added))
        self._acknowledge(sender, message, 0)

    def rows(self, copy: LocalCopy, sender: str, message: SnapshotRows) -> None:
        """Take in the next piece; the last one swaps the snapshot in and is acknowledged when that is durable."""
        incoming = self._incoming.get(copy.shard)
        if incoming is None or incoming.begin.stream != message.stream or incoming.sender != sender:
            self._acknowledge(sender, message, 0, aborted=True)
            return
        if incoming.finishing or message.piece > incoming.piece + 1:
            return
        if message.piece <= incoming.piece:
            self._acknowledge(sender, message, incoming.piece)
            return
        incoming.piece, incoming.moved_at = message.piece, self._ctx.now
        orders, tally = self._ctx.step.orders, self._ctx.tally
        tally.snapshot_rows_received += len(message.rows)
        tally.snapshot_bytes_received += _size_of(message.rows) + _size_of(message.remembered)
        if message.rows or message.remembered:
            orders.append(InstallRows(copy.shard, copy.added, message.rows, message.remembered))
        if message.last:
            incoming.finishing = True
            begin = incoming.begin
            orders.append(
                InstallFinish(copy.shard, copy.added, begin.base_epoch, begin.base_sn, begin.state.copy(), begin.epochs)
            )
        elif self._is_behind:
            incoming.owes = True
        else:
            self._acknowledge(sender, message, message.piece)

    def store_waits(self, queued_bytes: int) -> None:
        """So much waits for the store. Pieces are acknowledged when it does not lag: what clients write uses it too."""
        self._is_behind = queued_bytes > self._ctx.settings.install_bytes_max
        if self._is_behind:
            return
        for incoming in self._incoming.values():
            if incoming.owes and not incoming.finishing:
                incoming.owes = False
                self._acknowledge(incoming.sender, incoming.begin, incoming.piece)

    def installed(self, shard: int, added: int) -> None:
        """The snapshot took the old copy's place and is synced: the log restarts at its base."""
        incoming = self._incoming.get(shard)
        if incoming is None or incoming.copy.added != added or not incoming.finishing:
            return
        del self._incoming[shard]
        ctx, copy, begin = self._ctx, incoming.copy, incoming.begin
        if ctx.copies.get(shard) is not copy:
            return  # Dropped meanwhile: a record after its drop would bring it back.
        base = (begin.base_epoch, begin.base_sn)
        ctx.step.records.append(Record(Kind.SHARD_RESET, shard, added, *base, encode_epochs(begin.epochs)))
        restart(ctx, copy, base, begin.epochs, begin.state)
        copy.installing = False
        copy.aligned = copy.promised == begin.epoch
        if copy.aligned:
            copy.acked = base[1]
            ctx.send_synced(incoming.sender, Ack(shard, added, begin.epoch, base[1], True))
            ctx.send_synced(incoming.sender, SnapshotAck(shard, added, begin.epoch, begin.stream, incoming.piece))

    def _acknowledge(
        self, sender: str, message: SnapshotBegin | SnapshotRows, piece: int, *, aborted: bool = False
    ) -> None:
        ack = SnapshotAck(message.shard, message.copy, message.epoch, message.stream, piece, aborted)
        self._ctx.send(sender, ack)

    def abort(self, shard: int) -> None:
        """Throw a snapshot away that is coming in, unless it is being swapped in already."""
        incoming = self._incoming.get(shard)
        if incoming is not None and not incoming.finishing:
            del self._incoming[shard]
            incoming.copy.installing = False
            self._ctx.step.orders.append(InstallAbort(shard, incoming.copy.added))

    def tick(self) -> None:
        """Give up streams that stand still or whose shard has moved on."""
        ctx = self._ctx
        silence_s = ctx.settings.stream_silence_s
        for out in list(self._outgoing.values()):
            if not out.is_current() or not ctx.is_up(out.peer.storage) or ctx.now >= out.moved_at + silence_s:
                self._end(out)
            else:
                self._send_again(out)
                self._stay_alive(out)
        for shard, incoming in list(self._incoming.items()):
            if not incoming.finishing and ctx.now >= incoming.moved_at + silence_s:
                self.abort(shard)

    def is_busy(self) -> bool:
        """Return whether a stream is open."""
        return bool(self._outgoing or self._incoming)

    @property
    def streams(self) -> tuple[int, int]:
        """How many snapshots are going out and coming in."""
        return len(self._outgoing), len(self._incoming)


def _size_of(rows: Sequence[Row] | Sequence[Remembered]) -> int:
    """Return the bytes that rows take in a message, nearly."""
    size = 0
    for row in rows:
        size += ROW_BYTES + len(row.user) + len(row.key)
        size += len(row.value) if type(row) is Row else 0
    return size


def restart(
    ctx: Context, copy: LocalCopy, base: tuple[int, int], epochs: Sequence[EpochStart], state: CopyState
) -> None:
    """Let a copy's log restart, empty, after ``base``, which the store has applied."""
    copy.log.release(copy.log.last_sn)
    cuts = copy.log.cuts + 1  # What of the old log is on the way to the disk says nothing about the new one.
    copy.log = CopyLog(base, epochs, base)
    copy.log.cuts = cuts
    sn = base[1]
    copy.applied = copy.handed = copy.commit = copy.verified = sn
    copy.heard_commit = max(copy.heard_commit, sn)
    copy.acked = 0
    copy.asked_epoch = None
    copy.state = state
    ctx.cache.evict()
