"""Real clusters for the tests of this folder; whatever a test does, no process outlives it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from ringkeep_testing.real_cluster import RealCluster, run


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


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealCluster]:
    """A running cluster of three nodes that the tests of a module may annoy but not break."""
    with RealCluster(tmp_path_factory.mktemp("shared") / "cluster") as made:
        run(made.up(3, shards=16))
        yield made


@pytest.fixture
def annoyed(shared: RealCluster) -> Iterator[RealCluster]:
    """The running cluster; afterwards the same processes must serve as before and have nothing to complain about."""
    before = shared.record
    errors = run(shared.error_lines())
    yield shared
    assert all(node.is_running for node in before.nodes), "a node has ended"
    run(shared.serves())
    assert run(shared.error_lines()) == errors
