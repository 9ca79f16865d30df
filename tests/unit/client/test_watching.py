"""Looking at a whole cluster: who answers is measured, who does not is shown as silent and holds nobody up."""

from __future__ import annotations

import asyncio

from ringkeep.watching import Picture, Watch
from ringkeep_core.summary import summary_of
from ringkeep_testing.fake_cluster import FakeCluster, Fault
from ringkeep_testing.summaries import look


class Clock:
    """Seconds that pass only when a test says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def page(count: int) -> str:
    """Return a node's metrics after so many writes."""
    return f"ringkeep_node_writes_committed_total {count}.0\nringkeep_node_copy_bytes 10.0\n"


def shown(picture: Picture) -> list[tuple[str, bool, float | None]]:
    """Return of each node whether it answers, and its writes a second."""
    return [(node.name, node.answers, node.figures.writes_per_s) for node in picture.nodes]


def test_rates_are_those_between_two_looks_and_the_leader_is_marked() -> None:
    async def test() -> None:
        clock = Clock()
        async with FakeCluster() as cluster, Watch(cluster.urls, clock=clock, wall=lambda: 7.0) as watch:
            cluster.summary = summary_of(look())
            cluster.metrics = {"n1": page(100), "n2": page(5), "n3": page(0)}
            first = await watch.look()
            cluster.metrics = {"n1": page(300), "n2": page(4), "n3": page(0)}
            clock.now += 2.0
            second = await watch.look()

            assert shown(first) == [("n1", True, None), ("n2", True, None), ("n3", True, None)]
            assert shown(second) == [("n1", True, 100.0), ("n2", True, 2.0), ("n3", True, 0.0)]
            assert (second.total.writes_per_s, second.total.copy_bytes) == (102.0, 30.0)
            assert [node.leads for node in second.nodes] == [True, False, False]
            assert (second.at, second.problem) == (7.0, "")

    asyncio.run(test())


def test_a_node_that_hangs_is_silent_and_the_others_are_measured_all_the_same() -> None:
    async def test() -> None:
        clock = Clock()
        async with FakeCluster() as cluster, Watch(cluster.urls, clock=clock, deadline_s=0.2) as watch:
            cluster.summary = summary_of(look())
            cluster.metrics = {name: page(10) for name in ("n1", "n2", "n3")}
            await watch.look()
            cluster.metrics = {name: page(20) for name in ("n1", "n2", "n3")}
            cluster.inject("n2", Fault.HANG)
            clock.now += 1.0
            during = await watch.look()
            clock.now += 1.0
            later = await watch.look()

            assert shown(during) == [("n1", True, 10.0), ("n2", False, None), ("n3", True, 10.0)]
            assert shown(later) == [("n1", True, 0.0), ("n2", True, 5.0), ("n3", True, 0.0)]

    asyncio.run(test())


def test_a_stopped_node_is_shown_from_what_the_others_say() -> None:
    async def test() -> None:
        async with FakeCluster() as cluster, Watch(cluster.urls) as watch:
            cluster.summary = summary_of(look())
            cluster.metrics = {name: page(10) for name in ("n1", "n2", "n3")}
            await watch.look()
            await cluster.stop("n1")
            picture = await watch.look()

            assert [(node.name, node.state, node.answers) for node in picture.nodes] == [
                ("n1", "dead", False),
                ("n2", "alive", True),
                ("n3", "alive", True),
            ]
            assert picture.summary == cluster.summary

    asyncio.run(test())


def test_where_nobody_answers_there_is_a_reason_until_somebody_does() -> None:
    async def test() -> None:
        async with FakeCluster() as cluster, Watch(cluster.urls) as watch:
            for name in cluster.nodes:
                await cluster.stop(name)
            nobody = await watch.look()
            await cluster.start("n3")
            somebody = await watch.look()

            assert (nobody.problem, nobody.nodes) == ("no node of the cluster answers", ())
            assert [node.name for node in somebody.nodes if node.answers] == ["n3"]
            assert (somebody.summary, somebody.problem) == (None, "")

    asyncio.run(test())


def test_a_node_of_another_cluster_that_got_the_address_is_not_taken_for_ours() -> None:
    async def test() -> None:
        async with FakeCluster() as cluster, Watch(cluster.urls, cluster_id="0123456789abcdef") as watch:
            cluster.summary = summary_of(look())
            picture = await watch.look()

            assert (picture.problem, picture.nodes) == ("no node of the cluster answers", ())

    asyncio.run(test())


def test_an_address_that_was_given_goes_before_the_one_that_the_node_advertises() -> None:
    async def test() -> None:
        async with FakeCluster(nodes=1) as cluster:
            given = cluster.nodes["n1"].url.replace("127.0.0.1", "localhost")
            async with Watch([given], given=True) as watch:
                picture = await watch.look()

            assert [node.url for node in picture.nodes] == [given]

    asyncio.run(test())
