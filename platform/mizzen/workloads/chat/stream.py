"""One generation on its way from the engine's thread to the event loop, and from there to the client.

When the client goes away, or whatever else ends the request, the generation is cancelled. It counts the
tokens that a request cost, as they are made. It does not know how answers are written: a `Form` does.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, MutableMapping, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from typing import Any, Protocol, TypeVar

from fastapi import Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from mizzen.errors import MizzenError
from mizzen.workloads.chat import protocol
from mizzen.workloads.chat.engine import Engine
from mizzen.workloads.chat.generation import Generation, Piece
from mizzen.workloads.chat.sampling import Sampling
from mizzen.workloads.contract import count_tokens

logger = logging.getLogger(__name__)

CLIENT_CLOSED_REQUEST = 499
EVENT_STREAM = "text/event-stream"
STREAM_HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
"""No proxy may keep or hold back a stream."""

T = TypeVar("T")


class Form(Protocol):
    """How the answers of one route are written."""

    def first(self) -> str:
        """Events before the first token; may be empty."""
        ...

    def piece(self, piece: Piece) -> str:
        """Events for new text, and for the end if it is the last."""
        ...

    def usage(self, used: Mapping[str, Any]) -> str:
        """The event with the numbers of tokens; empty if it was not asked for."""
        ...

    def whole(self, pieces: Sequence[Piece], used: Mapping[str, Any]) -> dict[str, Any]:
        """The body of a whole answer."""
        ...


class Stream:
    """The pieces of one generation. Whoever has submitted it must `leave` it."""

    def __init__(
        self,
        engine: Engine,
        prompt: list[int],
        sampling: Sampling,
        scope: MutableMapping[str, Any],
        *,
        piecewise: bool,
        sharer: str = "",
    ) -> None:
        """`piecewise` wakes the event loop for every piece, not only when all are there.

        `sharer`: see `Engine.submit`.
        """
        self.prompt = prompt
        self._engine = engine
        self._sampling = sampling
        self._scope = scope
        self._piecewise = piecewise
        self._sharer = sharer
        self._generation: Generation | None = None
        self._arrived: deque[Piece | MizzenError] = deque()
        self._ready = asyncio.Event()
        self._num_counted = 0

    async def submit(self) -> None:
        """Queue it. Raises what `Engine.submit` does."""
        loop = asyncio.get_running_loop()

        def sink(piece: Piece | MizzenError) -> None:
            self._arrived.append(piece)
            if self._piecewise or isinstance(piece, MizzenError) or piece.finish is not None:
                with suppress(RuntimeError):  # the loop is closed: nobody waits any more
                    loop.call_soon_threadsafe(self._ready.set)

        queue = partial(self._engine.submit, self.prompt, self._sampling, sink, sharer=self._sharer)
        if self._sampling.grammar is None and self._sampling.logprobs is None:
            self._generation = queue()
        else:
            # A grammar is compiled, a vocabulary spelt out: up to a second, the first time.
            self._generation = await _in_thread(queue)
        count_tokens(self._scope, len(self.prompt))

    def leave(self) -> None:
        """Cancel what is not done yet; all that was made is counted."""
        if self._generation is not None:
            self._generation.cancel()  # of no effect if it is done
            self._count(self._generation.num_generated)

    async def next(self) -> Piece:
        """The next piece; the last one says why it ended. Raises what the engine was stopped by."""
        while not self._arrived:
            await self._ready.wait()
            self._ready.clear()
        piece = self._arrived.popleft()
        if isinstance(piece, MizzenError):
            raise piece
        self._count(piece.num_tokens)
        return piece

    async def rest(self) -> list[Piece]:
        """All pieces up to the last."""
        pieces = [await self.next()]
        while pieces[-1].finish is None:
            pieces.append(await self.next())
        return pieces

    def used(self, last: Piece) -> dict[str, Any]:
        """The numbers of tokens, once the last piece is there."""
        return protocol.usage(len(self.prompt), last.num_cached, last.num_tokens)

    def _count(self, num_generated: int) -> None:
        count_tokens(self._scope, num_generated - self._num_counted)
        self._num_counted = num_generated


async def _in_thread(queue: Callable[[], Generation]) -> Generation:
    """`Engine.submit` in a thread. A thread cannot be stopped, but what it queued can."""
    queued = asyncio.ensure_future(asyncio.to_thread(queue))
    try:
        return await asyncio.shield(queued)
    except asyncio.CancelledError:
        queued.add_done_callback(_cancel)
        raise


def _cancel(queued: asyncio.Future[Generation]) -> None:
    if not queued.cancelled() and queued.exception() is None:
        queued.result().cancel()


async def whole(stream: Stream, form: Form, request: Request) -> Response:
    """The whole answer; if the client goes away meanwhile, the generation is cancelled."""
    try:
        await stream.submit()
        pieces = await _unless_gone(stream.rest(), request)
    finally:
        stream.leave()
    if pieces is None:
        return Response(status_code=CLIENT_CLOSED_REQUEST)
    return JSONResponse(form.whole(pieces, stream.used(pieces[-1])))


async def in_events(stream: Stream, form: Form, request: Request) -> Response:
    """The answer as server-sent events, once its first piece is there.

    Before that an error is an answer of its own, with its own status, and not a broken stream.
    """
    with ExitStack() as leaving:
        leaving.callback(stream.leave)
        await stream.submit()
        first = await _unless_gone(stream.next(), request)
        if first is None:
            return Response(status_code=CLIENT_CLOSED_REQUEST)
        leaving.pop_all()
    return _EventStream(stream, form, first)


class _EventStream(StreamingResponse):
    """Leaves its generation however it ends, also where it ends before it began."""

    def __init__(self, stream: Stream, form: Form, first: Piece) -> None:
        super().__init__(_events(stream, form, first), media_type=EVENT_STREAM, headers=STREAM_HEADERS)
        self._stream = stream

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._stream.leave()


def event_stream(events: str) -> Response:
    """Events that are all there already."""
    return Response(events, media_type=EVENT_STREAM, headers=STREAM_HEADERS)


async def _events(stream: Stream, form: Form, piece: Piece) -> AsyncIterator[str]:
    yield form.first() + form.piece(piece)
    try:
        while piece.finish is None:
            piece = await stream.next()
            written = form.piece(piece)
            if written:
                yield written
    except MizzenError as error:
        # The status line is out already: the error is told in the stream, as OpenAI does.
        logger.error("an answer broke off: %s", error.what)
        kind = {"message": error.what, "type": "server_error", "param": None, "code": error.code}
        yield protocol.event({"error": kind})
        return
    yield form.usage(stream.used(piece)) + protocol.DONE


async def _unless_gone(work: Coroutine[Any, Any, T], request: Request) -> T | None:
    """What `work` returns; None if the client goes away first, and then `work` is cancelled."""
    working = asyncio.create_task(work)
    gone = asyncio.create_task(_disconnected(request))
    try:
        await asyncio.wait({working, gone}, return_when=asyncio.FIRST_COMPLETED)
        return working.result() if working.done() else None
    finally:
        working.cancel()
        gone.cancel()


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
