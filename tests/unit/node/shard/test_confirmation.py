"""A strict read is confirmed by peers or by Raft, after it arrived (replication.md, rule 2)."""

from __future__ import annotations

from msgspec.structs import replace

from ringkeep_core.mapchanges import Boot, Move, Shrink, Touch
from ringkeep_node.machines.shard.effects import Absent, Moved, NotApplied
from ringkeep_node.machines.shard.messages import Ping, Pong
from ringkeep_node.machines.shard.settings import ReplicationSettings
from ringkeep_testing.maps import FIRST, shard
from ringkeep_testing.shard_bench import Bench, read_request, serving, tell_tails


def _bench(**fields: object) -> Bench:
    return serving(shard("a b c"), **fields)


def test_a_ping_leaves_at_once_to_every_confirmer_and_names_boot_and_map() -> None:
    bench = _bench()
    bench.read()

    (to_b,), (to_c,) = bench.said("b", Ping), bench.said("c", Ping)
    assert to_b == to_c == Ping(to_b.round, "a-1", FIRST)


def test_the_read_is_answered_by_the_last_answer() -> None:
    bench = _bench()
    token = bench.read()
    bench.pong("b")
    early = bench.result(token)
    bench.pong("c")

    assert (early, bench.result(token)) == (None, Absent(1))


def test_reads_that_come_during_a_round_share_the_next_one() -> None:
    bench = _bench()
    first, second, third = bench.read(), bench.read(), bench.read()
    bench.pong("b", "c")
    after_one = [bench.result(token) for token in (first, second, third)]
    bench.pong("b", "c")

    assert (after_one, bench.result(second), bench.result(third)) == ([Absent(1), None, None], Absent(1), Absent(1))
    assert bench.said("b", Ping) == []


def test_one_ping_serves_all_shards_and_each_is_judged_by_its_own_set() -> None:
    bench = Bench(shard("a b"), shard("a c"), shard("a b c"))
    bench.up("b", "c")
    bench.answer_index()
    for number in range(3):
        bench.lead(number).begin()
        bench.copy(number).commit = 1
    bench.sent.clear()
    tokens = []
    for number in range(3):
        bench.tokens += 1
        tokens.append(bench.tokens)
        bench.machine.read(bench.tokens, number, read_request("k"), now=bench.now)
    bench.pump()
    asked = [len([to for to, message in bench.sent if to == name and isinstance(message, Ping)]) for name in "bc"]
    bench.pong("b")
    by_b = [bench.result(token) is not None for token in tokens]
    bench.pong("c")

    assert (asked, by_b, [bench.result(token) for token in tokens]) == ([1, 1], [True, False, False], [Absent(1)] * 3)


def test_an_answer_to_another_round_or_boot_confirms_nothing() -> None:
    bench = _bench()
    token = bench.read()
    bench.pong("b")
    (ping,) = bench.said("c", Ping)
    for message in (
        Pong(ping.round - 1, "a-1", "c-1", FIRST, False, 0),
        Pong(ping.round, "a-0", "c-1", FIRST, False, 0),
        Pong(ping.round, "a-1", "c-0", FIRST, False, 0),
    ):
        bench.hear("c", message)

    assert bench.result(token) is None


def test_an_answer_from_a_boot_that_the_map_ended_does_not_count() -> None:
    bench = _bench()
    token = bench.read()
    bench.pong("b")
    bench.change(Boot("b", "b", "b-2", 2, "http://b", "b:1", live=()))
    bench.pong("c")

    assert bench.result(token) is None


def test_a_peer_silent_for_50_ms_makes_raft_the_judge() -> None:
    bench = _bench()
    token = bench.read()
    bench.pong("b")
    bench.wait(0.049)
    before = list(bench.indexes)
    bench.wait(0.002)
    asked = len(bench.indexes)
    bench.answer_index()

    assert (before, asked, bench.result(token)) == ([], 1, Absent(1))


def test_a_peer_that_was_silent_is_asked_on_but_not_waited_for_until_it_answers() -> None:
    bench = _bench()
    bench.read()
    bench.wait(0.06)
    bench.answer_index()
    second = bench.read()
    by_raft = len(bench.indexes)
    bench.answer_index()
    answered = bench.result(second)
    bench.pong("b", "c")
    third = bench.read()
    bench.pong("b", "c")

    assert (by_raft, answered, bench.result(third), bench.indexes) == (1, Absent(1), Absent(1), [])


def test_a_peer_that_is_not_connected_is_not_waited_for() -> None:
    bench = _bench()
    bench.down("c")
    bench.read()

    assert len(bench.indexes) == 1


def test_a_read_index_waits_for_the_map_at_its_index() -> None:
    bench = _bench()
    token = bench.read()
    bench.wait(0.06)
    bench.answer_index(5)
    early = bench.result(token)
    bench.hold(bench.map, through=4)
    later = bench.result(token)
    bench.hold(bench.map, through=5)

    assert (early, later, bench.result(token)) == (None, None, Absent(1))


