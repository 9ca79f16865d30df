"""The service registry: who offers what, where, and whether it is well. Every node holds all of it, in memory.

    register, renew, check --> own table --delta to all--> tables of the others --> view, indexes --> who waits
    sign of life for an instance of another node: owner alive --> handed to it; dead --> adopted: owned here from now on
    owner dead (SWIM) --> critical at once --removed_after_s--> forgotten, unless somebody adopted it
    restarted --> asks what others hold --> takes over what its earlier boot owned

*Owner.* The node that took the newest registration of an instance owns it: it alone writes it, lets its ttl run out and
carries out its checks. Several nodes may think so for a moment (an adoption on both sides of a partition): the greatest
(number of the registration, number of its last adoption, storage id) counts everywhere, and who sees a greater one than
its own forgets its own. Numbers are those of a Lamport clock, ahead of the map: who just started must not number from one.

*Spreading.* A change goes to all linked nodes with the step that made it. Gossip carries (boot counter, version) of each
owner's table, never the table; whoever sees that it lacks something asks for the difference, and two nodes compare all
they hold when a link between them comes up. So any loss heals without anybody noticing it.

*Not durable.* Registrations live in memory: who offers a service says so again and again anyway. They survive every failure
that leaves one node which holds them; when all nodes are stopped at once they are gone, and a renewal is then ``not_found``.

*Removal.* A tombstone outlives what it removed: whoever comes back from a partition with an older registration loses
against it, also when the node that removed it is gone by then. It is kept for ``tombstone_s``, and at most so many.

Nothing here waits, sends, asks a clock or connects: see ``discovery`` for the node's part, ``runtime.services`` for the
rest. Sources: reference/cluster.md 6.1; van Renesse et al., "Efficient Reconciliation and Flow Control for Anti-Entropy
Protocols"; Lamport, "Time, Clocks, and the Ordering of Events in a Distributed System" (the total order).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Literal, NamedTuple

from msgspec import Struct
from msgspec.structs import replace

from ringkeep_core.errors import BadRequest, NotFound, TooManyRequests
from ringkeep_core.services import (
    CHECKS_MAX,
    INSTANCES_PER_NODE_MAX,
    NODE_SERVICE,
    Check,
    Instance,
    NodeHealth,
    Status,
    clipped_output,
    same_definition,
)
from ringkeep_core.shardmap import GENERATION_STEP
from ringkeep_node.machines.registry_pulses import Pulses, asked_checks, with_state
from ringkeep_node.machines.registry_tables import (
    Entry,
    Graves,
    Key,
    ServicesDelta,
    ServicesKnown,
    ServicesMessage,
    ServicesPull,
    ServicesRenew,
    Table,
)
from ringkeep_node.machines.registry_view import (
    ANY_TOPIC,
    NODES_TOPIC,
    SERVICES_TOPIC,
    NodeFact,
    RegistryView,
    SeenServices,
)

__all__ = ["ANY_TOPIC", "NODES_TOPIC", "SERVICES_TOPIC", "Registry", "RegistrySettings", "RegistryView"]

REMEMBERED_MAX = 4096
"""Signs of life handed to other owners: enough for four nodes full of instances to die at once."""
OUTPUT_EVERY_S = 10.0
"""An output that changes without the state is news to nobody in a hurry: it is spread at most so often for each check."""
PULL_EVERY_S = 0.5
COMPARED_WITHIN_S = 5.0
"""So long after its start a node that reaches none of the others tells and takes registrations all the same."""
NUMBERS_PER_MAP = 1 << 12
"""Numbers from one version of the map to the next. Indexes are such numbers, and stay below 2^53 for whoever reads JSON."""
LAPSED = "no sign of life for {:g} s"


class RegistrySettings(NamedTuple):
    """How long things are kept, and how many. Times are in seconds."""

    instances_max: int = INSTANCES_PER_NODE_MAX
    """1..1000 instances that one node takes."""
    removed_after_s: float = 7.0
    """So long after a node was called dead its instances are forgotten: with detection within 2 s that is below 10 s."""
    tombstone_s: float = 600.0
    """A partition that lasts longer may bring back what was removed meanwhile at another node."""


class _Sign(Struct, frozen=True):
    """A sign of life that was handed to the owner: if that one dies, the instance is adopted with it."""

    at: float
    message: ServicesRenew


class RegistryStep(Struct):
    """What came out since the last step: messages (to, what), topics whose answers changed, whether own checks changed."""

    sends: list[tuple[str, ServicesMessage]]
    changed: set[str]
    checks_changed: bool


class Registry:
    """The registry of one node, in one boot. Times are seconds on one monotonic clock. Call ``take`` after every input."""

    def __init__(self, me: NodeFact, settings: RegistrySettings, *, now: float) -> None:
        self._me = me.storage
        self._settings = settings
        self._tables: dict[str, Table] = {me.storage: Table(me.counter)}
        self._holders: dict[Key, dict[str, Entry]] = {}
        self._facts: dict[str, NodeFact] = {me.storage: me}
        self._doomed: dict[str, float] = {}
        self._clock = 0
        self._pulses = Pulses()
        self._signs: dict[tuple[str, str, str], _Sign] = {}
        self._linked: dict[str, None] = {}
        self._pulled_at: dict[str, float] = {}
        self._buried: dict[Key, float] = {}
        self._graves = Graves(keep_s=settings.tombstone_s)
        self._pushed = 0
        self._sends: list[tuple[str, ServicesMessage]] = []
        self._checks_changed = False
        self._began = now
        self._has_compared = self._awaits_own = False
        self.awaits_members = False
        """Nobody has told which members there are: who knows of no others must not take itself for alone."""
        self.lapses = self.adoptions = self.removals = 0
        """How many ttl checks ran out, instances were adopted, and owners' tables were given up, for the metrics."""
        self.view = SeenServices(me.storage)
        self.view.node(me, self._tick_clock())

    # --- facts ---------------------------------------------------------------------------------------------------

    def members(self, facts: Iterable[NodeFact], *, map_version: int = 0, now: float) -> None:
        """Take all nodes of the cluster as the map and gossip have them now; who is missing is no member any more."""
        self._clock = max(self._clock, map_version % GENERATION_STEP * NUMBERS_PER_MAP)
        present = {fact.storage: fact for fact in facts}
        present.setdefault(self._me, self._facts[self._me])
        for storage in [storage for storage in self._facts if storage not in present]:
            self._give_up(storage, now)
            del self._facts[storage]
            self.view.drop_node(storage, self._tick_clock())
        for storage, fact in present.items():
            before = self._facts.get(storage)
            if before == fact:
                continue
            self._facts[storage] = fact
            self.view.node(fact, self._clock + 1)
            self._judge_owner(storage, now)

    def _judge_owner(self, storage: str, now: float) -> None:
        """Start or stop the time after which what an owner said is given up; adopt what is known to live on."""
        if storage == self._me:
            return
        is_gone = not self._is_alive(storage)
        table = self._tables.get(storage)
        is_old = table is not None and table.counter < self._facts[storage].counter
        if not (is_gone or is_old):
            self._doomed.pop(storage, None)
            return
        # A new boot of the owner takes over what the earlier one had; if it does not, nobody vouches for that any more.
        self._doomed.setdefault(storage, now + self._settings.removed_after_s)
        if is_gone:
            self._adopt_signs_for(storage, now)

    def _is_alive(self, storage: str) -> bool:
        fact = self._facts.get(storage)
        return fact is not None and fact.health in (NodeHealth.ALIVE, NodeHealth.SUSPECT)

    def linked(self, storage: str, *, now: float) -> None:
        """Messages to this node go through from now on: compare what both hold."""
        self._linked[storage] = None
        self._sends.append((storage, ServicesKnown(self._rows(), asks=True)))

    def unlinked(self, storage: str) -> None:
        """Messages to this node are lost from now on."""
        self._linked.pop(storage, None)

    def told(self, owner: str, counter: int, version: int, *, now: float) -> None:
        """Gossip says that ``owner`` has written its table up to ``version``."""
        table = self._tables.get(owner)
        held = (0, 0) if table is None else (table.counter, table.version)
        if owner == self._me or (counter, version) <= held or not self._is_alive(owner):
            return
        if now < self._pulled_at.get(owner, -math.inf) + PULL_EVERY_S:
            return
        target = owner if owner in self._linked else self._another(owner)
        if target is not None:
            self._pulled_at[owner] = now
            self._sends.append((target, ServicesPull(owner, *held)))

    def _another(self, owner: str) -> str | None:
        """Return a linked node, another one each time: it may hold what an owner without a link to us has written."""
        linked = [storage for storage in self._linked if storage != owner]
        if not linked:
            return None
        self._linked[linked[0]] = self._linked.pop(linked[0])
        return linked[0]

    def is_informed(self, *, now: float) -> bool:
        """Return whether this node knows what is registered: not before it has compared what it holds with a peer.

        A node that has just started would tell everybody that there is nothing, and number its registrations lower than
        what is registered already, so that they lose against it.
        """
        if self.awaits_members:
            return False
        if (self._has_compared and not self._awaits_own) or now >= self._began + COMPARED_WITHIN_S:
            return True
        return not any(self._is_alive(storage) for storage in self._facts if storage != self._me)

    @property
    def version(self) -> int:
        """How far the own table is written: what gossip tells of it."""
        return self._tables[self._me].version

    # --- messages ------------------------------------------------------------------------------------------------

    def receive(self, sender: str, message: ServicesMessage, *, now: float) -> None:
        """Take what another node of this cluster said."""
        if isinstance(message, ServicesDelta):
            self._delta(sender, message, now)
        elif isinstance(message, ServicesKnown):
            self._compare(sender, message)
        elif isinstance(message, ServicesPull):
            table = self._tables.get(message.owner)
            delta = None if table is None else table.since(message.owner, message.counter, message.version)
            if delta is not None:
                self._sends.append((sender, delta))
        else:
            self._renewed(message, now)

    def _rows(self) -> tuple[tuple[str, int, int], ...]:
        return tuple((owner, table.counter, table.version) for owner, table in self._tables.items())

    def _compare(self, sender: str, message: ServicesKnown) -> None:
        theirs = {owner: (counter, version) for owner, counter, version in message.rows}
        for owner, table in self._tables.items():
            held = theirs.get(owner, (0, 0))
            if owner == self._me and held[0] < table.counter and held[1]:
                # Our own table would take the place of what an earlier boot owned, and only they know that still.
                self._sends.append((sender, ServicesPull(owner, 0, 0)))
                self._awaits_own = True
                continue
            delta = table.since(owner, *held)
            if delta is not None:
                self._sends.append((sender, delta))
        self._has_compared = self._has_compared or not message.asks
        if message.asks:
            self._sends.append((sender, ServicesKnown(self._rows(), asks=False)))

    def _delta(self, sender: str, delta: ServicesDelta, now: float) -> None:
        self._see_stamps(delta)
        if delta.owner == self._me:
            self._take_over(delta, now)
            return
        fact = self._facts.get(delta.owner)
        if fact is None or not self._is_alive(delta.owner):
            return  # Given up, or about to be: only the owner itself brings it back, once it is heard of again.
        table = self._tables.get(delta.owner) or Table(delta.counter)
        if not table.fits(delta):
            if (delta.counter, delta.version) > (table.counter, table.version):
                held = (table.counter, table.version) if table.version else (0, 0)
                self._sends.append((sender, ServicesPull(delta.owner, *held)))
            return
        self._tables[delta.owner] = table
        if delta.counter > table.counter:
            self._graves.dig(table, now=now)
        for key in table.take(delta):
            self._hold(key, delta.owner, table.entries.get(key), now)
        self._judge_owner(delta.owner, now)

    def _see_stamps(self, delta: ServicesDelta) -> None:
        for entry in delta.entries:
            self._clock = max(self._clock, entry.stamp, entry.lamport)

    def _take_over(self, delta: ServicesDelta, now: float) -> None:
        """Go on with what an earlier boot of this node owned, as others still know it."""
        mine = self._tables[self._me]
        self._awaits_own = False
        if delta.counter >= mine.counter:
            return
        for entry in delta.entries:
            held = mine.entries.get(entry.key)
            if entry.lamport and (held is None or held.rank("") < entry.rank("")):
                if entry.instance is not None and not self._has_room(entry.instance):
                    continue
                self._write(entry.key, entry.instance, entry.lamport, entry.created, term=entry.term, now=now)

    # --- changes -------------------------------------------------------------------------------------------------

    def register(self, instance: Instance, *, now: float, keep_checks: bool = False) -> None:
        """Register an instance (``ringkeep_core.services.check_registration`` made it) here, unless it is only renewed.

        ``keep_checks``: checks that it has and that are not named now stay.

        Raises:
            TooManyRequests: This node owns as many as it may. Nothing was changed.
            BadRequest: There would be too many checks. Nothing was changed.
        """
        key = instance.key
        held = self._winner(key)
        before = held[1].instance if held is not None else None
        if before is not None and keep_checks:
            named = {check.id for check in instance.checks}
            kept = tuple(check for check in before.checks if check.id not in named)
            if len(kept) + len(instance.checks) > CHECKS_MAX:
                raise BadRequest(f"an instance has at most {CHECKS_MAX} checks")
            instance = replace(instance, checks=instance.checks + kept)
        if held is not None and before is not None and same_definition(before, instance):
            if held[0] == self._me:
                self._renew_same(before, instance, now)
                return
            if self._can_hand_to(held[0]):
                is_well = any(check.kind == "ttl" and check.status == "passing" for check in instance.checks)
                self._hand_on(held[0], before, "", "passing" if is_well else "", None, now)
                return
        if before is not None:
            instance = replace(instance, checks=tuple(with_state(check, before) for check in instance.checks))
        self._own(instance, now=now)

    def _renew_same(self, before: Instance, instance: Instance, now: float) -> None:
        for check in instance.checks:
            if check.kind == "ttl":
                told = check.status if check.status == "passing" else ""
                self._tell(before.key, check.id, told, None, now)

    def update_check(
        self, service: str, instance_id: str, check_id: str, status: Status | str, output: str | None, *, now: float
    ) -> None:
        """Take the state of a ttl or manual check ("": all ttl checks), from whoever vouches for the instance.

        Raises:
            NotFound: Nobody here knows the instance, or it has no such check. Nothing was changed.
            BadRequest: The check is asked by the owner itself. Nothing was changed.
            TooManyRequests: This node would have to adopt it, and owns as many as it may.
        """
        key = (service, instance_id)
        self._check_own_node(service, instance_id)
        held = self._winner(key)
        if held is None or held[1].instance is None:
            raise NotFound(f"there is no instance {instance_id!r} of {service!r}")
        owner, instance = held[0], held[1].instance
        if check_id:
            check = instance.check(check_id)
            if check is None:
                raise NotFound(f"the instance {instance_id!r} of {service!r} has no check {check_id!r}")
            if check.kind in ("http", "tcp"):
                raise BadRequest(f"the check {check_id!r} asks {check.target}: it takes no other word")
        if owner != self._me:
            if self._can_hand_to(owner):
                self._hand_on(owner, instance, check_id, status, output, now)
                return
            self._adopt(key, now)
        self._renew(key, check_id, status, output, now)

    def _renew(self, key: Key, check_id: str, status: str, output: str | None, now: float) -> None:
        instance = self._mine(key)
        assert instance is not None
        for check in instance.checks:
            if check.id == check_id or (not check_id and check.kind == "ttl"):
                self._tell(key, check.id, status, output, now)

    def put_check(self, service: str, instance_id: str, check: Check, *, now: float) -> None:
        """Add a check to an instance, in place of one with the same id. Raises as ``register``, and ``NotFound``."""
        instance = self._known(service, instance_id)
        others = tuple(each for each in instance.checks if each.id != check.id)
        if len(others) >= CHECKS_MAX:
            raise BadRequest(f"an instance has at most {CHECKS_MAX} checks")
        self._redefine(replace(instance, checks=(*others, with_state(check, instance))), now)

    def drop_check(self, service: str, instance_id: str, check_id: str, *, now: float) -> None:
        """Take a check away; nothing happens if there is none. Raises ``TooManyRequests`` as ``register``."""
        held = self._winner((service, instance_id))
        instance = None if held is None else held[1].instance
        if instance is not None and instance.check(check_id) is not None:
            checks = tuple(each for each in instance.checks if each.id != check_id)
            self._redefine(replace(instance, checks=checks), now)

    def _check_own_node(self, service: str, instance_id: str) -> None:
        if service == NODE_SERVICE and instance_id != self._facts[self._me].name:
            raise NotFound(f"this node is not {instance_id!r}: checks of a node are told to that node")

    def _known(self, service: str, instance_id: str) -> Instance:
        self._check_own_node(service, instance_id)
        held = self._winner((service, instance_id))
        if held is not None and held[1].instance is not None:
            return held[1].instance
        if service == NODE_SERVICE:
            return Instance(service, instance_id)
        raise NotFound(f"there is no instance {instance_id!r} of {service!r}")

    def _redefine(self, instance: Instance, now: float) -> None:
        held = self._winner(instance.key)
        if held is not None and held[1].instance == instance:
            return
        if held is not None and held[0] != self._me:
            instance = self.view.at_its_address(instance)
        self._own(instance, now=now)

    def deregister(self, service: str, instance_id: str, *, now: float) -> bool:
        """Remove an instance, whoever owns it; return whether there was one."""
        key = (service, instance_id)
        held = self._winner(key)
        if held is None or held[1].instance is None:
            return False
        self._bury(key, held[1].created, now)
        return True

    def checked(self, service: str, instance_id: str, asked: Check, status: Status, output: str, *, now: float) -> None:
        """Take what an http or tcp check found. ``asked`` is the check as it was: another one by now takes no answer."""
        instance = self._mine((service, instance_id))
        check = None if instance is None else instance.check(asked.id)
        if check is not None and (check.kind, check.target) == (asked.kind, asked.target):
            self._tell((service, instance_id), check.id, status, output, now)

    def own_checks(self) -> list[tuple[Instance, Check]]:
        """Return the checks that this node has to carry out."""
        return [
            (entry.instance, check)
            for entry in self._tables[self._me].entries.values()
            if entry.instance is not None
            for check in entry.instance.checks
            if check.kind in ("http", "tcp")
        ]

    # --- time ----------------------------------------------------------------------------------------------------

    def next_deadline(self) -> float | None:
        """When ``tick`` may have something to do; it may be early."""
        due = self._pulses.next_deadline()
        for at in self._doomed.values():
            due = min(due, at)
        if self._buried:
            due = min(due, next(iter(self._buried.values())))
        return None if due == math.inf else due

    def tick(self, *, now: float) -> None:
        """Let ttl checks run out, remove what has been critical for too long, give up owners and drop old tombstones."""
        for key, check_id in self._pulses.fired(now=now):
            self._judge_check(key, check_id, now)
        for storage in [storage for storage, at in self._doomed.items() if at <= now]:
            del self._doomed[storage]
            self._give_up(storage, now)
        while self._buried and next(iter(self._buried.values())) <= now:
            key = next(iter(self._buried))
            del self._buried[key]
            entry = self._tables[self._me].entries.get(key)
            if entry is not None and entry.instance is None:
                self._tables[self._me].drop_tombstone(entry)
                self._hold(key, self._me, None, now)

    def _judge_check(self, key: Key, check_id: str, now: float) -> None:
        pulse, instance = self._pulses.of(key, check_id), self._mine(key)
        check = None if instance is None else instance.check(check_id)
        if pulse is None or check is None:
            return
        if check.kind == "ttl" and pulse.deadline <= now and check.status != "critical":
            self.lapses += 1
            self._tell(key, check_id, "critical", LAPSED.format(check.ttl_s), now, renews=False)
            return
        since = pulse.critical_since
        if since is not None and check.deregister_after_s and since + check.deregister_after_s <= now:
            self.deregister(*key, now=now)
            return
        self._pulses.arm(key, check)

    # --- the step ------------------------------------------------------------------------------------------------

    def take(self) -> RegistryStep | None:
        """Return what came out since the last call; None if nothing did."""
        mine = self._tables[self._me]
        if mine.version > self._pushed:
            delta = mine.since(self._me, mine.counter, self._pushed)
            self._pushed = mine.version
            if delta is not None:
                self._sends += [(storage, delta) for storage in self._linked]
        self.view.settle()
        if not (self._sends or self.view.changed or self._checks_changed):
            return None
        step = RegistryStep(self._sends, self.view.changed, self._checks_changed)
        self._sends, self.view.changed, self._checks_changed = [], set(), False
        return step

    # --- own table -----------------------------------------------------------------------------------------------

    def _tick_clock(self) -> int:
        self._clock += 1
        return self._clock

    def _mine(self, key: Key) -> Instance | None:
        entry = self._tables[self._me].entries.get(key)
        return None if entry is None else entry.instance

    def _has_room(self, instance: Instance) -> bool:
        mine = self._tables[self._me]
        return mine.has_room(instance.key, instance, instances_max=self._settings.instances_max)

    def _check_room(self, instance: Instance) -> None:
        if not self._has_room(instance):
            raise TooManyRequests("this node owns as many instances, or bytes of them, as it may: use another one")

    def _own(self, instance: Instance, *, now: float) -> None:
        """Write a new registration into the own table: it is greater than everything seen here before."""
        key = instance.key
        self._check_room(instance)
        held = self._winner(key)
        lamport = self._tick_clock()
        created = held[1].created if held is not None and held[1].instance is not None else lamport
        self._write(key, replace(instance, lamport=lamport), lamport, created, now=now)

    def _bury(self, key: Key, created: int, now: float) -> None:
        lamport = self._tick_clock()
        self._write(key, None, lamport, created, now=now)

    def _write(
        self, key: Key, instance: Instance | None, lamport: int, created: int, *, term: int = 0, now: float
    ) -> None:
        mine = self._tables[self._me]
        before = self._mine(key)
        entry = Entry(*key, mine.version + 1, self._tick_clock(), lamport, term, created, instance)
        mine.write(entry)
        self._buried.pop(key, None)
        if instance is None:
            self._buried[key] = now + self._settings.tombstone_s
            self._pulses.drop(key)
        else:
            self._pulses.begin(key, instance, before, now=now)
        self._checks_changed = self._checks_changed or asked_checks(before) != asked_checks(instance)
        self._hold(key, self._me, mine.entries.get(key), now)

    def _tell(
        self, key: Key, check_id: str, status: str, output: str | None, now: float, *, renews: bool = True
    ) -> None:
        """Set the state of an own check ("": as it is); spread it if that is news."""
        mine = self._tables[self._me]
        entry, pulse = mine.entries[key], self._pulses.of(key, check_id)
        instance = entry.instance
        check = None if instance is None else instance.check(check_id)
        assert instance is not None and check is not None and pulse is not None
        told: Status = check.status if not status else _status(status)
        text = check.output if output is None else clipped_output(output)
        was_lapsed = check.kind == "ttl" and pulse.deadline <= now
        if renews and check.kind == "ttl":
            pulse.deadline = now + check.ttl_s
        if told == check.status and not was_lapsed and (text == check.output or now < pulse.output_at + OUTPUT_EVERY_S):
            return
        pulse.output_at = now
        if told != "critical":
            pulse.critical_since = None
        elif pulse.critical_since is None:
            pulse.critical_since = now
        fresh = replace(check, status=told, output=text)
        self._pulses.arm(key, fresh)
        if fresh == check:
            return
        checks = tuple(fresh if each.id == check_id else each for each in instance.checks)
        mine.write(
            Entry(
                *key,
                mine.version + 1,
                self._tick_clock(),
                entry.lamport,
                entry.term,
                entry.created,
                replace(instance, checks=checks),
            )
        )
        self._hold(key, self._me, mine.entries[key], now)

    # --- instances of others -------------------------------------------------------------------------------------

    def _can_hand_to(self, owner: str) -> bool:
        return owner in self._linked and self._is_alive(owner)

    def _hand_on(self, owner: str, instance: Instance, check: str, status: str, output: str | None, now: float) -> None:
        """Let the owner know of a sign of life, and remember it in case that the owner is not there any more."""
        text, told = clipped_output(output or ""), _status_or_none(status)
        message = ServicesRenew(*instance.key, check, told, text, clears=output == "")
        self._sends.append((owner, message))
        name = (*instance.key, check)
        self._signs.pop(name, None)
        self._signs[name] = _Sign(now, message)
        if len(self._signs) > REMEMBERED_MAX:
            del self._signs[next(iter(self._signs))]

    def _renewed(self, message: ServicesRenew, now: float) -> None:
        """Take a sign of life that came in elsewhere; it may be late, for something that this node does not own now."""
        key = (message.service, message.id)
        instance = self._mine(key)
        check = None if instance is None or not message.check else instance.check(message.check)
        if instance is not None and (not message.check or (check is not None and check.kind in ("ttl", "manual"))):
            self._renew(key, message.check, message.status, message.told, now)

    def _adopt(self, key: Key, now: float) -> None:
        """Make an instance of a dead owner our own: somebody vouches for it here. Raises ``TooManyRequests``."""
        held = self._winner(key)
        assert held is not None and held[1].instance is not None
        entry, instance = held[1], self.view.at_its_address(held[1].instance)
        self._check_room(instance)
        self._write(key, instance, entry.lamport, entry.created, term=self._tick_clock(), now=now)
        self.adoptions += 1

    def _adopt_signs_for(self, owner: str, now: float) -> None:
        """Adopt what lives on although its owner died: its last sign of life came in here and is not too old."""
        for name, sign in list(self._signs.items()):
            held = self._winner((sign.message.service, sign.message.id))
            if held is None or held[1].instance is None or held[0] != owner:
                continue
            del self._signs[name]
            ttl_s = min((it.ttl_s for it in held[1].instance.checks if it.kind == "ttl"), default=0.0)
            if now < sign.at + ttl_s and self._has_room(self.view.at_its_address(held[1].instance)):
                self._adopt(held[1].key, now)
                message = sign.message
                self._renew(held[1].key, message.check, message.status, message.told, now)

    def _give_up(self, storage: str, now: float) -> None:
        """Forget what an owner said: it is dead for too long, or no member any more."""
        table = self._tables.pop(storage, None)
        self._doomed.pop(storage, None)
        self._pulled_at.pop(storage, None)
        if table is None:
            return
        self.removals += 1
        self._tick_clock()
        self._graves.dig(table, now=now)
        for key in table.entries:
            self._hold(key, storage, None, now)

    # --- who counts ----------------------------------------------------------------------------------------------

    def _winner(self, key: Key) -> tuple[str, Entry] | None:
        """Return the owner of a key and what it says: the greatest of all who say something."""
        holders = self._holders.get(key)
        if not holders:
            return None
        owner = max(holders, key=lambda it: holders[it].rank(it))
        return owner, holders[owner]

    def _hold(self, key: Key, owner: str, entry: Entry | None, now: float) -> None:
        """Take what an owner says of a key now, and show what follows from it."""
        holders = self._holders.setdefault(key, {})
        if entry is None or not entry.lamport:
            holders.pop(owner, None)
        else:
            holders[owner] = entry
        if not holders:
            del self._holders[key]
        held = self._winner(key)
        if held is not None and held[1].instance is not None:
            grave = self._graves.over(held[1], now=now)
            if grave:
                # Whoever brings it must be told, and the one that removed it cannot do that any more.
                self._write(key, None, grave, held[1].created, now=now)
                return
        stamp = self._clock if entry is None else max(entry.stamp, self._clock if held is None else held[1].stamp)
        instance = None if held is None else held[1].instance
        if key[0] == NODE_SERVICE:
            of_node = () if instance is None or held is None else instance.checks
            self.view.node_checks(owner if held is None else held[0], of_node, stamp)
        elif held is None or instance is None:
            self.view.remove(key, stamp)
        elif held[0] in self._facts:
            self.view.put(key, instance, held[0], created=held[1].created, stamp=stamp)
        if held is not None and held[0] != self._me and self._me in holders:
            self._forget_own(key, now)

    def _forget_own(self, key: Key, now: float) -> None:
        """Somebody else has registered it after us: ours is void."""
        mine = self._tables[self._me]
        had = self._mine(key)
        mine.write(Entry(*key, mine.version + 1, self._tick_clock(), 0, 0, 0, None))
        self._pulses.drop(key)
        self._buried.pop(key, None)
        self._buried[key] = now + self._settings.tombstone_s
        self._checks_changed = self._checks_changed or bool(asked_checks(had))
        self._holders[key].pop(self._me)


def _status_or_none(text: str) -> Status | Literal[""]:
    return _status(text) if text else ""


def _status(text: str) -> Status:
    if text not in ("passing", "warning", "critical"):
        raise BadRequest(f"the status of a check is passing, warning or critical, not {text[:40]!r}")
    return text  # type: ignore[return-value]  # it is one of the three
