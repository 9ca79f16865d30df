"""The primary that cannot reach its replicas, who reach each other (replication.md rule 5; counterexamples.md L1)."""

from ringkeep_core.mapchanges import Failover, ShardChanges, Shrink
from ringkeep_core.shardmap import ShardMap
from ringkeep_testing.leader_world import LeaderWorld
from ringkeep_testing.maps import copies, shard, shard_map


def _cut_off() -> LeaderWorld:
    """P = a cannot reach b and c and has shrunk both away; everybody's probes reach everybody."""
    world = LeaderWorld(shard_map("a b c d", [shard("a b c"), shard("b c a")], draining="d"), me="d")
    world.run(1.0)
    world.commit(ShardChanges((Shrink(0, 1, ("b", "c")),), "no acknowledgement for 3 s"))
    return world


def test_after_two_seconds_the_primary_moves_to_one_of_the_others_with_them_as_in_sync() -> None:
    world = _cut_off()
    start = world.now
    world.run(1.9)
    before = list(world.proposed)
    world.run(0.2)

    assert before == []
    assert [(round(at - start, 6), it) for at, it in world.proposed] == [
        (
            2.0,
            ShardChanges(
                (Failover(0, 2, "c", ("b", "c")),), "the primary cannot reach the others, who reach each other"
            ),
        )
    ]
    assert world.map.shards[0].in_sync == copies("b c")
    assert world.map.shards[0].eligible == ()
    assert world.map.shards[0].learners == copies("a")


def test_a_primary_that_grows_its_replicas_back_in_time_keeps_the_shard() -> None:
    world = _cut_off()
    world.run(1.5)
    world.grow()
    world.run(10.0)

    assert world.proposed == []
    assert world.map.shards[0].primary.storage == "a"


def test_the_two_seconds_start_anew_when_a_shard_falls_below_need_again() -> None:
    world = _cut_off()
    world.run(1.5)
    world.grow()
    world.grow()
    world.run(1.0)
    revision = world.map.shards[0].revision
    world.commit(ShardChanges((Shrink(0, revision, ("b", "c")),), "again"))
    again = world.now
    world.run(10.0)

    assert [round(at - again, 6) for at, _ in world.proposed] == [2.0]


def test_others_that_do_not_reach_need_leave_the_primary_where_it_is() -> None:
    world = _cut_off()
    world.kill("c")
    world.run(30.0)

    assert world.map.shards[0].primary.storage == "a"
    assert world.map.shards[0].eligible == copies("b c")


def test_a_new_leader_waits_its_own_two_seconds() -> None:
    world = _cut_off()
    world.run(1.9)
    world.leads = False
    world.run(1.0)
    world.leads = True
    start = world.now
    world.run(5.0)

    assert [round(at - start, 6) for at, _ in world.proposed] == [2.0]


def test_the_odd_one_out_of_many_shards_loses_them_in_one_entry() -> None:
    world = LeaderWorld.of(5, 64)
    mine = [number for number, it in enumerate(world.map.shards) if it.primary.storage == "n2"]
    world.commit(_shrunk_to_the_primary(world.map, mine))
    world.run(3.0)

    deposed = [it for it in world.entries() if isinstance(it.changes[0], Failover)]

    assert [sorted(change.shard for change in entry.changes) for entry in deposed] == [mine]
    assert all(len(world.map.shards[number].in_sync) == 2 for number in mine)


def _shrunk_to_the_primary(before: ShardMap, numbers: list[int]) -> ShardChanges:
    changes = []
    for number in numbers:
        one = before.shards[number]
        others = tuple(copy.storage for copy in one.in_sync if copy.storage != one.primary.storage)
        changes.append(Shrink(number, one.revision, others))
    return ShardChanges(tuple(changes), "no acknowledgement for 3 s")
