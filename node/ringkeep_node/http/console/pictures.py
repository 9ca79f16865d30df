"""What the console shows at one moment, and what is new in it since another moment. Pure.

A picture has parts: values that are replaced as a whole (``cluster``, ``summary``, ``plan``), values by name (``members``,
``rates``) and one row for each shard. A difference has only what changed: names that are gone are null, shards are named by
number.

    look -> Picture      difference(Picture, Picture) -> {"members": {"n2": {...}}, "shards": {"17": [...]}}
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec
from msgspec import Struct

from ringkeep_core.shardmap import Copy, Shard, ShardMap
from ringkeep_node.http.cluster import shard_state
from ringkeep_node.runtime.reports import Event, MemberReport

EVIDENCE_SHOWN: Final = 3
SAME_S: Final = 1.5
"""Wall times are made from monotonic ones at each look; so much they may differ and still mean the same moment."""
DETAIL_CHARS: Final = 240
ShardRow = tuple[int, int, str, tuple[str, ...], tuple[str, ...], int, str]
"""Epoch, revision, primary, in sync, learners, need, state."""


class Picture(Struct, frozen=True, kw_only=True):
    """Everything that is shown, but the history. ``shards`` keeps its identity while no row changes."""

    summary: Mapping[str, Any] = {}
    cluster: Mapping[str, Any] = {}
    plan: Mapping[str, Any] | None = None
    members: Mapping[str, Mapping[str, Any]] = {}
    rates: Mapping[str, Mapping[str, Any]] = {}
    shards: tuple[ShardRow, ...] = ()


def whole(picture: Picture) -> dict[str, Any]:
    """Return a picture for somebody who knows nothing."""
    return {name: getattr(picture, name) for name in Picture.__struct_fields__}


def difference(before: Picture, after: Picture) -> dict[str, Any]:
    """Return what somebody who knows ``before`` must be told to know ``after``; empty if that is nothing."""
    if len(before.shards) != len(after.shards):
        return {**whole(after), "anew": True}
    told: dict[str, Any] = {}
    for name in ("summary", "cluster", "plan"):
        if getattr(before, name) != getattr(after, name):
            told[name] = getattr(after, name)
    for name in ("members", "rates"):
        if new := _named(getattr(before, name), getattr(after, name)):
            told[name] = new
    if before.shards is not after.shards:
        pairs = enumerate(zip(before.shards, after.shards, strict=True))
        if rows := {str(number): new for number, (old, new) in pairs if old is not new and old != new}:
            told["shards"] = rows
    return told


def _named(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    changed = {name: value for name, value in after.items() if before.get(name) != value}
    return changed | {name: None for name in before if name not in after}


# --- shards ------------------------------------------------------------------------------------------------------


class Rows:
    """The rows of the shards, made anew only for what changed: a map is replaced far less often than it is looked at."""

    def __init__(self) -> None:
        self._held: ShardMap | None = None
        self._gone: frozenset[str] = frozenset()
        self._rows: tuple[ShardRow, ...] = ()

    def of(self, held: ShardMap | None, gone: frozenset[str]) -> tuple[ShardRow, ...]:
        """Return a row for each shard; ``gone`` are the storage ids of the members that are dead or have left."""
        if held is None:
            self._held, self._rows = None, ()
        elif held is not self._held or gone != self._gone:
            self._rows = self._made(held, gone)
            self._held, self._gone = held, gone
        return self._rows

    def _made(self, held: ShardMap, gone: frozenset[str]) -> tuple[ShardRow, ...]:
        names = {storage: member.name for storage, member in held.members.items()}
        full, old = held.copies_wanted(), self._held
        same = (
            old is not None
            and len(old.shards) == len(held.shards)
            and (gone, full) == (self._gone, old.copies_wanted())
            and names == {storage: member.name for storage, member in old.members.items()}
        )
        if not same:
            return tuple(_row(shard, names, gone, full) for shard in held.shards)
        assert old is not None
        triples = zip(held.shards, old.shards, self._rows, strict=True)
        return tuple(row if new is was else _row(new, names, gone, full) for new, was, row in triples)


def _row(shard: Shard, names: Mapping[str, str], gone: frozenset[str], full: int) -> ShardRow:
    return (
        shard.epoch,
        shard.revision,
        names.get(shard.primary.storage, ""),
        _names(shard.in_sync, names),
        _names(shard.learners, names),
        shard.need,
        shard_state(shard, gone, full),
    )


def _names(copies: Sequence[Copy], names: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(names.get(copy.storage, copy.storage) for copy in copies)


def counts_of(rows: Sequence[ShardRow]) -> dict[str, int]:
    """Return how many shards are in each state."""
    counts = {"total": len(rows), "ok": 0, "moving": 0, "under_replicated": 0, "unavailable": 0}
    for row in rows:
        counts[row[6]] += 1
    return counts


# --- members and events ------------------------------------------------------------------------------------------


def member_rows(reports: Sequence[MemberReport], before: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return what is shown of each member, by name; a moment that only wobbles stays as it was ``before``.

    A name may stand for two directories for a while, the older of them on its way out: the one in use is shown.
    """
    rows: dict[str, dict[str, Any]] = {}
    for report in reports:
        if report.state == "left" and report.name in rows:
            continue
        row = _member_row(report)
        known = before.get(report.name)
        if known is not None and _steady(known, row):
            row["since"], row["evidence"] = known["since"], known["evidence"]
        rows[report.name] = row
    return rows


def _member_row(report: MemberReport) -> dict[str, Any]:
    return {
        "state": report.state,
        "url": report.url,
        "zone": report.zone,
        "weight": report.weight,
        "draining": report.draining,
        "copies": report.copies,
        "primaries": report.primaries,
        "boot_id": report.boot_id,
        "since": round(report.since, 1),
        "evidence": [[one.by, round(one.at, 1), one.why] for one in report.evidence[-EVIDENCE_SHOWN:]],
    }


def _steady(known: Mapping[str, Any], row: Mapping[str, Any]) -> bool:
    if abs(known["since"] - row["since"]) > SAME_S or len(known["evidence"]) != len(row["evidence"]):
        return False
    pairs = zip(known["evidence"], row["evidence"], strict=True)
    return all(old[0] == new[0] and old[2] == new[2] and abs(old[1] - new[1]) <= SAME_S for old, new in pairs)


def event_row(event: Event) -> list[Any]:
    """Return an event as the console shows it: number, time, kind, sentence, reason, which shards (cut short), counts."""
    fields = event.fields
    detail, reason = str(fields.get("detail", "")), str(fields.get("reason", "") or fields.get("why", ""))
    moved = {name: fields[name] for name in MOVED if name in fields}
    if len(detail) > DETAIL_CHARS:
        detail = f"{detail[:DETAIL_CHARS].rpartition(',')[0]} …"
    return [event.number, round(event.at, 1), event.kind, event.text, reason, detail, moved]


MOVED: Final = ("copies_added", "copies_in_sync", "copies_out_of_sync", "copies_removed", "primaries_moved")

_encoder = msgspec.json.Encoder()


def encoded(event: str, identity: str, data: Mapping[str, Any]) -> bytes:
    """Return a server-sent event. JSON has no line ends, so the data is one line."""
    return b"event: %s\nid: %s\ndata: %s\n\n" % (event.encode(), identity.encode(), _encoder.encode(data))
