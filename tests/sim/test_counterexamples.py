"""The obvious versions of the rules lose data in these steps: ours must not (reference/counterexamples.md, S1 to S9)."""

from __future__ import annotations

from ringkeep_core.mapchanges import Boot, Failover, Grow, Move, Shrink, Touch, Unfit
from ringkeep_node.machines.documents import CopyState
from ringkeep_node.machines.records import Kind
from ringkeep_node.machines.shard.effects import Absent, Found, Moved, NotApplied, Stored
from ringkeep_node.machines.shard.messages import Ack, Commits, SnapshotAck, SnapshotBegin
from ringkeep_testing.shard_clients import Clients
from ringkeep_testing.shard_trio import Trio
from ringkeep_testing.shard_world import ShardWorld


def _ready(**sizes: int) -> tuple[Trio, str, str, str]:
    """Return a trio that serves, and the names of the primary and the two others."""
    trio = Trio(**sizes)
    trio.settle()
    for name in trio.nodes:
        trio.answer_index(name)
    others = [name for name in trio.nodes if name != trio.primary]
    return trio, trio.primary, others[0], others[1]


def _storage(trio: Trio, name: str) -> str:
    return trio.nodes[name].storage


def _shrunk_to_primary(trio: Trio, *others: str) -> None:
    trio.commit(Shrink(0, trio.shard.revision, tuple(_storage(trio, name) for name in others)))


def _value(trio: Trio, name: str, token: int) -> str | None:
    result = trio.answer(name, token)
    return result.row.value.decode() if isinstance(result, Found) else None


def _lose_last_entry(trio: Trio, name: str) -> None:
    """A disk that lied: its last entry was never there."""
    disk = trio.nodes[name].disk
    entries = [record for record in disk if record.kind == Kind.SHARD_ENTRY]
    disk.remove(entries[-1])


def test_s1_a_primary_that_restarts_does_not_resume_its_epoch() -> None:
    trio, p, q, _r = _ready()
    trio.write(p, "w1")
    trio.deliver(p, q)
    trio.sync(q)
    trio.kill(p)
    boot = trio.restart(p)
    refused = trio.write(p, "w2")

    assert isinstance(trio.answer(p, refused), NotApplied) and trio.lead(p) is None

    trio.commit(boot)
    trio.hold()
    trio.settle()
    again = trio.write(trio.primary, "w3")
    trio.settle()

    assert (trio.shard.epoch, isinstance(trio.answer(trio.primary, again), Stored)) == (2, True)
    trio.check()


def test_s2_a_failover_proposed_on_an_older_revision_changes_nothing() -> None:
    trio, p, q, r = _ready()
    before = trio.shard.revision
    _shrunk_to_primary(trio, q)
    trio.hold(p)
    trio.lose(p, q)
    token = trio.write(p, "w")
    trio.settle(p, r)
    trio.commit(Failover(0, before, _storage(trio, q), tuple(node.storage for node in trio.nodes.values())))

    assert isinstance(trio.answer(p, token), Stored) and trio.primary == p


def test_s3a_a_proposed_member_is_awaited_until_a_higher_revision_says_what_became_of_it() -> None:
    trio, p, q, r = _ready()
    _shrunk_to_primary(trio, q)
    trio.hold()
    trio.pass_time(0.5)
    trio.settle()
    trio.pass_time(0.5)
    grows = [change for change in trio.proposals if isinstance(change, Grow)]
    token = trio.write(p, "w")
    for _ in range(60):
        trio.settle(p, r)
        trio.pass_time(0.1, p, r)
        trio.lose(p, q)

    assert grows and trio.answer(p, token) is None
    assert any(isinstance(change, Touch) for change in trio.proposals)

    trio.commit(grows[-1])

    trio.check()


def test_s3b_a_member_is_proposed_only_when_it_has_what_was_appended_before_it_was_added() -> None:
    trio, p, q, r = _ready()
    _shrunk_to_primary(trio, q)
    trio.hold(p, r)
    trio.lose(p, q)
    for number in range(5):
        trio.write(p, f"w{number}")
        trio.settle(p, r)
    trio.hold(q)
    for _ in range(40):
        trio.pass_time(0.1, p)
        trio.deliver(p, q)
        trio.sync(q)
        trio.deliver(q, p)
        grows = [change for change in trio.proposals if isinstance(change, Grow)]
        if grows:
            break
    trio.commit(grows[0])

    trio.check()


