"""`ringkeep top`: what it draws, in which order, which keys it knows, and how it ends."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import pty
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator
from pathlib import Path

import pytest

from ringkeep.command.app import run
from ringkeep.command.top import keys_of
from ringkeep.command.top_screen import Choice, bytes_of, drawn, lasting, plain, rate, state_of
from ringkeep.measures import Figures
from ringkeep.watching import NodeNow, Picture
from ringkeep_core.shardmap import ShardMap
from ringkeep_core.summary import SeenMove, SeenPlan, summary_of
from ringkeep_testing.fake_cluster import FakeCluster, served
from ringkeep_testing.maps import shard
from ringkeep_testing.summaries import NOW, look, map_of, someone

Capture = pytest.CaptureFixture[str]
BUSY = Figures(
    requests_per_s=1234.5,
    writes_per_s=617.2,
    reads_per_s=617.3,
    p50_s=0.0019,
    p99_s=0.0274,
    fsync_s=0.0012,
    loop_lag_s=0.0049,
    copy_bytes=3.4 * 1024**3,
    log_bytes=120 * 1024.0,
    disk_free_bytes=55.2 * 1024**3,
)
CALM = Figures(
    requests_per_s=3.5,
    writes_per_s=0.0,
    reads_per_s=12.0,
    p50_s=0.4,
    p99_s=1.26,
    fsync_s=None,
    loop_lag_s=0.12,
    copy_bytes=512.0,
    log_bytes=0.0,
    disk_free_bytes=1024.0,
)


def growing() -> ShardMap:
    """Return a map of three nodes to which a fourth comes."""
    return map_of("n1 n2 n3 n10", [shard("n1 n2 n3", learners="n10") for _ in range(12)])


PICTURE = Picture(
    at=1_795_980_779.0,
    summary=summary_of(
        look(
            growing(),
            someone("n3", state="suspect", since=NOW - 1),
            plan=SeenPlan(reason="scale: n10 joins", since=NOW - 4, copies=12, copies_done=3, primaries=3),
            moves=(SeenMove(NOW - 2, 3),),
        )
    ),
    nodes=(
        NodeNow(name="n10", state="alive", copies=12, answers=False),
        NodeNow(name="n2", state="alive", answers=True, copies=12, primaries=4, figures=CALM, draining=True),
        NodeNow(name="n1", state="alive", answers=True, leads=True, copies=12, primaries=4, figures=BUSY),
        NodeNow(name="n3", state="suspect", copies=12, primaries=4),
    ),
    total=BUSY,
)


def lines_of(picture: Picture, choice: Choice, *, width: int, height: int = 24) -> list[str]:
    """Return what is drawn, without colours and trailing blanks."""
    return [line.plain.rstrip() for line in drawn(picture, choice, width=width, height=height, every_s=2.0)]


@pytest.mark.parametrize(("width", "sorting"), [(80, "name"), (120, "p99")])
def test_a_narrow_screen_has_what_matters_most_and_a_wide_one_everything(width: int, sorting: str) -> None:
    recorded = (Path(__file__).parent / f"top_{width}.txt").read_text(encoding="utf-8")

    assert "\n".join([*lines_of(PICTURE, Choice(sorting), width=width), ""]) == recorded


@pytest.mark.parametrize(("width", "height"), [(40, 10), (80, 24), (120, 24), (200, 60)])
@pytest.mark.parametrize("nodes", [0, 1, 3, 100])
def test_nothing_is_drawn_beyond_the_screen(width: int, height: int, nodes: int) -> None:
    rows = tuple(NodeNow(name=f"a-rather-long-name-{number}", state="alive", figures=BUSY) for number in range(nodes))
    picture = Picture(at=0.0, summary=PICTURE.summary, nodes=rows, total=BUSY)
    lines = lines_of(picture, Choice(skipped=7), width=width, height=height)

    assert len(lines) <= height
    assert max(map(len, lines)) <= width
    assert lines[-1].startswith("q quit")


def test_rows_that_do_not_fit_are_scrolled_and_counted() -> None:
    rows = tuple(NodeNow(name=f"n{number}", state="alive", answers=True) for number in range(1, 31))
    picture = Picture(at=0.0, summary=summary_of(look()), nodes=rows)
    first = lines_of(picture, Choice(), width=80, height=12)
    later = lines_of(picture, Choice(skipped=2), width=80, height=12)
    last = lines_of(picture, Choice(skipped=29), width=80, height=12)

    assert [line.split()[0] for line in first[4:-3]] == ["n1", "n2", "n3", "n4", "n5"]
    assert [line.split()[0] for line in later[4:-3]] == ["n3", "n4", "n5", "n6", "n7"]
    assert [line.split()[0] for line in last[4:-3]] == ["n26", "n27", "n28", "n29", "n30"]
    assert first[-1] == "q quit   s sort: name   up/down scroll, 25 hidden   every 2 s"


def test_a_pipe_gets_every_column_and_whole_names_without_control_codes() -> None:
    long = Picture(
        at=0.0, summary=summary_of(look()), nodes=(NodeNow(name="a-rather-long-name", state="dead"),), total=Figures()
    )

    assert plain(long) == [
        "1970-01-01T00:00:00Z All is well: 3 members, 12 shards with 3 copies each.",
        "leader n1 in term 7   members 3 alive   shards 12 ok",
        "NODE                STATE     COPIES  PRIM   REQ/S WRITES/S READS/S    P50    P99  FSYNC    LAG       DATA"
        "        LOG       FREE",
        "a-rather-long-name  dead           0     0       -        -       -      -      -      -      -          -"
        "          -          -",
        "all                                0     0       -        -       -      -      -      -      -          -"
        "          -          -",
    ]
    assert plain(PICTURE)[0] == (
        "2026-11-29T19:32:59Z n3 has been suspected for 1 s: writes of all 12 shards wait for it."
    )


def test_nobody_answers_is_a_sentence_and_older_nodes_are_shown_without_words() -> None:
    silent = Picture(at=0.0, problem="no node answers")
    older = Picture(at=0.0, nodes=(NodeNow(name="n1", state="alive", answers=True),))

    assert lines_of(silent, Choice(), width=80)[0] == "No node answers."
    assert plain(silent) == ["1970-01-01T00:00:00Z No node answers."]
    assert plain(older)[0] == "1970-01-01T00:00:00Z 1 member; the asked node cannot say how the cluster is."


def test_numbers_are_short() -> None:
    assert [rate(it) for it in (None, 0.0, 0.04, 9.94, 10.0, 12345.6)] == ["-", "0", "0.0", "9.9", "10", "12,346"]
    assert [lasting(it) for it in (None, 0.0, 0.00994, 0.00996, 0.9994, 0.9996, 12.0)] == [
        "-",
        "0.0ms",
        "9.9ms",
        "10ms",
        "999ms",
        "1.0s",
        "12.0s",
    ]
    assert [bytes_of(None), bytes_of(0.0), bytes_of(2048.0)] == ["-", "0 B", "2.0 KiB"]


def test_a_silent_node_is_not_called_alive() -> None:
    kinds = [("alive", True), ("alive", False), ("dead", False), ("suspect", True), ("joining", True)]

    assert [state_of(NodeNow(name="n", state=state, answers=answers)) for state, answers in kinds] == [
        "alive",
        "no answer",
        "dead",
        "suspect",
        "joining",
    ]


def test_keys_are_read_whatever_comes_with_them() -> None:
    assert keys_of(b"s\x1b[A\x1b[Bx\xffq") == ["sort", "up", "down", "quit"]
    assert keys_of(b"\x1b[C\x1bs") == ["sort"]
    assert keys_of(b"") == []


def test_s_goes_through_the_sortings_and_arrows_stay_within_the_rows() -> None:
    choice, sortings = Choice(), []
    for _ in range(5):
        choice = choice.after("sort", 3)
        sortings.append(choice.sorting)

    assert sortings == ["requests", "p99", "data", "name", "requests"]
    assert Choice().after("up", 3) == Choice()
    assert Choice(skipped=2).after("down", 3) == Choice(skipped=2)
    assert Choice(skipped=1).after("down", 3).after("up", 3) == Choice(skipped=1)
    assert Choice("p99", 1).after("quit", 3) == Choice("p99", 1)


# --- the command -------------------------------------------------------------------------------------------------


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeCluster]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RINGKEEP_DIR", raising=False)
    with served(FakeCluster()) as made:
        made.summary = summary_of(look())
        made.metrics = dict.fromkeys(("n1", "n2"), "ringkeep_node_copy_bytes 2048.0\n")
        monkeypatch.setenv("RINGKEEP_URL", ",".join(made.urls))
        yield made


def test_one_snapshot_is_printed_and_that_is_all(cluster: FakeCluster, capsys: Capture) -> None:
    assert run(["top", "--once", "--interval", "0.2"]) == 0
    text = capsys.readouterr().out
    assert run(["top", "--once", "--interval", "0.2", "--output", "json"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    told = json.loads(line)

    assert "\x1b" not in text
    assert [row.split()[:4] for row in text.splitlines()[3:]] == [
        ["n1*", "alive", "16", "6"],
        ["n2", "alive", "16", "5"],
        ["n3", "alive", "16", "5"],
        ["all", "48", "16", "0"],
    ]
    assert told["summary"]["headline"] == "All is well: 3 members, 12 shards with 3 copies each."
    assert [node["figures"]["copy_bytes"] for node in told["nodes"]] == [2048.0, 2048.0, None]
    assert told["total"]["copy_bytes"] == 4096.0


def test_nobody_to_watch_is_exit_code_three(capsys: Capture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RINGKEEP_URL", "http://127.0.0.1:9")
    silent = run(["top", "--once", "--interval", "0.2"])
    monkeypatch.delenv("RINGKEEP_URL")
    none = run(["top", "--once", "--dir", str(tmp_path)])

    assert (silent, none) == (3, 3)
    assert capsys.readouterr().err.count("ringkeep: no ") == 2
    assert run(["top", "--interval", "0"]) == 2


TAKES_TERMINAL = (
    "import fcntl, os, signal, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); "
    "signal.signal(signal.SIGINT, signal.SIG_DFL); os.execv(sys.argv[1], sys.argv[1:])"
)
"""Makes its input the terminal that Ctrl-C comes from, as a shell does, then becomes the program in its arguments. Whoever
runs the tests in the background may have had Ctrl-C ignored, and that is inherited."""


def _program(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "ringkeep", "top", "--interval", "0.2", *arguments]


def test_a_reader_that_goes_away_ends_it_without_a_word(cluster: FakeCluster) -> None:
    with subprocess.Popen(_program(), stdout=subprocess.PIPE, stderr=subprocess.PIPE) as program:
        assert program.stdout is not None and program.stderr is not None
        first = program.stdout.readline()
        program.stdout.close()
        said = program.stderr.read()

    assert first.endswith(b"All is well: 3 members, 12 shards with 3 copies each.\n")
    assert (program.returncode, said) == (0, b"")


@pytest.mark.parametrize("key", [b"q", b"\x03"], ids=["q", "Ctrl-C"])
def test_on_a_terminal_it_draws_until_a_key_ends_it_and_leaves_the_terminal_as_it_was(
    cluster: FakeCluster, key: bytes
) -> None:
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    before = termios.tcgetattr(theirs)
    environment = {**os.environ, "TERM": "xterm-256color"}
    environment.pop("COLUMNS", None)
    program = subprocess.Popen(
        [sys.executable, "-c", TAKES_TERMINAL, *_program()],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=environment,
        start_new_session=True,
    )
    seen = _read_until(ours, b"every 0.2 s")
    os.write(ours, b"s")
    seen += _read_until(ours, b"s sort: requests")
    os.write(ours, key)
    code = program.wait(timeout=60)
    after = termios.tcgetattr(theirs)
    os.close(theirs)
    seen += _read_until(ours, None)
    os.close(ours)

    assert code == 0
    assert after == before
    assert b"\x1b[?1049h" in seen and b"\x1b[?1049l" in seen, "the alternate screen was entered and left"
    assert b"Traceback" not in seen


def _read_until(descriptor: int, what: bytes | None) -> bytes:
    """Return what a terminal got until these bytes, or to the end."""
    data = b""
    while what is None or what not in data:
        try:
            more = os.read(descriptor, 65536)
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            more = b""
        if not more:
            assert what is None, data
            return data
        data += more
    return data
