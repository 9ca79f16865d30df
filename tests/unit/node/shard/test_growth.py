"""How copies enter the awaited set and leave it (replication.md, rules 3 and 4)."""

from __future__ import annotations

from ringkeep_core.mapchanges import AddLearner, Boot, Grow, ShardChange, Shrink, Touch
from ringkeep_node.machines.gathering import GATHER_S
from ringkeep_node.machines.shard.effects import ReadLog, Stored
from ringkeep_node.machines.shard.messages import Ack, Append, SnapshotBegin
from ringkeep_node.machines.shard.settings import ReplicationSettings
from ringkeep_testing.maps import FIRST, shard
from ringkeep_testing.shard_bench import Bench, serving


def _bench(learners: str = "c", entries: int = 0, **fields: object) -> Bench:
    """Return a primary of "a b" with learners, and some committed entries behind its epoch start."""
    bench = serving(shard("a b", learners=learners), **fields)
    for number in range(entries):
        bench.write("v", key=f"k{number}")
    bench.ack("b")
    return bench


def _awaited(bench: Bench) -> list[str]:
    return [peer.storage for peer in bench.lead().awaited]


def _proposed(bench: Bench, kind: type[ShardChange]) -> list[ShardChange]:
    return [change for change in bench.proposals if isinstance(change, kind)]


GROW = Grow(0, 1, "c", "c-1", FIRST, 1, "a-1")


def test_a_level_learner_is_awaited_and_proposed_at_once() -> None:
    bench = _bench()
    bench.ack("c")

    assert (_awaited(bench), bench.proposals) == (["b", "c"], [GROW])
    assert sorted(bench.lead().confirmers) == ["b", "c"]


def _three(need: int = 1) -> Bench:
    """Return a primary of three shards of "a", of which "b" has three learners; nothing was written."""
    bench = Bench(*[shard("a", learners="b", need=need)] * 3)
    bench.up("b")
    bench.answer_index()
    bench.machine.tally.served_at = bench.now
    return bench


def _level(bench: Bench, number: int) -> None:
    last_sn = bench.lead(number).copy.log.last_sn
    bench.hear("b", Ack(number, FIRST, 1, last_sn))


def test_where_clients_are_served_a_level_copy_may_wait_for_others_and_is_asked_for_once_meanwhile() -> None:
    bench = _three()
    for number in range(3):
        _level(bench, number)
    bench.wait(GATHER_S)

    assert [change.shard for change in bench.may_wait] == [0, 1, 2]
    assert bench.proposals == bench.may_wait


def test_where_nobody_is_served_a_level_copy_does_not_wait() -> None:
    bench = _three()
    bench.wait(2.0)
    _level(bench, 0)

    assert ([change.shard for change in bench.proposals], bench.may_wait) == ([0], [])


def test_what_may_wait_is_asked_for_again_where_its_leader_lost_it() -> None:
    bench = _three()
    _level(bench, 0)
    bench.wait(10.0)

    assert len(bench.may_wait) >= 3 and set(bench.may_wait) == set(bench.may_wait[:1])


def test_a_copy_without_which_its_shard_takes_no_write_does_not_wait() -> None:
    bench = _three(need=2)
    for number in range(3):
        _level(bench, number)
        bench.wait(0.01)

    assert ([change.shard for change in bench.proposals], bench.may_wait) == ([0, 1, 2], [])


def test_a_learner_that_never_spoke_in_this_epoch_is_not_added() -> None:
    bench = _bench()
    bench.wait(0.09)

    assert (_awaited(bench), bench.proposals) == (["b"], [])


def test_a_learner_with_a_large_lag_is_not_awaited() -> None:
    bench = _bench(entries=70)
    bench.ack("c", sn=71 - 65)
    far = _awaited(bench)
    bench.ack("c", sn=71 - 64)

    assert (far, _awaited(bench), bench.proposals) == (["b"], ["b", "c"], [])


def test_it_is_proposed_when_it_has_what_was_there_before_it_was_added() -> None:
    bench = _bench(entries=9)
    bench.ack("c", sn=2)
    bench.write("later")
    bench.ack("c", sn=9)
    before = list(bench.proposals)
    bench.ack("c", sn=10)

    assert (before, bench.proposals) == ([], [GROW])


def test_nothing_commits_without_a_member_being_added() -> None:
    bench = _bench()
    bench.ack("c")
    token = bench.write("v")
    bench.ack("b")
    early = bench.result(token)
    bench.ack("c")

    assert early is None and isinstance(bench.result(token), Stored)


