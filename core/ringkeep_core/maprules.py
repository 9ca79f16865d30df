"""The state machine of the shard map: one committed change in, the next map and the fate of each part out.

``apply`` is a pure function, so equal index means equal map on every node. It checks every rule against the map as it
is now, whatever the proposer saw; an entry over many shards succeeds or fails shard by shard. The map's ``version``
moves only if something changed, and then to the version of the entry.

Source: replication.md, "The shard map", rules 0 and 8, "Raft group" (bootstrap, leave, majority lost for ever);
counterexamples.md S1, S2, S11, S12, L8.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence

from msgspec import Struct
from msgspec.structs import replace

from ringkeep_core.ids import is_node_name
from ringkeep_core.mapentries import Boot, Leave, MapChange, NewGeneration, SetWanted, ShardChanges
from ringkeep_core.placement import Assignment, Candidate, PlacementSettings, initial
from ringkeep_core.shardmap import (
    GENERATION_STEP,
    Copy,
    Member,
    MemberState,
    Primary,
    Settings,
    Shard,
    ShardMap,
    Wanted,
    WantedMember,
    floor_of,
)
from ringkeep_core.shardrules import Ground, Refusal, changed_shard, departed, is_leaving, led_by, with_need

COPIES_MAX = 7
STREAMS_PER_NODE_MAX = 16
STREAMS_MAX = 1024
BYTES_PER_S_MAX = 1 << 40
SWAPS_PER_HOUR_MAX = 3600
DIGEST_CHARS_MAX = 64


class Applied(Struct, frozen=True):
    """What an entry did. ``map`` is the same object if nothing changed.

    ``outcomes`` has one item for each shard change of the entry, in order, and one for any other entry: None where it
    was applied (or had been before), else why not.
    """

    map: ShardMap
    outcomes: tuple[Refusal | None, ...]


def bootstrap(
    *,
    cluster_id: str,
    members: Sequence[Member],
    shards: int,
    settings: Settings,
    weights: Mapping[str, float] | None = None,
) -> ShardMap:
    """Return the first map: all shards placed over all members with full in_sync, because no writes exist yet.

    ``weights`` are by name, 1.0 where absent; somebody must have one above 0. ``since`` and ``state`` of ``members``
    are set here.
    """
    version = GENERATION_STEP + 1
    weights = weights or {}
    registered = {
        member.storage: replace(member, since=version, state=MemberState.MEMBER)
        for member in sorted(members, key=lambda member: member.name)
    }
    wanted = Wanted(
        revision=1,
        members={
            member.name: WantedMember(weight=weights.get(member.name, 1.0), zone=member.zone)
            for member in registered.values()
        },
        settings=settings,
    )
    empty = ShardMap(cluster_id=cluster_id, version=version, members=registered, wanted=wanted, shards=())
    need = empty.need_wanted()
    storages = {member.name: member.storage for member in registered.values()}
    first = []
    for placed in _first_placement(empty, shards):
        assert placed.primary is not None, "every member is taken as alive, so somebody leads each shard"
        primary = storages[placed.primary]
        in_sync = tuple(Copy(storages[name], version) for name in placed.copies)
        first.append(Shard(1, 1, Primary(primary, registered[primary].boot), in_sync, (), (), need))
    return _with(empty, version, shards=tuple(first))


def _first_placement(empty: ShardMap, shards: int) -> tuple[Assignment, ...]:
    """Place by name, not by storage id: the same cluster on new disks is the same map."""
    settings = empty.wanted.settings
    candidates = [
        Candidate(node=name, zone=want.zone, weight=want.weight) for name, want in empty.wanted.members.items()
    ]
    return initial(
        shards,
        candidates,
        PlacementSettings(replication_factor=settings.replication_factor, min_in_sync=settings.min_in_sync),
    ).shards


def apply(shard_map: ShardMap, version: int, change: MapChange, *, voters: Collection[str] = ()) -> Applied:
    """Return the map after ``change``, committed as ``version`` (generation x 2^40 + index), and what became of it.

    ``voters`` are the storage ids in the Raft configuration as of this entry, learners too: none of them can leave.
    """
    assert version > shard_map.version, "an entry is applied once, in order"
    match change:
        case ShardChanges():
            return _shards_changed(shard_map, version, change)
        case Boot():
            outcome = _booted(shard_map, version, change)
        case SetWanted():
            outcome = _wanted_set(shard_map, version, change)
        case Leave():
            outcome = _left(shard_map, version, change, voters)
        case NewGeneration():
            outcome = _recovered(shard_map, version, change)
    if isinstance(outcome, Refusal):
        return Applied(shard_map, (outcome,))
    return Applied(outcome, (None,))


def reason_of(change: MapChange) -> str:
    """Return in a few words why the change was asked for: for the events that people read."""
    if isinstance(change, Boot):
        return f"{change.name} started"
    return change.reason


def _shards_changed(shard_map: ShardMap, version: int, change: ShardChanges) -> Applied:
    ground = Ground(shard_map.members, shard_map.wanted, shard_map.need_wanted(), shard_map.copies_wanted(), version)
    shards = list(shard_map.shards)
    outcomes: list[Refusal | None] = []
    for part in change.changes:
        if not 0 <= part.shard < len(shards):
            outcomes.append(Refusal("unknown_shard", f"there is no shard {part.shard}"))
            continue
        result = changed_shard(ground, shards[part.shard], part)
        if isinstance(result, Refusal):
            outcomes.append(result)
        else:
            outcomes.append(None)
            shards[part.shard] = result
    if all(outcomes):
        return Applied(shard_map, tuple(outcomes))
    return Applied(_with(shard_map, version, shards=tuple(shards)), tuple(outcomes))


def _with(
    shard_map: ShardMap,
    version: int,
    *,
    members: dict[str, Member] | None = None,
    wanted: Wanted | None = None,
    shards: tuple[Shard, ...] | None = None,
    left: tuple[str, ...] | None = None,
) -> ShardMap:
    return ShardMap(
        cluster_id=shard_map.cluster_id,
        version=version,
        members=shard_map.members if members is None else members,
        wanted=shard_map.wanted if wanted is None else wanted,
        shards=shard_map.shards if shards is None else shards,
        left=shard_map.left if left is None else left,
    )


def _booted(shard_map: ShardMap, version: int, change: Boot) -> ShardMap | Refusal:
    """Rules 0 and 8: who starts is registered, and no epoch outlives the boot it was given to."""
    if change.storage in shard_map.left:
        return Refusal("left", f"storage {change.storage} has left the cluster and is never accepted again")
    known = shard_map.members.get(change.storage)
    if known is not None:
        return _restarted(shard_map, version, change, known)
    former = shard_map.by_name.get(change.name)
    present = former.storage if former is not None else ""
    if change.replaces is not None and change.replaces != present:
        # Perhaps sent by a disk that was emptied since, and long on its way: it would shut the present one out for ever.
        holder = f"storage {present}" if present else "nobody"
        return Refusal("stale_name", f"the name {change.name} belongs to {holder} now")
    if former is not None:
        return _replaced(shard_map, version, change, former)
    listed = change.name in shard_map.wanted.members
    member = _member(change, version, MemberState.MEMBER if listed else MemberState.JOINING)
    return _with(shard_map, version, members={**shard_map.members, change.storage: member})


def _member(change: Boot, version: int, state: MemberState) -> Member:
    return Member(
        storage=change.storage,
        name=change.name,
        boot=change.boot,
        boot_counter=change.counter,
        url=change.url,
        peer=change.peer,
        zone=change.zone,
        since=version,
        state=state,
    )


def _restarted(shard_map: ShardMap, version: int, change: Boot, known: Member) -> ShardMap | Refusal:
    if known.name != change.name:
        return Refusal("renamed", f"storage {change.storage} belongs to {known.name}, not to {change.name}")
    if known.boot == change.boot:
        return shard_map
    if change.counter <= known.boot_counter:
        return Refusal("rolled_back", f"boot counter {change.counter} is not above {known.boot_counter}")
    if change.former and known.boot not in change.former:
        # Its counter has caught up by starting again and again, but it never was in the boot that is registered.
        return Refusal("rolled_back", f"this directory was never in boot {known.boot}, which is the registered one")
    members = {**shard_map.members, change.storage: _member(change, version, known.state)}
    heirs = _Heirs(shard_map, change.live)
    shards = list(shard_map.shards)
    for number, shard in enumerate(shards):
        if shard.primary.storage == change.storage:
            others = [copy.storage for copy in shard.in_sync if copy.storage != change.storage]
            to = heirs.live_one(others) or change.storage
            shards[number] = led_by(shard, Primary(to, members[to].boot))
    return _with(shard_map, version, members=members, shards=tuple(shards))


def _replaced(shard_map: ShardMap, version: int, change: Boot, former: Member) -> ShardMap | Refusal:
    """The name comes back with an empty disk: nobody's copy. Every copy it held starts anew, as a learner."""
    old = former.storage
    for number, shard in enumerate(shard_map.shards):
        if shard.is_complete(old) and all(copy.storage == old for copy in (*shard.in_sync, *shard.eligible)):
            return Refusal("last_copy", f"{former.name}'s former disk has the only complete copy of shard {number}")
    members = {storage: member for storage, member in shard_map.members.items() if storage != old}
    members[change.storage] = _member(change, version, former.state)
    instead = None if is_leaving(shard_map.wanted, change.name) else Copy(change.storage, version)
    heirs = _Heirs(shard_map, change.live)
    shards = list(shard_map.shards)
    for number, shard in enumerate(shards):
        if shard.copy_of(old) is None:
            continue
        leads = None
        if shard.primary.storage == old:
            rest = [copy.storage for copy in shard.in_sync if copy.storage != old]
            to = heirs.best_of(rest or [copy.storage for copy in shard.eligible])
            leads = Primary(to, members[to].boot)
        shards[number] = departed(shard, old, leads=leads, instead=instead)
    return _with(shard_map, version, members=members, shards=tuple(shards), left=(*shard_map.left, old))


