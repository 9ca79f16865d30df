"""Who votes: the next single step from the Raft configuration there is to the one the members call for.

    member --chosen--> learner --level with the log--> voter --no longer chosen--> out
                                                        leader not chosen: hands leadership over first

As many vote as the number of members says (1, 2, 3, 3, then 5), spread over zones, whoever votes already before anybody
else. One step at a time: the Raft core refuses a second one while the first is not committed, and every step leaves a
configuration whose living voters are a majority of it, so that no step can stop the group. What a leader killed midway
had done is seen in the configuration itself; its successor goes on from there.

Source: replication.md, "Raft group" (voters, replacement) and "Leave"; Ongaro's thesis 4.1 and 4.2.2.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from msgspec import Struct

from ringkeep_core.electorate import voters_wanted
from ringkeep_core.shardmap import ShardMap
from ringkeep_core.shardrules import is_leaving
from ringkeep_node.machines.failovers import Standing
from ringkeep_node.machines.raft.membership import majority
from ringkeep_node.machines.raft.messages import Configuration


class Elector(Struct, frozen=True):
    """A registered member as a candidate for a vote.

    ``lives``: nobody's verdict is against it. ``stays``: it is wanted, not draining, and not dead for longer than the
    grace. ``carries``: it has weight; pure gateways vote only where too few others are there.
    """

    storage: str
    name: str
    zone: str = ""
    lives: bool = True
    stays: bool = True
    carries: bool = True


class Handover(Struct, frozen=True):
    """Leadership goes to one of ``heirs``, voters that stay and live, before the leader's own vote goes."""

    heirs: tuple[str, ...]


class Reconfigure(Struct, frozen=True):
    """Have Raft take the next step of its configuration; it refuses while the last one is not committed."""

    configuration: Configuration


class Ballot(Struct, frozen=True):
    """What Raft says of its group on this leader: the configuration, and which learners' logs have nearly everything."""

    configuration: Configuration
    level: tuple[str, ...] = ()


class Patience:
    """Gives up on learners that do not become level, for a while: a candidate that hangs must not hold everybody up.

    ``due`` is when the next one is given up on, or tried again.
    """

    LEVEL_S = 15.0
    """A learner has so long to get nearly all of the log: a snapshot of the map is a few MiB."""
    REST_S = 60.0

    def __init__(self) -> None:
        self._since: dict[str, float] = {}
        self._rests_until: dict[str, float] = {}
        self.due: float | None = None

    def lost_with(self, ballot: Ballot, *, now: float) -> frozenset[str]:
        """Return with whom patience is lost at present."""
        waiting = [it for it in ballot.configuration.learners if it not in ballot.level]
        self._since = {storage: self._since.get(storage, now) for storage in waiting}
        self._rests_until = {storage: until for storage, until in self._rests_until.items() if now < until}
        for storage, since in self._since.items():
            if now >= since + self.LEVEL_S:
                self._rests_until.setdefault(storage, now + self.REST_S)
        ends = [since + self.LEVEL_S for it, since in self._since.items() if it not in self._rests_until]
        self.due = min([*ends, *self._rests_until.values()], default=None)
        return frozenset(self._rests_until)


def electors_of(shard_map: ShardMap, standing: Standing, hung: Collection[str] = ()) -> list[Elector]:
    """Return every registered member as a candidate; who is about to stop counts as dead for what is decided now.

    So does a disk that hangs, for it acknowledges nothing, and whoever is ``hung`` as a learner.
    """
    electors = []
    for storage, member in shard_map.members.items():
        want = shard_map.wanted.members.get(member.name)
        electors.append(
            Elector(
                storage,
                member.name,
                zone=(want.zone if want is not None else "") or member.zone,
                lives=standing.can_lead(storage) and storage not in standing.leaving and storage not in hung,
                stays=not is_leaving(shard_map.wanted, member.name) and storage not in standing.lost,
                carries=want is not None and want.weight > 0,
            )
        )
    return electors


def chosen(
    electors: Sequence[Elector], configuration: Configuration, wanted: Callable[[int], int] = voters_wanted
) -> tuple[str, ...]:
    """Return the storage ids that should vote, by name.

    Args:
        electors: all registered members.
        configuration: who votes now: they come first, then learners, then whoever lives.
        wanted: how many of so many members vote.
    """
    staying = [elector for elector in electors if elector.stays]
    carrying = [elector for elector in staying if elector.carries]
    voters, learners = set(configuration.voters), set(configuration.learners)
    able = [elector for elector in carrying or staying if elector.lives or elector.storage in voters]
    able.sort(key=lambda it: (it.storage not in voters, it.storage not in learners, it.name))
    count = min(wanted(len(carrying or staying)), len(able))
    cap = _zone_cap(able, count)
    taken: list[Elector] = []
    per_zone: dict[str, int] = {}
    for elector in able:
        if len(taken) < count and per_zone.get(elector.zone, 0) < cap:
            taken.append(elector)
            per_zone[elector.zone] = per_zone.get(elector.zone, 0) + 1
    return tuple(elector.storage for elector in sorted(taken, key=lambda it: it.name))


def _zone_cap(able: Sequence[Elector], count: int) -> int:
    """Return the smallest bound per zone under which ``count`` voters can still be found."""
    sizes: dict[str, int] = {}
    for elector in able:
        sizes[elector.zone] = sizes.get(elector.zone, 0) + 1
    cap = 1
    while sum(min(size, cap) for size in sizes.values()) < count:
        cap += 1
    return cap


def next_step(
    electors: Sequence[Elector],
    configuration: Configuration,
    *,
    leader: str,
    level: Collection[str],
    wanted: Callable[[int], int] = voters_wanted,
) -> Configuration | Handover | None:
    """Return the next change of the configuration, to whom leadership goes first, or None if nothing can be done now.

    Args:
        electors: all registered members; a voter that is not among them has left or lost its disk.
        leader: the storage id of this leader.
        level: learners whose log has nearly everything.
    """
    target = chosen(electors, configuration, wanted)
    if not target:
        return None
    living = {elector.storage for elector in electors if elector.lives}
    voters, learners = configuration.voters, configuration.learners
    missing = tuple(storage for storage in target if storage not in voters)
    if set(learners) != set(missing):
        return Configuration(voters, missing)
    for storage in missing:
        grown = (*voters, storage)
        if storage in living and storage in level and _can_decide(grown, living):
            return Configuration(grown, tuple(learner for learner in learners if learner != storage))
    if missing:
        return None
    return _without_surplus(configuration, target, living, leader)


def _without_surplus(
    configuration: Configuration, target: tuple[str, ...], living: set[str], leader: str
) -> Configuration | Handover | None:
    surplus = [voter for voter in configuration.voters if voter not in target]
    # The dead first: what remains has the greater share of living voters. The leader itself goes last.
    for storage in sorted(surplus, key=lambda it: (it == leader, it in living, it)):
        rest = tuple(voter for voter in configuration.voters if voter != storage)
        if not _can_decide(rest, living):
            continue
        if storage == leader:
            heirs = tuple(voter for voter in target if voter in living)
            return Handover(heirs) if heirs else None
        return Configuration(rest, configuration.learners)
    return None


def _can_decide(voters: tuple[str, ...], living: set[str]) -> bool:
    return sum(voter in living for voter in voters) >= majority(voters)
