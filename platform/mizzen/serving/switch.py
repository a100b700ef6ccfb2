"""Hands each request to a version in force, and knows when the last one of a version is answered.

There are up to two: the first, and a canary beside it (`split` says who meets it). It does not load versions
or close replaced ones: `roles` does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, Protocol, TypeVar

from starlette.types import ASGIApp, Receive, Scope, Send

from mizzen.serving.middleware import relative_path, send_json, send_reply
from mizzen.serving.replies import Reply
from mizzen.serving.split import Split

ROLE = "mizzen-role"
"""Stands as `canary` in the scope of a request that met one."""


class Answering(Protocol):
    """A loaded version."""

    @property
    def app(self) -> ASGIApp:
        """What answers."""
        ...

    async def close(self) -> None:
        """Take it down."""
        ...


V = TypeVar("V", bound=Answering)


def _not_noted(scope: Scope, status: int) -> None:
    """For a switch whose requests nobody counts."""


class Switch(Generic[V]):
    """An ASGI app that hands each request to a version in force, and knows when one is drained."""

    def __init__(self, note_unloaded: Callable[[Scope, int], None] = _not_noted) -> None:
        """`note_unloaded` is told of each request that came while there is no version, and its status."""
        self.current: V | None = None
        self.canary: V | None = None
        self.split: Split | None = None
        self.at_end: list[Callable[[], Awaitable[None]]] = []
        """Called when the server ends, before its versions are closed."""
        self._note_unloaded = note_unloaded
        self._in_flight: dict[int, int] = {}
        self._changed = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
            return
        loaded = self.current
        if loaded is None:
            if scope["type"] == "http":
                self._note_unloaded(scope, await _answer_unloaded(scope, send))
            return
        if self.split is not None and scope["type"] == "http" and self.split.takes(scope):
            loaded = self.canary or loaded
            scope[ROLE] = "canary"
        key = id(loaded)
        self._in_flight[key] = self._in_flight.get(key, 0) + 1
        try:
            await loaded.app(scope, receive, send)
        finally:
            self._in_flight[key] -= 1
            self._changed.set()
            self._changed = asyncio.Event()

    def swap(self, new: V | None) -> V | None:
        """From now on `new` is the first to answer; returns the one before."""
        old, self.current = self.current, new
        return old

    def share(self, canary: V | None, split: Split | None) -> V | None:
        """From now on `canary` answers what `split` says, or nothing; returns the one before."""
        old, self.canary, self.split = self.canary, canary, split if canary is not None else None
        return old

    async def drained(self, old: V) -> None:
        """Return when the last request that `old` has is answered."""
        while self._in_flight.get(id(old), 0):
            # Every waiter sees every change: an event is set once for all, so each takes its own.
            changed = self._changed
            await changed.wait()
        self._in_flight.pop(id(old), None)

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                await send({"type": "lifespan.startup.complete"})
            else:
                for end in self.at_end:
                    await end()
                for old in (self.share(None, None), self.swap(None)):
                    if old is not None:
                        await self.drained(old)
                        await old.close()
                await send({"type": "lifespan.shutdown.complete"})
                return


async def _answer_unloaded(scope: Scope, send: Send) -> int:
    """Answer; returns the status."""
    if relative_path(scope) == "/healthz":
        await send_json(200, b'{"status": "alive"}', {}, send)
        return 200
    await send_reply(Reply(503, "the model is not loaded", headers={"retry-after": "1"}), scope, send)
    return 503
