"""The rules of one shard (replication.md rules 3, 4, 5; counterexamples.md S2, S3, S6)."""

import pytest
from msgspec.structs import replace

from ringkeep_core.mapchanges import (
    AddLearner,
    Failover,
    Grow,
    Move,
    Refusal,
    RemoveCopy,
    ShardChange,
    ShardChanges,
    Shrink,
    Touch,
    Unfit,
    apply,
)
from ringkeep_core.shardmap import Copy, Primary, Settings, Shard, ShardMap, WantedMember
from ringkeep_testing.maps import FIRST, after, copies, refusal, shard, shard_after, shard_map, wanted_with

NEXT = FIRST + 1


def _abc(one: Shard, *, draining: str = "", settings: Settings | None = None) -> ShardMap:
    return shard_map("a b c d", [one], draining=draining, settings=settings)


def _grow(storage: str, *, revision: int = 1, boot: str = "", added: int = FIRST, epoch: int = 1) -> Grow:
    return Grow(0, revision, storage, boot or f"{storage}-1", added, epoch, "a-1")


# Shrink


def test_a_removed_member_stays_a_learner_of_the_same_copy() -> None:
    result = shard_after(_abc(shard("a b c")), Shrink(0, 1, ("b",)))

    assert result == Shard(1, 2, Primary("a", "a-1"), copies("a c"), (), copies("b"), 2)


def test_the_entry_that_takes_in_sync_below_need_makes_the_removed_eligible() -> None:
    result = shard_after(_abc(shard("a b")), Shrink(0, 1, ("b",)))

    assert result == Shard(1, 2, Primary("a", "a-1"), copies("a"), copies("b"), copies("b"), 2)


def test_removals_while_already_below_need_add_to_the_eligible() -> None:
    result = shard_after(_abc(shard("a b", eligible="c", need=3)), Shrink(0, 1, ("b",)))

    assert result == Shard(1, 2, Primary("a", "a-1"), copies("a"), copies("c b"), copies("c b"), 3)


def test_the_primary_is_never_removed_so_a_set_never_becomes_empty() -> None:
    assert refusal(_abc(shard("a b c")), Shrink(0, 1, ("b", "a"))) == "is_primary"
    assert refusal(_abc(shard("a")), Shrink(0, 1, ("a",))) == "is_primary"


@pytest.mark.parametrize("storages", [(), ("d",), ("b", "d")])
def test_only_members_of_in_sync_can_be_removed_from_it(storages: tuple[str, ...]) -> None:
    assert refusal(_abc(shard("a b", learners="d")), Shrink(0, 1, storages)) == "not_in_sync"


# Grow


def test_a_learner_joins_in_sync_and_leaves_the_learners() -> None:
    result = shard_after(_abc(shard("a b", learners="c d")), _grow("c"))

    assert result == Shard(1, 2, Primary("a", "a-1"), copies("a b c"), (), copies("d"), 2)


def test_eligible_is_emptied_by_the_growth_after_which_in_sync_reaches_need() -> None:
    result = shard_after(_abc(shard("a", eligible="b", learners="c")), _grow("c"))

    assert result == Shard(1, 2, Primary("a", "a-1"), copies("a c"), (), copies("b"), 2)


def test_the_other_eligible_copies_stay_while_in_sync_is_still_short() -> None:
    result = shard_after(_abc(shard("a", eligible="b c", need=3), settings=Settings(3, 3)), _grow("b"))

    assert result == Shard(1, 2, Primary("a", "a-1"), copies("a b"), copies("c"), copies("c"), 3)


def test_need_rises_only_with_the_growth_that_meets_it() -> None:
    start = _abc(shard("a", learners="b c", need=1), settings=Settings(3, 3))
    second = shard_after(start, _grow("b"))
    third = shard_after(replace(start, shards=(second,)), _grow("c", revision=2))

    assert (second.need, third.need) == (1, 3)


def test_a_late_growth_of_another_epoch_is_refused() -> None:
    moved = after(_abc(shard("a b", learners="c")), ShardChanges((Move(0, 1, "b"),), "test"))

    assert refusal(moved, _grow("c", revision=2)) == "not_primary"
    assert refusal(moved, Grow(0, 2, "c", "c-1", FIRST, 2, "a-1")) == "not_primary"


