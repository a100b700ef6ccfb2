"""A worker stands still until its process is ended, until it is told to go on, or until nobody has come."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from mizzen.training import pause


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    yield
    pause.end()


def test_it_stands_still_until_it_is_told_to_go_on() -> None:
    signs = threading.Semaphore(0)
    assert not pause.wanted()
    pause.begin()
    assert pause.wanted()
    assert not pause.reached()
    worker = threading.Thread(target=pause.stand_still, args=(signs.release,))
    worker.start()
    assert signs.acquire(timeout=30)  # it gives signs of life
    assert pause.reached()
    pause.end()
    worker.join(30)
    assert not worker.is_alive()
    assert not pause.reached()


def test_it_goes_on_if_nobody_comes() -> None:
    pause.begin()
    pause.stand_still(lambda: None, longest_s=0.05)
    assert not pause.wanted()
    assert not pause.reached()
