"""A cluster is founded once, by all its pods, and never beside data of a former one."""

from dataclasses import replace as with_

import pytest

from ringkeep_core.resource import Retain, Storage
from ringkeep_operator.plan import plan
from ringkeep_operator.state import Apply, Bootstrap, CreateSecret
from ringkeep_testing.operator_world import OperatorWorld


def _kinds(world: OperatorWorld) -> list[str]:
    return [type(action).__name__ for action in world.pass_().actions if type(action).__name__ != "Tell"]


def _standing(seconds: int = 2) -> OperatorWorld:
    """Return a world whose pods answer, one pass before anything of a founding is decided."""
    world = OperatorWorld()
    world.pass_()
    for _ in range(seconds):
        world.tick()
    return world


def test_the_first_pass_makes_everything_that_pods_need_and_then_the_pods() -> None:
    actions = [a for a in OperatorWorld().pass_().actions if isinstance(a, Apply | CreateSecret)]

    assert [(type(a).__name__, a.manifest["kind"], a.manifest["metadata"]["name"]) for a in actions] == [  # type: ignore[index]
        ("CreateSecret", "Secret", "demo-admin"),
        ("Apply", "ServiceAccount", "demo"),
        ("Apply", "Service", "demo-nodes"),
        ("Apply", "Service", "demo"),
        ("Apply", "PodDisruptionBudget", "demo"),
        ("Apply", "StatefulSet", "demo"),
    ]


def test_the_founders_are_written_down_before_the_cluster_is_founded_on_all_of_them() -> None:
    world = _standing()

    assert _kinds(world) == []
    assert [(entry.name, bool(entry.storage_id)) for entry in world.status.storages] == [
        ("demo-0", True),
        ("demo-1", True),
        ("demo-2", True),
    ]
    decision = world.pass_()
    (founding,) = [action for action in decision.actions if isinstance(action, Bootstrap)]
    assert ([node.name for node in founding.members], founding.shards, founding.replication_factor) == (
        ["demo-0", "demo-1", "demo-2"],
        16,
        3,
    )


def test_one_silent_pod_holds_the_founding_back() -> None:
    world = _standing()
    world.pods["demo-1"].hangs = True

    world.run(10)

    assert (world.foundings, world.condition("Ready"), world.condition("Available")) == (
        0,
        ("False", "Bootstrapping"),
        ("False", "Bootstrapping"),
    )


def test_a_founding_whose_outcome_nobody_saw_is_taken_over_and_not_repeated() -> None:
    world = _standing()
    world.pass_()
    founding = next(n for n, action in enumerate(world.pass_(killed_after=0).actions) if isinstance(action, Bootstrap))
    world.pass_(killed_after=founding + 1)

    assert (world.foundings, world.status.cluster_id) == (1, "")
    assert world.settle()
    assert (world.foundings, world.status.cluster_id, world.broken) == (1, "c" * 16, [])


def test_a_cluster_with_an_id_is_never_founded_again_though_all_its_pods_are_empty() -> None:
    world = OperatorWorld()
    world.settle()
    world.map, world.leader = None, ""
    for claim in world.claims.values():
        claim.disk.cluster_id = ""

    world.run(20)

    assert (world.foundings, world.condition("Degraded"), world.condition("Ready")) == (
        1,
        ("True", "DataMissing"),
        ("False", "DataMissing"),
    )


def test_disks_of_two_clusters_are_told_and_nothing_is_founded() -> None:
    world = _standing()
    world.pods["demo-0"].disk.cluster_id = "a" * 16
    world.pods["demo-1"].disk.cluster_id = "b" * 16

    assert not any(isinstance(action, Bootstrap) for action in world.pass_().actions)
    assert (world.status.cluster_id, world.condition("Degraded")) == ("", ("True", "ForeignData"))


def test_a_scale_down_right_after_an_unseen_founding_takes_no_founder() -> None:
    world = _standing()
    world.pass_()
    world.pass_(killed_after=99)
    assert world.foundings == 1
    for name in list(world.pods):
        world.kill(name)
    world.tick(0.1)
    world.want(replicas=1)

    world.pass_()

    assert (world.objects["StatefulSet", "demo"]["spec"]["replicas"], world.broken) == (3, [])
    assert world.settle()
    assert (sorted(world.pods), world.broken) == (["demo-0"], [])


