"""A primary hands shards to other members of in_sync, live: clients see a pause, not an error.

    admitting --ordered--> draining --everything appended is committed--> proposed --the map moved it--> over
                              |                                              |
                              +-- not drained in 30 ms --> admitting <-------+-- the map has another higher revision

While a shard drains, new writes wait in its lead's bounded queue and strict reads go on being answered: a confirmation
says whether this epoch still stands. What drained leaves as one entry; the rest goes on at once, for nothing of it has
left, and has twice as long the next time: its disk is slow.

From then on no clock ends the hand-over, and no look into Raft that does not find the entry does: the entry may
still be on its way. Only a held map with a higher revision says what became of the shard. An entry that brings no answer is
sent again, and after a while an empty change on the same revision competes with it, so that one of the two must win.

The target needs no help: it leads by the rules of any new primary (rule 6). The old primary's queue is answered with
``Moved``, and the gateways send it on under the same operation ids.

Source: replication.md, Handoff and rule 7; counterexamples.md S2, S3(a), L6, N4.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ringkeep_core.mapchanges import Move, Touch
from ringkeep_core.shardmap import Shard
from ringkeep_node.machines.shard.context import Context
from ringkeep_node.machines.shard.proposals import Proposals

if TYPE_CHECKING:
    from ringkeep_node.machines.shard.primary import Lead

LATE_MAX = 4
"""The time to drain doubles so often: 0.5 s, still well below a client's patience."""
SHARDS_MAX = 16
"""So many shards begin a new epoch at the target together; more would hold up its loop (L6)."""


class _HandOver:
    """One entry to one target, from the order to the last answer. ``shards``: those without an answer, by number."""

    __slots__ = ("again_at", "began_at", "drained_by", "moves", "reason", "shards", "to", "touch_at", "wait_s")

    def __init__(self, to: str, reason: str, now: float) -> None:
        self.to, self.reason, self.began_at = to, reason, now
        self.drained_by = now
        self.shards: dict[int, tuple[Lead, Move]] = {}
        self.moves: tuple[Move, ...] = ()
        self.again_at = self.touch_at = self.wait_s = 0.0


class HandOvers:
    """The hand-overs of a node: at most one on its way to each target."""

    __slots__ = ("_ctx", "_late", "_leads", "_open", "_proposals")

    def __init__(self, ctx: Context, proposals: Proposals, leads: dict[int, Lead]) -> None:
        self._ctx = ctx
        self._proposals = proposals
        self._leads = leads
        self._open: dict[str, _HandOver] = {}
        self._late: dict[int, int] = {}
        """How often in a row a shard had not drained in time: each time it is given twice as long, for the disk is slow."""

    def order(self, moves: Sequence[Move], reason: str) -> None:
        """Stop admitting writes to the shards of ``moves`` that are led here on the revision named, and let them drain.

        Whatever cannot go now is left out without a word: the leader looks at the map, and orders again.
        """
        now, begun = self._ctx.now, dict[str, _HandOver]()
        for move in moves:
            lead = self._leads.get(move.shard)
            if lead is None or not _may_go(lead, move):
                continue
            going = begun.get(move.to)
            if going is None:
                if move.to in self._open:
                    continue  # One entry in flight per pair of nodes.
                going = begun[move.to] = _HandOver(move.to, reason, now)
            if len(going.shards) < SHARDS_MAX:
                lead.pause()
                going.shards[move.shard] = (lead, move)
                wait_s = self._ctx.settings.drain_wait_s * 2 ** min(self._late.get(move.shard, 0), LATE_MAX)
                going.drained_by = max(going.drained_by, now + wait_s)
        self._open.update(begun)

    def look(self) -> None:
        """Let go what has drained; what takes too long goes on here."""
        for going in list(self._open.values()):
            if going.moves:
                continue
            if self._ctx.now >= going.drained_by or all(_is_drained(lead) for lead, _ in going.shards.values()):
                self._leave(going)

    def _leave(self, going: _HandOver) -> None:
        for number, (lead, _) in list(going.shards.items()):
            if not _is_drained(lead):
                # Nothing about it has left this node, so nothing can commit that ends this epoch on our word.
                self._late[number] = self._late.get(number, 0) + 1
                self._go_on(going, number)
        if not going.shards:
            return
        now, settings = self._ctx.now, self._ctx.settings
        going.moves = tuple(move for _, move in going.shards.values())
        going.wait_s = settings.proposal_again_s
        going.again_at, going.touch_at = now + going.wait_s, now + settings.touch_after_s
        self._ctx.step.hand_overs.append((going.moves, going.reason))

    def settled(self, lead: Lead, shard: Shard) -> None:
        """The held map has ``shard`` with another revision and this lead still stands: it was not moved, so it goes on."""
        found = self._find(lead)
        if found is not None and shard.revision > found.shards[lead.copy.shard][1].revision:
            self._go_on(found, lead.copy.shard)

    def over(self, lead: Lead) -> None:
        """This lead has ended: what it queued was answered, and the map says who leads now."""
        self._late.pop(lead.copy.shard, None)
        found = self._find(lead)
        if found is not None:
            if found.moves:
                self._ctx.tally.hand_overs += 1
            self._forget(found, lead.copy.shard)

    def _find(self, lead: Lead) -> _HandOver | None:
        for going in self._open.values():
            held = going.shards.get(lead.copy.shard)
            if held is not None and held[0] is lead:
                return going
        return None

    def _go_on(self, going: _HandOver, number: int) -> None:
        lead, _ = going.shards[number]
        self._ctx.tally.hand_overs_given_up += 1
        self._forget(going, number)
        lead.resume()

    def _forget(self, going: _HandOver, number: int) -> None:
        del going.shards[number]
        self._ctx.tally.paused(self._ctx.now - going.began_at)
        if not going.shards:
            del self._open[going.to]

    # --- time ---------------------------------------------------------------------------------------------------

    def tick(self) -> None:
        """Send again what has no answer; then force one: another change on the same revision that may win."""
        now, settings = self._ctx.now, self._ctx.settings
        for going in self._open.values():
            if not going.moves:
                continue
            if now >= going.again_at:
                going.wait_s = min(going.wait_s * 2, settings.proposal_again_max_s)
                going.again_at = now + going.wait_s
                left = tuple(move for _, move in going.shards.values())
                self._ctx.step.hand_overs.append((left, going.reason))
            if now >= going.touch_at:
                for _, move in going.shards.values():
                    self._proposals.want(Touch(move.shard, move.revision))

    def next_deadline(self) -> float | None:
        """Return when ``look`` or ``tick`` has something to do."""
        due = None
        for going in self._open.values():
            if going.moves:
                at = min(going.again_at, going.touch_at) if going.touch_at > self._ctx.now else going.again_at
            else:
                at = going.drained_by
            due = at if due is None else min(due, at)
        return due

    @property
    def is_open(self) -> bool:
        """Return whether a hand-over is under way."""
        return bool(self._open)


def _may_go(lead: Lead, move: Move) -> bool:
    """Return whether this very shard may move: begun, not on its way already, to another member of its in_sync."""
    shard = lead.shard
    return (
        lead.admits
        and not lead.copy.unfit
        and shard.revision == move.revision
        and move.to != lead.ctx.me
        and shard.is_in_sync(move.to)
    )


def _is_drained(lead: Lead) -> bool:
    """Return whether everything this epoch has written is committed, so every member of in_sync has it, the target too."""
    return lead.copy.commit == lead.copy.log.last_sn
