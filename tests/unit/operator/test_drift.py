"""What a live object lacks is found, wherever it is; what the API server writes in its own way is no lack."""

from typing import Any

import pytest

from ringkeep_operator.drift import lack_of

LIVE: dict[str, Any] = {
    "spec": {
        "replicas": 3,
        "selector": {"app": "ours"},
        "names": ["a", "b"],
        "containers": [
            {"name": "node", "resources": {"requests": {"cpu": "500m", "memory": "1Gi"}}},
            {"name": "added"},
        ],
    }
}


@pytest.mark.parametrize(
    ("wanted", "lack"),
    [
        ({"spec": {"replicas": 3}}, ""),
        ({"spec": {"replicas": 4}}, ".spec.replicas"),
        ({"spec": {"paused": True}}, ".spec.paused"),
        ({"spec": {"selector": {"app": "ours"}}}, ""),
        ({"spec": {"selector": {}}}, ".spec.selector"),
        ({"spec": {"names": ["a", "b"]}}, ""),
        ({"spec": {"names": ["a"]}}, ".spec.names"),
        ({"spec": {"containers": [{"name": "node"}]}}, ""),
        ({"spec": {"containers": [{"name": "other"}]}}, ".spec.containers"),
        ({"spec": {"containers": [{"name": "node", "resources": {"requests": {"cpu": 0.5, "memory": "1024Mi"}}}]}}, ""),
        ({"spec": {"containers": [{"name": "node", "resources": {"requests": {"cpu": "1"}}}]}}, ".spec.containers"),
        ({"spec": {"replicas": {"more": 1}}}, ".spec.replicas"),
    ],
)
def test_the_first_lack_is_named_by_its_path(wanted: dict[str, Any], lack: str) -> None:
    assert lack_of(LIVE, wanted) == lack
