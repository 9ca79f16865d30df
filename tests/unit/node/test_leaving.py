"""A node that has left learns it, stays idle and says so; the others answer it for a while, and only as a stranger."""

from __future__ import annotations

from dataclasses import dataclass, field

from msgspec.structs import replace

from ringkeep_core.mapchanges import Boot, Leave, decode_change, encode_change
from ringkeep_core.maprules import apply, bootstrap
from ringkeep_core.shardmap import Member, Settings, ShardMap, WantedMember, encode_map
from ringkeep_node.machines.control import LOOK_AROUND_S, encode_snapshot, first_snapshot
from ringkeep_node.machines.farewells import FAREWELL_S
from ringkeep_node.machines.gateway import Answered
from ringkeep_node.machines.messages import (
    Bundle,
    Channel,
    MapEntries,
    MapPull,
    MapWhole,
    NodeMessage,
    Propose,
    ProposeOutcome,
)
from ringkeep_node.machines.node import Node, NodeIdentity, NodeSettings, NodeStep
from ringkeep_node.machines.records import NO_SHARD, Kind, Record
from ringkeep_node.machines.shard.effects import NotApplied, ReadRequest
from ringkeep_testing.sim_log import SimLog
from ringkeep_testing.sim_store import SimStore

ME, OTHER = "1" * 16, "2" * 16
CLUSTER = "c" * 16
SENTENCE = f"n1 has left cluster {CLUSTER} for good; empty its directory to use it again"


def member(storage: str, name: str, counter: int = 1) -> Member:
    return Member(storage, name, f"{storage[:8]}{counter:08x}", counter, f"http://{name}", f"{name}:7400", "", 0)


def map_of_two(*, mine: Member) -> ShardMap:
    """A map in which every copy is with the other one and this node is draining."""
    founded = bootstrap(
        cluster_id=CLUSTER, members=[member(OTHER, "n2")], shards=16, settings=Settings(replication_factor=1)
    )
    wanted = replace(founded.wanted, members={**founded.wanted.members, "n1": WantedMember(draining=True)})
    return replace(founded, members={**founded.members, mine.storage: mine}, wanted=wanted)


def left_map(held: ShardMap) -> ShardMap:
    return apply(held, held.version + 1, Leave(ME, "people")).map


def founding_record(held: ShardMap, voters: tuple[str, ...]) -> Record:
    snapshot = first_snapshot(held, voters)
    return Record(Kind.RAFT_RESET, NO_SHARD, 0, 1, snapshot.index, encode_snapshot(snapshot))


@dataclass
class Host:
    """A node without a vote, whose only peer is what a test says."""

    log: SimLog = field(default_factory=SimLog)
    store: SimStore = field(default_factory=SimStore)
    now: float = 100.0
    steps: list[NodeStep] = field(default_factory=list)

    def start(self, counter: int = 1) -> Node:
        self.node = Node(
            identity=NodeIdentity("n1", ME, member(ME, "n1", counter).boot, counter, "http://n1", "n1:7400"),
            cluster_id=CLUSTER,
            settings=NodeSettings(),
            recovered=self.log.open(self.store.synced()),
            stored=self.store.copies(),
            store=self.store,
            seeds=[],
            draw=lambda: 0.5,
            now=self.now,
        )
        return self.node

    def hears(self, *messages: NodeMessage, sender: str = OTHER) -> list[NodeStep]:
        self.node.receive(sender, member(sender, "x").boot, Bundle(list(messages)), now=self.now)
        return [self.step(), self.step()]

    def link(self, storage: str = OTHER) -> None:
        self.node.greeted(storage, f"{storage[:2]}:7400")
        self.node.link_up(storage, member(storage, "x").boot, Channel.CONTROL, now=self.now)

    def step(self) -> NodeStep:
        step = self.node.take_step(now=self.now)
        self.log.append(step.records)
        self.log.sync()
        self.node.synced(step.number, now=self.now)
        self.steps.append(step)
        return step

    def run(self, seconds: float) -> list[NodeStep]:
        end, before = self.now + seconds, len(self.steps)
        while self.now < end:
            self.now = min(end, max(self.now + 0.001, self.node.next_deadline()))
            self.node.tick(now=self.now)
            self.step()
        return self.steps[before:]


def said(steps: list[NodeStep], kind: type) -> list[tuple[str, object]]:
    return [
        (peer, message)
        for step in steps
        for (peer, _), bundle in step.bundles.items()
        for message in bundle.node
        if type(message) is kind
    ]


def registered() -> tuple[Host, ShardMap]:
    host, held = Host(), map_of_two(mine=member(ME, "n1"))
    host.start()
    host.link()
    host.hears(MapWhole(encode_map(held), held.index))
    assert host.node.registered
    return host, held


