"""Shard replication of one node: every copy it holds, every shard it leads, in one object without input or output.

The driver tells what happened and takes a ``ShardStep`` after each turn. Work is done only for shards with something
open (``active``), something to send (``unsent``) or a new commit sn (``commit_news``): a node at rest does nothing per
shard, however many it has.

Source: replication.md, rules 0 to 9.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from heapq import heappop

from ringkeep_core.mapchanges import Move
from ringkeep_core.shardmap import Shard, ShardMap
from ringkeep_node.machines.documents import Remembered, Row
from ringkeep_node.machines.shard.catch_up import CatchUp
from ringkeep_node.machines.shard.confirmation import Confirmation, OwnIndex, no_index
from ringkeep_node.machines.shard.context import Context, Tally
from ringkeep_node.machines.shard.effects import (
    DropCopy,
    Followed,
    LogEntry,
    Moved,
    NotApplied,
    ReadRequest,
    RecoveredCopyLike,
    ShardStep,
    StoredCopyLike,
    StoreView,
    Unknown,
    WriteRequest,
)
from ringkeep_node.machines.shard.growth import Growth
from ringkeep_node.machines.shard.hand_over import HandOvers
from ringkeep_node.machines.shard.messages import (
    Ack,
    Append,
    Commits,
    EpochAsk,
    EpochEnd,
    Fetch,
    Fetched,
    Ping,
    Pong,
    ShardMessage,
    SnapshotAck,
    SnapshotBegin,
    SnapshotRows,
    Tail,
    TailAsk,
)
from ringkeep_node.machines.shard.opening import Opening
from ringkeep_node.machines.shard.primary import APPENDED, QUEUED, Desk, Lead
from ringkeep_node.machines.shard.proposals import Proposals
from ringkeep_node.machines.shard.reads import answer_local, finish_page
from ringkeep_node.machines.shard.replica import Replica
from ringkeep_node.machines.shard.settings import ReplicationSettings
from ringkeep_node.machines.shard.takeover import Takeover


class Replication:
    """See the module. ``me`` is this node's storage id, ``boot`` its boot id; times are monotonic seconds."""

    def __init__(
        self,
        *,
        me: str,
        boot: str,
        settings: ReplicationSettings,
        store: StoreView,
        stored: Sequence[StoredCopyLike],
        recovered: Mapping[tuple[int, int], RecoveredCopyLike],
        now: float,
        own_index: OwnIndex = no_index,
    ) -> None:
        self._ctx = Context(me, boot, settings, store, now)
        self._proposals = Proposals(self._ctx)
        self._replica = Replica(self._ctx, self._proposals)
        self._catch_up = CatchUp(self._ctx, self._proposals)
        self._leads: dict[int, Lead] = {}
        self._confirmation = Confirmation(self._ctx, self._leads, own_index)
        self._hand_overs = HandOvers(self._ctx, self._proposals, self._leads)
        growth = Growth(self._ctx, self._proposals)
        self._desk = Desk(growth, self._proposals, self._confirmation, self._catch_up, self._leads)
        self._opening = Opening(self._ctx, stored, recovered)
        self._check_at: float | None = None
        self._commits_at: float | None = None
        self._is_stalled = False
        self.wall_ms = 0
        """Wall time for pongs, in ms; set by the driver, decides no safety."""

    @property
    def tally(self) -> Tally:
        """What this node did for clients since it started."""
        return self._ctx.tally

    def take_demand(self) -> dict[int, tuple[int, int]]:
        """Return (strict reads, documents to write) that each shard led here was asked for since the last call."""
        demand = {}
        for number, lead in self._leads.items():
            demand[number] = (lead.asked_reads, lead.asked_writes)
            lead.asked_reads = lead.asked_writes = 0
        return demand

    # --- the map ------------------------------------------------------------------------------------------------

    def map_held(self, shard_map: ShardMap, *, through: int, now: float) -> None:
        """Take the map this node now holds on disk, current through Raft index ``through``."""
        ctx, before = self._ctx, self._ctx.held
        ctx.now = now
        if before is not None and shard_map.version < before.version:
            return
        ctx.held, ctx.through = shard_map, max(ctx.through, through)
        if before is not shard_map:
            self._desk.registered = frozenset(member.boot for member in shard_map.members.values())
            changed = _changed_shards(before, shard_map)
            for number in changed:
                self._shard_changed(number, None if before is None else before.shards[number])
            self._opening.drop_unlisted()
            if before is not None:
                self._boots_changed(before, shard_map)
            for number in changed:
                early = self._replica.early(number)
                if early is not None:
                    self.receive(*early, now=now)
        self._confirmation.map_held()

    def _shard_changed(self, number: int, before: Shard | None) -> None:
        ctx, shard = self._ctx, self._ctx.shard(number)
        self._proposals.settled(number)
        if before is not None and before.epoch != shard.epoch:
            self._catch_up.abort(number)
        mine = shard.copy_of(ctx.me)
        copy = ctx.copies.get(number)
        if copy is not None and (mine is None or mine.added != copy.added):
            self._catch_up.abort(number)
            self._end_lead(number)
            del ctx.copies[number]
            copy.log.release(copy.log.last_sn)  # Nobody applies it any more: the cache may forget it.
            ctx.drop(number, copy.added)
            copy = None
        if mine is not None and copy is None:
            copy = ctx.copies[number] = self._opening.open_copy(number, mine)
        leads = shard.primary.storage == ctx.me and shard.primary.boot == ctx.boot
        lead = self._leads.get(number)
        if lead is not None and (not leads or lead.epoch != shard.epoch or lead.copy is not copy):
            self._end_lead(number)
            lead = None
        if copy is None:
            return
        if copy.unfit:
            self._replica.give_up(copy)
            if lead is not None:
                self._hand_overs.settled(lead, shard)
        elif lead is not None:
            self._lead_changed(lead, shard)
        elif leads:
            self._start_lead(Lead(ctx, self._desk, copy, shard))

    def _start_lead(self, lead: Lead) -> None:
        copy = lead.copy
        self._leads[copy.shard] = lead
        self._desk.active[lead] = None
        if lead.epoch > copy.promised:
            self._ctx.promise(copy, lead.epoch)
        self._desk.growth.settle(lead)
        lead.takeover = Takeover(lead, self._replica)
        lead.takeover.ask()
        lead.takeover.settle()

    def _lead_changed(self, lead: Lead, shard: Shard) -> None:
        lead.shard = shard
        self._desk.growth.settle(lead)
        self._hand_overs.settled(lead, shard)
        self._desk.active[lead] = None
        if lead.takeover is not None:
            lead.takeover.settle()
        elif not lead.begin_sn:
            lead.begin()
        lead.advance()

    def _end_lead(self, number: int) -> None:
        lead = self._leads.pop(number, None)
        if lead is not None:
            lead.over()
            self._hand_overs.over(lead)

    def _boots_changed(self, before: ShardMap, after: ShardMap) -> None:
        """Members started again or left: their copies are asked anew, and what they said as gateways may be forgotten."""
        changed = [
            storage
            for storage, member in before.members.items()
            if storage not in after.members or after.members[storage].boot != member.boot
        ]
        if not changed:
            return
        for lead in self._leads.values():
            lead.forget_due = True
            if any(storage in lead.peers for storage in changed):
                self._lead_changed(lead, lead.shard)
        for storage in changed:
            if self._ctx.is_up(storage):
                self._reconnected(storage)

    # --- peers --------------------------------------------------------------------------------------------------

    def peer_up(self, storage: str, boot: str, *, now: float) -> None:
        """A connection for data to a peer can be written; whatever was on the way before it is lost."""
        self._ctx.now = now
        self._ctx.peers_up[storage] = boot
        if self._ctx.held is not None:
            self._reconnected(storage)

    def _reconnected(self, storage: str) -> None:
        desk = self._desk
        for lead in self._leads.values():
            peer = lead.peers.get(storage)
            if peer is None:
                continue
            peer.forget_sent()
            if lead.takeover is not None:
                lead.takeover.ask()
                continue
            if not peer.in_sync:
                desk.active[lead] = None  # Level as it may be, it is looked at until the map takes it in.
            if peer.match < lead.copy.log.last_sn or not peer.spoke:
                desk.active[lead] = None
                if self._ctx.is_up(storage):
                    lead.probe(peer)
            if lead.copy.commit:
                desk.commit_news[lead] = None

    def peers_stopping(self, storages: frozenset[str], *, now: float) -> None:
        """Take the members that have said they stop: none of them is let into in_sync, nor awaited before it is proposed."""
        ctx, before = self._ctx, self._ctx.stopping
        if storages == before:
            return
        ctx.now, ctx.stopping = now, storages
        for lead in self._leads.values():
            for storage in storages | before:
                peer = lead.peers.get(storage)
                if peer is None:
                    continue
                if storage in storages:
                    self._desk.growth.drop(lead, peer)
                elif not peer.in_sync:
                    self._desk.active[lead] = None

    def peer_down(self, storage: str, *, now: float) -> None:
        """The connection to a peer is gone."""
        self._ctx.now = now
        self._ctx.peers_up.pop(storage, None)

    def receive(self, sender: str, sender_boot: str, message: ShardMessage, *, now: float) -> None:
        """Take a message; boots that the held map does not register are refused."""
        ctx, kind = self._ctx, type(message)
        ctx.now = now
        held = ctx.held
        if held is None or not held.is_registered(sender, sender_boot):
            return
        if kind is Append:
            self._replica.append(sender, sender_boot, message)  # type: ignore[arg-type]  # kind says so
        elif kind is Ack:
            lead = self._leads.get(message.shard)  # type: ignore[union-attr]  # kind says so
            if lead is not None:
                lead.ack(sender, message)  # type: ignore[arg-type]  # kind says so
        elif isinstance(message, Ping):
            ctx.send(
                sender,
                Pong(message.round, message.boot, ctx.boot, held.version, self._is_stalled, self.wall_ms),
            )
        elif isinstance(message, Pong):
            self._confirmation.pong(sender, sender_boot, message)
        elif isinstance(message, Commits):
            self._replica.commits(sender, sender_boot, message)
        else:
            self._receive_rare(sender, sender_boot, message)

    def _receive_rare(self, sender: str, boot: str, message: ShardMessage) -> None:
        replica = self._replica
        lead = None if isinstance(message, Ping | Pong | Commits) else self._leads.get(message.shard)
        takeover = None if lead is None else lead.takeover
        match message:
            case TailAsk():
                replica.tail_ask(sender, boot, message)
            case Tail() if takeover is not None:
                takeover.tail(sender, boot, message)
            case EpochAsk() if lead is not None:
                lead.epoch_ask(sender, message)
            case EpochAsk():
                replica.epoch_ask(sender, boot, message)
            case EpochEnd() if takeover is not None:
                takeover.epoch_end(sender, message)
            case EpochEnd():
                replica.epoch_end(sender, boot, message)
            case Fetch():
                wanted = replica.fetch(sender, boot, message)
                if wanted is not None:
                    self._catch_up.read_tail(wanted[0], sender, message.epoch, wanted[1])
            case Fetched() if takeover is not None:
                takeover.fetched(sender, message)
            case SnapshotAck():
                self._catch_up.acknowledged(sender, message)
            case SnapshotBegin():
                copy = replica.follow(sender, boot, message)
                if copy is not None:
                    self._catch_up.begin(copy, sender, message)
            case SnapshotRows():
                copy = replica.follow(sender, boot, message)
                if copy is not None:
                    self._catch_up.rows(copy, sender, message)
            case _:
                return

    # --- requests -----------------------------------------------------------------------------------------------

    def write(self, token: int, shard: int, request: WriteRequest, *, now: float) -> None:
        """Take a write; ``token`` is answered once, unless it is cancelled."""
        self._ctx.now = now
        lead = self._leads.get(shard)
        if lead is not None and not lead.copy.unfit:
            lead.write(token, request)
        else:
            self._refuse(token, shard)

    def read(self, token: int, shard: int, request: ReadRequest, *, now: float) -> None:
        """Take a read; a local one is answered by any replica."""
        ctx = self._ctx
        ctx.now = now
        lead = self._leads.get(shard)
        if request.local:
            copy = ctx.copies.get(shard)
            if copy is not None and not copy.unfit:
                ctx.open[token] = QUEUED
                answer_local(ctx, copy, ctx.shard(shard).epoch, token, request)
                return
        if lead is not None and not lead.copy.unfit:
            lead.read(token, request)
        else:
            self._refuse(token, shard)

    def _refuse(self, token: int, shard: int) -> None:
        ctx, held = self._ctx, self._ctx.held
        ctx.open[token] = QUEUED
        if held is None or not 0 <= shard < len(held.shards):
            ctx.answer(token, NotApplied("no_primary", "this node holds no map yet"))
            return
        named = held.shards[shard]
        if named.primary.storage == ctx.me:
            ctx.answer(token, NotApplied("no_primary", "this node cannot lead the shard now"))
        else:
            ctx.answer(token, Moved(named.primary.storage, named.epoch, held.version))

    def hand_over(self, moves: Sequence[Move], reason: str, *, now: float) -> None:
        """Give shards that are led here to other members of their in_sync, as the Raft leader orders."""
        self._ctx.now = now
        self._hand_overs.order(moves, reason)

    def cancel(self, token: int) -> None:
        """Nobody waits for this answer any more."""
        self._ctx.open.pop(token, None)

    # --- completions --------------------------------------------------------------------------------------------

    def synced(self, step: int, *, now: float) -> None:
        """The records of all steps up to ``step`` are durable."""
        ctx = self._ctx
        ctx.now = now
        notes = ctx.notes
        while notes and notes[0][0] <= step:
            _, durable, dropped = notes.popleft()
            for copy, cuts, sn in durable:
                log = copy.log
                if log.cuts != cuts or sn <= log.durable:
                    continue
                log.durable = sn
                lead = self._leads.get(copy.shard)
                if lead is not None and lead.copy is copy:
                    lead.advance()
                elif copy.handed < copy.commit:
                    ctx.hand_over(copy)
            for shard, added in dropped:
                ctx.step.orders.append(DropCopy(shard, added))

    def applied(self, what: Sequence[tuple[int, int, int]], *, now: float) -> None:
        """The store shows (shard, copy, sn) from now on."""
        ctx = self._ctx
        ctx.now = now
        for shard, added, sn in what:
            copy = ctx.copies.get(shard)
            if copy is None or copy.added != added or sn <= copy.applied:
                continue
            copy.applied = sn
            copy.log.released = sn
            lead = self._leads.get(shard)
            if lead is not None:
                lead.overlay.applied(sn)
                self._catch_up.read_rows(copy)

    def read_index_answered(self, token: int, index: int | None, *, now: float) -> None:
        """Raft answered a ReadIndex, or could not."""
        self._ctx.now = now
        self._confirmation.read_index_answered(token, index)

    def log_read(self, token: int, entries: Sequence[LogEntry] | None, *, now: float) -> None:
        """A ``ReadLog`` is done; None or nothing: the log no longer holds what was asked for."""
        self._ctx.now = now
        self._catch_up.log_read(token, entries)

    def rows_read(self, token: int, rows: Sequence[Row] | Sequence[Remembered], more: bool, *, now: float) -> None:
        """A ``ReadRows`` is done, with rows of the kind it asked for."""
        self._ctx.now = now
        self._catch_up.rows_read(token, rows, more=more)

    def page_read(self, token: int, applied_sn: int, rows: Sequence[Row], more: bool, *, now: float) -> None:
        """A ``ReadPage`` is done, read at ``applied_sn``."""
        self._ctx.now = now
        page = self._ctx.pages.pop(token, None)
        if page is None or page.token not in self._ctx.open:
            return
        if self._ctx.copies.get(page.copy.shard) is not page.copy:
            self._refuse(page.token, page.copy.shard)  # The store may have dropped the copy before it was read.
        else:
            self._ctx.answer(page.token, finish_page(page, rows, applied_sn, more))

    def installed(self, shard: int, copy: int, *, now: float) -> None:
        """An ``InstallFinish`` is done and synced."""
        self._ctx.now = now
        self._catch_up.installed(shard, copy)

    def store_waits(self, queued_bytes: int, *, now: float) -> None:
        """So many bytes of changes wait for the store: snapshots that come in give way."""
        self._ctx.now = now
        self._catch_up.store_waits(queued_bytes)

    def lagged(self, *, now: float) -> None:
        """The loop was late: whoever is served here waits."""
        self._ctx.now = now
        self._catch_up.loop_was_late()

    def timers_late(self, lag_s: float, *, now: float) -> None:
        """The loop's timers were late by so much on the average, lately."""
        self._ctx.now = now
        self._catch_up.timers_were_late(lag_s)

    @property
    def streams(self) -> tuple[int, int]:
        """How many snapshots are going out and coming in."""
        return self._catch_up.streams

    @property
    def has_streams(self) -> bool:
        """Whether snapshots are going out or coming in."""
        return any(self._catch_up.streams)

    def stalled(self, is_stalled: bool, *, now: float) -> None:
        """The own disk hangs, or works again: told to the peers in pongs."""
        self._ctx.now = now
        self._is_stalled = is_stalled

    # --- time ---------------------------------------------------------------------------------------------------

    def tick(self, *, now: float) -> None:
        """Fire what is due."""
        self._ctx.now = now
        self._confirmation.tick()
        self._proposals.tick()
        self._hand_overs.tick()
        self._catch_up.turn()
        self._expire()
        if self._commits_at is not None and now >= self._commits_at:
            self._commits_at = None
            self._send_commits()
        if self._check_at is not None and now >= self._check_at:
            self._check_at = None
            self._catch_up.tick()
            for lead in list(self._desk.active):
                self._check(lead)

    def _check(self, lead: Lead) -> None:
        if lead.takeover is not None:
            lead.takeover.tick()
        elif not lead.begin_sn:
            lead.begin()
        elif not self._desk.growth.check(lead):
            self._desk.active.pop(lead, None)

    def _expire(self) -> None:
        ctx, deadlines = self._ctx, self._desk.deadlines
        while deadlines and deadlines[0][0] <= ctx.now:
            _, token = heappop(deadlines)
            state = ctx.open.get(token)
            if state == APPENDED:
                ctx.answer(token, Unknown())
            elif state is not None:
                ctx.answer(token, NotApplied("no_primary", "the deadline passed before anything was done"))

    def _drop_answered(self) -> None:
        """Forget deadlines of answered requests: they are nearly always the earliest, and would wake a node at rest."""
        deadlines, is_open = self._desk.deadlines, self._ctx.open
        while deadlines and deadlines[0][1] not in is_open:
            heappop(deadlines)

    def _send_commits(self) -> None:
        ctx = self._ctx
        news: dict[str, list[tuple[int, int, int]]] = {}
        for lead in self._desk.commit_news:
            commit = lead.copy.commit
            for peer in lead.peers.values():
                if peer.commit_sent < commit and peer.spoke and peer.storage in ctx.peers_up:
                    peer.commit_sent = commit
                    news.setdefault(peer.storage, []).append((lead.copy.shard, lead.epoch, commit))
        self._desk.commit_news.clear()
        for storage, commits in news.items():
            ctx.send(storage, Commits(tuple(commits)))

    def next_deadline(self) -> float | None:
        """Return when ``tick`` has something to do, or None."""
        desk = self._desk
        due = [self._confirmation.next_deadline(), self._proposals.next_deadline(), self._check_at, self._commits_at]
        due += [self._hand_overs.next_deadline(), self._catch_up.next_deadline()]
        if desk.deadlines:
            due.append(desk.deadlines[0][0])
        return min((at for at in due if at is not None), default=None)

    def follow(self) -> None:
        """Tell from now on which appended change had which cause."""
        self._ctx.followed = []

    def take_followed(self) -> list[Followed]:
        """Return what was appended since the last call and has a cause; nothing unless ``follow`` was called."""
        followed = self._ctx.followed
        if not followed:
            return []
        self._ctx.followed = []
        return followed

    def take_step(self) -> ShardStep:
        """Return what this turn produced."""
        desk, ctx = self._desk, self._ctx
        if self._hand_overs.is_open:
            self._hand_overs.look()
        if desk.unsent:
            unsent, desk.unsent = desk.unsent, {}
            for lead in unsent:
                lead.flush()
        self._confirmation.flush()
        self._drop_answered()
        if self._check_at is None and (desk.active or self._catch_up.is_busy()):
            self._check_at = ctx.now + ctx.settings.check_every_s
        if self._commits_at is None and desk.commit_news:
            self._commits_at = ctx.now + ctx.settings.commits_every_s
        return ctx.close_step()


def _changed_shards(before: ShardMap | None, after: ShardMap) -> list[int]:
    """Return the numbers of the shards that differ; a whole map of the same objects costs a look each."""
    if before is None:
        return list(range(len(after.shards)))
    return [
        number
        for number, (old, new) in enumerate(zip(before.shards, after.shards, strict=True))
        if old is not new and old != new
    ]
