"""How long each check of an own instance is good for: what the owner alone knows, and tells nobody.

Renewals come far more often than checks run out, so a renewal only moves the deadline; the timer that was set for the
old one looks again when it fires, and sets the next.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator

from msgspec import Struct
from msgspec.structs import replace

from ringkeep_core.services import Check, Instance

Key = tuple[str, str]


class Pulse(Struct):
    """Until when a check is alive, since when it is critical, when its output was spread last, when it is looked at."""

    deadline: float = math.inf
    critical_since: float | None = None
    output_at: float = -math.inf
    armed: float = math.inf


class Pulses:
    """The pulses of all own checks."""

    def __init__(self) -> None:
        self._pulses: dict[Key, dict[str, Pulse]] = {}
        self._due: list[tuple[float, str, str, str]] = []

    def of(self, key: Key, check_id: str) -> Pulse | None:
        """Return the pulse of a check, None if it is none of ours."""
        return self._pulses.get(key, {}).get(check_id)

    def begin(self, key: Key, instance: Instance, before: Instance | None, *, now: float) -> None:
        """Begin the times of all checks of a registration; those of the same registration go on."""
        known = self._pulses.get(key, {})
        is_same = before is not None and before.lamport == instance.lamport
        self._pulses[key] = {}
        for check in instance.checks:
            pulse = known.get(check.id) if is_same else None
            if pulse is None:
                pulse = Pulse(now + check.ttl_s if check.kind == "ttl" else math.inf)
                pulse.critical_since = now if check.status == "critical" else None
            self._pulses[key][check.id] = pulse
            self.arm(key, check)

    def drop(self, key: Key) -> None:
        """Forget an instance that is not ours any more."""
        self._pulses.pop(key, None)

    def arm(self, key: Key, check: Check) -> None:
        """Look at a check again when it runs out, or when it has been critical for too long."""
        pulse = self._pulses[key][check.id]
        due = math.inf
        if check.kind == "ttl" and check.status != "critical":
            due = pulse.deadline
        if pulse.critical_since is not None and check.deregister_after_s:
            due = min(due, pulse.critical_since + check.deregister_after_s)
        if due < pulse.armed:
            pulse.armed = due
            heapq.heappush(self._due, (due, *key, check.id))

    def next_deadline(self) -> float:
        """When ``fired`` may have something; infinity if never."""
        return self._due[0][0] if self._due else math.inf

    def fired(self, *, now: float) -> Iterator[tuple[Key, str]]:
        """Return (key, check id) of the checks to look at now; whoever does arms them again."""
        while self._due and self._due[0][0] <= now:
            due, service, id_, check_id = heapq.heappop(self._due)
            pulse = self.of((service, id_), check_id)
            if pulse is not None and pulse.armed == due:  # Else the check is gone, or was begun anew since.
                pulse.armed = math.inf
                yield (service, id_), check_id


def asked_checks(instance: Instance | None) -> list[Check]:
    """Return the checks that have to be carried out, whatever they found last."""
    if instance is None:
        return []
    return [replace(it, status="critical", output="") for it in instance.checks if it.kind in ("http", "tcp")]


def with_state(check: Check, before: Instance) -> Check:
    """Return the check in the state that one with the same definition had: defining it again is no news."""
    old = before.check(check.id)
    if old is None or replace(old, status=check.status, output=check.output) != check:
        return check
    return old if check.status == "critical" else replace(old, status=check.status)
