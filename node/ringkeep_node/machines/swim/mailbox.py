"""Fill datagrams: every packet names its sender and carries as much news as fits, and none is larger than the limit.

News go out twice: at once to everybody (in clusters of up to ``everybody_max``; beyond that to a few at random), and
then again on whatever is sent anyway, until they were told often enough (dissemination.py). Comparisons find what still
got lost.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from ringkeep_node.machines.gossip_state import Delta
from ringkeep_node.machines.swim.dissemination import Outbox, batches, sends_max
from ringkeep_node.machines.swim.members import Address, MemberState
from ringkeep_node.machines.swim.messages import (
    LIST_MAX,
    Kind,
    Myself,
    OpenSeal,
    Packet,
    Row,
    Seal,
    Update,
    Want,
    encode,
    size,
)
from ringkeep_node.machines.swim.probing import shuffled
from ringkeep_node.machines.swim.roster import Roster
from ringkeep_node.machines.swim.timing import SwimSettings

ANSWER_PACKETS_MAX = 8
NUMBER_MAX = (1 << 53) - 1
# Room for a packet's list headers, and for what a seal adds (nonce and tag: 28 bytes).
RESERVED_BYTES = 64


class Mailbox:
    """What this step sends, and what still has to be told."""

    def __init__(
        self,
        *,
        cluster_id: str,
        me: Myself,
        roster: Roster,
        settings: SwimSettings,
        seal: Seal,
        draw: Callable[[], float],
    ) -> None:
        self._cluster = cluster_id
        self._me = me
        self._roster = roster
        self._settings = settings
        self._seal = seal
        self._draw = draw
        self._send: list[tuple[Address, bytes]] = []
        self._spread: dict[tuple[str, str], Update] = {}
        self.outbox = Outbox()
        self.room = settings.datagram_bytes_max - self._largest_header() - RESERVED_BYTES
        """Bytes of lists that fit into one packet."""

    def tells_everybody(self) -> bool:
        """Return whether the cluster is small enough to tell everybody at once."""
        return self._roster.known_count() <= self._settings.everybody_max

    def tell(self, update: Update, *, spread: bool) -> None:
        """Pass news on with what is sent anyway; ``spread`` them at the end of this step too."""
        if update.incarnation < 0:
            # Known from the map only: everybody judges for itself until it has spoken once.
            return
        self.outbox.put(update)
        if spread:
            self.spread(update)

    def spread(self, update: Update) -> None:
        """Send news to everybody (or a few, see above) at the end of this step."""
        self._spread[update.storage, update.by] = update

    def post(
        self,
        to: Address,
        kind: Kind,
        updates: tuple[Update, ...] = (),
        *,
        number: int = 0,
        digest: int = 0,
        target: str = "",
        target_address: Address = ("", 0),
    ) -> None:
        """Send one packet, filled up with news that still travel."""
        room = self.room - sum(map(size, updates)) - len(target_address[0].encode())
        limit = sends_max(self._roster.alive_count, self._settings.retransmit)
        news = self.outbox.take(room, count_max=LIST_MAX - len(updates), sends_max=limit)
        packet = self._packet(
            kind,
            number=number,
            digest=digest,
            target=target,
            target_address=target_address,
            updates=updates + tuple(one for one in news if one not in updates),
        )
        self._dispatch(to, packet)

    def post_rows(self, to: Address, rows: tuple[Row, ...], *, low: str, high: str) -> None:
        """Send one side of a comparison, complete for the members from ``low`` up to but not including ``high``."""
        self._dispatch(to, self._packet(Kind.SYNC, rows=rows, low=low, high=high))

    def post_answer(
        self, to: Address, updates: Sequence[Update], deltas: Iterable[Delta], wants: Sequence[Want]
    ) -> None:
        """Send what a comparison brought to light, in a bounded number of packets; the next one finds the rest."""
        packets = [self._packet(Kind.ANSWER, wants=tuple(wants))] if wants else []
        packets.extend(self._packet(Kind.ANSWER, updates=group) for group in self._batches(updates))
        packets.extend(self._packet(Kind.ANSWER, deltas=(delta,)) for delta in deltas)
        for packet in packets[:ANSWER_PACKETS_MAX]:
            self._dispatch(to, packet)

    def gossip(self) -> None:
        """Tell a few random members what is new (large clusters)."""
        for address in self._some_addresses():
            self.post(address, Kind.GOSSIP)

    def drain(self, delta: Delta | None) -> tuple[tuple[Address, bytes], ...]:
        """Return all this step sends; ``delta`` (new values of ours) and the news to spread come last."""
        if self._spread or delta is not None:
            self._send_to_all(delta)
        drained = tuple(self._send)
        self._send.clear()
        return drained

    def _send_to_all(self, delta: Delta | None) -> None:
        packets = [self._packet(Kind.GOSSIP, updates=group) for group in self._batches(list(self._spread.values()))]
        self._spread.clear()
        if delta is not None:
            packets.append(self._packet(Kind.GOSSIP, deltas=(delta,)))
        datagrams = [encode(packet, self._seal) for packet in packets]
        if self.tells_everybody():
            members = self._roster.members.values()
            addresses = [one.address for one in members if one.state is not MemberState.LEFT]
        else:
            addresses = self._some_addresses()
        self._send.extend((address, data) for address in addresses for data in datagrams)

    def _some_addresses(self) -> list[Address]:
        present = [one.storage for one in self._roster.members.values() if one.state is not MemberState.LEFT]
        chosen = shuffled(present, self._draw)[: self._settings.gossip_fanout]
        return [self._roster.members[storage].address for storage in chosen]

    def _batches(self, updates: Sequence[Update]) -> list[tuple[Update, ...]]:
        return list(batches(updates, self.room, count_max=LIST_MAX))

    def _dispatch(self, to: Address, packet: Packet) -> None:
        self._send.append((to, encode(packet, self._seal)))

    def _packet(
        self,
        kind: Kind,
        *,
        number: int = 0,
        digest: int = 0,
        target: str = "",
        target_address: Address = ("", 0),
        updates: tuple[Update, ...] = (),
        deltas: tuple[Delta, ...] = (),
        rows: tuple[Row, ...] = (),
        wants: tuple[Want, ...] = (),
        low: str = "",
        high: str = "",
    ) -> Packet:
        return Packet(
            cluster=self._cluster,
            storage=self._me.storage,
            name=self._me.name,
            boot=self._me.boot,
            counter=self._me.counter,
            incarnation=self._me.incarnation,
            host=self._me.address[0],
            port=self._me.address[1],
            lag_ms=min(int(self._me.lag_s * 1000), NUMBER_MAX),
            digest=digest,
            kind=kind,
            number=number,
            target=target,
            target_host=target_address[0],
            target_port=target_address[1],
            updates=updates,
            deltas=deltas,
            rows=rows,
            wants=wants,
            low=low,
            high=high,
        )

    def _largest_header(self) -> int:
        packet = Packet(
            cluster=self._cluster,
            storage=self._me.storage,
            name=self._me.name,
            boot=self._me.boot,
            counter=NUMBER_MAX,
            incarnation=NUMBER_MAX,
            host=self._me.address[0],
            port=self._me.address[1],
            lag_ms=NUMBER_MAX,
            digest=(1 << 64) - 1,
            kind=Kind.PING_REQUEST,
            number=NUMBER_MAX,
            target=self._me.storage,
            target_port=1 << 15,
            low=self._me.storage,
            high=self._me.storage,
        )
        return len(encode(packet, OpenSeal()))
