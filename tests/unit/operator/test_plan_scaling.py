"""Members come when they are listed, and go only when they hold nothing and have left; the pods follow."""

from dataclasses import replace as with_

import pytest
from msgspec.structs import replace

from ringkeep_core.plans import expected_digest
from ringkeep_core.shardmap import WantedMember
from ringkeep_operator.plan import plan
from ringkeep_operator.state import Apply, Delete, Leave, Seen, SetWanted
from ringkeep_testing.operator_world import OperatorWorld


@pytest.fixture(name="world")
def _world() -> OperatorWorld:
    world = OperatorWorld()
    assert world.settle()
    world.run(3)
    return world


def _retaining(world: OperatorWorld) -> None:
    storage = world.spec.storage
    world.want(storage=replace(storage, retain=replace(storage.retain, when_scaled="Retain")))


def _members(world: OperatorWorld) -> list[str]:
    assert world.map is not None
    return sorted(world.map.by_name)


def test_a_larger_cluster_is_ready_only_when_every_shard_has_its_copies(world: OperatorWorld) -> None:
    world.want(replicas=5)

    assert world.settle()
    assert (_members(world), world.broken) == ([f"demo-{n}" for n in range(5)], [])


def test_newcomers_are_listed_together_once_all_have_registered(world: OperatorWorld) -> None:
    world.want(replicas=5)
    asked = []
    while not world.is_ready():
        asked += [action for action in world.pass_().actions if isinstance(action, SetWanted)]
        world.tick()

    assert [sorted(action.body["members"]) for action in asked] == [[f"demo-{n}" for n in range(5)]]  # type: ignore[call-overload]


def test_a_newcomer_that_never_starts_does_not_keep_the_others_out_for_long(world: OperatorWorld) -> None:
    world.want(replicas=5)
    for _ in range(20):
        world.pass_()
        world.tick()
        if "demo-4" in world.pods:
            world.pods["demo-4"].hangs = True
    assert world.map is not None

    assert (sorted(world.map.wanted.members), world.is_ready()) == ([f"demo-{n}" for n in range(4)], False)


def test_the_digest_is_of_the_target_that_follows_from_the_map_that_was_seen(world: OperatorWorld) -> None:
    world.want(min_in_sync=1)
    held = world.map
    assert held is not None

    (ask,) = [action for action in world.pass_().actions if isinstance(action, SetWanted)]

    assert (ask.body["revision"], ask.body["target_version"]) == (held.wanted.revision, held.version)
    assert ask.body["target_digest"] == expected_digest(
        held, replace(held.wanted, settings=replace(held.wanted.settings))
    )


def test_a_smaller_cluster_drains_lets_go_shrinks_and_deletes_the_volumes_in_this_order(world: OperatorWorld) -> None:
    world.want(replicas=5)
    world.settle()
    world.want(replicas=3)
    story = []
    while not world.is_ready():
        for action in world.pass_().actions:
            if isinstance(action, SetWanted):
                story.append("drain")
            elif isinstance(action, Leave):
                story.append(f"leave {action.name}")
            elif isinstance(action, Apply) and action.manifest["kind"] == "StatefulSet":
                story.append(f"size {action.manifest['spec']['replicas']}")  # type: ignore[index]
            elif isinstance(action, Delete):
                story.append(f"delete {action.target.name}")
        world.tick()
    world.run(5)

    assert list(dict.fromkeys(story)) == [
        "drain",
        "leave demo-4",
        "leave demo-3",
        "size 3",
        "delete data-demo-3",
        "delete data-demo-4",
    ]
    assert (sorted(world.claims), world.broken) == (["data-demo-0", "data-demo-1", "data-demo-2"], [])


def test_who_goes_leaves_only_when_no_service_sends_clients_to_it_any_more(world: OperatorWorld) -> None:
    world.want(replicas=4)
    world.settle()
    world.want(replicas=3)
    world.is_slow_to_be_unready = True
    world.run(30)
    waiting = (_members(world), world.condition("Progressing"))
    world.is_slow_to_be_unready = False

    assert waiting == ([f"demo-{n}" for n in range(4)], ("True", "ScalingDown"))
    assert world.settle()
    assert (_members(world), world.broken) == ([f"demo-{n}" for n in range(3)], [])


def test_volumes_are_kept_where_the_policy_says_so_and_come_back_as_empty_members(world: OperatorWorld) -> None:
    _retaining(world)
    world.want(replicas=5)
    world.settle()
    before = world.claims["data-demo-4"].disk.storage
    world.want(replicas=3)
    world.settle()
    world.run(5)
    assert "data-demo-4" in world.claims

    world.want(replicas=5)

    assert world.settle()
    assert world.claims["data-demo-4"].disk.storage != before
    assert world.broken == []


