"""Bugs that other Raft implementations shipped, as tests (reliability.md 2.3), and what reads and disks rely on."""

from __future__ import annotations

from ringkeep_node.machines.raft import (
    NORMAL,
    AppendAnswer,
    AppendEntries,
    Configuration,
    Entry,
    HardState,
    Heartbeat,
    HeartbeatAnswer,
    Proposed,
    Raft,
    RaftSettings,
    ReadIndexAnswer,
    ReadIndexRequest,
    ReadReady,
    Recovered,
    Refused,
    Role,
    VoteAnswer,
)
from ringkeep_testing.raft_disk import report
from ringkeep_testing.raft_group import Group


def elected(group: Group) -> Raft:
    """Let "a" win an election without telling anybody, so that nothing of its term is committed."""
    raft = group.nodes["a"]
    raft.campaign(now=0.0)
    group.pump("a")
    raft.receive("b", VoteAnswer(raft.term, True), now=0.0)
    group.pump("a")
    group.wires.clear()
    assert raft.role is Role.LEADER
    return raft


# Acknowledge before sync


def test_a_single_node_applies_only_what_its_own_disk_holds() -> None:
    group = Group("a", elect="a")
    group.slow = {"a"}
    answer = group.nodes["a"].propose(b"x", now=0.0)
    group.settle()
    before = group.payloads("a")
    group.sync("a")
    group.settle()

    assert (answer, before, group.payloads("a")) == (Proposed(2, 3), [], [b"x"])


def test_a_follower_acknowledges_only_what_its_disk_holds() -> None:
    group = Group(elect="a")
    group.slow = {"b"}
    group.cut = {"c"}
    group.nodes["a"].propose(b"x", now=0.0)
    group.settle()
    before = group.nodes["a"].commit
    group.sync("b")
    group.settle()

    assert (before, group.nodes["a"].commit) == (2, 3)


def test_a_leader_counts_itself_only_for_what_its_disk_holds() -> None:
    group = Group("abcde", elect="a")
    group.slow = {"a"}
    group.cut = {"d", "e"}
    group.nodes["a"].propose(b"x", now=0.0)
    group.settle()
    two_of_five = group.nodes["a"].commit
    group.sync("a")
    group.settle()

    assert (two_of_five, group.nodes["a"].commit) == (2, 3)


def test_followers_alone_commit_while_the_leaders_disk_hangs_but_it_applies_nothing() -> None:
    group = Group(elect="a")
    group.slow = {"a"}
    group.nodes["a"].propose(b"x", now=0.0)
    group.settle()

    assert (group.nodes["a"].commit, group.payloads("a"), group.payloads("b")) == (3, [], [b"x"])


def test_a_candidates_own_vote_counts_only_when_durable() -> None:
    group = Group()
    group.slow = {"a"}
    raft = group.nodes["a"]
    raft.campaign(now=0.0)
    group.pump("a")
    raft.receive("b", VoteAnswer(2, True), now=0.0)
    before = raft.role
    group.sync("a")

    assert (before, raft.role) == (Role.CANDIDATE, Role.LEADER)


def test_a_report_of_an_entrys_first_life_does_not_make_its_second_one_durable() -> None:
    raft = Raft(me="b", recovered=Recovered(), settings=RaftSettings(), draw=lambda: 0.5, now=0.0)
    two = (Entry(1, 1, NORMAL, b""), Entry(1, 2, NORMAL, b"x"))
    raft.receive("a", AppendEntries(1, 0, 0, 0, two), now=0.0)
    first = raft.take_step()
    raft.receive("c", AppendEntries(2, 1, 1, 0, (Entry(2, 2, NORMAL, b"y"),)), now=0.0)
    second = raft.take_step()
    raft.receive("a", AppendEntries(3, 1, 1, 2, two[1:]), now=0.0)
    third = raft.take_step()
    report(raft, first, now=0.0)
    after_first = raft.stable
    report(raft, second, now=0.0)
    after_second = raft.stable
    report(raft, third, now=0.0)

    assert (second.cut_after, third.cut_after) == (1, 1)
    assert (after_first, after_second, raft.stable, raft.take_step().committed) == (1, 1, 2, two)


# Stale messages


def test_a_stale_append_never_cuts_a_suffix_that_matches() -> None:
    group = Group(elect="a")
    for payload in (b"x", b"y"):
        group.nodes["a"].propose(payload, now=0.0)
    group.cut = {"c"}
    group.settle()
    follower = group.nodes["b"]
    group.nodes["a"].propose(b"z", now=0.0)
    group.settle()
    last = follower.last_index
    follower.receive("a", AppendEntries(2, 2, 2, 2, (Entry(2, 3, NORMAL, b"x"),)), now=0.0)
    follower.receive("a", AppendEntries(2, 1, 1, 1), now=0.0)

    assert (follower.last_index, follower.take_step().cut_after) == (last, None)


