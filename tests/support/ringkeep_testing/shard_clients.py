"""Clients of a simulated cluster: a few documents, unique values, retries under one operation id, recorded histories."""

from __future__ import annotations

from dataclasses import replace
from math import inf
from typing import TYPE_CHECKING

import msgspec

from ringkeep_core.hashing import shard_of
from ringkeep_node.machines.documents import Answer, IdempotencyKey, OperationId, Write
from ringkeep_node.machines.shard.effects import (
    Absent,
    Found,
    Moved,
    NotApplied,
    PageFound,
    ReadKind,
    ReadRequest,
    Result,
    Stored,
    WriteRequest,
)
from ringkeep_testing.linearizability import ANY, Operation, judge
from ringkeep_testing.shard_checks import Violation

if TYPE_CHECKING:
    from ringkeep_testing.shard_world import ShardNode, ShardWorld

ATTEMPT_S = 0.4
OPERATION_S = 3.0


class Clients:
    """All clients of a run; ``counts`` say how many operations ended how."""

    def __init__(self, world: ShardWorld, documents: int) -> None:
        self._world = world
        self._places = [(f"user-{number % 3}", f"key-{number}") for number in range(documents)]
        self.histories: dict[tuple[str, str], list[Operation]] = {place: [] for place in self._places}
        self._numbers: dict[tuple[str, int], int] = {}
        self._open: dict[tuple[str, int], set[int]] = {}
        self.values = 0
        self._version_of: dict[tuple[int, int], str] = {}
        self._last_seen: dict[tuple[str, str], tuple[int, str]] = {}
        self.counts: dict[str, int] = {}

    def act(self) -> None:
        """Let one client begin one operation."""
        random = self._world.random
        gateway = random.choice(self._world.nodes)
        if not gateway.is_up or gateway.held is None or self._world.now < gateway.paused_until:
            return
        place = random.choice(self._places)
        _Attempts(self, self._world, gateway, place, random.random()).begin()

    def number(self, gateway: str, shard: int) -> OperationId:
        """Return the next operation id of a gateway boot at a shard."""
        number = self._numbers.get((gateway, shard), 0) + 1
        self._numbers[gateway, shard] = number
        is_open = self._open.setdefault((gateway, shard), set())
        is_open.add(number)
        return OperationId(gateway, number, min(is_open))

    def close(self, operation: OperationId, shard: int) -> None:
        """This number is over at its gateway."""
        self._open[operation.gateway, shard].discard(operation.number)

    def seen(self, shard: int, place: tuple[str, str], version: int, value: str) -> None:
        """A version has one value for ever."""
        if self._version_of.setdefault((shard, version), value) != value:
            raise Violation(f"version {version} of shard {shard} is {self._version_of[shard, version]} and {value}")
        self._last_seen[place] = (version, value)

    def last_seen(self, place: tuple[str, str]) -> tuple[int, str] | None:
        """Return a version somebody saw, and its value."""
        return self._last_seen.get(place)

    def record(self, place: tuple[str, str], operation: Operation, how: str) -> None:
        """Add an operation that ended."""
        self.histories[place].append(operation)
        self.counts[how] = self.counts.get(how, 0) + 1

    def judge(self) -> None:
        """Check every document's history."""
        for place, history in self.histories.items():
            judge(history, str(place), Violation)


