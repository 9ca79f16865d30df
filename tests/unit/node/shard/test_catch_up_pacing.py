"""How fast snapshots leave a node, and what holds them back."""

from __future__ import annotations

from msgspec.structs import replace

from ringkeep_node.machines.documents import Row
from ringkeep_node.machines.shard.effects import ReadLog, ReadRows
from ringkeep_node.machines.shard.messages import Ack, Append, SnapshotAck, SnapshotBegin, SnapshotRows
from ringkeep_node.machines.shard.pacing import Pace
from ringkeep_node.machines.shard.settings import ReplicationSettings
from ringkeep_testing.maps import FIRST, shard
from ringkeep_testing.shard_bench import Bench, serving

RUDE = ReplicationSettings(cached_bytes_max=1, polite_bytes_per_s=0)
ROW = Row("u", "k", 1, 1, "t", bytes(10_000))


def _streaming(settings: ReplicationSettings = RUDE, *, bytes_per_s: int = 0) -> tuple[Bench, SnapshotBegin]:
    """Return a primary whose snapshot for the learner "c" has begun there."""
    bench = serving(shard("a b", learners="c"), settings=settings)
    if bytes_per_s:
        _limit(bench, bytes_per_s)
    bench.write("v")
    bench.ack("b")
    bench.machine._ctx.cache.evict()
    bench.hear("c", Ack(0, FIRST, 1, 0, True))
    (read,) = [read for read in bench.reads if isinstance(read, ReadLog)]
    bench.reads.remove(read)
    bench.machine.log_read(read.token, None, now=bench.now)
    bench.pump()
    (begin,) = bench.said("c", SnapshotBegin)
    _took(bench, begin, 0)
    return bench, begin


def _limit(bench: Bench, bytes_per_s: int) -> None:
    wanted = bench.map.wanted
    limited = replace(wanted, settings=replace(wanted.settings, bytes_per_s=bytes_per_s))
    bench.hold(replace(bench.map, version=bench.map.version + 1, wanted=limited))


def _took(bench: Bench, begin: SnapshotBegin, piece: int) -> None:
    bench.hear("c", SnapshotAck(0, FIRST, 1, begin.stream, piece))


def _read(bench: Bench) -> list[int]:
    """Answer every read of rows that is open with one row; return how large the pieces might have been."""
    sizes = []
    while bench.reads:
        read = bench.reads.pop()
        assert isinstance(read, ReadRows)
        sizes.append(read.bytes_max)
        bench.machine.rows_read(read.token, [ROW], True, now=bench.now)
        bench.pump()
    return sizes


def _sent_in(bench: Bench, begin: SnapshotBegin, seconds: float) -> int:
    """Let a learner take everything at once for a while; return the bytes that it was sent."""
    before = bench.machine.tally.snapshot_bytes_sent
    for _ in range(round(seconds / 0.01)):
        _read(bench)
        for message in bench.said("c", SnapshotRows):
            _took(bench, begin, message.piece)
        bench.wait(0.01)
    return bench.machine.tally.snapshot_bytes_sent - before


def test_a_few_pieces_are_on_the_way_and_an_acknowledgement_counts_for_all_before_it() -> None:
    bench, begin = _streaming()
    first = len(_read(bench))
    _took(bench, begin, 3)
    then = len(_read(bench))
    _took(bench, begin, 2)

    assert (first, then, bench.reads) == (4, 3, [])


def test_a_node_sends_at_most_the_wanted_bytes_per_second() -> None:
    bench, begin = _streaming(bytes_per_s=100_000)
    sent = _sent_in(bench, begin, 4.0)

    assert 350_000 <= sent <= 425_000


def test_another_limit_counts_at_once() -> None:
    bench, begin = _streaming(bytes_per_s=100)
    slow = _sent_in(bench, begin, 1.0)
    _limit(bench, 1_000_000)
    fast = _sent_in(bench, begin, 1.0)

    assert slow <= 10_100 and fast >= 900_000


