"""A simulated shard under siege: primaries are deposed while clients go on talking straight to them.

A run is a row of episodes. In each one an adversary waits for its moment (a ping, an entry or a proposal leaves the
primary, or any time), cuts the primary off from some of those who could tell it (peers, one way or both; newer maps;
Raft's ReadIndex), stops or restarts it perhaps, and has another complete copy lead. Some episodes begin with in_sync
short of need, or with a copy that is being added. Everything is drawn from the seed; what is likely is what comes close
to a stale read. Clients ask the deposed and the new primary by turns; their history must be linearizable.

    prepare --moment--> cut off, stop --a while--> depose --clients by turns--> heal --> prepare ...

Source: testing.md, L3; counterexamples.md S1 to S6.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import msgspec

from ringkeep_core.mapchanges import Failover, Move, ShardChange, ShardChanges, Shrink
from ringkeep_core.mapentries import Grow, Leave, SetWanted
from ringkeep_core.shardmap import Shard, WantedMember
from ringkeep_node.machines.shard.messages import Append, Ping, ShardMessage
from ringkeep_testing.shard_faults import Faults
from ringkeep_testing.shard_world import INDEXES, MAPS, PROPOSALS, ShardNode, ShardWorld
from ringkeep_testing.siege_clients import KEYS, SiegeClients

EPISODES = 5
EPISODE_S = 0.45
MOMENT_S = 0.15
REST_S = 0.25
HEALING_S = 2.0


def siege_faults(random: Random) -> Faults:
    """Return the speed of a run: quick next to a confirmation's 50 ms, but for what is drawn slow."""
    faults = Faults(None)
    faults.delay_s = random.choice([0.001, 0.002, 0.004])
    faults.sync_s = random.choice([0.002, 0.005, 0.005, 0.04])
    faults.store_s = random.choice([0.001, 0.05])
    faults.proposal_delay_s = random.choice([0.005, 0.02, 0.1])
    faults.repeat = random.choice([0.0, 0.0, 0.1])
    faults.reorder = random.choice([0.0, 0.0, 0.1])
    faults.loss = random.choice([0.0, 0.0, 0.0, 0.02])
    return faults


