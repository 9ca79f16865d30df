"""Answer reads from committed state: the store, with the overlay of committed entries above it.

A page is read from the store by somebody else while entries go on being applied. It comes back with the applied sn it
was read at: overlay rows up to that sn are in it already and are dropped, the others replace or remove what it shows.
The result is the state at the greater of the two numbers, exactly.

Source: replication.md, rules 1 and 2; interface.md, list.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from ringkeep_node.machines.documents import Row
from ringkeep_node.machines.shard.context import Context, LocalCopy
from ringkeep_node.machines.shard.effects import (
    Absent,
    Found,
    NotApplied,
    NotModified,
    OverlayRow,
    PageFound,
    ReadKind,
    ReadPage,
    ReadRequest,
    Result,
)
from ringkeep_node.machines.shard.operations import Overlay, holds, row_of

ROW_BYTES = 64
"""What a row of a page takes beside its texts and its value; the store counts the same."""


def answer_read(ctx: Context, copy: LocalCopy, overlay: Overlay, epoch: int, token: int, request: ReadRequest) -> None:
    """Answer a confirmed read of the primary."""
    ctx.tally.strict_reads += 1
    ctx.tally.served_at = ctx.now
    if request.kind == ReadKind.PAGE:
        start_page(ctx, copy, overlay, epoch, 0, token, request)
        return
    held = overlay.committed(request.user, request.key, copy.commit)
    row = row_of(held) if held is not None else ctx.store.row(copy.shard, copy.added, request.user, request.key)
    ctx.answer(token, point_result(row, request, epoch, 0))


def answer_local(ctx: Context, copy: LocalCopy, epoch: int, token: int, request: ReadRequest) -> None:
    """Answer from what this replica has applied, at once."""
    ctx.tally.local_reads += 1
    ctx.tally.served_at = ctx.now
    lag = max(0, copy.heard_commit - copy.applied)
    if request.kind == ReadKind.PAGE:
        start_page(ctx, copy, None, epoch, lag, token, request)
        return
    row = ctx.store.row(copy.shard, copy.added, request.user, request.key)
    ctx.answer(token, point_result(row, request, epoch, lag))


def point_result(row: Row | None, request: ReadRequest, epoch: int, lag: int) -> Result:
    """Return what a read of one document is answered."""
    version = 0 if row is None else row.version
    if request.if_match is not None and not holds(version, request.if_match, None):
        return NotApplied("version_mismatch")
    if row is None:
        return Absent(epoch, lag)
    if request.if_none_match is not None and not holds(version, None, request.if_none_match):
        return NotModified(version, epoch)
    size = len(row.value)
    return Found(replace(row, value=b"") if request.kind == ReadKind.HEAD else row, size, epoch, lag)


class OpenPage:
    """A page that is being read from the store."""

    __slots__ = ("copy", "epoch", "lag", "overlay", "request", "token")

    def __init__(
        self, token: int, copy: LocalCopy, request: ReadRequest, overlay: list[OverlayRow], epoch: int, lag: int
    ) -> None:
        self.token, self.copy, self.request = token, copy, request
        self.overlay, self.epoch, self.lag = overlay, epoch, lag


def start_page(
    ctx: Context, copy: LocalCopy, overlay: Overlay | None, epoch: int, lag: int, token: int, request: ReadRequest
) -> None:
    """Order the read of a page and remember what lies above it."""
    above = [] if overlay is None else overlay_rows(overlay, copy.commit, request)
    order = ctx.next_token()
    ctx.pages[order] = OpenPage(token, copy, request, above, epoch, lag)
    ctx.step.reads.append(
        ReadPage(
            order, copy.shard, copy.added, request.user, request.prefix, request.after, request.limit, request.bytes_max
        )
    )


def overlay_rows(overlay: Overlay, commit: int, request: ReadRequest) -> list[OverlayRow]:
    """Return the newest committed write of each document of a page that the store may lack, in key order."""
    found = []
    for (user, key), held in overlay.rows.items():
        if user == request.user and key > request.after and key.startswith(request.prefix):
            newest = next((one for one in reversed(held) if one[0] <= commit), None)
            if newest is not None:
                found.append(OverlayRow(newest[0], key, row_of(newest)))
    return sorted(found, key=lambda it: it.key.encode())


def finish_page(page: OpenPage, rows: Sequence[Row], applied_sn: int, more: bool) -> PageFound:
    """Return the page: what the store showed at ``applied_sn``, and above it what it did not have yet.

    ``more``: the store has documents after the last of ``rows``; those of the overlay beyond it belong to a later page.
    """
    merged: dict[str, Row | None] = {row.key: row for row in rows}
    bound = rows[-1].key.encode() if more and rows else None
    for held in page.overlay:
        if held.sn > applied_sn and (bound is None or held.key.encode() <= bound):
            merged[held.key] = held.row
    ordered = sorted((row for row in merged.values() if row is not None), key=lambda row: row.key.encode())
    after: str | None = rows[-1].key if more and rows else None
    fitting = _fitting(ordered, page.request.limit, page.request.bytes_max)
    if fitting < len(ordered):
        ordered = ordered[:fitting]
        after = ordered[-1].key
    return PageFound(tuple(ordered), after, page.epoch, page.lag)


def _fitting(rows: Sequence[Row], limit: int, bytes_max: int) -> int:
    """Return how many rows belong into one page: as the store counts, the one that reaches the limit is the last."""
    size = 0
    for number, row in enumerate(rows):
        if number >= limit or size >= bytes_max:
            return number
        size += ROW_BYTES + len(row.user) + len(row.key) + len(row.value)
    return len(rows)
