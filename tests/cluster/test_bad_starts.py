"""A node that cannot start says why: one sentence for people, one stable code for programs, and nothing is changed."""

from __future__ import annotations

import asyncio
import shutil
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from ringkeep.errors import BadRequest, Conflict, RingkeepError
from ringkeep.launcher import LauncherError
from ringkeep_core.hashing import SHARDS_MIN
from ringkeep_core.maprules import bootstrap
from ringkeep_core.shardmap import Member, Settings
from ringkeep_node.machines.control import encode_snapshot, first_snapshot
from ringkeep_node.machines.records import NO_SHARD, Kind, Record
from ringkeep_node.runtime.directory import Directory
from ringkeep_node.runtime.disk import RealDisk
from ringkeep_node.runtime.wal.log import Log, LogSettings
from ringkeep_testing.real_cluster import HOST, RealCluster, node_environment, refused_start, run, until

BAD_SETTINGS = [
    ({"NAME": "Not A Label"}, "RINGKEEP_NAME"),
    ({"NAME": ""}, "RINGKEEP_NAME"),
    ({"DATA": ""}, "RINGKEEP_DATA"),
    ({"API": "nowhere"}, "RINGKEEP_API"),
    ({"API": "0.0.0.0:18080"}, "RINGKEEP_ADMIN_TOKEN"),
    ({"PEER": "127.0.0.1:99999"}, "RINGKEEP_PEER"),
    ({"ADVERTISE": "0.0.0.0:7400"}, "RINGKEEP_ADVERTISE"),
    ({"SEEDS": "one,two"}, "RINGKEEP_SEEDS"),
    ({"WEIGHT": "heavy"}, "RINGKEEP_WEIGHT"),
    ({"LOG_LEVEL": "loud"}, "RINGKEEP_LOG_LEVEL"),
    ({"RAFT_HEARTBEAT_S": "soon"}, "RINGKEEP_RAFT_HEARTBEAT_S"),
    ({"LOG_BYTES_MAX": "-1"}, "RINGKEEP_LOG_BYTES_MAX"),
]


def _refusal(name: str, data: Path, **variables: str) -> tuple[str, str]:
    """Return the code and the sentence of a start that is refused, after checking how it was told."""
    ended = refused_start(node_environment(name, data, **variables))
    code, sentence = ended.refusal

    assert ended.code == 1
    assert ended.said == f"ringkeep-node: {sentence}\n"
    return code, sentence


@pytest.mark.parametrize(("setting", "named"), BAD_SETTINGS, ids=lambda value: str(value)[:40])
def test_a_bad_setting_is_named_in_the_refusal(tmp_path: Path, setting: dict[str, str], named: str) -> None:
    code, sentence = _refusal("n1", tmp_path / "data", **setting)

    assert (code, named in sentence) == ("bad_setting", True)
    assert not (tmp_path / "data").exists()


def test_a_port_in_use_is_named_in_the_refusal(tmp_path: Path) -> None:
    with socket.create_server((HOST, 0)) as taken:
        port = taken.getsockname()[1]
        refusals = [
            _refusal("n1", tmp_path / "api", API=f"{HOST}:{port}"),
            _refusal("n1", tmp_path / "peer", PEER=f"{HOST}:{port}"),
        ]

    assert refusals == [
        ("port_in_use", f"another process uses TCP {HOST}:{port} (RINGKEEP_API)"),
        ("port_in_use", f"another process uses TCP {HOST}:{port} (RINGKEEP_PEER)"),
    ]


def test_something_that_is_no_data_directory_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("a letter")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat").write_text("a cat")
    refusals = [_refusal("n1", tmp_path / "file"), _refusal("n1", tmp_path / "photos")]

    assert [code for code, _ in refusals] == ["start_refused"] * 2
    assert (tmp_path / "file").read_text() == "a letter"
    assert "'cat'" in refusals[1][1]
    assert (tmp_path / "photos" / "cat").read_text() == "a cat"


def test_a_data_directory_serves_one_process_and_one_node(cluster: RealCluster) -> None:
    async def story() -> None:
        await cluster.up(1, shards=SHARDS_MIN)
        data = cluster.launcher.directory.data("n1")
        in_use = _refusal("n1", data)
        await cluster.serves()
        cluster.launcher.down()
        foreign = _refusal("n2", data)
        await cluster.up()
        await cluster.serves()

        assert in_use == ("directory_in_use", f"the data directory {data} is in use by another process")
        assert foreign == ("foreign_directory", f"the data directory {data} belongs to the node 'n1', not to 'n2'")

    run(story())


