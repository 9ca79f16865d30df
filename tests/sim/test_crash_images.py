"""Crash images: the real log over a simulated disk, cut anywhere, reopened and compared with a model of what it promised.

Whatever was acknowledged is there; of the batch in flight all or nothing; nothing else ever. Rot is either noticed, and
harms only what it hit, or hits the newest batch, which cannot be told from a torn tail.
"""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

import pytest

from ringkeep_node.machines.records import Record
from ringkeep_node.machines.recovery import RecoveredLog
from ringkeep_node.runtime.wal.log import Log, LogGone, LogSettings
from ringkeep_testing.log_model import Author, Key, LogModel
from ringkeep_testing.sim_disk import PowerCut, SimDisk

SETTINGS = LogSettings(
    segment_bytes=24 * 1024, log_bytes_max=80 * 1024, ahead_bytes=16 * 1024, keep_s=1e9, salt=0x1234567890ABCDEF
)
SEEDS = 24
CUTS_A_SEED = 17
IMAGES_A_CUT = 5


class Run:
    """One process on a simulated disk: appends from an author, acknowledged through on_synced."""

    def __init__(self, disk: SimDisk, author: Author, history: list[list[Record]], *, seed: int) -> None:
        self.disk = disk
        self.author = author
        self.history = history
        self._before = len(history)
        self.acknowledged = self._before
        self.random = Random(seed)
        self.log, self.found = Log.open(disk, SETTINGS, dict(author.applied), clock=lambda: 0.0)
        self.log.on_synced = self._on_synced

    def _on_synced(self, through: int) -> None:
        self.acknowledged = self._before + through

    def work(self, rounds: int) -> None:
        """Append, apply, release; a power cut ends it with PowerCut."""
        for _ in range(rounds):
            for _ in range(self.random.randint(1, 4)):
                self.history.append(self.author.append())
                self.log.append(self.history[-1])
            self.log.pump()
            if self.random.random() < 0.3:
                self.author.apply_some()
                self.log.release(dict(self.author.applied))
                self.log.pump()


def fitting(found: RecoveredLog, run: Run) -> tuple[LogModel | None, list[str]]:
    """Return the model a recovered log equals: what was acknowledged, or that and the batch in flight; else why not."""
    said = []
    for appends in sorted({run.acknowledged, len(run.history)}):
        model = LogModel.of(run.history[:appends])
        differences = model.differences(found, run.author.applied)
        if not differences:
            return model, []
        said.append(f"after {appends} appends: {differences}")
    return None, said


def read_all(log: Log, key: Key) -> list[tuple[int, int, bytes]]:
    """Return everything that can be read of a copy, in small portions."""
    after = log.first_sn(*key) - 1
    entries: list[tuple[int, int, bytes]] = []
    while portion := log.read(*key, after, 700):
        entries += portion
        after = portion[-1][1]
    return entries


def cut_run(seed: int, step: int) -> Run:
    """Run a history until the power fails at a step of the disk."""
    disk = SimDisk()
    run = Run(disk, Author(Random(seed)), [], seed=seed)
    disk.cut_at_step = disk.steps + step
    with pytest.raises(PowerCut):
        run.work(10_000)
    return run


@pytest.mark.parametrize("seed", range(SEEDS))
def test_after_a_power_cut_the_log_holds_what_was_acknowledged_and_of_the_last_batch_all_or_nothing(seed: int) -> None:
    for number in range(CUTS_A_SEED):
        run = cut_run(seed, 1 + number * 13 + seed % 13)
        for image in range(IMAGES_A_CUT):
            disk = run.disk.after_power_cut(Random(f"{seed}/{number}/{image}"))
            log, found = Log.open(disk, SETTINGS, dict(run.author.applied), clock=lambda: 0.0)
            model, why_not = fitting(found, run)

            assert model is not None, f"seed {seed}, cut {number}, image {image}: {why_not}"
            for key, copy in model.copies.items():
                first = log.first_sn(*key)
                expected = [entry for entry in copy.entries if entry[1] >= first]
                assert read_all(log, key) == expected, f"seed {seed}, cut {number}, image {image}, copy {key}"


@pytest.mark.parametrize("seed", range(8))
def test_a_log_that_is_cut_again_and_again_still_holds_everything_acknowledged(seed: int) -> None:
    random = Random(seed)
    author = Author(Random(seed + 1000))
    disk = SimDisk()
    history: list[list[Record]] = []
    for life in range(15):
        run = Run(disk, author, history, seed=seed * 100 + life)
        if life:
            assert LogModel.of(history).differences(run.found, author.applied) == [], f"seed {seed}, life {life}"
        disk.cut_at_step = disk.steps + random.randint(1, 60)
        with pytest.raises(PowerCut):
            run.work(10_000)
        disk = disk.after_power_cut(random) if random.random() < 0.7 else disk.after_kill()
        _log, found = Log.open(disk.after_kill(), SETTINGS, dict(author.applied), clock=lambda: 0.0)
        model, why_not = fitting(found, run)

        assert model is not None, f"seed {seed}, life {life}: {why_not}"
        acknowledged = LogModel.of(history[: run.acknowledged])
        if acknowledged.differences(found, author.applied) == []:
            del history[run.acknowledged :]
        author.model = LogModel.of(history)


