"""The calls that administer a cluster: the wanted state, plans, drains, leaving, leadership, history.

They are sent to the leader where its address may be used, because only the leader knows how far a plan is and for how
long a member has been dead. Any other node answers as well, with what it knows.

Every change here can be repeated without harm: the wanted state is a compare-and-set on its revision, a drain twice is
one drain, and a member that has left is not found.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import quote

import msgspec

from ringkeep.answers import Event, Events, Leader, Plan
from ringkeep.transport import Answer, Request, decoded

PLAN_PATH = "/v1/cluster/plan"
WANTED_PATH = "/v1/cluster/wanted"


class Administration:
    """The part of ``AsyncClient`` that administers."""

    async def plan(self, *, timeout_s: float | None = None) -> Plan:
        """Return what is left between the map and the wanted state: nothing, once they agree."""
        return decoded(await self._asked("GET", PLAN_PATH, timeout_s=timeout_s), Plan)

    async def what_if(
        self,
        *,
        members: Iterable[str] | None = None,
        drain: Iterable[str] = (),
        weights: Mapping[str, float] | None = None,
        timeout_s: float | None = None,
    ) -> Plan:
        """Return the plan that a change of the wanted state would mean; nothing changes.

        Args:
            members: Exactly these take part, also nodes that are not there yet.
            drain: These give everything up.
            weights: New weights by name.
        Raises:
            Conflict: it is impossible; the text says why.
        """
        thought = what_if_body(members=members, drain=drain, weights=weights)
        return decoded(await self._asked("POST", PLAN_PATH, thought, timeout_s=timeout_s), Plan)

    async def wanted(self, *, timeout_s: float | None = None) -> dict[str, Any]:
        """Return the wanted state: members, weights, zones and settings, under a ``revision``."""
        return decoded(await self._asked("GET", WANTED_PATH, timeout_s=timeout_s), dict[str, Any])

    async def set_wanted(self, wanted: Mapping[str, Any], *, timeout_s: float | None = None) -> dict[str, Any]:
        """Replace the wanted state and return the new one; ``revision`` in it is the one that was read.

        Raises ``Conflict`` if it was changed meanwhile (read it again), or if it is impossible.
        """
        return decoded(await self._asked("PUT", WANTED_PATH, dict(wanted), timeout_s=timeout_s), dict[str, Any])

    async def drain(self, name: str, *, timeout_s: float | None = None) -> dict[str, Any]:
        """Have a member give everything up; return the wanted state at once. Raises ``Conflict`` if that cannot be."""
        return decoded(await self._asked("POST", member_path(name, "drain"), timeout_s=timeout_s), dict[str, Any])

    async def undrain(self, name: str, *, timeout_s: float | None = None) -> dict[str, Any]:
        """Take a drain back; return the wanted state at once."""
        return decoded(await self._asked("DELETE", member_path(name, "drain"), timeout_s=timeout_s), dict[str, Any])

    async def leave(self, name: str, *, timeout_s: float | None = None) -> dict[str, Any]:
        """Let a drained member go for good; return its name and storage id.

        Raises:
            Conflict: it still holds copies, votes, or is not drained.
            NotFound: there is no such member, which it also says where an unanswered first try has worked.
        """
        return decoded(await self._asked("POST", member_path(name, "leave"), timeout_s=timeout_s), dict[str, Any])

    async def transfer_leader(self, to: str = "", *, timeout_s: float | None = None) -> Leader:
        """Have the leader hand leadership to the voter ``to`` ("": its own choice); return who leads then."""
        path = "/v1/cluster/transfer-leader"
        return decoded(await self._asked("POST", path, {"to": to}, timeout_s=timeout_s), Leader)

    async def events(self, *, after: int = 0, timeout_s: float | None = None) -> tuple[Event, ...]:
        """Return what the answering node remembers of its members and the map, oldest first."""
        path = f"/v1/cluster/events?after={after}"
        return decoded(await self._asked("GET", path, timeout_s=timeout_s), Events).events

    async def ask(self, method: str, path: str, body: object = None, *, timeout_s: float | None = None) -> bytes:
        """Return the unchanged answer of a call that administers; ``body`` is sent as JSON."""
        return (await self._asked(method, path, body, timeout_s=timeout_s)).body

    async def _asked(self, method: str, path: str, body: object = None, *, timeout_s: float | None) -> Answer:
        plain, _, query = path.partition("?")
        headers = {} if body is None else {"Content-Type": "application/json"}
        encoded = None if body is None else msgspec.json.encode(body)
        request = Request(method, plain, query, headers, encoded)
        return await self._ask_leader(request, changes=method != "GET", timeout_s=timeout_s)

    async def _ask_leader(self, request: Request, *, changes: bool, timeout_s: float | None) -> Answer:
        raise NotImplementedError


def member_path(name: str, order: str) -> str:
    """Return the path of an order to a member."""
    return f"/v1/cluster/members/{quote(name, safe='')}/{order}"


def what_if_body(
    *, members: Iterable[str] | None = None, drain: Iterable[str] = (), weights: Mapping[str, float] | None = None
) -> dict[str, object]:
    """Return the body of a dry run."""
    body: dict[str, object] = {"drain": list(drain), "weights": dict(weights or {})}
    return body if members is None else body | {"members": list(members)}
