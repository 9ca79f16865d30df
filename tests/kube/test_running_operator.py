"""A whole operator with kopf and real watches: what wakes it, and what it does when the API server misbehaves.

Source: kopf #1276, #1145; Sieve (OSDI 2022).
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
import pytest

from ringkeep_testing.fake_kube import FakeKube
from ringkeep_testing.fake_pods import FakePods
from ringkeep_testing.operator_bench import cluster
from ringkeep_testing.promtool import check_metrics
from ringkeep_testing.running_operator import RunningOperator, until


def run(test: Callable[[FakeKube, FakePods], Awaitable[None]]) -> None:
    async def inside() -> None:
        async with FakeKube() as kube, FakePods(kube) as pods:
            pods.make_workers()
            await test(kube, pods)

    asyncio.run(inside())


def is_ready(kube: FakeKube) -> bool:
    resource = kube.get("clusters", "demo")
    for one in (resource.get("status") or {}).get("conditions") or ():
        if one["type"] == "Ready":
            return bool(one["status"] == "True" and one["observedGeneration"] == resource["metadata"]["generation"])
    return False


async def quiet(kube: FakeKube) -> None:
    """Wait until nothing was asked for two seconds: then the next look is half a minute away."""
    loop = asyncio.get_running_loop()
    before, since = -1, loop.time()
    while loop.time() - since < 2.0:
        asked = sum(count for (_, plural), count in kube.requests.items() if plural != "leases")
        before, since = (before, since) if asked == before else (asked, loop.time())
        await asyncio.sleep(0.05)


def shows_the_map(kube: FakeKube, pods: FakePods) -> bool:
    shown = kube.objects.get(("configmaps", "default", "demo-shard-map"), {})
    annotations = shown.get("metadata", {}).get("annotations", {})
    return pods.map is not None and annotations.get("ringkeep.dev/map-version") == str(pods.map.version)


async def made(kube: FakeKube, **spec: Any) -> None:
    kube.put("clusters", cluster(**spec))
    await until(lambda: is_ready(kube), "for Ready")


def test_kopf_tells_of_a_new_resource_and_writes_nothing_on_it() -> None:
    async def test(kube: FakeKube, pods: FakePods) -> None:
        async with RunningOperator(kube, pods):
            await made(kube)
        resource = kube.get("clusters", "demo")

        assert resource["metadata"].get("annotations") is None and resource["metadata"].get("finalizers") is None
        assert {verb for verb, plural, _ in kube.writes if plural == "clusters"} == {"status"}

    run(test)


def test_a_deleted_child_is_noticed_by_its_own_watch() -> None:
    async def test(kube: FakeKube, pods: FakePods) -> None:
        async with RunningOperator(kube, pods):
            await made(kube)
            kube.remove("services", "demo")
            await until(lambda: "demo" in kube.names("services"), "for the Service")

    run(test)


def test_nothing_is_asked_for_writing_while_nothing_happens() -> None:
    async def test(kube: FakeKube, pods: FakePods) -> None:
        async with RunningOperator(kube, pods, resync_s=600.0):
            await made(kube)
            await until(lambda: shows_the_map(kube, pods), "for the last map")
            await quiet(kube)
            asked = sum(count for (method, _), count in kube.requests.items() if method != "GET")
            for _ in range(3):
                for name in ("demo-0", "demo-1"):  # What changes all the time in a real cluster and means nothing.
                    kube.change("pods", name, {"metadata": {"annotations": {"seen": str(kube.version)}}})
                await quiet(kube)

            assert sum(count for (method, _), count in kube.requests.items() if method != "GET") == asked

    run(test)


def restarts(running: RunningOperator) -> float:
    """How often the watch of Services was begun; a cluster that is idle is looked at twice a minute whatever it says."""
    name = "ringkeep_operator_watch_restarts_total"
    return running.operator.metrics.registry.get_sample_value(name, {"kind": "Service"}) or 0.0


def test_a_silent_watch_is_begun_anew_and_what_it_missed_is_repaired() -> None:
    async def test(kube: FakeKube, pods: FakePods) -> None:
        async with RunningOperator(kube, pods, silence_s=5.0, resync_s=600.0) as running:
            await made(kube)
            await quiet(kube)
            before = restarts(running)
            kube.is_frozen = True
            kube.remove("services", "demo")
            took_s = await until(lambda: restarts(running) > before, "for the watch to be begun anew")
            await until(lambda: "demo" in kube.names("services"), "for the Service")

            assert took_s > 1.0, "the change was told although the watches are frozen"

    run(test)


def test_watches_that_are_too_old_are_listed_again() -> None:
    async def test(kube: FakeKube, pods: FakePods) -> None:
        async with RunningOperator(kube, pods, resync_s=600.0):
            await made(kube)
            await quiet(kube)
            kube.is_frozen = True
            kube.remove("services", "demo")
            kube.version += 10
            kube.forget_history()
            kube.is_frozen = False
            kube.cut_watches()
            await until(lambda: "demo" in kube.names("services"), "for the Service")

    run(test)


def test_it_acts_again_soon_after_the_api_server_was_away() -> None:
    async def test(kube: FakeKube, pods: FakePods) -> None:
        async with RunningOperator(kube, pods, resync_s=600.0):
            await made(kube)
            kube.is_down = True
            kube.cut_watches()
            await asyncio.sleep(6.0)
            kube.change("clusters", "demo", {"spec": {"replicas": 4}})
            kube.is_down = False
            await until(lambda: kube.get("statefulsets", "demo")["spec"]["replicas"] == 4, "for the StatefulSet", 15.0)
            await until(lambda: is_ready(kube), "for Ready")

    run(test)


def test_a_storm_of_refusals_delays_it_and_no_watch_stays_dead() -> None:
    async def test(kube: FakeKube, pods: FakePods) -> None:
        async with RunningOperator(kube, pods, resync_s=600.0):
            await made(kube)
            asked = iter(range(1_000_000))
            kube.refusals = lambda _verb, _plural: (0, 0, 429, 0, 0, 0, 500, 0, 0, 503)[next(asked) % 10]
            for replicas in (4, 5):
                kube.cut_watches()
                kube.change("clusters", "demo", {"spec": {"replicas": replicas}})
                await until(lambda: is_ready(kube), "for Ready", 60.0)
            kube.refusals = lambda _verb, _plural: 0
            kube.remove("services", "demo")
            await until(lambda: "demo" in kube.names("services"), "for the Service")

    run(test)


def test_the_process_ends_when_kopf_gives_up_instead_of_living_on_deaf() -> None:
    async def test(kube: FakeKube, pods: FakePods) -> None:
        kube.watch_refusals["clusters"] = 400
        running = RunningOperator(kube, pods)
        await running.__aenter__()
        await until(lambda: running.has_ended, "for the end of the process")

        with pytest.raises(Exception, match="the fake refuses"):
            await running.__aexit__(None, None, None)

    run(test)


def test_only_the_holder_of_the_lease_acts_and_a_standby_takes_over() -> None:
    async def test(kube: FakeKube, pods: FakePods) -> None:
        lease = {"lease": True, "lease_namespace": "default", "lease_s": 3.0}
        first = RunningOperator(kube, pods, identity="first", **lease)
        await first.__aenter__()
        await made(kube)
        async with RunningOperator(kube, pods, identity="second", **lease) as second:
            await until(lambda: second.operator.port > 0)
            holder = kube.get("leases", "ringkeep-operator")["spec"]["holderIdentity"]
            await first.kill()
            kube.remove("services", "demo")
            await until(lambda: "demo" in kube.names("services"), "for the Service")
            after = kube.get("leases", "ringkeep-operator")["spec"]["holderIdentity"]
        given_back = kube.get("leases", "ringkeep-operator")["spec"]["holderIdentity"]

        assert (holder, after, given_back) == ("first", "second", "")

    run(test)


def test_it_shows_that_it_lives_and_what_it_did() -> None:
    async def test(kube: FakeKube, pods: FakePods) -> None:
        async with RunningOperator(kube, pods) as running:
            await made(kube)
            base = f"http://127.0.0.1:{running.operator.port}"
            async with aiohttp.ClientSession() as session:
                async with session.get(f"{base}/livez") as answer:
                    alive = (answer.status, await answer.text())
                async with session.get(f"{base}/metrics") as answer:
                    text = await answer.text()

            assert alive == (200, "ok")
            assert 'ringkeep_operator_writes_total{kind="StatefulSet",verb="apply"} 1.0' in text
            assert "ringkeep_operator_clusters 1.0" in text and "ringkeep_operator_leading 1.0" in text
            assert shutil.which("promtool") is None or check_metrics(text.encode()) == ""

    run(test)


def test_clusters_in_twenty_namespaces_are_looked_after_by_an_operator_that_watches_each_by_itself() -> None:
    async def test(kube: FakeKube, pods: FakePods) -> None:
        namespaces = ("default", *(f"other-{number}" for number in range(19)))
        async with RunningOperator(kube, pods, namespaces=namespaces, lease=True, lease_namespace="default"):
            await made(kube)
            watches = kube.watches

        # More than a client keeps connections for by itself.
        assert watches >= 8 * 20

    run(test)
