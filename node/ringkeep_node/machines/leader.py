"""What the Raft leader decides: who takes over from the dead, and where primaries belong.

    facts (map, Raft role, everybody's views) --> verdicts --> tick --> changes to propose, or to whom leadership goes

    1. the leader itself is slow or its disk hangs   hand leadership over
    2. dead or stalled members                       failovers and shrinks of all their shards in one entry
    3. a shard below need whose others reach it      the odd one out loses the primary
    4. whatever the plan lacks (``planning``)        learners, hand-overs, removals: first those of members that leave

Every change is a compare-and-set that the map's rules judge again, so a decision made on an old map is harmless and a
lost one is made again. Each purpose has one entry under way. A new leader knows nothing but the map and what it sees:
it inherits no plan, no timer and no proposal.

Source: replication.md rules 3 and 5, "The leader alone plans", "Members, failure, recovery"; counterexamples.md
L1-L3, L9.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from msgspec import Struct
from msgspec.structs import replace

from ringkeep_core.mapchanges import Boot, MapChange, ShardChanges
from ringkeep_core.placement.swaps import ShardLoad
from ringkeep_core.shardmap import ShardMap
from ringkeep_node.machines.absences import Absences
from ringkeep_node.machines.electorate import Ballot, Handover, Patience, Reconfigure, electors_of, next_step
from ringkeep_node.machines.failovers import (
    Chooser,
    Standing,
    below_need,
    needed_changes,
    others_reach_need,
    without_the_odd_one,
)
from ringkeep_node.machines.flapping import FlappingGuard
from ringkeep_node.machines.plan_progress import PlanProgress
from ringkeep_node.machines.planning import HandOver, Planner, PlanningSettings
from ringkeep_node.machines.purposes import Purpose
from ringkeep_node.machines.verdicts import MemberFacts, Verdict, judge

LAG_HOLDS_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaderSettings:
    """Times in seconds and bounds of the leader's decisions; the defaults are the design's."""

    odd_one_out_s: float = 2.0
    """How long a shard is below need, while its others would reach it, before its primary moves to one of them."""
    lag_s: float = 0.2
    """Own loop lag above this, for ``lag_for_s``, makes the leader hand over."""
    lag_for_s: float = 2.0
    guard_s: float = 30.0
    """How long a member lives after a death before it gets primaries back; doubled by each death in ``window_s``."""
    guard_max_s: float = 600.0
    window_s: float = 3600.0
    retry_s: float = 0.5
    """Until an entry that did not show in the map is proposed again; doubled up to ``retry_max_s``."""
    retry_max_s: float = 4.0
    failover_shards_max: int = 2048
    """Shards in one failover entry: about 300 KB."""
    lost_after_s: float = 3.0
    """A new leader calls nobody lost before it has led for so long: what it saw last may be older than the others' word."""
    plan_after_s: float = 0.02
    """The plan goes on so long after a failover was proposed."""
    planning: PlanningSettings = field(default_factory=PlanningSettings)


class TransferLeadership(Struct, frozen=True):
    """Hand Raft leadership to the voter ``to``."""

    to: str
    reason: str


class StepDown(Struct, frozen=True):
    """Give Raft leadership up: this node cannot do its work, and nobody to name can take it over."""

    reason: str


LeaderOrder = MapChange | TransferLeadership | StepDown | HandOver | Reconfigure


class Explanation(Struct, frozen=True, kw_only=True):
    """Why things are as they are, for status: as this node sees it, whether it leads or not.

    ``unavailable`` are shards that nobody alive can lead, ``below_need`` those that take no writes, ``guarded`` members
    and until when they get no primaries, ``under_way`` what was proposed and has not shown in the map, ``plan`` how far the
    plan is if there is anything to move, ``in_grace`` who is out, and until when its copies are kept.
    """

    leads: bool
    verdicts: tuple[Verdict, ...] = ()
    stalled: tuple[str, ...] = ()
    unavailable: tuple[int, ...] = ()
    below_need: tuple[int, ...] = ()
    guarded: tuple[tuple[str, float], ...] = ()
    under_way: tuple[str, ...] = ()
    plan: PlanProgress | None = None
    in_grace: tuple[tuple[str, float], ...] = ()


