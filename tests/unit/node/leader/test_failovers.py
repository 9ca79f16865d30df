"""Failover and shrink of the dead and the stalled (replication.md rules 3 and 5; counterexamples.md L2)."""

from ringkeep_core.mapchanges import Boot, Failover, ShardChanges, Shrink
from ringkeep_core.shardmap import Settings
from ringkeep_testing.leader_world import LeaderWorld
from ringkeep_testing.maps import FIRST, copies, shard, shard_map


def _world(*shards: str, eligible: str = "", need: int = 2, wanted: int = 3) -> LeaderWorld:
    """Return members a b c d e, led by e, with shards given by their in_sync, which should have ``wanted`` copies."""
    built = [shard(it, eligible=eligible, need=need) for it in shards]
    start = shard_map("a b c d e", built, settings=Settings(wanted, need))
    return LeaderWorld(start, me="e", voters=("a", "b", "c", "d", "e"))


def test_a_healthy_cluster_is_left_alone() -> None:
    world = LeaderWorld.of(5, 64)
    world.run(100.0)

    assert world.proposed == []
    assert world.leader.next_deadline() is None


def test_all_shards_of_a_dead_member_change_in_one_entry_and_its_primaries_spread_evenly() -> None:
    world = LeaderWorld.of(5, 256)
    world.kill("n3")
    world.run(0.1)
    (entry,) = world.entries()

    assert entry.reason == "n3 is dead, say n1, n2, n4, n5"
    assert {type(change) for change in entry.changes} == {Failover, Shrink}
    assert not any(it.is_in_sync("n3") for it in world.map.shards)
    assert max(world.led().values()) - min(led for name, led in world.led().items() if name != "n3") <= 1
    assert world.led()["n3"] == 0


def test_a_failover_names_the_live_and_a_shrink_the_dead() -> None:
    world = _world("a b c", "b a")
    world.kill("a")
    world.tick()

    assert world.entries() == [
        ShardChanges((Failover(0, 1, "c", ("b", "c")), Shrink(1, 1, ("a",))), "a is dead, say b, c, d, e")
    ]


def test_the_leaders_view_alone_changes_nothing() -> None:
    world = _world("a b c")
    world.sees = {"e": {"a"}}
    world.run(60.0)

    assert world.proposed == []


def test_what_most_voters_report_is_enough_if_the_leader_has_not_seen_it() -> None:
    world = _world("a b c")
    world.kill("a")
    world.sees = {"e": set()}
    world.run(1.0)

    assert [it.reason for it in world.entries()] == ["a is dead, say b, c, d"]


def test_in_sync_comes_before_eligible_and_eligible_before_nobody() -> None:
    first = _world("a b", eligible="c", need=3)
    first.kill("a")
    first.run(0.1)
    second = _world("a b", eligible="c", need=3)
    second.kill("a", "b")
    second.run(0.1)

    assert first.map.shards[0].primary.storage == "b"
    assert second.map.shards[0].primary.storage == "c"
    assert second.map.shards[0].in_sync == copies("c")


def test_a_shard_that_nobody_alive_can_lead_waits_and_says_so() -> None:
    world = _world("a b", "b c", wanted=2)
    world.kill("a", "b")
    world.run(5.0)
    explained = world.leader.explain(now=world.now)

    assert [[type(change) for change in it.changes] for it in world.entries()] == [[Failover]]
    assert (explained.unavailable, explained.below_need) == ((0,), (1,))
    assert [verdict.storage for verdict in explained.verdicts if verdict.dead] == ["a", "b"]
    world.dead.discard("b")
    world.run(0.1)
    assert world.map.shards[0].primary.storage == "b"
    assert world.leader.explain(now=world.now).unavailable == ()


def test_a_member_that_only_some_accuse_is_chosen_last_but_keeps_its_copy() -> None:
    world = _world("a b c")
    world.suspects = {"b"}
    world.kill("a")
    world.run(0.1)

    assert world.map.shards[0].primary.storage == "c"
    assert world.map.shards[0].in_sync == copies("b c")


def test_a_draining_member_is_chosen_only_if_nobody_else_can_lead() -> None:
    start = shard_map("a b c d e", [shard("a b c"), shard("a b")], draining="b")
    world = LeaderWorld(start, me="e")
    world.kill("a")
    world.tick()

    assert [it.primary.storage for it in world.map.shards] == ["c", "b"]


