"""The stages of a commit are counted once for each batch or followed change, and cost little."""

from __future__ import annotations

from ringkeep_node.machines.records import NO_SHARD, Kind, Record
from ringkeep_node.metrics import CommitStages, Durations
from ringkeep_node.runtime.stages import CommitTimer
from ringkeep_testing.maps import shard, shard_map


class Clock:
    """Stands still until a test moves it."""

    def __init__(self) -> None:
        self.at = 100.0

    def __call__(self) -> float:
        return self.at


def entry(shard: int, sn: int) -> Record:
    return Record(Kind.SHARD_ENTRY, shard, 7, 1, sn, b"x")


def timer() -> tuple[CommitTimer, CommitStages, Clock]:
    stages, clock = CommitStages(), Clock()
    return CommitTimer(stages, "a", clock), stages, clock


MAP = shard_map("a b", [shard("a b"), shard("b a")])


def seen(durations: Durations) -> tuple[int, float]:
    return durations.count, round(durations.sum_s, 6)


def test_a_followed_change_lasts_from_append_to_hand_over_and_only_one_is_followed_at_a_time() -> None:
    commit, stages, clock = timer()
    commit.appended([entry(0, 5)], MAP)
    clock.at += 0.002
    commit.appended([entry(0, 6)], MAP)
    commit.committed([(0, 7, [(1, 4, b"x")], [])])
    commit.committed([(0, 8, [(1, 9, b"x")], [])])
    clock.at += 0.001
    commit.committed([(0, 7, [(1, 5, b"x"), (1, 6, b"x")], [])])
    commit.committed([(0, 7, [(1, 7, b"x")], [])])

    assert seen(stages.replicate) == (1, 0.003)


def test_records_that_are_no_change_of_a_shard_led_here_are_not_followed() -> None:
    commit, stages, clock = timer()
    commit.appended([entry(1, 5)], MAP)
    commit.appended([Record(Kind.RAFT_ENTRY, NO_SHARD, 0, 1, 5, b"x")], MAP)
    commit.appended([entry(0, 5)], None)
    clock.at += 0.002
    commit.committed([(1, 7, [(1, 5, b"x")], []), (0, 7, [(1, 5, b"x")], [])])

    assert seen(stages.replicate) == (0, 0.0)


def test_a_change_that_never_commits_makes_room_for_another() -> None:
    commit, stages, clock = timer()
    commit.appended([entry(0, 5)], MAP)
    clock.at += 60.0
    commit.appended([entry(0, 9)], MAP)
    clock.at += 0.5
    commit.committed([(0, 7, [(1, 9, b"x")], [])])

    assert seen(stages.replicate) == (1, 0.5)


def test_a_batch_counts_its_wait_and_its_sync() -> None:
    commit, stages, _ = timer()
    commit.batch(0.25, 0.004)
    commit.batch(-0.001, 0.006)

    assert (seen(stages.log_wait), seen(stages.fsync)) == ((2, 0.25), (2, 0.01))
