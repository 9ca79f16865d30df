"""The whole node, step by step in virtual time: what waits for the disk, what leaves at once, and what is told to whom."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from msgspec.structs import replace

from ringkeep_core.mapchanges import Boot
from ringkeep_core.maprules import bootstrap
from ringkeep_core.shardmap import Member, Settings, ShardMap
from ringkeep_node.machines.control import encode_snapshot, first_snapshot
from ringkeep_node.machines.documents import Answer, Begin, Write, encode
from ringkeep_node.machines.gateway import Answered
from ringkeep_node.machines.messages import Bundle, Channel, ForwardAnswer, ForwardRead, ForwardWrite, MapPull
from ringkeep_node.machines.node import GREETED_MAX, STALLED_AFTER_S, Node, NodeIdentity, NodeSettings, NodeStep
from ringkeep_node.machines.raft.messages import AppendEntries, Heartbeat, RaftMessage, RequestVote
from ringkeep_node.machines.records import NO_SHARD, Kind, Record
from ringkeep_node.machines.shard.effects import CreateCopy, Found, NotApplied, ReadRequest, Stored, WriteRequest
from ringkeep_node.machines.shard.messages import Append, Ping
from ringkeep_testing.sim_log import SimLog
from ringkeep_testing.sim_store import SimStore

ME, OTHER, THIRD = (f"{number:016x}" for number in (1, 2, 3))
CLUSTER = "c" * 16


def boot_of(number: int, counter: int = 1) -> str:
    return f"{number:08x}{counter:08x}"


def first_map(members: int, *, copies: int = 3) -> ShardMap:
    rows = [
        Member(f"{n:016x}", f"n{n}", boot_of(n), 1, f"http://n{n}", f"10.0.0.{n}:7400", "", 0)
        for n in range(1, members + 1)
    ]
    settings = Settings(replication_factor=copies, min_in_sync=min(2, copies))
    return bootstrap(cluster_id=CLUSTER, members=rows, shards=16, settings=settings)


@dataclass
class Host:
    """A node on a disk; nothing happens but what a test says."""

    log: SimLog = field(default_factory=SimLog)
    store: SimStore = field(default_factory=SimStore)
    now: float = 100.0

    def start(self, *, counter: int = 1, first: ShardMap | None = None) -> Node:
        """Start a process; ``first`` founds a cluster of which this node is the only voter."""
        if first is not None:
            snapshot = first_snapshot(first, (ME,))
            self.log.append([Record(Kind.RAFT_RESET, NO_SHARD, 0, 1, snapshot.index, encode_snapshot(snapshot))])
            self.log.sync()
        self.node = Node(
            identity=NodeIdentity("n1", ME, boot_of(1, counter), counter, "http://n1", "10.0.0.1:7400"),
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

    def step(self, *, sync: bool = True) -> NodeStep:
        """Take one step, carry out what concerns the disk and, with ``sync``, report it durable."""
        step = self.node.take_step(now=self.now)
        self.log.append(step.records)
        for order in step.orders:
            assert isinstance(order, CreateCopy)
            self.store.create(order.shard, order.copy)
        if sync:
            self.sync(step)
        for shard, copy, entries, _ in step.apply:
            self.store.apply(shard, copy, entries)
            self.node.shards.applied([(shard, copy, entries[-1][1])], now=self.now)
        return step

    def sync(self, step: NodeStep) -> None:
        """Everything up to a step is durable."""
        self.log.sync()
        self.node.synced(step.number, now=self.now)

    def run(self, seconds: float, *, sync: bool = True) -> list[NodeStep]:
        """Let time pass; return all steps."""
        end, steps = self.now + seconds, []
        while self.now < end:
            self.now = min(end, max(self.now + 0.001, self.node.next_deadline()))
            self.node.tick(now=self.now)
            steps.append(self.step(sync=sync))
        return steps


def alone() -> Host:
    """A cluster of one that serves."""
    host = Host()
    host.start(first=first_map(1, copies=1))
    host.run(3.0)
    assert host.node.control.leads and host.node.registered
    return host


def answers_of(steps: list[NodeStep]) -> list[Answered]:
    return [answer for step in steps for answer in step.answers]


def sent_of(steps: list[NodeStep], channel: Channel, kind: type) -> list[tuple[str, object]]:
    return [
        (peer, message)
        for step in steps
        for (peer, on), bundle in step.bundles.items()
        if on is channel
        for message in (*bundle.node, *bundle.raft, *bundle.shard)
        if type(message) is kind
    ]


def put(value: bytes = b"v", deadline: float = 200.0) -> WriteRequest:
    return WriteRequest((Write("u", "k", value, "t"),), deadline, 0)


# --- life --------------------------------------------------------------------------------------------------------


def test_a_restarted_node_registers_its_boot_before_it_leads_anything() -> None:
    host = alone()
    host.start(counter=2)

    before = [shard.primary.boot for shard in host.node.held.map.shards] if host.node.held.map else []
    host.run(3.0)

    held = host.node.held.map
    assert held is not None and boot_of(1, 2) not in before
    assert {(shard.primary.boot, shard.epoch) for shard in held.shards} == {(boot_of(1, 2), 2)}


def test_a_directory_that_was_rolled_back_is_refused_and_the_node_says_so() -> None:
    host = alone()
    host.start(counter=5)
    host.run(3.0)
    host.start(counter=4)

    steps = host.run(3.0)

    assert "boot counter 4 is not above 5" in steps[-1].fatal


def test_a_storage_that_left_is_refused_and_the_node_says_so() -> None:
    host = Host()
    first = first_map(1, copies=1)
    host.start(counter=2, first=replace(first, left=(ME,), members=first.members))

    steps = host.run(3.0)

    assert "left" in steps[-1].fatal


def test_a_node_without_a_map_asks_everybody_it_meets_for_one() -> None:
    host = Host()
    host.start()
    host.node.greeted(OTHER, "10.0.0.2:7400")

    host.node.link_up(OTHER, boot_of(2), Channel.CONTROL, now=host.now)

    assert (OTHER, MapPull(0)) in sent_of([host.step()], Channel.CONTROL, MapPull)


def test_whoever_greets_is_dialled_back_but_no_more_than_the_bound() -> None:
    host = Host()
    host.start()

    for number in range(10, 10 + 2 * GREETED_MAX):
        host.node.greeted(f"{number:016x}", f"10.0.1.{number}:1")

    peers = host.step().peers
    assert peers is not None and len(peers) == GREETED_MAX


def test_members_are_dialled_and_those_that_left_are_not() -> None:
    host = Host()
    host.start(first=replace(first_map(3), left=("9" * 16,)))
    host.node.greeted("9" * 16, "10.0.0.9:7400")

    peers = [step.peers for step in host.run(0.1) if step.peers is not None]

    assert peers[-1] == {OTHER: "10.0.0.2:7400", THIRD: "10.0.0.3:7400"}


# --- the disk ----------------------------------------------------------------------------------------------------


def test_a_write_is_answered_when_it_is_on_disk_and_not_before() -> None:
    host = alone()
    host.node.submit(1, 3, put(), size=10, now=host.now)

    step = host.step(sync=False)
    waiting = host.run(0.5, sync=False)
    host.sync(step)
    done = host.step()

    assert answers_of([step, *waiting]) == []
    assert [type(answer.result) for answer in answers_of([done])] == [Stored]


def test_a_step_that_appends_nothing_waits_for_no_sync() -> None:
    host = alone()
    host.node.submit(1, 3, put(), size=10, now=host.now)
    host.run(0.2)

    host.node.submit(2, 3, ReadRequest("u", "k", 200.0), size=10, now=host.now)
    steps = host.run(0.5, sync=False)

    (answer,) = answers_of(steps)
    assert isinstance(answer.result, Found) and answer.result.row.value == b"v"


def test_records_of_raft_are_urgent() -> None:
    host = Host()
    host.start(first=first_map(1, copies=1))

    steps = host.run(2.0)

    raft = [step for step in steps if any(record.kind == Kind.RAFT_ENTRY for record in step.records)]
    assert raft and all(step.urgent for step in raft)


def test_steps_are_numbered_one_after_the_other() -> None:
    host = alone()

    numbers = [step.number for step in host.run(1.0)]

    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))


def test_a_hanging_disk_is_told_to_everybody_and_leads_no_raft_group() -> None:
    host = alone()

    host.node.stalled(STALLED_AFTER_S - 0.1, now=host.now)
    fine = host.node.is_stalled
    host.node.stalled(STALLED_AFTER_S, now=host.now)

    assert (fine, host.node.is_stalled, host.node.swim.values(ME).get("stalled")) == (False, True, b"1")
    host.node.stalled(0.0, now=host.now)
    assert host.node.swim.values(ME).get("stalled") is None


@pytest.mark.parametrize("ends", [False, True])
def test_a_disk_that_works_again_makes_a_node_stand_for_election_only_if_its_process_does_not_end(ends: bool) -> None:
    host = Host()
    host.start(first=first_map(1, copies=1))
    if ends:
        host.node.stand_down(now=host.now)
    host.node.stalled(STALLED_AFTER_S, now=host.now)
    host.run(3.0)
    led_while_stalled = host.node.control.leads
    host.node.stalled(0.0, now=host.now)
    host.run(3.0)

    assert (led_while_stalled, host.node.control.leads) == (False, not ends)


# --- requests ----------------------------------------------------------------------------------------------------


def test_a_request_for_another_node_is_forwarded_with_what_is_left_of_its_deadline() -> None:
    host, shard = member_of_three()
    host.node.submit(1, shard, put(deadline=host.now + 2.0), size=10, now=host.now)

    ((to, forward),) = sent_of([host.step()], Channel.DATA, ForwardWrite)

    assert isinstance(forward, ForwardWrite) and to == OTHER
    assert (forward.shard, forward.remaining_s, forward.request.epoch) == (shard, 2.0, 1)


def test_no_boot_of_a_node_numbers_its_forwards_as_an_earlier_one_did() -> None:
    tokens = []
    for counter in (1, 2):
        host, shard = member_of_three(counter)
        host.node.submit(1, shard, put(), size=10, now=host.now)
        ((_, forward),) = sent_of([host.step()], Channel.DATA, ForwardWrite)
        assert isinstance(forward, ForwardWrite)
        tokens.append(forward.token)

    assert tokens[1] - tokens[0] >= 1 << 32


def test_the_answer_of_the_other_node_is_the_client_s_answer() -> None:
    host, shard = member_of_three()
    host.node.submit(1, shard, put(), size=10, now=host.now)
    ((_, forward),) = sent_of([host.step()], Channel.DATA, ForwardWrite)
    assert isinstance(forward, ForwardWrite)

    result = Stored(Answer.CREATED, 7, 1)
    host.node.receive(OTHER, boot_of(2), Bundle(node=[ForwardAnswer(forward.token, result)]), now=host.now)

    assert answers_of([host.step()]) == [Answered(1, result)]


def test_a_forwarded_request_is_answered_to_its_gateway_under_its_token() -> None:
    host = alone()
    ask = ForwardRead(77, 3, ReadRequest("u", "k", 0.0), 5.0, 1)

    host.node.receive(OTHER, boot_of(2), Bundle(node=[ask]), now=host.now)
    steps = host.run(0.5)

    ((to, answer),) = sent_of(steps, Channel.DATA, ForwardAnswer)
    assert isinstance(answer, ForwardAnswer) and (to, answer.token) == (OTHER, 77)


def test_a_forwarded_request_for_a_shard_that_does_not_exist_changes_nothing() -> None:
    host = alone()
    ask = ForwardRead(77, 999, ReadRequest("u", "k", 0.0), 5.0, 1)

    host.node.receive(OTHER, boot_of(2), Bundle(node=[ask]), now=host.now)

    assert sent_of(host.run(0.5), Channel.DATA, ForwardAnswer) == []


def test_a_request_that_nobody_can_serve_ends_at_its_deadline() -> None:
    host = Host()
    host.start()

    host.node.submit(1, 3, put(deadline=host.now + 1.0), size=10, now=host.now)
    early = answers_of(host.run(0.9))
    late = answers_of(host.run(0.2))

    assert (early, [answer.result for answer in late]) == (
        [],
        [NotApplied("no_primary", "no primary could be reached before the deadline")],
    )


def test_a_local_read_is_answered_from_this_copy_without_asking_anybody() -> None:
    host, shard = member_of_three()

    host.node.submit(1, shard, ReadRequest("u", "k", 200.0, local=True), size=10, now=host.now)
    step = host.step()

    assert [answer.token for answer in step.answers] == [1] and sent_of([step], Channel.DATA, ForwardRead) == []


def test_a_local_read_goes_to_another_copy_when_this_one_cannot_be_read() -> None:
    host, shard = member_of_three()
    host.node.shards._ctx.copies[shard].unfit = True

    host.node.submit(1, shard, ReadRequest("u", "k", 200.0, local=True), size=10, now=host.now)
    step = host.step()

    ((to, _),) = sent_of([step], Channel.DATA, ForwardRead)
    assert (to, step.answers) == (OTHER, [])


def member_of_three(counter: int = 1) -> tuple[Host, int]:
    """A node that holds the map of three members, and a shard that n2 leads."""
    host = Host()
    host.start(first=first_map(3), counter=counter)
    host.run(2.0)
    for storage, number in ((OTHER, 2), (THIRD, 3)):
        for channel in Channel:
            host.node.link_up(storage, boot_of(number), channel, now=host.now)
    host.step()
    held = host.node.held.map
    assert held is not None
    return host, next(number for number, shard in enumerate(held.shards) if shard.primary.storage == OTHER)


def shard_led_by(host: Host, storage: str) -> int:
    held = host.node.held.map
    assert held is not None
    return next(number for number, shard in enumerate(held.shards) if shard.primary.storage == storage)


def test_a_node_whose_disk_has_fallen_behind_admits_no_change_and_takes_no_entries_until_it_caught_up() -> None:
    host, led_by_other = member_of_three()
    epoch = 1
    append = Bundle(shard=[Append(led_by_other, epoch, 0, 0, 0, ((epoch, encode(Begin(OTHER, boot_of(2), 0))),))])
    forward = Bundle(node=[ForwardWrite(7, shard_led_by(host, ME), put(), 5.0, 1)])

    host.node.full(True)
    host.node.receive(OTHER, boot_of(2), append, now=host.now)
    host.node.receive(OTHER, boot_of(2), forward, now=host.now)
    full = host.step()
    host.node.full(False)
    host.node.receive(OTHER, boot_of(2), append, now=host.now)
    again = host.step()

    refused = NotApplied("overloaded", "the primary's disk has fallen behind")
    assert [record.kind for record in full.records if record.kind == Kind.SHARD_ENTRY] == []
    assert sent_of([full], Channel.DATA, ForwardAnswer) == [(OTHER, ForwardAnswer(7, refused))]
    assert [record.kind for record in again.records if record.kind == Kind.SHARD_ENTRY] == [Kind.SHARD_ENTRY]


def test_a_node_that_is_the_only_voter_confirms_all_reads_of_a_turn_in_that_turn() -> None:
    host = alone()
    for number in range(1, 101):
        host.node.submit(number, number % 16, ReadRequest("u", "k", 200.0), size=10, now=host.now)
    step = host.step(sync=False)

    assert sorted(answer.token for answer in step.answers) == list(range(1, 101))
    assert (step.records, step.bundles) == ([], {})


# --- channels ----------------------------------------------------------------------------------------------------


def test_pings_and_raft_travel_apart_from_entries() -> None:
    host, _ = member_of_three()
    led = next(
        number
        for number, shard in enumerate(host.node.held.map.shards if host.node.held.map else ())
        if shard.primary.storage == ME
    )

    host.node.submit(1, led, ReadRequest("u", "k", 200.0), size=10, now=host.now)
    host.node.submit(2, led, put(), size=10, now=host.now)
    steps = host.run(1.0)

    assert sent_of(steps, Channel.DATA, Ping) == sent_of(steps, Channel.CONTROL, Append) == []
    for kind in (Heartbeat, AppendEntries):
        assert sent_of(steps, Channel.DATA, kind) == sent_of(steps, Channel.BULK, kind) == []


@pytest.mark.parametrize("early_s", [0.0, 0.05])
def test_a_tick_that_comes_early_is_harmless(early_s: float) -> None:
    host = alone()

    for _ in range(50):
        host.now = max(host.now, host.node.next_deadline() - early_s)
        host.node.tick(now=host.now)
        host.step()
        host.now += 0.001

    assert host.node.control.leads and host.node.registration.fatal == ""


def test_an_administrative_proposal_has_one_outcome() -> None:
    host = alone()
    own = Boot("n9", "9" * 16, boot_of(9), 1, "http://n9", "10.0.0.9:7400")

    number = host.node.propose(own, deadline=host.now + 5.0, now=host.now)
    steps = host.run(1.0)

    ((told, outcome),) = [one for step in steps for one in step.outcomes]
    held = host.node.held.map
    assert held is not None and (told, outcome.code, outcome.version) == (number, "", held.version)
    assert "9" * 16 in held.members


# --- generations -------------------------------------------------------------------------------------------------


def test_votes_and_entries_of_another_generation_are_not_heard_however_high_their_term() -> None:
    """counterexamples.md L8: an old voter comes back with its log."""
    host = alone()
    node = host.node
    before = (node.raft.term, node.raft.leader, node.raft.last_index)
    old: list[RaftMessage] = [RequestVote(1 << 50, 1 << 50, 1 << 50, False, True), AppendEntries(1 << 50, 0, 0, 0)]

    node.receive(OTHER, boot_of(2), Bundle(raft=list(old), generation=2), now=host.now)
    unheard = (node.raft.term, node.raft.leader, node.raft.last_index)
    node.receive(OTHER, boot_of(2), Bundle(raft=list(old), generation=1), now=host.now)

    assert unheard == before
    assert node.raft.term == 1 << 50
