"""What a summary says, scene by scene: the whole text of each is in summaries.txt beside this file.

After a change of wording, this file run as a program (``PYTHONPATH=tests/support .venv/bin/python -P``) prints all scenes in
that form, to be read line by line before they take their place.
"""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from ringkeep_core.shardmap import MemberState, Shard, ShardMap, WantedMember
from ringkeep_core.summary import Evidence, Seen, SeenMove, SeenPlan, Severity, Summary, summary_of
from ringkeep_core.summary.text import lines_of
from ringkeep_testing.maps import FIRST, member, shard
from ringkeep_testing.summaries import NOW, dead, look, map_of, someone, turned

TEXTS = Path(__file__).parent / "summaries.txt"
FOUR = "n1 n2 n3 n4"
WITHOUT_N2 = turned("n1", "n2", "n3", gone="n2")


def joined(held: ShardMap, name: str) -> ShardMap:
    """Return the map in which another node has registered and takes no part yet."""
    return replace(held, members={**held.members, name: replace(member(name), state=MemberState.JOINING)})


def wanting(held: ShardMap, *names: str) -> ShardMap:
    """Return the map in which these are wanted as well."""
    wanted = {**held.wanted.members, **{name: WantedMember() for name in names}}
    return replace(held, wanted=replace(held.wanted, members=wanted))


