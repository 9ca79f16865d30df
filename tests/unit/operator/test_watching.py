"""Watches that neither stop nor sleep unseen, and the list that notices when kopf's does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Any

from ringkeep_operator.health import Health
from ringkeep_operator.kube import ApiError, Change, Denied, Expired, Json, Listing, Unavailable
from ringkeep_operator.metrics import OperatorMetrics
from ringkeep_operator.queueing import KeyQueue
from ringkeep_operator.resync import Resync
from ringkeep_operator.watching import Scope, Watch

SCOPE = Scope("Pod", "", "ringkeep.dev/cluster")


def item(name: str, version: int = 1, generation: int = 1) -> Json:
    """Return an object."""
    return {
        "metadata": {
            "name": name,
            "namespace": "default",
            "uid": name,
            "resourceVersion": str(version),
            "generation": generation,
        }
    }


class Script:
    """An API server that answers as it is told: lists, then watches, each a list of changes or errors."""

    def __init__(self, lists: list[Listing | ApiError], watches: list[list[Change | ApiError]]) -> None:
        self.lists, self.watches = lists, watches
        self.asked: list[str] = []
        self.over = asyncio.Event()

    async def list(self, _kind: str, _namespace: str = "", _selector: str = "", **_: Any) -> Listing:
        """Answer the next list."""
        self.asked.append("list")
        if not self.lists:
            await self._end()
        found = self.lists.pop(0)
        if isinstance(found, ApiError):
            raise found
        return found

    async def watch(self, _kind: str, _ns: str, _selector: str, version: str, **_: Any) -> AsyncIterator[Change]:
        """Play the next watch."""
        self.asked.append(f"watch from {version}")
        if not self.watches:
            await self._end()
        for change in self.watches.pop(0):
            if isinstance(change, ApiError):
                raise change
            yield change

    async def _end(self) -> None:
        self.over.set()
        await asyncio.Event().wait()


async def watched(script: Script) -> tuple[Watch, list[str], list[str]]:
    """Run a watch to the end of the script; return it, what it told of, and when it may have missed something."""
    seen: list[str] = []
    missed: list[str] = []
    api: Any = script
    loop = asyncio.get_running_loop()
    watch = Watch(
        api,
        SCOPE,
        lambda found: seen.append(found["metadata"]["name"]),
        missed.append,
        silence_s=70.0,
        clock=loop.time,
        first_wait_s=0.001,
    )
    running = asyncio.create_task(watch.run())
    await asyncio.wait_for(script.over.wait(), 10.0)
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running
    return watch, seen, missed


def test_it_lists_then_watches_on_from_the_last_version_it_heard() -> None:
    async def test() -> None:
        bookmark = Change("BOOKMARK", item("", 9))
        script = Script(
            [Listing((item("a"), item("b")), "5")],
            [[Change("MODIFIED", item("a", 6)), bookmark], [Change("DELETED", item("b", 10))]],
        )
        _, seen, missed = await watched(script)

        assert script.asked == ["list", "watch from 5", "watch from 9", "watch from 10"]
        assert (seen, missed) == (["a", "b", "a", "b"], ["Pod"])

    asyncio.run(test())


def test_a_version_that_is_too_old_is_followed_by_a_new_list_and_a_look_at_everything() -> None:
    async def test() -> None:
        script = Script([Listing((), "5"), Listing((item("a"),), "20")], [[Expired("old")]])
        _, seen, missed = await watched(script)

        assert script.asked == ["list", "watch from 5", "list", "watch from 20"]
        assert (seen, missed) == (["a"], ["Pod", "Pod"])

    asyncio.run(test())


def test_a_watch_that_is_cut_goes_on_where_it_was_and_everything_is_looked_at() -> None:
    async def test() -> None:
        script = Script([Listing((), "5")], [[Unavailable("cut")], [Unavailable("silent")]])
        watch, _, missed = await watched(script)

        assert script.asked == ["list", "watch from 5", "watch from 5", "watch from 5"]
        assert missed == ["Pod"] * 3 and not watch.is_stuck()

    asyncio.run(test())


def stuck_after(seconds: float) -> bool:
    """Return whether a watch that was begun so long ago, and did nothing since, is called stuck."""
    now = [0.0]
    nobody: Any = None
    watch = Watch(nobody, SCOPE, lambda _: None, lambda _: None, silence_s=70.0, clock=lambda: now[0])
    now[0] = seconds
    return watch.is_stuck()


def test_a_watch_that_does_nothing_for_longer_than_it_ever_waits_is_stuck() -> None:
    assert [stuck_after(seconds) for seconds in (70.0, 150.0, 170.0)] == [False, False, True]


def test_a_kind_that_may_not_be_seen_is_no_reason_to_start_again() -> None:
    async def test() -> None:
        script = Script([Denied("no")], [])
        api: Any = script
        watch = Watch(api, SCOPE, lambda _: None, lambda _: None, silence_s=70.0, clock=lambda: 0.0)
        running = asyncio.create_task(watch.run())
        for _ in range(10):
            await asyncio.sleep(0)
        running.cancel()

        assert (watch.is_absent, watch.age(), script.asked) == (True, 0.0, ["list"])

    asyncio.run(test())


# --- the list of clusters ----------------------------------------------------------------------------------------


def resync_of(lists: list[Listing | ApiError], queue: KeyQueue) -> Resync:
    """Return a resync over these lists."""
    api: Any = Script(lists, [])
    return Resync(api, queue, OperatorMetrics(), (), 30.0, clock=lambda: 0.0)


def with_lists(count: int, test: Callable[[Resync], None], before: Callable[[Resync], None] = lambda _: None) -> None:
    """Run ``test`` after so many lists of one cluster at generation 2."""

    async def inside() -> None:
        resync = resync_of([Listing((item("demo", 7, generation=2),), "9")] * count, KeyQueue(lambda: 0.0))
        before(resync)
        for _ in range(count):
            await resync.turn()
        test(resync)

    asyncio.run(inside())


def test_what_kopf_has_not_shown_after_three_lists_means_that_its_watcher_is_dead() -> None:
    behind: list[bool] = []
    for count in (1, 2, 3):
        with_lists(count, lambda resync: behind.append(resync.is_behind))

    assert behind == [False, False, True]


def test_a_generation_that_kopf_has_shown_is_enough_and_an_older_one_is_not() -> None:
    behind: list[bool] = []
    for generation in (2, 1):
        shown = item("demo", 7, generation=generation)
        with_lists(
            4,
            lambda resync: behind.append(resync.is_behind),
            lambda resync, shown=shown: resync.shown_by_kopf(shown),  # type: ignore[misc]
        )

    assert behind == [False, True]


def test_every_cluster_that_is_or_was_there_is_looked_at_in_each_list() -> None:
    async def test() -> None:
        queue = KeyQueue(lambda: 0.0)
        resync = resync_of([Listing((item("a"), item("b")), "9"), Listing((item("b"),), "10")], queue)
        await resync.turn()
        first = {await queue.get(), await queue.get()}
        for key in first:
            queue.done(key)
            queue.forget(key)
        await resync.turn()

        assert first == {("default", "a"), ("default", "b")} and len(queue) == 2
        assert resync.keys == (("default", "b"),)

    asyncio.run(test())


def test_health_says_which_part_is_stuck_and_an_operator_that_stands_by_has_no_work_to_begin() -> None:
    now = [0.0]
    queue = KeyQueue(lambda: now[0])
    queue.add(("default", "a"))
    resync = resync_of([], queue)
    leading = [True]
    health = Health([], resync, queue, lambda: leading[0], 600.0, lambda: now[0])
    fresh = health.complaint()
    now[0] = 130.0
    late = health.complaint()
    leading[0] = False
    standby = health.complaint()
    resync.is_behind = True

    assert (fresh, late, standby) == (None, "work that is due is not begun", None)
    assert health.complaint() == "kopf's watch of clusters is dead"
