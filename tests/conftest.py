"""What holds for every test: fixed examples from Hypothesis, and the mark of tests that start real processes."""

from pathlib import Path

import hypothesis
import pytest

hypothesis.settings.register_profile("ringkeep", derandomize=True, deadline=None, database=None)
hypothesis.settings.load_profile("ringkeep")

_CLUSTER_TESTS = Path(__file__).parent / "cluster"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark everything in tests/cluster, so that nobody has to remember it in each file."""
    for item in items:
        if item.path.is_relative_to(_CLUSTER_TESTS):
            item.add_marker("cluster")