SCENES = {
    "nothing is wrong": look(),
    "a node was called dead a moment ago": look(None, dead("n2", for_s=0.2)),
    "a dead node whose copies cannot be made elsewhere": look(map_of(shards=WITHOUT_N2), dead("n2")),
    "a dead node within the grace": look(map_of(FOUR, turned(*FOUR.split(), gone="n2")), dead("n2")),
    "a dead node whose grace a new leader counts from its own start": look(
        map_of(FOUR, turned(*FOUR.split(), gone="n2")), dead("n2", for_s=400.0, grace_until=NOW + 60)
    ),
    "a dead node whose copies are made again": look(
        map_of(FOUR, [shard("n1 n3", learners="n2 n4") for _ in range(12)]),
        dead("n2", for_s=320.0),
        plan=SeenPlan(
            reason="re-replication: n2 dead for 300 s", since=NOW - 20, copies=12, copies_done=4, primaries=0
        ),
        moves=(SeenMove(NOW - 8, 2), SeenMove(NOW - 2, 2)),
    ),
    "a dead node without copies": look(
        map_of(FOUR, turned("n1", "n3", "n4")), dead("n2", for_s=4000.0, by="n1", why="silent")
    ),
    "a dead node that an operator starts again": look(map_of(shards=WITHOUT_N2), dead("n2"), managed=True),
    "a node that was stopped in order": look(map_of(shards=WITHOUT_N2), someone("n2", state="left", since=NOW - 12)),
    "a suspected node": look(
        None, someone("n2", state="suspect", since=NOW - 1.4, evidence=(Evidence("n3", NOW - 1.4, "silent"),))
    ),
    "a node that nobody asked to take part": look(joined(map_of(), "n4"), someone("n4", state="joining")),
    "a node that is about to take part": look(wanting(joined(map_of(), "n4"), "n4"), someone("n4", state="joining")),
    "nodes that are wanted and were never there": look(wanting(map_of(), "n4", "n5")),
    "a node that drains": look(
        map_of(FOUR, draining="n4"),
        someone("n4", draining=True),
        plan=SeenPlan(reason="drain n4", since=NOW - 30, copies=9, copies_done=3, primaries=3),
        moves=(SeenMove(NOW - 5, 3),),
    ),
    "a drained node": look(map_of(FOUR, turned("n1", "n2", "n3"), draining="n4"), someone("n4", draining=True)),
    "a node that is about to stop": look(None, someone("n3", leaving=True)),
    "shards without a complete copy": look(
        map_of(shards=[shard("n2 n3") if n in (3, 7, 8) else shard("n1", eligible="n2 n3") for n in range(12)]),
        dead("n2"),
        dead("n3", for_s=30.0, by="n1"),
        voters=("n1", "n4", "n5"),
    ),
    "too few copies for writes, and nobody there to catch up": look(
        map_of(shards=[shard("n1", learners="n2 n3") for _ in range(12)]),
        dead("n2"),
        dead("n3", for_s=30.0, by="n1"),
        voters=("n1",),
    ),
    "too few copies for writes while a node catches up": look(
        map_of(shards=[shard("n1", learners="n2 n3") for _ in range(12)]),
        dead("n3", for_s=30.0, by="n1"),
        voters=("n1",),
        moves=(SeenMove(NOW - 5, 5),),
    ),
    "a majority of the voters is lost": look(
        map_of(shards=WITHOUT_N2), dead("n2"), dead("n3", for_s=10.0, by="n1"), leader=None
    ),
    "a majority of the voters is lost, and every copy lives": look(
        map_of("n1 n2 n3 n4 n5", turned("n1", "n2")), dead("n4"), dead("n5"), leader=None, voters=("n1", "n4", "n5")
    ),
    "an election": look(leader=None),
    "an election in a cluster of single copies": look(
        map_of(shards=turned("n1", "n2", "n3", in_sync=1, need=1), replication_factor=1, min_in_sync=1), leader=None
    ),
    "too few copies for writes, and no leader": look(
        map_of(shards=[shard("n1", eligible="n2 n3") if n < 4 else shard("n1 n2", learners="n3") for n in range(12)]),
        dead("n3"),
        leader=None,
    ),
    "the leader has just died": look(map_of(shards=turned("n1", "n2", "n3")), dead("n2", for_s=0.5), leader="n2"),
    "a plan under way, at the leader": look(
        map_of(FOUR, [shard("n1 n2 n3", learners="n4") if n < 9 else shard("n1 n2 n3") for n in range(12)]),
        plan=SeenPlan(reason="scale: n4 joins", since=NOW - 4, copies=12, copies_done=3, primaries=3),
        moves=(SeenMove(NOW - 2, 3),),
    ),
    "a plan under way, at another node": look(
        map_of(FOUR, [shard("n1 n2 n3", learners="n4") if n < 9 else shard("n1 n2 n3") for n in range(12)]),
        node="n2",
        moves=(SeenMove(NOW - 2, 3),),
    ),
    "only primaries are left to move": look(
        plan=SeenPlan(reason="back to balance", since=NOW - 4, copies=3, copies_done=3, primaries=4)
    ),
    "a plan that waits for a dead node": look(
        map_of(FOUR, [shard("n1 n3 n4", learners="n2") for _ in range(12)], draining="n4"),
        dead("n2", for_s=200.0),
        someone("n4", draining=True),
        plan=SeenPlan(
            reason="drain n4",
            since=NOW - 180,
            copies=12,
            copies_done=0,
            primaries=3,
            waiting=(
                "n4 cannot give up its copies: 2 living nodes would remain for 3 copies; start n2, or drain it too",
            ),
        ),
    ),
    "copies are missing though nobody is out": look(
        map_of(shards=[shard("n1 n2", learners="n3") if n < 5 else shard("n1 n2 n3") for n in range(12)]),
        moves=(SeenMove(NOW - 5, 10),),
    ),
    "a disk that is nearly full": look(None, someone("n3", free_bytes=50 << 20, copy_bytes=900 << 20)),
    "a disk that is full": look(None, someone("n1", disk_full=True, free_bytes=3 << 20, copy_bytes=900 << 20)),
    "a disk that hangs": look(None, someone("n3", stalled=True)),
    "a disk that hangs, taken out": look(
        map_of(shards=turned("n1", "n2", "n3", gone="n3")), someone("n3", stalled=True)
    ),
    "a log that cannot keep up": look(log_queued_bytes=20 << 20),
    "a node that is late": look(None, someone("n3", lag_s=0.45)),
    "a rolling update": look(
        None, someone("n1", version="0.2.0"), someone("n2", version="0.1.0"), someone("n3", version="0.1.0")
    ),
    "fewer nodes than copies": look(map_of("n1 n2", turned("n1", "n2"))),
    "one node alone": look(map_of("n1", turned("n1", need=1))),
    "min_in_sync above the replication factor": look(map_of(replication_factor=2, min_in_sync=3)),
    "a node that came back": look(None, someone("n2", guarded_until=NOW + 18, deaths=1)),
    "a node that dies again and again": look(None, someone("n2", guarded_until=NOW + 48, deaths=2)),
    "a node whose map is old": look(node="n2", leader_version=FIRST + 7, moves=(SeenMove(NOW - 9, 0, 0),)),
    "a node whose map is old for a moment": look(node="n2", leader_version=FIRST + 7, moves=(SeenMove(NOW - 1, 0, 0),)),
    "a node in no cluster": Seen(node="n4", now=NOW),
    "a node without a map": Seen(node="n4", now=NOW, cluster_id="c" * 16),
    "a node that has left": Seen(node="n4", now=NOW, cluster_id="c" * 16, has_left=True),
}


def told() -> dict[str, str]:
    """Return the expected text of each scene."""
    scenes = TEXTS.read_text(encoding="utf-8").split("### ")[1:]
    return {name: text.rstrip("\n") for name, _, text in (scene.partition("\n") for scene in scenes)}


