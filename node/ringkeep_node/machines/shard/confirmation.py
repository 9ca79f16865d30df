"""Confirm that nobody else leads, once for all reads that wait: by asking the peers, or by asking Raft.

    waiting --no round in flight--> in a round --every confirmer answered "no newer map"--> confirmed
    in a round --a confirmer silent for 50 ms--> ReadIndex asked --the map at that index is held--> confirmed

A read joins the next round or ReadIndex that starts, never one that started before it arrived. One ping per peer serves
all shards; each shard is judged by its own set, by the map that is held when it is judged: answers that name a newer map
are judged again when that map is held. A peer that missed a round is asked on, but not waited for until it answers. Reads
of a shard that has got another confirmer since their round began join the next one, which asks it too: this never will.
A shard whose primary has the only copy is always confirmed by Raft; where this node is the only voter that asks nobody, and
is done in the same step.

Source: replication.md, rule 2; counterexamples.md S4.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from ringkeep_node.machines.shard.context import Context
from ringkeep_node.machines.shard.messages import Ping, Pong

if TYPE_CHECKING:
    from ringkeep_node.machines.shard.primary import Lead, WaitingRead

OwnIndex = Callable[[], int | None]
"""Returns a confirmed ReadIndex if this node needs to ask nobody for it, else None."""


def no_index() -> int | None:
    """Others are to be asked."""
    return None


class _Round:
    __slots__ = ("answers", "asked", "number", "started_at", "waiting")

    def __init__(
        self, number: int, started_at: float, waiting: dict[Lead, list[WaitingRead]], asked: dict[str, None]
    ) -> None:
        self.number = number
        self.asked = asked
        self.started_at = started_at
        self.waiting = waiting
        self.answers: dict[str, tuple[str, int]] = {}


class Confirmation:
    """The reads of a node that wait for a confirmation. ``leads`` are the leads of the held map, by shard."""

    __slots__ = (
        "_ctx",
        "_index_reads",
        "_index_ready",
        "_index_token",
        "_leads",
        "_next",
        "_next_index",
        "_number",
        "_own_index",
        "_retry_at",
        "_round",
        "_silent",
        "_start_again_at",
        "_start_index",
        "_start_token",
        "fresh",
        "peer_status",
    )

    def __init__(self, ctx: Context, leads: dict[int, Lead], own_index: OwnIndex) -> None:
        self._ctx = ctx
        self._own_index = own_index
        self._leads = leads
        self._next: dict[Lead, list[WaitingRead]] = {}
        self._round: _Round | None = None
        self._number = 0
        self._silent: dict[str, None] = {}
        self._next_index: dict[Lead, list[WaitingRead]] = {}
        self._index_token = 0
        self._index_reads: dict[Lead, list[WaitingRead]] = {}
        self._index_ready: list[tuple[int, dict[Lead, list[WaitingRead]]]] = []
        self._retry_at = ctx.now
        # After a start nothing is confirmed before a ReadIndex asked for after the start was reached: the map on our
        # disk may be one that a deposed leader would still call the newest.
        self.fresh = False
        self._start_index: int | None = None
        self._start_token = 0
        self._start_again_at: float | None = ctx.now
        self.peer_status: dict[str, tuple[bool, int]] = {}

    def add(self, lead: Lead, read: WaitingRead) -> None:
        """Confirm for this read in whatever starts next."""
        held = self._next.get(lead)
        if held is None:
            self._next[lead] = [read]
        else:
            held.append(read)

    def flush(self) -> None:
        """Start a round or a ReadIndex if reads wait for one and none is in flight."""
        if self._start_again_at is not None and self._ctx.now >= self._start_again_at:
            self._start_again_at = None
            self._start_token = self._ask_index()
        if self._next and self._round is None and self._ctx.now >= self._retry_at:
            self._start_round()
        if self._next_index and not self._index_token:
            reads, self._next_index = self._next_index, {}
            index = self._own_index()
            if index is not None:
                self._reached(index, reads)
                return
            self._index_reads = reads
            self._index_token = self._ask_index()

    def _ask_index(self) -> int:
        token = self._ctx.next_token()
        self._ctx.step.read_index.append(token)
        return token

    def _start_round(self) -> None:
        ctx = self._ctx
        reads, self._next = self._next, {}
        waiting: dict[Lead, list[WaitingRead]] = {}
        asked: dict[str, None] = {}
        for lead, added in reads.items():
            # What nobody waits for any more would pile up while nothing can be confirmed.
            waiters = [read for read in added if read[0] in ctx.open]
            if not waiters:
                continue
            if self._leads.get(lead.copy.shard) is not lead:
                lead.refuse_reads(waiters)
            elif not self._can_hear(lead.confirmers):
                _join(self._next_index, lead, waiters)
                asked.update(dict.fromkeys(lead.confirmers))
            else:
                waiting[lead] = waiters
                asked.update(dict.fromkeys(lead.confirmers))
        self._number += 1
        assert ctx.held is not None
        for storage in asked:
            ctx.send(storage, Ping(self._number, ctx.boot, ctx.held.version))
        if waiting:
            self._round = _Round(self._number, ctx.now, waiting, asked)

    def _can_hear(self, confirmers: Sequence[str]) -> bool:
        """Return whether a round can prove anything: nobody asked is nobody who could know better.

        A copy that is alone is led by its own storage only, but perhaps by a later boot of it: its volume was taken away
        and given to another process, or copied, while this one hung. Only Raft knows (counterexamples.md S4(b)).
        """
        return (
            self.fresh and bool(confirmers) and all(it not in self._silent and self._ctx.is_up(it) for it in confirmers)
        )

    def pong(self, sender: str, boot: str, message: Pong) -> None:
        """Take in the answer of a registered boot."""
        if message.pinger_boot != self._ctx.boot or message.boot != boot:
            return
        self._silent.pop(sender, None)
        self.peer_status[sender] = (message.stalled, message.wall_ms)
        current = self._round
        if current is not None and message.round == current.number:
            current.answers[sender] = (boot, message.version)
            self._judge(current)

    def map_held(self) -> None:
        """A newer map: what its shards' reads waited for is judged again."""
        if not self.fresh and self._start_index is not None and self._ctx.through >= self._start_index:
            self.fresh = True
        if self._round is not None:
            self._judge(self._round)
        ready, self._index_ready = self._index_ready, []
        for index, reads in ready:
            self._reached(index, reads)

    def _judge(self, current: _Round) -> None:
        held = self._ctx.held
        assert held is not None
        version, answers = held.version, current.answers
        done = []
        for lead, reads in current.waiting.items():
            if self._leads.get(lead.copy.shard) is not lead:
                lead.refuse_reads(reads)
                done.append(lead)
                continue
            if any(storage not in current.asked for storage in lead.confirmers):
                _join(self._next, lead, reads)
                done.append(lead)
                continue
            for storage in lead.confirmers:
                answer = answers.get(storage)
                if answer is None or answer[1] > version or answer[0] != self._ctx.boot_of(storage):
                    break
            else:
                lead.confirmed(reads)
                done.append(lead)
        for lead in done:
            del current.waiting[lead]
        if not current.waiting:
            self._round = None

    def read_index_answered(self, token: int, index: int | None) -> None:
        """Take in the index that Raft gave, or that it gave none."""
        if token == self._start_token:
            self._start_token = 0
            self._start_index = index
            if index is None:
                self._start_again_at = self._ctx.now + self._ctx.settings.check_every_s
            elif self._ctx.through >= index:
                self.fresh = True
        elif token == self._index_token:
            self._index_token = 0
            reads, self._index_reads = self._index_reads, {}
            if index is not None:
                self._reached(index, reads)
                return
            self._retry_at = self._ctx.now + self._ctx.settings.confirm_wait_s
            for lead, waiters in reads.items():
                _join(self._next, lead, waiters)

    def _reached(self, index: int, reads: dict[Lead, list[WaitingRead]]) -> None:
        if self._ctx.through < index:
            self._index_ready.append((index, reads))
            return
        for lead, waiters in reads.items():
            if self._leads.get(lead.copy.shard) is lead:
                lead.confirmed(waiters)
            else:
                lead.refuse_reads(waiters)

    def tick(self) -> None:
        """End a round that waited long enough: Raft is asked for what it left open."""
        current, ctx = self._round, self._ctx
        if current is not None and ctx.now >= current.started_at + ctx.settings.confirm_wait_s:
            self._round = None
            for lead, reads in current.waiting.items():
                self._silent.update(dict.fromkeys(it for it in lead.confirmers if it not in current.answers))
                _join(self._next_index, lead, reads)

    def next_deadline(self) -> float | None:
        """Return when ``tick`` or ``flush`` has something to do."""
        due = [self._start_again_at] if self._start_again_at is not None else []
        if self._round is not None:
            due.append(self._round.started_at + self._ctx.settings.confirm_wait_s)
        elif self._next:
            due.append(self._retry_at)
        return min(due, default=None)


def _join(into: dict[Lead, list[WaitingRead]], lead: Lead, reads: list[WaitingRead]) -> None:
    into.setdefault(lead, []).extend(reads)
