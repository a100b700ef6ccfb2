"""What one rank wishes, all do at the same step. It does not act on a wish."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

EVERY_S = 0.5
"""Ranks ask each other about this often: each time costs them a collective."""
MOST_STEPS = 1000
"""Steps that were short once may be long later."""

Highest = Callable[[list[int]], list[int]]
"""The highest of all ranks' numbers, one by one; a collective."""


class Agreement:
    """Brings the wishes of all ranks together, between two optimiser steps.

    Wishes are small numbers, 0 for none, and the highest wins. Not each step asks: how many steps there are
    until the next time is part of what ranks agree on, the fewest that any of them has time for.
    """

    def __init__(
        self, world_size: int, highest: Highest, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._alone, self._highest, self._clock = world_size == 1, highest, clock
        self._steps, self._next = 0, 0
        self._asked_s: float | None = None

    def reached(self, wish: int) -> int:
        """What all ranks do now; every rank calls it between the same steps."""
        if self._alone:
            return wish
        if self._steps < self._next:
            self._steps += 1
            return 0
        agreed, negative = self._highest([wish, -self._affordable()])
        # This call is one of them.
        self._steps, self._next, self._asked_s = 1, -negative, self._clock()
        return agreed

    def _affordable(self) -> int:
        """Steps until the next time, by how long those since the last time took."""
        if self._asked_s is None:
            return 1
        step_s = (self._clock() - self._asked_s) / self._steps
        return max(1, min(MOST_STEPS, int(EVERY_S / max(step_s, 1e-6))))


def highest_on(device: Any) -> Highest:
    """Over PyTorch's process group, whose tensors are on `device`."""

    def highest(mine: list[int]) -> list[int]:
        import torch
        import torch.distributed as dist

        numbers = torch.tensor(mine, device=device)
        dist.all_reduce(numbers, dist.ReduceOp.MAX)
        return [int(number) for number in numbers.tolist()]

    return highest
