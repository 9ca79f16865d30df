"""A ReadIndex that nobody else need confirm: that of a leader which is the only voter."""

from __future__ import annotations

from ringkeep_node.machines.raft import Configuration
from ringkeep_testing.raft_group import Group


def test_a_sole_voter_that_leads_knows_a_confirmed_index_without_asking() -> None:
    group = Group("a", elect="a")
    group.nodes["a"].propose(b"x", now=group.now)
    group.settle()

    assert group.nodes["a"].own_index() == group.applied["a"][-1].index


def test_a_sole_voter_knows_no_index_before_an_entry_of_its_term_is_on_its_disk() -> None:
    group = Group("a", elect="a")
    group.nodes["a"].propose(b"x", now=group.now)
    group.settle()
    group.start("a")
    idle = group.nodes["a"].own_index()
    group.slow = {"a"}
    group.nodes["a"].campaign(now=group.now)
    group.settle()
    group.sync("a")
    leads, early = group.nodes["a"].role.name, group.nodes["a"].own_index()
    group.settle()
    group.sync("a")

    assert (idle, leads, early) == (None, "LEADER", None)
    assert group.nodes["a"].own_index() == group.nodes["a"].last_index


def test_a_leader_that_others_vote_with_asks_them() -> None:
    group = Group("abc", elect="a")

    assert [node.own_index() for node in group.nodes.values()] == [None, None, None]


def test_a_voter_that_is_being_added_counts_from_the_entry_that_adds_it() -> None:
    group = Group("a", elect="a", spares="b")
    leader = group.nodes["a"]
    leader.propose_configuration(Configuration(("a",), ("b",)), now=group.now)
    group.settle()
    with_learner = leader.own_index()
    leader.propose_configuration(Configuration(("a", "b")), now=group.now)

    assert (with_learner is not None, leader.own_index()) == (True, None)
