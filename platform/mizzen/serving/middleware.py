"""What every request meets first and its answer last, as plain ASGI: nothing here buffers a stream.

`Front` names the model in every answer, sets the headers that browsers obey, counts, and turns what escapes
into an error body. Further in are `deadline`, `auth`, `admission` and `bodies`.
"""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mizzen import labels, logs, tracing
from mizzen.errors import MizzenError
from mizzen.recording import ServedMetrics
from mizzen.series import OTHER
from mizzen.serving import spans
from mizzen.serving.access_log import AccessLog
from mizzen.serving.replies import CLIENT_GONE, Reply, reply
from mizzen.serving.service_levels import ServiceLevels
from mizzen.tracing import NOTHING
from mizzen.workloads.contract import ModelIdentity

METHODS = frozenset(labels.METHOD.values)
UNKNOWN = "unknown"
ALWAYS_ANSWERED = frozenset(
    {"/healthz", "/readyz", "/metrics", "/docs", "/openapi.json", "/v2/health/live", "/v2/health/ready"}
)
"""Paths below the route prefix that a full queue does not hold up."""
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,128}")
REQUEST_ID = "mizzen-request-id"
"""Where `Front` keeps a request's id in its scope."""
KEY_NAME = "mizzen-key-name"
"""Where a scope keeps the name of the API key that its request was let in by."""
OUTCOME = "mizzen-outcome"
"""Where a scope keeps the status to count, if it is not the one that was sent."""
REJECTION = "mizzen-rejection"
"""Where a scope keeps why its request was refused, in the words of `metrics.REJECTED`."""
ADMITTED = "mizzen-admitted"
"""Stands in the scope of a request that the model has seen."""
IsOwn = Callable[[Scope, str], bool]
"""Whether a request, to a path below the route prefix, is one to the model: it counts for service levels."""
Headers = list[tuple[bytes, bytes]]
_SAFE: Headers = [
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
]
_NO_PAGE = (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'")
_PAGE = (
    b"content-security-policy",
    # The page of FastAPI starts Swagger with a script of its own text, and Swagger sets styles.
    b"default-src 'none'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline';"
    b" img-src 'self' data:; connect-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
)
_NO_STORE = (b"cache-control", b"no-store")


async def send_reply(answer: Reply, scope: Scope, send: Send) -> None:
    """Send `answer` as a whole response to the request of `scope`."""
    if answer.rejection is not None:
        scope[REJECTION] = answer.rejection
    await send_json(answer.status, answer.body(relative_path(scope)), answer.headers, send)


async def send_json(status: int, body: bytes, more_headers: Mapping[str, str], send: Send) -> None:
    """Send `body`, which is JSON, as a whole response."""
    more = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in more_headers.items()]
    length = str(len(body)).encode()
    headers: Headers = [(b"content-type", b"application/json"), (b"content-length", length), *more]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def identity_headers(identity: ModelIdentity) -> Headers:
    """The headers that name the model which answers."""
    return [
        (b"mizzen-model", identity.name.encode()),
        (b"mizzen-version", str(identity.version).encode()),
        (b"mizzen-digest", identity.digest.encode()),
    ]


def request_id(headers: Iterable[tuple[bytes, bytes]]) -> str:
    """The id that the client, or Ray Serve, gave this request; a new one if it has none that is usable."""
    found = b""
    for name, value in headers:
        # Ours comes before the common one, wherever it stands.
        ours = name == b"mizzen-request-id"
        if (ours or (name == b"x-request-id" and not found)) and _REQUEST_ID.fullmatch(value):
            found = value
    return found.decode() if found else uuid.uuid4().hex


def safe_headers(path: str, given: Iterable[tuple[bytes, bytes]]) -> Headers:
    """What tells browsers to be careful with an answer from `path` that has the headers `given` already."""
    names = {name for name, _ in given}
    more = [*_SAFE, _PAGE if path == "/docs" else _NO_PAGE]
    # The page's scripts never change; an answer with somebody's data in it is nobody else's.
    if b"cache-control" not in names and not path.startswith("/static-offline-docs/"):
        more.append(_NO_STORE)
    return more


def route_of(scope: Scope) -> str:
    """The template of the route that answered, `unknown` if none did: a bounded set."""
    if relative_path(scope) in ALWAYS_ANSWERED:
        return relative_path(scope)
    path = getattr(scope.get("route"), "path", None)
    return path if isinstance(path, str) else UNKNOWN


def method_of(scope: Scope) -> str:
    """The request's method, `other` if it is none that HTTP knows: a bounded set."""
    return scope["method"] if scope["method"] in METHODS else OTHER


