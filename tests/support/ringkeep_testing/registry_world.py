"""The real registries of a cluster over a simulated network, failure detector and clients, everything from one seed.

A *safety phase* draws faults (kills, restarts, cut links, messages lost although the link is up) while clients register,
renew through any node, change and remove their instances. Then a *healing phase*: faults stop, and all nodes must show the
same: what lives, and nothing else. What must hold at every moment is looked at after every step of every node:

    whom a node takes for dead passes nowhere on it          an index never falls
    a topic is woken exactly when its answer is another one

The failure detector is drawn too: each observer calls a node dead after at most ``DETECTION_S`` without it, and alive again
soon after it is back. Links keep the order of what they carry, as TCP does.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable
from random import Random

import msgspec
from msgspec.structs import replace

from ringkeep_core.errors import RingkeepError
from ringkeep_core.services import InstanceSeen, NodeHealth
from ringkeep_node.machines.messages import Bundle, decode_bundle, encode_bundle
from ringkeep_node.machines.registry import SERVICES_TOPIC, Registry, RegistrySettings
from ringkeep_node.machines.registry_tables import ServicesMessage
from ringkeep_node.machines.registry_view import NodeFact
from ringkeep_testing.registry_group import fact_of, instance_of, storage_of

DETECTION_S = 2.0
TTL_S = 6.0
SERVICES = ("web", "db", "queue")
Answer = tuple[tuple[object, ...], ...]


class Violation(AssertionError):
    """A promise was broken."""


class Client:
    """Somebody who keeps one instance alive, through whichever node answers."""

    def __init__(self, world: RegistryWorld, number: int) -> None:
        self.world = world
        self.key = (SERVICES[number % len(SERVICES)], f"i-{number}")
        self.port = 1000
        self.lives = True
        self.known_at: set[tuple[str, int]] = set()
        """Which processes have taken a sign of life since the registration: they may not say that they know nothing."""
        self.is_excused = False
        """Whether it may come back: the last node that knew of the removal has died, or it was removed where a greater
        registration had not been heard of."""
        world.at(world.now + world.random.random(), self.act)

    def act(self) -> None:
        """Show a sign of life, register if nobody knows the instance, now and then change or remove it."""
        world, draw = self.world, self.world.random
        if world.clients_act:
            name = world.any_node()
            if name is not None:
                self._ask(name, world.up[name], draw.random())
                world.flush(name)
        world.at(world.now + 0.5 + draw.random(), self.act)

    def look(self) -> None:
        """Look whether any node that runs knows of the removal."""
        if not (self.lives or self.is_excused):
            self.is_excused = not any(_knows_removed(node, self.key) for node in self.world.up.values())

    def _ask(self, name: str, node: Registry, chance: float) -> None:
        now, (service, id_) = self.world.now, self.key
        if not self.lives:
            if chance < 0.05 and self.world.hurts:
                self.lives, self.is_excused = True, False
            return
        if not node.is_informed(now=now):
            return
        if chance < 0.03 and self.world.hurts:
            if node.deregister(service, id_, now=now):
                self.lives = False
                self.known_at.clear()
                # Numbers order what happened on two sides of a cut: the other side may be ahead.
                self.is_excused = any(_is_ahead(other, node, self.key) for other in self.world.up.values())
            return
        if chance < 0.08 and self.world.hurts:
            self.port += 1
            self._register(node)
            return
        process = (name, self.world.life_of(name))
        try:
            node.update_check(service, id_, "", "passing", None, now=now)
        except RingkeepError:
            if process in self.known_at and self.world.is_joined:
                raise self.world.violation(
                    f"{name} does not know {id_} any more, which is renewed all the time"
                ) from None
            self._register(node)
        self.known_at.add(process)

    def _register(self, node: Registry) -> None:
        instance = instance_of(*self.key, port=self.port, ttl_s=TTL_S, tags=(f"p{self.port % 2}",))
        node.register(instance, now=self.world.now)


def _knows_removed(node: Registry, key: tuple[str, str]) -> bool:
    held = node._winner(key)
    return key in node._graves or (held is not None and held[1].instance is None)


def _is_ahead(other: Registry, node: Registry, key: tuple[str, str]) -> bool:
    theirs, ours = other._winner(key), node._winner(key)
    assert ours is not None
    return theirs is not None and theirs[1].instance is not None and theirs[1].lamport >= ours[1].lamport


class RegistryWorld:
    """The cluster of one seed."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.random = Random(seed)
        self.now = 0.0
        self.names = [f"n{number}" for number in range(1, self.random.choice((3, 3, 4, 5)) + 1)]
        self.loss = self.random.choice((0.0, 0.0, 0.02, 0.2))
        self.delay_s = self.random.choice((0.001, 0.005, 0.1))
        self.parts = self.random.random() < 0.6
        self.hurts = self.clients_act = True
        self.counters = dict.fromkeys(self.names, 0)
        self.up: dict[str, Registry] = {}
        self.cut: set[frozenset[str]] = set()
        self.facts: dict[str, dict[str, NodeFact]] = {}
        self.counts = {"kill": 0, "cut": 0, "lost": 0, "adopted": 0, "lapsed": 0, "removed": 0, "woken": 0}
        self._links: dict[tuple[str, str], tuple[int, float]] = {}
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._events = 0
        self._answers: dict[tuple[str, str], tuple[int, Answer]] = {}
        self._lives: dict[str, int] = dict.fromkeys(self.names, 0)
        self.version = 0
        self._held: dict[str, int] = {}
        for name in self.names:
            self.start(name)
        self.clients = [Client(self, number) for number in range(self.random.choice((4, 9)))]
        self.at(0.3, self._gossip)

    # --- the heap ------------------------------------------------------------------------------------------------

    def at(self, due: float, action: Callable[[], None]) -> None:
        """Run ``action`` at virtual time ``due``."""
        self._events += 1
        heapq.heappush(self._heap, (due, self._events, action))

    def run(self, seconds: float) -> None:
        """Let time pass."""
        end = self.now + seconds
        while self._heap and self._heap[0][0] <= end:
            self.now, _, action = heapq.heappop(self._heap)
            action()
        self.now = end

    # --- nodes and links -----------------------------------------------------------------------------------------

    def start(self, name: str) -> None:
        """Start a process: a new boot with empty memory."""
        self.counters[name] += 1
        self._lives[name] += 1
        self._held.pop(name, None)
        own = fact_of(name, counter=self.counters[name])
        self.facts[name] = {
            other: replace(fact_of(other), counter=max(1, self.counters[other])) for other in self.names
        }
        self.facts[name][name] = own
        self.up[name] = Registry(own, RegistrySettings(), now=self.now)
        self._answers = {place: kept for place, kept in self._answers.items() if place[0] != name}
        self._tell_facts(name)
        self._register_boot(name)
        for other in self.names:
            if other != name:
                self._link_soon(name, other)

    def _register_boot(self, name: str) -> None:
        """Put the boot of a node into the map, if it reaches a majority; until then it takes nothing from clients."""
        if name not in self._held and sum(self.reaches(name, other) for other in self.names) > len(self.names) // 2:
            self.version += 1
            self._held[name] = self.version
            for other in sorted(self.up):
                if other in self._held and self.reaches(name, other):
                    self._held[other] = self.version
                    self._tell_facts(other)

    def kill(self, name: str) -> None:
        """End a process."""
        self._count(self.up.pop(name))
        for client in self.clients:
            client.look()
        self._lives[name] += 1
        self.counts["kill"] += 1
        for other in self.names:
            self._unlink(name, other)
            self._judge_soon(other, name)

    def part(self, one: str, other: str) -> None:
        """Cut the network between two nodes."""
        self.cut.add(frozenset((one, other)))
        self.counts["cut"] += 1
        self._unlink(one, other)
        self._judge_soon(one, other)
        self._judge_soon(other, one)

    def heal(self) -> None:
        """Let everything work from now on."""
        self.hurts, self.loss = False, 0.0
        for pair in sorted(self.cut, key=sorted):
            self.join(*sorted(pair))
        for name in self.names:
            if name not in self.up:
                self.start(name)

    def join(self, one: str, other: str) -> None:
        """Mend the network between two nodes."""
        self.cut.discard(frozenset((one, other)))
        self._link_soon(one, other)

    def reaches(self, one: str, other: str) -> bool:
        """Return whether both run and the network between them works."""
        return one in self.up and other in self.up and frozenset((one, other)) not in self.cut

    def life_of(self, name: str) -> int:
        """Return a number of the process of this node that no other process of it has."""
        return self._lives[name]

    @property
    def is_joined(self) -> bool:
        """Whether nothing but kills and restarts happens in this world."""
        return not self.parts and self.loss == 0.0 and self.hurts

    def any_node(self) -> str | None:
        """Return a node that a client may ask."""
        serving = sorted(name for name in self.up if name in self._held)
        return self.random.choice(serving) if serving else None

    def _link_soon(self, one: str, other: str) -> None:
        lives = (self._lives[one], self._lives[other])

        def link() -> None:
            if (self._lives[one], self._lives[other]) != lives or not self.reaches(one, other):
                return
            for name, peer in ((one, other), (other, one)):
                number, _ = self._links.get((name, peer), (0, 0.0))
                self._links[name, peer] = (number + 1, self.now)
                self._believe(name, peer, NodeHealth.ALIVE)
                self._register_boot(name)
                self.up[name].linked(storage_of(peer), now=self.now)
                self.flush(name)

        self.at(self.now + 0.05 + 0.3 * self.random.random(), link)

    def _unlink(self, one: str, other: str) -> None:
        for name, peer in ((one, other), (other, one)):
            number, _ = self._links.get((name, peer), (0, 0.0))
            self._links[name, peer] = (number + 1, math.inf)
            if name in self.up:
                self.up[name].unlinked(storage_of(peer))

    def _judge_soon(self, observer: str, name: str) -> None:
        """Let the observer call a node dead if it does not reach it until then."""
        life = self._lives[observer]

        def judge() -> None:
            if self._lives[observer] == life and observer in self.up and not self.reaches(observer, name):
                self._believe(observer, name, NodeHealth.DEAD)

        if observer != name:
            self.at(self.now + 0.3 + (DETECTION_S - 0.4) * self.random.random(), judge)

    def _believe(self, observer: str, name: str, health: NodeHealth) -> None:
        fact = self.facts[observer][name]
        self.facts[observer][name] = replace(fact_of(name, counter=self.counters[name]), health=health)
        if self.facts[observer][name] != fact:
            self._tell_facts(observer)
            self.flush(observer)

    def _tell_facts(self, observer: str) -> None:
        self.up[observer].members(self.facts[observer].values(), map_version=self._held.get(observer, 0), now=self.now)

    def _gossip(self) -> None:
        for name in sorted(self.up):
            for other in sorted(self.up):
                if name != other and self.reaches(name, other):
                    if self.facts[name][other].health is not NodeHealth.ALIVE:
                        self._believe(name, other, NodeHealth.ALIVE)
                    version = self.up[other].version
                    self.up[name].told(storage_of(other), self.counters[other], version, now=self.now)
            self.flush(name)
        self.at(self.now + 0.3, self._gossip)

    def hurt(self) -> None:
        """Do something that goes wrong."""
        kind = self.random.random()
        if kind < 0.3 and len(self.up) > 1:
            self.kill(self.random.choice(sorted(self.up)))
        elif kind < 0.6:
            down = [name for name in self.names if name not in self.up]
            if down:
                self.start(self.random.choice(down))
        elif kind < 0.8 and self.parts:
            self.part(*self.random.sample(self.names, 2))
        elif self.cut:
            self.join(*sorted(self.random.choice(sorted(self.cut, key=sorted))))

    # --- a step --------------------------------------------------------------------------------------------------

    def flush(self, name: str) -> None:
        """Take a node's step: carry its messages, wake it when it wants, look at what it shows."""
        registry = self.up[name]
        step = registry.take()
        self._check(name, step.changed if step is not None else set())
        for to, message in step.sends if step is not None else ():
            self._carry(name, next(each for each in self.names if storage_of(each) == to), message)
        due = registry.next_deadline()
        if due is not None:
            life = self._lives[name]
            self.at(max(due, self.now + 0.001), lambda: self._tick(name, life))

    def _tick(self, name: str, life: int) -> None:
        registry = self.up.get(name)
        if registry is None or self._lives[name] != life:
            return
        due = registry.next_deadline()
        if due is not None and due <= self.now:
            registry.tick(now=self.now)
            self.flush(name)

    def _carry(self, sender: str, to: str, message: ServicesMessage) -> None:
        number, last = self._links.get((sender, to), (0, math.inf))
        if last == math.inf or not self.reaches(sender, to):
            return
        if self.random.random() < self.loss:
            self.counts["lost"] += 1
            return
        arrives = max(last, self.now + self.delay_s * self.random.random())
        self._links[sender, to] = (number, arrives)
        body = encode_bundle(Bundle(node=[message]))

        def arrive() -> None:
            if self._links[sender, to][0] == number and self.reaches(sender, to):
                self.up[to].receive(storage_of(sender), decode_bundle(body).node[0], now=self.now)  # type: ignore[arg-type]
                self.flush(to)

        self.at(arrives, arrive)

    # --- what must hold ------------------------------------------------------------------------------------------

    def _check(self, name: str, woken: set[str]) -> None:
        view, facts = self.up[name].view, self.facts[name]
        for topic in (*SERVICES, SERVICES_TOPIC):
            answer = self._answer(name, topic)
            index, before = self._answers.get((name, topic), (1, ()))
            fresh = view.index(topic)
            if (name, topic) not in self._answers and not woken and not answer:
                before = answer
            if fresh < index:
                raise self.violation(f"{name}: the index of {topic} fell from {index} to {fresh}")
            if (answer != before) != (topic in woken) or (fresh != index) != (topic in woken):
                what = "woken for nothing" if topic in woken else "not woken"
                raise self.violation(f"{name}: {topic} was {what}: {before} -> {answer}, index {index} -> {fresh}")
            self._answers[name, topic] = (fresh, answer)
            self.counts["woken"] += topic in woken
        for service in SERVICES:
            for seen in view.instances(service):
                if facts[seen.node.name].health is NodeHealth.DEAD and seen.status == "passing":
                    raise self.violation(f"{name} calls {seen.node.name} dead and shows {seen.instance.id} passing")

    def _answer(self, name: str, topic: str) -> Answer:
        view = self.up[name].view
        if topic == SERVICES_TOPIC:
            return tuple(view.services().items())
        return tuple(_shown(seen) for seen in view.instances(topic))

    def check_whole(self) -> None:
        """After healing all nodes show the same: every instance that lives passes, and there is no other."""
        living = sorted(client.key for client in self.clients if client.lives)
        excused = {client.key for client in self.clients if client.is_excused}
        for name in self.names:
            view = self.up[name].view
            seen = [each for service in sorted(SERVICES) for each in view.instances(service)]
            shown = sorted((it.instance.key, it.status) for it in seen if it.instance.key not in excused)
            if shown != [(key, "passing") for key in living]:
                raise self.violation(f"{name} shows {shown}, and what lives is {living}")
        pictures = {
            name: [_shown(each) for service in SERVICES for each in self.up[name].view.instances(service)]
            for name in self.names
        }
        if len({repr(picture) for picture in pictures.values()}) != 1:
            raise self.violation(f"nodes show different things: {pictures}")
        for registry in self.up.values():
            self._count(registry)

    def _count(self, registry: Registry) -> None:
        self.counts["adopted"] += registry.adoptions
        self.counts["lapsed"] += registry.lapses
        self.counts["removed"] += registry.removals

    def violation(self, text: str) -> Violation:
        """Return the error that a broken promise raises."""
        return Violation(
            f"seed {self.seed} at {self.now:.3f} s: {text}\n"
            f"replay: RINGKEEP_REGISTRY_SEED={self.seed} RINGKEEP_REGISTRY_SEEDS=1 "
            "python -m pytest -q tests/sim/test_registry_simulation.py"
        )


def _shown(seen: InstanceSeen) -> tuple[object, ...]:
    instance = msgspec.to_builtins(replace(seen.instance, lamport=0))
    return repr(instance), seen.status, seen.address, seen.node.name, seen.node.boot, repr(seen.node.checks)
