"""The Raft paper and thesis, statement by statement. Each test names its section."""

from __future__ import annotations

import pytest

from ringkeep_node.machines.raft import (
    NOOP,
    NORMAL,
    AppendAnswer,
    AppendEntries,
    Configuration,
    Entry,
    HardState,
    Heartbeat,
    HeartbeatAnswer,
    InstallSnapshot,
    NotLeader,
    Proposed,
    Raft,
    RaftSettings,
    Recovered,
    Refused,
    RequestVote,
    Role,
    Snapshot,
    TimeoutNow,
    VoteAnswer,
    encode_configuration,
)
from ringkeep_testing.raft_disk import report
from ringkeep_testing.raft_group import Group

ABC = Configuration(("a", "b", "c"))


def entries(*terms: int) -> tuple[Entry, ...]:
    """Return a log with these terms; its first entry makes a, b and c the voters."""
    first = Entry(terms[0], 1, 2, encode_configuration(ABC))
    return (first, *(Entry(term, index, NORMAL, b"%d" % term) for index, term in enumerate(terms[1:], 2)))


def node(*terms: int, term: int | None = None, vote: str | None = None, me: str = "a", at: float = 0.5) -> Raft:
    """Return a node whose disk holds such a log."""
    log = entries(*terms)
    hard_state = HardState(log[-1].term if term is None else term, vote)
    return Raft(me=me, recovered=Recovered(hard_state, None, log), settings=RaftSettings(), draw=lambda: at, now=0.0)


def finish(raft: Raft) -> list[object]:
    """Let the disk finish; return everything that was sent."""
    sent: list[object] = []
    while step := raft.take_step():
        report(raft, step, now=0.0)
        sent += [(send.to, send.message) for send in step.send + step.send_synced]
    return sent


# 5.1


@pytest.mark.parametrize("role", list(Role))
def test_a_higher_term_in_a_members_message_makes_anybody_a_follower_5_1(role: Role) -> None:
    group = Group(elect="b" if role is Role.FOLLOWER else "a")
    raft = group.nodes["a"]
    if role is Role.PRE_CANDIDATE:
        raft = node(1)
        raft.tick(now=1.0)
    if role is Role.CANDIDATE:
        raft = node(1)
        raft.campaign(now=1.0)
    assert raft.role is role
    raft.receive("c", AppendEntries(9, 0, 0, 0), now=0.1)

    assert (raft.role, raft.term, raft.leader) == (Role.FOLLOWER, 9, "c")


def test_a_message_of_an_older_term_is_refused_with_the_newer_one_5_1() -> None:
    raft = node(1, 3)
    raft.receive("b", AppendEntries(2, 2, 3, 2), now=0.0)
    raft.receive("b", RequestVote(2, 9, 9), now=0.0)
    raft.receive("b", Heartbeat(2, 2, 7), now=0.0)

    assert finish(raft) == [("b", AppendAnswer(3, False, 2)), ("b", VoteAnswer(3, False)), ("b", HeartbeatAnswer(3, 7))]
    assert (raft.term, raft.leader, raft.commit) == (3, None, 0)


# 5.2


def test_everybody_starts_as_follower_5_2() -> None:
    assert node(1).role is Role.FOLLOWER


def test_a_leader_sends_heartbeats_at_its_interval_5_2() -> None:
    group = Group(elect="a")
    group.now = 0.1
    group.nodes["a"].tick(now=0.1)
    group.pump("a")

    assert group.wires == [("a", "b", Heartbeat(2, 2, 1)), ("a", "c", Heartbeat(2, 2, 1))]


def test_silence_makes_a_follower_ask_before_it_raises_its_term_5_2_and_9_6() -> None:
    raft = node(1, at=0.0)
    raft.tick(now=0.499)
    early = raft.role
    raft.tick(now=0.5)
    step = raft.take_step()

    assert early is Role.FOLLOWER
    assert (raft.role, raft.term, step.hard_state) == (Role.PRE_CANDIDATE, 1, None)
    assert [(send.to, send.message) for send in step.send] == [
        ("b", RequestVote(2, 1, 1, True)),
        ("c", RequestVote(2, 1, 1, True)),
    ]


