"""Is a recorded history of one document linearizable? The search of Wing and Gong with Lowe's memo.

A document is a register with compare-and-set over unique values; None is "absent". An operation whose outcome nobody
knows may take effect at any time after its call, or never. Each document is checked alone (the property is local).
The search is bounded: a history that needs more is reported as undecided, and that is a failure too.

Source: Wing, Gong 1993; Lowe, "Testing for linearizability", 2017; testing.md, Linearizability.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf

ANY = "*"
"""A precondition: the document exists (``only_if``), or it does not (``unless``)."""
STATES_MAX = 200_000
"""States one search may see: hundreds of times what a good history needs, a few seconds, some tens of megabytes."""


class Undecided(AssertionError):
    """The search saw ``STATES_MAX`` states and neither found an order nor ruled all out."""


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation on one document.

    ``kind``: "read" (``value`` is what was seen), "write" (``value`` is what was written, None: deleted) or "refused"
    (a write whose precondition did not hold). ``only_if``/``unless``: the precondition, a value or ANY; ``created``: what
    the answer told about the state before (True: absent), None if it told nothing. ``returned`` is inf if unknown.
    """

    called: float
    returned: float
    kind: str
    value: str | None
    only_if: str | None = None
    unless: str | None = None
    created: bool | None = None


def _holds(operation: Operation, state: str | None) -> bool:
    if operation.only_if is not None and not (
        state is not None if operation.only_if == ANY else state == operation.only_if
    ):
        return False
    return operation.unless is None or (state is None if operation.unless == ANY else state != operation.unless)


def step(operation: Operation, state: str | None) -> tuple[bool, str | None]:
    """Return whether the operation may have happened in ``state``, and the state after it."""
    if operation.kind == "read":
        return operation.value == state, state
    if operation.kind == "refused":
        return not _holds(operation, state), state
    if not _holds(operation, state):
        # Nobody knows its outcome: it may as well have been refused.
        return operation.returned == inf, state
    if operation.created is not None and operation.created != (state is None):
        return False, state
    return True, operation.value


def _groups(operations: Sequence[Operation]) -> list[tuple[str | None, str | None, str | None] | None]:
    """Name the operations of unknown outcome whose values nobody saw: those of one name are as good as each other."""
    seen = {value for it in operations for value in (it.only_if, it.unless)}
    seen |= {it.value for it in operations if it.kind == "read"}
    return [
        ("?" if it.value not in seen else it.value, it.only_if, it.unless) if it.returned == inf else None
        for it in operations
    ]


def _first_harmless(operations: Sequence[Operation], candidates: Sequence[int], state: str | None) -> int | None:
    """Return an operation whose known answer fits ``state`` and that leaves it as it is."""
    for number in candidates:
        if operations[number].kind != "write" and step(operations[number], state)[0]:
            return number
    return None


def describe(history: Sequence[Operation]) -> str:
    """Return a history as text, a line for each operation."""
    return "\n".join(str(it) for it in sorted(history, key=lambda it: (it.called, it.returned)))


def judge(history: Sequence[Operation], name: str, failure: type[AssertionError] = AssertionError) -> None:
    """Raise ``failure``, with the history, if it is not linearizable; raise ``Undecided`` if nobody can tell."""
    if not is_linearizable(history):
        raise failure(f"{name} is not linearizable:\n{describe(history)}")


def is_linearizable(history: Sequence[Operation], initial: str | None = None, *, states_max: int = STATES_MAX) -> bool:
    """Return whether some order, consistent with real time, explains every known answer. Raises ``Undecided``."""
    operations = sorted(history, key=lambda it: (it.called, it.returned))
    groups = _groups(operations)
    values = ["?" if group is not None and group[0] == "?" else None for group in groups]
    must = sum(1 << number for number, it in enumerate(operations) if it.returned != inf)
    seen: set[tuple[int, str | None]] = set()
    stack: list[tuple[int, str | None]] = [(0, initial)]
    while stack:
        done, state = stack.pop()
        if done & must == must:
            return True
        if (done, state) in seen:
            continue
        seen.add((done, state))
        if len(seen) > states_max:
            raise Undecided(f"undecided after {states_max} states:\n{describe(history)}")
        known: list[tuple[int, str | None]] = []
        tried: set[object] = set()
        earliest_return = inf
        candidates = []
        for number, operation in enumerate(operations):
            if operation.called > earliest_return:
                break
            if not done >> number & 1:
                candidates.append(number)
                earliest_return = min(earliest_return, operation.returned)
        harmless = _first_harmless(operations, candidates, state)
        if harmless is not None:
            # It changes nothing and may be first: whatever explains the rest explains it with this one done, too.
            stack.append((done | 1 << harmless, state))
            continue
        for number in candidates:
            group = groups[number]
            if group is not None:
                if group in tried:
                    continue
                tried.add(group)
            possible, after = step(operations[number], state)
            if not possible:
                continue
            if group is None:
                known.append((done | 1 << number, after))
            elif after != state:
                stack.append((done | 1 << number, values[number] or after))
        # Operations with known answers are tried first: they are what must be explained.
        stack.extend(reversed(known))
    return False
