"""What a running node sees of its cluster: the facts that a summary is made from."""

from __future__ import annotations

from pathlib import Path

from ringkeep_core.summary import Evidence, SeenMove, Severity, summary_of
from ringkeep_node.machines.oversight import VERSION_KEY
from ringkeep_node.runtime.reports import Accusation, Event, MemberReport
from ringkeep_node.runtime.seeing import MOVES_S, evidence_of, moves_of
from ringkeep_testing.live_hosts import found, hosts, run, until


def test_a_node_in_no_cluster_sees_only_itself_and_a_founded_cluster_is_well_at_every_node(tmp_path: Path) -> None:
    async def story() -> None:
        async with hosts(tmp_path, 3) as nodes:
            alone = nodes[0].host.look()
            await found(nodes)
            await until(lambda: all(summary_of(node.host.look()).severity is Severity.OK for node in nodes))
            told = [summary_of(node.host.look()) for node in nodes]
            storages = sorted(node.storage for node in nodes)
            await until(lambda: all(sorted(node.host.look().voters) == storages for node in nodes))
            followers = [seen for node in nodes if (seen := node.host.look()).leader != seen.node]

            assert (alone.node, alone.cluster_id, alone.held, alone.managed) == ("n1", "", None, True)
            assert {it.headline for it in told} == {"All is well: 3 members, 16 shards with 3 copies each."}
            assert len({(it.leader, it.cluster_id, it.version) for it in told}) == 1
            assert {seen.leader_version for seen in followers} == {told[0].version}

    run(story())


def test_a_node_that_ends_is_missed_by_name_with_what_that_means(tmp_path: Path) -> None:
    async def story() -> None:
        async with hosts(tmp_path, 3) as nodes:
            await found(nodes)
            await nodes[2].close()
            await until(lambda: [it.kind for it in summary_of(nodes[0].host.look()).findings] == ["dead"])
            (finding,) = summary_of(nodes[0].host.look()).findings

            assert (finding.subject, finding.severity, finding.shard_count) == ("n3", Severity.DEGRADED, 16)
            assert finding.means == "all 16 shards have 2 of 3 copies; reads and writes go on"
            assert finding.evidence
            assert finding.command == "kubectl describe pod n3"

    run(story())


def test_every_node_hears_which_version_the_others_run(tmp_path: Path) -> None:
    async def story() -> None:
        async with hosts(tmp_path, 2) as nodes:
            await found(nodes)
            driver = nodes[1].host._driver
            assert driver is not None
            driver.node.oversight.tell_version("9.9.9", now=driver._now())
            await until(lambda: "9.9.9" in {member.version for member in nodes[0].host.look().members})
            driver.node.oversight.tell_version("x" * 4096, now=driver._now())

            assert len(driver.node.swim.values(nodes[1].storage)[VERSION_KEY]) == 512

    run(story())


def test_moves_are_the_recent_changes_of_the_map_and_the_newest_one_however_old() -> None:
    now = 10_000.0
    events = [
        Event(1, 10.0, "shards", "long ago", {"version": 5, "copies_in_sync": 7}),
        Event(2, now - MOVES_S, "shards", "copies", {"version": 6, "copies_in_sync": 2, "primaries_moved": 1}),
        Event(3, now - 5, "member", "n2 is dead", {"member": "n2"}),
        Event(4, now - 1, "wanted", "a wish", {"version": 7}),
    ]

    assert moves_of(events, now) == (SeenMove(now - MOVES_S, 2, 1), SeenMove(now - 1))
    assert moves_of(events[:1], now) == (SeenMove(10.0, 7),)
    assert moves_of((), now) == ()


def test_evidence_is_handed_on_as_it_was_reported() -> None:
    report = MemberReport(
        name="n2",
        state="dead",
        storage_id="2",
        boot_id="b",
        url="",
        peer="",
        evidence=(Accusation("n1", 7.5, "refused"), Accusation("n3", 8.0, "told")),
    )

    assert evidence_of(report) == (Evidence("n1", 7.5, "refused"), Evidence("n3", 8.0, "told"))
