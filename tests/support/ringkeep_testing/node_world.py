"""A whole cluster on one event heap: the real ``Node`` machines over a simulated network, disks and clock.

Everything follows from one seed. A *safety phase* draws faults while clients write and read through any node and every
operation is recorded. Then a *healing phase*: faults stop, everybody is restarted, and the cluster must converge and
acknowledge a write on every shard within a bounded virtual time. Checks that see everything run all along.

    world_plan   what a seed draws          world_faults    what goes wrong
    world_machine  a host and its node      world_clients   who writes and reads
    world_network  links and datagrams      world_people    who adds, drains and restarts nodes
    world_checks   what must hold           world_movement  what must hold while members come and go

Source: testing.md, "Simulation rules"; the two phases follow TigerBeetle's VOPR.
"""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Callable
from random import Random

from ringkeep_core.hashing import shard_of
from ringkeep_core.maprules import bootstrap
from ringkeep_core.shardmap import Member, Settings
from ringkeep_node.machines.control import encode_snapshot, first_snapshot
from ringkeep_node.machines.node import NodeSettings, NodeStep
from ringkeep_node.machines.records import NO_SHARD, Kind, Record
from ringkeep_node.machines.shard.effects import Absent, Found, Stored
from ringkeep_testing.world_checks import GodsEye
from ringkeep_testing.world_clients import Call, Clients
from ringkeep_testing.world_faults import Faults
from ringkeep_testing.world_machine import Machine
from ringkeep_testing.world_network import Network
from ringkeep_testing.world_people import People
from ringkeep_testing.world_plan import Plan

START_S = 100.0
QUIET_S = 2.0
LATE_S = 1.0
"""A proposal that came late or twice may still be on its way to a disk."""


class Violation(AssertionError):
    """A promise was broken. The text has the command that replays it."""


