"""What is broken is replaced where Kubernetes does not see it, one at a time, and never at the cost of an only copy."""

from typing import Any

import pytest

from ringkeep_core.resource import Recovery
from ringkeep_operator.state import Delete
from ringkeep_testing.operator_world import OperatorWorld


@pytest.fixture(name="world")
def _world() -> OperatorWorld:
    world = OperatorWorld()
    assert world.settle()
    world.run(3)
    return world


def _deletions(world: OperatorWorld) -> list[tuple[str, int | None]]:
    return [(a.target.name, a.grace_s) for a in world.pass_().actions if isinstance(a, Delete)]


def _after(world: OperatorWorld, seconds: float) -> None:
    world.tick()
    world.now += seconds - 1


def test_a_pod_that_the_members_call_dead_and_the_kubelet_calls_fine_is_replaced_in_time(world: OperatorWorld) -> None:
    uid = world.pods["demo-1"].uid
    world.pods["demo-1"].hangs = True
    _after(world, 59)
    assert _deletions(world) == []
    _after(world, 3)

    assert _deletions(world) == [("demo-1", None)]
    assert world.settle()
    assert world.pods["demo-1"].uid != uid


def test_of_two_dead_members_one_is_replaced_at_a_time() -> None:
    world = OperatorWorld()
    world.want(replicas=5)
    world.settle()
    _after(world, 100)
    for name in ("demo-1", "demo-3"):
        world.pods[name].hangs = True
    _after(world, 90)
    world.now += 60

    assert _deletions(world) == [("demo-1", None)]
    assert _deletions(world) == []
    assert world.settle()


def test_all_pods_deleted_at_once_come_back_without_any_help(world: OperatorWorld) -> None:
    for name in list(world.pods):
        world.kill(name)
    deleted = []
    for _ in range(10):
        deleted += _deletions(world)
        world.tick()

    assert (deleted, world.is_ready(), world.foundings) == ([], True, 1)


def test_a_lost_volume_is_replaced_with_its_pod(world: OperatorWorld) -> None:
    storage = world.claims["data-demo-1"].disk.storage
    world.lose_disk("demo-1")
    world.tick()

    assert _deletions(world) == [("data-demo-1", None), ("demo-1", None)]
    assert world.settle()
    assert (world.claims["data-demo-1"].disk.storage != storage, world.broken) == (True, [])


def test_a_lost_volume_with_the_only_complete_copy_is_kept_and_told() -> None:
    world = OperatorWorld()
    world.want(replicas=2, replication_factor=1, min_in_sync=1)
    world.settle()
    world.lose_disk("demo-1")
    world.run(100)

    assert "data-demo-1" in world.claims
    assert world.claims["data-demo-1"].phase == "Lost"
    assert world.condition("Available")[0] == "False"


def test_of_two_volumes_lost_at_once_none_with_the_last_copies_is_deleted() -> None:
    world = OperatorWorld()
    world.want(replicas=5, replication_factor=2, min_in_sync=1)
    assert world.settle()
    world.run(3)
    both = {copy.storage for copy in world.map.shards[0].in_sync}  # type: ignore[union-attr]
    lost = sorted(name for name, pod in world.pods.items() if pod.disk.storage in both)
    for name in lost:
        world.lose_disk(name)
    world.tick()
    deleted = [name for name, _ in _deletions(world)]

    assert (len(lost), [name for name in lost if f"data-{name}" in deleted]) == (2, [])
    assert world.condition("Degraded") == ("True", "OnlyCopyLost")


def test_a_volume_on_a_node_that_is_no_more_is_replaced_once_its_member_is_long_dead(world: OperatorWorld) -> None:
    world.claims["data-demo-1"].node = world.pods["demo-1"].node
    world.nodes_gone.add(world.pods["demo-1"].node)
    world.tick()
    assert _deletions(world) == []
    _after(world, 60)

    assert _deletions(world)[:2] == [("data-demo-1", None), ("demo-1", None)]


def test_a_pod_that_ends_on_a_node_that_is_no_more_is_removed_at_once(world: OperatorWorld) -> None:
    world.kill("demo-1")
    assert _deletions(world) == []
    world.nodes_gone.add(world.pods["demo-1"].node)

    assert _deletions(world) == [("demo-1", 0)]
    assert world.settle()


def test_nobody_is_replaced_while_no_member_can_be_asked(world: OperatorWorld) -> None:
    world.is_deaf = True
    for pod in world.pods.values():
        pod.hangs = True
    _after(world, 1000)

    assert (_deletions(world), world.condition("Available")) == ([], ("False", "NoMemberAnswers"))


def test_a_silent_pod_is_replaced_before_the_founding_too() -> None:
    world = OperatorWorld()
    world.pass_()
    world.tick(2)
    world.pods["demo-2"].hangs = True
    _after(world, 61)

    assert _deletions(world) == [("demo-2", None)]
    assert world.settle()


