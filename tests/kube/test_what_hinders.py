"""What stands in the operator's way is told, holds up nothing else, and costs nothing that is needed; over fakes.

Source: docs/decisions/0034-what-is-lost-for-good-needs-a-fresh-look.md.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]  # it has no types, and its stubs are not worth a dependency

from ringkeep_testing.operator_bench import Bench, on_a_bench

Change = dict[str, Any]


def told_of(bench: Bench, reason: str) -> list[str]:
    events = [event for (plural, _, _), event in bench.kube.objects.items() if plural == "events"]
    return [event["message"] for event in events if event.get("reason") == reason]


def test_an_empty_setting_is_applied_once() -> None:
    async def test(bench: Bench) -> None:
        empty = {"name": "NOTE", "value": ""}
        await bench.ready(settings=[empty], pods={"env": [empty]})
        bench.points.clear()
        for _ in range(5):
            await bench.one_pass()

        assert bench.points == []

    on_a_bench(test)


def test_an_object_that_an_admission_rule_changes_is_told_and_not_fought_over() -> None:
    async def test(bench: Bench) -> None:
        await bench.ready()

        def rewritten(plural: str, manifest: Change) -> Change:
            if plural == "poddisruptionbudgets":
                manifest["spec"]["maxUnavailable"] = 2
            return manifest

        bench.kube.rewrites = rewritten
        bench.kube.change("poddisruptionbudgets", "demo", {"spec": {"maxUnavailable": 2}})
        began = bench.now
        for _ in range(30):
            await bench.one_pass()
        degraded, passed_s = bench.condition("Degraded"), bench.now - began
        bench.kube.rewrites = lambda _plural, manifest: manifest
        await bench.settle()

        assert (degraded["status"], degraded["reason"]) == ("True", "ActionRefused")
        assert degraded["message"] == (
            "apply PodDisruptionBudget/demo: something else than was applied is kept at .spec.maxUnavailable: "
            "an admission rule changes it"
        )
        assert len(told_of(bench, "ActionRefused")) == 1 and passed_s >= 120

    on_a_bench(test)


def test_a_volume_that_may_not_be_deleted_is_told_and_holds_up_nothing_else() -> None:
    async def test(bench: Bench) -> None:
        await bench.ready(replicas=4)
        bench.kube.refusals = lambda method, plural: (
            403 if (method, plural) == ("DELETE", "persistentvolumeclaims") else 0
        )
        bench.change(replicas=3, image="node:2")
        for _ in range(60):
            await bench.one_pass()
            bench.pods.settle()
            bench.pods.move()
        degraded, images = bench.condition("Degraded"), set(bench.end_state()["images"].values())
        deleted = told_of(bench, "VolumeDeleted")
        bench.kube.refusals = lambda _method, _plural: 0
        await bench.settle()

        assert images == {"node:2"} and deleted == []
        assert (degraded["reason"], degraded["message"].partition(":")[0]) == (
            "ActionRefused",
            "delete PersistentVolumeClaim/data-demo-3 demo-3 has left the cluster",
        )
        assert bench.kube.names("persistentvolumeclaims") == ["data-demo-0", "data-demo-1", "data-demo-2"]

    on_a_bench(test)


def test_what_members_refuse_is_told_at_once_and_is_wrong_after_a_while() -> None:
    async def test(bench: Bench) -> None:
        bench.pods.refusals["/bootstrap"] = "demo-1:7400 cannot be asked whether it has a cluster"
        bench.create()
        for _ in range(20):
            await bench.one_pass()
            if "cannot be asked" in bench.condition("Progressing")["message"]:
                break
        early = bench.condition("Degraded")["status"]
        for _ in range(30):
            await bench.one_pass()
        late = bench.condition("Degraded")
        bench.pods.refusals.clear()
        await bench.settle()

        assert (early, late["status"], late["reason"]) == ("False", "True", "ActionRefused")
        assert late["message"].endswith(": demo-1:7400 cannot be asked whether it has a cluster")
        assert len(told_of(bench, "ActionRefused")) == 1
        assert bench.condition("Degraded")["status"] == "False"

    on_a_bench(test)


def test_a_drain_that_cannot_end_says_what_it_waits_for_and_can_be_taken_back() -> None:
    async def test(bench: Bench) -> None:
        await bench.ready()
        before = bench.end_state()
        bench.pods.holds_moves = True
        bench.pods.running = {"waiting": ["demo-2 cannot give up its copies: start demo-0, or drain it too"]}
        bench.change(replicas=2)
        for _ in range(5):
            await bench.one_pass()
        bench.pods.silent.add("demo-0")
        bench.pods.settle()
        for _ in range(5):
            await bench.one_pass()
        progressing, degraded = bench.condition("Progressing"), bench.condition("Degraded")
        bench.change(replicas=3)
        bench.pods.running = None
        bench.pods.silent.clear()
        bench.pods.holds_moves = False
        await bench.settle()
        after = bench.end_state()

        assert progressing["reason"] == "ScalingDown" and "the cluster calls demo-0 dead" in degraded["message"]
        assert "demo-2 cannot give up its copies: start demo-0, or drain it too" in progressing["message"]
        assert {**after, "generation": 0} == {**before, "generation": 0}

    on_a_bench(test)


def test_no_pod_is_taken_on_a_look_that_has_become_old() -> None:
    async def test(bench: Bench) -> None:
        await bench.ready()

        def events_are_slow(method: str, plural: str) -> int:
            bench.now += 60.0 * ((method, plural) == ("POST", "events"))
            return 0

        bench.kube.refusals = events_are_slow
        bench.change(image="node:2")
        passes = []
        for _ in range(8):
            bench.kube.writes.clear()
            await bench.one_pass()
            passes.append({(verb, plural) for verb, plural, _ in bench.kube.writes})
        bench.kube.refusals = lambda _method, _plural: 0
        await bench.settle()
        told, taken = ("create", "events"), ("delete", "pods")

        # What goes on was told in a pass that would have taken a pod, had it not become old by that.
        assert any(told in writes for writes in passes) and any(taken in writes for writes in passes)
        assert not any({told, taken} <= writes for writes in passes)
        assert set(bench.end_state()["images"].values()) == {"node:2"}

    on_a_bench(test)


def test_no_pod_is_taken_in_a_pass_that_has_changed_what_members_are_to_do() -> None:
    async def test(bench: Bench) -> None:
        await bench.ready()
        bench.change(image="node:2")
        await bench.one_pass()
        passes = []
        for grace_s in (277, None, None):
            if grace_s is not None:
                bench.change(recovery={"rereplicateAfter": f"{grace_s}s"})
            bench.pods.changes.clear()
            bench.kube.writes.clear()
            await bench.one_pass()
            taken = any(write[:2] == ("delete", "pods") for write in bench.kube.writes)
            passes.append((bench.pods.changes.copy(), taken))
        await bench.settle()

        assert passes[:2] == [(["wanted"], False), ([], True)]

    on_a_bench(test)


def test_an_operator_whose_lease_ran_out_in_the_middle_of_a_pass_changes_nothing_more() -> None:
    async def test(bench: Bench) -> None:
        await bench.ready()
        bench.change(replicas=5, recovery={"rereplicateAfter": "277s"})

        def ends_at_the_first_write(method: str, _plural: str) -> int:
            bench.leads = bench.leads and method == "GET"
            return 0

        bench.kube.refusals = ends_at_the_first_write
        bench.points.clear()
        outcome = await bench.one_pass()
        points = list(bench.points)
        bench.kube.refusals = lambda _method, _plural: 0
        bench.leads = True
        await bench.settle()

        assert outcome is not None and (outcome.result, getattr(outcome.failed, "code", "")) == ("failed", "lease_lost")
        assert len([point for point in points if point.startswith("before:")]) == 1

    on_a_bench(test)


@pytest.mark.parametrize(("hostname", "survives"), [("host-1", True), ("host-9", False)])
def test_the_host_name_in_a_local_volume_is_not_taken_for_the_name_of_its_node(hostname: str, survives: bool) -> None:
    async def test(bench: Bench) -> None:
        await bench.ready(recovery={"replaceAfter": "10s"})
        rule = {"key": "kubernetes.io/hostname", "operator": "In", "values": [hostname]}
        affinity = {"required": {"nodeSelectorTerms": [{"matchExpressions": [rule]}]}}
        bench.kube.put("persistentvolumes", {"metadata": {"name": "pv-1"}, "spec": {"nodeAffinity": affinity}}, "")
        bench.kube.change("persistentvolumeclaims", "data-demo-1", {"spec": {"volumeName": "pv-1"}})
        uid = bench.kube.get("persistentvolumeclaims", "data-demo-1")["metadata"]["uid"]
        bench.pods.silent.add("demo-1")
        bench.pods.settle()
        for _ in range(30):
            await bench.one_pass()
        kept = bench.kube.get("persistentvolumeclaims", "data-demo-1")["metadata"]["uid"] == uid

        assert kept is survives

    on_a_bench(test)


RULES = Path(__file__).resolve().parents[2] / "deploy" / "operator.yaml"
VERBS = {"DELETE": "delete", "PATCH": "patch"}


def granted(verb: str) -> set[str]:
    """The kinds of a namespace that the operator may change so, by its role; what kopf and the Lease need is elsewhere."""
    parts = [one for one in yaml.safe_load_all(RULES.read_text()) if one and one["kind"] == "ClusterRole"]
    (role,) = [one for one in parts if any("statefulsets" in rule["resources"] for rule in one["rules"])]
    found = {name for rule in role["rules"] if verb in rule["verbs"] for name in rule["resources"]}
    return {"clusters" if name == "clusters/status" else name for name in found}


def test_the_operator_may_change_what_it_changes_in_a_whole_life_and_nothing_else() -> None:
    async def test(bench: Bench) -> None:
        bench.kube.not_installed.clear()
        await bench.ready(monitoring={"serviceMonitor": True}, networkPolicy={"enabled": True}, gateways=1)
        await bench.settled_after({"replicas": 4, "image": "node:2", "storage": {"size": "2Gi"}})
        optional = {"monitoring": {"serviceMonitor": False}, "networkPolicy": {"enabled": False}, "gateways": 0}
        await bench.settled_after({"replicas": 1, **optional})
        used = {
            verb: {plural for (method, plural), _ in bench.kube.requests.items() if method == known}
            for known, verb in VERBS.items()
        }

        assert used == {verb: granted(verb) for verb in VERBS.values()}

    on_a_bench(test)
