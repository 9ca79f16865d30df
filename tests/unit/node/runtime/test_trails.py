"""Traces: one request is one connected trace over the nodes that it went through, as the SDK of OpenTelemetry sees it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from ringkeep_node.http.exchange import Edge
from ringkeep_node.http.server import Api, HttpServer, ServerSettings
from ringkeep_node.machines.shard.effects import Found, Stored
from ringkeep_node.runtime import trails as trails_module
from ringkeep_node.runtime.importing import Importer, ImportSettings
from ringkeep_node.runtime.service import Service
from ringkeep_node.runtime.services import Services, ServicesSettings
from ringkeep_node.runtime.trails import FOLLOWED_MAX, Trails
from ringkeep_node.tracing import EXPORTERS, NoTracer, OtelTracer, exporter_of, provider_of
from ringkeep_testing.live_hosts import SHARDS, LiveNode, found, hosts, run, until

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
CALLER = "00f067aa0ba902b7"
SAMPLED = f"00-{TRACE}-{CALLER}-01"
NOT_SAMPLED = f"00-{TRACE}-{CALLER}-00"
SAME, OTHER = "same node", "other node"
USER = "mallory"
PATH = f"/v1/users/{USER}/docs/secret"
TREE_OF_A_PUT: dict[tuple[str, str], Any] = {
    ("PUT document", OTHER): {
        ("primary", OTHER): {
            ("append", SAME): {},
            ("fsync", SAME): {},
            ("commit", SAME): {},
            ("replicate", SAME): {("replica", OTHER): {("fsync", SAME): {}}},
        }
    }
}
"""Whatever is tried again on a slow machine looks like this, too: equal spans are one here."""


class Recorder:
    """What was traced."""

    def __init__(self) -> None:
        self.memory = InMemorySpanExporter()
        provider = TracerProvider(shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(self.memory))
        self.tracer = OtelTracer(provider)

    @property
    def spans(self) -> tuple[ReadableSpan, ...]:
        """Every span that has ended."""
        return self.memory.get_finished_spans()

    def tree(self) -> dict[tuple[str, str], Any]:
        """Return the spans below the caller's by name, and whether at the node of the one above; equal ones are one."""
        return self._below(int(CALLER, 16), "")

    def _below(self, parent: int, above: str) -> dict[tuple[str, str], Any]:
        below: dict[tuple[str, str], Any] = {}
        for span in self.spans:
            own, node = span.get_span_context(), str((span.attributes or {})["ringkeep.node"])
            if own is not None and span.parent is not None and span.parent.span_id == parent:
                key = (span.name, SAME if node == above else OTHER)
                below[key] = _merged(below.get(key, {}), self._below(own.span_id, node))
        return below


def _merged(one: dict[tuple[str, str], Any], other: dict[tuple[str, str], Any]) -> dict[tuple[str, str], Any]:
    return {key: _merged(one.get(key, {}), other.get(key, {})) for key in [*one, *other]}


@asynccontextmanager
async def served(node: LiveNode) -> AsyncIterator[str]:
    """The REST interface of a node; yields its address."""
    clock = asyncio.get_running_loop().time
    service = Service(node.host, clock=clock, wall=lambda: 1.0)
    settings = ServicesSettings()
    services = Services(settings, settings.ranges(on_loopback=True), clock=clock)
    importer = Importer(service, ImportSettings())
    failures: list[BaseException] = []
    api = Api(
        Edge(service, services), importer, node.metrics.requests, bytes, lambda _, e: failures.append(e), node.trails
    )
    server = HttpServer(api, ServerSettings(shutdown_s=0.5))
    port = await server.bind("127.0.0.1", 0)
    await server.serve()
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        await server.stop()

    assert failures == []


async def asked(node: LiveNode, method: str, path: str, **headers: str) -> tuple[int, str]:
    """Ask a node over its REST interface; return the status, and the id that the answer names."""
    named = {"Ringkeep-Timeout": "60", **{name.replace("_", "-"): value for name, value in headers.items()}}
    async with (
        served(node) as url,
        aiohttp.ClientSession() as session,
        session.request(method, url + path, data=b"hidden" if method == "PUT" else None, headers=named) as answer,
    ):
        return answer.status, answer.headers["Ringkeep-Request-Id"]


@asynccontextmanager
async def traced(folder: Path) -> AsyncIterator[tuple[Recorder, LiveNode, list[LiveNode]]]:
    """A cluster of three nodes that hold copies and one that holds none, which is asked: it never leads a shard."""
    recorder = Recorder()
    async with hosts(folder, 4, weights=(1.0, 1.0, 1.0, 0.0), tracer=recorder.tracer) as nodes:
        await found(nodes)
        yield recorder, nodes[3], nodes

        assert all(node.failures == [] for node in nodes)


def test_one_put_through_a_gateway_is_one_trace_over_all_the_nodes_that_it_reaches(tmp_path: Path) -> None:
    async def play() -> None:
        async with traced(tmp_path) as (recorder, gateway, _):
            answer = await asked(gateway, "PUT", PATH, traceparent=SAMPLED, Ringkeep_Request_Id="my-own-id")
            await until(lambda: recorder.tree() == TREE_OF_A_PUT)
            places = {(span.attributes or {})["ringkeep.node"] for span in recorder.spans}

            assert answer == (201, "my-own-id")
            assert {span.to_json().count(f"0x{TRACE}") > 0 for span in recorder.spans} == {True}
            assert places == {"n1", "n2", "n3", "n4"}

    run(play())


