"""The life of a cluster over a fake API server and fake pods, and what is left of it when the operator is killed anywhere.

Source: docs/kubernetes.md, "The life of a cluster"; Sieve (OSDI 2022).
"""

from __future__ import annotations

from typing import Any

import pytest

from ringkeep_testing.fake_pods import CLUSTER_ID
from ringkeep_testing.operator_bench import Bench, on_a_bench

Change = dict[str, Any]
START: Change = {"replicas": 3}
CHANGES: dict[str, tuple[Change, Change]] = {
    "three become five": (START, {"replicas": 5}),
    "five become three": ({"replicas": 5}, {"replicas": 3}),
    "another image": (START, {"image": "node:2"}),
    "suspended": (START, {"suspend": True}),
    "volumes belong to the cluster": (START, {"storage": {"retain": {"whenDeleted": "Delete"}}}),
    "gateways come": (START, {"gateways": 2}),
    "gateways go": ({"replicas": 3, "gateways": 2}, {"gateways": 0}),
    "larger, and another image": (START, {"replicas": 4, "image": "node:2"}),
}


def test_a_new_cluster_is_founded_once_and_ready_only_with_all_copies() -> None:
    async def test(bench: Bench) -> None:
        await bench.ready()
        status = bench.kube.get("clusters", "demo")["status"]

        assert bench.pods.changes.count("bootstrap") == 1
        assert [member["zone"] for member in status["members"]] == ["zone-0", "zone-1", "zone-2"]
        assert status["shards"] == {"total": 16, "ok": 16, "moving": 0, "underReplicated": 0, "unavailable": 0}
        assert (status["readyReplicas"], status["clusterId"], status["observedGeneration"]) == (
            3,
            "c0ffee0000000001",
            1,
        )
        assert {name: want.zone for name, want in bench.pods.map.wanted.members.items()} == {  # type: ignore[union-attr]
            "demo-0": "zone-0",
            "demo-1": "zone-1",
            "demo-2": "zone-2",
        }

    on_a_bench(test)


def test_nothing_is_written_once_everything_is_as_wanted() -> None:
    async def test(bench: Bench) -> None:
        await bench.ready()
        bench.points.clear()
        for _ in range(20):
            await bench.one_pass()

        assert bench.points == []

    on_a_bench(test)


def test_five_become_three_by_draining_and_leaving_before_a_pod_or_volume_goes() -> None:
    async def test(bench: Bench) -> None:
        await bench.ready(replicas=5)
        bench.points.clear()
        bench.kube.writes.clear()
        bench.pods.changes.clear()
        await bench.settled_after({"replicas": 3})

        order = [
            point for point in bench.points if point in ("after:node:leave", "before:delete:PersistentVolumeClaim")
        ]
        assert bench.pods.changes == ["wanted", "leave demo-4", "leave demo-3"]
        assert order == ["after:node:leave"] * 2 + ["before:delete:PersistentVolumeClaim"] * 2
        assert bench.kube.names("persistentvolumeclaims") == ["data-demo-0", "data-demo-1", "data-demo-2"]

    on_a_bench(test)


def test_a_new_image_takes_one_pod_at_a_time_and_the_leader_last() -> None:
    async def test(bench: Bench) -> None:
        await bench.ready()
        leader = bench.pods.leader
        bench.kube.writes.clear()
        await bench.settled_after({"image": "node:2"})

        deleted = [name for verb, plural, name in bench.kube.writes if (verb, plural) == ("delete", "pods")]
        assert sorted(deleted) == ["demo-0", "demo-1", "demo-2"]
        assert deleted[-1] == leader and "transfer" in bench.pods.changes

    on_a_bench(test)


def test_a_bad_image_takes_one_pod_only_and_heals_when_the_spec_is_corrected() -> None:
    async def test(bench: Bench) -> None:
        await bench.ready()
        bench.pods.bad_images.add("node:bad")
        bench.kube.writes.clear()
        bench.change(image="node:bad")
        for _ in range(20):
            await bench.one_pass()
        broken = [
            pod for pod in bench.kube.names("pods") if bench.kube.get("pods", pod)["status"]["phase"] == "Pending"
        ]
        degraded = bench.condition("Degraded")
        await bench.settled_after({"image": "node:2"})

        assert len(broken) == 1
        assert (degraded["status"], degraded["reason"]) == ("True", "ImagePullFailed")
        assert set(bench.end_state()["images"].values()) == {"node:2"}

    on_a_bench(test)


