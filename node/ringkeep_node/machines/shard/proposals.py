"""Changes of the map that this node has asked for and not heard of: sent again until the shard's revision moves.

Every change is a compare-and-set on the revision, so a proposal that arrives twice, late or out of order does nothing
the second time. Only a held map with a higher revision ends the asking; a removal is no longer asked for when its reason has
gone, which recalls nothing that has left. What nobody waits for is marked as such that may wait: the leader puts it
into its log together with others.

Source: replication.md, rule 4; counterexamples.md S2 and S3.
"""

from __future__ import annotations

from ringkeep_core.mapchanges import ShardChange
from ringkeep_node.machines.shard.context import Context


class _Asked:
    __slots__ = ("again_at", "change", "may_wait", "wait_s")

    def __init__(self, change: ShardChange, again_at: float, wait_s: float, may_wait: bool) -> None:
        self.change, self.again_at, self.wait_s, self.may_wait = change, again_at, wait_s, may_wait


class Proposals:
    """Open proposals by (shard, what is asked for)."""

    __slots__ = ("_ctx", "_open")

    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx
        self._open: dict[int, dict[tuple[str, str], _Asked]] = {}

    def want(self, change: ShardChange, about: str = "", *, may_wait: bool = False) -> None:
        """Propose ``change``, unless the same is being asked for. One that ``may_wait`` may take seconds to be applied."""
        asked = self._open.setdefault(change.shard, {})
        name = (type(change).__name__, about)
        if name in asked:
            return
        settings = self._ctx.settings
        wait_s = settings.proposal_again_max_s if may_wait else settings.proposal_again_s
        asked[name] = ask = _Asked(change, self._ctx.now + wait_s, wait_s, may_wait)
        self._send(ask)

    def _send(self, ask: _Asked) -> None:
        step = self._ctx.step
        (step.may_wait if ask.may_wait else step.proposals).append(ask.change)

    def withdraw(self, shard: int, kind: type[ShardChange]) -> None:
        """Ask no more for a change of this kind; what has left may commit all the same."""
        asked = self._open.get(shard)
        if asked is not None and asked.pop((kind.__name__, ""), None) is not None and not asked:
            del self._open[shard]

    def settled(self, shard: int) -> None:
        """The held map has another revision of this shard: whatever was asked on the old one is decided."""
        self._open.pop(shard, None)

    def tick(self) -> None:
        """Send again what is due."""
        now, settings = self._ctx.now, self._ctx.settings
        for asked in self._open.values():
            for ask in asked.values():
                if now >= ask.again_at:
                    ask.wait_s = min(ask.wait_s * 2, settings.proposal_again_max_s)
                    ask.again_at = now + ask.wait_s
                    self._send(ask)

    def next_deadline(self) -> float | None:
        """Return when the next proposal is sent again."""
        return min((ask.again_at for asked in self._open.values() for ask in asked.values()), default=None)