def test_a_growth_proposed_by_an_earlier_boot_of_the_primary_is_refused() -> None:
    assert refusal(_abc(shard("a b", learners="c")), Grow(0, 1, "c", "c-1", FIRST, 1, "a-0")) == "not_primary"


def test_a_growth_of_a_copy_added_at_another_version_is_refused() -> None:
    assert refusal(_abc(shard("a b", learners="c")), _grow("c", added=FIRST - 1)) == "not_learner"


def test_a_growth_of_a_member_that_holds_no_learner_is_refused() -> None:
    assert refusal(_abc(shard("a b")), _grow("c")) == "not_learner"
    assert refusal(_abc(shard("a b")), _grow("b")) == "not_learner"


def test_a_growth_of_a_rebooted_member_is_refused() -> None:
    assert refusal(_abc(shard("a b", learners="c")), _grow("c", boot="c-0")) == "wrong_boot"


def test_a_growth_of_a_draining_or_unwanted_member_is_refused() -> None:
    draining = _abc(shard("a b", learners="c"), draining="c")
    wanted = replace(draining.wanted, members={"a": draining.wanted.members["a"]})

    assert refusal(draining, _grow("c")) == "draining"
    assert refusal(replace(draining, wanted=wanted), _grow("c")) == "draining"


def test_a_draining_member_grows_into_a_shard_that_is_short_of_need_and_an_unwanted_one_does_not() -> None:
    short = _abc(shard("a", eligible="c"), draining="c")
    wanted = replace(short.wanted, members={"a": short.wanted.members["a"]})

    assert shard_after(short, _grow("c")) == Shard(1, 2, Primary("a", "a-1"), copies("a c"), (), (), 2)
    assert refusal(replace(short, wanted=wanted), _grow("c")) == "draining"


# Failover


def test_a_failover_keeps_the_live_complete_copies_and_starts_an_epoch() -> None:
    result = shard_after(_abc(shard("a b c", learners="d")), Failover(0, 1, "c", ("b", "c", "d")))

    assert result == Shard(2, 2, Primary("c", "c-1"), copies("b c"), (), copies("d a"), 2)


def test_a_failover_to_fewer_than_need_keeps_the_others_eligible_the_old_primary_too() -> None:
    result = shard_after(_abc(shard("a b")), Failover(0, 1, "b", ("b", "c")))

    assert result == Shard(2, 2, Primary("b", "b-1"), copies("b"), copies("a"), copies("a"), 2)


def test_an_eligible_copy_may_take_over_when_in_sync_is_dead() -> None:
    result = shard_after(_abc(shard("a", eligible="b c")), Failover(0, 1, "b", ("b",)))

    assert result == Shard(2, 2, Primary("b", "b-1"), copies("b"), copies("a c"), copies("c a"), 2)


def test_the_odd_one_out_hands_over_to_the_eligible_that_reach_need() -> None:
    result = shard_after(_abc(shard("a", eligible="b c")), Failover(0, 1, "c", ("b", "c")))

    assert result == Shard(2, 2, Primary("c", "c-1"), copies("b c"), (), copies("a"), 2)


def test_a_failover_to_a_copy_that_is_not_complete_is_refused() -> None:
    start = _abc(shard("a b", learners="c"))

    assert refusal(start, Failover(0, 1, "c", ("b", "c"))) == "not_complete"
    assert refusal(start, Failover(0, 1, "d", ("b", "d"))) == "not_complete"


def test_a_failover_to_somebody_not_alive_is_refused() -> None:
    assert refusal(_abc(shard("a b")), Failover(0, 1, "b", ("a", "c"))) == "not_live"


# Move, learners, unfit copies


def test_a_move_starts_an_epoch_and_leaves_the_sets_alone() -> None:
    result = shard_after(_abc(shard("a b", learners="c")), Move(0, 1, "b"))

    assert result == Shard(2, 2, Primary("b", "b-1"), copies("a b"), (), copies("c"), 2)