class Leader:
    """The leader's decisions on one node; silent while the node does not lead."""

    def __init__(self, *, me: str, settings: LeaderSettings, now: float) -> None:
        self._me, self._settings = me, settings
        self._map: ShardMap | None = None
        self._leads = False
        self._voters: tuple[str, ...] = ()
        self._ballot: Ballot | None = None
        self._facts: dict[str, MemberFacts] = {}
        self._verdicts: dict[str, Verdict] = {}
        self._guard = FlappingGuard(
            guard_s=settings.guard_s, guard_max_s=settings.guard_max_s, window_s=settings.window_s
        )
        self._failover = self._purpose("failover")
        self._odd_one = self._purpose("odd one out")
        self._planner = Planner(settings.planning)
        self._odd_from: dict[int, float] = {}
        self._absences = Absences()
        self._patience = Patience()
        self._leads_from = now
        self._lag_due: float | None = None
        self._lag_ends = now
        self._hand_over_due = self._vote_due = now
        self._hand_overs = self._vote_tries = 0
        self._unavailable: tuple[int, ...] = ()
        self._due: float | None = None

    def _purpose(self, name: str) -> Purpose:
        return Purpose(name, retry_s=self._settings.retry_s, retry_max_s=self._settings.retry_max_s)

    # --- inputs --------------------------------------------------------------------------------------------------

    def facts(
        self,
        *,
        shard_map: ShardMap,
        leads: bool,
        voters: Sequence[str],
        members: Iterable[MemberFacts],
        ballot: Ballot | None = None,
        now: float,
    ) -> None:
        """Take everything known now, in full; ``tick`` afterwards. Feed every node, whether it leads or not.

        Args:
            shard_map: the applied map of the leader, the held one elsewhere.
            leads: whether Raft says that this node leads and has committed in its own term.
            voters: storage ids of the Raft voters.
            members: one item for each member, this node too.
            ballot: the Raft group on the node that leads it; None leaves the group as it is.
        """
        # Gossip remembers for a while who was replaced or has left; what they said last concerns nobody any more.
        facts = {
            fact.storage: fact for fact in members if fact.storage in shard_map.members or fact.storage == self._me
        }
        facts = self._absences.believed(facts, now=now)
        same_role = (leads, tuple(voters)) == (self._leads, self._voters)
        same_group, self._ballot = ballot == self._ballot, ballot
        if shard_map is self._map and same_role and same_group and facts == self._facts:
            return
        if leads and not self._leads:
            self._start_afresh(now)
        self._map, self._leads, self._voters, self._facts = shard_map, leads, tuple(voters), facts
        self._guard.watch(facts.values(), now=now)
        self._planner.watch(shard_map, [it.storage for it in facts.values() if it.dead or it.leaving], now)
        registered = {storage: member.boot_counter for storage, member in shard_map.members.items()}
        self._verdicts = judge(self._me, registered=registered, voters=self._voters, facts=facts)
        dead = {storage for storage, verdict in self._verdicts.items() if verdict.dead}
        self._absences.watch(registered, dead, facts, me=self._me, now=now)
        self._due = now

    def lagged(self, lag_s: float, *, now: float) -> None:
        """Take one measurement of this node's own loop lag; it holds for a second."""
        if lag_s <= self._settings.lag_s:
            self._lag_due = None
            return
        if self._lag_due is None or now >= self._lag_ends:
            self._lag_due = now + self._settings.lag_for_s
        self._lag_ends = now + LAG_HOLDS_S
        if self._leads:
            self._wake(self._lag_due)

    def learn_sizes(self, sizes: Mapping[int, int]) -> None:
        """Take the bytes of shards, as their primaries tell; a plan counts 0 for the others."""
        self._planner.sizes = sizes

    def learn_loads(self, loads: Mapping[int, ShardLoad], *, now: float) -> None:
        """Take what shards cost; used only if the wanted state asks for load-aware swaps."""
        first = not self._planner.hot_spots.loads
        self._planner.hot_spots.loads = loads
        if first and self._leads:
            self._wake(now)

    @property
    def hot_spot_swaps(self) -> int:
        """How many swaps of a heavy for a light shard this node has ordered as leader, since it started."""
        return self._planner.hot_spots.made

    def _start_afresh(self, now: float) -> None:
        for purpose in (self._failover, self._odd_one):
            purpose.forget()
        self._planner.start_afresh()
        self._odd_from = {}
        self._leads_from = now
        self._hand_over_due = self._vote_due = now
        self._hand_overs = self._vote_tries = 0

    # --- outputs -------------------------------------------------------------------------------------------------

    def next_deadline(self) -> float | None:
        """When ``tick`` has something to do; None while this node does not lead."""
        return self._due if self._leads else None

    def tick(self, *, now: float) -> tuple[LeaderOrder, ...]:
        """Return what to propose or to do now."""
        shard_map = self._map
        if shard_map is None or not self._leads or self._due is None or now < self._due:
            return ()
        self._due = None
        standing = self._standing(shard_map, now)
        hand_over = self._hand_over(standing, now)
        if hand_over is not None:
            return (hand_over,)
        urgent = [*self._fail_over(shard_map, standing, now), *self._depose_odd_ones(shard_map, standing, now)]
        elected = self._elect(shard_map, standing, now)
        if urgent:
            # A new target for many shards takes a while to compute: whoever waits for a failover does not wait for it.
            self._wake(now + self._settings.plan_after_s)
            return (*urgent, *elected)
        # A transfer refuses every proposal while it lasts: what the plan wants goes first.
        return (*self._plan(shard_map, standing, now), *elected)

    def complete_boot(self, boot: Boot) -> Boot:
        """Return the boot with ``live`` filled in: who may take over what the booting node led."""
        if self._map is None:
            return boot
        dead = {storage for storage, verdict in self._verdicts.items() if verdict.dead}
        live = tuple(
            storage
            for storage in sorted(self._map.members)
            if storage in (*self._facts, self._me)
            and storage not in dead
            and storage != boot.storage
            and not self._is_out(storage)
        )
        return replace(boot, live=live)

    def _is_out(self, storage: str) -> bool:
        fact = self._facts.get(storage)
        return fact is not None and (fact.stalled or fact.leaving or (fact.dead and storage != self._me))

    def explain(self, *, now: float) -> Explanation:
        """Return why things are as they are."""
        shard_map = self._map
        if shard_map is None:
            return Explanation(leads=False)
        grace_s = shard_map.wanted.settings.grace_s
        since = self._absences.out_since
        grace = [(storage, at + grace_s) for storage, at in since.items() if now < at + grace_s]
        guarded = ((storage, self._guard.guarded_until(storage, now=now)) for storage in sorted(self._facts))
        return Explanation(
            leads=self._leads,
            verdicts=tuple(self._verdicts[storage] for storage in sorted(self._verdicts)),
            stalled=tuple(sorted(storage for storage, fact in self._facts.items() if fact.stalled)),
            unavailable=self._unavailable if self._leads else (),
            below_need=tuple(below_need(shard_map)),
            guarded=tuple((storage, until) for storage, until in guarded if until is not None),
            under_way=tuple(
                f"{purpose.name} of {len(purpose.revisions)} shards"
                for purpose in (self._failover, self._odd_one, *self._planner.under_way())
                if self._leads and purpose.revisions
            ),
            plan=self._planner.explain(shard_map, now=now) if self._leads else None,
            in_grace=tuple(grace) if self._leads else (),
        )

    # --- decisions -----------------------------------------------------------------------------------------------

    def _wake(self, at: float) -> None:
        if self._due is None or at < self._due:
            self._due = at

    def _standing(self, shard_map: ShardMap, now: float) -> Standing:
        dead = {storage for storage, verdict in self._verdicts.items() if verdict.dead}
        # What the dead said last raises no doubts: they cannot take it back.
        accused = {it for it, verdict in self._verdicts.items() if any(by not in dead for by in verdict.accusers)}
        lost = self._lost(shard_map, now)
        doubt = self._absences.next_doubt(now=now)
        if doubt is not None:
            self._wake(doubt)
        guarded = set()
        for storage in shard_map.members:
            until = self._guard.guarded_until(storage, now=now)
            if until is not None:
                guarded.add(storage)
                self._wake(until)
        facts = self._facts.items()
        return Standing(
            known=frozenset(self._facts) | {self._me},
            dead=frozenset(dead),
            stalled=frozenset(storage for storage, fact in self._facts.items() if fact.stalled),
            doubtful=frozenset(
                storage
                for storage, fact in self._facts.items()
                if storage != self._me and (fact.dead or fact.suspect or storage in accused)
            ),
            guarded=frozenset(guarded),
            leaving=frozenset(storage for storage, fact in facts if fact.leaving and storage not in dead),
            left=frozenset(storage for storage, fact in facts if fact.left and storage in dead and storage not in lost),
            lost=frozenset(lost),
        )

    def _lost(self, shard_map: ShardMap, now: float) -> set[str]:
        """Return who has been out for longer than the grace: dead, never heard of, or its disk hanging all the time."""
        grace_s, led = shard_map.wanted.settings.grace_s, self._leads_from + self._settings.lost_after_s
        lost = set()
        for storage, since in self._absences.out_since.items():
            at = max(since + grace_s, led) if since < self._leads_from else since + grace_s
            if now >= at:
                lost.add(storage)
            else:
                self._wake(at)
        return lost

    def _hand_over(self, standing: Standing, now: float) -> TransferLeadership | StepDown | None:
        """A leader that cannot sync, or whose loop is late all the time, is the one who should go (L2, L3)."""
        stalled = self._me in standing.stalled
        if not stalled and not self._is_slow(now):
            self._hand_overs = 0
            return None
        reason = "the leader's disk hangs" if stalled else "the leader's event loop is slow"
        if now < self._hand_over_due:
            self._wake(self._hand_over_due)
            return None
        self._hand_over_due = now + self._settings.retry_max_s / 4
        self._wake(self._hand_over_due)
        heirs = self._heirs(standing)
        to = heirs[self._hand_overs % len(heirs)] if heirs else None
        self._hand_overs += 1
        if to is not None:
            return TransferLeadership(to, reason)
        return StepDown(reason) if stalled and len(self._voters) > 1 else None

    def _elect(self, shard_map: ShardMap, standing: Standing, now: float) -> list[Reconfigure | TransferLeadership]:
        """The next step towards the voters that the members call for."""
        if self._ballot is None:
            return []
        hung = self._patience.lost_with(self._ballot, now=now)
        if self._patience.due is not None:
            self._wake(self._patience.due)
        electors = electors_of(shard_map, standing, hung)
        step = next_step(electors, self._ballot.configuration, leader=self._me, level=self._ballot.level)
        if step is None:
            return []
        self._wake(now + self._settings.retry_s)  # Raft takes no step while the last one is not committed.
        if isinstance(step, Handover):
            return self._give_up_the_vote(step, standing, now)
        return [Reconfigure(step)]

    def _give_up_the_vote(
        self, step: Handover, standing: Standing, now: float
    ) -> list[Reconfigure | TransferLeadership]:
        """Hand leadership to a healthy heir, another one at each try, and leave time for proposals between two tries."""
        heirs = [storage for storage in self._heirs(standing) if storage in step.heirs]
        if not heirs or now < self._vote_due:
            return []
        self._vote_due = now + self._settings.retry_max_s
        to = heirs[self._vote_tries % len(heirs)]
        self._vote_tries += 1
        return [TransferLeadership(to, "the leader is to vote no longer")]

    def _is_slow(self, now: float) -> bool:
        if self._lag_due is None or now >= self._lag_ends:
            return False
        if now < self._lag_due:
            self._wake(self._lag_due)
            return False
        return True

    def successor(self) -> str | None:
        """Return the voter that should lead Raft if this node stops, or None if nobody is fit."""
        if self._map is None:
            return None
        dead = {storage for storage, verdict in self._verdicts.items() if verdict.dead}
        facts = self._facts
        fit = [
            it for it in self._heirs_among(facts) if it not in dead and not facts[it].suspect and not self._is_out(it)
        ]
        return fit[0] if fit else None

    def _heirs(self, standing: Standing) -> list[str]:
        """Return the healthy voters that can take leadership over."""
        return [
            storage
            for storage in self._heirs_among(self._facts)
            if standing.can_lead(storage) and storage not in standing.doubtful
        ]

    def _heirs_among(self, facts: Mapping[str, MemberFacts]) -> list[str]:
        """Return the other voters without lag, the one that has run longest first: it saw who led what before.

        One whose present boot the map does not name yet comes last: it has run for no time at all.
        """
        assert self._map is not None
        members = self._map.members
        fit = [
            storage
            for storage in self._voters
            if storage != self._me
            and storage in members
            and storage in facts
            and facts[storage].lag_s <= self._settings.lag_s
        ]
        return sorted(fit, key=lambda it: (facts[it].counter > members[it].boot_counter, members[it].since, it))

    def _fail_over(self, shard_map: ShardMap, standing: Standing, now: float) -> list[ShardChanges]:
        """All shards of everybody dead or stalled, in one entry."""
        if self._failover.is_under_way(shard_map, now):
            self._wake(self._failover.due)
            return []
        needed = list(needed_changes(shard_map, standing))
        self._unavailable = tuple(it for it in needed if isinstance(it, int))
        changes = [it for it in needed if not isinstance(it, int)][: self._settings.failover_shards_max]
        if not changes:
            return []
        entry = self._failover.propose(changes, self._why(shard_map, standing), now)
        self._wake(self._failover.due)
        return [entry]

    def _why(self, shard_map: ShardMap, standing: Standing) -> str:
        """Return in words who is out and why, for the events that people read."""
        names = {storage: member.name for storage, member in shard_map.members.items()}
        left = [f"{names[storage]} left for a restart" for storage in sorted(standing.left) if storage in names]
        dead = [
            f"{names[storage]} is dead, say {', '.join(names.get(by, by) for by in self._verdicts[storage].accusers)}"
            for storage in sorted(standing.dead - standing.left)
            if storage in names
        ]
        hang = [f"the disk of {names[storage]} hangs" for storage in sorted(standing.stalled) if storage in names]
        return "; ".join([*left, *dead, *hang])

    def _depose_odd_ones(self, shard_map: ShardMap, standing: Standing, now: float) -> list[ShardChanges]:
        """A primary that cannot reach the others, who reach each other, is replaced by one of them (L1)."""
        out = standing.dead | standing.stalled
        short = [
            number
            for number in below_need(shard_map)
            if shard_map.shards[number].primary.storage not in out
            and others_reach_need(shard_map.shards[number], standing)
        ]
        ends = now + self._settings.odd_one_out_s
        self._odd_from = {number: self._odd_from.get(number, ends) for number in short}
        due = [number for number in short if now >= self._odd_from[number]]
        for number in short:
            if number not in due:
                self._wake(self._odd_from[number])
        if not due:
            return []
        if not self._odd_one.is_under_way(shard_map, now):
            due = due[: self._settings.failover_shards_max]
            changes = without_the_odd_one(shard_map, due, standing, Chooser(shard_map, standing))
            entry = self._odd_one.propose(changes, "the primary cannot reach the others, who reach each other", now)
            self._wake(self._odd_one.due)
            return [entry]
        self._wake(self._odd_one.due)
        return []

    def _plan(self, shard_map: ShardMap, standing: Standing, now: float) -> list[ShardChanges | HandOver]:
        """What the plan lacks next, beside the shards that a failover is about to change."""
        blocked = {number for it in (self._failover, self._odd_one) for number in it.unsettled(shard_map, now)}
        blocked.update(self._odd_from)
        orders = self._planner.next_orders(shard_map, standing, blocked=blocked, now=now)
        if self._planner.due is not None:
            self._wake(self._planner.due)
        return orders
