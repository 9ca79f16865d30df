"""Boots, the wanted state, leaving, the first map (replication.md rules 0 and 8; counterexamples.md S1, S11, S12)."""

import math
from typing import Any

import pytest
from msgspec.structs import replace

from ringkeep_core.mapchanges import Boot, Grow, Leave, RemoveCopy, SetWanted, apply, bootstrap, check, reason_of
from ringkeep_core.shardmap import (
    GENERATION_STEP,
    Copy,
    Member,
    MemberState,
    Primary,
    Settings,
    Shard,
    ShardMap,
    Wanted,
    WantedMember,
)
from ringkeep_testing.maps import FIRST, after, copies, member, refusal, shard, shard_after, shard_map, wanted_with

NEXT = FIRST + 1


def _boot(name: str, *, storage: str = "", boot: str = "", counter: int = 2, live: str = "a b c d") -> Boot:
    return Boot(
        name=name,
        storage=storage or name,
        boot=boot or f"{name}-{counter}",
        counter=counter,
        url=f"http://{name}",
        peer=f"{name}:7400",
        live=tuple(live.split()),
    )


# Boots


def test_a_boot_ends_every_epoch_of_the_earlier_boot_and_gives_the_shards_away() -> None:
    start = shard_map("a b c", [shard("a b"), shard("b a"), shard("a c", learners="b")])
    result = after(start, _boot("a"))

    assert result.members["a"] == replace(member("a", counter=2), since=NEXT)
    assert result.shards == (
        Shard(2, 2, Primary("b", "b-1"), copies("a b"), (), (), 2),
        start.shards[1],
        Shard(2, 2, Primary("c", "c-1"), copies("a c"), (), copies("b"), 2),
    )


def test_a_boot_leaves_the_shard_with_the_node_itself_in_a_new_epoch_if_nobody_else_lives() -> None:
    start = shard_map("a b c", [shard("a b"), shard("a", eligible="b")])
    result = after(start, _boot("a", live="a c"))

    assert result.shards == (
        Shard(2, 2, Primary("a", "a-2"), copies("a b"), (), (), 2),
        Shard(2, 2, Primary("a", "a-2"), copies("a"), copies("b"), copies("b"), 2),
    )


def test_an_eligible_copy_does_not_take_over_from_a_node_that_is_back() -> None:
    start = shard_map("a b c", [shard("a", eligible="b")])
    result = after(start, _boot("a"))

    assert result.shards[0].primary == Primary("a", "a-2")


def test_the_shards_of_a_booting_node_are_spread_evenly_over_the_others() -> None:
    start = shard_map("a b c", [shard("a b c")] * 6 + [shard("b a c")] * 2)
    result = after(start, _boot("a"))

    assert [it.primary.storage for it in result.shards].count("b") == 4
    assert [it.primary.storage for it in result.shards].count("c") == 4


def test_a_repeated_boot_is_done_already() -> None:
    start = after(shard_map("a b", [shard("a b")]), _boot("a"))
    applied = apply(start, start.version + 1, _boot("a"))

    assert applied.map is start
    assert applied.outcomes == (None,)


@pytest.mark.parametrize("counter", [0, 1])
def test_a_directory_that_was_rolled_back_or_copied_is_refused(counter: int) -> None:
    assert refusal(shard_map("a b", [shard("a b")]), _boot("a", boot="other", counter=counter)) == "rolled_back"


def test_a_storage_id_under_another_name_is_refused() -> None:
    assert refusal(shard_map("a b", [shard("a b")]), _boot("c", storage="a")) == "renamed"


def test_a_growth_proposed_before_the_members_boot_is_refused_after_it() -> None:
    start = after(shard_map("a b c", [shard("a b", learners="c")]), _boot("c"))

    assert refusal(start, Grow(0, 1, "c", "c-1", FIRST, 1, "a-1")) == "wrong_boot"


def test_an_unknown_name_registers_as_joining() -> None:
    start = shard_map("a b", [shard("a b")])
    result = after(start, _boot("c", counter=1))

    assert result.members["c"] == replace(member("c"), since=NEXT, state=MemberState.JOINING)
    assert result.shards is start.shards


def test_an_unknown_name_that_is_wanted_already_registers_as_a_member() -> None:
    start = shard_map("a b", [shard("a b")])
    start = after(start, SetWanted(wanted_with(start, c=1.0), "test"))
    result = after(start, _boot("c", counter=1))

    assert result.members["c"].state is MemberState.MEMBER


