"""The network of the whole-cluster simulation: three links between each two nodes, and datagrams.

A link keeps order and loses what is on the way when it breaks. What is sent into a cut waits, as TCP would make it, until
the cut heals or the link is given up. Proposals may arrive again, much later, as a relay or a retry would bring them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ringkeep_node.machines.messages import Bundle, Channel, Propose, encode_bundle
from ringkeep_node.machines.node import split_address
from ringkeep_node.machines.swim.members import Evidence

if TYPE_CHECKING:
    from ringkeep_testing.node_world import World
    from ringkeep_testing.world_machine import Machine

DOWN = -1
REDIAL_FIRST_S, REDIAL_MOST_S = 0.05, 0.5
GIVEN_UP_AFTER_S = 1.5


class Network:
    """All links. ``cuts`` are (sender, receiver) names between which nothing gets through; ``slow`` adds seconds."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.cuts: dict[tuple[str, str], int] = {}
        self.slow: dict[tuple[str, str], float] = {}
        self._incarnations = 0
        self._life_of: dict[int, int] = {}
        self._arrives: dict[tuple[str, int], float] = {}

    # --- cuts ----------------------------------------------------------------------------------------------------

    def cut(self, pairs: list[tuple[str, str]]) -> None:
        """Let nothing through from the first to the second of each pair."""
        for pair in pairs:
            self.cuts[pair] = self.cuts.get(pair, 0) + 1

    def mend(self, pairs: list[tuple[str, str]]) -> None:
        """Take one cut of each pair back."""
        for pair in pairs:
            left = self.cuts.get(pair, 0) - 1
            if left > 0:
                self.cuts[pair] = left
            else:
                self.cuts.pop(pair, None)

    def is_cut(self, sender: Machine, receiver: Machine) -> bool:
        """Return whether nothing gets from one machine to another now."""
        return (sender.name, receiver.name) in self.cuts

    def _latency_s(self, sender: Machine, receiver: Machine) -> float:
        world = self._world
        return world.plan.latency_s * (0.2 + world.rng.random()) + self.slow.get((sender.name, receiver.name), 0.0)

    # --- links ---------------------------------------------------------------------------------------------------

    def dial_wanted(self, machine: Machine) -> None:
        """Make links to everybody the node wants to reach; forget those it does not want any more."""
        for storage, channel in [key for key in machine.links if key[0] not in machine.wanted]:
            del machine.links[storage, channel]
        for storage in machine.wanted:
            for channel in Channel:
                if (storage, channel) not in machine.links:
                    machine.links[storage, channel] = DOWN
                    self._dial(machine, storage, channel, 0.0)

    def _dial(self, machine: Machine, storage: str, channel: Channel, pause_s: float) -> None:
        world, life = self._world, machine.life
        if storage not in machine.wanted:
            return

        def dial() -> None:
            if machine.life != life or machine.node is None or machine.links.get((storage, channel)) != DOWN:
                return
            other = world.by_address.get(machine.wanted.get(storage, ""))
            if other is None:
                # Nobody is at that address: no host answers, not even with a refusal.
                self._dial(machine, storage, channel, min(REDIAL_MOST_S, max(REDIAL_FIRST_S, pause_s * 2)))
                return
            blocked = self.is_cut(machine, other) or self.is_cut(other, machine)
            if blocked or other.node is None or other.storage != storage or world.now < other.paused_until:
                if other.node is None and not blocked:
                    machine.on(lambda node: node.link_down(storage, channel, Evidence.REFUSED, now=world.now))
                self._dial(machine, storage, channel, min(REDIAL_MOST_S, max(REDIAL_FIRST_S, pause_s * 2)))
                return
            self._incarnations += 1
            machine.links[storage, channel] = self._incarnations
            self._life_of[self._incarnations] = other.life
            boot, sender = other.node.identity.boot, machine.storage
            other.on(lambda node: node.greeted(sender, machine.address))
            machine.on(lambda node: node.link_up(storage, boot, channel, now=world.now))

        first = world.by_address.get(machine.wanted[storage], machine)
        world.at(world.now + pause_s * (0.5 + world.rng.random()) + 2 * self._latency_s(machine, first), dial)

    def break_link(self, machine: Machine, storage: str, channel: Channel, evidence: Evidence | None) -> None:
        """Lose a link; its owner hears of it and dials again."""
        if machine.node is None or machine.links.get((storage, channel), DOWN) == DOWN:
            return
        machine.links[storage, channel] = DOWN
        world = self._world
        machine.later(0.0, lambda node: node.link_down(storage, channel, evidence, now=world.now))
        self._dial(machine, storage, channel, 0.0)

    def reset(self, one: Machine, other: Machine) -> None:
        """Break all links between two machines in the middle of things."""
        for channel in Channel:
            self.break_link(one, other.storage, channel, Evidence.RESET)
            self.break_link(other, one.storage, channel, Evidence.RESET)

    def died(self, machine: Machine) -> None:
        """A process ended: its host resets the links to it, where that can be heard."""
        for other in self._world.machines.values():
            if other is not machine and not self.is_cut(machine, other):
                for channel in Channel:
                    self.break_link(other, machine.storage, channel, Evidence.RESET)

    def transmit(self, machine: Machine, storage: str, channel: Channel, bundle: Bundle) -> None:
        """Send a frame; dropped while the link is down, as every protocol above expects."""
        link = machine.links.get((storage, channel), DOWN)
        if link == DOWN:
            return
        world = self._world
        other = world.by_address.get(machine.wanted[storage])
        if other is None:
            return
        assert machine.node is not None
        boot, sender, sent_at = machine.node.identity.boot, machine.storage, world.now
        due = max(world.now + self._latency_s(machine, other), self._arrives.get((sender, link), 0.0) + 1e-6)
        if world.plan.link_bytes_per_s:
            due += len(encode_bundle(bundle)) / world.plan.link_bytes_per_s
        self._arrives[sender, link] = due
        self._repeat_proposals(machine, other, bundle)

        def deliver() -> None:
            if machine.links.get((storage, channel), DOWN) not in (DOWN, link):
                return  # A newer link took the place of the one that carried this.
            if self.is_cut(machine, other):
                if world.now > sent_at + GIVEN_UP_AFTER_S:
                    if machine.links.get((storage, channel)) == link:
                        self.break_link(machine, storage, channel, None)
                else:
                    self._arrives[sender, link] = max(self._arrives[sender, link], world.now + 0.1)
                    world.at(world.now + 0.1, deliver)
                return
            if other.life != self._life_of[link] or other.storage != storage:
                # The process at the other end of this link is gone; its host, or the next process, says so.
                if machine.links.get((storage, channel)) == link:
                    self.break_link(machine, storage, channel, Evidence.RESET)
                return
            other.on(lambda node: node.receive(sender, boot, bundle, now=world.now))

        world.at(due, deliver)

    def _repeat_proposals(self, machine: Machine, other: Machine, bundle: Bundle) -> None:
        world = self._world
        proposals = [message for message in bundle.node if type(message) is Propose]
        if not proposals or world.rng.random() >= world.plan.proposal_repeat:
            return
        assert machine.node is not None
        sender, boot = machine.storage, machine.node.identity.boot
        late = Bundle(node=list(proposals))

        def deliver() -> None:
            if not self.is_cut(machine, other):
                other.on(lambda node: node.receive(sender, boot, late, now=world.now))

        world.at(world.now + world.plan.proposal_delay_s * world.rng.random(), deliver)

    # --- datagrams -----------------------------------------------------------------------------------------------

    def datagram(self, machine: Machine, address: str, data: bytes) -> None:
        """Send a datagram: it may be lost, come twice, or overtake others."""
        world = self._world
        other = world.by_address.get(address)
        if other is None or self.is_cut(machine, other) or world.rng.random() < world.plan.datagram_loss:
            return
        source, life = split_address(machine.address), other.life

        def deliver() -> None:
            if other.life == life:
                other.on(lambda node: node.datagram(data, source, now=world.now))

        world.at(world.now + self._latency_s(machine, other), deliver)
        if world.rng.random() < world.plan.datagram_repeat:
            world.at(world.now + self._latency_s(machine, other) + 0.5 * world.rng.random(), deliver)
