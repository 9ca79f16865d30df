"""An address that a node of another cluster has got meanwhile: nothing that it says is taken for an answer of ours."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from ringkeep import AsyncClient, RetryPolicy
from ringkeep.answers import ImportResult
from ringkeep.errors import OutcomeUnknown, WrongCluster
from ringkeep_testing.fake_cluster import FakeCluster, Fault

PATIENT_S = 60.0
POLICY = RetryPolicy(attempt_s=PATIENT_S, connect_s=PATIENT_S, pause_first_s=0.001, pause_max_s=0.002)
OURS, OTHER = "c0ffee0000000001", "badc0ffee0000002"

Story = Callable[[FakeCluster, FakeCluster, AsyncClient], Awaitable[None]]


def play(story: Story, *, looks: bool = True, timeout_s: float = PATIENT_S, cluster_id: str | None = None) -> None:
    """Tell a story of our cluster, another one, and a client of ours. ``looks``: the other refuses what is not its own."""

    async def whole() -> None:
        async with (
            FakeCluster() as ours,
            FakeCluster(cluster_id=OTHER, looks_at_cluster=looks) as other,
            AsyncClient(ours.urls[1:], policy=POLICY, timeout_s=timeout_s, cluster_id=cluster_id) as client,
        ):
            await story(ours, other, client)

    asyncio.run(whole())


async def replaced(ours: FakeCluster, other: FakeCluster) -> None:
    """n1 of ours is gone for good, another node leads its shards, and a node of the other cluster has its address."""
    await ours.stop("n1")
    ours.primaries = ["n2" if name == "n1" else name for name in ours.primaries]
    ours.epochs = [epoch + 1 for epoch in ours.epochs]
    ours.version += 1
    ours.left.append("storage-n1")
    await other.take_address("n1", ours.nodes["n1"])


@pytest.mark.parametrize("looks", [True, False])
def test_a_write_by_an_old_map_is_acknowledged_by_our_cluster_or_not_at_all(looks: bool) -> None:
    async def story(ours: FakeCluster, other: FakeCluster, client: AsyncClient) -> None:
        await client.map()
        user = ours.user_of("n1")
        await replaced(ours, other)
        written = await client.put(user, "k", b"v")
        found = await client.get(user, "k")
        await client.delete(user, "k")
        asked = [seen.cluster for seen in other.seen]

        assert written.node in ("n2", "n3") and (written.created, found.value) == (True, b"v")
        assert asked and set(asked) == {OURS}
        assert ours.applied == 2 and (other.applied == 0 or not looks)

    play(story, looks=looks)


@pytest.mark.parametrize("looks", [True, False])
def test_the_map_of_another_cluster_is_never_taken(looks: bool) -> None:
    async def story(ours: FakeCluster, other: FakeCluster, client: AsyncClient) -> None:
        await client.map()
        other.version = 10_000
        await replaced(ours, other)
        for _ in range(12):
            shown = await client.map()

            assert (shown.cluster_id, client.routing_version) == (OURS, ours.version)

    play(story, looks=looks)


@pytest.mark.parametrize("looks", [True, False])
def test_an_import_by_an_old_map_is_stored_in_our_cluster(looks: bool) -> None:
    async def story(ours: FakeCluster, other: FakeCluster, client: AsyncClient) -> None:
        await client.map()
        users = [ours.user_of(name, skip=skip) for name in ours.nodes for skip in range(4)]
        await replaced(ours, other)
        result = await client.import_lines([b'{"user":"%s","key":"k","value":1}' % user.encode() for user in users])

        assert result == ImportResult(lines=12, stored=12, failed=0)
        assert {user for user, _ in ours.documents} == set(users)

    play(story, looks=looks)


def test_a_client_that_was_told_its_cluster_asks_no_other_even_before_it_has_a_map() -> None:
    async def story(ours: FakeCluster, other: FakeCluster, client: AsyncClient) -> None:
        await other.stop("n2")
        await ours.stop("n2")
        await other.take_address("n2", ours.nodes["n2"])
        for number in range(8):
            await client.put("ada", f"k{number}", b"v")

        assert (ours.applied, other.applied) == (8, 0)

    play(story, cluster_id=OURS)


def test_when_every_address_belongs_to_another_cluster_that_is_said_at_once_with_both_names() -> None:
    async def story(ours: FakeCluster, other: FakeCluster, client: AsyncClient) -> None:
        await client.map()
        for name in ours.nodes:
            await ours.stop(name)
            await other.take_address(name, ours.nodes[name])
        with pytest.raises(WrongCluster) as caught:
            await client.put("ada", "k", b"v")

        assert OURS in caught.value.detail and OTHER in caught.value.detail
        assert (caught.value.retryable, other.applied) == (True, 0)

    play(story)


def test_an_address_of_another_cluster_is_named_at_the_deadline_when_no_other_answers() -> None:
    async def story(ours: FakeCluster, other: FakeCluster, client: AsyncClient) -> None:
        await client.map()
        for name in ours.nodes:
            await ours.stop(name)
        await other.take_address("n2", ours.nodes["n2"])
        with pytest.raises(WrongCluster):
            await client.get("ada", "k")

    play(story, timeout_s=1.0)


def test_a_change_that_may_have_been_made_stays_unknown_when_only_another_cluster_answers() -> None:
    async def story(ours: FakeCluster, other: FakeCluster, client: AsyncClient) -> None:
        await client.map()
        user = ours.user_of("n1")
        ours.inject("n1", Fault.DROP_AFTER)

        async def vanish() -> None:
            while not ours.applied:  # noqa: ASYNC110 - the fake has no event for it
                await asyncio.sleep(0)
            for name in ours.nodes:
                await ours.stop(name)
                await other.take_address(name, ours.nodes[name])

        gone = asyncio.ensure_future(vanish())
        for name in ("n2", "n3"):
            ours.inject(name, Fault.HANG)
        with pytest.raises(OutcomeUnknown):
            await client.put(user, "k", b"v")
        await gone

        assert (ours.applied, other.applied) == (1, 0)

    play(story)


def test_an_address_that_comes_back_to_our_cluster_is_used_again() -> None:
    async def story(ours: FakeCluster, other: FakeCluster, client: AsyncClient) -> None:
        await client.map()
        for name in ours.nodes:
            await ours.stop(name)
            await other.take_address(name, ours.nodes[name])
        with pytest.raises(WrongCluster):
            await client.put("ada", "k", b"v")
        for name in ours.nodes:
            await other.stop(name)
            await ours.start(name)
        await client.put("ada", "k", b"v")

        assert (ours.applied, other.applied) == (1, 0)

    play(story)
