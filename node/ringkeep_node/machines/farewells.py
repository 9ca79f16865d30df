"""Who has left the cluster and must still be told: it is answered for a while after it last said something.

A storage id that has left is never accepted again, but its process may not know. Without a link nobody could answer its
pulls and proposals. Where its address belongs to a member by now, another process listens there and nothing is sent.

Source: replication.md, "Leave"; counterexamples.md S12(b).
"""

from __future__ import annotations

from collections.abc import Mapping

from ringkeep_core.shardmap import ShardMap

FAREWELL_S = 10.0
FAREWELLS_MAX = 64


class Farewells:
    """The storages that have left, by the held map, and the links that are kept to some of them."""

    def __init__(self) -> None:
        self._left: frozenset[str] = frozenset()
        self._members: dict[str, str] = {}
        self._open: dict[str, tuple[str, float]] = {}

    def has_left(self, storage: str) -> bool:
        """Return whether the map says that it is gone for good."""
        return storage in self._left

    def map_held(self, held: ShardMap, greeted: Mapping[str, str], *, now: float) -> None:
        """Take a newer map: whoever was a member until now and has left is told."""
        before, self._members = self._members, {it.storage: it.peer for it in held.members.values()}
        if len(held.left) == len(self._left):
            return
        self._left = frozenset(held.left)
        for storage, address in before.items():
            if storage in self._left:
                self.heard(storage, greeted.get(storage, address), held, now=now)

    def heard(self, storage: str, address: str, held: ShardMap | None, *, now: float) -> bool:
        """Somebody who has left said something. Returns whether there is a new link to be made."""
        if held is None or not address or address in self._members.values():
            return False
        is_new = self._open.pop(storage, ("", 0.0))[0] != address
        self._open[storage] = (address, now + FAREWELL_S)
        while len(self._open) > FAREWELLS_MAX:
            del self._open[next(iter(self._open))]
        return is_new

    def without_left(self, greeted: Mapping[str, str]) -> dict[str, str]:
        """Return where to dial those who greeted us; of those who left only whom we still have to tell."""
        addresses = {storage: address for storage, address in greeted.items() if storage not in self._left}
        addresses.update((storage, address) for storage, (address, _) in self._open.items())
        return addresses

    def lost(self, storage: str) -> bool:
        """A link ended or could not be made. Returns whether it is one that nobody need make again."""
        return self._open.pop(storage, None) is not None

    def expire(self, *, now: float) -> bool:
        """Give up on whoever is silent. Returns whether links are to be ended."""
        over = [storage for storage, (_, until) in self._open.items() if until <= now]
        for storage in over:
            del self._open[storage]
        return bool(over)
