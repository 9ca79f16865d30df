"""When heavy shards change places with light ones: rarely, only if people want it, and never beside a plan.

    at rest for a minute, loads known, budget left --> a few swaps --carried out like any plan--> at rest

What to swap is ``ringkeep_core.placement.swaps``'s business: counts stay as they are, and every swap must cool the hotter
node by more than it is charged for. Here is only the pace: ``swaps_per_hour`` of the wanted state, over the last hour.
A new leader does not know what its predecessor did: it takes the budget as spent, and gets it back bit by bit, the first
swap after a few minutes. So however often leaders change, an hour has at most twice the budget.

Source: placement.md, "Load-aware swaps".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ringkeep_core.placement import Candidate, ShardCopies, Target
from ringkeep_core.placement.swaps import ShardLoad, Swap, SwapSettings, load_swaps, swapped
from ringkeep_core.shardmap import Settings, Shard

HOUR_S = 3600.0
LOOK_S = 60.0
"""Between two looks, and after any change of a shard: loads are means over about as long."""
NEW_LEADER_S = 300.0
"""A new leader swaps nothing for so long, and not all at once after that."""
AT_ONCE = 4
NO_LOAD = ShardLoad(0.0)


class HotSpots:
    """The pace of swaps. ``loads`` is what is known of each shard; who is not in it costs nothing. ``made`` counts."""

    def __init__(self) -> None:
        self.loads: Mapping[int, ShardLoad] = {}
        self.made = 0
        self._since: float | None = None
        self._made_at: list[float] = []
        self._look_at = 0.0
        self._seen: Sequence[Shard] = ()
        self._is_known = False

    def start_afresh(self) -> None:
        """Forget what a former term of this leader did."""
        self._since, self._made_at, self._seen = None, [], ()

    def next_look(self, wanted: Settings, shards: Sequence[Shard], now: float) -> float | None:
        """Return when to look for swaps, or None if nobody wants any or nothing is known of the loads.

        Call it whenever there is nothing else to do: that is also how changes of the map are seen.
        """
        if self._since is None:
            self._since = now
        is_known = wanted.hot_spot_swaps and len(self.loads) > 0
        if shards is not self._seen or is_known is not self._is_known:
            self._seen, self._is_known = shards, is_known
            self.put_off(now)
        return self._look_at if is_known else None

    def put_off(self, now: float) -> None:
        """Look again in a while."""
        self._look_at = now + LOOK_S

    def budget(self, swaps_per_hour: int, now: float) -> int:
        """Return how many swaps may be made now."""
        self._made_at = [at for at in self._made_at if now < at + HOUR_S]
        since = now if self._since is None else self._since
        apart_s = (HOUR_S - NEW_LEADER_S) / max(1, swaps_per_hour)
        taken_as_spent = sum(1 for it in range(swaps_per_hour) if now < since + NEW_LEADER_S + it * apart_s)
        return max(0, swaps_per_hour - taken_as_spent - len(self._made_at))

    def swaps(
        self,
        target: Target,
        shards: Sequence[ShardCopies],
        candidates: Sequence[Candidate],
        wanted: Settings,
        sizes: Mapping[int, int],
        now: float,
    ) -> tuple[Swap, ...]:
        """Return a few swaps that are worth it now, and take them as made."""
        self.put_off(now)
        at_once = min(AT_ONCE, self.budget(wanted.swaps_per_hour, now))
        if at_once <= 0:
            return ()
        numbers = range(len(shards))
        found = load_swaps(
            shards,
            target,
            candidates,
            [self.loads.get(number, NO_LOAD) for number in numbers],
            SwapSettings(swaps_max=at_once),
            [sizes.get(number, 0) for number in numbers],
        )
        self._made_at += [now] * len(found)
        self.made += len(found)
        return found


def with_swaps(target: Target, swaps: Sequence[Swap]) -> tuple[Target, str]:
    """Return the target with the swaps in it, and in words which they are."""
    words = [f"shard {it.heavy} ({it.hot}) for shard {it.light} ({it.cool})" for it in swaps]
    return swapped(target, swaps), f"hot spot: {', '.join(words)}"
