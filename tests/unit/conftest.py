"""What holds for unit tests: every event loop they make runs in asyncio's debug mode."""

import pytest


@pytest.fixture(autouse=True)
def _asyncio_debug(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make coroutines that were never awaited, and calls from the wrong thread, loud."""
    monkeypatch.setenv("PYTHONASYNCIODEBUG", "1")
