"""The control plane: proposals with one outcome, ReadIndex from anywhere, maps that count when they are on disk."""

from __future__ import annotations

import pytest

from ringkeep_core.mapchanges import ShardChanges, Touch, encode_change
from ringkeep_core.shardmap import encode_map
from ringkeep_node.machines import control as control_module
from ringkeep_node.machines.control import (
    INDEX_RETRY_S,
    PROPOSAL_RETRY_S,
    PULL_RETRY_S,
    Control,
    encode_snapshot,
    first_snapshot,
    recovered_raft,
)
from ringkeep_node.machines.gathering import GATHER_S
from ringkeep_node.machines.messages import (
    IndexAnswer,
    IndexAsk,
    MapEntries,
    MapPull,
    Propose,
    ProposeOutcome,
)
from ringkeep_node.machines.raft.machine import Raft
from ringkeep_node.machines.raft.messages import RequestVote, VoteAnswer
from ringkeep_node.machines.raft.settings import RaftSettings
from ringkeep_node.machines.records import Kind
from ringkeep_testing.control_group import ControlGroup, Site, boot, encoded, map_of, storage_of, touch


def propose(group: ControlGroup, site: Site, revision: int = 1, shard: int = 0, deadline_s: float = 5.0) -> int:
    return site.control.propose_tracked(touch(shard, revision), deadline=group.now + deadline_s, now=group.now)


def sent(control: Control, kind: type) -> list[tuple[str, object]]:
    return [(to, message) for to, message in control.sends if type(message) is kind]


# --- proposals ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("proposer", [1, 2, 3, 4])
def test_a_proposal_from_any_node_is_applied_and_its_origin_told_the_version(proposer: int) -> None:
    group = ControlGroup(3, 1)
    group.leader()
    site = group.sites[storage_of(proposer)]

    number = propose(group, site)
    group.run(0.5)

    leader = group.leader()
    assert site.outcomes[number] == ProposeOutcome(number, leader.map.version, "", "")
    assert leader.map.shards[0].revision == 2


def test_a_proposal_that_the_map_refuses_is_told_why() -> None:
    group = ControlGroup(3)
    site = group.others_than(group.leader())[0]

    number = propose(group, site, revision=9)
    group.run(0.5)

    assert site.outcomes[number].code != "" and site.outcomes[number].detail != ""


def test_a_proposal_that_never_left_its_node_is_told_no_primary_at_its_deadline_and_not_before() -> None:
    group = ControlGroup(3)
    site = group.others_than(group.leader())[0]
    group.offline = set(group.sites)
    site.control._is_linked = lambda _storage: False

    number = propose(group, site, deadline_s=1.0)
    group.run(0.9)
    before = dict(site.outcomes)
    group.run(0.2)

    assert (before, site.outcomes[number].code) == ({}, "no_primary")


@pytest.mark.parametrize("leads", [True, False])
def test_a_proposal_that_was_appended_or_sent_has_an_unknown_outcome_at_its_deadline(leads: bool) -> None:
    """Its entry may be committed later: "certainly not applied" would be a lie."""
    group = ControlGroup(5)
    leader = group.leader()
    site = leader if leads else group.others_than(leader)[0]
    group.offline = {it.storage for it in group.others_than(leader)} - {site.storage}
    number = propose(group, site, deadline_s=0.2)
    group.run(0.3)
    told = site.outcomes[number].code
    group.offline = set()
    group.run(2.0)

    assert (told, leader.map.shards[0].revision) == ("outcome_unknown", 2)


def test_a_proposal_that_was_sent_once_stays_unknown_when_nobody_can_be_asked_again() -> None:
    group = ControlGroup(3)
    site = group.others_than(group.leader())[0]
    group.offline = set(group.sites)

    number = propose(group, site, deadline_s=2.0)
    site.control._is_linked = lambda _storage: False
    group.run(2.1)

    assert site.outcomes[number].code == "outcome_unknown"


def test_a_proposal_whose_message_was_lost_is_sent_again_and_applied_once() -> None:
    group = ControlGroup(3)
    leader = group.leader()
    site = group.others_than(leader)[0]
    group.offline = {site.storage}
    number = propose(group, site)
    group.run(0.05)
    group.offline = set()

    group.run(2 * PROPOSAL_RETRY_S)

    assert site.outcomes[number].code in ("", "stale_revision") and leader.map.shards[0].revision == 2


