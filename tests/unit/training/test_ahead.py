"""Batches that are read ahead are the same ones in the same order, and so are errors."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from mizzen.training.ahead import ahead


def test_batches_come_in_their_order_to_the_end() -> None:
    assert list(ahead(iter(range(100)))) == list(range(100))


def test_an_error_comes_after_the_batches_before_it() -> None:
    def broken() -> Iterator[int]:
        yield 1
        yield 2
        raise OSError("the disk is gone")

    batches = ahead(broken())
    assert [next(batches), next(batches)] == [1, 2]
    with pytest.raises(OSError, match="the disk is gone"):
        next(batches)


def test_only_so_many_are_read_ahead_and_they_are_read_while_nobody_asks() -> None:
    read: list[int] = []
    third = threading.Event()

    def numbers() -> Iterator[int]:
        number = 0
        while True:
            read.append(number)
            if number == 3:
                third.set()
            yield number
            number += 1

    batches = ahead(numbers(), num=2)
    assert next(batches) == 0
    # 0 was asked for, 1 and 2 are ready, and 3 is in the reader's hand.
    assert third.wait(30)
    assert read == [0, 1, 2, 3]
    batches.close()  # type: ignore[attr-defined] # a generator has it, an Iterator need not


def test_the_reader_ends_when_the_batches_are_closed() -> None:
    readers: list[threading.Thread] = []

    def endless() -> Iterator[int]:
        readers.append(threading.current_thread())
        while True:
            yield 0

    batches = ahead(endless())
    next(batches)
    batches.close()  # type: ignore[attr-defined]
    readers[0].join(30)
    assert not readers[0].is_alive()
    assert readers[0] is not threading.current_thread()
