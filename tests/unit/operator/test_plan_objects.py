"""Objects are applied when they lack something, removed when they are wanted no more, and never taken from others."""

import itertools
from typing import Any

import pytest
from msgspec.structs import replace

from ringkeep_core.resource import Monitoring, Networking, Retain, Storage
from ringkeep_operator.state import Apply, CreateSecret, Delete
from ringkeep_testing.operator_world import OperatorWorld


@pytest.fixture(name="world")
def _world() -> OperatorWorld:
    world = OperatorWorld()
    assert world.settle()
    world.run(3)
    return world


def _applied(world: OperatorWorld) -> list[str]:
    actions = world.pass_().actions
    return [f"{a.manifest['kind']} {_name(a)}" for a in actions if isinstance(a, Apply | CreateSecret)]


def _name(action: Apply | CreateSecret) -> str:
    metadata: Any = action.manifest["metadata"]
    return str(metadata["name"])


@pytest.mark.parametrize(
    "key",
    [
        ("Secret", "demo-admin"),
        ("ServiceAccount", "demo"),
        ("Service", "demo"),
        ("Service", "demo-nodes"),
        ("PodDisruptionBudget", "demo"),
        ("StatefulSet", "demo"),
        ("ConfigMap", "demo-shard-map"),
    ],
)
def test_a_child_that_somebody_deleted_is_made_again_once(world: OperatorWorld, key: tuple[str, str]) -> None:
    del world.objects[key]

    assert _applied(world) == [" ".join(key)]
    assert _applied(world) == []


def test_a_changed_field_is_put_right_and_an_added_one_is_left(world: OperatorWorld) -> None:
    world.objects["Service", "demo"]["spec"]["externalTrafficPolicy"] = "Local"
    assert _applied(world) == []
    world.objects["Service", "demo"]["spec"]["ports"][0]["port"] = 9

    assert _applied(world) == ["Service demo"]
    assert _applied(world) == []


@pytest.mark.parametrize("kind", ["Service", "PodDisruptionBudget"])
def test_a_label_more_in_a_selector_is_put_right_because_it_selects_nobody(world: OperatorWorld, kind: str) -> None:
    selector = world.objects[kind, "demo"]["spec"]["selector"]
    selector.get("matchLabels", selector)["app"] = "elsewhere"

    assert _applied(world) == [f"{kind} demo"]
    assert _applied(world) == []


def test_amounts_are_compared_by_value(world: OperatorWorld) -> None:
    template = world.objects["StatefulSet", "demo"]["spec"]["volumeClaimTemplates"][0]
    template["spec"]["resources"]["requests"]["storage"] = "1024Mi"

    assert _applied(world) == []


def test_what_is_foreign_is_told_once_and_never_touched() -> None:
    world = OperatorWorld(foreign={("Service", "demo")})
    world.run(20)

    assert (world.condition("Degraded"), world.condition("Ready")[0], world.broken) == (
        ("True", "ForeignObject"),
        "False",
        [],
    )
    assert [tell.reason for tell in world.told].count("ForeignObject") == 1
    assert ("Service", "demo") not in world.objects
    assert world.condition("Available") == ("True", "Serving")


def test_optional_objects_come_and_go_with_the_spec(world: OperatorWorld) -> None:
    world.want(monitoring=Monitoring(service_monitor=True), network_policy=Networking(enabled=True))
    assert _applied(world) == ["NetworkPolicy demo", "ServiceMonitor demo"]
    world.want(monitoring=Monitoring(), network_policy=Networking())

    decision = world.pass_()

    assert sorted(a.target.kind for a in decision.actions if isinstance(a, Delete)) == [
        "NetworkPolicy",
        "ServiceMonitor",
    ]
    assert world.settle()


def test_one_member_has_no_budget(world: OperatorWorld) -> None:
    world.want(replicas=1)
    world.settle()

    assert ("PodDisruptionBudget", "demo") not in world.objects


def test_the_map_is_shown_at_most_every_two_seconds(world: OperatorWorld) -> None:
    written = []
    world.want(replicas=5)
    for _ in range(60):
        for action in world.pass_().actions:
            if isinstance(action, Apply) and action.manifest["kind"] == "ConfigMap":
                written.append(world.now)
        world.tick(0.3)
    assert world.map is not None

    assert min(after - before for before, after in itertools.pairwise(written)) >= 1.9
    shown = world.objects["ConfigMap", "demo-shard-map"]["metadata"]["annotations"]["ringkeep.dev/map-version"]
    assert shown == str(world.map.version)


def test_an_older_map_never_replaces_a_newer_one(world: OperatorWorld) -> None:
    older = world.map
    world.want(min_in_sync=1)
    world.run(5)
    world.map = older

    assert "ConfigMap demo-shard-map" not in _applied(world)


def test_volumes_grow_and_the_template_that_cannot_be_changed_stays(world: OperatorWorld) -> None:
    world.want(storage=replace(world.spec.storage, size="2Gi"))

    assert _applied(world) == [f"PersistentVolumeClaim data-demo-{n}" for n in range(3)]
    template = world.objects["StatefulSet", "demo"]["spec"]["volumeClaimTemplates"][0]
    assert template["spec"]["resources"]["requests"]["storage"] == "1Gi"


def test_a_cluster_that_is_being_deleted_is_left_to_the_garbage_collector(world: OperatorWorld) -> None:
    from dataclasses import replace as with_

    from ringkeep_operator.plan import plan

    seen = world.seen()
    decision = plan(with_(seen, resource=replace(seen.resource, is_deleting=True), children={}))

    assert (decision.actions, decision.status) == ((), world.status)


def test_volumes_are_owned_by_the_cluster_only_while_they_are_to_be_deleted_with_it(world: OperatorWorld) -> None:
    owners = []
    for when_deleted in ("Retain", "Delete", "Retain"):
        world.want(storage=Storage(retain=Retain(when_deleted=when_deleted)))
        world.run(3)
        owners.append({name: claim.owners for name, claim in world.claims.items()})

    names = ("data-demo-0", "data-demo-1", "data-demo-2")
    nobody: dict[str, frozenset[str]] = dict.fromkeys(names, frozenset())
    the_cluster = dict.fromkeys(names, frozenset({"u-demo"}))
    assert owners == [nobody, the_cluster, nobody]
    assert _applied(world) == []


def test_no_pod_begins_with_the_token_of_a_former_cluster_of_the_same_name() -> None:
    world = OperatorWorld()
    owner = {"apiVersion": "ringkeep.dev/v1alpha1", "kind": "Cluster", "name": "demo", "uid": "u-former"}
    world.objects["Secret", "demo-admin"] = {
        "kind": "Secret",
        "metadata": {"name": "demo-admin", "ownerReferences": [owner]},
    }
    world.run(5)

    assert (world.pods, world.condition("Progressing")) == ({}, ("True", "Applying"))
    del world.objects["Secret", "demo-admin"]
    assert world.settle()
    assert world.objects["Secret", "demo-admin"]["metadata"]["ownerReferences"][0]["uid"] == "u-demo"