def test_before_its_proposal_left_a_silent_member_is_dropped_and_the_rest_commits() -> None:
    bench = _bench(entries=9)
    bench.ack("c", sn=2)
    token = bench.write("v")
    bench.ack("b")
    bench.wait(0.9)
    waiting = (_awaited(bench), bench.result(token))
    bench.wait(0.3)

    assert waiting == (["b", "c"], None)
    assert (_awaited(bench), isinstance(bench.result(token), Stored), bench.proposals) == (["b"], True, [])


def test_before_its_proposal_left_a_member_that_the_log_no_longer_helps_is_dropped() -> None:
    bench = _bench(entries=9, settings=ReplicationSettings(cached_bytes_max=1))
    bench.ack("c", sn=2)
    awaited = _awaited(bench)
    bench.machine._ctx.cache.evict()
    bench.hear("c", Ack(0, FIRST, 1, 2, True))
    (read,) = [read for read in bench.reads if isinstance(read, ReadLog)]
    bench.machine.log_read(read.token, None, now=bench.now)
    bench.pump()

    assert (awaited, _awaited(bench), len(bench.said("c", SnapshotBegin))) == (["b", "c"], ["b"], 1)


def test_before_its_proposal_left_a_disconnected_member_is_dropped_at_the_next_look() -> None:
    bench = _bench(entries=9)
    bench.ack("c", sn=2)
    bench.down("c")
    bench.wait(0.11)

    assert _awaited(bench) == ["b"]


def test_once_proposed_it_is_awaited_however_silent_it_is_and_the_map_is_asked_to_decide() -> None:
    bench = _bench()
    bench.ack("c")
    token = bench.write("v")
    bench.ack("b")
    bench.down("c")
    bench.wait(60.0)

    assert (_awaited(bench), bench.result(token)) == (["b", "c"], None)
    assert Touch(0, 1) in bench.proposals and bench.proposals[0] == GROW


def test_the_first_touch_leaves_a_second_after_the_proposal() -> None:
    bench = _bench()
    bench.ack("c")
    bench.write("v")
    bench.ack("b")
    bench.wait(0.9)
    before = _proposed(bench, Touch)
    bench.wait(0.3)

    assert (before, _proposed(bench, Touch)) == ([], [Touch(0, 1)])


def test_a_higher_revision_without_the_member_frees_the_primary_to_drop_it() -> None:
    bench = _bench()
    bench.ack("c")
    token = bench.write("v")
    bench.ack("b")
    bench.down("c")
    bench.wait(1.2)
    bench.change(Touch(0, 1))
    bench.wait(0.2)

    assert (_awaited(bench), isinstance(bench.result(token), Stored)) == (["b"], True)


def test_a_map_that_takes_the_member_in_settles_it() -> None:
    bench = _bench()
    bench.ack("c")
    bench.change(GROW)
    bench.proposals.clear()
    bench.wait(5.0)

    assert (_awaited(bench), bench.proposals) == (["b", "c"], [])


def test_a_proposal_is_sent_again_with_growing_waits_until_the_map_moves() -> None:
    bench = _bench()
    bench.ack("c")
    times = []
    for _ in range(50):
        count = len(bench.proposals)
        bench.wait(0.1)
        times += [round(bench.now - 100.0, 1)] * (len(bench.proposals) - count)
    bench.change(Touch(0, 1))
    bench.proposals.clear()
    bench.ack("c")

    assert times == [0.3, 0.8, 1.8, 3.8]
    assert bench.proposals == [Grow(0, 2, "c", "c-1", FIRST, 1, "a-1")]


def test_another_boot_of_a_learner_is_proposed_under_its_own_name_when_it_spoke() -> None:
    bench = _bench()
    bench.ack("c")
    bench.change(Boot("c", "c", "c-2", 2, "http://c", "c:1", live=()))
    bench.proposals.clear()
    bench.machine.peer_up("c", "c-2", now=bench.now)
    bench.pump()
    bench.wait(0.2)
    silent = list(bench.proposals)
    bench.hear("c", Ack(0, FIRST, 1, 1), boot="c-2")

    assert (silent, bench.proposals[-1:]) == ([], [Grow(0, 1, "c", "c-2", FIRST, 1, "a-1")])


def test_a_member_of_in_sync_that_acknowledges_nothing_for_three_seconds_is_proposed_for_removal() -> None:
    bench = serving(shard("a b c"))
    bench.write("v")
    bench.ack("b")
    bench.wait(2.9)
    before = list(bench.proposals)
    bench.wait(0.2)

    assert (before, bench.proposals) == ([], [Shrink(0, 1, ("c",))])


