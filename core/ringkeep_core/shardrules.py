"""The rules of one shard: may this change be applied, and what is the shard then?

Every rule is judged against the shard as it is when the entry is applied, never as its proposer saw it. A change is a
compare-and-set on ``revision``; it yields either the next shard (revision + 1) or a ``Refusal``, nothing in between.

    in_sync --Shrink--> learners (and eligible, while in_sync is short of need) --Grow, by the primary--> in_sync
    in_sync, eligible, learners --Unfit--> learners, as another copy
    in_sync (while enough remain), learners --RemoveCopy--> nothing
    Failover: in_sync = the live of in_sync + eligible, a new epoch      Move: another of in_sync leads, a new epoch

Source: replication.md rules 3, 4, 5; counterexamples.md S2, S3, S6; KIP-497, KIP-903.
"""

from __future__ import annotations

from msgspec import Struct

from ringkeep_core.mapentries import (
    AddLearner,
    Failover,
    Grow,
    Move,
    RemoveCopy,
    ShardChange,
    Shrink,
    Touch,
    Unfit,
)
from ringkeep_core.shardmap import Copy, Member, Primary, Shard, Wanted


class Refusal(Struct, frozen=True):
    """Why a part of an entry changed nothing. ``code`` is stable, ``detail`` is for people."""

    code: str
    detail: str = ""


class Ground(Struct, frozen=True):
    """What the rules of a shard may look at besides the shard: the map the entry is applied to, and its version."""

    members: dict[str, Member]
    wanted: Wanted
    need_wanted: int
    copies_wanted: int
    version: int


def next_shard(
    shard: Shard,
    *,
    in_sync: tuple[Copy, ...],
    eligible: tuple[Copy, ...],
    learners: tuple[Copy, ...],
    leads: Primary | None = None,
    need: int | None = None,
) -> Shard:
    """Return the shard after one change: revision + 1, and epoch + 1 if ``leads`` says who leads from now on.

    Here alone ``eligible`` is emptied: once in_sync can commit without the eligible copies, they stop being complete.
    """
    need = shard.need if need is None else need
    return Shard(
        epoch=shard.epoch if leads is None else shard.epoch + 1,
        revision=shard.revision + 1,
        primary=shard.primary if leads is None else leads,
        in_sync=in_sync,
        eligible=() if len(in_sync) >= need else eligible,
        learners=learners,
        need=need,
    )


def led_by(shard: Shard, leads: Primary) -> Shard:
    """Return the shard in a new epoch under ``leads``, its sets unchanged."""
    return next_shard(shard, in_sync=shard.in_sync, eligible=shard.eligible, learners=shard.learners, leads=leads)


def with_need(shard: Shard, need: int) -> Shard:
    """Return the shard with another need, its sets otherwise unchanged."""
    return next_shard(shard, in_sync=shard.in_sync, eligible=shard.eligible, learners=shard.learners, need=need)


def without(copies: tuple[Copy, ...], storage: str) -> tuple[Copy, ...]:
    """Return the copies of everybody else."""
    return tuple(copy for copy in copies if copy.storage != storage)


def is_leaving(wanted: Wanted, name: str) -> bool:
    """Return whether the wanted state gives ``name`` no place: it is draining, or not listed."""
    want = wanted.members.get(name)
    return want is None or want.draining


def changed_shard(ground: Ground, shard: Shard, change: ShardChange) -> Shard | Refusal:
    """Return ``shard`` after ``change``, or why the change does not apply."""
    if change.revision != shard.revision:
        return Refusal("stale_revision", f"the shard is at revision {shard.revision}, not {change.revision}")
    match change:
        case Shrink():
            return _shrunk(shard, change)
        case Grow():
            return _grown(ground, shard, change)
        case Failover():
            return _failed_over(ground, shard, change)
        case Move():
            return _moved(ground, shard, change)
        case AddLearner():
            return _with_learner(ground, shard, change)
        case RemoveCopy():
            return _without_copy(ground, shard, change)
        case Unfit():
            return _without_unfit(ground, shard, change)
        case Touch():
            return next_shard(shard, in_sync=shard.in_sync, eligible=shard.eligible, learners=shard.learners)


def _shrunk(shard: Shard, change: Shrink) -> Shard | Refusal:
    """Rule 3. The primary stays, so a set never becomes empty; whoever is removed stays a learner."""
    if shard.primary.storage in change.storages:
        return Refusal("is_primary", "the primary leaves in_sync only by a failover")
    removed = tuple(copy for copy in shard.in_sync if copy.storage in change.storages)
    if not removed or len(removed) != len(set(change.storages)):
        return Refusal("not_in_sync", "only members of in_sync can be removed from it")
    return next_shard(
        shard,
        in_sync=tuple(copy for copy in shard.in_sync if copy.storage not in change.storages),
        eligible=shard.eligible + removed,
        learners=shard.learners + removed,
    )


