"""Traces of real processes: an exporter that is installed like any other gets one connected trace of one write."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from ringkeep_testing.real_cluster import RealCluster, run, until, users_led_by

CALLER = "00f067aa0ba902b7"
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
EXPORTER = """
import json, os
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

class Exporter(SpanExporter):
    def export(self, spans):
        with open(os.environ["SPANS"], "a") as file:
            file.write("".join(json.dumps(json.loads(span.to_json())) + "\\n" for span in spans))
        return SpanExportResult.SUCCESS
"""
NAMES = Counter({"PUT document": 1, "primary": 1, "append": 1, "commit": 1, "fsync": 3, "replicate": 2, "replica": 2})
"""At least: what is tried again on a slow machine has spans of the same names."""


def install(folder: Path) -> Path:
    """Write a package with an exporter called ``file``, as pip would have laid it out."""
    about = folder / "spans_to_file-1.dist-info"
    about.mkdir(parents=True)
    (folder / "spans_to_file.py").write_text(EXPORTER)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: spans-to-file\nVersion: 1\n")
    (about / "entry_points.txt").write_text("[opentelemetry_traces_exporter]\nfile = spans_to_file:Exporter\n")
    return folder


async def put(url: str, user: str) -> int:
    headers = {"traceparent": f"00-{TRACE}-{CALLER}-01", "Ringkeep-Timeout": "60"}
    async with (
        aiohttp.ClientSession() as session,
        session.put(f"{url}/v1/users/{user}/docs/d", data=b"v", headers=headers) as answer,
    ):
        return answer.status


def test_one_write_is_one_connected_trace_over_three_processes(
    cluster: RealCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spans_file = tmp_path / "spans"
    monkeypatch.setenv("PYTHONPATH", str(install(tmp_path / "packages")))
    monkeypatch.setenv("SPANS", str(spans_file))
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "file")
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "100")

    async def story() -> None:
        await cluster.up(3, shards=16)
        async with cluster.client() as client:
            held = await client.map()
        (user,) = users_led_by(held, "n2", 1)
        status = await put(cluster.node("n1").url, user)

        async def told() -> list[dict[str, Any]] | None:
            lines = spans_file.read_text().splitlines() if spans_file.exists() else []
            found = [span for span in map(json.loads, lines) if span["context"]["trace_id"] == f"0x{TRACE}"]
            return found if Counter(span["name"] for span in found) >= NAMES else None

        spans = await until(told, "all spans have been sent")
        ids = {span["context"]["span_id"] for span in spans}
        roots = [span["name"] for span in spans if span["parent_id"] == f"0x{CALLER}"]

        assert status == 201
        assert {span["name"] for span in spans} == set(NAMES)
        assert roots == ["PUT document"]
        assert all(span["parent_id"] in ids for span in spans if span["name"] != "PUT document")
        assert {span["resource"]["attributes"]["service.instance.id"] for span in spans} == {"n1", "n2", "n3"}

    run(story())


def test_a_node_that_cannot_trace_although_it_should_says_so_and_serves(
    cluster: RealCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "pigeon")

    async def story() -> None:
        await cluster.up(1, shards=16, min_in_sync=1)
        status = await put(cluster.urls()[0], "ann")
        told = [line["reason"] for line in cluster.log_lines("n1") if line["event"] == "tracing_off"]

        assert status == 201
        assert told == ["OTEL_TRACES_EXPORTER is 'pigeon' and no package that is installed has such an exporter"]

    run(story())