def test_an_unknown_setting_is_warned_of_and_changes_nothing(
    cluster: RealCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RINGKEEP_WEIHGT", "3")

    async def story() -> None:
        await cluster.up(1, shards=SHARDS_MIN)
        await cluster.serves()
        warned = [line for line in cluster.log_lines("n1") if line["event"] == "setting_unknown"]

        assert [(line["level"], line["variable"]) for line in warned] == [("warning", "RINGKEEP_WEIHGT")]

    run(story())


def test_up_says_why_a_node_did_not_start(cluster: RealCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RINGKEEP_LOG_LEVEL", "loud")
    with pytest.raises(LauncherError) as refused:
        run(cluster.up(1))

    assert str(refused.value).startswith("n1 ended while starting: RINGKEEP_LOG_LEVEL is one of ")


def test_a_directory_that_was_put_back_from_a_copy_is_refused_by_the_cluster(cluster: RealCluster) -> None:
    """The copy has an earlier boot counter: what it acknowledged since is not in it (replication.md, rule 0)."""

    async def story() -> None:
        await cluster.up(3, shards=SHARDS_MIN)
        data = cluster.launcher.directory.data("n2")
        cluster.kill("n2")
        shutil.copytree(data, data.with_name("copy"))
        await cluster.restart("n2")
        await cluster.serves()
        cluster.kill("n2")
        cluster.empty("n2")
        data.with_name("copy").rename(data)
        cluster.start("n2")

        async def ended() -> bool | None:
            return None if cluster.node("n2").is_running else True

        await until(ended, "n2 gives up")
        reasons = [line["reason"] for line in cluster.log_lines("n2") if line["event"] == "node_failed"]
        async with cluster.client("n1", "n3") as client:
            await client.put("ann", "d", "1")
        cluster.empty("n2")
        await cluster.restart("n2")
        await cluster.settled()
        await cluster.serves()

        assert len(reasons) == 1 and reasons[0].startswith("this node was refused by the cluster:")

    run(story())


def test_a_bootstrap_that_makes_no_sense_changes_nothing_and_a_right_one_works(
    cluster: RealCluster, clusters: Callable[[str], RealCluster]
) -> None:
    async def story() -> None:
        members = await cluster.without_cluster(3)
        one, two, three = members
        nobody = "0123456789abcdef"
        other = clusters("other")
        await other.up(1, shards=SHARDS_MIN)
        async with other.client() as client:
            stranger = (await client.members())[0]
        settled = {"name": "n1", "storage_id": stranger.storage_id, "peer": other.node("n1").peer}
        wrong = [
            [],
            [two, three],
            [{**one, "storage_id": nobody}, two, three],
            [one, {**two, "storage_id": nobody}, three],
            [one, {**two, "name": "n3"}, {**three, "name": "n2"}],
            [one, two, {**three, "peer": f"{HOST}:1"}],
            [one, two, three, {**settled, "name": "n4"}],
            [one, one],
            [{**one, "storage_id": "x"}],
        ]
        refusals = []
        async with cluster.gateway("n1") as client:
            for named in wrong:
                refusals.append(await _refused(client.bootstrap(named)))
            refusals.append(await _refused(client.bootstrap(members, shards=100)))
            refusals.append(await _refused(client.bootstrap(members, replication_factor=8)))
            refusals.append(await _refused(client.bootstrap(members, min_in_sync=4)))
            before = await _refused(client.map(timeout_s=0.5))
        await cluster.up()
        await cluster.serves()
        async with cluster.gateway("n2") as client:
            second = await _refused(client.bootstrap(members))
        await cluster.serves()

        bad, conflict = BadRequest.code, Conflict.code
        assert [code for code, _ in refusals] == [bad, bad, bad, *[conflict] * 4, bad, bad, bad, bad, bad]
        assert before[0] == "no_primary"
        assert second == (conflict, f"this node already belongs to cluster {cluster.record.cluster_id}")

    run(story())


@pytest.mark.parametrize("killed", [("n1",), ("n2",), ("n1", "n2", "n3")], ids=lambda names: "+".join(names))
def test_a_bootstrap_that_was_interrupted_is_finished_by_the_next_up(
    cluster: RealCluster, killed: tuple[str, ...]
) -> None:
    async def story() -> None:
        members = await cluster.without_cluster(3)
        async with cluster.gateway("n1") as client:
            cluster_id = await client.bootstrap(members)
        cluster.kill(*killed)
        record = await cluster.up()
        await cluster.settled()
        await cluster.serves()

        assert record.cluster_id == cluster_id

    run(story())


def test_a_founder_that_died_before_it_had_a_cluster_id_can_found_again(cluster: RealCluster) -> None:
    async def story() -> None:
        await cluster.without_cluster(3)
        cluster.kill("n1")
        await _write_half_a_bootstrap(cluster.launcher.directory.data("n1"))
        await cluster.up()
        await cluster.settled()
        await cluster.serves()
        cluster.kill("n1")
        await cluster.restart("n1")
        await cluster.serves()

    run(story())


async def _write_half_a_bootstrap(data: Path) -> None:
    """Leave in the directory of n1 what a founder has there that died between the first map and the cluster id."""
    directory = Directory.open(data, "n1", lambda: "")
    settings = LogSettings(salt=directory.salt)
    log, _ = Log.open(RealDisk(directory.log_folder), settings, {})
    synced = asyncio.Event()
    log.on_synced = lambda _: synced.set()
    log.start(asyncio.get_running_loop().call_soon_threadsafe, lambda error: None)
    own = Member(directory.identity.storage_id, "n1", "b" * 16, 1, f"http://{HOST}:1", f"{HOST}:1", "", 0)
    first_map = bootstrap(cluster_id="c" * 16, members=[own], shards=SHARDS_MIN, settings=Settings(1, 1))
    snapshot = first_snapshot(first_map, (own.storage,))
    log.append([Record(Kind.RAFT_RESET, NO_SHARD, 0, snapshot.term, snapshot.index, encode_snapshot(snapshot))])
    await synced.wait()
    log.close()
    directory.close()


async def _refused(call: Awaitable[object]) -> tuple[str, str]:
    try:
        await call
    except RingkeepError as error:
        return error.code, str(error)
    return "", ""
