"""What the numbers of a node say of the shards of the whole cluster."""

from __future__ import annotations

from msgspec.structs import replace

from ringkeep_core.shardmap import Primary
from ringkeep_node.metrics import CLUSTER_SHARD_STATES
from ringkeep_node.runtime.reporting import cluster_shards
from ringkeep_testing.maps import shard, shard_map

SHARDS = (
    shard("a b c"),
    shard("b c a"),
    shard("a b", learners="c"),
    shard("b", eligible="a"),
    shard("c a b", learners="d"),
)


def test_every_shard_is_counted_once_by_the_worst_that_is_true_of_it() -> None:
    held = shard_map("a b c d", SHARDS)
    counts = cluster_shards(held, set())

    assert counts == {"ok": 2, "under_replicated": 1, "unavailable": 1, "moving": 1}
    assert set(counts) < set(CLUSTER_SHARD_STATES)


def test_a_shard_whose_primary_is_dead_has_none_whatever_else_is_true_of_it() -> None:
    held = shard_map("a b c d", SHARDS)

    assert cluster_shards(held, {"b"}) == {"without_primary": 2, "ok": 1, "under_replicated": 1, "moving": 1}
    assert cluster_shards(held, {"a", "b", "c"}) == {"without_primary": 5}


def test_a_primary_of_an_earlier_boot_or_of_nobody_is_none() -> None:
    again = replace(shard("a b c"), primary=Primary("a", "a-0"))
    nobody = replace(shard("a b c"), primary=Primary("z", "z-1"))

    assert cluster_shards(shard_map("a b c", (again, nobody, shard("a b c"))), set()) == {"without_primary": 2, "ok": 1}
