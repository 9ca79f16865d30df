"""One shared log: "cut" must not cut, old tenancies must not come back (reference/counterexamples.md, S7).

A node is a real ``Replication`` whose records go through the real log on a simulated disk; its store is the twin, which
loses what no checkpoint covered. After a power cut the disk holds any part of what was not synced.
"""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

import pytest
from msgspec.structs import replace

from ringkeep_core.shardmap import Shard, ShardMap
from ringkeep_node.machines import documents
from ringkeep_node.machines.documents import CopyState
from ringkeep_node.machines.records import NO_SHARD, EpochStart, Kind, Record
from ringkeep_node.machines.recovery import RecoveredLog
from ringkeep_node.machines.shard.effects import DropCopy
from ringkeep_node.machines.shard.messages import Ack, EpochEnd, SnapshotBegin, SnapshotRows
from ringkeep_node.runtime.wal.log import Log, LogSettings
from ringkeep_testing.maps import FIRST, copies, shard, shard_map
from ringkeep_testing.shard_bench import Bench, append_of, begin_entry, operation, put_entry, serving
from ringkeep_testing.sim_disk import SimDisk
from ringkeep_testing.sim_store import SimStore

SETTINGS = LogSettings(
    segment_bytes=24 * 1024, log_bytes_max=80 * 1024, ahead_bytes=16 * 1024, keep_s=1e9, salt=0x1234567890ABCDEF
)
IMAGES = 8
KEY = (0, FIRST)
V9 = FIRST + 9


def _opened(disk: SimDisk, store: SimStore | None = None) -> tuple[Log, RecoveredLog]:
    applied = {} if store is None else store.synced()
    return Log.open(disk, SETTINGS, applied, clock=lambda: 0.0)


def _images(disk: SimDisk) -> Iterator[SimDisk]:
    """Yield what a kill and what several power cuts leave."""
    yield disk.after_kill()
    for image in range(IMAGES):
        yield disk.after_power_cut(Random(image))


def _written(bench: Bench, log: Log) -> None:
    """Make durable what a node has recorded so far."""
    log.append(bench.records)
    bench.records = []
    log.pump()


def _restarted(disk: SimDisk, store: SimStore, held: ShardMap) -> Bench:
    """Start the node "a" again on what is left."""
    _log, found = _opened(disk, store)
    bench = Bench(*held.shards, store=store, recovered=found.copies, holds=False)
    bench.hold(held)
    return bench


def _follower(epoch: int = 1) -> tuple[Bench, SimDisk, Log]:
    """Return a replica "a" of primary "b" that holds entries 1 to 3 of epoch 1, the first of them applied."""
    disk = SimDisk()
    log, _found = _opened(disk)
    bench = Bench(shard("b a c", epoch=epoch))
    bench.up("b", "c")
    bench.hear("b", append_of([begin_entry(1, 1, "b"), put_entry(1, 2), put_entry(1, 3)], commit=1))
    _written(bench, log)
    return bench, disk, log


def _epoch_two(bench: Bench) -> None:
    """Let "b" lead epoch 2 with a log that ends at (1, 1), and have forgotten what epoch 1 acknowledged."""
    bench.copy().acked = 0
    bench.shard_is(replace(shard("b a c", epoch=2), revision=2))
    bench.said("b", Ack)
    bench.hear("b", append_of([begin_entry(2, 2, "b")], prev=(1, 1)))
    bench.hear("b", EpochEnd(0, 2, 1, 1, 1))


