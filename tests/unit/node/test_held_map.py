"""The held map: it counts when it is on disk, it never goes back, and it brings others up to date."""

from __future__ import annotations

from msgspec.structs import replace

from ringkeep_core.mapchanges import Boot, Leave, ShardChanges, Touch, encode_change
from ringkeep_core.maprules import bootstrap
from ringkeep_core.shardmap import (
    GENERATION_STEP,
    Member,
    Primary,
    Settings,
    ShardMap,
    WantedMember,
    encode_map,
)
from ringkeep_node.machines.held_map import PULLED_ENTRIES_MAX, RECENT_ENTRIES_MAX, HeldMap, recovered_map
from ringkeep_node.machines.messages import MapEntries, MapWhole
from ringkeep_node.machines.records import NO_SHARD, Kind, Record

STORAGES = tuple(f"{number:016x}" for number in (1, 2, 3))


def first_map() -> ShardMap:
    members = [
        Member(storage, f"n{place}", f"{place:016x}", 1, f"http://n{place}", f"n{place}:7400", "", 0)
        for place, storage in enumerate(STORAGES, 1)
    ]
    return bootstrap(cluster_id="c" * 16, members=members, shards=16, settings=Settings())


def boot(counter: int) -> bytes:
    change = Boot("n1", STORAGES[0], f"{counter:016x}", counter, "http://n1", "n1:7400", live=STORAGES[1:])
    return encode_change(change)


def held_through(index: int) -> HeldMap:
    """A member that holds the bootstrap map and boot entries 2..index."""
    held = HeldMap(first_map(), 1, pulled=True)
    for at in range(2, index + 1):
        held.replayed(Record(Kind.MAP_ENTRY, NO_SHARD, 0, 0, at, boot(at)))
    return held


def voted_through(index: int) -> HeldMap:
    """A voter that holds the bootstrap map and boot entries 2..index by Raft."""
    held = HeldMap(first_map(), 1)
    for at in range(2, index + 1):
        assert held.committed(at, boot(at)) is not None
    return held


def test_a_committed_entry_makes_the_next_map_with_the_version_of_its_index() -> None:
    held = held_through(4)

    assert held.map is not None
    assert (held.map.version, held.through) == (GENERATION_STEP + 4, 4)
    assert held.map.members[STORAGES[0]].boot_counter == 4


def test_an_entry_that_changes_nothing_moves_the_index_but_not_the_version() -> None:
    held = held_through(3)

    held.committed(4, boot(3))

    assert held.map is not None
    assert (held.map.version, held.through) == (GENERATION_STEP + 3, 4)


def test_an_entry_is_applied_once_however_often_it_comes() -> None:
    held = held_through(3)
    before = held.map

    assert held.committed(3, boot(9)) is None
    assert held.map is before


def test_a_pulled_entry_counts_only_when_its_records_are_on_disk() -> None:
    held = held_through(1)

    records = held.pulled(MapEntries(1, ((2, boot(2)),), 3), step=7)
    held.synced(6)
    through_before = held.through
    changes = held.synced(7)

    assert records == [Record(Kind.MAP_ENTRY, NO_SHARD, 0, 0, 2, boot(2))]
    assert through_before == 1
    assert (held.through, len(changes)) == (3, 1)


def test_pulled_entries_with_a_gap_before_them_are_refused() -> None:
    held = held_through(1)

    assert held.pulled(MapEntries(5, ((6, boot(6)),), 6), step=1) == []
    assert held.synced(1) == []
    assert held.through == 1


def test_a_pulled_answer_that_brings_nothing_new_writes_nothing() -> None:
    held = held_through(4)

    assert held.pulled(MapEntries(1, ((2, boot(2)),), 3), step=1) == []
    assert held.pulled(MapWhole(encode_map(first_map()), 1), step=2) == []


def test_entries_pulled_twice_while_the_first_are_being_synced_are_written_once() -> None:
    held = held_through(1)
    held.pulled(MapEntries(1, ((2, boot(2)),), 2), step=1)

    second = held.pulled(MapEntries(1, ((2, boot(2)), (3, boot(3))), 3), step=2)
    held.synced(2)

    assert second == [Record(Kind.MAP_ENTRY, NO_SHARD, 0, 0, 3, boot(3))]
    assert held.through == 3


def test_a_node_without_a_map_takes_the_whole_one_but_no_entries() -> None:
    held = HeldMap()
    whole = held_through(5)
    assert whole.map is not None

    entries = held.pulled(MapEntries(0, ((2, boot(2)),), 2), step=1)
    records = held.pulled(MapWhole(encode_map(whole.map), 5), step=2)
    held.synced(2)

    assert entries == []
    assert records == [Record(Kind.MAP_SNAPSHOT, NO_SHARD, 0, 0, 5, encode_map(whole.map))]
    assert (held.map, held.through) == (whole.map, 5)


def test_a_member_that_is_a_little_behind_is_sent_entries_and_ends_with_the_same_map() -> None:
    ahead, behind = held_through(6), held_through(3)

    answer = ahead.answer(3)
    assert isinstance(answer, MapEntries)
    behind.pulled(answer, step=1)
    behind.synced(1)

    assert (behind.map, behind.through) == (ahead.map, ahead.through)


def test_a_member_that_is_level_or_ahead_is_sent_nothing() -> None:
    held = held_through(4)

    assert (held.answer(4), held.answer(9)) == (None, None)


def test_a_member_behind_everything_remembered_is_sent_the_whole_map() -> None:
    held = held_through(RECENT_ENTRIES_MAX + 10)

    answer = held.answer(2)

    assert held.map is not None
    assert answer == MapWhole(encode_map(held.map), held.through)
    assert isinstance(held.answer(held.through - RECENT_ENTRIES_MAX), MapEntries)


