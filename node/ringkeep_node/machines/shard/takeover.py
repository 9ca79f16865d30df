r"""A new primary finds the longest log among the complete copies before its epoch begins.

    asking --every needed copy told its end--> own log is the longest: begin
                                           \--> another is ahead: compare epoch ends, cut, fetch its tail --> begin
    fetching --the source no longer has what follows--> unfit: it was committed, so this copy lacks what it acknowledged

Needed are the other members of in_sync (nothing commits without them anyway) and the eligible copies that are connected.
Who does not answer, or tells an end and then sends nothing, is settled by a change of the map: this primary proposes it,
the leader may be faster.

Source: replication.md, rule 6; counterexamples.md S9(a), S9(b).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ringkeep_core.mapchanges import Shrink
from ringkeep_node.machines.shard.messages import EpochAsk, EpochEnd, Fetch, Fetched, Tail, TailAsk
from ringkeep_node.machines.shard.reconciliation import Reconciled, reconcile

if TYPE_CHECKING:
    from ringkeep_node.machines.shard.primary import Lead
    from ringkeep_node.machines.shard.replica import Replica


class Takeover:
    """One lead that has not begun; ``tails`` are (boot, last epoch, last sn) by storage."""

    __slots__ = ("_asked_at", "_asked_epoch", "_lead", "_moved_at", "_replica", "_since", "_source", "_tails")

    def __init__(self, lead: Lead, replica: Replica) -> None:
        self._lead = lead
        self._replica = replica
        self._tails: dict[str, tuple[str, int, int]] = {}
        self._source: str | None = None
        self._asked_epoch: int | None = None
        self._since = self._asked_at = self._moved_at = lead.ctx.now

    def ask(self) -> None:
        """Ask every complete copy that has not told its end; or the source for what comes next."""
        lead, ctx = self._lead, self._lead.ctx
        self._asked_at = ctx.now
        if self._source is not None:
            self._ask_source()
            return
        for storage, peer in lead.peers.items():
            if (peer.in_sync or peer.eligible) and not self._has_told(storage):
                ctx.send_synced(storage, TailAsk(lead.copy.shard, lead.epoch))

    def tail(self, sender: str, boot: str, message: Tail) -> None:
        """Take in where a copy's log ends."""
        peer = self._lead.peers.get(sender)
        if peer is not None and peer.added == message.copy and message.epoch == self._lead.epoch:
            self._tails[sender] = (boot, message.last_epoch, message.last_sn)
            self.settle()

    def settle(self) -> None:
        """Begin, or fetch, if every needed copy has told its end."""
        lead, ctx = self._lead, self._lead.ctx
        needed = [
            storage for storage, peer in lead.peers.items() if peer.in_sync or (peer.eligible and ctx.is_up(storage))
        ]
        if not all(self._has_told(storage) for storage in needed):
            return
        log = lead.copy.log
        best, source = (log.last_epoch, log.last_sn), None
        for storage in needed:
            end = self._tails[storage][1:]
            if end > best:
                best, source = end, storage
        if source is None:
            lead.begin()
        elif source != self._source:
            self._source = source
            self._moved_at = ctx.now
            self._ask_source()

    def epoch_end(self, sender: str, message: EpochEnd) -> None:
        """Compare with the source epoch by epoch, then fetch what follows the common part."""
        lead = self._lead
        if sender != self._source or message.epoch != lead.epoch or message.of_epoch != self._asked_epoch:
            return  # A repeated answer is about a log that has been fetched on since: it would cut what came.
        self._asked_epoch = None
        outcome, number = reconcile(lead.ctx, lead.copy, message.found_epoch, message.end_sn)
        if outcome is Reconciled.ASK_AGAIN:
            self._ask_end_of(sender, number)
        elif outcome is Reconciled.UNFIT:
            self._replica.give_up(lead.copy)
        else:
            lead.ctx.send(sender, Fetch(lead.copy.shard, lead.epoch, number))

    def fetched(self, sender: str, message: Fetched) -> None:
        """Take over a piece of the source's tail; without entries: the source no longer has what follows."""
        lead, log = self._lead, self._lead.copy.log
        if sender != self._source or message.epoch != lead.epoch or message.after_sn != log.last_sn:
            return
        if not message.entries:
            # A log lets go only of what its store has applied, and that is committed: we acknowledged it, and lack it.
            self._replica.give_up(lead.copy)
            return
        self._moved_at = lead.ctx.now
        for epoch, payload in message.entries:
            lead.ctx.append(lead.copy, (epoch, log.last_sn + 1, payload))
        if (log.last_epoch, log.last_sn) >= self._tails[sender][1:]:
            self._source = None
            self.settle()
        else:
            lead.ctx.send(sender, Fetch(lead.copy.shard, lead.epoch, log.last_sn))

    def tick(self) -> None:
        """Ask again; propose the removal of members of in_sync that stay silent, or send nothing of their tail."""
        lead, ctx = self._lead, self._lead.ctx
        if lead.copy.unfit:
            return
        if self._source is not None and not self._has_told(self._source):
            self._source = None  # It started again: what it has now is asked anew.
        self.settle()
        if lead.takeover is None:
            return
        if ctx.now >= self._asked_at + ctx.settings.resend_after_s:
            self.ask()
        silent = tuple(s for s, peer in lead.peers.items() if peer.in_sync and self._is_silent(s))
        if silent:
            lead.desk.proposals.want(Shrink(lead.copy.shard, lead.shard.revision, silent))

    def _is_silent(self, storage: str) -> bool:
        if self._has_told(storage) and storage != self._source:
            return False
        heard_at = self._moved_at if storage == self._source else self._since
        return self._lead.ctx.now >= heard_at + self._lead.ctx.settings.ack_silence_s

    def _has_told(self, storage: str) -> bool:
        told = self._tails.get(storage)
        return told is not None and told[0] == self._lead.ctx.boot_of(storage)

    def _ask_source(self) -> None:
        assert self._source is not None
        self._ask_end_of(self._source, self._lead.copy.log.last_epoch)

    def _ask_end_of(self, source: str, epoch: int) -> None:
        lead, copy = self._lead, self._lead.copy
        self._asked_epoch = epoch
        lead.ctx.send(source, EpochAsk(copy.shard, copy.added, lead.epoch, epoch, copy.log.last_sn))
