"""Find out what two members know differently, and tell each other the differences only.

    digests differ -> rows (SYNC) -> news, values, wants (ANSWER) -> the wanted news and values (ANSWER)

A digest may differ for a moment while news travel, so it must differ for ``sync_after_s`` before rows are sent; with a
member met for the first time, or back from the dead, rows go at once: it may bring a whole island.
"""

from __future__ import annotations

from collections.abc import Iterable

from ringkeep_node.machines.gossip_state import Delta, GossipState
from ringkeep_node.machines.swim.dissemination import RowCursor, digest_of, within
from ringkeep_node.machines.swim.mailbox import Mailbox
from ringkeep_node.machines.swim.members import Address, Evidence, Member, MemberState
from ringkeep_node.machines.swim.messages import ROWS_MAX, Myself, Packet, Row, Update, Want
from ringkeep_node.machines.swim.roster import Roster
from ringkeep_node.machines.swim.timing import SwimSettings


class Comparison:
    """Our side of every comparison."""

    def __init__(
        self, *, me: Myself, roster: Roster, values: GossipState, mailbox: Mailbox, settings: SwimSettings
    ) -> None:
        self._me = me
        self._roster = roster
        self._values = values
        self._mailbox = mailbox
        self._settings = settings
        self._cursor = RowCursor(ROWS_MAX)
        self._digest: int | None = None
        self.started = 0

    def digest(self) -> int:
        """Return the hash of what everybody should agree on."""
        if self._digest is None:
            rows = map(self._row, sorted([self._me.storage, *self._roster.members]))
            self._digest = digest_of(row for row in rows if row is not None and row.state <= MemberState.SUSPECT)
        return self._digest

    def outdate(self) -> None:
        """Say that members or values have changed, so that the digest must be made anew."""
        self._digest = None

    def meet(self, sender: Member, digest: int, now: float) -> None:
        """Compare with a member whose digest differs, if it differs for long enough."""
        if digest == self.digest():
            sender.mismatch_at = None
            return
        if sender.mismatch_at is None:
            sender.mismatch_at = now
        if sender.synced_at is not None:
            ripe_at = max(
                sender.mismatch_at + self._settings.sync_after_s, sender.synced_at + self._settings.sync_interval_s
            )
            if now < ripe_at:
                return
        sender.synced_at = now
        self.started += 1
        low, high, storages = self._cursor.next(sorted([self._me.storage, *self._roster.members]))
        rows = tuple(row for row in map(self._row, storages) if row is not None)
        self._mailbox.post_rows(sender.address, rows, low=low, high=high)

    def answer_rows(self, packet: Packet, to: Address) -> None:
        """Tell the sender of rows what we know better, and ask for what it knows better."""
        theirs = {row.storage: row for row in packet.rows}
        known = (self._me.storage, *self._roster.members)
        ours = [storage for storage in known if within(storage, packet.low, packet.high)]
        updates: list[Update] = []
        deltas: list[Delta] = []
        wants: list[Want] = []
        for storage in sorted({*ours, *theirs}):
            row = theirs.get(storage)
            held = self._row(storage) if storage in known else None
            if held is not None and (row is not None or held.state <= MemberState.SUSPECT):
                self._add_news(held, row, updates, deltas)
            if row is not None and (held is None or _is_ahead(row, held)) and len(wants) < ROWS_MAX:
                wants.append(Want(storage, *self._values.held(storage)))
        self._mailbox.post_answer(to, updates, deltas, wants)

    def answer_wants(self, wants: Iterable[Want], to: Address) -> None:
        """Tell what was asked for."""
        updates: list[Update] = []
        deltas: list[Delta] = []
        for want in wants:
            known = want.storage == self._me.storage or want.storage in self._roster.members
            if known and self._row(want.storage) is not None:
                updates.append(self._news(want.storage))
                deltas.extend(self._values_after(want.storage, want.counter, want.version))
        self._mailbox.post_answer(to, updates, deltas, ())

    def _add_news(self, ours: Row, theirs: Row | None, updates: list[Update], deltas: list[Delta]) -> None:
        if theirs is None or _rank(ours) > _rank(theirs):
            updates.append(self._news(ours.storage))
        held = (0, 0) if theirs is None else (theirs.values_counter, theirs.values_version)
        deltas.extend(self._values_after(ours.storage, *held))

    def _values_after(self, storage: str, counter: int, version: int) -> list[Delta]:
        delta = self._values.since(storage, counter, version, bytes_max=self._mailbox.room)
        return [] if delta is None else [delta]

    def _news(self, storage: str) -> Update:
        if storage != self._me.storage:
            return self._roster.as_seen(self._roster.members[storage])
        return self._me.update(Evidence.LEAVING if self._me.leaving else Evidence.JOINED)

    def _row(self, storage: str) -> Row | None:
        """Return what we believe of a member; None if we know it from the map only."""
        counter, version = self._values.held(storage)
        if storage == self._me.storage:
            return Row(storage, self._me.counter, self._me.incarnation, self._me.state, counter, version)
        member = self._roster.members[storage]
        if member.incarnation < 0:
            return None
        return Row(storage, member.counter, member.incarnation, member.state, counter, version)


def _rank(row: Row) -> tuple[int, int, int]:
    return row.counter, row.incarnation, row.state


def _is_ahead(theirs: Row, ours: Row) -> bool:
    their_values = (theirs.values_counter, theirs.values_version)
    return _rank(theirs) > _rank(ours) or their_values > (ours.values_counter, ours.values_version)
