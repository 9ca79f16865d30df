"""From the shard map to a plan: what the planner sees, the next wanted states, and the wishes that are refused."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from msgspec.structs import replace

from ringkeep_core.electorate import voters_wanted
from ringkeep_core.mapchanges import bootstrap
from ringkeep_core.placement import Candidate, NodeState, PlacementSettings, ShardCopies, ShardLoad
from ringkeep_core.plans import (
    NodeFacts,
    PlanRefusal,
    candidates_of,
    copies_of,
    expected_digest,
    load_swaps_of,
    placement_settings,
    plan_of,
    refusal_of,
    target_of,
    with_drain,
    with_members,
    with_weight,
)
from ringkeep_core.shardmap import Copy, Primary, Settings, Shard, ShardMap, Wanted, WantedMember
from ringkeep_testing.maps import FIRST, member, shard, shard_map

ALIVE, DEAD = NodeFacts(NodeState.ALIVE), NodeFacts(NodeState.DEAD)


def _first(nodes: int, *, settings: Settings | None = None) -> ShardMap:
    members = [member(f"n{number}", storage=f"s{number}") for number in range(1, nodes + 1)]
    return bootstrap(cluster_id="c" * 16, members=members, shards=32, settings=settings or Settings())


def _alive(names: str, *, dead: str = "") -> dict[str, NodeFacts]:
    return {name: DEAD if name in dead.split() else ALIVE for name in names.split()}


def _refused(
    start: ShardMap, wanted: Wanted, facts: Mapping[str, NodeFacts], voters: str = "", size: int = 0
) -> PlanRefusal | None:
    return refusal_of(start, wanted, facts, voters.split() or list(start.members)[:3], [size] * len(start.shards))


def _code(refusal: PlanRefusal | None) -> str:
    return refusal.code if refusal else ""


# What the planner sees


def test_copies_go_by_name() -> None:
    start = replace(_first(3), shards=(Shard(1, 1, Primary("s2", "n2-1"), (Copy("s2", FIRST),), (), (), 2),))

    assert copies_of(start) == (ShardCopies(primary="n2", in_sync=("n2",), need=2),)
    assert copies_of(shard_map("a b c", [shard("a", eligible="b", learners="c")])) == (
        ShardCopies(primary="a", in_sync=("a",), eligible=("b",), learners=("b", "c"), need=2),
    )


def test_candidates_are_the_registered_members_with_what_is_wanted_and_known_of_them() -> None:
    start = shard_map("a b c d", [shard("a b c")], draining="b")
    members = {"a": WantedMember(2.0, "z1"), "b": WantedMember(draining=True), "d": WantedMember(), "x": WantedMember()}
    facts = {"a": NodeFacts(NodeState.JOINING, may_lead=False), "b": ALIVE, "c": ALIVE}

    assert candidates_of(start, Wanted(2, members, Settings()), facts) == [
        Candidate("a", "z1", 2.0, NodeState.JOINING, may_lead=False),
        Candidate("b", draining=True),
        Candidate("c", weight=0.0, draining=True),
        Candidate("d", state=NodeState.DEAD_IN_GRACE),
    ]


def test_a_member_says_its_zone_where_the_wanted_state_does_not() -> None:
    start = shard_map("a b", [shard("a b")])
    start = replace(start, members={"a": replace(start.members["a"], zone="z7"), "b": start.members["b"]})

    assert [it.zone for it in candidates_of(start, start.wanted, {})] == ["z7", ""]


def test_a_name_that_is_wanted_and_known_to_come_takes_part_before_it_is_registered() -> None:
    start = _first(3)
    plan = plan_of(start, with_members(start.wanted, ["n1", "n2", "n3", "n4"]), _alive("n1 n2 n3 n4"), [10] * 32)

    assert (plan.target.moves, plan.target.lower_bound, plan.bytes) == (24, 24, 240)
    assert plan.target.quotas == {"n1": 24, "n2": 24, "n3": 24, "n4": 24}


def test_the_limits_of_streams_come_from_the_wanted_state() -> None:
    start = _first(3, settings=Settings(2, 1, streams_per_node=3, streams_max=5, bytes_per_s=6_000_000))

    assert placement_settings(start.wanted) == PlacementSettings(
        replication_factor=2,
        min_in_sync=1,
        streams_in_per_node=3,
        streams_out_per_node=3,
        streams_max=5,
        stream_bytes_per_s=2e6,
    )
    assert placement_settings(_first(3).wanted) == PlacementSettings()


def test_the_expected_digest_is_that_of_the_target_when_all_are_alive() -> None:
    start = _first(4)
    wanted = with_drain(start.wanted, "n2")
    expected = expected_digest(start, wanted)

    assert expected == target_of(start, wanted, _alive("n4 n3 n2 n1")).digest
    assert expected != target_of(start, wanted, _alive("n1 n2 n3 n4", dead="n3")).digest


def test_a_plan_forecasts_what_it_sends() -> None:
    start = _first(4)
    plan = plan_of(start, with_drain(start.wanted, "n2"), _alive("n1 n2 n3 n4"), [1000] * 32)

    assert plan.bytes == plan.forecast.bytes == 1000 * plan.target.moves
    assert plan.forecast.copies == plan.target.moves == 24
    assert plan.forecast.primaries >= 8


def test_swaps_are_made_only_if_they_are_wanted_and_within_what_is_left_of_their_budget() -> None:
    start = _first(4)
    loads = [ShardLoad(9.0 if shard.primary.storage == "s1" else 1.0) for shard in start.shards]
    wanting = replace(start.wanted, settings=Settings(hot_spot_swaps=True))
    facts = _alive("n1 n2 n3 n4")

    assert load_swaps_of(start, start.wanted, facts, loads) == ()
    assert len(load_swaps_of(start, wanting, facts, loads)) > 1
    assert len(load_swaps_of(start, wanting, facts, loads, swaps_max=1)) == 1
    assert load_swaps_of(start, wanting, facts, loads, swaps_max=0) == ()
    assert load_swaps_of(start, with_drain(wanting, "n2"), facts, loads) == ()


# The next wanted state


def test_a_drain_a_weight_and_the_members_are_the_next_revision_without_an_opinion_of_the_target() -> None:
    before = Wanted(
        4, {"a": WantedMember(2.0, "z"), "b": WantedMember(draining=True)}, Settings(2, 1), target_digest="d" * 32
    )

    assert with_drain(before, "a") == Wanted(
        5, {"a": WantedMember(2.0, "z", draining=True), "b": WantedMember(draining=True)}, Settings(2, 1)
    )
    assert with_weight(before, "a", 0.5).members == {"a": WantedMember(0.5, "z"), "b": WantedMember(draining=True)}
    assert with_members(before, ["b", "c"]).members == {
        "a": WantedMember(2.0, "z", draining=True),
        "b": WantedMember(),
        "c": WantedMember(),
    }


# Refusals


def test_what_can_be_carried_out_is_not_refused() -> None:
    start = _first(5)
    facts = _alive("n1 n2 n3 n4 n5")

    assert _refused(start, start.wanted, facts) is None
    assert _refused(start, with_drain(start.wanted, "n2"), facts) is None
    assert _refused(start, with_members(start.wanted, ["n1"]), facts) is None
    assert _refused(start, with_weight(start.wanted, "n1", 0.0), facts) is None


def test_a_node_that_nobody_knows_is_refused_unless_it_is_listed_or_about_to_come() -> None:
    start = _first(3)
    facts = _alive("n1 n2 n3")
    listed = replace(start, wanted=replace(start.wanted, members={**start.wanted.members, "n9": WantedMember()}))

    assert _refused(start, with_drain(start.wanted, "n9"), facts) == PlanRefusal("unknown_node", "there is no node n9")
    assert _refused(start, with_members(start.wanted, ["n1", "n2", "n3", "n9"]), {**facts, "n9": ALIVE}) is None
    assert _refused(listed, with_weight(listed.wanted, "n9", 2.0), facts) is None


def test_the_last_node_with_weight_stays() -> None:
    one, two = _first(1), _first(2)
    gateway = replace(two, wanted=with_weight(two.wanted, "n2", 0.0))

    assert _code(_refused(one, with_drain(one.wanted, "n1"), _alive("n1"))) == "last_node"
    assert _code(_refused(one, with_weight(one.wanted, "n1", 0.0), _alive("n1"))) == "last_node"
    assert _code(_refused(gateway, with_drain(gateway.wanted, "n1"), _alive("n1 n2"))) == "last_node"


def test_nobody_goes_for_the_sake_of_a_node_that_is_yet_to_come() -> None:
    start = _first(2)
    facts = {**_alive("n1 n2"), "n8": NodeFacts(NodeState.JOINING), "n9": NodeFacts(NodeState.JOINING)}

    assert _code(_refused(start, with_members(start.wanted, ["n8", "n9"]), facts)) == "last_node"
    assert _code(_refused(start, with_members(start.wanted, ["n2", "n9"]), {**facts, "n2": DEAD}, "s1")) == "quorum"


def test_a_drain_needs_a_majority_of_the_voters_now_and_among_those_who_remain() -> None:
    five, three = _first(5), _first(3)

    assert _refused(five, with_drain(five.wanted, "n5"), _alive("n1 n2 n3 n4 n5", dead="n1 n2"), "s1 s2 s3") == (
        PlanRefusal("quorum", "n5 cannot go: 1 of 3 voters live, and 2 must")
    )
    assert _refused(three, with_drain(three.wanted, "n2"), _alive("n1 n2 n3", dead="n3")) == PlanRefusal(
        "quorum", "n2 cannot go: 1 of the 2 nodes that remain live, and 2 must to be a majority of 2 voters"
    )
    assert _refused(three, with_drain(three.wanted, "n3"), _alive("n1 n2 n3", dead="n3")) is None


def test_enough_living_nodes_with_weight_must_remain_to_commit_a_write() -> None:
    start = _first(5)
    gateways = replace(start, wanted=with_weight(with_weight(start.wanted, "n4", 0.0), "n5", 0.0))
    facts = _alive("n1 n2 n3 n4 n5", dead="n3")

    assert _refused(gateways, with_drain(gateways.wanted, "n2"), facts) == PlanRefusal(
        "copies", "n2 cannot give up its copies: 1 living nodes with weight would remain, and a write needs 2"
    )
    assert _code(_refused(gateways, with_weight(gateways.wanted, "n2", 0.0), facts)) == "copies"


def test_a_dead_node_with_the_only_complete_copy_of_a_shard_cannot_be_given_up() -> None:
    start = shard_map("a b c d", [shard("a", eligible=""), shard("b c d"), shard("a")])
    facts = _alive("a b c d", dead="a")

    assert _refused(start, with_drain(start.wanted, "a"), facts, "b c d") == PlanRefusal(
        "copies", "a is dead and has the only complete copy of 2 shards: start it again"
    )
    assert _refused(start, with_drain(start.wanted, "a"), _alive("a b c d"), "b c d") is None
    assert _refused(start, with_drain(start.wanted, "b"), facts, "b c d") is None


def test_a_drain_that_lowers_need_must_not_forget_a_living_eligible_copy() -> None:
    start = shard_map("a b", [shard("a", eligible="b")])

    assert _code(_refused(start, with_drain(start.wanted, "a"), _alive("a b", dead="a"), "b")) == "copies"


@pytest.mark.parametrize("dead", ["a", "a b"])
@pytest.mark.parametrize("fewer", [Settings(2, 1), Settings(1, 2)])
def test_settings_that_lower_need_must_not_forget_an_eligible_copy_while_nobody_in_sync_lives(
    fewer: Settings, dead: str
) -> None:
    start = shard_map("a b", [shard("a", eligible="b"), shard("b a")], settings=Settings(2, 2))
    asked = replace(start.wanted, settings=fewer)

    assert _refused(start, asked, _alive("a b", dead=dead), "b") == PlanRefusal(
        "copies", "a is dead, and with this only its copy of 1 shards would count as complete: start it again"
    )


def test_need_is_lowered_where_somebody_in_sync_lives_or_no_eligible_copy_is_forgotten() -> None:
    settings, fewer = Settings(2, 2), Settings(2, 1)
    short = shard_map("a b", [shard("a", eligible="b")], settings=settings)
    full = shard_map("a b", [shard("a b")], settings=settings)

    assert _refused(short, replace(short.wanted, settings=fewer), _alive("a b", dead="b"), "a") is None
    assert _refused(full, replace(full.wanted, settings=fewer), _alive("a b", dead="a b"), "a") is None


def test_a_node_without_room_for_the_copies_it_would_get_is_named() -> None:
    start = _first(4)
    facts = {**_alive("n1 n2 n3 n4"), "n3": NodeFacts(NodeState.ALIVE, free_bytes=799)}

    assert _refused(start, with_drain(start.wanted, "n4"), facts, size=100) == PlanRefusal(
        "disk", "n3 would get 800 bytes and has 799 free"
    )
    assert _refused(start, with_drain(start.wanted, "n4"), facts, size=99) is None


def test_what_takes_nothing_away_is_never_refused_for_who_is_dead() -> None:
    start = _first(3)
    facts = _alive("n1 n2 n3 n4", dead="n1 n2")
    draining = replace(start, wanted=with_drain(start.wanted, "n1"))

    assert _refused(start, with_members(start.wanted, ["n1", "n2", "n3", "n4"]), facts) is None
    assert _refused(start, with_weight(start.wanted, "n3", 4.0), facts) is None
    assert _refused(draining, with_weight(draining.wanted, "n3", 4.0), facts) is None


@pytest.mark.parametrize(("members", "voters"), [(1, 1), (2, 2), (3, 3), (4, 3), (5, 5), (6, 5), (200, 5)])
def test_one_two_three_three_then_five_vote(members: int, voters: int) -> None:
    assert voters_wanted(members) == voters
