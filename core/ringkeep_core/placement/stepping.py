"""Order the changes that lead from the shards we have to a target, so that no order of crashes can lose a copy.

    per shard:  add learner -> await in_sync -> move primary -> remove old copy      (again for each new copy)
    shards:     those that lack copies first, the fewest live copies first; then moves; in hash order among equals
    step:       streams side by side: one in and one out per node, the cluster's number of streams, the byte budget

A copy is removed only when max(need, wanted) members of in_sync remain, so the old copy outlives the new one's birth,
also when it is damaged, a learner, or on a node dead beyond the grace. Only a shard's primary can let a node into
in_sync, so a stream starts there, and a shard whose primary is dead gets no step: the failover comes first.

A newer plan may supersede these steps at any point: each shard change is a compare-and-set on the shard's revision, and
``target`` counts finished copies and learners as held.

Source: placement.md step 8 and "Safety of the steps"; reference/counterexamples.md S6(e), L10.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from ringkeep_core.placement.hashes import shard_hash
from ringkeep_core.placement.model import (
    AddLearner,
    Assignment,
    AwaitInSync,
    Candidate,
    Forecast,
    MovePrimary,
    PlacementSettings,
    RemoveCopy,
    ShardChange,
    ShardCopies,
    Step,
    Target,
)


def steps(
    shards: Sequence[ShardCopies],
    target: Target,
    candidates: Iterable[Candidate],
    settings: PlacementSettings,
    bytes_of: Sequence[int] | None = None,
    *,
    copies_least: int = 1,
) -> tuple[Step, ...]:
    """Return the ordered steps from ``shards`` to ``target``.

    Args:
        shards: what each shard has now.
        target: what ``ringkeep_core.placement.target`` made of the same shards and candidates.
        candidates: the members; a node that is not among them counts as dead.
        settings: the limits of streams and steps.
        bytes_of: size of each shard in bytes; 0 for all when it is not known.
        copies_least: in-sync copies that must remain wherever one is removed, also where the target has fewer because
            nodes are dead: the map refuses to go below.
    """
    live = {candidate.node: candidate.live for candidate in candidates}
    sizes = bytes_of if bytes_of is not None else [0] * len(shards)
    works = [
        _ShardWork(number, shard, assignment, live, copies_least)
        for number, (shard, assignment) in enumerate(zip(shards, target.shards, strict=True))
    ]
    waiting = sorted((work for work in works if work.missing()), key=_ShardWork.urgency)
    complete = [work for work in works if not work.missing()]
    done = []
    while waiting:
        step, waiting = _next_step(waiting, sizes, settings)
        done.append(step)
    # What needs no new copy waits for no stream, and nobody is in danger without it.
    changes = [change for work in complete for change in work.settle()]
    return (*done, Step(changes=tuple(changes))) if changes else tuple(done)


def forecast(plan: Sequence[Step], settings: PlacementSettings) -> Forecast:
    """Return what ``plan`` is expected to cost. Streams of a step run side by side, steps one after the other."""
    changes = [change for step in plan for change in step.changes]
    primaries = sum(1 for change in changes if isinstance(change, MovePrimary))
    return Forecast(
        shards=tuple(sorted({change.shard for change in changes})),
        copies=sum(1 for change in changes if isinstance(change, AddLearner)),
        primaries=primaries,
        bytes=sum(step.bytes for step in plan),
        seconds=sum(step.stream_bytes_max for step in plan) / settings.stream_bytes_per_s,
        pause_s=primaries * settings.handoff_pause_s,
    )


class _ShardWork:
    """One shard on its way: a model of its sets that each planned change moves on."""

    def __init__(
        self, number: int, shard: ShardCopies, goal: Assignment, live: Mapping[str, bool], copies_least: int
    ) -> None:
        self.number, self.goal, self.live, self.copies_least = number, goal, live, copies_least
        self.primary, self.need = shard.primary, shard.need
        self.in_sync = list(shard.in_sync)
        self.eligible = list(shard.eligible)
        self.learners = [node for node in shard.learners if node not in shard.in_sync]
        self.repairs = len(shard.in_sync) < len(goal.copies)

    def urgency(self) -> tuple[bool, int, int, int]:
        """Sort shards that lack copies first, then by live complete copies, then by hash."""
        lives = sum(1 for node in {*self.in_sync, *self.eligible} if self.live.get(node, False))
        return (not self.repairs, lives if self.repairs else 0, shard_hash(self.number), self.number)

    def source(self) -> str | None:
        """Return the live primary, which sends snapshots and lets nodes in, or None."""
        return self.primary if self.primary in self.in_sync and self.live.get(self.primary or "", False) else None

    def missing(self) -> str | None:
        """Return the next node to bring into in_sync: the future primary first, else in the order of the target."""
        if self.source() is None:
            return None
        lacking = [node for node in self.goal.copies if node not in self.in_sync and self.live.get(node, False)]
        if self.goal.primary in lacking:
            return self.goal.primary
        return lacking[0] if lacking else None

    def admit(self, node: str, source: str) -> list[ShardChange]:
        """Bring ``node`` in, then do all that this makes safe."""
        changes: list[ShardChange] = []
        if node in self.learners:
            self.learners.remove(node)
        elif node not in self.eligible:
            changes.append(AddLearner(self.number, node, source))
        changes.append(AwaitInSync(self.number, node))
        self.in_sync.append(node)
        if node in self.eligible:
            self.eligible.remove(node)
        if len(self.in_sync) >= self.need:
            # The map empties eligible with this entry; those copies stay learners until they are removed.
            self.learners.extend(left for left in self.eligible if left not in self.learners)
            self.eligible = []
        return changes + self.settle()

    def settle(self) -> list[ShardChange]:
        """Move the primary if its new node is in sync, and remove what max(need, wanted) in-sync copies replace."""
        changes: list[ShardChange] = []
        present = self.source()
        if present is None:
            return changes
        leader = self.goal.primary
        if leader is not None and leader != present and leader in self.in_sync and self.live.get(leader, False):
            changes.append(MovePrimary(self.number, present, leader))
            self.primary = leader
        for node in list(dict.fromkeys((*self.learners, *self.eligible, *self.in_sync))):
            if node not in self.goal.copies and node != self.primary and self._is_spare(node):
                changes.append(RemoveCopy(self.number, node))
                self._forget(node)
        return changes

    def _is_spare(self, node: str) -> bool:
        enough = max(self.need, len(self.goal.copies), self.copies_least)
        return sum(1 for member in self.in_sync if member != node) >= enough

    def _forget(self, node: str) -> None:
        for nodes in (self.learners, self.eligible, self.in_sync):
            if node in nodes:
                nodes.remove(node)


class _Load:
    """What the streams of one step carry so far."""

    def __init__(self, settings: PlacementSettings) -> None:
        self.settings = settings
        self.bytes: dict[tuple[str, str], int] = {}
        self.shards: dict[tuple[str, str], int] = defaultdict(int)
        self.outgoing: dict[str, int] = defaultdict(int)
        self.incoming: dict[str, int] = defaultdict(int)
        self.total = 0

    def take(self, source: str, node: str, size: int) -> bool:
        """Return whether a shard of ``size`` bytes still fits into the step, and load it if it does."""
        limits, stream = self.settings, (source, node)
        if self.total and self.total + size > limits.step_bytes_max:
            return False
        if stream in self.bytes:
            held = self.bytes[stream]
            if self.shards[stream] >= limits.stream_shards_max or (held and held + size > limits.stream_bytes_max):
                return False
        elif (
            len(self.bytes) >= limits.streams_max
            or self.outgoing[source] >= limits.streams_out_per_node
            or self.incoming[node] >= limits.streams_in_per_node
        ):
            return False
        else:
            self.outgoing[source] += 1
            self.incoming[node] += 1
        self.bytes[stream] = self.bytes.get(stream, 0) + size
        self.shards[stream] += 1
        self.total += size
        return True


def _next_step(
    waiting: Sequence[_ShardWork], sizes: Sequence[int], settings: PlacementSettings
) -> tuple[Step, list[_ShardWork]]:
    """Fill one step in the order of urgency and return it with the shards that still lack something."""
    load = _Load(settings)
    changes: list[ShardChange] = []
    left: list[_ShardWork] = []
    repairs = False
    for work in waiting:
        source, node = work.source(), work.missing()
        assert source is not None and node is not None, "a waiting shard has a source and a missing copy"
        if load.take(source, node, sizes[work.number]):
            changes.extend(work.admit(node, source))
            repairs = repairs or work.repairs
            if work.missing() is None:
                continue
        left.append(work)
    assert changes, "an empty step would never end"
    return (
        Step(
            changes=tuple(changes),
            streams=tuple(load.bytes),
            bytes=load.total,
            stream_bytes_max=max(load.bytes.values()),
            repairs=repairs,
        ),
        left,
    )
