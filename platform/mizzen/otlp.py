"""The part of tracing that knows OpenTelemetry: the SDK with its exporter, and spans that are recorded.

Spans wait in a queue of bounded length and leave in batches from a thread of their own, so a collector that
is slow or away costs requests nothing: spans are lost then, which is told once in a while. What the variables
of OpenTelemetry's SDK say holds here. `tracing` alone imports this module, and only when tracing is on.
"""

from __future__ import annotations

import atexit
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from typing import Any, Self

from opentelemetry import context as contexts
from opentelemetry import propagate, trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.trace import Link, SpanKind, Status, StatusCode

from mizzen.tracing import Context, Kind, Span, Value

logger = logging.getLogger(__name__)

TELL_EVERY_S = 300.0
EXIT_TIMEOUT_S = 2.0
_CHATTY = ("opentelemetry.exporter", "opentelemetry.sdk._shared_internal")
"""They tell of every batch that is lost."""
_KINDS = {"internal": SpanKind.INTERNAL, "server": SpanKind.SERVER, "client": SpanKind.CLIENT}


class Recorded(Span):
    """A span of OpenTelemetry's; if it was not sampled, it still hands the trace on."""

    __slots__ = ("_span", "_token")

    def __init__(self, span: trace.Span) -> None:
        self._span = span
        self._token: Any = None

    @property
    def recording(self) -> bool:  # type: ignore[override] # constant while off
        """See `Span`."""
        return self._span.is_recording()

    @property
    def trace_id(self) -> str:  # type: ignore[override] # constant while off
        """See `Span`."""
        found = self._span.get_span_context()
        return trace.format_trace_id(found.trace_id) if found.is_valid else ""

    @property
    def traceparent(self) -> str:  # type: ignore[override] # constant while off
        """See `Span`."""
        found = self._span.get_span_context()
        if not found.is_valid:
            return ""
        return f"00-{self.trace_id}-{trace.format_span_id(found.span_id)}-{found.trace_flags:02x}"

    @property
    def context(self) -> Context:
        """See `Span`."""
        return trace.set_span_in_context(self._span)

    def __enter__(self) -> Self:
        self._token = contexts.attach(trace.set_span_in_context(self._span))
        return self

    def __exit__(self, kind: object, error: object, where: object) -> None:
        contexts.detach(self._token)
        if isinstance(error, Exception):
            self.failed(type(error).__name__)
        elif error is not None:
            self.set(ended_by=type(error).__name__)
        self._span.end()

    def rename(self, name: str) -> None:
        """See `Span`."""
        self._span.update_name(name)

    def set(self, **attributes: Value) -> None:
        """See `Span`."""
        self._span.set_attributes(_named(attributes))

    def event(self, name: str, **attributes: Value) -> None:
        """See `Span`."""
        self._span.add_event(name, _named(attributes))

    def failed(self, error_type: str) -> None:
        """See `Span`."""
        self._span.set_attribute("error.type", error_type)
        self._span.set_status(Status(StatusCode.ERROR))

    def end(self, end_ns: int | None = None) -> None:
        """See `Span`."""
        self._span.end(end_ns)


class Tracer:
    """Begins spans, and sends those that have ended."""

    def __init__(self, provider: TracerProvider) -> None:
        self._provider = provider
        self._tracer = provider.get_tracer("mizzen", version("mizzen"))

    def begin(
        self,
        name: str,
        attributes: Mapping[str, Value],
        *,
        kind: Kind = "internal",
        parent: Context = None,
        links: Iterable[Context] = (),
        start_ns: int | None = None,
    ) -> Span:
        """See `tracing.begin`."""
        linked = [Link(trace.get_current_span(one).get_span_context()) for one in links]
        return Recorded(
            self._tracer.start_span(
                name, parent, _KINDS[kind], _named(attributes), linked, start_ns, record_exception=False
            )
        )

    def current(self) -> Span:
        """See `tracing.current`."""
        return Recorded(trace.get_current_span())

    def context(self) -> Context:
        """See `tracing.context`."""
        return contexts.get_current()

    def extract(self, headers: Mapping[str, str]) -> Context:
        """See `tracing.received`; which headers count is for `OTEL_PROPAGATORS` to say."""
        return propagate.extract(headers, contexts.Context())

    @contextmanager
    def attached(self, context: Context) -> Iterator[None]:
        """See `tracing.below`."""
        token = contexts.attach(context)
        try:
            yield
        finally:
            contexts.detach(token)

    def flush(self, timeout_s: float) -> None:
        """See `tracing.flush`."""
        _within(timeout_s, self._provider.force_flush)

    def shutdown(self, timeout_s: float) -> None:
        """See `tracing.stop`."""
        atexit.unregister(self._at_exit)
        _within(timeout_s, self._provider.shutdown)

    def _at_exit(self) -> None:
        self.shutdown(EXIT_TIMEOUT_S)

    def stop_at_exit(self) -> None:
        """Send what is left when the process ends."""
        atexit.register(self._at_exit)


def tracer(facts: Mapping[str, str]) -> Tracer:
    """Spans of this process, to the collector that the environment names."""
    for chatty in _CHATTY:
        logging.getLogger(chatty).setLevel(logging.CRITICAL)
    # The SDK would wait half a minute for a collector that is away.
    provider = TracerProvider(resource=_resource(facts), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(Discreet(OTLPSpanExporter())))
    made = Tracer(provider)
    made.stop_at_exit()
    return made


class Discreet(SpanExporter):
    """Tells of spans that were lost once in a while, in one line of the log, and not of each batch."""

    def __init__(self, inner: SpanExporter, clock_s: Callable[[], float] = time.monotonic) -> None:
        self.inner = inner
        self._clock_s = clock_s
        self._num_lost = 0
        self._told_s: float | None = None

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """See `SpanExporter`."""
        result = self.inner.export(spans)
        if result is SpanExportResult.SUCCESS:
            return result
        self._num_lost += len(spans)
        now_s = self._clock_s()
        if self._told_s is None or now_s - self._told_s >= TELL_EVERY_S:
            self._told_s = now_s
            logger.warning(
                "the collector of traces does not take spans: %d lost since it was last told; see"
                " OTEL_EXPORTER_OTLP_ENDPOINT",
                self._num_lost,
            )
            self._num_lost = 0
        return result

    def shutdown(self) -> None:
        """See `SpanExporter`."""
        self.inner.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """See `SpanExporter`."""
        return self.inner.force_flush(timeout_millis)


def _resource(facts: Mapping[str, str]) -> Resource:
    host, pid = socket.gethostname(), os.getpid()
    own: dict[str, Any] = {
        "service.name": "mizzen",
        "service.version": version("mizzen"),
        "service.instance.id": f"{host}-{pid}",
        "host.name": host,
        "process.pid": pid,
        **_named(facts),
    }
    # Again, for what people say wins: OTEL_SERVICE_NAME, OTEL_RESOURCE_ATTRIBUTES.
    return Resource.create(own).merge(OTELResourceDetector().detect())


def _named(attributes: Mapping[str, Value]) -> dict[str, str | int | float | bool]:
    return {
        name if "." in name else f"mizzen.{name}": value
        for name, value in attributes.items()
        if value is not None
    }


def _within(timeout_s: float, work: Callable[[], object]) -> None:
    """Wait for `work` no longer than that: an export to a collector that is away cannot be interrupted."""
    thread = threading.Thread(target=work, name="mizzen-spans", daemon=True)
    thread.start()
    thread.join(timeout_s)