def test_a_pod_that_cannot_be_made_is_told_and_heals_when_it_can() -> None:
    async def test(bench: Bench) -> None:
        await bench.ready()
        before = bench.end_state()
        bench.pods.over_quota.add("demo-1")
        bench.kube.remove("pods", "demo-1")
        for _ in range(10):
            await bench.one_pass()
        degraded, progressing = bench.condition("Degraded"), bench.condition("Progressing")
        told = [event.get("reason") for (plural, _, _), event in bench.kube.objects.items() if plural == "events"]
        bench.pods.over_quota.clear()
        await bench.settle()

        assert (degraded["status"], degraded["reason"]) == ("True", "PodCreateFailed")
        assert degraded["message"].startswith("pod demo-1: pods is forbidden: exceeded quota")
        assert progressing["status"] == "False" and told.count("PodCreateFailed") == 1
        assert bench.end_state() == before

    on_a_bench(test)


def test_a_rollout_stops_at_a_pod_that_cannot_be_made() -> None:
    async def test(bench: Bench) -> None:
        await bench.ready()
        bench.pods.over_quota |= {"demo-0", "demo-1", "demo-2"} - {bench.pods.leader}
        bench.kube.writes.clear()
        bench.change(image="node:2")
        for _ in range(20):
            await bench.one_pass()
        deleted = [name for verb, plural, name in bench.kube.writes if (verb, plural) == ("delete", "pods")]
        reason = bench.condition("Degraded")["reason"]
        bench.pods.over_quota.clear()
        await bench.settle()

        assert len(deleted) == 1 and reason == "PodCreateFailed"

    on_a_bench(test)


def test_an_operator_that_may_not_read_events_does_everything_else() -> None:
    async def test(bench: Bench) -> None:
        await bench.ready()
        bench.kube.refusals = lambda method, plural: 403 if (method, plural) == ("GET", "events") else 0
        bench.pods.over_quota.add("demo-1")
        bench.kube.remove("pods", "demo-1")
        for _ in range(5):
            await bench.one_pass()
        reason = bench.condition("Progressing")["reason"]
        bench.pods.over_quota.clear()
        await bench.settle()

        assert reason == "PodsStarting"

    on_a_bench(test)


def test_what_somebody_changed_in_an_object_of_ours_is_repaired_and_a_deleted_one_comes_back() -> None:
    async def test(bench: Bench) -> None:
        await bench.ready()
        before = bench.end_state()
        bench.kube.change("services", "demo", {"spec": {"selector": {"ringkeep.dev/cluster": "other"}}})
        bench.kube.remove("poddisruptionbudgets", "demo")
        await bench.settle()

        assert bench.kube.get("services", "demo")["spec"]["selector"] == {"ringkeep.dev/cluster": "demo"}
        assert bench.end_state() == before

    on_a_bench(test)


def test_an_object_of_somebody_else_with_a_name_of_ours_is_left_alone_and_told() -> None:
    async def test(bench: Bench) -> None:
        theirs = {"metadata": {"name": "demo", "labels": {"app": "theirs"}}, "spec": {"selector": {"app": "theirs"}}}
        kept = bench.kube.put("services", theirs)
        bench.create()
        for _ in range(10):
            await bench.one_pass()
        degraded = bench.condition("Degraded")

        assert bench.kube.get("services", "demo") == kept
        assert (degraded["status"], degraded["reason"]) == ("True", "ForeignObject")

    on_a_bench(test)


def test_a_spec_that_breaks_a_rule_is_told_in_the_conditions_and_changes_nothing() -> None:
    async def test(bench: Bench) -> None:
        await bench.ready()
        before = bench.end_state()["objects"]
        bench.change(minInSync=5)
        outcome = await bench.one_pass()
        state = bench.condition("Ready")
        told = [event["reason"] for (plural, _, _), event in bench.kube.objects.items() if plural == "events"]

        assert outcome is not None and outcome.result == "invalid"
        assert (state["status"], state["reason"]) == ("False", "InvalidSpec") and "minInSync" in state["message"]
        assert bench.end_state()["objects"] == before and "InvalidSpec" in told

    on_a_bench(test)


def test_a_kind_that_is_not_installed_is_told_and_stops_nothing_else() -> None:
    async def test(bench: Bench) -> None:
        await bench.ready(replicas=4)
        bench.change(replicas=3, monitoring={"serviceMonitor": True})
        for _ in range(30):
            await bench.one_pass()
            bench.pods.move()
        told = [event["message"] for (plural, _, _), event in bench.kube.objects.items() if plural == "events"]

        assert bench.kube.names("pods") == ["demo-0", "demo-1", "demo-2"]
        assert any("ServiceMonitor/demo" in message for message in told)

    on_a_bench(test)


