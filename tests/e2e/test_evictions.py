"""Workers that are drained for maintenance, and an operator that is told to keep its hands off: `E2E_RARE=1 make e2e`."""

from __future__ import annotations

import time

import pytest

from ringkeep_testing.kind_cluster import Failed, Settled, kubectl, until

pytestmark = pytest.mark.rare
DRAIN = ("--ignore-daemonsets", "--delete-emptydir-data", "--force")


@pytest.mark.usefixtures("kind")
def test_a_drained_worker_gives_up_its_pod_and_a_second_one_keeps_its_until_the_first_is_back(demo: Settled) -> None:
    first, second = demo.node("demo-1"), demo.node("demo-2")
    uid = demo.uid("demo-2")
    with demo.space.recording(demo.name) as recording:
        try:
            kubectl("drain", first, *DRAIN, "--timeout=120s")
            # Its volume is on that worker alone.
            message = demo.space.complaint(demo.name, "PodUnschedulable", limit_s=60)
            with pytest.raises(Failed) as refused:
                kubectl("drain", second, *DRAIN, "--timeout=10s")
            kept = demo.uid("demo-2") == uid and demo.serves("demo-2")
        finally:
            kubectl("uncordon", first)
            kubectl("uncordon", second)
        demo.settled()

    assert first != second and message.startswith("pod demo-1: Unschedulable: ")
    assert "disruption budget" in refused.value.said and kept
    assert recording.offences == [] and recording.error_share <= 0.001, recording.summary


def test_a_paused_cluster_shows_its_status_and_is_changed_by_nobody_until_it_is_resumed(demo: Settled) -> None:
    demo.patch(paused=True, replicas=4)

    def seen() -> str | None:
        found = demo.space.conditions(demo.name)["Progressing"]
        generation = demo.space.cluster(demo.name)["metadata"]["generation"]
        return found.reason if found.generation == generation else None

    reason = until(seen, "the operator has looked at the new generation")
    demo.space.kubectl("delete", "poddisruptionbudget", "demo")
    time.sleep(5.0)
    made, budget = demo.space.get("statefulset", "demo"), demo.space.get("poddisruptionbudget", "demo")
    demo.patch(paused=False)
    demo.settled()
    members = len(demo.space.cluster(demo.name)["status"]["members"])
    again = demo.space.get("poddisruptionbudget", "demo")
    demo.space.scale(demo.name, 3)
    assert made is not None

    assert (reason, made["spec"]["replicas"], budget) == ("Paused", 3, None)
    assert members == 4 and again is not None
