"""The log's twin keeps the log's promises: what is synced stays, of the rest a prefix, and reads are the same."""

from random import Random

import pytest

from ringkeep_node.machines.records import Kind, Record
from ringkeep_node.runtime.wal import LogGone
from ringkeep_testing.log_model import Author, LogModel
from ringkeep_testing.sim_log import SimLog


@pytest.mark.parametrize("seed", range(10))
def test_a_crash_keeps_what_was_synced_and_a_prefix_of_the_rest(seed: int) -> None:
    random = Random(seed)
    author = Author(Random(seed + 50))
    log = SimLog()
    log.open({})
    history: list[list[Record]] = []
    for _ in range(8):
        for _ in range(random.randint(0, 20)):
            history.append(author.append())
            log.append(history[-1])
        log.sync()
        if random.random() < 0.5:
            author.apply_some()
            log.release(author.applied, keep=random.randint(0, 5))
        synced = len(history)
        for _ in range(random.randint(0, 5)):
            history.append(author.append())
            log.append(history[-1])
        log.crash(random)
        found = log.open(author.applied)
        fitting = [
            appends
            for appends in range(synced, len(history) + 1)
            if not LogModel.of(history[:appends]).differences(found, author.applied)
        ]

        assert fitting, LogModel.of(history[:synced]).differences(found, author.applied)
        del history[fitting[-1] :]
        author.model = LogModel.of(history)
        for key, copy in author.model.copies.items():
            first = log.first_sn(*key)
            expected = [entry for entry in copy.entries if entry[1] >= first]
            assert (log.read(*key, first - 1, 1 << 30) if expected else []) == expected


def test_a_sync_covers_the_appends_up_to_the_ticket() -> None:
    log = SimLog()
    log.open({})
    tickets = [log.append([Record(Kind.SHARD_ENTRY, 1, 1, 1, sn, b"x")]) for sn in (1, 2, 3)]

    assert log.sync(tickets[1]) == tickets[1]
    assert [entry[1] for entry in log.read(1, 1, 0, 100)] == [1, 2]
    assert log.sync() == tickets[2]


def test_released_entries_are_gone_for_readers() -> None:
    log = SimLog()
    log.open({})
    log.append([Record(Kind.SHARD_ENTRY, 1, 1, 1, sn, b"x") for sn in range(1, 11)])
    log.sync()
    log.release({(1, 1): 8}, keep=1)

    assert log.first_sn(1, 1) == 9
    with pytest.raises(LogGone):
        log.read(1, 1, 3, 100)


def test_a_damaged_entry_harms_its_copy_for_good_while_the_store_needs_it_and_no_other_copy() -> None:
    log = SimLog()
    log.open({})
    log.append([Record(Kind.SHARD_ENTRY, shard, 1, 1, sn, b"x") for sn in range(1, 6) for shard in (1, 2)])
    log.sync()
    needed = log.needed({(1, 1): 3, (2, 1): 5})
    log.damage((1, 1, 1, 4))

    def harmed(applied: int) -> dict[tuple[int, int], bool]:
        return {key: copy.harmed for key, copy in log.open({(1, 1): applied}).copies.items()}

    covered, missing = harmed(4), harmed(3)
    log.release({})

    assert needed == [(1, 1, 1, 4), (1, 1, 1, 5)]
    assert (covered, missing) == ({(1, 1): False, (2, 1): False}, {(1, 1): True, (2, 1): False})
    assert harmed(4) == {(1, 1): True, (2, 1): False}