class Siege:
    """One run: ``world`` and ``clients`` are there for the checks."""

    def __init__(self, seed: int) -> None:
        size, self._need = (3, 3, 4)[seed % 3], 1 + seed % 2
        if seed % 5 == 0:
            size, self._need = 5, 3
        self.world = ShardWorld(
            seed, nodes=size, shards=1, faults=False, copies=5 if self._need > 2 else 3, min_in_sync=self._need
        )
        self.random = self.world.random
        self.clients = SiegeClients(self.world)
        self.world.hold_s = self.random.choice([0.0, 0.002, 0.03])
        self._faults = siege_faults(self.random)
        self._armed: type | None = None
        self._joining: str | None = None
        self._is_quick = False
        self._company = 0.5
        self._slow = ""
        self._on_growth: Callable[[ShardNode, Grow], None] | None = None
        self._speeds = (self._faults.proposal_delay_s, self._faults.sync_s, self.world.hold_s)
        self.deposed = 0
        self.world.on_sent = self._sent
        self.world.on_proposed = self._proposed

    def run(self) -> None:
        """Let the episodes pass, then heal, and judge what the clients saw."""
        self._pass(0.2)
        self.world.faults = self._faults
        for _ in range(EPISODES):
            self._episode()
            self.world.eye.check()
        self.world.heal()
        self.clients.rival = None
        self._pass(HEALING_S, every_s=0.05)
        self.world.run(1.0)
        self.world.eye.check()
        self.clients.judge()

    @property
    def shard(self) -> Shard:
        """Return the shard as it is committed."""
        return self.world.service.map.shards[0]

    @property
    def primary(self) -> ShardNode | None:
        """Return the node of the committed primary."""
        return self.world.by_storage.get(self.shard.primary.storage)

    def _pass(self, seconds: float, every_s: float = 0.004) -> None:
        end = self.world.now + seconds
        while self.world.now < end:
            self.world.run(self.random.random() * 2 * every_s)
            self.clients.act()

    # --- an episode ---------------------------------------------------------------------------------------------

    def _episode(self) -> None:
        world, random = self.world, self.random
        primary = self.primary
        if primary is not None and primary.is_up:
            self.clients.rival = primary
            self._joining, self._is_quick, self._company = None, False, 0.5
            self._slow = ""
            self._armed = random.choice(PREPARATIONS[self._need])(self, primary)
            self._strike_later(primary)
        self._pass(EPISODE_S)
        self._armed = self._on_growth = None
        world.faults.proposal_delay_s, world.faults.sync_s, world.hold_s = self._speeds
        for node in world.nodes:
            node.paused_until = min(node.paused_until, world.now)
            node.resume()
        world.unblock_all()
        self._pass(REST_S)

    def _as_it_is(self, primary: ShardNode) -> type | None:
        """No preparation, any moment."""
        return self.random.choice([Ping, Append, object])

    def _slow_answers(self, primary: ShardNode) -> type | None:
        """Rounds take long, for one peer's answers do, and the primary is deposed while one is under way."""
        other = self.random.choice([node for node in self.world.nodes if node is not primary])
        self.world.lag_s[other.number, primary.number] = self.random.choice([0.025, 0.035, 0.04])
        self._is_quick, self._slow = True, other.storage
        self.world.faults.sync_s, self.world.hold_s = 0.002, 0.0
        return self.random.choice([Ping, Ping, object])

    def _late_verdict(self, primary: ShardNode) -> type | None:
        """A failover is decided, its heir is removed from the set before, and only then the failover is committed."""
        shard, random = self.shard, self.random
        others = [copy.storage for copy in shard.in_sync if copy.storage != primary.storage]
        if others and random.random() < 0.3:
            self._leave_too_early(random.choice(others))
        elif others:
            heir = random.choice(others)
            late = Failover(0, shard.revision, heir, (heir, *(it for it in others if it != heir)))
            self._cut(primary, self.world.by_storage[heir], "both")
            self._commit(Shrink(0, shard.revision, (heir,)))
            self.world.after(random.choice([0.05, 0.15, 0.3]), lambda: self._commit(late))
        return None

    def _leave_too_early(self, storage: str) -> None:
        """A member is drained and told to leave by somebody who saw it empty, but it holds a copy."""
        service = self.world.service
        for draining in (True, False):
            wanted = service.map.wanted
            members = {**wanted.members, service.map.members[storage].name: WantedMember(draining=draining)}
            service.commit(
                SetWanted(msgspec.structs.replace(wanted, revision=wanted.revision + 1, members=members), "siege")
            )
            if draining:
                service.commit(Leave(storage, "siege"))

    def _slow_growth(self, primary: ShardNode) -> type | None:
        """The proposal to add a copy takes long, and the copy falls silent meanwhile."""
        self.world.faults.proposal_delay_s = 0.8
        self._growing(primary)
        self._on_growth = self._fall_silent
        return None

    def _fall_silent(self, primary: ShardNode, change: Grow) -> None:
        joining = self.world.by_storage[change.storage]
        self._cut(primary, joining, "both")
        self.world.disconnect(primary, joining)

    def _double_growth(self, primary: ShardNode) -> type | None:
        """The proposal to add a copy comes twice, and in between the copy was removed again."""
        self._growing(primary)
        self._on_growth = self._grow_twice
        return None

    def _grow_twice(self, primary: ShardNode, change: Grow) -> None:
        joining = self.world.by_storage[change.storage]

        def remove() -> None:
            if self.shard.is_in_sync(change.storage) and self.shard.primary.storage == primary.storage:
                self._cut(primary, joining, "both")
                self._commit(Shrink(0, self.shard.revision, (change.storage,)))

        self.world.after(0.05 + self.random.random() * 0.1, remove)
        self.world.after(0.2 + self.random.random() * 0.2, lambda: self._commit(change))

    def _short(self, primary: ShardNode) -> type | None:
        """in_sync falls short of need: whoever is removed becomes eligible, and cannot come back for now."""
        gone = [copy.storage for copy in self.shard.in_sync if copy.storage != primary.storage]
        if len(gone) > 1 and (self._need > 2 or self.random.random() < 0.15):
            # Whoever is left with nobody asks Raft: for need 3 one stays who can be asked, and be told nothing.
            gone.pop()
        for storage in gone:
            other = self.world.by_storage[storage]
            self._cut(primary, other, self.random.choice(["both", "both", "from", "entries"]))
        if gone:
            self._commit(Shrink(0, self.shard.revision, tuple(gone)))
        self._company = 0.9
        return object

    def _goes_along(self, storage: str) -> bool:
        """Draw whether a complete copy follows the next primary; where two stayed together the other one rarely does."""
        company = 0.2 if self._need > 2 and self.shard.is_in_sync(storage) else self._company
        return self.random.random() < company

    def _growing(self, primary: ShardNode) -> type | None:
        """One copy has to be added again; that is the moment."""
        others = [copy.storage for copy in self.shard.in_sync if copy.storage != primary.storage]
        if others:
            self._joining = self.random.choice(others)
            self._company = 0.2
            self._commit(Shrink(0, self.shard.revision, (self._joining,)))
        return self.random.choice([Grow, Grow, Grow, object])

    def _commit(self, change: ShardChange) -> None:
        self.world.service.commit(ShardChanges((change,), "siege"))

    # --- the moment ---------------------------------------------------------------------------------------------

    def _strike_later(self, primary: ShardNode) -> None:
        # What the preparation changed is known to the primary by then, most of the time.
        soon_s = self.world.hold_s + self.world.faults.delay_s * 4 + self.random.random() * 0.05
        wait_s = soon_s if self._armed is object else MOMENT_S
        self.world.after(wait_s, lambda: self._strike(primary))

    def _sent(self, sender: ShardNode, message: ShardMessage) -> None:
        is_moment = self._armed is not None and type(message) is self._armed and sender is self.clients.rival
        if is_moment and (self._is_quick or self.random.random() < 0.3):
            self.world.after(0.0, lambda: self._strike(sender))

    def _proposed(self, node: ShardNode, change: ShardChange) -> None:
        if type(change) is not Grow or node is not self.clients.rival:
            return
        on_growth, self._on_growth = self._on_growth, None
        if on_growth is not None:
            on_growth(node, change)
        elif self._armed is Grow:
            self._joining = change.storage
            self.world.after(0.0, lambda: self._strike(node))

    def _strike(self, primary: ShardNode) -> None:
        if self._armed is None or self.clients.rival is not primary:
            return
        self._armed = None
        self._seclude(primary)
        random = self.random
        if not self._is_quick and random.random() < 0.3:
            length_s = random.choice([0.03, 0.1, 0.25])
            primary.paused_until = self.world.now + length_s
            self.world.after(length_s + 1e-6, primary.resume, primary)
        after_s = 0.0 if self._is_quick else random.choice([0.0, 0.0, 0.01, 0.05, 0.12])
        if self._joining is not None:
            after_s += self.world.faults.proposal_delay_s
        self.world.after(after_s, lambda: self._depose(primary))
        if random.random() < 0.25:
            self.world.after(after_s + 0.06 + random.random() * 0.15, lambda: self._depose(primary))

    def _seclude(self, primary: ShardNode) -> None:
        """Cut the primary off, in a way that is drawn, from peers, maps, proposals and Raft."""
        random, severed = self.random, self.world.severed
        for what, chance in ((MAPS, 0.95 if self._is_quick else 0.75), (PROPOSALS, 0.3), (INDEXES, 0.6)):
            if random.random() < chance:
                severed.add((primary.number, what))
        others = [node for node in self.world.nodes if node is not primary]
        ways = random.choice(
            [["both"], ["none"], ["entries"], ["none", "slow"], ["both", "from", "to", "none", "slow"]]
        )
        for other in others:
            way = random.choice(ways)
            if self._is_quick:
                way = "none"
            elif self._joining is not None and random.random() < 0.8:
                way = "both" if other.storage == self._joining else "none"
            self._cut(primary, other, way)
            if random.random() < (0.4 if self._joining is None else 0.75):
                severed.add((other.number, MAPS))

    def _cut(self, primary: ShardNode, other: ShardNode, way: str) -> None:
        world = self.world
        if way in ("both", "to"):
            world.block(primary, other)
        if way in ("both", "from"):
            world.block(other, primary)
        if way == "entries":
            world.withheld.add((primary.number, other.number))
        if way == "slow":
            world.lag_s[primary.number, other.number] = self.random.choice([0.01, 0.02, 0.15])
            world.lag_s[other.number, primary.number] = self.random.choice([0.01, 0.02, 0.15])

    # --- the deposition -----------------------------------------------------------------------------------------

    def _depose(self, primary: ShardNode) -> None:
        """Have another complete copy lead, or the same node in another boot or on another disk."""
        random, shard, world = self.random, self.shard, self.world
        how = 1.0 if self._is_quick else random.random()
        if how < 0.16 and primary.is_up:
            world.kill(primary)
            world.after(random.choice([0.005, 0.05, 0.2]), lambda: world.restart(primary))
            return
        if how < 0.24 and self._may_wipe():
            self._wipe(random.choice(world.nodes))
            return
        heirs = [it.storage for it in (*shard.in_sync, *shard.eligible) if it.storage != shard.primary.storage]
        heirs = [storage for storage in heirs if world.by_storage[storage].is_up and storage != self._slow]
        if not heirs:
            return
        heir = random.choice(heirs)
        if self._joining in heirs and random.random() < 0.85:
            heir = str(self._joining)
        world.severed.discard((world.by_storage[heir].number, MAPS))
        self.deposed += 1
        if shard.is_in_sync(heir) and random.random() < 0.2:
            self._commit(Move(0, shard.revision, heir))
            return
        live = [heir, *(it for it in heirs if it != heir and self._goes_along(it))]
        for storage in live:
            if random.random() < 0.8:
                world.severed.discard((world.by_storage[storage].number, MAPS))
        change = Failover(0, shard.revision, heir, tuple(live))
        self._commit(change)
        if random.random() < 0.1:
            world.after(random.random() * 0.3, lambda: self._commit(change))

    def _may_wipe(self) -> bool:
        full = len(self.shard.in_sync) >= 3
        return full and all(node.is_up for node in self.world.nodes)

    def _wipe(self, node: ShardNode) -> None:
        self.world.kill(node)
        node.wipe()
        self.world.after(0.05, lambda: self.world.restart(node))