def test_the_removal_of_a_member_that_came_back_is_not_asked_for_again() -> None:
    bench = serving(shard("a b c"))
    bench.write("v")
    bench.ack("b")
    bench.wait(3.2)
    bench.ack("c")
    bench.wait(60.0)

    assert (bench.proposals, bench.machine.next_deadline()) == ([Shrink(0, 1, ("c",))], None)


def test_members_that_are_silent_together_are_proposed_together() -> None:
    bench = serving(shard("a b c"))
    bench.write("v")
    bench.wait(3.2)

    assert bench.proposals == [Shrink(0, 1, ("b", "c"))]


def test_until_the_map_says_so_the_removed_member_is_still_awaited() -> None:
    bench = serving(shard("a b c"))
    token = bench.write("v")
    bench.ack("b")
    bench.wait(30.0)
    early = bench.result(token)
    bench.change(Shrink(0, 1, ("c",)))

    assert early is None and isinstance(bench.result(token), Stored)


def test_a_member_that_makes_progress_is_not_proposed_for_removal() -> None:
    bench = serving(shard("a b"), settings=ReplicationSettings())
    for number in range(10):
        bench.write("v", key=f"k{number}")
    for sn in range(2, 10):
        bench.wait(2.0)
        bench.ack("b", sn=sn)

    assert bench.proposals == []


def test_a_learner_that_speaks_is_sent_what_it_lacks() -> None:
    bench = _bench(entries=3)
    bench.said("c", Append)
    bench.wait(0.1)
    bench.ack("c", sn=2, resend=True)

    assert [(message.prev_sn, len(message.entries)) for message in bench.said("c", Append)] == [(2, 2)]


def test_a_learner_that_has_said_it_stops_is_not_let_in_and_one_being_added_is_awaited_no_longer() -> None:
    bench = _bench(entries=9)
    bench.ack("c", sn=2)
    token = bench.write("v")
    bench.ack("b")
    adding = _awaited(bench)
    bench.machine.peers_stopping(frozenset({"c"}), now=bench.now)
    bench.pump()
    told = (_awaited(bench), isinstance(bench.result(token), Stored))
    bench.ack("c")
    bench.wait(0.5)

    assert (adding, told) == (["b", "c"], (["b"], True))
    assert (_awaited(bench), bench.proposals) == (["b"], [])


def test_a_learner_that_stopped_and_is_back_is_let_in() -> None:
    bench = _bench()
    bench.machine.peers_stopping(frozenset({"c"}), now=bench.now)
    bench.ack("c")
    before = list(bench.proposals)
    bench.machine.peers_stopping(frozenset(), now=bench.now)
    bench.wait(0.3)

    assert (before, bench.proposals) == ([], [GROW])


def test_a_learner_whose_link_leads_to_an_earlier_boot_is_written_to_until_the_link_is_made_anew() -> None:
    bench = serving(shard("a b"))
    bench.up("c")
    # It started again behind a cut: nothing told this end of the link, and nothing was written to it since.
    bench.change(Boot("c", "c", "c-2", 2, "http://c", "c:1", live=()))
    bench.change(AddLearner(0, bench.map.shards[0].revision, "c"))
    bench.said("c", Append)
    bench.wait(1.0)
    over_the_old_link = bench.said("c", Append)
    bench.down("c")
    bench.wait(1.0)
    without_a_link = bench.said("c", Append)
    bench.machine.peer_up("c", "c-2", now=bench.now)
    bench.pump()

    assert over_the_old_link and without_a_link == [] and bench.said("c", Append)


def test_a_copy_that_was_called_dead_is_asked_back_only_when_it_acknowledges_anew() -> None:
    """Its link may stand for minutes after the network has lost it: the map would change twice a second, for nothing."""
    bench = serving(shard("a b c"))
    bench.write("v")
    bench.ack("b")
    bench.ack("c")
    bench.change(Shrink(0, 1, ("c",)))
    bench.wait(5.0)
    unheard, probed = list(bench.proposals), bench.said("c", Append)
    bench.ack("c")

    assert unheard == [] and len(probed) > 1
    assert bench.proposals == [Grow(0, 2, "c", "c-1", FIRST, 1, "a-1")]


def test_a_level_learner_that_could_not_be_added_is_looked_at_again_when_its_connection_is_back() -> None:
    """Nobody writes, and it has said all there is to say: only the connection tells that there is something to do."""
    bench = _bench()
    bench.machine.peers_stopping(frozenset({"c"}), now=bench.now)
    bench.ack("c")
    bench.down("c")
    bench.machine.peers_stopping(frozenset(), now=bench.now)
    bench.wait(5.0)
    before = list(bench.proposals)
    bench.up("c")
    bench.wait(0.2)

    assert (before, bench.proposals) == ([], [GROW])
