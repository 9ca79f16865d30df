"""A Raft group in the hands of a test: nothing happens unless the test says so.

Messages wait in one queue, disks finish when told, time stands still between calls. A node that is ``cut`` neither hears nor
is heard.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ringkeep_node.machines.raft import (
    Configuration,
    Entry,
    Raft,
    RaftMessage,
    RaftSettings,
    RaftStep,
    ReadReady,
    Recovered,
    Role,
    Send,
)
from ringkeep_testing.raft_disk import compacted, persisted, report

Wire = tuple[str, str, RaftMessage]


class Group:
    """Nodes named by single letters; ``slow`` disks finish only in ``sync``."""

    def __init__(
        self, names: str = "abc", *, settings: RaftSettings | None = None, spares: str = "", elect: str = ""
    ) -> None:
        self.settings = settings or RaftSettings()
        self.bootstrap = Configuration(tuple(names))
        self.now = 0.0
        self.nodes: dict[str, Raft] = {}
        self.disks = dict.fromkeys(names + spares, Recovered())
        self.unfinished: dict[str, list[RaftStep]] = {name: [] for name in names + spares}
        self.applied: dict[str, list[Entry]] = {name: [] for name in names + spares}
        self.reads: dict[str, list[ReadReady]] = {name: [] for name in names + spares}
        self.failed: dict[str, list[int]] = {name: [] for name in names + spares}
        self.wires: list[Wire] = []
        self.cut: set[str] = set()
        self.slow: set[str] = set()
        self._draws = 0
        for name in names + spares:
            self.start(name)
        if elect:
            self.nodes[elect].campaign(now=self.now)
            self.settle()

    def start(self, name: str) -> None:
        """Start a node from what its disk holds."""
        self._draws += 1
        draw = self._draws / 1000
        first = self.bootstrap if name in self.bootstrap.voters else None
        self.nodes[name] = Raft(
            me=name,
            recovered=self.disks[name],
            settings=self.settings,
            draw=lambda: draw,
            now=self.now,
            bootstrap=first,
        )
        self.applied[name] = []
        self.pump(name)

    def crash(self, name: str) -> None:
        """Kill a node and lose what its disk has not finished; ``start`` brings it back."""
        self.unfinished[name].clear()
        del self.nodes[name]

    def sync(self, name: str, steps: int | None = None) -> None:
        """Let the disk of a node finish the oldest ``steps`` that it was given, or everything."""
        finished = self.unfinished[name][:steps]
        del self.unfinished[name][:steps]
        for step in finished:
            self.disks[name] = persisted(self.disks[name], step)
            report(self.nodes[name], step, now=self.now)
            self.send(name, step.send_synced)

    def send(self, name: str, sends: Sequence[Send]) -> None:
        """Put messages of a node under way."""
        self.wires += [(name, send.to, send.message) for send in sends]

    def stepped(self, name: str, step: RaftStep) -> None:
        """Hear of a step that came out of a node; a group that is watched overrides this."""

    def pump(self, name: str) -> None:
        """Take what came out of a node."""
        while step := self.nodes[name].take_step():
            self.stepped(name, step)
            self.send(name, step.send)
            self.applied[name] += step.committed
            self.reads[name] += step.reads
            self.failed[name] += step.reads_failed
            self.unfinished[name].append(step)
            if name not in self.slow:
                self.sync(name)

    def deliver(self, wanted: Callable[[Wire], bool] = lambda wire: True) -> int:
        """Deliver the messages that are under way now and wanted, lose the others; return how many arrived."""
        for name in self.nodes:
            self.pump(name)
        wires, self.wires = self.wires, []
        arrived = 0
        for sender, to, message in wires:
            if to in self.nodes and not {sender, to} & self.cut and wanted((sender, to, message)):
                self.nodes[to].receive(sender, message, now=self.now)
                self.pump(to)
                arrived += 1
        return arrived

    def settle(self) -> None:
        """Deliver until nothing is under way."""
        while self.deliver():
            pass

    def pass_time(self, seconds: float) -> None:
        """Let time pass in steps of 50 ms, with everything delivered at once."""
        end = self.now + seconds
        while self.now < end - 1e-9:
            self.now += 0.05
            for name in list(self.nodes):
                self.nodes[name].tick(now=self.now)
            self.settle()

    def compact(self, name: str) -> None:
        """Let the application of a node snapshot what it has applied."""
        raft = self.nodes[name]
        data = b"".join(self.payloads(name))
        snapshot = raft.make_snapshot(raft.applied, data)
        self.disks[name] = compacted(self.disks[name], snapshot, self.settings.tail_entries)
        raft.compact(snapshot)

    def leader(self) -> str | None:
        """Return the leader of the newest term, if there is one."""
        leading = [(raft.term, name) for name, raft in self.nodes.items() if raft.role is Role.LEADER]
        return max(leading)[1] if leading else None

    def payloads(self, name: str) -> list[bytes]:
        """Return the non-empty payloads of the application that a node has applied."""
        return [entry.payload for entry in self.applied[name] if entry.kind == 0]