def test_a_raft_snapshot_never_takes_the_map_back() -> None:
    held = held_through(5)
    before = held.map

    assert held.installed(encode_map(first_map()), 1) is False
    assert held.map is before


def test_a_restart_finds_the_pulled_map_again() -> None:
    ahead = held_through(4)
    records = [Record(Kind.MAP_ENTRY, NO_SHARD, 0, 0, index, boot(index)) for index in (2, 3, 4)]

    held = recovered_map(encode_map(first_map()), 1, records)

    assert (held.map, held.through) == (ahead.map, 4)


def test_a_restart_after_pulled_entries_holds_the_map_that_they_made() -> None:
    first, ahead = first_map(), held_through(4)
    entries = [Record(Kind.MAP_ENTRY, NO_SHARD, 0, 0, index, boot(index)) for index in (2, 3, 4)]

    held = recovered_map(encode_map(first), 4, entries)

    assert (held.map, held.through) == (ahead.map, 4)


def test_a_pulled_answer_without_entries_moves_the_index_at_once_for_there_is_nothing_to_sync() -> None:
    held = held_through(3)

    records = held.pulled(MapEntries(3, (), 7), 5)

    assert (records, held.through) == ([], 7)


def test_an_answer_without_entries_waits_for_the_entries_pulled_before_it() -> None:
    held = held_through(3)
    held.pulled(MapEntries(3, ((4, boot(4)),), 4), 5)

    held.pulled(MapEntries(4, (), 7), 6)
    before = held.through
    held.synced(5)

    assert (before, held.through) == (3, 7)


def test_an_entry_refused_as_a_whole_is_not_passed_on() -> None:
    held = held_through(3)
    held.committed(4, boot(2))

    assert held.answer(3) == MapEntries(3, (), 4)


def test_who_is_in_the_raft_configuration_cannot_leave() -> None:
    leave = encode_change(Leave(STORAGES[2], "test"))
    held = HeldMap(empty_of(STORAGES[2]), 1)

    refused = held.committed(2, leave, voters=STORAGES)
    done = held.committed(3, leave, voters=STORAGES[:2])

    assert refused is not None and done is not None
    assert [outcome.code if outcome else "" for _, one in (refused, done) for outcome in one.outcomes] == [
        "is_voter",
        "",
    ]


def empty_of(storage: str) -> ShardMap:
    """The first map with a draining member that holds nothing."""
    first = first_map()
    shards = []
    for shard in first.shards:
        in_sync = tuple(copy for copy in shard.in_sync if copy.storage != storage)
        lead = in_sync[0].storage
        shards.append(replace(shard, in_sync=in_sync, primary=Primary(lead, first.members[lead].boot)))
    name = first.members[storage].name
    members = {**first.wanted.members, name: WantedMember(weight=1.0, draining=True)}
    return replace(first, shards=tuple(shards), wanted=replace(first.wanted, members=members))


def test_after_many_pulled_entries_the_log_gets_the_whole_map_once() -> None:
    held = HeldMap(first_map(), 1)
    for index in range(2, PULLED_ENTRIES_MAX + 2):
        held.pulled(MapEntries(index - 1, ((index, boot(index)),), index), index)
        assert held.compacted() is None  # It would stand behind what is on its way to the disk.
        held.synced(index)

    whole = held.compacted()

    assert whole is not None and held.map is not None
    assert (whole.kind, whole.sn, whole.payload) == (Kind.MAP_SNAPSHOT, held.through, encode_map(held.map))
    assert held.compacted() is None


def replay(records: list[Record]) -> HeldMap:
    """What a restart makes of the map records on the disk."""
    base = max(at for at, record in enumerate(records) if record.kind == Kind.MAP_SNAPSHOT)
    after = records[base + 1 :]
    return recovered_map(records[base].payload, max(record.sn for record in records), after)


def test_who_voted_before_writes_the_whole_map_under_the_first_entries_it_pulls() -> None:
    held = voted_through(3)

    records = held.pulled(MapEntries(3, ((4, boot(4)),), 4), step=7)
    held.synced(7)
    restarted = replay(records)

    assert [record.kind for record in records] == [Kind.MAP_SNAPSHOT, Kind.MAP_ENTRY]
    assert (restarted.map, restarted.through) == (held.map, 4)
    assert [record.kind for record in held.pulled(MapEntries(4, ((5, boot(5)),), 5), step=8)] == [Kind.MAP_ENTRY]


def test_who_votes_in_between_loses_nothing_of_what_it_pulls_afterwards() -> None:
    held = held_through(1)
    disk = [Record(Kind.MAP_SNAPSHOT, NO_SHARD, 0, 0, 1, encode_map(first_map()))]

    disk += held.pulled(MapEntries(1, ((2, boot(2)),), 2), step=7)
    held.synced(7)
    assert held.map is not None
    held.committed(3, encode_change(ShardChanges((Touch(0, held.map.shards[0].revision),), "as a voter")))
    disk += held.pulled(MapEntries(3, ((4, boot(4)),), 4), step=8)
    held.synced(8)

    assert replay(disk).map == held.map


def test_nothing_is_pulled_on_top_of_an_answer_that_raft_overtook_before_it_was_on_disk() -> None:
    held = held_through(1)

    held.pulled(MapEntries(1, ((2, boot(2)),), 2), step=7)
    held.committed(2, boot(2))
    held.committed(3, boot(3))
    records = held.pulled(MapEntries(3, ((4, boot(4)),), 4), step=8)

    assert records == []
