"""Decide which members are alive, and spread what each says about itself.

    datagram, hint, registered  -> what was heard changes the roster; answers and news go out
    tick                        -> probes, verdicts, calls to lost addresses, gossip

A step returns all it wants sent and everything that changed. Every public method that changes anything may move
``next_deadline``; the driver asks for it again after each call, and calls ``tick`` then or later. Late ticks are safe:
a gap of our own loop gives every running wait as much more time (at most 3 s), voids our probes, and makes us refute
before we judge anybody; what queued up meanwhile is best handed over before ``tick``.

Sources: Das, Gupta, Motivala, "SWIM"; Dadgar, Phillips, Currey, "Lifeguard"; replication.md, "Members, failure,
recovery".
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from msgspec import Struct
from msgspec.structs import replace

from ringkeep_core.errors import BadFrame
from ringkeep_node.machines.gossip_state import Delta, GossipState
from ringkeep_node.machines.swim.comparison import Comparison
from ringkeep_node.machines.swim.mailbox import Mailbox
from ringkeep_node.machines.swim.members import (
    HARD,
    Address,
    Evidence,
    Member,
    MemberChanged,
    MemberIdentity,
    MemberState,
    MemberView,
    RegisteredMember,
    Testimony,
)
from ringkeep_node.machines.swim.messages import (
    VERSION,
    Kind,
    Myself,
    OpenSeal,
    Packet,
    Seal,
    Update,
    decode,
    identity_in,
    update_about,
)
from ringkeep_node.machines.swim.probing import RELAYS_MAX, Calls, Probe, ProbeRing, Relay, shuffled
from ringkeep_node.machines.swim.roster import Lesson, Roster
from ringkeep_node.machines.swim.suspicion import LocalHealth
from ringkeep_node.machines.swim.timing import SwimSettings

DEAD_KEY = "swim.dead"
"""Gossip state: the storage ids a node holds to be dead, comma separated; how others read its verdicts."""

DEAD_LISTED_MAX = 30
LAG_VALID_S = 1.0
NUDGE_INTERVAL_S = 0.2
VALUES_INTERVAL_S = 0.05
LEAVE_INTERVAL_S = 0.1
LEAVE_REPEATS = 3


class SwimStep(Struct, frozen=True):
    """What one call wants sent, in order, and what it changed."""

    send: tuple[tuple[Address, bytes], ...] = ()
    changes: tuple[MemberChanged, ...] = ()
    state_changed: tuple[tuple[str, str, bytes], ...] = ()


NOTHING = SwimStep()


class Swim:
    """The membership machine of one node, in one boot, in one cluster."""

    def __init__(
        self,
        *,
        me: MemberIdentity,
        cluster_id: str,
        settings: SwimSettings,
        seeds: Sequence[Address],
        draw: Callable[[], float],
        now: float,
        seal: Seal | None = None,
    ) -> None:
        seal = OpenSeal() if seal is None else seal
        self._cluster = cluster_id
        self._settings = settings
        self._draw = draw
        self._seal = seal
        self._me = Myself(me)
        self._roster = Roster(me, settings)
        self._values = GossipState(owner=me.storage, counter=me.counter)
        self._mailbox = Mailbox(
            cluster_id=cluster_id, me=self._me, roster=self._roster, settings=settings, seal=seal, draw=draw
        )
        self._comparison = Comparison(
            me=self._me, roster=self._roster, values=self._values, mailbox=self._mailbox, settings=settings
        )
        self._health = LocalHealth(settings.health_max)
        self._ring = ProbeRing(draw)
        self._turn = False
        self._probes: dict[int, Probe] = {}
        self._relays: dict[int, Relay] = {}
        self._number = 0
        self._seeds = tuple(seeds)
        self._permanent: tuple[Address, ...] = ()
        self._calls = Calls(settings, draw)
        self._calls_stale = False
        self._values_sent = 0
        self._values_at = now
        self._leaves_left = 0
        self._leave_at = now
        self._started_at = now
        self._probe_at = now + settings.probe_interval_s * draw()
        self._gossip_at = now
        self._forget_at = now + settings.forget_s
        self._lag_at: float | None = None
        self._resumed = False
        self._state_changed: list[tuple[str, str, bytes]] = []
        self._calls.want(self._lost_addresses(), now)
        self.refutes = 0
        """How often we had to contradict an accusation."""
        self.refused = dict.fromkeys(
            ("oversized", "version", "malformed", "cluster", "left", "name", "boot", "self", "members"), 0
        )
        """Datagrams and updates that were not taken, by reason."""
        self.probes_failed = 0
        """Probes that got no answer, neither directly nor through helpers."""
        self.superseded = False
        """Another process speaks for our storage id with a higher boot counter: this one should end."""

    # What the driver asks

    @property
    def identity(self) -> MemberIdentity:
        """Who we are now, with the present incarnation."""
        return self._me.identity

    @property
    def syncs(self) -> int:
        """How often we began a comparison with somebody."""
        return self._comparison.started

    @property
    def health_score(self) -> int:
        """How little we trust our own ears: 0 is best."""
        return self._health.score

    def members_at(self, now: float) -> Mapping[str, MemberView]:
        """Return everybody by storage id, ourselves first; death times are those of the hour before ``now``."""
        mine = Member(self._me.identity, state=self._me.state, now=self._started_at)
        mine.lag_s = self._me.lag_s
        remember_s = self._settings.forget_s
        return {one.storage: one.view(now, remember_s=remember_s) for one in (mine, *self._roster.members.values())}

    @property
    def members(self) -> Mapping[str, MemberView]:
        """Everybody by storage id, ourselves first."""
        return self.members_at(self._probe_at)

    def storages(self) -> tuple[str, ...]:
        """Return the storage ids of everybody, ourselves first: for who needs no more of ``members``."""
        return (self._me.storage, *self._roster.members)

    def values(self, storage: str) -> Mapping[str, bytes]:
        """Return the gossip state of a member (ours too); empty for a stranger."""
        return self._values.values(storage)

    def dead_reports(self, storage: str) -> tuple[str, ...]:
        """Return who holds ``storage`` to be dead: the storage ids of live members, sorted, ours among them."""
        needle = storage.encode()
        live = [self._me.storage] + [m.storage for m in self._roster.members.values() if m.state <= MemberState.SUSPECT]
        return tuple(sorted(one for one in live if needle in self._values.values(one).get(DEAD_KEY, b"").split(b",")))

    def next_deadline(self) -> float:
        """Return when ``tick`` has something to do next. May lie in the past, never far in the future."""
        if self._resumed:
            return self._lag_at if self._lag_at is not None else self._probe_at
        due = min(self._probe_at, self._forget_at)
        for relay in self._relays.values():
            due = min(due, relay.due_at)
        if self._gossip_at < due and self._mailbox.outbox and not self._mailbox.tells_everybody():
            due = self._gossip_at
        if self._values_at < due and self._values_pending():
            due = self._values_at
        if self._leaves_left and self._leave_at < due:
            due = self._leave_at
        return due if self._me.leaving else self._judgement(due)

    def _judgement(self, due: float) -> float:
        """Return when we judge or call next, at most ``due``: what a node that leaves does no more."""
        for probe in self._probes.values():
            due = min(due, probe.due_at)
        for suspect in self._roster.suspects.values():
            due = min(due, self._verdict_at(suspect))
        call_at = self._calls.next_at()
        return due if call_at is None else min(due, call_at)

    # Facts

    def datagram(self, data: bytes, source: Address, *, now: float) -> SwimStep:
        """Take one datagram from anybody. Never raises; what is not ours is counted in ``refused`` and dropped."""
        packet = self._opened(data)
        if packet is None or not self._admits(packet):
            return self._finish(now)
        sender = self._hear_sender(packet, now)
        for update in packet.updates:
            self._hear_news(update, soft=packet.kind is Kind.ANSWER, now=now)
        for delta in packet.deltas:
            self._hear_values(delta)
        if sender is not None:
            self._answer(packet, sender, source, now)
            if packet.kind in (Kind.PING, Kind.ACK) and sender.state is not MemberState.LEFT and not self._me.leaving:
                self._comparison.meet(sender, packet.digest, now)
            if packet.kind is not Kind.PING:
                self._nudge(sender, now)
        return self._finish(now)

    def hint(self, storage: str, evidence: Evidence, *, now: float) -> SwimStep:
        """Take what the peer connection to a member's current boot showed.

        ``REFUSED``, ``RESET`` and ``UNREACHABLE`` accuse. ``CONNECTED`` (only after the peer itself has answered: the
        kernel of a stopped process accepts connections too) is a sign of life.
        """
        member = self._roster.members.get(storage)
        if member is None or self._me.leaving:
            return self._finish(now)
        if evidence is Evidence.CONNECTED:
            self._hear_connected(member, now)
        elif evidence in HARD and member.state <= MemberState.SUSPECT:
            self._accuse(member, evidence, now)
            self._probe(member, now)
        return self._finish(now)

    def lagged(self, lag_s: float, *, now: float) -> None:
        """Take one measurement of our own loop's lag (each stall once). Call it before ``tick``; it holds for a second."""
        self._me.lag_s, self._lag_at = max(0.0, lag_s), now
        if lag_s <= self._settings.lag_s:
            return
        slack_s = min(lag_s, self._settings.slack_max_s)
        for probe in self._probes.values():
            probe.postpone(slack_s)
        for member in self._roster.suspects.values():
            if member.suspicion is not None:
                member.suspicion.lagged(lag_s, members=self._roster.alive_count, now=now)
        if lag_s >= self._settings.resume_s:
            self._probes.clear()
            self._resumed = True

    def set_permanent(self, peers: Sequence[Address], *, now: float) -> None:
        """Replace the addresses (voters, DNS) that are called for ever while nobody alive has them; seeds stay."""
        del now
        self._permanent = tuple(peers)[: self._settings.addresses_max]
        self._calls_stale = True

    def registered(self, members: Sequence[RegisteredMember], *, now: float) -> SwimStep:
        """Take what the committed shard map says about all its members, those who left included."""
        for member in self._roster.register(members, now):
            self._comparison.outdate()
            self._restart_values(member)
            self._ring.add(member.storage)
        self._comparison.outdate()
        self._calls_stale = True
        return self._finish(now)

    def set_state(self, key: str, value: bytes, *, now: float) -> None:
        """Write one of our own gossip values; it leaves with the next step (``next_deadline`` moves).

        Raises:
            ValueError: It does not fit (gossip_state.py has the limits): a bug of the caller. Nothing was changed.
        """
        del now
        if self._values.set(key, value):
            self._comparison.outdate()

    def leave(self, *, now: float) -> SwimStep:
        """Say that we leave, a few times; from then on we accuse nobody."""
        if not self._me.leaving:
            self._me.leaving = True
            self._me.incarnation += 1
            self._comparison.outdate()
            self._probes.clear()
            self._leaves_left, self._leave_at = LEAVE_REPEATS, now + LEAVE_INTERVAL_S
            self._mailbox.tell(self._me.update(Evidence.LEAVING), spread=True)
        return self._finish(now)

    def tick(self, *, now: float) -> SwimStep:
        """Do what is due. Late calls are safe, early ones do nothing."""
        self._notice_gap(now)
        if self._resumed:
            self._resumed = False
            self._refute()
        self._judge_relays(now)
        if not self._me.leaving:
            self._judge_probes(now)
            self._judge_suspects(now)
            self._probe_next(now)
            self._call(now)
        elif now >= self._probe_at:
            self._probe_at = now + self._settings.probe_interval_s
        self._repeat_leave(now)
        self._gossip(now)
        self._forget(now)
        return self._finish(now)

    # Hearing

    def _opened(self, data: bytes) -> Packet | None:
        if len(data) > self._settings.datagram_bytes_max:
            self.refused["oversized"] += 1
        elif len(data) > 1 and data[0] != VERSION:
            self.refused["version"] += 1
        else:
            try:
                return decode(data, self._seal)
            except BadFrame:
                self.refused["malformed"] += 1
        return None

    def _admits(self, packet: Packet) -> bool:
        if packet.cluster != self._cluster:
            self.refused["cluster"] += 1
            return False
        if packet.storage == self._me.storage:
            if packet.boot != self._me.boot:
                self.refused["self"] += 1
                self.superseded = self.superseded or packet.counter > self._me.counter
            return False
        return self._accepts(identity_in(packet))

    def _accepts(self, identity: MemberIdentity) -> bool:
        reason = self._roster.refusal(identity)
        if reason is not None:
            self.refused[reason] += 1
        return reason is None

    def _hear_sender(self, packet: Packet, now: float) -> Member | None:
        news = update_about(identity_in(packet), state=MemberState.ALIVE, by=packet.storage, why=Evidence.REFUTED)
        member = self._roster.members.get(packet.storage)
        if member is None or news.key > (member.counter, member.incarnation):
            known_boot = member is not None and member.counter == packet.counter
            self._learn(replace(news, why=_why_alive(member, packet)), soft=False, spread=not known_boot, now=now)
            member = self._roster.members.get(packet.storage)
        if member is not None and packet.counter == member.counter:
            member.heard_at = now
            member.lag_s = packet.lag_ms / 1000
        return member

    def _hear_news(self, update: Update, *, soft: bool, now: float) -> None:
        if update.storage == self._me.storage:
            self._hear_about_me(update)
        elif self._accepts(identity_in(update)):
            self._learn(update, soft=soft, spread=soft, now=now)

    def _learn(self, update: Update, *, soft: bool, spread: bool, now: float) -> None:
        before = self._roster.members.get(update.storage)
        counter = None if before is None else before.counter
        lesson = self._roster.learn(update, soft=soft, slack_s=self._slack_s(now), now=now)
        member = self._roster.members.get(update.storage)
        if member is None or lesson is Lesson.KNOWN:
            return
        if lesson is Lesson.DOUBTED:
            self._send_gossip(member, (update,))
            return
        self._comparison.outdate()
        self._calls_stale = True
        self._mailbox.tell(update, spread=spread)
        if counter != member.counter:
            self._restart_values(member)
        if counter is None:
            self._ring.add(member.storage)
            self._mailbox.tell(self._me.update(Evidence.JOINED), spread=True)
        if member.state is MemberState.SUSPECT and self._mailbox.tells_everybody():
            self._probe(member, now)
        if member.state is MemberState.DEAD or (before is not None and update.state is MemberState.ALIVE):
            self._list_dead()

    def _hear_about_me(self, update: Update) -> None:
        if update.counter > self._me.counter:
            self.superseded = True
        if update.counter != self._me.counter or update.boot != self._me.boot or self._me.leaving:
            return
        if update.state is not MemberState.ALIVE and update.incarnation >= self._me.incarnation:
            self._me.incarnation = update.incarnation
            self.refutes += 1
            self._health.change(1)
            self._refute()

    def _hear_values(self, delta: Delta) -> None:
        member = self._roster.members.get(delta.owner)
        if member is None or member.state is MemberState.LEFT or delta.counter != member.counter:
            return
        changed = self._values.apply(delta)
        self._comparison.outdate()
        self._state_changed.extend((delta.owner, key, value) for key, value in changed)

    def _hear_connected(self, member: Member, now: float) -> None:
        member.connected_at = now
        if member.suspicion is not None:
            member.suspicion.withdraw(self._me.storage, members=self._roster.alive_count, now=now)
            member.witness(Testimony(by=self._me.storage, at=now, why=Evidence.CONNECTED))
            self._probe(member, now)
        elif member.state is MemberState.DEAD:
            self._send_gossip(member, self._roster.doubts(member))

    def _answer(self, packet: Packet, sender: Member, source: Address, now: float) -> None:
        match packet.kind:
            case Kind.PING:
                self._mailbox.post(
                    source,
                    Kind.ACK,
                    self._roster.doubts(sender),
                    number=packet.number,
                    digest=self._comparison.digest(),
                )
            case Kind.ACK:
                self._hear_ack(packet)
            case Kind.NACK:
                probe = self._probes.get(packet.number)
                if probe is not None:
                    probe.nacks += 1
            case Kind.PING_REQUEST:
                self._relay(packet, source, now)
            case Kind.SYNC:
                self._comparison.answer_rows(packet, source)
            case Kind.ANSWER:
                self._comparison.answer_wants(packet.wants, source)
            case Kind.GOSSIP:
                pass

    def _hear_ack(self, packet: Packet) -> None:
        answered = packet.target or packet.storage
        probe = self._probes.get(packet.number)
        if probe is not None and probe.target == answered:
            del self._probes[packet.number]
            self._health.change(-1)
        relay = self._relays.get(packet.number)
        if relay is not None and relay.target == packet.storage:
            del self._relays[packet.number]
            digest = self._comparison.digest()
            self._mailbox.post(relay.asker, Kind.ACK, number=relay.number, digest=digest, target=relay.target)

    # Probing

    def _probe_next(self, now: float) -> None:
        if now < self._probe_at:
            return
        self._probe_at = now + self._interval_s()
        members = self._roster.members
        candidates = {storage: None for storage, one in members.items() if one.state <= MemberState.SUSPECT}
        self._turn = not self._turn
        target = self._longest_silent(candidates) if self._turn else None
        target = target or self._ring.next(candidates)
        if target is not None:
            self._probe(members[target], now)

    def _longest_silent(self, candidates: Iterable[str]) -> str | None:
        """Return who said nothing for longest. Every second probe goes this way.

        What members send anyway tells who is worth a question; the ring still reaches those who speak but do not hear.
        """
        spoken = ((self._roster.members[storage].heard_at or 0.0, storage) for storage in candidates)
        return min(spoken, default=(0.0, None))[1]

    def _probe(self, member: Member, now: float) -> None:
        """Ask a member, unless it is asked already. A suspect is told of the suspicion (Lifeguard's buddy rule)."""
        if self._me.leaving or any(probe.target == member.storage for probe in self._probes.values()):
            return
        probe = Probe(
            number=self._next_number(),
            target=member.storage,
            now=now,
            helpers_s=self._settings.probe_timeout_s,
            fails_s=self._interval_s(),
            lag_s=self._slack_s(now),
        )
        self._probes[probe.number] = probe
        self._ping(member.address, self._roster.doubts(member), number=probe.number, target=member.storage)

    def _ping(self, to: Address, doubts: tuple[Update, ...], *, number: int, target: str = "") -> None:
        self._mailbox.post(to, Kind.PING, doubts, number=number, digest=self._comparison.digest(), target=target)

    def _judge_probes(self, now: float) -> None:
        for probe in [probe for probe in self._probes.values() if now >= probe.due_at]:
            member = self._roster.members.get(probe.target)
            if member is None or member.state > MemberState.SUSPECT:
                del self._probes[probe.number]
            elif now >= probe.fails_at:
                del self._probes[probe.number]
                self._probe_failed(probe, member, now)
            else:
                probe.helpers_at = None
                self._ask_helpers(probe, member)

    def _ask_helpers(self, probe: Probe, member: Member) -> None:
        others = [
            other.storage
            for other in self._roster.members.values()
            if other.state is MemberState.ALIVE and other is not member
        ]
        helpers = shuffled(others, self._draw)[: self._settings.helpers]
        probe.asked = len(helpers)
        for helper in helpers:
            self._mailbox.post(
                self._roster.members[helper].address,
                Kind.PING_REQUEST,
                number=probe.number,
                target=member.storage,
                target_address=member.address,
            )

    def _probe_failed(self, probe: Probe, member: Member, now: float) -> None:
        self.probes_failed += 1
        # Helpers that said nothing at all are a sign that it is us who hear badly (Lifeguard, LHA-Probe).
        self._health.change(max(0, probe.asked - probe.nacks) if probe.asked else 1)
        if member.connected_at is None or member.connected_at < probe.sent_at:
            self._accuse(member, Evidence.SILENT, now)

    def _relay(self, packet: Packet, source: Address, now: float) -> None:
        if len(self._relays) >= RELAYS_MAX or self._me.leaving or not packet.target_host:
            return
        number = self._next_number()
        self._relays[number] = Relay(
            asker=source,
            number=packet.number,
            target=packet.target,
            nack_at=now + self._settings.nack_after_s,
            ends_at=now + self._settings.heard_s,
        )
        member = self._roster.members.get(packet.target)
        doubts = () if member is None else self._roster.doubts(member)
        address = (packet.target_host, packet.target_port) if member is None else member.address
        self._ping(address, doubts, number=number, target=packet.target)

    def _judge_relays(self, now: float) -> None:
        for number, relay in [(number, relay) for number, relay in self._relays.items() if now >= relay.due_at]:
            if now >= relay.ends_at:
                del self._relays[number]
            if relay.nack_at is not None:
                relay.nack_at = None
                self._mailbox.post(relay.asker, Kind.NACK, number=relay.number, target=relay.target)

    def _call(self, now: float) -> None:
        """Ping the addresses that must not be given up and that nobody alive has."""
        if self._calls_stale:
            self._calls_stale = False
            self._calls.want(self._lost_addresses(), now)
        for address in self._calls.due(now):
            members = self._roster.members.values()
            dead = next((one for one in members if one.state is MemberState.DEAD and one.address == address), None)
            doubts = () if dead is None else self._roster.doubts(dead)
            self._ping(address, doubts, number=self._next_number())

    def _lost_addresses(self) -> list[Address]:
        lost = dict.fromkeys((*self._seeds, *self._permanent, *self._roster.lost_addresses()))
        members = self._roster.members.values()
        found = {one.address for one in members if one.state <= MemberState.SUSPECT} | {self._me.address}
        return [address for address in lost if address not in found]

    # Judging

    def _accuse(self, member: Member, why: Evidence, now: float) -> None:
        told = Testimony(by=self._me.storage, at=now, why=why)
        if self._roster.accuse(member, told, slack_s=self._slack_s(now), now=now):
            self._comparison.outdate()
            self._mailbox.tell(
                update_about(member, state=MemberState.SUSPECT, by=self._me.storage, why=why), spread=True
            )

    def _judge_suspects(self, now: float) -> None:
        # A verdict makes the cluster smaller, and with it the confirmations that the next one waits for.
        while (member := self._overdue_suspect(now)) is not None:
            self._roster.kill(member, Testimony(by=self._me.storage, at=now, why=Evidence.EXPIRED), now)
            self._comparison.outdate()
            self._calls_stale = True
            self._mailbox.tell(self._roster.as_seen(member), spread=True)
            self._list_dead()

    def _overdue_suspect(self, now: float) -> Member | None:
        return next((one for one in self._roster.suspects.values() if now >= self._verdict_at(one)), None)

    def _verdict_at(self, member: Member) -> float:
        assert member.suspicion is not None
        return member.suspicion.deadline(self._roster.alive_count)

    def _notice_gap(self, now: float) -> None:
        """Find a gap of our own loop that nobody measured: the next probe is far overdue."""
        if self._lag_at is not None and now >= self._lag_at + LAG_VALID_S:
            self._me.lag_s = 0.0
        late_s = now - self._probe_at
        if late_s > self._settings.lag_s and (self._lag_at is None or self._lag_at < self._probe_at):
            self.lagged(late_s, now=now)

    def _refute(self) -> None:
        if not self._me.leaving:
            self._me.incarnation += 1
            self._comparison.outdate()
            self._mailbox.tell(self._me.update(Evidence.REFUTED), spread=True)

    def _list_dead(self) -> None:
        if self._values.set(DEAD_KEY, ",".join(self._roster.dead()[:DEAD_LISTED_MAX]).encode()):
            self._comparison.outdate()
            self._values_at = 0.0

    def _interval_s(self) -> float:
        return self._settings.probe_interval_s * (self._health.score + 1)

    def _slack_s(self, now: float) -> float:
        """Return what our own lag adds to a wait that begins now."""
        if self._lag_at is None or self._me.lag_s <= self._settings.lag_s or now >= self._lag_at + LAG_VALID_S:
            return 0.0
        return min(self._me.lag_s, self._settings.slack_max_s)

    # Telling

    def _nudge(self, member: Member, now: float) -> None:
        """Tell a member that speaks to us what we believe, if that is not that it is alive: it will refute."""
        doubts = self._roster.doubts(member)
        if not doubts:
            return
        if member.nudged_at is None or now >= member.nudged_at + NUDGE_INTERVAL_S:
            member.nudged_at = now
            self._send_gossip(member, doubts)

    def _send_gossip(self, member: Member, updates: tuple[Update, ...]) -> None:
        self._mailbox.post(member.address, Kind.GOSSIP, updates)

    def _gossip(self, now: float) -> None:
        """In large clusters: tell a few random members what is new, again and again until it was told often enough."""
        if not self._mailbox.outbox or self._mailbox.tells_everybody() or now < self._gossip_at:
            return
        self._gossip_at = now + self._settings.gossip_interval_s
        self._mailbox.gossip()

    def _repeat_leave(self, now: float) -> None:
        if self._leaves_left and now >= self._leave_at:
            self._leaves_left -= 1
            self._leave_at = now + LEAVE_INTERVAL_S
            self._mailbox.spread(self._me.update(Evidence.LEAVING))

    def _forget(self, now: float) -> None:
        if now < self._forget_at:
            return
        self._forget_at = now + self._settings.forget_s / 60
        for storage in self._roster.forget(now):
            self._values.forget(storage)
            self._mailbox.outbox.forget(storage)
            self._calls_stale = True

    # Values

    def _values_pending(self) -> bool:
        return self._values.held(self._me.storage)[1] > self._values_sent

    def _restart_values(self, member: Member) -> None:
        gone = self._values.restart(member.storage, member.counter)
        self._state_changed.extend((member.storage, key, value) for key, value in gone)

    def _own_delta(self, now: float) -> Delta | None:
        """Return our writes that nobody was told of yet, at most every ``VALUES_INTERVAL_S``."""
        if not self._values_pending() or now < self._values_at:
            return None
        delta = self._values.since(self._me.storage, self._me.counter, self._values_sent, bytes_max=self._mailbox.room)
        if delta is not None:
            self._values_sent = delta.version
            self._values_at = now + VALUES_INTERVAL_S
        return delta

    def _next_number(self) -> int:
        self._number += 1
        return self._number

    def _finish(self, now: float) -> SwimStep:
        send = self._mailbox.drain(self._own_delta(now))
        changes = self._roster.changes()
        if not (send or changes or self._state_changed):
            return NOTHING
        step = SwimStep(send=send, changes=changes, state_changed=tuple(self._state_changed))
        self._state_changed.clear()
        return step


def _why_alive(member: Member | None, packet: Packet) -> Evidence:
    if member is None or member.incarnation < 0:
        return Evidence.JOINED
    return Evidence.RESTARTED if packet.counter > member.counter else Evidence.REFUTED
