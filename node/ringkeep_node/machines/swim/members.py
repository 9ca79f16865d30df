"""What is known about each member: identity, state, evidence, and which news are newer.

    ALIVE --accused (probe failed, connection refused, somebody says so)--> SUSPECT --time is up--> DEAD
    SUSPECT, DEAD, LEFT --the member itself, with a higher incarnation or boot counter--> ALIVE
    any --the member says so, or the committed map does--> LEFT (by the map: for ever)

News are ordered by (boot counter, incarnation, state): only the member raises its incarnation and only a start raises
the counter, so nobody but the member can take an accusation back, and an old boot can never overrule a new one.
Source: Das, Gupta, Motivala, "SWIM", section 4.2; replication.md, rule 8 and "Members, failure, recovery".
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum, StrEnum

from msgspec import Struct

from ringkeep_node.machines.swim.suspicion import Suspicion

Address = tuple[str, int]

TESTIMONY_MAX = 8
DEATHS_MAX = 16


class MemberState(IntEnum):
    """What we believe about a member; at equal counter and incarnation the greater one stands."""

    ALIVE = 0
    SUSPECT = 1
    DEAD = 2
    LEFT = 3


class Evidence(StrEnum):
    """Why a member was accused or cleared. The first four come from peer connections (``Swim.hint``)."""

    REFUSED = "refused"
    RESET = "reset"
    UNREACHABLE = "unreachable"
    CONNECTED = "connected"
    SILENT = "silent"
    TOLD = "told"
    EXPIRED = "expired"
    JOINED = "joined"
    RESTARTED = "restarted"
    REFUTED = "refuted"
    REGISTERED = "registered"
    LEAVING = "leaving"


HARD = frozenset({Evidence.REFUSED, Evidence.RESET, Evidence.UNREACHABLE})


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberIdentity:
    """Who a member is. ``storage`` is the key; ``address`` is where it hears gossip."""

    storage: str
    name: str
    boot: str
    counter: int
    address: Address
    incarnation: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class RegisteredMember:
    """What the committed shard map says about a member. ``address`` is where it hears gossip."""

    storage: str
    name: str
    boot: str
    counter: int
    address: Address
    left: bool = False


class Testimony(Struct, frozen=True):
    """Who said what about a member, and when (our monotonic seconds)."""

    by: str
    at: float
    why: Evidence

    def __str__(self) -> str:
        return f"{self.by} {self.why.value} at {self.at:.3f}"


class MemberView(Struct, frozen=True, kw_only=True):
    """One member as this node sees it now."""

    storage: str
    name: str
    boot: str
    counter: int
    incarnation: int
    address: Address
    state: MemberState
    since: float
    """When it took this state in this boot."""
    heard_at: float | None
    """When it last spoke to us itself."""
    lag_s: float
    """Its own loop lag, as it says."""
    evidence: tuple[Testimony, ...]
    """The last testimonies, oldest first."""
    accusers: tuple[str, ...]
    """Who accuses it now (storage ids, sorted)."""
    deaths: tuple[float, ...]
    """When we called it dead within the last hour, oldest first: more than one is flapping."""


class MemberChanged(Struct, frozen=True, kw_only=True):
    """A member took another state, or the same one in another boot or at another address.

    ``before`` is None for a member that was unknown. ``evidence`` are the distinct reasons, ``testimony`` names the
    witnesses.
    """

    storage: str
    name: str
    before: MemberState | None
    after: MemberState
    evidence: tuple[Evidence, ...]
    testimony: tuple[Testimony, ...] = ()


class Member:
    """The mutable record behind a ``MemberView``. Only the machine changes it."""

    __slots__ = (
        "address",
        "boot",
        "case",
        "connected_at",
        "counter",
        "deaths",
        "heard_at",
        "incarnation",
        "lag_s",
        "mismatch_at",
        "name",
        "nudged_at",
        "since",
        "state",
        "storage",
        "suspicion",
        "synced_at",
        "testimony",
    )

    def __init__(self, identity: MemberIdentity, *, state: MemberState, now: float) -> None:
        self.storage = identity.storage
        self.name = identity.name
        self.boot = identity.boot
        self.counter = identity.counter
        self.incarnation = identity.incarnation
        self.address = identity.address
        self.state = state
        self.since = now
        self.lag_s = 0.0
        self.heard_at: float | None = None
        self.connected_at: float | None = None
        self.mismatch_at: float | None = None
        self.synced_at: float | None = None
        self.nudged_at: float | None = None
        self.deaths: list[float] = []
        self.testimony: list[Testimony] = []
        self.case: list[Testimony] = []
        self.suspicion: Suspicion | None = None

    def witness(self, testimony: Testimony) -> None:
        """Remember why; a bounded number of the latest, those of the present accusation on their own too."""
        self.testimony = [*self.testimony[1 - TESTIMONY_MAX :], testimony]
        self.case = [*self.case[1 - TESTIMONY_MAX :], testimony]

    def close_case(self) -> tuple[Testimony, ...]:
        """Return what was said for the present state. Unless it is doubtful, the accusation ends with the last word."""
        if self.state in (MemberState.SUSPECT, MemberState.DEAD):
            return tuple(self.case)
        said, self.case = tuple(self.case[-1:]), []
        return said

    def died(self, now: float, *, remember_s: float) -> None:
        """Remember a death, to show flapping; a bounded number within ``remember_s``."""
        self.deaths = [at for at in self.deaths[1 - DEATHS_MAX :] if now < at + remember_s] + [now]

    def heard_within(self, seconds: float, now: float) -> bool:
        """Return whether the member spoke to us itself in the last ``seconds``."""
        return self.heard_at is not None and now < self.heard_at + seconds

    def view(self, now: float, *, remember_s: float) -> MemberView:
        """Return an immutable picture of the record."""
        return MemberView(
            storage=self.storage,
            name=self.name,
            boot=self.boot,
            counter=self.counter,
            incarnation=self.incarnation,
            address=self.address,
            state=self.state,
            since=self.since,
            heard_at=self.heard_at,
            lag_s=self.lag_s,
            evidence=tuple(self.testimony),
            accusers=() if self.suspicion is None else tuple(sorted(self.suspicion.accusers)),
            deaths=tuple(at for at in self.deaths if now < at + remember_s),
        )
