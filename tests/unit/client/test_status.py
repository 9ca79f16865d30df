"""`ringkeep status`: the words of the cluster on one screen, in a pipe, and what is said when nobody answers."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from ringkeep.command.app import run
from ringkeep.command.status import Told, on_one_screen, plain_lines
from ringkeep.launcher import ClusterDirectory, ClusterRecord, NodeRecord
from ringkeep.launcher.processes import start_time
from ringkeep_core.summary import Seen, summary_of
from ringkeep_testing.fake_cluster import FakeCluster, served
from ringkeep_testing.summaries import NOW, dead, look, map_of, someone, turned

Capture = pytest.CaptureFixture[str]
DEAD = look(map_of(shards=turned("n1", "n2", "n3", gone="n2")), dead("n2"))
WORSE = look(
    map_of("n1 n2 n3 n4 n5", turned("n1", "n2", "n3")),
    *(dead(name, for_s=30.0, by="n1") for name in ("n2", "n3", "n4", "n5")),
    leader=None,
)


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeCluster]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RINGKEEP_DIR", raising=False)
    with served(FakeCluster()) as made:
        monkeypatch.setenv("RINGKEEP_URL", ",".join(made.urls))
        yield made


def told(seen: Seen, **processes: str) -> Told:
    """Return what would be told of this, with simple facts."""
    counts = (("members", {"alive": 2, "dead": 1}), ("shards", {"ok": 12}))
    facts = (("cluster", "c, map version 7"), ("leader", "n1 in term 7"))
    return Told(summary_of(seen), facts, counts, "nothing to move", "http://a:1", processes)


def screen_of(what: Told, *, width: int, height: int) -> list[str]:
    """Return what a terminal of this size shows, without colours and trailing blanks."""
    output = io.StringIO()
    screen = Console(file=output, width=width, height=height, force_terminal=True, color_system=None, highlight=False)
    screen.print(on_one_screen(what, screen))
    return [line.rstrip() for line in output.getvalue().splitlines()]


def test_a_pipe_gets_plain_lines_with_the_headline_first(cluster: FakeCluster, capsys: Capture) -> None:
    cluster.summary = summary_of(DEAD)
    assert run(["status"]) == 0
    out = capsys.readouterr().out

    assert out.splitlines() == [
        "degraded: n2 has been dead for 42 s: all 12 shards have 2 of 3 copies; reads and writes go on.",
        "cluster   cccccccccccccccc, map version 1099511627777",
        "leader    n1 in term 7",
        "members   3: 2 alive, 1 dead",
        "shards    12: 12 under-replicated",
        "plan      nothing to move",
        f"open      {cluster.urls[0]}",
        "- n2 has been dead for 42 s.",
        "  seen: its port refuses connections (n1, n3).",
        "  for users: all 12 shards have 2 of 3 copies; reads and writes go on.",
        "  by itself: its copies are kept; they cannot be made elsewhere: only n1 and n3 live, for 3 copies of each shard.",
        "  to do: start n2 again.",
        "  command: ringkeep restart n2",
    ]


def test_the_command_that_is_proposed_names_the_local_cluster_that_was_meant(
    cluster: FakeCluster, capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RINGKEEP_URL")
    cluster.summary = summary_of(DEAD)
    started = start_time(os.getpid()) or ""
    nodes = tuple(
        NodeRecord(f"n{i}", url, "127.0.0.1:9", os.getpid(), started) for i, url in enumerate(cluster.urls, 1)
    )
    proposed = []
    for name in (".ringkeep", "my cluster"):
        (tmp_path / name).mkdir()
        ClusterDirectory(tmp_path / name).write(ClusterRecord(cluster_id=cluster.cluster_id, nodes=nodes))
        assert run(["status"] if name == ".ringkeep" else ["status", "--dir", name]) == 0
        proposed += [line for line in capsys.readouterr().out.splitlines() if line.startswith("  command:")]

    assert proposed == ["  command: ringkeep restart n2", "  command: ringkeep restart n2 --dir 'my cluster'"]


def test_a_terminal_gets_the_same_within_its_width() -> None:
    assert screen_of(told(DEAD, n2="is not running (last pid 12)"), width=80, height=24) == [
        "n2 has been dead for 42 s: all 12 shards have 2 of 3 copies; reads and writes go",
        "on.",
        "",
        "cluster  c, map version 7",
        "leader   n1 in term 7",
        "members  3: 2 alive, 1 dead",
        "shards   12: 12 ok",
        "plan     nothing to move",
        "open     http://a:1",
        "",
        "- n2 has been dead for 42 s.",
        "  seen       its port refuses connections (n1, n3).",
        "  for users  all 12 shards have 2 of 3 copies; reads and writes go on.",
        "  by itself  its copies are kept; they cannot be made elsewhere: only n1 and n3",
        "             live, for 3 copies of each shard.",
        "  to do      start n2 again.",
        "  here       its process here is not running (last pid 12).",
        "  command    ringkeep restart n2",
    ]


@pytest.mark.parametrize(("width", "height"), [(80, 24), (120, 24), (80, 40), (120, 50)])
def test_whatever_is_wrong_fits_on_one_screen_with_the_worst_in_full(width: int, height: int) -> None:
    lines = screen_of(told(WORSE), width=width, height=height)
    titles = [line for line in lines if line.startswith("- ")]
    every = [
        "- No leader can be elected (1 of 3 voters lives, 2 are needed).",
        "- 8 of 12 shards have no working primary.",
        "- n2 has been dead for 30 s.",
        "- n3 has been dead for 30 s.",
        "- n4 has been dead for 30 s.",
        "- n5 has been dead for 30 s.",
    ]
    left = len(every) - len(titles)

    assert len(lines) < height
    assert titles == every[: len(titles)]
    assert (lines[-1] == f"and {left} findings more; --output json lists all") is (left > 0)
    assert left == (2 if (width, height) == (80, 24) else 0)
    assert any(line.startswith("  to do") for line in lines)


def test_what_no_screen_can_hold_is_counted() -> None:
    members = [f"n{number}" for number in range(1, 41)]
    seen = look(map_of(" ".join(members), turned("n1")), *(dead(name, by="n1") for name in members[1:]))
    lines = screen_of(told(seen), width=100, height=24)

    assert len(lines) == 23
    assert lines[-1].startswith("and ") and lines[-1].endswith(" findings more; --output json lists all")


def test_nothing_wrong_is_one_headline_and_the_facts() -> None:
    assert plain_lines(told(look(), n1="runs (pid 4)")) == [
        "ok: All is well: 3 members, 12 shards with 3 copies each.",
        "cluster   c, map version 7",
        "leader    n1 in term 7",
        "members   3: 2 alive, 1 dead",
        "shards    12: 12 ok",
        "plan      nothing to move",
        "open      http://a:1",
    ]


def test_a_process_that_runs_while_its_node_is_called_dead_is_told() -> None:
    assert plain_lines(told(DEAD, n1="runs (pid 4)", n2="runs (pid 5)"))[-1] == "- n2: its process here runs (pid 5)."
    suspected = look(None, someone("n2", state="suspect", since=NOW - 1))
    assert plain_lines(told(suspected, n1="runs (pid 4)"))[-1].startswith("  by itself")


def test_nodes_of_an_older_version_are_shown_by_their_counts(cluster: FakeCluster, capsys: Capture) -> None:
    assert run(["status"]) == 0

    assert capsys.readouterr().out.splitlines() == [
        "cluster   c0ffee0000000001, map version 10",
        "leader    n1 in term 3",
        "members   3: 3 alive",
        "shards    16: 16 ok",
        "plan      nothing to move",
        f"open      {cluster.urls[0]}",
    ]


def test_json_is_the_rest_answer_with_the_words_in_it(cluster: FakeCluster, capsys: Capture) -> None:
    assert run(["status", "--output", "json"]) == 0

    assert json.loads(capsys.readouterr().out) == {"cluster_id": cluster.cluster_id, "version": 10}
    assert [seen.path for seen in cluster.seen if seen.path == "/v1/cluster"] == ["/v1/cluster"]


def test_a_local_cluster_without_processes_is_named_with_the_command_that_starts_it(
    capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RINGKEEP_URL", raising=False)
    down = [NodeRecord(f"n{i}", f"http://127.0.0.1:{i}", f"127.0.0.1:{i}", 90 + i, "earlier") for i in (1, 2)]
    ClusterDirectory(tmp_path).write(ClusterRecord(nodes=tuple(down)))
    code = run(["status", "--dir", str(tmp_path)])
    told_at_once = capsys.readouterr().err
    hanging = NodeRecord("n3", "http://127.0.0.1:9", "127.0.0.1:9", os.getpid(), start_time(os.getpid()) or "")
    ClusterDirectory(tmp_path).write(ClusterRecord(nodes=(*down, hanging)))
    late = run(["status", "--dir", str(tmp_path), "--timeout", "0.05"])
    told_late = capsys.readouterr().err
    where = f"--dir {tmp_path}"
    hint = f"Start what is down with `ringkeep up {where}`, one node anew with `ringkeep restart NODE {where}`."

    assert (code, late) == (3, 3)
    assert told_at_once == (
        f"ringkeep: no node of the local cluster in {tmp_path} is running: n1 (last pid 91) and n2 (last pid 92) are "
        f"down. {hint}\n"
    )
    assert told_late == (
        f"ringkeep: no node of the local cluster in {tmp_path} answers: n3 (pid {os.getpid()}) runs and does not answer in "
        f"time; n1 (last pid 91) and n2 (last pid 92) are down. {hint}\n"
    )
