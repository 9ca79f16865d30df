"""Who holds the Lease, and when its holder must have stopped: clocks are the test's."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from ringkeep_operator.kube import Changed, Json, Unavailable
from ringkeep_operator.leadership import Leadership, Lost
from ringkeep_operator.settings import OperatorSettings

SETTINGS = OperatorSettings(lease_namespace="default", lease_s=12.0)


class OneLease:
    """The part of the API server that a Lease needs."""

    def __init__(self) -> None:
        self.lease: Json | None = None
        self.version = 0
        self.is_away = False

    async def get(self, _kind: str, _namespace: str, _name: str) -> Json | None:
        """Return the Lease."""
        if self.is_away:
            raise Unavailable("away")
        return self.lease

    async def create(self, manifest: Json, _namespace: str) -> Json:
        """Make it."""
        if self.lease is not None:
            raise Changed("exists")
        return self._store(manifest)

    async def replace(self, manifest: Json, _namespace: str) -> Json:
        """Replace it, if it is still the one that was read."""
        if self.is_away:
            raise Unavailable("away")
        assert self.lease is not None
        if manifest["metadata"]["resourceVersion"] != self.lease["metadata"]["resourceVersion"]:
            raise Changed("another one")
        return self._store(manifest)

    def _store(self, manifest: Json) -> Json:
        self.version += 1
        self.lease = {**manifest, "metadata": {**manifest["metadata"], "resourceVersion": str(self.version)}}
        return self.lease

    @property
    def holder(self) -> str:
        """Who holds it."""
        return str(self.lease["spec"]["holderIdentity"]) if self.lease is not None else ""


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def candidate(api: OneLease, clock: Clock, identity: str) -> Any:
    return Leadership(api, SETTINGS, identity, clock=clock, now=clock)  # type: ignore[arg-type]  # the part that is used


async def tries(one: Any) -> bool:
    return bool(await one._try(5.0))


def test_a_free_lease_is_taken_once_and_a_silent_holder_is_followed_after_its_time() -> None:
    async def test() -> None:
        api, clock = OneLease(), Clock()
        first, second = candidate(api, clock, "first"), candidate(api, clock, "second")
        taken = [await tries(first), await tries(second)]
        clock.now += 11.9
        early = await tries(second)
        clock.now += 0.2
        late = await tries(second)

        assert (taken, early, late, api.holder) == ([True, False], False, True, "second")
        assert api.lease is not None and api.lease["spec"]["leaseTransitions"] == 1

    asyncio.run(test())


def test_a_holder_that_renews_keeps_it_whatever_its_clock_says() -> None:
    async def test() -> None:
        api, clock, slow = OneLease(), Clock(), Clock()
        slow.now = 5.0
        first, second = candidate(api, slow, "first"), candidate(api, clock, "second")
        await tries(first)
        others = []
        for _ in range(10):
            clock.now += 6.0
            slow.now += 6.0
            await tries(first)
            others.append(await tries(second))

        assert others == [False] * 10 and api.holder == "first"

    asyncio.run(test())


def test_of_two_that_take_it_at_once_one_wins() -> None:
    async def test() -> None:
        api, clock = OneLease(), Clock()
        one, two = candidate(api, clock, "one"), candidate(api, clock, "two")
        results = await asyncio.gather(tries(one), tries(two))

        assert sorted(results) == [False, True]

    asyncio.run(test())


def test_a_holder_that_cannot_renew_stops_before_another_may_begin() -> None:
    async def test() -> None:
        api, clock = OneLease(), Clock()
        first = candidate(api, clock, "first")
        await tries(first)
        api.is_away = True
        clock.now += 8.0  # Two thirds of twelve: a third is left.
        with pytest.raises(Lost, match=r"could not be renewed for 8\.0 s"):
            async with asyncio.timeout(5.0):  # Who holds on renews for ever.
                await first._keep()

    asyncio.run(test())


def test_who_ends_gives_it_back_so_that_the_next_need_not_wait() -> None:
    async def test() -> None:
        api, clock = OneLease(), Clock()
        first, second = candidate(api, clock, "first"), candidate(api, clock, "second")
        await tries(first)
        await first._give_back()

        assert api.holder == "" and await tries(second)

    asyncio.run(test())


def test_work_is_cancelled_when_the_lease_is_lost_and_begun_again_when_it_is_back() -> None:
    async def test() -> None:
        api, clock = OneLease(), Clock()
        settings = OperatorSettings(lease_namespace="default", lease_s=3.0)
        loop = asyncio.get_running_loop()
        told: list[bool] = []
        taken_twice = asyncio.Event()

        def tell(leading: bool) -> None:
            told.append(leading)
            if told.count(True) == 2:
                taken_twice.set()

        leading = Leadership(api, settings, "first", clock=loop.time, now=clock, told=tell)  # type: ignore[arg-type]
        ended: list[str] = []

        async def work() -> None:
            api.is_away = not ended  # Away at the first time, back at the second.
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                ended.append("cancelled")
                api.is_away = False
                raise

        running = asyncio.create_task(leading.lead(work))
        await taken_twice.wait()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

        assert told == [True, False, True, False] and ended == ["cancelled", "cancelled"]
        assert api.holder == ""

    asyncio.run(test())


def test_who_waits_for_the_lease_looks_often_so_that_an_api_server_that_is_back_is_noticed_soon(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def test() -> None:
        api, clock, rests = OneLease(), Clock(), list[float]()
        api.is_away = True

        async def rest(seconds: float) -> None:
            rests.append(seconds)
            api.is_away = len(rests) < 20

        monkeypatch.setattr(asyncio, "sleep", rest)
        await candidate(api, clock, "first")._take()

        assert api.holder == "first" and len(rests) == 20
        assert max(rests) <= SETTINGS.lease_s / 6

    asyncio.run(test())
