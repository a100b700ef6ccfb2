"""A worker that stands still, since the group that it is in is about to be started with more or fewer.

The module is the state of one worker's process: its main thread is asked by `ray_scaling`, its training
thread stands still. It does not write the checkpoint that comes before.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

PAUSE = 1
"""A wish, see `agreement`: a checkpoint, and then to stand still."""
LONGEST_S = 300.0
"""Nobody came to end the worker: then it goes on."""
ALIVE_EVERY_S = 1.0

_wanted, _still = threading.Event(), threading.Event()


def begin() -> None:
    """The worker shall stand still soon."""
    _wanted.set()


def end() -> None:
    """It shall go on after all."""
    _wanted.clear()


def wanted() -> bool:
    """Whether it shall."""
    return _wanted.is_set()


def reached() -> bool:
    """Whether it does, so that nothing is lost if it is ended now."""
    return _still.is_set()


def stand_still(alive: Callable[[], None], longest_s: float = LONGEST_S) -> None:
    """Until `end` is called, or until nobody seems to come; mostly the process is ended before that."""
    until_s = time.monotonic() + longest_s
    _still.set()
    while _wanted.is_set() and time.monotonic() < until_s:
        alive()
        time.sleep(min(ALIVE_EVERY_S, longest_s / 10))
    _wanted.clear()
    _still.clear()
