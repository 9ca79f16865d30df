"""The one timer of a node's loop, and what counts as the loop being late."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest

from ringkeep_node.metrics import NodeMetrics
from ringkeep_node.runtime import driver as driver_module
from ringkeep_node.runtime.driver import CHECKPOINT_EVERY_S, Driver, LoopHealth

AN_HOUR_S = 3600.0


def driver_of(
    next_deadline: Callable[[], float], lags: list[float], means: list[tuple[float, float]] | None = None
) -> Driver:
    """Return a driver of a node that only has deadlines."""
    nothing = cast(Any, None)
    node: Any = SimpleNamespace(
        identity=SimpleNamespace(storage="a"),
        next_deadline=next_deadline,
        lagged=lambda lag_s, now: lags.append(lag_s),
        shards=SimpleNamespace(
            timers_late=lambda lag_s, now: None if means is None else means.append((round(lag_s, 6), now))
        ),
    )
    return Driver(node, nothing, nothing, nothing, nothing, NodeMetrics())


async def until_fired(driver: Driver) -> None:
    """Let the armed timer fire, and nothing follow."""
    driver._closed = True
    while driver._timer is not None:  # noqa: ASYNC110 - the timer has no event
        await asyncio.sleep(0)


def test_a_deadline_in_the_past_means_at_once_and_is_no_lag_of_the_loop() -> None:
    """Taken for lag, every message to an idle node counted, and after two seconds of that a leader gave up leading."""

    async def play() -> None:
        loop, lags = asyncio.get_running_loop(), list[float]()
        driver = driver_of(lambda: loop.time() - AN_HOUR_S, lags)
        driver._arm(loop.time())
        await until_fired(driver)

        assert (driver.health.worst_lag_s < AN_HOUR_S / 2, [it for it in lags if it > AN_HOUR_S / 2]) == (True, [])

    asyncio.run(play())


def test_what_is_handled_before_an_overdue_timer_after_a_gap_does_not_hide_the_lag() -> None:
    async def play() -> None:
        loop, lags = asyncio.get_running_loop(), list[float]()
        overdue = loop.time() - AN_HOUR_S
        driver = driver_of(lambda: overdue, lags)
        driver._arm(overdue)
        driver._arm(loop.time())  # As for a message that came in during the gap.
        await until_fired(driver)

        assert len(lags) == 1 and lags[0] >= AN_HOUR_S

    asyncio.run(play())


def test_how_late_timers_are_on_the_average_is_told_after_a_while_and_enough_of_them() -> None:
    """A mean of few timers would be chance; a single late one in a quiet hour says nothing about the next second."""
    health, told = LoopHealth(), list[tuple[int, float | None]]()
    for number in range(1, 51):
        mean_s = health.mean_lag_s(0.001 if number % 2 else 0.0, 100.0 + number / 100)
        if mean_s is not None:
            told.append((number, round(mean_s, 6)))
    rare = [health.mean_lag_s(0.008, 200.0 + number) for number in range(8)]

    assert told == [(8, 0.0005), (33, 0.00052)]
    assert [it is not None for it in rare] == [True, *[False] * 7]


def test_the_shards_are_told_of_timers_that_are_late_by_far_less_than_what_counts_as_a_gap() -> None:
    async def play() -> None:
        lags, means = list[float](), list[tuple[float, float]]()
        driver = driver_of(lambda: 0.0, lags, means)
        for number in range(1, 9):
            driver._timer_due = 100.0 + number
            driver._measure_lag(100.0 + number + 0.001)

        assert (lags, means) == ([], [(0.001, 108.001)])

    asyncio.run(play())


def test_a_checkpoint_that_the_store_asks_for_does_not_wait_for_its_time() -> None:
    async def play() -> None:
        loop = asyncio.get_running_loop()
        driver, released = driver_of(lambda: loop.time() + AN_HOUR_S, []), asyncio.Event()
        driver._look_at_room = lambda: None  # type: ignore[method-assign]
        driver.node.control = cast(Any, SimpleNamespace(snapshot_index=7))
        driver.store = cast(Any, SimpleNamespace(checkpoint=lambda: {(1, 5): 9}))
        told: list[object] = []

        def release(covered: object, raft_index: int) -> None:
            told.append((covered, raft_index))
            released.set()

        driver.log = cast(Any, SimpleNamespace(release=release))
        work = asyncio.create_task(driver._checkpoint_forever())
        driver._checkpoint_due.set()
        async with asyncio.timeout(CHECKPOINT_EVERY_S / 2):
            await released.wait()
        work.cancel()
        driver._readers.shutdown()
        driver._checkpointer.shutdown()

        assert told == [({(1, 5): 9}, 7)] and not driver._checkpoint_due.is_set()

    asyncio.run(play())


@pytest.mark.parametrize("moves", [True, False])
def test_checkpoints_come_more_often_while_copies_are_on_their_way(
    moves: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driver_module, "CHECKPOINT_MOVING_S", 0.01)

    async def play() -> None:
        driver = driver_of(asyncio.get_running_loop().time, [])
        learners = ("a copy",) if moves else ()
        looks = list[int]()

        class Node:
            @property
            def held(self) -> Any:
                looks.append(1)
                if len(looks) == 5:
                    driver._checkpoint_due.set()
                return SimpleNamespace(map=SimpleNamespace(shards=[SimpleNamespace(learners=learners)]))

        driver.node = cast(Any, Node())
        await driver._rest_between_checkpoints()

        assert len(looks) == (1 if moves else 5)

    asyncio.run(play())
