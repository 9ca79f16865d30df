"""Queries that are hard to answer: whoever waits with a filter of his own must not hold up the node with each change.

Time passes only while an answer is made, so what one turn of the loop takes is known exactly.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from ringkeep_core.services import Registration
from ringkeep_node.http.consul_waiting import STEP_S, TURN_S, ConsulSettings, Held, Waiting
from ringkeep_node.machines.registry_view import ANY_TOPIC
from ringkeep_node.runtime.services import ServicesSettings
from ringkeep_testing.fake_services import FakeServices
from ringkeep_testing.http_edge import until

ANSWER_S = 0.001
WAIT_S = 300.0
TURN_MAX_S = STEP_S + ANSWER_S + TURN_S
"""An answer that is begun in time is finished, and a turn may follow a step."""


class Slow:
    """A node where each answer takes ``ANSWER_S``, and how long the turns of its loop took since ``watch``."""

    def __init__(self) -> None:
        self.now = 0.0
        self.services = FakeServices(settings=ServicesSettings(waiters_max=1000))
        self.waiting = Waiting(self.services, ConsulSettings(), lambda: self.now, lambda: 0.0)
        self.turns: list[float] = []
        self.tasks: list[asyncio.Task[bytes]] = []
        self._watcher: asyncio.Task[None] | None = None

    def hold(self, topic: str, wait_s: float = WAIT_S) -> Held:
        """Let a query wait."""

        def answer() -> bytes:
            self.now += ANSWER_S
            return b"%d" % self.services.index(topic)

        held = Held(answer, lambda _: None)
        never = asyncio.get_running_loop().create_future()
        self.tasks.append(asyncio.create_task(self.waiting.until_changed(topic, wait_s, "", held, never)))
        return held

    async def hold_all(self, count: int, topic: str) -> list[Held]:
        """Let so many queries wait; return when they do."""
        waiting = self.services.waiting + count
        held = [self.hold(topic) for _ in range(count)]
        await until(lambda: self.services.waiting == waiting)
        return held

    def change(self, service: str = "web", port: int = 80) -> None:
        """Change a service, as a step of the node does."""
        self.services.register(service, f"{service}-1", Registration(address="10.0.0.1", port=port), client="")

    async def watch(self) -> None:
        """Note what each turn of the loop takes from now on."""

        async def watching() -> None:
            while True:
                before = self.now
                await asyncio.sleep(0)
                self.turns.append(self.now - before)

        self._watcher = asyncio.create_task(watching())
        await asyncio.sleep(0)

    async def close(self) -> None:
        """End everything."""
        for task in (*self.tasks, self._watcher):
            if task is not None:
                task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        await self.services.close()


def run(test: Callable[[Slow], Awaitable[None]]) -> None:
    """Run a test with a slow node."""

    async def whole() -> None:
        slow = Slow()
        try:
            await test(slow)
        finally:
            await slow.close()

    asyncio.run(whole())


@pytest.mark.parametrize(("topic", "turn_s"), [("web", TURN_MAX_S), (ANY_TOPIC, 1.5 * ANSWER_S)])
def test_answers_that_take_long_are_made_over_many_turns_of_the_loop(topic: str, turn_s: float) -> None:
    async def test(slow: Slow) -> None:
        await slow.hold_all(100, topic)
        await slow.watch()
        slow.change()
        answers = await asyncio.gather(*slow.tasks)

        assert answers == [b"%d" % slow.services.index(topic)] * 100
        assert sum(slow.turns) >= 100 * ANSWER_S
        assert max(slow.turns) <= turn_s

    run(test)


def test_who_waits_for_another_service_does_not_wait_for_all_of_a_slow_one() -> None:
    async def test(slow: Slow) -> None:
        await slow.hold_all(100, "web")
        await slow.hold_all(1, "other")
        slow.change("web")
        began = slow.now
        slow.change("other")
        await slow.tasks[100]

        assert slow.now - began < 10 * ANSWER_S
        assert sum(task.done() for task in slow.tasks[:100]) < 100

    run(test)


def test_changes_that_come_faster_than_the_answers_are_made_are_all_seen() -> None:
    async def test(slow: Slow) -> None:
        held = await slow.hold_all(20, "web")
        for one in held:
            one.answer = one.answer if one is held[0] else hidden(slow)
            one.before = one.seen = one.answer()
        await slow.watch()
        for port in range(81, 90):
            slow.change(port=port)
            await asyncio.sleep(0)
        await slow.tasks[0]
        await until(lambda: slow.services.waiting == 19)
        slow.services.release()
        answers = await asyncio.gather(*slow.tasks[1:])

        assert answers == [b"hidden"] * 19 and max(slow.turns) <= TURN_MAX_S
        assert {one.index for one in held[1:]} == {slow.services.index("web")}

    run(test)


def hidden(slow: Slow) -> Callable[[], bytes]:
    """Return what makes an answer that no change changes."""

    def answer() -> bytes:
        slow.now += ANSWER_S
        return b"hidden"

    return answer


def test_nothing_is_written_for_a_query_that_is_over_before_its_turn_comes() -> None:
    async def test(slow: Slow) -> None:
        written: list[bytes] = []
        await slow.hold_all(50, "web")
        late = Held(lambda: b"%d" % slow.services.index("web"), lambda body: written.append(body))
        never = asyncio.get_running_loop().create_future()
        task = asyncio.create_task(slow.waiting.until_changed("web", WAIT_S, "", late, never))
        await until(lambda: slow.services.waiting == 51)
        slow.change()
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(*slow.tasks)

        assert (written, late.sent, slow.waiting.count) == ([], None, 0)

    run(test)
