"""What the fold makes of records: the rules of replication.md, Storage, one by one."""

from ringkeep_node.machines.records import NO_SHARD, EpochStart, Kind, Record
from ringkeep_node.machines.recovery import (
    LogState,
    RecoveredCopy,
    RecoveredLog,
    decode_epochs,
    encode_boots,
    encode_epochs,
    epoch_at,
)

KEY = (7, 3)


def entry(epoch: int, sn: int, payload: bytes = b"") -> Record:
    return Record(Kind.SHARD_ENTRY, *KEY, epoch, sn, payload or b"%d.%d" % (epoch, sn))


def raft(term: int, index: int) -> Record:
    return Record(Kind.RAFT_ENTRY, NO_SHARD, 0, term, index, b"%d.%d" % (term, index))


def state_of(records: list[Record], applied: dict[tuple[int, int], int] | None = None) -> LogState:
    state = LogState(applied or {})
    for record in records:
        state.take(record, 1, 0)
    return state


def recovered(records: list[Record], applied: dict[tuple[int, int], int] | None = None) -> RecoveredLog:
    return state_of(records, applied).recovered()


def the_copy(records: list[Record], applied: dict[tuple[int, int], int] | None = None) -> RecoveredCopy:
    return recovered(records, applied).copies[KEY]


def test_an_empty_stream_is_an_empty_log() -> None:
    assert recovered([]) == RecoveredLog(0, 0, None, None, (0, 0), [], False, None, 0, [], {}, True)


def test_only_entries_above_the_synced_applied_sn_are_handed_out() -> None:
    copy = the_copy([entry(1, 1), entry(1, 2), entry(2, 3)], {KEY: 2})

    assert copy == RecoveredCopy(
        shard=7,
        copy=3,
        promised=2,
        epochs=(EpochStart(1, 1), EpochStart(2, 3)),
        base=(0, 0),
        reset=(0, 0),
        last=(2, 3),
        entries=[(2, 3, b"2.3")],
        harmed=False,
    )


def test_a_cut_takes_the_suffix_and_its_epochs_and_a_new_suffix_replaces_it() -> None:
    records = [entry(1, 1), entry(1, 2), entry(2, 3), Record(Kind.SHARD_CUT, *KEY, 1, 1), entry(3, 2)]

    copy = the_copy(records)

    assert copy.entries == [(1, 1, b"1.1"), (3, 2, b"3.2")]
    assert copy.epochs == (EpochStart(1, 1), EpochStart(3, 2))
    assert not copy.harmed


def test_a_reset_starts_the_copy_anew_behind_the_snapshot_with_its_epoch_table() -> None:
    table = (EpochStart(1, 1), EpochStart(4, 80))

    copy = the_copy([entry(1, 1), Record(Kind.SHARD_RESET, *KEY, 4, 100, encode_epochs(table)), entry(4, 101)])

    assert (copy.base, copy.reset, copy.last, copy.epochs) == ((4, 100), (4, 100), (4, 101), table)
    assert copy.entries == [(4, 101, b"4.101")]
    assert not copy.harmed


def test_a_dropped_copy_does_not_come_back_and_the_same_shard_added_later_is_another_copy() -> None:
    again = Record(Kind.SHARD_ENTRY, 7, 9, 5, 1, b"new tenancy")

    copies = recovered([entry(1, 1), entry(1, 2), Record(Kind.SHARD_DROP, *KEY, 0, 0), again]).copies

    assert list(copies) == [(7, 9)]
    assert copies[(7, 9)].entries == [(5, 1, b"new tenancy")]


def test_a_promise_outlives_the_process_without_any_entry() -> None:
    copy = the_copy([entry(1, 1), Record(Kind.SHARD_PROMISE, *KEY, 6, 0)])

    assert (copy.promised, copy.last) == (6, (1, 1))


def test_a_gap_between_entries_is_harm() -> None:
    assert the_copy([entry(1, 1), entry(1, 3)]).harmed


