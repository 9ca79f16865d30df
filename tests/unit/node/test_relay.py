"""A node between a gateway and a primary: what it sends on, what it refuses, and that every answer comes home once."""

from __future__ import annotations

import msgspec
import pytest

from ringkeep_core.maprules import bootstrap
from ringkeep_core.shardmap import Member, Primary, Settings, Shard, ShardMap
from ringkeep_node.machines.control import encode_snapshot, first_snapshot
from ringkeep_node.machines.documents import Answer, OperationId, Write
from ringkeep_node.machines.messages import Bundle, Channel, ForwardAnswer, ForwardRead, ForwardWrite
from ringkeep_node.machines.node import Node, NodeIdentity, NodeSettings
from ringkeep_node.machines.records import NO_SHARD, Kind, Record
from ringkeep_node.machines.relay import HOPS_MAX, REQUEST_BYTES, Relays, may_relay, weight
from ringkeep_node.machines.shard.effects import Moved, NotApplied, ReadRequest, Stored, WriteRequest
from ringkeep_testing.sim_log import SimLog
from ringkeep_testing.sim_store import SimStore

ME, LEAD, ORIGIN = (f"{number:016x}" for number in (1, 2, 3))
STORED = Stored(Answer.CREATED, 7, 1)
NOW = 100.0


def boot_of(number: int, counter: int = 1) -> str:
    return f"{number:08x}{counter:08x}"


def first_map() -> ShardMap:
    members = [
        Member(f"{n:016x}", f"n{n}", boot_of(n), 1, f"http://n{n}", f"10.0.0.{n}:7400", "", 0) for n in (1, 2, 3)
    ]
    return bootstrap(cluster_id="c" * 16, members=members, shards=16, settings=Settings())


def node_between(counter: int = 1) -> Node:
    """A node that holds the first map and has links to both others."""
    log, store, snapshot = SimLog(), SimStore(), first_snapshot(first_map(), (ME,))
    log.append([Record(Kind.RAFT_RESET, NO_SHARD, 0, 1, snapshot.index, encode_snapshot(snapshot))])
    log.sync()
    node = Node(
        identity=NodeIdentity("n1", ME, boot_of(1, counter), counter, "http://n1", "10.0.0.1:7400"),
        cluster_id="c" * 16,
        settings=NodeSettings(),
        recovered=log.open(store.synced()),
        stored=store.copies(),
        store=store,
        seeds=[],
        draw=lambda: 0.5,
        now=NOW,
    )
    node.take_step(now=NOW)
    for storage, number in ((LEAD, 2), (ORIGIN, 3)):
        node.link_up(storage, boot_of(number), Channel.DATA, now=NOW)
    node.take_step(now=NOW)
    return node


def led_by(storage: str) -> int:
    return next(number for number, shard in enumerate(first_map().shards) if shard.primary.storage == storage)


def change(token: int = 77, *, shard: int | None = None, epoch: int = 1, hops: int = 1, size: int = 1) -> ForwardWrite:
    request = WriteRequest((Write("u", "k", b"v" * size, "t"),), 0.0, 5, OperationId("g" * 16, 4, 3), epoch=epoch)
    return ForwardWrite(token, led_by(LEAD) if shard is None else shard, request, 2.0, hops)


def look(token: int = 77, *, hops: int = 1) -> ForwardRead:
    return ForwardRead(token, led_by(LEAD), ReadRequest("u", "k", 0.0), 2.0, hops)


def hear(node: Node, sender: str, *messages: ForwardWrite | ForwardRead | ForwardAnswer) -> list[tuple[str, object]]:
    """Let a node hear something; return what it says on the data links."""
    node.receive(sender, boot_of(int(sender, 16)), Bundle(node=list(messages)), now=NOW)
    return said(node)


def said(node: Node) -> list[tuple[str, object]]:
    bundles = node.take_step(now=NOW).bundles
    return [(peer, message) for (peer, on), bundle in bundles.items() if on is Channel.DATA for message in bundle.node]


def relayed_by(node: Node, message: ForwardWrite | ForwardRead) -> ForwardWrite | ForwardRead:
    ((to, sent_on),) = hear(node, ORIGIN, message)
    assert to == LEAD and isinstance(sent_on, ForwardWrite | ForwardRead)
    return sent_on


# --- the node ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("message", [change(), look()])
def test_a_request_for_another_primary_goes_on_as_it_came_under_a_number_of_this_node(
    message: ForwardWrite | ForwardRead,
) -> None:
    sent_on = relayed_by(node_between(), message)

    assert sent_on == msgspec.structs.replace(message, token=sent_on.token, hops=2) and sent_on.token < 0


def test_the_primary_s_answer_comes_home_once_under_the_gateway_s_number() -> None:
    node = node_between()
    answer = ForwardAnswer(relayed_by(node, change()).token, STORED)

    first, again = hear(node, LEAD, answer), hear(node, LEAD, answer)

    assert (first, again, len(node.serving.relays)) == ([(ORIGIN, ForwardAnswer(77, STORED))], [], 0)


