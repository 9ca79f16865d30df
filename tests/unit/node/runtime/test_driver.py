"""The one timer of a node's loop, and what counts as the loop being late."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

from ringkeep_node.metrics import NodeMetrics
from ringkeep_node.runtime.driver import Driver

AN_HOUR_S = 3600.0


def test_a_deadline_in_the_past_means_at_once_and_is_no_lag_of_the_loop() -> None:
    """Taken for lag, every message to an idle node counted, and after two seconds of that a leader gave up leading."""

    async def play() -> None:
        loop = asyncio.get_running_loop()
        lags: list[float] = []
        node: Any = SimpleNamespace(
            identity=SimpleNamespace(storage="a"),
            next_deadline=lambda: loop.time() - AN_HOUR_S,
            lagged=lambda lag_s, now: lags.append(lag_s),
        )
        driver = Driver(node, cast(Any, None), cast(Any, None), cast(Any, None), cast(Any, None), NodeMetrics())
        driver._arm(loop.time())
        driver._closed = True  # The timer that was armed fires; nothing follows.
        while driver._timer is not None:  # noqa: ASYNC110 - the timer has no event
            await asyncio.sleep(0)

        assert (driver.health.worst_lag_s < AN_HOUR_S / 2, [it for it in lags if it > AN_HOUR_S / 2]) == (True, [])

    asyncio.run(play())
