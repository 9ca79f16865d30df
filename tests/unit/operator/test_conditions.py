"""What the conditions say, from when, and about which generation."""

from dataclasses import replace as with_
from typing import Any

import pytest
from msgspec.structs import replace

from ringkeep_core.resource import ClusterStatus
from ringkeep_core.shardmap import Copy, Primary, Shard
from ringkeep_operator.plan import decide_invalid, plan
from ringkeep_operator.state import Seen, SeenPlan, SeenVolume
from ringkeep_testing.operator_world import OperatorWorld


@pytest.fixture(name="world")
def _world() -> OperatorWorld:
    world = OperatorWorld()
    assert world.settle()
    world.run(3)
    return world


def _judged(world: OperatorWorld, **changes: Any) -> dict[str, tuple[str, str]]:
    status = plan(with_(world.seen(), **changes)).status
    return {condition.type: (condition.status, condition.reason) for condition in status.conditions}


def test_a_cluster_as_it_should_be_is_ready_available_settled_and_not_degraded(world: OperatorWorld) -> None:
    assert _judged(world) == {
        "Ready": ("True", "AsWanted"),
        "Available": ("True", "Serving"),
        "Progressing": ("False", "Settled"),
        "Degraded": ("False", "AsWanted"),
    }


def test_each_condition_says_which_generation_it_was_judged_from(world: OperatorWorld) -> None:
    world.want(replicas=4)
    world.pass_()

    generations = {condition.observed_generation for condition in world.status.conditions}
    assert (generations, world.status.observed_generation) == ({world.generation}, world.generation)
    assert world.condition("Ready")[0] == "False"


def test_the_time_of_a_change_is_kept_while_the_status_is_the_same(world: OperatorWorld) -> None:
    before = {condition.type: condition.last_transition_time for condition in world.status.conditions}
    world.now += 100
    world.want(replicas=4)
    world.pass_()
    after = {condition.type: condition.last_transition_time for condition in world.status.conditions}

    assert {type_ for type_ in before if before[type_] != after[type_]} == {"Ready", "Progressing"}


@pytest.mark.parametrize(
    ("waiting", "reason"),
    [
        ("ErrImagePull", "ImagePullFailed"),
        ("ImagePullBackOff", "ImagePullFailed"),
        ("CrashLoopBackOff", "PodCrashing"),
        ("Unschedulable", "PodUnschedulable"),
    ],
)
def test_a_pod_that_cannot_run_is_told_with_its_reason(world: OperatorWorld, waiting: str, reason: str) -> None:
    pods = world.seen().pods
    bad = with_(pods[1], is_ready=False, waiting=waiting, detail="because of this")

    status = plan(with_(world.seen(), pods=(pods[0], bad, pods[2]))).status

    degraded = status.condition("Degraded")
    assert degraded is not None
    assert (degraded.status, degraded.reason, degraded.message) == (
        "True",
        reason,
        f"pod demo-1: {waiting}: because of this",
    )
    assert _judged(world, pods=(pods[0], bad, pods[2]))["Ready"] == ("False", reason)


def test_a_pod_that_cannot_be_made_is_told_and_is_not_on_its_way(world: OperatorWorld) -> None:
    pods = world.seen().pods
    status = plan(with_(world.seen(), pods=(pods[0], pods[2]), not_made={"demo-1": "exceeded quota"})).status
    told = {one.type: (one.status, one.reason, one.message) for one in status.conditions}

    assert told["Degraded"][:2] == ("True", "PodCreateFailed")
    assert told["Degraded"][2].startswith("pod demo-1: exceeded quota")
    assert told["Ready"][:2] == told["Progressing"][:2] == ("False", "PodCreateFailed")
    assert _judged(world, pods=(pods[0], pods[2]))["Progressing"] == ("True", "PodsStarting")


def test_a_missing_storage_class_is_told_while_volumes_wait_for_it() -> None:
    world = OperatorWorld()
    world.pass_()
    pending = SeenVolume(name="data-demo-0", uid="v", version="1", ordinal=0, phase="Pending")

    assert _judged(world, volumes=(pending,), has_storage_class=False)["Degraded"] == ("True", "StorageClassMissing")


def test_fewer_members_than_copies_is_a_recorded_degradation_and_ready_all_the_same() -> None:
    world = OperatorWorld()
    world.want(replicas=2)
    assert world.settle()

    assert (world.condition("Ready"), world.condition("Degraded")) == (
        ("True", "AsWanted"),
        ("True", "FewerMembersThanCopies"),
    )


def test_no_leader_and_nobody_who_answers_are_told(world: OperatorWorld) -> None:
    cluster = world.seen().cluster
    assert cluster is not None

    assert _judged(world, cluster=with_(cluster, leader="", term=0))["Available"] == ("False", "NoLeader")
    assert _judged(world, cluster=None, answering=())["Available"] == ("False", "NoMemberAnswers")


@pytest.mark.parametrize("change", ["plan", "shards", "pod", "member", "revision", "extra pod"])
def test_ready_is_not_said_while_anything_is_not_as_wanted(world: OperatorWorld, change: str) -> None:
    seen = world.seen()
    cluster = seen.cluster
    assert cluster is not None
    first, *others = cluster.members
    changes: dict[str, dict[str, Any]] = {
        "plan": {"cluster": with_(cluster, plan=with_(cluster.plan, copies=1))},
        "shards": {"cluster": with_(cluster, shards_ok=cluster.shards_ok - 1)},
        "pod": {"pods": (with_(seen.pods[0], is_ready=False), *seen.pods[1:])},
        "member": {"cluster": with_(cluster, members=(with_(first, state="suspect"), *others))},
        "revision": {"pods": (with_(seen.pods[0], revision="older"), *seen.pods[1:])},
        "extra pod": {"pods": (*seen.pods, with_(seen.pods[0], name="demo-7", ordinal=7))},
    }

    assert _judged(world, **changes[change])["Ready"][0] == "False"


