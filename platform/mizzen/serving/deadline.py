"""The time that a request has: counted from its arrival, the wait in the queue included.

Until the first byte of the answer `timeout_s` holds; a stream that has begun may last `stream_timeout_s` in
all. A client may ask for less with the header `mizzen-timeout-s`, which then holds for the whole answer.
Whoever works on a request that is too late is cancelled. It does not decide who may wait: `admission` does.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import MutableMapping
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mizzen.errors import DeadlineError, RequestError
from mizzen.serving.middleware import OUTCOME
from mizzen.serving.replies import reply

HEADER = "mizzen-timeout-s"
DEADLINE = "mizzen-deadline"
"""Where a scope keeps its `asyncio.Timeout`."""
_LAST_WORD_S = 5.0
"""How long a client may take to make room for the end of a stream that was too long."""
_SECONDS = re.compile(rb"[0-9]{1,9}(\.[0-9]{1,9})?")


class Deadline:
    """Answers 504 to what takes too long, or ends the stream that has begun."""

    def __init__(self, app: ASGIApp, timeout_s: float, stream_timeout_s: float) -> None:
        self.app = app
        self.timeout_s = timeout_s
        self.stream_timeout_s = stream_timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        asked_s = _asked(scope)
        begun_s = asyncio.get_running_loop().time()
        allowed_s = self.timeout_s if asked_s is None else min(asked_s, self.timeout_s)
        clock = asyncio.timeout_at(begun_s + allowed_s)
        scope[DEADLINE] = clock
        answer = _Answer(send, clock, begun_s + min(self.stream_timeout_s, asked_s or self.stream_timeout_s))
        try:
            async with clock:
                await self.app(scope, receive, answer)
                await answer.release()
        except TimeoutError:
            if not clock.expired() or answer.complete:
                raise
            error = DeadlineError(
                "the answer was not ready in time",
                saw=f"{asyncio.get_running_loop().time() - begun_s:.3f} s since the request came",
                allowed=f"{allowed_s:g} s" if answer.held else f"{self.stream_timeout_s:g} s for a stream",
                remedy=f"Ask for less, come back when there is less to do, or allow more with {HEADER} or"
                " the serve file's timeout_s.",
            )
            if not answer.is_event_stream:
                raise error from None
            scope[OUTCOME] = error.http_status
            await answer.end_with(error)


class _Answer:
    """Passes an answer on; its start is held back until there is something to send with it.

    So whatever goes wrong before the first byte can still be told with a status.
    """

    def __init__(self, send: Send, clock: asyncio.Timeout, stream_until_s: float) -> None:
        self.send = send
        self.clock = clock
        self.stream_until_s = stream_until_s
        self.held = True
        self.complete = False
        self._start: Message | None = None

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._start = message
            return
        if message["type"] == "http.response.body":
            self.complete = not message.get("more_body", False)
            if self.held and not self.complete:
                if not message.get("body"):
                    return
                self.clock.reschedule(self.stream_until_s)
        if self.held:
            await self.release()
        await self.send(message)

    async def release(self) -> None:
        """Send the start, if there is one that is held back."""
        if self.held and self._start is not None:
            self.held = False
            await self.send(self._start)

    @property
    def is_event_stream(self) -> bool:
        """Whether server-sent events are on their way."""
        if self.held or self._start is None:
            return False
        kinds = [value for name, value in self._start.get("headers", ()) if name.lower() == b"content-type"]
        return any(kind.startswith(b"text/event-stream") for kind in kinds)

    async def end_with(self, error: DeadlineError) -> None:
        """End a stream of events with one that holds `error`. Raises `error` if nobody reads it."""
        event = b"\n\ndata: " + reply(error, "").body() + b"\n\n"
        try:
            async with asyncio.timeout(_LAST_WORD_S):
                await self.send({"type": "http.response.body", "body": event})
        except TimeoutError:
            raise error from None


def remaining_s(scope: MutableMapping[str, Any]) -> float | None:
    """How much time the request of `scope` has left; None if it has no deadline."""
    clock = scope.get(DEADLINE)
    until_s = clock.when() if isinstance(clock, asyncio.Timeout) else None
    return None if until_s is None else until_s - asyncio.get_running_loop().time()


def shorten(scope: MutableMapping[str, Any], timeout_s: float) -> None:
    """Let the request of `scope` have `timeout_s` more from now on, or what it had if that is less."""
    clock, left_s = scope.get(DEADLINE), remaining_s(scope)
    if isinstance(clock, asyncio.Timeout) and left_s is not None and timeout_s < left_s:
        clock.reschedule(asyncio.get_running_loop().time() + timeout_s)


def _asked(scope: Scope) -> float | None:
    for name, value in scope["headers"]:
        if name == HEADER.encode():
            if not _SECONDS.fullmatch(value) or not float(value):
                raise RequestError(
                    f"the header {HEADER} is wrong",
                    saw=repr(value[:40].decode("latin-1")),
                    allowed="seconds, more than 0, such as 2.5",
                    field=HEADER,
                )
            return float(value)
    return None