def test_s7a_a_cut_of_one_shard_takes_nothing_from_the_others_nor_from_raft() -> None:
    disk = SimDisk()
    log, _found = _opened(disk)
    raft = [Record(Kind.RAFT_ENTRY, NO_SHARD, 0, 1, index, b"change") for index in range(1, 6)]
    for sn in range(1, 6):
        log.append([Record(Kind.SHARD_ENTRY, number, 1, 1, sn, b"%d/%d" % (number, sn)) for number in range(64)])
        log.append([raft[sn - 1]], urgent=True)
        log.pump()
    log.append([Record(Kind.SHARD_CUT, 7, 1, 1, 2), Record(Kind.SHARD_ENTRY, 7, 1, 2, 3, b"7/3 of epoch 2")])
    log.pump()

    for image in _images(disk):
        _log, found = _opened(image)
        ends = {number: copy.last for (number, _), copy in found.copies.items()}
        assert ends == dict.fromkeys(range(64), (1, 5)) | {7: (2, 3)}
        assert found.copies[7, 1].entries == [(1, 1, b"7/1"), (1, 2, b"7/2"), (2, 3, b"7/3 of epoch 2")]
        assert all(len(copy.entries) == 5 for (number, _), copy in found.copies.items() if number != 7)
        assert (found.raft_entries, found.raft_harmed) == (raft, False)


def test_s7b_entries_that_were_cut_do_not_come_back_with_a_replay() -> None:
    bench, disk, log = _follower()
    _epoch_two(bench)
    _written(bench, log)

    for image in _images(disk):
        again = _restarted(image, SimStore(), bench.map)
        copy = again.copy()
        assert (copy.unfit, copy.log.last_sn, copy.log.epochs) == (False, 1, [EpochStart(1, 1)])
        again.up("b")
        again.hear("b", append_of([begin_entry(2, 2, "b")], prev=(1, 1)))
        assert again.said("b", Ack) == [Ack(0, FIRST, 2, 2)]


def test_s7b_nothing_that_depends_on_a_cut_leaves_before_the_cut_is_durable() -> None:
    bench, disk, log = _follower()
    bench.syncs = False
    _epoch_two(bench)
    bench.hear("b", append_of([begin_entry(2, 2, "b")], prev=(1, 1)))
    before = bench.said("b", Ack)
    kinds = [record.kind for record in bench.records]
    _written(bench, log)
    bench.sync()

    assert (before, kinds) == ([], [Kind.SHARD_PROMISE, Kind.SHARD_CUT, Kind.SHARD_ENTRY])
    assert Ack(0, FIRST, 2, 2) in bench.said("b", Ack)
    _log, found = _opened(disk.after_kill())
    assert found.copies[KEY].last == (2, 2)


def _learner_again() -> tuple[Bench, SimDisk, Log]:
    """Return a node that held the shard in epoch 1, lost it, and is a learner again with a snapshot at (9, 40)."""
    bench, disk, log = _follower()
    one = shard("b c", epoch=2)
    bench.shard_is(replace(one, revision=2))
    back = Shard(9, 9, one.primary, one.in_sync, (), copies("a", added=V9), 2)
    bench.hold(replace(bench.map, version=V9, shards=(back,)))
    begin = SnapshotBegin(0, V9, 9, 7, 9, 40, CopyState(wall_ms_max=5), (EpochStart(1, 1), EpochStart(9, 30)))
    bench.hear("b", begin)
    bench.hear("b", SnapshotRows(0, V9, 9, 7, 1, (), (), True))
    bench.machine.installed(0, V9, now=bench.now)
    bench.pump()
    bench.hear("b", append_of([put_entry(9, 41), put_entry(9, 42)], prev=(9, 40), commit=41))
    _written(bench, log)
    return bench, disk, log


def test_s7c_an_earlier_tenancy_is_not_replayed_on_top_of_a_snapshot() -> None:
    bench, disk, _log = _learner_again()

    for image in _images(disk):
        again = _restarted(image, bench.store, bench.map)
        copy = again.copy()
        assert (copy.unfit, copy.added, copy.applied, copy.log.last_sn) == (False, V9, 41, 42)
        assert sorted(copy.log.cached) == [42] and copy.log.epochs == [EpochStart(1, 1), EpochStart(9, 30)]
        assert again.machine._opening._recovered == {}


