"""Findings about members: who is out and what that costs, who comes, who goes, who is in trouble."""

from __future__ import annotations

from collections.abc import Iterator

from ringkeep_core.shardmap import Member
from ringkeep_core.shardmap import MemberState as MapState
from ringkeep_core.summary.model import Evidence, Finding, SeenMember, Severity
from ringkeep_core.summary.picture import Picture, named
from ringkeep_core.summary.shard_findings import copies_of, progress_of, start
from ringkeep_core.wording import many, names, part, share, size, span, verb

SUSPICION_S = 3.0
"""Silence is forgiven for about so long (replication.md, "Members, failure, recovery")."""
LAG_TOLD_S = 0.2
"""Above this own loop lag a node gives itself more time instead of judging others."""
DISK_LOW_SHARE = 10
"""A disk is called nearly full when less than a tenth of what is stored and free is free."""

_WHY = {
    "refused": "its port refuses connections",
    "reset": "its connection broke",
    "unreachable": "its host cannot be reached",
    "silent": "it does not answer",
    "told": "others say so",
    "expired": "it did not answer in time",
}


def of(picture: Picture) -> list[Finding]:
    """Return what there is to say of each member, by name; the ones that are out first."""
    rows = picture.members()
    found = [finding for member, seen in rows if seen.is_out for finding in _out(picture, member, seen)]
    for member, seen in rows:
        if not seen.is_out:
            found += [*_trouble(picture, member, seen), *_passing(picture, member, seen)]
    return found + _missing(picture)


# --- out ---------------------------------------------------------------------------------------------------------


def _out(picture: Picture, member: Member, seen: SeenMember) -> Iterator[Finding]:
    stopped = seen.state == "left"
    shards = picture.held_by.get(member.storage, [])
    past = f" for {span(picture.seen.now - seen.since)}" if seen.since else ""
    what = f"{member.name} has {'been stopped' if stopped else 'been dead'}{past}"
    if not seen.since:
        what = f"{member.name} is {'stopped' if stopped else 'dead'}"
    advice, command = start(picture, [member.name])
    if shards:
        doing = _doing_for_copies(picture, seen)
    else:
        doing = "nothing is left to do: none of its copies is counted any more"
    yield Finding(
        kind="stopped" if stopped else "dead",
        severity=Severity.UNAVAILABLE if set(picture.waiting) & set(shards) else Severity.DEGRADED,
        subject=member.name,
        what=what,
        evidence="it said that it stops" if stopped else told_of(seen.evidence),
        means=_means_for_copies(picture, shards),
        doing=doing,
        advice=advice,
        command=command,
        since=seen.since or None,
        progress=progress_of(picture) if shards and not _in_grace(picture, seen) else None,
        shard_count=len(shards),
        shards=named(shards),
    )


def told_of(evidence: tuple[Evidence, ...]) -> str:
    """Return who accuses a member of what: "its port refuses connections (n1, n3)"."""
    by_reason: dict[str, list[str]] = {}
    for one in evidence:
        if one.why in _WHY and one.by not in by_reason.setdefault(_WHY[one.why], []):
            by_reason[_WHY[one.why]].append(one.by)
    return "; ".join(f"{why} ({', '.join(sorted(by))})" for why, by in by_reason.items())


def _means_for_copies(picture: Picture, shards: list[int]) -> str:
    if not shards:
        return "nothing changes: no shard counts on a copy of it"
    hurt = {*picture.orphaned, *picture.lost, *picture.refusing} & set(shards)
    wait = set(picture.waiting) & set(shards)
    short = [number for number in shards if picture.living[number] < picture.wanted_copies]
    if not short:
        return f"{copies_of(picture)} of every shard live elsewhere; reads and writes go on"
    living = sorted({picture.living[number] for number in short})
    have = str(living[0]) if len(living) == 1 else f"{living[0]} to {living[-1]}"
    told = f"{share(len(short), picture.total, 'has', 'have')} {have} of {copies_of(picture)}"
    if hurt:
        return f"{told}; {part(len(hurt), len(short))} {verb(len(hurt), 'is', 'are')} not served in full (see above)"
    if wait:
        return f"{told}; writes wait until the leader has taken it out of {many(len(wait), 'shard')}"
    return f"{told}; reads and writes go on"


def _in_grace(picture: Picture, seen: SeenMember) -> bool:
    return _grace_until(picture, seen) > picture.seen.now


def _grace_until(picture: Picture, seen: SeenMember) -> float:
    if seen.grace_until is not None:
        return seen.grace_until
    # Only the leader knows better: one that has started since counts the grace from its own start.
    return seen.since + picture.held.wanted.settings.grace_s


