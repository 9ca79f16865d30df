"""One Raft node: facts and the time go in, a step that says what to persist, send and apply comes out.

    receive / tick / synced / propose / ...  -->  Raft  -->  take_step() -> RaftStep

Call ``take_step`` after every batch of inputs, deliver queued messages before ``tick``, and keep the order that
``RaftStep`` describes. Nothing here waits, and no safety property depends on ``now``: clocks only decide when to try
an election.

Differences from the paper that a reader should know: own votes and own entries count only when our disk has them; a
node emits an entry to apply only when it is committed *and* durable here; heartbeats are messages of their own; a vote
is given by whoever is asked, because only the candidate knows whether the voter's log is behind the configuration.

Source: Raft paper, figures 2 and 13; thesis sections 3.10, 4, 6.4, 9.6; replication.md, "Raft group".
"""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum

from ringkeep_node.machines.raft import membership
from ringkeep_node.machines.raft.election import ElectionTimer, is_up_to_date
from ringkeep_node.machines.raft.leader import Leadership
from ringkeep_node.machines.raft.log import RaftLog
from ringkeep_node.machines.raft.messages import (
    CONFIGURATION,
    EMPTY_STEP,
    AppendAnswer,
    AppendEntries,
    Configuration,
    Entry,
    HardState,
    Heartbeat,
    HeartbeatAnswer,
    InstallSnapshot,
    NotLeader,
    Proposed,
    RaftMessage,
    RaftStep,
    ReadIndexAnswer,
    ReadIndexRequest,
    ReadReady,
    Recovered,
    Refused,
    RequestVote,
    Snapshot,
    SnapshotAnswer,
    TimeoutNow,
    VoteAnswer,
    encode_configuration,
    is_well_formed,
)
from ringkeep_node.machines.raft.outbox import Outbox
from ringkeep_node.machines.raft.reads import ForwardedReads, Read
from ringkeep_node.machines.raft.settings import RaftSettings
from ringkeep_node.machines.raft.snapshots import IncomingSnapshot

_READ_NUMBERS = 1 << 52


class Role(IntEnum):
    """What a node is in its term."""

    FOLLOWER, PRE_CANDIDATE, CANDIDATE, LEADER = range(4)


