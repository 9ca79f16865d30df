"""Findings about shards: whom users wait for, which copies are missing, what moves."""

from __future__ import annotations

from collections.abc import Sequence

from ringkeep_core.summary.model import Finding, Progress, Severity
from ringkeep_core.summary.picture import Picture, named
from ringkeep_core.wording import many, names, ranges, share, span, verb

RATE_OVER_S = 10.0
"""The rate of a plan is that of its last seconds: an average since the start lags behind a limit that was changed."""
STUCK_AFTER_S = 60.0
"""A plan of which nothing has come home for so long is told as stuck, with what it waits for."""
NUMBERS_TOLD_MAX = 24


def of(picture: Picture) -> list[Finding]:
    """Return what users notice: shards without a primary, and shards that take no writes."""
    return [*_lost(picture), *_orphaned(picture), *_refusing(picture)]


def of_copies(picture: Picture) -> list[Finding]:
    """Return what only threatens: copies that are missing though nobody is out, and the plan."""
    return [*_under_replicated(picture), *_plan(picture)]


def start(picture: Picture, down: Sequence[str]) -> tuple[str, str]:
    """Return advice and command to start nodes again."""
    if not down:
        return "", ""
    if picture.seen.managed:
        return (
            f"nothing at first, the operator starts {names(down)} again; if it does not, see why",
            f"kubectl describe pod {' '.join(down)}",
        )
    return f"start {names(down)} again", f"ringkeep restart {down[0]}" if len(down) == 1 else "ringkeep up"


def _lost(picture: Picture) -> list[Finding]:
    if not picture.lost:
        return []
    holders = sorted(
        {
            picture.name_of(copy.storage)
            for number in picture.lost
            for copy in (*picture.held.shards[number].in_sync, *picture.held.shards[number].eligible)
        }
    )
    advice, command = start(picture, holders)
    return [
        Finding(
            kind="no_complete_copy",
            severity=Severity.UNAVAILABLE,
            subject="shards",
            what=f"{share(len(picture.lost), picture.total, 'has', 'have')} no working complete copy",
            evidence=f"{_numbers(picture.lost)}complete copies are on {names(holders)}",
            means="reads and writes there wait, and are refused at their deadline (no_primary); nothing acknowledged is "
            "lost while those disks are kept",
            doing=f"they serve again as soon as {names(holders, 'or')} is back with its disk",
            advice=advice,
            command=command,
            shard_count=len(picture.lost),
            shards=named(picture.lost),
        )
    ]


def _orphaned(picture: Picture) -> list[Finding]:
    if not picture.orphaned:
        return []
    leader = picture.seen.leader
    former = sorted({picture.name_of(picture.held.shards[number].primary.storage) for number in picture.orphaned})
    return [
        Finding(
            kind="no_primary",
            severity=Severity.UNAVAILABLE,
            subject="shards",
            what=f"{share(len(picture.orphaned), picture.total, 'has', 'have')} no working primary",
            evidence=f"{_numbers(picture.orphaned)}led before by {names(former)}",
            means="reads and writes there wait; another complete copy lives, so nothing is lost",
            doing=f"the leader {leader} gives them a new primary; that takes about a second"
            if leader
            else "nothing before there is a leader: it alone may move primaries",
            shard_count=len(picture.orphaned),
            shards=named(picture.orphaned),
        )
    ]