def test_the_same_name_with_an_empty_disk_is_nobodys_copy() -> None:
    start = shard_map("a b c", [shard("a b"), shard("b c a"), shard("b c", learners="a"), shard("b c")])
    result = after(start, _boot("a", storage="a2", counter=1))
    fresh = (Copy("a2", NEXT),)

    assert list(result.members) == ["b", "c", "a2"]
    assert result.left == ("a",)
    assert result.shards == (
        Shard(2, 2, Primary("b", "b-1"), copies("b"), (), fresh, 2),
        Shard(1, 2, Primary("b", "b-1"), copies("b c"), (), fresh, 2),
        Shard(1, 2, Primary("b", "b-1"), copies("b c"), (), fresh, 2),
        start.shards[3],
    )


def test_the_eligible_copies_take_over_from_an_emptied_disk() -> None:
    start = shard_map("a b c", [shard("a", eligible="b c")])
    result = after(start, _boot("a", storage="a2", counter=1, live="c a2"))

    assert result.shards == (Shard(2, 2, Primary("c", "c-1"), copies("b c"), (), (Copy("a2", NEXT),), 2),)


def test_an_emptied_disk_that_had_the_only_complete_copy_is_not_registered() -> None:
    start = shard_map("a b c", [shard("b c"), shard("a", learners="b")])

    assert refusal(start, _boot("a", storage="a2", counter=1)) == "last_copy"


def test_a_draining_name_with_an_empty_disk_gets_no_copies() -> None:
    start = shard_map("a b c", [shard("b c a")], draining="a")
    result = after(start, _boot("a", storage="a2", counter=1))

    assert result.shards == (Shard(1, 2, Primary("b", "b-1"), copies("b c"), (), (), 2),)


def test_a_storage_id_that_has_left_is_never_accepted_again() -> None:
    replaced = after(shard_map("a b c", [shard("b c a")]), _boot("a", storage="a2", counter=1))

    assert refusal(replaced, _boot("a", counter=99)) == "left"


def test_the_reason_of_a_boot_names_the_node() -> None:
    assert reason_of(_boot("a")) == "a started"
    assert reason_of(Leave("a", "scaled down")) == "scaled down"


# The wanted state


def test_the_wanted_state_is_a_compare_and_set_on_its_revision() -> None:
    start = shard_map("a b", [shard("a b")])
    result = after(start, SetWanted(wanted_with(start, b=2.0), "test"))

    assert result.wanted.revision == 2
    assert result.wanted.members["b"] == WantedMember(weight=2.0)
    for revision in (1, 2, 4):
        stale = replace(wanted_with(start, b=3.0), revision=revision)
        assert refusal(result, SetWanted(stale, "test")) == "stale_wanted"
    for revision in (1, 4):
        stale = replace(result.wanted, revision=revision)
        assert refusal(result, SetWanted(stale, "test")) == "stale_wanted"


def test_a_wanted_state_in_which_all_who_are_registered_give_everything_up_is_refused_when_applied() -> None:
    """It was asked for when c was there; c has left since. At the request it was not impossible."""
    start = shard_map("a b", [shard("a b")])
    members = {"a": WantedMember(draining=True), "b": WantedMember(weight=0.0), "c": WantedMember()}
    asked = SetWanted(Wanted(start.wanted.revision + 1, members, start.wanted.settings), "test")

    assert refusal(start, asked) == "bad_wanted"


def test_a_wanted_state_that_is_there_already_is_not_refused_for_its_own_success() -> None:
    start = shard_map("a b", [shard("a b")])
    asked = SetWanted(wanted_with(start, b=2.0), "test")
    done = after(start, asked)

    assert after(done, asked) is done


@pytest.mark.parametrize(
    "settings",
    [
        Settings(replication_factor=0),
        Settings(replication_factor=8),
        Settings(min_in_sync=0),
        Settings(min_in_sync=8),
        Settings(grace_s=-1.0),
        Settings(grace_s=math.nan),
        Settings(grace_s=math.inf),
    ],
)
def test_settings_out_of_range_change_nothing(settings: Settings) -> None:
    start = shard_map("a b", [shard("a b")])

    assert refusal(start, SetWanted(wanted_with(start, settings=settings), "test")) == "bad_wanted"


@pytest.mark.parametrize(
    "members",
    [
        {},
        {"a": WantedMember(weight=-1.0)},
        {"a": WantedMember(weight=math.nan)},
        {"a": WantedMember(weight=math.inf)},
        {"a": WantedMember(weight=0.0)},
        {"a": WantedMember(draining=True)},
        {"a": WantedMember(), "Not A Name": WantedMember()},
    ],
)
def test_members_that_make_no_sense_change_nothing(members: dict[str, WantedMember]) -> None:
    start = shard_map("a b", [shard("a b")])

    assert refusal(start, SetWanted(Wanted(2, members, Settings()), "test")) == "bad_wanted"


