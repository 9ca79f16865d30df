"""How long the planner takes: one JSON line per size and change, with the median of a few runs and the bar.

Run: ``.venv/bin/python -P benchmarks/placement.py`` (about 15 s). The exit status is 1 if a bar is missed.
"""

from __future__ import annotations

import json
import random
import statistics
import sys
import time
from collections.abc import Callable

from ringkeep_core.placement import (
    Candidate,
    PlacementSettings,
    ShardCopies,
    ShardLoad,
    SwapSettings,
    Target,
    initial,
    load_swaps,
    steps,
    target,
)

SETTINGS = PlacementSettings(replication_factor=3)
SIZES = ((1024, 50, 0.050, 9), (16_384, 200, 2.0, 3))


def median_s(work: Callable[[], object], runs: int) -> float:
    """Return the median seconds of ``runs`` runs."""
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def report(shards: int, nodes: int, zones: int, bar_s: float, runs: int) -> bool:
    """Print the times of an empty map, one join and one leave; return whether all kept to the bar."""
    members = [Candidate(f"node-{i}", f"zone-{i % zones}") for i in range(nodes)]
    grown = [*members, Candidate("node-new", "zone-0")]
    now = [ShardCopies(a.primary, a.copies, need=2) for a in initial(shards, members, SETTINGS).shards]
    changes: dict[str, Callable[[], Target]] = {
        "empty map": lambda: initial(shards, members, SETTINGS),
        "one join": lambda: target(now, grown, SETTINGS),
        "one leave": lambda: target(now, members[1:], SETTINGS),
    }
    kept = True
    for change, work in changes.items():
        took_s = median_s(work, runs)
        goal = work()
        kept = kept and took_s <= bar_s
        line = {
            "benchmark": "placement",
            "change": change,
            "shards": shards,
            "copies": SETTINGS.replication_factor,
            "nodes": nodes,
            "zones": zones,
            "median_ms": round(took_s * 1000, 1),
            "bar_ms": bar_s * 1000,
            "moves": goal.moves,
            "lower_bound": goal.lower_bound,
        }
        print(json.dumps(line), flush=True)
    _report_the_rest(shards, now, members, grown, runs)
    return kept


def _report_the_rest(
    shards: int, now: list[ShardCopies], members: list[Candidate], grown: list[Candidate], runs: int
) -> None:
    """Print the times of what has no bar of its own: the steps of one join, and a look for swaps."""
    draw = random.Random(1)
    loads = [ShardLoad(draw.paretovariate(1.2), 0.1) for _ in range(shards)]
    settled, goal = target(now, members, SETTINGS), target(now, grown, SETTINGS)
    works: dict[str, Callable[[], object]] = {
        "steps of one join": lambda: steps(now, goal, grown, SETTINGS),
        "look for swaps": lambda: load_swaps(now, settled, members, loads, SwapSettings()),
    }
    for change, work in works.items():
        line = {
            "benchmark": "placement",
            "change": change,
            "shards": shards,
            "nodes": len(members),
            "median_ms": round(median_s(work, runs) * 1000, 1),
        }
        print(json.dumps(line), flush=True)


def main() -> int:
    """Run all sizes, without zones and with as many zones as copies."""
    kept = [report(shards, nodes, zones, bar_s, runs) for shards, nodes, bar_s, runs in SIZES for zones in (1, 3)]
    return 0 if all(kept) else 1


if __name__ == "__main__":
    sys.exit(main())