def test_an_entry_of_a_lower_epoch_behind_a_higher_one_is_harm() -> None:
    assert the_copy([entry(2, 1), entry(1, 2)]).harmed


def test_a_store_past_the_end_of_the_log_is_harm() -> None:
    assert the_copy([entry(1, 1)], {KEY: 5}).harmed


def test_a_lost_entry_harms_its_copy_only_and_only_while_the_store_needs_it() -> None:
    other = Record(Kind.SHARD_ENTRY, 8, 3, 1, 1, b"other")

    def harmed(applied: int) -> dict[tuple[int, int], bool]:
        state = LogState({KEY: applied})
        state.take(entry(1, 1), 1, 0)
        state.lost(Kind.SHARD_ENTRY, *KEY, 1, 2)
        state.take(entry(1, 3), 1, 0)
        state.take(other, 1, 0)
        return {key: copy.harmed for key, copy in state.recovered().copies.items()}

    assert harmed(1) == {KEY: True, (8, 3): False}
    assert harmed(2) == {KEY: False, (8, 3): False}


def test_a_missing_batch_harms_copies_without_a_later_contiguous_entry() -> None:
    def harmed(later: list[Record]) -> bool:
        state = state_of([entry(1, 1)])
        state.gone()
        for record in later:
            state.take(record, 1, 0)
        return state.recovered().copies[KEY].harmed

    assert harmed([])
    assert not harmed([entry(1, 2)])
    assert harmed([entry(1, 3)])


def test_a_missing_batch_may_have_replaced_entries_so_a_higher_epoch_behind_it_proves_nothing() -> None:
    state = state_of([entry(1, 1), entry(1, 2)])
    state.gone()
    state.take(entry(2, 3), 1, 0)
    state.take(entry(2, 4), 1, 0)

    assert state.recovered().copies[KEY].harmed


def test_a_missing_batch_harms_raft_and_raises_the_boot_counter() -> None:
    state = state_of([Record(Kind.BOOT, NO_SHARD, 0, 0, 4), raft(1, 1)])
    state.gone()
    state.take(raft(1, 2), 1, 0)

    found = state.recovered()

    assert found.raft_harmed
    assert found.boot_counter == 5


def test_the_start_of_the_next_segment_clears_what_it_proves_to_be_whole() -> None:
    writer = state_of([entry(1, 1), raft(1, 1), Record(Kind.RAFT_STATE, NO_SHARD, 0, 1, 0, b"me")])
    reader = state_of([entry(1, 1), raft(1, 1), Record(Kind.RAFT_STATE, NO_SHARD, 0, 1, 0, b"me")])
    reader.gone()
    for record in writer.start_records():
        reader.take(record, 2, 0)

    found = reader.recovered()

    assert not found.copies[KEY].harmed
    assert not found.raft_harmed


def test_an_end_without_its_entries_is_harm() -> None:
    writer = state_of([entry(1, 1), entry(1, 2), raft(1, 1)])
    reader = state_of([entry(1, 1)])
    for record in writer.start_records():
        reader.take(record, 2, 0)

    found = reader.recovered()

    assert found.copies[KEY].harmed
    assert found.raft_harmed


def test_segments_may_go_when_their_live_entries_stand_again_behind_the_repeat() -> None:
    whole = state_of([entry(1, 1), entry(1, 2), entry(2, 3), Record(Kind.SHARD_PROMISE, *KEY, 5, 0), raft(1, 1)])
    reader = LogState({KEY: 2})
    for record in [*whole.start_records(), entry(2, 4), entry(2, 3), raft(1, 1)]:
        reader.take(record, 2, 0)

    found = reader.recovered()

    assert found.copies[KEY].entries == [(2, 3, b"2.3"), (2, 4, b"2.4")]
    assert found.copies[KEY].promised == 5
    assert found.copies[KEY].base == (1, 2)
    assert found.raft_entries == [raft(1, 1)]
    assert not (found.copies[KEY].harmed or found.raft_harmed)


