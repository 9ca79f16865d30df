"""How a log is brought into line with another one: epoch by epoch, never by commit mark.

The asker names an epoch; the other side answers with the largest epoch <= that which wrote into its log, and where that
epoch ends there. If the asker has no entry of that epoch it asks again with its own largest epoch below; at the greatest
common epoch it keeps its log up to the smaller of the two ends. Nothing that was handed to the store, or that this boot
told a primary it holds, is ever cut: such a copy is unfit.

Source: replication.md, rule 6; KIP-101, KIP-279; counterexamples.md S9.
"""

from __future__ import annotations

from enum import IntEnum

from ringkeep_node.machines.shard.context import Context, LocalCopy


class Reconciled(IntEnum):
    """What came of an answer about an epoch's end."""

    DONE = 1
    ASK_AGAIN = 2
    UNFIT = 3


def reconcile(ctx: Context, copy: LocalCopy, found_epoch: int, end_sn: int) -> tuple[Reconciled, int]:
    """Act on "epoch ``found_epoch`` ends at ``end_sn``" from the log to follow; return what to do, and an epoch or sn."""
    own_epoch, own_end = copy.log.end_of(found_epoch)
    if own_epoch != found_epoch:
        return Reconciled.ASK_AGAIN, own_epoch
    keep = min(own_end, end_sn)
    if keep < copy.handed or keep < copy.acked:
        return Reconciled.UNFIT, keep
    ctx.cut(copy, keep)
    return Reconciled.DONE, keep
