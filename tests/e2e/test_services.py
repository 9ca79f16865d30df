"""Services in Kubernetes: registered at one pod they are found at every other, in all languages that the registry speaks."""

from __future__ import annotations

import json
from typing import Any

from ringkeep_testing.kind_cluster import Failed, Json, Settled, until

PODS = ("demo-0", "demo-1", "demo-2")
ASK = "import sys, urllib.request as u; print(u.urlopen('http://127.0.0.1:8080' + sys.argv[1], timeout=5).read().decode())"
CHANGE = (
    "import sys, urllib.request as u; method, path, body = sys.argv[1:]; "
    "print(u.urlopen(u.Request('http://127.0.0.1:8080' + path, body.encode() or None, method=method), timeout=5).status)"
)
WAITS = "HTTP Error 503"
"""What a node that has just started answers to changes until another node has told it what is registered."""


def change(demo: Settled, pod: str, method: str, path: str, body: Json | None = None) -> int:
    """Change a registration at the node in a pod, as soon as that takes changes; the status of its answer."""
    given = json.dumps(body) if body is not None else ""

    def ask() -> int | None:
        try:
            return int(demo.space.run_python(pod, CHANGE, method, path, given))
        except Failed as error:
            if WAITS not in str(error):
                raise
            return None

    return until(ask, f"{pod} takes {method} {path}", limit_s=30)


def told(demo: Settled, pod: str, path: str) -> Any:
    """What the node in a pod answers; lists too."""
    return json.loads(demo.space.run_python(pod, ASK, path))


def found(demo: Settled, pod: str) -> tuple[list[str], list[str], list[str]]:
    """Ids of the instances of ``shop`` that a pod tells: in its own words, in Consul's, and as Prometheus' targets."""
    own = told(demo, pod, "/v1/services/shop?passing=true")["instances"]
    consul = told(demo, pod, "/v1/health/service/shop?passing=true")
    targets = told(demo, pod, "/v1/sd/prometheus?service=shop")
    return (
        [row["id"] for row in own],
        [row["Service"]["ID"] for row in consul],
        [row["labels"]["__meta_ringkeep_service_id"] for row in targets],
    )


def is_known(demo: Settled, ids: list[str]) -> None:
    """Wait until every pod tells these instances, in every language."""

    def ask() -> bool | None:
        return True if all(found(demo, pod) == (ids, ids, ids) for pod in PODS) else None

    until(ask, f"every pod knows {ids}")


def test_a_service_registered_at_one_pod_is_found_at_every_pod_until_another_removes_it(demo: Settled) -> None:
    registration = {"port": 80, "tags": ["v2"], "checks": [{"ttl_s": 120}]}
    created = change(demo, "demo-0", "PUT", "/v1/services/shop/one", registration)
    renewed = change(demo, "demo-1", "PUT", "/v1/services/shop/one/renew")
    is_known(demo, ["one"])
    listed = told(demo, "demo-2", "/v1/sd/prometheus")
    nodes = {row["labels"]["__meta_ringkeep_node"] for row in listed}
    address = told(demo, "demo-2", "/v1/services/shop")["instances"][0]["address"]
    removed = change(demo, "demo-2", "DELETE", "/v1/services/shop/one")
    is_known(demo, [])

    assert (created, renewed, removed) == (201, 200, 204)
    assert nodes == set(PODS)
    # Without an address the instance is where the node is that took it.
    assert address and address in demo.address("demo-0")
