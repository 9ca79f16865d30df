"""Changes of the map that this node has asked for and not heard of: sent again until the shard's revision moves.

Every change is a compare-and-set on the revision, so a proposal that arrives twice, late or out of order does nothing
the second time. Only a held map with a higher revision ends the asking; a removal is no longer asked for when its reason has
gone, which recalls nothing that has left. What nobody waits for leaves at most so often, all of it in one entry: each
entry is a sync and a new map at every node.

Source: replication.md, rule 4; counterexamples.md S2 and S3.
"""

from __future__ import annotations

from ringkeep_core.mapchanges import ShardChange
from ringkeep_node.machines.shard.context import Context


class _Asked:
    __slots__ = ("again_at", "change", "wait_s")

    def __init__(self, change: ShardChange, again_at: float, wait_s: float) -> None:
        self.change, self.again_at, self.wait_s = change, again_at, wait_s


class Proposals:
    """Open proposals by (shard, what is asked for)."""

    __slots__ = ("_ctx", "_gathered_at", "_open")

    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx
        self._gathered_at = float("-inf")
        self._open: dict[int, dict[tuple[str, str], _Asked]] = {}

    def want(self, change: ShardChange, about: str = "", *, gathers: bool = False) -> None:
        """Propose ``change``, unless the same is being asked for: now, or with the next that are gathered."""
        asked = self._open.setdefault(change.shard, {})
        name = (type(change).__name__, about)
        if name in asked:
            return
        now, wait_s = self._ctx.now, self._ctx.settings.proposal_again_s
        if gathers and self._gathered_at < now < self._gathered_at + self._ctx.settings.gather_s:
            asked[name] = _Asked(change, self._gathered_at + self._ctx.settings.gather_s, 0.0)
            return
        if gathers:
            self._gathered_at = now
        asked[name] = _Asked(change, now + wait_s, wait_s)
        self._ctx.step.proposals.append(change)

    def withdraw(self, shard: int, kind: type[ShardChange]) -> None:
        """Ask no more for a change of this kind; what has left may commit all the same."""
        asked = self._open.get(shard)
        if asked is not None and asked.pop((kind.__name__, ""), None) is not None and not asked:
            del self._open[shard]

    def recall(self, shard: int, kind: type[ShardChange], about: str) -> bool:
        """Ask no more for a change that waits to be gathered with others; return whether it had not left."""
        asked = self._open.get(shard, {})
        ask = asked.get((kind.__name__, about))
        if ask is None or ask.wait_s:
            return False
        del asked[kind.__name__, about]
        if not asked:
            del self._open[shard]
        return True

    def settled(self, shard: int) -> None:
        """The held map has another revision of this shard: whatever was asked on the old one is decided."""
        self._open.pop(shard, None)

    def tick(self) -> None:
        """Send what was gathered, and again what is due."""
        now, settings = self._ctx.now, self._ctx.settings
        for asked in self._open.values():
            for ask in asked.values():
                if now >= ask.again_at:
                    if not ask.wait_s:
                        self._gathered_at = now
                    ask.wait_s = min(ask.wait_s * 2, settings.proposal_again_max_s) or settings.proposal_again_s
                    ask.again_at = now + ask.wait_s
                    self._ctx.step.proposals.append(ask.change)

    def next_deadline(self) -> float | None:
        """Return when the next proposal is sent, for the first time or again."""
        return min((ask.again_at for asked in self._open.values() for ask in asked.values()), default=None)
