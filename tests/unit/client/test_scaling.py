"""Scaling a local cluster, with processes that look like nodes from outside: the order of steps, and what is refused."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from ringkeep import membership
from ringkeep.errors import Conflict, NotFound
from ringkeep.launcher import LauncherError, LocalCluster, local, scaling
from ringkeep.membership import Impossible
from ringkeep_testing.real_cluster import own_ports

FAKE_NODE = (sys.executable, "-S", str(Path(__file__).with_name("fake_node_process.py")))


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalCluster]:
    monkeypatch.setattr(local, "API_PORT_FIRST", own_ports()[0])
    monkeypatch.setattr(local, "PEER_PORT_FIRST", own_ports()[1])
    monkeypatch.setattr(membership, "POLL_S", 0.02)
    made = LocalCluster(tmp_path / "d", node_command=FAKE_NODE)
    yield made
    with suppress(LauncherError):
        made.down(grace_s=0.0)


def _shared(cluster: LocalCluster) -> dict[str, Any]:
    told: dict[str, Any] = json.loads((cluster.directory.path / "shared-map.json").read_text())
    return told


def _scale(cluster: LocalCluster, nodes: int, *, until: str = "") -> list[str]:
    """Scale and return what was said; be interrupted when ``until`` is said."""
    said: list[str] = []

    async def whole() -> None:
        task = asyncio.current_task()
        assert task is not None

        def say(text: str) -> None:
            said.append(text)
            if until and text.startswith(until):
                task.cancel()

        await cluster.scale(nodes, say=say)

    with suppress(asyncio.CancelledError):
        asyncio.run(whole())
    return said


def _names(cluster: LocalCluster) -> list[str]:
    return [node.name for node in cluster.directory.existing().nodes]


def test_new_nodes_are_started_and_listed_and_those_that_go_leave_before_they_are_stopped(
    cluster: LocalCluster,
) -> None:
    asyncio.run(cluster.up(1))
    grown, listed = _scale(cluster, 3), sorted(_shared(cluster)["desired"]["members"])
    record = cluster.directory.existing()
    (cluster.directory.path / "voter-n3").touch()
    shrunk = _scale(cluster, 1)
    after = cluster.directory.existing()

    assert grown == ["starting n2, n3", "waiting until the cluster knows n2, n3", "moving copies to n2, n3"]
    assert (listed, [node.is_running for node in record.nodes]) == (["n1", "n2", "n3"], [True, False, False])
    assert len({port for node in record.nodes for port in node.ports}) == 6
    assert shrunk == ["moving copies", "n3 leaves", "stopping n3", "n2 leaves", "stopping n2"]
    assert (_names(cluster), after.removing, after.nodes[0].is_running) == (["n1"], (), True)
    assert list(_shared(cluster)["desired"]["members"]) == ["n1"]
    assert not (cluster.directory.path / "n2").exists() and not (cluster.directory.path / "n3").exists()


def test_the_same_number_again_changes_nothing(cluster: LocalCluster) -> None:
    record = asyncio.run(cluster.up(2))
    before = _shared(cluster)

    assert _scale(cluster, 2) == ["nothing to do"]
    assert (_shared(cluster), cluster.directory.existing()) == (before, record)


def test_what_the_cluster_refuses_is_said_and_nothing_is_changed(cluster: LocalCluster) -> None:
    record = asyncio.run(cluster.up(2))
    before = _shared(cluster)
    (cluster.directory.path / "refusal").write_text("quorum: n2 cannot go: 1 of 2 voters live, and 2 must")
    for nodes in (1, 3):
        with pytest.raises(Impossible, match=rf"^cannot scale to {nodes}: n2 cannot go: 1 of 2 voters live"):
            asyncio.run(cluster.scale(nodes))

    assert (_shared(cluster), cluster.directory.existing()) == (before, record)


@pytest.mark.parametrize("nodes", [0, -1, 33])
def test_a_number_that_makes_no_sense_is_refused(cluster: LocalCluster, nodes: int) -> None:
    with pytest.raises(LauncherError, match="1 to 32"):
        asyncio.run(cluster.scale(nodes))


def test_without_a_running_cluster_there_is_nothing_to_scale(cluster: LocalCluster) -> None:
    with pytest.raises(LauncherError, match="ringkeep up"):
        asyncio.run(cluster.scale(2))
    asyncio.run(cluster.up(1))
    cluster.down()
    with pytest.raises(LauncherError, match="ringkeep up"):
        asyncio.run(cluster.scale(2))


@pytest.mark.parametrize("at", ["starting", "waiting", "moving"])
@pytest.mark.parametrize("then", [1, 2])
def test_an_interrupted_growth_is_finished_or_taken_back(cluster: LocalCluster, at: str, then: int) -> None:
    asyncio.run(cluster.up(1))
    _scale(cluster, 2, until=at)
    _scale(cluster, then)

    assert _names(cluster) == ["n1", "n2"][:then]
    assert sorted(_shared(cluster)["desired"]["members"]) == _names(cluster)
    assert sorted(member["name"] for member in _shared(cluster)["members"]) == _names(cluster)
    assert all(node.is_running for node in cluster.directory.existing().nodes)


@pytest.mark.parametrize("at", ["moving", "n3 leaves", "stopping n3", "n2 leaves"])
@pytest.mark.parametrize("then", [1, 3])
def test_an_interrupted_shrinking_is_finished_or_taken_back(cluster: LocalCluster, at: str, then: int) -> None:
    asyncio.run(cluster.up(3))
    _scale(cluster, 1, until=at)
    asyncio.run(cluster.up())
    _scale(cluster, then)
    record = cluster.directory.existing()

    assert (len(_names(cluster)), record.removing) == (then, ())
    assert {name: one["draining"] for name, one in _shared(cluster)["desired"]["members"].items()} == dict.fromkeys(
        _names(cluster), False
    )
    assert sorted(member["name"] for member in _shared(cluster)["members"]) == sorted(_names(cluster))
    assert all(node.is_running for node in record.nodes)
    assert sorted(path.name for path in cluster.directory.path.glob("n*") if path.is_dir()) == sorted(_names(cluster))


def test_a_node_that_does_not_start_is_told_with_its_last_words_and_can_be_taken_back(
    cluster: LocalCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    asyncio.run(cluster.up(1))
    monkeypatch.setenv("FAKE_NODE_MODE", "crash")
    with pytest.raises(LauncherError, match="this directory belongs to another node"):
        asyncio.run(cluster.scale(2))
    monkeypatch.delenv("FAKE_NODE_MODE")
    _scale(cluster, 1)

    assert _names(cluster) == ["n1"]
    assert list(_shared(cluster)["desired"]["members"]) == ["n1"]


def test_a_drained_node_leaves_and_its_data_is_deleted(cluster: LocalCluster) -> None:
    asyncio.run(cluster.up(2))
    shared = _shared(cluster)
    shared["desired"]["members"]["n1"]["draining"] = True
    (cluster.directory.path / "shared-map.json").write_text(json.dumps(shared))
    answer = asyncio.run(cluster.let_go("n1"))

    assert json.loads(answer or b"") == {"left": "n1", "storage_id": "storage-of-n1"}
    assert _names(cluster) == ["n2"]
    assert not (cluster.directory.path / "n1").exists()


def _forget(cluster: LocalCluster, name: str) -> None:
    """Have the nodes answer by a map from before this node joined."""
    shared = _shared(cluster)
    shared["members"] = [member for member in shared["members"] if member["name"] != name]
    del shared["desired"]["members"][name]
    (cluster.directory.path / "shared-map.json").write_text(json.dumps(shared))


def test_an_old_map_that_lacks_a_node_does_not_make_its_data_be_deleted(
    cluster: LocalCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(membership, "UNKNOWN_S", 0.1)
    asyncio.run(cluster.up(3))
    _scale(cluster, 2, until="moving")
    removing = cluster.directory.existing()
    _forget(cluster, "n3")
    with pytest.raises(NotFound):
        asyncio.run(cluster.scale(2))
    record = cluster.directory.existing()

    assert (removing.removing, removing.storages) == (("n3",), {"n3": "storage-of-n3"})
    assert (record.removing, record.storages, _names(cluster)) == (("n3",), removing.storages, ["n1", "n2", "n3"])
    assert cluster.directory.data("n3").exists() and record.node("n3").is_running


def test_a_node_that_nobody_says_is_draining_is_not_let_go_of(
    cluster: LocalCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scaling, "DRAIN_SEEN_S", 0.1)
    record = asyncio.run(cluster.up(2))
    with pytest.raises(Conflict, match="n2 is not draining"):
        asyncio.run(cluster.let_go("n2"))
    _forget(cluster, "n2")
    with pytest.raises(Conflict, match="n2 is not draining"):
        asyncio.run(cluster.let_go("n2"))

    assert cluster.directory.existing() == record
    assert cluster.directory.data("n2").exists() and record.node("n2").is_running


def test_a_node_of_another_cluster_at_the_port_is_not_taken_for_ours(
    cluster: LocalCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    asyncio.run(cluster.up(1))
    cluster.kill("n1")
    monkeypatch.setenv("FAKE_NODE_CLUSTER", "another")
    monkeypatch.setattr(local, "READY_S", 0.2)

    with pytest.raises(LauncherError, match="did not become ready"):
        asyncio.run(cluster.restart("n1"))