def test_a_stream_that_waits_long_for_its_turn_stays_alive_by_empty_pieces() -> None:
    bench, begin = _streaming(bytes_per_s=100)
    _read(bench)
    _took(bench, begin, 1)
    bench.said("c", SnapshotRows)
    empty = []
    for _ in range(80):
        bench.wait(0.1)
        for message in bench.said("c", SnapshotRows):
            empty.append(message.rows)
            _took(bench, begin, message.piece)

    assert len(empty) >= 4 and set(empty) == {()}
    assert (bench.machine.streams, bench.machine.has_streams) == ((1, 0), True)


def test_while_clients_are_served_pieces_are_small_and_slower_and_afterwards_not() -> None:
    settings = ReplicationSettings(polite_bytes_per_s=1_000_000)
    pace = Pace(settings)
    pace.served(10.0)
    small = pace.piece_bytes(10.0)
    pace.charge(200_000, 0, 10.0)
    waits = pace.free_at(10.0) > 10.1

    assert (small, waits) == (settings.polite_chunk_bytes_max, True)
    assert (pace.piece_bytes(12.0), pace.free_at(12.0) <= 12.0) == (settings.chunk_bytes_max, True)


def _paid_in(pace: Pace, now: float) -> float:
    """Return in how many seconds a million bytes that are copied now are paid off."""
    pace.charge(1_000_000, 0, now)
    return round(pace.free_at(now) - now, 2)


def test_a_loop_that_is_late_halves_the_rate_down_to_a_share_and_it_grows_back() -> None:
    took = {}
    for late, then in ((0, 0.0), (1, 0.0), (2, 0.0), (9, 0.0), (9, 1.0), (9, 4.0)):
        pace = Pace(ReplicationSettings(polite_bytes_per_s=1_000_000, polite_share_min=0.25))
        pace.served(20.0)
        now = 20.0
        for _ in range(late):
            pace.late(now)
            pace.late(now + 0.01)
            now += 0.1
        pace.served(now + then)
        took[late, then] = _paid_in(pace, now + then)

    assert 0.9 <= took[0, 0.0] <= 1.0
    assert 1.8 <= took[1, 0.0] <= 2.0
    assert 3.0 <= took[2, 0.0] <= 4.0 and 3.5 <= took[9, 0.0] <= 4.0
    assert 1.8 <= took[9, 1.0] <= 2.0 and took[9, 4.0] == took[0, 0.0]


def test_timers_that_come_late_on_the_average_lower_the_rate_and_timers_in_time_let_it_grow_back() -> None:
    took = {}
    for lag_s, windows in ((0.0003, 9), (0.0004, 1), (0.0004, 2), (0.0004, 9)):
        pace = Pace(ReplicationSettings(polite_bytes_per_s=1_000_000, polite_share_min=0.25, polite_lag_s=0.0003))
        now = 20.0
        pace.served(now)
        for _ in range(windows):
            now += 0.1
            pace.felt(lag_s, now)
        took[lag_s, windows] = _paid_in(pace, now)
    pace.served(now + 4.0)
    afterwards = _paid_in(pace, now + 4.0)

    assert took[0.0003, 9] == afterwards == 0.95
    assert (took[0.0004, 1], took[0.0004, 2]) == (1.38, 1.92)
    assert took[0.0004, 9] == 3.95


def test_a_node_that_serves_clients_while_its_timers_are_late_copies_less() -> None:
    sent = []
    for lag_s in (0.0, 0.001):
        bench, begin = _streaming(ReplicationSettings(cached_bytes_max=1, polite_bytes_per_s=1_000_000))
        total = 0
        for _ in range(30):
            bench.machine.tally.served_at = bench.now
            bench.machine.timers_late(lag_s, now=bench.now)
            total += _sent_in(bench, begin, 0.1)
        sent.append(total)

    assert 2_500_000 <= sent[0] <= 3_500_000
    assert sent[1] <= 0.5 * sent[0]


