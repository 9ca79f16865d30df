"""A generation begins from one voter: what its log says, what it may not begin from, and how the old group ends."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from msgspec.structs import replace

from ringkeep_core.errors import StartRefused
from ringkeep_core.mapchanges import (
    Applied,
    NewGeneration,
    Refusal,
    ShardChanges,
    Shrink,
    Touch,
    apply,
    decode_change,
    encode_change,
)
from ringkeep_core.shardmap import GENERATION_STEP, ShardMap, encode_map, floor_of, generation_at, position_of
from ringkeep_node.machines.control import encode_snapshot, first_snapshot, recovered_raft
from ringkeep_node.machines.generation import succession
from ringkeep_node.machines.held_map import HeldMap, recovered_map
from ringkeep_node.machines.messages import IndexAnswer, IndexAsk, MapEntries, MapPull, MapWhole, ProposeOutcome
from ringkeep_node.machines.raft.log import RaftLog
from ringkeep_node.machines.raft.messages import CONFIGURATION, NORMAL, Configuration, encode_configuration
from ringkeep_node.machines.records import NO_SHARD, Kind, Record
from ringkeep_node.machines.recovery import LogState, RecoveredLog
from ringkeep_testing.control_group import ControlGroup, map_of, storage_of, touch

ME, OTHER, THIRD, FOURTH = (storage_of(number) for number in (1, 2, 3, 4))
SECOND = floor_of(2)


def log_of(records: Sequence[Record]) -> RecoveredLog:
    state = LogState({})
    for record in records:
        state.take(record, 1, 0)
    return state.recovered()


def entry(index: int, change: ShardChanges | None = None, *, voters: tuple[str, ...] = ()) -> Record:
    """Return an entry of Raft: a change of the map, or a configuration."""
    if change is None:
        payload = bytes((CONFIGURATION,)) + encode_configuration(Configuration(voters))
    else:
        payload = bytes((NORMAL,)) + encode_change(change)
    return Record(Kind.RAFT_ENTRY, NO_SHARD, 0, 2, index, payload)


def voter_log(*entries: Record, nodes: int = 3, voters: tuple[str, ...] = (ME, OTHER, THIRD)) -> list[Record]:
    snapshot = first_snapshot(map_of(nodes), voters)
    return [
        Record(Kind.RAFT_RESET, NO_SHARD, 0, 1, snapshot.index, encode_snapshot(snapshot)),
        Record(Kind.RAFT_STATE, NO_SHARD, 0, 2, 0, OTHER.encode()),
        *entries,
    ]


def begun_map(records: Sequence[Record]) -> tuple[ShardMap, Configuration]:
    """Return what a start on this log makes of it, once its one voter has committed what stands in it."""
    recovered = log_of(records)
    start, held = recovered_raft(recovered.term, recovered.vote, recovered.raft_snapshot, recovered.raft_entries)
    for one in start.entries:
        held.committed(one.index, one.payload)
    assert held.map is not None
    return held.map, RaftLog(start).configuration


# --- numbers -----------------------------------------------------------------------------------------------------


def test_every_number_of_a_generation_is_above_every_number_of_an_earlier_one() -> None:
    first = GENERATION_STEP + 1

    assert (floor_of(1), floor_of(2), floor_of(3)) == (0, GENERATION_STEP, 2 * GENERATION_STEP)
    assert [generation_at(position) for position in (0, 1, GENERATION_STEP - 1, GENERATION_STEP)] == [1, 1, 1, 2]
    assert [position_of(version) for version in (0, first, 2 * first - 1)] == [0, 1, GENERATION_STEP + 1]


# --- the entry ---------------------------------------------------------------------------------------------------


def test_a_generation_begins_with_who_holds_what_and_with_epochs_and_revisions_nobody_can_have_had() -> None:
    before = map_of(3)
    change = NewGeneration(2, "n1", ME, before.version, "lost")

    done = apply(before, 2 * GENERATION_STEP + 1, change)

    shards = tuple(replace(it, epoch=SECOND + 1, revision=SECOND + 1) for it in before.shards)
    assert done == Applied(
        ShardMap(before.cluster_id, 2 * GENERATION_STEP + 1, before.members, before.wanted, shards), (None,)
    )
    assert decode_change(encode_change(change)) == change


@pytest.mark.parametrize(
    ("generation", "version"),
    [(2, GENERATION_STEP + 7), (2, 2 * GENERATION_STEP + 2), (3, 3 * GENERATION_STEP + 1), (1, GENERATION_STEP + 7)],
)
def test_nothing_but_the_first_entry_of_the_next_generation_begins_it(generation: int, version: int) -> None:
    before = map_of(3)

    done = apply(before, version, NewGeneration(generation, "n1", ME, before.version, "proposed by somebody"))

    refusal = Refusal("not_first", f"only the first entry of a log can begin generation {generation}")
    assert done == Applied(before, (refusal,))


# --- from a voter's log ------------------------------------------------------------------------------------------


def test_a_generation_begins_with_one_voter_and_with_every_entry_that_it_has_committed_or_not() -> None:
    first = map_of(3).shards[0]
    follower = next(it.storage for it in first.in_sync if it.storage not in (ME, first.primary.storage))
    shrink = ShardChanges((Shrink(0, 1, (follower,)), Touch(1, 1)), "dead")
    records = voter_log(entry(2, shrink), entry(3, ShardChanges((Touch(1, 2),), "test")))

    begun = succession(log_of(records), me=ME)
    started, configuration = begun_map([*records, *begun.records])

    assert (begun.generation, begun.former, begun.voters, begun.shards, begun.absent) == (
        2,
        GENERATION_STEP + 3,
        (ME, OTHER, THIRD),
        16,
        (),
    )
    assert begun.others == (("n2", "n2:7400"), ("n3", "n3:7400"))
    assert (started.version, configuration) == (2 * GENERATION_STEP + 1, Configuration((ME,)))
    assert len(started.shards[0].in_sync) == 2 and len(started.shards[1].in_sync) == 3
    assert {(shard.epoch, shard.revision) for shard in started.shards} == {(SECOND + 1, SECOND + 1)}


def test_a_second_recovery_begins_the_generation_after_the_first() -> None:
    records = voter_log()
    records += succession(log_of(records), me=ME).records
    again = [
        *records,
        Record(Kind.RAFT_ENTRY, NO_SHARD, 0, SECOND + 2, SECOND + 2, entry(2, voters=(ME, OTHER)).payload),
    ]

    begun = succession(log_of(again), me=ME)
    started, _ = begun_map([*again, *begun.records])

    assert (begun.generation, begun.former, begun.voters) == (3, 2 * GENERATION_STEP + 1, (ME, OTHER))
    assert started.version == 3 * GENERATION_STEP + 1


def test_a_shard_without_a_complete_copy_on_the_voter_is_named_and_stays_listed_with_its_holders() -> None:
    records = voter_log(nodes=5)

    begun = succession(log_of(records), me=ME)
    started, _ = begun_map([*records, *begun.records])

    absent = [number for number, shard in enumerate(map_of(5).shards) if not shard.is_complete(ME)]
    assert absent and list(begun.absent) == absent
    assert [shard.in_sync for shard in started.shards] == [shard.in_sync for shard in map_of(5).shards]


@pytest.mark.parametrize(
    ("records", "me", "present", "sentence"),
    [
        (voter_log(nodes=4), FOURTH, (), "is not a voter"),
        ([], ME, (), "is not a voter"),
        (voter_log(entry(2, voters=(OTHER, THIRD))), ME, (), "is not a voter"),
        (voter_log(), ME, (OTHER,), "2 of 3 voters are there"),
        (voter_log(voters=(ME,)), ME, (), "1 of 1 voters are there"),
    ],
    ids=["no voter", "no log", "no voter any more", "majority there", "the only voter"],
)
def test_a_generation_is_not_begun_where_nothing_is_lost_or_by_who_does_not_vote(
    records: list[Record], me: str, present: tuple[str, ...], sentence: str
) -> None:
    with pytest.raises(StartRefused, match=sentence):
        succession(log_of(records), me=me, present=present)


def test_a_voter_whose_raft_records_are_damaged_is_not_recovered_from() -> None:
    with pytest.raises(StartRefused, match="damaged"):
        succession(replace(log_of(voter_log()), raft_harmed=True), me=ME)


def test_what_the_survivor_knew_of_the_last_generation_is_told_to_nobody_who_may_know_more() -> None:
    records = voter_log()
    recovered = log_of([*records, *succession(log_of(records), me=ME).records])
    start, held = recovered_raft(recovered.term, recovered.vote, recovered.raft_snapshot, recovered.raft_entries)

    before = held.answer(500)
    (first,) = start.entries
    held.committed(first.index, first.payload)

    assert before is None
    assert held.map is not None and held.answer(500) == MapWhole(encode_map(held.map), SECOND + 1)


# --- the old group -----------------------------------------------------------------------------------------------


def whole_of(begun: ShardMap, entries: int = 1) -> MapWhole:
    return MapWhole(encode_map(begun), SECOND + entries)


def second_map() -> ShardMap:
    first = map_of(3)
    return apply(first, 2 * GENERATION_STEP + 1, NewGeneration(2, "n3", THIRD, first.version, "lost")).map


def test_a_voter_of_the_old_group_that_hears_the_new_map_is_in_no_group_any_more_and_stays_so() -> None:
    group = ControlGroup(3)
    leader = group.leader()
    site = group.others_than(leader)[0]
    group.offline = {leader.storage, *(other.storage for other in group.others_than(site))}
    log = [*voter_log()[:1], *site.log]
    before = len(site.log)

    site.control.node_message(THIRD, whole_of(second_map()), site.number, now=group.now)
    group.run(5.0)
    kinds = [record.kind for record in site.log[before:]]
    recovered = log_of([*log, *site.log[before:]])
    pulled = recovered_map(recovered.map_snapshot, recovered.map_through, recovered.map_entries)

    assert (site.map, site.control.generation, site.control.votes) == (second_map(), 2, False)
    assert kinds == [Kind.RAFT_RESET, Kind.MAP_SNAPSHOT]
    assert (recovered.raft_snapshot, recovered.raft_entries, recovered.raft_harmed) == (None, [], False)
    assert pulled.map == second_map()


def test_a_group_that_goes_on_among_itself_ends_when_a_later_generation_is_heard_of() -> None:
    group = ControlGroup(3)
    leader = group.leader()
    follower = group.others_than(leader)[0]

    leader.control.heard_of_newer(THIRD, SECOND + 1, now=group.now)
    asked = [message for to, message in leader.control.sends if to == THIRD and isinstance(message, MapPull)]
    leader.control.node_message(follower.storage, whole_of(second_map()), leader.number, now=group.now)
    group.run(0.5)

    assert asked == [MapPull(0)]
    assert (leader.map, leader.control.leads, leader.control.has_raft) == (second_map(), False, False)


def test_entries_of_a_later_generation_are_not_taken_on_top_of_the_old_groups_log() -> None:
    group = ControlGroup(3)
    site = group.others_than(group.leader())[0]
    control = site.control
    group.offline = {other.storage for other in group.others_than(site)}
    group.run(5.0)
    before, through = site.map, control.held.through
    change = NewGeneration(2, "n3", THIRD, map_of(3).version, "lost")
    control.node_message(
        THIRD, MapEntries(through, ((SECOND + 1, encode_change(change)),), SECOND + 1), site.number, now=group.now
    )
    group.run(0.5)

    assert (control.has_raft, site.map, control.generation) == (False, before, 1)


def test_who_asks_from_an_earlier_generation_gets_the_whole_map() -> None:
    held = HeldMap(map_of(3), 5)
    held.committed(6, encode_change(touch(0, 1)))
    held.committed(SECOND + 1, encode_change(NewGeneration(2, "n3", THIRD, GENERATION_STEP + 6, "lost")))
    assert held.map is not None

    assert held.answer(6) == MapWhole(encode_map(held.map), SECOND + 1)


def test_what_a_group_that_has_ended_confirms_or_reports_means_nothing() -> None:
    group = ControlGroup(3, 1)
    group.leader()
    site = group.sites[FOURTH]
    control = site.control
    control.node_message(THIRD, whole_of(second_map()), site.number, now=group.now)
    group.exchange()

    control.ask_index(7, deadline=group.now + 1.0, now=group.now)
    (asked,) = [message for _, message in control.sends if isinstance(message, IndexAsk)]
    control.node_message(OTHER, IndexAnswer(asked.token, 5), site.number, now=group.now)
    unconfirmed = list(control.indexes)
    control.node_message(OTHER, IndexAnswer(asked.token, SECOND + 1), site.number, now=group.now)
    number = control.propose_tracked(touch(0, 1), deadline=group.now + 5.0, now=group.now)
    control.node_message(OTHER, ProposeOutcome(number, GENERATION_STEP + 9, "", ""), site.number, now=group.now)
    untold = list(control.outcomes)
    told = ProposeOutcome(number, 2 * GENERATION_STEP + 2, "", "")
    control.node_message(OTHER, told, site.number, now=group.now)

    assert (unconfirmed, control.indexes) == ([], [(7, SECOND + 1)])
    assert (untold, control.outcomes) == ([], [(number, told)])