def test_a_proposal_sent_again_is_not_refused_for_its_own_success() -> None:
    group = ControlGroup(3)
    leader = group.leader()
    site = group.others_than(leader)[0]
    number = propose(group, site)
    again = Propose(number, encode_change(touch(0, 1)), 1)
    for _ in range(2):  # While the first is under way, and when it has been applied.
        leader.control.node_message(site.storage, again, leader.number, now=group.now)
        group.run(0.1)
    answers = [message for _, message in leader.control.sends]
    entries = [record for record in leader.log if record.kind == Kind.RAFT_ENTRY and b"touch" in record.payload]

    assert (site.outcomes[number].code, len(entries), answers) == ("", 1, [])
    assert leader.map.shards[0].revision == 2


def test_a_node_that_knows_no_leader_proposes_through_any_member_and_is_told_the_outcome() -> None:
    group = ControlGroup(3, 1)
    leader = group.leader()
    site = group.sites[storage_of(4)]
    site.hint = None

    number = propose(group, site)
    group.run(3 * PROPOSAL_RETRY_S)

    assert site.outcomes[number].version == leader.map.version


def test_a_node_without_a_link_to_the_leader_proposes_through_others() -> None:
    group = ControlGroup(3, 1)
    leader = group.leader()
    site = group.sites[storage_of(4)]
    site.control._is_linked = lambda storage: storage != leader.storage

    site.control.propose(touch(0, 1), now=group.now)

    ((to, message),) = sent(site.control, Propose)
    group.exchange()
    assert to != leader.storage and isinstance(message, Propose) and leader.map.shards[0].revision == 2


def test_a_proposal_is_passed_on_a_bounded_number_of_times() -> None:
    group = ControlGroup(3)
    leader = group.leader()
    follower, other = group.others_than(leader)

    follower.control.node_message(other.storage, Propose(0, b"", 1), 1, now=group.now)
    refused = [message for _, message in sent(follower.control, ProposeOutcome)]
    follower.control.node_message(other.storage, propose_message(2), 1, now=group.now)

    assert [getattr(message, "code", "") for message in refused] == ["bad_request"]
    assert sent(follower.control, Propose) == []


def propose_message(hops: int) -> Propose:
    return Propose(0, encode_change(touch(0, 1)), hops)


def test_numbers_start_where_no_earlier_boot_counted() -> None:
    earlier, later = ControlGroup(1, 1), ControlGroup(1, 1)
    sites = (
        Site(earlier, 2, votes=False, first_number=(1 << 32) + 1),
        Site(later, 2, votes=False, first_number=(2 << 32) + 1),
    )

    first, second = (site.control.propose_tracked(touch(0, 1), deadline=200.0, now=100.0) for site in sites)
    sites[1].control.node_message(
        storage_of(1), ProposeOutcome(first, 7, "rolled_back", "of the boot before"), 1, now=100.0
    )

    assert first != second and sites[1].control.outcomes == []


def test_a_second_leader_s_entry_at_the_same_index_settles_no_proposal() -> None:
    group = ControlGroup(3)
    leader = group.leader()
    group.offline = {leader.storage}
    number = propose(group, leader)
    survivors = group.others_than(leader)
    group.run(2.5)
    new = next(site for site in survivors if site.control.leads)
    new.control.propose(boot(1, 2), now=group.now)
    group.run(0.5)
    group.offline = set()
    for site in group.sites.values():
        site.hint = new.storage
    group.run(1.0)

    # The entry of the old term is gone; the origin proposed again, and only that settled it.
    assert leader.outcomes[number].code == "" and new.map.shards[0].revision >= 2
    assert encoded(leader) == encoded(new)


# --- ReadIndex ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("asker", [1, 2, 3, 4])
def test_a_read_index_is_answered_to_any_node(asker: int) -> None:
    group = ControlGroup(3, 1)
    leader = group.leader()
    site = group.sites[storage_of(asker)]

    site.control.ask_index(7, deadline=group.now + 1.0, now=group.now)
    group.run(0.3)

    assert site.indexes == [(7, leader.control.raft.commit)]


def test_a_read_index_that_nobody_answers_fails_after_a_while() -> None:
    group = ControlGroup(3, 1)
    group.leader()
    site = group.sites[storage_of(4)]
    group.offline = {site.storage}

    site.control.ask_index(7, deadline=group.now + 1.0, now=group.now)
    group.run(INDEX_RETRY_S + 0.05)

    assert site.indexes == [(7, None)]


