"""Copies over restarts and snapshots: nothing that a copy acknowledged is forgotten, taken back or counted twice."""

from __future__ import annotations

from ringkeep_core.mapchanges import Shrink, Unfit
from ringkeep_node.machines.documents import CopyState
from ringkeep_node.machines.shard.effects import ReadLog, Stored
from ringkeep_node.machines.shard.messages import Ack, SnapshotAck, SnapshotBegin
from ringkeep_node.machines.shard.primary import Lead
from ringkeep_testing.shard_trio import Trio


def ready_trio() -> tuple[Trio, str, str, str]:
    """Three copies that serve: the world, the primary's name, and the two others."""
    trio = Trio(min_in_sync=2)
    trio.settle()
    for name in trio.nodes:
        trio.answer_index(name)
    others = [name for name in trio.nodes if name != trio.primary]
    return trio, trio.primary, others[0], others[1]


def rebuild(trio: Trio, name: str) -> int:
    """Make a node's copy unfit, let it be filled anew and grow back; return the index of the Unfit entry."""
    storage = trio.nodes[name].storage
    old = next(copy for copy in trio.shard.in_sync if copy.storage == storage)
    trio.commit(Unfit(0, trio.shard.revision, storage, old.added))
    unfit_at = trio.index
    trio.hold()
    trio.settle()
    for _ in range(10):
        trio.pass_time(0.5)
        trio.settle()
        for change in list(trio.proposals):
            trio.commit(change)
        trio.proposals.clear()
        trio.hold()
        trio.settle()
        if trio.shard.is_in_sync(storage):
            return unfit_at
    raise AssertionError(trio.shard)


def write_committed(trio: Trio, primary: str, value: str) -> None:
    """Write and see it acknowledged."""
    token = trio.write(primary, value)
    trio.settle()
    assert isinstance(trio.answer(primary, token), Stored)


def test_a_copy_added_after_the_last_raft_snapshot_survives_a_restart_at_that_snapshot() -> None:
    trio, primary, rebuilt, _ = ready_trio()
    write_committed(trio, primary, "w1")
    rebuild(trio, rebuilt)
    write_committed(trio, primary, "w2")
    trio.pass_time(0.2)
    trio.settle()
    trio.kill(rebuilt)

    trio.nodes[rebuilt].through = 1  # the map of the last Raft snapshot: what a voter holds first
    trio.restart(rebuilt)
    trio.hold(rebuilt)

    copy = trio.machine(rebuilt)._ctx.copies[0]
    assert (copy.unfit, copy.log.last_sn) == (False, 3)


def test_a_copy_seen_first_by_the_map_that_made_it_a_learner_is_not_taken_for_an_empty_one() -> None:
    trio, primary, rebuilt, _ = ready_trio()
    write_committed(trio, primary, "w1")
    unfit_at = rebuild(trio, rebuilt)
    write_committed(trio, primary, "w2")
    trio.pass_time(0.2)
    trio.settle()
    for name in trio.nodes:
        trio.kill(name)

    trio.nodes[rebuilt].through = 1
    trio.restart(rebuilt)
    trio.nodes[rebuilt].through = unfit_at
    trio.machine(rebuilt).map_held(trio.maps[unfit_at], through=unfit_at, now=trio.now)
    trio.pump(trio.nodes[rebuilt])
    trio.hold(rebuilt)

    copy = trio.machine(rebuilt)._ctx.copies[0]
    assert (copy.unfit, copy.log.last_sn) == (False, 3)


def lead_of(trio: Trio, primary: str) -> Lead:
    """The primary's side of the shard."""
    lead = trio.lead(primary)
    assert lead is not None
    return lead


def forget_what_was_handed_over(trio: Trio, primary: str) -> None:
    """Leave in the primary's memory only what the store has not applied, as a small cache does."""
    log, handed = lead_of(trio, primary).copy.log, lead_of(trio, primary).copy.handed
    for sn in [sn for sn in log.cached if sn <= handed]:
        del log.cached[sn]
    log.first = handed + 1


def reconnect(trio: Trio, primary: str, other: str) -> ReadLog:
    """Let the link to a copy flap; return the disk read that this leads to."""
    machine, storage = trio.machine(primary), trio.nodes[other].storage
    machine.peer_down(storage, now=trio.now)
    machine.peer_up(storage, trio.nodes[other].boot, now=trio.now)
    (read,) = [read for read in machine.take_step().reads if isinstance(read, ReadLog)]
    return read


def test_an_acknowledgement_during_a_disk_read_does_not_make_an_in_sync_copy_unfit() -> None:
    trio, primary, _, other = ready_trio()
    for number in range(6):
        write_committed(trio, primary, f"w{number}")
    storage, machine = trio.nodes[other].storage, trio.machine(primary)
    trio.write(primary, "x1")
    trio.deliver(primary, other)
    trio.sync(other, primary)
    boot, late = trio.links.pop((other, primary))[-1]
    forget_what_was_handed_over(trio, primary)
    lead_of(trio, primary).peers[storage].match = 3
    read = reconnect(trio, primary, other)

    machine.receive(storage, boot, late, now=trio.now)
    machine.take_step()
    handed = lead_of(trio, primary).copy.handed
    machine.log_read(read.token, [(1, sn, b"") for sn in range(read.after_sn + 1, handed + 1)], now=trio.now)

    step = machine.take_step()
    assert step.proposals == []
    assert [message for _, message in step.send if isinstance(message, SnapshotBegin)] == []


def test_a_learner_refuses_a_snapshot_below_what_it_acknowledged_and_says_what_it_holds() -> None:
    trio, primary, _, learner = ready_trio()
    for number in range(6):
        write_committed(trio, primary, f"w{number}")
    storage = trio.nodes[learner].storage
    trio.commit(Shrink(0, trio.shard.revision, (storage,)))
    trio.hold()
    trio.settle()
    for value in ("x1", "x2"):
        trio.write(primary, value)
        trio.deliver(primary, learner)
    trio.sync(learner)
    machine = trio.machine(learner)
    copy, lead = machine._ctx.copies[0], lead_of(trio, primary)
    assert copy.acked > copy.handed

    begin = SnapshotBegin(0, copy.added, lead.epoch, 77, 1, copy.handed, CopyState(), tuple(lead.copy.log.epochs))
    machine.receive(trio.nodes[primary].storage, trio.nodes[primary].boot, begin, now=trio.now)

    step = machine.take_step()
    said = [message for _, message in step.send if isinstance(message, SnapshotAck)]
    held = [message for _, message in step.send_synced if isinstance(message, Ack)]
    assert [answer.aborted for answer in said] == [True]
    assert [(answer.sn, answer.resend) for answer in held] == [(copy.log.last_sn, True)]
