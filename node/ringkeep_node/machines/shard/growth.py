"""Who must acknowledge: the awaited set, how copies enter it, and how they leave.

The awaited set is in_sync of the held map and the copies being added. A copy is added when it is nearly level, proposed
when it has acknowledged the last entry appended before that, and dropped freely until the proposal leaves; from then on
only a held map with a higher revision says what became of it. So the awaited set always contains every in_sync that the
committed map can have in this epoch.

Source: replication.md, rules 3 and 4; counterexamples.md S2, S3.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ringkeep_core.mapchanges import Grow, Shrink, Touch
from ringkeep_node.machines.shard.context import Context
from ringkeep_node.machines.shard.peer import Peer
from ringkeep_node.machines.shard.proposals import Proposals

if TYPE_CHECKING:
    from ringkeep_node.machines.shard.primary import Lead


class Growth:
    """Keeps the awaited sets of all leads of a node."""

    __slots__ = ("_ctx", "_proposals")

    def __init__(self, ctx: Context, proposals: Proposals) -> None:
        self._ctx = ctx
        self._proposals = proposals

    def settle(self, lead: Lead) -> None:
        """Take the sets of the held map: all of its in_sync is awaited, and what was proposed on an older one is decided."""
        shard, before = lead.shard, lead.peers
        in_sync = {copy.storage for copy in shard.in_sync}
        eligible = {copy.storage for copy in shard.eligible}
        lead.peers = {}
        for copy in (*shard.in_sync, *shard.learners):
            if copy.storage == self._ctx.me:
                continue
            boot = self._ctx.boot_of(copy.storage) or ""
            peer = before.get(copy.storage)
            if peer is None or peer.added != copy.added:
                peer = Peer(copy, boot, lead.copy.log.last_sn + 1)
            elif peer.boot != boot:
                peer.restarted(boot)
                peer.backlog = lead.copy.log.last_sn
            elif peer.in_sync and copy.storage not in in_sync:
                peer.backlog = lead.copy.log.last_sn
                # What it acknowledged so long ago is no reason to ask for its return, and a link says nothing of its end.
                peer.spoke = False
            peer.in_sync = copy.storage in in_sync
            peer.eligible = copy.storage in eligible
            if peer.proposed < shard.revision:
                peer.proposed = 0
            if peer.in_sync:
                peer.adding = False
            lead.peers[copy.storage] = peer
        self.refresh(lead)

    def refresh(self, lead: Lead) -> None:
        """Work out anew whom commits and confirmations wait for."""
        peers = lead.peers.values()
        lead.awaited = [peer for peer in peers if peer.in_sync or peer.adding]
        lead.confirmers = tuple(peer.storage for peer in peers if peer.in_sync or peer.eligible or peer.adding)

    def consider(self, lead: Lead, peer: Peer) -> None:
        """A learner acknowledged: add it when its lag is small, propose it when it has what was there before."""
        if not peer.spoke or peer.stream or peer.is_beyond_log or peer.storage in self._ctx.stopping:
            return
        last_sn = lead.copy.log.last_sn
        if not peer.adding:
            if not self._keeps_up(lead, peer):
                return
            peer.adding, peer.added_at = True, last_sn
            self.refresh(lead)
        if peer.match >= peer.added_at:
            self._propose(lead, peer)

    def _keeps_up(self, lead: Lead, peer: Peer) -> bool:
        """Return whether what the learner lacks is so little that writes may wait for it.

        Few entries may be a lot: where a shard was filled in bulk they hold everything there is. And where large documents
        are written all the time, a lot is always on its way: there it counts how fast the learner takes it (thesis 4.2.1).
        """
        settings, now, log = self._ctx.settings, self._ctx.now, lead.copy.log
        is_quick = False
        if peer.match >= peer.round_sn:
            is_quick = peer.round_sn > 0 and now <= peer.round_at + settings.small_lag_s
            peer.round_sn, peer.round_at = log.last_sn, now
        if log.last_sn - peer.match > settings.small_lag_entries:
            return False
        return is_quick or log.is_short_after(peer.match, settings.small_lag_bytes)

    def check(self, lead: Lead) -> bool:
        """Look at every copy: send again, add, drop, propose; return whether something stays open."""
        ctx, settings = self._ctx, self._ctx.settings
        last_sn, is_open, silent = lead.copy.log.last_sn, False, list[str]()
        for peer in list(lead.peers.values()):
            is_behind = peer.match < last_sn
            is_up, is_linked = ctx.is_up(peer.storage), peer.storage in ctx.peers_up
            waits = lead.desk.catch_up.holds_back(lead, peer)
            # A link to an earlier boot may be one whose end was lost with the network: only writing to it shows that, and it
            # is made anew then. A present boot that is not registered yet takes nothing, and what it says does not count.
            if is_linked and (is_behind or not peer.spoke) and not waits and self._is_due(peer):
                lead.probe(peer)
            if peer.in_sync:
                if is_behind and peer.behind_since is None:
                    peer.behind_since = ctx.now
                if peer.behind_since is not None and ctx.now >= peer.behind_since + settings.ack_silence_s:
                    silent.append(peer.storage)
                is_open = is_open or is_behind or (is_linked and not peer.spoke)
            else:
                self._check_learner(lead, peer, is_up=is_up, is_behind=is_behind)
                is_open = is_open or is_linked or peer.adding
        if silent:
            # All in one entry: those that it removes together become eligible together, and may go on without us.
            self._proposals.want(Shrink(lead.copy.shard, lead.shard.revision, tuple(silent)))
        else:
            self._proposals.withdraw(lead.copy.shard, Shrink)
        return is_open

    def _is_due(self, peer: Peer) -> bool:
        now, again_s = self._ctx.now, self._ctx.settings.resend_after_s
        return now >= peer.resent_at + again_s and (peer.behind_since is None or now >= peer.behind_since + again_s)

    def _check_learner(self, lead: Lead, peer: Peer, *, is_up: bool, is_behind: bool) -> None:
        now, settings = self._ctx.now, self._ctx.settings
        if is_up and not is_behind:
            self.consider(lead, peer)
        if not peer.adding:
            return
        is_gone = not is_up or peer.storage in self._ctx.stopping
        silent = is_gone or (peer.behind_since is not None and now >= peer.behind_since + settings.touch_after_s)
        if silent:
            self.drop(lead, peer)
        if peer.proposed and silent and now >= peer.proposed_at + settings.touch_after_s:
            self._proposals.want(Touch(lead.copy.shard, lead.shard.revision))

    def drop(self, lead: Lead, peer: Peer) -> None:
        """Await a copy no longer that is being added, unless its proposal has left: then only a map settles it."""
        if peer.adding and not peer.proposed:
            # Nothing left for the leader yet, so nothing can commit that needs this copy.
            peer.adding = False
            self.refresh(lead)
            lead.advance()

    def _propose(self, lead: Lead, peer: Peer) -> None:
        shard = lead.shard
        if not peer.proposed:
            peer.proposed_at = self._ctx.now
        peer.proposed = shard.revision
        grow = Grow(lead.copy.shard, shard.revision, peer.storage, peer.boot, peer.added, lead.epoch, self._ctx.boot)
        # A shard that is short of copies takes no write before this one is in; and where no client is served, only the
        # next copy waits.
        is_served = self._ctx.now < self._ctx.tally.served_at + self._ctx.settings.polite_s
        may_wait = is_served and len(shard.in_sync) >= shard.need
        self._proposals.want(grow, f"{peer.storage} {peer.boot}", may_wait=may_wait)
