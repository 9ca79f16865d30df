"""What must hold in a simulated cluster at every moment, seen by somebody who sees everything (testing.md).

every step      one content for an (epoch, sn); one boot in an epoch
every record    a copy that counts gives up nothing that was acknowledged
every apply     one entry at an sn; an operation id and an Idempotency-Key once; applied only what all in_sync hold
every answer    acknowledged is on every in_sync and eligible copy's disk
every map       equal index, equal map; its own rules; versions only grow; the awaited set contains in_sync
after quiet     copies byte-equal; nothing left in any queue
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from ringkeep_core.mapchanges import MapChange
from ringkeep_core.mapchecks import check
from ringkeep_core.shardmap import Copy, ShardMap, encode_map, generation_at
from ringkeep_node.machines import documents
from ringkeep_node.machines.documents import Begin, Change
from ringkeep_node.machines.records import Kind, Record
from ringkeep_testing.world_movement import Movement

if TYPE_CHECKING:
    from ringkeep_testing.node_world import World
    from ringkeep_testing.world_machine import Machine

DISCARDING = frozenset((Kind.SHARD_CUT, Kind.SHARD_RESET, Kind.SHARD_DROP))


class GodsEye:
    """Facts gathered over a run, and the checks over them. ``newest`` is the newest map that any node ever held."""

    def __init__(self, world: World, first: ShardMap) -> None:
        self._world = world
        self.newest = first
        self.movement = Movement(world)
        self._maps: dict[int, bytes] = {}
        self._held: dict[tuple[str, int], int] = {}
        self._primaries: dict[tuple[int, int], tuple[str, str]] = {}
        self._content: dict[tuple[int, int, int], bytes] = {}
        self._writer: dict[tuple[int, int], str] = {}
        self._entries: dict[tuple[int, int], tuple[int, bytes]] = {}
        self._operations: dict[tuple[int, str, int], int] = {}
        self._keys: dict[tuple[str, str], int] = {}
        self._values: dict[tuple[str, str, bytes], int] = {}
        self.acknowledged: dict[int, int] = {}
        self.forgives = False
        """Whether a later generation may lack what an earlier one applied: its majority went on without the voter that
        was recovered from. What it has instead must never be mixed with that."""
        self._take(first)

    # --- the map -------------------------------------------------------------------------------------------------

    def started(self, machine: Machine) -> None:
        """A boot counter of a storage belongs to one process, unless its volume was rolled back."""
        assert machine.node is not None
        self._held.pop((machine.name, machine.life), None)

    def map_changed(self, change: MapChange, shard_map: ShardMap) -> None:
        """A node applied a committed change: its map is everybody's map of that version."""
        if shard_map.version > self.newest.version:
            faults = check(shard_map)
            if faults:
                raise self._world.violation(f"the map breaks its rules after {change}: {faults}")
            self.movement.applied(self.newest, change, shard_map)
            self._take(shard_map)
        else:
            self._compare(shard_map)

    def map_held(self, machine: Machine) -> None:
        """A node holds this map now."""
        node = machine.node
        if node is None or node.held.map is None:
            return
        held, key = node.held.map, (machine.name, machine.life)
        if held.version < self._held.get(key, 0):
            raise self._world.violation(f"{machine.name} went back to map {held.version}")
        self._held[key] = held.version
        if held.version > self.newest.version:
            self._take(held)
        else:
            self._compare(held)

    def _compare(self, shard_map: ShardMap) -> None:
        known = self._maps.get(shard_map.version)
        if known is not None and known != encode_map(shard_map):
            raise self._world.violation(f"two maps of version {shard_map.version}")

    def _take(self, shard_map: ShardMap) -> None:
        world, before = self._world, self.newest
        self._maps[shard_map.version] = encode_map(shard_map)
        self.newest = shard_map
        world.note("map", shard_map.version)
        for number, shard in enumerate(shard_map.shards):
            primary = (shard.primary.storage, shard.primary.boot)
            if self._primaries.setdefault((number, shard.epoch), primary) != primary:
                raise world.violation(f"shard {number} epoch {shard.epoch} belongs to two boots")
            if shard is before.shards[number] and shard_map is not before:
                continue
            if number in self.acknowledged:
                self._check_copies(number, self.acknowledged[number])
            self._check_awaited(number)

    def _check_awaited(self, number: int) -> None:
        shard, world = self.newest.shards[number], self._world
        machine = world.machine_of(shard.primary.storage)
        if machine is None or machine.node is None:
            return
        lead = machine.node.shards._leads.get(number)
        if lead is None or lead.epoch != shard.epoch or shard.primary.boot != machine.node.identity.boot:
            return
        if lead.shard.revision > shard.revision:
            return  # One step brought it several changes; it is judged by the last of them.
        awaited = {peer.storage for peer in lead.awaited} | {machine.storage}
        missing = {copy.storage for copy in shard.in_sync} - awaited
        if missing:
            raise world.violation(f"shard {number}: in_sync has {sorted(missing)}, which {machine.name} does not await")

    # --- entries -------------------------------------------------------------------------------------------------

    def group_seen(self, machine: Machine) -> None:
        """A node did something: it may know of another configuration of the Raft group."""
        self.movement.group_seen(machine)

    def recorded(self, machine: Machine, records: Sequence[Record]) -> None:
        """An (epoch, sn) of a shard has one content for ever; and a copy leaves the sets before it is discarded (rule 3)."""
        for record in records:
            if record.kind in DISCARDING:
                self._discarded(machine, record)
            if record.kind != Kind.SHARD_ENTRY:
                continue
            place = (record.shard, record.epoch, record.sn)
            if self._content.setdefault(place, record.payload) != record.payload:
                raise self._world.violation(f"two entries at (shard, epoch, sn) {place}")

    def _discarded(self, machine: Machine, record: Record) -> None:
        shard, acknowledged = self.newest.shards[record.shard], self.acknowledged.get(record.shard, 0)
        counts = Copy(machine.storage, record.copy) in (*shard.in_sync, *shard.eligible)
        keeps = -1 if record.kind == Kind.SHARD_DROP else record.sn
        if counts and keeps < acknowledged and not self.forgives:
            raise self._world.violation(
                f"{machine.name} gives up what was acknowledged up to sn {acknowledged} of a copy that counts: {record}"
            )

    def applied(self, machine: Machine, shard: int, added: int, entries: Sequence[tuple[int, int, bytes]]) -> None:
        """A copy takes entries into its state: never to be undone, so they must be committed."""
        for epoch, sn, payload in entries:
            known = self._entries.get((shard, sn))
            if known is not None and self.forgives and generation_at(known[0]) < generation_at(epoch):
                known = None
            if known is not None:
                if known != (epoch, payload):
                    raise self._world.violation(
                        f"shard {shard} sn {sn} applied from epochs {known[0]} and {epoch} at {machine.name}"
                    )
                continue
            self._entries[shard, sn] = (epoch, payload)
            self._first_applied(shard, epoch, sn, payload)
        self._check_copies(shard, entries[-1][1])

    def _first_applied(self, shard: int, epoch: int, sn: int, payload: bytes) -> None:
        world, body = self._world, documents.decode(payload)
        if type(body) is Begin and self._writer.setdefault((shard, epoch), body.boot) != body.boot:
            raise world.violation(f"two boots lead shard {shard} in epoch {epoch}")
        if type(body) is not Change:
            return
        for write in body.writes:
            # Clients write every value once, so a value at two sns is a change that was applied twice.
            if write.value is not None:
                value = (write.user, write.key, write.value)
                if self._values.setdefault(value, sn) != sn:
                    raise world.violation(f"the change {value} was applied at {self._values[value]} and {sn}")
        if body.operation is not None:
            name = (shard, body.operation.gateway, body.operation.number)
            if self._operations.setdefault(name, sn) != sn:
                raise world.violation(f"operation {name} applied at {self._operations[name]} and {sn}")
        if body.idempotency is not None:
            key = (body.idempotency.user, body.idempotency.key)
            if self._keys.setdefault(key, sn) != sn:
                raise world.violation(f"Idempotency-Key {key} applied at {self._keys[key]} and {sn}")

    def acknowledge(self, shard: int, sn: int) -> None:
        """A client was told that ``sn`` is stored."""
        if sn > self.acknowledged.get(shard, 0):
            self.acknowledged[shard] = sn
            self._check_copies(shard, sn)

    def _check_copies(self, number: int, sn: int) -> None:
        shard, world = self.newest.shards[number], self._world
        for copy in (*shard.in_sync, *shard.eligible):
            machine = world.machine_of(copy.storage)
            if machine is not None and not machine.holds(number, copy.added, sn):
                raise world.violation(
                    f"{machine.name} counts for shard {number} without the committed sn {sn}: {shard}"
                )

    # --- the end -------------------------------------------------------------------------------------------------

    def converged(self) -> bool:
        """Return whether all nodes hold one map in which every shard is at full strength and everybody registered."""
        world, newest = self._world, self.newest
        for machine in world.machines.values():
            node = machine.node
            if node is None or node.held.map is None or node.held.map.version != newest.version:
                return False
            if not newest.is_registered(machine.storage, node.identity.boot):
                return False
        if world.plan.is_elastic:
            return world.people.is_done and not self.movement.left_to_do()
        return all(len(shard.in_sync) == world.plan.copies and not shard.learners for shard in newest.shards)

    def why_not_converged(self) -> str:
        """Say what is missing, for a failing run."""
        world, newest = self._world, self.newest
        nodes = [
            f"{machine.name}: map {None if node is None or node.held.map is None else node.held.map.index}"
            f" {'' if node is None else node.raft.role.name} {'' if node is None or node.registered else 'unregistered'}"
            for machine in world.machines.values()
            for node in [machine.node]
        ]
        if world.plan.is_elastic:
            people = world.people
            left = [*people.leaving.values(), *people.deleting, *people.stopped]
            return "; ".join(
                [*nodes, f"newest {newest.index}, people wait for {left}", *self.movement.left_to_do()[:4]]
            )
        short = [
            f"{number}: {shard}"
            for number, shard in enumerate(newest.shards)
            if len(shard.in_sync) != world.plan.copies or shard.learners
        ]
        return "; ".join(nodes) + f"; newest {newest.index}; {len(short)} short, " + " | ".join(short[:2])

    def check_copies_equal(self) -> None:
        """After quiet the copies of each shard are equal byte for byte."""
        for number, shard in enumerate(self.newest.shards):
            digests = {}
            for copy in shard.in_sync:
                machine = self._world.disks()[copy.storage]
                digests[machine.name] = machine.store.digest(number, copy.added)
            if len(set(digests.values())) != 1:
                raise self._world.violation(f"the copies of shard {number} differ after quiet: {digests}")

    def is_quiet(self) -> bool:
        """Return whether nothing is left in any queue."""
        return not any(True for _ in self._kept(empty=True))

    def check_queues(self, *, empty: bool) -> None:
        """Every queue is bounded; after quiet nothing is left in it."""
        for name, left in self._kept(empty=empty):
            raise self._world.violation(f"{name} keeps {left}")

    def _kept(self, *, empty: bool) -> Iterator[tuple[str, dict[str, int]]]:
        for machine in self._world.machines.values():
            node = machine.node
            if node is None:
                continue
            sizes = {
                "requests": node.gateway.open_requests,
                "attempts": len(node.gateway._by_attempt),
                "waiting requests": len(node.gateway._waiting),
                "open bytes": node.gateway.open_bytes,
                "served": len(node.serving.served),
                "relayed": len(node.serving.relays),
                "local reads": len(node.serving.local_reads),
                "open at shards": len(node.shards._ctx.open),
                "pages": len(node.shards._ctx.pages),
                "unsynced shard steps": len(node._unsynced_shards),
                "unsynced Raft steps": len(node.control._unsynced),
                "tracked proposals": len(node.control._tracked),
                "ReadIndex asked": len(node.control._asked),
                "pending bytes": node.shards._desk.pending_bytes,
            }
            left = {name: size for name, size in sizes.items() if (size if empty else size > 5000)}
            left.pop("open bytes" if not empty else "", None)
            if left:
                yield machine.name, left
