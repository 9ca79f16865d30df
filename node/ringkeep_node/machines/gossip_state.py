"""Keep small values about every member, written by their owner only, and say what another member has not seen yet.

Each owner numbers its writes: one version for all its keys. Whoever holds an owner up to version v has every write up
to v (a later write of the same key stands in for an earlier one), so ``(counter, version)`` sums up what is held, and
the difference to somebody else is exactly the entries above the version they name:

    set -> Delta(base=v, version=v+1)            to everybody at once
    since(v) -> Delta(base=v, version=last)      to somebody whose digest differs; cut off where a datagram is full
    apply: base <= held: taken; base > held: there is a gap, refused (the digests differ, so it is asked for again)

A higher boot counter of the owner starts anew at version 0 and throws the values of the earlier boot away.
Nothing here waits, sends or looks at a clock. Source: van Renesse et al., "Efficient Reconciliation and Flow Control
for Anti-Entropy Protocols" (Scuttlebutt); architecture.md, pattern "Gossip".
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated

from msgspec import Meta, Struct

KEY_BYTES_MAX = 64
VALUE_BYTES_MAX = 512
KEYS_MAX = 64
OWNER_BYTES_MAX = 4096

Identity = Annotated[str, Meta(min_length=16, max_length=16)]
Number = Annotated[int, Meta(ge=0, lt=1 << 53)]

_EMPTY: Mapping[str, bytes] = MappingProxyType({})


class Entry(Struct, frozen=True, array_like=True):
    """One value of an owner; an empty value means that there is none."""

    key: Annotated[str, Meta(min_length=1, max_length=KEY_BYTES_MAX)]
    version: Number
    value: Annotated[bytes, Meta(max_length=VALUE_BYTES_MAX)]


class Delta(Struct, frozen=True, array_like=True):
    """All writes of ``owner`` (in the boot ``counter``) above ``base`` up to and including ``version``."""

    owner: Identity
    counter: Number
    base: Number
    version: Number
    entries: Annotated[tuple[Entry, ...], Meta(max_length=KEYS_MAX)]


class _Owned:
    """What is held of one owner."""

    __slots__ = ("counter", "entries", "values", "version")

    def __init__(self, counter: int) -> None:
        self.counter = counter
        self.version = 0
        self.entries: dict[str, Entry] = {}
        self.values: dict[str, bytes] = {}


class GossipState:
    """The values of all owners as this node knows them."""

    def __init__(self, *, owner: str, counter: int) -> None:
        self._owner = owner
        self._owned: dict[str, _Owned] = {owner: _Owned(counter)}

    def set(self, key: str, value: bytes) -> bool:
        """Write one of our own values; return whether that changed anything. An empty value removes it.

        Raises:
            ValueError: The key or the value is too long, or all our values together are. Nothing was changed. Only our
                own code writes here, so this is a bug of ours.
        """
        mine = self._owned[self._owner]
        if mine.values.get(key, b"") == value:
            return False
        entry = Entry(key=key, version=mine.version + 1, value=value)
        if not 0 < len(key.encode()) <= KEY_BYTES_MAX or not _fits(mine.entries, (entry,)):
            raise ValueError(f"gossip state {key!r} with {len(value)} bytes does not fit")
        _store(mine, (entry,), entry.version)
        return True

    def values(self, owner: str) -> Mapping[str, bytes]:
        """Return the present values of ``owner``; empty for a stranger."""
        held = self._owned.get(owner)
        return _EMPTY if held is None else MappingProxyType(held.values)

    def held(self, owner: str) -> tuple[int, int]:
        """Return (boot counter, version) up to which we have everything of ``owner``; (0, 0) if that is nothing."""
        held = self._owned.get(owner)
        return (held.counter, held.version) if held is not None and held.version else (0, 0)

    def since(self, owner: str, counter: int, version: int, *, bytes_max: int) -> Delta | None:
        """Return what somebody who holds ``owner`` up to (counter, version) lacks; None if nothing, or no room for it.

        The entries go in the order they were written and end where ``bytes_max`` is reached, so that the delta is
        complete up to its own version and the next one can follow on.
        """
        held = self._owned.get(owner)
        if held is None or (held.counter, held.version) <= (counter, version):
            return None
        base = version if counter == held.counter else 0
        missing = sorted((entry for entry in held.entries.values() if entry.version > base), key=lambda e: e.version)
        taken: list[Entry] = []
        for entry in missing:
            bytes_max -= _size(entry)
            if bytes_max < 0:
                break
            taken.append(entry)
        if missing and not taken:
            return None
        reached = held.version if len(taken) == len(missing) else taken[-1].version
        return Delta(owner=owner, counter=held.counter, base=base, version=reached, entries=tuple(taken))

    def apply(self, delta: Delta) -> tuple[tuple[str, bytes], ...]:
        """Take what is new in ``delta``; return the (key, value) pairs that changed, in the order they were written.

        Our own values, older boots, gaps and whatever would exceed the limits change nothing.
        """
        if delta.owner == self._owner:
            return ()
        held = self._owned.get(delta.owner)
        fresh = held is None or delta.counter > held.counter
        target = _Owned(delta.counter) if held is None or fresh else held
        if delta.counter < target.counter or delta.base > target.version or delta.version <= target.version:
            return ()
        new = tuple(entry for entry in delta.entries if target.version < entry.version <= delta.version)
        if not _fits(target.entries, new):
            return ()
        before = dict(held.values) if held is not None else {}
        _store(target, new, delta.version)
        self._owned[delta.owner] = target
        return _differences(before, target.values)

    def restart(self, owner: str, counter: int) -> tuple[tuple[str, bytes], ...]:
        """Throw away what an earlier boot of ``owner`` said; return the (key, b"") pairs that are gone."""
        held = self._owned.get(owner)
        if held is None or owner == self._owner or held.counter >= counter:
            return ()
        self._owned[owner] = _Owned(counter)
        return _differences(held.values, {})

    def forget(self, owner: str) -> None:
        """Drop everything about ``owner``, who is no member any more."""
        if owner != self._owner:
            self._owned.pop(owner, None)


def _store(held: _Owned, entries: tuple[Entry, ...], version: int) -> None:
    for entry in sorted(entries, key=lambda e: e.version):
        held.entries[entry.key] = entry
        held.values.pop(entry.key, None)
        if entry.value:
            held.values[entry.key] = entry.value
    held.version = version


def _fits(held: Mapping[str, Entry], new: tuple[Entry, ...]) -> bool:
    if any(len(entry.value) > VALUE_BYTES_MAX for entry in new):
        return False
    merged = {**held, **{entry.key: entry for entry in new}}
    return len(merged) <= KEYS_MAX and sum(map(_size, merged.values())) <= OWNER_BYTES_MAX


def _size(entry: Entry) -> int:
    """Return an upper bound of the bytes an entry takes in a datagram."""
    return len(entry.key.encode()) + len(entry.value) + 16


def _differences(before: Mapping[str, bytes], after: Mapping[str, bytes]) -> tuple[tuple[str, bytes], ...]:
    gone = tuple((key, b"") for key in before if key not in after)
    return gone + tuple((key, value) for key, value in after.items() if before.get(key) != value)
