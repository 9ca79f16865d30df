"""How a cluster goes on when the majority of its voters is lost for ever: a new generation from what one voter knows.

    log of a stopped voter --succession--> records of a group of one, at the floor of the next generation
                                           first entry: ``NewGeneration``, committed by that one voter when it starts

Every entry of the voter's log counts, as it would if this voter had been elected: nobody knows which of the last ones
were committed, and one that was must not be dropped. What the lost majority committed beyond them is lost.

The result is safe against whoever of the old group comes back, because no number of the new group can be one of the old:
indexes, terms, epochs and revisions begin above everything that the earlier generation can have reached, and Raft
messages of another generation are not heard.

Source: replication.md, "Majority lost for ever"; counterexamples.md L8.
"""

from __future__ import annotations

from collections.abc import Collection

from msgspec import Struct

from ringkeep_core.errors import StartRefused
from ringkeep_core.mapchanges import NewGeneration, encode_change
from ringkeep_core.shardmap import ShardMap, encode_map, floor_of
from ringkeep_node.machines.control import encode_snapshot, recovered_raft
from ringkeep_node.machines.held_map import HeldMap, recovered_map
from ringkeep_node.machines.raft.log import RaftLog
from ringkeep_node.machines.raft.membership import majority
from ringkeep_node.machines.raft.messages import CONFIGURATION, NORMAL, Configuration, Snapshot, decode_configuration
from ringkeep_node.machines.records import NO_SHARD, Kind, Record
from ringkeep_node.machines.recovery import RecoveredLog


class Succession(Struct, frozen=True):
    """What begins the next generation: ``records`` in one batch, and what people are told of it.

    ``former`` is the version it goes on from, ``others`` (name, peer address) of every other member in it. ``absent`` are
    the shards of which this node holds no complete copy: they serve again when somebody who does comes back.
    """

    generation: int
    former: int
    voters: tuple[str, ...]
    others: tuple[tuple[str, str], ...]
    shards: int
    absent: tuple[int, ...]
    records: tuple[Record, ...]


def succession(recovered: RecoveredLog, *, me: str, present: Collection[str] = ()) -> Succession:
    """Return how the voter ``me`` begins the next generation alone.

    ``present`` are storage ids of which the caller knows that they could be started. Raises ``StartRefused`` with one
    sentence: this node is no voter, or nothing is lost because ``me`` and the present voters are a majority.
    """
    if recovered.raft_harmed:
        raise StartRefused("durable Raft records of this node are damaged: recover from another voter")
    shard_map, voters = _last_known(recovered)
    if shard_map is None or me not in voters:
        raise StartRefused("this node is not a voter of its cluster: only a voter's map may begin a generation")
    member = shard_map.members.get(me)
    if member is None:
        raise StartRefused("this node is not registered in its own map: recover from another voter")
    reachable = [voter for voter in voters if voter == me or voter in present]
    if len(reachable) >= majority(voters):
        raise StartRefused(
            f"{len(reachable)} of {len(voters)} voters are there: they are a majority, so start them and nothing is lost"
        )
    generation = shard_map.generation + 1
    return Succession(
        generation,
        shard_map.version,
        voters,
        tuple((other.name, other.peer) for other in shard_map.members.values() if other.storage != me),
        len(shard_map.shards),
        tuple(number for number, shard in enumerate(shard_map.shards) if not shard.is_complete(me)),
        _records(shard_map, generation, me, member.name),
    )


def _records(shard_map: ShardMap, generation: int, me: str, name: str) -> tuple[Record, ...]:
    """Return the log of the new group: everything that was known at the floor, then the entry that begins it."""
    floor = floor_of(generation)
    term = index = floor + 1
    snapshot = Snapshot(floor, floor, Configuration((me,)), encode_map(shard_map))
    reason = f"the majority of the voters is lost; {name} goes on from version {shard_map.version}"
    first = NewGeneration(generation, name, me, shard_map.version, reason)
    return (
        Record(Kind.RAFT_STATE, NO_SHARD, 0, term, 0),
        Record(Kind.RAFT_RESET, NO_SHARD, 0, snapshot.term, snapshot.index, encode_snapshot(snapshot)),
        Record(Kind.RAFT_ENTRY, NO_SHARD, 0, term, index, bytes((NORMAL,)) + encode_change(first)),
    )


def _last_known(recovered: RecoveredLog) -> tuple[ShardMap | None, tuple[str, ...]]:
    """Return the newest map and the newest voters in the log of a stopped node."""
    start, held = recovered_raft(recovered.term, recovered.vote, recovered.raft_snapshot, recovered.raft_entries)
    members = start.snapshot.configuration.members() if start.snapshot is not None else ()
    for entry in start.entries:
        if entry.kind == NORMAL:
            held.committed(entry.index, entry.payload, voters=members)
        elif entry.kind == CONFIGURATION:
            members = decode_configuration(entry.payload).members()
    pulled: HeldMap = recovered_map(recovered.map_snapshot, recovered.map_through, recovered.map_entries)
    newest = pulled if pulled.through > held.through else held
    return newest.map, RaftLog(start).configuration.voters
