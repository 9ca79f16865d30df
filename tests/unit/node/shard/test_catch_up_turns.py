"""The backlog of learners leaves at leisure while clients are served: piece by piece, in turn, and nobody waits for it."""

from __future__ import annotations

from ringkeep_core.mapchanges import AddLearner
from ringkeep_node.machines.documents import Answer, Begin, Change, ForgetGateways, Write, encode, writes_in
from ringkeep_node.machines.shard.effects import ReadLog, Stored
from ringkeep_node.machines.shard.messages import Ack, Append
from ringkeep_node.machines.shard.settings import ReplicationSettings
from ringkeep_testing.maps import shard
from ringkeep_testing.shard_bench import Bench, put_entry, serving

SLOW = ReplicationSettings(polite_bytes_per_s=100_000, polite_chunk_bytes_max=10_000, polite_row_bytes=0)
BIG = "v" * 5_000


def _full(*learners: str, entries: int = 40, settings: ReplicationSettings = SLOW, value: str = BIG) -> Bench:
    """Return a primary of "a b" that serves clients, whose learners have just told it that they hold nothing."""
    bench = serving(shard("a b"), names="a b c d", settings=settings)
    for number in range(entries):
        bench.write(value, key=f"k{number}")
    bench.ack("b")
    bench.up(*learners)
    for name in learners:
        bench.change(AddLearner(0, bench.map.shards[0].revision, name))
    _serve(bench)
    _serve(bench)
    bench.sent.clear()
    for name in learners:
        bench.hear(name, Ack(0, bench._added(name), 1, 0, True))
    return bench


def _serve(bench: Bench) -> None:
    """Let a client be answered."""
    bench.write("x", key="live")
    bench.ack("b")
    bench.wait(0.01)


def _copied_in(bench: Bench, name: str, seconds: float) -> list[int]:
    """Let a learner take everything at once while clients are served; return how many entries each message carried."""
    carried = []
    for _ in range(round(seconds / 0.01)):
        _serve(bench)
        for message in bench.said(name, Append):
            if message.entries:
                carried.append(len(message.entries))
                bench.ack(name, sn=message.prev_sn + len(message.entries))
    return carried


def test_while_clients_are_served_a_backlog_leaves_in_small_pieces_and_not_faster_than_the_polite_rate() -> None:
    bench = _full("c")
    carried = _copied_in(bench, "c", 1.0)

    assert set(carried) <= {1, 2}
    assert 14 <= sum(carried) <= 24


def test_a_backlog_on_disk_is_read_in_small_pieces_and_not_faster_than_the_polite_rate() -> None:
    settings = ReplicationSettings(
        polite_bytes_per_s=100_000, polite_chunk_bytes_max=10_000, polite_row_bytes=0, cached_bytes_max=1
    )
    bench = _full("c", settings=settings)
    sizes, sn = [], 0
    for _ in range(100):
        for read in [read for read in bench.reads if isinstance(read, ReadLog)]:
            bench.reads.remove(read)
            sizes.append(read.bytes_max)
            sn = read.after_sn + 2
            entries = [put_entry(1, read.after_sn + 1, value=BIG), put_entry(1, sn, value=BIG)]
            bench.machine.log_read(read.token, entries, now=bench.now)
            bench.pump()
            bench.ack("c", sn=sn)
        _serve(bench)

    assert set(sizes) == {10_000}
    assert 14 <= sn <= 24


def test_nobody_waits_for_a_turn_when_no_client_is_served() -> None:
    bench = _full("c", entries=10)
    bench.wait(5.0)
    bench.said("c", Append)
    bench.hear("c", Ack(0, bench._added("c"), 1, 0, True))

    assert [len(message.entries) for message in bench.said("c", Append)] == [13]


def test_backlogs_take_turns() -> None:
    bench = _full("c", "d")
    carried = {"c": 0, "d": 0}
    for _ in range(100):
        _serve(bench)
        for name in ("c", "d"):
            for message in bench.said(name, Append):
                carried[name] += len(message.entries)
                bench.ack(name, sn=message.prev_sn + len(message.entries))

    assert min(carried.values()) >= 6 and sum(carried.values()) <= 26


def test_what_is_written_meanwhile_is_sent_without_a_turn_once_the_backlog_is_there() -> None:
    bench = _full("c")
    end = bench.lead().peers["c"].backlog
    for number in range(30):
        bench.write(BIG, key=f"new-{number}")
    bench.ack("b")
    bench.sent.clear()
    bench.ack("c", sn=end)

    assert sum(len(message.entries) for message in bench.said("c", Append)) == bench.last_sn - end


def test_who_waits_for_its_turn_is_not_sent_anything_again() -> None:
    bench = _full("c", settings=ReplicationSettings(polite_bytes_per_s=5_000, polite_chunk_bytes_max=5_000))
    carried = []
    for _ in range(100):
        _serve(bench)
        carried += [message.prev_sn for message in bench.said("c", Append) if message.entries]

    assert len(carried) == len(set(carried))


def test_a_learner_that_lacks_few_but_large_entries_is_not_awaited() -> None:
    bench = _full("c", entries=3, value="v" * 60_000)
    token = bench.write("v")
    bench.ack("b")

    assert [peer.storage for peer in bench.lead().awaited] == ["b"]
    assert isinstance(bench.result(token), Stored)


def test_where_large_documents_are_always_on_the_way_a_learner_that_takes_them_as_fast_is_awaited() -> None:
    bench = _full("c", entries=1, value="v" * 60_000)
    for _ in range(20):
        behind = bench.last_sn
        for _ in range(2):
            bench.write("v" * 60_000)
        bench.ack("b")
        bench.ack("c", sn=behind)
        bench.wait(0.02)

    assert [peer.storage for peer in bench.lead().awaited] == ["b", "c"]


def test_how_many_documents_an_entry_writes_is_seen_without_decoding_it() -> None:
    def change(count: int) -> bytes:
        return encode(Change(tuple(Write("u", f"k{number}", b"v", "t") for number in range(count)), Answer.IMPORTED, 1))

    counts = (1, 15, 16, 512, 70_000)

    assert [writes_in(change(count)) for count in counts] == list(counts)
    assert [writes_in(encode(body)) for body in (Begin("a", "a-1", 1), ForgetGateways(("a-1",), 1, 1))] == [0, 0]
    assert [writes_in(data) for data in (b"", b"\x93", b"\x93\x01")] == [0, 0, 0]
