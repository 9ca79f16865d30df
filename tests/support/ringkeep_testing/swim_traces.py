"""Run text scripts against one real membership machine: a command line, then what it sends and what changes.

    > at 1.25                                  the time is 1.25 s: tick
    > hear n2 ping number=7 news=n3:suspect@0  a datagram of n2 arrives
    > hint n1 refused                          the peer connection to n1 was refused
    > lagged 3.0 | > leave | > view | > node seeds=n1 | > registered n1:2 n2:1:left

The machine is n0. ``nK`` is the node with storage id K, at address nK:1, in boot ``counter`` (1 unless given). Output
lines name what is sent (``send``), who changed (``changed``) and what a view holds. A script is correct when rendering
its commands gives the script again; ``python -m ringkeep_testing.swim_traces FILE`` prints that.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from ringkeep_node.machines.swim import (
    Address,
    Evidence,
    MemberIdentity,
    MemberState,
    OpenSeal,
    RegisteredMember,
    Swim,
    SwimSettings,
    SwimStep,
)
from ringkeep_node.machines.swim.messages import Kind, Packet, Update, decode, encode

CLUSTER = "c" * 16
SEAL = OpenSeal()


def storage_of(name: str) -> str:
    """Return the storage id of ``nK``."""
    return f"{int(name[1:]):016x}"


def name_of(storage: str) -> str:
    """Return ``nK`` for a storage id."""
    return f"n{int(storage, 16)}"


def boot_of(name: str, counter: int) -> str:
    """Return the boot id of the ``counter``-th start of ``nK``."""
    return f"{int(name[1:]):08x}{counter:08x}"


def address_of(name: str) -> Address:
    """Return where ``nK`` hears gossip."""
    return name, 1


def identity_of(name: str, *, counter: int = 1, incarnation: int = 0) -> MemberIdentity:
    """Return ``nK`` in its ``counter``-th start."""
    return MemberIdentity(
        storage=storage_of(name),
        name=name,
        boot=boot_of(name, counter),
        counter=counter,
        address=address_of(name),
        incarnation=incarnation,
    )


def news_of(
    name: str,
    state: MemberState,
    *,
    counter: int = 1,
    incarnation: int = 0,
    by: str = "n9",
    why: Evidence = Evidence.TOLD,
) -> Update:
    """Return an update about ``nK``."""
    return Update(
        storage=storage_of(name),
        name=name,
        boot=boot_of(name, counter),
        counter=counter,
        incarnation=incarnation,
        state=state,
        host=name,
        port=1,
        by=storage_of(by),
        why=why,
    )


def packet_of(
    name: str,
    kind: Kind,
    *,
    counter: int = 1,
    incarnation: int = 0,
    number: int = 0,
    target: str = "",
    digest: int = 0,
    cluster: str = CLUSTER,
    updates: tuple[Update, ...] = (),
) -> Packet:
    """Return a packet that ``nK`` might send."""
    return Packet(
        cluster=cluster,
        storage=storage_of(name),
        name=name,
        boot=boot_of(name, counter),
        counter=counter,
        incarnation=incarnation,
        host=name,
        port=1,
        lag_ms=0,
        digest=digest,
        kind=kind,
        number=number,
        target=storage_of(target) if target else "",
        target_host=target if kind is Kind.PING_REQUEST else "",
        target_port=1 if kind is Kind.PING_REQUEST else 0,
        updates=updates,
    )


def datagram_of(packet: Packet) -> bytes:
    """Return the bytes of a packet."""
    return encode(packet, SEAL)


def swim_of(*, seeds: tuple[str, ...] = (), settings: SwimSettings | None = None, now: float = 0.0) -> Swim:
    """Return the machine of n0, with a draw that always says one half."""
    return Swim(
        me=identity_of("n0"),
        cluster_id=CLUSTER,
        settings=settings or SwimSettings(),
        seeds=[address_of(seed) for seed in seeds],
        draw=lambda: 0.5,
        now=now,
    )


class Script:
    """Executes command lines and renders what comes of them."""

    def __init__(self) -> None:
        self._now = 0.0
        self._swim = swim_of()

    def run(self, line: str) -> Iterator[str]:
        """Execute one command; yield the lines it gives."""
        command, *words = line.split()
        named = dict(word.split("=", 1) for word in words if "=" in word)
        plain = [word for word in words if "=" not in word]
        match command:
            case "node":
                self._swim = swim_of(seeds=tuple(filter(None, named.get("seeds", "").split(","))), now=self._now)
            case "at":
                self._now = float(plain[0])
                yield from self._show(self._swim.tick(now=self._now))
            case "hear":
                yield from self._show(self._hear(plain, named))
            case "hint":
                yield from self._show(self._swim.hint(storage_of(plain[0]), Evidence(plain[1]), now=self._now))
            case "lagged":
                self._now = float(named.get("at", self._now))
                self._swim.lagged(float(plain[0]), now=self._now)
            case "registered":
                yield from self._show(self._swim.registered([_row(word) for word in plain], now=self._now))
            case "leave":
                yield from self._show(self._swim.leave(now=self._now))
            case "view":
                yield from self._view()
            case _:
                raise ValueError(f"unknown command: {line}")

    def _hear(self, plain: list[str], named: dict[str, str]) -> SwimStep:
        packet = packet_of(
            plain[0],
            Kind[plain[1].upper().replace("-", "_")],
            counter=int(named.get("counter", "1")),
            incarnation=int(named.get("incarnation", "0")),
            number=int(named.get("number", "0")),
            target=named.get("target", ""),
            updates=tuple(_update(word, by=plain[0]) for word in named.get("news", "").split(",") if word),
        )
        return self._swim.datagram(datagram_of(packet), address_of(plain[0]), now=self._now)

    def _show(self, step: SwimStep) -> Iterator[str]:
        for change in step.changes:
            before = "unknown" if change.before is None else change.before.name.lower()
            why = " ".join(change.evidence)
            yield f"changed {name_of(change.storage)} {before} -> {change.after.name.lower()}: {why}"
        for address, data in step.send:
            yield f"send {address[0]} {_packet_text(decode(data, SEAL))}"

    def _view(self) -> Iterator[str]:
        for view in self._swim.members.values():
            accusers = "".join(f" accused-by={name_of(one)}" for one in view.accusers)
            state = f"{view.state.name.lower()}@{view.counter}.{view.incarnation}"
            yield f"{name_of(view.storage)} {state}{accusers} deaths={len(view.deaths)}"
        refused = " ".join(f"{reason}={count}" for reason, count in self._swim.refused.items() if count)
        yield f"refutes={self._swim.refutes} health={self._swim.health_score} refused: {refused or '-'}"


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


def _update(word: str, *, by: str) -> Update:
    """Read ``n3:suspect@0``, ``n3:suspect@0/reset`` or ``n3:alive@2.0`` (counter.incarnation)."""
    word, _, why = word.partition("/")
    name, rest = word.split(":")
    state, _, key = rest.partition("@")
    counter, _, incarnation = key.rpartition(".")
    return news_of(
        name,
        MemberState[state.upper()],
        counter=int(counter or 1),
        incarnation=int(incarnation),
        by=by,
        why=Evidence(why or "told"),
    )


def _row(word: str) -> RegisteredMember:
    name, counter, *rest = word.split(":")
    return RegisteredMember(
        storage=storage_of(name),
        name=name,
        boot=boot_of(name, int(counter)),
        counter=int(counter),
        address=address_of(name),
        left="left" in rest,
    )


def _packet_text(packet: Packet) -> str:
    parts = [packet.kind.name.lower().replace("_", "-")]
    if packet.number:
        parts.append(f"number={packet.number}")
    if packet.target:
        parts.append(f"target={name_of(packet.target)}")
    if packet.updates:
        parts.append("news=" + ",".join(map(_update_text, packet.updates)))
    if packet.deltas:
        values = (
            f"{name_of(d.owner)}.{entry.key}={entry.value.decode()}" for d in packet.deltas for entry in d.entries
        )
        parts.append("values=" + ",".join(values))
    return " ".join(parts)


def _update_text(update: Update) -> str:
    state = f"{update.state.name.lower()}@{update.counter}.{update.incarnation}"
    return f"{name_of(update.storage)}:{state}({name_of(update.by)} {update.why.value})"


if __name__ == "__main__":
    sys.stdout.write(render(Path(sys.argv[1]).read_text()))
