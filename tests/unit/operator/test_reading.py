"""From the API server's JSON to what the planner sees."""

from __future__ import annotations

from typing import Any

import pytest

from ringkeep_operator.reading import (
    OnlyNode,
    has_default_class,
    only_node_of,
    ordinal_of,
    owners_of,
    pods_of,
    volumes_of,
    why_not_made,
)
from ringkeep_operator.state import SeenPod, SeenVolume

POD: dict[str, Any] = {
    "metadata": {
        "name": "demo-3",
        "uid": "u",
        "resourceVersion": "7",
        "labels": {"controller-revision-hash": "demo-abc"},
        "creationTimestamp": "2026-01-01T00:00:00Z",
    },
    "spec": {"nodeName": "worker"},
    "status": {"phase": "Running", "podIP": "10.0.0.4", "conditions": [{"type": "Ready", "status": "True"}]},
}


def test_a_running_pod_is_seen_with_all_that_is_decided_from() -> None:
    assert pods_of([POD]) == (
        SeenPod(
            name="demo-3",
            uid="u",
            version="7",
            ordinal=3,
            node="worker",
            ip="10.0.0.4",
            phase="Running",
            is_ready=True,
            revision="demo-abc",
            since=1_767_225_600.0,
        ),
    )


@pytest.mark.parametrize(
    ("status", "why"),
    [
        ({}, ("", "")),
        ({"containerStatuses": [{"state": {"waiting": {"reason": "ContainerCreating"}}}]}, ("", "")),
        (
            {"containerStatuses": [{"state": {"waiting": {"reason": "ErrImagePull", "message": "no such image"}}}]},
            ("ErrImagePull", "no such image"),
        ),
        (
            {"initContainerStatuses": [{"state": {"waiting": {"reason": "CrashLoopBackOff"}}}]},
            ("CrashLoopBackOff", ""),
        ),
        (
            {"conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "full"}]},
            ("Unschedulable", "full"),
        ),
    ],
)
def test_why_a_pod_does_not_run_is_its_container_or_the_scheduler(status: Any, why: tuple[str, str]) -> None:
    (pod,) = pods_of([{"metadata": {"name": "demo-0"}, "status": status}])

    assert (pod.waiting, pod.detail) == why


@pytest.mark.parametrize(("name", "ordinal"), [("demo-0", 0), ("a-b-12", 12), ("demo", None), ("demo-x", None)])
def test_only_a_name_that_a_statefulset_gave_has_an_ordinal(name: str, ordinal: int | None) -> None:
    assert ordinal_of(name) == ordinal


def test_a_claim_is_seen_with_the_only_node_that_can_mount_its_volume() -> None:
    claim = {
        "metadata": {"name": "data-demo-0", "uid": "u", "resourceVersion": "7", "deletionTimestamp": "now"},
        "spec": {"volumeName": "pv-1", "resources": {"requests": {"storage": "1Gi"}}},
        "status": {"phase": "Bound"},
    }

    assert volumes_of([claim, {"metadata": {"name": "other"}}], {"pv-1": "worker"}) == (
        SeenVolume(
            name="data-demo-0",
            uid="u",
            version="7",
            ordinal=0,
            phase="Bound",
            is_deleting=True,
            node="worker",
            requested=1 << 30,
        ),
    )


def test_only_a_volume_that_names_one_host_has_an_only_node() -> None:
    def volume(*values: str, key: str = "kubernetes.io/hostname") -> dict[str, Any]:
        rule = {"key": key, "operator": "In", "values": list(values)}
        terms = [{"matchExpressions": [rule]}]
        return {"spec": {"nodeAffinity": {"required": {"nodeSelectorTerms": terms}}}}

    field = {"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n1"]}]}
    by_name = {"spec": {"nodeAffinity": {"required": {"nodeSelectorTerms": [field]}}}}
    found = [only_node_of(one) for one in (volume("w1"), by_name, volume("w1", "w2"), volume("z", key="zone"), {})]

    assert found == [OnlyNode(hostname="w1"), OnlyNode(name="n1"), OnlyNode(), OnlyNode(), OnlyNode()]


def test_a_default_class_is_one_that_says_so() -> None:
    default = {"metadata": {"annotations": {"storageclass.kubernetes.io/is-default-class": "true"}}}

    assert (has_default_class([{"metadata": {}}, default]), has_default_class([{"metadata": {}}])) == (True, False)


def _said(message: str, at: str, **more: Any) -> dict[str, Any]:
    return {"message": message, "lastTimestamp": at, **more}


def test_the_last_word_about_making_a_pod_says_whether_it_can_be_made() -> None:
    events = [
        _said('create Pod d-0 in StatefulSet d failed error: pods "d-0" is forbidden: quota', "2026-01-01T00:00:02Z"),
        _said("create Pod d-0 in StatefulSet d successful", "2026-01-01T00:00:01Z"),
        _said("create Pod d-1 in StatefulSet d failed error: quota", "2026-01-01T00:00:01Z"),
        _said("create Pod d-1 in StatefulSet d successful", "2026-01-01T00:00:02Z"),
        _said("create Claim data-d-2 Pod d-2 in StatefulSet d failed error: storage quota", "2026-01-01T00:00:01Z"),
        _said("create Claim data-d-3 Pod d-3 in StatefulSet d success", "2026-01-01T00:00:01Z"),
        _said("delete Pod d-4 in StatefulSet d successful", "2026-01-01T00:00:01Z"),
        {"message": "(combined from similar events): create Pod d-5 in StatefulSet d failed error: two\nlines"},
        {},
    ]

    assert why_not_made(events) == {
        "d-0": 'pods "d-0" is forbidden: quota',
        "d-2": "storage quota",
        "d-5": "two\nlines",
    }


def test_an_event_that_is_told_again_is_as_new_as_its_last_time() -> None:
    old = "create Pod d-0 in StatefulSet d successful"
    again = _said(
        "create Pod d-0 in StatefulSet d failed error: x", "", series={"lastObservedTime": "2026-01-01T00:00:09Z"}
    )

    assert why_not_made([_said(old, "2026-01-01T00:00:05Z"), again]) == {"d-0": "x"}
    assert why_not_made([again, _said(old, "2026-01-01T00:00:10Z")]) == {}


def test_only_clusters_of_our_group_own_anything() -> None:
    owners = [
        {"apiVersion": "ringkeep.dev/v1alpha1", "kind": "Cluster", "uid": "ours"},
        {"apiVersion": "cluster.x-k8s.io/v1beta1", "kind": "Cluster", "uid": "theirs"},
        {"apiVersion": "apps/v1", "kind": "StatefulSet", "uid": "set"},
    ]

    assert owners_of({"metadata": {"ownerReferences": owners}}) == {"ours"}
    assert owners_of({"metadata": {}}) == frozenset()
