"""Changing the members of a cluster step by step, against a fake that is changed by others at the worst moment."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import pytest

from ringkeep import membership
from ringkeep.answers import Plan, PlannedChange, PlannedStep
from ringkeep.async_client import AsyncClient
from ringkeep.errors import Conflict, NotFound
from ringkeep.membership import (
    Choice,
    Impossible,
    Progress,
    Stuck,
    change_wanted,
    choose,
    leave,
    rest_after,
    set_drain,
    taking_part,
    until_moved,
)
from ringkeep_testing.fake_cluster import FakeCluster, Problem

T = TypeVar("T")
STALE = ("conflict", "the wanted state was changed by somebody else")
REFUSED = ("conflict", "quorum: n3 cannot go: 1 of 3 voters live, and 2 must")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(membership, "POLL_S", 0.001)


def _with(play: Callable[[FakeCluster, AsyncClient], Awaitable[T]]) -> T:
    async def whole() -> T:
        async with FakeCluster() as cluster, AsyncClient(cluster.urls) as client:
            return await play(cluster, client)

    return asyncio.run(whole())


def _step(*changes: tuple[int, str, str]) -> dict[str, Any]:
    return {"changes": [{"shard": shard, "kind": kind, "node": node, "from": "n1"} for shard, kind, node in changes]}


def test_who_stays_has_the_lowest_numbers_and_neither_drains_nor_has_left() -> None:
    names = ["n1", "n2", "n3", "n10"]

    assert choose(names, 3) == Choice(("n1", "n2", "n3"), (), ("n10",))
    assert choose(names, 2, draining=["n1"]) == Choice(("n2", "n3"), (), ("n10", "n1"))
    assert choose(names, 5, left=["n2"]) == Choice(("n1", "n3", "n10"), ("n4", "n5"), ("n2",))
    assert choose(["n1", "n4"], 4) == Choice(("n1", "n4"), ("n2", "n3"), ())
    assert choose(["demo-0", "demo-1"], 3) == Choice(("demo-0", "demo-1"), ("demo-2",), ())
    assert choose(["east", "west"], 3) == Choice(("east", "west"), ("n1",), ())


def test_weights_zones_and_strangers_stay_when_others_come_and_go() -> None:
    one = {"weight": 2.0, "zone": "a", "draining": False}
    other = {"weight": 1.0, "zone": "", "draining": True}
    members = {"n1": one, "n2": other, "n3": one, "guest": other}

    assert taking_part(members, ["n1", "n2", "n4"], ["n3", "n9"]) == {
        "n1": one,
        "n2": {**other, "draining": False},
        "n3": {**one, "draining": True},
        "guest": other,
        "n4": {"weight": 1.0, "zone": "", "draining": False},
    }


def test_the_wanted_state_is_read_again_when_somebody_else_was_faster() -> None:
    async def play(cluster: FakeCluster, client: AsyncClient) -> tuple[int, dict[str, Any], int]:
        seen: list[dict[str, Any]] = []

        def change(members: dict[str, Any]) -> dict[str, Any]:
            if not seen:  # Between our reading and our writing another one drains n1.
                cluster._want({**members, "n1": {**members["n1"], "draining": True}})
            seen.append(members)
            return taking_part(members, (), ["n2"])

        return await change_wanted(client, change), cluster.wanted, len(seen)

    revision, wanted, tries = _with(play)

    assert (revision, wanted["revision"], tries) == (3, 3, 2)
    assert [name for name, one in wanted["members"].items() if one["draining"]] == ["n1", "n2"]


def test_a_wanted_state_that_is_as_wished_is_not_written() -> None:
    async def play(cluster: FakeCluster, client: AsyncClient) -> tuple[int, list[Any]]:
        return await change_wanted(client, lambda members: taking_part(members, ["n1"], ())), cluster.orders

    assert _with(play) == (1, [])


def test_an_impossible_wish_is_told_with_the_reason_and_not_repeated() -> None:
    async def play(cluster: FakeCluster, client: AsyncClient) -> int:
        cluster.refusals.append(Problem(409, *REFUSED))
        with pytest.raises(Impossible, match=r"^n3 cannot go: 1 of 3 voters live, and 2 must$"):
            await change_wanted(client, lambda members: taking_part(members, (), ["n3"]))
        cluster.refusals.append(Problem(409, *REFUSED))
        with pytest.raises(Impossible, match=r"^cannot drain n3: n3 cannot go"):
            await set_drain(client, "n3", draining=True)
        return len(cluster.orders)

    assert _with(play) == 2


def test_a_drain_is_ordered_again_when_the_wanted_state_was_changed_meanwhile() -> None:
    async def play(cluster: FakeCluster, client: AsyncClient) -> dict[str, Any]:
        cluster.refusals.extend(Problem(409, *STALE) for _ in range(2))
        await set_drain(client, "n3", draining=True)
        drained = cluster.wanted["members"]["n3"]["draining"]
        await set_drain(client, "n3", draining=False)
        with pytest.raises(NotFound, match="the members are n1, n2, n3"):
            await set_drain(client, "n9", draining=True)
        return {"drained": drained, "undone": cluster.wanted["members"]["n3"]["draining"]}

    assert _with(play) == {"drained": True, "undone": False}


def test_a_plan_is_done_when_nothing_is_left_and_progress_was_told() -> None:
    async def play(cluster: FakeCluster, client: AsyncClient) -> list[Progress]:
        states: list[dict[str, Any]] = [
            {"wanted_revision": 1, "steps": []},  # a node that has not heard of the new wanted state
            {"copies": 2, "bytes": 64, "steps": [_step((1, "copy", "n4"), (1, "in_sync", "n4"), (2, "in_sync", "n4"))]},
            {"copies": 0, "bytes": 32, "steps": [_step((2, "in_sync", "n4"))], "running": {"waiting": ["n4 is slow"]}},
            {"copies": 0, "steps": [_step((2, "remove", "n1"))]},
            {"copies": 0, "steps": []},
        ]
        heard: list[Progress] = []

        def move() -> None:
            cluster.plan = {"wanted_revision": 2} | states.pop(0)
            cluster.version += 1

        move()
        plan = await until_moved(client, revision=2, told=heard.append, check=move)

        assert plan.is_done and states == []
        return heard

    assert _with(play) == [
        Progress(0, 2, 64),
        Progress(1, 2, 32, ("n4 is slow",)),
        Progress(2, 2),
        Progress(2, 2),
    ]


def test_who_waits_for_a_plan_asks_less_often_the_longer_the_answer_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(membership, "POLL_S", 0.25)

    assert [rest_after(took_s) for took_s in (0.001, 0.1, 10.0)] == [0.25, pytest.approx(0.9), 2.0]


def test_who_waits_for_a_plan_rests_after_each_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    took: list[float] = []

    def rested(took_s: float) -> float:
        took.append(took_s)
        return 0.001 if len(took) < 4 else 60.0

    monkeypatch.setattr(membership, "rest_after", rested)

    async def play(cluster: FakeCluster, client: AsyncClient) -> None:
        cluster.plan = {"steps": [_step((1, "copy", "n2"))]}
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1.0):
                await until_moved(client, revision=1)

    _with(play)

    # The fourth rest is a long one: nobody asked again.
    assert len(took) == 4 and min(took) > 0.0


def test_nobody_is_called_empty_who_holds_a_copy_that_no_step_can_move() -> None:
    async def play(cluster: FakeCluster, client: AsyncClient) -> None:
        cluster.plan = {"nodes": [{"name": "n2", "copies": 3}], "running": {"waiting": ["n1 is dead"]}}
        with pytest.raises(Stuck, match=r"n2 still has 3 copies; n1 is dead"):
            await until_moved(client, revision=1, empty=["n2"], stuck_s=0.05)

    _with(play)


def test_a_plan_that_still_receives_bytes_is_not_stuck_however_long_the_map_says_nothing() -> None:
    async def play(cluster: FakeCluster, client: AsyncClient) -> int:
        looks = 0
        cluster.plan = {"nodes": [{"name": "n2", "copies": 3}], "running": {"received_bytes": 0}}

        def look() -> None:
            nonlocal looks
            looks += 1
            if looks < 4:
                cluster.plan["running"]["received_bytes"] += 1

        # A look that brings nothing ends the wait at once.
        with pytest.raises(Stuck, match="n2 still has 3 copies"):
            await until_moved(client, revision=1, empty=["n2"], check=look, stuck_s=0.0)
        return looks

    assert _with(play) == 4


def test_nothing_is_done_before_the_new_nodes_are_alive() -> None:
    async def play(cluster: FakeCluster, client: AsyncClient) -> None:
        await cluster.stop("n3")
        with pytest.raises(Stuck, match="n3 did not become alive"):
            await until_moved(client, revision=1, present=lambda: ["n1", "n3"], stuck_s=0.05)

    _with(play)


def test_primaries_that_may_not_move_yet_are_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(membership, "REST_S", 0.02)

    async def play(cluster: FakeCluster, client: AsyncClient) -> Plan:
        cluster.plan = {"steps": [_step((1, "primary", "n2"))]}
        return await until_moved(client, revision=1)

    assert _with(play).steps == (PlannedStep((PlannedChange(1, "primary", "n2", "n1"),)),)


def test_who_leaves_waits_for_its_vote_to_be_taken_and_is_not_asked_twice() -> None:
    async def play(cluster: FakeCluster, client: AsyncClient) -> tuple[bytes | None, bytes | None]:
        await set_drain(client, "n3", draining=True)
        cluster.refusals.extend(Problem(409, "conflict", "n3 is in the Raft configuration") for _ in range(3))
        return await leave(client, "n3"), await leave(client, "n3", storage="storage-n3")

    assert _with(play) == (b'{"left":"n3","storage_id":"storage-n3"}', None)


def test_that_a_node_is_not_known_or_that_its_namesake_left_proves_nothing() -> None:
    async def play(cluster: FakeCluster, client: AsyncClient) -> None:
        with pytest.raises(NotFound, match="no member 'n9'"):
            await leave(client, "n9", storage="storage-n9", unknown_s=0.01)
        await set_drain(client, "n3", draining=True)
        with pytest.raises(Stuck, match=r"another node called n3 \(storage-n3\) has left, and not storage-later"):
            await leave(client, "n3", storage="storage-later", unknown_s=0.0)
        with pytest.raises(NotFound):
            await leave(client, "n3", storage="storage-later", unknown_s=0.01)

    _with(play)


def test_who_is_wanted_again_does_not_leave() -> None:
    async def play(cluster: FakeCluster, client: AsyncClient) -> None:
        cluster.refusals.append(Problem(409, "conflict", "n3 is wanted and not draining"))
        with pytest.raises(Conflict, match="somebody took the drain of n3 back"):
            await leave(client, "n3")

    _with(play)


def test_administration_goes_to_the_leader_and_to_anybody_else_when_it_is_gone() -> None:
    async def play(cluster: FakeCluster, client: AsyncClient) -> list[str]:
        await client.plan()
        await cluster.stop("n1")
        plan = await client.what_if(members=["n1"], drain=["n2"], weights={"n3": 0.5})
        led = await client.transfer_leader("n3")
        (event,) = await client.events()

        assert (plan.wanted_revision, led.name, event.text) == (2, "n3", "n1 started")
        assert cluster.orders[0] == ("POST", "plan", {"members": ["n1"], "drain": ["n2"], "weights": {"n3": 0.5}})
        return [seen.node for seen in cluster.seen if seen.path == "/v1/cluster/plan"]

    asked = _with(play)

    assert asked[0] == "n1" and "n1" not in asked[1:]
