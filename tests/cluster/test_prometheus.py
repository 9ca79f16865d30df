"""A real Prometheus scrapes a running cluster: every query of the dashboard and every rule finds what it asks for."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import aiohttp
import yaml  # type: ignore[import-untyped]  # it has no types, and its stubs are not worth a dependency

from ringkeep.errors import NotFound
from ringkeep_testing.promtool import check_metrics
from ringkeep_testing.real_cluster import RealCluster, run, until
from ringkeep_testing.real_prometheus import RealPrometheus

ROOT = Path(__file__).parents[2]
RULES = sorted((ROOT / "helm" / "ringkeep" / "rules").glob("*.yaml"))
SCRAPES_SEEN = 4


def dashboard() -> ModuleType:
    spec = importlib.util.spec_from_file_location("tools_dashboard", ROOT / "tools" / "dashboard.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def configuration(cluster: RealCluster) -> dict[str, Any]:
    targets = [url.removeprefix("http://") for url in cluster.urls()]
    labels = {"namespace": "here", "cluster": "demo"}
    return {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(file) for file in RULES],
        "scrape_configs": [{"job_name": "ringkeep", "static_configs": [{"targets": targets, "labels": labels}]}],
    }


def as_grafana_asks(query: str) -> str:
    """Fill in what a person has chosen in the dashboard: this cluster, and the shortest rate there is."""
    chosen = {"$namespace": "here", "$cluster": "demo", "$__rate_interval": "30s"}
    for name, value in chosen.items():
        query = query.replace(name, value)
    return query


async def some_traffic(cluster: RealCluster) -> None:
    """Ask for a bit of everything, through every node."""
    for name in cluster.names:
        async with cluster.gateway(name) as client:
            await asyncio.gather(*(client.put(f"user-{number}", "d", b"x") for number in range(20)))
            await asyncio.gather(*(client.get(f"user-{number}", "d") for number in range(20)))
            with contextlib.suppress(NotFound):
                await client.get("nobody", "nothing")


async def scraped(prometheus: RealPrometheus, nodes: int) -> bool | None:
    """Return whether every node was scraped often enough for rates."""
    if prometheus.targets("ringkeep") is None:
        return None
    counts = await prometheus.query("count_over_time(ringkeep_node_info[1m])")
    up = await prometheus.query("up == 1")
    enough = [one for one in counts if float(one["value"][1]) >= SCRAPES_SEEN]
    return True if len(enough) == len(up) == nodes else None


def test_every_query_of_the_dashboard_and_every_rule_is_answered_by_a_real_prometheus(
    cluster: RealCluster, tmp_path: Path
) -> None:
    async def story() -> None:
        await cluster.up(3, shards=16)
        await some_traffic(cluster)
        with RealPrometheus(tmp_path / "prometheus", configuration(cluster)) as prometheus:

            async def ready() -> bool | None:
                await some_traffic(cluster)
                return await scraped(prometheus, 3)

            await until(ready, "every node was scraped often enough")
            empty = []
            for query in dashboard().queries():
                if not await prometheus.query(as_grafana_asks(query)) and "ringkeep_operator_" not in query:
                    empty.append(query)
            rules = [rule for group in (await prometheus.ask("rules"))["groups"] for rule in group["rules"]]
        wanted = [
            rule.get("alert") or rule["record"]
            for file in RULES
            for group in yaml.safe_load(file.read_text())["groups"]
            for rule in group["rules"]
        ]

        assert empty == []
        assert sorted(rule["name"] for rule in rules) == sorted(wanted)
        assert {rule["health"] for rule in rules} == {"ok"}

    run(story())


def test_promtool_has_nothing_to_say_about_the_page_of_a_running_node(cluster: RealCluster) -> None:
    async def story() -> None:
        await cluster.up(3, shards=16)
        await some_traffic(cluster)
        async with aiohttp.ClientSession() as session:
            pages = []
            for url in cluster.urls():
                async with session.get(f"{url}/metrics") as answer:
                    pages.append(await answer.read())

        assert [check_metrics(page) for page in pages] == ["", "", ""]

    run(story())