def test_a_candidate_votes_for_itself_and_asks_everybody_only_when_that_is_durable_5_2() -> None:
    raft = node(1)
    raft.campaign(now=0.0)
    step = raft.take_step()

    assert (raft.role, raft.term, step.hard_state, step.send) == (Role.CANDIDATE, 2, HardState(2, "a"), ())
    assert [(send.to, send.message) for send in step.send_synced] == [
        ("b", RequestVote(2, 1, 1)),
        ("c", RequestVote(2, 1, 1)),
    ]


@pytest.mark.parametrize(
    ("voters", "votes", "role"),
    [
        ("a", {}, Role.LEADER),
        ("abc", {"b": True}, Role.LEADER),
        ("abc", {"b": True, "c": True}, Role.LEADER),
        ("abc", {"b": False, "c": False}, Role.FOLLOWER),
        ("abc", {"b": False}, Role.CANDIDATE),
        ("abc", {}, Role.CANDIDATE),
        ("abcde", {"b": True, "c": True}, Role.LEADER),
        ("abcde", {"b": True}, Role.CANDIDATE),
        ("abcde", {"b": False, "c": False, "d": False}, Role.FOLLOWER),
        ("abcd", {"b": True}, Role.CANDIDATE),
        ("abcd", {"b": False, "c": False}, Role.FOLLOWER),
    ],
)
def test_a_majority_decides_an_election_5_2(voters: str, votes: dict[str, bool], role: Role) -> None:
    raft = Group(voters).nodes["a"]
    raft.campaign(now=0.0)
    finish(raft)
    for voter, granted in votes.items():
        raft.receive(voter, VoteAnswer(2, granted), now=0.0)

    assert raft.role is role


def test_the_vote_of_one_node_counts_once_and_that_of_a_stranger_never_5_2() -> None:
    raft = Group("abcde").nodes["a"]
    raft.campaign(now=0.0)
    finish(raft)
    for voter in ("b", "b", "x", "y", "z"):
        raft.receive(voter, VoteAnswer(2, True), now=0.0)

    assert raft.role is Role.CANDIDATE


def test_a_node_gives_one_vote_a_term_and_repeats_it_5_2() -> None:
    raft = node(1)
    raft.receive("b", RequestVote(2, 1, 1), now=0.0)
    raft.receive("c", RequestVote(2, 1, 1), now=0.0)
    raft.receive("b", RequestVote(2, 1, 1), now=0.0)

    assert finish(raft) == [("b", VoteAnswer(2, True)), ("c", VoteAnswer(2, False)), ("b", VoteAnswer(2, True))]


def test_a_vote_survives_a_restart_5_2() -> None:
    group = Group()
    group.nodes["a"].receive("b", RequestVote(2, 1, 1), now=0.0)
    group.pump("a")
    group.crash("a")
    group.start("a")
    group.wires.clear()
    group.nodes["a"].receive("c", RequestVote(2, 1, 1), now=0.0)
    group.pump("a")

    assert group.wires == [("a", "c", VoteAnswer(2, False))]


def test_a_vote_leaves_only_when_it_is_durable_5_2() -> None:
    raft = node(1)
    raft.receive("b", RequestVote(2, 1, 1), now=0.0)
    step = raft.take_step()

    assert (step.hard_state, step.send) == (HardState(2, "b"), ())
    assert [(send.to, send.message) for send in step.send_synced] == [("b", VoteAnswer(2, True))]


def test_a_candidate_that_hears_the_leader_of_its_term_follows_5_2() -> None:
    raft = node(1)
    raft.campaign(now=0.0)
    raft.receive("b", Heartbeat(2, 0, 1), now=0.0)

    assert (raft.role, raft.term, raft.leader) == (Role.FOLLOWER, 2, "b")