def test_s4a_a_read_is_not_confirmed_without_the_member_being_added() -> None:
    trio, p, q, r = _ready()
    _shrunk_to_primary(trio, q)
    trio.hold()
    trio.pass_time(0.5)
    trio.settle()
    assert any(isinstance(change, Grow) for change in trio.proposals)
    token = trio.read(p)
    trio.settle(p, r)

    assert trio.answer(p, token) is None

    trio.settle()

    assert isinstance(trio.answer(p, token), Absent)


def test_s4b_a_read_is_not_confirmed_without_the_eligible_copies() -> None:
    trio, p, q, r = _ready(min_in_sync=3)
    trio.commit(Shrink(0, trio.shard.revision, (_storage(trio, r),)))
    trio.hold(p)
    token = trio.read(p)
    trio.settle(p, q)

    assert trio.shard.eligible and trio.answer(p, token) is None

    trio.settle()

    assert isinstance(trio.answer(p, token), Absent)


def test_s4b_the_only_copy_confirms_nothing_by_itself_for_a_later_boot_may_have_its_volume() -> None:
    """in_sync + eligible + being added are the primary alone: a round would ask nobody, and prove nothing."""
    trio, p, _q, _r = _ready(copies=1, min_in_sync=1)
    served = trio.read(p)
    before = trio.answer(p, served)
    trio.answer_index(p)
    node = trio.nodes[p]
    trio.commit(Boot(p, node.storage, f"b{p:0>11}{2:04x}", 2, f"http://{p}", f"{p}:2", live=()))
    token = trio.read(p)
    refused = trio.write(p, "w", if_match=(7,))
    unaware = (trio.answer(p, token), trio.answer(p, refused))
    trio.answer_index(p)
    trio.hold(p)

    assert (trio.shard.in_sync, trio.shard.eligible) == ((trio.shard.in_sync[0],), ())
    assert (before, isinstance(trio.answer(p, served), Absent)) == (None, True)
    assert unaware == (None, None)
    assert isinstance(trio.answer(p, token), Moved)
    assert trio.answer(p, refused) != NotApplied("version_mismatch")


def test_s4_a_read_is_confirmed_by_every_member_not_by_a_majority() -> None:
    trio, p, q, _r = _ready()
    token = trio.read(p)
    trio.settle(p, q)

    assert trio.answer(p, token) is None

    trio.settle()

    assert isinstance(trio.answer(p, token), Absent)


def test_s4c_a_peer_that_holds_a_newer_map_confirms_nothing_until_we_hold_it_too() -> None:
    trio, p, q, r = _ready()
    trio.commit(Failover(0, trio.shard.revision, _storage(trio, q), (_storage(trio, q), _storage(trio, r))))
    trio.hold(q, r)
    token = trio.read(p)
    trio.settle()

    assert trio.answer(p, token) is None

    trio.hold(p)

    assert isinstance(trio.answer(p, token), Moved)


def test_s4c_a_copy_answers_a_higher_epoch_only_when_it_holds_the_map_that_made_it() -> None:
    trio, _p, q, r = _ready()
    trio.commit(Move(0, trio.shard.revision, _storage(trio, q)))
    trio.hold(q)
    trio.settle(q, r)

    assert trio.machine(r)._ctx.copies[0].promised == 1

    trio.hold(r)

    assert trio.machine(r)._ctx.copies[0].promised == 2


def test_s4d_a_round_that_started_before_a_read_arrived_does_not_confirm_it() -> None:
    trio, p, q, r = _ready()
    first = trio.read(p)
    trio.deliver(p, q)
    trio.deliver(p, r)
    second = trio.read(p)
    trio.deliver(q, p)
    trio.deliver(r, p)

    assert (isinstance(trio.answer(p, first), Absent), trio.answer(p, second)) == (True, None)