def test_an_entry_that_does_not_show_is_proposed_again_with_back_off() -> None:
    world = _world("a b c")
    world.commits = False
    world.kill("a")
    world.run(10.0)

    assert [round(at - 100.0, 3) for at, _ in world.proposed] == [0.0, 0.5, 1.5, 3.5, 7.5]


def test_the_next_death_waits_only_for_the_entry_under_way() -> None:
    world = _world("a b c", "b c a")
    world.commits = False
    world.kill("a")
    world.tick()
    world.kill("b")
    world.now += 0.001
    waiting = world.tick()
    world.commit(world.entries()[0])
    world.commits = True
    world.tick()

    assert waiting == ()
    assert [it.in_sync for it in world.map.shards] == [copies("c"), copies("c")]


def test_a_change_that_lost_its_race_is_made_anew_on_the_next_revision() -> None:
    world = _world("a b c")
    world.commits = False
    world.kill("b")
    world.tick()
    world.commit(ShardChanges((Shrink(0, 1, ("c",)),), "by the primary"))
    world.commits = True
    world.tick()

    assert world.map.shards[0].in_sync == copies("a")
    assert world.map.shards[0].revision == 3


def test_a_new_leader_inherits_no_proposal() -> None:
    world = _world("a b c")
    world.commits = False
    world.kill("a")
    world.tick()
    world.leads = False
    world.tell()
    silent = (world.leader.next_deadline(), world.leader.tick(now=world.now + 60.0))
    world.leads, world.commits = True, True
    world.tick()

    assert silent == (None, ())
    assert len(world.proposed) == 2
    assert world.map.shards[0].primary.storage == "b"


def test_a_primary_with_a_hanging_disk_loses_its_shards_but_is_not_called_dead() -> None:
    """L2: the loop lives and pings are answered; nothing would commit."""
    world = _world("a b c", "b a c")
    world.stalled = {"a"}
    world.run(1.0)

    assert [it.primary.storage for it in world.map.shards] == ["c", "b"]
    assert [it.in_sync for it in world.map.shards] == [copies("b c"), copies("b a c")]
    assert world.entries()[0].reason == "the disk of a hangs"


def test_a_copy_on_a_hanging_disk_stays_in_sync_where_it_is_needed() -> None:
    world = _world("a b", wanted=2)
    world.stalled = {"a"}
    world.run(5.0)

    assert world.map.shards[0].primary.storage == "b"
    assert world.map.shards[0].in_sync == copies("a b")
    assert len(world.proposed) == 1


def test_a_boot_is_completed_with_those_who_can_take_over() -> None:
    world = _world("a b c d")
    world.kill("b")
    world.stalled = {"c"}
    world.tell()
    boot = Boot("a", "a", "a-2", 2, "http://a", "a:7400", live=("x",))

    assert world.leader.complete_boot(boot).live == ("d", "e")


def test_the_emptied_directory_of_a_dead_primary_is_not_chosen() -> None:
    world = _world("a b c")
    world.kill("a")
    world.tick()
    world.counters["a2"] = 1
    world.commit(world.leader.complete_boot(Boot("a", "a2", "a2-1", 1, "", "")))
    world.kill("b")
    world.run(1.0)

    assert world.map.left == ("a",)
    assert world.map.shards[0].in_sync == copies("c")
    assert [(it.storage, it.added > FIRST) for it in world.map.shards[0].learners] == [("a2", True), ("b", False)]


def test_two_of_two_lose_a_member_and_the_rest_waits_below_need() -> None:
    world = LeaderWorld.of(2, 16, voters=1)
    world.kill("n2")
    world.run(10.0)

    assert world.led() == {"n1": 16, "n2": 0}
    assert all(it.eligible and it.need == 2 for it in world.map.shards)


def test_without_replicas_a_death_makes_shards_unavailable_and_a_return_brings_them_back() -> None:
    world = LeaderWorld.of(3, 16, Settings(1, 1))
    led = world.led()
    world.kill("n2")
    world.run(10.0)
    unavailable = world.leader.explain(now=world.now).unavailable
    world.restart("n2")
    world.run(1.0)

    assert len(unavailable) == led["n2"]
    assert world.leader.explain(now=world.now).unavailable == ()
    assert world.led() == led
