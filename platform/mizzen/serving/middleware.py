"""What every request passes on its way to an endpoint, as plain ASGI: nothing here buffers a stream.

`Front` names the model in every answer, counts, and turns what escapes into an error body; `Admission`
bounds how many requests wait; `BodyLimit` bounds their size.
"""

from __future__ import annotations

import asyncio
import re
import time
import uuid
from collections.abc import Iterable, Mapping
from typing import Any

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mizzen.errors import OverloadedError
from mizzen.metrics import ServedMetrics
from mizzen.serving.replies import Reply, reply
from mizzen.workloads.contract import ModelIdentity

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
CLIENT_GONE = 499
ALWAYS_ANSWERED = frozenset({"/healthz", "/readyz", "/metrics", "/docs", "/openapi.json"})
"""Paths below the route prefix that a full queue does not hold up."""
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
REQUEST_ID = "mizzen-request-id"
"""Where `Front` keeps a request's id in its scope."""
Headers = list[tuple[bytes, bytes]]


async def send_reply(answer: Reply, send: Send) -> None:
    """Send `answer` as a whole response."""
    await send_json(answer.status, answer.body(), answer.headers, send)


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
    given = {name.lower(): value.decode("latin-1") for name, value in headers}
    for name in (b"mizzen-request-id", b"x-request-id"):
        if _REQUEST_ID.fullmatch(given.get(name, "")):
            return given[name]
    return uuid.uuid4().hex


def route_of(scope: Scope) -> str:
    """The template of the route that answered, `unknown` if none did: a bounded set."""
    if relative_path(scope) in ALWAYS_ANSWERED:
        return relative_path(scope)
    path = getattr(scope.get("route"), "path", None)
    return path if isinstance(path, str) else "unknown"


class Front:
    """Outermost: names the model and the request in the answer, measures, and answers what escapes."""

    def __init__(self, app: ASGIApp, identity: ModelIdentity, metrics: ServedMetrics) -> None:
        self.app = app
        self.identity = identity_headers(identity)
        self.metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        given = set(scope)
        scope[REQUEST_ID] = request_id(scope["headers"])
        headers = [*self.identity, (b"mizzen-request-id", scope[REQUEST_ID].encode())]
        status: int | None = None
        complete = False
        recorded = False
        started_s = time.perf_counter()

        def record(code: int) -> None:
            nonlocal recorded
            if recorded:
                return
            recorded = True
            method = scope["method"] if scope["method"] in METHODS else "other"
            duration_s = time.perf_counter() - started_s
            self.metrics.finished(route=route_of(scope), method=method, code=code, duration_s=duration_s)

        async def named(message: Message) -> None:
            nonlocal status, complete
            if message["type"] == "http.response.start":
                status = message["status"]
                message = {**message, "headers": [*message.get("headers", ()), *headers]}
            elif message["type"] == "http.response.body":
                complete = not message.get("more_body", False)
                if complete and status is not None:
                    record(status)  # before the last byte is out: who has an answer finds it counted
            await send(message)

        self.metrics.started()
        try:
            await self.app(scope, receive, named)
        except Exception as exception:
            if status is None:
                await send_reply(reply(exception, scope[REQUEST_ID]), named)
            elif not complete:
                # Half an answer is out: only a broken connection tells the client that it is not whole.
                record(500)
                raise
        finally:
            record(CLIENT_GONE)
            # An idle connection keeps its last scope, and with what FastAPI put there this version too.
            for key in set(scope) - given:
                del scope[key]


class Admission:
    """Lets `max_ongoing` requests through, `max_queued` wait, and refuses the others with 429.

    Ray Serve could refuse them too, but would do so in plain text and without naming the model, and would
    leave probes and `/metrics` unanswered just when they are wanted: `ALWAYS_ANSWERED` pass in any case.
    """

    def __init__(self, app: ASGIApp, max_ongoing: int, max_queued: int) -> None:
        self.app = app
        self.max_ongoing = max_ongoing
        self.limit = max_ongoing + max_queued
        self.present = 0
        self.slots = asyncio.Semaphore(max_ongoing)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or relative_path(scope) in ALWAYS_ANSWERED:
            await self.app(scope, receive, send)
            return
        if self.present >= self.limit:
            raise OverloadedError(
                "the model is busy and its queue is full",
                saw=f"{self.present} requests",
                allowed=f"{self.limit} (max_ongoing_requests + max_queued_requests)",
                remedy="Try again after the time in Retry-After.",
            )
        self.present += 1
        try:
            async with self.slots:
                await self.app(scope, receive, send)
        finally:
            self.present -= 1


class BodyLimit:
    """Answers 413 to a body of more than `max_bytes`, whether it says its length or comes in chunks."""

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self.app = app
        self.max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        declared = dict(scope["headers"]).get(b"content-length", b"")
        if declared.isdigit() and int(declared) > self.max_bytes:
            await send_reply(reply(self._too_large(int(declared)), scope.get(REQUEST_ID, "")), send)
            return
        received = 0

        async def limited() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self.max_bytes:
                # The one kind of exception that FastAPI lets through while it reads a body.
                raise self._too_large(received)
            return message

        await self.app(scope, limited, send)

    def _too_large(self, size_bytes: int) -> HTTPException:
        return HTTPException(
            413,
            f"the body is too large; saw {size_bytes} bytes; allowed: {self.max_bytes} (max_request_bytes)",
        )


def relative_path(scope: Scope) -> str:
    """The path below the application's route prefix."""
    path: str = scope["path"]
    root: Any = scope.get("root_path", "")
    return path[len(root) :] if root and path.startswith(root) else path
