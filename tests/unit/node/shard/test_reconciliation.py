"""Two logs are brought into line epoch by epoch (KIP-101, KIP-279): the table of what is kept."""

from __future__ import annotations

import pytest

from ringkeep_core.mapchanges import Failover, Unfit
from ringkeep_node.machines.documents import CopyState
from ringkeep_node.machines.records import Kind, Record
from ringkeep_node.machines.shard.context import Context, LocalCopy
from ringkeep_node.machines.shard.copy_log import CopyLog
from ringkeep_node.machines.shard.reconciliation import Reconciled, reconcile
from ringkeep_node.machines.shard.settings import ReplicationSettings
from ringkeep_testing.maps import FIRST
from ringkeep_testing.shard_trio import Trio
from ringkeep_testing.sim_store import SimStore


def _copy(handed: int, acked: int) -> tuple[Context, LocalCopy]:
    """Return a copy with epoch 1 up to sn 5 and epoch 3 up to sn 8."""
    ctx = Context("a", "a-1", ReplicationSettings(), SimStore(), 0.0)
    log = CopyLog((0, 0), (), (0, 0))
    copy = LocalCopy(7, 1, log, 0, CopyState(), 3)
    for sn in range(1, 9):
        log.append((1 if sn <= 5 else 3, sn, b""))
    copy.handed, copy.acked = handed, acked
    return ctx, copy


@pytest.mark.parametrize(
    ("found_epoch", "end_sn", "outcome", "last_sn"),
    [
        (3, 8, (Reconciled.DONE, 8), 8),
        (3, 12, (Reconciled.DONE, 8), 8),
        (3, 6, (Reconciled.DONE, 6), 6),
        (1, 5, (Reconciled.DONE, 5), 5),
        (1, 9, (Reconciled.DONE, 5), 5),
        (1, 3, (Reconciled.DONE, 3), 3),
        (2, 7, (Reconciled.ASK_AGAIN, 1), 8),
        (0, 0, (Reconciled.DONE, 0), 0),
    ],
)
def test_a_log_is_cut_to_the_smaller_end_of_the_greatest_common_epoch(
    found_epoch: int, end_sn: int, outcome: tuple[Reconciled, int], last_sn: int
) -> None:
    ctx, copy = _copy(0, 0)
    result = reconcile(ctx, copy, found_epoch, end_sn)

    assert (result, copy.log.last_sn) == (outcome, last_sn)
    cut = Record(Kind.SHARD_CUT, 7, 1, copy.log.epoch_at(last_sn), last_sn)
    assert ctx.step.records == ([] if last_sn == 8 else [cut])


@pytest.mark.parametrize(("handed", "acked"), [(4, 0), (0, 4)])
def test_what_was_applied_or_acknowledged_is_never_cut(handed: int, acked: int) -> None:
    ctx, copy = _copy(handed, acked)
    result = reconcile(ctx, copy, 1, 3)

    assert (result, copy.log.last_sn, ctx.step.records) == ((Reconciled.UNFIT, 3), 8, [])


def test_everything_above_what_was_applied_and_acknowledged_may_be_cut() -> None:
    ctx, copy = _copy(3, 2)

    assert (reconcile(ctx, copy, 1, 3), copy.log.last_sn, copy.acked) == ((Reconciled.DONE, 3), 3, 2)


def _acknowledged_by_one() -> tuple[Trio, str, str, str]:
    """Return a shard whose last write "ahead" has acknowledged and "behind" never saw: primary, ahead, behind."""
    trio = Trio()
    primary = trio.primary
    ahead, behind = (name for name in "abc" if name != primary)
    trio.settle()
    trio.write(primary, "1")
    trio.settle()
    trio.write(primary, "2")
    trio.lose(primary, behind)
    trio.settle(primary, ahead)
    return trio, primary, ahead, behind


def _copy_at(trio: Trio, name: str) -> LocalCopy:
    return trio.machine(name)._ctx.copies[0]


def _fail_over(trio: Trio, to: str, *live: str) -> None:
    storages = tuple(trio.nodes[name].storage for name in live)
    trio.commit(Failover(0, trio.shard.revision, trio.nodes[to].storage, storages))


def test_what_only_one_copy_acknowledged_is_taken_over_when_the_primary_was_killed() -> None:
    trio, primary, ahead, behind = _acknowledged_by_one()
    ends = [_copy_at(trio, name).log.last_sn for name in (ahead, behind)]
    trio.kill(primary)
    _fail_over(trio, behind, ahead, behind)
    trio.hold(ahead, behind)
    trio.settle(ahead, behind)
    copies = [_copy_at(trio, name) for name in (ahead, behind)]

    assert ends[0] == ends[1] + 1
    assert [(copy.log.last_epoch, copy.log.last_sn, copy.unfit) for copy in copies] == [(2, ends[0] + 1, False)] * 2


def test_a_copy_cut_off_with_its_primary_is_rebuilt_when_it_acknowledged_what_the_others_never_saw() -> None:
    # The price that decision 0012 names.
    trio, primary, ahead, behind = _acknowledged_by_one()
    cut_off = [trio.nodes[name] for name in (primary, ahead)]
    for node in cut_off:
        trio.machine(behind).peer_down(node.storage, now=trio.now)
    _fail_over(trio, behind, behind)
    trio.hold(behind)
    trio.sync(behind)
    for node in cut_off:
        trio.machine(behind).peer_up(node.storage, node.boot, now=trio.now)
    trio.hold(primary, ahead)
    trio.pump(trio.nodes[behind])
    trio.settle()

    assert (_copy_at(trio, primary).unfit, _copy_at(trio, ahead).unfit) == (False, True)
    assert Unfit(0, trio.shard.revision, trio.nodes[ahead].storage, FIRST) in trio.proposals