class World:
    """The cluster of one seed."""

    def __init__(self, seed: int, plan: Plan | None = None, *, settings: NodeSettings | None = None) -> None:
        self.seed, self.plan = seed, plan or Plan.drawn(seed)
        self.settings = settings or NodeSettings()
        self.rng = Random(seed * 7919 + 1)
        self.now = START_S
        self.cluster_id = f"{seed:016x}"
        self._trace = hashlib.sha256()
        self._heap: list[tuple[float, int, Callable[[], object]]] = []
        self._count = 0
        self._tokens = 0
        self.watches: list[Callable[[Machine, NodeStep], None]] = []
        """Called with every step of every node before it is carried out."""
        self.machines = {f"n{number}": Machine(self, number) for number in range(1, self.plan.nodes + 1)}
        self.by_address = {machine.address: machine for machine in self.machines.values()}
        self.network = Network(self)
        self.faults = Faults(self)
        self.people = People(self)
        self._found()
        self.clients = Clients(self)

    def _found(self) -> None:
        """Found the cluster as a bootstrap at n1 does: the first map is on its disk, the others know the cluster id."""
        plan = self.plan
        members = [
            Member(one.storage, one.name, one.boot_id(1), 1, f"http://{one.name}", one.address, one.zone, 0)
            for one in self.machines.values()
        ]
        wanted = Settings(
            replication_factor=plan.replication_factor,
            min_in_sync=min(plan.min_in_sync, plan.replication_factor),
            grace_s=plan.grace_s,
        )
        first = bootstrap(cluster_id=self.cluster_id, members=members, shards=plan.shards, settings=wanted)
        self.eye = GodsEye(self, first)
        self.first_voters = tuple(member.storage for member in members[: plan.voters])
        snapshot = first_snapshot(first, self.first_voters)
        founder = self.machines["n1"]
        founder.log.append(
            [Record(Kind.RAFT_RESET, NO_SHARD, 0, snapshot.term, snapshot.index, encode_snapshot(snapshot))]
        )
        founder.log.sync()
        for machine in self.machines.values():
            machine.start()

    # --- the heap ------------------------------------------------------------------------------------------------

    def at(self, due: float, action: Callable[[], object]) -> None:
        """Run ``action`` at virtual time ``due``."""
        self._count += 1
        heapq.heappush(self._heap, (max(due, self.now), self._count, action))

    def run_until(self, end: float, done: Callable[[], bool] | None = None) -> bool:
        """Run to virtual time ``end``, or until ``done``, which is looked at every 50 ms. Returns what it said."""
        heap, pop = self._heap, heapq.heappop
        look_at = self.now
        while heap and heap[0][0] <= end:
            self.now, _, action = pop(heap)
            action()
            if done is not None and self.now >= look_at:
                if done():
                    return True
                look_at = self.now + 0.05
        self.now = max(self.now, end)
        return done is not None and done()

    def next_token(self) -> int:
        """Return a number that no request of this run had."""
        self._tokens += 1
        return self._tokens

    def note(self, *what: object) -> None:
        """Put an event into the trace: the same seed must give the same trace."""
        self._trace.update(repr((round(self.now, 9), what)).encode())

    def trace_hash(self) -> str:
        """Return the hash of everything that happened."""
        self.note("end", self._count, self.rng.random())
        return self._trace.hexdigest()

    def violation(self, text: str) -> Violation:
        """Return the error that a broken promise raises."""
        return Violation(
            f"seed {self.seed} at {self.now - START_S:.3f} s: {text}\n"
            f"faults: {self.faults.counts} {self.people.counts or ''}\n"
            f"replay: RINGKEEP_SEED={self.seed} RINGKEEP_SEEDS=1 "
            f"python -m pytest -q tests/sim/test_{'elastic' if self.plan.is_elastic else 'node'}_simulation.py -k converges"
        )

    # --- looking -------------------------------------------------------------------------------------------------

    def machine_of(self, storage: str) -> Machine | None:
        """Return the machine with a storage id now, or None if that disk is gone or was rolled back."""
        return self.disks().get(storage)

    def disks(self) -> dict[str, Machine]:
        """Return the machines by their present storage id; a volume that was rolled back is none that counts."""
        return {machine.storage: machine for machine in self.machines.values() if not machine.is_rolled_back}

    def user_of(self, shard: int) -> str:
        """Return a user whose documents are in a shard."""
        return next(user for user in (f"u{n}" for n in range(100_000)) if shard_of(user, self.plan.shards) == shard)

    # --- the phases ----------------------------------------------------------------------------------------------

    def settle(self, timeout_s: float) -> None:
        """Run until the cluster is whole; it must be within the time."""
        if not self.run_until(self.now + timeout_s, self.eye.converged):
            raise self.violation(f"not converged after {timeout_s} s without faults: {self.eye.why_not_converged()}")

    def run(self) -> None:
        """Safety phase, healing phase, all checks. Raises ``Violation`` with the command that replays the seed."""
        plan = self.plan
        self.run_until(self.now + 5.0, self.eye.converged)
        end = self.now + plan.safety_s
        self.clients.start(end)
        self.faults.draw(end)
        self.people.draw(end)
        while self.now < end:
            self.run_until(min(end, self.now + 1.0))
            self.eye.check_queues(empty=False)
        self.faults.heal()
        self.settle(plan.healing_s)
        self.write_everywhere()
        self.read_everything()
        self.run_until(self.now + QUIET_S)
        self.run_until(self.now + LATE_S, self.eye.is_quiet)
        self.clients.judge()
        self.eye.check_copies_equal()
        self.eye.check_queues(empty=True)

    def write_everywhere(self) -> None:
        """After healing a write on every shard is acknowledged in time."""
        names = list(self.machines.values())
        users = {shard: self.user_of(shard) for shard in range(self.plan.shards)}
        for user in users.values():
            self.clients.histories.setdefault((user, "healed"), [])
        calls = {
            shard: Call(self.clients, self, (user, "healed"), 0.8, kind="write").send(names[shard % len(names)])
            for shard, user in users.items()
        }
        self.run_until(
            self.now + self.plan.serving_s,
            lambda: all(isinstance(call.result, Stored) for call in calls.values()),
        )
        missing = {shard: call.result for shard, call in calls.items() if not isinstance(call.result, Stored)}
        if missing:
            raise self.violation(f"not written {self.plan.serving_s} s after convergence: {missing}")

    def read_everything(self) -> None:
        """Every document is read through every node: what was acknowledged and vanished is found by these reads."""
        calls = [
            Call(self.clients, self, place, 0.2, kind="read").send(machine)
            for machine in self.machines.values()
            for place in self.clients.places
        ]
        self.run_until(
            self.now + self.plan.serving_s, lambda: all(isinstance(call.result, Found | Absent) for call in calls)
        )
        bad = [call.result for call in calls if not isinstance(call.result, Found | Absent)]
        if bad:
            raise self.violation(f"{len(bad)} reads failed after healing: {bad[0]}")