def _grown(ground: Ground, shard: Shard, change: Grow) -> Shard | Refusal:
    """Rule 4. Only the primary knows that the learner has everything, and only in its boot and this epoch."""
    if change.epoch != shard.epoch or change.primary_boot != shard.primary.boot:
        return Refusal("not_primary", f"epoch {shard.epoch} belongs to boot {shard.primary.boot}")
    copy = Copy(change.storage, change.added)
    if copy not in shard.learners:
        return Refusal("not_learner", f"{change.storage} holds no learner copy added at {change.added}")
    member = ground.members.get(change.storage)
    if member is None or member.boot != change.boot:
        return Refusal("wrong_boot", f"{change.storage} is not registered in boot {change.boot}")
    # A shard that is short of need takes no write: a copy that is there and goes later helps it now. It must be given up
    # before its node can leave all the same.
    is_needed = len(shard.in_sync) < shard.need and member.name in ground.wanted.members
    if is_leaving(ground.wanted, member.name) and not is_needed:
        return Refusal("draining", f"{member.name} is draining or not wanted")
    in_sync = (*shard.in_sync, copy)
    return next_shard(
        shard,
        in_sync=in_sync,
        eligible=without(shard.eligible, change.storage),
        learners=without(shard.learners, change.storage),
        # Need rises with the copy that meets it: raised for all shards at once it would stop all writes.
        need=ground.need_wanted if shard.need < ground.need_wanted <= len(in_sync) else shard.need,
    )


def _failed_over(ground: Ground, shard: Shard, change: Failover) -> Shard | Refusal:
    """Rule 5. All of in_sync + eligible are complete; the live ones of them carry the new epoch."""
    complete = shard.in_sync + shard.eligible
    if not any(copy.storage == change.to for copy in complete):
        return Refusal("not_complete", f"{change.to} is neither in_sync nor eligible")
    if change.to not in change.live:
        return Refusal("not_live", f"{change.to} is not among the live")
    in_sync = tuple(copy for copy in complete if copy.storage in change.live)
    others = tuple(copy for copy in complete if copy.storage not in change.live)
    return next_shard(
        shard,
        in_sync=in_sync,
        eligible=others,
        learners=_united(tuple(copy for copy in shard.learners if copy not in in_sync), others),
        leads=Primary(change.to, ground.members[change.to].boot),
    )


def _moved(ground: Ground, shard: Shard, change: Move) -> Shard | Refusal:
    if change.to == shard.primary.storage:
        return Refusal("is_primary", f"{change.to} leads the shard already")
    if not shard.is_in_sync(change.to):
        return Refusal("not_in_sync", f"{change.to} is not in in_sync")
    return led_by(shard, Primary(change.to, ground.members[change.to].boot))


def _with_learner(ground: Ground, shard: Shard, change: AddLearner) -> Shard | Refusal:
    member = ground.members.get(change.storage)
    if member is None:
        return Refusal("unknown_member", f"{change.storage} is not registered")
    if shard.copy_of(change.storage) is not None:
        return Refusal("already_held", f"{member.name} holds a copy already")
    if is_leaving(ground.wanted, member.name) or ground.wanted.members[member.name].weight <= 0:
        return Refusal("draining", f"{member.name} is draining, not wanted or of weight 0")
    learners = (*shard.learners, Copy(change.storage, ground.version))
    return next_shard(shard, in_sync=shard.in_sync, eligible=shard.eligible, learners=learners)


def _without_copy(ground: Ground, shard: Shard, change: RemoveCopy) -> Shard | Refusal:
    """Rule 3, Handoff. A plan gives up a complete copy only when as many as are wanted remain without it."""
    copy = Copy(change.storage, change.added)
    if copy not in shard.in_sync and copy not in shard.learners:
        return Refusal("not_held", f"{change.storage} holds no copy added at {change.added}")
    if copy in shard.eligible:
        return Refusal("is_complete", f"{change.storage} is eligible: it may be the copy that is needed")
    if change.storage == shard.primary.storage:
        return Refusal("is_primary", "the primary is handed over before its copy is given up")
    in_sync = without(shard.in_sync, change.storage)
    enough = max(shard.need, ground.copies_wanted)
    if copy in shard.in_sync and len(in_sync) < enough:
        return Refusal("too_few_copies", f"{len(in_sync)} in-sync copies would remain of {enough}")
    return next_shard(shard, in_sync=in_sync, eligible=shard.eligible, learners=without(shard.learners, change.storage))


def _without_unfit(ground: Ground, shard: Shard, change: Unfit) -> Shard | Refusal:
    """Rule 3. The copy leaves every set before anything of it is discarded, and starts anew under another identity."""
    if shard.copy_of(change.storage) != Copy(change.storage, change.added):
        return Refusal("not_held", f"{change.storage} holds no copy added at {change.added}")
    in_sync, eligible = without(shard.in_sync, change.storage), without(shard.eligible, change.storage)
    if not in_sync and not eligible:
        return Refusal("last_copy", "the copy is the only complete one, so it stays listed")
    heirs = in_sync or eligible
    leads = None
    if change.storage == shard.primary.storage:
        leads = Primary(heirs[0].storage, ground.members[heirs[0].storage].boot)
    return departed(shard, change.storage, leads=leads, instead=Copy(change.storage, ground.version))


def departed(shard: Shard, storage: str, *, leads: Primary | None, instead: Copy | None) -> Shard:
    """Return the shard after ``storage`` gave up its copy for good; ``instead`` is the empty learner that follows it.

    If it was the whole in_sync, the eligible copies, complete as they are, take its place.
    """
    in_sync = without(shard.in_sync, storage)
    eligible = without(shard.eligible, storage)
    learners = without(shard.learners, storage)
    if not in_sync:
        in_sync, eligible = eligible, ()
        learners = tuple(copy for copy in learners if copy not in in_sync)
    if instead is not None:
        learners = (*learners, instead)
    return next_shard(shard, in_sync=in_sync, eligible=eligible, learners=learners, leads=leads)


def _united(first: tuple[Copy, ...], second: tuple[Copy, ...]) -> tuple[Copy, ...]:
    return first + tuple(copy for copy in second if copy not in first)
