"""What Raft has decided since the last step was taken."""

from __future__ import annotations

from msgspec import Struct

from ringkeep_node.machines.raft.messages import RaftMessage, ReadIndexAnswer, ReadReady, Send, Snapshot
from ringkeep_node.machines.raft.reads import Read


class Outbox(Struct, gc=False):
    """Lists that fill up between two steps. See ``RaftStep`` for what may leave when."""

    send: list[Send]
    send_synced: list[Send]
    reads: list[ReadReady]
    reads_failed: list[int]
    install: Snapshot | None = None

    @classmethod
    def empty(cls) -> Outbox:
        """Return an outbox with nothing in it."""
        return cls([], [], [], [])

    def __bool__(self) -> bool:
        """Return whether there is anything to hand out."""
        return bool(self.send or self.send_synced or self.reads or self.reads_failed or self.install)

    def clear(self) -> None:
        """Forget what was handed out."""
        self.send.clear()
        self.send_synced.clear()
        self.reads.clear()
        self.reads_failed.clear()
        self.install = None

    def now(self, to: str, message: RaftMessage) -> None:
        """Send a message that promises nothing about our disk."""
        self.send.append(Send(to, message))

    def when_synced(self, to: str, message: RaftMessage) -> None:
        """Send a message once everything decided so far is durable."""
        self.send_synced.append(Send(to, message))

    def answer_read(self, read: Read, term: int, index: int | None) -> None:
        """Tell whoever asked that ``index`` is confirmed, or with None that the read has failed."""
        if read.sender is not None:
            self.now(read.sender, ReadIndexAnswer(term, read.number, index))
        elif index is None:
            self.reads_failed.append(read.number)
        else:
            self.reads.append(ReadReady(read.number, index))