class Front:
    """Outermost: names the model and the request in the answer, measures, and answers what escapes."""

    def __init__(
        self,
        app: ASGIApp,
        identity: ModelIdentity,
        metrics: ServedMetrics,
        served: Mapping[str, str] = MappingProxyType({}),
        levels: ServiceLevels | None = None,
        is_own: IsOwn = lambda scope, path: False,
        log: AccessLog | None = None,
    ) -> None:
        """`served` are the application, the model and its version, by the names of their labels."""
        self.app = app
        self.identity = identity_headers(identity)
        self.metrics = metrics
        self.served = served
        self.levels = levels
        self.is_own = is_own
        self.log = log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        given = set(scope)
        path = relative_path(scope)  # now: a mount, such as that of the page's scripts, moves the root
        root = scope.get("root_path", "")
        scope[REQUEST_ID] = request_id(scope["headers"])
        probe = path in ALWAYS_ANSWERED
        span = NOTHING if probe else spans.of_request(scope, self.served, scope[REQUEST_ID])
        trace_id = span.trace_id or tracing.trace_id_in(scope["headers"])
        status: int | None = None
        num_bytes = 0
        complete = False
        recorded = False
        first_byte_s: float | None = None
        started_s = time.perf_counter()

        def record(code: int) -> None:
            nonlocal recorded
            if recorded:
                return
            recorded = True
            method = method_of(scope)
            duration_s = time.perf_counter() - started_s
            route = route_of(scope)
            exemplar = trace_id if span.recording else None
            self.metrics.finished(
                route=route, method=method, code=code, duration_s=duration_s, trace_id=exemplar
            )
            if self.log is not None and not probe:
                self.log.answered(
                    method,
                    route,
                    code,
                    duration_s=duration_s,
                    num_bytes=num_bytes,
                    request_id=scope[REQUEST_ID],
                    trace_id=trace_id,
                    key=scope.get(KEY_NAME),
                )
            if not probe:
                self._judge(scope, path, code, first_byte_s)
            spans.answered(span, method, None if route == UNKNOWN else f"{root}{route}", code)

        async def named(message: Message) -> None:
            nonlocal status, complete, first_byte_s, num_bytes
            if message["type"] == "http.response.start":
                status = message["status"]
                first_byte_s = time.perf_counter() - started_s  # `deadline` holds a start back until then
                sent = message.get("headers", ())
                more = safe_headers(path, sent)
                name = (b"mizzen-request-id", scope[REQUEST_ID].encode())
                if span.recording:
                    more.append((spans.TRACE_RESPONSE, span.traceparent.encode()))
                message = {**message, "headers": [*sent, *self.identity, name, *more]}
            elif message["type"] == "http.response.body":
                complete = not message.get("more_body", False)
                num_bytes += len(message.get("body", b""))
                if complete and status is not None:
                    # Before the last byte is out: who has an answer finds it counted.
                    record(scope.get(OUTCOME, status))
            await send(message)

        self.metrics.started()
        known = {**self.served, "request_id": scope[REQUEST_ID]}
        if trace_id:
            known["trace_id"] = trace_id
        token = logs.begin(known)
        with span:
            try:
                await self.app(scope, receive, named)
            except Exception as exception:
                if status is None:
                    await send_reply(reply(exception, scope[REQUEST_ID]), scope, named)
                elif not complete:
                    # Half an answer is out: only a broken connection tells the client that it is not whole.
                    record(_broken_off_by(exception))
                    raise
            finally:
                record(CLIENT_GONE)
                # An idle connection keeps its last scope, and with what FastAPI put there this version too.
                for key in set(scope) - given:
                    del scope[key]
                logs.end(token)

    def _judge(self, scope: Scope, path: str, code: int, first_byte_s: float | None) -> None:
        """Count a request that was refused, and what it means for the service levels."""
        rejection = scope.get(REJECTION)
        if rejection == "deadline" and ADMITTED in scope:
            rejection = None  # it was not refused: the model was too slow
        if rejection is not None:
            self.metrics.rejected(rejection)
        if self.levels is not None and self.is_own(scope, path):
            self.levels.answered(code, first_byte_s, rejection)


def _broken_off_by(exception: Exception) -> int:
    """The status to count for half an answer."""
    if isinstance(exception, MizzenError):
        return exception.http_status
    return CLIENT_GONE if isinstance(exception, ClientDisconnect) else 500


class Answers:
    """Answers what escapes, for a middleware further out that has something to add to every answer."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        begun = False

        async def noted(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self.app(scope, receive, noted)
        except Exception as exception:
            if begun or scope["type"] != "http":
                raise
            await send_reply(reply(exception, scope.get(REQUEST_ID, "")), scope, send)


def relative_path(scope: Scope) -> str:
    """The path below the application's route prefix."""
    path: str = scope["path"]
    root: Any = scope.get("root_path", "")
    return path[len(root) :] if root and path.startswith(root) else path
