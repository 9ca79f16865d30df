"""Hand-overs on three nodes with everything that can come between: nothing is lost, each operation is applied once.

Source: replication.md, Handoff, rules 6 and 7; counterexamples.md S2, S3(a), S5, S10.
"""

from __future__ import annotations

from ringkeep_core.mapchanges import Failover, Grow, Move, Shrink, Touch
from ringkeep_node.machines.shard.effects import Found, Moved, NotApplied, Result, Stored
from ringkeep_testing.shard_trio import Trio


def _ready() -> tuple[Trio, str, str, str]:
    """Return a trio that serves, and the names of the primary and the two others."""
    trio = Trio()
    trio.settle()
    for name in trio.nodes:
        trio.answer_index(name)
    trio.settle()
    others = [name for name in trio.nodes if name != trio.primary]
    return trio, trio.primary, others[0], others[1]


def _storage(trio: Trio, name: str) -> str:
    return trio.nodes[name].storage


def _move(trio: Trio) -> Move:
    """Take the newest hand-over from what was proposed."""
    return next(change for change in reversed(trio.proposals) if isinstance(change, Move))


def _value(trio: Trio, name: str) -> str | None:
    """Read the document through a node."""
    token = trio.read(name)
    trio.settle()
    trio.answer_index(name)
    trio.settle()
    result = trio.answer(name, token)
    return result.row.value.decode() if isinstance(result, Found) else None


def _moved_to(trio: Trio, name: str) -> Result:
    return Moved(_storage(trio, name), trio.shard.epoch, trio.map.version)


def test_a_shard_moves_with_writes_under_way_and_each_is_applied_once() -> None:
    trio, p, q, _r = _ready()
    pending = trio.write(p, "1")
    trio.hand_over(p, q)
    waiting = trio.write(p, "2")
    assert trio.proposals == []
    trio.settle()
    assert (trio.answer(p, pending), trio.answer(p, waiting)) == (Stored(1, 2, 1), None)
    trio.commit(_move(trio))
    trio.hold()
    assert trio.answer(p, waiting) == _moved_to(trio, q)
    late, early = trio.write(q, "2", again=2), trio.write(q, "1", again=1)
    trio.settle()

    assert (trio.answer(q, late), trio.answer(q, early)) == (Stored(2, 4, 2), Stored(1, 2, 2))
    assert (_value(trio, q), trio.shard.in_sync) == ("2", trio.maps[1].shards[0].in_sync)


def test_the_new_primary_appends_behind_its_epoch_start_at_once_and_answers_when_that_is_committed() -> None:
    trio, p, q, r = _ready()
    trio.hand_over(p, q)
    trio.commit(_move(trio))
    trio.hold()
    token = trio.write(q, "1")
    read = trio.read(q)
    _tell_tails(trio, q, p, r)
    lead = trio.lead(q)
    assert lead is not None

    assert (lead.begin_sn, lead.copy.log.last_sn, lead.is_serving) == (2, 3, False)
    assert (trio.answer(q, token), trio.answer(q, read)) == (None, None)

    trio.settle()

    assert trio.answer(q, token) == Stored(1, 3, 2)


def test_the_old_primary_answers_nothing_after_the_shard_moved_though_it_has_not_heard() -> None:
    trio, p, q, r = _ready()
    trio.hand_over(p, q)
    trio.commit(_move(trio))
    trio.hold(q, r)
    new = trio.write(q, "new")
    trio.settle(q, r)
    stale = trio.read(p)
    waiting = trio.write(p, "old")
    trio.settle()
    trio.answer_index(p)

    assert (trio.answer(p, stale), trio.answer(p, waiting)) == (None, None)

    trio.hold(p)
    trio.settle()

    assert (trio.answer(p, stale), trio.answer(p, waiting)) == (_moved_to(trio, q),) * 2
    assert (trio.answer(q, new), _value(trio, q)) == (Stored(1, 3, 2), "new")


def test_an_entry_that_got_lost_is_overtaken_by_a_touch_and_does_nothing_when_it_comes_after_all() -> None:
    trio, p, q, _r = _ready()
    trio.hand_over(p, q)
    lost = _move(trio)
    waiting = trio.write(p, "1")
    trio.settle()
    trio.pass_time(1.1)
    assert (trio.answer(p, waiting), trio.shard.epoch) == (None, 1)
    touch = next(change for change in trio.proposals if isinstance(change, Touch))
    trio.commit(touch)
    trio.hold()
    trio.settle()
    trio.commit(lost)
    trio.commit(lost)
    trio.hold()
    trio.settle()

    assert (trio.answer(p, waiting), trio.primary, trio.shard.epoch) == (Stored(1, 2, 1), p, 1)
    assert _value(trio, p) == "1"


def test_an_entry_that_comes_late_and_twice_moves_the_shard_once() -> None:
    trio, p, q, r = _ready()
    trio.hand_over(p, q)
    late = _move(trio)
    waiting = trio.write(p, "1")
    trio.pass_time(0.9)
    trio.commit(late)
    trio.hold()
    trio.settle()
    trio.commit(late)
    trio.hand_over(q, r)
    trio.settle()
    trio.commit(_move(trio))
    trio.hold()
    trio.commit(late)
    trio.settle()

    assert (trio.answer(p, waiting), trio.primary, trio.shard.epoch) == (
        Moved(_storage(trio, q), 2, trio.maps[2].version),
        r,
        3,
    )


