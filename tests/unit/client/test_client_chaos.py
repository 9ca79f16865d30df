"""Many concurrent writers against a fake cluster that misbehaves at random, from a seed: what is acknowledged is there."""

from __future__ import annotations

import asyncio
import random

import pytest

from ringkeep import AsyncClient, RetryPolicy
from ringkeep.errors import OutcomeUnknown, RingkeepError, VersionMismatch
from ringkeep_testing.fake_cluster import FakeCluster, Fault

POLICY = RetryPolicy(attempt_s=60.0, connect_s=60.0, pause_first_s=0.001, pause_max_s=0.005)
BREAKS = 100
FAULTS = [fault for fault in Fault if fault is not Fault.HANG]


class Chaos:
    """Breaks something every few milliseconds, a bounded number of times, or until it is told to stop."""

    def __init__(self, cluster: FakeCluster, draws: random.Random) -> None:
        self._cluster, self._draws = cluster, draws
        self.stopping = False

    async def run(self) -> None:
        names = list(self._cluster.nodes)
        for _ in range(BREAKS):
            if self.stopping:
                return
            await asyncio.sleep(self._draws.random() * 0.004)
            name = self._draws.choice(names)
            what = self._draws.random()
            if what < 0.7:
                self._cluster.inject(name, *self._draws.choices(FAULTS, k=self._draws.randint(1, 4)))
            elif what < 0.9:
                self._cluster.move_primary(f"user-{self._draws.randrange(12)}", name)
            else:
                await self._cluster.stop(name)
                await asyncio.sleep(self._draws.random() * 0.01)
                await self._cluster.start(name)


@pytest.mark.parametrize("seed", range(4))
def test_every_acknowledged_write_was_applied_exactly_once(seed: int) -> None:
    async def whole() -> None:
        draws = random.Random(seed)
        told: dict[tuple[str, str], str] = {}
        async with FakeCluster() as cluster, AsyncClient(cluster.urls, policy=POLICY, timeout_s=60.0) as client:

            async def write(user: str) -> None:
                for number in range(12):
                    key = f"{number:02}"
                    try:
                        written = await client.put(user, key, user.encode(), if_absent=True)
                        told[user, key] = f"version {written.version}"
                    except RingkeepError as error:
                        told[user, key] = error.code

            chaos = Chaos(cluster, draws)
            breaking = asyncio.create_task(chaos.run())
            await asyncio.gather(*(write(f"user-{n}") for n in range(12)))
            chaos.stopping = True
            await breaking
            stored = {place: f"version {document.version}" for place, document in cluster.documents.items()}
            acknowledged = {place: version for place, version in told.items() if version.startswith("version")}

            # A precondition that failed would mean that an attempt met its own earlier one.
            assert VersionMismatch.code not in told.values()
            assert acknowledged.items() <= stored.items()
            assert all(told[place] == OutcomeUnknown.code for place in stored.keys() - acknowledged.keys())
            assert len(acknowledged) > 100
            assert cluster.applied == len(stored)

    asyncio.run(whole())
