"""History and log lines: what is news, what is not, and that the documentation lists every event."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import structlog
from msgspec.structs import replace
from structlog.testing import LogCapture

from ringkeep_core.mapchanges import NewGeneration, SetWanted, apply
from ringkeep_core.plans import expected_digest
from ringkeep_core.shardmap import GENERATION_STEP, ShardMap, Wanted
from ringkeep_node.machines.node import Node, NodeStep
from ringkeep_node.machines.swim.members import Evidence, MemberChanged, MemberState
from ringkeep_node.runtime.history import History
from ringkeep_node.runtime.news import REPEAT_S, TOLD_MAX, News, Refusals
from ringkeep_node.runtime.reports import Event
from ringkeep_testing.elastic_world import CALM
from ringkeep_testing.live_hosts import LiveNode, found, hosts, run, until
from ringkeep_testing.maps import shard, shard_map
from ringkeep_testing.node_world import World
from ringkeep_testing.world_machine import Machine

ROOT = Path(__file__).parents[4]
LEVELS = {"exception": "error"}


@pytest.fixture
def lines() -> Iterator[list[dict[str, Any]]]:
    capture = LogCapture()
    structlog.configure(processors=[capture])
    yield capture.entries  # type: ignore[misc]  # a list of dictionaries under another name
    structlog.reset_defaults()


def changed(before: MemberState | None, after: MemberState, *why: Evidence) -> MemberChanged:
    return MemberChanged(storage="a", name="n2", before=before, after=after, evidence=why, testimony=())


def test_a_member_that_only_the_map_names_is_no_news_until_it_speaks_or_dies() -> None:
    history, step = History(), NodeStep(1)
    step.member_changes = [
        changed(None, MemberState.ALIVE, Evidence.REGISTERED),
        changed(MemberState.ALIVE, MemberState.SUSPECT, Evidence.REGISTERED),
        changed(MemberState.SUSPECT, MemberState.ALIVE, Evidence.JOINED),
        changed(MemberState.ALIVE, MemberState.SUSPECT, Evidence.REGISTERED, Evidence.SILENT),
        changed(MemberState.SUSPECT, MemberState.DEAD, Evidence.EXPIRED),
        changed(MemberState.DEAD, MemberState.ALIVE, Evidence.REGISTERED),
    ]
    events = history.stepped(step, 1.0)

    assert [event.text for event in events] == [
        "n2 is alive (joined)",
        "n2 is suspect (registered, silent)",
        "n2 is dead (expired)",
        "n2 is alive (registered)",
    ]
    assert dict(history.verdicts) == {"suspect": 1, "dead": 1}
    assert events[2].fields == {"member": "n2", "state": "dead", "before": "suspect", "why": "expired"}
    assert history.after(0) == events


def test_the_same_refusal_is_told_once_a_minute_with_how_often_it_came() -> None:
    refusals = Refusals()
    told = [refusals.tell("1.2.3.4", "why", at) for at in (0.0, 1.0, REPEAT_S - 0.5, REPEAT_S, REPEAT_S + 1)]
    other = refusals.tell("1.2.3.4", "something else", REPEAT_S + 1)

    assert (told, other, refusals.total) == ([0, None, None, 2, None], 0, 6)


def test_only_so_many_different_refusals_are_told_and_the_memory_of_them_is_bounded() -> None:
    refusals = Refusals()
    told = [refusals.tell("1.2.3.4", f"frame {number}", 1.0) for number in range(10 * TOLD_MAX)]

    assert (told.count(0), told.count(None), refusals.total) == (TOLD_MAX, 9 * TOLD_MAX, 10 * TOLD_MAX)
    assert len(refusals._untold) <= TOLD_MAX and len(refusals._told) <= TOLD_MAX


def test_a_refusal_becomes_an_event_and_a_warning(lines: list[dict[str, Any]]) -> None:
    news = News()
    news.joined("c" * 16)
    for at in (1.0, 2.0, 3.0, 1.0 + REPEAT_S):
        news.refused("1.2.3.4", "belongs to cluster x", at)

    assert [event.text for event in news.history.after(0)] == [
        "1.2.3.4 was refused: belongs to cluster x",
        "1.2.3.4 was refused: belongs to cluster x (and 2 times before)",
    ]
    assert [(line["event"], line["log_level"], line["peer"], line["repeated"], line["cluster"]) for line in lines] == [
        ("peer_refused", "warning", "1.2.3.4", 0, "c" * 16),
        ("peer_refused", "warning", "1.2.3.4", 2, "c" * 16),
    ]


def test_each_election_is_told_once_however_often_its_leader_is_lost_sight_of() -> None:
    news = News()
    name = SimpleNamespace(name="n1")
    for leader, term in (("a", 3), (None, 3), ("a", 3), (None, 4), ("a", 4)):
        node: Any = SimpleNamespace(
            held=SimpleNamespace(map=None),
            has_left=False,
            raft=SimpleNamespace(leader=leader, term=term),
            swim=SimpleNamespace(members={"a": name}),
        )
        news.stepped(node, NodeStep(1), at=1.0)

    assert [(event.kind, event.text) for event in news.history.after(0)] == [
        ("leader", "n1 leads the cluster in term 3"),
        ("leader", "n1 leads the cluster in term 4"),
    ]


def test_a_new_cluster_has_nothing_to_complain_about_and_says_what_changed(lines: list[dict[str, Any]]) -> None:
    world = World(1, CALM)
    told = {name: News() for name in world.machines}
    for news in told.values():
        news.joined(world.cluster_id)
    world.watches.append(lambda machine, step: told[machine.name].stepped(_node_of(machine), step, world.now))
    world.settle(10.0)
    world.run_until(world.now + 20.0)
    events = [event for news in told.values() for event in news.history.after(0)]
    quiet = list(lines)
    leaders = [line for line in quiet if line["event"] == "leader_changed"]

    elected = [(event.text, event.fields["member"]) for event in events if event.kind == "leader"]

    assert {event.kind for event in events} <= {"leader", "member", "boot", "shards", "wanted"}
    assert elected[-1] == (
        f"{leaders[-1]['leader']} leads the cluster in term {leaders[-1]['term']}",
        leaders[-1]["leader"],
    )
    assert [event.fields["state"] for event in events if event.kind == "member"] == ["alive"] * 6
    assert {line["leader"] for line in leaders} & {"n1", "n2", "n3"} and leaders[-1]["term"] > 0
    assert {(line["cluster"], line["log_level"]) for line in quiet} == {(world.cluster_id, "info")}

    leaving = world.machines["n3"]
    leads = sum(1 for shard in world.eye.newest.shards if shard.primary.storage == leaving.storage)
    leaving.end(lambda: None)
    world.run_until(world.now + 5.0, lambda: leaving.node is None)
    after = lines[len(quiet) :]
    change = next(line for line in after if line["event"] == "map_changed")
    left = {line["member"] for line in after if line.get("state") == "left"}

    assert leads and (change["kind"], change["cluster"], left) == ("shards", world.cluster_id, {"n3"})
    assert change["map_version"] <= world.eye.newest.version and change["index"] > 1


def _node_of(machine: Machine) -> Node:
    assert machine.node is not None
    return machine.node


def test_a_running_node_tells_of_its_cluster_in_every_line_and_refuses_nobody_of_it(
    tmp_path: Path, lines: list[dict[str, Any]]
) -> None:
    async def play() -> None:
        async with hosts(tmp_path, 3) as nodes:
            cluster_id = await found(nodes)
            # On a machine that is slow enough somebody may be suspected meanwhile: of that nothing is said here.
            await until(lambda: all(_all_told_of(node) for node in nodes))

            assert {node.host.numbers().refused for node in nodes} == {0}
            assert {(line["cluster"], line["log_level"]) for line in lines} == {(cluster_id, "info")}

    run(play())


def _all_told_of(node: LiveNode) -> bool:
    told = {event.fields["member"] for event in node.host.events(0) if event.kind == "member"}
    return told >= {"n1", "n2", "n3"} - {node.name}


def test_the_documentation_lists_every_event_with_its_level_and_no_other() -> None:
    source = "".join(path.read_text() for path in sorted((ROOT / "node/ringkeep_node").rglob("*.py")))
    logged: dict[str, set[str]] = {}
    for level, event in re.findall(r'logger\.(debug|info|warning|error|exception)\(\s*"(\w+)"', source):
        logged.setdefault(event, set()).add(LEVELS.get(level, level))
    # Said by the logging module itself, in words of its own.
    logged |= {"library_message": {"warning", "error"}, "log_lines_dropped": {"warning"}}
    rows = re.findall(r"^\| `(\w+)` \| ([\w, ]+) \|", (ROOT / "docs/logging.md").read_text(), re.MULTILINE)

    assert {event: set(levels.split(", ")) for event, levels in rows} == logged


@pytest.mark.parametrize(("seen", "digest", "opinion"), [(0, "", "same"), (0, "f" * 32, "differs"), (-1, "", "old")])
def test_the_target_that_an_author_expects_is_compared_once_when_its_wanted_state_is_accepted(
    seen: int, digest: str, opinion: str
) -> None:
    before = shard_map("a b c", [shard("a b")])
    asked = Wanted(2, before.wanted.members, before.wanted.settings)
    wanted = replace(
        asked, target_digest=digest or expected_digest(before, asked), target_version=before.version + seen
    )
    done = apply(before, before.version + 1, SetWanted(wanted, "people"))
    news, step = News(), NodeStep(1)
    news.stepped(node_with(before), NodeStep(0), 1.0)
    step.map_changes = [(SetWanted(wanted, "people"), done.map, done)]

    news.stepped(node_with(done.map), step, 2.0)

    assert news.opinion == (2, opinion)


def test_a_wanted_state_that_was_appended_twice_is_told_and_compared_once() -> None:
    before = shard_map("a b c", [shard("a b")])
    asked = Wanted(2, before.wanted.members, before.wanted.settings)
    change = SetWanted(
        replace(asked, target_digest=expected_digest(before, asked), target_version=before.version), "people"
    )
    done = apply(before, before.version + 1, change)
    again = apply(done.map, before.version + 2, change)
    news, step = News(), NodeStep(1)
    news.stepped(node_with(before), NodeStep(0), 1.0)
    step.map_changes = [(change, done.map, done), (change, again.map, again)]

    news.stepped(node_with(again.map), step, 2.0)
    events = History().stepped(step, 5.0, held=before)

    assert (news.opinion, [event.kind for event in events]) == ((2, "same"), ["wanted"])


def node_with(held: ShardMap) -> Any:
    """What the news look at of a node that holds a map."""
    raft = SimpleNamespace(leader=None, term=0)
    return SimpleNamespace(held=SimpleNamespace(map=held), raft=raft, has_left=False)


def test_a_generation_is_told_by_whoever_begins_it_and_by_whoever_takes_its_map() -> None:
    before = shard_map("a b c", [shard("a b")])
    change = NewGeneration(2, "a", "a", before.version, "the majority of the voters is lost")
    applied = apply(before, 2 * GENERATION_STEP + 1, change)
    begins, follows = History(), History()

    begins.stepped(NodeStep(1, map_changes=[(change, applied.map, applied)]), 5.0, held=before)
    follows.followed(before, applied.map, 6.0)

    reason = "the majority of the voters is lost"
    moved: dict[str, str | int | float] = {"version": applied.map.version, "former": before.version}
    assert [(it.kind, it.text) for it in begins.after(0)] == [("recover", f"generation 2 begins: {reason}")]
    assert follows.after(0) == (
        Event(
            1,
            6.0,
            "recover",
            f"this node follows generation 2 from version {applied.map.version}; what generation 1 did after version "
            f"{before.version} does not count",
            moved,
        ),
    )
