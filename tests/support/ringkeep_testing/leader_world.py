"""A leader on virtual time: a map, members that die, hang and come back, and a log that applies what is proposed.

Everybody sees everybody unless said otherwise; ``settle`` ticks the leader at its own deadlines and applies its entries,
and lets every primary that lives grow its live learners back, as replication does.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Self

from ringkeep_core.mapchanges import Boot, Grow, MapChange, ShardChanges, apply, bootstrap, check
from ringkeep_core.shardmap import Settings, ShardMap
from ringkeep_node.machines.electorate import Reconfigure
from ringkeep_node.machines.leader import Leader, LeaderOrder, LeaderSettings, StepDown, TransferLeadership
from ringkeep_node.machines.planning import HandOver
from ringkeep_node.machines.verdicts import MemberFacts
from ringkeep_testing.maps import member

COMMIT_S = 0.005
TICKS_MAX = 10_000


@dataclass
class LeaderWorld:
    """The facts as they are, and the leader that hears of them."""

    map: ShardMap
    me: str = "n1"
    now: float = 100.0
    voters: tuple[str, ...] = ()
    leads: bool = True
    counters: dict[str, int] = field(default_factory=dict)
    dead: set[str] = field(default_factory=set)
    stalled: set[str] = field(default_factory=set)
    suspects: set[str] = field(default_factory=set)
    leaving: set[str] = field(default_factory=set)
    left: set[str] = field(default_factory=set)
    lags: dict[str, float] = field(default_factory=dict)
    sees: dict[str, set[str]] = field(default_factory=dict)
    """Whom a member calls dead, where that is not simply who is dead."""
    commits: bool = True
    proposed: list[tuple[float, MapChange]] = field(default_factory=list)
    handed: list[tuple[float, TransferLeadership | StepDown | Reconfigure]] = field(default_factory=list)
    hand_overs: list[tuple[float, HandOver]] = field(default_factory=list)
    leader: Leader = field(init=False)

    def __post_init__(self) -> None:
        self.voters = self.voters or tuple(sorted(self.map.members))[:5]
        self.counters = {storage: it.boot_counter for storage, it in self.map.members.items()}
        self.leader = Leader(me=self.me, settings=LeaderSettings(), now=self.now)

    @classmethod
    def of(cls, nodes: int, shards: int, settings: Settings | None = None, voters: int = 5) -> Self:
        """Return a fresh cluster n1..nN led by n1."""
        members = [member(f"n{number}") for number in range(1, nodes + 1)]
        first = bootstrap(cluster_id="c" * 16, members=members, shards=shards, settings=settings or Settings())
        return cls(first, voters=tuple(it.storage for it in members[:voters]))

    def facts(self) -> list[MemberFacts]:
        """Return what the leader knows of each member now."""
        own = self._called_dead(self.me)
        return [
            MemberFacts(
                storage=storage,
                counter=self.counters[storage],
                dead=storage in own,
                suspect=storage in self.suspects,
                stalled=storage in self.stalled,
                leaving=storage in self.leaving,
                left=storage in self.left and storage in own,
                lag_s=self.lags.get(storage, 0.0),
                reports=()
                if storage in self.dead
                else tuple((it, self.counters[it]) for it in sorted(self._called_dead(storage))),
            )
            for storage in self.counters
        ]

    def _called_dead(self, by: str) -> set[str]:
        return self.sees.get(by, self.dead) - {by}

    def tell(self) -> None:
        """Let the leader hear how things are."""
        self.leader.facts(shard_map=self.map, leads=self.leads, voters=self.voters, members=self.facts(), now=self.now)

    def tick(self) -> tuple[LeaderOrder, ...]:
        """Tell, tick, note and commit what comes out."""
        self.tell()
        orders = self.leader.tick(now=self.now)
        for order in orders:
            if isinstance(order, TransferLeadership | StepDown | Reconfigure):
                self.handed.append((self.now, order))
                continue
            if isinstance(order, HandOver):
                self.hand_overs.append((self.now, order))
                if self.commits:
                    self.hand_over(order)
                continue
            self.proposed.append((self.now, order))
            if self.commits:
                self.commit(order)
        return orders

    def commit(self, change: MapChange) -> None:
        """Apply a change to the map; the map stays sound."""
        self.map = apply(self.map, self.map.version + 1, change).map

        assert check(self.map) == ()

    def hand_over(self, order: HandOver) -> None:
        """Let the source, if it lives, drain the shards that it leads and propose their moves."""
        if order.source not in self.dead | self.stalled:
            moves = [move for move in order.moves if self.map.shards[move.shard].primary.storage == order.source]
            self.commit(ShardChanges(tuple(moves), order.reason))

    def run(self, seconds: float, *, grows: bool = False) -> None:
        """Let time pass: the leader acts at its deadlines, entries commit, and primaries may grow learners back."""
        end = self.now + seconds
        for _ in range(TICKS_MAX):
            self.tick()
            if grows:
                self.grow()
            if self.leader.next_deadline() is None:
                self.tell()
            due = self.leader.next_deadline()
            if due is None or due > end:
                self.now = end
                return
            self.now = max(due, self.now + COMMIT_S)
        raise AssertionError("the leader never comes to rest")

    def grow(self) -> None:
        """Let live primaries take one live learner of each shard into in_sync."""
        changes = []
        for number, shard in enumerate(self.map.shards):
            if shard.primary.storage in self.dead | self.stalled:
                continue
            for copy in shard.learners:
                if copy.storage in self.map.members and copy.storage not in self.dead | self.stalled:
                    boot = self.map.members[copy.storage].boot
                    changes.append(
                        Grow(number, shard.revision, copy.storage, boot, copy.added, shard.epoch, shard.primary.boot)
                    )
                    break
        if changes:
            self.commit(ShardChanges(tuple(changes), "caught up"))

    def kill(self, *storages: str) -> None:
        """Let members die, as everybody sees."""
        self.dead |= set(storages)

    def restart(self, *storages: str) -> None:
        """Start members again in a new boot, with their disks; the leader completes and commits the boot."""
        for storage in storages:
            for gone in (self.dead, self.leaving, self.left):
                gone.discard(storage)
            self.counters[storage] += 1
            self.tell()
            name = self.map.members[storage].name
            boot = Boot(name, storage, f"{name}-{self.counters[storage]}", self.counters[storage], "", "")
            self.commit(self.leader.complete_boot(boot))

    def led(self) -> dict[str, int]:
        """Return how many shards each member leads."""
        led = dict.fromkeys(sorted(self.map.members), 0)
        for shard in self.map.shards:
            led[shard.primary.storage] += 1
        return led

    def entries(self) -> list[ShardChanges]:
        """Return the proposals so far."""
        return [change for _, change in self.proposed if isinstance(change, ShardChanges)]
