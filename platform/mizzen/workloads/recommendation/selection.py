"""Which items an answer holds, in which places: the best ones, and promoted ones in their slots.

Pure functions of scores; it asks no model.

Dimensions: V items, K results.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from mizzen.workloads.recommendation.filters import Condition

MAX_SLOTS = 1_100
"""As many places as pages can reach. Slots are laid out for all of them at once, so pages fit together."""
_ROUNDING = 1e-9
"""Shares are decimals: 0.29 of 100 slots are 29, though 0.29 * 100 is 28.999999999999996."""


@dataclass(frozen=True)
class Promoted:
    """Items that get a share of the slots: those that pass `filters`, or those of `items`."""

    name: str
    share: float
    filters: Mapping[str, Condition]
    items: Sequence[str] | None


def best(scores_V: np.ndarray, num_results: int) -> np.ndarray:
    """The rows of the highest scores, best first; of equal scores the lower row. Never one of -inf.

    More results begin with the same ones, so pages fit together.
    """
    num_items = len(scores_V)
    if num_results < num_items:
        worst = np.partition(scores_V, num_items - num_results)[num_items - num_results]
        rows = np.flatnonzero(scores_V >= worst)
    else:
        rows = np.arange(num_items)
    scores = scores_V[rows]
    order_K = np.argsort(-scores, kind="stable")[:num_results]
    found: np.ndarray = rows[order_K][np.isfinite(scores[order_K])]
    return found


@lru_cache(256)
def slots(shares: tuple[float, ...]) -> Sequence[int | None]:
    """For each of `MAX_SLOTS` slots the promotion that has it, by number, or None.

    Of the first n slots, promotion i has at least floor(n * share_i). It is due in the slot where that
    number grows; if that is taken, it has the last free one before. One always is: together the shares are
    at most 1.
    """
    taken: list[int | None] = [None] * MAX_SLOTS
    for slot in range(MAX_SLOTS):
        for promotion, share in enumerate(shares):
            due = int((slot + 1) * share + _ROUNDING) > int(slot * share + _ROUNDING)
            if due:
                taken[next(place for place in range(slot, -1, -1) if taken[place] is None)] = promotion
    return taken


def woven(
    ordinary: Sequence[int], promoted: Sequence[Sequence[int]], shares: Sequence[float], num_results: int
) -> Iterator[tuple[int, int | None]]:
    """Rows in their places, each with the number of the promotion that it is there for, or None.

    `ordinary` and each of `promoted` are rows, best first. No row comes twice. A promotion that has no rows
    left leaves its slots to the ordinary ones.
    """
    given: set[int] = set()
    queues = [iter(rows) for rows in promoted]
    rest = iter(ordinary)
    for promotion in slots(tuple(shares))[:num_results]:
        row = None
        if promotion is not None:
            row = next((row for row in queues[promotion] if row not in given), None)
        if row is None:
            promotion, row = None, next((row for row in rest if row not in given), None)
        if row is None:
            continue
        given.add(row)
        yield row, promotion