def test_a_node_that_hears_of_its_leave_stays_idle_refuses_requests_and_says_nothing_more() -> None:
    host, held = registered()
    entry = (held.index + 1, encode_change(Leave(ME, "people")))

    host.hears(MapEntries(held.index, (entry,), held.index + 1))
    host.node.submit(1, 3, ReadRequest("u", "k", 200.0), size=10, now=host.now)
    answered = host.step().answers
    later = host.run(3 * FAREWELL_S)

    assert host.node.has_left and answered == [Answered(1, NotApplied("no_primary", SENTENCE))]
    assert {step.fatal for step in host.steps} == {""}
    assert [(step.bundles, step.datagrams) for step in later if step.bundles or step.datagrams] == []
    assert [step.peers for step in later if step.peers is not None] == [{}]


def test_whoever_missed_the_news_of_its_leave_asks_around_until_somebody_tells_it() -> None:
    host, held = registered()

    asked = said(host.run(2 * LOOK_AROUND_S), MapPull)
    after = left_map(held)
    host.hears(MapWhole(encode_map(after), after.index))

    assert (OTHER, MapPull(held.index)) in asked
    assert host.node.has_left


def test_a_voter_that_missed_its_removal_and_its_leave_learns_them_too_and_stands_for_nothing() -> None:
    host, held = Host(), map_of_two(mine=member(ME, "n1"))
    host.log.append([founding_record(held, (ME, OTHER))])
    host.log.sync()
    host.start()
    host.link()
    asked = said(host.run(1.5 * LOOK_AROUND_S), MapPull)
    after = left_map(held)

    entry = (after.index, encode_change(Leave(ME, "people")))
    host.hears(MapEntries(held.index, (entry,), after.index))
    later = host.run(2 * FAREWELL_S)

    assert asked[0] == (OTHER, MapPull(held.index))
    assert host.node.has_left
    assert [step.bundles for step in later if step.bundles] == []


def test_a_start_in_a_directory_that_has_left_ends_with_one_sentence() -> None:
    host, held = registered()
    after = left_map(held)
    host.hears(MapWhole(encode_map(after), after.index))
    host.start(counter=2)

    assert host.step().fatal == SENTENCE


def test_a_start_that_only_the_leader_knows_to_have_left_ends_with_the_same_sentence() -> None:
    host, _ = registered()
    host.start(counter=2)
    host.link()
    ((_, asked), *_) = said(host.run(1.0), Propose)
    assert isinstance(asked, Propose)

    steps = host.hears(ProposeOutcome(asked.number, 0, "left", "storage 1 has left"))

    assert steps[-1].fatal == SENTENCE


def test_a_name_that_another_disk_got_meanwhile_is_proposed_again_from_the_newer_map() -> None:
    third = "3" * 16
    host, first = Host(), map_of_two(mine=member("9" * 16, "n1"))
    newer = apply(first, first.version + 1, Boot("n1", third, "b3", 1, "http://n1", "n1:7400", replaces="9" * 16)).map
    host.start()
    host.link()
    host.hears(MapWhole(encode_map(first), first.index))
    ((_, asked), *_) = said(host.run(0.3), Propose)
    assert isinstance(asked, Propose)

    told = host.hears(ProposeOutcome(asked.number, newer.version, "stale_name", "n1 belongs to another storage now"))
    waiting = host.run(1.0)
    host.hears(MapWhole(encode_map(newer), newer.index))
    again = said(host.run(0.3), Propose)

    change = decode_change(asked.change)
    assert isinstance(change, Boot) and change.replaces == "9" * 16
    assert said(waiting, Propose) == [] and (OTHER, MapPull(first.index)) in said(waiting, MapPull)
    assert {step.fatal for step in (*told, *waiting)} == {""}
    renewed = [decode_change(one.change) for _, one in again if isinstance(one, Propose)]
    assert [one.replaces for one in renewed if isinstance(one, Boot)][:1] == [third]


def test_others_keep_a_link_to_who_has_left_for_as_long_as_it_talks() -> None:
    host, held = registered()
    gone = "7" * 16
    with_gone = replace(held, members={**held.members, gone: member(gone, "n7")})
    after = apply(with_gone, with_gone.version + 1, Leave(gone, "people")).map
    host.hears(MapWhole(encode_map(replace(with_gone, version=with_gone.version + 1)), with_gone.index + 1))
    after = replace(after, version=after.version + 1)

    host.hears(MapWhole(encode_map(after), after.index))
    at_first = host.steps
    host.run(FAREWELL_S + 1.0)
    silent = [step.peers for step in host.steps if step.peers is not None][-1]
    host.node.greeted(gone, "n7:7400")
    again = host.hears(MapPull(0), sender=gone)
    host.run(0.5)
    answer = said(host.hears(MapPull(0), sender=gone), MapWhole)

    assert gone in [peer for step in at_first if step.peers for peer in step.peers]
    assert gone not in silent
    assert [step.peers[gone] for step in again if step.peers] == ["n7:7400"]
    assert [to for to, _ in answer] == [gone]