@pytest.mark.parametrize(
    "settings",
    [
        Settings(streams_per_node=0),
        Settings(streams_per_node=17),
        Settings(streams_max=0),
        Settings(streams_max=1025),
        Settings(bytes_per_s=-1),
        Settings(bytes_per_s=1 << 41),
        Settings(swaps_per_hour=-1),
        Settings(swaps_per_hour=3601),
    ],
)
def test_limits_of_plans_that_make_no_sense_change_nothing(settings: Settings) -> None:
    start = shard_map("a b", [shard("a b")])

    assert refusal(start, SetWanted(wanted_with(start, settings=settings), "test")) == "bad_wanted"


@pytest.mark.parametrize("opinion", [{"target_digest": "f" * 65}, {"target_version": -1}])
def test_an_opinion_of_the_target_that_no_planner_writes_is_refused(opinion: dict[str, Any]) -> None:
    start = shard_map("a b", [shard("a b")])

    assert refusal(start, SetWanted(replace(wanted_with(start), **opinion), "test")) == "bad_wanted"


def test_a_drain_lowers_need_to_what_the_rest_can_reach() -> None:
    start = shard_map("a b", [shard("a b")])
    wanted = wanted_with(start)
    wanted.members["b"] = WantedMember(draining=True)
    result = after(start, SetWanted(wanted, "drain"))

    assert result.shards[0] == Shard(1, 2, Primary("a", "a-1"), copies("a b"), (), (), 1)
    assert shard_after(result, RemoveCopy(0, 2, "b", FIRST)).in_sync == copies("a")


def test_lower_settings_lower_need_everywhere_at_once_and_empty_eligible() -> None:
    start = shard_map("a b c", [shard("a b c"), shard("a", eligible="b c")])
    result = after(start, SetWanted(wanted_with(start, settings=Settings(3, 1)), "test"))

    assert result.shards == (
        Shard(1, 2, Primary("a", "a-1"), copies("a b c"), (), (), 1),
        Shard(1, 2, Primary("a", "a-1"), copies("a"), (), copies("b c"), 1),
    )


def test_higher_settings_raise_need_only_where_in_sync_reaches_it() -> None:
    start = shard_map("a b c", [shard("a b c"), shard("a b", learners="c")])
    result = after(start, SetWanted(wanted_with(start, settings=Settings(3, 3)), "test"))

    assert [(it.need, it.revision) for it in result.shards] == [(3, 2), (2, 1)]


def test_a_joining_member_becomes_a_member_when_the_wanted_state_lists_it() -> None:
    start = after(shard_map("a b", [shard("a b")]), _boot("c", counter=1))
    result = after(start, SetWanted(wanted_with(start, c=1.0), "test"))

    assert result.members["c"].state is MemberState.MEMBER


# Leave


def _drained() -> ShardMap:
    return shard_map("a b c", [shard("a b")], draining="c")


def test_a_drained_member_leaves_for_good_and_the_wanted_state_forgets_it() -> None:
    result = after(_drained(), Leave("c", "test"))

    assert list(result.members) == ["a", "b"]
    assert result.left == ("c",)
    assert (result.wanted.revision, list(result.wanted.members)) == (2, ["a", "b"])
    assert refusal(result, _boot("c", counter=9)) == "left"


@pytest.mark.parametrize("one", [shard("c a"), shard("a c"), shard("a", eligible="c"), shard("a b", learners="c")])
def test_a_member_in_any_set_of_any_shard_cannot_leave(one: Shard) -> None:
    start = shard_map("a b c", [shard("a b"), one], draining="c")

    assert refusal(start, Leave("c", "test")) == "holds_copies"


def test_a_member_that_is_wanted_or_unknown_cannot_leave() -> None:
    start = shard_map("a b c", [shard("a b")])

    assert refusal(start, Leave("c", "test")) == "not_draining"
    assert refusal(start, Leave("x", "test")) == "unknown_member"


def test_a_member_of_the_raft_configuration_cannot_leave() -> None:
    start = _drained()
    applied = apply(start, NEXT, Leave("c", "test"), voters=("a", "b", "c"))

    assert applied.map is start
    assert [outcome and outcome.code for outcome in applied.outcomes] == ["is_voter"]


def test_a_member_that_is_no_longer_wanted_may_leave_without_being_marked_draining() -> None:
    start = shard_map("a b c", [shard("a b")])
    members = {name: want for name, want in start.wanted.members.items() if name != "c"}
    start = after(start, SetWanted(Wanted(2, members, Settings()), "test"))
    result = after(start, Leave("c", "test"))

    assert list(result.members) == ["a", "b"]
    assert result.wanted is start.wanted


