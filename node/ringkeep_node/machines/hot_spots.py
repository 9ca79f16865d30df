"""When heavy shards change places with light ones: rarely, only if people want it, and never beside a plan.

    at rest --loads known, a minute since the last look, budget left--> a few swaps --carried out like any plan--> at rest

What to swap is ``ringkeep_core.placement.swaps``'s business: counts stay as they are, and every swap must cool the hotter
node by more than it is charged for. Here is only the pace: ``swaps_per_hour`` of the wanted state. A new leader starts
with a full budget, after a pause.

Source: placement.md, "Load-aware swaps".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ringkeep_core.placement import Candidate, ShardCopies, Target
from ringkeep_core.placement.swaps import ShardLoad, SwapSettings, load_swaps, swapped
from ringkeep_core.shardmap import Settings

HOUR_S = 3600.0
LOOK_S = 60.0
"""Between two looks, and before the first one: loads are means over about as long."""
AT_ONCE = 4
NO_LOAD = ShardLoad(0.0)


class HotSpots:
    """The pace of swaps. ``loads`` is what is known of each shard; who is not in it costs nothing."""

    def __init__(self) -> None:
        self.loads: Mapping[int, ShardLoad] = {}
        self._made: list[float] = []
        self._look_at: float | None = None

    def start_afresh(self) -> None:
        """Forget what a former term of this leader did."""
        self._made, self._look_at = [], None

    def next_look(self, wanted: Settings, now: float) -> float | None:
        """Return when to look for swaps, or None if nobody wants any or nothing is known of the loads."""
        if not wanted.hot_spot_swaps or not self.loads:
            self._look_at = None
            return None
        if self._look_at is None:
            self._look_at = now + LOOK_S
        return self._look_at

    def improved(
        self,
        target: Target,
        shards: Sequence[ShardCopies],
        candidates: Sequence[Candidate],
        wanted: Settings,
        sizes: Mapping[int, int],
        now: float,
    ) -> Target | None:
        """Return a target in which a few heavy shards have changed places, or None if none is worth it now."""
        self._look_at = now + LOOK_S
        self._made = [at for at in self._made if now < at + HOUR_S]
        left = min(AT_ONCE, wanted.swaps_per_hour - len(self._made))
        if left <= 0:
            return None
        numbers = range(len(shards))
        swaps = load_swaps(
            shards,
            target,
            candidates,
            [self.loads.get(number, NO_LOAD) for number in numbers],
            SwapSettings(swaps_max=left),
            [sizes.get(number, 0) for number in numbers],
        )
        self._made += [now] * len(swaps)
        return swapped(target, swaps) if swaps else None
