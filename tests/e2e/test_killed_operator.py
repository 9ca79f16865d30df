"""The operator's process dies before and after a write in the middle of each change: with `E2E_RARE=1 make e2e`.

Every single write of each change is gone through on fakes, in `tests/kube/test_life_of_a_cluster.py`. Here the process, the
Lease, the API server and the members are real, and clients write and read all the while. Before a write the process dies
again and again, for it never gets past; after one it goes on with its next life.

Source: Sieve (OSDI 2022); docs/operator.md.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ringkeep_testing.kind_cluster import Namespace, Operator, Settled, cluster_manifest, until

pytestmark = pytest.mark.rare

CREATE = ("after:node:bootstrap", "before:apply:StatefulSet")
GROW = ("after:apply:StatefulSet", "before:node:set_wanted")
RENEW = ("after:delete:Pod", "before:node:transfer_leader")
SHRINK = ("after:node:leave", "before:delete:PersistentVolumeClaim")


@pytest.fixture
def mortal(process: Operator) -> Iterator[Operator]:
    """The operator, with its failpoints taken back at the end."""
    yield process
    process.set_failpoint("")


def wait_for_death(operator: Operator, point: str) -> None:
    until(lambda: operator.deaths() or None, f"the operator dies at {point}", limit_s=180, every_s=0.5)


@pytest.mark.parametrize("point", CREATE)
def test_a_cluster_is_founded_although_the_operator_dies_on_the_way(
    space: Namespace, mortal: Operator, point: str
) -> None:
    mortal.set_failpoint(point)
    space.apply(cluster_manifest("born"))
    wait_for_death(mortal, point)
    mortal.set_failpoint("")
    found = space.settled("born")
    members = sorted(row["name"] for row in found["status"]["members"])
    shown = space.ask("born-0", "/v1/cluster/wanted")
    space.kubectl("delete", "cluster", "born", "--timeout=60s")
    space.kubectl("delete", "pvc", "-l", "ringkeep.dev/cluster=born")

    assert members == sorted(shown["members"]) == ["born-0", "born-1", "born-2"]


@pytest.mark.parametrize("way", range(2))
def test_a_cluster_grows_is_renewed_and_shrinks_although_the_operator_dies_on_the_way(
    demo: Settled, mortal: Operator, way: int
) -> None:
    before = demo.space.cluster(demo.name)["status"]["clusterId"]
    with demo.space.recording(demo.name, writes_per_s=50, reads_per_s=50) as recording:
        for point, change in (
            (GROW[way], {"replicas": 5}),
            (RENEW[way], {"resources": {"requests": {"cpu": f"{13 + way}m"}}}),  # Another than the last test's.
            (SHRINK[way], {"replicas": 3}),
        ):
            mortal.set_failpoint(point)
            demo.patch(**change)
            wait_for_death(mortal, point)
            mortal.set_failpoint("")
            found = demo.settled()

    assert (found["status"]["clusterId"], len(found["status"]["members"])) == (before, 3)
    assert recording.final["checked"] > 0 and recording.offences == [], recording.summary
