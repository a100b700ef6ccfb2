"""A collector of traces that really listens: OTLP over HTTP, decoded with OpenTelemetry's own messages."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from mizzen import settings, tracing


@dataclass(frozen=True)
class Sent:
    """A span as it came over the network."""

    name: str
    trace_id: str
    span_id: str
    parent_id: str
    kind: int
    failed: bool
    attributes: dict[str, Any]
    links: list[str]
    """Ids of the spans that it is linked with."""
    events: list[str]
    start_ns: int
    end_ns: int


@dataclass
class Collector:
    """Takes spans, or refuses them."""

    url: str = ""
    status: int = 200
    spans: list[Sent] = field(default_factory=list)
    num_requests: int = 0
    resource: dict[str, Any] = field(default_factory=dict)
    raw: list[bytes] = field(default_factory=list)

    def take(self, path: str, body: bytes) -> None:
        """Decode one export."""
        self.num_requests += 1
        self.raw.append(body)
        assert path == "/v1/traces"
        for of_resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            self.resource = _values(of_resource.resource.attributes)
            self.spans += [_sent(one) for scope in of_resource.scope_spans for one in scope.spans]

    def named(self, name: str) -> list[Sent]:
        """The spans of that name, by their start."""
        return sorted((one for one in self.spans if one.name == name), key=lambda one: one.start_ns)

    def one(self, name: str) -> Sent:
        """The only span of that name."""
        (found,) = self.named(name)
        return found


def _sent(span: Any) -> Sent:
    return Sent(
        name=span.name,
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent_id=span.parent_span_id.hex(),
        kind=span.kind,
        failed=span.status.code == 2,
        attributes=_values(span.attributes),
        links=[link.span_id.hex() for link in span.links],
        events=[event.name for event in span.events],
        start_ns=span.start_time_unix_nano,
        end_ns=span.end_time_unix_nano,
    )


def _values(attributes: Any) -> dict[str, Any]:
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in attributes}


@pytest.fixture
def collector() -> Iterator[Collector]:
    """A collector on a port of its own."""
    made = Collector()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            made.take(self.path, self.rfile.read(int(self.headers["content-length"])))
            self.send_response(made.status)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            return None

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        made.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield made
        server.shutdown()
        thread.join()


@pytest.fixture
def trace(collector: Collector, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Collector]]:
    """Switches tracing on, to `collector`; what it returns has all spans after `tracing.stop()`."""

    def switched_on(**variables: str) -> Collector:
        for name, value in {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, **variables}.items():
            monkeypatch.setenv(name, value)
        settings.current.cache_clear()
        assert tracing.start(role="test")
        return collector

    yield switched_on
    tracing.stop()
    settings.current.cache_clear()
