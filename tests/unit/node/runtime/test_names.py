"""Names of hosts: answered at once or not at all, looked up beside the loop, refreshed, and bounded."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from ringkeep_node.runtime.names import (
    FORGOTTEN_S,
    LOOKUPS_MAX,
    NAMES_MAX,
    PATIENCE_S,
    REFRESH_S,
    RETRY_S,
    Names,
    patience_with,
)
from ringkeep_testing.live_hosts import found, hosts, run, until


class Resolver:
    """Answers when the test says so; an empty text is a failure."""

    def __init__(self, patience_s: float = 0.0) -> None:
        self.asked: list[str] = []
        self.now = 100.0
        self._open: list[asyncio.Future[str]] = []
        self.names = Names(self._lookup, lambda: self.now, lambda: patience_s)

    async def _lookup(self, host: str) -> str:
        self.asked.append(host)
        future: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._open.append(future)
        address = await future
        if not address:
            raise OSError("no such host")
        return address

    async def answer(self, address: str) -> None:
        """Answer the oldest look-up."""
        await turns()
        self._open.pop(0).set_result(address)
        await turns()


async def turns() -> None:
    for _ in range(3):
        await asyncio.sleep(0)


@pytest.mark.parametrize(("host", "address"), [("10.1.2.3", "10.1.2.3"), ("::1", "::1"), ("[fe80::1]", "fe80::1")])
def test_an_address_is_itself_and_nobody_is_asked(host: str, address: str) -> None:
    async def play() -> None:
        resolver = Resolver()

        assert [resolver.names.address(host) for _ in range(2)] == [address, address]
        assert resolver.asked == []

    run(play())


def test_a_name_is_looked_up_once_and_known_from_then_on() -> None:
    async def play() -> None:
        resolver = Resolver()
        before = [resolver.names.address("n1.example") for _ in range(3)]
        await resolver.answer("10.0.0.1")
        after = [resolver.names.address("n1.example") for _ in range(3)]

        assert (before, after) == ([None] * 3, ["10.0.0.1"] * 3)
        assert resolver.asked == ["n1.example"]

    run(play())


def test_a_name_gets_its_new_address_and_keeps_the_old_one_while_it_cannot_be_looked_up() -> None:
    async def play() -> None:
        resolver = Resolver()
        seen = []
        resolver.names.address("n1.example")
        for address in ("10.0.0.1", "10.0.0.2", "", "10.0.0.3"):
            await resolver.answer(address)
            seen.append(resolver.names.address("n1.example"))
            resolver.now += REFRESH_S if address else RETRY_S
            seen.append(resolver.names.address("n1.example"))
        await resolver.names.close()

        assert seen == ["10.0.0.1"] * 2 + ["10.0.0.2"] * 4 + ["10.0.0.3"] * 2
        assert resolver.asked == ["n1.example"] * 4

    run(play())


def test_a_name_that_cannot_be_looked_up_is_tried_again_after_a_while() -> None:
    async def play() -> None:
        resolver = Resolver()
        resolver.names.address("n1.example")
        await resolver.answer("")
        at_once = resolver.names.address("n1.example"), len(resolver.asked)
        resolver.now += RETRY_S
        later = resolver.names.address("n1.example")
        await resolver.answer("10.0.0.1")

        assert (at_once, later, resolver.names.address("n1.example")) == ((None, 1), None, "10.0.0.1")

    run(play())


def test_a_name_that_can_wait_is_not_looked_up_before_its_host_may_be_there_again() -> None:
    async def play() -> None:
        resolver, asked = Resolver(patience_s=4.0), []

        async def ask(after_s: float, answer: str = "") -> None:
            resolver.now += after_s
            before = len(resolver.asked)
            address = resolver.names.address("n1.example")
            await turns()
            if len(resolver.asked) > before:
                await resolver.answer(answer)
            asked.append((address, len(resolver.asked)))

        await ask(0.0)
        await ask(3.9)
        await ask(0.1, "10.0.0.1")
        # Asked for all the time it is kept fresh; asked for again after a while its host may be about to start.
        await ask(REFRESH_S, "10.0.0.1")
        await ask(FORGOTTEN_S)
        await ask(3.9)
        await ask(0.1, "10.0.0.2")
        await ask(0.0)

        assert asked == [
            (None, 0),
            (None, 0),
            (None, 1),
            ("10.0.0.1", 2),
            ("10.0.0.1", 2),
            ("10.0.0.1", 2),
            ("10.0.0.1", 3),
            ("10.0.0.2", 3),
        ]

    run(play())


def test_names_and_look_ups_are_bounded() -> None:
    async def play() -> None:
        resolver = Resolver()
        for number in range(2 * NAMES_MAX):
            resolver.names.address(f"n{number}.example")
            resolver.names.address(f"10.0.{number // 256}.{number % 256}")
        await turns()

        assert len(resolver.asked) == LOOKUPS_MAX
        assert len(resolver.names._names) == len(resolver.names._addresses) == NAMES_MAX

        await resolver.names.close()

    run(play())


def test_nodes_that_are_known_by_name_find_each_other(tmp_path: Path) -> None:
    async def play() -> None:
        async with hosts(tmp_path, 3, called="localhost") as nodes:
            await found(nodes)
            await until(lambda: all(one.state == "alive" for node in nodes for one in node.host.members()))

            assert {node.peer.partition(":")[0] for node in nodes} == {"localhost"}
            assert all(min(node.host.numbers().gossip_messages.values()) > 0 for node in nodes)

    run(play())


@pytest.mark.parametrize(
    ("peers", "seconds"),
    [
        ([], 0.0),
        (["10.0.0.2:7400"], PATIENCE_S),
        (["10.0.0.2:7400", "[fd00::2]:7400"], PATIENCE_S),
        (["demo-1.demo-peers:7400"], 0.0),
        (["10.0.0.2:7400", "demo-1.demo-peers:7400"], 0.0),
    ],
)
def test_names_wait_only_for_who_knows_all_others_by_address(peers: list[str], seconds: float) -> None:
    assert patience_with(peers) == seconds


@pytest.mark.parametrize(("called", "seconds"), [("127.0.0.1", PATIENCE_S), ("localhost", 0.0)])
def test_a_running_node_is_patient_with_names_when_its_map_gives_addresses(
    called: str, seconds: float, tmp_path: Path
) -> None:
    async def play() -> None:
        async with hosts(tmp_path, 3, called=called) as nodes:
            await found(nodes)
            await until(lambda: all(node.host.shard_map is not None for node in nodes))
            drivers = [node.host._driver for node in nodes]

            assert [driver._patience() for driver in drivers if driver is not None] == [seconds] * 3

    run(play())
