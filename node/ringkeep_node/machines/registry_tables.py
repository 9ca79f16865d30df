"""What each node owns in the registry, as every node holds it: a table per owner, and the differences between two.

Only the owner writes its table and numbers its writes, so whoever holds (counter, version) has every write up to there, as
with gossip's values (``gossip_state``); tables are far larger, so they travel over peer links and gossip only names the
version:

    owner writes -> Delta(base=v, version=v+n) to everybody linked
    since(v) -> Delta(base=v, ...) to somebody who lacks it; base = 0 and the whole table when v is below the floor
    apply: base <= held: taken; base > held: a gap, refused (and asked for again); base = 0 takes the place of everything

A removed instance leaves a *tombstone*. Only so many are kept: the floor is the version of the newest one dropped. Whoever
is below the floor gets the whole table, so a dropped tombstone never brings an instance back.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from msgspec import Meta, Struct

from ringkeep_core.services import INSTANCES_PER_NODE_MAX, OWNER_BYTES_MAX, Instance, size_of

TOMBSTONES_MAX = 1024
"""As many as instances: a node that replaces everything it owns still tells the differences."""
GRAVES_MAX = 4096
CHECK_BYTES = 600
"""What an instance weighs at most beside its texts: a check's output, numbers and names of fields."""

Key = tuple[str, str]
Identity = Annotated[str, Meta(min_length=16, max_length=16)]
Number = Annotated[int, Meta(ge=0, lt=1 << 53)]


class Entry(Struct, frozen=True):
    """One write of an owner.

    ``instance`` None and ``lamport`` > 0: a tombstone, the instance was removed by registration number ``lamport``.
    ``instance`` None and ``lamport`` 0: this owner has nothing to say of the key any more, another one does.
    ``term`` is 0 for a registration or a removal, and the number of the last adoption of that registration otherwise.
    ``stamp`` is the logical clock at this write, ``created`` at the first registration of the instance.
    """

    service: str
    id: str
    version: Number
    stamp: Number
    lamport: Number
    term: Number
    created: Number
    instance: Instance | None

    @property
    def key(self) -> Key:
        """(service, id)."""
        return self.service, self.id

    def rank(self, owner: str) -> tuple[int, int, str]:
        """Return what orders the entries of several owners for one key: the greatest counts.

        A removal is newer than the registration it removes, and so than every adoption of that: whoever goes on with an
        instance without having heard of its removal does not bring it back.
        """
        return self.lamport, self.term, owner


class ServicesDelta(Struct, frozen=True, array_like=True, tag=20):
    """All writes of ``owner`` (in the boot ``counter``) above ``base`` up to and including ``version``.

    Base 0 is the whole table: what is not in it is gone.
    """

    owner: Identity
    counter: Number
    base: Number
    version: Number
    entries: Annotated[tuple[Entry, ...], Meta(max_length=INSTANCES_PER_NODE_MAX + TOMBSTONES_MAX)]


class ServicesKnown(Struct, frozen=True, array_like=True, tag=21):
    """What the sender holds: (owner, counter, version) of every table. Answered with what it lacks.

    ``asks``: whoever gets this says in turn what it holds.
    """

    rows: Annotated[tuple[tuple[Identity, Number, Number], ...], Meta(max_length=4096)]
    asks: bool


class ServicesPull(Struct, frozen=True, array_like=True, tag=22):
    """Asks for what ``owner`` wrote after ``version`` of its boot ``counter``."""

    owner: Identity
    counter: Number
    version: Number


class ServicesRenew(Struct, frozen=True, array_like=True, tag=23):
    """A sign of life that came to a node which does not own the instance, for the one that does.

    ``check`` "" means all ttl checks; ``status`` "" leaves the state as it is and only renews.
    """

    service: str
    id: str
    check: str
    status: Literal["", "passing", "warning", "critical"]
    output: str
    clears: bool = False
    """Whether ``output`` "" is what was said; else it leaves the output as it is."""

    @property
    def told(self) -> str | None:
        """The output that was told; None if nothing was."""
        return self.output if self.output or self.clears else None


ServicesMessage = ServicesDelta | ServicesKnown | ServicesPull | ServicesRenew
SERVICES_MESSAGES = frozenset((ServicesDelta, ServicesKnown, ServicesPull, ServicesRenew))


