"""Changing who takes part in a cluster, step by step, as the launcher and the command do it.

    change_wanted: read -> change -> compare-and-set -> (somebody else was faster: read again)
    until_moved:   ask the leader's plan again and again until nothing is left to do
    leave:         a member goes once it holds nothing and does not vote; that its entry commits is the proof

Every step can be interrupted and made again: what is done already is seen and not done twice.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Collection, Iterator, Sequence
from itertools import count as counting
from itertools import islice
from typing import Any

import msgspec

from ringkeep.administration import member_path
from ringkeep.answers import Plan
from ringkeep.async_client import AsyncClient
from ringkeep.errors import Conflict, NotFound, OutcomeUnknown, RingkeepError
from ringkeep.retries import Ending, ending_of

POLL_S = 0.25
PLAN_RESTS, PLAN_REST_S_MAX = 9.0, 2.0
CHANGE_LIMIT_S = 30.0
REST_S = 3.0
"""Where only primaries are left to move and nothing has moved for so long, they wait for something that takes its time:
a node that died lately leads nothing for a while. The copies are where they should be, so nobody needs to wait."""
STUCK_S = 120.0
"""A plan in which nothing changes for so long is given up by whoever waits for it; the cluster goes on with it."""

UNKNOWN_S = 15.0
"""A node that was restarted has heard of everybody after so long: what it does not know then, it need not be asked for."""

_REFUSED = re.compile(r"^(last_node|quorum|copies|disk): (.*)", re.DOTALL)

_NUMBERED = re.compile(r"^(.*?)(\d+)$")


class Impossible(Conflict):
    """A wanted state that cannot be carried out; the text is the reason. Nothing was changed."""


class Stuck(RingkeepError):
    """A plan has not moved for a long time. It is not given up: the cluster goes on with it as soon as it can."""

    code = "stuck"
    retryable = True


class Progress(msgspec.Struct, frozen=True):
    """How far a plan is: ``done`` of ``total`` copies, what is still to be sent, and what it waits for."""

    done: int
    total: int
    bytes_left: int = 0
    waiting: tuple[str, ...] = ()
    primaries_left: int = 0


Told = Callable[[Progress], None]


def unheard(progress: Progress) -> None:
    """Tell nobody."""
    del progress


def reason_of(error: Conflict) -> str | None:
    """Return why a wanted state is impossible, or None if the conflict is another one (an old revision)."""
    found = _REFUSED.match(str(error))
    return found[2] if found else None


class Choice(msgspec.Struct, frozen=True):
    """Who takes part after scaling: nodes that stay, names of nodes to be made, nodes that go."""

    staying: tuple[str, ...]
    coming: tuple[str, ...]
    going: tuple[str, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Everybody who takes part in the end."""
        return (*self.staying, *self.coming)


def choose(names: Sequence[str], count: int, *, draining: Collection[str] = (), left: Collection[str] = ()) -> Choice:
    """Choose who stays: not those that have ``left``, rather not those that drain, else the lowest numbers."""
    there = [name for name in names if name not in left]
    ranked = sorted(there, key=lambda name: (name in draining, _number(name)))
    staying = tuple(sorted(ranked[:count], key=_number))
    coming = tuple(islice(_unused(names), count - len(staying)))
    going = (*ranked[count:], *(name for name in names if name in left))
    return Choice(staying, coming, tuple(sorted(going, key=_number, reverse=True)))


def _unused(names: Sequence[str]) -> Iterator[str]:
    """Yield names in the manner of the present ones, the lowest free numbers first."""
    first = _NUMBERED.match(min(names, key=_number)) if names else None
    prefix, start = (first[1], min(1, int(first[2]))) if first else ("n", 1)
    return (name for number in counting(start) if (name := f"{prefix}{number}") not in names)


def _number(name: str) -> tuple[int, str]:
    found = _NUMBERED.match(name)
    return (int(found[2]) if found else 0), name