def test_s4e_after_a_start_nothing_is_confirmed_before_a_read_index_was_reached() -> None:
    trio = Trio()
    trio.settle()
    p = trio.primary
    token = trio.read(p)
    trio.settle()

    assert trio.answer(p, token) is None

    trio.answer_index(p)
    trio.settle()

    assert isinstance(trio.answer(p, token), Absent)


def test_s4_a_read_confirmed_by_raft_waits_for_the_map_at_that_index() -> None:
    trio, p, q, r = _ready()
    token = trio.read(p)
    trio.pass_time(0.1, p)
    trio.commit(Failover(0, trio.shard.revision, _storage(trio, q), (_storage(trio, q), _storage(trio, r))))
    trio.answer_index(p)

    assert trio.answer(p, token) is None

    trio.hold(p)

    assert isinstance(trio.answer(p, token), Moved)


def test_s5a_a_refusal_judged_on_a_pending_write_waits_until_that_write_has_committed() -> None:
    trio, p, q, r = _ready()
    trio.write(p, "v1")
    trio.settle()
    trio.write(p, "w1")
    refused = trio.write(p, "w2", if_match=(2,))
    for _ in range(4):
        for other in (q, r):
            trio.deliver(p, other)
            trio.deliver(other, p)

    assert trio.answer(p, refused) is None

    trio.settle()

    assert trio.answer(p, refused) == NotApplied("version_mismatch")


def test_s5b_a_refusal_is_a_read_and_waits_for_a_confirmation() -> None:
    trio, p, _q, _r = _ready()
    trio.write(p, "v1")
    trio.settle()
    refused = trio.write(p, "w", if_none_match=())

    assert trio.answer(p, refused) is None

    trio.settle()

    assert trio.answer(p, refused) == NotApplied("version_mismatch")


def test_s5d_a_new_primary_below_need_serves_nothing() -> None:
    trio, p, q, r = _ready()
    trio.write(p, "v1")
    trio.settle()
    trio.kill(p)
    trio.kill(r)
    trio.commit(Failover(0, trio.shard.revision, _storage(trio, q), (_storage(trio, q),)))
    trio.hold(q)
    trio.settle()
    read, write = trio.read(q), trio.write(q, "w")
    trio.answer_index(q)
    trio.settle()

    assert (trio.answer(q, read), trio.answer(q, write)) == (None, NotApplied("not_enough_copies"))


def test_s6c_a_copy_that_counts_as_complete_refuses_to_be_overwritten() -> None:
    trio, p, q, r = _ready()
    _shrunk_to_primary(trio, q, r)
    trio.hold()
    trio.links.clear()
    node = trio.nodes[p]
    begin = SnapshotBegin(0, trio.shard.eligible[0].added, 1, 7, 1, 9, CopyState(), ())
    trio.machine(q).receive(node.storage, node.boot, begin, now=trio.now)
    trio.pump(trio.nodes[q])

    assert [message for _, message in trio.links[q, p]] == [SnapshotAck(0, begin.copy, 1, 7, 0, aborted=True)]


def test_s8_an_acknowledgement_of_another_copy_of_the_same_storage_does_not_count() -> None:
    trio, p, q, r = _ready()
    token = trio.write(p, "w")
    trio.links.clear()
    for name in (q, r):
        node = trio.nodes[name]
        trio.machine(p).receive(node.storage, node.boot, Ack(0, trio.shard.in_sync[0].added + 1, 1, 2), now=trio.now)
    trio.sync(p)

    assert trio.answer(p, token) is None


def test_s9a_a_new_primary_takes_over_a_longer_tail() -> None:
    trio, p, q, r = _ready()
    token = trio.write(p, "w")
    trio.settle()
    assert isinstance(trio.answer(p, token), Stored)
    trio.kill(q)
    _lose_last_entry(trio, q)
    trio.acknowledged = (0, 0)
    trio.commit(trio.restart(q))
    trio.kill(p)
    trio.commit(Failover(0, trio.shard.revision, _storage(trio, q), (_storage(trio, q), _storage(trio, r))))
    trio.hold(q, r)
    trio.settle()
    read = trio.read(q)
    trio.pass_time(0.2)
    trio.answer_index(q)
    trio.settle()

    assert _value(trio, q, read) == "w"


