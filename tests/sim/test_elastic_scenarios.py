"""Named scenarios of a cluster that is scaled, drained and restarted, on virtual time (issue: "the map must follow")."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from statistics import mean

import pytest

from ringkeep_core.mapchanges import Boot, Failover, SetWanted, ShardChanges
from ringkeep_core.plans import with_drain, with_members, with_weight
from ringkeep_node.machines.shard.effects import Stored
from ringkeep_node.runtime.reporting import unready_reason, voters_of
from ringkeep_testing.elastic_world import (
    CALM,
    additions,
    asked,
    copies,
    drained,
    elastic_world,
    finish,
    joined,
    leader_of,
    leave,
    leave_of,
    lower_bound,
    voters,
    want,
)
from ringkeep_testing.node_world import World
from ringkeep_testing.world_clients import Call
from ringkeep_testing.world_machine import Machine
from ringkeep_testing.world_people import listing, with_setting, with_zone

FIVE = replace(CALM, nodes=5)


def serves(machine: Machine) -> bool:
    """Return whether a process runs that takes itself for a member."""
    return machine.node is not None and machine.node.registered


def _is_whole(world: World, nodes: int) -> bool:
    shards = world.eye.newest.shards
    return len(copies(world.eye.newest)) == nodes and all(len(it.in_sync) == 3 and not it.learners for it in shards)


def failures(world: World) -> dict[str, int]:
    return {name: count for name, count in world.clients.counts.items() if name in ("failed", "unknown")}


def test_scaling_from_3_to_5_and_back_under_clients_costs_the_lower_bound_and_not_one_error() -> None:
    world = elastic_world(1)
    world.clients.start(world.now + 12.0)
    joined(world, ("n4", "n5"))
    waiting = dict(copies(world.eye.newest))
    up = lower_bound(world, listing("n4", "n5"))
    want(world, listing("n4", "n5"))
    world.settle(15.0)
    spread, added, voting = copies(world.eye.newest), world.eye.movement.copies_added, voters(world)
    down = lower_bound(world, lambda wanted: with_members(wanted, ("n1", "n2", "n3")))
    want(world, lambda wanted: with_members(wanted, ("n1", "n2", "n3")))
    leave(world, ("n4", "n5"))
    finish(world)

    assert waiting == {"n1": 32, "n2": 32, "n3": 32}
    assert (added, world.eye.movement.copies_added - added) == (up, down)
    assert max(spread.values()) - min(spread.values()) <= 1 and len(spread) == 5
    assert (voting, voters(world)) == (["n1", "n2", "n3", "n4", "n5"], ["n1", "n2", "n3"])
    assert world.clients.counts["stored"] > 200 and failures(world) == {}


def test_while_256_shards_scale_from_3_to_5_the_slowest_requests_take_at_most_twice_as_long() -> None:
    world = elastic_world(1, replace(CALM, shards=256, documents=2000, clients=100, think_s=0.05, sync_s=0.006))
    steady_from = world.now + 0.5
    world.clients.start(world.now + 12.0)
    world.run_until(steady_from + 2.5)
    joined(world, ("n4", "n5"))
    world.run_until(world.now + 1.0)
    moves_from = world.now
    want(world, listing("n4", "n5"))
    world.run_until(moves_from + 6.0, lambda: _is_whole(world, 5))
    moves_until = world.now
    world.run_until(moves_until + 0.5)

    def slowest(is_read: bool, since: float, until: float) -> float:
        """Return the 99th percentile of how long reads or writes took that began in a span of time."""
        took = sorted(
            one.returned - one.called
            for history in world.clients.histories.values()
            for one in history
            if since <= one.called < until and (one.kind == "read") is is_read
        )
        assert len(took) > 400
        return took[int(0.99 * len(took))]

    ratios = [
        slowest(is_read, moves_from, moves_until) / slowest(is_read, steady_from, steady_from + 2.0)
        for is_read in (True, False)
    ]

    assert max(ratios) <= 2.0, ratios
    assert set(copies(world.eye.newest)) == {"n1", "n2", "n3", "n4", "n5"}


@pytest.mark.parametrize("seed", [2, 3, 5, 10])
def test_a_rolling_restart_of_five_fails_no_request_copies_nothing_and_hands_every_primary_over_live(seed: int) -> None:
    world = elastic_world(seed, FIVE)
    ended: list[float] = []
    world.clients.start(world.now + 20.0)
    world.run_until(world.now + 1.0)
    for machine in world.machines.values():
        machine.installs = 0

    # As an orchestrator does it: the next one when the last one is ready.
    world.people.roll(lambda: ended.append(world.now), is_ready=lambda node: unready_reason(node) is None)
    world.run_until(world.now + 40.0, lambda: bool(ended))
    finish(world)

    parts = [
        part
        for _, change, _ in world.eye.movement.changes
        if isinstance(change, ShardChanges)
        for part in change.changes
    ]

    assert ended and world.clients.counts["stored"] > 200
    assert failures(world) == {}
    assert not any(isinstance(part, Failover) for part in parts)
    moved = world.eye.movement.primaries_moved.values()
    # Away and home again.
    assert max(moved) <= 2
    assert [machine.installs for machine in world.machines.values()] == [0] * 5


def test_several_nodes_are_drained_at_once() -> None:
    world = elastic_world(3, replace(FIVE, nodes=6))
    world.clients.start(world.now + 6.0)
    want(world, lambda wanted: with_members(wanted, ("n1", "n2", "n3")))
    world.run_until(world.now + 15.0, drained(world, "n4", "n5", "n6"))
    held, voting = copies(world.eye.newest), voters(world)
    leave(world, ("n4", "n5", "n6"))
    finish(world)

    assert held == {"n1": 32, "n2": 32, "n3": 32}
    assert set(voting) <= {"n1", "n2", "n3", "n4", "n5"} and voters(world) == ["n1", "n2", "n3"]
    assert failures(world) == {}


def test_copies_of_the_dead_stay_within_the_grace_and_the_most_endangered_are_made_again_after_it() -> None:
    """counterexamples.md L10, S6(e); placement.md, Grace."""
    world = elastic_world(6, replace(FIVE, nodes=6, grace_s=4.0))
    world.clients.start(world.now + 3.0)
    before = world.eye.newest
    lost = {world.machines[name].storage for name in ("n5", "n6")}
    endangered = {
        number for number, shard in enumerate(before.shards) if sum(it.storage in lost for it in shard.in_sync) == 2
    }
    harmed = {number for number, shard in enumerate(before.shards) if any(it.storage in lost for it in shard.in_sync)}
    for name in ("n5", "n6"):
        world.machines[name].kill()
    world.run_until(world.now + 3.5)
    within = additions(world)
    held = all(
        shard.copy_of(it.storage) for n, shard in enumerate(world.eye.newest.shards) for it in before.shards[n].in_sync
    )
    world.run_until(world.now + 20.0)
    made = [number for number, _ in additions(world)]
    whole = [len(shard.in_sync) for shard in world.eye.newest.shards]
    for name in ("n5", "n6"):
        world.machines[name].start()
    finish(world)

    assert (within, held) == ([], True)
    assert whole == [3] * 32 and endangered and set(made) == harmed
    first = {number: made.index(number) for number in harmed}
    assert mean(first[it] for it in endangered) < mean(first[it] for it in harmed - endangered)
    # A primary sends only so many at once, so not all of them can be the very first.
    assert max(first[it] for it in endangered) < 2 * len(endangered)


def test_neither_a_drain_nor_the_grace_takes_the_last_complete_copies() -> None:
    """counterexamples.md S6(e): both copies are on dead nodes, beyond the grace, and draining; nobody else has them."""
    world = elastic_world(5, replace(FIVE, replication_factor=2, min_in_sync=2, grace_s=1.0))
    world.clients.start(world.now + 2.0)
    world.run_until(world.now + 2.0)
    gone = {world.machines[name].storage: name for name in ("n4", "n5")}
    only = [n for n, shard in enumerate(world.eye.newest.shards) if {it.storage for it in shard.in_sync} == set(gone)]
    for name in gone.values():
        world.machines[name].kill()
    for name in gone.values():
        world.people.propose(SetWanted(with_drain(world.eye.newest.wanted, name), "drain"), leader_of(world))
        world.run_until(world.now + 3.0)
    world.run_until(world.now + 20.0)
    newest = world.eye.newest
    kept = [n for n in only if all(newest.shards[n].is_complete(storage) for storage in gone)]
    codes = [asked(world, world.machines["n1"], leave_of(world.machines[name])) for name in gone.values()]
    for name in gone.values():
        world.machines[name].start()
    finish(world)

    assert only and kept == only
    assert codes == ["holds_copies"] * 2
    assert newest.wanted.members["n4"].draining and newest.wanted.members["n5"].draining
    assert drained(world, "n4", "n5")()


def test_s12a_a_node_that_was_seen_empty_and_got_copies_again_cannot_leave() -> None:
    world = elastic_world(6, replace(FIVE, nodes=4))
    through, four = world.machines["n1"], world.machines["n4"]
    early = asked(world, through, leave_of(four))
    want(world, lambda wanted: with_drain(wanted, "n4"))
    world.run_until(world.now + 15.0, drained(world, "n4"))
    world.machines["n2"].kill()  # n4 has proved that it is empty; now it is needed again.
    want(world, lambda wanted: with_setting(listing("n4")(wanted), grace_s=0.5))
    world.run_until(world.now + 15.0, lambda: copies(world.eye.newest)["n4"] == 32)
    wanted_again = asked(world, through, leave_of(four))
    want(world, lambda wanted: with_drain(wanted, "n4"))
    holding = asked(world, through, leave_of(four), 0.3)
    world.machines["n2"].start()
    finish(world)

    assert (early, wanted_again, holding) == ("not_draining", "not_draining", "holds_copies")


def test_s12a_a_drained_voter_cannot_leave_before_its_vote_has() -> None:
    world = elastic_world(7, replace(CALM, shards=1, replication_factor=2))
    held = copies(world.eye.newest)
    empty = next(machine for machine in world.machines.values() if not held[machine.name])
    through, other = (machine for machine in world.machines.values() if machine is not empty)
    other.kill()  # Without the empty one's vote there would be no majority now.
    world.run_until(world.now + 3.0)
    # The interface would advise against it now; somebody saw an older map.
    asked(world, through, SetWanted(with_drain(world.eye.newest.wanted, empty.name), "drain"))
    world.run_until(world.now + 3.0)
    is_empty, voting = drained(world, empty.name)(), voters(world)
    code = asked(world, through, leave_of(empty))
    other.start()
    leave(world, (empty.name,))
    finish(world)

    assert (is_empty, voting, code) == (True, ["n1", "n2", "n3"], "is_voter")
    assert empty.name not in voters(world) and empty.storage in world.eye.newest.left


def test_s12b_a_process_that_runs_on_after_its_leave_is_never_let_in_again_with_its_disk() -> None:
    world = elastic_world(8, replace(FIVE, nodes=4))
    four, storage = world.machines["n4"], world.machines["n4"].storage
    want(world, lambda wanted: with_drain(wanted, "n4"))
    world.run_until(world.now + 15.0, lambda: drained(world, "n4")() and "n4" not in voters(world))
    code = asked(world, world.machines["n1"], leave_of(four))
    world.run_until(world.now + 5.0)
    served = [serves(four)]
    four.kill()
    four.start()
    want(world, listing("n4"))
    world.run_until(world.now + 5.0)
    served.append(serves(four))
    members, copies_after = set(world.eye.newest.members), copies(world.eye.newest)["n4"]
    four.kill()
    four.new_disk()
    four.start()
    finish(world)

    assert (code, served, copies_after) == ("", [False, False], 0)
    assert storage not in members and storage in world.eye.newest.left
    assert copies(world.eye.newest)["n4"] > 0


def test_s12c_the_ghost_of_a_replaced_disk_does_not_take_its_name_back() -> None:
    """A node was given up on a lost worker and started anew elsewhere; then the old process is heard again."""
    world = elastic_world(9, replace(FIVE, nodes=4))
    ghost = world.machines.pop("n2")
    ghost.name = world.eye.newest.members[ghost.storage].name + "-ghost"
    world.machines[ghost.name] = ghost
    others = [it.name for it in world.machines.values() if it is not ghost] + ["n2"]
    cuts = [pair for other in others for pair in ((ghost.name, other), (other, ghost.name))]
    world.network.cut(cuts)
    heir = Machine(world, 2)
    heir.new_disk()
    heir.address = "10.1.1.2:7400"
    world.machines["n2"] = heir
    world.by_address[heir.address] = heir
    world.clients.start(world.now + 10.0)
    heir.start()
    world.run_until(world.now + 10.0, lambda: heir.storage in world.eye.newest.members)
    world.network.mend(cuts)
    world.run_until(world.now + 8.0)
    ghost_served = serves(ghost)
    del world.machines[ghost.name], world.by_address[ghost.address]
    finish(world)
    boots = [
        change.storage
        for _, change, _ in world.eye.movement.changes
        if isinstance(change, Boot) and change.name == "n2"
    ]

    assert boots == [heir.storage]
    assert not ghost_served and ghost.storage in world.eye.newest.left


def progress_of_a_scale_up(kill_at: int) -> tuple[World, int, int]:
    """Scale from 3 to 5; the leader is killed ``kill_at`` entries after the plan began. Returns how far it came."""
    world = elastic_world(10, replace(CALM, shards=16))
    joined(world, ("n4", "n5"))
    bound = lower_bound(world, listing("n4", "n5"))
    want(world, listing("n4", "n5"))
    began = len(world.eye.movement.changes)
    world.run_until(world.now + 10.0, lambda: len(world.eye.movement.changes) - began >= kill_at)
    came = len(world.eye.movement.changes) - began
    victim = leader_of(world)
    victim.kill()
    world.run_until(world.now + 3.0)
    victim.start()
    finish(world)
    return world, bound, came


@pytest.mark.parametrize("kill_at", range(1, 30, 4))
def test_a_leader_killed_in_the_middle_of_a_plan_changes_nothing_about_its_result(kill_at: int) -> None:
    world, bound, came = progress_of_a_scale_up(kill_at)
    held = copies(world.eye.newest)

    assert came >= 1 and max(held.values()) - min(held.values()) <= 1
    # While the killed one is out nobody can know what it will take back, so a few copies may go elsewhere.
    assert bound <= world.eye.movement.copies_added <= bound + 4


def test_a_wanted_state_changed_in_mid_flight_reuses_the_copies_that_are_there() -> None:
    world = elastic_world(11)
    joined(world, ("n4", "n5"))
    want(world, listing("n4", "n5"))
    world.run_until(world.now + 10.0, lambda: copies(world.eye.newest)["n4"] >= 6)
    made = {
        (n, "n4") for n, shard in enumerate(world.eye.newest.shards) if shard.is_in_sync(world.machines["n4"].storage)
    }
    want(world, lambda wanted: with_drain(wanted, "n5"))
    world.settle(20.0)
    kept = {
        (n, "n4") for n, shard in enumerate(world.eye.newest.shards) if shard.is_in_sync(world.machines["n4"].storage)
    }
    leave(world, ("n5",))
    finish(world)

    assert made and made <= kept and copies(world.eye.newest)["n4"] == 24
    assert max(Counter(it for it in additions(world) if it[1] == "n4").values()) == 1


def test_voters_follow_the_members_1_2_3_3_5_and_back() -> None:
    world = elastic_world(12, replace(CALM, nodes=1, shards=8))
    counts = [len(voters(world))]
    for number in range(2, 6):
        joined(world, (f"n{number}",))
        want(world, listing(f"n{number}"))
        world.settle(20.0)
        counts.append(len(voters(world)))
    for number in range(1, 5):
        leave(world, (f"n{number}",), 20.0)
        world.settle(20.0)
        counts.append(len(voters(world)))
    finish(world)

    assert counts == [1, 2, 3, 3, 5, 3, 3, 2, 1]
    assert voters(world) == ["n5"]


def test_voters_are_spread_over_zones() -> None:
    world = elastic_world(13, replace(CALM, nodes=6, zones=3, shards=8))
    zones = Counter(world.machines[name].zone for name in voters(world))
    leave(world, tuple(name for name in voters(world) if world.machines[name].zone == "z1")[:1])
    world.settle(20.0)

    assert sorted(zones.values()) == [1, 2, 2]
    assert sorted(Counter(world.machines[name].zone for name in voters(world)).values()) == [1, 2, 2]


def test_a_zone_that_is_named_later_gets_a_voter_too() -> None:
    world = elastic_world(22, replace(CALM, nodes=4, shards=8))
    before = voters(world)
    for name in ("n1", "n2", "n3", "n4"):
        zone = "b" if name == "n4" else "a"
        want(world, lambda wanted, name=name, zone=zone: with_zone(wanted, name, zone))  # type: ignore[misc]
    finish(world)

    assert before == ["n1", "n2", "n3"]
    assert len(voters(world)) == 3 and "n4" in voters(world)


def test_a_voter_whose_disk_is_lost_is_replaced_by_its_new_storage() -> None:
    world = elastic_world(14)
    victim, old = world.machines["n2"], world.machines["n2"].storage
    world.clients.start(world.now + 5.0)
    victim.kill()
    victim.new_disk()
    victim.start()
    world.run_until(world.now + 1.0)
    finish(world)

    members = world.eye.movement.newest_configuration().members()
    assert victim.storage in members and old not in members and len(members) == 3


def test_a_voter_that_was_removed_while_it_was_down_follows_the_map_and_tells_who_votes() -> None:
    world = elastic_world(24, FIVE)
    away = next(it for it in world.machines.values() if not (it.node is not None and it.node.control.leads))
    away.kill()
    world.run_until(world.now + 4.0)
    want(world, lambda wanted: with_setting(with_drain(wanted, away.name), grace_s=0.5))
    world.run_until(world.now + 10.0, lambda: away.name not in voters(world))
    away.start()
    world.run_until(world.now + 3.0)
    for revision in range(5):
        want(world, lambda wanted, revision=revision: with_setting(wanted, grace_s=1.0 + revision))  # type: ignore[misc]
    world.run_until(world.now + 1.0)
    node, leads = away.node, leader_of(world).node
    assert node is not None and leads is not None
    held = node.held.map
    believes, follows = node.control.votes, held is not None and held.wanted == world.eye.newest.wanted
    told = sorted(voters_of(node))
    finish(world)

    assert (believes, follows) == (True, True)
    assert told == sorted(leads.raft.configuration.voters) and away.storage not in told


def test_everybody_hears_how_many_bytes_of_copies_the_members_have_received() -> None:
    world = elastic_world(25)
    for number, machine in enumerate(world.machines.values(), 1):
        machine.on(lambda node, sent=10**number: node.oversight.tell_received(sent, now=world.now))  # type: ignore[misc]
    world.run_until(world.now + 2.0)
    totals = [it.node.oversight.received_bytes() for it in world.machines.values() if it.node is not None]

    assert totals == [1110] * 3


def test_a_gateway_of_weight_0_serves_and_holds_nothing() -> None:
    world = elastic_world(15, replace(FIVE, nodes=4))
    want(world, lambda wanted: with_weight(wanted, "n4", 0.0))
    world.run_until(world.now + 10.0, drained(world, "n4"))
    world.clients.gateways = lambda: [world.machines["n4"]]  # type: ignore[method-assign]  # everybody asks it alone
    world.clients.start(world.now + 3.0)
    world.run_until(world.now + 4.0)
    finish(world)

    assert copies(world.eye.newest)["n4"] == 0 and voters(world) == ["n1", "n2", "n3"]
    assert world.clients.counts["stored"] > 50 and failures(world) == {}


def test_l5_of_two_people_who_change_what_is_wanted_at_once_one_is_told_so() -> None:
    world = elastic_world(16)
    wanted = world.eye.newest.wanted
    codes = [
        asked(world, world.machines[name], SetWanted(with_weight(wanted, name, 2.0), "mine"), 1.0)
        for name in ("n1", "n2")
    ]
    finish(world)

    assert codes == ["", "stale_wanted"]
    assert [world.eye.newest.wanted.members[name].weight for name in ("n1", "n2")] == [2.0, 1.0]


def test_l9_a_node_that_dies_again_and_again_gets_its_primaries_back_only_when_it_stays() -> None:
    world = elastic_world(17, replace(FIVE, nodes=3))
    victim = world.machines["n2"]
    for _ in range(3):
        victim.kill()
        world.run_until(world.now + 2.0)
        victim.start()
        world.run_until(world.now + 1.0)
    moved = dict(world.eye.movement.primaries_moved)
    finish(world)

    assert max(moved.values()) <= 3
    assert max(world.eye.movement.primaries_moved.values()) <= 4


def test_leadership_is_transferred_again_and_again_in_the_middle_of_a_drain() -> None:
    world = elastic_world(18, FIVE)
    world.clients.start(world.now + 8.0)
    want(world, lambda wanted: with_drain(wanted, "n1"))
    for turn in range(10):
        to = world.machines[f"n{1 + turn % 5}"].storage
        world.machines["n3"].on(lambda node, to=to: node.control.ask_transfer(to, now=world.now))  # type: ignore[misc]
        world.run_until(world.now + 0.4)
    leave(world, ("n1",), 20.0)
    finish(world)

    assert "n1" not in voters(world) and failures(world) == {}


def test_a_leader_that_starts_again_does_not_call_to_vote_who_has_left() -> None:
    """Voters are no compare-and-set: a leader must hold the map of its own term before it chooses them."""
    world = elastic_world(19, replace(CALM, nodes=2, shards=8))
    gone = world.machines["n1"].storage
    leave(world, ("n1",))
    last = max(world.eye.movement.configurations)
    for _ in range(3):
        world.machines["n2"].kill()
        world.machines["n2"].start()
        world.run_until(world.now + 2.0)
    finish(world)

    assert all(gone not in it.members() for at, it in world.eye.movement.configurations.items() if at >= last)


def test_another_number_of_copies_is_followed_up_and_down() -> None:
    world = elastic_world(20, replace(FIVE, replication_factor=2, nodes=4))
    world.clients.start(world.now + 4.0)
    held = []
    for factor in (3, 4, 1, 2):
        want(world, lambda wanted, factor=factor: with_setting(wanted, replication_factor=factor))  # type: ignore[misc]
        world.settle(20.0)
        held.append({len(shard.in_sync) for shard in world.eye.newest.shards})
    finish(world)

    assert held == [{3}, {4}, {1}, {2}] and failures(world) == {}


def test_s3_a_planned_copy_whose_growth_is_late_and_that_hangs_meanwhile_has_everything_once_it_counts() -> None:
    """counterexamples.md S3(a), (b): the entry of the growth is on its way while the learner hangs and clients write on."""
    world = elastic_world(21, replace(CALM, proposal_repeat=1.0, proposal_delay_s=3.0, latency_s=0.01))
    world.clients.start(world.now + 12.0)
    joined(world, ("n4",))
    want(world, listing("n4"))
    four = world.machines["n4"]
    for _ in range(6):
        world.run_until(world.now + 0.15)
        four.paused_until = max(four.paused_until, world.now + 0.7)
        world.run_until(world.now + 0.7)
    leader_of(world).kill()
    world.run_until(world.now + 3.0)
    for machine in world.machines.values():
        if machine.node is None:
            machine.start()
    finish(world)

    assert copies(world.eye.newest)["n4"] == 24
    assert world.clients.counts["stored"] > 50


def test_l3_a_leader_whose_loop_is_slow_hands_over_and_the_plan_goes_on_under_the_next() -> None:
    """counterexamples.md L3: the slow one must not be the only one who may act."""
    world = elastic_world(23, FIVE)
    slow = leader_of(world)
    until = world.now + 12.0

    def lag() -> None:
        # Steady and below the election time-out: nobody but the leader itself has a reason to change who leads.
        slow.paused_until = world.now + 0.25
        if world.now < until:
            world.at(world.now + 0.3, lag)

    lag()
    world.people.propose(SetWanted(with_drain(world.eye.newest.wanted, "n5"), "drain"), world.machines["n4"])
    world.run_until(world.now + 8.0)
    leads = [name for name, it in world.machines.items() if it.node is not None and it.node.control.leads]
    is_drained = drained(world, "n5")()
    world.run_until(until + 1.0)
    finish(world)

    assert is_drained
    assert slow.name not in leads and len(leads) == 1


class Gaps:
    """A writer for each of some shards; ``worst_s`` is the longest time between two writes that were acknowledged."""

    def __init__(self, world: World, shards: list[int], until: float) -> None:
        self._world, self._until = world, until
        self.worst_s = 0.0
        for shard in shards:
            user = world.user_of(shard)
            world.clients.histories.setdefault((user, "gap"), [])
            self._write(shard, user, world.now)

    def _write(self, shard: int, user: str, acknowledged_at: float) -> None:
        world = self._world
        if world.now > self._until:
            return
        call = Call(world.clients, world, (user, "gap"), 0.8, kind="write")

        def done() -> None:
            last = acknowledged_at
            if isinstance(call.result, Stored):
                self.worst_s, last = max(self.worst_s, world.now - acknowledged_at), world.now
            world.at(world.now + 0.05, lambda: self._write(shard, user, last))

        call.send(world.rng.choice([it for it in world.clients.gateways() if it.name != "n1"]), done)


@pytest.mark.parametrize("seed", range(4))
def test_a_leader_killed_during_a_drain_of_100_shards_leaves_none_without_a_primary_for_long(seed: int) -> None:
    world = elastic_world(40 + seed, replace(FIVE, shards=100))
    if leader_of(world).name != "n1":
        world.machines["n1"].on(lambda node: node.control.ask_transfer(world.machines["n1"].storage, now=world.now))
        world.run_until(world.now + 3.0)
    want(world, lambda wanted: with_drain(wanted, "n2"))
    victim = leader_of(world)
    led = [n for n, shard in enumerate(world.eye.newest.shards) if shard.primary.storage == victim.storage]
    gaps = Gaps(world, led, world.now + 5.0)
    world.run_until(world.now + 0.1 + 0.1 * seed)
    victim.kill()
    world.run_until(world.now + 6.0)
    victim.start()
    finish(world)

    assert drained(world, "n2")() and len(led) >= 15
    assert gaps.worst_s <= 1.5, gaps.worst_s