async def change_wanted(
    client: AsyncClient, change: Callable[[dict[str, Any]], dict[str, Any]], *, limit_s: float = CHANGE_LIMIT_S
) -> int:
    """Apply ``change`` to the members of the wanted state by compare-and-set; return the revision that has it.

    Args:
        change: makes new members ``{name: {weight, zone, draining}}`` of the present ones; may be called again.
    Raises:
        Impossible: the cluster refuses it, with the reason.
        Conflict: others kept changing the wanted state for ``limit_s``, or a node is not known to it.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + limit_s
    while True:
        present = await client.wanted()
        members = change(present["members"])
        if members == present["members"]:
            return int(present["revision"])
        new = {"revision": present["revision"], "members": members, "settings": present["settings"]}
        try:
            return int((await client.set_wanted(new))["revision"])
        except (Conflict, OutcomeUnknown) as error:
            reason = reason_of(error) if isinstance(error, Conflict) else None
            if reason is not None:
                raise Impossible(reason) from error
            if loop.time() >= deadline:
                raise
        await asyncio.sleep(POLL_S / 4)


def taking_part(members: dict[str, Any], staying: Collection[str], going: Collection[str]) -> dict[str, Any]:
    """Return the wanted members in which ``staying`` take part and ``going``, where they are listed, drain.

    Weights and zones stay, and so does everybody who is not named.
    """
    usual = {"weight": 1.0, "zone": "", "draining": False}
    changed = {name: {**one, "draining": name in going or one["draining"]} for name, one in members.items()}
    return changed | {name: {**members.get(name, usual), "draining": False} for name in staying}


async def set_drain(client: AsyncClient, name: str, *, draining: bool, limit_s: float = CHANGE_LIMIT_S) -> bytes:
    """Have a member give everything up, or take that back; return the answer, a wanted state.

    Raises ``Impossible`` with the reason, ``NotFound`` with the names that there are.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + limit_s
    while True:
        try:
            return await client.ask("POST" if draining else "DELETE", member_path(name, "drain"))
        except Conflict as error:
            reason = reason_of(error)
            if reason is not None:
                raise Impossible(f"cannot drain {name}: {reason}") from error
            if loop.time() >= deadline:
                raise
        await asyncio.sleep(POLL_S / 4)


def rest_after(took_s: float) -> float:
    """Return how long not to ask for a plan again whose answer took so long: thinking it out takes a processor there, and
    clients are being served."""
    return max(POLL_S, min(PLAN_REST_S_MAX, PLAN_RESTS * took_s))


async def until_moved(
    client: AsyncClient,
    *,
    revision: int,
    present: Callable[[], Collection[str]] = tuple,
    empty: Collection[str] = (),
    told: Told = unheard,
    check: Callable[[], None] = lambda: None,
    stuck_s: float = STUCK_S,
) -> Plan:
    """Wait until the plan of the wanted state ``revision`` (or of a newer one) is carried out; return it.

    Args:
        present: says for whom to wait also until they are alive: before that the leader plans nothing for them.
        empty: wait also until these hold nothing.
        told: called with the progress each time the plan was looked at.
        check: called as often; may raise to end the wait.
    Returns also when only primaries are left to move and none has moved for a while: they follow when they may.

    Raises:
        Stuck: nothing has changed, and no bytes of copies have arrived, for ``stuck_s``.
    """
    loop = asyncio.get_running_loop()
    total, last, since = 0, None, loop.time()
    while True:
        asked = loop.time()
        plan = await client.plan()
        rest_s = rest_after(loop.time() - asked)
        expected = present()
        missing = sorted(set(expected) - await _alive(client)) if expected else []
        left = plan.held_by(*empty) if empty else plan.copies_left
        is_current = plan.wanted_revision >= revision and not missing
        if is_current:
            total = max(total, left)
            told(Progress(total - left, total, plan.bytes, _waits(plan), plan.primaries))
        # A copy of many gigabytes moves for minutes before the map says anything of it.
        now = (plan.version, plan.copies_left, missing, plan.running.received_bytes if plan.running else 0)
        moves = now != last
        if moves:
            last, since = now, loop.time()
        rests = plan.only_primaries_left and loop.time() >= since + REST_S
        if is_current and (plan.is_done or rests) and not plan.held_by(*empty):
            return plan
        if not moves and loop.time() >= since + stuck_s:
            raise Stuck(_stuck(plan, missing, empty, stuck_s))
        check()
        await asyncio.sleep(rest_s)


