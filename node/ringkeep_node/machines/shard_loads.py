"""What shards cost: measured where they are led, told by gossip, put together by the leader. Only if swaps are wanted.

    Lead counts --every 2 s--> LoadMeter: mean over about 30 s --told when it has changed notably--> gossip value "load"
    everybody's values --> loads_of: a load for each shard --> who swaps (``hot_spots``)
                       --> busiest_share: for people

A value names the node's whole load and its hottest shards; what is left is an even share for each of the others it
leads. One unit for all: a strict read or a written document where the shard is led costs 1 a second, and a written
document costs half of that at each node that holds a copy.

Source: placement.md, "Load-aware swaps"; van Renesse et al. (gossip values) for why the value is small and rarely new.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from heapq import nsmallest

from msgspec import Struct

from ringkeep_core.placement.swaps import ShardLoad
from ringkeep_core.shardmap import ShardMap

LOAD_KEY = "load"
LOAD_BYTES_MAX = 512
MEASURE_S = 2.0
MEAN_S = 30.0
TELL_S = 10.0
"""A value is told at most so often: half a kilobyte goes to everybody each time."""
COPY_PART = 0.5
"""What a written document costs at each copy, in parts of what it costs the primary: one append, one sync, no client."""
TOLD_FROM = 20
"""Operations a second of a node below which none of its shards is worth naming."""
NOTABLE = 16
"""A change by more than this part of the node's load is worth telling."""
_NUMBER_DIGITS_MAX = 9


class Rate(Struct, frozen=True):
    """Operations a second: strict reads, and documents written."""

    reads: float = 0.0
    writes: float = 0.0

    @property
    def operations(self) -> float:
        """Both together."""
        return self.reads + self.writes


class NodeLoad(Struct, frozen=True):
    """What a node says of the shards it leads: all of them together, and the hottest by number."""

    total: Rate = Rate()
    hottest: Mapping[int, Rate] = {}


# --- where shards are led ----------------------------------------------------------------------------------------


class _Mean:
    """An exponentially weighted mean that is unbiased from its first sample on."""

    __slots__ = ("reads", "weight", "writes")

    def __init__(self) -> None:
        self.reads = self.writes = self.weight = 0.0

    def add(self, reads: float, writes: float, part: float) -> None:
        self.reads += part * (reads - self.reads)
        self.writes += part * (writes - self.writes)
        self.weight += part * (1.0 - self.weight)

    def rate(self) -> Rate:
        return Rate(self.reads / self.weight, self.writes / self.weight)


class LoadMeter:
    """Means of what each led shard is asked for. ``due`` is when to bring the next counts."""

    def __init__(self) -> None:
        self.due = -math.inf
        self._at: float | None = None
        self._means: dict[int, _Mean] = {}
        self._told: NodeLoad | None = None
        self._tell_at = -math.inf

    @property
    def runs(self) -> bool:
        """Whether loads are being measured."""
        return self._at is not None

    def stop(self) -> None:
        """Nobody wants to know any more."""
        self.due, self._at, self._means, self._told, self._tell_at = -math.inf, None, {}, None, -math.inf

    def measured(self, counts: Mapping[int, tuple[int, int]], *, now: float) -> NodeLoad | None:
        """Take what was asked for since the last call; return what to tell everybody, or None if that is no news.

        Args:
            counts: (strict reads, documents written) of each shard that is led here; the first counts are only a begin.
            now: monotonic seconds.
        """
        self.due = now + MEASURE_S
        before, self._at = self._at, now
        if before is None or now <= before:
            return None
        seconds = now - before
        part = 1.0 - math.exp(-seconds / MEAN_S)
        self._means = {shard: self._means.get(shard) or _Mean() for shard in counts}
        for shard, (reads, writes) in counts.items():
            self._means[shard].add(reads / seconds, writes / seconds, part)
        if now < self._tell_at:
            return None
        load = summary({shard: mean.rate() for shard, mean in self._means.items()})
        if self._told is not None and not has_changed(self._told, load):
            return None
        self._told, self._tell_at = load, now + TELL_S
        return load


