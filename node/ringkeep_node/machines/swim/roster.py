"""The table of members: who is refused, which news are newer, and every change of state.

Refused are whoever the committed map says has left or lost its name, a boot older than the registered one, another boot
under the registered counter, and strangers beyond the bound. What a member says about itself is ordered by (counter,
incarnation); what others say about it never outranks a higher incarnation of its own (see members.py).

Somebody else's verdict is taken over, unless we heard the member ourselves a moment ago: then it is an accusation that
the member can refute, so that a few sick observers cannot kill hundreds (consul 5567).
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum

from ringkeep_core.ids import is_identity, is_node_name
from ringkeep_node.machines.swim.members import (
    HARD,
    Address,
    Evidence,
    Member,
    MemberChanged,
    MemberIdentity,
    MemberState,
    RegisteredMember,
    Testimony,
)
from ringkeep_node.machines.swim.messages import Update, identity_in, update_about
from ringkeep_node.machines.swim.suspicion import Suspicion
from ringkeep_node.machines.swim.timing import SwimSettings

UNHEARD = -1


class Lesson(Enum):
    """What an update turned out to be."""

    REFUSED = "refused"
    KNOWN = "known"
    NEWS = "news"
    DOUBTED = "doubted"


class Roster:
    """All members but ourselves, keyed by storage id."""

    def __init__(self, me: MemberIdentity, settings: SwimSettings) -> None:
        self._me = me
        self._settings = settings
        self._registered: dict[str, RegisteredMember] = {}
        self._names: dict[str, str] = {}
        self._banned: set[str] = set()
        self._changes: list[MemberChanged] = []
        self.members: dict[str, Member] = {}
        self.suspects: dict[str, Member] = {}
        self.alive_count = 1
        """Alive and suspect members, ourselves included."""

    def changes(self) -> tuple[MemberChanged, ...]:
        """Return what changed since the last call."""
        drained = tuple(self._changes)
        self._changes.clear()
        return drained

    def known_count(self) -> int:
        """Return how many members there are that have not left, ourselves included."""
        return 1 + sum(member.state is not MemberState.LEFT for member in self.members.values())

    def refusal(self, identity: MemberIdentity) -> str | None:
        """Return why nothing is taken from or about this identity; None if it may be a member."""
        if identity.storage in self._banned:
            return "left"
        if self._names.get(identity.name, identity.storage) != identity.storage:
            return "name"
        row, member = self._registered.get(identity.storage), self.members.get(identity.storage)
        if row is not None and _is_older_boot(identity, row.counter, row.boot):
            return "boot"
        if member is not None:
            return "boot" if identity.counter == member.counter and identity.boot != member.boot else None
        if not _is_well_formed(identity):
            return "malformed"
        return "members" if len(self.members) >= self._settings.members_max else None

    def learn(self, update: Update, *, soft: bool, slack_s: float, now: float) -> Lesson:
        """Take an update about somebody else; ``soft`` if it comes from a comparison, not from its author."""
        member = self.members.get(update.storage)
        if member is None:
            return self._learn_stranger(update, now)
        newer = update.key > (member.counter, member.incarnation)
        if not newer and (update.key < (member.counter, member.incarnation) or update.state < member.state):
            return Lesson.KNOWN
        told = Testimony(by=update.by, at=now, why=update.why)
        if update.state is MemberState.ALIVE:
            return self._learn_alive(member, update, told, now) if newer else Lesson.KNOWN
        if update.state is MemberState.LEFT:
            return self._learn_left(member, update, told, now)
        if soft and not newer and member.state is MemberState.ALIVE and self._just_heard(member, now):
            return Lesson.DOUBTED
        if update.state is MemberState.DEAD and not self._just_heard(member, now):
            return self._learn_dead(member, update, told, now)
        if newer:
            self._learn_alive(member, update, told, now)
        return Lesson.NEWS if self.accuse(member, told, slack_s=slack_s, now=now) else Lesson.KNOWN

    def accuse(self, member: Member, told: Testimony, *, slack_s: float, now: float) -> bool:
        """Count an accusation; return whether it says something new. The dead and those who left are not accused."""
        if member.state > MemberState.SUSPECT:
            return False
        if member.suspicion is None:
            member.suspicion = Suspicion(self._settings, now=now, slack_s=slack_s)
        new = member.suspicion.accuse(told.by, hard=told.why in HARD, members=self.alive_count, now=now)
        if new:
            member.witness(told)
            self._move(member, MemberState.SUSPECT, now)
        return new

    def kill(self, member: Member, told: Testimony, now: float) -> None:
        """Call a member dead."""
        member.witness(told)
        self._move(member, MemberState.DEAD, now)

    def as_seen(self, member: Member) -> Update:
        """Return what we believe of a member, with a witness of it."""
        accusers = {} if member.suspicion is None else member.suspicion.accusers
        by = self._me.storage if not accusers or self._me.storage in accusers else min(accusers)
        why = member.testimony[-1].why if member.testimony else Evidence.TOLD
        return update_about(member, state=member.state, by=by, why=why)

    def doubts(self, member: Member) -> tuple[Update, ...]:
        """Return what a member must be told to refute; nothing if it is alive or never spoke.

        Whoever did leave is silent about this; whoever did not takes a false leave back.
        """
        doubted = member.state is not MemberState.ALIVE and member.incarnation >= 0
        return (self.as_seen(member),) if doubted else ()

    def register(self, rows: Sequence[RegisteredMember], now: float) -> list[Member]:
        """Take what the committed map says; return the members it brought or renewed."""
        self._ban(rows)
        self._registered = {row.storage: row for row in rows if not row.left}
        self._names = {row.name: row.storage for row in rows if not row.left}
        for member in list(self.members.values()):
            banned = member.storage in self._banned
            if banned or self._names.get(member.name, member.storage) != member.storage:
                self._retire(member, now)
            if not banned and member.state is MemberState.LEFT and member.storage not in self._registered:
                # It only had a name that is somebody else's: the map may yet give it one.
                del self.members[member.storage]
        brought = (self._bring(row, now) for row in self._registered.values() if row.storage != self._me.storage)
        return [member for member in brought if member is not None]

    def lost_addresses(self) -> list[Address]:
        """Return where somebody should be, by the map or by memory, and nobody alive is."""
        members = self.members.values()
        lost = dict.fromkeys(row.address for row in self._registered.values())
        lost.update(dict.fromkeys(one.address for one in members if one.state is MemberState.DEAD))
        return list(lost)

    def dead(self) -> list[str]:
        """Return the storage ids of the dead, those that the map names first."""
        dead = (one.storage for one in self.members.values() if one.state is MemberState.DEAD)
        return sorted(dead, key=lambda storage: (storage not in self._registered, storage))

    def forget(self, now: float) -> list[str]:
        """Drop the dead and left that the map does not name and that nobody asked about for long; return who."""
        gone = [
            member.storage
            for member in self.members.values()
            if member.state > MemberState.SUSPECT
            and member.storage not in self._registered
            and now >= member.since + self._settings.forget_s
        ]
        for storage in gone:
            del self.members[storage]
        return gone

    def _learn_stranger(self, update: Update, now: float) -> Lesson:
        identity = identity_in(update)
        if update.state > MemberState.SUSPECT and update.storage not in self._registered:
            return Lesson.KNOWN
        member = self._insert(identity, MemberState.ALIVE, Testimony(by=update.by, at=now, why=Evidence.JOINED), now)
        told = Testimony(by=update.by, at=now, why=update.why)
        if update.state is MemberState.SUSPECT:
            self.accuse(member, told, slack_s=0.0, now=now)
        elif update.state is MemberState.DEAD:
            self.kill(member, told, now)
        elif update.state is MemberState.LEFT:
            self._learn_left(member, update, told, now)
        return Lesson.NEWS

    def _learn_alive(self, member: Member, update: Update, told: Testimony, now: float) -> Lesson:
        restarted = update.counter > member.counter
        moved = update.address != member.address
        unheard = member.incarnation == UNHEARD
        self._renew(member, identity_in(update))
        if member.state is not MemberState.ALIVE or restarted or moved:
            member.witness(told)
        if restarted or unheard:
            member.since = now
        self._move(member, MemberState.ALIVE, now, anyway=restarted or moved)
        return Lesson.NEWS

    def _learn_left(self, member: Member, update: Update, told: Testimony, now: float) -> Lesson:
        if member.state is MemberState.LEFT and update.counter == member.counter:
            return Lesson.KNOWN
        self._renew(member, identity_in(update))
        member.witness(told)
        self._move(member, MemberState.LEFT, now)
        return Lesson.NEWS

    def _learn_dead(self, member: Member, update: Update, told: Testimony, now: float) -> Lesson:
        if member.state > MemberState.SUSPECT and update.key == (member.counter, member.incarnation):
            return Lesson.KNOWN
        self._renew(member, identity_in(update))
        self.kill(member, told, now)
        return Lesson.NEWS

    def _just_heard(self, member: Member, now: float) -> bool:
        return member.heard_within(self._settings.heard_s, now)

    def _renew(self, member: Member, identity: MemberIdentity) -> None:
        """Take over a newer boot or incarnation: accusations of the older one are void."""
        if (identity.counter, identity.incarnation) == (member.counter, member.incarnation):
            return
        member.name, member.boot, member.address = identity.name, identity.boot, identity.address
        member.counter, member.incarnation = identity.counter, identity.incarnation
        if member.state is MemberState.DEAD:
            # Whoever comes back is compared with at once: it may bring a whole island.
            member.mismatch_at = member.synced_at = None

    def _insert(self, identity: MemberIdentity, state: MemberState, told: Testimony, now: float) -> Member:
        member = Member(identity, state=state, now=now)
        member.witness(told)
        self.members[member.storage] = member
        self.alive_count += 1
        self._note(member, None)
        return member

    def _move(self, member: Member, after: MemberState, now: float, *, anyway: bool = False) -> None:
        before = member.state
        if after is before and not anyway:
            return
        member.state = after
        if after is not before:
            member.since = now
            self.alive_count += (after <= MemberState.SUSPECT) - (before <= MemberState.SUSPECT)
        if after is MemberState.SUSPECT:
            self.suspects[member.storage] = member
        else:
            self.suspects.pop(member.storage, None)
            member.suspicion = None
        if after is MemberState.DEAD:
            member.died(now, remember_s=self._settings.forget_s)
        self._note(member, before)

    def _note(self, member: Member, before: MemberState | None) -> None:
        said = member.close_case()
        self._changes.append(
            MemberChanged(
                storage=member.storage,
                name=member.name,
                before=before,
                after=member.state,
                evidence=tuple(dict.fromkeys(one.why for one in said)),
                testimony=said,
            )
        )

    def _ban(self, rows: Sequence[RegisteredMember]) -> None:
        """Whoever left, or lost its name to another storage id, is never accepted again."""
        self._banned.update(row.storage for row in rows if row.left)
        named = {row.name: row.storage for row in rows if not row.left}
        self._banned.update(storage for name, storage in self._names.items() if named.get(name, storage) != storage)

    def _retire(self, member: Member, now: float) -> None:
        if member.state is not MemberState.LEFT:
            member.witness(Testimony(by=self._me.storage, at=now, why=Evidence.REGISTERED))
            self._move(member, MemberState.LEFT, now)

    def _bring(self, row: RegisteredMember, now: float) -> Member | None:
        """Know a registered member before it speaks: suspect until it does, so that it is probed and judged."""
        member = self.members.get(row.storage)
        if member is not None and row.counter <= member.counter:
            return None
        identity = MemberIdentity(
            storage=row.storage,
            name=row.name,
            boot=row.boot,
            counter=row.counter,
            address=row.address,
            incarnation=UNHEARD,
        )
        told = Testimony(by=self._me.storage, at=now, why=Evidence.REGISTERED)
        if member is not None:
            # The commit of its boot entry proves that this boot was there a moment ago.
            self._renew(member, identity)
            member.witness(told)
            self._move(member, MemberState.ALIVE, now, anyway=True)
            return member
        if len(self.members) >= self._settings.members_max:
            return None
        member = self._insert(identity, MemberState.ALIVE, told, now)
        self.accuse(member, told, slack_s=0.0, now=now)
        return member


def _is_older_boot(identity: MemberIdentity, counter: int, boot: str) -> bool:
    return identity.counter < counter or (identity.counter == counter and identity.boot != boot)


def _is_well_formed(identity: MemberIdentity) -> bool:
    return (
        is_identity(identity.storage)
        and is_identity(identity.boot)
        and is_node_name(identity.name)
        and bool(identity.address[0])
        and identity.address[1] > 0
    )