def _refusing(picture: Picture) -> list[Finding]:
    if not picture.refusing:
        return []
    shards = [picture.held.shards[number] for number in picture.refusing]
    learners = sorted(
        {picture.name_of(it.storage) for shard in shards for it in shard.learners if it.storage not in picture.out}
    )
    down = picture.names_out()
    advice, command = start(picture, down) if not learners else ("", "")
    have = sorted({len(shard.in_sync) for shard in shards})
    need = max(shard.need for shard in shards)
    are_out = f"; {names(down)} {verb(len(down), 'is', 'are')} out" if down else ""
    if learners:
        then = (
            "then writes are taken again" if picture.seen.leader else "a leader must let it in before writes are taken"
        )
        doing = f"{names(learners)} {verb(len(learners), 'catches', 'catch')} up; {then}"
    elif down:
        doing = f"writes are taken again once {names(down, 'or')} is back and has caught up"
    else:
        doing = "the leader brings further copies in sync"
    return [
        Finding(
            kind="not_enough_copies",
            severity=Severity.UNAVAILABLE,
            subject="shards",
            what=f"{share(len(shards), picture.total, 'takes', 'take')} no writes",
            evidence=f"{_or(have)} of the {many(need, 'copy', 'copies')} that a write needs "
            f"{'is' if have == [1] else 'are'} in sync{are_out}",
            means="writes there are refused (not_enough_copies) and certainly not applied; reads "
            + ("wait for a leader as well" if set(picture.mute) & set(picture.refusing) else "go on"),
            doing=doing,
            advice=advice,
            command=command,
            shard_count=len(shards),
            shards=named(picture.refusing),
        )
    ]


def _under_replicated(picture: Picture) -> list[Finding]:
    """Find shards that lack copies although no copy of theirs is on a node that is out: those are told with the node."""
    untold = {*picture.orphaned, *picture.lost, *picture.refusing, *picture.waiting}
    missing = {number for storage in picture.out for number in picture.held_by.get(storage, ())}
    short = [number for number in picture.short if number not in untold and number not in missing]
    if not short:
        return []
    shards = [picture.held.shards[number] for number in short]
    learners = sorted(
        {picture.name_of(it.storage) for shard in shards for it in shard.learners if it.storage not in picture.out}
    )
    copies = sorted({picture.living[number] for number in short})
    if learners:
        progress = progress_of(picture)
        doing = f"copies are made on {names(learners)}{_pace(progress)}"
    else:
        progress = None
        doing = "copies are made as soon as a stream to another node is free"
        if picture.seen.leader is None:
            doing = "nothing before there is a leader: it alone adds copies"
    return [
        Finding(
            kind="under_replicated",
            severity=Severity.DEGRADED,
            subject="shards",
            what=f"{share(len(short), picture.total, 'has', 'have')} {_or(copies)} of {copies_of(picture)}",
            means="reads and writes go on; fewer nodes may be lost before users notice",
            doing=doing,
            progress=progress,
            shard_count=len(short),
            shards=named(short),
        )
    ]


# --- the plan ----------------------------------------------------------------------------------------------------


def progress_of(picture: Picture) -> Progress | None:
    """Return how far the copies are that are being made; None if there are none.

    The leader knows the whole plan; everybody else counts the copies that are on their way now.
    """
    seen = picture.seen
    now_learning = sum(picture.learning.values())
    if seen.plan is not None:
        done, total = seen.plan.copies_done, max(seen.plan.copies, seen.plan.copies_done)
    else:
        done, total = 0, now_learning
    left = total - done
    if left <= 0:
        return None
    per_s = _rate(picture)
    return Progress(done=done, total=total, per_s=per_s, left_s=left / per_s if per_s else None)


def _rate(picture: Picture) -> float | None:
    seen = picture.seen
    begun = seen.plan.since if seen.plan is not None else seen.now - RATE_OVER_S
    over_s = min(RATE_OVER_S, max(seen.now - begun, 1.0))
    copies = sum(move.copies for move in seen.moves if seen.now - over_s <= move.at <= seen.now)
    return copies / over_s if copies else None


def _pace(progress: Progress | None) -> str:
    """Return ": 40 of 102, 9/s, 7 s left", as far as it is known."""
    if progress is None:
        return ""
    told = [f"{progress.done:,} of {progress.total:,}" if progress.done else f"{progress.total:,} to go"]
    if progress.per_s is not None and progress.left_s is not None:
        told.append(f"{progress.per_s:,.0f}/s" if progress.per_s >= 1 else f"{progress.per_s * 60:,.0f}/min")
        told.append(f"{span(progress.left_s)} left")
    return f": {', '.join(told)}"


