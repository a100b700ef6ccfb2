"""The span of a request at the ingress, by OpenTelemetry's conventions for HTTP servers.

Probes and scrapes have none. The path itself, the query and the client's address are left out: a path may
hold a user's id, so the route's template stands for it.
"""

from __future__ import annotations

from collections.abc import Mapping

from starlette.types import Scope

from mizzen import tracing
from mizzen.tracing import NOTHING, Span

TRACE_RESPONSE = b"traceresponse"
"""W3C Trace Context, level 3 (draft): tells who sent no `traceparent` where to find the trace."""
SERVER_ERROR = 500


def of_request(scope: Scope, served: Mapping[str, str], request_id: str) -> Span:
    """The span of a request that has arrived; `served` says which app, model and version are asked."""
    if not tracing.on():
        return NOTHING
    attributes = {
        "http.request.method": scope["method"],
        "url.scheme": scope.get("scheme"),
        "network.protocol.version": scope.get("http_version"),
        "request_id": request_id,
        **served,
    }
    parent = tracing.received(scope["headers"])
    return tracing.begin(scope["method"], attributes, kind="server", parent=parent)


def answered(span: Span, method: str, route: str | None, status: int) -> None:
    """Say what became of it; `route` is the template with the application's prefix, None if none answered."""
    if not span.recording:
        return
    span.set(**{"http.route": route, "http.response.status_code": status})
    if route is not None:
        span.rename(f"{method} {route}")
    if status >= SERVER_ERROR:
        span.failed(str(status))
