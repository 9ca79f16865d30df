"""The nodes' REST interface as the operator reads it: against the shapes of the node's own code."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

import aiohttp
import msgspec
import pytest

from ringkeep_core.plans import expected_digest
from ringkeep_node.http.cluster import map_shape
from ringkeep_operator.failpoints import KillAt
from ringkeep_operator.nodes import LATE_S, Nodes, map_from, pod_address
from ringkeep_operator.state import SeenPod
from ringkeep_testing.fake_driver import first_map


def test_the_map_that_a_node_shows_is_read_back_as_the_same_map() -> None:
    held = first_map(nodes=5, shards=32)
    read = map_from(msgspec.json.encode(map_shape(held)))

    assert read == held
    assert expected_digest(read, read.wanted) == expected_digest(held, held.wanted)


def test_something_else_than_a_map_is_refused() -> None:
    with pytest.raises(msgspec.DecodeError):
        map_from(b'{"version": 1}')


@pytest.mark.parametrize(("ip", "base"), [("10.0.0.1", "http://10.0.0.1:8080"), ("fd00::1", "http://[fd00::1]:8080")])
def test_a_pod_is_asked_at_its_ip(ip: str, base: str) -> None:
    assert pod_address(SeenPod(name="demo-0", uid="", version="", ordinal=0, ip=ip)) == base


def test_a_failpoint_ends_the_process_the_nth_time_that_it_is_reached() -> None:
    ended: list[int] = []
    reached = KillAt("before:apply:Pod:2", ended.append)
    for name in ("before:apply:Pod", "after:apply:Pod", "before:apply:Pod", "before:apply:Pod"):
        reached(name)

    assert ended == [137]


@pytest.mark.parametrize("wish", ["", "name", "name:0", "name:x", ":3"])
def test_a_failpoint_that_is_not_name_and_count_is_refused(wish: str) -> None:
    with pytest.raises(ValueError, match="name:count"):
        KillAt(wish)


class _Answer:
    """An answer of a node that says who it is."""

    status = 200

    def __init__(self, name: str) -> None:
        self._body = msgspec.json.encode({"node": name, "version": 1})
        self.content = self

    async def iter_any(self) -> AsyncIterator[bytes]:
        yield self._body


class _Session:
    """A session whose requests to ``b`` are decided one after the other by futures: an answer, or that time was up."""

    def __init__(self, *fates: asyncio.Future[None]) -> None:
        self.fates = list(fates)
        self.asked: list[str] = []

    @asynccontextmanager
    async def get(self, url: str, **_: Any) -> AsyncIterator[_Answer]:
        name = url.split("/")[2].partition(":")[0]
        self.asked.append(name)
        if name == "b":
            await self.fates.pop(0)
        yield _Answer(name)


def test_a_node_that_did_not_answer_holds_nothing_up_and_is_waited_for_again_once_it_has_answered() -> None:
    async def test() -> tuple[list[list[str]], list[int]]:
        loop = asyncio.get_running_loop()
        up, late, slow = loop.create_future(), loop.create_future(), loop.create_future()
        up.set_exception(TimeoutError())
        session = _Session(up, late, slow)
        nodes = Nodes(cast(aiohttp.ClientSession, session))
        pods = [
            SeenPod(name=name, uid="", version="", ordinal=n, ip=name, phase="Running") for n, name in enumerate("ab")
        ]
        found, questions = [], []

        async def look() -> None:
            found.append([one.node.name for one in await nodes.answering(pods)])
            questions.append(session.asked.count("b"))

        for _ in range(3):
            await look()
        late.set_result(None)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        # Slower than a node may be that is not waited for.
        loop.call_later(2 * LATE_S, slow.set_result, None)
        await look()
        await nodes.close()
        return found, questions

    found, questions = asyncio.run(test())

    assert found == [["a"], ["a"], ["a"], ["a", "b"]]
    # The question that is open is not asked a second time.
    assert questions == [1, 2, 2, 3]


def test_who_answers_under_another_name_than_the_pod_has_is_somebody_else() -> None:
    async def test() -> list[str]:
        nodes = Nodes(cast(aiohttp.ClientSession, _Session()))
        # At the address of pod c answers a node that calls itself d.
        pods = [
            SeenPod(name=name, uid="", version="", ordinal=n, ip=ip, phase="Running")
            for n, (name, ip) in enumerate({"a": "a", "c": "d"}.items())
        ]
        found = [one.node.name for one in await nodes.answering(pods)]
        await nodes.close()
        return found

    assert asyncio.run(test()) == ["a"]
