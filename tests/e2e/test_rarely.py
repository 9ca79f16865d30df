"""What happens rarely and takes long to wait for: with `E2E_RARE=1 make e2e`, and not in every run of CI.

A member that only the kubelet is content with, volumes that go with their cluster, a setting that no node can take, a
StatefulSet or a Secret that somebody deleted, and a definition of the resource that is older than the chart.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from ringkeep_testing.kind_cluster import (
    CHART,
    Json,
    Namespace,
    Settled,
    cluster_manifest,
    command,
    decoded,
    helm,
    kubectl,
    until,
)

pytestmark = pytest.mark.rare
DEFINITION = "clusters.ringkeep.dev"
PEER_PORT = "7400"


@contextmanager
def cut_off(worker: str, address: str) -> Iterator[None]:
    """Let nothing through between a pod and its peers; the kubelet goes on reaching it."""
    rules = [
        ["FORWARD", end, address, "-p", protocol, "-m", "multiport", "--ports", PEER_PORT, "-j", "DROP"]
        for end in ("-s", "-d")
        for protocol in ("tcp", "udp")
    ]
    for rule in rules:
        command("docker", "exec", worker, "iptables", "-I", *rule)
    try:
        yield
    finally:
        for rule in rules:
            command("docker", "exec", worker, "iptables", "-D", *rule)


@pytest.mark.usefixtures("kind")
def test_a_member_that_the_others_call_dead_is_replaced_although_its_pod_is_fine(demo: Settled) -> None:
    victim = "demo-1"
    uid, pod = demo.uid(victim), demo.space.get("pod", victim)
    assert pod is not None
    demo.patch(recovery={"replaceAfter": "15s"})
    with demo.space.recording(demo.name, writes_per_s=50, reads_per_s=50, url=demo.address("demo-0")) as recording:
        with cut_off(demo.node(victim), pod["status"]["podIP"]):
            until(lambda: True if demo.state(victim) == "dead" else None, "the members call it dead", limit_s=60)
            found = demo.space.get("pod", victim)
            was_fine = found is not None and found["metadata"]["uid"] == uid and found["status"]["phase"] == "Running"
            until(lambda: True if demo.is_new(victim, uid) else None, "it is replaced", limit_s=120, every_s=1.0)
        demo.settled()
    demo.patch(recovery={"replaceAfter": None})

    assert was_fine and "PodReplaced" in dict(demo.space.events(demo.name))
    assert recording.final["checked"] > 0 and recording.offences == [], recording.summary


def test_a_setting_that_no_node_can_take_stops_at_one_pod_and_is_taken_back(demo: Settled) -> None:
    uids = demo.uids()
    demo.patch(settings=[{"name": "LOG_LEVEL", "value": "loud"}])
    message = demo.space.complaint(demo.name, "PodCrashing", limit_s=120)
    taken = demo.replaced(uids)
    is_available = demo.space.conditions(demo.name)["Available"].status
    demo.patch(settings=None)
    demo.settled()

    assert len(taken) == 1 and taken[0] in message and is_available == "True"
    assert demo.replaced(uids) == taken


def test_a_statefulset_and_a_secret_that_were_deleted_are_made_again_and_nothing_is_lost(demo: Settled) -> None:
    with demo.space.recording(demo.name, writes_per_s=50, reads_per_s=50) as recording:
        recording.rest()
        before = [demo.space.get("secret", "demo-admin"), demo.space.get("statefulset", "demo")]
        uids = demo.uids()
        demo.space.kubectl("delete", "secret", "demo-admin")
        until(
            lambda: True if all(demo.is_new(name, uid) for name, uid in uids.items()) else None,
            "all pods know the new token",
            every_s=1.0,
        )
        demo.settled()
        demo.space.kubectl("delete", "statefulset", "demo")
        until(lambda: demo.space.get("statefulset", "demo"), "there is a StatefulSet again", limit_s=60)
        demo.settled()
        after = [demo.space.get("secret", "demo-admin"), demo.space.get("statefulset", "demo")]
        shown = demo.space.ask("demo-0", "/v1/cluster/wanted")

    assert all(
        one and other and one["metadata"]["uid"] != other["metadata"]["uid"]
        for one, other in zip(before, after, strict=True)
    )
    assert shown["members"].keys() == uids.keys()
    assert recording.final["checked"] > 0 and recording.offences == [], recording.summary


def test_volumes_go_with_their_cluster_where_that_is_wanted(space: Namespace) -> None:
    space.apply(cluster_manifest("gone", 1, storage={"size": "64Mi", "retain": {"whenDeleted": "Delete"}}))
    space.ready("gone", limit_s=120)
    volume = space.get("pvc", "data-gone-0")
    space.kubectl("delete", "cluster", "gone", "--timeout=60s")

    until(lambda: None if space.get("pvc", "data-gone-0") else True, "its volume is deleted", limit_s=60)
    assert volume is not None


def test_a_cluster_that_is_deleted_and_made_again_at_once_is_a_new_one_without_the_former_ones_data(
    space: Namespace,
) -> None:
    manifest = cluster_manifest("again", 3, storage={"size": "64Mi", "retain": {"whenDeleted": "Delete"}})
    space.apply(manifest)
    space.ready("again", limit_s=120)
    former = space.cluster("again")["status"]["clusterId"]
    volumes = {row["metadata"]["uid"] for row in space.all("pvc", "ringkeep.dev/cluster=again")}
    space.kubectl("delete", "cluster", "again", "--timeout=60s")
    space.apply(manifest)
    found = space.settled("again", limit_s=180)["status"]
    now = {row["metadata"]["uid"] for row in space.all("pvc", "ringkeep.dev/cluster=again")}
    space.kubectl("delete", "cluster", "again", "--timeout=60s")

    assert found["clusterId"] not in ("", former)
    assert (len(volumes), len(now), volumes & now) == (3, 3, set())


def test_a_pod_that_a_quota_forbids_is_told_and_comes_once_it_is_allowed(space: Namespace) -> None:
    space.apply(cluster_manifest("poor", 1))
    space.ready("poor", limit_s=120)
    pods = sum(1 for pod in space.all("pods") if pod["status"]["phase"] in ("Pending", "Running"))
    quota = {
        "apiVersion": "v1",
        "kind": "ResourceQuota",
        "metadata": {"name": "few"},
        "spec": {"hard": {"pods": str(pods)}},
    }
    space.apply(quota)
    until(
        lambda: (
            (space.get("resourcequota", "few") or {}).get("status", {}).get("used", {}).get("pods") == str(pods) or None
        ),
        "the quota counts",
    )
    space.kubectl("scale", "cluster", "poor", "--replicas=2")
    message = space.complaint("poor", "PodCreateFailed", limit_s=60)
    told = dict(space.events("poor"))
    space.kubectl("delete", "resourcequota", "few")
    space.settled("poor", limit_s=180)
    space.kubectl("delete", "cluster", "poor", "--timeout=60s")
    space.kubectl("delete", "pvc", "-l", "ringkeep.dev/cluster=poor")

    assert message.startswith("pod poor-1: ") and "exceeded quota" in message
    assert "PodCreateFailed" in told


CHOSEN: Json = {
    "labels": {"team": "data"},
    "annotations": {"example.com/note": "seven"},
    "nodeSelector": {"kubernetes.io/os": "linux"},
    "tolerations": [{"key": "storage", "operator": "Exists", "effect": "NoSchedule"}, {"key": "spot", "value": "yes"}],
    "imagePullSecrets": [{"name": "registry"}],
    "env": [{"name": "NOTE", "value": "$(RINGKEEP_ADMIN_TOKEN) $$(POD_IP) $$$ $"}, {"name": "EMPTY", "value": ""}],
    "envFrom": [{"secretRef": {"name": "more"}}],
}


def test_what_people_choose_for_pods_is_in_the_pods_word_by_word_and_applied_once(space: Namespace) -> None:
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "more"}, "stringData": {"SECRET_NOTE": "hush"}}
    space.apply(secret, cluster_manifest("chosen", 1, pods=CHOSEN))
    space.ready("chosen", limit_s=120)
    pod, made = space.get("pod", "chosen-0"), space.get("statefulset", "chosen")
    shown = space.run_python(
        "chosen-0", "import os; print([os.environ.get(n) for n in ('NOTE', 'EMPTY', 'SECRET_NOTE')])"
    )
    time.sleep(5.0)
    later = space.get("statefulset", "chosen")
    space.kubectl("delete", "cluster", "chosen", "--timeout=60s")
    space.kubectl("delete", "pvc", "-l", "ringkeep.dev/cluster=chosen")
    assert pod is not None and made is not None and later is not None
    metadata, spec = pod["metadata"], pod["spec"]

    assert shown.strip() == str(["$(RINGKEEP_ADMIN_TOKEN) $$(POD_IP) $$$ $", "", "hush"])
    assert (metadata["labels"]["team"], metadata["annotations"]["example.com/note"]) == ("data", "seven")
    assert (spec["nodeSelector"], spec["imagePullSecrets"]) == (CHOSEN["nodeSelector"], CHOSEN["imagePullSecrets"])
    assert {row["key"] for row in spec["tolerations"]} >= {"storage", "spot"}
    assert made["metadata"]["resourceVersion"] == later["metadata"]["resourceVersion"]


def test_a_claim_that_was_deleted_under_a_member_is_told_and_replaced_with_its_pod(demo: Settled) -> None:
    claim, uid = demo.space.get("pvc", "data-demo-1"), demo.uid("demo-1")
    with demo.space.recording(demo.name, writes_per_s=50, reads_per_s=50) as recording:
        demo.space.kubectl("delete", "pvc", "data-demo-1", "--wait=false")
        message = demo.space.complaint(demo.name, "VolumeTerminating", limit_s=60)
        kept = demo.uid("demo-1") == uid
        demo.space.kubectl("delete", "pod", "demo-1")
        demo.settled()
    fresh = demo.space.get("pvc", "data-demo-1")

    assert message == "data-demo-1 is being deleted, and goes with its data when pod demo-1 ends" and kept
    assert claim is not None and fresh is not None and claim["metadata"]["uid"] != fresh["metadata"]["uid"]
    assert recording.final["checked"] > 0 and recording.offences == [], recording.summary


def test_helm_upgrade_brings_an_older_definition_of_the_resource_up_to_date(demo: Settled, operator: str) -> None:
    path = "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/settings"
    change = json.dumps([{"op": "remove", "path": path}])
    uids = demo.uids()
    # As the notes of the installation say, in case that another release has left the definition behind.
    owner = (f"meta.helm.sh/release-{part}" for part in ("name=ringkeep", f"namespace={operator}"))
    kubectl("label", "crd", DEFINITION, "app.kubernetes.io/managed-by=Helm", "--overwrite")
    kubectl("annotate", "crd", DEFINITION, "--overwrite", *owner)
    kubectl("patch", "crd", DEFINITION, "--type=json", "-p", change)
    older = _fields()
    helm(
        "upgrade", "ringkeep", str(CHART), "--namespace", operator, "--reuse-values", "--wait", "--timeout", "120s"
    )  # fmt: skip
    newer = _fields()
    demo.settled()

    assert "settings" not in older and "settings" in newer
    assert demo.replaced(uids) == []


def _fields() -> set[str]:
    """Return the fields of the spec that the API server takes."""
    found = decoded(kubectl("get", "crd", DEFINITION, "-o", "json"))
    return set(found["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"])
