"""A real Prometheus with the configuration in deploy/ has every node and the operator as up, and can read what they say.

Where the program lacks Kubernetes' service discovery, as Debian's does, the test stands in for it: the same labels come from
a file. All that the configuration makes of them is the same.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ringkeep_testing.kind_cluster import (
    ROOT,
    Json,
    Namespace,
    Settled,
    client_pod,
    command,
    decoded,
    kubectl,
    until,
)

IMAGE = "ringkeep-prometheus:e2e"
CONFIG = ROOT / "deploy" / "prometheus.yml"
RULES = ROOT / "helm" / "ringkeep" / "rules"
ASK = "import sys, urllib.request as u; print(u.urlopen('http://127.0.0.1:9090' + sys.argv[1], timeout=5).read().decode())"
WANTED = {"ringkeep_node_map_version", "ringkeep_operator_clusters"}


@pytest.fixture
def prometheus(demo: Settled, space: Namespace, operator: str, kind: str, tmp_path: Path) -> Iterator[str]:
    """A Prometheus in a pod, made from this machine's program: there may be no registry to take its image from."""
    program = shutil.which("prometheus")
    if program is None:
        pytest.skip("needs the program prometheus on this machine (Debian: apt-get install prometheus)")
    shutil.copy(program, tmp_path / "prometheus")
    (tmp_path / "Dockerfile").write_text("FROM ringkeep-node:dev\nCOPY prometheus /usr/bin/prometheus\n")
    command("docker", "build", "--quiet", "-t", IMAGE, str(tmp_path))
    command("kind", "load", "docker-image", IMAGE, "--name", kind, "--nodes", f"{kind}-control-plane")
    kubectl("create", "clusterrole", "e2e-prometheus", "--verb=get,list,watch", "--resource=pods")
    space.kubectl("create", "serviceaccount", "prometheus")
    account = f"--serviceaccount={space.name}:prometheus"
    kubectl("create", "clusterrolebinding", "e2e-prometheus", "--clusterrole=e2e-prometheus", account)
    try:
        text = CONFIG.read_text().replace("scrape_interval: 15s", "scrape_interval: 2s")
        text = text.replace("../helm/ringkeep/rules/", "/recorder/")
        found = ""
        if not knows_kubernetes():
            block = re.compile(r"    kubernetes_sd_configs:\n.*?(?=    relabel_configs:)", re.DOTALL)
            text, count = block.subn("    file_sd_configs:\n      - files: [/recorder/pods.json]\n", text)
            assert count == 1, "the configuration finds its targets in one way"
            found = json.dumps(targets_of(operator, space.name))
        space.apply(
            {
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "metadata": {"name": "prometheus"},
                "data": {
                    "prometheus.yml": text,
                    "pods.json": found or "[]",
                    **{file.name: file.read_text() for file in RULES.glob("*.yaml")},
                },
            },
            pod(),
        )
        space.kubectl("wait", "--for=condition=Ready", "pod/prometheus", "--timeout=60s")
        yield "prometheus"
    finally:
        kubectl("delete", "clusterrole,clusterrolebinding", "e2e-prometheus", "--ignore-not-found")
        space.kubectl("delete", "pod,configmap,serviceaccount", "prometheus", "--ignore-not-found", "--now")


def knows_kubernetes() -> bool:
    """Return whether this machine's Prometheus was built with Kubernetes' service discovery: Debian's is not."""
    try:
        command("promtool", "check", "config", str(CONFIG))
    except (AssertionError, OSError):
        return False
    return True


def targets_of(*namespaces: str) -> list[Json]:
    """Return what the discovery of pods tells Prometheus: a target for each port, with the labels that it gives them."""
    chosen = "app.kubernetes.io/component in (node, gateway, operator)"
    found = []
    for namespace in namespaces:
        for row in decoded(kubectl("-n", namespace, "get", "pods", "-l", chosen, "-o", "json"))["items"]:
            meta = {"namespace": namespace, "pod_name": row["metadata"]["name"]}
            for what in ("labels", "annotations"):
                for key, value in row["metadata"].get(what, {}).items():
                    meta[f"pod_{what[:-1]}_{re.sub('[^a-zA-Z0-9_]', '_', key)}"] = value
            for container in row["spec"]["containers"]:
                for port in container["ports"]:
                    labels = meta | {"pod_container_port_name": port["name"]}
                    found.append(
                        {
                            "targets": [f"{row['status']['podIP']}:{port['containerPort']}"],
                            "labels": {f"__meta_kubernetes_{key}": value for key, value in labels.items()},
                        }
                    )
    return found


def pod() -> dict[str, Any]:
    """Return the pod: restricted like all others, with the account that finds the pods."""
    made = client_pod("prometheus", {})
    made["spec"] |= {"automountServiceAccountToken": True, "serviceAccountName": "prometheus"}
    container = made["spec"]["containers"][0]
    arguments = ["--config.file=/recorder/prometheus.yml", "--storage.tsdb.path=/tmp/data"]
    container |= {"name": "prometheus", "image": IMAGE, "command": ["prometheus", *arguments]}
    return made


def test_every_node_and_the_operator_are_up_in_a_real_prometheus(demo: Settled, prometheus: str, operator: str) -> None:
    expected = {
        *((demo.space.name, pod["metadata"]["name"]) for pod in demo.space.pods(demo.name)),
        *(
            (operator, row["metadata"]["name"])
            for row in decoded(
                kubectl("-n", operator, "get", "pods", "-l", "app.kubernetes.io/component=operator", "-o", "json")
            )["items"]
        ),
    }

    def asked(path: str) -> Any:
        return json.loads(demo.space.run_python(prometheus, ASK, path))["data"]

    def seen() -> list[dict[str, Any]] | None:
        targets: list[dict[str, Any]] = asked("/api/v1/targets?state=active")["activeTargets"]
        return targets if len(targets) >= len(expected) and all(row["health"] == "up" for row in targets) else None

    targets = until(seen, "all targets are up", limit_s=60, every_s=1.0)
    names = set(asked("/api/v1/label/__name__/values"))
    groups = asked("/api/v1/rules")["groups"]

    assert {(row["labels"]["namespace"], row["labels"]["pod"]) for row in targets} == expected
    assert len(targets) == len(expected) == 4
    assert {row["labels"]["component"] for row in targets} == {"node", "operator"}
    assert names >= WANTED
    assert {group["file"].rpartition("/")[2] for group in groups} == {file.name for file in RULES.glob("*.yaml")}
    assert {rule["health"] for group in groups for rule in group["rules"]} <= {"ok", "unknown"}