def test_a_move_outside_in_sync_or_to_the_primary_itself_is_refused() -> None:
    start = _abc(shard("a", eligible="b", learners="c"))

    assert [refusal(start, Move(0, 1, to)) for to in "abc"] == ["is_primary", "not_in_sync", "not_in_sync"]


def test_a_new_learner_is_a_copy_of_the_entrys_version() -> None:
    result = shard_after(_abc(shard("a b")), AddLearner(0, 1, "c"))

    assert result == Shard(1, 2, Primary("a", "a-1"), copies("a b"), (), (Copy("c", NEXT),), 2)


def test_a_learner_that_holds_a_copy_is_unknown_or_draining_is_refused() -> None:
    start = _abc(shard("a b", learners="c"), draining="d")

    assert refusal(start, AddLearner(0, 1, "c")) == "already_held"
    assert refusal(start, AddLearner(0, 1, "x")) == "unknown_member"
    assert refusal(start, AddLearner(0, 1, "d")) == "draining"


def test_a_learner_that_is_not_eligible_can_be_given_up() -> None:
    start = _abc(shard("a", eligible="b", learners="c"))
    result = shard_after(start, RemoveCopy(0, 1, "c", FIRST))

    assert result == Shard(1, 2, Primary("a", "a-1"), copies("a"), copies("b"), copies("b"), 2)
    assert refusal(start, RemoveCopy(0, 1, "b", FIRST)) == "is_complete"
    assert refusal(start, RemoveCopy(0, 1, "c", FIRST - 1)) == "not_held"


def test_an_in_sync_copy_is_given_up_when_as_many_as_are_wanted_remain() -> None:
    result = shard_after(_abc(shard("a b c d")), RemoveCopy(0, 1, "d", FIRST))

    assert result == Shard(1, 2, Primary("a", "a-1"), copies("a b c"), (), (), 2)


def test_an_in_sync_copy_stays_while_fewer_than_wanted_would_remain() -> None:
    below_wanted = _abc(shard("a b c"))
    below_need = _abc(shard("a b", need=2), settings=Settings(1, 1))

    assert refusal(below_wanted, RemoveCopy(0, 1, "c", FIRST)) == "too_few_copies"
    assert refusal(below_need, RemoveCopy(0, 1, "b", FIRST)) == "too_few_copies"


def test_the_copies_wanted_are_those_that_wanted_members_of_weight_can_hold() -> None:
    drained = shard_map("a b c", [shard("a b c")], draining="c")
    without_weight = replace(drained, wanted=wanted_with(shard_map("a b c", []), c=0.0))
    unlisted = replace(drained, wanted=replace(drained.wanted, members={"a": WantedMember(), "b": WantedMember()}))
    unregistered = replace(
        unlisted, wanted=replace(drained.wanted, members={name: WantedMember() for name in ("a", "b", "x")})
    )

    for start in (drained, without_weight, unlisted, unregistered):
        assert shard_after(start, RemoveCopy(0, 1, "c", FIRST)).in_sync == copies("a b")


def test_the_primarys_copy_is_never_given_up() -> None:
    assert refusal(_abc(shard("a b c d")), RemoveCopy(0, 1, "a", FIRST)) == "is_primary"


def test_changes_of_one_shard_in_one_entry_are_applied_in_order() -> None:
    start = _abc(shard("a b c d"))
    entry = ShardChanges((Move(0, 1, "b"), RemoveCopy(0, 2, "a", FIRST), RemoveCopy(0, 2, "d", FIRST)), "test")
    applied = apply(start, NEXT, entry)

    assert applied.map.shards[0] == Shard(2, 3, Primary("b", "b-1"), copies("b c d"), (), (), 2)
    assert [outcome and outcome.code for outcome in applied.outcomes] == [None, None, "stale_revision"]


