"""The control plane of one node: its part in Raft, the map it holds, and what it asks of the leader.

    Raft entry durable here and committed --> map held --> replication, gateway, gossip hear of it
    pulled entry (who does not vote) -----> synced ----^
    proposal --> leader's Raft --> applied --> outcome to the origin

Every node has a Raft object; one that is in no configuration stays silent in it and pulls the map instead. Proposals
and ReadIndex requests may start anywhere: they go to the leader, or to whom gossip names as leader. A proposal is a
compare-and-set, so sending it again is harmless; its outcome is known when the entry has been applied. At its deadline
it is certainly not applied only if it never left this node: else the outcome is unknown.

A node that hears of a newer generation (``ringkeep recover``) ends its part in the old group at once and takes the new
map: what the old group says, confirms or reports means nothing to it any more, nor does anything of it to others.

Source: replication.md, "The shard map", "Raft group" and rule 2; counterexamples.md L8, L11.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from ringkeep_core.mapchanges import Boot, MapChange, ShardChanges, decode_change, encode_change
from ringkeep_core.maprules import Applied
from ringkeep_core.shardmap import ShardMap, encode_map, generation_at, position_of
from ringkeep_node.machines.gathering import Gathering
from ringkeep_node.machines.held_map import HeldMap
from ringkeep_node.machines.messages import (
    IndexAnswer,
    IndexAsk,
    MapEntries,
    MapPull,
    MapWhole,
    NodeMessage,
    Propose,
    ProposeOutcome,
    TransferAsk,
)
from ringkeep_node.machines.raft.machine import Raft
from ringkeep_node.machines.raft.messages import (
    CONFIGURATION,
    EMPTY_STEP,
    NORMAL,
    Configuration,
    Entry,
    HardState,
    Proposed,
    RaftMessage,
    RaftStep,
    Recovered,
    Snapshot,
    decode_configuration,
)
from ringkeep_node.machines.records import NO_SHARD, Kind, Record

COMPACT_AFTER_ENTRIES = 4096
PROPOSAL_RETRY_S = 0.3
INDEX_RETRY_S = 0.2
PULL_RETRY_S = 0.2
LOOK_AROUND_S = 5.0
HOPS_MAX = 2
WAITING_PROPOSALS_MAX = 1024
NO_PRIMARY = "no_primary"
OUTCOME_UNKNOWN = "outcome_unknown"

_snapshot_encoder = msgspec.msgpack.Encoder()
_snapshot_decoder = msgspec.msgpack.Decoder(Snapshot)


def encode_snapshot(snapshot: Snapshot) -> bytes:
    """Return a Raft snapshot as the payload of a log record."""
    return _snapshot_encoder.encode(snapshot)


def first_snapshot(shard_map: ShardMap, voters: tuple[str, ...]) -> Snapshot:
    """Return the snapshot a bootstrap begins with: the first map, at index 1 of term 1."""
    return Snapshot(shard_map.position, 1, Configuration(voters), encode_map(shard_map))


def recovered_raft(
    term: int, vote: str | None, snapshot: bytes | None, entries: list[Record]
) -> tuple[Recovered, HeldMap]:
    """Return what Raft starts from and the map its snapshot holds, from what the log gave back."""
    decoded = _snapshot_decoder.decode(snapshot) if snapshot is not None else None
    raft_entries = tuple(Entry(record.epoch, record.sn, record.payload[0], record.payload[1:]) for record in entries)
    held = HeldMap()
    if decoded is not None:
        held.installed(decoded.data, decoded.index)
    return Recovered(HardState(term, vote), decoded, raft_entries), held


class _Tracked(Struct):
    """A proposal of this node whose outcome somebody waits for. ``is_out``: appended here or sent, so it may be applied."""

    change: MapChange
    deadline: float
    next_try: float
    is_out: bool = False


def _given_up(number: int, tracked: _Tracked) -> ProposeOutcome:
    """Return the outcome at the deadline. What left this node may stand in a log and be applied later."""
    if tracked.is_out:
        detail = "the deadline passed before it was known whether the change was made"
        return ProposeOutcome(number, 0, OUTCOME_UNKNOWN, detail)
    return ProposeOutcome(number, 0, NO_PRIMARY, "no leader could be asked before the deadline")


class _Asked(Struct):
    """A ReadIndex of this node that is under way through another one."""

    token: int
    deadline: float


class _Unsynced(Struct, frozen=True):
    """What Raft is to be told, and what may leave, once the records of ``step`` are durable."""

    step: int
    raft_step: RaftStep


class Control:
    """Raft, the held map and proposals of one node. Outputs gather in the public lists until the node takes them."""

    def __init__(
        self,
        *,
        me: str,
        raft: Raft,
        held: HeldMap,
        leader_hint: Callable[[], str | None],
        complete_boot: Callable[[Boot], Boot],
        is_linked: Callable[[str], bool] = lambda _storage: True,
        linked: Callable[[], Collection[str]] = tuple,
        first_number: int = 1,
    ) -> None:
        self.raft, self.held = raft, held
        self.records: list[Record] = []
        self.sends: list[tuple[str, NodeMessage | RaftMessage]] = []
        self.changes: list[tuple[MapChange, Applied]] = []
        self.map_moved = held.map is not None
        self.outcomes: list[tuple[int, ProposeOutcome]] = []
        self.indexes: list[tuple[int, int | None]] = []
        self.role_changed = False
        self._applied_term = 0
        self._me = me
        self._leader_hint = leader_hint
        self._complete_boot = complete_boot
        self._is_linked, self._linked = is_linked, linked
        self._unsynced: deque[_Unsynced] = deque()
        self._gathering = Gathering()
        self._tracked: dict[int, _Tracked] = {}
        self._relayed: dict[int, tuple[str, int]] = {}
        # Numbers never repeat over the boots of a node: an answer to an earlier boot finds nobody who asked.
        self._numbers = first_number - 1
        self._asked_members = 0
        self._awaited: dict[int, tuple[int, str, int]] = {}
        self._told: dict[tuple[str, int], ProposeOutcome] = {}
        self._asked: dict[int, _Asked] = {}
        self._raft_tokens: dict[int, tuple[str | None, int]] = {}
        self._raft_token = 0
        self._pulled_at = -PULL_RETRY_S
        self._looked_at = -LOOK_AROUND_S
        self._pushed = held.map
        self.generation = generation_at(held.through)
        """Of the group that this node's Raft belongs to, or would if it were in one."""
        self._compacted = raft.applied
        snapshot = raft.snapshot
        self._members = snapshot.configuration.members() if snapshot is not None else ()
        self._compactions: deque[tuple[int, Snapshot]] = deque()

    # --- who leads -----------------------------------------------------------------------------------------------

    @property
    def leads(self) -> bool:
        """Whether this node is the Raft leader and holds a map that has everything committed before its term.

        Voters are no compare-and-set: chosen from an older map, they could be members that have left since.
        """
        raft = self.raft
        return raft.leader == self._me and raft.leader_ready and self._applied_term == raft.term

    @property
    def snapshot_index(self) -> int:
        """Raft index of the newest durable snapshot: the log needs no Raft entries before it."""
        snapshot = self.raft.snapshot
        return snapshot.index if snapshot is not None else 0

    @property
    def votes(self) -> bool:
        """Whether this node is in the Raft configuration."""
        return self._me in self.raft.configuration.members()

    @property
    def has_raft(self) -> bool:
        """Whether Raft brings this node the map; everybody else pulls it, and so does a voter that hears no leader."""
        return self.raft.leader is not None and self.votes

    def leader(self) -> str | None:
        """The storage id of the leader, as far as this node knows."""
        return self.raft.leader or self._leader_hint()

    # --- messages ------------------------------------------------------------------------------------------------

    def raft_message(self, sender: str, message: RaftMessage, *, generation: int, now: float) -> None:
        """Take a Raft message of a peer of this cluster; that of another generation's group is not heard."""
        if generation == self.generation:
            self.raft.receive(sender, message, now=now)

    def node_message(self, sender: str, message: NodeMessage, step: int, *, now: float) -> bool:
        """Take a control message; ``step`` is the step in which records made now will be. False: not one of ours."""
        if isinstance(message, MapPull):
            answer = self.held.answer(message.after)
            if answer is not None:
                self.sends.append((sender, answer))
        elif isinstance(message, MapEntries | MapWhole):
            if generation_at(message.through) > self.generation:
                if isinstance(message, MapEntries):
                    return True  # They would follow on what this node's own group may still hold.
                self._succeed(generation_at(message.through), now)
            # To a voter that hears its leader Raft brings the entries. One that does not may have been removed while it
            # was down, and will never hear one again: it goes on by entries, like everybody who does not vote.
            if not self.has_raft or isinstance(message, MapWhole):
                self.records += self.held.pulled(message, step)
        elif isinstance(message, Propose):
            self._proposed_by(sender, message, now)
        elif isinstance(message, ProposeOutcome):
            if not message.version or generation_at(position_of(message.version)) >= self.generation:
                self._settle(message)  # Else a group that has ended says so: nothing came of it here.
        elif isinstance(message, TransferAsk):
            self.ask_transfer(message.to, hops=message.hops, now=now)
        elif isinstance(message, IndexAsk):
            self._raft_read(sender, message.token, now)
        elif isinstance(message, IndexAnswer):
            is_known = message.token in self._asked and message.index is not None
            if is_known and message.index is not None and generation_at(message.index) >= self.generation:
                self.indexes.append((self._asked.pop(message.token).token, message.index))
        else:
            return False
        return True

    def _succeed(self, generation: int, now: float) -> None:
        """End this node's part in the group of an earlier generation: the map of a later one is on its way to the disk.

        The log is forgotten before the map counts. Kept, its old voters could elect a leader that goes on without the new
        group, or out-vote it.
        """
        self.generation = generation
        if not self.raft.last_index:
            return
        self.raft.forget(now=now)
        self.records.append(Record(Kind.RAFT_RESET, NO_SHARD, 0, 0, 0))
        self._unsynced.clear()
        self._compactions.clear()
        self._awaited.clear()
        self._told.clear()
        self._members = ()
        self._compacted = self._applied_term = 0
        self.role_changed = True

    def bring_up_to_date(self, peer: str, version_index: int) -> None:
        """Send a peer that pinged with an older map what it lacks; voters get it from Raft."""
        if peer not in self.raft.configuration.members():
            answer = self.held.answer(version_index)
            if answer is not None:
                self.sends.append((peer, answer))

    def heard_of_newer(self, sender: str, version_index: int, *, now: float) -> None:
        """A peer or gossip names a newer map: pull it, at most one pull under way."""
        if version_index <= self.held.coming or now < self._pulled_at + PULL_RETRY_S:
            return
        if self.has_raft and generation_at(version_index) <= self.generation:
            return
        if not self._is_linked(sender):
            return  # Somebody else has it too, and the question would only be lost.
        self._pulled_at = now
        # Of a later generation the whole map is asked for: entries do not follow on the log of an ended group.
        after = self.held.through if generation_at(version_index) <= self.generation else 0
        self.sends.append((sender, MapPull(after)))

    def look_around(self, *, now: float, pause_s: float = LOOK_AROUND_S) -> None:
        """Ask any member for a newer map, at most every ``pause_s``: who has left is told of nothing by itself."""
        if self.has_raft or now < self._looked_at + max(PULL_RETRY_S, pause_s):
            return
        member = self._any_member()
        if member is not None:
            self._looked_at = now
            self.sends.append((member, MapPull(self.held.through)))

    # --- proposals -----------------------------------------------------------------------------------------------

    def propose(self, change: MapChange, *, now: float, may_wait: bool = False) -> None:
        """Hand a change to the leader and forget it: the map shows whether it was applied.

        One that ``may_wait`` is put into the log together with others, seconds later: see ``gathering``.
        """
        self._submit(change, 0, now, may_wait=may_wait)

    def reconfigure(self, configuration: Configuration, *, now: float) -> None:
        """Have Raft take the next step of the configuration, if this node leads; the configuration shows whether it did."""
        self.raft.propose_configuration(configuration, now=now)

    def propose_tracked(self, change: MapChange, *, deadline: float, now: float) -> int:
        """Hand a change to the leader until its outcome is known; returns the number ``outcomes`` will name.

        At the deadline its code is ``NO_PRIMARY`` if the change never left this node, else ``OUTCOME_UNKNOWN``.
        """
        self._numbers += 1
        tracked = self._tracked[self._numbers] = _Tracked(change, deadline, now + PROPOSAL_RETRY_S)
        tracked.is_out = self._submit(change, self._numbers, now)
        return self._numbers

    def _submit(self, change: MapChange, number: int, now: float, *, may_wait: bool = False) -> bool:
        """Append the change or send it on; returns whether it may be applied because of that."""
        leader = self.raft.leader
        if leader == self._me:
            return self._take_in(change, self._me, number, now, may_wait=may_wait)
        target = self._way_to_leader()
        if target is not None:
            self.sends.append((target, Propose(number, encode_change(change), 1, may_wait)))
        return target is not None

    def _take_in(self, change: MapChange, origin: str, number: int, now: float, *, may_wait: bool) -> bool:
        """Append the change, and behind it all that waits; or let it wait. Returns whether it may be applied."""
        if may_wait and not number and isinstance(change, ShardChanges):
            self._gathering.add(change)
            if now >= self._gathering.due:
                self._append_gathered(now)
            return True
        is_appended = self._append(change, origin, number, now)
        if is_appended:
            self._append_gathered(now)
        return is_appended

    def _append_gathered(self, now: float) -> None:
        """Append what waits, if this node still leads; who wants it asks the next leader too."""
        for changes in self._gathering.take(now):
            if self.raft.leader == self._me:
                self._append(changes, self._me, 0, now)

    def _way_to_leader(self) -> str | None:
        """Return the leader if a link to it is up, else another member each time: any may pass things on."""
        leader = self.leader()
        if leader is not None and leader != self._me and self._is_linked(leader):
            return leader
        return self._any_member()

    def _any_member(self) -> str | None:
        """Return somebody who may know the leader, another one each time.

        Gossip takes nothing from a new storage under a known name, so the registration itself cannot wait for its hints. Nor
        can it wait for the members of an old map, when all of them have gone: whoever has a link to us is of this cluster.
        """
        members = self.held.map.members if self.held.map is not None else ()
        others = [storage for storage in sorted(members) if storage != self._me and self._is_linked(storage)]
        others = others or sorted(storage for storage in self._linked() if storage != self._me)
        self._asked_members += 1
        return others[self._asked_members % len(others)] if others else None

    def _proposed_by(self, sender: str, message: Propose, now: float) -> None:
        try:
            change = decode_change(message.change)
        except msgspec.DecodeError:
            self.sends.append((sender, ProposeOutcome(message.number, 0, "bad_request", "not a map change")))
            return
        if self.raft.leader == self._me:
            self._take_in(change, sender, message.number, now, may_wait=message.may_wait)
        elif message.hops < HOPS_MAX:
            leader = self.leader()
            if leader is not None and leader not in (sender, self._me):
                number = self._relay(sender, message.number) if message.number else 0
                self.sends.append((leader, Propose(number, message.change, message.hops + 1, message.may_wait)))

    def _relay(self, origin: str, number: int) -> int:
        """Return the number under which a proposal goes on, so that its outcome finds the way back."""
        while len(self._relayed) >= WAITING_PROPOSALS_MAX:
            del self._relayed[next(iter(self._relayed))]
        self._numbers += 1
        self._relayed[self._numbers] = (origin, number)
        return self._numbers

    def _append(self, change: MapChange, origin: str, number: int, now: float) -> bool:
        """Append the change to the leader's log unless it stands there; returns whether it does."""
        if number and self._is_known(origin, number):
            return True
        if isinstance(change, Boot):
            change = self._complete_boot(change)
        result = self.raft.propose(encode_change(change), now=now)
        if number and isinstance(result, Proposed):
            while len(self._awaited) >= WAITING_PROPOSALS_MAX:
                del self._awaited[next(iter(self._awaited))]
            self._awaited[result.index] = (result.term, origin, number)
        return isinstance(result, Proposed)

    def _is_known(self, origin: str, number: int) -> bool:
        """A proposal sent again is not appended again: judged a second time, it would be refused for its own success."""
        told = self._told.get((origin, number))
        if told is not None:
            self._answer(origin, told)
            return True
        return (self.raft.term, origin, number) in self._awaited.values()

    def _settle(self, outcome: ProposeOutcome) -> None:
        origin = self._relayed.pop(outcome.number, None)
        if origin is not None:
            self.sends.append((origin[0], replace(outcome, number=origin[1])))
            return
        if self._tracked.pop(outcome.number, None) is not None:
            self.outcomes.append((outcome.number, outcome))

    # --- leadership ----------------------------------------------------------------------------------------------

    def ask_transfer(self, to: str, *, hops: int = 0, now: float) -> None:
        """Have the leader hand leadership to the voter ``to``, or to whom it likes (""): asked once, Raft shows the rest."""
        if self.raft.leader == self._me:
            if to:
                self.raft.transfer_leadership(to, now=now)
            else:
                self.raft.step_down(now=now)
            return
        target = self._way_to_leader() if hops < HOPS_MAX else None
        if target is not None:
            self.sends.append((target, TransferAsk(to, hops + 1)))

    # --- ReadIndex -----------------------------------------------------------------------------------------------

    def ask_index(self, token: int, *, deadline: float, now: float) -> None:
        """Ask for a ReadIndex; ``indexes`` will name the token, with None if it failed."""
        if self.has_raft:
            self._raft_read(None, token, now)
            return
        target = self._way_to_leader()
        if target is None:
            self.indexes.append((token, None))
            return
        self._numbers += 1
        self._asked[self._numbers] = _Asked(token, min(deadline, now + INDEX_RETRY_S))
        self.sends.append((target, IndexAsk(self._numbers)))

    def _raft_read(self, origin: str | None, token: int, now: float) -> None:
        self._raft_token += 1
        self._raft_tokens[self._raft_token] = (origin, token)
        self.raft.read_index(self._raft_token, now=now)

    def _read_done(self, raft_token: int, index: int | None) -> None:
        origin, token = self._raft_tokens.pop(raft_token)
        if origin is None:
            self.indexes.append((token, index))
        else:
            self.sends.append((origin, IndexAnswer(token, index)))

    # --- time and disk -------------------------------------------------------------------------------------------

    def tick(self, *, now: float) -> None:
        """Fire Raft's timers, resend proposals, give up on answers that never came."""
        if now >= self.raft.next_deadline():
            self.raft.tick(now=now)
        if now >= self._gathering.due:
            self._append_gathered(now)
        for number, tracked in list(self._tracked.items()):
            if now >= tracked.deadline:
                self._settle(_given_up(number, tracked))
            elif now >= tracked.next_try:
                tracked.next_try = now + PROPOSAL_RETRY_S
                tracked.is_out = self._submit(tracked.change, number, now) or tracked.is_out
        for number in [number for number, asked in self._asked.items() if now >= asked.deadline]:
            self.indexes.append((self._asked.pop(number).token, None))

    def next_deadline(self) -> float:
        """When ``tick`` has something to do."""
        due = min(self.raft.next_deadline(), self._gathering.due)
        for tracked in self._tracked.values():
            due = min(due, tracked.next_try, tracked.deadline)
        for asked in self._asked.values():
            due = min(due, asked.deadline)
        return due

    def synced(self, step: int, *, now: float) -> None:
        """All records of steps up to ``step`` are durable."""
        while self._unsynced and self._unsynced[0].step <= step:
            self._report(self._unsynced.popleft().raft_step, now)
        while self._compactions and self._compactions[0][0] <= step:
            self.raft.compact(self._compactions.popleft()[1])
        before = self.held.map
        self.changes += self.held.synced(step)
        self.map_moved = self.map_moved or self.held.map is not before

    def _report(self, done: RaftStep, now: float) -> None:
        if done.hard_state is not None:
            self.raft.hard_state_synced(done.hard_state, now=now)
        if done.install is not None:
            self.raft.snapshot_installed(done.install.index, now=now)
            self._members = done.install.configuration.members()
            if self.held.installed(done.install.data, done.install.index):
                self.map_moved = True
        if done.append:
            last = done.append[-1]
            self.raft.synced(last.term, last.index, now=now)
        self.sends += [(send.to, send.message) for send in done.send_synced]

    def collect(self, step: int, *, now: float) -> None:
        """Take over what Raft has to say; its records become part of ``step``."""
        # Nearly always nothing, in a node that serves clients at every turn: known by the object, without a look into it.
        while (taken := self.raft.take_step()) is not EMPTY_STEP:
            self._take(taken, step, now)
        if self.held.map is not self._pushed:
            self._push()
        if self.raft.applied - self._compacted >= COMPACT_AFTER_ENTRIES:
            self._compact(step)
        if self.held.is_long and (whole := self.held.compacted()) is not None:
            self.records.append(whole)

    def _push(self) -> None:
        """Send what was committed to the members that do not vote: a new primary among them must learn of it at once."""
        before, self._pushed = self._pushed, self.held.map
        if self.raft.leader != self._me or before is None or self._pushed is None:
            return
        # From the last change on, not from the last entry: whoever holds that change has no gap.
        entries = self.held.answer(before.position)
        if isinstance(entries, MapEntries):
            voting = self.raft.configuration.members()
            # Who has left is told too, over the link that ends now: it serves nobody any more.
            concerned = {**self._pushed.members, **before.members}
            others = (it for it in concerned if it not in voting and self._is_linked(it))
            self.sends += [(storage, entries) for storage in others]

    def _take(self, taken: RaftStep, step: int, now: float) -> None:
        self.sends += [(send.to, send.message) for send in taken.send]
        if taken.must_persist:
            self._persist(taken)
            self._unsynced.append(_Unsynced(step, taken))
        elif taken.send_synced:
            if self._unsynced:
                self._unsynced.append(_Unsynced(self._unsynced[-1].step, taken))
            else:
                self.sends += [(send.to, send.message) for send in taken.send_synced]
        for entry in taken.committed:
            self._commit(entry)
        for read in taken.reads:
            self._read_done(read.token, read.index)
        for token in taken.reads_failed:
            self._read_done(token, None)
        if taken.changed:
            self.role_changed = True

    def _persist(self, taken: RaftStep) -> None:
        state = taken.hard_state
        if state is not None:
            vote = (state.vote or "").encode()
            self.records.append(Record(Kind.RAFT_STATE, NO_SHARD, 0, state.term, 0, vote))
        if taken.install is not None:
            snapshot = taken.install
            payload = encode_snapshot(snapshot)
            self.records.append(Record(Kind.RAFT_RESET, NO_SHARD, 0, snapshot.term, snapshot.index, payload))
        if taken.cut_after is not None:
            self.records.append(Record(Kind.RAFT_CUT, NO_SHARD, 0, 0, taken.cut_after))
        for entry in taken.append:
            payload = bytes((entry.kind,)) + entry.payload
            self.records.append(Record(Kind.RAFT_ENTRY, NO_SHARD, 0, entry.term, entry.index, payload))

    def _commit(self, entry: Entry) -> None:
        before = self.held.map
        done = None
        if entry.kind == NORMAL:
            done = self.held.committed(entry.index, entry.payload, voters=self._members)
        elif entry.kind == CONFIGURATION:
            self._members = decode_configuration(entry.payload).members()
        self.held.passed(entry.index)
        if entry.term != self._applied_term:
            self._applied_term = entry.term
            self.role_changed = True  # If the term is this node's own, it leads from now on.
        if done is not None:
            self.changes.append(done)
            self.map_moved = self.map_moved or self.held.map is not before
        awaited = self._awaited.pop(entry.index, None)
        if awaited is not None:
            self._tell_outcome(awaited, entry, done)

    def _tell_outcome(
        self, awaited: tuple[int, str, int], entry: Entry, done: tuple[MapChange, Applied] | None
    ) -> None:
        term, origin, number = awaited
        if entry.term != term or done is None:
            return  # Another leader's entry stands there; the origin proposes again.
        refusal = next((outcome for outcome in done[1].outcomes if outcome is not None), None)
        version = done[1].map.version
        outcome = ProposeOutcome(number, version, refusal.code if refusal else "", refusal.detail if refusal else "")
        while len(self._told) >= WAITING_PROPOSALS_MAX:
            del self._told[next(iter(self._told))]
        self._told[origin, number] = outcome
        self._answer(origin, outcome)

    def _answer(self, origin: str, outcome: ProposeOutcome) -> None:
        if origin == self._me:
            self._settle(outcome)
        else:
            self.sends.append((origin, outcome))

    def _compact(self, step: int) -> None:
        index = self.raft.applied
        if self.held.map is None or self.held.through != index:
            return  # The map runs ahead of this node's Raft: the next committed entry brings them together.
        snapshot = self.raft.make_snapshot(index, encode_map(self.held.map))
        self._compacted = index
        self._compactions.append((step, snapshot))
        payload = encode_snapshot(snapshot)
        self.records.append(Record(Kind.RAFT_SNAPSHOT, NO_SHARD, 0, snapshot.term, index, payload))
