"""Run text scripts against a group of real Raft machines: a command line, then what comes of it.

    > group abc spares=d tail_entries=0     new nodes; the spares are strangers; the rest are settings
    > log b 1 1 2 term=3                    restart b with a log of these terms (a, b and c are the voters)
    > campaign a | propose a x | read a 7 | transfer a b | resign a | compact a | stuck a
    > change a voters=ab learners=c         a proposes a configuration
    > deliver [a->b | a-> | ->b [append]]   what is under way and matches arrives, and what it causes is shown
    > lose [a->b] | > repeat [a->b]         it is lost, or arrives and stays under way; words: how the message begins
    > settle | > pass 0.6                   deliver until nothing is under way, now or over time; messages not shown
    > tick a 0.75                           only a notices that it is 0.75 s
    > cut c | > heal | > slow a | > sync a [2] | > fast a | > crash a | > start a
    > status [a] | > progress a             where everybody stands; what leader a knows about the others

Nodes have single letters. An entry is index@term. A slow disk finishes a step only at ``sync``; others at once, and
what waits for them leaves at once. A script is correct when rendering its commands gives the script again;
``python -m ringkeep_testing.raft_traces FILE`` prints that.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from ringkeep_node.machines.raft import (
    CONFIGURATION,
    NOOP,
    NORMAL,
    AppendAnswer,
    AppendEntries,
    Configuration,
    Entry,
    HardState,
    Heartbeat,
    HeartbeatAnswer,
    InstallSnapshot,
    NotLeader,
    Proposed,
    RaftMessage,
    RaftSettings,
    RaftStep,
    ReadIndexAnswer,
    ReadIndexRequest,
    Recovered,
    Refused,
    RequestVote,
    Send,
    SnapshotAnswer,
    TimeoutNow,
    VoteAnswer,
    decode_configuration,
    encode_configuration,
)
from ringkeep_testing.raft_group import Group, Wire


class WatchedGroup(Group):
    """A group that notes what happens in ``lines``; messages only while ``shows_messages``."""

    def __init__(self, names: str, *, spares: str, settings: RaftSettings) -> None:
        self.lines: list[str] = []
        self.shows_messages = True
        self._shown: dict[str, str] = {}
        super().__init__(names, spares=spares, settings=settings)

    def send(self, name: str, sends: Sequence[Send]) -> None:
        """Note and send."""
        super().send(name, sends)
        if self.shows_messages:
            self.lines += [f"{name}->{send.to} {_message_text(send.message)}" for send in sends]

    def stepped(self, name: str, step: RaftStep) -> None:
        """Note what a node has become, what a slow disk is given, and what is applied and answered."""
        raft = self.nodes[name]
        role = f"{name} is {raft.role.name.lower().replace('_', '-')} of term {raft.term}"
        if step.changed and self._shown.get(name) != role:
            self._shown[name] = role
            self.lines.append(role)
        if name in self.slow and step.must_persist:
            self.lines.append(f"{name} writes {_records_text(step)}")
        if step.install is not None:
            self.lines.append(f"{name} installs the snapshot of {step.install.index}@{step.install.term}")
        if step.committed:
            self.lines.append(f"{name} applies {_entries_text(step.committed)}")
        self.lines += [f"{name} answers read {ready.token} at {ready.index}" for ready in step.reads]
        self.lines += [f"{name} fails read {token}" for token in step.reads_failed]

    def arrive(self, words: Sequence[str], *, lost: bool = False, stays: bool = False) -> None:
        """Deliver or lose what is under way now and matches ``words``; the rest stays under way."""
        chosen = [wire for wire in self.wires if _matches(wire, words)]
        if not stays:
            self.wires = [wire for wire in self.wires if not _matches(wire, words)]
        for sender, to, message in chosen:
            if not lost and to in self.nodes and not {sender, to} & self.cut:
                self.nodes[to].receive(sender, message, now=self.now)
                self.pump(to)


class Script:
    """Executes command lines and renders what comes of them."""

    def __init__(self) -> None:
        self._group = WatchedGroup("abc", spares="", settings=RaftSettings())

    def run(self, line: str) -> Iterator[str]:
        """Execute one command; yield the lines it gives."""
        command, *words = line.split()
        named = dict(word.split("=", 1) for word in words if "=" in word)
        plain = [word for word in words if "=" not in word]
        if command == "group":
            spares = named.pop("spares", "")
            settings = msgspec.convert(named, RaftSettings, strict=False)
            self._group = WatchedGroup(plain[0], spares=spares, settings=settings)
            self._group.lines.clear()
            return
        if command in ("status", "progress"):
            yield from self._status(plain) if command == "status" else self._progress(plain[0])
            return
        self._group.shows_messages = command not in ("settle", "pass")
        yield from self._do(command, plain, named)
        for name in self._group.nodes:
            self._group.pump(name)
        yield from self._group.lines
        self._group.lines.clear()

    def _do(self, command: str, plain: list[str], named: dict[str, str]) -> Iterator[str]:
        group = self._group
        subject = plain[0] if plain else ""
        match command:
            case "deliver" | "lose" | "repeat":
                group.arrive(plain, lost=command == "lose", stays=command == "repeat")
            case "settle":
                group.settle()
            case "pass":
                group.pass_time(float(subject))
            case "cut":
                group.cut |= set(subject)
            case "heal":
                group.cut.clear()
            case "slow":
                group.slow |= set(subject)
            case "sync":
                group.sync(subject, int(plain[1]) if plain[1:] else None)
            case "fast":
                group.slow.discard(subject)
                group.sync(subject)
            case "crash":
                group.crash(subject)
            case "start":
                group.start(subject)
            case "log":
                log = _log(plain[1:])
                group.disks[subject] = Recovered(HardState(int(named.get("term", log[-1].term)), None), None, log)
                group.start(subject)
            case _:
                yield from self._ask(command, plain, named)

    def _ask(self, command: str, plain: list[str], named: dict[str, str]) -> Iterator[str]:
        group = self._group
        raft = group.nodes[plain[0]]
        match command:
            case "tick":
                group.now = max(group.now, float(plain[1]))
                raft.tick(now=float(plain[1]))
            case "campaign":
                raft.campaign(now=group.now)
            case "propose":
                yield _answer_text(raft.propose(plain[1].encode(), now=group.now))
            case "change":
                after = Configuration(tuple(named["voters"]), tuple(named.get("learners", "")))
                yield _answer_text(raft.propose_configuration(after, now=group.now))
            case "read":
                raft.read_index(int(plain[1]), now=group.now)
            case "transfer":
                yield "started" if raft.transfer_leadership(plain[1], now=group.now) else "refused"
            case "resign":
                yield "started" if raft.step_down(now=group.now) else "refused"
            case "compact":
                group.compact(plain[0])
            case "stuck":
                raft.set_electable(False)
            case _:
                raise ValueError(f"unknown command: {command}")

    def _status(self, names: Sequence[str]) -> Iterator[str]:
        for name, raft in sorted(self._group.nodes.items()):
            if names and name not in names:
                continue
            terms = "".join(f" {raft.term_at(index)}" for index in range(raft.first_index, raft.last_index + 1))
            first = f"from {raft.first_index}" if raft.first_index > 1 else "log"
            marks = f"commit {raft.commit} applied {raft.applied} stable {raft.stable}"
            role = raft.role.name.lower().replace("_", "-")
            yield f"{name} {role} term {raft.term} {first}:{terms} {marks} {_members_text(raft.configuration)}"

    def _progress(self, name: str) -> Iterator[str]:
        leadership = self._group.nodes[name]._leadership
        assert leadership is not None
        for to, peer in leadership._peers.items():
            flight = f" inflight {len(peer.inflight)}" if peer.inflight else ""
            yield f"{to} {peer.mode.name.lower()}{' paused' * peer.paused} match {peer.match} next {peer.next}{flight}"


def render(script: str) -> str:
    """Return the script with the output its commands give now."""
    runner = Script()
    lines: list[str] = []
    for line in script.splitlines():
        if line.startswith((">", "#")) or not line.strip():
            lines.append(line)
        if line.startswith(">"):
            lines.extend(runner.run(line[1:].strip()))
    return "\n".join(lines) + "\n"


def _log(terms: Sequence[str]) -> tuple[Entry, ...]:
    first = Entry(int(terms[0]), 1, CONFIGURATION, encode_configuration(Configuration(("a", "b", "c"))))
    return (first, *(Entry(int(term), index, NORMAL, b"") for index, term in enumerate(terms[1:], 2)))


def _matches(wire: Wire, words: Sequence[str]) -> bool:
    sender, _, to = words[0].partition("->") if words else ("", "", "")
    begins = " ".join(words[1:])
    return sender in ("", wire[0]) and to in ("", wire[1]) and _message_text(wire[2]).startswith(begins)


def _answer_text(answer: Proposed | NotLeader | Refused) -> str:
    match answer:
        case Proposed(term, index):
            return f"proposed {index}@{term}"
        case Refused(reason):
            return f"refused {reason}"
        case NotLeader(leader):
            return f"refused, the leader is {leader or 'unknown'}"


def _members_text(configuration: Configuration) -> str:
    learners = f" learners {''.join(configuration.learners)}" if configuration.learners else ""
    return f"voters {''.join(configuration.voters)}{learners}"


def _entries_text(entries: Sequence[Entry]) -> str:
    return ", ".join(f"{entry.index}@{entry.term}{_content_text(entry)}" for entry in entries) or "nothing"


def _content_text(entry: Entry) -> str:
    if entry.kind == CONFIGURATION:
        return f" ({_members_text(decode_configuration(entry.payload))})"
    content = "noop" if entry.kind == NOOP else entry.payload.decode()
    return f" {content}" if content else ""


def _records_text(step: RaftStep) -> str:
    state = step.hard_state
    parts = [
        *([f"term {state.term} vote {state.vote or 'none'}"] if state is not None else []),
        *([f"cut after {step.cut_after}"] if step.cut_after is not None else []),
        *([f"entries {_entries_text(step.append)}"] if step.append else []),
        *([f"snapshot {step.install.index}@{step.install.term}"] if step.install is not None else []),
    ]
    return "; ".join(parts)


def _message_text(message: RaftMessage) -> str:
    text = _MESSAGES[type(message)](message)
    return f"{text} (term {message.term})"


def _vote_request_text(m: RequestVote) -> str:
    return f"{'would you vote' if m.prevote else 'vote'} last {m.last_index}@{m.last_term}{' transfer' * m.transfer}"


def _vote_text(m: VoteAnswer) -> str:
    return f"{'would vote' if m.prevote else 'vote'} {'yes' if m.granted else 'no'}"


def _append_text(m: AppendEntries) -> str:
    return f"append after {m.previous_index}@{m.previous_term}: {_entries_text(m.entries)}; commit {m.commit}"


def _append_answer_text(m: AppendAnswer) -> str:
    return f"holds {m.index}" if m.success else f"lacks {m.index}, try {m.hint_index}@{m.hint_term}"


def _snapshot_text(m: InstallSnapshot) -> str:
    last = m.offset + len(m.data)
    return f"snapshot {m.index}@{m.snapshot_term} bytes {m.offset}-{last} of {m.total}"


def _read_answer_text(m: ReadIndexAnswer) -> str:
    return "read failed" if m.index is None else f"read at {m.index}"


_MESSAGES: dict[type, Any] = {
    RequestVote: _vote_request_text,
    VoteAnswer: _vote_text,
    AppendEntries: _append_text,
    AppendAnswer: _append_answer_text,
    Heartbeat: lambda m: f"heartbeat{f' round {m.round}' if m.round else ''} commit {m.commit}",
    HeartbeatAnswer: lambda m: f"heard round {m.round}",
    InstallSnapshot: _snapshot_text,
    SnapshotAnswer: lambda m: f"wants byte {m.offset} of snapshot {m.index}",
    TimeoutNow: lambda m: "stand now",
    ReadIndexRequest: lambda m: "read?",
    ReadIndexAnswer: _read_answer_text,
}


if __name__ == "__main__":
    sys.stdout.write(render(Path(sys.argv[1]).read_text()))
