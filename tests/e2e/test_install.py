"""What a person does first: helm install, write, helm test, scale, upgrade, uninstall."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import pytest
import yaml  # type: ignore[import-untyped]  # it has no types, and its stubs are not worth a dependency

from ringkeep_core import resource
from ringkeep_testing.kind_cluster import CHART, Failed, Namespace, Report, helm, until

NAMESPACE = "e2e-first"
WRITE = """
import urllib.request as u
r = u.Request("http://first.e2e-first.svc:8080/v1/users/ann/docs/first", data=b"1", method="PUT")
print(u.urlopen(r, timeout=5).status)
"""


@pytest.fixture
def first() -> Iterator[Namespace]:
    """An empty namespace; what a test has released in it is uninstalled before it goes."""
    with Namespace(NAMESPACE) as space:
        yield space
        if "first" in helm("list", "--namespace", NAMESPACE, "--short").split():
            helm("uninstall", "first", "--namespace", NAMESPACE)


def install(*arguments: str) -> None:
    helm(
        "upgrade", "--install", "first", str(CHART), "--namespace", NAMESPACE, "--timeout", "120s",
        "--set", "cluster.create=true", "--set", "image.operator.tag=dev", "--set", "image.node.tag=dev",
        "--set", "cluster.spec.storage.size=64Mi", "--set", "rbac.namespaced=true", *arguments,
    )  # fmt: skip


def replicas(first: Namespace) -> int:
    return int(first.cluster("first")["spec"]["replicas"])


@pytest.mark.measured
def test_from_nothing_to_a_write_and_on_with_helm(first: Namespace, report: Report) -> None:
    began = time.monotonic()
    install()

    def written() -> str | None:
        return first.run_python("first-0", WRITE).strip() or None

    status = until(written, "a first write is acknowledged")
    report.add("helm install -> first acknowledged write", time.monotonic() - began, limit=60)
    first.ready("first")
    began = time.monotonic()
    tested = helm("test", "first", "--namespace", NAMESPACE)
    report.add("helm test", time.monotonic() - began, limit=20)
    first.scale("first", 4)
    install("--set", "cluster.spec.recovery.replaceAfter=61s")
    kept, changed = replicas(first), first.cluster("first")["spec"]["recovery"]["replaceAfter"]
    pods = {pod["metadata"]["name"]: pod["metadata"]["uid"] for pod in first.pods("first")}
    first.settled("first")
    helm("rollback", "first", "1", "--namespace", NAMESPACE, "--timeout", "120s")
    back = replicas(first), first.cluster("first")["spec"]["recovery"]["replaceAfter"]
    first.settled("first")
    helm("uninstall", "first", "--namespace", NAMESPACE)
    left = first.cluster("first")["spec"]["replicas"]
    again = {pod["metadata"]["name"]: pod["metadata"]["uid"] for pod in first.pods("first")}
    first.kubectl("delete", "cluster", "first", "--timeout=60s")
    gone = until(lambda: True if not first.pods("first") else None, "nothing of it is left")

    assert status == "201" and "Phase:          Succeeded" in tested
    assert (kept, changed, back, left) == (4, "61s", (4, "60s"), 4)
    assert again == pods and gone
    assert first.get("crd", "clusters.ringkeep.dev") is not None


def test_a_second_operator_of_all_namespaces_is_refused_with_a_sentence(operator: str) -> None:
    with pytest.raises(Failed) as refused:
        helm("install", "second", str(CHART), "--namespace", "e2e-second", "--create-namespace", "--dry-run=server")

    assert f"the operator of release {operator}/ringkeep looks after all namespaces already" in refused.value.said


TWICE = [{"name": "LOG_LEVEL", "value": "info"}, {"name": "LOG_LEVEL", "value": "debug"}]
BAD = [
    ({"replicationFactor": 3, "minInSync": 4}, resource.MIN_IN_SYNC_RULE),
    ({"replicas": 0}, "spec.replicas"),
    ({"shards": 100}, resource.SHARDS_RULE),
    ({"storage": {"size": "large"}}, "spec.storage.size"),
    ({"storage": {"size": "1Mi"}}, resource.SIZE_RULE),
    ({"moves": {"bytesPerSecond": "2Ti"}}, resource.SPEED_RULE),
    ({"settings": [{"name": "ADMIN_TOKEN", "value": "x"}]}, resource.SETTINGS_RULE),
    ({"settings": [{"name": "log_level", "value": "x"}]}, "spec.settings[0].name"),
    ({"settings": TWICE}, "Duplicate value"),
    ({"pods": {"labels": {"ringkeep.dev/cluster": "x"}}}, resource.LABELS_RULE),
    ({"pods": {"env": [{"name": "RINGKEEP_DATA", "value": "/"}]}}, resource.ENV_RULE),
    ({"placement": {"antiAffinity": "perhaps"}}, "Unsupported value"),
    ({"moves": {"bytesPerSecond": "-1"}}, "spec.moves.bytesPerSecond"),
    ({"recovery": {"replaceAfter": "soon"}}, "spec.recovery.replaceAfter"),
]


@pytest.mark.parametrize(("spec", "says"), BAD, ids=lambda value: str(value)[:40])
def test_a_spec_that_makes_no_sense_is_refused_with_a_sentence(
    space: Namespace, spec: dict[str, object], says: str
) -> None:
    manifest = {
        "apiVersion": "ringkeep.dev/v1alpha1",
        "kind": "Cluster",
        "metadata": {"name": "bad"},
        "spec": {"replicas": 3, **spec},
    }
    with pytest.raises(AssertionError) as refused:
        space.kubectl("apply", "--dry-run=server", "-f", "-", given=json.dumps(manifest))

    assert says in str(refused.value)


def test_a_name_that_is_too_long_for_pods_is_refused_with_a_sentence(space: Namespace) -> None:
    manifest = {"apiVersion": "ringkeep.dev/v1alpha1", "kind": "Cluster", "metadata": {"name": "a" * 45}, "spec": {}}
    with pytest.raises(AssertionError) as refused:
        space.kubectl("apply", "--dry-run=server", "-f", "-", given=json.dumps(manifest))

    assert resource.NAME_RULE in str(refused.value)


def test_the_plain_manifests_are_taken_by_an_api_server(first: Namespace) -> None:
    """Server-side, nothing is changed; the namespace in the file need not exist."""
    plain = (CHART.parent.parent / "deploy" / "operator.yaml").read_text()
    parts = [one for one in yaml.safe_load_all(plain) if one]
    for one in parts:
        if one["metadata"].get("namespace"):
            one["metadata"]["namespace"] = NAMESPACE
    told = first.kubectl(
        "apply", "--server-side", "--force-conflicts", "--dry-run=server", "-f", "-",
        given="\n---\n".join(json.dumps(one) for one in parts),
    )  # fmt: skip

    assert len(told.splitlines()) == len(parts)


CHANGES = [
    ({"shards": 512}, resource.SHARDS_IMMUTABLE),
    ({"storage": {"size": "512Mi"}}, resource.SIZE_SHRINKS),
    ({"storage": {"className": "other"}}, resource.CLASS_IMMUTABLE),
]


@pytest.mark.parametrize(("change", "says"), CHANGES, ids=lambda value: str(value)[:40])
def test_what_cannot_change_is_refused(space: Namespace, change: dict[str, object], says: str) -> None:
    space.apply(
        {
            "apiVersion": "ringkeep.dev/v1alpha1",
            "kind": "Cluster",
            "metadata": {"name": "fixed"},
            "spec": {"replicas": 1, "paused": True},
        }
    )
    with pytest.raises(AssertionError) as refused:
        space.kubectl("patch", "cluster", "fixed", "--type=merge", "-p", json.dumps({"spec": change}))

    assert says in str(refused.value)
