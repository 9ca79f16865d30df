"""Control planes of several nodes in virtual time: messages arrive at once, disks sync when told to.

group.run(seconds)   ticks, exchanges messages and syncs; ``offline`` hear and say nothing, ``unsynced`` do not sync
"""

from __future__ import annotations

from random import Random

from ringkeep_core.mapchanges import Boot, MapChange, Touch
from ringkeep_core.mapentries import ShardChanges
from ringkeep_core.maprules import bootstrap
from ringkeep_core.shardmap import Member, Settings, ShardMap, encode_map
from ringkeep_node.machines.control import Control, encode_snapshot, first_snapshot, recovered_raft
from ringkeep_node.machines.held_map import HeldMap
from ringkeep_node.machines.messages import NodeMessage, ProposeOutcome
from ringkeep_node.machines.raft.machine import Raft
from ringkeep_node.machines.raft.settings import RaftSettings
from ringkeep_node.machines.records import Record

STEP_S = 0.02


def storage_of(number: int) -> str:
    """Return the storage id of the node with this number."""
    return f"{number:016x}"


def map_of(nodes: int) -> ShardMap:
    """Return the first map of so many members."""
    members = [
        Member(storage_of(n), f"n{n}", f"{n:016x}", 1, f"http://n{n}", f"n{n}:7400", "", 0) for n in range(1, nodes + 1)
    ]
    return bootstrap(cluster_id="c" * 16, members=members, shards=16, settings=Settings())


class Site:
    """One node's control plane, its step counter and its disk."""

    def __init__(self, group: ControlGroup, number: int, *, votes: bool, first_number: int = 1) -> None:
        self.storage, self.number = storage_of(number), 1
        first = group.first
        snapshot = encode_snapshot(first_snapshot(first, group.voters)) if votes else None
        recovered, held = recovered_raft(0, None, snapshot, [])
        if not votes:
            held = HeldMap(first, first.index)
        self.hint: str | None = None
        self.linked = True
        self.control = Control(
            me=self.storage,
            raft=Raft(me=self.storage, recovered=recovered, settings=RaftSettings(), draw=group.draw, now=group.now),
            held=held,
            leader_hint=lambda: self.hint,
            complete_boot=lambda boot: boot,
            is_linked=lambda _storage: self.linked,
            first_number=first_number,
        )
        self.log: list[Record] = []
        self.outcomes: dict[int, ProposeOutcome] = {}
        self.indexes: list[tuple[int, int | None]] = []

    @property
    def map(self) -> ShardMap:
        """The held map."""
        assert self.control.held.map is not None
        return self.control.held.map


class ControlGroup:
    """See the module."""

    def __init__(self, voters: int, others: int = 0) -> None:
        self.now = 100.0
        self.draw = Random(1).random
        self.first = map_of(voters + others)
        self.voters = tuple(storage_of(n) for n in range(1, voters + 1))
        self.sites = {
            storage_of(n): Site(self, n, votes=n <= voters, first_number=n * 1000)
            for n in range(1, voters + others + 1)
        }
        self.offline: set[str] = set()
        self.unsynced: set[str] = set()
        self.lost = 0

    def exchange(self) -> None:
        """Let everything flow until nobody has anything to say."""
        busy = True
        while busy:
            busy = False
            for site in self.sites.values():
                busy = self._turn(site) or busy

    def _turn(self, site: Site) -> bool:
        control = site.control
        control.collect(site.number, now=self.now)
        records, control.records = control.records, []
        site.log += records
        step, site.number = site.number, site.number + 1
        sends, control.sends = control.sends, []
        if site.storage not in self.unsynced:
            control.synced(step, now=self.now)
        site.outcomes.update(control.outcomes)
        site.indexes += control.indexes
        control.outcomes, control.indexes, control.changes = [], [], []
        for to, message in sends:
            other = self.sites.get(to)
            if other is None or {to, site.storage} & self.offline:
                self.lost += 1
            elif isinstance(message, NodeMessage):
                other.control.node_message(site.storage, message, other.number, now=self.now)
            else:
                other.control.raft_message(site.storage, message, generation=control.generation, now=self.now)
        return bool(records or sends or control.sends)

    def run(self, seconds: float) -> None:
        """Let time pass."""
        end = self.now + seconds
        while self.now < end:
            self.now += STEP_S
            for site in self.sites.values():
                if self.now >= site.control.next_deadline():
                    site.control.tick(now=self.now)
            self.exchange()

    def leader(self) -> Site:
        """Return the leader; everybody else is told by gossip."""
        self.run(2.0)
        (leader,) = [site for site in self.sites.values() if site.control.leads and site.storage not in self.offline]
        for site in self.sites.values():
            site.hint = leader.storage
        return leader

    def others_than(self, site: Site) -> list[Site]:
        """Return all other sites."""
        return [other for other in self.sites.values() if other is not site]


def boot(number: int, counter: int) -> Boot:
    """Return the registration of a later boot of a member."""
    name = f"n{number}"
    return Boot(name, storage_of(number), f"{number:08x}{counter:08x}", counter, f"http://{name}", f"{name}:7400")


def touch(shard: int, revision: int) -> MapChange:
    """Return an empty change of a shard on a revision."""
    return ShardChanges((Touch(shard, revision),), "test")


def encoded(site: Site) -> bytes:
    """Return the bytes of the map a site holds."""
    return encode_map(site.map)
