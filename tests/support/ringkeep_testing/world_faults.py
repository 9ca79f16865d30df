"""The faults of the whole-cluster simulation: each is drawn per machine and tenth of a second, and ends by itself.

What the design cannot survive is not drawn: the only complete copy of a shard is never wiped, nor a majority of the
voters, and only a machine without a vote gets an older volume back. An entry rots only in a shard all of whose other copies
are whole, and that stays so until the damaged one has left the sets.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ringkeep_core.shardmap import Copy, Shard

if TYPE_CHECKING:
    from ringkeep_testing.node_world import World
    from ringkeep_testing.world_machine import Machine

DECIDE_S = 0.1
LINKS_BACK_S = 2.5
DOWN_FOR_S = (0.02, 0.05, 0.3, 2.0, 5.0)


class Faults:
    """Draws faults until ``until``; ``heal`` ends them all."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.active = False
        self.counts: dict[str, int] = {}
        self._rotted: set[tuple[int, str, int]] = set()
        """(shard, storage, version added) of every copy that was damaged."""

    def draw(self, until: float) -> None:
        """Draw faults until a time."""
        self.active = True
        world = self._world

        def decide() -> None:
            if world.now >= until or not self.active:
                return
            for machine in list(world.machines.values()):
                self._decide_for(machine)
            if self._strikes(world.plan.cut_rate):
                self._cut()
            if self._strikes(world.plan.power_cut_rate):
                self._power_cut()
            world.at(world.now + DECIDE_S, decide)

        world.at(world.now, decide)

    def heal(self) -> None:
        """Stop all faults, start everybody, and let pauses and hanging disks come to their end."""
        self.active = False
        world = self._world
        world.network.cuts.clear()
        world.network.slow.clear()
        for machine in world.machines.values():
            machine.lags_until = 0.0
            machine.sync_factor = 1.0
            if machine.storage not in world.eye.newest.left:
                self._start(machine)
        ends = [max(world.now, one.paused_until, one.hung_until) for one in world.machines.values()]
        world.run_until(max(ends) + LINKS_BACK_S)

    def ended_itself(self, machine: Machine) -> None:
        """A node refused to go on: that is right for a volume that was rolled back; it comes back with an empty one."""
        world = self._world
        if machine.storage in world.eye.newest.left:
            self._count("refused the left disk of")
            return
        if not machine.is_rolled_back:
            raise world.violation(f"{machine.name} ended itself: {machine.fatal}")
        self._count("refused the rolled-back volume of")
        machine.new_disk()
        world.at(world.now + 0.2, lambda: self._start(machine))

    def _strikes(self, rate: float) -> bool:
        return rate > 0 and self._world.rng.random() < rate * DECIDE_S

    def _count(self, fault: str) -> None:
        self.counts[fault] = self.counts.get(fault, 0) + 1
        self._world.note("fault", fault)

    def _start(self, machine: Machine) -> None:
        if machine.node is None:
            machine.start()

    def _decide_for(self, machine: Machine) -> None:
        world, plan = self._world, self._world.plan
        rng, now = world.rng, world.now
        if self._strikes(plan.kill_rate) and machine.node is not None:
            self._kill(machine, rng.choice(DOWN_FOR_S))
        if self._strikes(plan.pause_rate):
            self._count("pause")
            machine.paused_until = max(machine.paused_until, now + rng.choice((0.3, 1.0, 3.0, 6.0)))
        if self._strikes(plan.lag_rate):
            self._count("lag")
            machine.lags_until = now + rng.choice((0.5, 3.0))
        if self._strikes(plan.hang_rate):
            self._count("hang")
            machine.hung_until = max(machine.hung_until, now + rng.choice((0.5, 2.5, 5.0)))
        if self._strikes(plan.slow_disk_rate):
            self._count("slow disk")
            machine.sync_factor = rng.choice((1.0, 10.0, 50.0))
        if self._strikes(plan.clock_rate):
            self._count("clock")
            machine.wall_offset_s = rng.choice((-11 * 3600.0, -5.0, 0.0, 30.0, 11 * 3600.0))
        if self._strikes(plan.reset_rate) and len(world.machines) > 1:
            self._count("reset")
            world.network.reset(machine, rng.choice(self._others(machine)))
        if self._strikes(plan.slow_link_rate) and len(world.machines) > 1:
            self._slow_link(machine)
        if self._strikes(plan.wipe_rate):
            self.wipe(machine)
        if self._strikes(plan.roll_back_rate):
            self._image_or_roll_back(machine)
        if self._strikes(plan.rot_rate):
            self.rot(machine)

    def _others(self, machine: Machine) -> list[Machine]:
        return [other for other in self._world.machines.values() if other is not machine]

    def _kill(self, machine: Machine, down_s: float) -> None:
        world, rng = self._world, self._world.rng
        self._count("kill")
        machine.kill()

        def back() -> None:
            if machine.node is not None or not self.active:
                return
            machine.start()
            if rng.random() < 0.3:
                world.at(world.now + rng.choice((0.001, 0.02, 0.2)), again)

        def again() -> None:
            if self.active and machine.node is not None:
                self._kill(machine, 0.1)

        world.at(world.now + down_s, back)

    def _power_cut(self) -> None:
        world = self._world
        self._count("power cut")
        for machine in world.machines.values():
            machine.kill()
            world.at(world.now + 0.05 + 0.5 * world.rng.random(), lambda m=machine: self._start(m))  # type: ignore[misc]

    def _slow_link(self, machine: Machine) -> None:
        world, rng = self._world, self._world.rng
        other = rng.choice(self._others(machine))
        self._count("slow link")
        world.network.slow[machine.name, other.name] = rng.choice((0.05, 0.3, 1.0))
        world.at(world.now + 3.0, lambda: world.network.slow.pop((machine.name, other.name), None) and None)

    def _cut(self) -> None:
        world, rng = self._world, self._world.rng
        names = list(world.machines)
        if len(names) < 2:
            return
        rng.shuffle(names)
        left, right, rest = names[0], names[1], names[1:]
        shape = rng.choice(("pair", "one way", "isolate", "deaf", "bridge", "halves"))
        if shape == "pair":
            pairs = [(left, right)]
        elif shape == "one way":
            pairs = []
        elif shape == "bridge":
            # Everybody reaches ``left``, but the two sides do not reach each other.
            middle = 1 + len(rest) // 2
            pairs = [(one, other) for one in names[1:middle] for other in names[middle:]]
        elif shape == "halves":
            middle = len(names) // 2
            pairs = [(one, other) for one in names[:middle] for other in names[middle:]]
        else:
            pairs = [(left, other) for other in rest]
        cuts = [*pairs, *((other, one) for one, other in pairs)]
        if shape == "one way":
            cuts = [(left, right)]
        elif shape == "deaf":
            cuts = [(other, left) for other in rest]
        self._count(f"cut {shape}")
        world.network.cut(cuts)
        world.at(world.now + rng.choice((0.2, 1.0, 4.0, 6.0)), lambda: world.network.mend(cuts))

    # --- disks ---------------------------------------------------------------------------------------------------

    def may_lose_disk(self, machine: Machine) -> bool:
        """Return whether the cluster survives the loss of a disk by design."""
        world = self._world
        if not world.eye.movement.may_lose_voter(machine.storage):
            return False
        newest, disks = world.eye.newest, world.disks()
        if newest.index == 1:
            return False  # The founder may be the only one who has the first map.
        for number, shard in enumerate(newest.shards):
            complete = [copy.storage for copy in self._whole(number, shard) if copy.storage in disks]
            if machine.storage in complete and (len(complete) < 2 or shard.need < 2):
                return False
            rotted = self._rotted_in(number, shard)
            if rotted and shard.copy_of(machine.storage) not in (None, *rotted):
                return False
        return all(other is machine or other.storage in newest.members for other in world.machines.values())

    def wipe(self, machine: Machine) -> bool:
        """Let a machine lose its disk and come back under its name; returns whether the design allows that now."""
        if not self.may_lose_disk(machine):
            return False
        self._count("wipe")
        machine.kill()
        machine.new_disk()
        world = self._world
        world.at(world.now + world.rng.choice((0.05, 1.0)), lambda: self._start(machine))
        return True

    def has_rot(self) -> bool:
        """Return whether a damaged copy counts still."""
        shards = self._world.eye.newest.shards
        return any(self._rotted_in(number, shards[number]) for number in {shard for shard, *_ in self._rotted})

    def _rotted_in(self, number: int, shard: Shard) -> list[Copy]:
        complete = (*shard.in_sync, *shard.eligible)
        return [copy for copy in complete if (number, copy.storage, copy.added) in self._rotted]

    def _whole(self, number: int, shard: Shard) -> list[Copy]:
        complete = (*shard.in_sync, *shard.eligible)
        return [copy for copy in complete if (number, copy.storage, copy.added) not in self._rotted]

    def _may_rot(self, machine: Machine) -> set[tuple[int, int]]:
        """Return (shard, version added) of the machine's copies that the design survives the damage of.

        With one damaged copy and a need of two or more, in_sync alone or with eligible has a whole one in every map that
        may follow, unless a disk is lost as well or the need is lowered.
        """
        world, found = self._world, set[tuple[int, int]]()
        newest, disks = world.eye.newest, world.disks()
        if machine.is_rolled_back or not world.people.is_quiet or newest.need_wanted() < 2:
            return found
        for number, shard in enumerate(newest.shards):
            whole = self._whole(number, shard)
            mine = next((copy for copy in whole if copy.storage == machine.storage), None)
            all_there = all(copy.storage in disks for copy in (*shard.in_sync, *shard.learners))
            if (
                mine is not None
                and len(whole) > 1
                and shard.need > 1
                and all_there
                and not self._rotted_in(number, shard)
            ):
                found.add((number, mine.added))
        return found

    def rot(self, machine: Machine) -> bool:
        """Kill a machine and let an entry rot that its store does not cover; returns whether the design allows that now."""
        world, survived = self._world, self._may_rot(machine)
        if machine.node is None or not survived:
            return False
        machine.kill()
        places = [place for place in machine.log.needed(machine.store.synced()) if place[:2] in survived]
        self._count("rot" if places else "kill")
        if places:
            place = world.rng.choice(places)
            machine.log.damage(place)
            self._rotted.add((place[0], machine.storage, place[1]))
        world.at(world.now + world.rng.choice((0.02, 0.3, 2.0)), lambda: self._start(machine))
        return bool(places)

    def _image_or_roll_back(self, machine: Machine) -> None:
        world = self._world
        if machine.storage in world.eye.movement.ever_voted or machine.node is None:
            return
        registered = world.eye.newest.members.get(machine.storage)
        if machine.image is None or registered is None or machine.image[3] + 1 > registered.boot_counter:
            if machine.image is None and registered is not None:
                machine.take_image()
                self._count("image")
            return
        if self.may_lose_disk(machine):
            self._count("roll back")
            machine.kill()
            machine.roll_back()
            world.at(world.now + 0.1, lambda: self._start(machine))
