"""The queue of clusters: each once, one pass at a time, in virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from ringkeep_operator.queueing import Key, KeyQueue

A: Key = ("default", "a")
B: Key = ("default", "b")


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def run(test: Callable[[KeyQueue, Clock], Awaitable[None]]) -> None:
    async def inside() -> None:
        clock = Clock()
        await test(KeyQueue(clock, spacing_s=0.2), clock)

    asyncio.run(inside())


async def now_or_none(queue: KeyQueue) -> Key | None:
    """Return the key that is due now, or None."""
    waiting = asyncio.ensure_future(queue.get())
    for _ in range(5):
        await asyncio.sleep(0)
    if waiting.done():
        return waiting.result()
    waiting.cancel()
    return None


def test_a_key_that_is_added_many_times_gets_one_turn() -> None:
    async def test(queue: KeyQueue, clock: Clock) -> None:
        for _ in range(10):
            queue.add(A)

        assert [await now_or_none(queue), await now_or_none(queue), len(queue)] == [A, None, 0]

    run(test)


def test_a_key_in_work_waits_until_it_is_done_and_others_do_not() -> None:
    async def test(queue: KeyQueue, clock: Clock) -> None:
        queue.add(A)
        first = await now_or_none(queue)
        clock.now += 1.0
        queue.add(A)
        queue.add(B)
        second, third = await now_or_none(queue), await now_or_none(queue)
        queue.done(A)

        assert [first, second, third, await now_or_none(queue)] == [A, B, None, A]

    run(test)


def test_adding_again_only_brings_a_turn_forward() -> None:
    async def test(queue: KeyQueue, clock: Clock) -> None:
        queue.add(A, 30.0)
        queue.add(A, 60.0)
        early = await now_or_none(queue)
        clock.now += 30.0
        due = await now_or_none(queue)
        queue.done(A)
        queue.add(A, 30.0)
        queue.add(A, 1.0)
        clock.now += 1.0

        assert [early, due, await now_or_none(queue)] == [None, A, A]

    run(test)


def test_two_passes_of_a_key_begin_apart_and_the_first_is_not_delayed() -> None:
    async def test(queue: KeyQueue, clock: Clock) -> None:
        queue.add(A)
        first = await now_or_none(queue)
        queue.done(A)
        queue.add(A)
        at_once = await now_or_none(queue)
        clock.now += 0.2

        assert [first, at_once, await now_or_none(queue)] == [A, None, A]

    run(test)


def test_work_that_is_due_and_that_nobody_begins_is_seen() -> None:
    async def test(queue: KeyQueue, clock: Clock) -> None:
        queue.add(A)
        queue.add(B, 300.0)
        clock.now += 130.0
        waiting = queue.overdue_s()
        await now_or_none(queue)

        assert (waiting, queue.overdue_s()) == (130.0, 0.0)

    run(test)


def test_a_key_that_came_back_while_it_was_found_gone_keeps_its_turn() -> None:
    async def test(queue: KeyQueue, clock: Clock) -> None:
        queue.add(A)
        await queue.get()
        queue.add(A)  # It was made again meanwhile.
        queue.forget(A)
        queue.done(A)

        assert await now_or_none(queue) == A

    run(test)
