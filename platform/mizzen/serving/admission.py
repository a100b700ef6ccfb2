"""Bounds how many requests an application works on and how many wait, by what they cost so far.

A request is refused at once, with the time after which to come back, if the queue is full or if its turn
would come after its deadline. It does not count who asks: limits for each API key are not its business.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from starlette.types import ASGIApp, Receive, Scope, Send

from mizzen import tracing
from mizzen.errors import OverloadedError
from mizzen.serving.deadline import remaining_s
from mizzen.serving.middleware import ADMITTED, ALWAYS_ANSWERED, relative_path

_WEIGHT = 0.1
"""Of the last request in the mean of what requests took."""
_LONGEST_RETRY_S = 120.0

ReadBody = Callable[[Scope, Receive], Awaitable[Receive]]
"""Reads a request's body; what it returns gives it again."""


class Admission:
    """Lets `max_ongoing` requests through, `max_queued` wait, and refuses the others with 429.

    Ray Serve could refuse them too, but would do so in plain text and without naming the model, and would
    leave probes and `/metrics` unanswered just when they are wanted: `ALWAYS_ANSWERED` pass in any case.
    A body is read before its request takes one of the `max_ongoing` places, so slow clients hold up nobody
    who is ready.
    """

    def __init__(
        self,
        app: ASGIApp,
        max_ongoing: int,
        max_queued: int,
        read_body: ReadBody,
        note_wait_s: Callable[[float], object] = lambda wait_s: None,
    ) -> None:
        """`note_wait_s` is told of each request that is let in how long it has waited."""
        self.app = app
        self.note_wait_s = note_wait_s
        self.max_ongoing = max_ongoing
        self.max_queued = max_queued
        self.present = 0
        self.read_body = read_body
        self._slots = asyncio.Semaphore(max_ongoing)
        self._waiting = 0
        self._service_s: float | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or relative_path(scope) in ALWAYS_ANSWERED:
            await self.app(scope, receive, send)
            return
        self._refuse_beyond_queue()
        self.present += 1
        try:
            receive = await self.read_body(scope, receive)
            self._refuse_hopeless(scope)
            self._waiting += 1
            wait_s = 0.0
            try:
                if self._slots.locked():
                    wait_s = await self._wait_s()
                else:
                    await self._slots.acquire()
            finally:
                self._waiting -= 1
            await self._answer(scope, receive, send, wait_s)
        finally:
            self.present -= 1

    async def _wait_s(self) -> float:
        """Wait for a slot; returns how long that was."""
        clock = asyncio.get_running_loop().time
        since_s = clock()
        with tracing.part("queue", queue="admission"):
            await self._slots.acquire()
        return clock() - since_s

    async def _answer(self, scope: Scope, receive: Receive, send: Send, wait_s: float) -> None:
        loop = asyncio.get_running_loop()
        begun_s = loop.time()
        scope[ADMITTED] = True
        try:
            self.note_wait_s(wait_s)
            await self.app(scope, receive, send)
        finally:
            self._slots.release()
            took_s = loop.time() - begun_s
            before_s = took_s if self._service_s is None else self._service_s
            self._service_s = before_s + _WEIGHT * (took_s - before_s)

    def expected_wait_s(self, num_before: int) -> float:
        """How long somebody with `num_before` others in front waits, by Little's law; 0 if not known yet."""
        return (num_before + 1) * (self._service_s or 0.0) / self.max_ongoing

    def _refuse_beyond_queue(self) -> None:
        limit = self.max_ongoing + self.max_queued
        if self.present >= limit:
            raise self._overloaded(
                "the model is busy and its queue is full",
                f"{self.present} requests",
                f"{limit} (max_ongoing_requests + max_queued_requests)",
            )

    def _refuse_hopeless(self, scope: Scope) -> None:
        if not self._slots.locked():
            return
        left_s, wait_s = remaining_s(scope), self.expected_wait_s(self._waiting)
        if left_s is not None and wait_s > left_s:
            late = self._overloaded(
                "the model is busy: this request's turn would come after its deadline",
                f"about {wait_s:.1f} s to wait behind {self._waiting} others",
                f"{max(left_s, 0):.1f} s that the request has left",
            )
            late.reason = "deadline"
            raise late

    def _overloaded(self, what: str, saw: str, allowed: str) -> OverloadedError:
        error = OverloadedError(
            what, saw=saw, allowed=allowed, remedy="Try again after the time in Retry-After."
        )
        # By then those who wait now have had their turn.
        error.retry_after_s = min(self.expected_wait_s(self._waiting), _LONGEST_RETRY_S)
        return error
