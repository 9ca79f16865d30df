"""Copies that lack more than what is in memory: pieces of the log from disk, and snapshots."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from ringkeep_core.mapchanges import Failover, RemoveCopy, Unfit
from ringkeep_node.machines.documents import CopyState, Remembered, Row
from ringkeep_node.machines.records import EpochStart, Kind, Record
from ringkeep_node.machines.recovery import encode_epochs
from ringkeep_node.machines.shard.effects import (
    CreateCopy,
    DropCopy,
    InstallAbort,
    InstallBegin,
    InstallFinish,
    InstallRows,
    LogEntry,
    ReadLog,
    ReadRows,
    StoreOrder,
)
from ringkeep_node.machines.shard.messages import Ack, Append, SnapshotAck, SnapshotBegin, SnapshotRows
from ringkeep_node.machines.shard.settings import ReplicationSettings
from ringkeep_testing.maps import FIRST, shard
from ringkeep_testing.shard_bench import Bench, append_of, begin_entry, named, put_entry, read_request, serving

ROWS = tuple(Row("u", f"k{number}", number, 1, "t", b"v") for number in range(1, 4))
KEPT = Remembered("u", "order-1", b"h", 1, 2, 1)
EPOCHS = (EpochStart(1, 1), EpochStart(3, 20))

# --- out ----------------------------------------------------------------------------------------------------------


UNPACED = ReplicationSettings(cached_bytes_max=1, polite_bytes_per_s=0, pieces_ahead=1)


def _sender(*, entries: int = 3, settings: ReplicationSettings = UNPACED) -> Bench:
    """Return a primary of "a b" whose committed entries are in the store and no longer in memory."""
    bench = serving(shard("a b", learners="c"), settings=settings)
    for number in range(entries):
        bench.write("v", key=f"k{number}", idempotency=named(f"n{number}"))
        bench.ack("b")
    bench.machine._ctx.cache.evict()
    bench.sent.clear()
    return bench


def _says_it_is_empty(bench: Bench, *names: str) -> None:
    for name in names:
        bench.hear(name, Ack(0, FIRST, 1, 0, True))


def _log_read(bench: Bench, entries: Sequence[LogEntry] | None) -> ReadLog:
    read = next(read for read in bench.reads if isinstance(read, ReadLog))
    bench.reads.remove(read)
    bench.machine.log_read(read.token, entries, now=bench.now)
    bench.pump()
    return read


def _rows_read(bench: Bench, rows: Sequence[Row] | Sequence[Remembered], *, more: bool = False) -> ReadRows:
    read = next(read for read in bench.reads if isinstance(read, ReadRows))
    bench.reads.remove(read)
    bench.machine.rows_read(read.token, rows, more, now=bench.now)
    bench.pump()
    return read


def _streaming(bench: Bench, name: str = "c") -> SnapshotBegin:
    """Let a learner say that it is empty and the log have nothing for it; return how its snapshot begins."""
    _says_it_is_empty(bench, name)
    _log_read(bench, None)
    (begin,) = bench.said(name, SnapshotBegin)
    return begin


def _took(bench: Bench, begin: SnapshotBegin, piece: int, name: str = "c", *, aborted: bool = False) -> None:
    bench.hear(name, SnapshotAck(0, FIRST, 1, begin.stream, piece, aborted))


def test_what_is_no_longer_in_memory_is_read_from_disk_once_at_a_time() -> None:
    bench = _sender()
    _says_it_is_empty(bench, "c")
    bench.wait(1.0)
    reads = [read for read in bench.reads if isinstance(read, ReadLog)]
    entries = [put_entry(1, 1), put_entry(1, 2)]
    _log_read(bench, entries)

    assert [(read.shard, read.copy, read.after_sn) for read in reads] == [(0, FIRST, 0)]
    assert [(message.prev_sn, len(message.entries)) for message in bench.said("c", Append)][:1] == [(0, 2)]


def test_a_read_that_is_overtaken_by_a_reconnection_is_dropped() -> None:
    bench = _sender()
    _says_it_is_empty(bench, "c")
    bench.down("c")
    bench.up("c")
    bench.said("c", Append)
    _log_read(bench, [put_entry(1, 1)])

    assert bench.said("c", Append) == []


def test_what_the_log_has_let_go_of_is_sent_as_a_snapshot() -> None:
    bench = _sender()
    begin = _streaming(bench)

    copy = bench.copy()
    assert begin == SnapshotBegin(0, FIRST, 1, begin.stream, 1, 4, copy.state, (EpochStart(1, 1),))


def test_rows_then_idempotency_rows_are_sent_piece_by_piece_each_after_its_acknowledgement() -> None:
    bench = _sender()
    begin = _streaming(bench)
    none_yet = list(bench.reads)
    _took(bench, begin, 0)
    first = _rows_read(bench, ROWS[:2], more=True)
    waits = list(bench.reads)
    _took(bench, begin, 1)
    second = _rows_read(bench, ROWS[2:])
    _took(bench, begin, 2)
    third = _rows_read(bench, [KEPT])

    assert (none_yet, waits) == ([], [])
    assert [(read.cursor, read.of_remembered) for read in (first, second, third)] == [
        (None, False),
        (("u", "k2"), False),
        (None, True),
    ]
    assert bench.said("c", SnapshotRows) == [
        SnapshotRows(0, FIRST, 1, begin.stream, 1, ROWS[:2], (), False),
        SnapshotRows(0, FIRST, 1, begin.stream, 2, ROWS[2:], (), False),
        SnapshotRows(0, FIRST, 1, begin.stream, 3, (), (KEPT,), True),
    ]


def test_a_repeated_acknowledgement_reads_nothing_twice() -> None:
    bench = _sender()
    begin = _streaming(bench)
    _took(bench, begin, 0)
    _took(bench, begin, 0)

    assert len(bench.reads) == 1


def test_rows_are_not_read_before_the_store_has_applied_the_base() -> None:
    bench = _sender()
    bench.stores = False
    bench.write("v", key="late")
    bench.ack("b")
    begin = _streaming(bench)
    _took(bench, begin, 0)
    before = list(bench.reads)
    bench.store_all()

    assert (begin.base_sn, before, [type(read) for read in bench.reads]) == (5, [], [ReadRows])


def test_after_the_snapshot_entries_are_sent_from_its_base_on() -> None:
    bench = _sender()
    begin = _streaming(bench)
    bench.write("after", key="after")
    for piece, rows in enumerate((ROWS, [KEPT])):
        _took(bench, begin, piece)
        _rows_read(bench, rows)  # type: ignore[arg-type]  # rows of the kind that is asked for
    bench.said("c", Append)
    _took(bench, begin, 2)

    assert [(message.prev_sn, len(message.entries)) for message in bench.said("c", Append)] == [(begin.base_sn, 1)]
    assert bench.lead().peers["c"].match == begin.base_sn


def test_the_tail_follows_whichever_of_the_two_acknowledgements_of_the_base_comes_first() -> None:
    bench = _sender()
    begin = _streaming(bench)
    bench.write("after", key="after")
    for piece, rows in enumerate((ROWS, [KEPT])):
        _took(bench, begin, piece)
        _rows_read(bench, rows)  # type: ignore[arg-type]  # rows of the kind that is asked for
    bench.said("c", Append)
    bench.hear("c", Ack(0, FIRST, 1, begin.base_sn, True))
    before = bench.said("c", Append)
    _took(bench, begin, 2)

    assert (before, [message.prev_sn for message in bench.said("c", Append)]) == ([], [begin.base_sn])


def test_a_stream_is_not_over_before_the_learner_has_everything_on_disk() -> None:
    bench = _sender()
    begin = _streaming(bench)
    for piece, rows in enumerate((ROWS, [KEPT])):
        _took(bench, begin, piece)
        _rows_read(bench, rows)  # type: ignore[arg-type]  # rows of the kind that is asked for
    sent = bench.said("c", SnapshotRows)
    bench.wait(0.45)
    peer = bench.lead().peers["c"]
    during = (peer.stream, peer.match, bench.said("c", SnapshotRows))
    _took(bench, begin, 2)

    assert (during, peer.stream, peer.match) == ((begin.stream, 0, sent[-1:]), 0, begin.base_sn)


def test_what_a_learner_does_not_take_is_sent_again_ever_more_rarely() -> None:
    bench = _sender()
    begin = _streaming(bench)
    bench.wait(0.45)
    begins = bench.said("c", SnapshotBegin)
    _took(bench, begin, 0)
    _rows_read(bench, ROWS, more=True)
    times = []
    for _ in range(44):
        bench.wait(0.1)
        times += [round(bench.now - 100.0, 1)] * len(bench.said("c", SnapshotRows))
    _took(bench, begin, 1)

    assert (begins, len(times), len(bench.reads)) == ([begin], 5, 1)
    assert [later - sooner > 0.2 for sooner, later in pairwise(times)] == [True] * 4


def test_only_so_many_snapshots_leave_a_node_at_once_and_the_next_begins_when_one_is_over() -> None:
    bench = Bench(
        shard("a b", learners="c d"),
        names="a b c d",
        settings=ReplicationSettings(cached_bytes_max=1, streams_max=1),
    )
    bench.up("b", "c", "d")
    bench.answer_index()
    bench.lead().begin()
    bench.pump()
    bench.ack("b")
    bench.write("v")
    bench.ack("b")
    bench.machine._ctx.cache.evict()
    _says_it_is_empty(bench, "c", "d")
    _log_read(bench, None)
    _log_read(bench, None)
    (begin,) = bench.said("c", SnapshotBegin)
    second = bench.said("d", SnapshotBegin)
    _took(bench, begin, 0, aborted=True)
    for _ in range(10):
        bench.wait(0.1)
        while any(isinstance(read, ReadLog) for read in bench.reads):
            _log_read(bench, None)

    assert second == []
    assert len({again.stream for name in "cd" for again in bench.said(name, SnapshotBegin)}) == 1


def test_a_stream_that_stands_still_or_whose_peer_is_gone_is_given_up() -> None:
    silent, gone = _sender(), _sender()
    for bench in (silent, gone):
        _streaming(bench)
    silent.wait(4.9)
    open_still = silent.machine._catch_up.is_busy()
    silent.wait(0.3)
    gone.down("c")
    gone.wait(0.2)

    assert open_still
    for bench in (silent, gone):
        assert bench.lead().peers["c"].stream == 0


def test_a_stream_ends_with_its_epoch() -> None:
    bench = _sender()
    begin = _streaming(bench)
    _took(bench, begin, 0)
    bench.change(Failover(0, 1, "b", ("a", "b")))
    bench.wait(0.2)
    bench.hear("c", SnapshotAck(0, FIRST, 1, begin.stream, 0))

    assert not bench.machine._catch_up.is_busy()


def test_a_copy_that_counts_as_complete_leaves_the_sets_before_it_gets_a_snapshot() -> None:
    bench = serving(shard("a b", need=1), settings=ReplicationSettings(cached_bytes_max=1))
    for _ in range(3):
        bench.write("v")
    bench.copy().log.released = 4
    bench.machine._ctx.cache.evict()
    bench.wait(0.1)
    bench.ack("b", sn=1, resend=True)
    _log_read(bench, None)

    assert (bench.proposals, bench.said("b", SnapshotBegin)) == ([Unfit(0, 1, "b", FIRST)], [])


# --- in -----------------------------------------------------------------------------------------------------------


def _learner(*, count: int = 1, streams: int = 2) -> Bench:
    """Return a node "a" that is a learner of shards led by "b" in epoch 3."""
    one = shard("b c", learners="a", epoch=3)
    bench = Bench(*[one] * count, settings=ReplicationSettings(streams_max=streams))
    bench.up("b", "c")
    bench.orders.clear()
    return bench


def _begin(stream: int = 7, *, number: int = 0, base_sn: int = 30, copy: int = FIRST, epoch: int = 3) -> SnapshotBegin:
    return SnapshotBegin(number, copy, epoch, stream, 3, base_sn, CopyState(wall_ms_max=5), EPOCHS)


def _piece(number: int, rows: tuple[Row, ...] = (), *, last: bool = False, stream: int = 7) -> SnapshotRows:
    return SnapshotRows(0, FIRST, 3, stream, number, rows, (KEPT,) if last else (), last)


def _answer(piece: int, *, stream: int = 7, aborted: bool = False, number: int = 0) -> SnapshotAck:
    return SnapshotAck(number, FIRST, 3, stream, piece, aborted)


FINISH = InstallFinish(0, FIRST, 3, 30, CopyState(wall_ms_max=5), EPOCHS)


def _installed(bench: Bench) -> None:
    bench.machine.installed(0, FIRST, now=bench.now)
    bench.pump()


def test_a_snapshot_is_built_beside_the_copy_and_takes_its_place_at_the_end() -> None:
    bench = _learner()
    bench.hear("b", _begin())
    bench.hear("b", _piece(1, ROWS))
    bench.hear("b", _piece(2, last=True))
    expected: list[StoreOrder] = [
        InstallBegin(0, FIRST),
        InstallRows(0, FIRST, ROWS, ()),
        InstallRows(0, FIRST, (), (KEPT,)),
        FINISH,
    ]

    assert (bench.orders, bench.said("b", SnapshotAck)) == (expected, [_answer(0), _answer(1)])


def test_when_it_is_in_place_the_log_restarts_at_its_base_and_that_is_acknowledged_when_durable() -> None:
    bench = _learner()
    for message in (_begin(), _piece(1, ROWS, last=True)):
        bench.hear("b", message)
    bench.syncs = False
    _installed(bench)
    early = bench.said("b", Ack)
    bench.sync()

    reset = Record(Kind.SHARD_RESET, 0, FIRST, 3, 30, encode_epochs(EPOCHS))
    copy = bench.copy()
    assert (bench.records[-1], early, bench.said("b", Ack)) == (reset, [], [Ack(0, FIRST, 3, 30, True)])
    assert (copy.log.last_epoch, copy.log.last_sn, copy.applied, copy.installing) == (3, 30, 30, False)
    assert copy.state == CopyState(wall_ms_max=5)


def test_while_it_comes_in_nothing_is_appended_and_afterwards_everything_is() -> None:
    bench = _learner()
    bench.hear("b", _begin())
    bench.hear("b", append_of([put_entry(3, 31)], prev=(3, 30)))
    during = (bench.last_sn, bench.said("b", Ack))
    bench.hear("b", _piece(1, last=True))
    _installed(bench)
    bench.said("b", Ack)
    bench.hear("b", append_of([put_entry(3, 31)], prev=(3, 30), commit=31))

    assert during == (0, [])
    assert (bench.said("b", Ack), bench.copy().handed) == ([Ack(0, FIRST, 3, 31)], 31)


def test_the_last_piece_is_acknowledged_when_the_snapshot_is_in_place_and_durable() -> None:
    bench = _learner()
    for message in (_begin(), _piece(1, ROWS), _piece(2, last=True), _piece(2, last=True)):
        bench.hear("b", message)
    taken = bench.said("b", SnapshotAck)
    bench.syncs = False
    _installed(bench)
    early = bench.said("b", SnapshotAck)
    bench.sync()

    assert (taken, early, bench.said("b", SnapshotAck)) == ([_answer(0), _answer(1)], [], [_answer(2)])


def test_pieces_out_of_order_are_ignored_and_repeated_ones_are_acknowledged_again() -> None:
    bench = _learner()
    bench.hear("b", _begin())
    for number in (2, 1, 1, 3):
        bench.hear("b", _piece(number, ROWS))

    assert [type(order) for order in bench.orders] == [InstallBegin, InstallRows]
    assert bench.said("b", SnapshotAck) == [_answer(0), _answer(1), _answer(1)]


def test_a_repeated_begin_is_acknowledged_again() -> None:
    bench = _learner()
    bench.hear("b", _begin())
    bench.hear("b", _begin())

    assert (bench.orders, bench.said("b", SnapshotAck)) == ([InstallBegin(0, FIRST)], [_answer(0), _answer(0)])


def test_a_repeated_begin_starts_nothing_again() -> None:
    bench = _learner()
    bench.hear("b", _begin())
    bench.hear("b", _piece(1, ROWS))
    bench.hear("b", _begin())
    bench.hear("b", _piece(2, last=True))

    assert [type(order) for order in bench.orders] == [InstallBegin, InstallRows, InstallRows, InstallFinish]


def test_a_newer_stream_takes_the_place_of_an_unfinished_one() -> None:
    bench = _learner()
    bench.hear("b", _begin())
    bench.hear("b", _begin(8))
    bench.hear("b", _piece(1, ROWS))

    assert [type(order) for order in bench.orders] == [InstallBegin, InstallAbort, InstallBegin]
    assert bench.said("b", SnapshotAck)[-1] == _answer(0, aborted=True)


def test_a_snapshot_that_is_being_swapped_in_is_not_stopped() -> None:
    bench = _learner()
    bench.hear("b", _begin())
    bench.hear("b", _piece(1, last=True))
    bench.hear("b", _begin(8))
    bench.wait(20.0)

    assert InstallAbort(0, FIRST) not in bench.orders
    assert _answer(0, stream=8, aborted=True) in bench.said("b", SnapshotAck)


def test_a_snapshot_for_another_copy_or_older_than_what_is_applied_is_refused() -> None:
    bench = _learner()
    bench.hear("b", append_of([begin_entry(3, 1, "b"), put_entry(3, 2)], commit=2))
    bench.hear("b", _begin(7, copy=FIRST + 1))
    bench.hear("b", _begin(8, base_sn=1))

    assert bench.said("b", SnapshotAck) == [
        SnapshotAck(0, FIRST + 1, 3, 7, 0, True),
        SnapshotAck(0, FIRST, 3, 8, 0, True),
    ]
    assert bench.orders == []


def test_a_copy_that_holds_more_than_the_snapshot_refuses_it_and_says_how_far_it_is() -> None:
    bench = _learner()
    bench.hear("b", append_of([begin_entry(3, 1, "b"), put_entry(3, 2), put_entry(3, 3)], commit=1))
    bench.said("b", Ack)
    bench.hear("b", _begin(base_sn=2))

    assert (bench.said("b", SnapshotAck), bench.said("b", Ack)) == (
        [_answer(0, aborted=True)],
        [Ack(0, FIRST, 3, 3, True)],
    )
    assert bench.orders == []


def test_a_read_of_the_log_that_an_acknowledgement_overtook_starts_no_snapshot() -> None:
    bench = _sender()
    _says_it_is_empty(bench, "c")
    bench.ack("c", sn=2)
    _log_read(bench, [put_entry(1, 1)])

    assert bench.said("c", SnapshotBegin) == []


def test_only_so_many_snapshots_come_in_at_once() -> None:
    bench = _learner(count=3)
    for number in range(3):
        bench.hear("b", _begin(10 + number, number=number))

    assert bench.said("b", SnapshotAck) == [
        _answer(0, stream=10, number=0),
        _answer(0, stream=11, number=1),
        _answer(0, stream=12, number=2, aborted=True),
    ]


def test_a_new_epoch_throws_an_unfinished_snapshot_away() -> None:
    bench = _learner()
    bench.hear("b", _begin())
    bench.change(Failover(0, 3, "c", ("c",)))

    assert (bench.orders, bench.copy().installing) == ([InstallBegin(0, FIRST), InstallAbort(0, FIRST)], False)


def test_a_snapshot_finished_in_an_older_epoch_is_kept_and_acknowledged_to_nobody() -> None:
    bench = _learner()
    bench.hear("b", _begin())
    bench.hear("b", _piece(1, last=True))
    bench.change(Failover(0, 3, "c", ("c",)))
    bench.hear("c", append_of([begin_entry(4, 31, "c")], prev=(3, 30)))
    _installed(bench)
    early = bench.said("b", Ack) + bench.said("c", Ack)
    bench.hear("c", append_of([begin_entry(4, 31, "c")], prev=(3, 30)))

    assert (early, bench.said("c", Ack)) == ([], [Ack(0, FIRST, 4, 31)])


def test_a_stream_that_stands_still_is_thrown_away_and_may_begin_again() -> None:
    bench = _learner()
    bench.hear("b", _begin())
    bench.wait(5.2)
    bench.hear("b", _begin(8))

    assert bench.orders == [InstallBegin(0, FIRST), InstallAbort(0, FIRST), InstallBegin(0, FIRST)]


def test_a_copy_dropped_while_its_snapshot_is_swapped_in_does_not_come_back_into_the_log() -> None:
    bench = _learner()
    bench.hear("b", _begin())
    bench.hear("b", _piece(1, last=True))
    bench.change(RemoveCopy(0, 3, "a", FIRST))
    _installed(bench)

    assert bench.records[-1] == Record(Kind.SHARD_DROP, 0, FIRST, 0, 0)
    assert (bench.orders[-1], bench.machine._catch_up.is_busy()) == (DropCopy(0, FIRST), False)


def test_a_store_that_says_it_swapped_in_what_nobody_asked_for_changes_nothing() -> None:
    bench = _learner()
    _installed(bench)

    assert bench.records == [] and bench.last_sn == 0


def test_learners_read_locally_from_what_they_have() -> None:
    bench = _learner()
    bench.hear("b", _begin())
    token = bench.request(read_request("k", local=True))

    assert bench.result(token) is not None and CreateCopy(0, FIRST) not in bench.orders