def test_a_volume_is_kept_while_the_map_is_older_than_the_one_that_was_shown(world: OperatorWorld) -> None:
    _retaining(world)
    world.want(replicas=4)
    world.settle()
    world.want(replicas=3)
    world.settle()
    storage = world.spec.storage
    world.want(storage=replace(storage, retain=replace(storage.retain, when_scaled="Delete")))
    world.status = replace(world.status, map_version=world.status.map_version + 100)

    assert not any(isinstance(action, Delete) for action in world.pass_().actions)


def test_a_scale_down_that_is_taken_back_takes_the_drain_back(world: OperatorWorld) -> None:
    world.want(replicas=5)
    world.settle()
    world.want(replicas=3)
    world.pass_()
    world.tick()
    assert world.map is not None
    assert world.map.wanted.members["demo-4"].draining

    world.want(replicas=5)

    assert world.settle()
    assert {want.draining for want in world.map.wanted.members.values()} == {False}
    assert world.broken == []


def test_a_member_that_has_left_and_is_wanted_again_before_its_pod_is_gone_comes_back_empty(
    world: OperatorWorld,
) -> None:
    world.want(replicas=4)
    world.settle()
    world.want(replicas=3)
    while world.map is not None and "demo-3" in world.map.by_name:
        world.pass_()
        if "demo-3" in world.map.by_name:
            world.tick()
    world.want(replicas=4)

    assert world.settle()
    assert (_members(world), world.broken) == ([f"demo-{n}" for n in range(4)], [])


def test_a_pod_that_has_left_and_starts_again_before_the_set_shrinks_is_not_listed_and_goes(
    world: OperatorWorld,
) -> None:
    world.want(replicas=4)
    world.settle()
    world.want(replicas=3)
    pod, asked = world.pods["demo-3"], []
    before = pod.disk.storage
    while pod.disk.storage == before or not world.is_member("demo-3"):
        # The set is not shrunk yet, as if the API server had been away: the container starts twice and registers anew.
        if before in world.map.left:  # type: ignore[union-attr]
            world.tick()
            continue
        world.pass_()
        world.tick()
    assert world.pods["demo-3"] is pod
    while not world.is_ready():
        asked += [a for a in world.pass_().actions if isinstance(a, SetWanted)]
        world.tick()

    assert (asked, _members(world), sorted(world.pods), world.broken) == (
        [],
        ["demo-0", "demo-1", "demo-2"],
        ["demo-0", "demo-1", "demo-2"],
        [],
    )
    world.run(3)
    assert sorted(world.claims) == ["data-demo-0", "data-demo-1", "data-demo-2"]


def test_what_is_refused_is_told_and_the_rest_goes_on(world: OperatorWorld) -> None:
    world.want(replicas=5)
    world.settle()
    for name in ("demo-0", "demo-1"):
        world.pods[name].hangs = True
    world.tick()
    world.want(replicas=1, image="good:2", min_in_sync=1)
    world.run(8)
    assert world.map is not None

    assert (world.condition("Degraded"), world.condition("Ready")) == (
        ("True", "ChangeRefused"),
        ("False", "ChangeRefused"),
    )
    assert [tell.reason for tell in world.told].count("ChangeRefused") == 1
    assert not world.map.wanted.members["demo-3"].draining
    assert world.map.wanted.settings.min_in_sync == 1
    assert world.broken == []


def test_a_refusal_does_not_flicker_while_it_is_asked_again(world: OperatorWorld) -> None:
    world.want(replicas=5)
    world.settle()
    for name in ("demo-0", "demo-1"):
        world.pods[name].hangs = True
    world.tick()
    world.want(replicas=1)
    world.run(5)
    reasons, told = set(), len(world.told)
    for _ in range(30):
        world.pass_()
        world.tick()
        reasons.add(world.condition("Degraded"))

    assert (reasons, world.told[told:]) == ({("True", "ChangeRefused")}, [])


def test_members_that_are_not_ours_stay_as_people_want_them(world: OperatorWorld) -> None:
    held = world.map
    assert held is not None
    theirs = {"elsewhere": WantedMember(weight=2.0, zone="far"), **held.wanted.members}
    world.map = replace(held, wanted=replace(held.wanted, members=theirs))
    world.want(replicas=4)

    world.run(15)

    assert world.map is not None
    assert world.map.wanted.members["elsewhere"] == WantedMember(weight=2.0, zone="far")


def test_gateways_are_members_of_weight_0_without_a_volume(world: OperatorWorld) -> None:
    world.want(gateways=2)

    assert world.settle()
    assert world.map is not None
    weights = {name: want.weight for name, want in world.map.wanted.members.items()}
    assert weights == {"demo-0": 1, "demo-1": 1, "demo-2": 1, "demo-gateway-0": 0, "demo-gateway-1": 0}
    assert sorted(world.claims) == ["data-demo-0", "data-demo-1", "data-demo-2"]


