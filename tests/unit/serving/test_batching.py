"""Batches form out of what arrives while the last one runs."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest

from mizzen import metrics
from mizzen.errors import RequestError, ServingError
from mizzen.serving.batching import ServeBatching
from mizzen.serving.spec import Batching

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Gate:
    """A function over a list that waits inside until it is let through."""

    def __init__(self) -> None:
        self.entered = threading.Semaphore(0)
        self.opened = threading.Semaphore(0)
        self.batches: list[list[int]] = []

    def __call__(self, items: list[int]) -> list[int]:
        self.batches.append(items)
        self.entered.release()
        assert self.opened.acquire(timeout=10)
        return [item * 10 for item in items]

    async def wait_until_entered(self) -> None:
        assert await asyncio.to_thread(self.entered.acquire, timeout=10)


@pytest.fixture
def batching(recorder: Any) -> Iterator[Callable[..., ServeBatching]]:
    made: list[ServeBatching] = []

    def make(**options: float) -> ServeBatching:
        made.append(ServeBatching(Batching(**{"wait_s": 0, **options}), recorder))
        return made[-1]

    yield make
    for one in made:
        one.close()


def _tasks(ask: Callable[[int], Awaitable[int]], items: range) -> list[asyncio.Task[int]]:
    async def one(item: int) -> int:
        return await ask(item)

    return [asyncio.ensure_future(one(item)) for item in items]


async def test_what_arrives_while_a_batch_runs_is_the_next_batch(
    batching: Callable[..., ServeBatching], recorder: Any
) -> None:
    gate = Gate()
    ask = batching()(gate)
    first = _tasks(ask, range(1))
    await gate.wait_until_entered()
    others = _tasks(ask, range(1, 6))
    await asyncio.sleep(0)
    gate.opened.release(2)
    assert await asyncio.gather(*first, *others) == [0, 10, 20, 30, 40, 50]
    assert gate.batches == [[0], [1, 2, 3, 4, 5]]
    assert recorder.values(metrics.BATCH_SIZE) == [1, 5]
    assert len(recorder.values(metrics.BATCH_DURATION)) == 2
    waits_s = recorder.values(metrics.QUEUE_WAIT, queue="batch")
    assert len(waits_s) == 6
    assert min(waits_s) >= 0
    assert max(waits_s) < 10


async def test_a_batch_is_never_larger_than_allowed(batching: Callable[..., ServeBatching]) -> None:
    gate = Gate()
    gate.opened.release(10)
    tasks = _tasks(batching(max_batch_size=4)(gate), range(10))
    assert await asyncio.gather(*tasks) == [item * 10 for item in range(10)]
    assert [len(batch) for batch in gate.batches] == [4, 4, 2]


async def test_as_many_batches_run_at_once_as_allowed(batching: Callable[..., ServeBatching]) -> None:
    gate = Gate()
    tasks = _tasks(batching(max_batch_size=1, max_concurrent_batches=2)(gate), range(3))
    await gate.wait_until_entered()
    await gate.wait_until_entered()
    assert len(gate.batches) == 2
    gate.opened.release(3)
    assert await asyncio.gather(*tasks) == [0, 10, 20]


async def test_the_first_of_a_batch_waits_for_others_if_told_so(
    batching: Callable[..., ServeBatching],
) -> None:
    gate = Gate()
    gate.opened.release(1)
    ask = batching(wait_s=0.05)(gate)
    early = _tasks(ask, range(1))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert await asyncio.gather(*early, *_tasks(ask, range(1, 2))) == [0, 10]
    assert gate.batches == [[0, 1]]


async def test_a_full_batch_does_not_wait(batching: Callable[..., ServeBatching]) -> None:
    gate = Gate()
    gate.opened.release(1)
    tasks = _tasks(batching(wait_s=10, max_batch_size=3)(gate), range(3))
    assert await asyncio.wait_for(asyncio.gather(*tasks), timeout=5) == [0, 10, 20]


async def test_who_has_gone_is_not_worked_for(batching: Callable[..., ServeBatching]) -> None:
    gate = Gate()
    ask = batching()(gate)
    first = _tasks(ask, range(1))
    await gate.wait_until_entered()
    gone, stays = _tasks(ask, range(1, 3))
    await asyncio.sleep(0)
    gone.cancel()
    gate.opened.release(2)
    assert await asyncio.gather(*first, stays) == [0, 20]
    assert gone.cancelled()
    assert gate.batches == [[0], [2]]


async def test_an_exception_in_the_list_is_one_callers_own(batching: Callable[..., ServeBatching]) -> None:
    ask = batching()(lambda items: [RequestError("no") if item == 1 else item for item in items])
    results = await asyncio.gather(*_tasks(ask, range(3)), return_exceptions=True)
    assert results[0] == 0
    assert isinstance(results[1], RequestError)
    assert results[2] == 2


async def test_an_exception_of_the_function_reaches_everybody_and_the_next_batch_runs(
    batching: Callable[..., ServeBatching],
) -> None:
    def fail(items: list[int]) -> list[int]:
        if 0 in items:
            raise ValueError("broken")
        return items

    ask = batching(max_batch_size=2)(fail)
    results = await asyncio.gather(*_tasks(ask, range(4)), return_exceptions=True)
    assert [type(result) for result in results] == [ValueError, ValueError, int, int]


async def test_an_iterator_that_ends_in_the_function_leaves_nobody_waiting(
    batching: Callable[..., ServeBatching],
) -> None:
    ask = batching()(lambda items: [next(iter(())) for _ in items])
    with pytest.raises(RuntimeError, match="StopIteration"):
        await asyncio.wait_for(ask(1), 10)


async def test_a_function_that_answers_too_few_is_an_error(batching: Callable[..., ServeBatching]) -> None:
    ask = batching()(lambda items: items[1:])
    with pytest.raises(ServingError, match="item by item"):
        await asyncio.wait_for(ask(1), timeout=5)
