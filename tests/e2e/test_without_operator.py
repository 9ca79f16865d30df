"""There is no operator at all: the data plane does not need it, and nor does whoever removes a cluster."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from ringkeep_testing.kind_cluster import Report, Settled, kubectl, until


@pytest.fixture
def no_operator(demo: Settled, operator: str) -> Iterator[None]:
    """No operator at all, for the length of a test: ``demo`` is there already."""
    name = "deployment/ringkeep-operator"
    kubectl("--namespace", operator, "scale", name, "--replicas=0")
    selector = "app.kubernetes.io/component=operator"
    kubectl("--namespace", operator, "wait", "--for=delete", "pod", "-l", selector, "--timeout=60s")
    yield
    kubectl("--namespace", operator, "scale", name, "--replicas=1")
    kubectl("--namespace", operator, "rollout", "status", name, "--timeout=60s")


@pytest.mark.measured
@pytest.mark.usefixtures("no_operator")
def test_without_an_operator_failover_is_the_same_and_deletion_leaves_nothing(demo: Settled, report: Report) -> None:
    victim, before = demo.leader, time.time()
    uid = demo.uid(victim)
    witness = next(name for name in ("demo-0", "demo-1", "demo-2") if name != victim)
    with demo.space.recording(demo.name, url=demo.address(witness)) as recording:
        demo.space.kubectl("delete", "pod", victim, "--grace-period=0", "--force", "--wait=false")
        until(lambda: True if demo.is_new(victim, uid) else None, f"{victim} is back", every_s=1.0)
        report.add("no operator: pod killed -> writes again", recording.slowest_write_s(before), limit=2)
    demo.space.kubectl("delete", "cluster", demo.name, "--timeout=30s")
    kinds_left = "clusters.ringkeep.dev,statefulsets,services,serviceaccounts,poddisruptionbudgets,secrets,pods"

    def left() -> list[str]:
        rows = demo.space.all(kinds_left, f"ringkeep.dev/cluster={demo.name}")
        return [f"{row['kind']}/{row['metadata']['name']}" for row in rows]

    until(lambda: True if not left() else None, "the garbage collector has removed everything", every_s=1.0)
    volumes = {row["metadata"]["name"] for row in demo.space.all("pvc")}
    demo.space.kubectl("delete", "pvc", "-l", f"ringkeep.dev/cluster={demo.name}", "--timeout=60s")

    assert recording.offences == [] and recording.error_share <= 0.001, recording.summary
    # whenDeleted is Retain unless said otherwise: users' data outlive a slip of the hand.
    assert volumes >= {"data-demo-0", "data-demo-1", "data-demo-2"}