def test_s9a_a_copy_that_comes_back_shorter_than_it_acknowledged_leaves_the_sets() -> None:
    trio, p, q, _r = _ready()
    trio.write(p, "w")
    trio.settle()
    trio.kill(q)
    _lose_last_entry(trio, q)
    trio.acknowledged = (0, 0)
    trio.commit(trio.restart(q))
    trio.hold()
    trio.pass_time(0.5)
    trio.settle()

    assert any(isinstance(change, Unfit) and change.storage == _storage(trio, q) for change in trio.proposals)


def test_s9a_a_copy_does_not_cut_what_it_acknowledged() -> None:
    trio, p, q, r = _ready()
    trio.write(p, "w")
    trio.deliver(p, r)
    trio.sync(r)
    trio.kill(p)
    trio.machine(q).peer_down(_storage(trio, r), now=trio.now)
    trio.commit(Failover(0, trio.shard.revision, _storage(trio, q), (_storage(trio, q),)))
    trio.hold()
    trio.settle()
    trio.machine(q).peer_up(_storage(trio, r), trio.nodes[r].boot, now=trio.now)
    trio.pump(trio.nodes[q])
    trio.settle()

    assert trio.machine(r)._ctx.copies[0].log.has(1, 2)
    assert any(isinstance(change, Unfit) and change.storage == _storage(trio, r) for change in trio.proposals)


def _diverged() -> tuple[Trio, str, str, str]:
    """Return a trio where r holds an entry (1, 2) that epoch 2 of q lacks, and has forgotten that it acknowledged it."""
    trio, p, q, r = _ready()
    trio.write(p, "lost")
    trio.deliver(p, r)
    trio.sync(r)
    trio.kill(p)
    trio.kill(r)
    trio.commit(Failover(0, trio.shard.revision, _storage(trio, q), (_storage(trio, q),)))
    trio.hold(q)
    trio.settle(q)
    trio.commit(trio.restart(r))
    trio.hold(q, r)
    return trio, p, q, r


def test_s9c_a_commit_sn_beyond_the_verified_log_is_not_applied() -> None:
    trio, _p, q, r = _diverged()
    trio.deliver(q, r)
    node = trio.nodes[q]
    trio.machine(r).receive(node.storage, node.boot, Commits(((0, 2, 2),)), now=trio.now)
    trio.pump(trio.nodes[r])

    assert trio.nodes[r].store.copies[0, trio.shard.learners[0].added].sn < 2


def test_kip_101_and_279_a_copy_cuts_to_the_end_of_the_greatest_common_epoch() -> None:
    trio, _p, _q, r = _diverged()
    trio.pass_time(0.5)
    trio.settle()
    copy = trio.machine(r)._ctx.copies[0]

    assert (copy.log.epoch_at(1), copy.log.epoch_at(2), copy.aligned, copy.unfit) == (1, 2, True, False)


def test_rule_9_an_operation_that_was_refused_is_not_applied_when_it_comes_again() -> None:
    trio, p, _q, _r = _ready()
    trio.write(p, "v1")
    trio.settle()
    refused = trio.write(p, "w", if_none_match=())
    number = trio.numbers
    trio.settle()
    trio.write(p, None)
    trio.settle()
    again = trio.write(p, "w", again=number, if_none_match=())
    trio.settle()

    assert trio.answer(p, refused) == trio.answer(p, again) == NotApplied("version_mismatch")


def test_rule_9_a_repeated_operation_is_answered_with_the_first_result() -> None:
    trio, p, _q, _r = _ready()
    first = trio.write(p, "v1")
    pending = trio.write(p, "v1", again=trio.numbers)
    trio.settle()
    applied = trio.write(p, "v1", again=trio.numbers)
    trio.settle()

    assert trio.answer(p, first) == trio.answer(p, pending) == trio.answer(p, applied) == Stored(1, 2, 1)


def test_rule_7_a_primary_that_is_moved_hands_its_unanswered_writes_over() -> None:
    trio, p, q, _r = _ready()
    token = trio.write(p, "w")
    number = trio.numbers
    trio.commit(Move(0, trio.shard.revision, _storage(trio, q)))
    trio.hold(p)

    assert trio.answer(p, token) == Moved(_storage(trio, q), 2, trio.map.version)

    trio.hold()
    trio.settle()
    again = trio.write(q, "w", again=number)
    trio.settle()
    trio.pass_time(0.2)
    trio.answer_index(q)
    trio.settle()

    assert isinstance(trio.answer(q, again), Stored)
    trio.check()