def test_harm_is_repeated_and_ends_with_a_reset() -> None:
    state = state_of([entry(1, 1), entry(1, 3)])
    assert state.recovered().copies[KEY].harmed
    reader = state_of(state.start_records())
    before = reader.recovered().copies[KEY].harmed
    reader.take(Record(Kind.SHARD_RESET, *KEY, 2, 10, b""), 2, 0)

    assert (before, reader.recovered().copies[KEY].harmed) == (True, False)


def test_raft_keeps_term_vote_snapshot_and_the_entries_after_it() -> None:
    snapshot = Record(Kind.RAFT_SNAPSHOT, NO_SHARD, 0, 1, 2, b"snapshot")
    records = [raft(1, 1), raft(1, 2), raft(1, 3), Record(Kind.RAFT_STATE, NO_SHARD, 0, 3, 0, b"voted"), snapshot]
    records += [Record(Kind.RAFT_CUT, NO_SHARD, 0, 1, 2), raft(3, 3)]

    found = recovered(records)

    assert (found.term, found.vote, found.raft_snapshot, found.raft_snapshot_at) == (3, "voted", b"snapshot", (1, 2))
    assert found.raft_entries == [raft(3, 3)]
    assert not found.raft_harmed


def test_an_installed_raft_snapshot_ends_every_entry_before_it() -> None:
    found = recovered([raft(1, 1), raft(1, 2), Record(Kind.RAFT_RESET, NO_SHARD, 0, 2, 9, b"theirs"), raft(2, 10)])

    assert (found.raft_snapshot, found.raft_entries) == (b"theirs", [raft(2, 10)])


def test_a_lost_vote_or_snapshot_harms_raft_until_a_later_one() -> None:
    state = LogState({})
    state.lost(Kind.RAFT_STATE, NO_SHARD, 0, 4, 0)
    state.lost(Kind.RAFT_SNAPSHOT, NO_SHARD, 0, 2, 5)
    before = state.recovered().raft_harmed
    state.take(Record(Kind.RAFT_STATE, NO_SHARD, 0, 5, 0, b""), 1, 0)
    state.take(Record(Kind.RAFT_RESET, NO_SHARD, 0, 3, 8, b"again"), 1, 0)

    assert (before, state.recovered().raft_harmed) == (True, False)


def test_a_damaged_map_entry_ends_the_pulled_map_before_it() -> None:
    first = Record(Kind.MAP_ENTRY, NO_SHARD, 0, 0, 11, b"a")
    state = state_of([Record(Kind.MAP_SNAPSHOT, NO_SHARD, 0, 0, 10, b"map"), first])
    state.lost(Kind.MAP_ENTRY, NO_SHARD, 0, 0, 12)
    state.take(Record(Kind.MAP_ENTRY, NO_SHARD, 0, 0, 13, b"c"), 1, 0)

    found = state.recovered()

    assert (found.map_snapshot, found.map_through, found.map_entries) == (b"map", 11, [first])


def test_an_epoch_table_survives_encoding_and_answers_who_wrote_an_sn() -> None:
    table = (EpochStart(2, 5), EpochStart(7, 9))

    assert decode_epochs(encode_epochs(table)) == table
    assert decode_epochs(b"") == ()
    assert [epoch_at(table, sn, 1) for sn in (4, 5, 8, 9, 100)] == [1, 2, 2, 7, 7]


def test_the_boots_of_a_directory_are_found_again_and_repeated_in_a_new_segment() -> None:
    boots = encode_boots(("b1", "b2", "b3"))
    state = state_of(
        [Record(Kind.BOOT, NO_SHARD, 0, 0, 2, encode_boots(("b1", "b2"))), Record(Kind.BOOT, NO_SHARD, 0, 0, 3, boots)]
    )

    assert (state.recovered().boot_counter, state.recovered().boots) == (3, ("b1", "b2", "b3"))
    assert Record(Kind.BOOT, NO_SHARD, 0, 0, 3, boots) in list(state.start_records())