def test_a_deposed_leader_answers_no_read_index() -> None:
    group = ControlGroup(3, 1)
    leader = group.leader()
    site = group.sites[storage_of(4)]
    group.offline = {other.storage for other in group.others_than(leader) if other is not site}

    site.control.ask_index(7, deadline=group.now + 1.0, now=group.now)
    group.run(0.5)

    assert site.indexes == [(7, None)]


def test_an_index_asked_for_by_an_earlier_boot_answers_no_question_of_this_one() -> None:
    group = ControlGroup(1, 1)
    site = Site(group, 2, votes=False, first_number=2001)
    site.hint = storage_of(1)
    site.control.ask_index(1, deadline=101.0, now=100.0)
    ((_, asked),) = sent(site.control, IndexAsk)
    assert isinstance(asked, IndexAsk)

    site.control.node_message(storage_of(1), IndexAnswer(asked.token - 1000, 99), 1, now=100.0)
    early = list(site.control.indexes)
    site.control.node_message(storage_of(1), IndexAnswer(asked.token, 5), 1, now=100.0)

    assert (early, site.control.indexes) == ([], [(1, 5)])


# --- the map -----------------------------------------------------------------------------------------------------


def test_a_non_voter_acts_on_a_pulled_map_only_when_it_is_on_its_disk() -> None:
    group = ControlGroup(3, 1)
    leader = group.leader()
    site = group.sites[storage_of(4)]
    group.offline = {site.storage}
    propose(group, leader)
    group.run(0.3)
    group.offline, group.unsynced = set(), {site.storage}

    site.control.heard_of_newer(leader.storage, leader.map.index, now=group.now)
    group.exchange()
    before = site.map.index
    group.unsynced = set()
    group.exchange()

    assert (before, encoded(site)) == (1, encoded(leader))


def test_the_leader_sends_what_was_committed_to_members_that_do_not_vote_before_they_ask() -> None:
    group = ControlGroup(3, 2)
    leader = group.leader()
    learned = []
    for revision in (1, 2, 3):
        propose(group, leader, revision)
        group.exchange()
        learned.append([group.sites[storage_of(n)].map.shards[0].revision for n in (4, 5)])
    site = group.sites[storage_of(4)]
    site.control.heard_of_newer(leader.storage, leader.map.index, now=group.now)

    assert (learned, sent(site.control, MapPull)) == ([[2, 2], [3, 3], [4, 4]], [])


def test_a_member_that_missed_an_entry_takes_no_later_one_and_pulls() -> None:
    group = ControlGroup(3, 1)
    leader = group.leader()
    site = group.sites[storage_of(4)]
    group.offline = {site.storage}
    propose(group, leader, 1)
    group.exchange()
    group.offline = set()
    propose(group, leader, 2)
    group.exchange()
    behind = site.map.index
    site.control.heard_of_newer(leader.storage, leader.map.index, now=group.now)
    group.exchange()

    assert (behind, encoded(site)) == (1, encoded(leader))


def test_one_pull_is_under_way_at_a_time_and_none_for_what_is_held() -> None:
    group = ControlGroup(1, 1)
    site = Site(group, 2, votes=False)

    for _ in range(3):
        site.control.heard_of_newer(storage_of(1), 5, now=100.0)
    first = len(sent(site.control, MapPull))
    site.control.heard_of_newer(storage_of(1), 5, now=100.0 + PULL_RETRY_S)
    site.control.heard_of_newer(storage_of(1), 1, now=200.0)

    assert (first, len(sent(site.control, MapPull))) == (1, 2)


def test_a_voter_that_hears_a_leader_takes_no_pulled_entries_and_pulls_none() -> None:
    group = ControlGroup(3)
    site = group.others_than(group.leader())[0]

    site.control.heard_of_newer(storage_of(1), 99, now=group.now)
    site.control.node_message(storage_of(1), MapEntries(1, (), 99), site.number, now=group.now)

    assert (sent(site.control, MapPull), site.control.held.through < 99) == ([], True)


