"""What holds for every test: fixed examples from Hypothesis, and the marks of tests that start real processes or pods."""

from pathlib import Path

import hypothesis
import pytest

hypothesis.settings.register_profile("ringkeep", derandomize=True, deadline=None, database=None)
hypothesis.settings.load_profile("ringkeep")

_MARKED_FOLDERS = {name: Path(__file__).parent / name for name in ("cluster", "e2e")}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark everything in tests/cluster and tests/e2e, so that nobody has to remember it in each file."""
    for item in items:
        for mark, folder in _MARKED_FOLDERS.items():
            if item.path.is_relative_to(folder):
                item.add_marker(mark)
