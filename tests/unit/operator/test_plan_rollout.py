"""Pods are replaced one by one, the leader last; a bad image takes one pod, and heals when the spec is corrected."""

import pytest

from ringkeep_core.resource import Recovery, time_text
from ringkeep_operator.state import Delete, TransferLeader
from ringkeep_testing.operator_world import OperatorWorld


@pytest.fixture(name="world")
def _world() -> OperatorWorld:
    world = OperatorWorld()
    assert world.settle()
    world.run(3)
    return world


def _story(world: OperatorWorld, passes: int = 60) -> list[str]:
    story = []
    for _ in range(passes):
        for action in world.pass_().actions:
            if isinstance(action, Delete):
                story.append(f"delete {action.target.name}")
            elif isinstance(action, TransferLeader):
                story.append("transfer")
        if world.is_ready():
            break
        world.tick()
    return list(dict.fromkeys(story))


def test_the_leader_is_replaced_last_after_it_has_handed_leadership_over(world: OperatorWorld) -> None:
    assert world.leader == "demo-0"
    world.want(image="good:2")

    assert _story(world) == ["delete demo-2", "delete demo-1", "transfer", "delete demo-0"]
    assert ({pod.image for pod in world.pods.values()}, world.broken) == ({"good:2"}, [])


def test_no_pod_is_taken_while_a_shard_has_fewer_copies_than_wanted(world: OperatorWorld) -> None:
    world.pods["demo-1"].hangs = True
    world.tick()
    world.want(image="good:2")
    for _ in range(10):
        world.pass_()
        world.tick()

    assert sorted(name for name, pod in world.pods.items() if pod.image == "good:2") == []


def test_a_bad_image_takes_one_pod_and_is_told(world: OperatorWorld) -> None:
    world.want(image="bad:2")
    world.run(60)

    assert sorted(name for name, pod in world.pods.items() if pod.image == "bad:2") == ["demo-2"]
    assert (world.condition("Available"), world.condition("Degraded")) == (
        ("True", "Serving"),
        ("True", "ImagePullFailed"),
    )
    assert "ImagePullFailed" in [tell.reason for tell in world.told]


def test_a_bad_image_takes_no_second_pod_when_the_copies_of_the_first_have_been_made_elsewhere() -> None:
    world = OperatorWorld()
    world.want(replicas=5, recovery=Recovery(rereplicate_after="10s"))
    world.settle()
    world.want(image="bad:2")
    world.run(90)
    cluster = world.seen().cluster
    assert cluster is not None

    assert (cluster.shards_ok, cluster.shards_under_replicated) == (16, 0)
    assert sorted(name for name, pod in world.pods.items() if pod.image == "bad:2") == ["demo-4"]


def test_a_corrected_image_replaces_the_broken_pod_first_and_then_the_others(world: OperatorWorld) -> None:
    world.want(image="bad:2")
    world.run(10)
    world.want(image="good:3")

    assert _story(world) == ["delete demo-2", "delete demo-1", "transfer", "delete demo-0"]
    assert ({pod.image for pod in world.pods.values()}, world.broken) == ({"good:3"}, [])


def test_a_bad_image_from_the_beginning_heals_when_it_is_corrected() -> None:
    world = OperatorWorld()
    world.want(image="bad:1")
    world.run(10)
    world.want(image="good:1")

    assert world.settle(30)
    assert world.broken == []


def test_a_scale_up_restarts_nothing(world: OperatorWorld) -> None:
    before = {name: pod.uid for name, pod in world.pods.items()}
    world.want(replicas=5)
    world.settle()

    assert {name: world.pods[name].uid for name in before} == before


def test_a_cluster_of_one_is_restarted_all_the_same() -> None:
    world = OperatorWorld()
    world.want(replicas=1)
    world.settle()
    world.want(image="good:2")

    assert _story(world) == ["delete demo-0"]
    assert world.is_ready()


def test_the_only_member_beside_gateways_is_restarted_without_an_heir() -> None:
    world = OperatorWorld()
    world.want(replicas=1, gateways=1)
    world.settle()
    world.want(image="good:2")

    assert _story(world) == ["delete demo-gateway-0", "delete demo-0"]
    assert world.is_ready()


def test_nothing_is_replaced_before_the_controller_has_looked_at_the_new_template(world: OperatorWorld) -> None:
    world.want(image="good:2")
    world.pass_()

    decision = world.pass_()

    assert not any(isinstance(action, Delete | TransferLeader) for action in decision.actions)
    assert world.condition("Ready")[0] == "False"


def test_a_new_token_replaces_the_pods_that_know_the_former_one_the_leader_last(world: OperatorWorld) -> None:
    del world.objects["Secret", "demo-admin"]
    world.pass_()
    world.tick()
    world.objects["Secret", "demo-admin"]["metadata"]["creationTimestamp"] = time_text(world.now)
    uids = {name: pod.uid for name, pod in world.pods.items()}
    world.tick()

    assert _story(world) == ["delete demo-2", "delete demo-1", "transfer", "delete demo-0"]
    assert [name for name, pod in world.pods.items() if pod.uid == uids[name]] == []
    assert _story(world, passes=10) == []