def test_election_time_outs_are_spread_over_the_whole_range_5_2() -> None:
    deadlines = [node(1, at=draw).next_deadline() for draw in (0.0, 0.25, 0.5, 0.999)]

    assert deadlines == [0.5, 0.625, 0.75, 0.9995]


# 5.3


def test_a_proposal_is_appended_sent_committed_and_announced_at_once_5_3() -> None:
    group = Group(elect="a")
    answer = group.nodes["a"].propose(b"x", now=0.0)
    group.settle()

    assert answer == Proposed(2, 3)
    assert {name: group.payloads(name) for name in "abc"} == {"a": [b"x"], "b": [b"x"], "c": [b"x"]}


@pytest.mark.parametrize(
    ("voters", "holders", "commits"),
    [
        ("a", "", True),
        ("abc", "", False),
        ("abc", "b", True),
        ("abcde", "b", False),
        ("abcde", "bc", True),
        ("abcd", "b", False),
        ("abcd", "bc", True),
    ],
)
def test_an_entry_commits_when_a_majority_holds_it_5_3(voters: str, holders: str, commits: bool) -> None:
    group = Group(voters, elect="a")
    before = group.nodes["a"].commit
    group.cut = set(voters) - {"a", *holders}
    group.nodes["a"].propose(b"x", now=0.0)
    group.settle()

    assert (group.nodes["a"].commit > before) is commits


@pytest.mark.parametrize(
    ("previous", "granted", "hint"),
    [((1, 1), True, (0, 0)), ((3, 2), True, (0, 0)), ((3, 3), False, (3, 2)), ((4, 4), False, (3, 2))],
)
def test_a_follower_takes_entries_only_after_one_it_holds_5_3(
    previous: tuple[int, int], granted: bool, hint: tuple[int, int]
) -> None:
    raft = node(1, 2, 2)
    raft.receive("b", AppendEntries(4, previous[0], previous[1], 0), now=0.0)
    sent = finish(raft)

    assert sent == [("b", AppendAnswer(4, granted, previous[0], *hint))]


@pytest.mark.parametrize(
    ("held", "previous", "sent", "after"),
    [
        ((1, 1, 1), 3, (2,), (1, 1, 1, 2)),
        ((1, 1, 1), 1, (2, 2), (1, 2, 2)),
        ((1, 1, 1), 1, (1,), (1, 1, 1)),
        ((1, 1, 1), 1, (1, 1, 2), (1, 1, 1, 2)),
        ((1, 1, 2), 1, (1, 3), (1, 1, 3)),
        ((1, 1, 1), 2, (), (1, 1, 1)),
    ],
)
def test_a_conflicting_entry_goes_with_all_behind_it_and_nothing_else_does_5_3(
    held: tuple[int, ...], previous: int, sent: tuple[int, ...], after: tuple[int, ...]
) -> None:
    raft = node(*held)
    leader = tuple(Entry(term, previous + 1 + at, NORMAL, b"%d" % term) for at, term in enumerate(sent))
    raft.receive("b", AppendEntries(4, previous, held[previous - 1], 0, leader), now=0.0)

    assert tuple(raft.term_at(index) for index in range(1, raft.last_index + 1)) == after


@pytest.mark.parametrize(
    "terms",
    [
        (1, 1, 1, 4, 4, 5, 5, 6, 6),
        (1, 1, 1, 4),
        (1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 6),
        (1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 7, 7),
        (1, 1, 1, 4, 4, 4, 4),
        (1, 1, 1, 2, 2, 2, 3, 3, 3, 3, 3),
    ],
)
def test_the_leader_of_figure_7_makes_every_log_its_own(terms: tuple[int, ...]) -> None:
    group = Group("abc")
    group.disks["a"] = Recovered(HardState(7, None), None, entries(1, 1, 1, 4, 4, 5, 5, 6, 6, 6))
    group.disks["b"] = Recovered(HardState(7, None), None, entries(*terms))
    group.disks["c"] = Recovered(HardState(7, None), None, entries(1))
    for name in "abc":
        group.start(name)
    group.nodes["a"].campaign(now=0.0)
    group.settle()

    assert group.nodes["a"].role is Role.LEADER
    assert group.disks["b"].entries == group.disks["a"].entries == group.disks["c"].entries
    assert [entry.term for entry in group.applied["b"]] == [1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 8]


