"""Hosts on loopback with real logs and stores: founding, numbers, and what a node remembers of it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from ringkeep_core.errors import Conflict
from ringkeep_core.mapchanges import Leave, MapChange, SetWanted
from ringkeep_core.plans import with_drain
from ringkeep_core.wire import PROTOCOL_VERSION, Hello
from ringkeep_node.machines.shard.effects import Found, NotApplied, Stored
from ringkeep_node.runtime.driver import CHECKPOINT_EVERY_S
from ringkeep_node.runtime.host import Host
from ringkeep_node.runtime.peers import greet
from ringkeep_node.runtime.reporting import unready_reason
from ringkeep_testing.live_hosts import SHARDS, found, hosts, run, until


def test_everything_that_a_node_does_is_counted(tmp_path: Path) -> None:
    async def play() -> None:
        async with hosts(tmp_path, 3) as nodes:
            empty = nodes[0].host.numbers()
            await found(nodes)
            answers = [await nodes[0].put(shard, f"k{shard}") for shard in range(SHARDS)]
            answers += [await nodes[0].get(shard, f"k{shard}") for shard in range(SHARDS)]
            await until(lambda: all(isinstance(row, Found) for row in answers[SHARDS:]))
            await nodes[1].get(0, "k0", local=True)
            numbers = [node.host.numbers() for node in nodes]

            assert [type(answer) for answer in answers] == [Stored] * SHARDS + [Found] * SHARDS
            assert sum(one.writes_committed for one in numbers) == SHARDS
            assert sum(one.reads_answered["strict"] for one in numbers) == SHARDS
            assert [one.reads_answered["local"] for one in numbers] == [0, 1, 0]
            for kind in ("gossip_messages", "gossip_bytes", "peer_frames", "peer_bytes"):
                assert all(min(getattr(one, kind).values()) > 0 for one in numbers), kind
            assert empty.disk_free_bytes > 0 and not empty.disk_full
            assert all(one.copy_bytes > 0 and one.log_bytes > 0 and one.disk_free_bytes > 0 for one in numbers)
            assert sum(one.raft_elections for one in numbers) >= 1
            assert {one.map_version for one in numbers} == {nodes[0].host.numbers().map_version}
            for node in nodes:
                stages = node.metrics.stages
                assert min(stages.log_wait.count, stages.fsync.count, node.metrics.loop_lag.count) > 0
                assert stages.replicate.count > 0 or node.host.numbers().writes_committed == 0
            assert [node.failures for node in nodes] == [[], [], []]

    run(play())


def test_a_node_of_weight_0_is_a_pure_gateway_that_holds_nothing_and_serves(tmp_path: Path) -> None:
    async def play() -> None:
        async with hosts(tmp_path, 3, weights=(1.0, 2.5, 0.0)) as nodes:
            await found(nodes, replication_factor=2)
            gateway = nodes[2]
            written = await gateway.put(3, "k", b"through the gateway")
            read = await gateway.get(3, "k")
            members = {one.name: (one.weight, one.copies, one.primaries > 0) for one in gateway.host.members()}
            numbers = gateway.host.numbers()

            assert members == {"n1": (1.0, SHARDS, True), "n2": (2.5, SHARDS, True), "n3": (0.0, 0, False)}
            assert isinstance(written, Stored) and isinstance(read, Found)
            assert read.row.value == b"through the gateway"
            assert numbers.shards == {} and numbers.forwards >= 2

    run(play())


def test_a_node_checkpoints_at_once_when_its_store_asks_for_it(tmp_path: Path) -> None:
    async def play() -> None:
        async with hosts(tmp_path, 1) as nodes:
            await found(nodes)
            stored = await nodes[0].put(3, "k")
            assert isinstance(stored, Stored) and nodes[0].host._driver is not None
            store = nodes[0].host._driver.store
            (copy,) = [one.copy for one in store.copies() if one.shard == 3]
            await until(lambda: (store.applied(3, copy) or (0, 0))[1] >= stored.version)
            before = store._synced.get((3, copy), 0)
            store.on_checkpoint_due()
            async with asyncio.timeout(CHECKPOINT_EVERY_S / 2):
                await until(lambda: store._synced.get((3, copy), 0) >= stored.version)

            assert before < stored.version

    run(play())


def test_the_members_of_a_bootstrap_hear_of_it_from_the_founder_where_no_seed_can_be_asked(tmp_path: Path) -> None:
    async def play() -> None:
        async with hosts(tmp_path, 3, have_seeds=False) as nodes:
            cluster_id = await found(nodes)

            assert [node.host.cluster_id for node in nodes] == [cluster_id] * 3

    run(play())


@pytest.mark.parametrize("channel", ["founded:" + "f" * 16, "founded:", "hello", "control"])
def test_only_a_founder_that_names_the_own_storage_id_is_believed(tmp_path: Path, channel: str) -> None:
    async def play() -> None:
        async with hosts(tmp_path, 2, have_seeds=False) as (one, other):
            hello = Hello(PROTOCOL_VERSION, "c" * 16, "n9", "9" * 16, "b" * 16, 1, "u", "p", "", channel)
            await greet(one.host.links.session, other.peer, hello)
            await found([one])

            assert (other.host.cluster_id, other.failures) == ("", [])

    run(play())


@pytest.mark.parametrize(
    ("weights", "sentence"),
    [((0.0, 0.0), "every member is a pure gateway"), ((1.0, float("nan")), "n2 has weight nan, which is not 0..100")],
)
def test_weights_that_make_no_sense_found_no_cluster(tmp_path: Path, weights: tuple[float, ...], sentence: str) -> None:
    async def play() -> None:
        async with hosts(tmp_path, 2, weights=weights) as nodes:
            with pytest.raises(Conflict, match=sentence):
                await found(nodes)

            assert [node.host.cluster_id for node in nodes] == ["", ""]

    run(play())


def test_a_node_that_ends_in_order_is_replaced_before_it_is_gone(tmp_path: Path) -> None:
    async def play() -> None:
        async with hosts(tmp_path, 3) as nodes:
            await found(nodes)
            await until(lambda: any(node.host.numbers().raft_is_leader for node in nodes))
            (leaving,) = (node for node in nodes if node.host.numbers().raft_is_leader)
            others = [node for node in nodes if node is not leaving]
            await leaving.host.leave()
            held = leaving.host.shard_map
            await until(lambda: all(node.host.shard_map == held for node in others))
            await leaving.host.close()
            answers = [await others[0].put(shard, "after") for shard in range(SHARDS)]
            leaders = {leader.name for node in others if (leader := node.host.leader()) is not None}
            seen = [{one.name: one.state for one in node.host.members()} for node in others]
            told = [event.text for node in others for event in node.host.events(0) if event.kind == "member"]

            assert held is not None
            assert not any(shard.is_in_sync(leaving.storage) for shard in held.shards)
            assert not any(shard.primary.storage == leaving.storage for shard in held.shards)
            assert {type(answer) for answer in answers} == {Stored}
            assert len(leaders) == 1 and leaders < {node.name for node in others}
            assert seen == [{**{node.name: "alive" for node in others}, leaving.name: "left"}] * 2
            assert not any(text.startswith(f"{leaving.name} is dead") for text in told)

    run(play())


def test_a_node_without_others_is_ready_once_it_leads_unless_it_does_not_know_what_is_registered(
    tmp_path: Path,
) -> None:
    async def play() -> None:
        async with hosts(tmp_path, 1) as nodes:
            await found(nodes)
            await until(lambda: nodes[0].host.is_ready() is None)
            driver = nodes[0].host.inbox.driver
            assert driver is not None
            node = driver.node

            assert node.discovery.registry.is_informed(now=asyncio.get_running_loop().time())
            assert unready_reason(node) is None
            assert unready_reason(node, is_informed=False) == (
                "this node does not know yet which services the others hold"
            )

    run(play())


def test_a_node_that_is_alone_ends_without_waiting_for_anybody(tmp_path: Path) -> None:
    async def play() -> None:
        async with hosts(tmp_path, 1) as (node,):
            await found([node])
            await node.host.leave()

            assert node.host.shard_map is not None
            assert {shard.primary.storage for shard in node.host.shard_map.shards} == {node.storage}

    run(play())


def test_a_node_that_has_left_stays_up_idle_and_says_so_and_the_others_go_on(tmp_path: Path) -> None:
    async def play() -> None:
        async with hosts(tmp_path, 4) as nodes:
            cluster_id = await found(nodes)
            *others, gone = nodes
            asked = others[0].host
            await until(lambda: asked.shard_map is not None and asked.leader() is not None)
            assert asked.shard_map is not None
            drained = SetWanted(with_drain(asked.shard_map.wanted, gone.name), "test")
            await until_applied(asked, drained)
            await until(lambda: not holds_copies(asked, gone.storage))
            # Balancers hear of it while it still serves: from the moment it leaves it refuses everything.
            await until(lambda: gone.host.is_ready() is not None)
            leaving = gone.host.is_ready(), type(await gone.put(0, "before"))
            await until_applied(asked, Leave(gone.storage, "test"))

            await until(lambda: gone.host.members()[0].state == "left")
            await until(lambda: gone.left)
            assert leaving == ("this node is draining, holds nothing and is about to leave", Stored)
            sentence = f"n4 has left cluster {cluster_id} for good; empty its directory to use it again"
            refused = await gone.put(0, "after")
            answers = [await others[0].put(shard, "after") for shard in range(SHARDS)]

            assert (gone.host.is_ready(), gone.host.is_live(), gone.failures) == (sentence, None, [])
            assert [event.text for event in gone.host.events(0)][-1] == sentence
            assert refused == NotApplied("no_primary", sentence)
            assert [node.left for node in nodes] == [[], [], [], [gone.storage]]
            assert {type(answer) for answer in answers} == {Stored}
            assert [member.name for member in asked.members()] == ["n1", "n2", "n3"]

    run(play())


def holds_copies(host: Host, storage: str) -> bool:
    assert host.shard_map is not None
    return any(shard.copy_of(storage) is not None for shard in host.shard_map.shards)


async def until_applied(host: Host, change: MapChange) -> None:
    """Propose until nothing is in the way any more."""
    while (outcome := await host.propose(change, timeout_s=5.0)).code:
        assert outcome.code in ("no_primary", "holds_copies", "is_voter"), outcome
        await asyncio.sleep(0.1)
