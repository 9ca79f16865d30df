"""The chart's hook applies the Cluster of the values and never undoes a scale, whenever that comes."""

import importlib.util
import io
import json
import urllib.error
from email.message import Message
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

HOOK = Path(__file__).resolve().parents[3] / "helm" / "ringkeep" / "files" / "apply_cluster.py"


def _hook() -> ModuleType:
    spec = importlib.util.spec_from_file_location("apply_cluster", HOOK)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class _Server:
    """An API server with one Cluster; ``scaled_to`` happens right after the first look."""

    def __init__(self, live: dict[str, Any], scaled_to: int = 0) -> None:
        self.live, self.scaled_to, self.writes = live, scaled_to, 0

    def ask(self, method: str, path: str, body: bytes | None = None) -> dict[str, Any]:
        if method == "GET":
            seen: dict[str, Any] = json.loads(json.dumps(self.live))
            if self.scaled_to:
                self.live["metadata"]["resourceVersion"] += "1"
                self.live["spec"]["replicas"], self.scaled_to = self.scaled_to, 0
            return seen
        wanted: dict[str, Any] = json.loads(body or b"{}")
        version = wanted["metadata"].get("resourceVersion")
        if version is not None and version != self.live["metadata"]["resourceVersion"]:
            raise urllib.error.HTTPError(path, 409, "Conflict", Message(), io.BytesIO(b"it was changed"))
        self.live, self.writes = wanted, self.writes + 1
        return wanted


@pytest.mark.parametrize(
    ("live", "scaled_to", "replicas"),
    [
        ({}, 0, 3),
        ({"metadata": {"resourceVersion": "7"}, "spec": {"replicas": 4}}, 0, 4),
        ({"metadata": {"resourceVersion": "7"}, "spec": {"replicas": 3}}, 5, 5),
    ],
    ids=["it is made", "it is there", "it is scaled meanwhile"],
)
def test_the_replicas_of_a_cluster_that_exists_are_left_alone(
    monkeypatch: pytest.MonkeyPatch, live: dict[str, Any], scaled_to: int, replicas: int
) -> None:
    hook, server = _hook(), _Server(live, scaled_to)
    wanted = {"metadata": {"name": "demo", "namespace": "ns"}, "spec": {"replicas": 3, "image": "node:2"}}
    monkeypatch.setenv("CLUSTER", json.dumps(wanted))
    monkeypatch.setattr(hook, "ask", server.ask)
    monkeypatch.setattr(hook.time, "sleep", lambda _: None)

    assert hook.main() == 0
    assert (server.live["spec"], server.writes) == ({"replicas": replicas, "image": "node:2"}, 1)