def test_logs_meet_in_as_many_refusals_as_they_differ_in_terms_5_3() -> None:
    group = Group("ab")
    group.disks["a"] = Recovered(HardState(9, None), None, entries(1, *[2] * 300, *[7] * 300))
    group.disks["b"] = Recovered(HardState(9, None), None, entries(1, *[2] * 100, *[4] * 300))
    for name in "ab":
        group.start(name)
    group.nodes["a"].campaign(now=0.0)
    group.pump("a")
    refusals = 0
    while group.wires:
        refusals += sum(isinstance(m, AppendAnswer) and not m.success for _, _, m in group.wires)
        group.deliver()

    assert refusals == 2
    assert group.disks["b"].entries == group.disks["a"].entries


# 5.4


@pytest.mark.parametrize(
    ("theirs", "granted"), [((2, 3), True), ((2, 4), True), ((3, 1), True), ((2, 2), False), ((1, 9), False)]
)
def test_a_vote_goes_only_to_a_log_at_least_as_new_5_4_1(theirs: tuple[int, int], granted: bool) -> None:
    raft = node(1, 2, 2)
    raft.receive("b", RequestVote(5, theirs[1], theirs[0]), now=0.0)

    assert finish(raft) == [("b", VoteAnswer(5, granted))]


def test_entries_of_earlier_terms_commit_only_with_one_of_the_own_figure_8() -> None:
    group = Group("abc", settings=RaftSettings(append_bytes_max=1))
    group.disks["a"] = Recovered(HardState(3, None), None, entries(1, 2))
    for name in "abc":
        group.start(name)
    raft = group.nodes["a"]
    raft.campaign(now=0.0)
    finish(raft)
    raft.receive("b", VoteAnswer(4, True), now=0.0)
    finish(raft)
    raft.receive("b", AppendAnswer(4, True, 2), now=0.0)
    old_term_on_a_majority = raft.commit
    raft.receive("b", AppendAnswer(4, True, 3), now=0.0)

    assert (old_term_on_a_majority, raft.commit) == (0, 3)


def test_a_new_leader_appends_an_empty_entry_of_its_term_8() -> None:
    group = Group(elect="a")

    assert [(entry.term, entry.kind) for entry in group.applied["b"]] == [(1, 2), (2, NOOP)]


# 6 and thesis 4


def test_only_the_leader_takes_proposals_6() -> None:
    group = Group(elect="a")

    assert group.nodes["b"].propose(b"x", now=0.0) == NotLeader("a")
    assert group.nodes["b"].propose_configuration(ABC, now=0.0) == NotLeader("a")


def test_a_learner_receives_everything_and_never_counts_thesis_4_2_1() -> None:
    group = Group("ab", spares="c", elect="a")
    group.nodes["a"].propose_configuration(Configuration(("a", "b"), ("c",)), now=0.0)
    group.settle()
    group.cut = {"b"}
    group.nodes["a"].propose(b"x", now=0.0)
    group.settle()

    assert (group.nodes["c"].last_index, group.nodes["a"].commit, group.nodes["c"].commit) == (4, 3, 3)


@pytest.mark.parametrize(
    ("after", "reason"),
    [
        (Configuration(()), "no_voters"),
        (ABC, "unchanged"),
        (Configuration(("a",)), "more_than_one_voter"),
        (Configuration(("a", "b", "c", "d")), "not_a_learner"),
        (Configuration(("a", "b"), ("b", "c")), "twice_named"),
    ],
)
def test_an_unsafe_change_is_refused_thesis_4_1(after: Configuration, reason: str) -> None:
    group = Group(elect="a")

    assert group.nodes["a"].propose_configuration(after, now=0.0) == Refused(reason)


