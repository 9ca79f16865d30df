"""The service without HTTP: what reaches replication, and what results become."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from ringkeep_core.errors import (
    BadRequest,
    Internal,
    NoPrimary,
    NotFound,
    OutcomeUnknown,
    Overloaded,
    RingkeepError,
    TooLarge,
)
from ringkeep_core.hashing import shard_of
from ringkeep_node.machines.shard.effects import Moved, NotApplied, Result, Unknown, WriteRequest
from ringkeep_node.runtime.service import (
    Conditions,
    Delete,
    Get,
    List,
    Put,
    Service,
    Written,
    checked_timeout_s,
    error_of,
    request_hash,
)
from ringkeep_testing.fake_driver import FakeDriver


def run(test: Callable[[Service, FakeDriver], Awaitable[None]]) -> None:
    async def whole() -> None:
        driver = FakeDriver()
        await test(Service(driver, clock=lambda: 100.0, wall=lambda: 5.5), driver)

    asyncio.run(whole())


async def carried_out(service: Service, request: Put | Delete | Get | List) -> object:
    if isinstance(request, Put):
        return await service.put(request)
    if isinstance(request, Delete):
        return await service.delete(request)
    return await (service.get(request) if isinstance(request, Get) else service.list(request))


def test_a_change_carries_its_deadline_wall_time_and_shard() -> None:
    async def test(service: Service, driver: FakeDriver) -> None:
        written = await service.put(Put("ada", "k", b"x", "a/b", timeout_s=2.0))
        ((shard, request, timeout_s),) = driver.seen

        assert written == Written(1, True, shard_of("ada", 16), 1)
        assert isinstance(request, WriteRequest)
        assert (shard, timeout_s, request.deadline, request.wall_ms) == (shard_of("ada", 16), 2.0, 102.0, 5500)

    run(test)


@pytest.mark.parametrize(
    ("request_", "error"),
    [
        (Put("", "k", b"", "a/b"), BadRequest),
        (Put(".", "k", b"", "a/b"), BadRequest),
        (Put("\ud800", "k", b"", "a/b"), BadRequest),
        (Put("ada", "", b"", "a/b"), BadRequest),
        (Put("ada", "a/..", b"", "a/b"), BadRequest),
        (Put("ada", "k", b"x" * (1 << 20) + b"x", "a/b"), TooLarge),
        (Put("ada", "k", b"", "a\r\nb"), BadRequest),
        (Put("ada", "k", b"", ""), BadRequest),
        (Put("ada", "k", b"", "a/b", idempotency_key="ü"), BadRequest),
        (Delete("ada", "\x00"), BadRequest),
        (Get("..", "k"), BadRequest),
        (List("ada", limit=0), BadRequest),
        (List("ada", prefix="p" * 513), BadRequest),
        (List("ada", after="\n"), BadRequest),
    ],
)
def test_what_may_not_be_never_reaches_replication(
    request_: Put | Delete | Get | List, error: type[RingkeepError]
) -> None:
    async def test(service: Service, driver: FakeDriver) -> None:
        with pytest.raises(error):
            await carried_out(service, request_)
        assert driver.seen == []

    run(test)


@pytest.mark.parametrize(
    ("result", "error"),
    [
        (NotApplied("overloaded", "full"), Overloaded("full")),
        (NotApplied("no_such_code", "?"), Internal("a change was refused with the code 'no_such_code'")),
        (Unknown(), OutcomeUnknown()),
        (Moved("s", 1, 1), NoPrimary("the shard moved and its primary could not be reached before the deadline")),
    ],
)
def test_every_result_without_success_has_its_error(result: Result, error: RingkeepError) -> None:
    found = error_of(result)

    assert (type(found), found.detail) == (type(error), error.detail)


def test_nothing_that_decides_the_effect_of_a_change_is_missing_in_its_hash() -> None:
    free = Conditions()
    hashes = [
        request_hash("PUT", "k", free, "a/b", b"x"),
        request_hash("DELETE", "k", free, "a/b", b"x"),
        request_hash("PUT", "k2", free, "a/b", b"x"),
        request_hash("PUT", "k", Conditions(if_match=()), "a/b", b"x"),
        request_hash("PUT", "k", Conditions(if_none_match=()), "a/b", b"x"),
        request_hash("PUT", "k", Conditions(if_match=(1,)), "a/b", b"x"),
        request_hash("PUT", "k", free, "a/c", b"x"),
        request_hash("PUT", "k", free, "a/b", b"y"),
    ]

    assert len(set(hashes)) == len(hashes)
    assert hashes[0] == request_hash("PUT", "k", Conditions(), "a/b", b"x")


def test_deleting_what_is_not_there_is_not_found() -> None:
    async def test(service: Service, driver: FakeDriver) -> None:
        with pytest.raises(NotFound, match="there is no document 'k'"):
            await service.delete(Delete("ada", "k"))

    run(test)


@pytest.mark.parametrize("timeout_s", [-0.001, -1.0, 60.001, float("nan"), float("inf")])
def test_a_timeout_is_at_most_a_minute_and_never_negative(timeout_s: float) -> None:
    with pytest.raises(BadRequest):
        checked_timeout_s(timeout_s)


def test_a_timeout_that_was_rounded_to_nothing_is_the_shortest_one() -> None:
    assert [checked_timeout_s(timeout_s) for timeout_s in (0.0, 0.0004, 0.25, 60.0)] == [0.001, 0.001, 0.25, 60.0]


def test_the_service_knows_where_a_user_is_even_if_it_refuses_it() -> None:
    async def test(service: Service, driver: FakeDriver) -> None:
        assert service.where("ada") == (shard_of("ada", 16), 1)
        assert service.where("\ud800") is None
        driver.shard_map = None
        assert service.where("ada") is None
        with pytest.raises(NoPrimary, match="does not hold the shard map yet"):
            service.route("ada")

    run(test)
