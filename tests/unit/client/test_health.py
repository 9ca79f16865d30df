"""How well shards are kept, judged from the map and the members."""

from __future__ import annotations

import pytest

from ringkeep.answers import Copy, Member, Primary, Shard, ShardMap
from ringkeep.health import ShardState, copies_wanted, shard_states


def _shard(primary: str | None = "n1", *, in_sync: str = "n1 n2 n3", learners: str = "", need: int = 2) -> Shard:
    def copies(names: str) -> tuple[Copy, ...]:
        return tuple(Copy(name) for name in names.split())

    return Shard(
        0,
        1,
        primary=None if primary is None else Primary(primary),
        in_sync=copies(in_sync),
        learners=copies(learners),
        need=need,
    )


def _map(shard: Shard, *, members: int = 3, factor: int = 3) -> ShardMap:
    wanted = {
        "revision": 1,
        "members": {f"n{number}": {"weight": 1.0} for number in range(1, members + 1)} | {"g1": {"weight": 0}},
        "settings": {"replication_factor": factor},
    }
    return ShardMap("c", 1, shards=(shard,), wanted=wanted)


@pytest.mark.parametrize(
    ("shard", "state"),
    [
        (_shard(), ShardState.OK),
        (_shard(learners="n4"), ShardState.MOVING),
        (_shard(in_sync="n1 n2", learners="n3"), ShardState.UNDER_REPLICATED),
        (_shard(in_sync="n1"), ShardState.UNAVAILABLE),
        (_shard("n9"), ShardState.UNAVAILABLE),
        (_shard(""), ShardState.UNAVAILABLE),
        (_shard(None), ShardState.UNAVAILABLE),
    ],
)
def test_a_shard_is_judged_by_its_primary_and_its_copies(shard: Shard, state: ShardState) -> None:
    assert shard_states(_map(shard), [Member("n1", "alive"), Member("n9", "dead")]) == {0: state}


def test_full_strength_is_the_replication_factor_or_as_many_nodes_as_can_hold_a_copy() -> None:
    assert [
        copies_wanted(_map(_shard(), members=m, factor=f)) for m, f in ((3, 3), (5, 3), (2, 3), (1, 3), (5, 1))
    ] == [
        3,
        3,
        2,
        1,
        1,
    ]
    assert copies_wanted(ShardMap("c", 1, shards=(_shard(in_sync="n1 n2"),))) == 2