def test_a_read_index_that_raft_cannot_give_is_asked_for_again() -> None:
    bench = _bench()
    token = bench.read()
    bench.wait(0.06)
    bench.answer_index(None)
    bench.wait(0.06)
    bench.answer_index()

    assert bench.result(token) == Absent(1)


def test_reads_during_a_read_index_wait_for_the_next_one() -> None:
    bench = _bench()
    bench.down("c")
    first = bench.read()
    second = bench.read()
    asked = len(bench.indexes)
    bench.answer_index()
    between = [bench.result(first), bench.result(second)]
    bench.answer_index()

    assert (asked, between, bench.result(second)) == (1, [Absent(1), None], Absent(1))


def test_a_newer_answer_is_judged_again_when_that_map_is_held() -> None:
    bench = _bench()
    token = bench.read()
    bench.pong("b")
    bench.pong("c", version=FIRST + 1)
    early = bench.result(token)
    bench.change(Touch(0, 1))

    assert (early, bench.result(token)) == (None, Absent(1))


def test_a_newer_answer_whose_map_names_another_primary_moves_the_read() -> None:
    bench = _bench()
    token = bench.read()
    bench.pong("b", "c", version=FIRST + 1)
    bench.change(Move(0, 1, "b"))

    assert bench.result(token) == Moved("b", 2, FIRST + 1)


def test_a_member_that_left_the_set_is_no_longer_waited_for() -> None:
    bench = _bench()
    token = bench.read()
    bench.pong("b")
    bench.change(Shrink(0, 1, ("c",)))

    assert bench.result(token) == Absent(1)


def test_nothing_is_confirmed_before_a_read_index_asked_for_after_the_start() -> None:
    bench = Bench(shard("a b"))
    bench.up("b")
    tell_tails(bench, "b")
    bench.ack("b")
    start, token = list(bench.indexes), bench.read()
    by_raft = bench.indexes[len(start) :]
    bench.machine.read_index_answered(start[0], None, now=bench.now)
    bench.wait(0.1)

    assert (len(start), len(by_raft), bench.result(token), len(bench.indexes)) == (1, 1, None, 3)

    bench.answer_index()

    assert bench.result(token) == Absent(1)


def test_the_start_waits_for_the_map_at_the_index_it_was_given() -> None:
    bench = Bench(shard("a", need=1))
    (start,) = bench.indexes
    bench.machine.read_index_answered(start, 3, now=bench.now)
    bench.pump()
    bench.indexes.clear()
    token = bench.read()
    asks_raft = len(bench.indexes)
    bench.hold(replace(bench.map, version=FIRST + 2), through=3)
    bench.answer_index(3)

    assert (asks_raft, bench.result(token)) == (1, Absent(1))


def test_a_primary_with_the_only_copy_asks_raft_for_every_read_for_nobody_else_knows_of_a_later_boot() -> None:
    bench = Bench(shard("a", need=1))
    bench.answer_index()
    first, second = bench.read(), bench.read()
    early = (bench.result(first), len(bench.indexes))
    bench.answer_index()
    after_one = (bench.result(first), bench.result(second))
    bench.answer_index()

    assert (early, after_one, bench.result(second)) == ((None, 1), (Absent(1), None), Absent(1))


def test_a_ping_is_answered_when_it_is_handled_with_the_map_held_then() -> None:
    bench = _bench()
    bench.machine.wall_ms = 77
    bench.machine.stalled(True, now=bench.now)
    bench.hear("b", Ping(5, "b-1", FIRST - 1))
    bench.change(Touch(0, 1))
    bench.hear("b", Ping(6, "b-1", FIRST))

    assert bench.said("b", Pong) == [
        Pong(5, "b-1", "a-1", FIRST, True, 77),
        Pong(6, "b-1", "a-1", FIRST + 1, True, 77),
    ]


def test_what_peers_say_of_their_disk_and_clock_is_kept() -> None:
    bench = _bench()
    bench.hear("b", Pong(0, "a-1", "b-1", FIRST, True, 99))

    assert bench.machine._confirmation.peer_status == {"b": (True, 99)}


def test_a_read_that_nobody_confirms_ends_at_its_deadline() -> None:
    bench = _bench()
    token = bench.read(deadline=bench.now + 0.5)
    bench.wait(0.5)

    assert bench.result(token) == NotApplied("no_primary", "the deadline passed before anything was done")


def test_reads_that_cannot_be_confirmed_do_not_pile_up() -> None:
    bench = _bench(settings=ReplicationSettings())
    bench.down("b")
    for _ in range(30):
        for _ in range(100):
            bench.read(deadline=bench.now + 0.05)
        bench.wait(0.06)
        bench.answer_index(None)
    bench.wait(0.2)
    confirmation = bench.machine._confirmation
    waiting = [confirmation._next, confirmation._next_index, confirmation._index_reads]

    assert len(bench.answers) == 3000
    assert sum(len(reads) for by_lead in waiting for reads in by_lead.values()) <= 200