def _doing_for_copies(picture: Picture, seen: SeenMember) -> str:
    able = picture.able()
    if picture.seen.leader is None:
        return "nothing before there is a leader: it alone moves primaries and makes copies again"
    if len(able) < picture.wanted_copies:
        there = f"only {names(able)} {verb(len(able), 'lives', 'live')}" if able else "nobody lives who may hold one"
        return f"its copies are kept; they cannot be made elsewhere: {there}, for {copies_of(picture)} of each shard"
    if _in_grace(picture, seen):
        left = span(_grace_until(picture, seen) - picture.seen.now)
        return f"its copies are kept; if it is not back in {left}, they are made again on {names(able)}"
    progress = progress_of(picture)
    if progress is None:
        return f"its copies are made again on {names(able)}"
    told = [f"{progress.done:,} of {progress.total:,} are done" if progress.done else f"{progress.total:,} to go"]
    if progress.left_s is not None:
        told.append(f"{span(progress.left_s)} left")
    return f"its copies are made again on other nodes: {', '.join(told)}"


# --- in trouble --------------------------------------------------------------------------------------------------


def _trouble(picture: Picture, member: Member, seen: SeenMember) -> Iterator[Finding]:
    if seen.state == "suspect":
        yield _suspect(picture, member, seen)
    if seen.stalled:
        yield _stalled(picture, member)
    if seen.disk_full or _is_low(seen):
        yield _low(picture, member, seen)
    if seen.lag_s > LAG_TOLD_S:
        yield Finding(
            kind="slow",
            severity=Severity.DEGRADED,
            subject=member.name,
            what=f"{member.name} is {span(seen.lag_s) if seen.lag_s >= 1 else f'{seen.lag_s * 1000:.0f} ms'} late with "
            "everything",
            evidence="its event loop says so",
            means="what it leads, and what it forwards, is slow",
            doing="it gives others more time before it judges them; a leader that stays late hands leadership over",
            advice="give its machine more processor, or see what else runs there",
        )


def _stalled(picture: Picture, member: Member) -> Finding:
    wait = sorted(set(picture.waiting) & set(picture.held_by.get(member.storage, ())))
    if wait:
        means = f"writes of {part(len(wait), picture.total)} wait for it until it is taken out of them"
    else:
        means = "writes go on without it, with one copy less of each shard that it held"
    return Finding(
        kind="disk_stalled",
        severity=Severity.UNAVAILABLE if wait else Severity.DEGRADED,
        subject=member.name,
        what=f"the disk of {member.name} hangs",
        evidence="a sync of its log has taken longer than 2 s",
        means=means,
        doing="the leader takes it out of them and moves its primaries; after the grace its copies are made elsewhere"
        if picture.seen.leader is not None
        else "nothing before there is a leader: it alone takes it out of its shards",
        advice="look at the disk and at the machine's log",
        shard_count=len(wait),
        shards=named(wait),
    )


def _suspect(picture: Picture, member: Member, seen: SeenMember) -> Finding:
    led = picture.led_by[member.storage]
    past = f" for {span(picture.seen.now - seen.since)}" if seen.since else ""
    means = f"writes of {_shards_of(picture, member)} wait for it"
    if led:
        means += f", and reads of the {led:,} that it leads"
    return Finding(
        kind="suspect",
        severity=Severity.DEGRADED,
        subject=member.name,
        what=f"{member.name} has been suspected{past}",
        evidence=told_of(seen.evidence),
        means=means if picture.held_by.get(member.storage) else "it holds no copies, so nobody waits for it",
        doing=f"it answers within about {SUSPICION_S:.0f} s, or is called dead and its shards go on without it",
        since=seen.since or None,
        shard_count=len(picture.held_by.get(member.storage, [])),
    )


def _shards_of(picture: Picture, member: Member) -> str:
    return part(len(picture.held_by.get(member.storage, [])), picture.total)


def _is_low(seen: SeenMember) -> bool:
    free = seen.free_bytes
    return free is not None and free * DISK_LOW_SHARE < free + seen.copy_bytes


