"""One leadership: all that a node knows and does because it leads in one term.

The object is made when an election is won and thrown away when the term or the office ends; nothing of it (progress of
followers, confirmation rounds, waiting reads, a transfer) can then be mistaken for knowledge of another term. When it
sets ``over`` its owner must step down.

What is new is sent in ``flush``, which the owner calls once per step: proposals and reads that arrive together travel
together.

Source: Raft paper 5.3, 5.4.2, 8; thesis 3.10 (transfer), 4.2.2 (removed leader), 6.2 (quorum contact), 6.4 (ReadIndex).
"""

from __future__ import annotations

from math import inf

import xxhash
from msgspec import Struct

from ringkeep_node.machines.raft import membership
from ringkeep_node.machines.raft.log import RaftLog, size_of
from ringkeep_node.machines.raft.messages import (
    CONFIGURATION,
    NOOP,
    NORMAL,
    AppendAnswer,
    AppendEntries,
    Configuration,
    Entry,
    Heartbeat,
    HeartbeatAnswer,
    InstallSnapshot,
    Proposed,
    Refused,
    SnapshotAnswer,
    TimeoutNow,
    encode_configuration,
)
from ringkeep_node.machines.raft.outbox import Outbox
from ringkeep_node.machines.raft.reads import LeaderReads, Read
from ringkeep_node.machines.raft.replication import Mode, Progress
from ringkeep_node.machines.raft.settings import RaftSettings


class _Transfer(Struct, frozen=True):
    to: str
    deadline: float
    resign: bool


