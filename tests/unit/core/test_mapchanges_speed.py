"""What the leader and every node do for each entry is cheap: the best of some runs is within its bound."""

import time
from collections.abc import Callable

from ringkeep_core.mapchanges import Failover, MapChange, ShardChanges, apply, bootstrap
from ringkeep_core.shardmap import Settings
from ringkeep_testing.maps import member

MAP = bootstrap(
    cluster_id="c" * 16, members=[member(f"n{number}") for number in range(1, 6)], shards=256, settings=Settings()
)


def _failovers() -> tuple[Failover, ...]:
    changes = []
    for number, it in enumerate(MAP.shards):
        live = tuple(name for name in MAP.members if name != it.primary.storage)
        to = next(copy.storage for copy in it.in_sync if copy.storage in live)
        changes.append(Failover(number, it.revision, to, live))
    return tuple(changes)


def _best_s(change: MapChange, runs: int) -> float:
    return min(_taken_s(lambda: apply(MAP, MAP.version + 1, change)) for _ in range(runs))


def _taken_s(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def test_a_failover_of_256_shards_is_applied_in_3_ms() -> None:
    assert _best_s(ShardChanges(_failovers(), "test"), 20) <= 0.003


def test_a_change_of_one_of_256_shards_is_applied_in_50_microseconds() -> None:
    entry = ShardChanges(_failovers()[:1], "test")

    assert _best_s(entry, 100) <= 50e-6
    assert sum(old is not new for old, new in zip(MAP.shards, apply(MAP, 1 << 41, entry).map.shards, strict=True)) == 1