def test_a_read_is_traced_to_the_primary_and_says_what_came_of_it(tmp_path: Path) -> None:
    async def play() -> None:
        async with traced(tmp_path) as (recorder, gateway, _):
            status, _ = await asked(gateway, "GET", PATH, traceparent=SAMPLED)
            said = {span.name: dict(span.attributes or {}) for span in recorder.spans}

            assert recorder.tree() == {("GET document", OTHER): {("primary", OTHER): {}}}
            assert (status, said["GET document"]["http.response.status_code"]) == (404, 404)
            assert said["primary"]["ringkeep.result"] == "Absent"

    run(play())


def test_of_a_refused_write_nothing_goes_on_after_it_was_judged(tmp_path: Path) -> None:
    async def play() -> None:
        async with traced(tmp_path) as (recorder, gateway, nodes):
            status, _ = await asked(gateway, "PUT", PATH, traceparent=SAMPLED, If_Match='"999"')
            await until(lambda: all(node.trails is not None and node.trails.is_idle for node in nodes))

            assert status == 412
            assert recorder.tree() == {("PUT document", OTHER): {("primary", OTHER): {("append", SAME): {}}}}

    run(play())


def test_no_span_names_a_user_a_key_or_a_value(tmp_path: Path) -> None:
    async def play() -> None:
        async with traced(tmp_path) as (recorder, gateway, _):
            status, _ = await asked(gateway, "PUT", PATH)
            said = " ".join(span.to_json() for span in recorder.spans)

            assert status == 201 and "PUT document" in said
            assert not [word for word in ("mallory", "secret", "hidden") if word in said]

    run(play())


def test_what_the_caller_does_not_sample_is_not_recorded_anywhere(tmp_path: Path) -> None:
    async def play() -> None:
        async with traced(tmp_path) as (recorder, gateway, _):
            status, _ = await asked(gateway, "PUT", PATH, traceparent=NOT_SAMPLED)

            assert (status, recorder.spans) == (201, ())

    run(play())


@pytest.mark.parametrize("traceparent", ["", "nonsense", f"00-{'0' * 32}-{CALLER}-01", "x" * 10_000])
def test_a_traceparent_that_makes_no_sense_begins_a_new_trace(traceparent: str) -> None:
    recorder = Recorder()
    span = recorder.tracer.begin("x", traceparent, {})
    span.end()

    assert [one.parent for one in recorder.spans] == [None]
    assert span.context.startswith("00-") and len(span.context) == 55


def test_requests_without_a_cause_leave_no_trail(tmp_path: Path) -> None:
    async def play() -> None:
        recorder = Recorder()
        async with hosts(tmp_path, 3, tracer=recorder.tracer) as nodes:
            await found(nodes)
            answers = [await nodes[0].put(shard, "k") for shard in range(SHARDS)]
            answers += [await nodes[0].get(shard, "k") for shard in range(SHARDS)]

            assert {type(answer) for answer in answers} == {Stored, Found}
            assert recorder.spans == ()

    run(play())


def test_what_is_never_seen_to_end_is_forgotten_the_oldest_first() -> None:
    kept: trails_module._Bounded[int, int] = trails_module._Bounded()
    for number in range(FOLLOWED_MAX + 3):
        kept.keep(number, number)

    assert list(kept) == list(range(3, FOLLOWED_MAX + 3))


def test_there_is_no_provider_unless_one_is_wanted_and_possible() -> None:
    nothing = provider_of("", name="n1")
    none = provider_of("none", name="n1")
    provider, reason = provider_of("console", name="n1")
    absent, why = provider_of("pigeon", name="n1")

    assert nothing == none == (None, "")
    assert provider is not None and reason == ""
    assert provider.resource.attributes["service.instance.id"] == "n1"
    assert (
        absent is None
        and why == "OTEL_TRACES_EXPORTER is 'pigeon' and no package that is installed has such an exporter"
    )
    assert EXPORTERS == "opentelemetry_traces_exporter"
    provider.shutdown()


@pytest.mark.parametrize(
    ("environment", "exporter"),
    [
        ({}, ""),
        ({"OTEL_TRACES_EXPORTER": " console "}, "console"),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, "otlp"),
        ({"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"}, "otlp_proto_http"),
        (
            {
                "OTEL_TRACES_EXPORTER": "otlp",
                "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
                "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "grpc",
            },
            "otlp_proto_grpc",
        ),
        ({"OTEL_TRACES_EXPORTER": "console", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "console"),
        ({"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, ""),
    ],
)
def test_the_protocol_of_otlp_says_which_exporter_is_meant(environment: dict[str, str], exporter: str) -> None:
    assert exporter_of(environment) == exporter


@pytest.mark.parametrize("installed", ["otlp", "otlp_proto_grpc", "otlp_proto_http"])
def test_otlp_without_a_protocol_is_whichever_is_installed(monkeypatch: pytest.MonkeyPatch, installed: str) -> None:
    point = EntryPoint(installed, "opentelemetry.sdk.trace.export:ConsoleSpanExporter", EXPORTERS)
    monkeypatch.setattr("ringkeep_node.tracing.entry_points", lambda group: [point])
    provider, reason = provider_of("otlp", name="n1")
    assert provider is not None and reason == ""
    provider.shutdown()


def test_without_a_tracer_a_request_still_takes_its_id_along() -> None:
    trails = Trails(NoTracer(), says=False, node="n1", storage="s1")
    asked = trails.asked("my-own-id", "PUT", "document", SAMPLED)

    assert (asked.cause, asked.span.context) == ("my-own-id", "")