class Raft:
    """A member of the group, known by its storage id ``me``.

    ``bootstrap`` makes the first log of a new group, the same at each of its first members; it is ignored when anything
    was recovered. ``draw`` returns uniform numbers in [0, 1).
    """

    def __init__(
        self,
        *,
        me: str,
        recovered: Recovered,
        settings: RaftSettings,
        draw: Callable[[], float],
        now: float,
        bootstrap: Configuration | None = None,
    ) -> None:
        self._me, self._settings = me, settings
        self._log = RaftLog(recovered)
        self._term, self._vote = recovered.hard_state.term, recovered.hard_state.vote
        self._role = Role.FOLLOWER
        self._leader: str | None = None
        self._votes: dict[str, bool] = {}
        self._leadership: Leadership | None = None
        self._electable = True
        self._hard_state_changed = False
        self._outbox = Outbox.empty()
        self._timer = ElectionTimer(settings, draw, now)
        self._forwarded = ForwardedReads(int(draw() * _READ_NUMBERS), settings.reads_max)
        self._incoming = IncomingSnapshot(settings.snapshot_bytes_max)
        if bootstrap is not None and recovered == Recovered():
            self._bootstrap(bootstrap)
        self.elections = 0
        """How often we stood for election since we started; asking beforehand (PreVote) does not count."""
        self._shown: tuple[Role, int, str | None] = (self._role, self._term, self._leader)

    def _bootstrap(self, configuration: Configuration) -> None:
        # Every first member writes this same entry, so it is committed from the start; no leader has term 1.
        self._term = 1
        self._hard_state_changed = True
        self._log.append((Entry(1, 1, CONFIGURATION, encode_configuration(configuration)),))
        self._log.commit_to(1)

    # What can be read at any time

    @property
    def me(self) -> str:
        """Return our own storage id."""
        return self._me

    @property
    def role(self) -> Role:
        """Return what we are in this term."""
        return self._role

    @property
    def term(self) -> int:
        """Return the newest term we know."""
        return self._term

    @property
    def vote(self) -> str | None:
        """Return whom we voted for in this term."""
        return self._vote

    @property
    def leader(self) -> str | None:
        """Return the leader of this term, if we know it."""
        return self._leader

    @property
    def commit(self) -> int:
        """Return the greatest index we know to be committed."""
        return self._log.commit

    @property
    def applied(self) -> int:
        """Return the index up to which entries were handed out to apply."""
        return self._log.applied

    @property
    def last_index(self) -> int:
        """Return the index of the newest entry of our log."""
        return self._log.last_index

    @property
    def last_term(self) -> int:
        """Return the term of the newest entry of our log."""
        return self._log.last_term

    @property
    def first_index(self) -> int:
        """Return the index of the oldest entry that we still hold."""
        return self._log.first_index

    @property
    def stable(self) -> int:
        """Return the index up to which our disk is known to hold the log."""
        return self._log.stable

    @property
    def snapshot(self) -> Snapshot | None:
        """Return the newest snapshot we hold."""
        return self._log.snapshot

    @property
    def configuration(self) -> Configuration:
        """Return the configuration in effect: the newest in our log, committed or not."""
        return self._log.configuration

    @property
    def leader_ready(self) -> bool:
        """Return whether we lead and an entry of our term is committed."""
        return self._leadership is not None and self._leadership.ready

    def term_at(self, index: int) -> int | None:
        """Return the term of the entry at ``index``, or None if the log does not hold it."""
        return self._log.term_at(index)

    def entries(self, first: int, last: int) -> tuple[Entry, ...]:
        """Return the entries from ``first`` to ``last``, both included and both held."""
        return self._log.range(first, last)

    def next_deadline(self) -> float:
        """Return when ``tick`` has something to do."""
        deadline = self._timer.deadline() if self._leadership is None else self._leadership.next_deadline()
        return min(deadline, self._forwarded.next_deadline())

    # Time

    def tick(self, *, now: float) -> None:
        """Do what is due at ``now``. Early and late calls are safe; deliver queued messages first."""
        if self._leadership is not None:
            self._leadership.tick(now=now)
            self._step_down_if_over(now)
        elif now >= self._timer.deadline():
            self._on_silence(now)
        self._outbox.reads_failed += self._forwarded.take_overdue(now)

    def lagged(self, lag_s: float) -> None:
        """Note how late our own loop is; above ``lag_ignored_s`` it is added to our time-outs until the next call."""
        self._timer.lagged(lag_s)
        if self._leadership is not None:
            self._leadership.lag_s = self._timer.lag_s

    def set_electable(self, electable: bool) -> None:
        """Say whether we may stand for election. A node whose disk hangs or is full should not. It may still vote."""
        self._electable = electable

    # The disk

    def hard_state_synced(self, hard_state: HardState, *, now: float) -> None:
        """Note that ``hard_state`` and all steps before it are durable. Only then does our vote for ourselves count."""
        self._log.hard_state_synced(hard_state)
        if self._role is Role.CANDIDATE and hard_state == HardState(self._term, self._me):
            self._count_vote(self._me, True, now)

    def synced(self, term: int, index: int, *, now: float) -> None:
        """Note that the entry (term, index), as appended, and all steps before it are durable."""
        self._log.entries_synced(term, index)
        if self._leadership is not None:
            self._leadership.advance_commit(now=now)
            self._step_down_if_over(now)

    def snapshot_installed(self, index: int, *, now: float) -> None:
        """Note that the snapshot of ``RaftStep.install`` is durable and is the application's state."""
        if not self._log.installing or index != self._log.base_index:
            return
        self._log.installed()
        if self._leader is not None:
            self._outbox.when_synced(self._leader, AppendAnswer(self._term, True, index))

    def make_snapshot(self, index: int, data: bytes) -> Snapshot:
        """Return the snapshot of ``data``, the application's state after ``index``, which is applied and still held."""
        term = self._log.term_at(index)
        assert term is not None and index <= self.applied
        return Snapshot(index, term, self._log.configuration_at(index), data)

    def compact(self, snapshot: Snapshot) -> None:
        """Drop the entries that ``snapshot`` covers, but for a tail. Call it when the snapshot is durable."""
        self._log.compact(snapshot, self._settings.tail_entries)

    def forget(self, *, now: float) -> None:
        """Be in no group any more: the one of our log has ended, and another took its place. The term stays.

        Nothing of the old group is sent or answered after this. The caller puts it on the disk.
        """
        self._become_follower(self._term, None, now)
        self._log = RaftLog(Recovered())
        self._votes = {}
        self._incoming = IncomingSnapshot(self._settings.snapshot_bytes_max)
        self._outbox.send.clear()
        self._outbox.send_synced.clear()
        self._outbox.install = None

    # What the application asks for

    def propose(self, payload: bytes, *, now: float) -> Proposed | NotLeader | Refused:
        """Append ``payload`` if we lead.

        Refused: ``transferring`` (leadership is being handed over), ``too_large``, ``overloaded`` (too much waits for
        commit). Proposed does not mean committed: see ``Proposed``.
        """
        return NotLeader(self._leader) if self._leadership is None else self._leadership.propose(payload)

    def propose_configuration(self, configuration: Configuration, *, now: float) -> Proposed | NotLeader | Refused:
        """Append a configuration that differs by at most one voter.

        Refused: ``transferring``, ``not_ready`` (no entry of our term is committed), ``in_progress`` (another change is
        not committed), ``not_caught_up`` (the new voter), or a reason of ``membership.refusal``.
        """
        if self._leadership is None:
            return NotLeader(self._leader)
        return self._leadership.propose_configuration(configuration, now=now)

    def is_level(self, member: str) -> bool:
        """Return whether, as this leader sees it, a voter or learner holds nearly all of the log. False elsewhere."""
        return self._leadership is not None and self._leadership.is_level(member)

    def read_index(self, token: int, *, now: float) -> None:
        """Ask for a commit index that is confirmed after this call; the answer is in ``reads`` or ``reads_failed``.

        It may be answered before that index is applied here: the caller waits for ``applied`` to reach it.
        """
        if self._leadership is not None:
            self._leadership.read(Read(None, token), now=now)
            return
        number = None
        if self._leader is not None:
            number = self._forwarded.add(token, deadline=now + self._settings.election_s_max)
        if self._leader is None or number is None:
            self._outbox.reads_failed.append(token)
        else:
            self._outbox.now(self._leader, ReadIndexRequest(self._term, number))

    def own_index(self) -> int | None:
        """Return a confirmed commit index if nobody is to be asked for it: we lead and are the only voter. Else None."""
        return self._leadership.own_index() if self._leadership is not None else None

    def transfer_leadership(self, to: str, *, now: float) -> bool:
        """Hand leadership to the voter ``to``; proposals are refused meanwhile. False: not leader, or no voter."""
        return self._leadership is not None and self._leadership.transfer(to, now=now)

    def step_down(self, *, now: float, to: str | None = None) -> bool:
        """Hand leadership to the voter ``to``, else the best one, or give it up after the shortest election time-out.

        Returns False when we do not lead or are the only voter.
        """
        if self._leadership is None:
            return False
        if to is not None and self._leadership.transfer(to, now=now, resign=True):
            return True
        return self._leadership.resign(now=now)

    def campaign(self, *, now: float, transfer: bool = False) -> None:
        """Stand for election at once, without asking first. A new group need not wait for silence."""
        if self._may_stand():
            self._become_candidate(now, transfer)

    # Elections

    def _may_stand(self) -> bool:
        return (
            self._role is not Role.LEADER
            and self._electable
            and not self._log.installing
            and self._log.may_stand(self._me)
        )

    def _on_silence(self, now: float) -> None:
        if not self._may_stand():
            self._become_follower(self._term, None, now)
            self._timer.restart(now)
        elif self._settings.prevote and self._log.configuration.voters != (self._me,):
            self._become_pre_candidate(now)
        else:
            self._become_candidate(now, False)

    def _become_pre_candidate(self, now: float) -> None:
        self._role = Role.PRE_CANDIDATE
        self._set_leader(None)
        self._timer.restart(now)
        self._votes = {self._me: True}
        for voter in self._other_voters():
            self._outbox.now(voter, RequestVote(self._term + 1, self._log.last_index, self._log.last_term, True))

    def _become_candidate(self, now: float, transfer: bool) -> None:
        self._role = Role.CANDIDATE
        self.elections += 1
        self._set_leader(None)
        self._fail_forwarded()
        self._set_hard_state(self._term + 1, self._me)
        self._timer.restart(now)
        self._votes = {}
        request = RequestVote(self._term, self._log.last_index, self._log.last_term, False, transfer)
        for voter in self._other_voters():
            self._outbox.when_synced(voter, request)

    def _other_voters(self) -> list[str]:
        return [voter for voter in self._log.configuration.voters if voter != self._me]

    def _count_vote(self, voter: str, granted: bool, now: float) -> None:
        self._votes[voter] = granted
        voters = self._log.configuration.voters
        if membership.is_elected(voters, self._votes):
            if self._role is Role.PRE_CANDIDATE:
                self._become_candidate(now, False)
            else:
                self._become_leader(now)
        elif membership.is_rejected(voters, self._votes):
            self._role = Role.FOLLOWER

    def _become_leader(self, now: float) -> None:
        assert self._role is Role.CANDIDATE and self._vote == self._me
        self._role = Role.LEADER
        self._set_leader(self._me)
        self._leadership = Leadership(
            me=self._me, term=self._term, log=self._log, outbox=self._outbox, settings=self._settings, now=now
        )
        self._leadership.lag_s = self._timer.lag_s

    def _become_follower(self, term: int, leader: str | None, now: float) -> None:
        if self._role is not Role.FOLLOWER:
            self._timer.restart(now)
        if self._leadership is not None:
            self._leadership.fail_reads()
            self._leadership = None
        if term > self._term:
            self._fail_forwarded()
            self._set_hard_state(term, None)
        self._role = Role.FOLLOWER
        self._set_leader(leader)

    def _step_down_if_over(self, now: float) -> None:
        if self._leadership is not None and self._leadership.over:
            self._become_follower(self._term, None, now)

    def _set_hard_state(self, term: int, vote: str | None) -> None:
        assert term > self._term or (term == self._term and self._vote is None)
        self._term, self._vote = term, vote
        self._hard_state_changed = True

    def _set_leader(self, leader: str | None) -> None:
        if leader == self._leader:
            return
        self._leader = leader
        self._fail_forwarded()
        if leader is None:
            self._timer.forget_leader()

    def _fail_forwarded(self) -> None:
        # An answer that comes after a change of leader or term must find no question: who answers it may be deposed.
        self._outbox.reads_failed += self._forwarded.take_all()

    # Messages

    def receive(self, sender: str, message: RaftMessage, *, now: float) -> None:
        """Take a message. It may be stale, repeated, out of order, or from somebody our log does not know."""
        if sender == self._me:
            return
        if message.term < self._term:
            self._answer_stale(sender, message)
            return
        _HANDLERS[type(message)](self, sender, message, now)
        self._step_down_if_over(now)

    def _answer_stale(self, sender: str, message: RaftMessage) -> None:
        """Tell a candidate or leader of an older term that it is over; forget everything else."""
        if isinstance(message, RequestVote):
            self._outbox.when_synced(sender, VoteAnswer(self._term, False, message.prevote))
        elif isinstance(message, AppendEntries):
            self._outbox.when_synced(sender, AppendAnswer(self._term, False, message.previous_index))
        elif isinstance(message, InstallSnapshot):
            self._outbox.when_synced(sender, SnapshotAnswer(self._term, message.index, 0))
        elif isinstance(message, Heartbeat):
            self._outbox.when_synced(sender, HeartbeatAnswer(self._term, message.round))
        elif isinstance(message, ReadIndexRequest):
            self._outbox.now(sender, ReadIndexAnswer(self._term, message.number, None))

    def _on_request_vote(self, sender: str, request: RequestVote, now: float) -> None:
        leads = self._leadership is not None or self._timer.protects_leader(now)
        if leads and not request.transfer:
            if request.prevote:
                self._outbox.now(sender, VoteAnswer(self._term, False, True))
            return
        up_to_date = is_up_to_date(
            theirs=(request.last_term, request.last_index), ours=(self._log.last_term, self._log.last_index)
        )
        if request.prevote:
            granted = up_to_date and request.term > self._term
            self._outbox.now(sender, VoteAnswer(request.term if granted else self._term, granted, True))
            return
        if request.term > self._term:
            self._become_follower(request.term, None, now)
        granted = up_to_date and self._leader is None and self._vote in (None, sender)
        if granted:
            if self._vote is None:
                self._set_hard_state(self._term, sender)
            self._timer.restart(now)
        self._outbox.when_synced(sender, VoteAnswer(self._term, granted))

    def _on_vote_answer(self, sender: str, answer: VoteAnswer, now: float) -> None:
        if answer.prevote and answer.granted:
            if self._role is Role.PRE_CANDIDATE and answer.term == self._term + 1:
                self._count_vote(sender, True, now)
        elif self._adopt_term(sender, answer.term, now):
            return
        elif self._role is (Role.PRE_CANDIDATE if answer.prevote else Role.CANDIDATE):
            self._count_vote(sender, answer.granted, now)

    def _adopt_term(self, sender: str, term: int, now: float) -> bool:
        """Follow a higher term in a member's answer; a stranger's concerns nobody. True: nothing more to do."""
        if term <= self._term:
            return False
        if sender in self._log.configuration.voters or sender in self._log.configuration.learners:
            self._become_follower(term, None, now)
        return True

    def _on_time_out_now(self, sender: str, message: TimeoutNow, now: float) -> None:
        if self._follow(sender, message.term, now):
            self.campaign(now=now, transfer=True)

    # Following

    def _follow(self, sender: str, term: int, now: float) -> bool:
        """Accept ``sender`` as leader of ``term``, which is not older than ours; False for a second one of a term."""
        if term > self._term:
            self._become_follower(term, sender, now)
        elif self._leader != sender:
            if self._leader is not None:
                return False
            self._become_follower(term, sender, now)
        self._timer.heard_leader(now)
        return True

    def _on_heartbeat(self, sender: str, heartbeat: Heartbeat, now: float) -> None:
        if not self._follow(sender, heartbeat.term, now):
            return
        if not self._log.installing:
            self._log.commit_to(min(heartbeat.commit, self._log.last_index))
        if heartbeat.round:
            self._outbox.now(sender, HeartbeatAnswer(self._term, heartbeat.round))

    def _on_append(self, sender: str, message: AppendEntries, now: float) -> None:
        if not self._follow(sender, message.term, now) or self._log.installing:
            return
        if not is_well_formed(message):
            return
        log, previous, entries = self._log, message.previous_index, message.entries
        if previous < log.commit:
            # What is committed agrees with every later leader; it may be compacted here and cannot be compared.
            entries = entries[log.commit - previous :]
            previous = log.commit
        elif log.term_at(previous) != message.previous_term:
            self._refuse_append(sender, message)
            return
        log.append_after(previous, entries)
        matched = previous + len(entries)
        log.commit_to(min(message.commit, matched))
        self._outbox.when_synced(sender, AppendAnswer(self._term, True, matched))

    def _refuse_append(self, sender: str, message: AppendEntries) -> None:
        agree = self._log.last_index_not_after(message.previous_index, message.previous_term)
        term = self._log.term_at(agree)
        self._outbox.now(sender, AppendAnswer(self._term, False, message.previous_index, agree, term or 0))

    def _on_install_snapshot(self, sender: str, chunk: InstallSnapshot, now: float) -> None:
        if not self._follow(sender, chunk.term, now) or self._log.installing:
            return
        if chunk.index <= self._log.commit or self._log.term_at(chunk.index) == chunk.snapshot_term:
            # We hold everything the snapshot covers: an entry that agrees implies all before it (log matching).
            self._log.commit_to(chunk.index)
            self._outbox.when_synced(sender, AppendAnswer(self._term, True, self._log.commit))
            return
        wanted = self._incoming.take(chunk)
        if wanted is None:
            return
        if wanted == chunk.total:
            snapshot = self._incoming.take_complete(chunk)
            if snapshot is not None:
                self._log.install(snapshot)
                self._outbox.install = snapshot
                return
            wanted = 0
        self._outbox.now(sender, SnapshotAnswer(self._term, chunk.index, wanted))

    # Leading

    def _on_append_answer(self, sender: str, answer: AppendAnswer, now: float) -> None:
        if not self._adopt_term(sender, answer.term, now) and self._leadership is not None:
            self._leadership.on_append_answer(sender, answer, now=now)

    def _on_heartbeat_answer(self, sender: str, answer: HeartbeatAnswer, now: float) -> None:
        if not self._adopt_term(sender, answer.term, now) and self._leadership is not None:
            self._leadership.on_heartbeat_answer(sender, answer, now=now)

    def _on_snapshot_answer(self, sender: str, answer: SnapshotAnswer, now: float) -> None:
        if not self._adopt_term(sender, answer.term, now) and self._leadership is not None:
            self._leadership.on_snapshot_answer(sender, answer, now=now)

    def _on_read_request(self, sender: str, request: ReadIndexRequest, now: float) -> None:
        if self._leadership is not None and request.term == self._term:
            self._leadership.read(Read(sender, request.number), now=now)
        else:
            self._outbox.now(sender, ReadIndexAnswer(self._term, request.number, None))

    def _on_read_answer(self, sender: str, answer: ReadIndexAnswer, now: float) -> None:
        token = self._forwarded.take(answer.number)
        if token is None:
            return
        if answer.index is None:
            self._outbox.reads_failed.append(token)
        else:
            self._outbox.reads.append(ReadReady(token, answer.index))

    # What comes out

    def take_step(self) -> RaftStep:
        """Return everything that came out since the last call; ``RaftStep`` says what to do with it in which order."""
        if self._leadership is not None:
            self._leadership.flush()
        hard_state = HardState(self._term, self._vote) if self._hard_state_changed else None
        self._hard_state_changed = False
        cut_after, append = self._log.take_writes(hard_state)
        committed = self._log.take_committed()
        shown = (self._role, self._term, self._leader)
        changed, self._shown = shown != self._shown, shown
        out = self._outbox
        if not (append or committed or changed or hard_state or out or cut_after is not None):
            return EMPTY_STEP
        step = RaftStep(
            hard_state,
            cut_after,
            append,
            out.install,
            tuple(out.send),
            tuple(out.send_synced),
            committed,
            tuple(out.reads),
            tuple(out.reads_failed),
            changed,
        )
        out.clear()
        return step


_HANDLERS: dict[type, Callable[..., None]] = {
    RequestVote: Raft._on_request_vote,
    VoteAnswer: Raft._on_vote_answer,
    AppendEntries: Raft._on_append,
    AppendAnswer: Raft._on_append_answer,
    Heartbeat: Raft._on_heartbeat,
    HeartbeatAnswer: Raft._on_heartbeat_answer,
    InstallSnapshot: Raft._on_install_snapshot,
    SnapshotAnswer: Raft._on_snapshot_answer,
    TimeoutNow: Raft._on_time_out_now,
    ReadIndexRequest: Raft._on_read_request,
    ReadIndexAnswer: Raft._on_read_answer,
}
