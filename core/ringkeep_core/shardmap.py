"""The shard map: the one truth of who holds what. An immutable value.

Everybody routes, replicates, fails over and plans by reading one ``ShardMap``. It changes only by committed Raft entries
(``ringkeep_core.mapchanges``); ``version`` is generation x 2^40 + the index of the last entry that changed it, so one
number orders maps across recoveries and stays exact in JSON (below 2^53).

Whatever only grows within a generation begins the next one at its *floor*, (generation - 1) x 2^40: Raft indexes and
terms, epochs and revisions of shards. No number is thus ever given twice, although nobody knows how far the lost
majority of an earlier generation got. A Raft index is therefore always ``version`` - 2^40: the map's *position*.

Sets of copies hold (storage id, version at which the copy was added), never names: a node that comes back with an empty
disk is nobody's copy.

Source: replication.md, "The shard map"; KIP-903 for identities.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from functools import cached_property

import msgspec
from msgspec import Struct
from xxhash import xxh3_64_intdigest

from ringkeep_core.hashing import shard_of

GENERATION_STEP = 1 << 40


def floor_of(generation: int) -> int:
    """Return what every number of a generation (Raft index, term, epoch, revision) is above, and of no earlier one."""
    return (generation - 1) * GENERATION_STEP


def generation_at(position: int) -> int:
    """Return the generation that a Raft index belongs to; the very floor counts for the generation above it."""
    return position // GENERATION_STEP + 1


def position_of(version: int) -> int:
    """Return the Raft index of the entry that made a map version; 0 for no version at all."""
    return max(0, version - GENERATION_STEP)


class Copy(Struct, frozen=True, array_like=True, gc=False):
    """One copy of a shard: the directory that holds it, and the map version at which it was added."""

    storage: str
    added: int


class Primary(Struct, frozen=True, array_like=True, gc=False):
    """The node, in one boot, that orders the writes of a shard in one epoch."""

    storage: str
    boot: str


class Shard(Struct, frozen=True, array_like=True, gc=False):
    """Who holds one shard.

    ``epoch`` grows with the primary, ``revision`` by one with every committed change of this shard. All of ``in_sync``
    must acknowledge a write and there must be at least ``need`` of them. ``learners`` are all copies that are being
    brought up to date; ``eligible`` are those of them that are known complete while ``in_sync`` is short of ``need``.
    """

    epoch: int
    revision: int
    primary: Primary
    in_sync: tuple[Copy, ...]
    eligible: tuple[Copy, ...]
    learners: tuple[Copy, ...]
    need: int

    def copy_of(self, storage: str) -> Copy | None:
        """Return the copy that ``storage`` holds in any set, or None."""
        for copy in (*self.in_sync, *self.learners, *self.eligible):
            if copy.storage == storage:
                return copy
        return None

    def is_in_sync(self, storage: str) -> bool:
        """Return whether ``storage`` must acknowledge every write."""
        return any(copy.storage == storage for copy in self.in_sync)

    def is_complete(self, storage: str) -> bool:
        """Return whether ``storage`` holds everything that was ever acknowledged."""
        return any(copy.storage == storage for copy in (*self.in_sync, *self.eligible))


class MemberState(StrEnum):
    """What the map says of a member; whether it is alive is the failure detector's business, not the map's."""

    JOINING = "joining"
    MEMBER = "member"


class Member(Struct, frozen=True, array_like=True):
    """A registered node: its directory, its present boot and where to reach it.

    ``url`` is the base of its REST interface, ``peer`` host:port of its peer links and gossip. ``since`` is the map
    version of the boot entry.
    """

    storage: str
    name: str
    boot: str
    boot_counter: int
    url: str
    peer: str
    zone: str
    since: int
    state: MemberState = MemberState.MEMBER


class WantedMember(Struct, frozen=True):
    """What people or the operator want of one member."""

    weight: float = 1.0
    zone: str = ""
    draining: bool = False


class Settings(Struct, frozen=True):
    """Cluster-wide settings; part of the wanted state.

    ``grace_s`` is how long a dead member keeps its copies. A plan sends and receives ``streams_per_node`` snapshots at a
    time at each node, ``streams_max`` in the cluster, and a node sends at most ``bytes_per_s`` of them (0: no limit).
    With ``hot_spot_swaps`` heavy shards are swapped for light ones, at most ``swaps_per_hour`` times an hour.
    """

    replication_factor: int = 3
    min_in_sync: int = 2
    grace_s: float = 300.0
    streams_per_node: int = 1
    streams_max: int = 16
    bytes_per_s: int = 0
    hot_spot_swaps: bool = False
    swaps_per_hour: int = 12


class Wanted(Struct, frozen=True):
    """The wanted state: changed by compare-and-set on ``revision``; the leader turns it into plans.

    ``target_digest`` is what its author expects the target to be, made from the map at ``target_version``; empty if it has
    no opinion. It binds nobody: a difference is reported, and the leader's target counts.
    """

    revision: int
    members: dict[str, WantedMember]
    settings: Settings
    target_digest: str = ""
    target_version: int = 0


class ShardMap(Struct, frozen=True, dict=True):
    """The whole map. ``members`` is keyed by storage id; ``left`` are storage ids that are never accepted again."""

    cluster_id: str
    version: int
    members: dict[str, Member]
    wanted: Wanted
    shards: tuple[Shard, ...]
    left: tuple[str, ...] = ()

    @property
    def generation(self) -> int:
        """Count of recoveries from a lost majority, from 1."""
        return self.version // GENERATION_STEP

    @property
    def index(self) -> int:
        """Count of entries within the generation up to the last one that changed this map: for people."""
        return self.version % GENERATION_STEP

    @property
    def position(self) -> int:
        """Raft index of the last entry that changed this map; it runs on over generations."""
        return position_of(self.version)

    @cached_property
    def by_name(self) -> Mapping[str, Member]:
        """Members by name."""
        return {member.name: member for member in self.members.values()}

    def shard_of(self, user: str) -> int:
        """Return the shard of a user."""
        return shard_of(user, len(self.shards))

    def primary_of(self, user: str) -> Primary:
        """Return who orders the writes of a user."""
        # ``shard_of`` written out: this is the hottest look-up there is, and the call alone is a third of it.
        shards = self.shards
        return shards[xxh3_64_intdigest(user.encode()) * len(shards) >> 64].primary

    def is_registered(self, storage: str, boot: str) -> bool:
        """Return whether this is the registered boot of a member: what other boots say about shards is refused."""
        member = self.members.get(storage)
        return member is not None and member.boot == boot

    def weighted_members(self) -> int:
        """Return how many registered members may hold copies: wanted, of some weight, not draining."""
        members = self.wanted.members
        return sum(
            1
            for member in self.members.values()
            if (want := members.get(member.name)) is not None and want.weight > 0 and not want.draining
        )

    def need_wanted(self) -> int:
        """Return the need a full-strength shard has: min(minInSync, replicationFactor, members with weight)."""
        settings = self.wanted.settings
        return max(1, min(settings.min_in_sync, settings.replication_factor, self.weighted_members()))

    def copies_wanted(self) -> int:
        """Return how many copies a shard should have: the replication factor, or all members that may hold one."""
        return max(1, min(self.wanted.settings.replication_factor, self.weighted_members()))


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(ShardMap)


def encode_map(shard_map: ShardMap) -> bytes:
    """Return the map as bytes: equal maps give equal bytes."""
    return _encoder.encode(shard_map)


def decode_map(data: bytes) -> ShardMap:
    """Return the map that ``encode_map`` wrote. Raises ``msgspec.DecodeError`` otherwise."""
    return _decoder.decode(data)
