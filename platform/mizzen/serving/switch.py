"""Hands each request to the version in force, and knows when the last one of a version is answered.

It does not load versions or close replaced ones: `app` does.
"""

from __future__ import annotations

import asyncio
from typing import Generic, Protocol, TypeVar

from starlette.types import ASGIApp, Receive, Scope, Send

from mizzen.serving.middleware import relative_path, send_json, send_reply
from mizzen.serving.replies import Reply


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


class Switch(Generic[V]):
    """An ASGI app that hands each request to the version in force, and knows when one is drained."""

    def __init__(self) -> None:
        self.current: V | None = None
        self._in_flight: dict[int, int] = {}
        self._changed = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
            return
        loaded = self.current
        if loaded is None:
            if scope["type"] == "http":
                await _answer_unloaded(scope, send)
            return
        key = id(loaded)
        self._in_flight[key] = self._in_flight.get(key, 0) + 1
        try:
            await loaded.app(scope, receive, send)
        finally:
            self._in_flight[key] -= 1
            self._changed.set()
            self._changed = asyncio.Event()

    def swap(self, new: V | None) -> V | None:
        """From now on `new` answers; returns the one before."""
        old, self.current = self.current, new
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
                old = self.swap(None)
                if old is not None:
                    await self.drained(old)
                    await old.close()
                await send({"type": "lifespan.shutdown.complete"})
                return


async def _answer_unloaded(scope: Scope, send: Send) -> None:
    if relative_path(scope) == "/healthz":
        await send_json(200, b'{"status": "alive"}', {}, send)
    else:
        await send_reply(Reply(503, "the model is not loaded", headers={"retry-after": "1"}), scope, send)
