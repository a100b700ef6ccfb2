"""Makes the calls of one application into methods, that wait for the answer or are awaited.

`recommend = now(calls.recommend)` is a method with the parameters of `calls.recommend` but its first, the
application's prefix. It knows no routes.
"""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from typing import Any, Concatenate, Generic, ParamSpec, Self, TypeVar

from mizzen.client.calls import Call
from mizzen.client.sending import AsyncSender, Sender

P = ParamSpec("P")
T = TypeVar("T")
S = TypeVar("S", bound=Sender | AsyncSender)


class Resource(Generic[S]):
    """One application of a server."""

    def __init__(self, sender: S, prefix: str) -> None:
        self._sender: S = sender
        self.prefix = prefix.rstrip("/")
        """Its path on the server, as `route_prefix` in the serve file."""

    def at(self, prefix: str) -> Self:
        """The same, for the application under another path: `client.recommendation.at("/films")`."""
        return type(self)(self._sender, prefix if prefix.startswith("/") else f"/{prefix}")


def now(build: Callable[Concatenate[str, P], Call[T]]) -> Callable[Concatenate[Resource[Sender], P], T]:
    """A method that sends the call and returns its answer."""

    @functools.wraps(build)
    def method(self: Resource[Sender], /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self._sender.send(build(self.prefix, *args, **kwargs))

    return method


def later(
    build: Callable[Concatenate[str, P], Call[T]],
) -> Callable[Concatenate[Resource[AsyncSender], P], Coroutine[Any, Any, T]]:
    """A method that sends the call and is awaited for its answer."""

    @functools.wraps(build)
    async def method(self: Resource[AsyncSender], /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await self._sender.send(build(self.prefix, *args, **kwargs))

    return method


def stream_now(
    build: Callable[Concatenate[str, P], Call[T]],
) -> Callable[Concatenate[Resource[Sender], P], AbstractContextManager[Iterator[T]]]:
    """A method whose result is a context that gives the answer's events."""

    @functools.wraps(build)
    def method(
        self: Resource[Sender], /, *args: P.args, **kwargs: P.kwargs
    ) -> AbstractContextManager[Iterator[T]]:
        return self._sender.stream(build(self.prefix, *args, **kwargs))

    return method


def stream_later(
    build: Callable[Concatenate[str, P], Call[T]],
) -> Callable[Concatenate[Resource[AsyncSender], P], AbstractAsyncContextManager[AsyncIterator[T]]]:
    """A method whose result is an asynchronous context that gives the answer's events."""

    @functools.wraps(build)
    def method(
        self: Resource[AsyncSender], /, *args: P.args, **kwargs: P.kwargs
    ) -> AbstractAsyncContextManager[AsyncIterator[T]]:
        return self._sender.stream(build(self.prefix, *args, **kwargs))

    return method
