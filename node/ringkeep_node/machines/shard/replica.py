"""What a copy does that is not the primary: promise, reconcile, append, acknowledge, apply.

    promised(e) --own end is the primary's, or epoch ends compared--> aligned(e) --append--> aligned(e)
    any --the held map names a higher epoch, its primary speaks--> promised(e')

A message is taken only from the primary that the held map names, in that map's epoch: a lower epoch is refused, a higher
one waits until its map is held. The promise is durable before anything in the new epoch is acknowledged.

Source: replication.md, rules 1, 4 and 6; PacificA; counterexamples.md S1, S4(c), S9.
"""

from __future__ import annotations

from ringkeep_core.mapchanges import Unfit
from ringkeep_node.machines.shard.context import Context, LocalCopy
from ringkeep_node.machines.shard.copy_log import wire
from ringkeep_node.machines.shard.messages import (
    Ack,
    Append,
    Commits,
    EpochAsk,
    EpochEnd,
    Fetch,
    Fetched,
    SnapshotBegin,
    SnapshotRows,
    Tail,
    TailAsk,
    encode_message,
)
from ringkeep_node.machines.shard.proposals import Proposals
from ringkeep_node.machines.shard.reconciliation import Reconciled, reconcile

MESSAGE_BYTES = 500
"""What the objects of a kept message take, without what it carries."""
FromPrimary = Append | TailAsk | EpochEnd | EpochAsk | Fetch | SnapshotBegin | SnapshotRows


class _Early:
    """Messages that are ahead of their map: the latest of each shard, the latest heard of all, bounded in bytes.

    What is forgotten is sent again by whoever said it.
    """

    __slots__ = ("_bytes", "_bytes_max", "_messages")

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._bytes = 0
        self._messages: dict[int, tuple[str, str, FromPrimary, int]] = {}

    def keep(self, sender: str, boot: str, message: FromPrimary) -> None:
        self.take(message.shard)
        size = MESSAGE_BYTES + len(encode_message(message))
        self._messages[message.shard] = (sender, boot, message, size)
        self._bytes += size
        while self._bytes > self._bytes_max:
            self.take(next(iter(self._messages)))

    def take(self, shard: int) -> tuple[str, str, FromPrimary] | None:
        found = self._messages.pop(shard, None)
        if found is None:
            return None
        self._bytes -= found[3]
        return found[:3]