def test_a_stale_append_above_the_commit_index_cuts_nothing() -> None:
    log = tuple(Entry(1, index, NORMAL, b"%d" % index) for index in range(1, 6))
    raft = Raft(
        me="b", recovered=Recovered(HardState(1, None), None, log), settings=RaftSettings(), draw=lambda: 0.5, now=0.0
    )
    raft.receive("a", AppendEntries(1, 1, 1, 0, log[1:3]), now=0.0)
    step = raft.take_step()

    assert (raft.last_index, step.cut_after, step.send_synced[0].message) == (5, None, AppendAnswer(1, True, 3))


def test_every_message_may_come_twice() -> None:
    group = Group(elect="a")
    group.nodes["a"].propose(b"x", now=0.0)
    group.nodes["b"].read_index(1, now=0.0)
    for _ in range(6):
        group.pump("a")
        group.pump("b")
        group.wires = [wire for wire in group.wires for _ in range(2)][:200]
        group.deliver()

    assert group.payloads("b") == [b"x"]
    assert [read.token for read in group.reads["b"]] == [1]


def test_a_stranger_does_not_disturb_a_group_that_hears_its_leader() -> None:
    group = Group(elect="a")
    for answer in (AppendAnswer(9, False, 0), VoteAnswer(9, False), HeartbeatAnswer(9, 1), ReadIndexAnswer(9, 1, 99)):
        for raft in group.nodes.values():
            raft.receive("x", answer, now=0.0)
    group.settle()

    assert (group.leader(), {raft.term for raft in group.nodes.values()}) == ("a", {2})


def test_a_damaged_append_is_ignored() -> None:
    group = Group(elect="a")
    hole = (Entry(2, 3, NORMAL, b"x"), Entry(2, 5, NORMAL, b"y"))
    future = (Entry(7, 3, NORMAL, b"x"),)
    broken = (Entry(2, 3, 2, b"\xc1"),)
    for bad in (hole, future, broken):
        group.nodes["b"].receive("a", AppendEntries(2, 2, 2, 2, bad), now=0.0)

    assert (group.nodes["b"].last_index, group.nodes["b"].take_step().send_synced) == (2, ())


# Membership


def test_two_leaders_never_commit_by_disjoint_majorities_2015() -> None:
    group = Group("abcd", elect="a")
    group.cut = {"a"}
    group.nodes["a"].propose_configuration(Configuration(("a", "b", "c"), ("d",)), now=0.0)
    group.settle()
    group.now = 2.0
    group.nodes["b"].campaign(now=2.0)
    group.deliver()
    group.deliver()
    group.cut = {"a", "c"}
    change = group.nodes["b"].propose_configuration(Configuration(("b", "c", "d"), ("a",)), now=2.0)
    group.nodes["b"].propose(b"x", now=2.0)
    group.settle()
    group.cut = {"b", "d"}
    group.now = 9.0
    group.nodes["a"].tick(now=9.0)
    for _ in range(2):
        group.nodes["a"].campaign(now=9.0)
        group.settle()
    group.nodes["a"].propose(b"y", now=9.0)
    group.settle()

    assert {name: group.payloads(name) for name in "abcd"} == {"a": [b"y"], "b": [], "c": [b"y"], "d": []}
    assert change == Refused("not_ready")


# Reads


def test_no_read_is_answered_before_an_entry_of_the_own_term_is_committed() -> None:
    group = Group()
    raft = elected(group)
    raft.read_index(1, now=0.0)
    group.pump("a")
    raft.tick(now=0.2)
    group.pump("a")
    for voter in "bc":
        raft.receive(voter, HeartbeatAnswer(2, 1), now=0.2)
    group.pump("a")
    early = list(group.reads["a"])
    raft.receive("b", AppendAnswer(2, True, 2), now=0.2)
    group.pump("a")
    raft.receive("b", HeartbeatAnswer(2, 2), now=0.2)
    group.pump("a")

    assert (early, group.reads["a"]) == ([], [ReadReady(1, 2)])


def test_a_read_needs_a_round_that_started_after_it() -> None:
    group = Group(elect="a")
    raft = group.nodes["a"]
    raft.tick(now=0.1)
    group.pump("a")
    raft.read_index(1, now=0.1)
    raft.receive("b", HeartbeatAnswer(2, 1), now=0.1)
    group.pump("a")
    early = list(group.reads["a"])
    raft.receive("b", HeartbeatAnswer(2, 2), now=0.1)
    group.pump("a")

    assert (early, group.reads["a"]) == ([], [ReadReady(1, 2)])


def test_reads_that_come_together_share_one_round() -> None:
    group = Group(elect="a")
    for token in range(100):
        group.nodes["a"].read_index(token, now=0.0)
    group.pump("a")

    assert group.wires == [("a", "b", Heartbeat(2, 2, 1)), ("a", "c", Heartbeat(2, 2, 1))]