def test_a_voter_that_hears_no_leader_learns_the_map_by_entries_from_another_member() -> None:
    """It may have been removed while it was down: then it never hears a leader again, and every change must stay small."""
    group = ControlGroup(3, 1)
    leader = group.leader()
    cut_off = group.others_than(leader)[0]
    group.offline = {cut_off.storage}
    friend = group.sites[storage_of(4)]
    group.run(2.0)
    kinds, learned = [], []
    for revision in (1, 2):
        leader.control.propose(touch(0, revision), now=group.now)
        group.run(0.5)
        friend.control.heard_of_newer(leader.storage, leader.map.index, now=group.now)
        group.exchange()
        written = len(cut_off.log)
        cut_off.control.heard_of_newer(friend.storage, leader.map.index, now=group.now)
        ((_, pull),) = sent(cut_off.control, MapPull)
        cut_off.control.sends.clear()
        answer = friend.control.held.answer(getattr(pull, "after", -1))
        assert isinstance(answer, MapEntries)
        cut_off.control.node_message(friend.storage, answer, cut_off.number, now=group.now)
        group.exchange()
        kinds.append([it.kind for it in cut_off.log[written:] if it.kind in (Kind.MAP_SNAPSHOT, Kind.MAP_ENTRY)])
        learned.append(encoded(cut_off) == encode_map(leader.map))
    group.offline = set()
    group.run(2.0)

    assert kinds == [[Kind.MAP_SNAPSHOT, Kind.MAP_ENTRY], [Kind.MAP_ENTRY]]
    assert learned == [True, True] and encode_map(leader.map) == encoded(cut_off)


def test_a_member_that_pings_with_an_older_map_is_sent_what_it_lacks_but_voters_are_not() -> None:
    group = ControlGroup(3, 1)
    leader = group.leader()
    propose(group, leader)
    group.run(0.3)

    leader.control.bring_up_to_date(storage_of(4), 1)
    leader.control.bring_up_to_date(group.others_than(leader)[0].storage, 1)

    ((to, message),) = sent(leader.control, MapEntries)
    assert to == storage_of(4) and isinstance(message, MapEntries) and len(message.entries) == 1


def test_all_nodes_end_with_the_same_map() -> None:
    group = ControlGroup(3, 2)
    leader = group.leader()
    for revision in (1, 2, 3):
        propose(group, leader, revision)
        group.run(0.2)
    for site in group.others_than(leader):
        site.control.heard_of_newer(leader.storage, leader.map.index, now=group.now)
    group.run(0.2)

    assert {encoded(site) for site in group.sites.values()} == {encoded(leader)} and leader.map.shards[0].revision == 4


# --- the disk ----------------------------------------------------------------------------------------------------


def test_a_vote_leaves_only_when_it_is_on_disk() -> None:
    group = ControlGroup(3)
    site = group.sites[storage_of(1)]
    request = RequestVote(5, 10, 4, False, True)

    site.control.raft_message(storage_of(2), request, generation=1, now=group.now)
    site.control.collect(1, now=group.now)
    before = sent(site.control, VoteAnswer)
    site.control.synced(1, now=group.now)

    assert [record.kind for record in site.control.records] == [Kind.RAFT_STATE]
    assert (before, [to for to, _ in sent(site.control, VoteAnswer)]) == ([], [storage_of(2)])


def test_what_waits_for_no_record_leaves_at_once() -> None:
    group = ControlGroup(3)
    leader = group.leader()
    follower = group.others_than(leader)[0]
    group.unsynced = {follower.storage}

    leader.control.collect(leader.number, now=group.now)
    group.run(0.5)

    # Heartbeats need no disk: a follower that writes nothing is not taken for silent.
    assert leader.control.leads and follower.control.raft.leader == leader.storage


