"""The disk of a simulated Raft node: steps become durable in order, and a crash loses those that are not."""

from __future__ import annotations

from msgspec import Struct

from ringkeep_node.machines.raft import Raft, RaftStep, Recovered, Snapshot


def persisted(disk: Recovered, step: RaftStep) -> Recovered:
    """Return what the disk holds after the records of ``step``, in the order ``RaftStep`` prescribes."""
    hard_state = step.hard_state or disk.hard_state
    snapshot, entries = disk.snapshot, disk.entries
    if step.install is not None:
        snapshot, entries = step.install, ()
    if step.cut_after is not None:
        entries = tuple(entry for entry in entries if entry.index <= step.cut_after)
    return Recovered(hard_state, snapshot, entries + step.append)


def compacted(disk: Recovered, snapshot: Snapshot, tail_entries: int) -> Recovered:
    """Return what the disk holds after the application made ``snapshot`` and the log was shortened to a tail."""
    first = snapshot.index - tail_entries
    return Recovered(disk.hard_state, snapshot, tuple(entry for entry in disk.entries if entry.index >= first))


def report(raft: Raft, step: RaftStep, *, now: float) -> None:
    """Tell ``raft`` that everything of ``step`` is durable."""
    if step.hard_state is not None:
        raft.hard_state_synced(step.hard_state, now=now)
    if step.install is not None:
        raft.snapshot_installed(step.install.index, now=now)
    if step.append:
        raft.synced(step.append[-1].term, step.append[-1].index, now=now)


class Outstanding(Struct):
    """Steps handed out and not yet durable, oldest first."""

    steps: list[RaftStep] = []

    def merged(self) -> RaftStep | None:
        """Return one step that reports all of them at once, as a runtime that syncs in batches does."""
        hard_states = [step.hard_state for step in self.steps if step.hard_state is not None]
        installs = [step.install for step in self.steps if step.install is not None]
        appends = [step.append for step in self.steps if step.append]
        if not (hard_states or installs or appends):
            return None
        return RaftStep(
            hard_state=hard_states[-1] if hard_states else None,
            install=installs[-1] if installs else None,
            append=appends[-1] if appends else (),
        )
