"""Which members are dead: what most live voters report, the leader's own view being one of them.

Every node tells everybody (by gossip) whom it calls dead, and in which boot. The leader counts the reports of the Raft
voters. A voter that is itself called dead by most others does not count any more, so the count is repeated until
nothing changes; a leader alone with its view convinces nobody, because it has to convince most of the others first.

Source: replication.md, "Members, failure, recovery"; counterexamples.md L3.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from msgspec import Struct

from ringkeep_node.machines.swim.members import Testimony

REPORTS_MAX = 20

Report = tuple[str, int]


class MemberFacts(Struct, frozen=True, kw_only=True):
    """What this node knows of one member now.

    ``counter`` is the boot counter that ``dead`` and ``suspect`` speak of; ``reports`` are the (storage id, boot
    counter) the member itself calls dead; ``stalled`` and ``lag_s`` are what it says about its own disk and event loop;
    ``heard``: it spoke to us since we started; ``leaving``: it said that it will stop for a restart; ``left``: it stopped
    as it had said (then ``dead`` is set, too).
    """

    storage: str
    counter: int
    dead: bool = False
    suspect: bool = False
    stalled: bool = False
    heard: bool = True
    leaving: bool = False
    left: bool = False
    lag_s: float = 0.0
    reports: tuple[Report, ...] = ()
    evidence: tuple[Testimony, ...] = ()


class Verdict(Struct, frozen=True, kw_only=True):
    """A member that somebody calls dead: who does, who was asked, and whether that is enough to act on."""

    storage: str
    counter: int
    dead: bool
    accusers: tuple[str, ...]
    voters: tuple[str, ...]
    evidence: tuple[str, ...]


def encode_reports(dead: Iterable[Report]) -> bytes:
    """Return whom a node calls dead as a gossip value; at most ``REPORTS_MAX``, a greater outage has no majority."""
    return b",".join(f"{storage}:{counter}".encode() for storage, counter in sorted(dead)[:REPORTS_MAX])


def decode_reports(value: bytes) -> tuple[Report, ...]:
    """Return what ``encode_reports`` wrote; parts that are anything else are left out."""
    reports = []
    for part in value.decode("ascii", "replace").split(",")[:REPORTS_MAX]:
        storage, _, counter = part.partition(":")
        if storage and counter.isascii() and counter.isdigit() and len(counter) < 17:
            reports.append((storage, int(counter)))
    return tuple(reports)


def judge(
    me: str, *, registered: Mapping[str, int], voters: Sequence[str], facts: Mapping[str, MemberFacts]
) -> dict[str, Verdict]:
    """Return a verdict on every registered member that somebody calls dead in its registered boot or a later one.

    Args:
        me: the leader, which is never judged.
        registered: boot counter of each registered member, by storage id.
        voters: storage ids of the Raft voters.
        facts: what is known of each member, by storage id; the leader's own view is in ``dead``.
    """
    accusers = _accusers(me, registered, facts)
    live, dead = list(voters), dict[str, Verdict]()
    while True:
        verdicts = {
            storage: _verdict(storage, registered[storage], live, by, facts) for storage, by in accusers.items()
        }
        fresh = {storage: verdict for storage, verdict in verdicts.items() if verdict.dead and storage not in dead}
        dead |= fresh
        if not any(storage in live for storage in fresh):
            return verdicts | dead
        live = [voter for voter in live if voter not in fresh]


def _accusers(me: str, registered: Mapping[str, int], facts: Mapping[str, MemberFacts]) -> dict[str, list[str]]:
    counted = {storage: _counted_from(counter, facts.get(storage)) for storage, counter in registered.items()}
    accusers: dict[str, list[str]] = {}
    for storage in sorted(facts):
        fact = facts[storage]
        own = ((storage, fact.counter),) if fact.dead else ()
        for by, reports in ((me, own), (storage, fact.reports if storage != me else ())):
            for accused, counter in reports:
                if accused not in (me, by) and accused in counted and counter >= counted[accused]:
                    accusers.setdefault(accused, []).append(by)
    return accusers


def _counted_from(registered: int, fact: MemberFacts | None) -> int:
    """Return the boot counter from which reports count: the death of a boot before the one we hear is old news."""
    return registered if fact is None or fact.dead else max(registered, fact.counter)


def _verdict(
    storage: str, counter: int, live: Sequence[str], accusers: Sequence[str], facts: Mapping[str, MemberFacts]
) -> Verdict:
    asked = tuple(voter for voter in live if voter != storage)
    saying = tuple(voter for voter in asked if voter in accusers)
    fact = facts.get(storage)
    return Verdict(
        storage=storage,
        counter=counter,
        dead=2 * len(saying) > len(asked),
        accusers=tuple(sorted(accusers)),
        voters=asked,
        evidence=() if fact is None else tuple([str(testimony) for testimony in fact.evidence]),
    )