_EVERY: list[Callable[[Siege, ShardNode], type | None]] = [
    Siege._as_it_is,
    Siege._slow_answers,
    Siege._slow_answers,
    Siege._late_verdict,
    Siege._slow_growth,
    Siege._double_growth,
]
PREPARATIONS: dict[int, list[Callable[[Siege, ShardNode], type | None]]] = {
    1: [*_EVERY, Siege._slow_answers, Siege._growing, Siege._growing, Siege._growing],
    2: [*_EVERY, Siege._as_it_is, Siege._growing, Siege._short, Siege._short, Siege._short],
    3: [Siege._as_it_is, Siege._growing, Siege._short, Siege._short, Siege._short, Siege._short],
}
"""What an episode begins with, by need; each returns the moment of the strike: what leaves the primary, or object: any time.

Where one copy suffices, a copy just added can go on alone; where more are needed, in_sync can fall short of that.
"""


class HandOverSiege(Siege):
    """The same, but primaries are deposed by a live hand-over first, and by the adversary while it is under way."""

    def _depose(self, primary: ShardNode) -> None:
        random, shard, world = self.random, self.shard, self.world
        heirs = [it.storage for it in shard.in_sync if it.storage != shard.primary.storage]
        heirs = [storage for storage in heirs if world.by_storage[storage].is_up]
        if not heirs or shard.primary.storage != primary.storage or not primary.is_up:
            super()._depose(primary)
            return
        self.deposed += 1
        move = Move(0, shard.revision, random.choice(heirs))
        # The leader's order comes while changes are under way, so that there is something to drain.
        for _ in range(random.choice([1, 2, 6])):
            self.clients.begin(primary, random.choice(KEYS))
        primary.do(lambda shards, now: shards.hand_over((move,), "siege", now=now))
        if random.random() < 0.6:
            world.after(random.random() * 0.3, lambda: Siege._depose(self, primary))