class Leadership:
    """The leader's side of Raft in one term. Times are monotonic seconds."""

    def __init__(self, *, me: str, term: int, log: RaftLog, outbox: Outbox, settings: RaftSettings, now: float) -> None:
        self._me, self._term, self._log, self._outbox, self._settings = me, term, log, outbox, settings
        self.over = False
        self.lag_s = 0.0
        self.heartbeat_due = now + settings.heartbeat_s
        self._peers: dict[str, Progress] = {}
        self._departing: dict[str, float] = {}
        self._round = self._confirmed = 0
        self._round_wanted_at: float | None = None
        self._reads = LeaderReads(settings.reads_max)
        self._transfer: _Transfer | None = None
        self._uncommitted_bytes = sum(size_of(entry) for entry in log.range(log.commit + 1, log.last_index))
        self._first_index = log.last_index + 1
        self._reconfigure(self._first_index, now)
        self._append(NOOP, b"")

    @property
    def ready(self) -> bool:
        """Return whether an entry of this term is committed, so that the commit index is nobody's past."""
        return self._log.commit >= self._first_index

    @property
    def transferring_to(self) -> str | None:
        """Return whom leadership is being handed to."""
        return self._transfer.to if self._transfer else None

    def next_deadline(self) -> float:
        """Return when ``tick`` has something to do."""
        return min(self.heartbeat_due, self._transfer.deadline if self._transfer else inf)

    # Proposals

    def propose(self, payload: bytes) -> Proposed | Refused:
        """Append the application's payload, or say why not (see ``Raft.propose``)."""
        if self._transfer:
            return Refused("transferring")
        if len(payload) > self._settings.entry_bytes_max:
            return Refused("too_large")
        if self._uncommitted_bytes + len(payload) > self._settings.uncommitted_bytes_max and self._uncommitted_bytes:
            return Refused("overloaded")
        return self._append(NORMAL, payload)

    def propose_configuration(self, configuration: Configuration, *, now: float) -> Proposed | Refused:
        """Append a configuration if the guards allow it (see ``membership``)."""
        reason = self._configuration_refusal(configuration)
        if reason is not None:
            return Refused(reason)
        proposed = self._append(CONFIGURATION, encode_configuration(configuration))
        self._reconfigure(proposed.index, now)
        return proposed

    def _configuration_refusal(self, after: Configuration) -> str | None:
        if self._transfer:
            return "transferring"
        if not self.ready:
            return "not_ready"
        if self._log.configuration_index > self._log.commit:
            return "in_progress"
        before = self._log.configuration
        reason = membership.refusal(before, after)
        if reason is not None:
            return reason
        added = [voter for voter in after.voters if voter not in before.voters]
        return None if all(self.is_level(voter) for voter in added) else "not_caught_up"

    def is_level(self, member: str) -> bool:
        """Return whether a member of the configuration holds nearly all of the log: as a voter it would hold up nobody."""
        if member == self._me:
            return True
        peer = self._peers.get(member)
        behind = self._log.last_index - self._settings.caught_up_entries
        return peer is not None and 0 < peer.match >= behind

    def _append(self, kind: int, payload: bytes) -> Proposed:
        entry = Entry(self._term, self._log.last_index + 1, kind, payload)
        self._log.append((entry,))
        self._uncommitted_bytes += size_of(entry)
        self._dirty = True
        return Proposed(entry.term, entry.index)

    def _reconfigure(self, first_sent: int, now: float) -> None:
        """Follow the configuration in effect: new members are probed, those that left are told so and then forgotten.

        ``first_sent`` is the index of the entry that goes with the change, so that a new member is probed at once even
        if nothing is proposed after it. Who leaves gets the log until the entry that removes it is committed there:
        otherwise it would take itself for a voter, and stand for election, for as long as it runs.
        """
        members = [member for member in self._log.configuration.members() if member != self._me]
        ends = now + self._settings.election_s_max
        self._departing = {member: self._departing.get(member, ends) for member in self._peers if member not in members}
        self._peers = {
            member: self._peers.get(member) or Progress(next_index=first_sent, now=now)
            for member in (*members, *self._departing)
        }
        if self._transfer and self._transfer.to not in self._log.configuration.voters:
            self._transfer = None
        self._dirty = True

    # Commit

    def advance_commit(self, *, now: float) -> None:
        """Commit what a majority holds durably, ourselves counted like any other voter.

        Only an entry of our own term commits by counting; what precedes it commits with it (paper 5.4.2, figure 8).
        """
        log = self._log
        index = membership.reached_by_majority([self._durable(voter) for voter in log.configuration.voters])
        if index <= log.commit or log.term_at(index) != self._term:
            return
        self._uncommitted_bytes -= sum(size_of(entry) for entry in log.range(log.commit + 1, index))
        log.commit_to(index)
        self._dirty = True
        for read in self._reads.take_early():
            self.read(read, now=now)
        if log.configuration_index <= index and self._me not in log.configuration.voters:
            self._leave()

    def _durable(self, voter: str) -> int:
        return self._log.stable if voter == self._me else self._peers[voter].match

    def _leave(self) -> None:
        """Our removal is committed: tell everybody, let the best voter stand at once, and step down (thesis 4.2.2)."""
        self.flush()
        successor = self._best_successor()
        if successor is not None:
            self._outbox.now(successor, TimeoutNow(self._term))
        self.over = True

    # Sending

    def flush(self) -> None:
        """Send what has become sendable since the last call."""
        if self._round_wanted_at is not None:
            self._start_round(self._round_wanted_at)
        if not self._dirty:
            return
        self._dirty = False
        for to, peer in self._peers.items():
            while peer.next <= self._log.last_index and peer.can_send(self._settings):
                self._send_append(to, peer)
            told = min(peer.match, self._log.commit)
            if told > peer.commit_told:
                peer.commit_told = told
                self._outbox.now(to, Heartbeat(self._term, told, 0))
        if self._departing:
            self._forget([it for it in self._departing if self._peers[it].commit_told >= self._log.configuration_index])

    def _forget(self, departed: list[str]) -> None:
        for member in departed:
            del self._departing[member], self._peers[member]

    def _send_append(self, to: str, peer: Progress, *, empty: bool = False) -> None:
        log, previous = self._log, peer.next - 1
        previous_term = log.term_at(previous)
        if previous_term is None:
            self._start_snapshot(to, peer)
            return
        entries = () if empty else log.entries(peer.next, self._settings.append_bytes_max)
        self._outbox.now(to, AppendEntries(self._term, previous, previous_term, log.commit, entries))
        if not empty:
            last = previous + len(entries)
            peer.commit_told = max(peer.commit_told, min(last, log.commit))
            peer.sent(last, sum(size_of(entry) for entry in entries))

    def _start_snapshot(self, to: str, peer: Progress) -> None:
        snapshot = self._log.snapshot
        assert snapshot is not None and snapshot.index >= self._log.base_index
        peer.start_snapshot(snapshot, xxhash.xxh3_64_intdigest(snapshot.data))
        self._send_chunk(to, peer)

    def _send_chunk(self, to: str, peer: Progress) -> None:
        snapshot, offset = peer.snapshot, peer.offset
        assert snapshot is not None
        data = snapshot.data[offset : offset + self._settings.snapshot_chunk_bytes]
        message = InstallSnapshot(
            self._term,
            snapshot.index,
            snapshot.term,
            snapshot.configuration,
            len(snapshot.data),
            peer.digest,
            offset,
            data,
        )
        self._outbox.now(to, message)

    # Answers

    def on_append_answer(self, sender: str, answer: AppendAnswer, *, now: float) -> None:
        """Take a follower's word on how far its log agrees with ours."""
        peer = self._peers.get(sender)
        if peer is None or answer.index > self._log.last_index:
            return
        peer.heard_at = now
        if not answer.success:
            agree = self._log.last_index_not_after(answer.hint_index, answer.hint_term)
            self._dirty |= peer.refused(answer.index, agree)
            return
        self._dirty = True
        if peer.granted(answer.index):
            self.advance_commit(now=now)
            self._nudge_successor()

    def on_heartbeat_answer(self, sender: str, answer: HeartbeatAnswer, *, now: float) -> None:
        """Count a confirmation, and wake up whatever of this follower has not moved since the last heartbeat."""
        peer = self._peers.get(sender)
        if peer is None:
            return
        peer.heard_at = now
        if answer.round > peer.round:
            peer.round = min(answer.round, self._round)
            self._confirm(now)
        if peer.silent:
            peer.silent = False
            self._wake(sender, peer)

    def _wake(self, to: str, peer: Progress) -> None:
        if peer.mode is Mode.SNAPSHOT:
            self._send_chunk(to, peer)
        elif peer.mode is Mode.PROBE:
            peer.paused = False
            self._dirty = True
        else:
            # An empty message shows whether what we sent was lost, without sending it again to a disk that is only
            # slow.
            self._send_append(to, peer, empty=True)

    def on_snapshot_answer(self, sender: str, answer: SnapshotAnswer, *, now: float) -> None:
        """Send the chunk the receiver wants."""
        peer = self._peers.get(sender)
        if peer is None:
            return
        peer.heard_at = now
        if peer.chunk_wanted(answer.index, answer.offset):
            self._send_chunk(sender, peer)

    # Time

    def tick(self, *, now: float) -> None:
        """Speak if we have been silent; step down if a majority has been (thesis 6.2)."""
        if self._transfer and now >= self._transfer.deadline:
            self.over |= self._transfer.resign
            self._transfer = None
        if now < self.heartbeat_due:
            return
        self._forget([member for member, ends in self._departing.items() if now >= ends])
        heard = membership.reached_by_majority(
            [inf if voter == self._me else self._peers[voter].heard_at for voter in self._log.configuration.voters]
        )
        if now >= heard + self._settings.election_s_max + self.lag_s:
            self.over = True
            return
        for peer in self._peers.values():
            mark = (peer.mode, peer.match, peer.next, peer.offset)
            peer.silent = mark == peer.mark and (peer.mode is Mode.SNAPSHOT or peer.match < self._log.last_index)
            peer.mark = mark
        self._start_round(now)
        self._nudge_successor()

    def _start_round(self, now: float) -> None:
        self._round += 1
        self._round_wanted_at = None
        self.heartbeat_due = now + self._settings.heartbeat_s
        for to, peer in self._peers.items():
            told = min(peer.match, self._log.commit)
            self._outbox.now(to, Heartbeat(self._term, told, self._round))
        self._confirm(now)

    # Reads

    def read(self, read: Read, *, now: float) -> None:
        """Take a read; its answer leaves through the outbox."""
        if not self.ready:
            accepted = self._reads.add_early(read)
        else:
            accepted = self._reads.add(read, index=self._log.commit, confirming_round=self._round + 1)
            if self._confirmed == self._round:
                self._round_wanted_at = now
        if not accepted:
            self._outbox.answer_read(read, self._term, None)

    def own_index(self) -> int | None:
        """Return the commit index if this node alone is the majority that confirms it, else None.

        That is a whole ReadIndex: nobody else is to be asked, and no other node can have been elected without our vote.
        """
        return self._log.commit if self.ready and self._log.configuration.voters == (self._me,) else None

    def fail_reads(self) -> None:
        """Tell everybody who waits for a confirmation that none will come."""
        for read in self._reads.take_all():
            self._outbox.answer_read(read, self._term, None)

    def _confirm(self, now: float) -> None:
        self._confirmed = membership.reached_by_majority(
            [self._round if voter == self._me else self._peers[voter].round for voter in self._log.configuration.voters]
        )
        for read, index in self._reads.take_confirmed(self._confirmed):
            self._outbox.answer_read(read, self._term, index)
        if self._reads and self._confirmed == self._round:
            self._round_wanted_at = now

    # Transfer

    def transfer(self, to: str, *, now: float, resign: bool = False) -> bool:
        """Bring ``to`` up to date and let it stand at once (thesis 3.10). ``resign``: step down even if it loses."""
        if to == self._me or to not in self._log.configuration.voters:
            return False
        if self._transfer is None or self._transfer.to != to or (resign and not self._transfer.resign):
            self._transfer = _Transfer(to, now + self._settings.election_s_min, resign)
            self._nudge_successor()
        return True

    def resign(self, *, now: float) -> bool:
        """Hand leadership to the best voter, or give it up; False in a group of one, where that helps nobody."""
        successor = self._best_successor()
        return successor is not None and self.transfer(successor, now=now, resign=True)

    def _best_successor(self) -> str | None:
        others = [voter for voter in self._log.configuration.voters if voter != self._me]
        return max(others, key=lambda voter: (self._peers[voter].match, self._peers[voter].heard_at), default=None)

    def _nudge_successor(self) -> None:
        if self._transfer and self._peers[self._transfer.to].match == self._log.last_index:
            self._outbox.now(self._transfer.to, TimeoutNow(self._term))
