"""What is tried again while the store is away, at the end of a run: its training shall not be in vain."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from mizzen.errors import ConflictError, IntegrityError, StoreError
from mizzen.store.runs import EventKind

FOR_S = 600.0
FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 30.0

Result = TypeVar("Result")


def patiently(
    what: str,
    call: Callable[[], Result],
    event: Callable[[EventKind, str], None],
    *,
    for_s: float = FOR_S,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> Result:
    """What `call` returns, tried again for `for_s` seconds while the store cannot be reached.

    `what` it does is told in the run's history if it has to be tried again. Raises the last `StoreError`;
    what another try cannot better at once: a digest that does not fit, a name that others claim all the time.
    """
    began_s, pause_s, away = clock(), FIRST_PAUSE_S, False
    while True:
        try:
            result = call()
        except (IntegrityError, ConflictError):
            raise
        except StoreError as cause:
            if clock() - began_s + pause_s > for_s:
                raise
            if not away:
                event("store_away", f"{what} is tried again for {for_s:.0f} s: {cause}")
                away = True
            sleep(pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
        else:
            if away:
                event("store_back", f"{what} has worked after {clock() - began_s:.0f} s")
            return result