class _Heirs:
    """Chooses who takes over the primaries of a node that started again, spreading them evenly."""

    def __init__(self, shard_map: ShardMap, live: Collection[str]) -> None:
        self._live = frozenset(live)
        self._leaving = {
            storage: is_leaving(shard_map.wanted, member.name) for storage, member in shard_map.members.items()
        }
        self._led = dict.fromkeys(shard_map.members, 0)
        for shard in shard_map.shards:
            self._led[shard.primary.storage] += 1

    def live_one(self, storages: Sequence[str]) -> str | None:
        """Return the best of those that live, or None."""
        living = [storage for storage in storages if storage in self._live]
        return self.best_of(living) if living else None

    def best_of(self, storages: Sequence[str]) -> str:
        """Return the best: living before dead, staying before leaving, then who leads least."""
        best = min(storages, key=lambda it: (it not in self._live, self._leaving[it], self._led[it], it))
        self._led[best] += 1
        return best


def _wanted_set(shard_map: ShardMap, version: int, change: SetWanted) -> ShardMap | Refusal:
    """Replace the wanted state. Need falls at once; where copies are missing it rises with the copy that meets it."""
    wanted = change.wanted
    if wanted == shard_map.wanted:
        return shard_map  # Sent again after an answer that was lost: not to be refused for its own success.
    if wanted.revision != shard_map.wanted.revision + 1:
        return Refusal("stale_wanted", f"the wanted state is at revision {shard_map.wanted.revision}")
    fault = _fault_of(wanted) or _nobody_holds(shard_map, wanted)
    if fault:
        return Refusal("bad_wanted", fault)
    members = {
        storage: replace(member, state=MemberState.MEMBER)
        if member.state is MemberState.JOINING and member.name in wanted.members
        else member
        for storage, member in shard_map.members.items()
    }
    return _with_need_settled(_with(shard_map, version, members=members, wanted=wanted))


