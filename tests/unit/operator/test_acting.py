"""A change is asked of the best node, and of the next where a node still knows a former token."""

import asyncio

import pytest

from ringkeep_core.resource import ClusterResource
from ringkeep_operator.acting import at_any
from ringkeep_operator.nodes import Answering, NodeError, NodeSilent
from ringkeep_operator.observing import Observed
from ringkeep_operator.state import Seen, SeenNode


def _observed(*names: str) -> Observed:
    answering = tuple(
        Answering(SeenNode(name=name, storage_id="s", peer=f"{name}:7400", url=""), f"http://{name}", 1, "")
        for name in names
    )
    return Observed(Seen(resource=ClusterResource(name="demo", namespace="ns"), now=0.0), {}, answering, "new")


def _asked(refusing: dict[str, int]) -> tuple[list[str], Exception | None]:
    asked = []

    async def ask(base: str) -> None:
        asked.append(base)
        if status := refusing.get(base):
            raise NodeError("no", status=status)

    try:
        asyncio.run(at_any(_observed("a", "b", "c"), ask))
    except (NodeError, NodeSilent) as error:
        return asked, error
    return asked, None


def test_a_node_that_knows_a_former_token_or_belongs_to_another_cluster_is_passed_over() -> None:
    assert _asked({"http://a": 401, "http://b": 421}) == (["http://a", "http://b", "http://c"], None)


@pytest.mark.parametrize("status", [400, 404, 409])
def test_any_other_refusal_is_the_clusters_word(status: int) -> None:
    asked, error = _asked({"http://a": status})

    assert asked == ["http://a"]
    assert isinstance(error, NodeError) and error.status == status


def test_where_no_node_takes_the_token_that_is_the_error() -> None:
    asked, error = _asked({f"http://{name}": 401 for name in "abc"})

    assert asked == ["http://a", "http://b", "http://c"]
    assert isinstance(error, NodeError) and error.status == 401