def _plan(picture: Picture) -> list[Finding]:
    seen = picture.seen
    progress = progress_of(picture)
    primaries = seen.plan.primaries if seen.plan is not None else 0
    if progress is None and not primaries:
        return []
    if seen.plan is None:
        return _catching_up(picture, progress)
    idle_s = _idle_s(picture)
    reason = f" ({seen.plan.reason})" if seen.plan.reason else ""
    waiting = seen.plan.waiting
    what = _what_moves(progress, primaries)
    if waiting and idle_s >= STUCK_AFTER_S:
        return [_stuck(picture, what, idle_s, progress)]
    return [
        Finding(
            kind="plan",
            severity=Severity.OK,
            subject="cluster",
            what=f"{what}{reason}",
            evidence="; ".join(waiting[:1]),
            means=f"{_go_on(picture)}a shard whose primary moves pauses for some milliseconds",
            doing=f"the leader carries the plan out{_pace(progress)}",
            since=seen.plan.since,
            progress=progress,
            shard_count=len(picture.moving),
            shards=named(picture.moving),
        )
    ]


def _catching_up(picture: Picture, progress: Progress | None) -> list[Finding]:
    """Tell of copies that are on their way, where the plan is not known: at any node but the leader."""
    told_with_shards = [number for number in picture.short if number not in picture.hurt]
    if progress is None or (not picture.moving and told_with_shards):
        return []
    return [
        Finding(
            kind="plan",
            severity=Severity.OK,
            subject="cluster",
            what=f"{many(progress.total, 'copy is', 'copies are')} being made",
            means=f"{_go_on(picture)}they count when they are in sync",
            doing=f"they are brought up to date{_pace(progress)}",
            progress=progress,
            shard_count=len(picture.moving),
            shards=named(picture.moving),
        )
    ]


def _go_on(picture: Picture) -> str:
    return "" if picture.hurt else "reads and writes go on; "


def _what_moves(progress: Progress | None, primaries: int) -> str:
    if progress is None:
        return f"{many(primaries, 'primary', 'primaries')} {verb(primaries, 'is', 'are')} still to move"
    if progress.done:
        return f"{progress.done:,} of {many(progress.total, 'copy', 'copies')} have moved"
    return f"{many(progress.total, 'copy is', 'copies are')} to move"


def _stuck(picture: Picture, what: str, idle_s: float, progress: Progress | None) -> Finding:
    plan = picture.seen.plan
    assert plan is not None
    advice, command = start(picture, picture.names_out())
    return Finding(
        kind="plan_stuck",
        severity=Severity.DEGRADED,
        subject="cluster",
        what=f"the plan has not moved for {span(idle_s)}: {what}",
        evidence="; ".join(plan.waiting),
        means=f"{_go_on(picture)}what was to move stays where it is",
        doing="the leader goes on as soon as it can",
        advice=advice or "see what it waits for",
        command=command or "ringkeep plan",
        since=picture.seen.now - idle_s,
        progress=progress,
        shard_count=len(picture.moving),
        shards=named(picture.moving),
    )


def _idle_s(picture: Picture) -> float:
    seen = picture.seen
    last = max((move.at for move in seen.moves if move.copies or move.primaries), default=0.0)
    begun = seen.plan.since if seen.plan is not None else seen.now
    return seen.now - max(last, begun)


def copies_of(picture: Picture) -> str:
    """Return how many copies a shard should have: "3 copies"."""
    return many(picture.wanted_copies, "copy", "copies")


def _or(numbers: Sequence[int]) -> str:
    return str(numbers[0]) if len(numbers) == 1 else f"{numbers[0]} to {numbers[-1]}"


def _numbers(shards: Sequence[int]) -> str:
    if len(shards) > NUMBERS_TOLD_MAX:
        return ""
    return f"{'shard' if len(shards) == 1 else 'shards'} {ranges(shards)}; "