def test_s7c_entries_before_a_reset_of_the_same_copy_are_not_replayed_either() -> None:
    disk = SimDisk()
    log, _found = _opened(disk)
    learner = Bench(shard("b c", learners="a"))
    learner.up("b")
    learner.hear("b", append_of([begin_entry(1, 1, "b"), put_entry(1, 2), put_entry(1, 3)], commit=1))
    learner.shard_is(replace(shard("b c", learners="a", epoch=9), revision=9))
    begin = SnapshotBegin(0, FIRST, 9, 7, 9, 40, CopyState(), (EpochStart(1, 1), EpochStart(9, 30)))
    learner.hear("b", begin)
    learner.hear("b", SnapshotRows(0, FIRST, 9, 7, 1, (), (), True))
    learner.machine.installed(0, FIRST, now=learner.now)
    learner.pump()
    learner.hear("b", append_of([put_entry(9, 41)], prev=(9, 40)))
    _written(learner, log)

    for image in _images(disk):
        again = _restarted(image, learner.store, learner.map)
        assert (again.copy().unfit, again.copy().applied, sorted(again.copy().log.cached)) == (False, 40, [41])


def test_s7c_a_snapshot_swapped_in_without_its_reset_record_is_the_truth() -> None:
    disk = SimDisk()
    log, _found = _opened(disk)
    learner = Bench(shard("b c", learners="a"))
    learner.up("b")
    learner.hear("b", append_of([begin_entry(1, 1, "b"), *[put_entry(1, sn) for sn in range(2, 60)]], commit=1))
    _written(learner, log)
    learner.shard_is(replace(shard("b c", learners="a", epoch=9), revision=9))
    begin = SnapshotBegin(0, FIRST, 9, 7, 9, 40, CopyState(), (EpochStart(1, 1), EpochStart(9, 30)))
    learner.hear("b", begin)
    learner.hear("b", SnapshotRows(0, FIRST, 9, 7, 1, (), (), True))

    again = _restarted(disk.after_kill(), learner.store, learner.map)
    assert (again.copy().unfit, again.copy().applied, again.last_sn) == (False, 40, 40)
    again.up("b")
    again.hear("b", append_of([put_entry(9, 41)], prev=(9, 40)))
    assert again.said("b", Ack) == [Ack(0, FIRST, 9, 41)]


def test_s7d_a_slow_delete_of_an_old_copy_leaves_the_one_that_was_added_again() -> None:
    bench, disk, log = _follower()
    bench.syncs = False
    one = shard("b c", epoch=2)
    back = Shard(2, 3, one.primary, one.in_sync, (), copies("a", added=V9), 2)
    bench.hold(replace(bench.map, version=V9, shards=(back,)))
    bench.hear("b", append_of([begin_entry(2, 1, "b"), put_entry(2, 2, value="new")], commit=2))
    _written(bench, log)
    bench.sync()

    assert bench.orders[-1] == DropCopy(0, FIRST)
    assert [(copy.copy, copy.sn) for copy in bench.store.copies()] == [(V9, 2)]
    for image in _images(disk):
        again = _restarted(image, bench.store, bench.map)
        assert (again.copy().unfit, again.copy().added, again.last_sn) == (False, V9, 2)


def test_s7d_a_drop_that_is_written_late_names_the_copy_it_means() -> None:
    disk = SimDisk()
    log, _found = _opened(disk)
    log.append([Record(Kind.SHARD_ENTRY, 7, 5, 1, 1, b"old"), Record(Kind.SHARD_ENTRY, 7, 9, 2, 1, b"new")])
    log.append([Record(Kind.SHARD_DROP, 7, 5, 0, 0)])
    log.pump()

    for image in _images(disk):
        _log, found = _opened(image)
        assert {key: copy.entries for key, copy in found.copies.items()} == {(7, 9): [(2, 1, b"new")]}


def _filled(log: Log, store: SimStore, number: int, sns: range) -> None:
    """Write and apply entries of a shard that goes on."""
    for sn in sns:
        entry = put_entry(1, sn, f"k{sn}", "x" * 1000)
        log.append([Record(Kind.SHARD_ENTRY, number, FIRST, *entry)])
        log.pump()
        store.apply(number, FIRST, [entry])