def test_a_change_needs_a_commit_of_the_own_term_and_no_other_change_under_way_2015_fix() -> None:
    group = Group(elect="a")
    group.cut = {"b", "c"}
    first = group.nodes["a"].propose_configuration(Configuration(("a", "b"), ("c",)), now=0.0)
    second = group.nodes["a"].propose_configuration(ABC, now=0.0)
    fresh = node(1)
    fresh.campaign(now=0.0)
    finish(fresh)
    fresh.receive("b", VoteAnswer(2, True), now=0.0)

    assert (first, second) == (Proposed(2, 3), Refused("in_progress"))
    assert fresh.propose_configuration(Configuration(("a", "b"), ("c",)), now=0.0) == Refused("not_ready")


def test_a_learner_that_is_behind_does_not_become_a_voter_thesis_4_2_1() -> None:
    group = Group("ab", spares="c", elect="a")
    group.cut = {"c"}
    group.nodes["a"].propose_configuration(Configuration(("a", "b"), ("c",)), now=0.0)
    group.settle()

    assert group.nodes["a"].propose_configuration(ABC, now=0.0) == Refused("not_caught_up")


def test_a_configuration_counts_from_its_append_and_falls_with_truncation_6() -> None:
    group = Group(elect="a")
    group.cut = {"b", "c"}
    group.nodes["a"].propose_configuration(Configuration(("a", "b"), ("c",)), now=0.0)
    group.settle()
    appended = group.nodes["a"].configuration
    group.cut = set()
    group.nodes["b"].campaign(now=0.0, transfer=True)
    group.settle()

    assert appended == Configuration(("a", "b"), ("c",))
    assert group.nodes["a"].configuration == ABC


def test_a_removed_leader_steps_down_when_its_removal_is_committed_thesis_4_2_2() -> None:
    group = Group(elect="a")
    group.nodes["a"].propose_configuration(Configuration(("b", "c")), now=0.0)
    before = group.nodes["a"].role
    group.settle()

    assert (before, group.nodes["a"].role) == (Role.LEADER, Role.FOLLOWER)
    assert group.leader() in ("b", "c")


def test_a_learner_that_the_candidate_calls_a_voter_votes_thesis_4_2_1() -> None:
    group = Group("ab", spares="c")
    group.nodes["c"].receive("a", RequestVote(2, 1, 1), now=0.0)
    group.pump("c")

    assert group.wires == [("c", "a", VoteAnswer(2, True))]


def test_a_node_whose_own_uncommitted_change_removes_it_still_stands_thesis_4_2_2() -> None:
    group = Group("ab", elect="a")
    group.cut = {"b"}
    group.nodes["a"].propose_configuration(Configuration(("b",)), now=0.0)
    group.settle()
    group.crash("a")
    group.start("a")
    group.cut = set()
    group.pass_time(5.0)

    assert group.nodes["b"].configuration == Configuration(("b",))
    assert group.leader() == "b"


# Thesis 3.10


def test_a_transfer_lets_a_caught_up_voter_win_at_once_thesis_3_10() -> None:
    group = Group(elect="a")
    taken = group.nodes["a"].transfer_leadership("b", now=0.0)
    refused = group.nodes["a"].propose(b"x", now=0.0)
    group.settle()

    assert (taken, refused, group.leader(), group.nodes["b"].term) == (True, Refused("transferring"), "b", 3)


@pytest.mark.parametrize("to", ["a", "x"])
def test_a_transfer_to_itself_or_a_stranger_is_refused_thesis_3_10(to: str) -> None:
    group = Group(elect="a")

    assert not group.nodes["a"].transfer_leadership(to, now=0.0)
    assert isinstance(group.nodes["a"].propose(b"x", now=0.0), Proposed)