@pytest.mark.parametrize("scene", SCENES)
def test_a_summary_says_what_is_wrong_what_it_means_what_is_done_and_what_to_do(scene: str) -> None:
    said = "\n".join(lines_of(summary_of(SCENES[scene])))

    assert said == told()[scene]


def test_every_text_belongs_to_a_scene() -> None:
    assert list(told()) == list(SCENES)


@pytest.mark.parametrize("scene", SCENES)
def test_a_summary_survives_its_way_through_json(scene: str) -> None:
    summary = summary_of(SCENES[scene])

    assert msgspec.json.decode(msgspec.json.encode(summary), type=Summary) == summary


@pytest.mark.parametrize("scene", SCENES)
def test_the_severity_of_the_whole_is_that_of_its_worst_finding_and_shards_are_counted_once(scene: str) -> None:
    summary = summary_of(SCENES[scene])
    counts = msgspec.structs.asdict(summary.shards)
    order = [Severity.UNAVAILABLE, Severity.DEGRADED, Severity.OK]
    found = [finding.severity for finding in summary.findings]

    assert found == sorted(found, key=order.index)
    assert summary.severity is (found[0] if found else Severity.OK)
    assert sum(counts.values()) - counts["total"] == counts["total"]
    assert min(counts.values()) >= 0
    hurts = counts["unavailable"] + counts["no_writes"] > 0
    assert not hurts or summary.severity is Severity.UNAVAILABLE


NAMES = ("n1", "n2", "n3", "n4")


@st.composite
def shards_of(draw: st.DrawFn) -> Shard:
    """Return a shard whose copies lie anywhere, complete or not."""
    order = draw(st.permutations(NAMES))
    in_sync = draw(st.integers(1, 3))
    learning = order[in_sync : in_sync + draw(st.integers(0, 4 - in_sync))]
    eligible = " ".join(learning[: draw(st.integers(0, len(learning)))])
    rest = " ".join(name for name in learning if name not in eligible.split())
    return shard(" ".join(order[:in_sync]), eligible=eligible, learners=rest, need=draw(st.integers(1, 3)))


@given(
    shards=st.lists(shards_of(), min_size=1, max_size=6),
    states=st.tuples(*(st.sampled_from(("alive", "suspect", "dead", "left", "joining")) for _ in NAMES)),
    stalled=st.sampled_from((*NAMES, "")),
    leader=st.sampled_from((*NAMES, None)),
    drains=st.sampled_from((*NAMES, "")),
    managed=st.booleans(),
)
def test_whatever_is_seen_is_told_in_sentences_and_waiting_users_are_never_called_well(
    shards: list[Shard], states: tuple[str, ...], stalled: str, leader: str | None, drains: str, managed: bool
) -> None:
    members = [
        someone(name, state=state, stalled=name == stalled, draining=name == drains, since=NOW - 50)
        for name, state in zip(NAMES, states, strict=True)
    ]
    seen = look(map_of(" ".join(NAMES), shards, draining=drains), *members, leader=leader, managed=managed)
    summary = summary_of(seen)
    counts = summary.shards

    assert counts.ok + counts.moving + counts.under_replicated + counts.no_writes + counts.unavailable == len(shards)
    assert summary.severity is Severity.UNAVAILABLE or counts.unavailable + counts.no_writes == 0
    assert summary.severity is not Severity.OK or counts.under_replicated == 0
    assert summary.headline.endswith(".") and "\n" not in summary.headline
    for finding in summary.findings:
        clauses = [finding.what, finding.evidence, finding.means, finding.doing, finding.advice]
        assert all(not clause.endswith(".") and "  " not in clause for clause in clauses)
        assert finding.command.split(" ")[0] in ("", "ringkeep", "kubectl")
        assert finding.advice or not finding.command
        assert finding.doing or finding.advice
        assert not (managed and finding.command.startswith(("ringkeep restart", "ringkeep up", "ringkeep scale")))


def test_a_large_cluster_is_told_in_as_many_lines_as_a_small_one() -> None:
    shards = [shard("n1 n3", learners="n2") for _ in range(4096)]
    summary = summary_of(look(map_of(shards=shards), dead("n2")))
    (finding,) = summary.findings

    assert summary.headline == "n2 has been dead for 42 s: all 4,096 shards have 2 of 3 copies; reads and writes go on."
    assert (finding.shard_count, finding.shards) == (4096, tuple(range(64)))


if __name__ == "__main__":
    for name, seen in SCENES.items():
        print(f"### {name}", *lines_of(summary_of(seen)), sep="\n")
