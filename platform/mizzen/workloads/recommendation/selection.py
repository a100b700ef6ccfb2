"""Which items an answer holds, in which places: the best ones, and promoted ones in their slots.

Pure functions of scores; it asks no model.

Dimensions: V items, K results.
"""

from __future__ import annotations

import math
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


def best(scores_V: np.ndarray, num_results: int) -> list[tuple[int, float]]:
    """Rows with the highest scores, best first; of equal scores the lower row. Never one of -inf.

    More results begin with the same ones, so pages fit together.
    """
    edge = len(scores_V) - num_results - 1
    if edge < 0:
        rows = np.arange(len(scores_V))
    else:
        rows = scores_V.argpartition(edge)[edge:]  # at the edge is the best one that is left out
        left_out = scores_V[rows[0]]
        if left_out == scores_V[rows[1:]].min():
            rows = _with_ties(scores_V, left_out, num_results)
        else:
            rows = rows[1:]
    found = zip(rows.tolist(), scores_V[rows].tolist(), strict=True)
    return sorted((one for one in found if one[1] > -math.inf), key=lambda one: (-one[1], one[0]))


def _with_ties(scores_V: np.ndarray, lowest: float, num_results: int) -> np.ndarray:
    above = np.flatnonzero(scores_V > lowest)
    equal = np.flatnonzero(scores_V == lowest)[: num_results - len(above)]
    return np.concatenate([above, equal])


@lru_cache(256)
def slots(shares: tuple[float, ...]) -> Sequence[int | None]:
    """For each of `MAX_SLOTS` slots the promotion that has it, by number, or None.

    Of the first n slots, promotion i has at least floor(n * share_i), and all together at most one more for
    each promotion. It is due in the slot where that number grows; if that is taken, it has the last free one
    before. One always is: together the shares are at most 1.
    """
    taken: list[int | None] = [None] * MAX_SLOTS
    for slot in range(MAX_SLOTS):
        for promotion, share in enumerate(shares):
            due = int((slot + 1) * share + _ROUNDING) > int(slot * share + _ROUNDING)
            if due:
                taken[next(place for place in range(slot, -1, -1) if taken[place] is None)] = promotion
    return taken


def woven(
    ordinary: Sequence[tuple[int, float]],
    promoted: Sequence[Sequence[tuple[int, float]]],
    shares: Sequence[float],
    num_results: int,
) -> Iterator[tuple[tuple[int, float], int | None]]:
    """Rows with scores in their places, each with the number of the promotion that it is there for, or None.

    `ordinary` and each of `promoted` are rows with scores, best first. No row comes twice. A promotion
    that has no rows left leaves its slots to the ordinary ones.
    """
    given: set[int] = set()
    queues = [iter(found) for found in promoted]
    rest = iter(ordinary)
    for promotion in slots(tuple(shares))[:num_results]:
        one = None
        if promotion is not None:
            one = next((one for one in queues[promotion] if one[0] not in given), None)
        if one is None:
            promotion, one = None, next((one for one in rest if one[0] not in given), None)
        if one is None:
            continue
        given.add(one[0])
        yield one, promotion