def test_a_transfer_waits_for_a_slow_voter_and_ends_after_a_while_thesis_3_10() -> None:
    group = Group(elect="a")
    group.cut = {"b"}
    group.nodes["a"].propose(b"x", now=0.0)
    group.settle()
    group.nodes["a"].transfer_leadership("b", now=0.0)
    waiting = group.nodes["a"].propose(b"y", now=0.0)
    group.pass_time(0.6)

    assert waiting == Refused("transferring")
    assert isinstance(group.nodes["a"].propose(b"y", now=group.now), Proposed)
    assert group.leader() == "a"


def test_a_leader_that_must_resign_steps_down_even_if_nobody_takes_over() -> None:
    group = Group(elect="a")
    group.cut = {"a"}
    group.nodes["a"].set_electable(False)
    resigned = group.nodes["a"].step_down(now=0.0)
    group.pass_time(0.6)

    assert (resigned, group.nodes["a"].role) == (True, Role.FOLLOWER)


def test_a_learner_ignores_a_request_to_stand_thesis_3_10() -> None:
    raft = node(1, me="x")
    raft.receive("a", TimeoutNow(1), now=0.0)

    assert raft.role is Role.FOLLOWER


# Thesis 9.6 and 6.2


def test_who_hears_a_leader_votes_for_nobody_else_thesis_4_2_3() -> None:
    group = Group(elect="a")
    group.nodes["b"].receive("c", RequestVote(9, 9, 9), now=0.4)
    group.nodes["b"].receive("c", RequestVote(9, 9, 9, True), now=0.4)
    group.pump("b")

    assert group.wires == [("b", "c", VoteAnswer(2, False, True))]
    assert group.nodes["b"].term == 2


def test_a_node_that_was_cut_off_does_not_disturb_when_it_comes_back_thesis_9_6() -> None:
    group = Group(elect="a")
    group.cut = {"c"}
    group.pass_time(10.0)
    group.cut = set()
    group.pass_time(2.0)

    assert (group.leader(), [raft.term for raft in group.nodes.values()]) == ("a", [2, 2, 2])


def test_a_leader_without_a_quorum_steps_down_thesis_6_2() -> None:
    group = Group(elect="a")
    group.cut = {"a"}
    group.pass_time(1.2)

    assert group.nodes["a"].role is not Role.LEADER


def test_a_node_stuck_in_a_higher_term_pulls_the_group_up() -> None:
    group = Group(elect="a")
    group.crash("c")
    group.disks["c"] = Recovered(HardState(7, "c"), None, group.disks["c"].entries)
    group.start("c")
    group.pass_time(5.0)

    leader = group.leader()
    assert leader is not None and group.nodes[leader].term > 7
    assert len({raft.commit for raft in group.nodes.values()}) == 1


# 7


def test_a_follower_behind_the_tail_gets_a_snapshot_in_chunks_and_then_the_log_7() -> None:
    group = Group("abc", settings=RaftSettings(tail_entries=0, snapshot_chunk_bytes=3), elect="a")
    group.cut = {"c"}
    for number in range(5):
        group.nodes["a"].propose(b"%d%d" % (number, number), now=0.0)
        group.settle()
    group.compact("a")
    group.cut = set()
    group.pass_time(1.0)
    group.nodes["a"].propose(b"x", now=group.now)
    group.settle()

    assert group.disks["c"].snapshot == Snapshot(7, 2, ABC, b"0011223344")
    assert group.payloads("c") == [b"x"]


def test_a_snapshot_of_what_is_held_already_changes_nothing_7() -> None:
    group = Group(elect="a")
    group.nodes["b"].receive("a", InstallSnapshot(2, 2, 2, ABC, 1, 0, 0, b"x"), now=0.0)
    group.pump("b")

    assert group.wires == [("b", "a", AppendAnswer(2, True, 2))]
    assert group.nodes["b"].snapshot is None