def flipped(seed: int) -> Iterator[tuple[SimDisk, Run, tuple[str, int]]]:
    """Yield disks of a quiet log with one or two flipped bits, and where the first is."""
    disk = SimDisk()
    run = Run(disk, Author(Random(seed)), [], seed=seed)
    run.work(25)
    for image in range(30):
        random = Random(f"{seed}/{image}")
        damaged = run.disk.after_power_cut(random)
        where = damaged.flip(random)
        assert where is not None
        if random.random() < 0.3:
            damaged.flip(random)
        yield damaged, run, where


@pytest.mark.parametrize("seed", range(12))
def test_a_flipped_bit_harms_a_copy_visibly_or_not_at_all(seed: int) -> None:
    for damaged, run, where in flipped(seed):
        _log, found = Log.open(damaged, SETTINGS, dict(run.author.applied), clock=lambda: 0.0)
        full = LogModel.of(run.history)
        cut = [LogModel.of(run.history[:appends]) for appends in range(max(0, len(run.history) - 4), len(run.history))]
        for key in sorted({*found.copies, *full.copies}):
            applied = run.author.applied
            copy = found.copies.get(key)
            silent = [model for model in (full, *cut) if key not in model.copies and copy is None]
            right = [model for model in (full, *cut) if not model.copy_differences(key, found, applied)]

            assert silent or right or copy is None or copy.harmed, f"seed {seed}, flip {where}, copy {key}"
            assert copy is not None or silent or found.raft_harmed, f"seed {seed}, flip {where}: {key} is gone silently"


def test_a_record_that_rots_after_it_was_acknowledged_is_lost_for_its_shard_only() -> None:
    disk = SimDisk()
    log, _ = Log.open(disk, SETTINGS, {}, clock=lambda: 0.0)
    for sn in range(1, 4):
        log.append([Record(10, shard, 1, 1, sn, b"%d/%d" % (shard, sn) * 50) for shard in range(3)])
        log.pump()
    name = disk.names()[-1]
    at = disk.content(name).index(b"1/2" * 50)
    disk.flip_at(name, at + 7)

    _log, found = Log.open(disk, SETTINGS, {}, clock=lambda: 0.0)
    assert {key: copy.harmed for key, copy in found.copies.items()} == {(0, 1): False, (1, 1): True, (2, 1): False}
    assert not found.raft_harmed


def test_a_rotten_record_that_the_store_has_applied_harms_nobody() -> None:
    disk = SimDisk()
    log, _ = Log.open(disk, SETTINGS, {}, clock=lambda: 0.0)
    for sn in range(1, 4):
        log.append([Record(10, 1, 1, 1, sn, b"1/%d" % sn * 50)])
        log.pump()
    name = disk.names()[-1]
    disk.flip_at(name, disk.content(name).index(b"1/2" * 50))

    log, found = Log.open(disk, SETTINGS, {(1, 1): 2}, clock=lambda: 0.0)
    assert not found.copies[(1, 1)].harmed
    assert found.copies[(1, 1)].entries == [(1, 3, b"1/3" * 50)]
    with pytest.raises(LogGone):
        log.read(1, 1, 1, 1000)


def test_a_lost_header_harms_raft_and_every_shard_without_a_later_contiguous_record() -> None:
    disk = SimDisk()
    log, _ = Log.open(disk, SETTINGS, {}, clock=lambda: 0.0)
    for sn in range(1, 5):
        shards = (0, 1) if sn < 4 else (0,)
        log.append([Record(10, shard, 1, 1, sn, b"%d/%d" % (shard, sn)) for shard in shards])
        if sn == 2:
            log.append([Record(10, 2, 1, 1, 1, b"only here")])
        log.pump()
    log.append([Record(10, 0, 1, 1, 5, b"0/5"), Record(10, 3, 1, 1, 1, b"3/1")])
    log.pump()
    name = disk.names()[-1]
    disk.flip_at(name, 4096 * 4 + 20)

    _log, found = Log.open(disk, SETTINGS, {}, clock=lambda: 0.0)
    assert {key: copy.harmed for key, copy in found.copies.items()} == {
        (0, 1): True,
        (1, 1): True,
        (2, 1): True,
        (3, 1): False,
    }
    assert found.raft_harmed


def test_harm_is_remembered_by_the_next_openings() -> None:
    disk = SimDisk()
    log, _ = Log.open(disk, SETTINGS, {}, clock=lambda: 0.0)
    for sn in range(1, 4):
        log.append([Record(10, 1, 1, 1, sn, b"1/%d" % sn * 50)])
        log.pump()
    name = disk.names()[-1]
    disk.flip_at(name, disk.content(name).index(b"1/2" * 50))

    verdicts = []
    for _ in range(3):
        _log, found = Log.open(disk, SETTINGS, {}, clock=lambda: 0.0)
        verdicts.append(found.copies[(1, 1)].harmed)
    assert verdicts == [True, True, True]
