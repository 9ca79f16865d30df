"""What people get wrong, and what they take away: a condition and an event say so, nothing is lost, and it heals."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest

from ringkeep_testing.kind_cluster import (
    Json,
    Namespace,
    Operator,
    Report,
    Settled,
    cluster_manifest,
    command,
    kubectl,
    until,
)

OLD_IMAGE = "ringkeep-node:dev"
CALM_PER_S = 50
"""Where it does not matter how long anything takes: nothing acknowledged is lost, and the cores are free for the rest."""


def said(space: Namespace, name: str, reason: str, *, limit_s: float = 60.0, events: bool = True) -> str:
    """Wait until a Cluster is Degraded for a reason, and an event says it too; return the condition's message."""
    message = space.complaint(name, reason, limit_s=limit_s)
    if events:
        until(lambda: True if reason in dict(space.events(name)) else None, f"an event says {reason}", limit_s=10)
    return message


def map_of(demo: Settled) -> Json:
    """Return the shard map, as the first member has it."""
    return demo.space.ask("demo-0", "/v1/cluster/map")


def storage_of(demo: Settled, name: str) -> str:
    """Return the disk of a member, as the map has it, "" if it has none."""
    return next((str(row["storage_id"]) for row in map_of(demo)["members"] if row["name"] == name), "")


def test_a_wrong_image_takes_one_pod_and_heals_when_it_is_corrected(demo: Settled) -> None:
    uids = demo.uids()
    with demo.space.recording(demo.name, writes_per_s=CALM_PER_S, reads_per_s=CALM_PER_S) as recording:
        demo.patch(image="ringkeep-node:there-is-none")
        message = said(demo.space, demo.name, "ImagePullFailed")
        # Long enough for several passes, each of which could take the next pod.
        time.sleep(8)
        taken = demo.replaced(uids)
        is_available = demo.space.conditions(demo.name)["Available"].status
        demo.patch(image=OLD_IMAGE)
        demo.settled()

    assert len(taken) == 1 and taken[0] in message and is_available == "True"
    assert demo.replaced(uids) == taken
    assert recording.offences == [] and recording.error_share <= 0.001, recording.summary


def test_children_that_were_deleted_are_made_again(demo: Settled, report: Report) -> None:
    children = ["service/demo", "service/demo-nodes", "poddisruptionbudget/demo", "configmap/demo-shard-map"]
    pods = {pod["metadata"]["uid"] for pod in demo.space.pods(demo.name)}
    began = time.monotonic()
    demo.space.kubectl("delete", *children, "--wait=false")
    until(
        lambda: True if all(demo.space.get(*child.split("/")) for child in children) else None,
        "all of them are there again",
        limit_s=60,
    )
    report.add("children deleted -> made again", time.monotonic() - began, limit=5)
    # A changed one is put right too.
    demo.space.kubectl("patch", "service", "demo", "--type=merge", "-p", '{"spec":{"selector":{"app":"elsewhere"}}}')

    def repaired() -> bool | None:
        found = demo.space.get("service", "demo")
        return True if found and found["spec"]["selector"].get("ringkeep.dev/cluster") == "demo" else None

    until(repaired, "the Service selects the members again", limit_s=60)
    demo.settled()

    assert {pod["metadata"]["uid"] for pod in demo.space.pods(demo.name)} == pods


MONITORS: dict[str, Any] = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": "servicemonitors.monitoring.coreos.com"},
    "spec": {
        "group": "monitoring.coreos.com",
        "scope": "Namespaced",
        "names": {"plural": "servicemonitors", "singular": "servicemonitor", "kind": "ServiceMonitor"},
        "versions": [
            {
                "name": "v1",
                "served": True,
                "storage": True,
                "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}},
            }
        ],
    },
}
"""As much of the Prometheus operator's kind as a server needs to take such objects; it may be installed already."""


