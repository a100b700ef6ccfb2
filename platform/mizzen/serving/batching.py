"""The contract's `Batching`: what has arrived while the last batch ran is the next batch.

A request that finds the model idle is not kept waiting for others, unless `wait_s` says so: under load
batches form by themselves, and without load there is nobody to wait for. The function runs in a thread, so
the event loop goes on reading and answering. It does not bound how many wait: `admission` does.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Generic, NamedTuple, TypeVar

from mizzen import metrics, tracing
from mizzen.errors import ServingError
from mizzen.recording import Recorder
from mizzen.serving.spec import Batching as Options

T = TypeVar("T")
R = TypeVar("R")


class Noted(NamedTuple):
    """Takes what is recorded of batches: each is one line of a series, for every request passes here."""

    size: Callable[[float], object]
    took_s: Callable[[float], object]
    waited_s: Callable[[float], object]

    @classmethod
    def by(cls, recorder: Recorder | None) -> Noted:
        """Writes with `recorder`, or nothing."""
        if recorder is None:
            return cls(_nothing, _nothing, _nothing)
        return cls(
            recorder.cell(metrics.BATCH_SIZE).observe,
            recorder.cell(metrics.BATCH_DURATION).observe,
            recorder.cell(metrics.QUEUE_WAIT, queue="batch").observe,
        )


def _nothing(value: float) -> None:
    """For a shadow, of which nothing is recorded."""


class ServeBatching:
    """Gathers items that wait for the same function, and calls it once for all of them."""

    def __init__(self, options: Options, recorder: Recorder | None) -> None:
        """Without a recorder nothing is recorded."""
        self.options = options
        self.noted = Noted.by(recorder)
        self.threads = ThreadPoolExecutor(options.max_concurrent_batches, thread_name_prefix="mizzen-batch")

    def __call__(self, function: Callable[[list[T]], list[R]]) -> Callable[[T], Awaitable[R]]:
        """`function` over one item; an exception in its list goes to that item's caller alone."""
        return _Queue(function, self.options, self.noted, self.threads).ask

    def close(self) -> None:
        """Let the threads end; nothing is in flight any more."""
        self.threads.shutdown(wait=False)


class _Asked(NamedTuple, Generic[T, R]):
    """An item that waits, and who waits for it."""

    item: T
    future: asyncio.Future[R]
    since_ns: int
    """Since 1970."""
    context: tracing.Context
    """The request's place in its trace; None if it is not recorded."""


class _Queue(Generic[T, R]):
    """Items that wait for one function. Everything but the function runs on the event loop."""

    def __init__(
        self,
        function: Callable[[list[T]], list[R]],
        options: Options,
        noted: Noted,
        threads: ThreadPoolExecutor,
    ) -> None:
        self.function, self.options, self.noted, self.threads = function, options, noted, threads
        self._waiting: deque[_Asked[T, R]] = deque()
        self._num_running = 0
        self._next: asyncio.Handle | None = None
        """Starts the next batch; None while nothing is to be started, or no thread is free."""
        self._next_waits = False
        """Whether that is only when `wait_s` is over."""

    async def ask(self, item: T) -> R:
        """What the function makes of `item`. Whoever is cancelled while he waits leaves the queue."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[R] = loop.create_future()
        self._waiting.append(_Asked(item, future, time.time_ns(), tracing.context()))
        self._plan(loop)
        return await future

    def _plan(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._num_running >= self.options.max_concurrent_batches:
            return  # the end of a batch plans the next
        full = len(self._waiting) >= self.options.max_batch_size
        if self._next is not None:
            if not (full and self._next_waits):
                return
            self._next.cancel()
        self._next_waits = self.options.wait_s > 0 and not full
        if self._next_waits:
            self._next = loop.call_later(self.options.wait_s, self._start, loop)
        else:
            # Not at once: what this turn of the loop has still to read comes along.
            self._next = loop.call_soon(self._start, loop)

    def _start(self, loop: asyncio.AbstractEventLoop) -> None:
        self._next = None
        batch: list[_Asked[T, R]] = []
        while self._waiting and len(batch) < self.options.max_batch_size:
            asked = self._waiting.popleft()
            if not asked.future.done():
                batch.append(asked)
        if batch:
            self._num_running += 1
            self.threads.submit(self._run, loop, batch, _span_of(batch))
        if self._waiting:
            self._plan(loop)

    def _run(self, loop: asyncio.AbstractEventLoop, batch: list[_Asked[T, R]], span: tracing.Span) -> None:
        """In a thread."""
        results: list[Any]
        begun_ns, begun_s = time.time_ns(), time.perf_counter()
        try:
            with span:
                results = self.function([asked.item for asked in batch])
                if len(results) != len(batch):
                    raise ServingError(
                        "a batch was not answered item by item",
                        saw=len(results),
                        allowed=f"{len(batch)} results",
                    )
        except StopIteration as cause:
            results = [RuntimeError(f"a batch failed: {cause!r}")] * len(batch)  # no future takes the other
        except BaseException as cause:
            # Whatever it is, it belongs to those who wait, not to this thread.
            results = [cause] * len(batch)
        if not loop.is_closed():
            took_s = time.perf_counter() - begun_s
            loop.call_soon_threadsafe(self._finish, loop, batch, results, begun_ns, took_s)

    def _finish(
        self,
        loop: asyncio.AbstractEventLoop,
        batch: list[_Asked[T, R]],
        results: list[Any],
        begun_ns: int,
        took_s: float,
    ) -> None:
        self._num_running -= 1
        if self._waiting:
            self._plan(loop)
        for asked, result in zip(batch, results, strict=True):
            if asked.future.done():
                continue  # its caller has gone
            if isinstance(result, BaseException):
                asked.future.set_exception(result)
            else:
                asked.future.set_result(result)
        self._record(batch, begun_ns, took_s)

    def _record(self, batch: Sequence[_Asked[T, R]], begun_ns: int, took_s: float) -> None:
        self.noted.size(len(batch))
        self.noted.took_s(took_s)
        for asked in batch:
            self.noted.waited_s(max(0, begun_ns - asked.since_ns) / 1e9)  # the clock may have been set back


def _span_of(batch: Sequence[_Asked[Any, Any]]) -> tracing.Span:
    """The span of a batch that begins: below its first request, and linked with the others that are recorded.

    Each of them gets a span of its wait, linked with the batch.
    """
    traced = [asked for asked in batch if asked.context is not None]
    if not traced:
        return tracing.NOTHING
    first, *others = (asked.context for asked in traced)
    span = tracing.begin("batch", {"batch_size": len(batch)}, parent=first, links=others)
    for asked in traced:
        wait = {"queue": "batch"}
        tracing.begin(
            "queue", wait, parent=asked.context, links=[span.context], start_ns=asked.since_ns
        ).end()
    return span
