"""Spans for OpenTelemetry, where its SDK is installed and told where to send them; elsewhere there is no tracer at all.

    OTEL_TRACES_EXPORTER --names an entry point--> exporter --batches, a thread of its own--> wherever it sends them

Contexts travel as W3C ``traceparent`` texts: from clients in the header of that name, between nodes beside what they are
about. Nothing here knows what is traced; ``runtime.trails`` does. A failure to set this up never keeps a node from starting.

Source: W3C Trace Context, 3.2 (traceparent); OpenTelemetry, environment variables of an SDK.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import entry_points, version
from typing import TYPE_CHECKING, Any, Final, Protocol

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SpanExporter

EXPORTER: Final = "OTEL_TRACES_EXPORTER"
EXPORTERS: Final = "opentelemetry_traces_exporter"
OFF: Final = ("", "none")
OTLP: Final = "otlp"
OTLP_PROTOCOLS: Final = {"grpc": "otlp_proto_grpc", "http/protobuf": "otlp_proto_http"}
"""Exporters by the protocol of OTLP; the name without one means whichever is installed."""


class Span(Protocol):
    """Something that lasts. ``context`` is its traceparent, "" if there is none."""

    context: str

    def note(self, name: str, value: str | int) -> None:
        """Say something more about it."""

    def end(self) -> None:
        """It is over."""


class Tracer(Protocol):
    """Makes spans."""

    def begin(self, name: str, parent: str, notes: Mapping[str, str | int], *, serves: bool = False) -> Span:
        """Begin a span below the one whose traceparent ``parent`` is. ``serves``: for somebody in another process."""


class Nothing:
    """The span of a node that makes none."""

    context = ""

    def note(self, name: str, value: str | int) -> None:
        """Say nothing."""

    def end(self) -> None:
        """Do nothing."""


class NoTracer:
    """Makes no spans; for logs that want to know what belongs to which request, without traces."""

    def begin(self, name: str, parent: str, notes: Mapping[str, str | int], *, serves: bool = False) -> Span:
        """Return the span that is none."""
        return NOTHING


NOTHING: Final = Nothing()


class OtelSpan:
    """A span of OpenTelemetry."""

    __slots__ = ("_span", "context")

    def __init__(self, span: Any) -> None:
        self._span = span
        told = span.get_span_context()
        self.context = f"00-{told.trace_id:032x}-{told.span_id:016x}-{told.trace_flags:02x}"

    def note(self, name: str, value: str | int) -> None:
        """Set an attribute."""
        self._span.set_attribute(name, value)

    def end(self) -> None:
        """End it; once more changes nothing."""
        if self._span.is_recording():
            self._span.end()


class OtelTracer:
    """Makes spans with a provider of OpenTelemetry's SDK."""

    def __init__(self, provider: TracerProvider) -> None:
        from opentelemetry.trace import SpanKind
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._tracer = provider.get_tracer("ringkeep", version("ringkeep"))
        self._extract = TraceContextTextMapPropagator().extract
        self._kinds = (SpanKind.INTERNAL, SpanKind.SERVER)

    def begin(self, name: str, parent: str, notes: Mapping[str, str | int], *, serves: bool = False) -> Span:
        """Begin a span; a parent that cannot be understood counts as none."""
        context = self._extract({"traceparent": parent})
        return OtelSpan(self._tracer.start_span(name, context, self._kinds[serves], dict(notes)))


def exporter_of(environment: Mapping[str, str]) -> str:
    """Return the name of the exporter that the environment wants, "" if none: for OTLP the protocol is part of it."""
    wanted = environment.get(EXPORTER, "").strip()
    variables = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
    protocol = next((said for name in variables if (said := environment.get(name, "").strip())), "")
    return OTLP_PROTOCOLS.get(protocol, wanted) if wanted == OTLP else wanted


def provider_of(wanted: str, *, name: str) -> tuple[TracerProvider | None, str]:
    """Return a provider with the exporter of that name, or None; and why there is none although one was wanted, else "".

    The SDK reads its other variables itself: the exporter's endpoint, the sampler, the size of batches.
    """
    if wanted in OFF:
        return None, ""
    try:
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError:
        return None, f"{EXPORTER} is set and the OpenTelemetry SDK is not installed (pip install 'ringkeep[otel]')"
    names = (wanted, *OTLP_PROTOCOLS.values()) if wanted == OTLP else (wanted,)
    points = {point.name: point for point in entry_points(group=EXPORTERS)}
    found = [points[one] for one in names if one in points]
    if not found:
        return None, f"{EXPORTER} is {wanted!r} and no package that is installed has such an exporter"
    try:
        exporter: SpanExporter = found[0].load()()
    except Exception as error:  # other people's code, and tracing is no reason not to start
        return None, f"the exporter {wanted!r} cannot be made: {error}"
    resource = Resource.create({"service.name": "ringkeep-node", "service.instance.id": name})
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(exporter))
    return provider, ""
