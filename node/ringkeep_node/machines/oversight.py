"""What a node makes of gossip: whom it calls dead, what it tells of itself, and what its leader is fed with.

    SWIM's views and everybody's values --> facts --> Leader --> changes to propose, or to whom Raft leadership goes
    own verdicts, map number, stalled disk, leadership --> own values, told to everybody

Facts are gathered only when something they are made of changed, and regularly on the node that leads; elsewhere the
leader's decisions stay silent and only deaths are counted.

Source: replication.md, "Members, failure, recovery" and "The leader alone plans".
"""

from __future__ import annotations

import math

from ringkeep_core.shardmap import ShardMap, generation_at, position_of
from ringkeep_node.machines.control import Control
from ringkeep_node.machines.electorate import Ballot, Reconfigure
from ringkeep_node.machines.gathering import may_wait
from ringkeep_node.machines.gossip_state import VALUE_BYTES_MAX
from ringkeep_node.machines.leader import Leader, StepDown, TransferLeadership
from ringkeep_node.machines.planning import HandOver
from ringkeep_node.machines.room import ROOM_KEY, Room, encode_room, has_moved, room_of, shard_bytes_of
from ringkeep_node.machines.shard.replication import Replication
from ringkeep_node.machines.shard_loads import (
    LOAD_KEY,
    MEASURE_S,
    LoadMeter,
    NodeLoad,
    decode_load,
    encode_load,
    loads_of,
)
from ringkeep_node.machines.swim.machine import Swim, SwimStep
from ringkeep_node.machines.swim.members import Address, MemberChanged, MemberState, MemberView, RegisteredMember
from ringkeep_node.machines.verdicts import MemberFacts, decode_reports, encode_reports

LEADS_KEY = "leads"
MAP_KEY = "map"
STALLED_KEY = "stalled"
DEATHS_KEY = "deaths"
VOTERS_KEY = "voters"
LEAVING_KEY = "leaving"
RECEIVED_KEY = "received"
VERSION_KEY = "version"
SIZES_EVERY_S = 2.0


def split_address(text: str) -> Address:
    """Return (host, port) of "host:port"."""
    host, _, port = text.rpartition(":")
    return host, int(port)


def registered_members(shard_map: ShardMap) -> list[RegisteredMember]:
    """Return what gossip must know of the map: who is registered in which boot, and who left for good."""
    rows = [
        RegisteredMember(
            storage=member.storage,
            name=member.name,
            boot=member.boot,
            counter=member.boot_counter,
            address=split_address(member.peer),
        )
        for member in shard_map.members.values()
    ]
    rows += [
        RegisteredMember(storage=storage, name="", boot="", counter=0, address=("", 0), left=True)
        for storage in shard_map.left
    ]
    return rows


def member_addresses(shard_map: ShardMap, swim: Swim) -> dict[str, str]:
    """Return where each member of the map is dialled: where it said that it is now, if it started again since.

    A start at another address is in the map only when a leader has committed it. When most of the voters come back at
    new addresses, there is none before they have found each other without the map.
    """
    seen = swim.members
    addresses: dict[str, str] = {}
    for storage, member in shard_map.members.items():
        now = seen.get(storage)
        is_later = now is not None and now.counter > member.boot_counter
        addresses[storage] = f"{now.address[0]}:{now.address[1]}" if now is not None and is_later else member.peer
    return addresses


def leader_hint(swim: Swim) -> str | None:
    """Return who says that it leads, in the highest term: for nodes that Raft does not tell."""
    best: tuple[int, str] | None = None
    for storage in swim.storages():
        value = swim.values(storage).get(LEADS_KEY, b"")
        if value.isdigit() and (best is None or int(value) > best[0]):
            best = (int(value), storage)
    return best[1] if best is not None else None


