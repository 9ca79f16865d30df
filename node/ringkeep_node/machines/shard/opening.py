"""What a starting node makes of the copies it finds in store and log, when the map says which of them it holds.

    log and store fit together         -> the copy as it was; entries above the store wait for a commit sn
    the log lacks what the store shows -> the log restarts at the store (a snapshot was swapped in, then the node stopped)
    nothing there, but nothing missing -> an empty copy: a first copy of a shard that never had a write, or a learner
    something durable is missing       -> unfit: it must leave the sets before it is filled anew

Source: replication.md, rule 3 and Storage; counterexamples.md S6(d), S7(c), S9.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ringkeep_core.shardmap import GENERATION_STEP, Copy
from ringkeep_node.machines.documents import CopyState
from ringkeep_node.machines.records import EpochStart, Kind, Record
from ringkeep_node.machines.recovery import encode_epochs
from ringkeep_node.machines.shard.context import Context, LocalCopy
from ringkeep_node.machines.shard.copy_log import CopyLog
from ringkeep_node.machines.shard.effects import CreateCopy, RecoveredCopyLike, StoredCopyLike


class Opening:
    """Copies found at the start that no map has named yet."""

    __slots__ = ("_ctx", "_recovered", "_stored")

    def __init__(
        self,
        ctx: Context,
        stored: Sequence[StoredCopyLike],
        recovered: Mapping[tuple[int, int], RecoveredCopyLike],
    ) -> None:
        self._ctx = ctx
        self._stored = {(it.shard, it.copy): it for it in stored}
        self._recovered = dict(recovered)

    def open_copy(self, shard: int, listed: Copy) -> LocalCopy:
        """Return the copy that the held map lists for us."""
        key = (shard, listed.added)
        stored, recovered = self._stored.pop(key, None), self._recovered.pop(key, None)
        if stored is not None and not stored.complete:
            stored = None
        if recovered is None:
            copy = self._without_log(shard, listed, stored)
        elif stored is None:
            copy = self._without_store(shard, listed, recovered)
        else:
            copy = self._with_both(shard, listed, stored, recovered)
        if recovered is not None and recovered.harmed:
            copy.unfit = True
        return copy

    def drop_unlisted(self) -> None:
        """Give up what no map lists any more: what was added by a map we hold, and is not in it.

        A copy that a newer map added is kept: a voter starts with the map of its last Raft snapshot, and hears only then
        how far the entries after it are committed.
        """
        held = self._ctx.held
        assert held is not None
        for key in sorted({*self._stored, *self._recovered}):
            if key[1] <= held.version:
                self._stored.pop(key, None)
                self._recovered.pop(key, None)
                self._ctx.drop(*key)

    def _without_log(self, shard: int, listed: Copy, stored: StoredCopyLike | None) -> LocalCopy:
        copy = _empty(shard, listed)
        # Only a copy of the first map may count as complete without ever having written to its log: in the generation of
        # that map. The map of a later one may list a copy that was removed and deleted when the lost majority still led.
        held = self._ctx.held
        assert held is not None
        never_written = listed.added % GENERATION_STEP == 1 and (held.generation <= 1 or stored is not None)
        is_lost = self._ctx.shard(shard).is_complete(self._ctx.me) and not never_written
        if is_lost or (stored is not None and stored.sn > 0):
            copy.unfit = True
        elif stored is None:
            self._ctx.step.orders.append(CreateCopy(shard, listed.added))
        return copy

    def _without_store(self, shard: int, listed: Copy, recovered: RecoveredCopyLike) -> LocalCopy:
        numbers = [sn for _, sn, _ in recovered.entries]
        if recovered.base == (0, 0) and numbers == list(range(1, recovered.last[1] + 1)):
            self._ctx.step.orders.append(CreateCopy(shard, listed.added))
            return self._opened(shard, listed, recovered, 0, CopyState())
        copy = _empty(shard, listed)
        copy.unfit = True
        return copy

    def _with_both(self, shard: int, listed: Copy, stored: StoredCopyLike, recovered: RecoveredCopyLike) -> LocalCopy:
        log = CopyLog(recovered.base, recovered.epochs, recovered.last)
        is_foreign = stored.sn >= recovered.base[1] and log.epoch_at(stored.sn) != stored.epoch
        if stored.sn > recovered.last[1] or is_foreign:
            return self._restarted(shard, listed, stored, recovered)
        above = [entry for entry in recovered.entries if entry[1] > stored.sn]
        fits = [sn for _, sn, _ in above] == list(range(stored.sn + 1, recovered.last[1] + 1))
        if stored.sn < recovered.base[1] or not fits:
            copy = _empty(shard, listed)
            copy.unfit = True
            return copy
        return self._opened(shard, listed, recovered, stored.sn, stored.state.copy())

    def _restarted(self, shard: int, listed: Copy, stored: StoredCopyLike, recovered: RecoveredCopyLike) -> LocalCopy:
        if recovered.harmed or self._ctx.shard(shard).is_complete(self._ctx.me):
            # Something durable is missing from a copy that counts, perhaps by a map that is not held yet: the log must go
            # on saying so, start after start.
            copy = _empty(shard, listed)
            copy.unfit = True
            return copy
        base = (stored.epoch, stored.sn)
        self._ctx.step.records.append(
            Record(Kind.SHARD_RESET, shard, listed.added, *base, encode_epochs(stored.epochs))
        )
        log = CopyLog(base, stored.epochs, base)
        return LocalCopy(shard, listed.added, log, stored.sn, stored.state.copy(), recovered.promised)

    def _opened(
        self, shard: int, listed: Copy, recovered: RecoveredCopyLike, applied: int, state: CopyState
    ) -> LocalCopy:
        log = CopyLog(recovered.base, recovered.epochs, recovered.last)
        log.released = applied
        log.first = applied + 1
        for entry in recovered.entries:
            if entry[1] > applied:
                log.cached[entry[1]] = entry
                self._ctx.cache.added(log, entry)
        return LocalCopy(shard, listed.added, log, applied, state, recovered.promised)


def _empty(shard: int, listed: Copy) -> LocalCopy:
    epochs: list[EpochStart] = []
    return LocalCopy(shard, listed.added, CopyLog((0, 0), epochs, (0, 0)), 0, CopyState(), 0)