def test_a_suspended_cluster_has_no_pods_keeps_its_volumes_and_comes_back(world: OperatorWorld) -> None:
    claims = {name: claim.uid for name, claim in world.claims.items()}
    world.want(suspend=True)
    world.run(5)

    assert (world.pods, {name: claim.uid for name, claim in world.claims.items()}) == ({}, claims)
    assert [world.condition(type_)[0] for type_ in ("Ready", "Available", "Progressing", "Degraded")] == ["False"] * 4
    assert world.condition("Ready")[1] == "Suspended"
    world.want(suspend=False)
    assert world.settle()
    assert {name: claim.uid for name, claim in world.claims.items()} == claims


def test_a_cluster_suspended_in_the_middle_of_a_scale_down_comes_back_with_every_member(world: OperatorWorld) -> None:
    world.want(replicas=5)
    world.settle()
    world.want(replicas=3)
    world.pass_()
    world.want(suspend=True)
    world.run(5)
    world.want(suspend=False)

    world.pass_()

    assert world.objects["StatefulSet", "demo"]["spec"]["replicas"] == 5
    assert world.settle()
    assert (_members(world), world.broken) == (["demo-0", "demo-1", "demo-2"], [])


def test_a_statefulset_that_somebody_deleted_comes_back_as_large_as_its_members_need_it(world: OperatorWorld) -> None:
    world.want(replicas=5)
    world.settle()
    world.want(replicas=3)
    world.pass_()
    del world.objects["StatefulSet", "demo"]
    world.is_deaf = True

    world.pass_()

    assert world.objects["StatefulSet", "demo"]["spec"]["replicas"] == 5


def test_a_paused_cluster_is_only_looked_at(world: OperatorWorld) -> None:
    world.want(paused=True, replicas=5)
    del world.objects["Service", "demo"]

    decision = world.pass_()

    assert (decision.actions, world.condition("Progressing"), world.condition("Ready")[0]) == (
        (),
        ("False", "Paused"),
        "False",
    )


def _with_a_volume_that_never_joined(world: OperatorWorld, volume_since: float) -> Seen:
    """One pod above the size was made and never registered; then the size went back."""
    world.want(replicas=4)
    world.pass_()
    world.tick()
    world.pods["demo-3"].hangs = True
    world.run(3)
    world.want(replicas=3)
    world.run(5)
    seen = world.seen()
    volumes = [with_(one, since=volume_since if one.name == "data-demo-3" else one.since) for one in seen.volumes]
    created = replace(seen.resource, created="1970-01-01T00:10:00Z")
    return with_(seen, volumes=tuple(volumes), resource=created)


def test_a_volume_that_never_was_a_members_goes_only_if_it_was_made_for_this_cluster(world: OperatorWorld) -> None:
    storage = world.spec.storage
    world.want(storage=replace(storage, retain=replace(storage.retain, when_scaled="Retain")))
    assert world.settle()
    older = _with_a_volume_that_never_joined(world, volume_since=599.0)
    spec = replace(older.resource.spec, storage=storage)
    older = with_(older, resource=replace(older.resource, spec=spec))
    younger = with_(older, volumes=tuple(with_(one, since=601.0) for one in older.volumes))
    found = [
        [(one.target.name, one.why) for one in plan(seen).actions if isinstance(one, Delete)]
        for seen in (older, younger)
    ]

    assert found == [[], [("data-demo-3", "demo-3 never joined the cluster")]]


def test_no_volume_goes_while_nobody_leads(world: OperatorWorld) -> None:
    _retaining(world)
    assert world.settle()
    world.want(replicas=4)
    assert world.settle()
    world.want(replicas=3)
    assert world.settle()
    storage = world.spec.storage
    world.want(storage=replace(storage, retain=replace(storage.retain, when_scaled="Delete")))
    seen = world.seen()
    assert seen.cluster is not None
    leaderless = with_(seen, cluster=with_(seen.cluster, leader="", term=0))
    found = [[one.target.name for one in plan(one).actions if isinstance(one, Delete)] for one in (seen, leaderless)]

    assert found == [["data-demo-3"], []]


def test_a_suspended_cluster_keeps_every_volume(world: OperatorWorld) -> None:
    _retaining(world)
    world.want(replicas=4)
    assert world.settle()
    world.want(replicas=3)
    assert world.settle()
    storage = world.spec.storage
    policy = replace(storage, retain=replace(storage.retain, when_scaled="Delete"))
    seen = [world.seen()]
    for suspend in (False, True):
        resource = replace(seen[0].resource, spec=replace(seen[0].resource.spec, storage=policy, suspend=suspend))
        seen.append(with_(seen[0], resource=resource))
    gone = [[one.target for one in plan(each).actions if isinstance(one, Delete)] for each in seen]
    found = [[one.name for one in targets if one.kind == "PersistentVolumeClaim"] for targets in gone]

    assert found == [[], ["data-demo-3"], []]