def test_a_read_fails_when_the_leader_changes_and_a_late_answer_is_dropped() -> None:
    group = Group(elect="a")
    follower = group.nodes["b"]
    follower.read_index(7, now=0.0)
    group.pump("b")
    [(_, _, request)] = group.wires
    assert isinstance(request, ReadIndexRequest)
    follower.receive("c", Heartbeat(3, 0, 1), now=0.0)
    follower.receive("a", ReadIndexAnswer(3, request.number, 2), now=0.0)
    follower.receive("c", ReadIndexAnswer(3, request.number, 2), now=0.0)
    group.pump("b")

    assert (group.reads["b"], group.failed["b"]) == ([], [7])


def test_a_deposed_leader_fails_its_reads_and_never_answers_them_when_it_leads_again() -> None:
    group = Group(elect="a")
    raft = group.nodes["a"]
    group.cut = {"a"}
    raft.read_index(7, now=0.0)
    group.settle()
    raft.receive("b", Heartbeat(3, 0, 1), now=0.0)
    group.cut = set()
    group.settle()
    raft.campaign(now=5.0)
    group.now = 5.0
    group.pass_time(2.0)

    assert (group.reads["a"], group.failed["a"]) == ([], [7])


def test_an_answer_to_an_earlier_boot_finds_no_question() -> None:
    group = Group(elect="a")
    group.nodes["b"].read_index(7, now=0.0)
    group.pump("b")
    [(_, _, request)] = group.wires
    assert isinstance(request, ReadIndexRequest)
    group.crash("b")
    group.start("b")
    group.settle()
    group.pass_time(0.2)
    group.nodes["b"].read_index(8, now=group.now)
    group.nodes["b"].receive("a", ReadIndexAnswer(2, request.number, 1), now=group.now)
    group.pump("b")

    assert group.reads["b"] == []


def test_a_forwarded_read_that_is_lost_fails_after_a_second() -> None:
    group = Group(elect="a")
    group.nodes["b"].read_index(7, now=0.0)
    group.pump("b")
    group.wires.clear()
    group.pass_time(0.95)
    early = list(group.failed["b"])
    group.pass_time(0.1)

    assert (early, group.failed["b"]) == ([], [7])


def test_reads_are_bounded() -> None:
    group = Group(settings=RaftSettings(reads_max=2), elect="a")
    for token in range(3):
        group.nodes["a"].read_index(token, now=0.0)
    group.settle()

    assert (group.failed["a"], group.reads["a"]) == ([2], [ReadReady(0, 2), ReadReady(1, 2)])


# Bounds and lag


def test_proposals_are_bounded() -> None:
    settings = RaftSettings(entry_bytes_max=100, uncommitted_bytes_max=400)
    group = Group(settings=settings, elect="a")
    group.cut = {"b", "c"}
    answers = [group.nodes["a"].propose(b"x" * size, now=0.0) for size in (101, 100, 100, 100)]

    assert answers == [Refused("too_large"), Proposed(2, 3), Proposed(2, 4), Refused("overloaded")]


def test_a_follower_gets_no_more_than_its_window() -> None:
    group = Group(settings=RaftSettings(inflight_messages_max=3, append_bytes_max=1), elect="a")
    for number in range(10):
        group.nodes["a"].propose(b"%d" % number, now=0.0)
    group.pump("a")
    to_b = [message for _, to, message in group.wires if to == "b"]
    group.settle()

    assert len(to_b) == 3
    assert len(group.payloads("b")) == 10


def test_own_lag_above_200_ms_stretches_the_own_time_out_by_at_most_three_seconds() -> None:
    raft = Group().nodes["a"]
    plain = raft.next_deadline()
    deadlines = []
    for lag_s in (0.1, 0.2, 0.7, 60.0, 0.0):
        raft.lagged(lag_s)
        deadlines.append(raft.next_deadline())

    assert deadlines == [plain, plain, plain + 0.7, plain + 3.0, plain]


def test_a_queued_heartbeat_read_before_the_timers_prevents_an_election() -> None:
    group = Group(elect="a")
    raft = group.nodes["b"]
    raft.receive("a", Heartbeat(2, 2, 1), now=9.0)
    raft.tick(now=9.0)

    assert (raft.role, raft.leader) == (Role.FOLLOWER, "a")


def test_a_lost_stream_is_found_by_the_heartbeat_answer() -> None:
    group = Group(elect="a")
    group.nodes["a"].propose(b"x", now=0.0)
    group.pump("a")
    group.wires.clear()
    group.pass_time(0.5)

    assert group.payloads("b") == group.payloads("c") == [b"x"]


def test_a_learner_that_joins_an_idle_group_gets_the_log_at_once() -> None:
    group = Group("ab", spares="c", elect="a")
    group.nodes["a"].propose_configuration(Configuration(("a", "b"), ("c",)), now=0.0)
    group.settle()

    assert group.disks["c"].entries == group.disks["a"].entries
    assert group.nodes["c"].commit == 3


def test_a_bootstrap_is_ignored_by_a_node_that_recovered_something() -> None:
    group = Group(elect="a")
    group.crash("a")
    group.bootstrap = Configuration(("a",))
    group.start("a")

    assert group.nodes["a"].configuration == Configuration(("a", "b", "c"))