def test_ready_is_not_said_before_the_zones_and_settings_are_asked_for() -> None:
    world = OperatorWorld()
    while not world.foundings:
        world.pass_()
        world.tick()
    world.pass_()

    assert (world.is_ready(), world.condition("Ready")[1]) == (False, "Bootstrapping")
    assert world.settle()
    assert world.map is not None
    assert {name: want.zone for name, want in world.map.wanted.members.items()} == {
        "demo-0": "zone-a",
        "demo-1": "zone-b",
        "demo-2": "zone-c",
    }


def test_an_idle_cluster_is_left_alone() -> None:
    world = OperatorWorld()
    world.settle()
    world.run(5)
    writes = world.writes

    world.run(300)

    assert (world.writes - writes, world.pass_().look_again_s) == (0, 30.0)


def test_a_cluster_that_is_made_again_at_once_takes_nothing_of_the_former_over_and_is_founded_anew() -> None:
    world = OperatorWorld()
    world.want(storage=Storage(retain=Retain(when_deleted="Delete")))
    assert world.settle()
    world.run(3)
    former = {name: claim.owners for name, claim in world.claims.items()}
    world.make_anew()
    world.writes = 0
    actions = [action for _ in range(5) for action in world.pass_().actions]
    told = world.status.condition("Progressing")
    assert told is not None

    # The status of the five passes is one write: what it waits for.
    assert (world.writes, world.status.cluster_id, world.status.storages) == (1, "", ())
    assert [type(action).__name__ for action in actions] == ["Tell"]
    assert {name: claim.owners for name, claim in world.claims.items()} == former
    assert told.message.startswith("waiting until ConfigMap demo-shard-map, ") and "volume data-demo-2" in told.message
    assert (world.condition("Ready")[0], world.condition("Available")[0]) == ("False", "False")
    world.collect()
    assert world.settle()
    assert (world.foundings, world.broken) == (2, [])


def test_kept_volumes_of_a_former_cluster_are_taken_over_once_its_objects_are_gone() -> None:
    world = OperatorWorld()
    assert world.settle()
    world.run(3)
    world.make_anew()
    world.run(3)
    before = world.status.cluster_id
    world.collect()

    assert world.settle()
    assert (before, world.foundings, world.status.cluster_id, world.broken) == ("", 1, "c" * 16, [])


def test_pods_of_a_former_set_found_nothing_and_give_no_id() -> None:
    world = _standing()
    pods = tuple(with_(pod, owner="u-former-set") for pod in world.seen().pods)
    decision = plan(with_(world.seen(), pods=pods))
    told = {condition.type: condition.message for condition in decision.status.conditions}

    assert decision.actions == ()
    assert (
        told["Progressing"]
        == "waiting until pod demo-0, pod demo-1, pod demo-2 of a former Cluster of this name is gone"
    )


@pytest.mark.parametrize("where", ["nodes_down", "nodes_gone"])
def test_a_stranger_at_the_address_of_a_pod_whose_node_is_away_gives_no_id(where: str) -> None:
    world = _standing()
    seen = world.seen()
    strangers = tuple(with_(node, cluster_id="5" * 16) if node.name == "demo-1" else node for node in seen.answering)
    away = frozenset({next(pod.node for pod in seen.pods if pod.name == "demo-1")})
    others = {"answering": strangers, where: away}
    here, gone = plan(with_(seen, answering=strangers)).status, plan(with_(seen, **others)).status  # type: ignore[arg-type]

    assert (here.cluster_id, gone.cluster_id) == ("5" * 16, "")


def test_a_stranger_at_the_address_of_a_pod_whose_node_is_away_is_not_taken_for_a_wrong_volume() -> None:
    world = OperatorWorld()
    assert world.settle()
    seen = world.seen()
    strangers = tuple(with_(node, cluster_id="5" * 16) if node.name == "demo-1" else node for node in seen.answering)
    away = frozenset({next(pod.node for pod in seen.pods if pod.name == "demo-1")})
    reasons = [
        {one.type: one.reason for one in plan(with_(seen, answering=strangers, nodes_down=down)).status.conditions}
        for down in (frozenset[str](), away)
    ]

    assert [found["Degraded"] for found in reasons] == ["ForeignData", "AsWanted"]