def test_rule_1_a_write_is_not_answered_before_the_primarys_own_sync() -> None:
    trio, p, q, r = _ready()
    token = trio.write(p, "w")
    for name in (q, r):
        trio.deliver(p, name)
        trio.sync(name)
        trio.deliver(name, p)

    assert trio.answer(p, token) is None

    trio.sync(p)

    assert isinstance(trio.answer(p, token), Stored)


def test_rule_1_a_pending_write_is_visible_to_no_read() -> None:
    trio, p, q, r = _ready()
    trio.write(p, "w")
    read = trio.read(p)
    for _ in range(4):
        for name in (q, r):
            trio.deliver(p, name)
            trio.deliver(name, p)

    assert isinstance(trio.answer(p, read), Absent)


def test_rule_1_a_replica_refuses_an_older_epoch() -> None:
    trio, p, q, r = _ready()
    trio.commit(Failover(0, trio.shard.revision, _storage(trio, q), (_storage(trio, q), _storage(trio, r))))
    trio.hold(q, r)
    trio.settle(q, r)
    trio.lose(r, p)
    trio.write(p, "w")
    trio.deliver(p, r)
    trio.sync(r)

    assert not trio.links.get((r, p)) and trio.machine(r)._ctx.copies[0].log.last_epoch == 2


def test_kip_497_and_841_a_member_that_restarts_is_not_let_in_by_a_proposal_for_its_earlier_boot() -> None:
    trio, _p, q, _r = _ready()
    _shrunk_to_primary(trio, q)
    trio.hold()
    trio.pass_time(0.5)
    trio.settle()
    grow = next(change for change in trio.proposals if isinstance(change, Grow))
    trio.kill(q)
    trio.commit(trio.restart(q))
    trio.commit(grow)

    assert not trio.shard.is_in_sync(_storage(trio, q))


def test_kip_966_an_eligible_copy_takes_over_with_everything_acknowledged() -> None:
    trio, p, q, r = _ready()
    token = trio.write(p, "w")
    trio.settle()
    _shrunk_to_primary(trio, q, r)
    trio.hold()
    trio.kill(p)
    trio.commit(Failover(0, trio.shard.revision, _storage(trio, q), (_storage(trio, q), _storage(trio, r))))
    trio.hold()
    trio.settle()
    read = trio.read(q)
    trio.pass_time(0.2)
    trio.answer_index(q)
    trio.settle()

    assert (isinstance(trio.answer(p, token), Stored), _value(trio, q, read)) == (True, "w")


def test_kip_903_an_emptied_disk_is_filled_by_snapshot_and_equals_the_others_with_operation_results() -> None:
    world = ShardWorld(1, faults=False)
    clients = Clients(world, documents=4)
    for _ in range(80):
        world.run(0.05)
        clients.act()
    for node in world.nodes[:2]:
        # Neither memory nor log keeps old entries, so only a snapshot can fill the emptied disk.
        world.run(3.0)
        node.log.release(node.store.checkpoint(), keep=0)
        world.kill(node)
        world.restart(node)
    world.run(3.0)
    world.kill(world.nodes[2])
    world.nodes[2].wipe()
    world.restart(world.nodes[2])
    world.run(15.0)
    copies = [
        (node.store.digest(number, copy.added), copy.storage)
        for number, shard in enumerate(world.service.map.shards)
        for copy in shard.in_sync
        for node in world.nodes
        if node.storage == copy.storage
    ]

    clients.judge()
    assert (len(copies), len({digest for digest, _ in copies})) == (6, 2)


def test_rule_1_a_replica_acknowledges_nothing_before_its_sync() -> None:
    trio, p, q, _r = _ready()
    trio.write(p, "w")
    trio.deliver(p, q)

    assert not trio.links.get((q, p))

    trio.sync(q)

    assert [type(message) for _, message in trio.links[q, p]] == [Ack]