def _without_copies(**spec: Any) -> OperatorWorld:
    """A cluster of two members and one copy of each shard."""
    world = OperatorWorld()
    world.want(replicas=2, replication_factor=1, min_in_sync=1, **spec)
    assert world.settle()
    world.run(3)
    return world


def _progressing(world: OperatorWorld) -> str:
    condition = world.status.condition("Progressing")
    assert condition is not None
    return condition.message


def test_a_claim_that_was_deleted_under_a_member_is_told_and_no_rollout_takes_its_only_copies_along() -> None:
    world = _without_copies()
    world.claims["data-demo-1"].is_deleting = True
    world.want(image="good:2")
    deleted = [name for _ in range(60) for name, _ in (*_deletions(world), ("", world.tick()))]  # type: ignore[func-returns-value]
    degraded = world.status.condition("Degraded")
    assert degraded is not None

    assert (set(deleted), world.is_ready()) == ({""}, False)
    assert (degraded.status, degraded.reason) == ("True", "VolumeTerminating")
    assert "when pod demo-1 ends; no living member whose volume stays has a complete copy of 8" in degraded.message
    assert "the claim of demo-1 is being deleted" in _progressing(world)


def test_a_dead_member_whose_claim_was_deleted_keeps_its_pod_while_it_has_an_only_copy() -> None:
    world = _without_copies()
    world.claims["data-demo-1"].is_deleting = True
    world.pods["demo-1"].hangs = True
    _after(world, 90)
    world.now += 60

    assert [_deletions(world) for _ in range(3)] == [[], [], []]
    # Nor is anybody told that it was replaced.
    assert "PodReplaced" not in {tell.reason for tell in world.told}
    assert world.condition("Degraded") == ("True", "VolumeTerminating")


def test_a_cluster_is_not_suspended_while_a_deleted_claim_would_take_an_only_copy_along() -> None:
    world = _without_copies()
    world.claims["data-demo-1"].is_deleting = True
    world.want(suspend=True)
    world.run(20)
    before = sorted(world.pods)
    told = world.condition("Degraded")
    world.claims["data-demo-1"].is_deleting = False
    world.run(20)

    assert (before, told) == (["demo-0", "demo-1"], ("True", "VolumeTerminating"))
    assert world.pods == {}


def test_a_copy_on_another_deleted_claim_is_no_safe_one() -> None:
    world = OperatorWorld()
    world.want(replicas=2, replication_factor=2, min_in_sync=1)
    assert world.settle()
    world.run(3)
    for claim in world.claims.values():
        claim.is_deleting = True
    world.want(image="good:2")
    deleted = [name for _ in range(30) for name, _ in (*_deletions(world), ("", world.tick()))]  # type: ignore[func-returns-value]

    assert set(deleted) == {""}


def test_a_claim_that_was_deleted_under_a_member_is_replaced_by_a_rollout_where_others_have_all_copies(
    world: OperatorWorld,
) -> None:
    storage = world.claims["data-demo-1"].disk.storage
    world.claims["data-demo-1"].is_deleting = True
    world.pass_()
    degraded = world.status.condition("Degraded")
    assert degraded is not None
    text = degraded.message
    world.want(image="good:2")

    assert world.settle()
    assert text == "data-demo-1 is being deleted, and goes with its data when pod demo-1 ends"
    assert (world.claims["data-demo-1"].disk.storage != storage, world.broken) == (True, [])


def test_a_pod_that_ends_on_a_node_that_is_away_keeps_nobody_else_from_being_replaced() -> None:
    world = OperatorWorld()
    world.want(replicas=5, recovery=Recovery(replace_after="60s"))
    assert world.settle()
    _after(world, 100)
    for name in ("demo-1", "demo-3"):
        world.pods[name].hangs = True
    _after(world, 90)
    world.now += 60
    # Kubernetes has given the first up and waits for its kubelet; the second is fine for its own.
    world.nodes_down.add(world.pods["demo-1"].node)
    world.pods["demo-1"].is_deleting = True
    world.pods["demo-3"].node = next(node for node in ("worker-a", "worker-c") if node not in world.nodes_down)

    assert _deletions(world) == [("demo-3", None)]


def test_a_volume_that_is_lost_while_nobody_leads_is_told_and_kept(world: OperatorWorld) -> None:
    world.lose_disk("demo-1")
    world.pods["demo-0"].hangs = True
    world.tick()
    deleted = _deletions(world)
    degraded = world.status.condition("Degraded")
    assert degraded is not None

    assert (deleted, degraded.reason) == ([], "OnlyCopyLost")
    assert "data-demo-1 is lost, and nobody can say what was on it until the members have a leader" in degraded.message