def summary(rates: Mapping[int, Rate]) -> NodeLoad:
    """Return what fits into a value: the total, and as many shards as there is room for, the hottest first."""
    total = _whole(Rate(sum(it.reads for it in rates.values()), sum(it.writes for it in rates.values())))
    if total.operations < TOLD_FROM:
        return NodeLoad()
    hottest: dict[int, Rate] = {}
    size = len(_text(total))
    for shard, rate in nsmallest(LOAD_BYTES_MAX, rates.items(), key=lambda it: (-it[1].operations, it[0])):
        rounded = _whole(rate)
        size += len(f";{shard}:{_text(rounded)}")
        if size > LOAD_BYTES_MAX or rounded.operations < 1:
            break
        hottest[shard] = rounded
    return NodeLoad(total, hottest)


def has_changed(told: NodeLoad, load: NodeLoad) -> bool:
    """Return whether the difference is worth telling: a notable part of all that the node does."""
    bound = max(told.total.operations, load.total.operations) / NOTABLE
    pairs = [(told.total, load.total)]
    pairs += [(told.hottest.get(it, Rate()), load.hottest.get(it, Rate())) for it in (*told.hottest, *load.hottest)]
    return any(abs(before.reads - after.reads) + abs(before.writes - after.writes) > bound for before, after in pairs)


# --- the value ---------------------------------------------------------------------------------------------------


def encode_load(load: NodeLoad) -> bytes:
    """Return the gossip value: "reads:writes;shard:reads:writes;...", whole numbers, the hottest shard first."""
    return ";".join([_text(load.total), *(f"{shard}:{_text(rate)}" for shard, rate in load.hottest.items())]).encode()


def decode_load(value: bytes) -> NodeLoad | None:
    """Return what a node says of its load; None if it says nothing, or nothing that can be read."""
    if not value or len(value) > LOAD_BYTES_MAX:
        return None
    first, *others = [part.split(b":") for part in value.split(b";")]
    if len(first) != 2 or any(len(part) != 3 for part in others) or not all(map(_are_numbers, (first, *others))):
        return None
    hottest = {int(shard): Rate(int(reads), int(writes)) for shard, reads, writes in others}
    return NodeLoad(Rate(int(first[0]), int(first[1])), hottest)


def _text(rate: Rate) -> str:
    return f"{rate.reads:.0f}:{rate.writes:.0f}"


def _whole(rate: Rate) -> Rate:
    largest = 10**_NUMBER_DIGITS_MAX - 1
    return Rate(min(round(rate.reads), largest), min(round(rate.writes), largest))


def _are_numbers(parts: Sequence[bytes]) -> bool:
    return all(part.isdigit() and len(part) <= _NUMBER_DIGITS_MAX for part in parts)


# --- put together ------------------------------------------------------------------------------------------------


def loads_of(shard_map: ShardMap, told: Mapping[str, NodeLoad]) -> Mapping[int, ShardLoad]:
    """Return what each shard costs; nothing while a node that leads any has not said what it does.

    Args:
        shard_map: the map; what a node says of shards that it does not lead does not count.
        told: by storage id, what nodes say.
    """
    led: dict[str, list[int]] = {}
    for number, shard in enumerate(shard_map.shards):
        led.setdefault(shard.primary.storage, []).append(number)
    if any(storage not in told for storage in led):
        return {}
    loads: dict[int, ShardLoad] = {}
    for storage, numbers in led.items():
        load = told[storage]
        others = sum(1 for number in numbers if number not in load.hottest)
        share = _rest(load, others)
        for number in numbers:
            loads[number] = _cost(load.hottest.get(number, share))
    return loads


def _rest(load: NodeLoad, others: int) -> Rate:
    """Return an even share of what the hottest shards leave of the whole."""
    reads = load.total.reads - sum(it.reads for it in load.hottest.values())
    writes = load.total.writes - sum(it.writes for it in load.hottest.values())
    return Rate(max(0.0, reads) / others, max(0.0, writes) / others) if others else Rate()


def _cost(rate: Rate) -> ShardLoad:
    return ShardLoad(rate.operations, COPY_PART * rate.writes)


def busiest_share(told: Mapping[str, NodeLoad]) -> float:
    """Return which part of all operations the busiest node serves as primary; 0 while there are none."""
    totals = [load.total.operations for load in told.values()]
    return max(totals) / sum(totals) if totals and sum(totals) > 0 else 0.0