def test_after_many_entries_a_snapshot_is_written_and_the_log_forgets_when_it_is_on_disk(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(control_module, "COMPACT_AFTER_ENTRIES", 8)
    group = ControlGroup(1)
    leader = group.leader()
    for revision in range(1, 12):
        propose(group, leader, revision)
        group.run(0.05)

    snapshots = [record for record in leader.log if record.kind == Kind.RAFT_SNAPSHOT]
    assert snapshots and leader.control.snapshot_index == snapshots[-1].sn

    later = [record for record in leader.log if record.kind == Kind.RAFT_ENTRY and record.sn > snapshots[-1].sn]
    recovered, held = recovered_raft(2, None, snapshots[-1].payload, later)
    raft = Raft(me=storage_of(1), recovered=recovered, settings=RaftSettings(), draw=group.draw, now=group.now)
    again = Control(me=storage_of(1), raft=raft, held=held, leader_hint=lambda: None, complete_boot=lambda boot: boot)
    for number in range(1, 400):
        group.now += 0.02
        again.tick(now=group.now)
        again.collect(number, now=group.now)
        again.synced(number, now=group.now)

    assert again.held.map is not None and encode_map(again.held.map) == encoded(leader)


def test_the_first_snapshot_holds_the_first_map_and_voters() -> None:
    first = map_of(3)

    recovered, held = recovered_raft(0, None, encode_snapshot(first_snapshot(first, (storage_of(1),))), [])

    assert recovered.snapshot is not None and held.map is not None
    assert (recovered.snapshot.configuration.voters, encode_map(held.map)) == ((storage_of(1),), encode_map(first))


def test_a_node_whose_known_members_have_all_gone_asks_whoever_has_a_link_to_it() -> None:
    """Elastic seed 21000: a voter was down while the members of its map left, one after the other."""
    group = ControlGroup(3)
    site = group.sites[storage_of(1)]
    site.linked = False
    newcomer = storage_of(9)
    control = site.control
    control._linked = lambda: (storage_of(1), newcomer)

    control.look_around(now=group.now)
    number = propose(group, site)

    assert sent(control, MapPull) == [(newcomer, MapPull(1))]
    assert [(to, message.number) for to, message in sent(control, Propose) if isinstance(message, Propose)] == [
        (newcomer, number)
    ]


# --- what may wait -----------------------------------------------------------------------------------------------


def revisions(site: Site, shards: int = 3) -> list[int]:
    return [shard.revision for shard in site.map.shards[:shards]]


@pytest.mark.parametrize("proposer", [1, 2, 3, 4])
def test_the_first_change_that_may_wait_is_applied_at_once_and_the_next_ones_together_later(proposer: int) -> None:
    group = ControlGroup(3, 1)
    leader = group.leader()
    site = group.sites[storage_of(proposer)]
    site.control.propose(touch(0, 1), now=group.now, may_wait=True)
    group.run(0.5)
    first = revisions(leader)
    for shard in (1, 2):
        site.control.propose(touch(shard, 1), now=group.now, may_wait=True)
        group.run(0.2)
    held = revisions(leader)
    group.run(GATHER_S)
    entries = [record for record in leader.log if record.kind == Kind.RAFT_ENTRY and b"touch" in record.payload]

    assert (first, held, revisions(leader)) == ([2, 1, 1], [2, 1, 1], [2, 2, 2])
    assert len(entries) == 2


def test_an_urgent_change_goes_first_and_takes_with_it_what_waits() -> None:
    """The one that is to settle a proposal which is still held must win against it."""
    group = ControlGroup(3)
    leader = group.leader()
    leader.control.propose(touch(0, 1), now=group.now, may_wait=True)
    group.run(0.5)
    held = ShardChanges((Touch(1, 1), Touch(2, 1)), "held")
    leader.control.propose(held, now=group.now, may_wait=True)
    group.run(0.1)
    number = propose(group, leader, shard=1)
    group.run(0.1)

    assert leader.outcomes[number].code == ""
    assert revisions(leader) == [2, 2, 2]


def test_what_waits_with_a_leader_that_leads_no_longer_is_not_appended_and_can_be_asked_for_again() -> None:
    group = ControlGroup(3)
    first = group.leader()
    first.control.propose(touch(0, 1), now=group.now, may_wait=True)
    group.run(0.5)
    first.control.propose(touch(1, 1), now=group.now, may_wait=True)
    group.run(0.1)
    group.offline = {first.storage}
    group.run(3.0)
    second = next(it for it in group.others_than(first) if it.control.raft.leader == it.storage)
    group.offline = set()
    group.run(3.0)
    lost = revisions(second)
    second.control.propose(touch(1, 1), now=group.now, may_wait=True)
    group.run(0.5)

    assert (lost, revisions(second)) == ([2, 1, 1], [2, 2, 1])
    assert first.control.next_deadline() > group.now


def test_a_change_whose_outcome_is_wanted_never_waits() -> None:
    group = ControlGroup(3)
    leader = group.leader()
    leader.control.propose(touch(0, 1), now=group.now, may_wait=True)
    group.run(0.5)
    asked = Propose(7, encode_change(touch(1, 1)), 1, may_wait=True)
    leader.control.node_message(group.others_than(leader)[0].storage, asked, leader.number, now=group.now)
    group.run(0.1)

    assert revisions(leader) == [2, 2, 1]


def test_what_may_wait_may_wait_as_well_when_a_third_node_passes_it_on() -> None:
    group = ControlGroup(3, 1)
    leader = group.leader()
    between, site = group.others_than(leader)[0], group.sites[storage_of(4)]
    site.control._is_linked = lambda storage: storage == between.storage
    for shard in (0, 1):
        site.control.propose(touch(shard, 1), now=group.now, may_wait=True)
        group.run(0.3)
    held = revisions(leader)
    group.run(GATHER_S)

    assert (held, revisions(leader)) == ([2, 1, 1], [2, 2, 1])
