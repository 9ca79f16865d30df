"""Where a datagram to host:port goes, answered at once: a name that is not known yet is looked up meanwhile.

    address(host) --an IP address--> itself
                  --a known name---> its address; older than ``REFRESH_S``: looked up again in the background
                  --unknown--------> None, and looked up; the datagram is dropped (gossip repeats what matters)

Handing a name to the socket would make the event loop wait for the resolver: for seconds, when DNS is what has failed. An
address that was found is used for as long as the name cannot be looked up again.

``patience`` says how long a name that nobody has asked for lately waits for its first look-up. Where the members of the map
are known by address, names are needed only for whoever has a new one: a pod that has just ended, or is about to start.
Resolvers remember for half a minute that a name does not exist, so asking a moment too early costs more than waiting.
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Awaitable, Callable, Collection
from typing import Final, TypeVar

from msgspec import Struct

REFRESH_S: Final = 5.0
"""A node that starts again may have another address, and what was found a moment before that is wrong."""
RETRY_S: Final = 1.0
"""Between two attempts for a name that cannot be looked up."""
PATIENCE_S: Final = 4.0
"""Pods that are all started again at once have their names within that time."""
FORGOTTEN_S: Final = 10.0
"""A name that nobody asked for so long is asked for anew: its host was well, and is not any more."""
NAMES_MAX: Final = 1024
LOOKUPS_MAX: Final = 16
"""Look-ups at once: they share the worker threads of the process."""

T = TypeVar("T")
Lookup = Callable[[str], Awaitable[str]]
"""Return one address of a host; raises ``OSError``."""


class _Name(Struct):
    """A host: its address, when to look it up (again), when it was asked for last, and whether a look-up is under way."""

    address: str | None
    due: float
    asked: float
    running: bool = False


class Names:
    """See the module. ``clock`` returns monotonic seconds. Use it on one event loop."""

    def __init__(self, lookup: Lookup, clock: Callable[[], float], patience: Callable[[], float]) -> None:
        self._lookup, self._clock, self._patience = lookup, clock, patience
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
        name, now = self._names.get(host), self._clock()
        if name is None:
            literal = literal_of(host)
            if literal is not None:
                _bounded(self._addresses)[host] = literal
                return literal
            name = _bounded(self._names)[host] = _Name(None, now + self._patience(), now)
        if now - name.asked >= FORGOTTEN_S:
            name.due = now + self._patience()
        name.asked = now
        if not name.running and now >= name.due and len(self._tasks) < LOOKUPS_MAX:
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


def patience_with(peers: Collection[str]) -> float:
    """Return how long names may wait for whoever knows the others at these host:port.

    Not at all for one who knows nobody, or somebody only by name: it may need that name to be heard.
    """
    return PATIENCE_S if peers and all(literal_of(peer.rpartition(":")[0]) is not None for peer in peers) else 0.0


def system_lookup(family: int) -> Lookup:
    """Return look-ups by the system's resolver, in a worker thread, for sockets of an address family."""

    async def lookup(host: str) -> str:
        found = await asyncio.get_running_loop().getaddrinfo(host, None, family=family)
        return str(found[0][4][0])

    return lookup


def literal_of(host: str) -> str | None:
    """Return a host that is an IP address as such, without brackets; None if it is a name."""
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