def test_s7e_a_shard_that_cannot_commit_does_not_keep_the_log_from_being_let_go() -> None:
    disk, store = SimDisk(), SimStore()
    log, _found = _opened(disk)
    primary = serving(shard("a b"), store=store)
    for number in range(5):
        primary.write("stuck", key=f"s{number}")
    _written(primary, log)
    store.create(1, FIRST)
    sizes = []
    for round_number in range(20):
        _filled(log, store, 1, range(1 + round_number * 10, 11 + round_number * 10))
        log.release(store.checkpoint())
        log.pump()
        sizes.append(log.log_bytes)

    assert max(sizes) <= SETTINGS.log_bytes_max + SETTINGS.segment_bytes
    for image in _images(disk):
        _log, found = _opened(image, store)
        stuck = found.copies[KEY]
        assert (stuck.harmed, stuck.last, [sn for _, sn, _ in stuck.entries]) == (False, (1, 6), [2, 3, 4, 5, 6])
        assert found.copies[1, FIRST].last == (1, 200)


@pytest.mark.parametrize("seed", range(20))
def test_s7f_what_the_store_applied_but_did_not_sync_is_still_in_the_log_after_a_power_cut(seed: int) -> None:
    random = Random(seed)
    disk, store = SimDisk(), SimStore()
    log, _found = _opened(disk)
    store.create(0, FIRST)
    store.checkpoint()
    last = 0
    for _ in range(12):
        more = random.randint(1, 15)
        _filled(log, store, 0, range(last + 1, last + 1 + more))
        last += more
        if random.random() < 0.6:
            # What is let go of is what a checkpoint made durable, not what is applied: more is applied meanwhile.
            covered = store.checkpoint()
            _filled(log, store, 0, range(last + 1, last + 3))
            last += 2
            log.release(covered)
            log.pump()
    store.crash(random)

    again = _restarted(disk.after_power_cut(random), store, shard_map("a b c", [shard("b a c")]))
    copy = again.copy()
    assert (copy.unfit, copy.applied, copy.log.last_sn) == (False, store.synced()[KEY], last)
    again.up("b")
    again.hear("b", append_of([begin_entry(1, last + 1, "b")], prev=(1, last), commit=last))
    assert [store.row(0, FIRST, "u", f"k{sn}") is not None for sn in range(1, last + 1)] == [True] * last


# --- S10: operation ids over crashes and primaries ----------------------------------------------------------------


def test_s10_a_retry_after_a_crash_of_the_primary_hears_the_first_result_from_the_log() -> None:
    disk, store = SimDisk(), SimStore()
    log, _found = _opened(disk)
    primary = serving(shard("a b"), store=store)
    primary.stores = False
    primary.write("v", operation=operation(1))
    primary.ack("b")
    _written(primary, log)

    again = _restarted(disk.after_kill(), store, shard_map("a b c", [shard("b a c", epoch=2)]))
    again.up("b")
    again.hear("b", append_of([begin_entry(2, 3, "b")], prev=(1, 2), commit=3))
    assert again.copy().state.gateways["c-1"].results == {1: (documents.Answer.CREATED, 2)}


def test_s10_results_travel_with_a_snapshot_and_survive_the_restart_of_the_log() -> None:
    state = CopyState({"c-1": documents.GatewayResults(1, {1: (1, 7)})}, 0, 5)
    disk = SimDisk()
    log, _found = _opened(disk)
    learner = Bench(shard("b c", learners="a", epoch=9))
    learner.up("b")
    learner.hear("b", SnapshotBegin(0, FIRST, 9, 7, 9, 40, state, (EpochStart(9, 30),)))
    learner.hear("b", SnapshotRows(0, FIRST, 9, 7, 1, (), (), True))
    learner.machine.installed(0, FIRST, now=learner.now)
    learner.pump()
    _written(learner, log)

    again = _restarted(disk.after_kill(), learner.store, learner.map)
    assert again.copy().state == state
