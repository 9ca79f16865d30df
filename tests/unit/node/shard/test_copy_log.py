"""The end of a copy's log in memory, and the bytes that all of them may take."""

from __future__ import annotations

import pytest

from ringkeep_node.machines.records import EpochStart
from ringkeep_node.machines.shard.copy_log import ENTRY_BYTES, CopyLog, EntryCache, wire

SIZE = 1000 - ENTRY_BYTES


def _log(*ends: tuple[int, int]) -> CopyLog:
    """Return a log in which each (epoch, last sn) follows the one before, everything cached."""
    log, sn = CopyLog((0, 0), (), (0, 0)), 0
    for epoch, end in ends:
        for number in range(sn + 1, end + 1):
            log.append((epoch, number, b"x" * 10))
        sn = end
    return log


def _filled(cache: EntryCache, count: int) -> CopyLog:
    log = CopyLog((0, 0), (), (0, 0))
    for sn in range(1, count + 1):
        _add(cache, log, sn)
    return log


def _add(cache: EntryCache, log: CopyLog, sn: int) -> None:
    entry = (1, sn, b"x" * SIZE)
    log.append(entry)
    cache.added(log, entry)


def test_appended_entries_are_at_hand_and_the_epoch_table_names_each_first_number() -> None:
    log = _log((1, 2), (4, 5))

    assert (log.last_epoch, log.last_sn, sorted(log.cached)) == (4, 5, [1, 2, 3, 4, 5])
    assert log.epochs == [EpochStart(1, 1), EpochStart(4, 3)]


@pytest.mark.parametrize(
    ("epoch", "end"), [(0, (0, 0)), (1, (1, 2)), (2, (1, 2)), (3, (1, 2)), (4, (4, 5)), (5, (4, 5)), (7, (7, 6))]
)
def test_every_epoch_has_an_end_even_one_that_wrote_nothing(epoch: int, end: tuple[int, int]) -> None:
    assert _log((1, 2), (4, 5), (7, 6)).end_of(epoch) == end


def test_an_empty_log_ends_nowhere() -> None:
    log = CopyLog((0, 0), (), (0, 0))

    assert (log.end_of(9), log.has(0, 0), log.has(1, 1), log.slice(0, 100)) == ((0, 0), True, False, [])


@pytest.mark.parametrize(("sn", "epoch"), [(0, 0), (1, 1), (2, 1), (3, 4), (5, 4)])
def test_an_entry_is_known_by_epoch_and_number(sn: int, epoch: int) -> None:
    log = _log((1, 2), (4, 5))

    assert (log.epoch_at(sn), log.has(epoch, sn), log.has(epoch + 1, sn)) == (epoch, True, False)


def test_a_log_that_restarted_knows_the_epochs_before_its_base() -> None:
    log = CopyLog((4, 50), [EpochStart(1, 1), EpochStart(4, 30)], (4, 50))

    assert (log.end_of(3), log.end_of(4), log.epoch_at(50), log.epoch_at(29)) == ((1, 29), (4, 50), 4, 1)
    assert (log.slice(50, 10), log.slice(49, 10)) == ([], None)


def test_a_cut_takes_entries_epochs_and_durability_back() -> None:
    log = _log((1, 2), (4, 5))
    log.durable = 5
    log.released = 4
    log.cut(2)

    assert (log.last_epoch, log.last_sn, sorted(log.cached), log.epochs) == (1, 2, [1, 2], [EpochStart(1, 1)])
    assert (log.durable, log.released, log.cuts) == (2, 2, 1)


def test_after_a_cut_below_what_is_cached_entries_are_appended_and_read_as_before() -> None:
    log = CopyLog((0, 0), [EpochStart(1, 1)], (1, 5))
    log.append((1, 6, b"old"))
    log.cut(3)
    log.append((2, 4, b"new"))

    assert (log.slice(3, 100), log.slice(2, 100), log.epoch_at(4)) == ([(2, 4, b"new")], None, 2)


def test_a_slice_takes_at_least_one_entry_and_ends_at_the_byte_limit() -> None:
    log = _log((1, 5))

    assert [[entry[1] for entry in log.slice(1, limit) or []] for limit in (0, 10, 20, 29, 1000)] == [
        [2],
        [2],
        [2, 3],
        [2, 3],
        [2, 3, 4, 5],
    ]


def test_entries_travel_with_their_epochs_and_without_numbers() -> None:
    assert wire([(1, 7, b"a"), (2, 8, b"b")]) == ((1, b"a"), (2, b"b"))


def test_the_oldest_applied_entries_go_first_and_are_then_only_on_disk() -> None:
    cache = EntryCache(3000)
    log = _filled(cache, 3)
    log.release(3)
    _add(cache, log, 4)

    assert (sorted(log.cached), log.first, cache.bytes, log.slice(0, 1)) == ([2, 3, 4], 2, 3000, None)


def test_entries_that_are_not_applied_stay_whatever_the_limit_says() -> None:
    cache = EntryCache(2000)
    log = _filled(cache, 5)
    log.release(1)
    cache.evict()

    assert (sorted(log.cached), cache.bytes) == ([2, 3, 4, 5], 4000)


def test_a_log_that_cannot_let_go_does_not_keep_the_others_in_memory() -> None:
    cache = EntryCache(5000)
    stuck, free = _filled(cache, 3), CopyLog((0, 0), (), (0, 0))
    for sn in range(1, 200):
        _add(cache, free, sn)
        free.release(sn)

    assert (len(stuck.cached), cache.bytes <= 6000, len(free.cached) <= 3) == (3, True, True)


def test_cut_entries_are_not_counted_for_ever() -> None:
    cache = EntryCache(4000)
    log = _filled(cache, 4)
    log.release(1)
    log.cut(1)
    for sn in range(2, 30):
        _add(cache, log, sn)
        log.release(sn)

    assert cache.bytes == ENTRY_BYTES * len(log.cached) + sum(len(entry[2]) for entry in log.cached.values()) <= 4000


def test_the_limit_counts_what_small_entries_really_take() -> None:
    cache = EntryCache(100 * ENTRY_BYTES)
    log = CopyLog((0, 0), (), (0, 0))
    for sn in range(1, 500):
        log.append((1, sn, b""))
        cache.added(log, (1, sn, b""))
        log.release(sn)

    assert len(log.cached) == 100
