"""What shards cost: a mean that calms jitter, a small value that is rarely new, and a load for each shard in the end."""

import itertools
import random
import string

import pytest

from ringkeep_core.maprules import bootstrap
from ringkeep_core.placement.swaps import ShardLoad
from ringkeep_core.shardmap import Member, Settings, ShardMap
from ringkeep_node.machines.gossip_state import VALUE_BYTES_MAX
from ringkeep_node.machines.shard_loads import (
    LOAD_BYTES_MAX,
    MEASURE_S,
    LoadMeter,
    NodeLoad,
    Rate,
    busiest_share,
    decode_load,
    encode_load,
    has_changed,
    loads_of,
    summary,
)


def _map(members: int, shards: int) -> ShardMap:
    rows = [Member(f"n{n}", f"n{n}", f"b{n}", 1, "", "", "", 0) for n in range(1, members + 1)]
    return bootstrap(cluster_id="c" * 16, members=rows, shards=shards, settings=Settings(replication_factor=members))


def _run(meter: LoadMeter, seconds: int, counts: dict[int, tuple[int, int]], *, start: int = 0) -> list[NodeLoad]:
    """Let each shard be asked for ``counts`` in every interval; return what is told."""
    told = []
    for tick in range(start, start + int(seconds / MEASURE_S)):
        load = meter.measured(counts, now=tick * MEASURE_S)
        if load is not None:
            told.append(load)
    return told


def test_a_steady_load_is_told_once_as_it_is() -> None:
    told = _run(LoadMeter(), 600, {3: (20, 80), 5: (0, 10)})

    assert told == [NodeLoad(Rate(10, 45), {3: Rate(10, 40), 5: Rate(0, 5)})]


def test_the_first_counts_say_nothing_for_nobody_knows_since_when_they_were_counted() -> None:
    meter = LoadMeter()

    assert meter.measured({1: (10**9, 0)}, now=0.0) is None
    assert meter.measured({1: (100, 0)}, now=2.0) == NodeLoad(Rate(50, 0), {1: Rate(50, 0)})


def test_a_shard_that_becomes_hot_is_told_within_a_minute_and_one_that_went_is_not_named_any_more() -> None:
    meter = LoadMeter()
    _run(meter, 60, {1: (200, 0), 2: (200, 0)})
    hot = _run(meter, 60, {1: (2000, 0), 2: (200, 0)}, start=30)
    gone = _run(meter, 60, {2: (200, 0)}, start=60)

    assert 2 <= len(hot) <= 6
    assert hot[-1].hottest[1].reads > 800
    assert gone[0] == NodeLoad(Rate(100, 0), {2: Rate(100, 0)})


def test_loads_that_jitter_are_not_told_again_and_again() -> None:
    draw = random.Random(7)
    meter, told = LoadMeter(), []
    for tick in range(1800):
        counts = {shard: (draw.randint(50, 150), draw.randint(50, 150)) for shard in range(30)}
        told.append(meter.measured(counts, now=tick * MEASURE_S))

    assert sum(1 for load in told if load is not None) <= 2


def test_nobody_is_told_more_often_than_every_ten_seconds() -> None:
    meter, told = LoadMeter(), []
    for tick in range(120):
        load = meter.measured({1: (4 ** (tick % 12), 0)}, now=tick * 0.5)
        if load is not None:
            told.append(tick * 0.5)

    assert len(told) > 3
    assert all(after - before >= 10.0 for before, after in itertools.pairwise(told))


def test_a_node_at_rest_says_so_once() -> None:
    told = _run(LoadMeter(), 600, {1: (1, 0), 2: (3, 1)})

    assert told == [NodeLoad()]
    assert decode_load(encode_load(told[0])) == NodeLoad()


def test_a_meter_that_was_stopped_starts_from_nothing() -> None:
    meter = LoadMeter()
    _run(meter, 60, {1: (200, 0)})
    meter.stop()

    assert meter.due < 0
    assert meter.measured({1: (10**6, 0)}, now=1000.0) is None
    assert meter.measured({1: (100, 0)}, now=1002.0) == NodeLoad(Rate(50, 0), {1: Rate(50, 0)})


def test_a_value_never_exceeds_its_bound_and_names_the_hottest() -> None:
    draw = random.Random(3)
    for _ in range(200):
        shards = draw.sample(range(16384), draw.randint(1, 2000))
        rates = {shard: Rate(draw.random() * 10 ** draw.randint(0, 12), draw.random() * 1e5) for shard in shards}
        load = summary(rates)
        value = encode_load(load)
        named = min((rates[it].operations for it in load.hottest), default=0.0)

        assert len(value) <= LOAD_BYTES_MAX <= VALUE_BYTES_MAX
        assert decode_load(value) == load
        assert len(load.hottest) >= min(len(shards), 15)
        assert all(rate.operations <= named for shard, rate in rates.items() if shard not in load.hottest)


@pytest.mark.parametrize(
    "value", [b"", b"x", b"1", b"1:2:3", b"1:2;", b"1:2;3", b"1:2;3:4:-5", b"1:2;3:4:5:6", b"1:" + b"9" * 10]
)
def test_what_cannot_be_read_says_nothing(value: bytes) -> None:
    assert decode_load(value) is None


def test_anything_at_all_can_be_decoded_without_harm() -> None:
    draw = random.Random(11)
    letters = (string.digits * 3 + "::::;;;x-. \xff").encode("latin-1")
    for _ in range(5000):
        load = decode_load(bytes(draw.choice(letters) for _ in range(draw.randint(0, 40))))

        assert load is None or len(encode_load(load)) <= LOAD_BYTES_MAX


def test_small_changes_beside_the_whole_are_no_news() -> None:
    told = NodeLoad(Rate(1000, 0), {1: Rate(500, 0), 2: Rate(20, 0)})

    assert not has_changed(told, NodeLoad(Rate(1040, 0), {1: Rate(540, 0)}))
    assert has_changed(told, NodeLoad(Rate(1000, 0), {1: Rate(400, 0), 2: Rate(20, 0)}))
    assert has_changed(told, NodeLoad(Rate(0, 1000), {1: Rate(0, 500), 2: Rate(0, 20)}))


def test_every_shard_has_a_load_in_the_end_and_only_its_primary_says_which() -> None:
    shard_map = _map(2, 8)
    led = [[n for n, it in enumerate(shard_map.shards) if it.primary.storage == name] for name in ("n1", "n2")]
    mine, others = led
    told = {
        "n1": NodeLoad(Rate(30, 60), {mine[0]: Rate(0, 60), others[0]: Rate(9999, 0)}),
        "n2": NodeLoad(Rate(40, 0)),
        "stranger": NodeLoad(Rate(5, 5), {0: Rate(5, 5)}),
    }
    loads = loads_of(shard_map, told)

    assert loads[mine[0]] == ShardLoad(60, 30)
    assert loads[others[0]] == ShardLoad(10, 0)
    assert sorted(loads) == list(range(8))
    assert all(load.primary >= 0 for load in loads.values())


def test_while_a_node_that_leads_has_said_nothing_nothing_is_known() -> None:
    assert loads_of(_map(2, 8), {"n1": NodeLoad(Rate(100, 0))}) == {}


def test_the_busiest_nodes_share_is_of_all_operations() -> None:
    assert busiest_share({"n1": NodeLoad(Rate(50, 25)), "n2": NodeLoad(Rate(25, 0))}) == 0.75
    assert busiest_share({"n1": NodeLoad()}) == 0.0
    assert busiest_share({}) == 0.0