class Table:
    """What one owner has said, as it is held here. ``entries`` are in the order of their versions."""

    __slots__ = ("_bytes", "_tombstones", "counter", "entries", "floor", "version")

    def __init__(self, counter: int) -> None:
        self.counter = counter
        self.version = 0
        self.floor = 0
        self.entries: dict[Key, Entry] = {}
        self._tombstones = 0
        self._bytes = 0

    @property
    def instances(self) -> int:
        """How many instances there are."""
        return len(self.entries) - self._tombstones

    @property
    def held_bytes(self) -> int:
        """An upper bound of what the table weighs."""
        return self._bytes

    def has_room(self, key: Key, instance: Instance, *, instances_max: int = INSTANCES_PER_NODE_MAX) -> bool:
        """Return whether the instance may be written within the bounds of an owner."""
        held = self.entries.get(key)
        more = 0 if held is not None and held.instance is not None else 1
        return (
            self.instances + more <= instances_max
            and self._bytes - _weight(held) + weight_of(instance) <= OWNER_BYTES_MAX
        )

    def write(self, entry: Entry) -> None:
        """Take the next write, of our own table or of a delta."""
        held = self.entries.pop(entry.key, None)
        if held is not None and held.instance is None:
            self._tombstones -= 1
        self._bytes += _weight(entry) - _weight(held)
        self.entries[entry.key] = entry
        self.version = entry.version
        if entry.instance is None:
            self._tombstones += 1
            if self._tombstones > TOMBSTONES_MAX:
                self.drop_tombstone(next(self.tombstones()))

    def tombstones(self) -> Iterator[Entry]:
        """Return the tombstones, oldest first."""
        return (entry for entry in self.entries.values() if entry.instance is None)

    def drop_tombstone(self, entry: Entry) -> None:
        """Forget a tombstone: whoever has not seen it yet gets the whole table."""
        assert entry.instance is None
        del self.entries[entry.key]
        self._tombstones -= 1
        self.floor = max(self.floor, entry.version)

    def since(self, owner: str, counter: int, version: int) -> ServicesDelta | None:
        """Return what somebody lacks who holds this owner up to (counter, version); None if nothing."""
        if (counter, version) >= (self.counter, self.version):
            return None
        base = version if counter == self.counter and version >= self.floor else 0
        missing: list[Entry] = []
        for entry in reversed(self.entries.values()):
            if entry.version <= base:
                break
            missing.append(entry)
        return ServicesDelta(owner, self.counter, base, self.version, tuple(reversed(missing)))

    def fits(self, delta: ServicesDelta) -> bool:
        """Return whether the delta follows on what is held and keeps within the bounds; ``takes`` may change it then."""
        if delta.counter < self.counter:
            return False
        is_whole = delta.base == 0
        if delta.counter == self.counter and (delta.version <= self.version or delta.base > self.version):
            return False
        if delta.counter > self.counter and not is_whole:
            return False
        kept = 0 if is_whole else self.instances + self._tombstones
        return kept + len(delta.entries) <= 2 * (INSTANCES_PER_NODE_MAX + TOMBSTONES_MAX)

    def take(self, delta: ServicesDelta) -> list[Key]:
        """Take a delta that ``fits``; return the keys that it may have changed."""
        changed: dict[Key, None] = {}
        if delta.base == 0:
            changed = dict.fromkeys(self.entries)
            self.entries, self._tombstones, self._bytes, self.version = {}, 0, 0, 0
            self.counter, self.floor = delta.counter, delta.version
        for entry in sorted(delta.entries, key=lambda it: it.version):
            if entry.version > self.version:
                self.write(entry)
                changed[entry.key] = None
        self.version = delta.version
        return list(changed)


class Graves:
    """Removals whose owner is gone: nobody tells them any more, unless what they removed shows up again."""

    def __init__(self, *, keep_s: float) -> None:
        self._keep_s = keep_s
        self._graves: dict[Key, tuple[int, float]] = {}

    def __contains__(self, key: Key) -> bool:
        """Return whether a removal of this key is remembered."""
        return key in self._graves

    def dig(self, table: Table, *, now: float) -> None:
        """Remember the removals of an owner whose table is given up."""
        for entry in table.tombstones():
            if entry.lamport:
                self._graves.pop(entry.key, None)
                self._graves[entry.key] = (entry.lamport, now + self._keep_s)
        while len(self._graves) > GRAVES_MAX:
            del self._graves[next(iter(self._graves))]

    def over(self, entry: Entry, *, now: float) -> int:
        """Return the number of the removal that this instance had, 0 if it had none or is newer than that."""
        lamport, until = self._graves.get(entry.key, (0, 0.0))
        if lamport > entry.lamport and now < until:
            return lamport
        self._graves.pop(entry.key, None)
        return 0


def weight_of(instance: Instance) -> int:
    """Return an upper bound of the bytes an instance takes in a frame."""
    return size_of(instance) + CHECK_BYTES * (1 + len(instance.checks))


def _weight(entry: Entry | None) -> int:
    return 0 if entry is None or entry.instance is None else weight_of(entry.instance)
