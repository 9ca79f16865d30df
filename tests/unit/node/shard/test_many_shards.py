"""A node with very many shards: opened with bounded memory, and at rest it does nothing for any of them."""

from __future__ import annotations

import time
import tracemalloc

import pytest
from msgspec.structs import replace

from ringkeep_core.shardmap import ShardMap
from ringkeep_node.machines.shard.messages import Append, Commits
from ringkeep_node.machines.shard.replication import Replication
from ringkeep_node.machines.shard.settings import ReplicationSettings
from ringkeep_testing.maps import FIRST, shard, shard_map
from ringkeep_testing.shard_bench import Bench, serving
from ringkeep_testing.sim_store import SimStore

SHARDS = 65_536
LED_EVERY = 16
FOLLOWED_BYTES_MAX = 1_500
LED_BYTES_MAX = 6_000


def _opened(held: ShardMap) -> Replication:
    """Return a node that holds a map and whose disk is done with everything it wrote."""
    machine = Replication(
        me="a", boot="a-1", settings=ReplicationSettings(), store=SimStore(), stored=(), recovered={}, now=0.0
    )
    machine.map_held(held, through=1, now=0.0)
    step = machine.take_step()
    while not step.is_empty():
        machine.synced(step.number, now=0.0)
        for token in step.read_index:
            machine.read_index_answered(token, 1, now=0.0)
        for number, added, entries, _ in step.apply:
            machine.applied([(number, added, entries[-1][1])], now=0.0)
        step = machine.take_step()
    return machine


def test_an_idle_node_with_65536_shards_has_no_timer_and_a_tick_touches_none() -> None:
    alone, followed = shard("a", need=1), shard("b a c")
    machine = _opened(shard_map("a b c", [followed if n % LED_EVERY else alone for n in range(SHARDS)]))
    for tenths in range(1, 5):
        machine.tick(now=tenths / 10)
        machine.take_step()
    begun = time.process_time()
    steps = []
    for _ in range(1000):
        machine.tick(now=2.0)
        steps.append(machine.take_step())
    took_s = time.process_time() - begun

    assert (len(machine._leads), machine.next_deadline()) == (SHARDS // LED_EVERY, None)
    assert all(step.is_empty() for step in steps)
    # Of processor time, so that a busy machine does not count. A look at each shard would take a thousand times 5 ms.
    assert took_s < 1.0


@pytest.mark.parametrize(("members", "bytes_max"), [("b a c", FOLLOWED_BYTES_MAX), ("a b c", LED_BYTES_MAX)])
def test_a_shard_takes_little_memory(members: str, bytes_max: int) -> None:
    count = 2_000
    held = shard_map("a b c", [shard(members)] * count)
    tracemalloc.start()
    try:
        machine = _opened(held)
        used = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()

    assert len(machine._ctx.copies) == count and used / count < bytes_max


def test_an_idle_primary_sends_nothing_and_sleeps() -> None:
    bench = serving(shard("a b c"))
    bench.write("v")
    bench.ack("b", "c")
    bench.wait(1.0)
    bench.sent.clear()
    steps = bench.steps
    bench.wait(3600.0)

    assert (bench.sent, bench.steps - steps, bench.machine.next_deadline()) == ([], 0, None)


def test_a_primary_whose_member_is_away_but_level_sleeps_too() -> None:
    bench = serving(shard("a b c"))
    bench.wait(1.0)
    bench.down("c")
    bench.sent.clear()
    bench.wait(3600.0)

    assert (bench.sent, bench.machine.next_deadline(), bench.proposals) == ([], None, [])


def test_a_map_that_changes_other_shards_wakes_nobody() -> None:
    bench = Bench(shard("a", need=1), shard("b c"))
    bench.answer_index()
    bench.wait(1.0)
    steps = bench.steps
    bench.hold(replace(bench.map, version=FIRST + 1))

    assert (bench.steps - steps, bench.machine.next_deadline()) == (0, None)


def test_commits_of_many_shards_travel_in_one_message() -> None:
    bench = Bench(*[shard("a b")] * 20)
    bench.up("b")
    for number in range(20):
        bench.lead(number).begin()
    bench.pump()
    sent = len(bench.said("b", Append))
    for number in range(20):
        peer = bench.lead(number).peers["b"]
        peer.spoke, peer.match = True, 1
        bench.lead(number).advance()
    bench.pump()
    bench.wait(0.2)

    (news,) = bench.said("b", Commits)
    assert (sent, news) == (20, Commits(tuple((number, 1, 1) for number in range(20))))
