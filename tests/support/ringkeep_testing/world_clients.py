"""Clients of the whole-cluster simulation: they write and read documents through any node, and remember what they saw.

Few documents, unique values. A change is a put, a create (``If-None-Match: *``), a conditional put (``If-Match``), a
delete, or a put under an ``Idempotency-Key`` that is sent again through another gateway while its outcome is unknown. The
history of each document is judged as a register with compare-and-set (``linearizability``); versions only grow.
"""

from __future__ import annotations

from dataclasses import replace
from math import inf
from typing import TYPE_CHECKING

from ringkeep_core.hashing import shard_of
from ringkeep_node.machines.documents import Answer, IdempotencyKey, Write
from ringkeep_node.machines.shard.effects import (
    Absent,
    Found,
    NotApplied,
    PageFound,
    ReadKind,
    ReadRequest,
    Result,
    Stored,
    Unknown,
    WriteRequest,
)
from ringkeep_testing.linearizability import ANY, Operation, judge

if TYPE_CHECKING:
    from ringkeep_testing.node_world import World
    from ringkeep_testing.world_machine import Machine

Place = tuple[str, str]
TIMEOUT_S = 3.0
TRIES = 3


class Clients:
    """All clients of a run; ``counts`` say how many operations ended how."""

    def __init__(self, world: World) -> None:
        self._world = world
        count = world.plan.documents
        self.places: list[Place] = [(f"user{number // 2}", f"key{number % 2}") for number in range(count)]
        self.histories: dict[Place, list[Operation]] = {place: [] for place in self.places}
        self.counts: dict[str, int] = {}
        self.look_who_serves = False
        self.until = 0.0
        self._values = 0
        self._seen: dict[Place, tuple[int, str]] = {}
        self._floor: dict[Place, int] = {}
        self._value_of: dict[tuple[int, int], str] = {}
        self.written: dict[Place, set[str]] = {}
        self.open: dict[Call, None] = {}
        """Calls that have not ended."""

    def start(self, until: float) -> None:
        """Let every client work, one operation at a time, until a time."""
        self.until = until
        for _ in range(self._world.plan.clients):
            self._world.at(self._world.now, lambda: self._next(until))

    def _next(self, until: float) -> None:
        world = self._world
        if world.now >= until:
            return
        pause_s = world.plan.think_s * 2
        place, machine = world.rng.choice(self.places), world.rng.choice(self.gateways())
        Call(self, world, place, world.rng.random()).send(
            machine, lambda: world.at(world.now + pause_s * world.rng.random(), lambda: self._next(until))
        )

    def gateways(self) -> list[Machine]:
        """Return the machines that are asked: any, or those that say they serve, if clients look at that."""
        machines = list(self._world.machines.values())
        if self.look_who_serves:
            going = self._world.people.leaving
            serving = [it for it in machines if it.node is not None and it.node.registered and not it.is_ending]
            return [it for it in serving if it.storage not in going] or serving
        return machines

    # --- one operation -------------------------------------------------------------------------------------------

    def new_value(self) -> str:
        """Return a value that nobody wrote before."""
        self._values += 1
        return f"v{self._values}"

    def seen(self, place: Place) -> tuple[int, str] | None:
        """Return a version of a document that somebody saw, and its value."""
        return self._seen.get(place)

    def floor(self, place: Place) -> int:
        """Return the greatest version of a document that any answer has named so far."""
        return self._floor.get(place, 0)

    def told(self, place: Place, version: int, value: str | None, floor: int, *, is_new: bool) -> None:
        """An answer named a version: it is no older than what was answered before the call, and has one value."""
        world = self._world
        if version < floor or (is_new and version == floor):
            raise world.violation(f"version {version} of {place} was answered after {floor}")
        self._floor[place] = max(version, self._floor.get(place, 0))
        if value is not None:
            shard = shard_of(place[0], world.plan.shards)
            if self._value_of.setdefault((shard, version), value) != value:
                raise world.violation(f"version {version} of {place} has two values")
            self._seen[place] = (version, value)

    def record(self, place: Place, operation: Operation, how: str) -> None:
        """Add an operation that ended."""
        self.histories[place].append(operation)
        self.counts[how] = self.counts.get(how, 0) + 1
        self._world.note(place, how, operation)

    def judge(self) -> None:
        """Check every document's history."""
        unknown: dict[Place, list[Operation]] = {}
        for call in self.open:
            if call.draft.kind == "write":
                unknown.setdefault(call.place, []).append(call.draft)
        for place, history in self.histories.items():
            try:
                judge([*history, *unknown.get(place, [])], str(place))
            except AssertionError as error:
                raise self._world.violation(str(error)) from error


