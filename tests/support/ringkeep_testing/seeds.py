"""What every simulation that runs from seeds shares: which seeds, which ones failed once, and the proof of determinism."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

BATCH = 10
"""Seeds of one test: few enough to be spread over workers, enough that something happens in each batch."""


class Seeds:
    """The seeds of one simulation, from the environment: ``<prefix>SEEDS`` how many, ``<prefix>SEED`` the first."""

    def __init__(self, *, first: int, count: int, prefix: str = "RINGKEEP_") -> None:
        self.first = int(os.environ.get(f"{prefix}SEED", str(first)))
        self.count = int(os.environ.get(f"{prefix}SEEDS", str(count)))

    @property
    def batches(self) -> range:
        """The first seed of each batch."""
        return range(self.first, self.first + self.count, BATCH)

    @property
    def prove(self) -> bool:
        """Whether a batch is full: fewer seeds, as in a replay, need not show that anything happened."""
        return self.count >= BATCH

    def of(self, batch: int) -> Iterator[int]:
        """Yield the seeds of the batch that begins with ``batch``."""
        yield from range(batch, min(batch + BATCH, self.first + self.count))


def once_failed(path: Path) -> list[int]:
    """Return the seeds written down in a file, one a line, with remarks."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return [int(line.split()[0]) for line in lines if line.strip() and not line.startswith("#")]


def add_up(totals: dict[str, int], counts: Mapping[str, int]) -> None:
    """Add the counts of one run to those of a batch."""
    for name, count in counts.items():
        totals[name] = totals.get(name, 0) + count


def traces_of(script: str, seed: int) -> set[str]:
    """Return what ``script`` prints for a seed under two hash seeds: one trace, if nothing hangs on the order of a set."""
    path = os.pathsep.join(part for part in sys.path if part)
    return {
        subprocess.run(
            [sys.executable, "-c", script, str(seed)],
            env={**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": path},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for hash_seed in ("1", "2")
    }