def test_a_service_monitor_comes_once_its_kind_is_installed_and_goes_when_it_is_wanted_no_more() -> None:
    async def test(bench: Bench) -> None:
        await bench.ready()
        bench.change(monitoring={"serviceMonitor": True})
        # All within a second or two: what is remembered of a kind that is missing must not outlive its coming.
        moment = bench.now
        await bench.one_pass()
        before, bench.now = bench.kube.names("servicemonitors"), moment + 0.5
        bench.kube.not_installed.clear()
        await bench.one_pass()
        made, bench.now = bench.kube.get("servicemonitors", "demo"), moment + 1.0
        bench.change(monitoring={"serviceMonitor": False})
        await bench.one_pass()

        assert before == [] and made["spec"]["endpoints"] == [{"port": "http", "path": "/metrics"}]
        assert bench.kube.names("servicemonitors") == []

    on_a_bench(test)


def test_an_object_that_the_api_server_does_not_take_is_said_and_holds_up_nothing_else() -> None:
    async def test(bench: Bench) -> None:
        await bench.ready()
        bench.kube.refusals = lambda method, plural: 422 if (method, plural) == ("PATCH", "statefulsets") else 0
        bench.change(resources={"limits": {"mem": "1Gi"}}, recovery={"rereplicateAfter": "277s"})
        outcome = await bench.one_pass()
        degraded, ready_now, held = bench.condition("Degraded"), bench.condition("Ready"), bench.pods.map
        told = [event["reason"] for (plural, _, _), event in bench.kube.objects.items() if plural == "events"]
        assert outcome is not None and held is not None

        assert (outcome.result, degraded["status"], degraded["reason"]) == ("failed", "True", "ActionRefused")
        assert degraded["message"].startswith("apply StatefulSet/demo: ") and ready_now["status"] == "False"
        assert held.wanted.settings.grace_s == 277.0 and "ActionRefused" in told

        bench.kube.refusals = lambda method, plural: 0
        await bench.settle()

        assert bench.condition("Degraded")["status"] == "False"

    on_a_bench(test)


def test_members_that_do_not_take_the_token_are_said() -> None:
    async def test(bench: Bench) -> None:
        await bench.ready()
        bench.pods.token = "another"
        bench.change(recovery={"rereplicateAfter": "277s"})
        await bench.one_pass()

        assert (bench.condition("Degraded")["reason"], bench.condition("Ready")["status"]) == ("ActionRefused", "False")

    on_a_bench(test)


def test_an_impossible_shrink_is_refused_in_the_conditions_and_the_rest_goes_on() -> None:
    async def test(bench: Bench) -> None:
        await bench.ready(replicas=5)
        bench.pods.silent |= {"demo-0", "demo-1"}
        bench.kube.writes.clear()
        bench.change(replicas=2)
        for _ in range(10):
            await bench.one_pass()
        degraded = bench.condition("Degraded")
        bench.kube.change("services", "demo", {"spec": {"selector": {"ringkeep.dev/cluster": "other"}}})
        await bench.one_pass()

        assert degraded["status"] == "True" and "refused" in degraded["message"]
        assert bench.kube.get("statefulsets", "demo")["spec"]["replicas"] == 5
        assert bench.kube.get("services", "demo")["spec"]["selector"] == {"ringkeep.dev/cluster": "demo"}

    on_a_bench(test)


def test_an_impossible_shrink_is_refused_in_the_pass_that_sees_it_and_the_possible_part_is_asked_in_the_same() -> None:
    async def test(bench: Bench) -> None:
        await bench.ready(replicas=5)
        bench.pods.hanging |= {"demo-0", "demo-1"}
        await bench.one_pass()
        bench.pods.changes.clear()
        bench.change(replicas=2, recovery={"rereplicateAfter": "277s"})
        outcome = await bench.one_pass()
        degraded, held = bench.condition("Degraded"), bench.pods.map
        told = [event["reason"] for (plural, _, _), event in bench.kube.objects.items() if plural == "events"]
        assert outcome is not None and held is not None

        assert (outcome.result, degraded["status"], degraded["reason"]) == ("refused", "True", "ChangeRefused")
        assert degraded["observedGeneration"] == bench.kube.get("clusters", "demo")["metadata"]["generation"]
        assert told.count("ChangeRefused") == 1
        assert bench.pods.changes == ["wanted"] and held.wanted.settings.grace_s == 277.0
        assert not any(want.draining for want in held.wanted.members.values())

    on_a_bench(test)