class _Attempts:
    """One operation: attempts at whoever seems to lead, until it is answered or its time is over."""

    def __init__(
        self, clients: Clients, world: ShardWorld, gateway: ShardNode, place: tuple[str, str], choice: float
    ) -> None:
        self._clients, self._world, self._gateway, self._place = clients, world, gateway, place
        self._life = gateway.life
        self._shard = shard_of(place[0], len(world.service.map.shards))
        self._called = world.now
        self._deadline = world.now + OPERATION_S
        self._is_over = False
        self._may_have_happened = False
        self._attempt = 0
        self._operation: OperationId | None = None
        self._request: WriteRequest | ReadRequest
        self._draft = Operation(world.now, inf, "write", None)
        self._plan(choice)

    def _plan(self, choice: float) -> None:
        user, key = self._place
        if choice < 0.35:
            kind = ReadKind.PAGE if choice < 0.08 else ReadKind.GET
            self._request = ReadRequest(user, key, 0.0, kind=kind)
            if kind is ReadKind.PAGE:
                self._request = ReadRequest(user, "", 0.0, kind=kind, prefix=key)
            self._draft = replace(self._draft, kind="read")
            return
        self._clients.values += 1
        value: str | None = f"v{self._clients.values}" if choice < 0.9 else None
        seen, if_match, if_none_match = self._clients.last_seen(self._place), None, None
        if choice > 0.65 and seen is not None:
            if_match, only_if = (seen[0],), seen[1]
            self._draft = replace(self._draft, only_if=only_if)
        elif choice > 0.6:
            if_none_match = ()
            self._draft = replace(self._draft, unless=ANY)
        self._operation = self._clients.number(self._gateway.boot, self._shard)
        key_name = IdempotencyKey(user, f"i{self._clients.values}", b"h") if choice < 0.5 else None
        write = Write(user, key, None if value is None else value.encode(), "text/plain")
        wall_ms = int(self._world.now * 1000)
        self._request = WriteRequest(
            (write,), 0.0, wall_ms, self._operation, key_name, if_match=if_match, if_none_match=if_none_match
        )
        self._draft = replace(self._draft, value=value)

    def begin(self) -> None:
        """Send the first attempt, and end at the deadline whatever came of them."""
        self._try()
        self._world.after(OPERATION_S, self._give_up)

    def _try(self) -> None:
        if self._is_over:
            return
        if not self._gateway.is_up or self._gateway.life != self._life:
            self._give_up()
            return
        self._attempt += 1
        attempt = self._attempt
        held = self._gateway.held
        assert held is not None
        target = self._world.by_storage.get(held.shards[self._shard].primary.storage)
        world = self._world
        if target is not None and not self._is_lost(self._gateway, target):
            self._may_have_happened = True
            self._send(target, attempt)
        world.after(ATTEMPT_S, lambda: self._again(attempt))

    def _send(self, target: ShardNode, attempt: int) -> None:
        world = self._world
        # The deadline of an attempt is over before the operation's: the primary may answer "unknown" in between.
        request = _with_deadline(self._request, world.now + 2.0)
        if isinstance(request, WriteRequest):
            assert self._gateway.held is not None
            request = msgspec.structs.replace(request, epoch=self._gateway.held.shards[self._shard].epoch)

        def answered(result: Result) -> None:
            if not self._is_lost(target, self._gateway):
                world.after(world.faults.delay_s, lambda: self._answered(attempt, result))

        world.after(
            world.faults.delay_s * (1 + world.random.random()),
            lambda: target.submit(self._shard, request, answered),
            target,
        )

    def _is_lost(self, sender: ShardNode, receiver: ShardNode) -> bool:
        if sender is receiver:
            return False
        return self._world.is_blocked(sender, receiver) or self._world.random.random() < self._world.faults.loss

    def _again(self, attempt: int) -> None:
        if attempt == self._attempt:
            self._try()

    def _answered(self, attempt: int, result: Result) -> None:
        if self._is_over:
            return
        match result:
            case Stored():
                self._stored(result)
            case Found():
                self._clients.seen(self._shard, self._place, result.row.version, result.row.value.decode())
                self._end("found", replace(self._draft, value=result.row.value.decode()))
            case Absent() if self._operation is None:
                self._end("absent", replace(self._draft, value=None))
            case Absent() | NotApplied("version_mismatch") if attempt != self._attempt:
                pass  # A later attempt is on its way and may have been taken: only its answer counts.
            case Absent():
                self._end("deleted nothing", replace(self._draft, kind="read", value=None, only_if=None, unless=None))
            case PageFound():
                rows = [row for row in result.rows if row.key == self._place[1]]
                self._end("listed", replace(self._draft, value=rows[0].value.decode() if rows else None))
            case NotApplied("version_mismatch"):
                self._end("refused", replace(self._draft, kind="refused"))
            case NotApplied() | Moved():
                if attempt == self._attempt:
                    self._attempt += 1
                    again = self._attempt
                    self._world.after(0.05, lambda: self._again(again))
            case _:
                pass

    def _stored(self, result: Stored) -> None:
        self._world.eye.acknowledged(self._shard, result.epoch, result.version)
        self._world.eye.check()
        value = self._draft.value
        if value is not None:
            self._clients.seen(self._shard, self._place, result.version, value)
        created = {Answer.CREATED: True, Answer.REPLACED: False, Answer.DELETED: False}[Answer(result.answer)]
        self._end("stored", replace(self._draft, created=created))

    def _end(self, how: str, operation: Operation) -> None:
        self._is_over = True
        self._close()
        self._clients.record(self._place, replace(operation, returned=self._world.now), how)

    def _give_up(self) -> None:
        if self._is_over:
            return
        self._is_over = True
        self._close()
        if self._operation is not None and self._may_have_happened:
            self._clients.record(self._place, self._draft, "unknown")
        else:
            self._clients.counts["failed"] = self._clients.counts.get("failed", 0) + 1

    def _close(self) -> None:
        if self._operation is not None and self._gateway.life == self._life:
            self._clients.close(self._operation, self._shard)


def _with_deadline(request: WriteRequest | ReadRequest, deadline: float) -> WriteRequest | ReadRequest:
    return msgspec.structs.replace(request, deadline=deadline)
