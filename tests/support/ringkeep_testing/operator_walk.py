"""Random lives of a cluster under the operator: people, Kubernetes and bad luck do anything, the operator is killed
between any two of its actions; then everything is left alone, and the cluster must become what the spec wants.

    walk(seed) -> Life(world, is_ready, is_idle, story)
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from msgspec.structs import replace

from ringkeep_operator.shards import only_complete_copies
from ringkeep_testing.operator_world import OperatorWorld

STEPS = 60
OPERATIONS = (
    "scale", "scale", "scale", "good_image", "bad_image", "kill", "kill", "kill_all", "hang", "lose_volume", "suspend",
    "gateways", "delete_object", "edit_object", "settings", "retain", "deafen", "pause",
)  # fmt: skip


@dataclass
class Life:
    """What came of a random life; ``story`` are (time, operation)."""

    world: OperatorWorld
    is_ready: bool = False
    is_idle: bool = False
    story: list[tuple[float, str]] = field(default_factory=list)


def walk(seed: int, steps: int = STEPS, *, looks_late: bool = False) -> Life:
    """Live through ``steps`` of anything, then settle. ``looks_late``: what is seen meanwhile may be old."""
    rng, world = random.Random(seed), OperatorWorld()
    life = Life(world)
    for _ in range(steps):
        if rng.random() < 0.25:
            operation = rng.choice(OPERATIONS)
            life.story.append((round(world.now - 1_000_000, 1), operation))
            _happens(world, operation, rng)
        for _ in range(rng.randint(0, 3)):
            late = rng.choice([0, 0, 0, 1, 2, 5]) if looks_late else 0
            world.pass_(killed_after=rng.choice([None, None, 0, 1, 2, 3]), passes_late=late)
        world.tick(rng.choice([0.3, 1, 1, 5, 20]))
        if world.broken:
            return life
    world.is_deaf = False
    if world.map is not None and len(world.map.by_name) == 1:
        # Nobody is there to call a lone member dead: its kubelet restarts it, by its liveness probe.
        for name in world.map.by_name.keys() & world.pods.keys():
            world.pods[name].hangs = False
    world.want(image="good:final", suspend=False, paused=False, replicas=rng.randint(1, 5))
    life.is_ready = world.settle(600)
    if life.is_ready:
        world.run(6)
        writes = world.writes
        world.run(40)
        life.is_idle = world.is_ready() and not world.pass_().actions and world.writes == writes
    return life


def _happens(world: OperatorWorld, operation: str, rng: random.Random) -> None:
    if operation in ("kill", "hang", "lose_volume"):
        if world.pods:
            _pod_suffers(world, operation, rng.choice(sorted(world.pods)))
    elif operation in ("delete_object", "edit_object"):
        if world.objects:
            _object_suffers(world, operation, rng.choice(sorted(world.objects)), rng)
    elif operation == "kill_all":
        for name in world.pods:
            world.kill(name)
    elif operation == "deafen":
        world.is_deaf = not world.is_deaf
    else:
        _spec_changes(world, operation, rng)


def _pod_suffers(world: OperatorWorld, operation: str, name: str) -> None:
    pod = world.pods[name]
    if operation == "kill":
        world.kill(name)
    elif operation == "hang":
        # A lone member that hangs has nobody who calls it dead: the kubelet's probe restarts it, which is no hang here.
        pod.hangs = pod.hangs or world.map is None or len(world.living()) > 1
    elif _can_lose(world, pod.disk.storage):
        world.lose_disk(name)


def _can_lose(world: OperatorWorld, storage: str) -> bool:
    """More than one lost at a time may be more than there is to lose."""
    return (
        world.is_ready()
        and world.map is not None
        and not only_complete_copies(world.map, storage, world.living())
        and len(world.voters) >= 3
        and all(claim.phase != "Lost" for claim in world.claims.values())
    )


def _object_suffers(world: OperatorWorld, operation: str, key: tuple[str, str], rng: random.Random) -> None:
    if operation == "delete_object":
        del world.objects[key]
    elif "spec" in world.objects[key]:
        live = world.objects[key]
        edit: dict[str, object] = {"replicas": rng.randint(0, 7)} if key[0] == "StatefulSet" else {"selector": {}}
        live["spec"] = {**live["spec"], **edit}
        live["metadata"]["generation"] = live["metadata"].get("generation", 1) + 1


def _spec_changes(world: OperatorWorld, operation: str, rng: random.Random) -> None:
    storage = world.spec.storage
    if operation == "scale":
        world.want(replicas=rng.randint(1, 6))
    elif operation == "good_image":
        world.want(image=f"good:{rng.randint(1, 9)}")
    elif operation == "bad_image":
        world.want(image=f"bad:{rng.randint(1, 9)}")
    elif operation == "gateways":
        world.want(gateways=rng.randint(0, 2))
    elif operation == "suspend":
        world.want(suspend=not world.spec.suspend)
    elif operation == "pause":
        world.want(paused=not world.spec.paused)
    elif operation == "settings":
        world.want(replication_factor=rng.randint(2, 4), min_in_sync=rng.randint(1, 2))
    elif operation == "retain":
        retain = replace(storage.retain, when_scaled=rng.choice(["Delete", "Retain"]))
        world.want(storage=replace(storage, retain=retain))