class Oversight:
    """See the module. ``datagrams``, ``member_changes`` and ``hand_overs`` gather until the node takes them.

    ``stale`` asks for facts.
    """

    def __init__(self, *, me: str, swim: Swim, leader: Leader, control: Control) -> None:
        self._me, self._swim, self._leader, self._control = me, swim, leader, control
        self.datagrams: list[tuple[Address, bytes]] = []
        self.member_changes: list[MemberChanged] = []
        self.hand_overs: list[HandOver] = []
        self.stale = True
        self.stopping: frozenset[str] = frozenset()
        """Who says that it will stop, or has left gossip in order."""
        self._leads = False
        self._room: Room | None = None
        self._voters_told: tuple[str, ...] = ()
        self._meter = LoadMeter()
        self._loads_from: tuple[object, ...] = ()
        self._loads_due = self._sizes_due = -math.inf

    # --- what others say -----------------------------------------------------------------------------------------

    def take(self, done: SwimStep, *, now: float) -> None:
        """Take what gossip ordered and what it found out."""
        self.datagrams += done.send
        if done.changes:
            self.member_changes += done.changes
            self._tell_deaths(now)
            self._look_who_stops()
        for storage, key, value in done.state_changed:
            if key in (STALLED_KEY, DEATHS_KEY, LEAVING_KEY):
                self.stale = True
                if key == LEAVING_KEY:
                    self._look_who_stops()
            elif key == MAP_KEY and value.isdigit():
                self._control.heard_of_newer(storage, position_of(int(value)), now=now)

    def _look_who_stops(self) -> None:
        self.stopping = frozenset(
            storage
            for storage, view in self._swim.members.items()
            if view.state is MemberState.LEFT or self._swim.values(storage).get(LEAVING_KEY)
        )

    def look_for_map(self, wanted: int, *, now: float) -> None:
        """Ask whoever names a newer map, or the leader for the index ``wanted``: for nodes that hear no Raft leader."""
        leader = leader_hint(self._swim)
        if leader is not None:
            self._control.heard_of_newer(leader, wanted, now=now)
        for storage in self._swim.storages():
            value = self._swim.values(storage).get(MAP_KEY, b"")
            if value.isdigit():
                self._control.heard_of_newer(storage, position_of(int(value)), now=now)

    def look_for_generation(self, *, now: float) -> None:
        """Ask whoever names a map of a later generation: a group that has ended may still hear its own leader."""
        for storage in self._swim.storages():
            value = self._swim.values(storage).get(MAP_KEY, b"")
            if value.isdigit() and generation_at(position_of(int(value))) > self._control.generation:
                self._control.heard_of_newer(storage, position_of(int(value)), now=now)

    # --- what we tell --------------------------------------------------------------------------------------------

    def _tell_deaths(self, now: float) -> None:
        self.stale = True
        views = self._swim.members_at(now).values()
        dead = [(view.storage, view.counter) for view in views if view.state >= MemberState.DEAD]
        self._swim.set_state(DEATHS_KEY, encode_reports(dead), now=now)

    def tell_stalled(self, stalled: bool, *, now: float) -> None:
        """Say that the own disk hangs, or works again."""
        self.stale = True
        self._swim.set_state(STALLED_KEY, b"1" if stalled else b"", now=now)

    def tell_leaving(self, *, now: float) -> None:
        """Say that this node will stop for a restart: it gets no primaries, and its own are handed over first."""
        self.stale = True
        self._swim.set_state(LEAVING_KEY, b"1", now=now)

    def tell_leadership(self, *, now: float) -> None:
        """Say whether this node leads, and in which term."""
        self.stale = True
        raft = self._control.raft
        value = str(raft.term).encode() if raft.leader == self._me else b""
        self._swim.set_state(LEADS_KEY, value, now=now)

    def map_held(self, shard_map: ShardMap, *, now: float) -> None:
        """Say which map is held here; gossip takes its members from it."""
        self.stale = True
        self._swim.set_state(MAP_KEY, str(shard_map.version).encode(), now=now)
        self.take(self._swim.registered(registered_members(shard_map), now=now), now=now)

    def others_stay(self) -> bool:
        """Return whether another member is alive and does not say that it will stop."""
        return any(
            view.state is MemberState.ALIVE and not self._swim.values(storage).get(LEAVING_KEY)
            for storage, view in self._swim.members.items()
            if storage != self._me
        )

    def tell_room(self, room: Room, *, now: float) -> None:
        """Say how much is stored here and how much room is left, if that is news."""
        if has_moved(self._room, room):
            self._room = room
            self._swim.set_state(ROOM_KEY, encode_room(room), now=now)

    def tell_version(self, version: str, *, now: float) -> None:
        """Say which version of the program runs here: people see a rolling update by it. It decides nothing."""
        self._swim.set_state(VERSION_KEY, version.encode()[:VALUE_BYTES_MAX], now=now)

    def tell_received(self, snapshot_bytes: int, *, now: float) -> None:
        """Say how many bytes of copies came here since this start: that a long transfer goes on shows nowhere else."""
        self._swim.set_state(RECEIVED_KEY, str(snapshot_bytes).encode() if snapshot_bytes else b"", now=now)

    def received_bytes(self) -> int:
        """Return how many bytes of copies all registered members have received, each since its start."""
        held = self._control.held.map
        told = [self._swim.values(it).get(RECEIVED_KEY, b"") for it in (held.members if held is not None else ())]
        return sum(int(value) for value in told if value.isdigit() and len(value) < 19)

    def tell_load(self, shards: Replication, *, now: float) -> None:
        """Say what the shards led here are asked for, if that is news and anybody wants to know."""
        held = self._control.held.map
        if held is None or not held.wanted.settings.hot_spot_swaps:
            if self._meter.runs:
                self._meter.stop()
                self._swim.set_state(LOAD_KEY, b"", now=now)
        elif now >= self._meter.due:
            load = self._meter.measured(shards.take_demand(), now=now)
            if load is not None:
                self._swim.set_state(LOAD_KEY, encode_load(load), now=now)

    def told_loads(self) -> dict[str, NodeLoad]:
        """Return what each registered member says of its load; who says nothing is missing."""
        held = self._control.held.map
        values = {} if held is None else {it: self._swim.values(it).get(LOAD_KEY, b"") for it in held.members}
        told = {storage: decode_load(value) for storage, value in values.items()}
        return {storage: load for storage, load in told.items() if load is not None}

    # --- the leader ----------------------------------------------------------------------------------------------

    def lead(self, *, now: float) -> None:
        """Feed the leader if anything changed, and carry out what it decides."""
        if self.stale or self._control.leads is not self._leads:
            self._feed(now)
        due = self._leader.next_deadline()
        if due is None or now < due:
            return
        held = self._control.held.map
        for order in self._leader.tick(now=now):
            if isinstance(order, TransferLeadership):
                self._control.raft.transfer_leadership(order.to, now=now)
            elif isinstance(order, StepDown):
                self._control.raft.step_down(now=now)
            elif isinstance(order, Reconfigure):
                self._control.reconfigure(order.configuration, now=now)
            elif isinstance(order, HandOver):
                self.hand_overs.append(order)
            else:
                self._control.propose(order, now=now, may_wait=held is not None and may_wait(order, held))

    def _feed(self, now: float) -> None:
        held = self._control.held.map
        if held is None:
            return
        self.stale = False
        self._leads = self._control.leads
        voters = self._control.raft.configuration.voters
        if self._leads and voters != self._voters_told:
            # For everybody who does not vote: who asks whether a node can go must know whom Raft needs.
            self._voters_told = voters
            self._swim.set_state(VOTERS_KEY, ",".join(voters).encode(), now=now)
        if self._leads:
            self._learn_loads(held, now)
            self._learn_sizes(held, now)
        self._leader.facts(
            shard_map=held,
            leads=self._leads,
            voters=self._control.raft.configuration.voters,
            members=[self._facts_of(view) for view in self._swim.members_at(now).values()],
            ballot=self._ballot() if self._leads else None,
            now=now,
        )

    def _learn_loads(self, held: ShardMap, now: float) -> None:
        """Work out what shards cost, but not with every change of the map: nobody swaps while it changes."""
        if not held.wanted.settings.hot_spot_swaps and not self._loads_from:
            return
        values = [self._swim.values(storage).get(LOAD_KEY, b"") for storage in held.members]
        known = (held.shards, values) if any(values) else ()
        if now >= self._loads_due and known != self._loads_from:
            self._loads_from, self._loads_due = known, now + MEASURE_S
            self._leader.learn_loads(loads_of(held, self.told_loads()) if known else {}, now=now)

    def _learn_sizes(self, held: ShardMap, now: float) -> None:
        """Work out now and then what shards weigh: copies that move together are bounded by their bytes."""
        if now < self._sizes_due:
            return
        self._sizes_due = now + SIZES_EVERY_S
        sizes = shard_bytes_of(held, self.rooms())
        self._leader.learn_sizes(dict(enumerate(sizes)) if sizes is not None else {})

    def rooms(self) -> dict[str, Room]:
        """Return what each registered member says of its room; who says nothing is missing."""
        held = self._control.held.map
        told = {} if held is None else {it: room_of(self._swim.values(it)) for it in held.members}
        return {storage: room for storage, room in told.items() if room is not None}

    def _ballot(self) -> Ballot:
        raft = self._control.raft
        return Ballot(raft.configuration, tuple(it for it in raft.configuration.learners if raft.is_level(it)))

    def _facts_of(self, view: MemberView) -> MemberFacts:
        values = self._swim.values(view.storage)
        return MemberFacts(
            storage=view.storage,
            counter=view.counter,
            dead=view.state >= MemberState.DEAD,
            suspect=view.state is MemberState.SUSPECT,
            stalled=bool(values.get(STALLED_KEY)),
            heard=view.heard_at is not None,
            leaving=bool(values.get(LEAVING_KEY)),
            left=view.state is MemberState.LEFT,
            lag_s=view.lag_s,
            reports=decode_reports(values.get(DEATHS_KEY, b"")),
            evidence=view.evidence,
        )