def test_the_source_dies_after_the_entry_left_and_nothing_is_lost() -> None:
    trio, p, q, r = _ready()
    acknowledged = trio.write(p, "1")
    trio.settle()
    trio.hand_over(p, q)
    trio.write(p, "2")
    move = _move(trio)
    trio.kill(p)
    trio.commit(move)
    trio.hold(q, r)
    boot = trio.restart(p)
    trio.commit(boot)
    trio.hold()
    trio.settle()

    assert (trio.answer(p, acknowledged), trio.primary) == (Stored(1, 2, 1), q)
    assert _value(trio, q) == "1"


def test_the_source_starts_again_before_the_entry_commits_and_the_entry_is_refused() -> None:
    trio, p, q, _r = _ready()
    trio.hand_over(p, q)
    move = _move(trio)
    trio.kill(p)
    trio.commit(trio.restart(p))
    epoch = trio.shard.epoch
    trio.commit(move)

    assert (epoch, trio.shard.epoch) == (2, 2)


def test_the_target_dies_before_it_begins_and_the_source_leads_again_in_a_new_epoch() -> None:
    trio, p, q, r = _ready()
    trio.hand_over(p, q)
    waiting = trio.write(p, "1")
    trio.commit(_move(trio))
    trio.hold(p)
    trio.kill(q)
    trio.commit(Failover(0, trio.shard.revision, _storage(trio, p), (_storage(trio, p), _storage(trio, r))))
    trio.hold(p, r)
    again = trio.write(p, "1", again=1)
    trio.settle(p, r)

    assert isinstance(trio.answer(p, waiting), Moved)
    assert (trio.answer(p, again), trio.shard.epoch, len(trio.shard.in_sync)) == (Stored(1, 3, 3), 3, 2)


def test_a_shrink_of_the_target_that_commits_first_ends_the_hand_over() -> None:
    trio, p, q, r = _ready()
    trio.hand_over(p, q)
    move = _move(trio)
    waiting = trio.write(p, "1")
    trio.commit(Shrink(0, trio.shard.revision, (_storage(trio, q),)))
    trio.commit(move)
    trio.hold()
    trio.settle(p, r)

    assert (trio.answer(p, waiting), trio.primary, trio.shard.epoch) == (Stored(1, 2, 1), p, 1)


def test_after_a_shrink_of_a_third_copy_a_stale_hand_over_does_not_bring_it_back() -> None:
    trio, p, q, r = _ready()
    trio.hand_over(p, q)
    move = _move(trio)
    trio.commit(Shrink(0, trio.shard.revision, (_storage(trio, q),)))
    trio.hold(p)
    token = trio.write(p, "1")
    trio.settle(p, r)
    trio.commit(move)

    assert (trio.answer(p, token), trio.primary) == (Stored(1, 2, 1), p)
    trio.check()


def test_a_failover_that_commits_first_ends_the_hand_over() -> None:
    trio, p, q, r = _ready()
    trio.hand_over(p, q)
    move = _move(trio)
    waiting = trio.write(p, "1")
    live = tuple(node.storage for node in trio.nodes.values())
    trio.commit(Failover(0, trio.shard.revision, _storage(trio, r), live))
    trio.commit(move)
    trio.hold()
    again = trio.write(r, "1", again=1)
    trio.settle()

    assert (trio.answer(p, waiting), trio.primary) == (_moved_to(trio, r), r)
    assert (trio.answer(r, again), _value(trio, r)) == (Stored(1, 3, 2), "1")


def test_a_write_whose_acknowledgements_come_after_the_move_is_not_refused_but_sent_on() -> None:
    trio, p, q, r = _ready()
    trio.write(p, "1")
    for name in (q, r):
        trio.deliver(p, name)
    trio.commit(Move(0, trio.shard.revision, _storage(trio, q)))
    trio.hold()
    answer = trio.answer(p, 1)
    again = trio.write(q, "1", again=1)
    trio.settle()

    assert answer == _moved_to(trio, q) and not isinstance(answer, NotApplied)
    assert (trio.answer(q, again), _value(trio, q)) == (Stored(1, 2, 2), "1")


def test_a_retry_of_what_was_stored_is_answered_by_the_new_primary_only_after_its_epoch_start_committed() -> None:
    trio, p, q, r = _ready()
    trio.write(p, "1")
    trio.settle()
    trio.pass_time(0.2)
    trio.settle()
    trio.hand_over(p, q)
    trio.commit(_move(trio))
    trio.hold()
    _tell_tails(trio, q, p, r)
    again = trio.write(q, "1", again=1)
    read = trio.read(q)
    for name in (p, r):
        while trio.deliver(q, name) is not None:
            pass
    for name in (p, r):
        while trio.deliver(name, q) is not None:
            pass
    lead = trio.lead(q)
    assert lead is not None

    assert (lead.is_serving, trio.answer(q, again), trio.answer(q, read)) == (False, None, None)

    trio.settle()

    assert trio.answer(q, again) == Stored(1, 2, 2) and isinstance(trio.answer(q, read), Found)


def test_a_member_that_is_being_added_is_awaited_while_the_shard_drains() -> None:
    trio, p, q, r = _ready()
    trio.commit(Shrink(0, trio.shard.revision, (_storage(trio, q),)))
    trio.hold()
    trio.pass_time(0.5)
    trio.settle()
    grow = next(change for change in trio.proposals if isinstance(change, Grow))
    token = trio.write(p, "1")
    trio.hand_over(p, r)
    trio.settle(p, r)
    trio.commit(grow)

    assert trio.answer(p, token) is None
    trio.check()

    trio.hold()
    trio.settle()

    assert (trio.answer(p, token), trio.primary) == (Stored(1, 2, 1), p)


def _tell_tails(trio: Trio, new: str, *others: str) -> None:
    """Let the new primary ask for the ends of the logs and hear them, and no more."""
    trio.sync(new)
    for name in others:
        trio.deliver(new, name)
        trio.sync(name)
    for name in others:
        trio.deliver(name, new)