async def until_listed(
    client: AsyncClient, names: Collection[str], *, check: Callable[[], None], limit_s: float
) -> None:
    """Wait until these nodes have registered (``joining``) with the cluster. ``check`` may raise to end the wait."""

    async def ask() -> bool:
        return set(names) <= {member.name for member in await client.members()}

    if not await _until(ask, check=check, limit_s=limit_s):
        raise Stuck(f"{', '.join(sorted(names))} did not register with the cluster within {limit_s:.0f} s")


async def until_draining(client: AsyncClient, name: str, *, limit_s: float) -> None:
    """Wait until the wanted state says that a member drains; raise ``Conflict`` if it does not for ``limit_s``."""

    async def ask() -> bool:
        one = (await client.wanted())["members"].get(name)
        return one is not None and bool(one["draining"])

    if not await _until(ask, check=lambda: None, limit_s=limit_s):
        raise Conflict(f"{name} is not draining, so it stays")


async def leave(
    client: AsyncClient, name: str, *, storage: str = "", limit_s: float = STUCK_S, unknown_s: float | None = None
) -> bytes | None:
    """Let a drained member go, as soon as it does not vote any more; return the answer, None if it had left before.

    A node with an old map knows neither who is there nor who was there before: that it does not know the name proves
    nothing, nor does its answer for another storage id. Asked again for ``unknown_s``.

    Args:
        storage: the storage id that is to leave; as the map names it if left out.
    Raises:
        Conflict: somebody took the drain back; or what it still waits for after ``limit_s``.
        NotFound: the name is not known, and the map does not say that it has left.
        Stuck: the answers are about another storage id.
    """
    loop = asyncio.get_running_loop()
    deadline, unknown_until = loop.time() + limit_s, loop.time() + (UNKNOWN_S if unknown_s is None else unknown_s)
    storage = storage or (await client.map()).storage_of(name)
    while True:
        try:
            answer = await client.leave(name)
            if storage in ("", answer["storage_id"]):
                return msgspec.json.encode(answer)
            if loop.time() >= unknown_until:
                raise Stuck(f"another node called {name} ({answer['storage_id']}) has left, and not {storage}")
        except NotFound:
            if (await client.map()).has_left(name, storage):
                return None
            if loop.time() >= unknown_until:
                raise
        except (Conflict, OutcomeUnknown) as error:
            wanted = (await client.wanted())["members"].get(name)
            if wanted is not None and not wanted["draining"]:
                raise Conflict(f"somebody took the drain of {name} back, so it stays") from error
            if loop.time() >= deadline:
                raise
        await asyncio.sleep(POLL_S)


async def _alive(client: AsyncClient) -> set[str]:
    told = msgspec.json.decode(await client.ask("GET", "/v1/cluster/members"))
    return {member["name"] for member in told["members"] if member["state"] == "alive"}


async def _until(ask: Callable[[], Awaitable[bool]], *, check: Callable[[], None], limit_s: float) -> bool:
    loop = asyncio.get_running_loop()
    deadline = loop.time() + limit_s
    while loop.time() < deadline:
        try:
            if await ask():
                return True
        except RingkeepError as error:
            if ending_of(error) is Ending.FINAL:
                raise
        check()
        await asyncio.sleep(POLL_S / 4)
    return False


def _waits(plan: Plan) -> tuple[str, ...]:
    return plan.running.waiting if plan.running is not None else ()


def _stuck(plan: Plan, missing: Sequence[str], empty: Collection[str], stuck_s: float) -> str:
    if missing:
        return f"{', '.join(missing)} did not become alive within {stuck_s:.0f} s"
    holding = [
        f"{node.name} still has {node.copies} copies" for node in plan.nodes if node.name in empty and node.copies
    ]
    what = "; ".join((*holding, *_waits(plan))) or f"{plan.copies_left} copies are missing"
    return f"nothing has moved for {stuck_s:.0f} s: {what}"
