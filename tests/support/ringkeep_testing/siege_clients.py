"""Clients that know too much: they talk straight to a deposed primary and to the new one, by turns, on two documents.

An operation is one attempt at one node. What comes back is taken at its word; "moved" and silence leave a write's outcome
open. Whoever was answered asks the other side the next moment: a read, a swap on the version just seen, a creation.

When all is healed and quiet, the copies tell which of the open writes took effect: each carries a wall time of its own as
its mark. The others never will, so they are no part of the history, and what is left is quickly judged.
"""

from __future__ import annotations

from dataclasses import replace
from math import inf
from typing import TYPE_CHECKING

from ringkeep_node.machines.documents import Answer, Write
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
    Unknown,
    WriteRequest,
)
from ringkeep_testing.linearizability import ANY, Operation, judge
from ringkeep_testing.shard_checks import Violation

if TYPE_CHECKING:
    from ringkeep_testing.shard_world import ShardNode, ShardWorld

PATIENCE_S = 0.6
OPEN_MAX = 4
"""Reads, and writes, of one document under way at once at one node: writes that hang must not keep reads away."""
KEYS = ("one", "two")
Place = tuple[str, int, str]
"""A document, the number of a node, and "read" or "write"."""


class SiegeClients:
    """All clients of a run. ``rival`` is who led when the episode began; ``counts`` say how operations ended."""

    def __init__(self, world: ShardWorld) -> None:
        self.world = world
        self.rival: ShardNode | None = None
        self.histories: dict[str, list[Operation]] = {key: [] for key in KEYS}
        self._unknown: dict[str, list[tuple[int, Operation]]] = {key: [] for key in KEYS}
        self._denied: dict[int, str] = {}
        self.open: dict[Place, int] = {}
        self.values = 0
        self.seen: dict[str, tuple[int, str] | None] = dict.fromkeys(KEYS)
        self.counts: dict[str, int] = {}

    def act(self) -> None:
        """Begin one operation at the new primary, the deposed one or anybody."""
        random = self.world.random
        choice = random.random()
        primary = self.world.by_storage.get(self.world.service.map.shards[0].primary.storage)
        target = primary if choice < 0.5 else self.rival if choice < 0.9 else random.choice(self.world.nodes)
        self.begin(target, random.choice(KEYS))

    def begin(self, target: ShardNode | None, key: str) -> None:
        """Begin an operation at a node that runs."""
        if target is None or not target.is_up:
            return
        attempt = _Attempt(self, target, key)
        if self.open.get(attempt.place, 0) < OPEN_MAX:
            self.open[attempt.place] = self.open.get(attempt.place, 0) + 1
            attempt.send()

    def ended(self, place: Place, operation: Operation, how: str, mark: int) -> None:
        """Take down how an operation ended, and ask the other side."""
        self.open[place] -= 1
        key, target = place[0], self.world.nodes[place[1]]
        self.counts[how] = self.counts.get(how, 0) + 1
        if how == "nothing":
            if operation.kind == "write":
                self._denied[mark] = key
            return
        if how == "unknown":
            self._unknown[key].append((mark, operation))
            return
        self.histories[key].append(operation)
        if self.world.random.random() < 0.6:
            primary = self.world.by_storage.get(self.world.service.map.shards[0].primary.storage)
            self.begin(self.rival if target is not self.rival else primary, key)

    def judge(self) -> None:
        """Check the histories, once everything is quiet."""
        end = self.world.now
        for mark, key in self._denied.items():
            if mark in self.world.eye.stamps:
                raise Violation(f"document {key}: a client was told that its change {mark} was not applied, but it was")
        for key, history in self.histories.items():
            effective = [replace(it, returned=end) for mark, it in self._unknown[key] if mark in self.world.eye.stamps]
            judge(history + effective, f"document {key}", Violation)


class _Attempt:
    """One operation at one node."""

    def __init__(self, clients: SiegeClients, target: ShardNode, key: str) -> None:
        self._clients, self._target, self._key = clients, target, key
        self._world = clients.world
        self._is_over = False
        self._mark = 0
        self._draft = Operation(self._world.now, inf, "write", None)
        choice = self._world.random.random()
        self._request = self._read(choice) if choice < 0.4 else self._write(choice)
        self.place: Place = (key, target.number, self._draft.kind)

    def _read(self, choice: float) -> ReadRequest:
        self._draft = replace(self._draft, kind="read")
        deadline = self._world.now + PATIENCE_S
        if choice < 0.05:
            return ReadRequest("user", "", deadline, kind=ReadKind.PAGE, prefix=self._key)
        return ReadRequest("user", self._key, deadline)

    def _write(self, choice: float) -> WriteRequest:
        clients, if_match, if_none_match = self._clients, None, None
        clients.values += 1
        self._mark = clients.values
        value = f"v{clients.values}" if choice < 0.93 else None
        seen = clients.seen[self._key]
        if choice > 0.6 and seen is not None:
            if_match = (seen[0],)
            self._draft = replace(self._draft, only_if=seen[1])
        elif choice > 0.55:
            if_none_match = ()
            self._draft = replace(self._draft, unless=ANY)
        self._draft = replace(self._draft, value=value)
        write = Write("user", self._key, None if value is None else value.encode(), "text/plain")
        deadline = self._world.now + PATIENCE_S
        return WriteRequest((write,), deadline, self._mark, if_match=if_match, if_none_match=if_none_match)

    def send(self) -> None:
        """Hand it over; a client is never cut off from the node that it talks to."""
        world, delay_s = self._world, self._world.faults.delay_s

        def answered(result: Result) -> None:
            world.after(delay_s * world.random.random(), lambda: self._answered(result))

        world.after(
            delay_s * world.random.random(),
            lambda: self._target.submit(0, self._request, answered),
            self._target,
        )
        world.after(PATIENCE_S, lambda: self._answered(Unknown()))

    def _answered(self, result: Result) -> None:
        if self._is_over:
            return
        self._is_over = True
        how, operation = self._meaning(result)
        self._clients.ended(self.place, operation, how, self._mark)

    def _meaning(self, result: Result) -> tuple[str, Operation]:
        draft, now = self._draft, self._world.now
        is_read = draft.kind == "read"
        match result:
            case Stored():
                return "stored", self._stored(result)
            case Found():
                value = result.row.value.decode()
                self._saw(result.row.version, value)
                return "found", replace(draft, value=value, returned=now)
            case Absent():
                return "absent", Operation(draft.called, now, "read", None)
            case PageFound():
                rows = [row for row in result.rows if row.key == self._key]
                return "listed", replace(draft, value=rows[0].value.decode() if rows else None, returned=now)
            case NotApplied("version_mismatch"):
                return "refused", replace(draft, kind="refused", returned=now)
            case NotApplied():
                return "nothing", draft
            case Moved() | Unknown() if not is_read:
                return "unknown", draft
            case _:
                return "nothing", draft

    def _stored(self, result: Stored) -> Operation:
        self._world.eye.acknowledged(0, result.epoch, result.version)
        self._world.eye.check()
        if self._draft.value is not None:
            self._saw(result.version, self._draft.value)
        created = {Answer.CREATED: True, Answer.REPLACED: False, Answer.DELETED: False}[Answer(result.answer)]
        return replace(self._draft, created=created, returned=self._world.now)

    def _saw(self, version: int, value: str) -> None:
        self._clients.seen[self._key] = (version, value)