class Replica:
    """The part of a node that follows primaries."""

    __slots__ = ("_ctx", "_early", "_proposals")

    def __init__(self, ctx: Context, proposals: Proposals) -> None:
        self._ctx = ctx
        self._proposals = proposals
        self._early = _Early(ctx.settings.early_bytes_max)

    def follow(self, sender: str, boot: str, message: FromPrimary) -> LocalCopy | None:
        """Return the copy this message may act on, promised to its epoch; None if the message is refused."""
        ctx = self._ctx
        copy = ctx.copies.get(message.shard)
        if copy is None or copy.unfit:
            return None
        shard, epoch = ctx.shard(message.shard), message.epoch
        if epoch > shard.epoch:
            # The map that made this epoch is on its way: taken up when it is held.
            self._early.keep(sender, boot, message)
            return None
        if epoch < copy.promised or epoch < shard.epoch:
            return None
        if shard.primary.storage != sender or shard.primary.boot != boot:
            return None
        if epoch > copy.promised:
            ctx.promise(copy, epoch)
        return copy

    def early(self, shard: int) -> tuple[str, str, FromPrimary] | None:
        """Return and forget a message that came before its map."""
        return self._early.take(shard)

    def append(self, sender: str, boot: str, message: Append) -> None:
        """Take entries in if they continue this copy's verified log."""
        copy = self.follow(sender, boot, message)
        if copy is None or copy.installing:
            return
        log, last_sn = copy.log, copy.log.last_sn
        if not copy.aligned:
            if log.last_epoch != message.epoch and (log.last_epoch, last_sn) != (message.prev_epoch, message.prev_sn):
                self._ask_now_and_then(copy, sender, message.epoch)
                return
            # An entry of this very epoch has this primary's whole log before it; so has an equal end.
            copy.aligned, copy.verified = True, last_sn
        if message.prev_sn > last_sn:
            self._acknowledge(copy, sender, message.epoch, resend=True)
            return
        sn = message.prev_sn
        for epoch, payload in message.entries:
            sn += 1
            if sn > last_sn:
                self._ctx.append(copy, (epoch, sn, payload))
        copy.verified = log.last_sn
        self._heard(copy, message.commit)
        self._acknowledge(copy, sender, message.epoch, resend=False)

    def commits(self, sender: str, boot: str, message: Commits) -> None:
        """Hear how far shards have committed."""
        ctx = self._ctx
        for shard_number, epoch, commit in message.commits:
            copy, shard = ctx.copies.get(shard_number), ctx.shard(shard_number)
            if copy is None or copy.unfit or epoch != copy.promised or epoch != shard.epoch:
                continue
            if shard.primary.storage == sender and shard.primary.boot == boot:
                self._heard(copy, commit)

    def tail_ask(self, sender: str, boot: str, message: TailAsk) -> None:
        """Tell a new primary where our log ends, once promise and log are durable."""
        copy = self.follow(sender, boot, message)
        if copy is not None and not copy.installing:
            log = copy.log
            self._ctx.send_synced(sender, Tail(copy.shard, copy.added, message.epoch, log.last_epoch, log.last_sn))

    def epoch_ask(self, sender: str, boot: str, message: EpochAsk) -> None:
        """Tell a primary that takes over our tail where an epoch ends in it."""
        copy = self.follow(sender, boot, message)
        if copy is not None:
            found, end_sn = copy.log.end_of(message.of_epoch)
            self._ctx.send(sender, EpochEnd(copy.shard, message.epoch, message.of_epoch, found, end_sn))

    def fetch(self, sender: str, boot: str, message: Fetch) -> tuple[LocalCopy, int] | None:
        """Send a primary that takes over our tail its next piece; return what must be read from disk first."""
        copy = self.follow(sender, boot, message)
        if copy is None:
            return None
        entries = copy.log.slice(message.after_sn, self._ctx.settings.chunk_bytes_max)
        if entries is None:
            return copy, message.after_sn
        if entries:
            self._ctx.send(sender, Fetched(copy.shard, message.epoch, message.after_sn, wire(entries)))
        return None

    def epoch_end(self, sender: str, boot: str, message: EpochEnd) -> None:
        """Compare an epoch's end with the primary's; cut, or ask further down, or give the copy up."""
        copy = self.follow(sender, boot, message)
        if copy is None or copy.aligned or copy.installing:
            return
        if message.of_epoch != copy.asked_epoch:
            return  # Meant for an earlier boot, whose log ended elsewhere: it would cut what was acknowledged since.
        outcome, number = reconcile(self._ctx, copy, message.found_epoch, message.end_sn)
        if outcome is Reconciled.ASK_AGAIN:
            self._ask(copy, sender, message.epoch, number)
        elif outcome is Reconciled.UNFIT:
            self.give_up(copy)
        else:
            copy.aligned, copy.verified = True, copy.log.last_sn
            self._heard(copy, copy.heard_commit)
            self._acknowledge(copy, sender, message.epoch, resend=True)

    def give_up(self, copy: LocalCopy) -> None:
        """This copy must not be counted any more: it leaves the sets before anything of it is discarded."""
        copy.unfit = True
        shard = self._ctx.shard(copy.shard)
        self._proposals.want(Unfit(copy.shard, shard.revision, self._ctx.me, copy.added), self._ctx.me)

    def _ask_now_and_then(self, copy: LocalCopy, sender: str, epoch: int) -> None:
        now = self._ctx.now
        if copy.asked_at + self._ctx.settings.check_every_s / 2 <= now:
            copy.asked_at = now
            # The question that is open, not the first one again: answers may take longer than the next append.
            self._ask(copy, sender, epoch, copy.log.last_epoch if copy.asked_epoch is None else copy.asked_epoch)

    def _ask(self, copy: LocalCopy, sender: str, epoch: int, of_epoch: int) -> None:
        copy.asked_epoch = of_epoch
        self._ctx.send(sender, EpochAsk(copy.shard, copy.added, epoch, of_epoch, copy.log.last_sn))

    def _heard(self, copy: LocalCopy, commit: int) -> None:
        copy.heard_commit = max(copy.heard_commit, commit)
        if not copy.aligned:
            return
        known = min(copy.heard_commit, copy.verified)
        if known > copy.commit:
            copy.commit = known
            self._ctx.hand_over(copy)

    def _acknowledge(self, copy: LocalCopy, sender: str, epoch: int, *, resend: bool) -> None:
        sn = copy.log.last_sn
        copy.acked = max(copy.acked, sn)
        self._ctx.send_synced(sender, Ack(copy.shard, copy.added, epoch, sn, resend))
