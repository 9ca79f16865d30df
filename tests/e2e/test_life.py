"""The life of a cluster under load: it grows, shrinks, loses pods, is renewed; nothing that was acknowledged is lost."""

from __future__ import annotations

import time

import pytest

from ringkeep_testing.kind_cluster import LIMIT_S, Recording, Report, Settled, Watch, until

ERRORS_MAX = 0.001


def judged(settled: Settled, recording: Recording, report: Report, what: str) -> None:
    """Nothing was lost, hardly anything failed, and nothing is left over: as many pods as members."""
    report.add(f"{what}: slowest write", recording.final["longest_write_s"])
    report.add(f"{what}: acknowledged writes lost", len(recording.offences), limit=0, unit="")
    report.add(f"{what}: errors after one retry", recording.error_share, limit=ERRORS_MAX, unit="")

    assert recording.offences == []
    assert recording.error_share <= ERRORS_MAX, recording.summary
    assert len(settled.space.pods(settled.name)) == settled.space.cluster(settled.name)["spec"]["replicas"]


def seconds_to_the_first_write(settled: Settled, replicas: int) -> float:
    """Scale; return how long after the changed spec the StatefulSet was seen changed, by the same kind of watch."""
    with (
        Watch(settled.space, "cluster", settled.name, ".spec.replicas") as spec,
        Watch(settled.space, "statefulset", settled.name, ".spec.replicas") as child,
    ):
        settled.space.kubectl("scale", "cluster", settled.name, f"--replicas={replicas}")
        changed = until(spec.first_change, "the spec is seen changed", limit_s=20)
        written = until(child.first_change, "the StatefulSet is seen changed", limit_s=20)
    return max(0.0, written - changed)


def zone_of(settled: Settled, pod: str) -> str:
    """Return the zone of the Node of a pod, "" where Nodes have none."""
    node = settled.space.get("node", settled.node(pod))
    assert node is not None
    return str(node["metadata"]["labels"].get("topology.kubernetes.io/zone", ""))


@pytest.mark.measured
def test_a_cluster_grows_is_renewed_and_shrinks_under_load_without_losing_anything(
    demo: Settled, report: Report
) -> None:
    with demo.space.recording(demo.name) as growing:
        began = time.monotonic()
        report.add("spec change -> first child write", seconds_to_the_first_write(demo, 5), limit=0.5)
        demo.settled()
        report.add("3 -> 5 under load until Ready", time.monotonic() - began, limit=40)
        zones = {row["name"]: row["zone"] for row in demo.space.cluster(demo.name)["status"]["members"]}
        places = {pod["metadata"]["name"]: zone_of(demo, pod["metadata"]["name"]) for pod in demo.space.pods(demo.name)}
    judged(demo, growing, report, "3 -> 5")
    assert zones == places

    with demo.space.recording(demo.name) as renewing:
        before = demo.space.cluster(demo.name)["spec"].get("resources", {}).get("requests", {}).get("cpu")
        wanted = "12m" if before == "11m" else "11m"  # Of several runs each is to change something.
        began = time.monotonic()
        demo.patch(resources={"requests": {"cpu": wanted}})

        def renewed() -> bool | None:
            pods = demo.space.pods(demo.name)
            amounts = [pod["spec"]["containers"][0]["resources"].get("requests", {}).get("cpu") for pod in pods]
            return True if amounts == [wanted] * 5 else None

        until(renewed, "every pod is of the new kind", limit_s=3 * LIMIT_S, every_s=1.0)
        demo.settled()
        report.add("rolling update of 5 pods under load", time.monotonic() - began, limit=120)
    judged(demo, renewing, report, "rolling update")

    with demo.space.recording(demo.name) as shrinking:
        report.add("5 -> 3 under load until Ready", demo.space.scale(demo.name, 3), limit=40)
    judged(demo, shrinking, report, "5 -> 3")


def test_a_size_that_changes_while_copies_move_is_planned_anew(demo: Settled, report: Report) -> None:
    with demo.space.recording(demo.name) as recording:
        demo.space.kubectl("scale", "cluster", demo.name, "--replicas=5")
        until(
            lambda: True if len(demo.space.cluster(demo.name)["status"]["members"]) == 5 else None,
            "five members are known",
        )
        report.add("3 -> 5 -> 4, changed in mid-flight, until Ready", demo.space.scale(demo.name, 4), limit=40)
        ordinals = sorted(pod["metadata"]["name"] for pod in demo.space.pods(demo.name))
        demo.space.scale(demo.name, 3)
    judged(demo, recording, report, "3 -> 5 -> 4 -> 3")

    assert ordinals == ["demo-0", "demo-1", "demo-2", "demo-3"]


@pytest.mark.measured
def test_writes_go_on_after_a_pod_was_killed(demo: Settled, report: Report) -> None:
    with demo.space.recording(demo.name) as recording:
        for _ in range(2):
            # Once the leader of the members, once whoever is next: the leader is another one then.
            victim, before = demo.leader, time.time()
            uid = demo.uid(victim)
            demo.space.kubectl("delete", "pod", victim, "--grace-period=0", "--force", "--wait=false")
            until(lambda: True if demo.is_new(victim, uid) else None, f"{victim} is back", every_s=1.0)  # noqa: B023
            demo.settled()
            report.add("pod killed -> writes again (slowest write)", recording.slowest_write_s(before), limit=2)
    judged(demo, recording, report, "pod killed")


def test_all_pods_deleted_at_once_come_back_with_everything(demo: Settled, report: Report) -> None:
    with demo.space.recording(demo.name) as recording:
        recording.rest()
        uids = {name: demo.uid(name) for name in ("demo-0", "demo-1", "demo-2")}
        began = time.monotonic()
        demo.space.kubectl("delete", "pod", "-l", f"ringkeep.dev/cluster={demo.name}", "--grace-period=0", "--force")
        until(
            lambda: True if all(demo.is_new(name, uid) for name, uid in uids.items()) else None,
            "all pods are back",
            every_s=1.0,
        )
        demo.settled()
        report.add("all pods deleted at once -> Ready", time.monotonic() - began, limit=45)

    assert recording.final["checked"] > 0
    judged(demo, recording, report, "all pods deleted at once")
