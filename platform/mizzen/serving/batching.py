"""The contract's `Batching` over Ray Serve's dynamic batching; the function runs in a thread.

It works inside a Serve replica only, where it shares the event loop with the requests.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from ray import serve

from mizzen.metrics import ServedMetrics
from mizzen.serving.spec import Batching as Options

T = TypeVar("T")
R = TypeVar("R")


class ServeBatching:
    """Gathers items that wait for the same function, and calls it once for all of them."""

    def __init__(self, options: Options, recorder: ServedMetrics) -> None:
        self.options = options
        self.recorder = recorder
        self.threads = ThreadPoolExecutor(options.max_concurrent_batches, thread_name_prefix="mizzen-batch")

    def __call__(self, function: Callable[[list[T]], list[R]]) -> Callable[[T], Awaitable[R]]:
        """`function` over one item; an exception in its list goes to that item's caller alone."""

        @serve.batch(  # type: ignore[untyped-decorator] # Ray is not followed by mypy
            max_batch_size=self.options.max_batch_size,
            batch_wait_timeout_s=self.options.wait_s,
            max_concurrent_batches=self.options.max_concurrent_batches,
        )
        async def mizzen_batch(items: list[T]) -> list[R]:
            self.recorder.batch(len(items))
            return await asyncio.get_running_loop().run_in_executor(self.threads, function, items)

        async def one(item: T) -> R:
            result: R = await mizzen_batch(item)
            if isinstance(result, BaseException):
                raise result
            return result

        return one

    def close(self) -> None:
        """Let the threads end; nothing is in flight any more."""
        self.threads.shutdown(wait=False)