def _nobody_holds(shard_map: ShardMap, wanted: Wanted) -> str:
    """Return why a wanted state would leave the data with nobody, or nothing.

    Whoever asked saw an older map, perhaps: a member that was to stay may have left since. Who lives is not in the map, so
    whatever hangs on that is judged when it is asked for, and again by each step of the plan.
    """
    wants = [wanted.members.get(member.name) for member in shard_map.members.values()]
    if any(want is not None and want.weight > 0 and not want.draining for want in wants):
        return ""
    return "nobody would hold the data: no registered member has weight and is not draining"


def _fault_of(wanted: Wanted) -> str:
    """Return what is wrong with a wanted state, or nothing."""
    settings = wanted.settings
    if not 1 <= settings.replication_factor <= COPIES_MAX:
        return f"replication_factor is 1..{COPIES_MAX}, not {settings.replication_factor}"
    if not 1 <= settings.min_in_sync <= COPIES_MAX:
        return f"min_in_sync is 1..{COPIES_MAX}, not {settings.min_in_sync}"
    if not 0 <= settings.grace_s < math.inf:
        return f"grace_s is a number of seconds, not {settings.grace_s}"
    fault = _fault_of_limits(settings)
    if fault:
        return fault
    if len(wanted.target_digest) > DIGEST_CHARS_MAX or wanted.target_version < 0:
        return "target_digest and target_version are not what a planner writes"
    for name, want in wanted.members.items():
        if not is_node_name(name):
            return f"{name!r} is not a node name"
        if not 0 <= want.weight < math.inf:
            return f"the weight of {name} is a finite number from 0, not {want.weight}"
    if not any(want.weight > 0 and not want.draining for want in wanted.members.values()):
        return "nobody would hold the data: no member has weight and is not draining"
    return ""


