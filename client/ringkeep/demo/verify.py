"""Ask the cluster for everything it acknowledged, by strict reads, many at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import TypeVar

import msgspec

from ringkeep.async_client import AsyncClient
from ringkeep.demo.writer import Acknowledged
from ringkeep.errors import NotFound

T = TypeVar("T")

AT_ONCE = 48
READ_TIMEOUT_S = 30.0


class Verdict(msgspec.Struct, frozen=True):
    """How many things were looked at and what was wrong with the others (one sentence each)."""

    checked: int
    wrong: tuple[str, ...]


async def writes(client: AsyncClient, written: Sequence[Acknowledged], told: Callable[[int], None]) -> Verdict:
    """Read every acknowledged write back and compare bytes and version."""

    async def check(write: Acknowledged) -> str | None:
        try:
            found = await client.get(write.user, write.key, timeout_s=READ_TIMEOUT_S)
        except NotFound:
            return f"{write.user}/{write.key}, acknowledged as version {write.version}, is gone"
        if (found.value, found.version) != (write.value, write.version):
            return f"{write.user}/{write.key} is not what was acknowledged as version {write.version}"
        return None

    return await _all(written, check, told)


async def aircraft(
    client: AsyncClient, expected: Mapping[str, tuple[str, ...]], told: Callable[[int], None]
) -> Verdict:
    """List every aircraft's documents and compare their keys with the source file."""

    async def check(user: str) -> str | None:
        found = [row.key async for row in client.list(user, timeout_s=READ_TIMEOUT_S)]
        wanted = expected[user]
        if tuple(found) == wanted:
            return None
        return f"{user} has {len(found)} documents, the source file has {len(wanted)}: {_difference(found, wanted)}"

    return await _all(list(expected), check, told)


async def _all(
    things: Sequence[T], check: Callable[[T], Awaitable[str | None]], told: Callable[[int], None]
) -> Verdict:
    waiting = iter(things)
    checked = 0
    wrong: list[str] = []

    async def work() -> None:
        nonlocal checked
        for thing in waiting:
            complaint = await check(thing)
            checked += 1
            if complaint is not None:
                wrong.append(complaint)
            told(checked)

    async with asyncio.TaskGroup() as group:
        for _ in range(min(AT_ONCE, len(things))):
            group.create_task(work())
    return Verdict(checked, tuple(wrong))


def _difference(found: Iterable[str], wanted: Iterable[str]) -> str:
    have, want = set(found), set(wanted)
    missing, extra = sorted(want - have), sorted(have - want)
    return f"{len(missing)} missing {missing[:3]}, {len(extra)} too many {extra[:3]}"