def test_an_answer_counts_only_from_the_node_that_was_asked() -> None:
    node = node_between()

    answer = ForwardAnswer(relayed_by(node, change()).token, STORED)

    assert hear(node, ORIGIN, answer) == [] and len(node.serving.relays) == 1


@pytest.mark.parametrize(
    "message",
    [change(hops=2), look(hops=2), change(epoch=2), change(epoch=0)],
    ids=["a write for the third time", "a read for the third time", "another epoch", "no epoch"],
)
def test_what_may_not_go_on_is_told_where_the_shard_is_by_the_map_held_here(
    message: ForwardWrite | ForwardRead,
) -> None:
    node = node_between()

    moved = Moved(LEAD, 1, first_map().version)
    assert hear(node, ORIGIN, message) == [(ORIGIN, ForwardAnswer(77, moved))]


def test_a_request_never_goes_back_to_whoever_sent_it() -> None:
    node = node_between()

    moved = Moved(LEAD, 1, first_map().version)
    assert hear(node, LEAD, change(), look()) == [(LEAD, ForwardAnswer(77, moved))] * 2


def test_two_nodes_that_take_each_other_for_the_primary_do_not_send_a_request_to_and_fro() -> None:
    shard = Shard(2, 1, Primary(LEAD, boot_of(2)), (), (), (), 1)
    hops, senders = 1, [ORIGIN, ME]
    for sender in senders:
        if not may_relay(change(epoch=2, hops=hops), sender, shard):
            break
        hops += 1

    assert hops == HOPS_MAX


def test_without_a_link_to_the_primary_a_request_certainly_goes_no_further() -> None:
    node = node_between()
    node.link_down(LEAD, Channel.DATA, None, now=NOW)
    said(node)

    refused = NotApplied("no_primary", "no node that was asked could reach the primary")
    assert hear(node, ORIGIN, change()) == [(ORIGIN, ForwardAnswer(77, refused))]


def test_when_the_link_is_lost_afterwards_only_sending_again_can_tell() -> None:
    node = node_between()
    relayed_by(node, change())

    node.link_down(LEAD, Channel.DATA, None, now=NOW)

    moved = Moved(LEAD, 1, first_map().version)
    assert said(node) == [(ORIGIN, ForwardAnswer(77, moved))] and len(node.serving.relays) == 0


def test_an_answer_to_what_an_earlier_boot_relayed_is_nobody_s() -> None:
    late = ForwardAnswer(relayed_by(node_between(), change(token=70)).token, STORED)
    node = node_between(counter=2)
    relayed_by(node, change(token=71))

    assert hear(node, LEAD, late) == []


def test_a_request_of_this_node_s_own_shards_is_served_here_however_often_it_was_sent_on() -> None:
    node = node_between()

    assert hear(node, ORIGIN, change(shard=led_by(ME), hops=2)) == [] and len(node.serving.relays) == 0


def test_what_nobody_answered_is_forgotten_after_its_deadline() -> None:
    node = node_between()
    relayed_by(node, change())

    node.tick(now=NOW + 1.9)
    before = len(node.serving.relays)
    node.tick(now=NOW + 2.5)

    assert (before, len(node.serving.relays), node.serving.relays.open_bytes) == (1, 0, 0)


# --- the bounds ----------------------------------------------------------------------------------------------------


def test_relays_are_bounded_by_count_and_by_bytes_and_a_place_is_free_again_after_an_answer() -> None:
    few = Relays(first_number=1, count_max=2)
    light = Relays(first_number=1, bytes_max=3 * REQUEST_BYTES)
    big = change(size=REQUEST_BYTES)
    taken = [few.add(ORIGIN, change(), LEAD, now=NOW) for _ in range(3)]
    weighed = [light.add(ORIGIN, message, LEAD, now=NOW) for message in (big, big, look(), look())]
    full = (len(few), light.open_bytes)
    few.take(-1, LEAD)
    light.take(-1, LEAD)

    assert (taken, weighed, full) == ([-1, -2, None], [-1, None, -2, None], (2, 3 * REQUEST_BYTES))
    assert (few.add(ORIGIN, change(), LEAD, now=NOW), light.add(ORIGIN, big, LEAD, now=NOW)) == (-3, -3)


def test_a_node_that_relays_as_much_as_it_may_says_that_the_request_went_no_further() -> None:
    node = node_between()
    node.serving.relays = Relays(first_number=1, count_max=1)
    relayed_by(node, change())

    ((to, answer),) = hear(node, ORIGIN, change(token=78))

    assert to == ORIGIN and isinstance(answer, ForwardAnswer) and isinstance(answer.result, NotApplied)
    assert (answer.token, answer.result.code) == (78, "no_primary")


def test_only_what_went_to_a_lost_node_is_given_up() -> None:
    relays = Relays(first_number=1)
    for primary in (LEAD, ME, LEAD):
        relays.add(ORIGIN, change(), primary, now=NOW)

    lost = relays.lost(LEAD)

    assert ([one.primary for one in lost], len(relays), relays.open_bytes) == ([LEAD, LEAD], 1, weight(change()))
