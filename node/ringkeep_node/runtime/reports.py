"""What a node tells of itself and its cluster, and what the service and the HTTP edge may ask of it.

``Driving`` is the whole interface between the edge and the asyncio driver: the driver has it, and so has the fake one of
the tests. Reports are values; nothing here waits, decides or holds state.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from msgspec import Struct

from ringkeep_core.mapchanges import MapChange
from ringkeep_core.plans import NodeFacts
from ringkeep_core.shardmap import ShardMap
from ringkeep_core.summary import Seen
from ringkeep_node.machines.messages import ProposeOutcome
from ringkeep_node.machines.shard.effects import ReadRequest, Result, WriteRequest
from ringkeep_node.metrics import NodeNumbers
from ringkeep_node.runtime.founding import BootstrapRequest


class Identity(Protocol):
    """Who a node is in this boot. ``peer`` is host:port of its peer links and gossip, ``url`` its REST base."""

    @property
    def name(self) -> str: ...
    @property
    def storage(self) -> str: ...
    @property
    def boot(self) -> str: ...
    @property
    def counter(self) -> int: ...
    @property
    def url(self) -> str: ...
    @property
    def peer(self) -> str: ...
    @property
    def zone(self) -> str: ...


class Accusation(Struct, frozen=True):
    """One piece of evidence for a member's state: which node said what, when (unix seconds)."""

    by: str
    at: float
    why: str


class MemberReport(Struct, frozen=True, kw_only=True):
    """A member as this node sees it. ``state`` is joining, alive, suspect, dead or left; ``since`` in unix seconds."""

    name: str
    state: str
    storage_id: str
    boot_id: str
    url: str
    peer: str
    draining: bool = False
    zone: str = ""
    weight: float = 1.0
    copies: int = 0
    primaries: int = 0
    since: float = 0.0
    evidence: tuple[Accusation, ...] = ()


class LeaderReport(Struct, frozen=True):
    """The Raft leader, as this node knows it."""

    name: str
    url: str
    term: int


class RunningPlan(Struct, frozen=True, kw_only=True):
    """How far the plan has come that this node, as leader, carries out. Counts since it began; ``since`` in unix seconds.

    ``received_bytes`` grows while copies are being sent, about every 10 s: all that members received, each since its
    start. ``waiting`` says in sentences what the plan waits for.
    """

    reason: str
    since: float
    copies: int
    copies_done: int
    primaries: int
    received_bytes: int = 0
    waiting: tuple[str, ...] = ()


class Event(Struct, frozen=True):
    """Something that happened to the map or to a member. ``number`` counts from 1, ``at`` is in unix seconds."""

    number: int
    at: float
    kind: str
    text: str
    fields: dict[str, str | int | float] = {}


class Driving(Protocol):
    """The node behind the service: what ``runtime.driver.Driver`` offers to the edge."""

    @property
    def identity(self) -> Identity:
        """Who this node is."""

    @property
    def cluster_id(self) -> str:
        """The cluster's id, "" while this node belongs to none."""

    @property
    def shard_map(self) -> ShardMap | None:
        """The held map: an immutable value that is replaced, never changed."""

    async def submit(self, shard: int, request: WriteRequest | ReadRequest, *, timeout_s: float, size: int) -> Result:
        """Bring a request to its primary and return the answer. Cancelling the caller does not cancel a write."""

    async def propose(self, change: MapChange, *, timeout_s: float) -> ProposeOutcome:
        """Have the leader apply a change of the map. Raises a ``RingkeepError`` when the time is up."""

    async def bootstrap(self, request: BootstrapRequest) -> str:
        """Found a cluster and return its id. Raises ``Conflict`` or ``BadRequest``."""

    async def wait_newer_than(self, version: int, *, timeout_s: float) -> None:
        """Return when the held map is newer than ``version``, or the time is up."""

    def members(self) -> tuple[MemberReport, ...]:
        """Return every member; a node in no cluster reports itself alone, as joining."""

    def leader(self) -> LeaderReport | None:
        """Return the leader, or None while none is known."""

    def facts(self) -> Mapping[str, NodeFacts]:
        """Return what this node knows of each registered member, by name, as the planner asks it."""

    def shard_bytes(self) -> Sequence[int] | None:
        """Return about how many bytes each shard has, or None while that is not known."""

    def voters(self) -> tuple[str, ...]:
        """Return the storage ids of the Raft voters, as far as this node knows them."""

    def opinion(self) -> tuple[int, str]:
        """Return the newest revision of the wanted state that this node saw being accepted, and how its target compared."""

    def running_plan(self) -> RunningPlan | None:
        """Return how far the present plan is, if this node leads and there is one."""

    async def transfer_leader(self, to: str, *, timeout_s: float) -> LeaderReport:
        """Have leadership handed to the voter ``to`` ("": to whom the leader likes) and return who leads then.

        Raises ``NoPrimary`` if nobody leads, or nobody else does when the time is up.
        """

    def events(self, after: int) -> tuple[Event, ...]:
        """Return the remembered events with a greater number than ``after``, oldest first."""

    def look(self) -> Seen:
        """Return everything that this node knows of its cluster now: what a summary is made from."""

    def is_ready(self) -> str | None:
        """Return None if clients should be sent here, else the reason why not, in a sentence."""

    def is_current(self) -> bool:
        """Return whether the held map is at least as new as this start of the node; before that it may be any old one."""

    def is_live(self) -> str | None:
        """Return None if this process works, else the reason why it should be restarted."""

    def numbers(self) -> NodeNumbers:
        """Return the counters and gauges of this moment."""
