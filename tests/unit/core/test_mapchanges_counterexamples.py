"""The counterexamples of the map's rules, step by step: each ends in the refusal or the state that saves the write.

Sections and letters as in counterexamples.md: P is the old primary, Q the new one, A a replica, C a learner.
"""

from ringkeep_core.mapchanges import (
    Boot,
    Failover,
    Grow,
    Leave,
    MapChange,
    RemoveCopy,
    SetWanted,
    ShardChange,
    ShardChanges,
    Shrink,
    Touch,
    Unfit,
)
from ringkeep_core.shardmap import Primary, Settings, Shard, ShardMap
from ringkeep_testing.maps import FIRST, after, copies, refusal, shard, shard_map, wanted_with


def _map(one: Shard, *, settings: Settings | None = None) -> ShardMap:
    return shard_map("p a c q", [one], settings=settings)


def _then(start: ShardMap, *changes: MapChange | ShardChange) -> ShardMap:
    for change in changes:
        start = after(start, ShardChanges((change,), "test") if isinstance(change, ShardChange) else change)
    return start


def _grow_c(revision: int) -> Grow:
    return Grow(0, revision, "c", "c-1", FIRST, 1, "p-1")


def _restarted_p(live: tuple[str, ...] = ()) -> Boot:
    return Boot("p", "p", "p-2", 2, "", "", live=live)


def test_s1_a_primary_that_restarts_before_any_verdict_does_not_resume_its_epoch() -> None:
    taken_over = _then(_map(shard("p a")), _restarted_p(live=("a",)))
    alone = _then(_map(shard("p a")), _restarted_p())

    assert (taken_over.shards[0].epoch, taken_over.shards[0].primary) == (2, Primary("a", "a-1"))
    assert (alone.shards[0].epoch, alone.shards[0].primary) == (2, Primary("p", "p-2"))


def test_s1_a_growth_that_the_earlier_boot_has_forgotten_never_commits() -> None:
    restarted = _then(_map(shard("p a", learners="c")), _restarted_p())

    assert refusal(restarted, _grow_c(1)) == "stale_revision"
    assert refusal(restarted, _grow_c(2)) == "not_primary"


def test_s2_a_failover_decided_before_a_removal_does_not_elect_the_removed() -> None:
    removed = _then(_map(shard("p a c")), Shrink(0, 1, ("a",)))

    assert refusal(removed, Failover(0, 1, "a", ("a", "c"))) == "stale_revision"
    assert refusal(removed, Failover(0, 2, "a", ("a", "c"))) == "not_complete"


def test_s2_a_growth_that_is_delivered_twice_counts_once() -> None:
    removed_again = _then(_map(shard("p a", learners="c")), _grow_c(1), Shrink(0, 2, ("c",)))

    assert refusal(removed_again, _grow_c(1)) == "stale_revision"
    assert removed_again.shards[0].in_sync == copies("p a")


def test_s3_an_empty_change_on_the_same_revision_forces_an_answer_about_a_slow_growth() -> None:
    forced = _then(_map(shard("p a", learners="c")), Touch(0, 1))

    assert refusal(forced, _grow_c(1)) == "stale_revision"


def test_s6a_an_eligible_copy_stops_being_one_when_another_takes_its_place() -> None:
    grown = _then(_map(shard("p a", learners="c")), Shrink(0, 1, ("a",)), _grow_c(2))

    assert grown.shards[0].eligible == ()
    assert refusal(grown, Failover(0, 3, "a", ("a",))) == "not_complete"


def test_s6b_lowering_need_while_a_copy_is_eligible_takes_its_eligibility() -> None:
    short = _then(_map(shard("p a")), Shrink(0, 1, ("a",)))
    lowered = _then(short, SetWanted(wanted_with(short, settings=Settings(3, 1)), "test"))

    assert (lowered.shards[0].need, lowered.shards[0].eligible) == (1, ())
    assert refusal(lowered, Failover(0, 3, "a", ("a",))) == "not_complete"


def test_s6c_an_eligible_copy_that_needs_a_snapshot_cannot_be_elected_any_more() -> None:
    unfit = _then(_map(shard("p a")), Shrink(0, 1, ("a",)), Unfit(0, 2, "a", FIRST))

    assert refusal(unfit, Failover(0, 3, "a", ("a",))) == "not_complete"


def test_s6d_a_damaged_copy_never_becomes_eligible() -> None:
    unfit = _then(_map(shard("p a")), Unfit(0, 1, "a", FIRST))

    assert (unfit.shards[0].in_sync, unfit.shards[0].eligible) == (copies("p"), ())


def test_s6e_the_last_complete_copies_stay_however_long_their_nodes_are_dead() -> None:
    start = _map(shard("p", eligible="a"))

    assert refusal(start, RemoveCopy(0, 1, "a", FIRST)) == "is_complete"
    assert refusal(start, RemoveCopy(0, 1, "p", FIRST)) == "is_primary"


def test_s6e_a_plan_leaves_as_many_copies_as_the_shard_needs() -> None:
    start = shard_map("p a b", [shard("p a b", need=3)], settings=Settings(1, 1))

    assert refusal(start, RemoveCopy(0, 1, "b", FIRST)) == "too_few_copies"


def test_s6e_a_plan_leaves_as_many_copies_as_are_wanted() -> None:
    start = shard_map("p a b c", [shard("p a b c")], settings=Settings(3, 1))
    three = _then(start, RemoveCopy(0, 1, "c", FIRST))

    assert refusal(three, RemoveCopy(0, 2, "b", FIRST)) == "too_few_copies"


def test_a_plan_never_takes_the_copy_from_under_the_primary() -> None:
    start = _map(shard("p a b c"))

    assert refusal(start, RemoveCopy(0, 1, "p", FIRST)) == "is_primary"


def test_s6f_a_second_member_raises_need_shard_by_shard_and_stops_no_write() -> None:
    start = shard_map("p", [shard("p", need=1), shard("p", need=1)])
    start = _then(start, Boot("a", "a", "a-1", 1, "", ""))
    start = _then(start, SetWanted(wanted_with(start, a=1.0), "scaled"))

    assert start.need_wanted() == 2
    assert [it.need for it in start.shards] == [1, 1]


def test_s12a_a_member_that_got_a_copy_after_it_was_seen_empty_cannot_leave() -> None:
    start = shard_map("p a c q", [shard("p a", learners="q")], draining="q")

    assert refusal(start, Leave("q", "drained")) == "holds_copies"
    assert _then(start, RemoveCopy(0, 1, "q", FIRST), Leave("q", "drained")).left == ("q",)


def test_s12b_who_has_left_is_not_let_in_again() -> None:
    gone = _then(shard_map("p a c q", [shard("p a")], draining="q"), Leave("q", "drained"))

    assert refusal(gone, Boot("q", "q", "q-2", 2, "", "")) == "left"


def test_s12c_two_processes_of_one_name_do_not_alternate() -> None:
    second = _then(_map(shard("a p")), Boot("p", "p2", "p2-1", 1, "", ""))

    assert refusal(second, Boot("p", "p", "p-9", 9, "", "")) == "left"
