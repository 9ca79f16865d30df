"""The `ringkeep` command against a fake cluster: output, exit codes and sentences."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from ringkeep import membership
from ringkeep.answers import RunningPlan
from ringkeep.command.app import own_version, run
from ringkeep.command.endpoint import client_for
from ringkeep.command.plans import told_of
from ringkeep.errors import Unavailable
from ringkeep.launcher import ClusterDirectory, ClusterRecord, NodeRecord
from ringkeep.launcher.local import NODE_COMMAND
from ringkeep.launcher.processes import start_time
from ringkeep_testing.fake_cluster import FakeCluster, Fault, Problem, served


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeCluster]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.delenv("RINGKEEP_DIR", raising=False)
    with served(FakeCluster()) as made:
        monkeypatch.setenv("RINGKEEP_URL", ",".join(made.urls))
        yield made


Capture = pytest.CaptureFixture[str]


def _out(capsys: Capture) -> str:
    return capsys.readouterr().out


def test_documents_are_put_read_listed_and_removed(cluster: FakeCluster, capsys: Capture) -> None:
    assert run(["put", "ada", "notes/1", "hello"]) == 0
    assert _out(capsys) == "stored, version 1\n"
    assert run(["put", "ada", "notes/1", "hello again"]) == 0
    assert _out(capsys) == "replaced, version 2\n"
    assert run(["get", "ada", "notes/1"]) == 0
    assert _out(capsys) == "hello again"
    assert run(["ls", "ada"]) == 0
    assert "notes/1" in _out(capsys)
    assert run(["rm", "ada", "notes/1"]) == 0
    assert _out(capsys) == "deleted\n"
    assert run(["get", "ada", "notes/1"]) == 1
    assert "no document" in capsys.readouterr().err


def test_a_document_comes_from_a_file_and_goes_to_one(cluster: FakeCluster, tmp_path: Path) -> None:
    source, target = tmp_path / "a.json", tmp_path / "b.json"
    source.write_bytes(b'{"a": 1}\x00\xff')
    stored = run(["put", "ada", "k", "--file", str(source)])
    fetched = run(["get", "ada", "k", "--out", str(target)])

    assert (stored, fetched, target.read_bytes()) == (0, 0, source.read_bytes())
    assert cluster.documents["ada", "k"].content_type == "application/json"
    assert run(["put", "ada", "k", "--file", str(tmp_path / "none")]) == 2
    assert run(["put", "ada", "k", "value", "--file", str(source)]) == 2


def test_a_document_comes_from_the_input(cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"from the pipe")))

    assert run(["put", "ada", "k"]) == 0
    assert cluster.documents["ada", "k"].value == b"from the pipe"


def test_preconditions_fail_with_one_and_say_what_to_do(cluster: FakeCluster, capsys: Capture) -> None:
    run(["put", "ada", "k", "v"])
    codes = [
        run(["put", "ada", "k", "w", "--if-absent"]),
        run(["put", "ada", "k", "w", "--if-version", "9"]),
        run(["rm", "ada", "k", "--if-version", "9"]),
    ]
    err = capsys.readouterr().err

    assert codes == [1, 1, 1]
    assert "Read the document again" in err
    assert run(["put", "ada", "k", "w", "--if-version", "1"]) == 0


def test_json_output_is_the_rest_answer_unchanged(cluster: FakeCluster, capsys: Capture) -> None:
    run(["put", "ada", "k", "v"])
    capsys.readouterr()
    told = {}
    for arguments in (["members"], ["shards"], ["route", "ada"], ["status"], ["ls", "ada"]):
        assert run([*arguments, "--output", "json"]) == 0
        told[arguments[0]] = json.loads(_out(capsys))

    assert told["shards"] == cluster.map()
    assert [member["name"] for member in told["members"]["members"]] == ["n1", "n2", "n3"]
    assert told["route"]["primary"]["name"] == cluster.primary_of("ada")
    assert told["status"] == {"cluster_id": "c0ffee0000000001", "version": 10}
    assert [row["key"] for row in told["ls"]["docs"]] == ["k"]


def test_people_see_tables(cluster: FakeCluster, capsys: Capture) -> None:
    assert [run([command]) for command in ("status", "members", "shards")] == [0, 0, 0]
    assert run(["route", "ada"]) == 0
    out = _out(capsys)

    for part in ("3: 3 alive", "16: 16 ok", "n1 in term 3", "PRIMARIES", "16 of 16 shards", "n1, n2, n3"):
        assert part in out


def test_only_degraded_or_moving_shards_are_shown_when_asked_for(cluster: FakeCluster, capsys: Capture) -> None:
    assert run(["shards", "--degraded"]) == 0
    assert "0 of 16 shards" in _out(capsys)
    assert run(["shards", "--moving", "--output", "json"]) == 0
    assert json.loads(_out(capsys))["shards"] == []


PLAN = {
    "copies": 4,
    "lower_bound": 4,
    "primaries": 2,
    "bytes": 3 << 20,
    "seconds": 12.0,
    "pause_s": 0.02,
    "degraded": {"too_few_nodes": 16},
    "nodes": [{"name": "n1", "copies": 16, "copies_then": 12, "primaries": 6, "primaries_then": 5}],
    "steps": [
        {
            "changes": [
                {"shard": 3, "kind": "copy", "node": "n4", "from": "n1"},
                {"shard": 3, "kind": "in_sync", "node": "n4"},
                {"shard": 3, "kind": "primary", "node": "n4", "from": "n1"},
                {"shard": 3, "kind": "remove", "node": "n1"},
            ]
        }
    ],
}


def test_a_plan_is_shown_before_anything_happens(cluster: FakeCluster, capsys: Capture) -> None:
    cluster.plan = PLAN
    assert run(["plan", "--scale", "5", "--drain", "n2", "--weight", "n3=0.5"]) == 0
    out = _out(capsys)
    assert run(["plan", "--scale", "2", "--output", "json"]) == 0
    told = json.loads(_out(capsys))

    for part in (
        "4 (no plan needs fewer than 4)",
        "3.0 MiB",
        "12 s",
        "10 ms for each shard whose primary moves",
        "16 shards: too_few_nodes",
    ):
        assert part in out
    assert [line.split() for line in out.splitlines() if line.startswith("n1")] == [["n1", "16", "12", "6", "5"]]
    assert [order[2] for order in cluster.orders] == [
        {"members": ["n1", "n2", "n3", "n4", "n5"], "drain": ["n2"], "weights": {"n3": 0.5}},
        {"members": ["n1", "n2"], "drain": [], "weights": {}},
    ]
    assert told == {"wanted_revision": 2, "version": 10} | PLAN
    assert cluster.wanted["revision"] == 1


def test_a_running_plan_is_told_with_rate_and_time_left(cluster: FakeCluster, capsys: Capture) -> None:
    running = {
        "reason": "drain n2",
        "since": 0.0,
        "copies": 8,
        "copies_done": 4,
        "primaries": 2,
        "waiting": ["n1: disk"],
    }
    assert [run(["plan"]), run(["status"])] == [0, 0]
    nothing = _out(capsys)
    cluster.plan = PLAN
    assert [run(["plan"]), run(["status"])] == [0, 0]
    by_anybody = _out(capsys)
    cluster.plan = PLAN | {"running": running}
    assert [run(["plan"]), run(["status"])] == [0, 0]
    by_the_leader = _out(capsys)

    assert "nothing is left to do" in nothing and "nothing to move" in nothing
    assert "4 copies and 2 primaries to move, 3.0 MiB" in by_anybody
    assert by_the_leader.count("drain n2: 4 of 8 copies, 2 primaries to move") == 2
    assert by_the_leader.count("n1: disk") == 2
    assert told_of(RunningPlan("", 100.0, copies=8, copies_done=4), now=102.0) == "4 of 8 copies, 2/s, 2.00 s left"


def test_moving_shards_are_shown_from_where_to_where(cluster: FakeCluster, capsys: Capture) -> None:
    cluster.plan = PLAN
    assert run(["shards", "--moving"]) == 0
    out = _out(capsys)
    assert run(["shards", "--moving", "--output", "json"]) == 0
    told = json.loads(_out(capsys))

    assert "copy n1 -> n4; primary n1 -> n4; n1 gives its copy up" in out
    assert "1 of 16 shards" in out
    assert [shard["shard"] for shard in told["shards"]] == [3]


def test_a_node_is_drained_and_leaves_or_stays_or_takes_it_back(
    cluster: FakeCluster, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(membership, "POLL_S", 0.001)
    assert run(["drain", "n3", "--keep", "--output", "json"]) == 0
    kept, wanted = json.loads(_out(capsys)), cluster.wanted["members"]["n3"]
    assert run(["drain", "n3", "--undo", "--output", "json"]) == 0
    undone = json.loads(_out(capsys))
    assert run(["drain", "n3"]) == 0
    left = _out(capsys)
    assert run(["drain", "n2", "--output", "json"]) == 0
    told = json.loads(_out(capsys))

    assert (kept["wanted_revision"], wanted["draining"]) == (2, True)
    assert undone["members"]["n3"]["draining"] is False
    assert left.startswith("n3 is empty and has left after")
    assert told == {"left": "n2", "storage_id": "storage-n2"}
    assert list(cluster.wanted["members"]) == ["n1"]
    assert run(["drain", "n1", "--keep", "--undo"]) == 2
    assert run(["drain", "n9"]) == 1


def test_what_cannot_be_is_one_sentence_and_exit_code_one(cluster: FakeCluster, capsys: Capture) -> None:
    refusal = "copies: n1, n2 cannot give up its copies: 1 living nodes with weight would remain, and a write needs 2"
    cluster.refusals.extend(Problem(409, "conflict", refusal) for _ in range(2))
    codes = [run(["drain", "n1"]), run(["plan", "--drain", "n1"]), run(["plan", "--weight", "n1"]), run(["scale", "0"])]
    err = capsys.readouterr().err

    assert codes == [1, 1, 2, 1]
    assert "ringkeep: cannot drain n1: n1, n2 cannot give up its copies: 1 living nodes" in err
    assert err.count("Nothing was changed") == 2
    assert cluster.wanted["revision"] == 1


def test_a_listing_is_cut_at_its_limit_and_joined_over_pages(cluster: FakeCluster, capsys: Capture) -> None:
    for number in range(1005):
        cluster._put("ada", f"{number:04}", b"1", "application/json")
    assert run(["ls", "ada", "--output", "json"]) == 0
    whole = json.loads(_out(capsys))
    assert run(["ls", "ada", "--output", "json", "--limit", "3", "--after", "0001", "--values"]) == 0
    few = json.loads(_out(capsys))

    assert (len(whole["docs"]), whole["next"]) == (1005, None)
    assert [(row["key"], row["value"]) for row in few["docs"]] == [("0002", 1), ("0003", 1), ("0004", 1)]


def test_import_counts_lines_and_fails_if_any_line_failed(
    cluster: FakeCluster, capsys: Capture, tmp_path: Path
) -> None:
    file = tmp_path / "lines"
    file.write_text('{"user":"ada","key":"1","value":1}\n' * 3)
    assert run(["import", str(file)]) == 0
    assert _out(capsys) == "3 of 3 lines stored, 0 failed\n"
    file.write_text('{"user":"ada","key":"1","value":1}\nnonsense\n')
    assert run(["import", str(file)]) == 1
    assert "line 2: bad_request" in _out(capsys)
    assert run(["import", str(file), "--output", "json"]) == 1
    assert json.loads(_out(capsys))["failed"] == 1
    assert run(["import", str(tmp_path / "none")]) == 2


def test_an_unavailable_cluster_is_exit_code_three_with_the_next_step(
    cluster: FakeCluster, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in cluster.nodes:
        cluster.inject(name, Fault.REFUSE)
    cluster.retry_after_s = 3600  # after the deadline: there is no second try
    refused = run(["get", "ada", "k"])
    refused_err = capsys.readouterr().err
    monkeypatch.delenv("RINGKEEP_URL")
    missing = run(["get", "ada", "k"])
    missing_err = capsys.readouterr().err
    unreachable = run(["status", "--url", "http://127.0.0.1:1", "--timeout", "0.5"])

    assert (refused, missing, unreachable) == (3, 3, 3)
    assert "ringkeep status" in refused_err
    assert "ringkeep up" in missing_err
    assert len(missing_err.strip().splitlines()) == 1


def test_an_unknown_outcome_is_never_called_a_failure(cluster: FakeCluster, capsys: Capture) -> None:
    for name in cluster.nodes:
        cluster.inject(name, Fault.UNKNOWN_APPLIED)
    cluster.retry_after_s = 3600  # after the deadline: there is no second try

    assert run(["put", "ada", "k", "v"]) == 1
    assert "It may have been done" in capsys.readouterr().err


def test_errors_are_json_when_json_was_asked_for(cluster: FakeCluster, capsys: Capture) -> None:
    assert run(["rm", "ada", "none", "--output", "json"]) == 1

    told = json.loads(capsys.readouterr().err)
    assert (told["code"], told["status"], told["retryable"]) == ("not_found", 404, False)


@pytest.mark.parametrize(
    "arguments",
    [["--nope"], ["frobnicate"], ["get", "ada"], ["up", "-n", "0"], ["get", "a", "b", "--url", "ftp://x"], ["ls"]],
    ids=" ".join,
)
def test_wrong_usage_is_exit_code_two(arguments: list[str], cluster: FakeCluster) -> None:
    assert run(arguments) == 2


@pytest.mark.parametrize(
    ("user", "key"), [("", "k"), ("ada", ""), ("ada", "a/../b"), ("ada", "a\x01"), ("u" * 257, "k")]
)
def test_bad_names_are_refused_without_sending_anything(user: str, key: str, cluster: FakeCluster) -> None:
    assert run(["put", "--", user, key, "v"]) == 1
    assert cluster.seen == []


def test_the_version_is_that_of_the_distribution(capsys: Capture) -> None:
    assert run(["version"]) == 0
    assert _out(capsys) == f"ringkeep {own_version()}\n"


def test_local_commands_without_a_cluster_say_how_to_start_one(
    capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    codes = [run(["kill", "n1"]), run(["restart", "n1"]), run(["down"]), run(["down", "--wipe", "--dir", "nowhere"])]
    err = capsys.readouterr().err

    assert codes == [1, 1, 1, 1]
    assert err.count("ringkeep up") == 4
    assert list(tmp_path.iterdir()) == []


def test_the_endpoint_is_the_local_cluster_when_no_address_is_given(tmp_path: Path) -> None:
    directory = ClusterDirectory(tmp_path)
    own = start_time(os.getpid()) or ""
    running = NodeRecord("n1", "http://127.0.0.1:9001", "127.0.0.1:9002", os.getpid(), own)
    stopped = NodeRecord("n2", "http://127.0.0.1:9003", "127.0.0.1:9004", os.getpid(), "another start")
    directory.write(ClusterRecord(nodes=(running, stopped)))

    assert client_for(None, tmp_path)._routes.addresses == ("http://127.0.0.1:9001",)
    assert client_for("http://a:1/, http://b:2", tmp_path)._routes.addresses == ("http://a:1", "http://b:2")
    directory.write(ClusterRecord(nodes=(stopped,)))
    with pytest.raises(Unavailable):
        client_for(None, tmp_path)


def test_node_hands_its_options_over_as_the_nodes_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[str, tuple[str, ...], dict[str, str]]] = []
    monkeypatch.setattr(os, "execve", lambda *call: calls.append(call))
    monkeypatch.setenv("RINGKEEP_ZONE", "east")
    code = run(["node", "--name", "n7", "--data", "d", "--api", "127.0.0.1:8081", "--seeds", "127.0.0.1:7402"])

    assert code == 0
    ((program, command, environment),) = calls
    assert (program, command) == (NODE_COMMAND[0], NODE_COMMAND)
    assert {
        name: environment.get(f"RINGKEEP_{name}") for name in ("NAME", "DATA", "API", "SEEDS", "ZONE", "WEIGHT")
    } == {
        "NAME": "n7",
        "DATA": "d",
        "API": "127.0.0.1:8081",
        "SEEDS": "127.0.0.1:7402",
        "ZONE": "east",
        "WEIGHT": None,
    }