@pytest.fixture
def monitors() -> Iterator[None]:
    """The kind ServiceMonitor."""
    name = MONITORS["metadata"]["name"]
    if kubectl("get", "crd", name, "--ignore-not-found").strip():
        yield
        return
    kubectl("apply", "-f", "-", given=json.dumps(MONITORS))
    kubectl("wait", "--for=condition=Established", f"crd/{name}", "--timeout=30s")
    yield
    kubectl("delete", "crd", name, "--timeout=30s")


@pytest.mark.usefixtures("monitors")
def test_a_service_monitor_is_there_while_it_is_wanted(demo: Settled) -> None:
    kind = "servicemonitors.monitoring.coreos.com"
    demo.patch(monitoring={"serviceMonitor": True})
    made = until(lambda: demo.space.get(kind, "demo"), "there is a ServiceMonitor", limit_s=60)
    services = demo.space.all(
        "services", ",".join("=".join(one) for one in made["spec"]["selector"]["matchLabels"].items())
    )
    ports = {port["name"] for service in services for port in service["spec"]["ports"]}
    demo.patch(monitoring={"serviceMonitor": False})
    until(lambda: None if demo.space.get(kind, "demo") else True, "it is gone", limit_s=60)

    assert [service["metadata"]["name"] for service in services] == ["demo-nodes"]
    assert [endpoint["port"] in ports for endpoint in made["spec"]["endpoints"]] == [True]


def test_what_stands_in_the_way_is_said_and_left_as_it_is(space: Namespace) -> None:
    theirs: dict[str, Any] = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "taken"},
        "spec": {"ports": [{"port": 1}], "selector": {"app": "theirs"}},
    }
    space.apply(theirs)
    before = space.get("service", "taken")
    space.apply(
        cluster_manifest("taken", 1), cluster_manifest("classless", 1, storage={"size": "64Mi", "className": "none"})
    )
    foreign, classless = said(space, "taken", "ForeignObject"), said(space, "classless", "StorageClassMissing")

    assert "Service taken exists and is not ours" in foreign and "StorageClass none does not exist" in classless
    assert space.get("service", "taken") == before
    assert space.conditions("taken")["Ready"].status == space.conditions("classless")["Ready"].status == "False"

    space.kubectl("delete", "service", "taken", "--wait=true")
    space.ready("taken", limit_s=120)
    space.kubectl("delete", "cluster", "taken", "classless", "--timeout=60s")


@pytest.mark.measured
@pytest.mark.usefixtures("kind")
def test_an_impossible_scale_down_is_refused_at_once_while_the_rest_goes_on(
    demo: Settled, process: Operator, report: Report
) -> None:
    uids = demo.uids()
    # One of those that would stay, and not where the operator runs.
    dead = next(name for name in ("demo-0", "demo-1") if demo.node(name) != process.node)
    alive = "demo-1" if dead == "demo-0" else "demo-0"
    worker = demo.node(dead)
    command("docker", "pause", worker)
    try:
        # Not before: who is suspected only may go on living, so nothing is impossible yet.
        until(lambda: True if demo.state(dead) == "dead" else None, f"{dead} is called dead", limit_s=60)
        began = time.monotonic()
        demo.patch(replicas=2, recovery={"rereplicateAfter": "277s"})
        message = said(demo.space, demo.name, "ChangeRefused", events=False)
        report.add("impossible scale-down -> refused in the conditions", time.monotonic() - began, limit=2)

        def told() -> bool | None:
            return True if demo.space.ask(alive, "/v1/cluster/wanted")["settings"]["grace_s"] == 277.0 else None

        until(told, "the other change has reached the members", limit_s=60)
        is_available = demo.space.conditions(demo.name)["Available"].status
        still = {name: demo.uid(name) for name in uids}
    finally:
        command("docker", "unpause", worker)
    # What was impossible is possible again, and wanted still.
    demo.settled()
    members = sorted(row["name"] for row in demo.space.cluster(demo.name)["status"]["members"])
    demo.space.scale(demo.name, 3)

    assert "demo-2 cannot go" in message and is_available == "True"
    assert still == uids and members == ["demo-0", "demo-1"]


