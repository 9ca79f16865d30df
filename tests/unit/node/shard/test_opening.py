"""What a starting node makes of what it finds in store and log: every line of the table in opening.py."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from msgspec.structs import replace

from ringkeep_core.mapchanges import Unfit
from ringkeep_core.shardmap import GENERATION_STEP, Shard
from ringkeep_node.machines.documents import CopyState
from ringkeep_node.machines.records import EpochStart, Kind, Record
from ringkeep_node.machines.recovery import RecoveredCopy, encode_epochs
from ringkeep_node.machines.shard.effects import CreateCopy, DropCopy, LogEntry
from ringkeep_node.machines.shard.messages import Append, TailAsk
from ringkeep_node.runtime.store.store import StoredCopy
from ringkeep_testing.maps import FIRST, copies, shard
from ringkeep_testing.shard_bench import Bench, append_of, begin_entry, put_entry, recovered_copy
from ringkeep_testing.sim_store import SimStore

KEY = (0, FIRST)
LATER = FIRST - 1 + 5
"""A version at which copies are added after the bootstrap."""

ENTRIES = [begin_entry(1, 1, "b"), put_entry(1, 2), put_entry(1, 3), put_entry(2, 4)]


def _stored(upto: int, *, added: int = FIRST, entries: Sequence[LogEntry] = ENTRIES) -> SimStore:
    """Return a store that has applied the first entries."""
    store = SimStore()
    store.create(0, added)
    if upto:
        store.apply(0, added, entries[:upto])
    return store


def _open(
    store: SimStore | None = None,
    recovered: RecoveredCopy | None = None,
    *,
    listed: Shard | None = None,
    stored: Sequence[StoredCopy] | None = None,
    version: int = LATER,
) -> Bench:
    """Start a node "a" whose shard is led by "b" in epoch 3; its map is version 5 of this generation."""
    known = {} if recovered is None else {(recovered.shard, recovered.copy): recovered}
    bench = Bench(listed or shard("b a c", epoch=3), store=store, recovered=known, stored=stored, holds=False)
    bench.up("b", "c")
    bench.hold(replace(bench.map, version=version))
    return bench


def _added_later(sets: str) -> Shard:
    """Return a shard of "b c" in which the copy of "a" was added later, as a member or as a learner."""
    one = shard("b c", epoch=3)
    late = copies("a", added=LATER)
    if sets == "in_sync":
        return Shard(3, 3, one.primary, (*one.in_sync, *late), (), (), 2)
    return Shard(3, 3, one.primary, one.in_sync, (), late, 2)


def _facts(bench: Bench) -> tuple[bool, int, int, int]:
    """Return (unfit, applied, handed, last sn)."""
    copy = bench.copy()
    return copy.unfit, copy.applied, copy.handed, copy.log.last_sn


def test_log_and_store_that_fit_are_opened_as_they_were_and_the_rest_waits_for_a_commit() -> None:
    bench = _open(_stored(2), recovered_copy(ENTRIES, promised=2))
    opened = _facts(bench)
    log = bench.copy().log

    assert (opened, sorted(log.cached), log.durable, bench.copy().promised) == ((False, 2, 2, 4), [3, 4], 4, 2)
    assert (log.epochs, bench.orders, bench.records) == ([EpochStart(1, 1), EpochStart(2, 4)], [], [])

    bench.hear("b", append_of([begin_entry(3, 5, "b")], prev=(2, 4), commit=4))

    assert bench.applied == [(1, 3), (2, 4)]


def test_a_store_that_has_applied_the_whole_log_is_opened_with_nothing_in_memory() -> None:
    bench = _open(_stored(4), recovered_copy(ENTRIES))

    assert (_facts(bench), bench.copy().log.cached) == ((False, 4, 4, 4), {})


def test_a_copy_whose_log_was_let_go_of_up_to_what_the_store_has_is_opened() -> None:
    recovered = replace(recovered_copy(ENTRIES), base=(1, 2), entries=ENTRIES[2:])
    bench = _open(_stored(2), recovered)

    assert _facts(bench) == (False, 2, 2, 4)


def test_a_learners_store_ahead_of_the_log_lets_the_log_restart_there() -> None:
    learner = shard("b c", learners="a", epoch=3)
    bench = _open(_stored(4), recovered_copy(ENTRIES[:2], promised=2), listed=learner)

    reset = Record(Kind.SHARD_RESET, 0, FIRST, 2, 4, encode_epochs((EpochStart(1, 1), EpochStart(2, 4))))
    assert (_facts(bench), bench.records) == ((False, 4, 4, 4), [reset])
    assert (bench.copy().log.base, bench.copy().promised) == ((2, 4), 2)


def test_a_learners_store_that_shows_an_entry_which_the_longer_log_lacks_lets_the_log_restart_too() -> None:
    # A snapshot was swapped in over a log with a tail that no primary confirmed, then the node stopped.
    old_log = [*ENTRIES[:2], *[put_entry(1, sn) for sn in range(3, 9)]]
    bench = _open(_stored(4), recovered_copy(old_log), listed=shard("b c", learners="a", epoch=3))

    assert (_facts(bench), bench.copy().log.last_epoch) == ((False, 4, 4, 4), 2)
    assert [(record.kind, record.epoch, record.sn) for record in bench.records] == [(Kind.SHARD_RESET, 2, 4)]


def test_a_copy_that_counts_and_whose_log_lost_its_end_is_unfit_and_its_log_goes_on_saying_so() -> None:
    bench = _open(_stored(4), recovered_copy(ENTRIES[:2], promised=2))

    assert (bench.copy().unfit, bench.records) == (True, [])


@pytest.mark.parametrize("listed", ["a first copy", "a learner"])
def test_where_nothing_is_there_and_nothing_missing_an_empty_copy_is_made(listed: str) -> None:
    bench = _open() if listed == "a first copy" else _open(listed=_added_later("learners"))

    assert (_facts(bench), bench.orders) == ((False, 0, 0, 0), [CreateCopy(0, bench.copy().added)])
    assert bench.proposals == []


def test_a_first_copy_that_was_made_and_never_written_is_opened_empty() -> None:
    bench = _open(_stored(0))

    assert (_facts(bench), bench.orders) == ((False, 0, 0, 0), [])


@pytest.mark.parametrize(
    ("store", "is_unfit"), [(SimStore(), True), (_stored(0), False)], ids=["deleted", "never written"]
)
def test_a_copy_of_the_first_map_that_is_not_there_is_unfit_in_a_later_generation(
    store: SimStore, is_unfit: bool
) -> None:
    """counterexamples.md L8: the lost majority may have removed it, and this node deleted it, after what one voter knew."""
    bench = _open(store, version=2 * GENERATION_STEP + 1)

    assert _facts(bench) == (is_unfit, 0, 0, 0)


def test_a_log_from_the_beginning_makes_up_for_a_store_that_has_nothing() -> None:
    bench = _open(SimStore(), recovered_copy(ENTRIES))

    assert (_facts(bench), bench.orders) == ((False, 0, 0, 4), [CreateCopy(0, FIRST)])


@pytest.mark.parametrize(
    ("store", "recovered"),
    [
        (_stored(3), None),
        (None, replace(recovered_copy(ENTRIES), base=(1, 2), entries=ENTRIES[2:])),
        (None, replace(recovered_copy(ENTRIES), entries=ENTRIES[2:])),
        (_stored(1), replace(recovered_copy(ENTRIES), base=(1, 2), entries=ENTRIES[2:])),
        (_stored(1), replace(recovered_copy(ENTRIES), entries=[ENTRIES[1], ENTRIES[3]])),
        (_stored(2), recovered_copy(ENTRIES, harmed=True)),
    ],
    ids=[
        "a store without a log",
        "a log that begins later, without a store",
        "a log without its first entries, without a store",
        "a log that begins after what the store has",
        "a log with a hole",
        "a log that lost durable records",
    ],
)
def test_where_something_durable_is_missing_the_copy_is_unfit_and_asks_to_leave(
    store: SimStore | None, recovered: RecoveredCopy | None
) -> None:
    bench = _open(store, recovered)
    bench.sent.clear()
    bench.hear("b", TailAsk(0, 3))

    assert (bench.copy().unfit, bench.proposals, bench.sent) == (True, [Unfit(0, 3, "a", FIRST)], [])


@pytest.mark.parametrize("store", [None, _stored(0, added=LATER)], ids=["nothing", "an empty copy in the store"])
def test_a_member_that_was_added_after_the_bootstrap_and_finds_no_log_lost_its_copy(store: SimStore | None) -> None:
    bench = _open(store, listed=_added_later("in_sync"))

    assert (bench.copy().unfit, bench.orders, bench.proposals) == (True, [], [Unfit(0, 3, "a", LATER)])


def test_a_snapshot_that_was_never_complete_counts_as_nothing() -> None:
    half = StoredCopy(0, FIRST, False, 1, 3, CopyState(), (EpochStart(1, 1),))
    bench = _open(None, recovered_copy(ENTRIES), stored=[half])

    assert (_facts(bench), bench.orders) == ((False, 0, 0, 4), [CreateCopy(0, FIRST)])


def test_an_unfit_primary_refuses_to_lead() -> None:
    bench = Bench(shard("a b", epoch=3), recovered={KEY: recovered_copy(ENTRIES, harmed=True)})
    bench.up("b")

    assert (bench.machine._leads, bench.said("b", Append), bench.proposals) == ({}, [], [Unfit(0, 3, "a", FIRST)])


def test_a_damaged_copy_is_discarded_only_when_the_map_has_another_in_its_place() -> None:
    bench = _open(_stored(2), recovered_copy(ENTRIES, harmed=True))
    bench.wait(3.0)
    before = [*bench.records, *bench.orders]
    bench.change(Unfit(0, 3, "a", FIRST))

    assert before == []
    assert bench.records == [Record(Kind.SHARD_DROP, 0, FIRST, 0, 0)]
    assert bench.orders == [CreateCopy(0, LATER + 1), DropCopy(0, FIRST)]


def test_a_harmed_learner_whose_store_is_past_its_log_does_not_begin_it_anew() -> None:
    """A newer map, which is not held yet, may have it in in_sync: nobody would know of the loss."""
    store, log = _stored(3, added=LATER), recovered_copy(ENTRIES[:2], added=LATER, harmed=True)
    bench = _open(store, log, listed=_added_later("learners"))

    assert (bench.copy().unfit, bench.records) == (True, [])


def test_copies_that_the_map_does_not_list_are_given_up_by_name() -> None:
    store = _stored(2)
    store.create(0, FIRST + 2)
    bench = _open(store, recovered_copy(ENTRIES), listed=shard("b c", epoch=3))

    assert bench.records == [Record(Kind.SHARD_DROP, 0, added, 0, 0) for added in (FIRST, FIRST + 2)]
    assert bench.orders == [DropCopy(0, FIRST), DropCopy(0, FIRST + 2)]


def test_a_copy_that_only_a_later_map_can_name_is_kept_until_that_map_is_held() -> None:
    added = LATER + 1
    recovered = recovered_copy(ENTRIES, added=added)
    bench = _open(_stored(2, added=added), recovered, listed=shard("b c", epoch=3))
    early = list(bench.records)
    one = shard("b c", epoch=3)
    bench.hold(
        replace(
            bench.map,
            version=added,
            shards=(Shard(3, 4, one.primary, one.in_sync, (), copies("a", added=added), 2),),
        )
    )

    assert (early, _facts(bench), bench.orders) == ([], (False, 2, 2, 4), [])


def test_a_copy_that_no_later_map_names_is_given_up_then() -> None:
    added = LATER + 1
    bench = _open(_stored(2, added=added), listed=shard("b c", epoch=3))
    bench.hold(replace(bench.map, version=added))

    assert bench.orders == [DropCopy(0, added)]