def test_an_unfit_copy_leaves_both_sets_and_starts_anew_under_another_identity() -> None:
    in_sync = shard_after(_abc(shard("a b c")), Unfit(0, 1, "b", FIRST))
    eligible = shard_after(_abc(shard("a", eligible="b")), Unfit(0, 1, "b", FIRST))
    below_need = shard_after(_abc(shard("a b")), Unfit(0, 1, "b", FIRST))

    assert in_sync == Shard(1, 2, Primary("a", "a-1"), copies("a c"), (), (Copy("b", NEXT),), 2)
    assert eligible == Shard(1, 2, Primary("a", "a-1"), copies("a"), (), (Copy("b", NEXT),), 2)
    assert below_need == Shard(1, 2, Primary("a", "a-1"), copies("a"), (), (Copy("b", NEXT),), 2)


def test_an_unfit_primary_gives_the_shard_to_another_complete_copy() -> None:
    in_sync = shard_after(_abc(shard("a b c")), Unfit(0, 1, "a", FIRST))
    eligible = shard_after(_abc(shard("a", eligible="b c")), Unfit(0, 1, "a", FIRST))

    assert in_sync == Shard(2, 2, Primary("b", "b-1"), copies("b c"), (), (Copy("a", NEXT),), 2)
    assert eligible == Shard(2, 2, Primary("b", "b-1"), copies("b c"), (), (Copy("a", NEXT),), 2)


def test_the_last_complete_copy_stays_listed_even_if_unfit() -> None:
    assert refusal(_abc(shard("a", learners="b")), Unfit(0, 1, "a", FIRST)) == "last_copy"


def test_an_unfit_copy_of_another_version_is_refused() -> None:
    assert refusal(_abc(shard("a b")), Unfit(0, 1, "b", FIRST - 1)) == "not_held"
    assert refusal(_abc(shard("a b")), Unfit(0, 1, "c", FIRST)) == "not_held"


def test_a_touch_moves_the_revision_and_nothing_else() -> None:
    start = shard("a", eligible="b", learners="c")
    result = shard_after(_abc(start), Touch(0, 1))

    assert result == replace(start, revision=2)


# Compare-and-set

CHANGES: list[ShardChange] = [
    Shrink(0, 1, ("b",)),
    _grow("d"),
    Failover(0, 1, "b", ("b", "c")),
    Move(0, 1, "b"),
    AddLearner(0, 1, "d"),
    RemoveCopy(0, 1, "d", FIRST),
    Unfit(0, 1, "b", FIRST),
    Touch(0, 1),
]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: type(change).__name__)
def test_every_change_is_a_compare_and_set_on_the_revision_not_on_the_epoch(change: ShardChange) -> None:
    touched = after(_abc(shard("a b c", learners="d")), ShardChanges((Touch(0, 1),), "test"))

    assert touched.shards[0].epoch == 1
    assert refusal(touched, change) == "stale_revision"


def test_a_failover_that_raced_with_a_removal_is_refused() -> None:
    """S2, first form: the removal commits, a write follows without the removed, then the failover to it arrives."""
    removed = after(_abc(shard("a b c")), ShardChanges((Shrink(0, 1, ("b",)),), "test"))

    assert refusal(removed, Failover(0, 1, "b", ("b", "c"))) == "stale_revision"


def test_an_entry_over_many_shards_succeeds_or_fails_shard_by_shard() -> None:
    start = shard_map("a b c", [shard("a b"), shard("b c"), shard("c a")])
    entry = ShardChanges((Move(0, 1, "b"), Move(1, 9, "c"), Move(7, 1, "a"), Move(2, 1, "a")), "test")
    applied = apply(start, NEXT + 5, entry)

    assert [None if it is None else it.code for it in applied.outcomes] == [
        None,
        "stale_revision",
        "unknown_shard",
        None,
    ]
    assert applied.map.version == NEXT + 5
    assert applied.map.shards[1] is start.shards[1]
    assert [it.primary.storage for it in applied.map.shards] == ["b", "b", "a"]


def test_the_version_moves_only_if_the_map_changed() -> None:
    start = _abc(shard("a b"))
    refused = apply(start, NEXT, ShardChanges((Move(0, 2, "b"),), "test"))
    empty = apply(start, NEXT, ShardChanges((), "test"))

    assert refused.map is start
    assert refused.outcomes == (Refusal("stale_revision", "the shard is at revision 1, not 2"),)
    assert (empty.map, empty.outcomes) == (start, ())
