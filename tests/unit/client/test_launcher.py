"""The local launcher, with processes that look like nodes from outside."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest

from ringkeep.answers import Primary, Shard, ShardMap
from ringkeep.launcher import ClusterRecord, LauncherError, LocalCluster, local
from ringkeep.launcher.local import one_user_of_each_primary
from ringkeep.launcher.nodes import last_words
from ringkeep.launcher.ports import is_free, next_free
from ringkeep.launcher.processes import Process, end, is_running, send_signal, start_detached, start_time, wait_gone
from ringkeep_core.hashing import shard_of
from ringkeep_testing.real_cluster import own_ports

FAKE_NODE = (sys.executable, "-S", str(Path(__file__).with_name("fake_node_process.py")))
WAITER = (sys.executable, "-S", "-c", "import signal; signal.pause()")


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalCluster]:
    # Ports of our own: tests that run beside this one must not take a killed node's port.
    monkeypatch.setattr(local, "API_PORT_FIRST", own_ports()[0])
    monkeypatch.setattr(local, "PEER_PORT_FIRST", own_ports()[1])
    made = LocalCluster(tmp_path / "d", node_command=FAKE_NODE)
    yield made
    with suppress(LauncherError):
        made.down(grace_s=0.0)


def _up(cluster: LocalCluster, nodes: int | None = 2, **settings: Any) -> ClusterRecord:
    return asyncio.run(cluster.up(nodes, **settings))


def test_up_starts_the_nodes_and_makes_the_cluster_once(cluster: LocalCluster) -> None:
    record = _up(cluster, shards=32, min_in_sync=1)
    written = json.loads((cluster.directory.path / "cluster.json").read_text())
    made = json.loads((cluster.directory.path / "shared-map.json").read_text())
    environment = json.loads((cluster.directory.path / "n2" / "environment.json").read_text())
    again = _up(cluster, None)

    assert [node.name for node in record.nodes] == ["n1", "n2"]
    assert all(node.is_running for node in record.nodes)
    assert (written["cluster_id"], list(written["nodes"][0])) == (
        "feed000000000001",
        ["name", "url", "peer", "pid", "started"],
    )
    assert {name: made["wanted"][name] for name in ("shards", "replication_factor", "min_in_sync")} == {
        "shards": 32,
        "replication_factor": 3,
        "min_in_sync": 1,
    }
    assert made["members"] == [
        {"name": node.name, "storage_id": f"storage-of-{node.name}", "peer": node.peer} for node in record.nodes
    ]
    n1, n2 = record.nodes
    assert {name: environment[name] for name in environment if name != "RINGKEEP_DATA"} == {
        "RINGKEEP_NAME": "n2",
        "RINGKEEP_API": n2.api,
        "RINGKEEP_PEER": n2.peer,
        "RINGKEEP_ADVERTISE": n2.peer,
        "RINGKEEP_SEEDS": f"{n1.peer},{n2.peer}",
        "RINGKEEP_ZONE": "",
        "RINGKEEP_WEIGHT": "1",
    }
    assert cluster.directory.log("n1").read_text() == '{"event": "started", "node": "n1"}\n'
    assert again == record


def test_up_of_an_existing_cluster_starts_what_is_down_at_its_old_ports(cluster: LocalCluster) -> None:
    before = _up(cluster)
    cluster.kill("n1")
    after = _up(cluster, None)

    assert [(node.url, node.peer) for node in after.nodes] == [(node.url, node.peer) for node in before.nodes]
    assert after.nodes[0].process != before.nodes[0].process
    assert after.nodes[1] == before.nodes[1]


def test_kill_ends_a_node_at_once_and_restart_brings_it_back(cluster: LocalCluster) -> None:
    _up(cluster)
    killed = cluster.kill("n2")
    gone = not killed.is_running
    restarted = asyncio.run(cluster.restart("n2"))
    again = asyncio.run(cluster.restart("n2"))

    assert gone
    assert restarted.url == killed.url
    assert (restarted.is_running, again.is_running) == (False, True)
    with pytest.raises(LauncherError, match="no node 'n9'"):
        cluster.kill("n9")


def test_down_ends_every_node_and_wipe_leaves_nothing(cluster: LocalCluster) -> None:
    record = _up(cluster)
    stopped = cluster.down()
    running = [node.is_running for node in record.nodes]
    (cluster.directory.path / "shared-map.json").unlink()
    stopped_again = cluster.down(wipe=True)

    assert (stopped, running, stopped_again) == (["n1", "n2"], [False, False], [])
    assert not cluster.directory.path.exists()
    with pytest.raises(LauncherError, match="ringkeep up"):
        cluster.down()


def test_a_node_that_does_not_listen_to_sigterm_is_killed(
    cluster: LocalCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_NODE_MODE", "deaf")
    record = _up(cluster, 1)
    stopped = cluster.down(grace_s=0.05)

    assert (stopped, record.nodes[0].is_running) == (["n1"], False)


def test_a_node_that_ends_while_starting_is_told_with_its_last_words(
    cluster: LocalCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_NODE_MODE", "crash")

    with pytest.raises(LauncherError, match="this directory belongs to another node"):
        _up(cluster, 1)


@pytest.mark.parametrize(
    ("tail", "words"),
    [
        ("", "it said nothing"),
        ("Traceback\nOops: x", "Oops: x"),
        ('{"event": "started"}\n{"event": "refused", "reason": "the port is in use"}\n', "the port is in use"),
        ('{"event": "refused", "reason": "the port is in use"}\nsomething else', "the port is in use"),
        ('{"event": "ended"}', "ended"),
    ],
)
def test_the_last_words_of_a_log_are_a_sentence(tail: str, words: str) -> None:
    assert last_words(tail) == words


def test_an_interrupted_up_is_finished_by_the_next_one(cluster: LocalCluster) -> None:
    record = _up(cluster)
    cluster.directory.write(msgspec.structs.replace(record, cluster_id=""))

    assert _up(cluster, None) == record


def test_settings_that_do_not_fit_an_existing_cluster_are_refused(cluster: LocalCluster) -> None:
    _up(cluster, 1)

    with pytest.raises(LauncherError, match="ringkeep scale 3"):
        _up(cluster, 3)
    with pytest.raises(LauncherError, match="shards 256"):
        _up(cluster, None, shards=64)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"nodes": 0}, "1 to 32"),
        ({"nodes": 33}, "1 to 32"),
        ({"shards": 100}, "power of two"),
        ({"replication_factor": 8}, "1 to 7"),
        ({"replication_factor": 1, "min_in_sync": 2}, "replication factor"),
    ],
)
def test_settings_that_make_no_sense_are_refused_before_anything_is_started(
    cluster: LocalCluster, settings: dict[str, int], said: str
) -> None:
    with pytest.raises(LauncherError, match=said):
        _up(cluster, **settings)

    assert cluster.directory.read() is None


def test_data_without_a_cluster_file_is_not_taken_for_a_new_cluster(cluster: LocalCluster) -> None:
    cluster.directory.data("n1").mkdir(parents=True)

    with pytest.raises(LauncherError, match="has data of n1"):
        _up(cluster)


def test_a_broken_cluster_file_is_said_to_be_broken(cluster: LocalCluster) -> None:
    cluster.directory.path.mkdir()
    (cluster.directory.path / "cluster.json").write_text("{")

    with pytest.raises(LauncherError, match="not readable"):
        _up(cluster)
    with pytest.raises(LauncherError, match="not readable"):
        cluster.down()


def test_two_launchers_never_work_in_one_directory(cluster: LocalCluster) -> None:
    _up(cluster, 1)
    with cluster.directory.locked(), pytest.raises(LauncherError, match="another ringkeep command"):
        cluster.kill("n1")

    assert cluster.kill("n1").name == "n1"


def test_a_port_that_another_program_took_meanwhile_is_named(cluster: LocalCluster) -> None:
    record = _up(cluster, 1)
    cluster.kill("n1")
    port = record.nodes[0].ports[0]
    with socket.create_server(("127.0.0.1", port)), pytest.raises(LauncherError, match=str(port)):
        _up(cluster, None)


def test_a_process_is_known_by_number_and_start_time(tmp_path: Path) -> None:
    process = start_detached(WAITER, environment=os.environ, log=tmp_path / "log")
    other = Process(process.pid, "somebody else")
    spared = send_signal(other, signal.SIGKILL)
    still = is_running(process)
    ended = send_signal(process, signal.SIGKILL) and wait_gone(process, limit_s=60)

    assert (is_running(other), spared, still, ended) == (False, False, True, True)
    assert start_time(process.pid) is None
    assert not send_signal(process, signal.SIGTERM)
    assert end([process], grace_s=0) == []


def test_no_process_has_no_start_time() -> None:
    assert [start_time(pid) for pid in (0, -1, 2**22 + 1)] == [None, None, None]
    assert start_time(os.getpid()) == start_time(os.getpid())


def test_taken_ports_are_passed_over() -> None:
    with socket.create_server(("127.0.0.1", 0)) as tcp, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.bind(("127.0.0.1", 0))
        stream_port, datagram_port = tcp.getsockname()[1], udp.getsockname()[1]

        assert (is_free(stream_port), is_free(datagram_port)) == (False, False)
        assert next_free(stream_port, {stream_port + 1}) > stream_port + 1


def test_one_user_is_found_for_each_primary() -> None:
    shards = tuple(Shard(n, 1, primary=Primary(f"n{n % 3}") if n != 5 else None) for n in range(16))
    users = one_user_of_each_primary(ShardMap("c", 1, (), shards))
    names = []
    for user in users:
        primary = shards[shard_of(user, 16)].primary
        names.append(primary.name if primary else "")

    assert sorted(names) == ["n0", "n1", "n2"]
