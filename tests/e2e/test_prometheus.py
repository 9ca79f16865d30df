"""A real Prometheus with the configuration in deploy/ finds every node and the operator, and can read what they say."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ringkeep_testing.kind_cluster import (
    ROOT,
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
ASK = "import sys, urllib.request as u; print(u.urlopen('http://127.0.0.1:9090' + sys.argv[1], timeout=5).read().decode())"
WANTED = {"ringkeep_node_map_version", "ringkeep_operator_clusters"}


@pytest.fixture
def prometheus(space: Namespace, kind: str, tmp_path: Path) -> Iterator[str]:
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
        space.apply(
            {
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "metadata": {"name": "prometheus"},
                "data": {"prometheus.yml": text},
            },
            pod(),
        )
        space.kubectl("wait", "--for=condition=Ready", "pod/prometheus", "--timeout=60s")
        yield "prometheus"
    finally:
        kubectl("delete", "clusterrole,clusterrolebinding", "e2e-prometheus", "--ignore-not-found")


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

    assert {(row["labels"]["namespace"], row["labels"]["pod"]) for row in targets} == expected
    assert len(targets) == len(expected) == 4
    assert {row["labels"]["component"] for row in targets} == {"node", "operator"}
    assert names >= WANTED
