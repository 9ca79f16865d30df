"""Where a datagram to host:port goes, answered at once: a name that is not known yet is looked up meanwhile.

    address(host) --an IP address--> itself
                  --a known name---> its address; older than ``REFRESH_S``: looked up again in the background
                  --unknown--------> None, and looked up; the datagram is dropped (gossip repeats what matters)

Handing a name to the socket would make the event loop wait for the resolver: for seconds, when DNS is what has failed. An
address that was found is used for as long as the name cannot be looked up again.
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from msgspec import Struct

REFRESH_S: Final = 5.0
"""A node that starts again may have another address, and what was found a moment before that is wrong."""
RETRY_S: Final = 1.0
"""Between two attempts for a name that cannot be looked up."""
NAMES_MAX: Final = 1024
LOOKUPS_MAX: Final = 16
"""Look-ups at once: they share the worker threads of the process."""

T = TypeVar("T")
Lookup = Callable[[str], Awaitable[str]]
"""Return one address of a host; raises ``OSError``."""


class _Name(Struct):
    """A host: its address, when to look it up (again), and whether that is under way."""

    address: str | None
    due: float
    running: bool = False


class Names:
    """See the module. ``clock`` returns monotonic seconds. Use it on one event loop."""

    def __init__(self, lookup: Lookup, clock: Callable[[], float]) -> None:
        self._lookup = lookup
        self._clock = clock
        self._addresses: dict[str, str] = {}
        self._names: dict[str, _Name] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def address(self, host: str) -> str | None:
        """Return the IP address to send to, or None while it is not known."""
        return self._addresses.get(host) or self._of_name(host)

    async def close(self) -> None:
        """Give up what is being looked up."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _of_name(self, host: str) -> str | None:
        name = self._names.get(host)
        if name is None:
            literal = _literal(host)
            if literal is not None:
                _bounded(self._addresses)[host] = literal
                return literal
            name = _bounded(self._names)[host] = _Name(None, self._clock())
        if not name.running and self._clock() >= name.due and len(self._tasks) < LOOKUPS_MAX:
            name.running = True
            task = asyncio.get_running_loop().create_task(self._look_up(host, name))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return name.address

    async def _look_up(self, host: str, name: _Name) -> None:
        try:
            name.address = await self._lookup(host)
            name.due = self._clock() + REFRESH_S
        except (OSError, UnicodeError):
            name.due = self._clock() + RETRY_S
        finally:
            name.running = False


def system_lookup(family: int) -> Lookup:
    """Return look-ups by the system's resolver, in a worker thread, for sockets of an address family."""

    async def lookup(host: str) -> str:
        found = await asyncio.get_running_loop().getaddrinfo(host, None, family=family)
        return str(found[0][4][0])

    return lookup


def _literal(host: str) -> str | None:
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    try:
        ipaddress.ip_address(bare.partition("%")[0])
    except ValueError:
        return None
    return bare


def _bounded(known: dict[str, T]) -> dict[str, T]:
    """Return the dictionary with room for one more; the oldest goes."""
    while len(known) >= NAMES_MAX:
        del known[next(iter(known))]
    return known