def _with_shard(seen: Seen, shard: Shard) -> Seen:
    """Return what is seen with another first shard, in a map that was never judged before."""
    cluster = seen.cluster
    assert cluster is not None
    held = cluster.shard_map
    moved = replace(held, version=held.version + 1, shards=(shard, *held.shards[1:]))
    return with_(seen, cluster=with_(cluster, shard_map=moved))


def test_ready_does_not_wait_for_primaries_to_come_home_and_progressing_does(world: OperatorWorld) -> None:
    seen = world.seen()
    assert seen.cluster is not None
    first, held = seen.cluster.shard_map.shards[0], seen.cluster.shard_map
    elsewhere = next(copy.storage for copy in first.in_sync if copy.storage != first.primary.storage)
    away = replace(first, primary=Primary(elsewhere, held.members[elsewhere].boot), epoch=first.epoch + 1)
    seen = _with_shard(seen, away)
    assert seen.cluster is not None
    status = plan(with_(seen, cluster=with_(seen.cluster, plan=SeenPlan(primaries=1)))).status
    found = {condition.type: (condition.status, condition.reason) for condition in status.conditions}

    assert found == {
        "Ready": ("True", "AsWanted"),
        "Available": ("True", "Serving"),
        "Progressing": ("True", "PrimariesReturning"),
        "Degraded": ("False", "AsWanted"),
    }


def test_ready_waits_for_a_copy_that_is_not_where_it_should_be_though_no_plan_says_so_yet(world: OperatorWorld) -> None:
    world.want(replicas=4)
    assert world.settle()
    world.run(3)
    seen = world.seen()
    assert seen.cluster is not None and _judged(world)["Ready"] == ("True", "AsWanted")
    first, held = seen.cluster.shard_map.shards[0], seen.cluster.shard_map
    without = next(storage for storage in held.members if first.copy_of(storage) is None)
    others = [copy for copy in first.in_sync if copy.storage != first.primary.storage]
    stray = replace(first, in_sync=tuple(Copy(without, 1) if copy == others[0] else copy for copy in first.in_sync))
    status = plan(_with_shard(seen, stray)).status
    ready = status.condition("Ready")
    assert ready is not None

    assert (ready.status, ready.reason) == ("False", "MovingCopies")


def test_an_event_is_told_for_a_change_and_not_again(world: OperatorWorld) -> None:
    told = len(world.told)
    world.pods["demo-1"].hangs = True
    world.run(20)

    assert [tell.reason for tell in world.told[told:]].count("MemberDown") == 1


def test_a_spec_that_cannot_be_acted_on_is_told_and_nothing_is_done(world: OperatorWorld) -> None:
    decision = decide_invalid(world.status, 9, ("first.", "second."), world.now)

    assert {(c.type, c.status, c.reason, c.observed_generation) for c in decision.status.conditions} == {
        ("Ready", "False", "InvalidSpec", 9),
        ("Available", "True", "Serving", 9),
        ("Progressing", "False", "InvalidSpec", 9),
        ("Degraded", "True", "InvalidSpec", 9),
    }
    (tell,) = decision.actions
    assert (tell.kind, tell.message) == ("Warning", "first.; second.")  # type: ignore[union-attr]
    assert decide_invalid(decision.status, 9, ("first.", "second."), world.now + 50).status == decision.status
    assert decide_invalid(decision.status, 9, ("first.", "second."), world.now + 50).actions == ()
    assert len(decide_invalid(ClusterStatus(), 1, ("no.",), 0.0).status.conditions) == 4


def test_ready_waits_until_volumes_have_the_size_that_they_ask_for(world: OperatorWorld) -> None:
    volumes = world.seen().volumes
    growing = (with_(volumes[0], capacity=1 << 30, requested=2 << 30), *volumes[1:])
    status = plan(with_(world.seen(), volumes=growing)).status
    told = {one.type: (one.status, one.message) for one in status.conditions}

    text = f"data-demo-0 has {1 << 30} of {2 << 30} bytes yet"
    assert (told["Ready"], told["Progressing"]) == (("False", text), ("True", text))


def test_data_with_another_number_of_shards_than_the_spec_says_are_told(world: OperatorWorld) -> None:
    seen = world.seen()
    spec = replace(seen.resource.spec, shards=1024)
    status = plan(with_(seen, resource=replace(seen.resource, spec=spec))).status
    told = {one.type: (one.status, one.reason, one.message) for one in status.conditions}

    text = "the data here have 16 shards, not 1024: delete the Cluster and make it with 16"
    assert told["Degraded"] == ("True", "ForeignData", text)
    assert told["Ready"][:2] == ("False", "ForeignData")


def test_what_a_plan_waits_for_and_what_members_refuse_for_now_are_told_while_something_goes_on(
    world: OperatorWorld,
) -> None:
    seen = world.seen()
    assert seen.cluster is not None
    waits = SeenPlan(copies=2, waiting=("demo-2 cannot give up its copies",))
    moving = with_(seen, cluster=with_(seen.cluster, plan=waits), hindrances=("leave demo-2: it still votes",))
    idle = with_(seen, cluster=with_(seen.cluster, plan=SeenPlan(waiting=("nothing",))))
    told = [
        next((one.status, one.message) for one in plan(view).status.conditions if one.type == "Progressing")
        for view in (moving, idle)
    ]

    assert told == [
        ("True", "2 copies are left to be moved; demo-2 cannot give up its copies; leave demo-2: it still votes"),
        ("False", "nothing is left to do"),
    ]
