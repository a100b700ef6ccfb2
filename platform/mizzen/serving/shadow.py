"""Sends copies of requests to a shadow version once they are answered, and compares the answers.

A copy delays nobody and costs its client nothing: it goes past keys, limits, queue, meter and counts straight
to the shadow's routes, in a task of its own. What the shadow answers is thrown away. It does, though, compute
on the same processors as everybody else. Which requests may be copied, `model_routes` knows.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mizzen import metrics
from mizzen.serving.compare import Answer, same
from mizzen.serving.middleware import REQUEST_ID
from mizzen.serving.spec import Shadow as Options
from mizzen.serving.switch import ROLE
from mizzen.workloads.contract import Recorder

logger = logging.getLogger(__name__)

LeftOut = Callable[[Scope], frozenset[str] | None]
"""Of a request that has met its route: which fields are not compared; None if it may not be copied."""
Outcome = Literal["same", "different", "failed", "skipped"]
_COPIED = (
    *("type", "asgi", "http_version", "method", "scheme", "path", "raw_path", "query_string", "root_path"),
    *("headers", "client", "server", REQUEST_ID),
)
"""What of a scope a copy gets: nothing that tells of a deadline, a meter or a route."""
_MOST_BYTES = 4 * 2**20
"""Of a request with its answer; what is larger is not copied."""


@dataclass(eq=False)
class Target:
    """The shadow version, ready to be asked."""

    app: ASGIApp
    """Its routes, with nothing before them."""
    options: Options
    timeout_s: float
    """How long a copy may take."""
    recorder: Recorder
    """Has the shadow's labels."""
    tasks: set[asyncio.Task[None]] = field(default_factory=set)
    told: bool = False
    """Whether the log says already that copies fail."""

    def failed(self, why: str) -> None:
        """A copy failed; one line says so, and of all others the count tells."""
        if not self.told:
            self.told = True
            logger.warning("the shadow failed on a copy (%s); more of them are counted, not told", why)
        self.count("failed")

    def count(self, outcome: Outcome) -> None:
        """One more copy came to this."""
        self.recorder.count(metrics.SHADOW_REQUESTS, outcome=outcome)

    async def close(self) -> None:
        """Give up the copies that are under way."""
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)


class Shadow:
    """Where the versions of a replica send copies, while there is a shadow."""

    def __init__(self) -> None:
        self.target: Target | None = None

    def begin(self, target: Target, scope: Scope, copy: _Copy, left_out: frozenset[str]) -> None:
        """Ask the shadow what was asked, in the background; beyond its limit not at all."""
        if copy.too_large or len(target.tasks) >= target.options.max_ongoing_requests:
            target.count("skipped")
            return
        # In a context of its own: it belongs to no trace.
        task = asyncio.create_task(_ask(target, scope, copy, left_out), context=contextvars.Context())
        target.tasks.add(task)
        task.add_done_callback(target.tasks.discard)


class Copies:
    """Hands requests on; some of those that were answered and change nothing go to the shadow as well."""

    def __init__(self, app: ASGIApp, shadow: Shadow, left_out: LeftOut) -> None:
        self.app = app
        self.shadow = shadow
        self.left_out = left_out

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        target = self.shadow.target
        if (
            target is None
            or scope["type"] != "http"
            or scope.get(ROLE) == "canary"  # the shadow is compared with one version, not with two
            or random.random() >= target.options.share
        ):
            await self.app(scope, receive, send)
            return
        asked = {name: scope[name] for name in _COPIED if name in scope}
        copy = _Copy(receive, send)
        await self.app(scope, copy.receive, copy.send)
        left_out = self.left_out(scope)
        if copy.complete and left_out is not None and target is self.shadow.target:
            self.shadow.begin(target, asked, copy, left_out)


class _Copy:
    """Keeps what passes: a request's body and its answer."""

    def __init__(self, receive: Receive, send: Send) -> None:
        self._receive, self._send = receive, send
        self._asked: list[bytes] = []
        self._told: list[bytes] = []
        self._start: Message | None = None
        self._num_bytes = 0
        self.complete = False

    @property
    def too_large(self) -> bool:
        return self._num_bytes > _MOST_BYTES

    @property
    def body(self) -> bytes:
        return b"".join(self._asked)

    @property
    def answer(self) -> Answer:
        headers = () if self._start is None else self._start.get("headers", ())
        kinds = [value.decode("latin-1") for name, value in headers if name.lower() == b"content-type"]
        status = 0 if self._start is None else self._start["status"]
        return Answer(status, (kinds or [""])[0].lower(), b"".join(self._told))

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.request":
            self._keep(self._asked, message)
        return message

    async def send(self, message: Message) -> None:
        await self._send(message)
        if message["type"] == "http.response.start":
            self._start = message
        elif message["type"] == "http.response.body":
            self._keep(self._told, message)
            self.complete = not message.get("more_body", False)

    def _keep(self, pieces: list[bytes], message: Message) -> None:
        piece = message.get("body", b"")
        self._num_bytes += len(piece)
        if not self.too_large:
            pieces.append(piece)
        elif self._asked or self._told:
            self._asked, self._told = [], []  # nobody will ask for them: let the memory go now


async def _ask(target: Target, scope: Scope, copy: _Copy, left_out: frozenset[str]) -> None:
    try:
        async with asyncio.timeout(target.timeout_s):
            answer = await _answer_of(target.app, scope, copy.body)
        if answer is None or answer.status >= 500:
            target.failed("it broke off" if answer is None else f"status {answer.status}")
            return
        agree = await asyncio.to_thread(same, copy.answer, answer, target.options.tolerance, left_out)
        target.count("same" if agree else "different")
    except asyncio.CancelledError:
        target.count("skipped")  # the shadow goes
        raise
    except Exception as cause:
        # Whatever it is, it is the shadow's, and no client's.
        target.failed(type(cause).__name__)


async def _answer_of(app: ASGIApp, scope: Scope, body: bytes) -> Answer | None:
    """What `app` answers; None if it breaks off."""
    given: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]
    goes_away: asyncio.Future[Message] = asyncio.get_running_loop().create_future()

    async def receive() -> Message:
        return given.pop() if given else await goes_away  # which nobody does

    async def nowhere(message: Message) -> None:
        return None

    told = _Copy(receive, nowhere)
    await app(scope, receive, told.send)
    return told.answer if told.complete and not told.too_large else None