def _low(picture: Picture, member: Member, seen: SeenMember) -> Finding:
    free = f"{size(seen.free_bytes)} are free" if seen.free_bytes is not None else ""
    if seen.disk_full:
        return Finding(
            kind="disk_full",
            severity=Severity.DEGRADED,
            subject=member.name,
            what=f"the disk of {member.name} has no room for another piece of its log",
            evidence=free,
            means="reads and writes go on until the present piece is full; then it ends, and its shards go on without it",
            doing="nothing: only room helps",
            advice="make room on its disk now, or move its copies away",
            command=f"ringkeep drain {member.name} --keep",
        )
    return Finding(
        kind="disk_low",
        severity=Severity.DEGRADED,
        subject=member.name,
        what=f"the disk of {member.name} is nearly full",
        evidence=f"{free}, its copies have {size(seen.copy_bytes)}",
        means="reads and writes go on; a node that cannot write its log ends",
        doing="nothing: only room helps",
        advice="make room on its disk, or add a node",
        command="" if picture.seen.managed else f"ringkeep scale {len(picture.held.members) + 1}",
    )


# --- coming and going --------------------------------------------------------------------------------------------


def _passing(picture: Picture, member: Member, seen: SeenMember) -> Iterator[Finding]:
    wanted = picture.held.wanted.members.get(member.name)
    holds = picture.held_by.get(member.storage, [])
    if seen.state == "joining" or member.state is MapState.JOINING:
        yield Finding(
            kind="joining",
            severity=Severity.OK,
            subject=member.name,
            what=f"{member.name} is joining",
            means="nothing changes: it holds nothing yet",
            doing="the leader gives it its share of copies"
            if wanted is not None
            else "it waits to be listed in the wanted state",
            advice="" if wanted is not None or picture.seen.managed else "have it take part",
            command=""
            if wanted is not None or picture.seen.managed
            else f"ringkeep scale {len(picture.held.wanted.members) + 1}",
        )
    elif seen.draining or wanted is None:
        yield _draining(picture, member, holds)
    if seen.leaving:
        yield Finding(
            kind="leaving",
            severity=Severity.OK,
            subject=member.name,
            what=f"{member.name} is about to stop in order",
            means=f"its copies stay where they are; {many(picture.led_by[member.storage], 'primary', 'primaries')} "
            "move to others first",
            doing="it stops when others lead its shards",
        )
    if seen.guarded_until is not None and seen.guarded_until > picture.seen.now:
        yield _on_probation(picture, member, seen)


def _draining(picture: Picture, member: Member, holds: list[int]) -> Finding:
    led = picture.led_by[member.storage]
    progress = progress_of(picture)
    if not holds:
        return Finding(
            kind="draining",
            severity=Severity.OK,
            subject=member.name,
            what=f"{member.name} is drained and holds nothing",
            means="it can leave without any change for users",
            doing="whoever drained it lets it leave",
            command="" if picture.seen.managed else f"ringkeep drain {member.name}",
            advice="" if picture.seen.managed else "if nobody does, let it leave",
        )
    waits = picture.seen.plan.waiting if picture.seen.plan is not None else ()
    left = f", {span(progress.left_s)} left" if progress is not None and progress.left_s is not None else ""
    return Finding(
        kind="draining",
        severity=Severity.OK,
        subject=member.name,
        what=f"{member.name} drains: {many(len(holds), 'copy', 'copies')} and "
        f"{many(led, 'primary', 'primaries')} are still on it",
        evidence="; ".join(wait for wait in waits if member.name in wait),
        means="nothing changes: its copies stay until others have them",
        doing=f"the leader moves them away{left}",
        progress=progress,
        shard_count=len(holds),
        shards=named(holds),
    )


def _on_probation(picture: Picture, member: Member, seen: SeenMember) -> Finding:
    assert seen.guarded_until is not None
    often = seen.deaths > 1
    return Finding(
        kind="probation",
        severity=Severity.OK,
        subject=member.name,
        what=f"{member.name} gets no primaries for {span(seen.guarded_until - picture.seen.now)}",
        evidence=f"it died {f'{seen.deaths} times' if often else 'once'} within the hour" if seen.deaths else "it died",
        means="nothing changes: others lead its shards meanwhile",
        doing="it leads again if it lives until then; each further death doubles the time",
        advice="see in its log why it dies" if often else "",
    )


def _missing(picture: Picture) -> list[Finding]:
    """Find who is wanted and has never been there."""
    missing = sorted(name for name in picture.held.wanted.members if name not in picture.held.by_name)
    if not missing:
        return []
    managed = picture.seen.managed
    return [
        Finding(
            kind="missing",
            severity=Severity.DEGRADED,
            subject=", ".join(missing),
            what=f"{names(missing)} {verb(len(missing), 'is', 'are')} wanted and not there yet",
            means="nothing changes: what they are to hold stays with others",
            doing="they get their share of copies as soon as they have registered",
            advice="" if managed else "start what is down",
            command="" if managed else "ringkeep up",
        )
    ]
