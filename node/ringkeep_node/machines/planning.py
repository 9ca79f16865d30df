"""The leader carries the plan out: from the map there is to the target, the next safe changes after every map change.

    wanted state, who lives --target (kept while they are the same)--> goals
    map, goals --shard by shard, only those that changed--> work --> learners to add | hand-overs | copies to remove

Nothing is remembered that the map does not say, so the next leader goes on in the middle of a plan, and a wanted state
that changes in mid-flight reuses finished copies and learners. A finished cluster costs a few comparisons a call.
Failovers come first: shards with a change under way are left alone, all others go on.

Source: replication.md, "The leader alone plans", "Handoff" and rule 3; placement.md step 8; counterexamples.md L5, L6, L10.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from msgspec import Struct

from ringkeep_core.mapchanges import AddLearner, Move, RemoveCopy, ShardChange, ShardChanges
from ringkeep_core.placement import Candidate, NodeState, ShardCopies, Target, target
from ringkeep_core.placement.hashes import shard_hash
from ringkeep_core.plans import NodeFacts, candidates_of, copies_of, placement_settings
from ringkeep_core.shardmap import Shard, ShardMap
from ringkeep_node.machines.failovers import Standing, is_quiet
from ringkeep_node.machines.hot_spots import LOOK_S, HotSpots, with_swaps
from ringkeep_node.machines.plan_progress import BALANCE, PlanProgress, copies_left, drain_wait_of, reason_of, waits_of
from ringkeep_node.machines.purposes import PairPurpose, Purpose
from ringkeep_node.machines.relief import Homes, Relief
from ringkeep_node.machines.shard_work import Goal, Work, work_of
from ringkeep_node.machines.streams import Streams


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanningSettings:
    """Bounds of what is under way at a time; the limits of streams are in the wanted state."""

    hand_over_shards_max: int = 8
    """Shards in one order, at most 16: more would stop their new primary's loop for too long (L6). With 8 and two orders
    side by side the pause was a third of that with 16 and four, on two cores."""
    hand_overs_max: int = 2
    """Orders under way in the cluster; one for each pair of members, one for each new primary."""
    hand_over_rest_s: float = 0.1
    """Between two orders for one pair, if nobody is being relieved."""
    hand_over_settle_s: float = 0.05
    """Since the last change of a shard, until its primary holds the map that made it and can obey an order."""
    hand_over_retry_s: float = 0.25
    learners_max: int = 256
    """Learners added by one entry."""
    removals_max: int = 64
    """Copies removed by one entry."""
    moving_rest_s: float = 1.0
    """Between two rounds of orders while copies are on their way: each is an entry that requests meet."""
    retry_s: float = 1.5
    """Until learners and removals are proposed again: longer than they may be held for others (``gathering``)."""
    retry_max_s: float = 5.0


class HandOver(Struct, frozen=True):
    """Have ``source``, the present primary of these shards, let them drain and propose that they move."""

    source: str
    moves: tuple[Move, ...]
    reason: str


class _Wish(Struct, frozen=True):
    """A primary that should move."""

    shard: int
    source: str
    to: str
    relieves: bool
    reason: str


class Planner:
    """See the module. ``due`` is when ``next_orders`` has something to do although nothing changed, or None."""

    def __init__(self, settings: PlanningSettings) -> None:
        self._settings = settings
        self._homes = Homes()
        self.hot_spots = HotSpots()
        self._learners = self._purpose("learners")
        self._removals = self._purpose("removals")
        self._orders_rest_until = -math.inf
        self._pairs: dict[tuple[str, str], PairPurpose] = {}
        self._key: object = None
        self._candidates: list[Candidate] = []
        self._basis: tuple[object, ...] = ()
        self._target: Target | None = None
        self._goals: tuple[Goal, ...] = ()
        self._places: list[int] = []
        self._seen: tuple[Shard, ...] = ()
        self._settles: dict[int, float] = {}
        self._works: dict[int, Work] = {}
        self._reason = ""
        self._began: float | None = None
        self._swaps = False
        self._copies_wanted = 0
        self.sizes: Mapping[int, int] = {}
        """Bytes of each shard where known; 0 elsewhere."""
        self.due: float | None = None

    def _purpose(self, name: str) -> Purpose:
        return Purpose(name, retry_s=self._settings.retry_s, retry_max_s=self._settings.retry_max_s)

    def start_afresh(self) -> None:
        """Forget what a former term of this leader had under way, and make the target anew."""
        self._learners.forget()
        self._removals.forget()
        self.hot_spots.start_afresh()
        self._pairs = {}
        self._key, self._basis = None, ()
        self._works, self._settles = {}, {}
        self._began = None

    def watch(self, shard_map: ShardMap, out: Collection[str], now: float) -> None:
        """Note which primaries moved because their node went ``out``. For every node, whether it leads or not."""
        self._homes.watch(shard_map, out, now)

    def under_way(self) -> list[Purpose]:
        """Return what was asked for and has not shown in the map."""
        return [it for it in (self._learners, self._removals, *self._pairs.values()) if it.revisions]

    # --- the next changes ----------------------------------------------------------------------------------------

    def next_orders(
        self, shard_map: ShardMap, standing: Standing, *, blocked: Collection[int], now: float
    ) -> list[ShardChanges | HandOver]:
        """Return what to propose and to order now.

        Args:
            shard_map: the applied map.
            standing: who lives, who is leaving, who is dead for longer than the grace.
            blocked: shards with a failover under way.
            now: monotonic seconds.
        """
        self.due = None
        self._refresh(shard_map, standing, now)
        if not self._works:
            self._look_for_hot_spots(shard_map, standing, now)
        if not self._works and not standing.leaving and not self.under_way():
            return []
        busy = set(blocked)
        for purpose in (self._learners, self._removals, *self._pairs.values()):
            if purpose.is_under_way(shard_map, now):
                busy.update(purpose.unsettled(shard_map, now))
        orders: list[ShardChanges | HandOver] = []
        for step in (self._hand_over, self._add_learners, self._remove_copies):
            done = step(shard_map, standing, busy, now)
            orders += done
            for order in done:
                busy.update(it.shard for it in (order.moves if isinstance(order, HandOver) else order.changes))
        return orders

    def _wake(self, at: float) -> None:
        if self.due is None or at < self.due:
            self.due = at

    def _free(self, purpose: Purpose, shard_map: ShardMap, now: float) -> bool:
        if purpose.is_under_way(shard_map, now):
            self._wake(purpose.due)
            return False
        return True

    def _add_learners(
        self, shard_map: ShardMap, standing: Standing, busy: Collection[int], now: float
    ) -> list[ShardChanges]:
        free = self._free(self._learners, shard_map, now)
        balances = self._balances(shard_map, standing)
        waiting = [
            work
            for work in self._works.values()
            if work.lacks and work.shard not in busy and not work.is_out and not (work.moves_first and balances)
        ]
        if not free or not waiting:
            return []
        waiting.sort(key=lambda work: work.urgency)
        streams = Streams(self._works.values(), self.sizes, placement_settings(shard_map.wanted))
        chosen = streams.choose(waiting, shards_max=self._settings.learners_max)
        return self._entry(
            self._learners,
            [AddLearner(work.shard, shard_map.shards[work.shard].revision, node) for work, node in chosen],
            now,
        )

    def _remove_copies(
        self, shard_map: ShardMap, standing: Standing, busy: Collection[int], now: float
    ) -> list[ShardChanges]:
        del standing
        if not self._free(self._removals, shard_map, now):
            return []
        removals: list[RemoveCopy] = []
        for work in self._works.values():
            if len(removals) >= self._settings.removals_max:
                break
            if work.surplus and work.shard not in busy:
                copy, revision = work.surplus[0], shard_map.shards[work.shard].revision
                removals.append(RemoveCopy(work.shard, revision, copy.storage, copy.added))
        return self._entry(self._removals, removals, now)

    def _entry(self, purpose: Purpose, changes: Sequence[ShardChange], now: float) -> list[ShardChanges]:
        if not changes:
            return []
        entry = purpose.propose(changes, self._reason, now)
        self._wake(purpose.due)
        return [entry]

    # --- primaries -----------------------------------------------------------------------------------------------

    def _balances(self, shard_map: ShardMap, standing: Standing) -> bool:
        """Primaries move for balance only when all is quiet, and not while a node restarts: it gets its own back."""
        return not standing.leaving and not standing.left and is_quiet(shard_map, standing)

    def _hand_over(self, shard_map: ShardMap, standing: Standing, busy: Collection[int], now: float) -> list[HandOver]:
        under_way = {key: it for key, it in self._pairs.items() if it.revisions and not self._free(it, shard_map, now)}
        by_pair: dict[tuple[str, str], list[_Wish]] = {}
        for wish in self._wishes(shard_map, standing, self._unsettled(now).union(busy), under_way):
            by_pair.setdefault((wish.source, wish.to), []).append(wish)
        orders = []
        for key, wishes in sorted(by_pair.items(), key=self._turn):
            if key in under_way or not self._has_room(under_way, wishes[0]):
                continue
            pair = self._pairs.setdefault(
                key, PairPurpose(*key, retry_s=self._settings.hand_over_retry_s, retry_max_s=self._settings.retry_max_s)
            )
            rests_until = pair.rests_until if wishes[0].relieves else max(pair.rests_until, self._orders_rest_until)
            if now < rests_until:
                self._wake(rests_until)
                continue
            orders.append(self._order(pair, wishes, shard_map, now))
            under_way[key] = pair
        if not by_pair and not under_way:
            self._pairs = {}
        if orders and any(work.streams for work in self._works.values()):
            self._orders_rest_until = now + self._settings.moving_rest_s
        return orders

    def _turn(self, pair: tuple[tuple[str, str], Sequence[_Wish]]) -> tuple[bool, float]:
        """Relief first; among equals whoever has waited longest, so that one that does not obey starves nobody."""
        key, wishes = pair
        before = self._pairs.get(key)
        return not wishes[0].relieves, before.ordered_at if before is not None else -math.inf

    def _unsettled(self, now: float) -> set[int]:
        """Return the shards that changed just now: an order that is ahead of its primary's map would be lost."""
        self._settles = {number: until for number, until in self._settles.items() if now < until}
        if self._settles:
            self._wake(min(self._settles.values()))
        return set(self._settles)

    def _has_room(self, under_way: Mapping[tuple[str, str], PairPurpose], wish: _Wish) -> bool:
        """A new primary takes one order at a time; the present one gives two away, or all if it is leaving."""
        sources = [source for source, _ in under_way]
        return (
            sum(not pair.is_failing for pair in under_way.values()) < self._settings.hand_overs_max
            and all(to != wish.to for _, to in under_way)
            and (wish.relieves or sources.count(wish.source) < 2)
        )

    def _order(self, pair: PairPurpose, wishes: Sequence[_Wish], shard_map: ShardMap, now: float) -> HandOver:
        chosen = wishes[: self._settings.hand_over_shards_max]
        moves = tuple([Move(wish.shard, shard_map.shards[wish.shard].revision, wish.to) for wish in chosen])
        settings = self._settings
        pair.order(moves, now, settings.hand_over_settle_s if chosen[0].relieves else settings.hand_over_rest_s)
        self._wake(pair.due)
        return HandOver(pair.source, moves, chosen[0].reason)

    def _wishes(
        self,
        shard_map: ShardMap,
        standing: Standing,
        busy: Collection[int],
        under_way: Mapping[tuple[str, str], PairPurpose],
    ) -> Iterable[_Wish]:
        """Yield who should hand what over to whom: relief first, then who must not lead, then balance."""
        names = {storage: member.name for storage, member in shard_map.members.items()}
        if standing.leaving:
            coming: dict[str, int] = {}
            for (_, to), pair in under_way.items():
                coming[to] = coming.get(to, 0) + len(pair.revisions)
            for number, to in Relief(shard_map, standing, self._homes.homes, coming).moves(busy):
                source = shard_map.shards[number].primary.storage
                yield _Wish(number, source, to, True, f"{names[source]} is leaving: its primaries go first")
        ready = [
            work
            for work in self._works.values()
            if work.to is not None and work.shard not in busy and work.primary not in standing.leaving
        ]
        balances = any(not work.forced for work in ready) and self._balances(shard_map, standing)
        for forced in (True, False):
            for work in ready:
                if work.forced is forced and (forced or balances) and work.to is not None:
                    yield _Wish(work.shard, work.primary, work.to, False, self._reason)

    # --- the target ----------------------------------------------------------------------------------------------

    def _refresh(self, shard_map: ShardMap, standing: Standing, now: float) -> None:
        """Bring the works up to date: all of them if anything but shards changed, else those of the changed shards."""
        basis = (shard_map.members, shard_map.wanted, standing)
        is_same = len(basis) == len(self._basis) and all(
            new is old or (new == old and new is standing) for new, old in zip(basis, self._basis, strict=True)
        )
        if not is_same or len(self._seen) != len(shard_map.shards):
            self._basis = basis
            self._retarget(shard_map, standing)
            self._seen, self._works = (), {}
        elif self._seen is shard_map.shards:
            return
        self._look(shard_map, standing, now)
        self._seen = shard_map.shards
        self._keep_count(standing, now)

    def _look(self, shard_map: ShardMap, standing: Standing, now: float) -> None:
        settled_at = now + self._settings.hand_over_settle_s
        seen, goals, places, works = self._seen, self._goals, self._places, self._works
        copies_wanted = shard_map.copies_wanted()
        for number, shard in enumerate(shard_map.shards):
            if seen and seen[number] is shard:
                continue
            work = work_of(number, shard, goals[number], standing, copies_wanted=copies_wanted, place=places[number])
            if seen:
                self._settles[number] = settled_at
            if work is not None:
                works[number] = work
            else:
                works.pop(number, None)

    def _retarget(self, shard_map: ShardMap, standing: Standing) -> None:
        """Make the target anew if anything changed that it depends on, beside the shards themselves."""
        facts = {member.name: _facts_of(storage, standing) for storage, member in shard_map.members.items()}
        candidates = candidates_of(shard_map, shard_map.wanted, facts)
        storages = {member.name: storage for storage, member in shard_map.members.items()}
        key = (shard_map.generation, shard_map.wanted.revision, candidates, storages, len(shard_map.shards))
        if key == self._key:
            return
        self._key = key
        shards = self._as_if_at_home(shard_map, standing)
        self._candidates = candidates
        self._aim_at(target(shards, candidates, placement_settings(shard_map.wanted)), storages)
        if len(self._places) != len(shards):
            order = sorted(range(len(shards)), key=shard_hash)
            self._places = sorted(range(len(order)), key=order.__getitem__)
        assert self._target is not None, "it was made just now"
        self._reason = reason_of(shards, candidates, self._target, shard_map.wanted.settings.grace_s)
        self._swaps = False

    def _aim_at(self, made: Target, storages: Mapping[str, str]) -> None:
        self._target = made
        self._goals = tuple(
            [
                Goal(
                    tuple([storages[name] for name in shard.copies]),
                    storages[shard.primary] if shard.primary is not None else None,
                )
                for shard in made.shards
            ]
        )

    def _look_for_hot_spots(self, shard_map: ShardMap, standing: Standing, now: float) -> None:
        """When nothing is left to do, see whether heavy shards should change places with light ones."""
        wanted, hot_spots = shard_map.wanted.settings, self.hot_spots
        look_at = hot_spots.next_look(wanted, shard_map.shards, now)
        if look_at is None or self._target is None:
            return
        if now < look_at:
            self._wake(look_at)
            return
        hot_spots.put_off(now)
        self._wake(now + LOOK_S)
        if not self._balances(shard_map, standing):
            return
        swaps = hot_spots.swaps(self._target, copies_of(shard_map), self._candidates, wanted, self.sizes, now)
        if swaps:
            made, self._reason = with_swaps(self._target, swaps)
            self._aim_at(made, {member.name: storage for storage, member in shard_map.members.items()})
            self._swaps, self._seen = True, ()
            self._look(shard_map, standing, now)
            self._seen = shard_map.shards
            self._keep_count(standing, now)

    def _as_if_at_home(self, shard_map: ShardMap, standing: Standing) -> Sequence[ShardCopies]:
        """Return the shards with primaries taken as back where they were, where that node can lead again."""
        shards = list(copies_of(shard_map))
        for number, home in sorted(self._homes.homes.items()):
            member = shard_map.members.get(home)
            able = member is not None and standing.takes(home) and home not in standing.guarded
            if member is not None and able and shard_map.shards[number].copy_of(home) is not None:
                shards[number] = dataclasses.replace(shards[number], primary=member.name)
        return shards

    def _keep_count(self, standing: Standing, now: float) -> None:
        """Note when a plan begins and ends; copies moved are those wanted at its begin less those still missing."""
        left = copies_left(self._works.values())
        if not self._works:
            self._began = None
            if self._swaps:
                self._swaps, self._reason = False, BALANCE
            # A guarded member leads nothing yet, so it is not at home yet.
            self._homes.forget([it for it in standing.known if standing.takes(it) and it not in standing.guarded])
        elif self._began is None:
            self._began, self._copies_wanted = now, left
        else:
            self._copies_wanted = max(self._copies_wanted, left)

    # --- for people ----------------------------------------------------------------------------------------------

    def explain(self, shard_map: ShardMap, *, now: float) -> PlanProgress | None:
        """Return how far the plan is, or None if there is nothing to do."""
        if self._began is None or self._target is None or not self._works:
            return None
        names = {storage: member.name for storage, member in shard_map.members.items()}
        works = self._works.values()
        streams = Streams(works, self.sizes, placement_settings(shard_map.wanted)).shards
        return PlanProgress(
            reason=self._reason,
            wanted_revision=shard_map.wanted.revision,
            target_digest=self._target.digest,
            copies_wanted=self._copies_wanted,
            copies_moved=max(0, self._copies_wanted - copies_left(works)),
            primaries_to_move=sum(1 for work in works if work.to is not None),
            copies_to_remove=sum(len(work.surplus) + work.kept for work in works),
            streams=tuple((names.get(a, a), names.get(b, b), count) for (a, b), count in streams.items()),
            waits=(*drain_wait_of(works, self._candidates, shard_map.copies_wanted()), *waits_of(works)),
            seconds=now - self._began,
        )


def _facts_of(storage: str, standing: Standing) -> NodeFacts:
    if storage in standing.lost:
        return NodeFacts(NodeState.DEAD)
    able = standing.can_lead(storage)
    may_lead = able and storage not in standing.guarded and storage not in standing.leaving
    return NodeFacts(NodeState.ALIVE if able else NodeState.DEAD_IN_GRACE, may_lead=may_lead)
