"""What leaves the machine in one step: records in order, promises and cuts among them, and what waits for the disk."""

from __future__ import annotations

from ringkeep_core.mapchanges import Move, RemoveCopy, Shrink
from ringkeep_node.machines.records import Kind, Record
from ringkeep_node.machines.shard.effects import CreateCopy, DropCopy
from ringkeep_node.machines.shard.messages import Ack, Append, EpochEnd, TailAsk
from ringkeep_node.machines.shard.settings import ReplicationSettings
from ringkeep_testing.maps import FIRST, copies, shard
from ringkeep_testing.shard_bench import Bench, append_of, begin_entry, put_entry, recovered_copy, serving

KEY = (0, FIRST)


def _follower(*entries: tuple[int, int, bytes], epoch: int = 1, **fields: object) -> Bench:
    recovered = {KEY: recovered_copy(entries)} if entries else None
    bench = Bench(shard("b a c", epoch=epoch), recovered=recovered, **fields)  # type: ignore[arg-type]
    bench.up("b")
    return bench


def test_a_promise_is_written_before_the_first_entry_of_its_epoch() -> None:
    bench = _follower()
    entry = begin_entry(1, 1, "b")
    bench.hear("b", append_of([entry]))

    assert bench.records == [Record(Kind.SHARD_PROMISE, 0, FIRST, 1, 0), Record(Kind.SHARD_ENTRY, 0, FIRST, *entry)]


def test_a_cut_is_written_before_the_entry_that_takes_its_place() -> None:
    bench = _follower(put_entry(1, 1), put_entry(1, 2), epoch=3)
    entry = begin_entry(3, 2, "b")
    bench.hear("b", append_of([entry], prev=(1, 1)))
    bench.hear("b", EpochEnd(0, 3, 1, 1, 1))
    bench.hear("b", append_of([entry], prev=(1, 1)))

    assert bench.records == [
        Record(Kind.SHARD_PROMISE, 0, FIRST, 3, 0),
        Record(Kind.SHARD_CUT, 0, FIRST, 1, 1),
        Record(Kind.SHARD_ENTRY, 0, FIRST, *entry),
    ]


def test_an_acknowledgement_waits_for_the_step_that_holds_its_records() -> None:
    bench = _follower()
    bench.syncs = False
    bench.hear("b", append_of([begin_entry(1, 1, "b")]))
    before = bench.said("b", Ack)
    bench.sync()

    assert (before, bench.said("b", Ack)) == ([], [Ack(0, FIRST, 1, 1)])


def test_nothing_is_handed_to_the_store_before_it_is_durable_here() -> None:
    bench = _follower()
    bench.syncs = False
    bench.hear("b", append_of([begin_entry(1, 1, "b")], commit=1))
    before = list(bench.applied)
    bench.sync()

    assert (before, bench.applied) == ([], [(1, 1)])


def test_a_sync_that_covers_entries_cut_meanwhile_says_nothing_about_those_that_took_their_place() -> None:
    bench = _follower(put_entry(1, 1), epoch=3)
    bench.hear("b", TailAsk(0, 3))
    bench.syncs = False
    machine, copy = bench.machine, bench.copy()
    machine._ctx.append(copy, put_entry(1, 2))
    bench.pump()
    old = bench.unsynced[-1].number
    machine._ctx.cut(copy, 1)
    machine._ctx.append(copy, put_entry(3, 2))
    bench.pump()
    machine.synced(old, now=bench.now)

    assert copy.log.durable == 1


def test_a_dropped_copy_is_deleted_when_its_drop_is_durable() -> None:
    bench = Bench(shard("b c", learners="a"))
    bench.syncs = False
    bench.change(RemoveCopy(0, 1, "a", FIRST))
    before = list(bench.orders)
    bench.sync()

    assert (before, bench.orders) == ([CreateCopy(0, FIRST)], [CreateCopy(0, FIRST), DropCopy(0, FIRST)])
    assert bench.records == [Record(Kind.SHARD_DROP, 0, FIRST, 0, 0)]


def test_a_copy_added_again_is_another_one_and_the_drop_names_the_old() -> None:
    bench = Bench(shard("b c", learners="a"))
    again = shard("b c", epoch=2)
    bench.shard_is(type(again)(2, 2, again.primary, again.in_sync, (), copies("a", added=FIRST + 1), 2))

    assert bench.records == [Record(Kind.SHARD_DROP, 0, FIRST, 0, 0)]
    assert bench.orders == [CreateCopy(0, FIRST), CreateCopy(0, FIRST + 1), DropCopy(0, FIRST)]


def test_entries_of_a_dropped_copy_do_not_stay_in_memory() -> None:
    bench = serving(shard("a b", need=1), settings=ReplicationSettings(cached_bytes_max=10_000))
    for number in range(40):
        bench.write("x" * 500, key=f"k{number}")
    bench.change(Move(0, 1, "b"))
    bench.change(Shrink(0, 2, ("a",)))
    bench.change(RemoveCopy(0, 3, "a", FIRST))
    cache = bench.machine._ctx.cache
    for _ in range(40):
        cache.evict()

    assert cache.bytes <= 10_000


def test_steps_are_numbered_one_by_one() -> None:
    bench = Bench(shard("a b"))
    first, second = bench.machine.take_step(), bench.machine.take_step()

    assert (second.number - first.number, first.is_empty(), second.is_empty()) == (1, True, True)


def test_a_message_to_a_peer_that_is_not_connected_is_not_kept() -> None:
    bench = serving(shard("a b"))
    bench.down("b")
    bench.write("w")

    assert bench.said("b", Append) == []


def test_a_request_is_answered_once_and_a_cancelled_one_never() -> None:
    bench = serving(shard("a b"))
    token = bench.write("w")
    bench.machine.cancel(token)
    bench.ack("b")

    assert bench.result(token) is None and bench.copy().commit == bench.last_sn
