"""The life of a cluster under load: it grows, shrinks, loses pods, is renewed; nothing that was acknowledged is lost."""

from __future__ import annotations

import json
import time

from ringkeep_testing.kind_cluster import LIMIT_S, Report, Settled, until

ERRORS_MAX = 0.001


def judged(settled: Settled, what: str) -> None:
    """Nothing may be left over: as many pods as members, all of them ready."""
    pods = settled.space.pods(settled.name)

    assert len(pods) == settled.space.cluster(settled.name)["spec"]["replicas"], what


def test_a_cluster_grows_and_shrinks_under_load_without_losing_anything(demo: Settled, report: Report) -> None:
    with demo.space.recording(demo.name) as recording:
        grown_s = demo.space.scale(demo.name, 5)
        time.sleep(3)
        shrunk_s = demo.space.scale(demo.name, 3)
        time.sleep(3)
    report.add("3 -> 5 until Ready", grown_s, limit=40)
    report.add("5 -> 3 under load until Ready", shrunk_s, limit=40)
    report.add("3 -> 5 -> 3: errors after one retry", recording.error_share, limit=ERRORS_MAX, unit="")
    report.add("3 -> 5 -> 3: longest write", recording.final["longest_write_s"])

    assert recording.offences == []
    assert recording.error_share <= ERRORS_MAX, recording.final
    judged(demo, "after shrinking")


def test_writes_go_on_after_a_pod_was_killed(demo: Settled, report: Report) -> None:
    with demo.space.recording(demo.name) as recording:
        for victim in (demo.leader, next(f"demo-{number}" for number in range(3) if f"demo-{number}" != demo.leader)):
            before = time.time()
            demo.space.kubectl("delete", "pod", victim, "--grace-period=0", "--force", "--wait=false")
            time.sleep(10)
            slowest = max(
                (line["write_max_s"] for line in recording.so_far() if line["at"] >= before and line.get("writes")),
                default=0.0,
            )
            report.add("pod killed -> writes again (slowest write)", slowest, limit=2)
            demo.space.settled(demo.name)

    assert recording.offences == []
    assert recording.error_share <= ERRORS_MAX, recording.final
    judged(demo, "after the kills")


def test_all_pods_deleted_at_once_come_back_with_everything(demo: Settled, report: Report) -> None:
    with demo.space.recording(demo.name) as recording:
        pass
    written = recording.final["checked"]
    uids = {pod["metadata"]["uid"] for pod in demo.space.pods(demo.name)}
    began = time.monotonic()
    demo.space.kubectl("delete", "pod", "-l", f"ringkeep.dev/cluster={demo.name}", "--grace-period=0", "--force")

    def back() -> bool | None:
        pods = demo.space.pods(demo.name)
        is_new = len(pods) == 3 and not uids & {pod["metadata"]["uid"] for pod in pods}
        are_ready = all(
            row["status"] == "True"
            for pod in pods
            for row in pod.get("status", {}).get("conditions", [{"type": "Ready", "status": "False"}])
            if row["type"] == "Ready"
        )
        return True if is_new and are_ready else None

    until(back, "all pods are back")
    demo.space.settled(demo.name)
    report.add("all pods deleted at once -> Ready", time.monotonic() - began, limit=45)
    with demo.space.recording(demo.name, name="recorder-after") as after:
        pass

    assert written > 0 and recording.offences == after.offences == []


def test_a_rolling_update_of_five_pods_loses_nothing(demo: Settled, report: Report) -> None:
    demo.space.scale(demo.name, 5)
    with demo.space.recording(demo.name) as recording:
        began = time.monotonic()
        patch = {"spec": {"resources": {"requests": {"cpu": "11m"}}}}
        demo.space.kubectl("patch", "cluster", demo.name, "--type=merge", "-p", json.dumps(patch))

        def renewed() -> bool | None:
            pods = demo.space.pods(demo.name)
            amounts = [pod["spec"]["containers"][0]["resources"].get("requests", {}).get("cpu") for pod in pods]
            return True if amounts == ["11m"] * 5 else None

        until(renewed, "every pod is of the new kind", limit_s=2 * LIMIT_S)
        demo.space.settled(demo.name)
        took_s = time.monotonic() - began
    report.add("rolling update of 5 pods", took_s, limit=120)
    report.add("rolling update: longest write", recording.final["longest_write_s"])
    report.add("rolling update: errors after one retry", recording.error_share, limit=ERRORS_MAX, unit="")
    demo.space.scale(demo.name, 3)

    assert recording.offences == []
    assert recording.error_share <= ERRORS_MAX, recording.final