def test_a_late_loop_holds_nothing_back_when_no_client_is_served() -> None:
    pace = Pace(ReplicationSettings())
    pace.late(10.0)
    pace.felt(1.0, 11.0)

    assert _paid_in(pace, 10.0) == 0.0


def test_a_learner_whose_store_lags_acknowledges_when_it_does_not_any_more() -> None:
    bench = Bench(shard("b c", learners="a", epoch=3))
    bench.up("b", "c")
    bench.hear("b", SnapshotBegin(0, FIRST, 3, 7, 3, 30, bench.copy().state.copy(), ()))
    bench.machine.store_waits(64 << 20, now=bench.now)
    for number in (1, 2):
        bench.hear("b", SnapshotRows(0, FIRST, 3, 7, number, (ROW,), (), False))
    before = bench.said("b", SnapshotAck)
    bench.machine.store_waits(0, now=bench.now)
    bench.pump()

    assert (before, bench.said("b", SnapshotAck)) == (
        [SnapshotAck(0, FIRST, 3, 7, 0)],
        [SnapshotAck(0, FIRST, 3, 7, 2)],
    )


def test_a_learner_whose_store_lagged_does_not_acknowledge_the_last_piece_before_it_is_in_place() -> None:
    bench = Bench(shard("b c", learners="a", epoch=3))
    bench.up("b", "c")
    bench.hear("b", SnapshotBegin(0, FIRST, 3, 7, 3, 30, bench.copy().state.copy(), ()))
    bench.machine.store_waits(64 << 20, now=bench.now)
    for number, last in ((1, False), (2, True)):
        bench.hear("b", SnapshotRows(0, FIRST, 3, 7, number, (ROW,), (), last))
    bench.machine.store_waits(0, now=bench.now)
    bench.pump()

    assert bench.said("b", SnapshotAck) == [SnapshotAck(0, FIRST, 3, 7, 0)]


def test_a_stream_that_begins_pays_what_other_streams_owe() -> None:
    bench = serving(shard("a b", learners="c d"), names="a b c d", settings=RUDE)
    _limit(bench, 10_000)
    bench.write("v")
    bench.ack("b")
    bench.machine._ctx.cache.evict()
    read = []
    for name in ("c", "d"):
        bench.hear(name, Ack(0, FIRST, 1, 0, True))
        (log,) = [one for one in bench.reads if isinstance(one, ReadLog)]
        bench.reads.remove(log)
        bench.machine.log_read(log.token, None, now=bench.now)
        bench.pump()
        (begin,) = bench.said(name, SnapshotBegin)
        bench.hear(name, SnapshotAck(0, FIRST, 1, begin.stream, 0))
        read.append(len(_read(bench)))

    assert (read, bench.machine.streams) == ([1, 0], (2, 0))


def test_what_was_answered_long_before_a_snapshot_began_asks_for_no_manners() -> None:
    settings = ReplicationSettings()
    pace = Pace(settings)
    at_first = pace.piece_bytes(10.0)
    pace.served(10.0)
    later = pace.piece_bytes(60.0)
    pace.served(60.1)

    assert (at_first, later) == (settings.chunk_bytes_max, settings.chunk_bytes_max)
    assert pace.piece_bytes(60.1) == settings.polite_chunk_bytes_max


def test_a_learner_that_first_says_where_it_stands_is_sent_what_it_lacks_at_once() -> None:
    bench = serving(shard("a b", learners="c"))
    bench.write("v")
    bench.ack("b")
    asked: list[Append] = []
    while not asked:
        bench.sent.clear()
        bench.wait(0.1)
        asked = bench.said("c", Append)
    bench.hear("c", Ack(0, FIRST, 1, 0, True))

    assert [len(message.entries) for message in bench.said("c", Append)] == [2]
