"""What must hold in a simulated cluster at every moment, seen by somebody who sees everything (testing.md)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ringkeep_node.machines import documents
from ringkeep_node.machines.documents import Begin, Change
from ringkeep_node.machines.records import Kind, Record
from ringkeep_node.machines.shard.effects import Absent, Found, LogEntry, PageFound, Result

if TYPE_CHECKING:
    from ringkeep_testing.shard_world import ShardNode, ShardWorld


class Violation(AssertionError):
    """A promise was broken."""


class GodsEye:
    """Facts gathered over a run, and the checks over them. ``stamps`` are the wall times of the changes that took effect."""

    def __init__(self, world: ShardWorld) -> None:
        self._world = world
        self._content: dict[tuple[int, int, int], bytes] = {}
        self._writer: dict[tuple[int, int], str] = {}
        self._applied: dict[tuple[int, int], int] = {}
        self._operations: dict[tuple[int, str, int], int] = {}
        self._acknowledged: dict[int, tuple[int, int]] = {}
        self.stamps: dict[int, None] = {}

    def recorded(self, record: Record) -> None:
        """An (epoch, sn) of a shard has one content for ever, and one boot writes in an epoch."""
        if record.kind != Kind.SHARD_ENTRY:
            return
        place = (record.shard, record.epoch, record.sn)
        if self._content.setdefault(place, record.payload) != record.payload:
            raise Violation(f"two entries at {place}")
        body = documents.decode(record.payload)
        if type(body) is Begin:
            boot = self._writer.setdefault((record.shard, record.epoch), body.boot)
            if boot != body.boot:
                raise Violation(f"two boots lead {record.shard} in epoch {record.epoch}")

    def handed(self, shard: int, entries: list[LogEntry]) -> None:
        """Every copy applies the same entry at the same number, and an operation once."""
        for epoch, sn, payload in entries:
            if self._applied.setdefault((shard, sn), epoch) != epoch:
                raise Violation(f"shard {shard} sn {sn} applied from epochs {self._applied[shard, sn]} and {epoch}")
            body = documents.decode(payload)
            if type(body) is Change:
                self.stamps[body.wall_ms] = None
            if type(body) is Change and body.operation is not None:
                name = (shard, body.operation.gateway, body.operation.number)
                if self._operations.setdefault(name, sn) != sn:
                    raise Violation(f"operation {name} applied at {self._operations[name]} and {sn}")

    def acknowledged(self, shard: int, epoch: int, sn: int) -> None:
        """A client was told that (epoch, sn) is stored."""
        known = self._acknowledged.get(shard, (0, 0))
        if sn > known[1]:
            self._acknowledged[shard] = (self._epoch_of(shard, sn, epoch), sn)

    def answered(self, node: ShardNode, result: Result) -> None:
        """Rule 2: after a start nothing is confirmed before the map of a ReadIndex asked for after it is held."""
        if type(result) in (Found, Absent, PageFound) and (node.asked_index is None or node.through < node.asked_index):
            raise Violation(
                f"{node.name} answered a strict read before it reached a ReadIndex asked for after its start"
            )

    def _epoch_of(self, shard: int, sn: int, at_most: int) -> int:
        """The epoch that wrote ``sn``: a hit in the operation table names an sn of an earlier epoch."""
        epochs = [
            epoch for number, epoch, there in self._content if number == shard and there == sn and epoch <= at_most
        ]
        applied = self._applied.get((shard, sn))
        return applied if applied is not None else max(epochs)

    def check(self) -> None:
        """Check the copies and the primaries against the committed map."""
        world = self._world
        for number, shard in enumerate(world.service.map.shards):
            acknowledged = self._acknowledged.get(number)
            for copy in (*shard.in_sync, *shard.eligible):
                if copy.storage in world.service.map.left:
                    raise Violation(f"{copy.storage} has left and still holds a copy of shard {number}")
            if acknowledged is not None:
                for copy in (*shard.in_sync, *shard.eligible):
                    node = world.by_storage.get(copy.storage)
                    if (
                        node is not None
                        and node.storage == copy.storage
                        and not node.holds(number, copy.added, *acknowledged)
                    ):
                        raise Violation(
                            f"{node.name} is complete for shard {number} without {acknowledged}: "
                            f"{node.describe(number, copy.added)}"
                        )
            node = world.by_storage.get(shard.primary.storage)
            if node is not None:
                self._check_awaited(node, number)

    def _check_awaited(self, node: ShardNode, number: int) -> None:
        shard = self._world.service.map.shards[number]
        lead = node.lead(number)
        if lead is None or lead.epoch != shard.epoch or shard.primary.boot != node.boot:
            return
        awaited = {peer.storage for peer in lead.awaited} | {node.storage}
        missing = {copy.storage for copy in shard.in_sync} - awaited
        if missing:
            raise Violation(f"shard {number}: committed in_sync has {missing}, which {node.name} does not await")
