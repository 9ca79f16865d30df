"""Random histories of changes, some of them late or doubled: the map stays sound and no complete copy is ever behind.

The writes of each shard are a number that grows; every copy has the number up to which it holds them. A primary sends
to in_sync and to the learners it has proposed and not heard of (rule 4), under any revision at which its epoch has not
ended. What is proposed is applied later, twice, or never.
"""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from ringkeep_core.mapchanges import (
    AddLearner,
    Boot,
    Failover,
    Grow,
    Leave,
    MapChange,
    Move,
    RemoveCopy,
    SetWanted,
    ShardChange,
    ShardChanges,
    Shrink,
    Touch,
    Unfit,
    apply,
    bootstrap,
    check,
    decode_change,
    diff,
    encode_change,
)
from ringkeep_core.shardmap import Copy, Settings, ShardMap, WantedMember, decode_map, encode_map
from ringkeep_testing.maps import member, wanted_with

SHARDS = 4
NAMES = ("n1", "n2", "n3", "n4")


class History:
    """A cluster that proposes what it may, and a network that delivers proposals when and as often as it likes."""

    def __init__(self) -> None:
        first = bootstrap(
            cluster_id="c" * 16, members=[member(name) for name in NAMES[:3]], shards=SHARDS, settings=Settings()
        )
        self.map: ShardMap = first
        self.version = first.version
        self.disks = 0
        self.boots = 1
        self.proposed: list[MapChange] = []
        self.written = [0] * SHARDS
        self.held: dict[tuple[int, Copy], int] = {
            (number, copy): 0 for number, shard in enumerate(first.shards) for copy in shard.in_sync
        }
        self.awaited: dict[int, set[tuple[int, Copy]]] = {number: set() for number in range(SHARDS)}

    def play(self, verb: int, number: int, first: int, second: int) -> None:
        """Do the thing that the four numbers name, in the present state."""
        steps = [self._write, self._deliver, self._deliver, self._propose_grow, self._propose_shrink, self._propose]
        steps += [self._boot, self._propose_wanted]
        steps[verb % len(steps)](number % SHARDS, first, second)
        assert check(self.map) == ()
        self._assert_complete_copies_are_complete()

    def _write(self, number: int, first: int, second: int) -> None:
        """Commit a write at the primary, which awaits in_sync and whom it has proposed at this revision."""
        shard = self.map.shards[number]
        if len(shard.in_sync) < shard.need:
            return
        self.written[number] += 1
        proposed = {copy for revision, copy in self.awaited[number] if revision == shard.revision}
        for copy in (*shard.in_sync, *sorted(proposed, key=lambda copy: copy.storage)):
            self.held[number, copy] = self.written[number]

    def _propose_grow(self, number: int, first: int, second: int) -> None:
        shard = self.map.shards[number]
        if not shard.learners:
            return
        copy = shard.learners[first % len(shard.learners)]
        self.held[number, copy] = self.written[number]
        self.awaited[number].add((shard.revision, copy))
        boot = self.map.members[copy.storage].boot
        grow = Grow(number, shard.revision, copy.storage, boot, copy.added, shard.epoch, shard.primary.boot)
        self.proposed.append(ShardChanges((grow,), "grow"))

    def _propose_shrink(self, number: int, first: int, second: int) -> None:
        shard = self.map.shards[number]
        removed = tuple(copy.storage for copy in shard.in_sync if copy.storage != shard.primary.storage)[
            : 1 + first % 2
        ]
        self.proposed.append(ShardChanges((Shrink(number, shard.revision, removed),), "shrink"))

    def _propose(self, number: int, first: int, second: int) -> None:
        shard = self.map.shards[number]
        revision = shard.revision
        storages = sorted(self.map.members)
        storage = storages[first % len(storages)]
        held = shard.copy_of(storage) or Copy(storage, self.version)
        live = tuple(it for place, it in enumerate(storages) if second >> place & 1)
        changes: list[ShardChange] = [
            Failover(number, revision, storage, live),
            Failover(number, revision, storage, (*live, storage)),
            Move(number, revision, storage),
            AddLearner(number, revision, storage),
            RemoveCopy(number, revision, storage, held.added),
            Unfit(number, revision, storage, held.added),
            Touch(number, revision),
        ]
        chosen = changes[second % len(changes)]
        former = shard.copy_of(shard.primary.storage)
        after_it = RemoveCopy(number, revision + 1, shard.primary.storage, former.added if former else 0)
        more: tuple[ShardChange, ...] = (after_it,) if isinstance(chosen, Move) and first % 2 else ()
        self.proposed.append(ShardChanges((chosen, *more), "random"))

    def _boot(self, number: int, first: int, second: int) -> None:
        name = NAMES[first % len(NAMES)]
        known = self.map.by_name.get(name)
        self.boots += 1
        storage = known.storage if known else name
        if known is None or second % 4 == 0:
            self.disks += 1
            storage = f"{name}-disk{self.disks}"
        live = tuple(it for place, it in enumerate(sorted(self.map.members)) if second >> place & 1)
        self.proposed.append(Boot(name, storage, f"b{self.boots}", self.boots, "", "", live=live))

    def _propose_wanted(self, number: int, first: int, second: int) -> None:
        if second % 5 == 0:
            storages = sorted(self.map.members)
            self.proposed.append(Leave(storages[first % len(storages)], "leave"))
            return
        wanted = wanted_with(self.map, settings=Settings(1 + first % 4, 1 + second % 3))
        wanted.members[NAMES[first % 4]] = WantedMember(draining=second % 3 == 0)
        self.proposed.append(SetWanted(wanted, "wanted"))

    def _deliver(self, number: int, first: int, second: int) -> None:
        """Apply something proposed at any time before; the newest half of the time."""
        if not self.proposed:
            return
        change = self.proposed[-1 if second % 2 else first % len(self.proposed)]
        self.version += 1 + second % 2
        before = self.map
        applied = apply(before, self.version, decode_change(encode_change(change)))
        again = apply(decode_map(encode_map(before)), self.version, change)
        self.map = applied.map

        assert encode_map(again.map) == encode_map(applied.map)
        assert again.outcomes == applied.outcomes
        assert (applied.map is before) == (applied.map.version == before.version)
        assert (applied.map == before) == (
            diff(before, applied.map) == () and _only_touched_nothing(before, applied.map)
        )
        self._assert_numbers_only_grow(before)
        self._assert_plans_endanger_no_shard(before, change)

    def _assert_plans_endanger_no_shard(self, before: ShardMap, change: MapChange) -> None:
        """A plan's entry leaves no fewer complete copies than before, or as many in in_sync as needed and wanted."""
        parts = change.changes if isinstance(change, ShardChanges) else ()
        if not all(isinstance(part, AddLearner | Move | RemoveCopy) for part in parts):
            return
        enough = self.map.copies_wanted()
        for part in parts:
            old, new = before.shards[part.shard], self.map.shards[part.shard]
            fewer = len(new.in_sync) + len(new.eligible) < len(old.in_sync) + len(old.eligible)
            assert not fewer or len(new.in_sync) >= max(new.need, enough)

    def _assert_numbers_only_grow(self, before: ShardMap) -> None:
        for old, new in zip(before.shards, self.map.shards, strict=True):
            assert new.epoch >= old.epoch and new.revision >= old.revision
            assert (new == old) == (new.revision == old.revision)
            assert (new.primary != old.primary) <= (new.epoch == old.epoch + 1)

    def _assert_complete_copies_are_complete(self) -> None:
        for number, shard in enumerate(self.map.shards):
            for copy in (*shard.in_sync, *shard.eligible):
                assert self.held.get((number, copy)) == self.written[number], (number, copy)


def _only_touched_nothing(before: ShardMap, after: ShardMap) -> bool:
    return [shard.revision for shard in before.shards] == [shard.revision for shard in after.shards]


NUMBER = st.integers(0, 31)


@settings(max_examples=150)
@given(st.lists(st.tuples(NUMBER, NUMBER, NUMBER, NUMBER), min_size=40, max_size=160))
def test_no_history_makes_an_unsound_map_or_lists_a_copy_that_lacks_a_write(
    steps: list[tuple[int, int, int, int]],
) -> None:
    history = History()

    for step in steps:
        history.play(*step)