def test_all_that_is_asked_of_a_founded_cluster_names_it_and_a_stranger_at_an_old_address_is_passed_over() -> None:
    async def test(bench: Bench) -> None:
        await bench.ready(replicas=4)
        bench.pods.asked.clear()
        bench.pods.strangers.add("demo-0")
        bench.change(recovery={"rereplicateAfter": "277s"})
        for _ in range(3):
            await bench.one_pass()
        held = bench.pods.map
        assert held is not None
        changed, available = held.wanted.settings.grace_s, bench.condition("Available")["status"]
        bench.pods.strangers.clear()
        await bench.settled_after({"replicas": 3, "image": "node:2"})
        meant = {(method, rest): cluster for method, rest, cluster in bench.pods.asked if rest}

        assert (changed, available) == (277.0, "True")
        assert set(meant) == {
            ("GET", "/map"),
            ("GET", "/members"),
            ("GET", "/leader"),
            ("GET", "/plan"),
            ("PUT", "/wanted"),
            ("POST", "/members/demo-3/leave"),
            ("POST", "/transfer-leader"),
        }
        assert {cluster for _, rest, cluster in bench.pods.asked if rest} == {CLUSTER_ID}
        # Who a node is must be answered by a stranger too: it may have the wrong volume.
        assert {cluster for _, rest, cluster in bench.pods.asked if not rest} == {""}

    on_a_bench(test)


def test_a_cluster_that_is_gone_is_forgotten() -> None:
    async def test(bench: Bench) -> None:
        await bench.ready()
        bench.kube.remove("clusters", "demo")
        bench.points.clear()
        outcome = await bench.one_pass()

        assert (outcome, bench.points) == (None, [])

    on_a_bench(test)


@pytest.mark.slow
def test_a_new_cluster_comes_to_the_same_end_wherever_the_operator_is_killed() -> None:
    async def test(bench: Bench) -> None:
        empty = bench.photograph()
        await bench.ready()
        wanted, points = bench.end_state(), list(bench.points)

        assert len(points) >= 20
        for number, point in enumerate(points, 1):
            await bench.restore(empty)
            bench.pods.map = None
            bench.kill_at = number
            await bench.ready()
            assert (bench.kills, bench.end_state()) == (1, wanted), f"killed at {number} {point}"
            assert bench.pods.broken == [], f"killed at {number} {point}"
            assert bench.pods.changes.count("bootstrap") == 1

    on_a_bench(test)


@pytest.mark.slow
@pytest.mark.parametrize("name", CHANGES)
def test_a_change_comes_to_the_same_end_wherever_the_operator_is_killed(name: str) -> None:
    before, change = CHANGES[name]

    async def test(bench: Bench) -> None:
        await bench.ready(**before)
        start = bench.photograph()
        await bench.restore(start)
        await bench.settled_after(change)
        wanted, points = bench.end_state(), list(bench.points)

        assert points
        for number, point in enumerate(points, 1):
            await bench.restore(start)
            bench.kill_at = number
            await bench.settled_after(change)
            assert (bench.kills, bench.end_state()) == (1, wanted), f"killed at {number} {point}"
            assert bench.pods.broken == [], f"killed at {number} {point}"

    on_a_bench(test)


def test_volumes_that_go_with_the_cluster_are_owned_by_it_and_stay_when_the_set_is_deleted_by_hand() -> None:
    async def test(bench: Bench) -> None:
        await bench.ready(storage={"retain": {"whenDeleted": "Delete"}})
        uid = bench.kube.get("clusters", "demo")["metadata"]["uid"]
        claims = [bench.kube.get("persistentvolumeclaims", f"data-demo-{n}") for n in range(3)]
        policy = bench.kube.get("statefulsets", "demo")["spec"]["persistentVolumeClaimRetentionPolicy"]

        assert [[owner["uid"] for owner in claim["metadata"]["ownerReferences"]] for claim in claims] == [[uid]] * 3
        assert policy == {"whenDeleted": "Retain", "whenScaled": "Retain"}
        await bench.settled_after({"storage": {"retain": {"whenDeleted": "Retain"}}})
        claims = [bench.kube.get("persistentvolumeclaims", f"data-demo-{n}") for n in range(3)]
        assert [claim["metadata"].get("ownerReferences") for claim in claims] == [None] * 3
        bench.points.clear()
        for _ in range(5):
            await bench.one_pass()
        assert bench.points == []

    on_a_bench(test)