class Call:
    """One operation of one client, with its retries. ``choice`` in [0, 1) draws what it is."""

    def __init__(self, clients: Clients, world: World, place: Place, choice: float, *, kind: str = "") -> None:
        self._clients, self._world, self.place = clients, world, place
        self._shard = shard_of(place[0], world.plan.shards)
        self._floor = clients.floor(place)
        self.draft = Operation(world.now, inf, "read", None)
        self._request: WriteRequest | ReadRequest
        self._tries = 0
        self._uncertain = False
        self._over = False
        self.result: Result | None = None
        user, key = place
        if kind == "read" or (not kind and choice < 0.42):
            if choice < 0.03 and not kind:
                self._request = ReadRequest(user, key, 0.0, local=True)
            elif choice < 0.06 and not kind:
                self._request = ReadRequest(user, "", 0.0, kind=ReadKind.PAGE, prefix=key)
            else:
                self._request = ReadRequest(user, key, 0.0)
        else:
            self._plan_write(0.8 if kind else choice)

    def _plan_write(self, choice: float) -> None:
        clients, (user, key) = self._clients, self.place
        value: str | None = clients.new_value()
        seen, if_match, if_none_match, named = clients.seen(self.place), None, None, None
        draft = replace(self.draft, kind="write")
        if choice < 0.50:
            value = None
        elif choice < 0.58:
            if_none_match = ()
            draft = replace(draft, unless=ANY)
        elif choice < 0.72 and seen is not None:
            if_match, draft = (seen[0],), replace(draft, only_if=seen[1])
        if choice > 0.85 or (0.66 < choice < 0.72) or choice < 0.45:
            named = IdempotencyKey(user, f"i{value or clients.new_value()}", b"h")
        write = Write(user, key, None if value is None else value.encode(), "text/plain")
        self.draft = replace(draft, value=value)
        if value is not None:
            clients.written.setdefault(self.place, set()).add(value)
        self._request = WriteRequest(
            (write,), 0.0, 0, idempotency=named, if_match=if_match, if_none_match=if_none_match
        )

    def send(self, machine: Machine, done: object = None) -> Call:
        """Send the request through a node; ``done`` is called when the operation is over."""
        world, tries = self._world, self._tries
        self._tries += 1
        self._done = done
        self._clients.open[self] = None
        deadline = world.now + TIMEOUT_S
        if isinstance(self._request, WriteRequest):
            request: WriteRequest | ReadRequest = _timed(self._request, deadline, machine.wall_ms())
        else:
            request = _timed_read(self._request, deadline)

        def answered(result: Result | None) -> None:
            if self._tries == tries + 1 and not self._over:
                self._answered(result)

        world.at(deadline + 0.2, lambda: answered(None))
        machine.submit(self._shard, request, answered)
        return self

    def _answered(self, result: Result | None) -> None:
        is_write = isinstance(self._request, WriteRequest)
        match result:
            case Found() | Absent() if isinstance(self._request, ReadRequest) and self._request.local:
                self._local(result)
            case Stored():
                self._stored(result)
            case Found():
                value = result.row.value.decode()
                self._clients.told(self.place, result.row.version, value, self._floor, is_new=False)
                self._end("found", replace(self.draft, value=value), result)
            case Absent() if not is_write:
                self._end("absent", replace(self.draft, value=None), result)
            case PageFound():
                rows = [row for row in result.rows if row.key == self.place[1]]
                if rows:
                    self._clients.told(self.place, rows[0].version, rows[0].value.decode(), self._floor, is_new=False)
                self._end("listed", replace(self.draft, value=rows[0].value.decode() if rows else None), result)
            case Absent() if not self._uncertain:
                nothing = replace(self.draft, kind="read", value=None, only_if=None, unless=None)
                self._end("deleted nothing", nothing, result)
            case NotApplied("version_mismatch") if not self._uncertain:
                self._end("refused", replace(self.draft, kind="refused"), result)
            case NotApplied("no_primary" | "not_enough_copies" | "overloaded" | "version_mismatch") | Absent():
                self._failed(result)
            case Unknown() | None:
                self._uncertain = self._uncertain or is_write
                self._failed(result)
            case _:
                raise self._world.violation(f"a client was answered {result}")

    def _local(self, result: Found | Absent) -> None:
        """A local read promises nothing but that somebody wrote what it shows."""
        clients = self._clients
        written = clients.written.get(self.place, set())
        if isinstance(result, Found) and result.row.value.decode() not in written:
            raise self._world.violation(f"{result.row} was never written")
        self._over, self.result = True, result
        self._clients.open.pop(self, None)
        clients.counts["read locally"] = clients.counts.get("read locally", 0) + 1
        if callable(self._done):
            self._done()

    def _stored(self, result: Stored) -> None:
        world, value = self._world, self.draft.value
        world.eye.acknowledge(self._shard, result.version)
        self._clients.told(self.place, result.version, value, self._floor, is_new=True)
        created = {Answer.CREATED: True, Answer.REPLACED: False, Answer.DELETED: False}[Answer(result.answer)]
        self._end("stored", replace(self.draft, created=created), result)

    def _failed(self, result: Result | None) -> None:
        """Not answered, or certainly nothing: try again elsewhere if that is safe, else the outcome stays open."""
        request, world = self._request, self._world
        safe = isinstance(request, WriteRequest) and request.idempotency is not None
        if safe and self._tries < TRIES:
            machine = world.rng.choice(self._clients.gateways())
            world.at(world.now + 0.1, lambda: self.send(machine, self._done))
            return
        self._over, self.result = True, result
        self._clients.open.pop(self, None)
        if self._uncertain:
            self._clients.record(self.place, self.draft, "unknown")
        else:
            self._clients.counts["failed"] = self._clients.counts.get("failed", 0) + 1
        if callable(self._done):
            self._done()

    def _end(self, how: str, operation: Operation, result: Result) -> None:
        self._over, self.result = True, result
        self._clients.open.pop(self, None)
        self._clients.record(self.place, replace(operation, returned=self._world.now), how)
        if callable(self._done):
            self._done()


def _timed(request: WriteRequest, deadline: float, wall_ms: int) -> WriteRequest:
    return WriteRequest(
        request.writes,
        deadline,
        wall_ms,
        idempotency=request.idempotency,
        if_match=request.if_match,
        if_none_match=request.if_none_match,
    )


def _timed_read(request: ReadRequest, deadline: float) -> ReadRequest:
    return ReadRequest(
        request.user, request.key, deadline, kind=request.kind, local=request.local, prefix=request.prefix
    )