def test_a_suspended_cluster_comes_back_with_everything(demo: Settled, report: Report) -> None:
    with demo.space.recording(demo.name) as recording:
        recording.rest()
        volumes = {row["metadata"]["name"]: row["metadata"]["uid"] for row in demo.space.all("pvc")}
        demo.patch(suspend=True)
        until(lambda: None if demo.space.pods(demo.name) else True, "all pods are stopped", every_s=1.0)
        until(
            lambda: True if demo.space.conditions(demo.name)["Progressing"].reason == "Suspended" else None,
            "the conditions say so",
        )
        began = time.monotonic()
        demo.patch(suspend=False)
        demo.settled()
        report.add("resumed -> Ready", time.monotonic() - began, limit=60)

    assert {row["metadata"]["name"]: row["metadata"]["uid"] for row in demo.space.all("pvc")} == volumes
    assert recording.final["checked"] > 0 and recording.offences == []


def test_a_kept_volume_comes_back_as_an_empty_member_and_an_autoscaler_may_bring_it(demo: Settled) -> None:
    demo.patch(storage={"retain": {"whenScaled": "Retain"}})
    with demo.space.recording(demo.name, writes_per_s=CALM_PER_S, reads_per_s=CALM_PER_S) as recording:
        demo.space.scale(demo.name, 4)
        volume = demo.space.get("pvc", "data-demo-3")
        disk = storage_of(demo, "demo-3")
        demo.space.scale(demo.name, 3)
        kept = demo.space.get("pvc", "data-demo-3")
        left = map_of(demo)["left"]
        time.sleep(2)  # What is written now is not on the kept volume.
        target = {"apiVersion": "ringkeep.dev/v1alpha1", "kind": "Cluster", "name": demo.name}
        demo.space.apply(
            {
                "apiVersion": "autoscaling/v2",
                "kind": "HorizontalPodAutoscaler",
                "metadata": {"name": demo.name},
                "spec": {"scaleTargetRef": target, "minReplicas": 4, "maxReplicas": 4},
            }
        )
        until(
            lambda: True if demo.space.cluster(demo.name)["spec"]["replicas"] == 4 else None,
            "the autoscaler has scaled",
        )
        demo.settled()
        demo.space.kubectl("delete", "hpa", demo.name)
        new_disk = storage_of(demo, "demo-3")
        held = sum("demo-3" in {copy["name"] for copy in shard["in_sync"]} for shard in map_of(demo)["shards"])
    demo.patch(storage={"retain": {"whenScaled": "Delete"}})
    demo.space.scale(demo.name, 3)
    until(lambda: True if demo.space.get("pvc", "data-demo-3") is None else None, "its volume is deleted now")

    assert volume is not None and kept is not None and kept["metadata"]["uid"] == volume["metadata"]["uid"]
    assert disk in left and new_disk not in ("", disk) and held > 0
    assert recording.offences == [] and recording.error_share <= 0.001, recording.summary


def test_a_pod_that_was_deleted_with_its_volume_is_replaced(demo: Settled, report: Report) -> None:
    with demo.space.recording(demo.name, writes_per_s=CALM_PER_S, reads_per_s=CALM_PER_S) as recording:
        recording.rest()
        uid, disk = demo.uid("demo-2"), storage_of(demo, "demo-2")
        began = time.monotonic()
        demo.space.kubectl("delete", "pvc", "data-demo-2", "--wait=false")
        demo.space.kubectl("delete", "pod", "demo-2", "--wait=false")
        until(lambda: True if demo.is_new("demo-2", uid) else None, "there is a new pod", every_s=1.0)
        until(
            lambda: True if storage_of(demo, "demo-2") not in ("", disk) else None,
            "the members know the new disk",
            every_s=1.0,
        )
        demo.settled()
        report.add("pod and its volume deleted -> Ready", time.monotonic() - began, limit=60)

    assert recording.final["checked"] > 0 and recording.offences == []