def _fault_of_limits(settings: Settings) -> str:
    """Return what is wrong with the limits of plans, or nothing."""
    if not 1 <= settings.streams_per_node <= STREAMS_PER_NODE_MAX:
        return f"streams_per_node is 1..{STREAMS_PER_NODE_MAX}, not {settings.streams_per_node}"
    if not 1 <= settings.streams_max <= STREAMS_MAX:
        return f"streams_max is 1..{STREAMS_MAX}, not {settings.streams_max}"
    if not 0 <= settings.bytes_per_s <= BYTES_PER_S_MAX:
        return f"bytes_per_s is 0 (no limit) or a number of bytes, not {settings.bytes_per_s}"
    if not 0 <= settings.swaps_per_hour <= SWAPS_PER_HOUR_MAX:
        return f"swaps_per_hour is 0..{SWAPS_PER_HOUR_MAX}, not {settings.swaps_per_hour}"
    return ""


def _with_need_settled(shard_map: ShardMap) -> ShardMap:
    """Lower the need of every shard to what is wanted now; raise it only where in_sync already reaches that."""
    need = shard_map.need_wanted()
    shards = tuple(
        with_need(shard, need) if need < shard.need or shard.need < need <= len(shard.in_sync) else shard
        for shard in shard_map.shards
    )
    return _with(shard_map, shard_map.version, shards=shards)


def _left(shard_map: ShardMap, version: int, change: Leave, voters: Collection[str]) -> ShardMap | Refusal:
    """That this commits is the proof that the member holds nothing: no look at an older map is."""
    if change.storage in shard_map.left:
        return shard_map
    member = shard_map.members.get(change.storage)
    if member is None:
        return Refusal("unknown_member", f"{change.storage} is not registered")
    if not is_leaving(shard_map.wanted, member.name):
        return Refusal("not_draining", f"{member.name} is wanted and not draining")
    held = sum(1 for shard in shard_map.shards if shard.copy_of(change.storage) is not None)
    if held:
        return Refusal("holds_copies", f"{member.name} is in the sets of {held} shards")
    if change.storage in voters:
        return Refusal("is_voter", f"{member.name} is in the Raft configuration")
    members = {storage: other for storage, other in shard_map.members.items() if storage != change.storage}
    left = (*shard_map.left, change.storage)
    after = _with(shard_map, version, members=members, wanted=_wanted_without(shard_map.wanted, member.name), left=left)
    return _with_need_settled(after)


def _recovered(shard_map: ShardMap, version: int, change: NewGeneration) -> ShardMap | Refusal:
    """Begin a generation with everything that one voter knew: who holds what stays as it was, whoever is reachable.

    The lost majority may have gone on: given out epochs and revisions that this map knows nothing of, and used them. So
    both go on above whatever the earlier generation can have reached, or two histories would share the name of an entry,
    and a proposal of the earlier one could match a revision of this one.
    """
    if version != change.generation * GENERATION_STEP + 1 or change.generation != shard_map.generation + 1:
        return Refusal("not_first", f"only the first entry of a log can begin generation {change.generation}")
    first = floor_of(change.generation) + 1
    return _with(
        shard_map,
        version,
        shards=tuple(replace(shard, epoch=first, revision=first) for shard in shard_map.shards),
    )


def _wanted_without(wanted: Wanted, name: str) -> Wanted:
    """Return the wanted state without a member that has left; its revision moves, so no plan made before holds."""
    if name not in wanted.members:
        return wanted
    members = {other: want for other, want in wanted.members.items() if other != name}
    return Wanted(wanted.revision + 1, members, wanted.settings)