def test_a_repeated_leave_is_done_already() -> None:
    gone = after(_drained(), Leave("c", "test"))
    applied = apply(gone, gone.version + 1, Leave("c", "test"))

    assert (applied.map, applied.outcomes) == (gone, (None,))


def test_a_leave_lowers_need_to_what_the_rest_can_reach() -> None:
    start = shard_map("a b", [shard("a", learners="", need=2)], draining="b")
    result = after(start, Leave("b", "test"))

    assert result.shards[0].need == 1


# Bootstrap


def _members(count: int) -> list[Member]:
    return [member(f"n{number}") for number in range(1, count + 1)]


@pytest.mark.parametrize("count", [1, 2, 3, 5, 9])
def test_the_first_map_is_sound_balanced_and_full_in_sync(count: int) -> None:
    first = bootstrap(cluster_id="c" * 16, members=_members(count), shards=64, settings=Settings())
    led = [sum(it.primary.storage == storage for it in first.shards) for storage in first.members]
    held = [sum(it.is_in_sync(storage) for it in first.shards) for storage in first.members]

    assert check(first) == ()
    assert first.version == GENERATION_STEP + 1
    assert all(len(it.in_sync) == min(3, count) and it.need == min(2, count) for it in first.shards)
    assert max(led) - min(led) <= 1
    assert max(held) - min(held) <= 1


def test_the_first_map_does_not_depend_on_the_order_of_the_members_or_on_their_disks() -> None:
    first = bootstrap(cluster_id="c" * 16, members=_members(5), shards=64, settings=Settings())
    again = bootstrap(cluster_id="c" * 16, members=_members(5)[::-1], shards=64, settings=Settings())
    others = [member(f"n{number}", storage=f"s{9 - number}") for number in range(1, 6)]
    moved = bootstrap(cluster_id="c" * 16, members=others, shards=64, settings=Settings())

    assert first == again
    assert [first.members[it.primary.storage].name for it in first.shards] == [
        moved.members[it.primary.storage].name for it in moved.shards
    ]


def test_a_member_of_weight_0_is_a_gateway_from_the_start() -> None:
    first = bootstrap(cluster_id="c" * 16, members=_members(4), shards=16, settings=Settings(), weights={"n4": 0.0})

    assert not any(it.copy_of("n4") for it in first.shards)
    assert first.wanted.members["n4"] == WantedMember(weight=0.0)


def test_a_directory_that_never_was_in_the_registered_boot_is_refused_however_often_it_started() -> None:
    before = shard_map("a b c", [shard("a b c")])
    registered = before.members["a"]
    rolled_back = Boot(
        "a",
        "a",
        "a-9",
        registered.boot_counter + 5,
        "http://a",
        "a:7400",
        live=("b", "c"),
        former=("a-7", "a-8", "a-9"),
    )
    genuine = replace(rolled_back, former=(registered.boot, "a-9"))

    refused, accepted = apply(before, FIRST + 1, rolled_back), apply(before, FIRST + 1, genuine)

    assert refused.map is before and refused.outcomes[0] is not None and refused.outcomes[0].code == "rolled_back"
    assert accepted.outcomes == (None,) and accepted.map.members["a"].boot == "a-9"


# Names as compare-and-set


@pytest.mark.parametrize("replaces", ["a", None])
def test_a_new_disk_gets_the_name_from_the_one_it_names_and_old_entries_are_not_compared(replaces: str | None) -> None:
    start = shard_map("a b c", [shard("b c")])
    result = after(start, replace(_boot("a", storage="a2", counter=1), replaces=replaces))

    assert result.by_name["a"].storage == "a2" and result.left == ("a",)


def test_the_late_boot_of_a_disk_that_was_emptied_since_does_not_shut_the_newer_one_out() -> None:
    start = shard_map("a b c", [shard("b c")])
    late = replace(_boot("a", storage="a2", boot="late", counter=1), replaces="a")
    newer = after(start, replace(_boot("a", storage="a3", boot="newer", counter=1), replaces="a"))

    assert refusal(newer, late) == "stale_name"
    assert newer.by_name["a"].storage == "a3"


def test_a_first_boot_is_refused_once_somebody_has_the_name_and_after_nobody_has_it() -> None:
    start = shard_map("a b c", [shard("b c")])

    assert refusal(start, replace(_boot("a", storage="a2", counter=1), replaces="")) == "stale_name"
    assert refusal(start, replace(_boot("d", counter=1), replaces="gone")) == "stale_name"
    assert after(start, replace(_boot("d", counter=1), replaces="")).by_name["d"].storage == "d"


def test_a_registered_disk_starts_again_whatever_it_knew_of_its_name() -> None:
    start = shard_map("a b c", [shard("b c")])

    assert after(start, replace(_boot("a"), replaces="")).members["a"].boot_counter == 2
