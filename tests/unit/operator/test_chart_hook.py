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


@pytest.mark.parametrize(
    ("status", "said", "code"),
    [
        (422, '{"message": "spec.shards: shards must be a power of two"}', 2),
        (500, '{"message": ".spec.storage.clasName: field not declared in schema"}', 2),
        (403, "no JSON", 2),
        (500, '{"message": "etcdserver: leader changed"}', 1),
    ],
)
def test_a_refusal_is_told_as_a_sentence_and_not_tried_again(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], status: int, said: str, code: int
) -> None:
    hook, now, asked = _hook(), iter(range(0, 1000, 40)), []

    def ask(method: str, path: str, body: bytes | None = None) -> dict[str, Any]:
        asked.append(method)
        if method == "GET":
            return {}
        raise urllib.error.HTTPError(path, status, "", Message(), io.BytesIO(said.encode()))

    monkeypatch.setenv("CLUSTER", json.dumps({"metadata": {"name": "demo", "namespace": "ns"}, "spec": {}}))
    monkeypatch.setattr(hook, "ask", ask)
    monkeypatch.setattr(hook.time, "sleep", lambda _: None)
    monkeypatch.setattr(hook.time, "monotonic", lambda: next(now))
    ended = hook.main()
    told = capsys.readouterr().err

    assert ended == code
    assert asked.count("PATCH") == (1 if code == 2 else 2)
    if code == 2:
        wanted = said if said == "no JSON" else json.loads(said)["message"]
        assert told == f"cluster ns/demo was refused: {wanted}\n"
