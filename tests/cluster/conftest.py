"""Real clusters for the tests of this folder; whatever a test does, no process outlives it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from ringkeep_testing.real_cluster import RealCluster


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[RealCluster]:
    """A cluster that is not up yet."""
    with RealCluster(tmp_path / "cluster") as made:
        yield made


@pytest.fixture
def clusters(tmp_path: Path) -> Iterator[Callable[[str], RealCluster]]:
    """Makes clusters that are not up yet, by the names of their directories."""
    with ExitStack() as stack:
        yield lambda name: stack.enter_context(RealCluster(tmp_path / name))
